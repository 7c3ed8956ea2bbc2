//! Tests of what each command changes and does not change.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::apply::*;
use crate::checks::{Check, CheckKind, OnDown, ServerCheck, ServerMode, ServersFrom};
use crate::command::parse;
use crate::ids::Target;
use crate::strategies;
use crate::strategies::parsed;

fn names() -> Names {
    let mut names = Names::default();
    names.hosts.insert("www1".into(), vec![IpAddr::from([10, 0, 0, 7]).into()]);
    names.services.insert("http".into(), 80);
    names
}

fn with(settings: &Settings, line: &str) -> Result<Settings, String> {
    let mut after = settings.clone();
    let result = apply(&mut after, &parsed(line), &names(), Some(8080));
    if result.is_err() {
        assert_eq!(&after, settings, "{line}");
    }
    result.map(|()| after)
}

#[test]
fn answers_that_come_in_turns_move_nothing() {
    let answered = |ips: &[u8]| {
        let mut names = Names::default();
        names.hosts.insert(
            "farm".into(),
            ips.iter().map(|n| IpAddr::from([10, 0, 0, *n]).into()).collect(),
        );
        names
    };
    let mut settings = empty(1);
    let mut by = |line: &str, ips: &[u8]| {
        apply(&mut settings, &parsed(line), &answered(ips), Some(80)).unwrap();
        let server = settings.servers[0].as_ref().unwrap();
        server.addresses().map(Address::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(by("server 0 address farm", &[1, 2, 3]), "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80");
    assert_eq!(by("server 0 address farm", &[3, 1, 2]), "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80");
    assert_eq!(by("server 0 address farm", &[4, 3, 2]), "10.0.0.4:80 10.0.0.3:80 10.0.0.2:80");
    assert_eq!(by("server 0 address farm", &[5, 3, 4]), "10.0.0.4:80 10.0.0.3:80 10.0.0.5:80");
    assert_eq!(by("server 0 port 81", &[]), "10.0.0.4:81 10.0.0.3:81 10.0.0.5:81");
    assert_eq!(by("server 0 address farm port 81", &[9, 9]), "10.0.0.9:81");
    assert_eq!(by("server 0 address 10.0.0.3", &[]), "10.0.0.3:81");
}

fn empty(slots: usize) -> Settings {
    Settings { servers: vec![None; slots], ..Settings::default() }
}

fn file(lines: &[&str]) -> Vec<SourcedCommand> {
    let one = |(number, line): (usize, &&str)| SourcedCommand {
        source_line: format!("f:{}", number + 1),
        command: parse(line).unwrap().unwrap(),
    };
    lines.iter().enumerate().map(one).collect()
}

#[test]
fn settings_are_set_one_by_one() {
    let before = Settings::default();
    let changed = |line: &str, expected: Settings| {
        assert_ne!(expected, before, "{line}");
        assert_eq!(with(&before, line), Ok(expected), "{line}");
    };
    let selection = before.selection;
    let base = || before.clone();
    changed("ascii", Settings { ascii: true, ..base() });
    changed("dummy", Settings { dummy: true, ..base() });
    changed("keepalive", Settings { keepalive: true, ..base() });
    changed("tcp_nodelay", Settings { tcp_nodelay: true, ..base() });
    for (word, selection) in [
        ("hash", crate::settings::Selection { hash: true, ..selection }),
        ("prio", crate::settings::Selection { prio: true, ..selection }),
        ("roundrobin", crate::settings::Selection { roundrobin: true, ..selection }),
        ("stubborn", crate::settings::Selection { stubborn: true, ..selection }),
        ("weight", crate::settings::Selection { weight: true, ..selection }),
    ] {
        changed(word, Settings { selection, ..base() });
        assert_eq!(with(&with(&before, word).unwrap(), &format!("no {word}")), Ok(base()));
    }
    changed("blacklist 7", Settings { blacklist: 7, ..base() });
    changed("client_acl 7", Settings { client_acl: 7, ..base() });
    changed("clients_max 4096", Settings { clients_max: 4096, ..base() });
    changed("conn_max 4096", Settings { connections_max: 4096, ..base() });
    changed("control_acl 7", Settings { control_acl: 7, ..base() });
    changed("debug 7", Settings { debug: 7, ..base() });
    changed("drain_timeout 7", Settings { drain_timeout: 7, ..base() });
    changed("idle_timeout 7", Settings { idle_timeout: 7, ..base() });
    changed("idlers 7", Settings { idlers: 7, ..base() });
    changed("page_acl 7", Settings { page_acl: 7, ..base() });
    changed("pending_max 7", Settings { pending_max: 7, ..base() });
    changed("timeout 7", Settings { connect_timeout: 7, ..base() });
    changed("tracking 7", Settings { tracking: 7, ..base() });
    changed("source ::1", Settings { source: Some("::1".parse().unwrap()), ..base() });
    changed(
        "tcp_fastclose both",
        Settings { fastclose: crate::settings::Fastclose::Both, ..base() },
    );
    let source = with(&before, "source 10.0.0.1").unwrap();
    assert_eq!(with(&source, "no source"), Ok(base()));
}

#[test]
fn what_the_supervisor_carries_out_changes_nothing() {
    let before = empty(3);
    for line in [
        "control 8888",
        "listen 81",
        "log /x",
        "no log",
        "max_servers 3",
        "page 8081",
        "servers_only",
        "ssl_option no_sslv3",
        "user nobody",
        "web_stats x",
        "no web_stats",
        "workers 3",
    ] {
        assert_eq!(with(&before, line).as_ref(), Ok(&before), "{line}");
    }
}

#[test]
fn the_tables_only_grow() {
    let before = Settings::default();
    for line in ["clients_max 2048", "conn_max 256"] {
        assert_eq!(with(&before, line).as_ref(), Ok(&before), "{line}");
    }
    for (line, why) in [
        ("clients_max 2047", "clients_max: 2047 is below 2048, which is in force: it only grows"),
        ("conn_max 10", "conn_max: 10 is below 256, which is in force: it only grows"),
    ] {
        assert_eq!(with(&before, line), Err(why.to_owned()));
        // A reload does not refuse the file for it; the last value counts, as at the start.
        let lines = file(&[line, "blacklist 3"]);
        let blacklist = Settings { blacklist: 3, ..before.clone() };
        assert_eq!(reload(&before, &[], &lines, &Names::default(), None), Ok(blacklist));
    }
    let lines = file(&["conn_max 900", "conn_max 500"]);
    let grown = reload(&before, &[], &lines, &Names::default(), None).unwrap();
    assert_eq!(grown.connections_max, 500);
}

#[test]
fn access_lists_are_appended_to_and_emptied() {
    let mut settings = Settings::default();
    for line in ["acl 3 permit 1.2.3.4", "acl 3 deny ::1", "acl 9 permit 0.0.0.0/0"] {
        settings = with(&settings, line).unwrap();
    }
    let count = |settings: &Settings| settings.acls.each_ref().map(|acl| acl.entries().len());
    assert_eq!(count(&settings), [0, 0, 0, 2, 0, 0, 0, 0, 0, 1]);
    assert_eq!(count(&with(&settings, "no acl 3").unwrap()), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    while let Ok(more) = with(&settings, "acl 0 permit 1.2.3.4") {
        settings = more;
    }
    assert_eq!(settings.acls[0].entries().len(), MAX_ENTRIES);
    assert_eq!(
        with(&settings, "acl 0 permit ::1").unwrap_err(),
        "acl: list 0 is full, it has 10000 entries"
    );
}

#[test]
fn servers_are_made_and_changed() {
    let server = |settings: &Settings, n: usize| {
        let Server { address, soft, hard, weight, prio, acl, .. } =
            settings.servers[n].as_ref().unwrap();
        format!("{address} {soft} {hard} {weight} {prio} {acl}")
    };
    let mut settings = empty(3);
    let rows = [
        ("server 1 address 10.0.0.1", 1, "10.0.0.1:8080 0 0 1 0 0"),
        ("server 1 max 5 hard 6 weight 0 prio 8 acl 9", 1, "10.0.0.1:8080 5 6 0 8 9"),
        ("server 1 port http", 1, "10.0.0.1:80 5 6 0 8 9"),
        ("server 1 address ::1", 1, "[::1]:80 5 6 0 8 9"),
        ("server 1 address ::ffff:10.0.0.2", 1, "10.0.0.2:80 5 6 0 8 9"),
        ("server 1 address www1 blacklist 3", 1, "10.0.0.7:80 5 6 0 8 9"),
        ("server 1 port 4", 1, "10.0.0.7:4 5 6 0 8 9"),
        ("server 2 port 9 address 10.0.0.3", 2, "10.0.0.3:9 0 0 1 0 0"),
        ("server 0 address /run/a.sock max 3", 0, "/run/a.sock 3 0 1 0 0"),
        ("server 0 port 4", 0, "/run/a.sock 3 0 1 0 0"),
        ("server 0 address 10.0.0.4", 0, "10.0.0.4:8080 3 0 1 0 0"),
        ("server 0 address /run/b.sock", 0, "/run/b.sock 3 0 1 0 0"),
        ("server 0 address 10.0.0.6", 0, "10.0.0.6:8080 3 0 1 0 0"),
        ("server 2 blacklist 7", 2, "10.0.0.3:9 0 0 1 0 0"),
    ];
    for (line, number, expected) in rows {
        settings = with(&settings, line).unwrap();
        assert_eq!(server(&settings, number), expected, "{line}");
    }
}

#[test]
fn a_server_is_checked_as_a_whole() {
    let settings = with(&empty(2), "server 0 address 10.0.0.1").unwrap();
    let too_large = |n: &str| {
        format!("server: number {n} too large, this program was started for 2 servers (-S)")
    };
    let rows = [
        ("server 2 address 10.0.0.1".to_owned(), too_large("2")),
        ("server 1000000 max 3".to_owned(), too_large("1000000")),
        (
            "server 1 max 3".to_owned(),
            "server: number 1 has no address yet; give it one: server 1 address ...".to_owned(),
        ),
        (
            "server 0 max 3 address gone".to_owned(),
            "server: number 0: no address found for host 'gone'".to_owned(),
        ),
        (
            "server 0 max 3 port gone".to_owned(),
            "server: number 0: 'gone' is neither a port nor a known TCP service".to_owned(),
        ),
    ];
    for (line, why) in rows {
        assert_eq!(with(&settings, &line).unwrap_err(), why);
    }
    let mut behind_unix = empty(1);
    let setting = parsed("server 0 address 10.0.0.1");
    let why = apply(&mut behind_unix, &setting, &names(), None).unwrap_err();
    assert_eq!(why, "server: number 0: the port is missing");
    assert_eq!(behind_unix, empty(1));
}

#[test]
fn a_blacklisting_is_no_setting_but_can_be_found() {
    let found = |line: &str| blacklisting(&parsed(line));
    assert_eq!(found("server 3 max 2 blacklist 6"), Some((ServerId(3), 6)));
    assert_eq!(found("server 3 max 2"), None);
    assert_eq!(found("server 70000 blacklist 5"), None);
    assert_eq!(found("blacklist 5"), None);
}

#[test]
fn a_reload_makes_the_lists_that_the_file_mentions_anew() {
    let options = file(&[
        "acl 1 permit 1.1.1.1",
        "acl 2 permit 2.2.2.2",
        "acl 3 permit 3.3.3.3",
        "blacklist 1",
    ]);
    let lines =
        file(&["acl 1 deny 1.1.1.2", "no acl 2", "acl 2 deny 2.2.2.3", "acl 4 deny 4.4.4.4"]);
    let mut running = empty(1);
    for setting in options.iter().chain(&lines).filter_map(SourcedCommand::setting) {
        apply(&mut running, setting, &names(), None).unwrap();
    }
    // Commands given at the control port.
    for line in
        ["acl 1 permit 9.9.9.9", "acl 3 permit 9.9.9.9", "acl 5 permit 9.9.9.9", "blacklist 9"]
    {
        running = with(&running, line).unwrap();
    }
    let after = reload(&running, &options, &lines, &names(), None).unwrap();
    let list = |n: usize| {
        after.acls[n].entries().iter().map(|(_, net)| net.to_string()).collect::<Vec<_>>().join(",")
    };
    let mask = "255.255.255.255";
    assert_eq!(list(1), format!("1.1.1.1 {mask},1.1.1.2 {mask}"));
    assert_eq!(list(2), format!("2.2.2.3 {mask}"));
    assert_eq!(list(3), format!("3.3.3.3 {mask},9.9.9.9 {mask}"));
    assert_eq!((list(4), list(5)), (format!("4.4.4.4 {mask}"), format!("9.9.9.9 {mask}")));
    assert_eq!(after.blacklist, 9);
    assert_eq!(reload(&after, &options, &lines, &names(), None), Ok(after));
}

#[test]
fn a_reload_is_all_or_nothing_and_tells_every_line() {
    let lines = file(&["blacklist 3", "server 7 max 3", "hash", "exit", "server 0 address gone"]);
    let errors = reload(&empty(1), &[], &lines, &names(), None).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "f:2: server: number 7 too large, this program was started for 1 servers (-S)",
            "f:4: exit: only the control port takes this command",
            "f:5: server: number 0: no address found for host 'gone'",
        ]
    );
}

#[test]
fn checks_and_states_are_set_and_kept_by_what_does_not_mention_them() {
    let tcp = Check::of(CheckKind::Tcp);
    let mut now = with(&empty(3), "check tcp").unwrap();
    assert!(!now.has_checks(), "there is no server");
    now = with(&now, "server 1 address 10.0.0.1 state drain check off").unwrap();
    now = with(&now, "server 2 address 10.0.0.2").unwrap();
    let target = |number| Target::Server(ServerId(number));
    assert_eq!((now.check_of(target(1)), now.check_of(target(2))), (None, Some(&tcp)));
    assert!(now.has_checks() && now.check_of(target(0)).is_none());
    now = with(&now, "server 1 address 10.0.0.9 max 5").unwrap();
    let one = now.servers[1].clone().unwrap();
    assert_eq!((one.mode, &one.check), (ServerMode::Drain, &ServerCheck::Off));
    now = with(&now, "server 1 check tcp port 81").unwrap();
    now = with(&with(&now, "check off").unwrap(), "emergency 10.0.0.3:80").unwrap();
    assert_eq!(now.check_of(target(1)).unwrap().port, Some(81));
    assert_eq!((now.check_of(target(2)), now.check_of(Target::Emergency)), (None, None));
    assert!(now.has_checks() && !with(&now, "server 1 check default").unwrap().has_checks());
    // Another server at this number has nothing of the one before.
    let new = with(&with(&now, "no server 1").unwrap(), "server 1 address 10.0.0.4").unwrap();
    let new = new.servers[1].clone().unwrap();
    assert_eq!((new.mode, new.check), (ServerMode::Ready, ServerCheck::Default));
    for (line, value) in [
        ("check_interval 9", |settings: &Settings| settings.check_interval),
        ("check_timeout 9", |settings: &Settings| settings.check_timeout),
        ("check_rise 9", |settings: &Settings| settings.check_rise),
        ("check_fall 9", |settings: &Settings| settings.check_fall),
        ("hold 9", |settings: &Settings| settings.hold),
        ("rebalance 9", |settings: &Settings| settings.rebalance),
        ("resolve 9", |settings: &Settings| settings.resolve),
    ] as [(&str, fn(&Settings) -> u32); 7]
    {
        assert_eq!(value(&with(&now, line).unwrap()), 9, "{line}");
    }
    assert_eq!(with(&now, "on_down close").unwrap().on_down, OnDown::Close);
    assert!(now.fail_open && !with(&now, "no fail_open").unwrap().fail_open);
}

#[test]
fn a_server_follows_one_name_or_has_an_address() {
    let follows = |settings: &Settings| -> Vec<String> {
        settings.servers_from.iter().map(ToString::to_string).collect()
    };
    let now = with(&empty(8), "server 0 address 10.0.0.1").unwrap();
    let now = with(&now, "servers_from a.example http 1-3").unwrap();
    let now = with(&now, "servers_from _b._tcp.example 80 5-7 srv").unwrap();
    assert_eq!(follows(&now), ["a.example http 1-3", "_b._tcp.example 80 5-7 srv"]);
    let wider = with(&now, "servers_from a.example 81 2-4").unwrap();
    assert_eq!(follows(&wider), ["a.example 81 2-4", "_b._tcp.example 80 5-7 srv"]);
    assert_eq!(follows(&with(&now, "no servers_from a.example").unwrap()).len(), 1);
    for (line, why) in [
        ("servers_from c.example 80 6-8", "server 8 too large, this program was started for 8"),
        ("servers_from c.example 80 3-4", "servers 1-3 follow a.example, and a server follows one"),
        ("servers_from c.example 80 0-0", "server 0 has an address of its own; say no server 0"),
        ("servers_from c.example nowhere 4-4", "'nowhere' is neither a port nor a known TCP"),
        ("server 2 address 10.0.0.2", "number 2 follows a.example, which gives its address"),
        ("server 7 max 5 port 80", "number 7 follows _b._tcp.example, which gives its port"),
    ] {
        let refused = with(&now, line).unwrap_err();
        assert!(refused.contains(why), "{line}: {refused}");
    }
    let mut full = empty(80);
    for slot in 0..64 {
        full = with(&full, &format!("servers_from n{slot}.example 80 {slot}-{slot}")).unwrap();
    }
    let why = with(&full, "servers_from more.example 80 70-70").unwrap_err();
    assert!(why.ends_with("64 names are followed, which are the most"), "{why}");
    // A file that names all servers names these too.
    let file = crate::strategies::sourced("servers_only\nservers_from a.example 80 1-1\n");
    let own = Some(Server::at(Address::Unix("/a".into())));
    let present = Some(Server { record: Record::Present, ..own.clone().unwrap() });
    let mut settings = Settings { servers: vec![None; 4], ..Settings::default() };
    for line in ["servers_from a.example 80 1-1", "servers_from b.example 80 2-3"] {
        settings = with(&settings, line).unwrap();
    }
    settings = with(&settings, "server 3 max 5").unwrap();
    settings.servers = vec![own, present.clone(), present, None];
    keep_named(&mut settings, &file);
    let there: Vec<_> = settings.servers.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, false, false]);
    assert_eq!((follows(&settings), settings.vacant.len()), (vec!["a.example 80 1-1".into()], 0));
}

