//! The commands of the control port: the reply of each, malformed lines, and settings that only a
//! start can change.

use crate::harness::control::{DEBIAN_PENCTL, PENCTL, run_penctl, text};
use crate::harness::steering::{client, steered};
use crate::harness::{Backend, Pen};

#[test]
fn numbers_are_shown_set_and_shown_again() {
    let server = Backend::named("a");
    let pen = steered([&server]).options(["-x", "500"]).start();
    for (word, default, set) in [
        ("blacklist", "30", "7"),
        ("client_acl", "0", "9"),
        ("clients_max", "2048", "5000"),
        ("conn_max", "500", "600"),
        ("control_acl", "0", "8"),
        ("debug", "0", "1"),
        ("drain_timeout", "0", "600"),
        ("timeout", "5", "3"),
        ("tracking", "0", "60"),
    ] {
        pen.tells(word, default);
        pen.tells(&format!("{word} {set}"), set);
        pen.tells(word, set);
    }
    pen.tells("idle_timeout", "Idle timeout: 0 seconds");
    pen.tells("idle_timeout 5", "Idle timeout: 5 seconds");
    pen.tells("idle_timeout -3", "Idle timeout: 0 seconds");
    pen.tells("idlers", "Idlers: 0/0");
    pen.tells("pending_max", "100");
    pen.tells("pending_max 7", "");
    pen.tells("pending_max", "7");
    // The tables only grow.
    pen.tells("clients_max 10", "clients_max: 10 is below 5000, which is in force: it only grows");
    pen.tells("conn_max 10", "conn_max: 10 is below 600, which is in force: it only grows");
    pen.tells("conn_max", "600");
    pen.tells("close 0", "close: connection 0 is not in use");
    pen.tells("close 600", "Connection 600 out of range");
}

#[test]
fn words_left_over_change_nothing_and_a_switch_can_be_switched_off() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let other = crate::harness::Port::reserve().address();
    for line in [
        "acl 1 deny 127.0.1.0/24 127.0.2.0/24",
        "acl 1 deny 127.0.1.1 127.0.2.1",
        &format!("listen {other} {other}"),
        "pid x",
        "log a b",
        "exit now",
        "no acl 1 2",
        "hash of address",
        "dummy maybe",
        "no dummy on",
    ] {
        let reply = pen.refuses(line);
        assert!(!reply.starts_with("do_cmd"), "{line}: {reply}");
    }
    pen.tells("listen", &pen.address().to_string());
    pen.tells("log # none", "");
    pen.tells("blacklist\t7 # seconds \u{7}", "7");
    pen.tells("hash on", "");
    pen.tells("mode", "hash no roundrobin no stubborn no weight no prio");
    pen.tells("hash off", "");
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
    pen.tells("dummy off", "");
    // With dummy, no server would be used.
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
}

