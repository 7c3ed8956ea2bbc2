//! Tests of how options, operands and a file become settings.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::address::{Host, HostAddress};
use crate::checks::ServerMode;
use crate::command;
use crate::configuration::*;
use crate::grammar;

const NO_SERVER: &str = "no server: neither an operand nor a command gives one";

fn configuration(local: &str, servers: &[&str]) -> CommandLine {
    CommandLine {
        local: Some(grammar::local(local).unwrap()),
        servers: servers.iter().map(|text| grammar::server(text).unwrap()).collect(),
        commands: Vec::new(),
        emergency: None,
        abuse: None,
        server_slots: None,
        accept_batch: 100,
        hash_always: false,
        tls: Default::default(),
    }
}

fn sourced(lines: &[&str]) -> Vec<SourcedCommand> {
    let one = |(number, line): (usize, &&str)| SourcedCommand {
        source_line: format!("pen.cfg:{}", number + 1),
        command: command::parse_any(line).unwrap().unwrap(),
    };
    lines.iter().enumerate().map(one).collect()
}

fn settle(configuration: &CommandLine) -> Result<Settled, Vec<ConfigurationError>> {
    configuration.settle(&Names::default(), &[])
}

fn settled(local: &str, servers: &[&str]) -> (Address, Settings) {
    let settled = settle(&configuration(local, servers)).unwrap();
    (settled.listen[0].clone(), settled.settings)
}

/// The configuration of options, operands and a file.
fn whole(
    options: &[&str],
    local: Option<&str>,
    servers: &[&str],
    file: &[&str],
) -> Result<Settled, Vec<String>> {
    let mut configuration = configuration("80", servers);
    configuration.local = local.map(|text| grammar::local(text).unwrap());
    configuration.commands = sourced(options);
    let names = Names::default();
    configuration
        .settle(&names, &sourced(file))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn shown(settings: &Settings) -> Vec<String> {
    settings.configured().map(|(id, server)| format!("{id} {}", server.address)).collect()
}

fn failure(configuration: &CommandLine) -> String {
    let errors = settle(configuration).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string()
}

fn warnings(local: &str, servers: &[&str]) -> Vec<String> {
    let (listen, settings) = settled(local, servers);
    crate::configuration::warnings(std::slice::from_ref(&listen), &settings)
}

#[test]
fn a_server_without_a_port_has_the_listen_port() {
    let (listen, settings) =
        settled("8080", &["10.0.0.1", "10.0.0.2:81:1:2:3:4", "[::1]", "/run/a.sock"]);
    assert_eq!(listen.to_string(), "0.0.0.0:8080");
    let shown: Vec<String> =
        settings.configured().map(|(id, s)| format!("{id} {}", s.address)).collect();
    assert_eq!(shown, ["0 10.0.0.1:8080", "1 10.0.0.2:81", "2 [::1]:8080", "3 /run/a.sock"]);
    let Some(Server { soft: 1, hard: 2, weight: 3, prio: 4, .. }) = settings.servers[1] else {
        panic!()
    };
    assert_eq!(settings.pending_max, 100);
}

#[test]
fn a_unix_listener_has_no_port_to_lend() {
    assert!(
        failure(&configuration("/run/front.sock", &["10.0.0.1"])).contains("the port is missing")
    );
    let (listen, settings) = settled("/run/front.sock", &["10.0.0.1:80", "/run/back.sock"]);
    assert_eq!(listen, Address::Unix("/run/front.sock".into()));
    assert_eq!(settings.server_count(), 2);
}

#[test]
fn the_table_has_16_slots_or_what_is_needed_or_exactly_what_is_asked_for() {
    assert_eq!(settled("80", &["10.0.0.1"]).1.table_size(), 16);
    assert_eq!(settled("80", &["10.0.0.1"; 17]).1.table_size(), 17);
    let exactly = CommandLine { server_slots: Some(2), ..configuration("80", &["10.0.0.1"; 2]) };
    assert_eq!(settle(&exactly).unwrap().settings.table_size(), 2);
    let over = CommandLine { server_slots: Some(2), ..configuration("80", &["10.0.0.1"; 3]) };
    assert_eq!(failure(&over), "3 servers, but the server table has 2 slots; -S 3 makes room");
    let far_over = configuration("80", &["10.0.0.1"; 4097]);
    assert_eq!(failure(&far_over), "4097 servers, but the server table has 4096 slots");
}

#[test]
fn an_emergency_server_is_a_server_but_an_abuse_server_is_not_enough() {
    let other = || Some(grammar::server("10.0.0.9").unwrap());
    let emergency = CommandLine { emergency: other(), ..configuration("80", &[]) };
    let settings = settle(&emergency).unwrap().settings;
    assert_eq!(settings.emergency.unwrap().address.to_string(), "10.0.0.9:80");
    assert_eq!(failure(&CommandLine { abuse: other(), ..configuration("80", &[]) }), NO_SERVER);
}

#[test]
fn names_are_asked_for_once_and_replaced() {
    let mut asked = configuration("front:http", &["back", "back:https", "10.0.0.1:http"]);
    asked.emergency = Some(grammar::server("last:8").unwrap());
    let host = |name: &str| Lookup::Host(name.to_owned());
    let service = |name: &str| Lookup::Service(name.to_owned());
    let expected = [host("front"), host("back"), host("last"), service("http"), service("https")];
    assert_eq!(asked.lookups(&[]), BTreeSet::from(expected));
    let mut names = Names::default();
    for (name, ip) in [("front", "127.0.0.5"), ("back", "::ffff:10.0.0.7"), ("last", "::1")] {
        names.hosts.insert(name.to_owned(), vec![HostAddress::from(ip.parse::<IpAddr>().unwrap())]);
    }
    names.services.insert("http".to_owned(), 80);
    assert!(
        asked.settle(&names, &[]).unwrap_err()[0]
            .to_string()
            .contains("'https' is neither a port nor")
    );
    names.services.insert("https".to_owned(), 443);
    let Settled { listen, settings, .. } = asked.settle(&names, &[]).unwrap();
    assert_eq!(listen[0].to_string(), "127.0.0.5:80");
    assert_eq!(settings.servers[0].as_ref().unwrap().address.to_string(), "10.0.0.7:80");
    assert_eq!(settings.servers[1].as_ref().unwrap().address.to_string(), "10.0.0.7:443");
    names.hosts.remove("back");
    let errors = asked.settle(&names, &[]).unwrap_err();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].to_string().contains("no address found for host 'back'"));
}

