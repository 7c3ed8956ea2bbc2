//! Tests of every row of the table of commands, and of what a line must never do.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use crate::acl::{AclVerdict, Net};
use crate::address::{Host, Local, Service};
use crate::command::table::UNBUILT;
use crate::command::*;
use crate::proxy::{ProxyOut, Senders};
use crate::settings::{ConnectionLogFormat, Fastclose};
use crate::strategies;
use crate::strategies::parsed;

fn failure(line: &str) -> String {
    let why = parse(line).unwrap_err().to_string();
    assert!(!why.contains('\n'), "{why:?}");
    why
}

/// The error of a line, also of a command that pen does not offer yet.
fn any_failure(line: &str) -> String {
    let why = parse_any(line).unwrap_err().to_string();
    assert!(!why.contains('\n'), "{why:?}");
    why
}

fn v4(address: [u8; 4], length: u8) -> Net {
    Net::v4_prefix(Ipv4Addr::from(address), length).unwrap()
}

#[test]
fn the_table_is_sorted_and_says_what_each_command_does() {
    assert!(Offered::All.entries().is_sorted_by(|a, b| a.word < b.word));
    for entry in Offered::All.entries() {
        assert!(entry.help.ends_with('.') && !entry.help.contains('|'), "{}", entry.word);
    }
}

#[test]
fn switches_and_numbers_are_commands_of_their_words() {
    for switch in strategies::SWITCHES {
        let word = switch.word();
        for (line, on) in
            [(word.to_owned(), true), (format!("{word} on"), true), (format!("{word} off"), false)]
        {
            assert_eq!(parsed(&line), Setting::Switch(switch, on), "{line}");
        }
        assert_eq!(parsed(&format!("no {word}")), Setting::Switch(switch, false));
        assert_eq!(
            any_failure(&format!("{word} maybe")),
            format!("{word}: 'maybe' is neither on nor off")
        );
        let surplus = format!("{word}: one word too many: 'off'; usage: no {word}");
        assert_eq!(any_failure(&format!("no {word} off")), surplus);
    }
    for number in strategies::NUMBERS {
        let word = number.word();
        let (low, high) = (*number.range().start(), *number.range().end());
        assert_eq!(parse_any(word), Ok(Some(Command::Query(Query::Number(number)))));
        for value in [low, high] {
            assert_eq!(parsed(&format!("{word} {value}")), Setting::Number(number, value));
        }
        for value in [
            (i64::from(low) - 1).to_string(),
            (u64::from(high) + 1).to_string(),
            "x".into(),
            "5x".into(),
        ] {
            if !(number == Number::IdleTimeout && value == "-1") {
                let text = format!("{word}: '{value}' is not a number from {low} to {high}");
                assert_eq!(any_failure(&format!("{word} {value}")), text);
            }
        }
        let why = any_failure(&format!("no {word}"));
        assert!(why.starts_with(&format!("no: there is no 'no {word}'; usage: {word} [")), "{why}");
    }
}

#[test]
fn what_has_no_effect_is_taken_silently() {
    for word in ["abort_on_error", "block", "delayed_forward"] {
        assert_eq!(parse(word), Ok(None));
        assert_eq!(parse(&format!("no {word}")), Ok(None));
        assert_eq!(parse(&format!("{word} off")), Ok(None));
    }
    for line in [
        "epoll",
        "poll",
        "select",
        "kqueue",
        "no peek",
        "peek off",
        "no transparent",
        "transparent off",
        "",
        "  \t ",
        "#",
        "  # x",
    ] {
        assert_eq!(parse(line), Ok(None), "{line:?}");
    }
    assert_eq!(parsed("ssl_client_renegotiation_interval 5"), Setting::SslRenegotiation(5));
}

