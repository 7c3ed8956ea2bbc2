//! Tests of commands, the configuration file and HUP from outside.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{NOBODY, Pen, Running, children, descriptors, field, is_root, wait_for};

pub const TESTS: &[(&str, fn())] = crate::tests![
    commands_are_answered_once_every_worker_has_obeyed,
    the_control_port_is_private_and_needs_a_user,
    a_dead_control_process_is_replaced_and_nobody_notices,
    a_silent_worker_delays_a_reply_and_no_more,
    the_file_is_read_at_the_start_and_again_all_or_nothing,
    a_check_says_everything_and_does_nothing,
    files_that_operators_name_are_used_through_their_descriptors,
    an_operators_file_is_read_with_what_it_includes_or_changes_nothing,
    the_listener_moves,
    a_thousand_reloads_leave_nothing_behind,
    an_operator_can_listen_where_the_operator_may_make_a_socket,
    exit_needs_permission,
];

/// A pen with a control port, whose process has no rights of root.
fn steered() -> Pen {
    let pen = Pen::new("works");
    let path = pen.path("control.sock").display().to_string();
    let pen = pen.with("control", path);
    if nix::unistd::geteuid().is_root() { pen.with("user", "nobody") } else { pen }
}

pub fn ask(pen: &Running, line: &str) -> String {
    let mut stream = UnixStream::connect(pen.pen.path("control.sock")).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn end(mut pen: Running) {
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert!(!pen.pen.path("control.sock").exists() && !pen.pen.path("front.sock").exists());
}

fn commands_are_answered_once_every_worker_has_obeyed() {
    let pen = steered().foreground();
    assert_eq!(ask(&pen, "blacklist 17"), "17\n");
    assert_eq!(pen.pen.read("pen.log").matches("settings 1 17\n").count(), 2);
    assert_eq!(ask(&pen, "pid"), format!("{}\n", pen.pid()));
    assert_eq!(ask(&pen, "mode"), "no hash no roundrobin no stubborn no weight no prio\n");
    assert_eq!(ask(&pen, "hash"), "");
    assert_eq!(ask(&pen, "mode"), "hash no roundrobin no stubborn no weight no prio\n");
    let server = "addr 127.0.0.1 port 1 conn 0 max 0 hard 0 weight 1 prio 0 sx 0 rx 0";
    assert_eq!(ask(&pen, "servers"), format!("0 {server}\n"));
    assert_eq!(ask(&pen, "server 2 address 127.0.0.1 port 1"), "");
    let gap = "1 addr - port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0";
    assert_eq!(ask(&pen, "servers"), format!("0 {server}\n{gap}\n2 {server}\n"));
    assert!(
        ask(&pen, "server 16 max 1")
            .contains("number 16 too large, this program was started for 16 servers (-S)")
    );
    assert_eq!(ask(&pen, "explain 10.0.0.7"), "explained 10.0.0.7.[2J\n");
    assert_eq!(ask(&pen, "clients_max 100000"), "100000\n");
    let kept = "clients_max: 10 is below 100000, which is in force: it only grows\n";
    assert_eq!(ask(&pen, "clients_max 10"), kept);
    assert_eq!(ask(&pen, "close 3"), "close: connection 3 is not in use\n");
    assert_eq!(ask(&pen, "close 256"), "Connection 256 out of range\n");
    assert_eq!(ask(&pen, "conn_max 257"), "257\n");
    assert_eq!(ask(&pen, "close 256"), "close: connection 256 is not in use\n");
    assert_eq!(ask(&pen, "idlers 3"), "Idlers: 0/3\n");
    assert!(
        ask(&pen, "connection").starts_with("Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\n")
    );
    assert!(ask(&pen, "status").ends_with("</html>\n"));
    assert!(pen.pen.read("status.html").ends_with("</html>\n"));
    assert!(ask(&pen, "status json").contains("\"connections_max\":257"));
    assert!(ask(&pen, "workers 3").starts_with("workers: there are 2"));
    assert_eq!(ask(&pen, "listen"), format!("{}\n", pen.pen.path("front.sock").display()));
    end(pen);
}

fn the_control_port_is_private_and_needs_a_user() {
    if !is_root() {
        return;
    }
    let pen = steered().foreground();
    let socket = fs::symlink_metadata(pen.pen.path("control.sock")).unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    let newest = pen.workers().into_iter().max_by_key(|pid| pid.as_raw()).unwrap();
    assert!(field(newest, "Uid").unwrap().split_whitespace().all(|id| id == NOBODY.to_string()));
    // Standard streams, channel, control port.
    assert_eq!(descriptors(newest).len(), 5, "{:?}", descriptors(newest));
    end(pen);
    let output = steered().without("user").background();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("add -u user (or -u root)"));
}