#[test]
fn nothing_is_asked_for_numeric_addresses() {
    assert!(
        configuration("[::1]:80", &["10.0.0.1:80", "[::2]", "/run/a.sock:1:5"])
            .lookups(&[])
            .is_empty()
    );
}

#[test]
fn words_that_are_no_ports_are_named() {
    for (local, server, word) in
        [("smpt", "10.0.0.1:80", "'smpt'"), ("80", "10.0.0.1:21000x", "'21000x'")]
    {
        let why = failure(&configuration(local, &[server]));
        assert!(why.contains(word) && why.contains("neither a port"), "{why}");
    }
}

#[test]
fn a_hard_limit_needs_a_soft_limit() {
    assert_eq!(warnings("80", &["10.0.0.1:81:5:9", "10.0.0.1:81:5"]).len(), 0);
    let warned = warnings("80", &["10.0.0.1:81", "10.0.0.1:81:0:9"]);
    assert!(
        warned.len() == 1 && warned[0].starts_with("server 1 (10.0.0.1:81): hard limit 9"),
        "{warned:?}"
    );
}

#[test]
fn a_listener_among_its_own_servers_is_seen() {
    let rows = [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("10.0.0.1:80", "10.0.0.1", true),
        ("80", "127.0.0.1:80", true),
        ("80", "127.9.9.9:80", true),
        ("80", "0.0.0.0:80", true),
        ("80", "[::1]:80", false),
        ("80", "10.0.0.1:80", false),
        ("[::]:80", "127.0.0.1:80", true),
        ("[::]:80", "[::ffff:127.0.0.1]:80", true),
        ("[::]:80", "[::1]:80", true),
        ("[::1]:80", "[::]:80", true),
        ("[::1]:80", "127.0.0.1:80", false),
        ("/run/a.sock", "/run/a.sock", true),
        ("/run/a.sock", "/run/b.sock", false),
    ];
    for (local, server, loops) in rows {
        assert_eq!(warnings(local, &[server]).len(), usize::from(loops), "{local} {server}");
    }
}

#[test]
fn the_file_wins_over_operands_and_operands_over_options() {
    let settled = whole(
        &[
            "blacklist 1",
            "timeout 1",
            "server 0 address 10.9.9.9 port 9 max 9 acl 3",
            "server 2 address 10.0.0.3 max 2",
        ],
        Some("80"),
        &["10.0.0.1:81:5", "10.0.0.2"],
        &["timeout 2", "server 1 port 82", "tracking 7"],
    );
    let settings = settled.unwrap().settings;
    assert_eq!((settings.blacklist, settings.connect_timeout, settings.tracking), (1, 2, 7));
    assert_eq!(shown(&settings), ["0 10.0.0.1:81", "1 10.0.0.2:82", "2 10.0.0.3:80"]);
    let first = settings.servers[0].as_ref().unwrap();
    assert_eq!((first.soft, first.acl), (5, 3));
}