#[test]
fn what_is_refused_says_why() {
    let rows = [
        ("dsr_if eth0", "dsr_if: direct server return is not supported"),
        ("dsr_ip 10.0.0.1", "dsr_ip: direct server return is not supported"),
        ("tarpit_acl", "tarpit_acl: direct server return is not supported"),
        ("tarpit_acl 3", "tarpit_acl: direct server return is not supported"),
        ("peek", "peek: not supported: it was never finished, clients would hang"),
        ("acl 0 permit country CH", "acl: country: no country lookup is built in"),
        ("transparent", "transparent: not built in yet"),
        ("ssl_ocsp_response", "usage: ssl_ocsp_response FILE"),
        ("ssl_option", "usage: ssl_option OPTION"),
        ("ssl_option no_tlsv1.3", "ssl_option: 'no_tlsv1.3' is no option"),
        ("ssl_sni_path", "usage: ssl_sni_path DIRECTORY"),
        ("nonsense", "do_cmd: ignoring command starting with 'nonsense'"),
        (
            "Blacklist 3",
            "do_cmd: ignoring command starting with 'Blacklist'; did you mean 'blacklist'?",
        ),
        ("non\u{7}sense", "do_cmd: ignoring command starting with 'non\\u{7}sense'"),
        ("no nonsense", "no: nothing to switch off is called 'nonsense'"),
        ("no servers", "no: nothing to switch off is called 'servers'; did you mean 'server'?"),
        ("no server", "usage: no server N"),
        (
            "no server x",
            "server: 'x' is not the number of a server, which begin at 0 and end below -S",
        ),
        ("backlog 49", "backlog: '49' is not a number from 50 to 2147483647"),
        (
            "emergency www:0",
            "emergency: port: '0' is not a number from 1 to 65535, nor the name of a service",
        ),
        (
            "control www:0",
            "control: port: '0' is not a number from 1 to 65535, nor the name of a service",
        ),
        ("no", "usage: no COMMAND"),
        ("tcp_fastclose", "do_cmd: ignoring tcp_fastclose without argument"),
        ("socket_buffers", "usage: socket_buffers client|server RX TX"),
        ("socket_buffers client 1", "usage: socket_buffers client|server RX TX"),
        ("socket_buffers both 1 1", "socket_buffers: 'both' is neither client nor server"),
        ("socket_buffers client -1 0", "socket_buffers: '-1' is not a number from 0 to 67108864"),
        ("tcp_fastclose on", "tcp_fastclose: 'on' is none of up, down, both, off"),
        ("source", "usage: source ADDRESS"),
        ("source here", "unable to set source address to 'here'"),
        ("source 10.0.0.1:80", "unable to set source address to '10.0.0.1:80'"),
        ("ssl_client_renegotiation_interval", "usage: ssl_client_renegotiation_interval SECONDS"),
        ("acl", "usage: acl N permit|deny ADDRESS [MASK]"),
        ("acl 0", "usage: acl N permit|deny ADDRESS [MASK]"),
        ("acl 0 permit", "usage: acl N permit|deny ADDRESS [MASK]"),
        ("no acl", "usage: no acl N"),
        ("no acl 10", "acl: '10' is not a number from 0 to 9"),
        ("acl 10 permit 1.2.3.4", "acl: '10' is not a number from 0 to 9"),
        ("acl 0 allow 1.2.3.4", "acl: 'allow' is neither permit nor deny"),
        ("acl 0 permit here", "acl: 'here' is no IP address"),
        ("acl 0 permit 1.2.3.4 255.0", "acl: '255.0' is no IPv4 mask such as 255.255.255.0"),
        (
            "acl 1 deny 127.0.1.0/24 127.0.2.0/24",
            "acl: one word too many: '127.0.2.0/24'; usage: acl N permit|deny ADDRESS [MASK]",
        ),
        (
            "acl 1 deny 127.0.1.1 127.0.2.1",
            "acl: '127.0.2.1' is no IPv4 mask such as 255.255.255.0; a second address needs a line \
             of its own",
        ),
        (
            "acl 1 deny ::1 ::2",
            "acl: one word too many: '::2'; usage: acl N permit|deny ADDRESS [MASK]",
        ),
        ("no acl 1 2", "acl: one word too many: '2'; usage: no acl N"),
        ("mode other", "mode: one word too many: 'other'; usage: mode [json]"),
        ("recent 5 6", "recent: one word too many: '6'; usage: recent [SECONDS] [json]"),
        ("listen 80 81", "listen: one word too many: '81'; usage: listen [[HOST:]PORT|/PATH]"),
        ("blacklist 5 6 7", "blacklist: one word too many: '6'; usage: blacklist [SECONDS]"),
        ("pid\tmode", "pid: one word too many: 'mode'; usage: pid"),
        ("exit now", "exit: one word too many: 'now'; usage: exit"),
        ("acl 0 permit 1.2.3.4/33", "acl: '33' is not a number from 0 to 32"),
        ("acl 0 permit ::1/129", "acl: '129' is not a number from 0 to 128"),
        ("acl 0 permit ::1/", "acl: '' is not a number from 0 to 128"),
        ("close", "usage: close N"),
        (
            "close -1",
            "close: '-1' is not the number of a connection, which begin at 0 and end below \
             conn_max",
        ),
        (
            "connection x",
            "connection: 'x' is not the number of a connection, which begin at 0 and end below \
             conn_max",
        ),
        ("socket", "usage: socket N"),
        ("events 0", "events: '0' is not a number from 1 to 1000"),
        ("events 1001", "events: '1001' is not a number from 1 to 1000"),
        ("events 5 5", "events: one word too many: '5'; usage: events [N] [json]"),
        ("explain", "usage: explain ADDRESS"),
        ("explain www", "explain: 'www' is no IP address"),
        ("help frob", "help: no command is called 'frob'"),
        ("help sevrer", "help: no command is called 'sevrer'; did you mean 'server'?"),
        ("no hsah", "no: nothing to switch off is called 'hsah'; did you mean 'hash'?"),
        ("include", "usage: include FILE"),
        ("idle_timeout -x", "idle_timeout: 'x' is not a number from 0 to 2147483647"),
        (
            "listen 0",
            "listen: port: '0' is not a number from 1 to 65535, nor the name of a service",
        ),
        ("log a:b:c", "log: 'a:b' is no IPv6 address"),
        ("connection_log a:b:c", "connection_log: 'a:b' is no IPv6 address"),
        (
            "connection_log_format xml",
            "connection_log_format: 'xml' is none of text, json, haproxy, haproxy_http",
        ),
        ("proxy_protocol", "usage: proxy_protocol in from NET[,NET...]|off, or out v1|v2|off"),
        ("proxy_protocol in", "usage: proxy_protocol in from NET[,NET...]|off, or out v1|v2|off"),
        (
            "proxy_protocol in from",
            "usage: proxy_protocol in from NET[,NET...]|off, or out v1|v2|off",
        ),
        ("proxy_protocol in from here", "proxy_protocol: 'here' is no IP address"),
        ("proxy_protocol in from 10.0.0.0/33", "proxy_protocol: '33' is not a number from 0 to 32"),
        ("proxy_protocol in on", "proxy_protocol: 'on' is neither from nor off"),
        ("proxy_protocol out v3", "proxy_protocol: 'v3' is none of v1, v2, off"),
        ("proxy_protocol both v2", "proxy_protocol: 'both' is neither in nor out"),
        (
            "no proxy_protocol",
            "no: there is no 'no proxy_protocol'; usage: proxy_protocol in from NET[,NET...]|off, \
             or out v1|v2|off",
        ),
        ("no on_down", "no: there is no 'no on_down'; usage: on_down [keep|close]"),
        ("no hold", "no: there is no 'no hold'; usage: hold [SECONDS]"),
        ("no check", "no: there is no 'no check'; usage: check [off|KIND [KEY VALUE ...]]"),
        ("recent x", "recent: 'x' is not a number from 0 to 2147483647"),
        ("server", "usage: server N KEY VALUE ..."),
        ("server 0", "usage: server N KEY VALUE ..."),
        ("server 0 max", "usage: server N KEY VALUE ..."),
        ("server 0 max 3 hard", "usage: server N KEY VALUE ..."),
        (
            "server x max 3",
            "server: 'x' is not the number of a server, which begin at 0 and end below -S",
        ),
        ("server 0 max -1", "server: '-1' is not a number from 0 to 2147483647"),
        (
            "server 1 adress x",
            "server: no key is called 'adress'; there are acl, address, blacklist, check, \
             hard, max, port, prio, state, tls, weight",
        ),
        (
            "server 0 address www1:80",
            "server: address www1:80: an address has no port here; write address www1 port 80",
        ),
        (
            "server 0 address [::1]:http",
            "server: address [::1]:http: an address has no port here; write address [::1] port \
             http",
        ),
        ("server 0 max 3 acl 10", "server: '10' is not a number from 0 to 9"),
        ("server 0 max 5 max 50", "server: max is given twice, the second time as '50'"),
        (
            "server 0 address a max 5 address b",
            "server: address is given twice, the second time as 'b'",
        ),
        ("show tiemout", "show: 'tiemout' is no setting; did you mean 'timeout'?"),
        ("show acl 10", "show: '10' is not a number from 0 to 9"),
        (
            "show server x",
            "show: 'x' is not the number of a server, which begin at 0 and end below -S",
        ),
        ("show timeout 5", "show: one word too many: '5'; usage: show [SETTING [N]]"),
        (
            "server 0 port 0",
            "server: port: '0' is not a number from 1 to 65535, nor the name of a service",
        ),
        ("server 0 address a_b:0", "server: 'a_b:0' is no IPv6 address"),
        ("write a\0b", "write: control character '\\0' in its arguments"),
        ("web_stats a\nexit", "web_stats: control character '\\n' in its arguments"),
        ("log a\r b", "log: control character '\\r' in its arguments"),
        ("server 0 address /run/\u{7f}", "server: control character '\\u{7f}' in its arguments"),
        ("pid \r\r\n", "pid: control character '\\r' in its arguments"),
    ];
    for (line, why) in rows {
        assert_eq!(failure(line), why, "{line:?}");
    }
}