#[test]
fn what_is_malformed_or_out_of_range_is_refused_and_changes_nothing() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let questions = [
        "mode",
        "servers",
        "blacklist",
        "client_acl",
        "clients_max",
        "conn_max",
        "control_acl",
        "debug",
        "drain_timeout",
        "idle_timeout",
        "listen",
        "log",
        "timeout",
        "tracking",
        "web_stats",
        "idlers",
    ];
    let state = || questions.map(|question| pen.tell(question));
    let before = state();
    for line in [
        "blacklist abc",
        "blacklist 5x",
        "blacklist -1",
        "blacklist 99999999999",
        "timeout 0",
        "tracking x",
        "client_acl 10",
        "client_acl -1",
        "control_acl 10",
        "debug x",
        "clients_max 0",
        "conn_max 0",
        "drain_timeout -1",
        "drain_timeout x",
        "idle_timeout x",
        "idlers x",
        "pending_max 0",
        "acl",
        "acl 10 permit 1.2.3.4",
        "acl 1 allow 1.2.3.4",
        "acl 1 permit",
        "acl 1 permit 1.2.3",
        "acl 1 permit 1.2.3.4 255.255",
        "acl 1 permit ::1/129",
        "acl 1 permit 1.2.3.4/33",
        "acl 1 permit country SE",
        "no acl",
        "no acl 10",
        "server",
        "server 0",
        "server 0 max",
        "server 0 max x",
        "server 0 max 5 port 99999",
        "server 0 frob 1",
        "server x max 5",
        "server 5000 max 1",
        "server 17 address 127.0.0.1",
        "server 0 acl 10",
        "listen 0",
        "listen 127.0.0.1:99999",
        "no frob",
        "no",
        "close",
        "close x",
        "source",
        "source 1.2.3",
        "tcp_fastclose sideways",
        "explain",
        "explain x",
        "tarpit_acl 1",
        "dsr_if eth0",
        "dsr_ip 1.2.3.4",
        "peek",
        "include",
        "recent x",
        "connection x",
        "socket",
        "log /no/such/file",
        "web_stats /no/such/file",
        "write /no/such/file",
        "include /no/such/file",
    ] {
        let reply = pen.refuses(line);
        let word = line.split(' ').next().unwrap();
        assert!(reply.contains(word), "{line:?}: {reply:?}");
    }
    assert_eq!(state(), before);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn unknown_words_are_answered_as_scripts_know_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("frob 1 2", "do_cmd: ignoring command starting with 'frob'");
    pen.tells("MODE", "do_cmd: ignoring command starting with 'MODE'; did you mean 'mode'?");
    pen.tells("tcp_fastclose", "do_cmd: ignoring tcp_fastclose without argument");
    for silent in [
        "",
        "# note",
        "block",
        "no block",
        "epoll",
        "poll",
        "select",
        "kqueue",
        "abort_on_error",
        "no delayed_forward",
        "no peek",
    ] {
        pen.tells(silent, "");
    }
}

#[test]
fn modes_are_shown_in_their_order() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
    for mode in ["hash", "roundrobin", "stubborn", "weight", "prio"] {
        pen.tells(mode, "");
    }
    pen.tells("mode", "hash roundrobin stubborn weight prio");
    pen.tells("no roundrobin", "");
    pen.tells("no prio # and a comment", "");
    pen.tells("mode", "hash no roundrobin stubborn weight no prio");
}

#[test]
fn pid_and_control_are_the_supervisors() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("pid", &pen.supervisor().pid().to_string());
    pen.tells("control", &pen.control().to_string());
    pen.tells("listen", &pen.address().to_string());
}

#[test]
fn exit_ends_it_only_if_the_command_line_allows_it() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("exit", "Exit is not enabled; restart with -X flag");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    drop(pen);
    let mut pen = steered([&server]).options(["-X"]).start();
    pen.ends_when(|pen| assert_eq!(pen.tell("exit"), ""));
}

#[test]
fn upgrade_needs_x_as_exit_does() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("upgrade", "Upgrade is not enabled; restart with -X flag");
    assert!(pen.refuses("upgrade now").contains("one word too many"));
    let penctl = run_penctl(PENCTL, [pen.control().to_string().as_str(), "upgrade"], "");
    assert_eq!(penctl.status.code(), Some(2), "{penctl:?}");
    drop(pen);
    let pen = steered([&server]).options(["-X"]).start();
    let (version, pid) = (env!("CARGO_PKG_VERSION"), pen.supervisor().pid());
    let now = format!("pen {version} is now pen {version}, pid {pid}, ");
    pen.tells("upgrade", &(now + "no connection stays with the old workers"));
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn workers_can_be_asked_for_but_not_changed() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("workers", "3");
    assert!(pen.refuses("workers 5").contains("restart"));
    pen.tells("workers", "3");
}