#[test]
fn an_operand_leaves_state_and_check_of_the_options() {
    let option = "server 0 state maint check tcp port 81";
    let settings = whole(&[option], Some("80"), &["10.0.0.1"], &[]).unwrap().settings;
    let first = settings.servers[0].as_ref().unwrap();
    assert_eq!(first.mode, ServerMode::Maint);
    assert_eq!(first.check.to_string(), "tcp port 81");
}

#[test]
fn a_listen_command_takes_the_place_of_the_first_operand_for_all_servers() {
    let listen = |options: &[&str], local, file: &[&str]| {
        let settled = whole(options, local, &["10.0.0.1"], file).unwrap();
        (
            settled.listen[0].to_string(),
            shown(&settled.settings)[0].clone(),
            settled.local.to_string(),
        )
    };
    let at =
        |port: &str| (format!("0.0.0.0:{port}"), format!("0 10.0.0.1:{port}"), port.to_string());
    assert_eq!(listen(&[], Some("80"), &[]), at("80"));
    assert_eq!(listen(&["listen 81"], Some("80"), &[]), at("81"));
    assert_eq!(listen(&["listen 81", "listen 82"], Some("80"), &["listen"]), at("82"));
    assert_eq!(listen(&["listen 81"], Some("80"), &["listen 83"]), at("83"));
    assert_eq!(listen(&[], None, &["listen 83"]), at("83"));
    assert_eq!(whole(&[], None, &["10.0.0.1"], &["listen"]).unwrap_err().len(), 1);
    assert!(
        whole(&[], Some("80"), &["10.0.0.1"], &["listen /run/pen.sock"]).unwrap_err()[0]
            .contains("port is missing")
    );
}

#[test]
fn the_table_has_room_for_the_highest_number_that_a_command_names() {
    let size = |options: &[&str], servers: &[&str], file: &[&str]| {
        whole(options, Some("80"), servers, file).unwrap().settings.table_size()
    };
    assert_eq!(size(&[], &[], &["server 3 address 10.0.0.1"]), 16);
    assert_eq!(size(&[], &[], &["server 20 address 10.0.0.1", "server 19 address 10.0.0.1"]), 21);
    assert_eq!(size(&["server 99 address 10.0.0.1"], &["10.0.0.1"; 17], &[]), 100);
    assert_eq!(size(&[], &[], &["server 4095 address 10.0.0.1"]), 4096);
    assert_eq!(size(&[], &[], &["servers_from www 80 30-39"]), 40, "without any other server");
    let text = "server: number 4096 too large, this program was started for 4096 servers (-S)";
    let errors =
        whole(&[], Some("80"), &[], &["hash", "server 4096 address 10.0.0.1"]).unwrap_err();
    assert_eq!(errors, [format!("pen.cfg:2: {text}")]);
    let mut two = configuration("80", &["10.0.0.1"]);
    two.server_slots = Some(2);
    let errors =
        two.settle(&Names::default(), &sourced(&["server 2 address 10.0.0.1"])).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .ends_with("number 2 too large, this program was started for 2 servers (-S)")
    );
}

#[test]
fn every_error_is_told_with_its_place() {
    let errors = whole(
        &["server 1 address nowhere"],
        None,
        &["10.0.0.1:nonsense"],
        &[
            "hash",
            "server 7 max 3",
            "exit",
            "close 3",
            "write",
            "upgrade",
            "server 2 address 10.0.0.1 port word",
        ],
    );
    assert_eq!(
        errors.unwrap_err(),
        [
            "no listen address: neither an operand nor a listen command gives one",
            "server '10.0.0.1:nonsense': 'nonsense' is neither a port nor a known TCP service",
            "pen.cfg:1: server: number 1: no address found for host 'nowhere'",
            "pen.cfg:2: server: number 7 has no address yet; give it one: server 7 address ...",
            "pen.cfg:3: exit: only the control port takes this command",
            "pen.cfg:4: close: only the control port takes this command",
            "pen.cfg:5: write: only the control port takes this command",
            "pen.cfg:6: upgrade: only the control port takes this command",
            "pen.cfg:7: server: number 2: 'word' is neither a port nor a known TCP service",
        ]
    );
}