#[test]
fn every_other_setting_is_read() {
    let deny = AclVerdict::Deny;
    let rows = [
        ("acl 9 deny 1.2.3.4", Setting::Acl { list: 9, verdict: deny, net: v4([1, 2, 3, 4], 32) }),
        (
            "acl 9 deny 1.2.3.4 255.255.255.0",
            Setting::Acl { list: 9, verdict: deny, net: v4([1, 2, 3, 0], 24) },
        ),
        (
            "acl 9 deny 1.2.3.4/8 # ten",
            Setting::Acl { list: 9, verdict: deny, net: v4([1, 0, 0, 0], 8) },
        ),
        (
            "acl 9 deny 1.2.3.4 # one",
            Setting::Acl { list: 9, verdict: deny, net: v4([1, 2, 3, 4], 32) },
        ),
        ("no acl 3", Setting::NoAcl(3)),
        (
            "control 8888",
            Setting::Startup(Startup::Control(Some(
                crate::grammar::local("127.0.0.1:8888").unwrap(),
            ))),
        ),
        ("no control", Setting::Startup(Startup::Control(None))),
        (
            "page 8081",
            Setting::Startup(Startup::Page(Some(crate::grammar::local("127.0.0.1:8081").unwrap()))),
        ),
        (
            "page /run/pen/page.sock",
            Setting::Startup(Startup::Page(Some(Local::Unix("/run/pen/page.sock".into())))),
        ),
        ("no page", Setting::Startup(Startup::Page(None))),
        ("no jail", Setting::Startup(Startup::Jail(None))),
        ("user 65534", Setting::Startup(Startup::User(Some("65534".into())))),
        ("no server 3", Setting::NoServer(3)),
        ("no abuse", Setting::Abuse(None)),
        ("certificate a", Setting::Certificate(Some(("a".into(), None)))),
        ("client_ca a b", Setting::ClientCa(vec!["a".into(), "b".into()])),
        ("no client_ca", Setting::ClientCa(Vec::new())),
        ("no ssl_ocsp_response", Setting::SslOcsp(None)),
        ("status_file a", Setting::WebStats(Some("a".into()))),
        ("no ssl_ciphers", Setting::SslCiphers(None)),
        ("idle_timeout -5", Setting::Number(Number::IdleTimeout, 0)),
        ("listen /run/x", Setting::Listen(Local::Unix("/run/x".into()))),
        ("listen 81", Setting::Listen(Local::Inet { host: None, port: Service::Port(81) })),
        ("log /a:1", Setting::Log(Some(LogTarget::File("/a:1".into())))),
        ("log a", Setting::Log(Some(LogTarget::File("a".into())))),
        (
            "log h:5",
            Setting::Log(Some(LogTarget::Network(Host::Name("h".into()), Service::Port(5)))),
        ),
        ("no log", Setting::Log(None)),
        ("connection_log syslog", Setting::ConnectionLog(Some(ConnectionLogTarget::Syslog))),
        (
            "connection_log ./syslog",
            Setting::ConnectionLog(Some(ConnectionLogTarget::Log(LogTarget::File(
                "./syslog".into(),
            )))),
        ),
        (
            "connection_log h:5",
            Setting::ConnectionLog(Some(ConnectionLogTarget::Log(LogTarget::Network(
                Host::Name("h".into()),
                Service::Port(5),
            )))),
        ),
        ("no connection_log", Setting::ConnectionLog(None)),
        (
            "connection_log_format haproxy",
            Setting::ConnectionLogFormat(ConnectionLogFormat::Haproxy),
        ),
        ("log a#b", Setting::Log(Some(LogTarget::File("a#b".into())))),
        (
            "acl 9 deny 1.2.3.4 255.0.255.0",
            Setting::Acl {
                list: 9,
                verdict: deny,
                net: Net::v4([1, 0, 3, 0].into(), [255, 0, 255, 0].into()),
            },
        ),
        ("acl 9 deny 1.2.3.4 0.0.0.0", Setting::Acl { list: 9, verdict: deny, net: v4([0; 4], 0) }),
        (
            "acl 9 deny 1.2.3.4 128.0.0.0",
            Setting::Acl { list: 9, verdict: deny, net: v4([0; 4], 1) },
        ),
        ("source 10.0.0.1", Setting::Source(Some("10.0.0.1".parse().unwrap()))),
        ("no source", Setting::Source(None)),
        (
            "socket_buffers server 65536 0",
            Setting::SocketBuffers(
                crate::command::BufferSide::Server,
                crate::settings::BufferSizes { receive: 65536, send: 0 },
            ),
        ),
        ("tcp_fastclose up", Setting::Fastclose(Fastclose::Up)),
        ("proxy_protocol in off", Setting::ProxyIn(Senders::default())),
        (
            "proxy_protocol in from 10.0.0.0/8,::1",
            Setting::ProxyIn(Senders::read("10.0.0.0/8,::1").unwrap()),
        ),
        ("proxy_protocol out v2 # and more", Setting::ProxyOut(ProxyOut::V2)),
        ("proxy_protocol out off", Setting::ProxyOut(ProxyOut::Off)),
        ("tcp_fastclose down", Setting::Fastclose(Fastclose::Down)),
        ("tcp_fastclose both", Setting::Fastclose(Fastclose::Both)),
        ("tcp_fastclose off", Setting::Fastclose(Fastclose::Off)),
        ("web_stats a", Setting::WebStats(Some("a".into()))),
        ("no web_stats", Setting::WebStats(None)),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), Ok(Some(Command::Setting(expected))), "{line}");
    }
}