/// The control process, which is started last.
fn control(pen: &Running) -> Pid {
    let newest = || children(pen.pid()).into_iter().max_by_key(|pid| pid.as_raw());
    wait_for("three children", || children(pen.pid()).len() == 3);
    newest().unwrap()
}

fn a_dead_control_process_is_replaced_and_nobody_notices() {
    let pen = steered().foreground();
    let workers = pen.workers();
    let mut victim = control(&pen);
    for death in ["die", "nonsense", "impossible", ""] {
        match death {
            "" => kill(victim, Signal::SIGKILL).unwrap(),
            line => assert_eq!(ask(&pen, line), ""),
        }
        wait_for("a message", || {
            pen.errors().contains(&format!("the control process (pid {victim})"))
        });
        // Only when the other one is gone: both use the same socket.
        wait_for("a replacement", || {
            !children(pen.pid()).contains(&victim) && children(pen.pid()).len() == 3
        });
        assert_eq!(ask(&pen, "pid"), format!("{}\n", pen.pid()));
        victim = control(&pen);
    }
    assert_eq!(pen.workers().iter().filter(|worker| workers.contains(worker)).count(), 2);
    end(pen);
}

fn a_silent_worker_delays_a_reply_and_no_more() {
    let pen = steered().foreground();
    let worker = pen.workers()[0];
    kill(worker, Signal::SIGSTOP).unwrap();
    assert_eq!(ask(&pen, "timeout 9"), "9\n");
    assert!(
        pen.errors().contains(&format!("(pid {worker}) has not taken the new settings within 1 s"))
    );
    assert!(ask(&pen, "status").contains("did not answer"));
    kill(worker, Signal::SIGKILL).unwrap();
    wait_for("a replacement", || {
        children(pen.pid()).len() == 3 && !pen.workers().contains(&worker)
    });
    assert_eq!(ask(&pen, "timeout"), "9\n");
    end(pen);
}

fn the_file_is_read_at_the_start_and_again_all_or_nothing() {
    let pen = steered();
    let config = pen.path("pen.cfg");
    fs::write(&config, "blacklist 11\nacl 3 permit 10.0.0.1\ninclude more.cfg\n").unwrap();
    fs::write(pen.path("more.cfg"), "timeout 4\nserver 1 address localhost port 2\n").unwrap();
    let pen = pen.with("config", config.display()).foreground();
    assert_eq!((ask(&pen, "blacklist"), ask(&pen, "timeout")), ("11\n".into(), "4\n".into()));
    assert!(ask(&pen, "servers").contains("\n1 addr "));
    ask(&pen, "tracking 77");
    fs::write(&config, "blacklist 12\nacl 3 permit 10.0.0.2\n").unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("the new file", || ask(&pen, "blacklist") == "12\n");
    // Settings that the file does not mention stay.
    assert_eq!((ask(&pen, "timeout"), ask(&pen, "tracking")), ("4\n".into(), "77\n".into()));
    fs::write(&config, "blacklist 13\nnonsense\ntimeout x\n").unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("a message", || pen.errors().contains("the configuration file is not used"));
    assert!(pen.errors().contains("pen.cfg:2: ") && pen.errors().contains("pen.cfg:3: "));
    fs::write(&config, "blacklist 13\nserver 1 address no-such-name.invalid\n").unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("a message", || pen.errors().contains("cannot resolve no-such-name.invalid"));
    fs::remove_file(&config).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("a message", || pen.errors().contains("pen.cfg: no such file or directory"));
    assert_eq!(ask(&pen, "blacklist"), "12\n");
    end(pen);
    let pen = steered();
    fs::write(pen.path("bad.cfg"), "x\nhash\ny\n").unwrap();
    let config = pen.path("bad.cfg").display().to_string();
    let output = pen.with("config", &config).background();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with(&format!("pen: {config}:1: ")), "{errors}");
    assert!(lines[1].starts_with(&format!("pen: {config}:3: ")), "{errors}");
}