#[test]
fn what_is_no_setting_is_settled_too_and_the_last_word_counts() {
    let settled = whole(
        &[
            "log /a",
            "web_stats /b",
            "workers 3",
            "clients_max 10",
            "conn_max 20",
            "server 0 blacklist 9",
        ],
        Some("80"),
        &["10.0.0.1"],
        &["log", "server 0 blacklist 5 max 2"],
    );
    let settled = settled.unwrap();
    assert_eq!(settled.log, Some(LogTarget::File("/a".into())));
    assert_eq!((settled.status_file, settled.workers), (Some("/b".into()), Some(3)));
    assert_eq!((settled.settings.clients_max, settled.settings.connections_max), (10, 20));
    assert_eq!(settled.blacklisted, [(ServerId(0), 9), (ServerId(0), 5)]);
    let file = ["no log", "no web_stats", "workers 4", "clients_max 5", "debug 2"];
    let settled =
        whole(&["log /a", "web_stats /b", "clients_max 10"], Some("80"), &["10.0.0.1"], &file)
            .unwrap();
    assert_eq!((settled.log, settled.status_file, settled.workers), (None, None, Some(4)));
    assert_eq!((settled.settings.clients_max, settled.settings.debug), (5, 2));
}

#[test]
fn without_servers_dummy_or_an_emergency_server_is_needed() {
    assert_eq!(whole(&[], Some("80"), &[], &["hash"]).unwrap_err(), [NO_SERVER]);
    assert!(whole(&[], Some("80"), &[], &["dummy"]).is_ok());
    assert_eq!(whole(&["dummy"], Some("80"), &[], &["no dummy"]).unwrap_err(), [NO_SERVER]);
}

#[test]
fn names_in_commands_are_asked_for() {
    let mut asked = configuration("80", &["10.0.0.1"]);
    asked.commands = sourced(&["server 0 address www1 port http"]);
    let file = sourced(&["listen front:https", "server 1 address 10.0.0.2", "log loghost:514"]);
    let host = |name: &str| Lookup::Host(name.to_owned());
    let service = |name: &str| Lookup::Service(name.to_owned());
    assert_eq!(
        asked.lookups(&file),
        BTreeSet::from([host("www1"), service("http"), host("front"), service("https")])
    );
}

proptest! {
    #[test]
    fn every_server_that_reads_settles_with_its_fields(
        ip in any::<IpAddr>(),
        port in 1u16..,
        counts in any::<[u16; 4]>(),
    ) {
        let [soft, hard, weight, prio] = counts.map(u32::from);
        let (host, given) = (Host::Ip(ip), Some(Service::Port(port)));
        let spec = ServerSpec { host, port: given, soft, hard, weight, prio };
        let (listen, settings) = settled("80", &[&spec.to_string()]);
        let address = HostAddress::from(ip).with_port(port);
        let expected = Server { soft, hard, weight, prio, ..Server::at(address) };
        prop_assert_eq!(settings.servers[0].as_ref(), Some(&expected));
        let _ = crate::configuration::warnings(std::slice::from_ref(&listen), &settings);
    }
}

#[test]
fn a_name_with_several_addresses_has_all_of_them_and_a_zone_its_interface() {
    let mut names = Names::default();
    let v6 = "fe80::1".parse::<IpAddr>().unwrap();
    let found =
        |ips: [&str; 2]| ips.map(|ip| HostAddress::from(ip.parse::<IpAddr>().unwrap())).to_vec();
    names.hosts.insert("localhost".to_owned(), found(["::1", "127.0.0.1"]));
    names.hosts.insert("fe80::1%eth0".to_owned(), vec![HostAddress { ip: v6, scope: 7 }]);
    let asked = configuration("localhost:80", &["localhost:81", "[fe80::1%eth0]"]);
    let settled = asked.settle(&names, &[]).unwrap();
    let shown: Vec<String> = settled.listen.iter().map(Address::to_string).collect();
    assert_eq!(shown, ["[::1]:80", "127.0.0.1:80"]);
    let servers: Vec<&Server> = settled.settings.servers.iter().flatten().collect();
    assert_eq!(
        (servers[0].place_at(0), servers[0].place_at(1)),
        ("[::1]:81".into(), "127.0.0.1:81".into())
    );
    assert_eq!(servers[0].address_at(2), servers[0].address_at(0));
    assert_eq!(servers[1].address.to_string(), "[fe80::1%7]:80");
    assert_eq!(
        (servers[1].host_at(0), servers[1].place_at(0)),
        ("fe80::1%eth0".into(), "[fe80::1%eth0]:80".into())
    );
}

#[test]
fn a_link_local_address_without_an_interface_is_warned_of() {
    let (listen, settings) = settled("80", &["[fe80::1]:80", "[2001:db8::1]:80"]);
    let warnings = crate::configuration::warnings(std::slice::from_ref(&listen), &settings);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("server 0 ([fe80::1]:80): a link-local address"),
        "{warnings:?}"
    );
}