#[test]
fn queries_are_read() {
    let rows = [
        ("connection", Query::Connection(0)),
        ("connection 3", Query::Connection(3)),
        ("control", Query::Control),
        ("pid_file", Query::Show(Some("pid_file".into()))),
        ("emergency", Query::Show(Some("emergency".into()))),
        ("show", Query::Show(None)),
        ("show acl", Query::Show(Some("acl".into()))),
        ("show acl 1", Query::Show(Some("acl 1".into()))),
        ("show server 0", Query::Show(Some("server 0".into()))),
        ("ssl_ciphers", Query::Show(Some("ssl_ciphers".into()))),
        ("help no", Query::Help(Some("no".into()))),
        ("watch", Query::Watch(Form::Plain)),
        ("watch json", Query::Watch(Form::Json)),
        ("events", Query::Events(20, Form::Plain)),
        ("events json", Query::Events(20, Form::Json)),
        ("events 1000 json", Query::Events(1000, Form::Json)),
        ("explain ::1", Query::Explain("::1".parse().unwrap())),
        ("help", Query::Help(None)),
        ("help # me", Query::Help(None)),
        ("help acl", Query::Help(Some("acl".into()))),
        ("listen", Query::Listen),
        ("log", Query::Log),
        ("connection_log", Query::ConnectionLog),
        ("connection_log_format", Query::Show(Some("connection_log_format".into()))),
        ("log # none", Query::Log),
        ("mode", Query::Mode(Form::Plain)),
        ("mode json", Query::Mode(Form::Json)),
        ("metrics", Query::Metrics),
        ("overview", Query::Overview),
        ("pid", Query::Pid),
        ("sandbox", Query::Sandbox),
        ("recent", Query::Recent(300, Form::Plain)),
        ("recent json", Query::Recent(300, Form::Json)),
        ("recent 5 json", Query::Recent(5, Form::Json)),
        ("servers", Query::Servers(Form::Plain)),
        ("servers json", Query::Servers(Form::Json)),
        ("socket 7", Query::Socket(7)),
        ("status", Query::Status(Form::Plain)),
        ("status json", Query::Status(Form::Json)),
        ("web_stats", Query::WebStats),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), Ok(Some(Command::Query(expected))), "{line}");
    }
}