#[test]
fn a_file_may_give_names_the_slots_of_other_names() {
    let follows = |settings: &Settings| -> Vec<String> {
        let mut all: Vec<_> = settings.servers_from.iter().map(ToString::to_string).collect();
        all.sort();
        all
    };
    let mut running = empty(10);
    for line in [
        "servers_from a.example 80 1-5",
        "servers_from b.example 80 6-7",
        "servers_from c.example 80 8-8",
    ] {
        running = with(&running, line).unwrap();
    }
    let server = Some(Server { record: Record::Present, ..Server::at(Address::Unix("/a".into())) });
    running.servers[1..=8].fill(server);
    for line in ["server 1 max 4", "server 8 max 8"] {
        running = with(&running, line).unwrap();
    }
    let reloaded = |lines: &[&str]| reload(&running, &[], &file(lines), &names(), None);
    let swapped = reloaded(&["servers_from b.example 80 1-5", "servers_from a.example 80 6-7"]);
    let swapped = swapped.unwrap();
    assert_eq!(
        follows(&swapped),
        ["a.example 80 6-7", "b.example 80 1-5", "c.example 80 8-8"],
        "a name that only an operator gave keeps its slots"
    );
    let left: Vec<_> = swapped.configured().map(|(id, _)| id.0).collect();
    assert_eq!((left, swapped.servers[8].as_ref().map(|one| one.soft)), (vec![8], Some(8)));
    // A slot that a name keeps has its server and what was set of it.
    let moved = reloaded(&["servers_from b.example 80 3-6", "servers_from a.example 80 0-2"]);
    let moved = moved.unwrap();
    let left: Vec<_> = moved.configured().map(|(id, _)| id.0).collect();
    assert_eq!((left, moved.servers[1].as_ref().map(|one| one.soft)), (vec![1, 2, 6, 8], Some(4)));
    // The present slots of a name that the file does not name are still its own.
    let refused = reloaded(&["servers_from a.example 80 6-7"]).unwrap_err();
    assert!(refused[0].0.contains("servers 6-7 follow b.example"), "{refused:?}");
    let twice = reloaded(&["servers_from a.example 80 6-7", "servers_from b.example 80 6-7"]);
    let twice = twice.unwrap_err();
    assert!(twice[0].0.contains("servers 6-7 follow b.example"), "{twice:?}");
}