/// The reply to a command without arguments, with its line end; empty: no reply. `None`: other
/// tests check the command.
fn reply_to(pen: &Pen, word: &str) -> Option<String> {
    let usage = |arguments: &str| Some(format!("usage: {word} {arguments}\n"));
    let line = |text: &str| Some(format!("{text}\n"));
    match word {
        "abort_on_error" | "ascii" | "block" | "delayed_forward" | "dummy" | "epoll" | "hash"
        | "keepalive" | "kqueue" | "leastconn" | "log" | "maglev" | "p2c" | "poll" | "prio"
        | "recent" | "roundrobin" | "select" | "stubborn" | "tcp_nodelay" | "weight" => {
            Some(String::new())
        }
        "acl" => usage("N permit|deny ADDRESS [MASK]"),
        "blacklist" => line("30"),
        "client_acl" | "control_acl" | "debug" | "drain_timeout" | "slow_start" | "tracking" => {
            line("0")
        }
        "clients_max" => line("2048"),
        "close" | "socket" => usage("N"),
        "conn_max" => line("256"),
        "connection" => line(
            "Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 0\npend = 0",
        ),
        "control" => line(&pen.control().to_string()),
        "dsr_if" | "dsr_ip" | "tarpit_acl" => {
            line(&format!("{word}: direct server return is not supported"))
        }
        "exit" => line("Exit is not enabled; restart with -X flag"),
        "explain" | "source" => usage("ADDRESS"),
        "idle_timeout" => line("Idle timeout: 0 seconds"),
        "idlers" => line("Idlers: 0/0"),
        "include" => usage("FILE"),
        "listen" => line(&pen.address().to_string()),
        "mode" => line("no hash no roundrobin no stubborn no weight no prio"),
        "pending_max" => line("100"),
        "peek" => line("peek: not supported: it was never finished, clients would hang"),
        "pid" => line(&pen.supervisor().pid().to_string()),
        "server" => usage("N KEY VALUE ..."),
        "tcp_fastclose" => line("do_cmd: ignoring tcp_fastclose without argument"),
        "timeout" => line("5"),
        "upgrade" => line("Upgrade is not enabled; restart with -X flag"),
        "workers" => line("3"),
        "write" => line("write: which file? There is no -F; say write FILE"),
        _ => None,
    }
}

#[test]
fn every_command_alone_replies_as_the_manual_says_to_either_penctl() {
    let server = Backend::named("a");
    let pen = steered([&server]).without_status_file().start();
    for entry in pen_config::command::COMMANDS {
        // The reply to `watch` has no end (`events::watch`).
        for program in [PENCTL, DEBIAN_PENCTL].into_iter().filter(|_| entry.word != "watch") {
            let output = run_penctl(program, [pen.control().to_string().as_str(), entry.word], "");
            let reply = text(&output.stdout);
            // The original exits with status 0 for every reply.
            let told = output.status.code() == Some(0)
                || program == PENCTL && output.status.code() == Some(2);
            assert!(told && output.stderr.is_empty(), "{}: {output:?}", entry.word);
            match reply_to(&pen, entry.word) {
                Some(expected) => assert_eq!(reply, expected, "{}", entry.word),
                None => {
                    assert!(reply.is_empty() || reply.ends_with('\n'), "{}: {reply}", entry.word)
                }
            }
        }
        if entry.negatable {
            let reply = pen.tell(&format!("no {}", entry.word));
            let start = match entry.word {
                "acl" | "server" => format!("usage: no {} N\n", entry.word),
                "servers_from" => "usage: no servers_from NAME\n".to_owned(),
                "control" | "pid_file" => format!("{}: only a start can give this", entry.word),
                "user" if crate::harness::machine::is_root() => {
                    "user: only a start can give this".to_owned()
                }
                _ => String::new(),
            };
            assert!(
                reply.starts_with(&start) && reply.is_empty() == start.is_empty(),
                "no {}: {reply}",
                entry.word
            );
        } else {
            let reply = pen.refuses(&format!("no {}", entry.word));
            let is_setting =
                reply.starts_with(&format!("no: there is no 'no {}'; usage: ", entry.word));
            let is_known =
                reply.starts_with(&format!("no: nothing to switch off is called '{}'", entry.word));
            assert!(is_setting || is_known, "{reply}");
        }
    }
}
