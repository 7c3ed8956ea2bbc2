//! Tests of the command line as a user gives it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;

use pen_config::address::{Host, Service};
use pen_config::command::{LogTarget, Number};
use pen_config::names::Names;
use pen_config::settings::{Selection, Settings};
use proptest::prelude::*;

use super::*;

fn arguments(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn run(line: &str) -> Launch {
    match parse(arguments(line)) {
        Ok(Request::Run(launch, _)) => *launch,
        other => panic!("{line}: {other:?}"),
    }
}

fn failure(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> String {
    let why = parse(arguments.into_iter().map(Into::into)).unwrap_err().to_string();
    assert!(!why.contains('\n'), "{why:?}");
    why
}

#[test]
fn clap_accepts_the_table() {
    command().debug_assert();
    let names: BTreeSet<&str> = OPTIONS.iter().map(|option| option.long).collect();
    assert_eq!(names.len(), OPTIONS.len());
}

#[test]
fn every_letter_of_both_manuals_is_there() {
    let letters: String = OPTIONS.iter().filter_map(|option| option.letter).collect();
    for letter in "abcdefhijlmnopqrstuwxABCDEFGHKLNOPQRSTUWXZ".chars() {
        assert_eq!(letters.matches(letter).count(), 1, "-{letter}");
    }
}

/// The commands in a short form: position and line.
fn commands(line: &str) -> Vec<String> {
    run(line)
        .configuration
        .commands
        .iter()
        .map(|sourced| format!("{}: {}", sourced.source_line, sourced.command))
        .collect()
}

/// The settings by the options, without a file.
fn settings(line: &str) -> Settings {
    run(line).configuration.settle(&Names::default(), &[]).unwrap().settings
}

#[test]
fn defaults_are_those_of_the_manual() {
    let launch = run("80 host");
    let configuration = &launch.configuration;
    assert_eq!(configuration.local, Some(grammar::local("80").unwrap()));
    assert_eq!(configuration.servers, [grammar::server("host").unwrap()]);
    assert_eq!(
        (configuration.server_slots, &configuration.emergency, &configuration.abuse),
        (None, &None, &None)
    );
    assert_eq!((configuration.accept_batch, configuration.hash_always), (100, false));
    assert!(configuration.commands.is_empty());
    assert_eq!(
        (launch.foreground, launch.allow_exit, launch.check, launch.show),
        (false, false, false, false)
    );
    assert_eq!(Settings::default().backlog, 500);
    assert_eq!((launch.jail, launch.user, launch.pid_file), (None, None, None));
    assert_eq!((launch.control, launch.config), (None, None));
    assert_eq!(launch.command_line, "pen 80");
    let settings = settings("80 127.0.0.1");
    assert_eq!(Settings { servers: Vec::new(), ..settings }, Settings::default());
}

#[test]
fn defaults_that_the_help_shows_are_those_in_force() {
    for (long, number) in commands::NUMBERS {
        let Some(Value::Number(_, range, default)) = find(long).map(|option| &option.value) else {
            panic!("{long}")
        };
        // A too small value is raised.
        let raised = *number == Number::Backlog;
        assert!(
            *range == number.range() || raised && range.end() == number.range().end(),
            "{long}"
        );
        let settings = Settings::default();
        let in_force = match number {
            Number::Blacklist => settings.blacklist,
            Number::Tracking => settings.tracking,
            Number::Timeout => settings.connect_timeout,
            Number::ClientsMax => settings.clients_max,
            Number::ConnMax => settings.connections_max,
            Number::Backlog => settings.backlog,
            Number::Workers => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(*default, Some(in_force), "{long}");
    }
}

#[test]
fn every_option_has_its_effect() {
    let line = "-r -h -N -W --prio -s -e 10.0.0.1:1 -B 10.0.0.2:2 -b 1 -T 2 -t 3 -c 4 -x 5 -S 6 -m \
        7 -q 80 -f -u nobody -j /jail \
         -p /pid --workers 9 -l /log -w /web -d -d -a -n -P -Q -C 8888 -X -F /cfg --check 80 \
         127.0.0.1";
    let launch = run(line);
    let settled = launch.configuration.settle(&Names::default(), &[]).unwrap();
    let settings = settled.settings;
    let all = Selection {
        roundrobin: true,
        hash: true,
        hash_always: true,
        weight: true,
        prio: true,
        stubborn: true,
        ..Selection::default()
    };
    assert_eq!(settings.selection, all);
    assert_eq!(settings.emergency.as_ref().unwrap().address.to_string(), "10.0.0.1:1");
    assert_eq!(settings.abuse.as_ref().unwrap().address.to_string(), "10.0.0.2:2");
    assert_eq!((settings.blacklist, settings.tracking, settings.connect_timeout), (1, 2, 3));
    assert_eq!((settings.clients_max, settings.connections_max), (4, 5));
    assert_eq!((settings.table_size(), settings.accept_batch, settings.backlog), (6, 7, 80));
    assert_eq!(
        (launch.foreground, launch.user.as_deref(), settled.workers),
        (true, Some("nobody"), Some(9))
    );
    assert_eq!((launch.jail, launch.pid_file), (Some("/jail".into()), Some("/pid".into())));
    assert_eq!(
        (settled.log, settled.status_file),
        (Some(LogTarget::File("/log".into())), Some("/web".into()))
    );
    assert_eq!((settings.debug, settings.ascii), (2, true));
    assert_eq!(launch.control, Some(grammar::local("127.0.0.1:8888").unwrap()));
    assert_eq!((launch.allow_exit, launch.config, launch.check), (true, Some("/cfg".into()), true));
}

#[test]
fn upgrade_stands_alone() {
    let asked = |line: &str| parse(arguments(line));
    for line in ["--upgrade /run/pen.pid", "--upgrade=/run/pen.pid"] {
        match asked(line) {
            Ok(Request::Upgrade(path)) => assert_eq!(path, PathBuf::from("/run/pen.pid"), "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    for line in [
        "--upgrade /a 80",
        "80 127.0.0.1 --upgrade /a",
        "--upgrade /a -f",
        "--upgrade /a --check",
        "--upgrade /a -p /a",
        "--upgrade /a --upgrade /b",
    ] {
        let why = asked(line).unwrap_err().to_string();
        assert_eq!(
            why, "--upgrade: takes the pid file of a running pen and nothing else",
            "{line}"
        );
    }
    assert_eq!(failure(["--upgrade"]), "--upgrade: its value is missing (file)");
    assert_eq!(failure(["--upgrade", ""]), "--upgrade: its value is empty");
}

#[test]
fn options_and_commands_count_in_the_order_in_which_they_are_given() {
    let words = [
        "-b7",
        "-O",
        "blacklist 8",
        "-h",
        "80",
        "-o",
        "no hash",
        "-O",
        "blacklist 9",
        "127.0.0.1",
        "-r",
        "-ono roundrobin",
        "-h",
        "-b",
        "3",
    ];
    let Ok(Request::Run(launch, _)) = parse(words.map(OsString::from)) else { panic!() };
    let commands = launch
        .configuration
        .commands
        .iter()
        .map(|sourced| format!("{}: {}", sourced.source_line, sourced.command));
    assert_eq!(
        commands.collect::<Vec<_>>(),
        [
            "-O 'blacklist 8': blacklist 8",
            "-o 'no hash': no hash",
            "-O 'blacklist 9': blacklist 9",
            "-r: roundrobin",
            "-o 'no roundrobin': no roundrobin",
            "-h: hash",
            "-b: blacklist 3"
        ]
    );
    let settings = launch.configuration.settle(&Names::default(), &[]).unwrap().settings;
    assert_eq!(
        (settings.blacklist, settings.selection.hash, settings.selection.roundrobin),
        (3, true, false)
    );
}

#[test]
fn a_command_that_is_none_is_named_with_its_option() {
    let rows = [
        ("nonsense", "-O 'nonsense': no such command: 'nonsense'"),
        ("blacklist x", "-O 'blacklist x': blacklist: 'x' is not a number from 0 to 2147483647"),
        ("acl", "-O 'acl': usage: acl N permit|deny ADDRESS [MASK]"),
    ];
    for (command, why) in rows {
        assert_eq!(failure(["-O", command, "80", "host"]), why);
        assert_eq!(failure(["-o", "hash", "-o", command, "80", "host"]), why.replace("-O", "-o"));
    }
    assert!(
        failure([OsString::from("-O"), OsString::from_vec(b"a\xff".into())])
            .ends_with("not valid UTF-8")
    );
}

#[test]
fn a_file_or_a_command_may_say_what_the_operands_do_not() {
    assert_eq!(run("-F pen.cfg").configuration.local, None);
    let line =
        ["-O", "listen 127.0.0.1:81", "-O", "server 0 address 127.0.0.1"].map(OsString::from);
    let Ok(Request::Run(launch, _)) = parse(line) else { panic!() };
    let settled = launch.configuration.settle(&Names::default(), &[]).unwrap();
    assert_eq!(settled.listen[0].to_string(), "127.0.0.1:81");
    assert_eq!(settled.settings.servers[0].as_ref().unwrap().address.to_string(), "127.0.0.1:81");
}

#[test]
fn the_control_port_is_one_of_this_machine_unless_a_host_is_given() {
    let control = |value: &str| run(&format!("-C {value} 80 host")).control.unwrap().to_string();
    assert_eq!(control("8888"), "127.0.0.1:8888");
    assert_eq!(control("0.0.0.0:8888"), "0.0.0.0:8888");
    assert_eq!(control("::1:8888"), "::1:8888");
    assert_eq!(control("[::1]:8888"), "::1:8888");
    assert_eq!(control("/run/pen.sock"), "/run/pen.sock");
    assert!(failure(["-C", "host:0", "80", "host"]).starts_with("-C 'host:0': port: "));
    assert_eq!(failure(["-C", "", "80", "host"]), "-C: its value is empty");
}

#[test]
fn the_command_line_is_kept_without_what_commands_say() {
    let words = [
        "-rX",
        "-c9",
        "-u",
        "no body",
        "-F/etc/pen.cfg",
        "-C",
        "8888",
        "-O",
        "hash",
        "-dd",
        "--check",
        "-P",
        "80",
        "a",
    ];
    let Ok(Request::Run(launch, _)) = parse(words.map(OsString::from)) else { panic!() };
    assert_eq!(launch.command_line, "pen -u 'no body' -F /etc/pen.cfg -C 8888 -X 80");
}

#[test]
fn each_debug_option_adds_one_to_what_was_said_before_it() {
    assert_eq!(commands("-ddd 80 host"), ["-d: debug 1", "-d: debug 2", "-d: debug 3"]);
    assert_eq!(settings("-d 80 127.0.0.1 -d").debug, 2);
    assert_eq!(settings("-dddddddddddd 80 127.0.0.1").debug, 9);
    let line = ["-dd", "-O", "debug 7", "-d", "-rd", "80", "127.0.0.1"].map(OsString::from);
    let Ok(Request::Run(launch, _)) = parse(line) else { panic!() };
    assert_eq!(launch.configuration.debug(&[]), 9);
    assert_eq!(launch.configuration.settle(&Names::default(), &[]).unwrap().settings.debug, 9);
}

#[test]
fn long_names_are_the_same_options() {
    let short = "-r -h -N -W -s -e last:1 -B bad:2 -b 1 -T 2 -t 3 -c 4 -x 5 -S 6 -m 7 -q 80 -f -u \
        nobody -j /jail -p /pid \
                 -l /log -w /web -d -a -n -P -Q 80 host";
    let long = short.split(' ').map(|word| {
        let letter = word.strip_prefix('-').and_then(|letter| letter.chars().next());
        let option = OPTIONS.iter().find(|option| letter.is_some() && option.letter == letter);
        option.map_or(word.to_owned(), |option| format!("--{}", option.long))
    });
    assert_eq!(
        format!("{:?}", run(&long.collect::<Vec<_>>().join(" "))),
        format!("{:?}", run(short))
    );
}

#[test]
fn options_are_read_as_getopt_does() {
    let line = "-rdf 80 -b2 127.0.0.1 -T 7 -dx9 127.0.0.2 -T 8 -r";
    let settings = settings(line);
    assert!(run(line).foreground && settings.selection.roundrobin);
    assert_eq!((settings.debug, settings.blacklist), (2, 2));
    assert_eq!((settings.tracking, settings.connections_max), (8, 9));
    assert_eq!(settings.server_count(), 2);
    assert!(run("80 host -f").foreground);
    assert_eq!(commands("--blacklist-time=4 80 host"), ["-b: blacklist 4"]);
    assert_eq!(run("-d -- 80 host").configuration.servers.len(), 1);
    assert!(failure(["80", "--", "host", "-f"]).starts_with("server '-f'"));
    assert_eq!(run("-u -f 80 host").user.as_deref(), Some("-f"));
}

#[test]
fn an_emergency_server_alone_is_enough() {
    assert!(run("-e last:1 80").configuration.servers.is_empty());
}

#[test]
fn the_log_is_a_file_or_a_host_and_port() {
    let log = |value| run(&format!("-l {value} 80 host")).configuration.log(&[]).cloned().unwrap();
    assert_eq!(log("/var/log/pen:1"), LogTarget::File("/var/log/pen:1".into()));
    assert_eq!(log("pen.log"), LogTarget::File("pen.log".into()));
    assert_eq!(
        log("loghost:514"),
        LogTarget::Network(Host::Name("loghost".into()), Service::Port(514))
    );
    assert_eq!(
        log("[::1]:514"),
        LogTarget::Network(Host::Ip("::1".parse().unwrap()), Service::Port(514))
    );
    assert!(failure(["-l", "logs/a:b", "80", "host"]).contains("must begin with '/'"));
    assert!(
        failure(["-l", "loghost:", "80", "host"])
            .starts_with("-l 'loghost:': the port after ':' is empty")
    );
    assert!(failure(["-l", ":514", "80", "host"]).contains("host before ':' is empty"));
}

#[test]
fn numbers_out_of_their_range_name_it() {
    let top = "2147483647";
    let rows = [
        ("-b", "0", top),
        ("-T", "0", top),
        ("-t", "1", top),
        ("-c", "1", "16777216"),
        ("-x", "1", "1048576"),
        ("-S", "1", "4096"),
        ("-m", "1", top),
        ("-q", "0", top),
        ("--workers", "1", "64"),
    ];
    for (option, low, high) in rows {
        let below = low.parse::<i64>().unwrap() - 1;
        let above = high.parse::<i64>().unwrap() + 1;
        for value in [
            &*below.to_string(),
            &*above.to_string(),
            "",
            "5x",
            "abc",
            "-4",
            " 5",
            "--",
            "--help",
            "1.5",
        ] {
            let why = failure([option, value, "80", "host"]);
            assert_eq!(
                why,
                format!("{option}: {} is not a number from {low} to {high}", quoted(value))
            );
        }
        for value in [low, high] {
            assert!(
                parse([option, value, "80", "host"].map(OsString::from)).is_ok(),
                "{option} {value}"
            );
        }
    }
}

#[test]
fn tls_needs_a_certificate_and_a_protocol_that_exists() {
    let tls = |arguments: &[&str]| {
        let Ok(Request::Run(launch, notices)) = parse(arguments.iter().map(OsString::from)) else {
            panic!()
        };
        (launch.configuration.tls, notices)
    };
    assert!(!tls(&["-Z", "80", "host"]).0.is_on());
    let (all, notices) =
        tls(&["-E", "e", "-K", "k", "-G", "g", "-A", "a", "-R", "-L", "tls1", "80", "host"]);
    assert!(all.is_on() && all.required && all.tls12);
    assert_eq!(all.key.as_deref(), Some("k".as_ref()));
    assert_eq!(
        (all.ca_file.as_deref(), all.ca_directory.as_deref()),
        (Some("g".as_ref()), Some("a".as_ref()))
    );
    assert!(notices[0].starts_with("-L: TLS 1.0 and 1.1 do not exist here"), "{notices:?}");
    for option in ["-E", "-K", "-G", "-A", "-L"] {
        assert_eq!(
            failure([option]),
            format!("{option}: its value is missing ({})", value_name(option))
        );
    }
    for old in ["ssl2", "ssl3"] {
        assert_eq!(
            failure(["-L", old, "80", "host"]),
            "-L: SSLv3 is not supported; use tls1 or ssl23"
        );
    }
    let why = failure(["-L", "tls1.3", "80", "host"]);
    assert!(
        why.starts_with("-L: protocol version tls1.3 not known; ")
            && why.contains("ssl_option no_tlsv1.2"),
        "{why}"
    );
}

#[test]
fn what_is_not_built_in_says_so() {
    assert_eq!(failure(["80", "host", "-U"]), "-U: not built in yet");
    assert_eq!(failure(["-i", "service"]), "-i: Windows only");
}

fn value_name(name: &str) -> &'static str {
    match OPTIONS.iter().find(|option| option.name() == name).unwrap().value {
        Value::Number(name, ..) | Value::Text(name) | Value::Texts(name) => name,
        Value::Flag | Value::Repeated => panic!("{name} has no value"),
    }
}

#[test]
fn what_is_changed_or_dropped_is_noticed() {
    let Ok(Request::Run(_, notices)) = parse(arguments("-n -P -Q 80 host")) else { panic!() };
    assert!(notices.is_empty());
    let Ok(Request::Run(_, notices)) = parse(arguments("-D -q 49 80 host")) else { panic!() };
    assert_eq!(
        notices,
        ["-D: obsolete, it has no effect", "-q: 49 is too small, the listen backlog is 50"]
    );
    assert_eq!(commands("-q 49 80 host"), ["-q: backlog 50"]);
}

#[test]
fn of_an_option_that_is_given_several_times_the_last_counts_and_that_is_told() {
    let Ok(Request::Run(launch, notices)) =
        parse(arguments("-e a:1 -t 5 -t 5 -e b:2 80 host -x 300 -x 301"))
    else {
        panic!()
    };
    assert_eq!(launch.configuration.emergency.unwrap().to_string(), "b:2");
    assert_eq!(
        notices,
        [
            "-e: given several times; the last counts: 'b:2'",
            "-x: given several times; the last counts: '301'"
        ]
    );
}

#[test]
fn every_usage_error_is_one_line() {
    let rows: &[(&[&str], &str)] = &[
        (&[], "no listen address: give pen [options] [host:]port|/path server [server ...]"),
        (&["-f"], "no listen address: give"),
        (&["80"], "no server: give pen [options] [host:]port|/path server [server ...]"),
        (&["-B", "bad:1", "80"], "no server: give"),
        (&["--debug=1", "80", "host"], "-d: takes no value"),
        (&["80", "host", "-O"], "-O: its value is missing (command)"),
        (&["-F", "", "80", "host"], "-F: its value is empty"),
        (&["", "host"], "listen address '': it is empty"),
        (&["80", ""], "server '': it is empty"),
        (&["80", "host", ""], "server '': it is empty"),
        (&["--nonsense", "80", "host"], "--nonsense: unknown option"),
        (&["--nonsense=1", "80", "host"], "--nonsense: unknown option"),
        (&["--non sense\n"], "'--non sense\\n': unknown option"),
        (&["-k", "80", "host"], "-k: unknown option"),
        (&["-rk", "80", "host"], "-k: unknown option"),
        (&["-4", "80", "host"], "-4: unknown option"),
        (&["-é", "80", "host"], "'-é': unknown option"),
        (&["80", "host", "-b"], "-b: its value is missing (sec)"),
        (&["80", "host", "--timeout"], "-t: its value is missing (sec)"),
        (&["80", "host", "--workers"], "--workers: its value is missing (N)"),
        (&["--foreground=yes", "80", "host"], "-f: takes no value"),
        (&["-u", "", "80", "host"], "-u: its value is empty"),
        (&["-p", "", "80", "host"], "-p: its value is empty"),
        (&["-w", "", "80", "host"], "-w: its value is empty"),
        (&["-j", "", "80", "host"], "-j: its value is empty"),
        (&["-l", "", "80", "host"], "-l: its value is empty"),
        (&["-e", "", "80", "host"], "-e: its value is empty"),
        (&["-e", "host:0", "80"], "-e 'host:0': port: '0' is not a number from 1 to 65535"),
        (&["-B", "::1:80", "80", "host"], "-B '::1:80': an IPv6 address needs brackets"),
        (&["-"], "listen address '-'"),
        (&["80", "a\nb"], "server 'a\\nb'"),
    ];
    for (arguments, start) in rows {
        let why = failure(arguments.iter());
        assert!(why.starts_with(start), "{arguments:?}: {why}");
    }
}

#[test]
fn arguments_that_are_no_utf8_are_errors() {
    let broken = || OsString::from_vec(b"a\xffb".to_vec());
    for option in ["-u", "-e", "-B"] {
        assert_eq!(
            failure([option.into(), broken(), "80".into(), "host".into()]),
            format!("{option}: not valid UTF-8")
        );
    }
    assert!(
        failure(["-b".into(), broken(), "80".into(), "host".into()])
            .contains("is not a number from")
    );
    assert!(
        failure([broken(), "host".into()])
            .starts_with("listen address 'a\u{fffd}b': not valid UTF-8")
    );
    assert!(failure(["80".into(), broken()]).starts_with("server 'a\u{fffd}b': not valid UTF-8"));
    for unknown in
        [b"-\xff".to_vec(), b"--\xff".to_vec(), b"--log\xff=1".to_vec(), b"-f\xff".to_vec()]
    {
        assert!(
            failure([OsString::from_vec(unknown.clone()), "80".into(), "host".into()])
                .contains("unknown option"),
            "{unknown:?}"
        );
    }
    let path = OsString::from_vec(b"/a\xffb".to_vec());
    let Ok(Request::Run(launch, _)) =
        parse(["-p".into(), path.clone(), "80".into(), "host".into()])
    else {
        panic!()
    };
    assert_eq!(launch.pid_file, Some(PathBuf::from(path)));
}

#[test]
fn help_and_version_are_texts() {
    let show = |line| match parse(arguments(line)) {
        Ok(Request::Show(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(show("--version"), format!("pen {}\n", env!("CARGO_PKG_VERSION")));
    let help = show("80 --help");
    for option in OPTIONS {
        assert!(
            help.contains(&option.help()) && help.contains(&format!("--{}", option.long)),
            "{}",
            option.name()
        );
    }
    assert!(help.contains(
        "Usage: pen [options] [host:]port|/path server [server ...]\n       pen [options] -F file\n"
    ));
}

proptest! {
    #[test]
    fn no_arguments_panic(
        known in prop::collection::vec(
            "(-[a-zA-Z]{1,3}|--[a-z-]{0,9}|[0-9a-z:./\\[\\]]{0,12})",
            0..8,
        ),
        raw in prop::collection::vec(any::<Vec<u8>>(), 0..3),
    ) {
        let raw = raw.into_iter().map(OsString::from_vec);
        let arguments = known.into_iter().map(OsString::from).chain(raw);
        if let Err(why) = parse(arguments) {
            prop_assert!(!why.to_string().contains('\n'), "{}", why);
            prop_assert!(!why.what.is_empty() && !why.why.is_empty());
        }
    }
}