proptest! {
    #[test]
    fn a_setting_that_fails_changes_nothing_and_one_that_works_does_so_again(
        before in strategies::settings(),
        settings in vec(strategies::setting(), 1..6),
        port in any::<Option<u16>>(),
    ) {
        let mut now = before;
        for setting in settings {
            let before = now.clone();
            match apply(&mut now, &setting, &names(), port) {
                Err(why) => {
                    prop_assert!(!why.contains('\n') && why.contains(':'), "{}", why);
                    prop_assert_eq!(&now, &before);
                }
                Ok(()) => {
                    let once = now.clone();
                    prop_assert_eq!(apply(&mut now, &setting, &names(), port), Ok(()));
                    if !matches!(setting, Setting::Acl { .. }) {
                        prop_assert_eq!(&now, &once);
                    }
                    prop_assert_eq!(now.table_size(), before.table_size());
                }
            }
        }
    }

    #[test]
    fn every_name_that_a_setting_holds_is_asked_for(setting in strategies::setting()) {
        let mut answered = Names::default();
        for lookup in lookups(&setting) {
            match lookup {
                Lookup::Host(name) => {
                    answered.hosts.insert(name, vec![IpAddr::from([10, 0, 0, 1]).into()]);
                }
                Lookup::Service(name) => drop(answered.services.insert(name, 80)),
                Lookup::Records(name, records) => {
                    drop(answered.records.insert((name, records), Ok(Vec::new())));
                }
            }
        }
        let mut settings = with(&empty(2), "server 0 address 10.0.0.1").unwrap();
        let setting = match setting {
            Setting::ServersFrom(from) => {
                Setting::ServersFrom(ServersFrom { first: 1, last: 1, ..from })
            }
            Setting::Server { changes, .. } => Setting::Server { number: 0, changes },
            Setting::NoServer(_) => Setting::NoServer(0),
            Setting::Number(which, value) if Number::GROWING.contains(&which) => {
                Setting::Number(which, which.value(&settings).unwrap_or(0).max(value))
            }
            setting => setting,
        };
        prop_assert_eq!(apply(&mut settings, &setting, &answered, Some(80)), Ok(()));
        if let Setting::Listen(local) = &setting {
            prop_assert!(crate::names::resolve_local(local, &answered).is_ok());
        }
    }
}