#[test]
fn actions_are_read() {
    let rows = [
        ("close 3", Action::Close(3)),
        ("write -", Action::WriteHere),
        ("exit", Action::Exit),
        ("upgrade", Action::Upgrade),
        ("include a/b", Action::Include("a/b".into())),
        ("write", Action::Write(None)),
        ("write a", Action::Write(Some("a".into()))),
    ];
    for (line, expected) in rows {
        assert_eq!(parse(line), Ok(Some(Command::Action(expected))), "{line}");
    }
}

#[test]
fn a_server_takes_all_its_keys_in_order() {
    let line = "server 7 acl 1 address ::1 blacklist 2 hard 3 max 4 port http prio 6 weight 0 # no";
    let changes = vec![
        ServerChange::Acl(1),
        ServerChange::Address(Host::Ip("::1".parse().unwrap())),
        ServerChange::Blacklist(2),
        ServerChange::Hard(3),
        ServerChange::Max(4),
        ServerChange::Port(Service::Name("http".into())),
        ServerChange::Prio(6),
        ServerChange::Weight(0),
    ];
    assert_eq!(parsed(line), Setting::Server { number: 7, changes });
}

#[test]
fn words_are_separated_by_spaces_or_tabs_and_a_comment_may_follow_them() {
    let expected = Setting::Number(Number::Blacklist, 5);
    for line in [
        "blacklist 5",
        "  blacklist\t5",
        "blacklist \t 5 ",
        "blacklist 5 # 6 7",
        "blacklist 5\t#6",
        "blacklist 5 #\u{7}",
        "blacklist 5\r\n",
        "blacklist 5\n",
    ] {
        assert_eq!(parsed(line), expected, "{line:?}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused_and_nowhere_to_be_seen() {
    let words = UNBUILT.iter().filter(|word| !word.contains(' '));
    for word in words {
        let line = LONGEST.iter().find(|line| line.split(' ').next() == Some(*word)).unwrap();
        let command = parse_any(line).unwrap().unwrap();
        for line in [*line, word, &format!("{word} nonsense")] {
            assert_eq!(failure(line), format!("{word}: not built in yet"));
        }
        assert!(!is_well_formed(&command), "{line}");
        assert!(failure(&format!("show {word}")).contains("is no setting"));
        assert!(failure(&format!("help {word}")).contains("no command is called"));
        assert!(!help(None).split([' ', '\n', ',']).any(|shown| shown == *word), "{word}");
        assert!(COMMANDS.iter().all(|entry| entry.word != *word), "{word}");
    }
    let keys: Vec<&str> = server_keys().collect();
    for (key, line) in [
        ("state", "server 0 state maint"),
        ("check", "server 0 max 3 check tcp"),
        ("tls", "server 0 tls on"),
    ] {
        let is_unbuilt = UNBUILT.contains(&format!("server {key}").as_str());
        assert_eq!(keys.contains(&key), !is_unbuilt, "{key}");
        assert!(parse_any(line).is_ok(), "{line}");
        if is_unbuilt {
            assert_eq!(failure(line), "server: not built in yet");
            assert!(!is_well_formed(&parse_any(line).unwrap().unwrap()), "{line}");
        } else {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
    let server = COMMANDS.iter().find(|entry| entry.word == "server").unwrap();
    assert!(server.help.contains(&format!("server N: {};", keys.join(", "))), "{}", server.help);
}

#[test]
fn checks_are_read_and_shown_in_their_shortest_form() {
    for (line, shown) in [
        ("check off", "check off"),
        ("check tcp", "check tcp"),
        ("check tls host www.example", "check tls host www.example"),
        ("check http / status 200-399", "check http /"),
        (
            "check https /a?b=c port 8443 body ok\\s# status 204 host www proxy v1",
            "check https /a?b=c host www status 204-204 body ok\\s# port 8443 proxy v1",
        ),
        ("check smtp proxy v2", "check smtp proxy v2"),
        ("check pgsql", "check pgsql"),
        ("check mysql master", "check mysql master"),
        ("check redis", "check redis"),
        ("check redis master port 1", "check redis master port 1"),
        ("check ldap", "check ldap"),
        ("check dns www.example.", "check dns www.example."),
        ("check send \\x50ING\\r\\n expect \\x23\\xff", "check send PING\\r\\n expect \\x23\\xff"),
        ("server 1 state drain check off", "server 1 state drain check off"),
        ("server 1 check default", "server 1 check default"),
        ("server 1 max 5 check http / port 81", "server 1 max 5 check http / port 81"),
        ("on_down keep", "on_down keep"),
        ("server_tls off", "no server_tls"),
        ("server_tls_verify", "server_tls_verify"),
        ("no server_tls_ca", "no server_tls_ca"),
        ("server_tls_cert /a", "server_tls_cert /a"),
        ("server_tls_name [2001:db8::1]", "server_tls_name 2001:db8::1"),
        ("server_tls_name a.example.", "server_tls_name a.example"),
        ("server 1 tls on check tcp", "server 1 tls on check tcp"),
        ("server 1 tls default", "server 1 tls default"),
        ("servers_from db.example 5432 0-9", "servers_from db.example 5432 0-9"),
        ("servers_from _db._tcp.example pg 3-3 srv", "servers_from _db._tcp.example pg 3-3 srv"),
        ("no servers_from db.example", "no servers_from db.example"),
        ("drain 3", "drain 3"),
        ("drain 3 wait 300 close", "drain 3 close"),
        ("drain 3 wait 0", "drain 3 wait 0"),
    ] {
        assert_eq!(parse_any(line).unwrap().unwrap().to_string(), shown, "{line}");
    }
}

#[test]
fn what_is_wrong_with_a_check_is_said() {
    for (line, why) in [
        ("check ftp", "no check is called 'ftp'; there are tcp, tls, http PATH, https PATH, smtp"),
        ("check http", "check: what follows http is missing"),
        ("check http index", "check: http: 'index' is no path: it begins with '/'"),
        ("check http /a#b", "'/a#b' is no path"),
        ("check http /é", "'/é' is no path"),
        ("check http / status 99-200", "check: status: '99' is not a number from 100 to 599"),
        ("check http / status 300-200", "check: status 300-200 holds no status"),
        ("check http / status", "check: what follows status is missing"),
        ("check http / body a\\q", "check: body: '\\\\q' is no escape"),
        ("check http / port 1 port 2", "check: http: port is given twice"),
        ("check http / port 0", "check: port: '0' is not a number from 1 to 65535"),
        ("check http / host a/b", "check: host 'a/b' has other characters"),
        ("check tcp host a", "check: tcp: host has no use there; it goes with tls, http and https"),
        ("check smtp body a", "check: smtp: body has no use there; it goes with http and https"),
        ("check tls status 200", "check: tls: status has no use there"),
        ("check tcp proxy off", "check: proxy 'off' is neither v1 nor v2"),
        ("check tcp max 5", "check: 'max' is none of host, status, body, port, proxy"),
        ("check mysql", "check: what follows mysql is missing"),
        ("check redis slave", "check: 'slave' is none of host"),
        ("check dns 10.0.0.1", "'10.0.0.1' is no name"),
        ("check dns a..b", "'a..b' is no host"),
        ("check send a b", "check: send: 'b' where expect has to stand; a space in TEXT is \\s"),
        ("check send a", "check: send: expect TEXT is missing"),
        ("check send a expect", "check: what follows expect is missing"),
        ("check off now", "one word too many: 'now'"),
        (
            "server 0 check tcp port 81 max 20",
            "'max' is none of host, status, body, port, proxy; check takes the rest of the line, \
             so other keys of the server stand before it",
        ),
        ("server 0 check http x", "server: check http: 'x' is no path: it begins with '/'"),
        ("server 0 check tcp port 0", "server: check: port: '0' is not a number from 1 to 65535"),
        ("server 0 check off max 20", "check takes the rest of the line"),
        ("server 0 state up", "state 'up' is none of ready, drain, maint"),
        ("server 0 state", "usage: server N KEY VALUE ..."),
        ("on_down reset", "'reset' is neither keep nor close"),
        ("drain", "usage: drain N [wait SECONDS] [close]"),
        ("drain 5000", "5000 is too large; there are 4096 servers at most"),
        ("drain 0 wait", "usage: drain"),
        ("drain 0 wait 86401", "'86401' is not a number from 0 to 86400"),
        ("drain 0 close wait 5", "one word too many: 'wait'"),
        ("server_tls_name a..b", "'a..b' is no name of a server"),
        ("server_tls_name off", "to have none, say no server_tls_name"),
        ("server_tls maybe", "'maybe' is neither on nor off"),
        ("server 1 tls maybe", "tls: 'maybe' is none of on, off, default"),
        ("servers_from a", "usage: servers_from"),
        ("servers_from 10.0.0.1 80 0-1", "'10.0.0.1' is no name"),
        ("servers_from a 80 0", "'0' is no range of servers, as in 0-9"),
        ("servers_from a 80 5-4", "5-4 holds no server"),
        ("servers_from a 80 0-4096", "4096 is too large"),
        ("no servers_from", "usage: no servers_from NAME"),
    ] {
        let said = any_failure(line);
        assert!(said.contains(why), "{line}: {said}");
        assert!(!said.contains("check: check"), "{line}: {said}");
    }
    let long = "\\x01".repeat(400);
    let why = any_failure(&format!("check send {long} expect {long} "));
    assert!(why.contains("written with its escapes it has 3213 bytes; 3200 are the most"), "{why}");
}

#[test]
fn the_longest_check_fits_in_the_longest_line_of_a_server() {
    let text = "\\x01".repeat(396);
    let check = format!("send {text} expect {text}");
    let name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
    let count = "2147483647";
    let line = format!(
        "server {count} acl 9 address {name} port {} max {count} hard {count} weight {count} prio \
         {count} state maint check {check}",
        "p".repeat(255)
    );
    let check = parse_any(&format!("check {check}")).unwrap().unwrap().to_string();
    assert!((3100..=3200).contains(&check.len()) && line.len() < MAX_LINE - 100, "{}", line.len());
    assert!(parse_any(&line).is_ok());
}

/// A line of each command, with the most words that the command accepts.
const LONGEST: &[&str] = &[
    "abort_on_error on",
    "abuse www:80:1:2:3:4",
    "abuse_over on",
    "accept_batch 3",
    "acl 1 deny 127.0.1.0 255.255.255.0",
    "ascii on",
    "backlog 300",
    "blacklist 3",
    "block on",
    "certificate file key",
    "certificates json",
    "check https /health host www status 200-299 body ok port 81 proxy v2",
    "check_fall 3",
    "check_interval 3",
    "check_rise 3",
    "check_timeout 3",
    "client_acl 3",
    "client_ca file directory",
    "clients_max 3000",
    "close 3",
    "conn_max 3000",
    "connection 3",
    "connection_log file",
    "connection_log_format json",
    "control 8888",
    "control_acl 3",
    "debug 3",
    "delayed_forward on",
    "drain 3 wait 60 close",
    "drain_timeout 3",
    "dsr_if eth0",
    "dsr_ip 10.0.0.1",
    "dummy on",
    "emergency www:80",
    "epoll",
    "events 1000 json",
    "exit",
    "exit_command on",
    "explain 10.0.0.1",
    "fail_open on",
    "hash on",
    "hash_always on",
    "help acl",
    "hold 3",
    "http on",
    "idle_timeout 3",
    "idlers 3",
    "include file",
    "jail directory",
    "keepalive on",
    "kqueue",
    "leastconn on",
    "listen 80",
    "log file",
    "maglev bounded 125",
    "max_servers 3",
    "metrics",
    "mode json",
    "on_down close",
    "overview",
    "p2c on",
    "page 8081",
    "page_acl 3",
    "pause",
    "peek off",
    "pending_max 3",
    "per_client_max 3",
    "per_client_net 24 56",
    "per_client_rate 3 10",
    "pid",
    "pid_file file",
    "poll",
    "prio on",
    "proxy_protocol in from 10.0.0.0/8",
    "rebalance 3",
    "recent 3 json",
    "require_client_cert on",
    "require_sandbox on",
    "resolve 3",
    "resume",
    "roundrobin on",
    "sandbox",
    "select",
    "server 3 address www port 80",
    "server_tls on",
    "server_tls_ca /a",
    "server_tls_cert /a /b",
    "server_tls_name a.example",
    "server_tls_verify on",
    "servers json",
    "servers_from www 80 0-3 srv",
    "servers_only on",
    "show server 3",
    "slow_start 30",
    "socket 3",
    "socket_buffers client 0 0",
    "source 10.0.0.1",
    "ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256",
    "ssl_client_renegotiation_interval 3",
    "ssl_ocsp_response file",
    "ssl_option no_tlsv1.2",
    "ssl_sni_path directory",
    "status json",
    "status_file file",
    "stubborn on",
    "tarpit 3",
    "tarpit_acl 3",
    "tcp_fastclose up",
    "tcp_nodelay on",
    "timeout 3",
    "tracking 3",
    "transparent off",
    "unlimited_acl 3",
    "upgrade",
    "user nobody",
    "watch json",
    "web_stats file",
    "weight on",
    "workers 3",
    "write file",
];

#[test]
fn one_word_too_many_is_an_error_of_every_command() {
    let words: Vec<&str> = LONGEST.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        words,
        Offered::All.entries().iter().map(|entry| entry.word).collect::<Vec<_>>(),
        "a line for each command"
    );
    for (line, entry) in LONGEST.iter().zip(Offered::All.entries()) {
        let refused = matches!(parse_any(line), Err(CommandError::Refused { .. }));
        assert!(refused || parse_any(line).is_ok(), "{line}");
        assert_eq!(parse_any(&format!("{line} # comment")), parse_any(line), "{line}");
        for surplus in ["surplus", "127.0.2.0/24", "3", "off"] {
            let why = any_failure(&format!("{line} {surplus}"));
            let whole = why.starts_with(&format!("{}: ", entry.word)) || why.starts_with("usage: ");
            assert!(whole, "{line} {surplus}: {why}");
        }
        if entry.negatable {
            let no = format!(
                "no {} {}",
                entry.word,
                entry.negated_arguments().replace("NAME", "www").replace('N', "1")
            );
            assert!(parse_any(&no).is_ok(), "{no}");
            let why = any_failure(&format!("{no} surplus"));
            assert!(why.contains("one word too many: 'surplus'; usage: no "), "{no}: {why}");
        }
    }
}

#[test]
fn long_lines_and_words_make_short_errors() {
    assert!(parse(&format!("#{}", "x".repeat(MAX_LINE - 1))).is_ok());
    assert_eq!(failure(&format!("#{}", "x".repeat(MAX_LINE))), "line: longer than 4095 bytes");
    for line in [
        "x".repeat(MAX_LINE),
        format!("no {}", "é".repeat(2000)),
        format!("source {}", "\u{1}".repeat(4000)),
    ] {
        assert!(failure(&line).len() < 1200, "{}", failure(&line).len());
    }
}

#[test]
fn what_no_line_can_say_is_not_well_formed() {
    let server = |change| Command::Setting(Setting::Server { number: 0, changes: vec![change] });
    for command in [
        Command::Setting(Setting::Number(Number::ConnMax, u32::MAX)),
        Command::Setting(Setting::Number(Number::Timeout, 0)),
        Command::Setting(Setting::Acl {
            list: 10,
            verdict: AclVerdict::Deny,
            net: Net::v4_prefix([1, 2, 3, 4].into(), 32).unwrap(),
        }),
        Command::Setting(Setting::Acl {
            list: 0,
            verdict: AclVerdict::Deny,
            net: Net::V6 { address: 1.into(), length: 129 },
        }),
        Command::Setting(Setting::Listen(Local::Inet { host: None, port: Service::Port(0) })),
        Command::Setting(Setting::Log(Some(LogTarget::File("a b".into())))),
        Command::Action(Action::Include("a\nb".into())),
        server(ServerChange::Address(Host::Name("a\0b".into()))),
        server(ServerChange::Weight(u32::MAX)),
        Command::Setting(Setting::Server { number: 0, changes: Vec::new() }),
    ] {
        assert!(!is_well_formed(&command), "{command:?}");
    }
}

#[test]
fn a_command_without_its_optional_argument_shows_and_never_sets() {
    // A switch without a value is on; `write` without a file writes to the file of -F.
    let others = |entry: &Entry| entry.arguments.starts_with("[on|off") || entry.word == "write";
    let optional = |entry: &&Entry| entry.arguments.starts_with('[') && !others(entry);
    for entry in COMMANDS.iter().filter(optional).filter(|entry| entry.word != "tarpit_acl") {
        assert!(matches!(parse(entry.word), Ok(Some(Command::Query(_)))), "{}", entry.word);
    }
    for switch in COMMANDS.iter().filter(|entry| entry.arguments.starts_with("[on|off")) {
        assert!(
            matches!(parse(switch.word), Ok(Some(Command::Setting(_)) | None) | Err(_)),
            "{}",
            switch.word
        );
    }
}

#[test]
fn where_nobody_reads_it_a_command_that_shows_is_a_value_that_is_missing() {
    for word in setting_words() {
        if let Ok(Some(Command::Query(_))) = parse(word) {
            assert_eq!(parse_configuration(word), Err(format!("{word}: its value is missing")));
            assert!(parse_configuration(&format!("{word}\t# a.pem")).is_err(), "{word}");
        }
    }
    for word in [
        "certificate",
        "user",
        "jail",
        "control",
        "page",
        "emergency",
        "log",
        "blacklist",
        "client_acl",
        "timeout",
        "listen",
    ] {
        assert_eq!(parse_configuration(word), Err(format!("{word}: its value is missing")));
    }
    for line in
        ["show certificate", "servers", "pid", "mode json", "explain ::1", "help", "connection 3"]
    {
        let word = line.split(' ').next().unwrap();
        let why = format!(
            "{word}: only the control port takes this command: nobody reads here what it shows"
        );
        assert_eq!(parse_configuration(line), Err(why));
    }
    for line in [
        "no certificate",
        "hash",
        "timeout 5",
        "# timeout",
        "",
        "http",
        "no ssl_ciphers",
        "include a",
    ] {
        assert!(parse_configuration(line).is_ok(), "{line}");
    }
}

/// The table of commands as docs/commands.md shows it.
fn table() -> String {
    let mut table = "| Command | What it does |\n|---|---|\n".to_owned();
    for entry in COMMANDS {
        let arguments = entry.arguments.replace('|', "\\|");
        let forms =
            [Some(format!("`{}`", [entry.word, &arguments].join(" ").trim_end())), negated(entry)];
        let forms: Vec<String> = forms.into_iter().flatten().collect();
        table.push_str(&format!("| {} | {} |\n", forms.join(", "), entry.help));
    }
    table
}

fn negated(entry: &Entry) -> Option<String> {
    let line = format!("no {} {}", entry.word, entry.negated_arguments());
    entry.negatable.then(|| format!("`{}`", line.trim_end()))
}

#[test]
fn the_manual_shows_the_table_of_commands() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
    let manual = std::fs::read_to_string(path).unwrap();
    let (begin, end) = (
        "<!-- The table is made of the program's own; UPDATE_DOCS=1 cargo test -p pen-config \
         -->\n\n",
        "\n## ",
    );
    let (head, rest) = manual.split_once(begin).unwrap();
    let (shown, tail) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(path, [head, begin, &table(), end, tail].concat()).unwrap();
    }
    assert_eq!(
        shown,
        table(),
        "docs/commands.md is not up to date: UPDATE_DOCS=1 cargo test -p pen-config"
    );
}

proptest! {
    #[test]
    fn a_command_shown_is_a_line_that_reads_as_the_same_command(command in strategies::command()) {
        let line = command.to_string();
        prop_assert_eq!(parse_any(&line), Ok(Some(command)), "{}", line);
    }

    #[test]
    fn no_word_is_passed_over(command in strategies::command(), comment in "( #\\PC*)?") {
        let line = command.to_string();
        prop_assert_eq!(parse_any(&format!("{line}{comment}")), Ok(Some(command)), "{}", line);
        // If the command accepts the surplus word, it also shows it.
        if let Ok(Some(longer)) = parse_any(&format!("{line} surplus")) {
            // The listen address may gain a host that the line did not have.
            let shown = longer.to_string();
            prop_assert!(shown.split([' ', ':']).any(|word| word == "surplus"), "{}", line);
        }
    }

    #[test]
    fn no_line_panics_and_every_reply_is_one_line(
        line in prop_oneof![
            any::<String>(),
            "(no )?[a-z_]{2,12}( [!-~]{0,12}){0,6}",
            (prop::sample::select(Offered::All.entries()), "(no )?", "( -?[0-9]{1,11}| \
                [a-z:./0-9#]{0,9}|\t|\\PC){0,8}")
                .prop_map(|(entry, no, rest)| format!("{no}{}{rest}", entry.word)),
        ],
    ) {
        match parse_any(&line) {
            // A setting without its value shows it, and `show` takes only what is offered.
            Ok(None | Some(Command::Query(Query::Show(_)))) => {}
            Ok(Some(command)) => prop_assert!(is_readable(&command, Offered::All)),
            Err(why) => {
                let why = why.to_string();
                prop_assert!(!why.contains(['\n', '\r', '\0']), "{:?}", why);
            }
        }
        if let Ok(Some(command)) = parse(&line) {
            prop_assert!(is_well_formed(&command));
        }
    }
}