fn a_check_says_everything_and_does_nothing() {
    let pen = steered().with("check", "yes");
    fs::write(pen.path("pen.cfg"), "blacklist 11\n").unwrap();
    let before: Vec<_> = fs::read_dir(pen.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let config = pen.path("pen.cfg");
    let pen = pen.with("config", config.display());
    let output = pen.background();
    assert_eq!(
        (output.status.code(), &*output.stdout, &*output.stderr),
        (Some(0), &b"ok\n"[..], &b""[..])
    );
    assert_eq!(fs::read_dir(pen.directory.path()).unwrap().count(), before.len());
    fs::write(&config, "a\nb\n").unwrap();
    let output = pen.background();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 2);
}

fn files_that_operators_name_are_used_through_their_descriptors() {
    let pen = steered();
    // A directory in which the control process may make files.
    fs::set_permissions(pen.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let pen = pen.foreground();
    let at = |name: &str| pen.pen.path(name).display().to_string();
    for (command, file) in [("log", "other.log"), ("web_stats", "other.html")] {
        assert_eq!(ask(&pen, &format!("{command} {}", at(file))), format!("{}\n", at(file)));
        assert_eq!(ask(&pen, command), format!("{}\n", at(file)));
    }
    assert_eq!(ask(&pen, "blacklist 5"), "5\n");
    assert_eq!(pen.pen.read("other.log").matches("reopened\n").count(), 2);
    assert_eq!(pen.pen.read("other.log").matches(" 5\n").count(), 2);
    for _ in 0..2 {
        pen.signal(Signal::SIGUSR1);
        wait_for("a page", || pen.pen.read("other.html").ends_with("</html>\n"));
    }
    assert_eq!(ask(&pen, &format!("write {}", at("written.cfg"))), "");
    let written = pen.pen.read("written.cfg");
    assert!(
        written.starts_with("# Generated by pen ") && written.contains("\n# pen of the tests\n"),
        "{written}"
    );
    assert!(
        written.contains("\nblacklist 5\n")
            && written.contains(&format!("\nlog {}\n", at("other.log")))
    );
    assert_eq!(ask(&pen, "blacklist 6"), "6\n");
    // HUP opens it again with the operator's rights: a log that only root could make is not made.
    fs::rename(pen.pen.path("other.log"), pen.pen.path("old.log")).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("the log", || pen.pen.read("other.log").matches("reopened\n").count() == 2);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(fs::metadata(pen.pen.path("other.log")).unwrap().uid(), NOBODY);
        fs::remove_file(pen.pen.path("other.log")).unwrap();
        fs::set_permissions(pen.pen.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        pen.signal(Signal::SIGHUP);
        wait_for("a message", || {
            pen.errors().contains("other.log: permission denied; lines still go")
        });
    }
    fs::set_permissions(pen.pen.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // The written file can be included again, with the files that it names.
    assert_eq!(ask(&pen, "no log"), "");
    assert_eq!(ask(&pen, "no web_stats"), "");
    assert_eq!(ask(&pen, &format!("include {}", at("written.cfg"))), "");
    assert_eq!(ask(&pen, "blacklist"), "5\n");
    assert_eq!(
        (ask(&pen, "log"), ask(&pen, "web_stats")),
        (at("other.log") + "\n", at("other.html") + "\n")
    );
    end(pen);
}

/// A file that any user may read.
fn open_file(pen: &Running, name: &str, text: &str) -> String {
    let path = pen.pen.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

fn an_operators_file_is_read_with_what_it_includes_or_changes_nothing() {
    let pen = steered().foreground();
    fs::set_permissions(pen.pen.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let at = |name: &str| pen.pen.path(name).display().to_string();
    open_file(&pen, "b.cfg", &format!("timeout 8\nlog {}\n", at("b.log")));
    let a = open_file(&pen, "a.cfg", "blacklist 7\ninclude b.cfg\nhash\n");
    assert_eq!(ask(&pen, &format!("include {a}")), "");
    assert_eq!((ask(&pen, "blacklist"), ask(&pen, "timeout")), ("7\n".into(), "8\n".into()));
    wait_for("the log", || pen.pen.read("b.log").contains("reopened\n"));
    // A file of commands that cannot take effect leaves nothing behind: no log, no socket, no page.
    let (log, page, socket) = (at("c.log"), at("c.html"), at("c.sock"));
    for bad in [
        "server 99 address 127.0.0.1",
        "exit",
        "workers 9",
        "server 1 address 127.0.0.1 port no-such-service",
    ] {
        let text = format!("log {log}\nweb_stats {page}\nlisten {socket}\nblacklist 9\n{bad}\n");
        let c = open_file(&pen, "c.cfg", &text);
        let reply = ask(&pen, &format!("include {c}"));
        assert!(
            reply.starts_with(&format!("include: {c}:5: ")) && reply.lines().count() == 1,
            "{reply}"
        );
        for left in [&log, &page, &socket] {
            assert!(!std::path::Path::new(left).exists(), "{bad}: {left} is left");
        }
    }
    let c =
        open_file(&pen, "c.cfg", &format!("web_stats {page}\nlisten {socket}\nlog /no/such/log\n"));
    let reply = ask(&pen, &format!("include {c}"));
    assert!(
        reply.starts_with(&format!("include: {c}:3: log: ")) && reply.contains("no such file"),
        "{reply}"
    );
    assert_eq!(ask(&pen, "blacklist"), "7\n");
    open_file(&pen, "c.cfg", &format!("web_stats {page}\nlisten {socket}\n"));
    assert_eq!(ask(&pen, &format!("include {c}")), "");
    assert_eq!((ask(&pen, "web_stats"), ask(&pen, "listen")), (page + "\n", socket.clone() + "\n"));
    UnixStream::connect(&socket).unwrap();
    let looping = open_file(&pen, "loop.cfg", "include loop.cfg\n");
    let reply = ask(&pen, &format!("include {looping}"));
    assert_eq!(
        reply,
        format!("include: {looping}:1: {looping}: not included: more than 16 files deep\n")
    );
    assert_eq!(ask(&pen, "include no/such"), "include: /no/such: no such file or directory\n");
    let fifo = pen.pen.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::all()).unwrap();
    assert!(
        ask(&pen, &format!("include {}", fifo.display())).ends_with("fifo: not a regular file\n")
    );
    let mut pen = pen;
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert!(!std::path::Path::new(&socket).exists());
}

fn the_listener_moves() {
    let pen = steered();
    let config = pen.path("pen.cfg");
    fs::write(&config, "").unwrap();
    let pen = pen.with("config", config.display()).foreground();
    let (old, new) = (pen.pen.path("front.sock"), pen.pen.path("new.sock"));
    UnixStream::connect(&old).unwrap();
    fs::write(&config, format!("listen {}\n", new.display())).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("the new listener", || UnixStream::connect(&new).is_ok());
    wait_for("the end of the old one", || !old.exists());
    assert_eq!(pen.pen.read("pen.log").matches("listening\n").count(), 2);
    assert_eq!(ask(&pen, "listen"), format!("{}\n", new.display()));
    // An unchanged file changes nothing.
    pen.signal(Signal::SIGHUP);
    wait_for("the reload", || pen.pen.read("pen.log").matches("settings 2 ").count() == 2);
    assert_eq!(pen.pen.read("pen.log").matches("listening\n").count(), 2);
    fs::write(&config, "listen /no/such/directory/sock\n").unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("a message", || pen.errors().contains("cannot listen on /no/such/directory/sock"));
    assert!(new.exists());
    // Through the control port, only an operator's rights apply.
    assert!(ask(&pen, "listen 80").contains("privileged"));
    end(pen);
    let pen = steered().foreground();

    end(pen);
}

fn an_operator_can_listen_where_the_operator_may_make_a_socket() {
    let pen = steered();
    let jail = pen.path("jail");
    fs::create_dir(&jail).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let pen = if root { pen.with("jail", jail.display()) } else { pen };
    let pen = pen.foreground();
    // The path as an operator names it.
    let named =
        |name: &str| if root { format!("/{name}") } else { jail.join(name).display().to_string() };
    let reply = ask(&pen, &format!("listen {}", named("no/sock")));
    assert!(
        reply.starts_with("listen: ") && reply.contains("no such file or directory"),
        "{reply}"
    );
    if root {
        let reply = ask(&pen, "listen /sock");
        assert!(reply.contains("permission denied"), "{reply}");
        std::os::unix::fs::chown(&jail, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    for name in ["first", "second"] {
        assert_eq!(ask(&pen, &format!("listen {}", named(name))), format!("{}\n", named(name)));
        UnixStream::connect(jail.join(name)).unwrap();
    }
    wait_for("the end of the others", || {
        !pen.pen.path("front.sock").exists() && !jail.join("first").exists()
    });
    let second = jail.join("second");
    end(pen);
    assert!(!second.exists());
}

fn a_thousand_reloads_leave_nothing_behind() {
    let pen = steered();
    let config = pen.path("pen.cfg");
    fs::write(&config, "acl 1 permit 10.0.0.1\nserver 0 address localhost\nblacklist 1\n").unwrap();
    let pen = pen.with("config", config.display()).foreground();
    let reload = |round: u32| {
        let mut text = format!("acl 1 permit 10.0.0.1\nblacklist {round}\n");
        // Names need a resolver process.
        if round.is_multiple_of(50) {
            text += "server 0 address localhost\n";
        }
        let temporary = pen.pen.path("next.cfg");
        fs::write(&temporary, text).unwrap();
        fs::rename(&temporary, &config).unwrap();
        pen.signal(Signal::SIGHUP);
        wait_for("a reload", || ask(&pen, "blacklist") == format!("{round}\n"));
    };
    let memory = || -> u64 {
        let resident = field(pen.pid(), "RssAnon").unwrap();
        resident.trim_end_matches(" kB").trim().parse().unwrap()
    };
    (1..=50).for_each(reload);
    let before = (descriptors(pen.pid()).len(), memory());
    (51..=1000).for_each(reload);
    wait_for("the old number of descriptors", || descriptors(pen.pid()).len() <= before.0);
    assert!(memory() <= before.1 + 256, "{} KiB after {} KiB", memory(), before.1);
    for worker in pen.workers() {
        assert!(descriptors(worker).len() <= 8, "{:?}", descriptors(worker));
    }
    end(pen);
}

fn exit_needs_permission() {
    let pen = steered().foreground();
    assert_eq!(ask(&pen, "exit"), "Exit is not enabled; restart with -X flag\n");
    end(pen);
    let mut pen = steered().with("exit", "yes").foreground();
    assert_eq!(ask(&pen, "exit"), "");
    assert_eq!(pen.wait(), Some(0));
    assert!(!pen.pen.path("control.sock").exists());
}
