//! Commands of operators, and the control process that passes them on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use super::{end, fake, has_ids, logs, replaced, steered};
use crate::harness::machine::{NOBODY, is_root};
use crate::harness::{Builder, Pen, Process, eventually, needs_root};

#[test]
fn commands_are_answered_once_every_worker_has_obeyed() {
    let pen = steered("works").start();
    pen.tells("blacklist 17", "17");
    logs(&pen, "settings 1 17", 2);
    pen.tells("pid", &pen.supervisor().pid().to_string());
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
    pen.tells("hash", "");
    pen.tells("mode", "hash no roundrobin no stubborn no weight no prio");
    let server = "addr 127.0.0.1 port 1 conn 0 max 0 hard 0 weight 1 prio 0 sx 0 rx 0";
    pen.tells("servers", &format!("0 {server}"));
    pen.tells("server 2 address 127.0.0.1 port 1", "");
    let gap = "1 addr - port 0 conn 0 max 0 hard 0 weight 0 prio 0 sx 0 rx 0";
    pen.tells("servers", &format!("0 {server}\n{gap}\n2 {server}"));
    let refused = pen.refuses("server 16 max 1");
    let too_large = "number 16 too large, this program was started for 16 servers (-S)";
    assert!(refused.contains(too_large), "{refused}");
    pen.tells("explain 10.0.0.7", "explained 10.0.0.7.[2J");
    pen.tells("clients_max 100000", "100000");
    let kept = "clients_max: 10 is below 100000, which is in force: it only grows";
    pen.tells("clients_max 10", kept);
    pen.tells("close 3", "close: connection 3 is not in use");
    pen.tells("close 256", "Connection 256 out of range");
    pen.tells("conn_max 257", "257");
    pen.tells("close 256", "close: connection 256 is not in use");
    pen.tells("idlers 3", "Idlers: 0/3");
    let connection = pen.tell("connection");
    assert!(connection.starts_with("Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\n"));
    assert!(pen.tell("status").ends_with("</html>\n"));
    let page = fs::read_to_string(pen.directory().join("status.html")).unwrap();
    assert!(page.ends_with("</html>\n"));
    assert!(pen.tell("status json").contains("\"connections_max\":257"));
    assert!(pen.refuses("workers 3").starts_with("workers: there are 2"));
    pen.tells("listen", pen.directory().join("front.sock").to_str().unwrap());
    end(pen);
}

#[test]
fn the_control_port_is_private_and_needs_a_user() {
    if !needs_root() {
        return;
    }
    let pen = steered("works").start();
    let path = pen.directory().join("control.sock");
    let socket = fs::symlink_metadata(&path).unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    let control = control(&pen);
    assert!(has_ids(&control, "Uid", NOBODY), "{}", control.status("Uid"));
    // Standard streams, channel, control port.
    assert_eq!(control.descriptors().len(), 5, "{:?}", control.descriptors());
    end(pen);
    let builder = fake("works").background();
    let said = String::from_utf8(builder.options(["-C", "/no/socket"]).fails().stderr).unwrap();
    assert!(said.contains("add -u user (or -u root)"), "{said}");
    // So does the page.
    for check in [&[][..], &["--check"]] {
        let builder = fake("works").file("page /no/socket\n");
        let said = String::from_utf8(builder.options(check).fails().stderr).unwrap();
        let why = "pen.cfg:1: page: as root, the page needs a user to run as: say user NAME";
        assert!(said.contains(why), "{said}");
    }
}

/// The control process, which is started last.
#[track_caller]
fn control(pen: &Pen) -> Process {
    eventually("there are three children", || pen.supervisor().children().len() == 3);
    pen.supervisor().children().remove(2)
}

#[test]
fn a_dead_control_process_is_replaced_and_nobody_notices() {
    let pen = steered("works").start();
    let workers = pen.supervisor().children();
    for death in ["die", "nonsense", "impossible", ""] {
        let victim = control(&pen);
        match death {
            "" => victim.kill(),
            line => pen.tells(line, ""),
        }
        pen.hears(&format!("the control process (pid {})", victim.pid()));
        // Only when the other one is gone: both use the same socket.
        replaced(&pen, &victim, 3);
        pen.tells("pid", &pen.supervisor().pid().to_string());
    }
    assert!(workers[..2].iter().all(|worker| !worker.gone()));
    end(pen);
}

#[test]
fn a_silent_worker_delays_a_reply_and_no_more() {
    let pen = steered("works").start();
    let worker = pen.supervisor().children().remove(0);
    worker.stop();
    pen.tells("timeout 9", "9");
    let late = format!("(pid {}) has not taken the new settings within 1 s", worker.pid());
    assert!(pen.said().contains(&late), "{}", pen.said());
    assert!(pen.tell("status").contains("did not answer"));
    worker.kill();
    replaced(&pen, &worker, 3);
    pen.tells("timeout", "9");
    end(pen);
}

/// A pen in whose directory the control process may make files.
fn open_to_all(builder: Builder) -> Builder {
    set_mode(builder.directory(), 0o777);
    builder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A path in pen's directory.
fn path(pen: &Pen, name: &str) -> String {
    pen.directory().join(name).display().to_string()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn files_that_operators_name_are_used_through_their_descriptors() {
    let pen = open_to_all(steered("works")).start();
    let [log, page, written] =
        ["other.log", "other.html", "written.cfg"].map(|name| path(&pen, name));
    for (command, file) in [("log", &log), ("web_stats", &page)] {
        pen.tells(&format!("{command} {file}"), file);
        pen.tells(command, file);
    }
    pen.tells("blacklist 5", "5");
    assert_eq!(read(&log).matches("reopened\n").count(), 2);
    assert_eq!(read(&log).matches(" 5\n").count(), 2);
    for _ in 0..2 {
        pen.supervisor().signal(Signal::USR1);
        eventually("a page is written", || read(&page).ends_with("</html>\n"));
    }
    pen.tells(&format!("write {written}"), "");
    let text = read(&written);
    let command_line = format!("\n# pen -f -u nobody -p {}", path(&pen, "pid"));
    let command_line = if is_root() { &command_line } else { "\n# pen -f" };
    assert!(text.starts_with("# Generated by pen ") && text.contains(command_line), "{text}");
    assert!(text.contains("\nblacklist 5\n") && text.contains(&format!("\nlog {log}\n")));
    pen.tells("blacklist 6", "6");
    // HUP opens it again with the operator's rights: a log that only root could make is not made.
    fs::rename(&log, pen.directory().join("old.log")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the log is reopened", || read(&log).matches("reopened\n").count() == 2);
    if is_root() {
        assert_eq!(fs::metadata(&log).unwrap().uid(), NOBODY);
        fs::remove_file(&log).unwrap();
        set_mode(pen.directory(), 0o755);
        pen.supervisor().signal(Signal::HUP);
        pen.hears("other.log: permission denied; lines still go");
        set_mode(pen.directory(), 0o777);
    }
    // The written file can be included again, with the files that it names.
    pen.tells("no log", "");
    pen.tells("no web_stats", "");
    pen.tells(&format!("include {written}"), "");
    pen.tells("blacklist", "5");
    pen.tells("log", &log);
    pen.tells("web_stats", &page);
    end(pen);
}

/// Writes a file that any user may read.
fn write_open(pen: &Pen, name: &str, text: &str) -> String {
    let path = path(pen, name);
    fs::write(&path, text).unwrap();
    set_mode(Path::new(&path), 0o644);
    path
}

#[test]
fn an_operators_file_is_read_with_what_it_includes_or_changes_nothing() {
    let mut pen = open_to_all(steered("works")).start();
    let include = |file: &str| pen.tell(&format!("include {file}"));
    let included_log = path(&pen, "b.log");
    write_open(&pen, "b.cfg", &format!("timeout 8\nlog {included_log}\n"));
    assert_eq!(include(&write_open(&pen, "a.cfg", "blacklist 7\ninclude b.cfg\nhash\n")), "");
    pen.tells("blacklist", "7");
    pen.tells("timeout", "8");
    eventually("the log is opened", || read(&included_log).contains("reopened\n"));
    // A file of commands that cannot take effect leaves nothing behind: no log, no socket, no page.
    let [log, page, socket] = ["c.log", "c.html", "c.sock"].map(|name| path(&pen, name));
    for bad in [
        "server 99 address 127.0.0.1",
        "exit",
        "workers 9",
        "server 1 address 127.0.0.1 port no-such-service",
    ] {
        let text = format!("log {log}\nweb_stats {page}\nlisten {socket}\nblacklist 9\n{bad}\n");
        let file = write_open(&pen, "c.cfg", &text);
        let reply = include(&file);
        assert!(reply.starts_with(&format!("include: {file}:5: ")), "{reply}");
        assert_eq!(reply.lines().count(), 1, "{reply}");
        for left in [&log, &page, &socket] {
            assert!(!Path::new(left).exists(), "{bad}: {left} is left");
        }
    }
    let text = format!("web_stats {page}\nlisten {socket}\nlog /no/such/log\n");
    let file = write_open(&pen, "c.cfg", &text);
    let reply = include(&file);
    assert!(reply.starts_with(&format!("include: {file}:3: log: ")), "{reply}");
    assert!(reply.contains("no such file"), "{reply}");
    pen.tells("blacklist", "7");
    let file = write_open(&pen, "c.cfg", &format!("web_stats {page}\nlisten {socket}\n"));
    assert_eq!(include(&file), "");
    pen.tells("web_stats", &page);
    pen.tells("listen", &socket);
    UnixStream::connect(&socket).unwrap();
    let looping = write_open(&pen, "loop.cfg", "include loop.cfg\n");
    let too_deep =
        format!("include: {looping}:1: {looping}: not included: more than 16 files deep\n");
    assert_eq!(include(&looping), too_deep);
    assert_eq!(include("no/such"), "include: /no/such: no such file or directory\n");
    let fifo = path(&pen, "fifo");
    mkfifoat(CWD, &fifo, Mode::RWXU | Mode::RWXG | Mode::RWXO).unwrap();
    assert!(include(&fifo).ends_with("fifo: not a regular file\n"));
    pen.end_by(Signal::TERM);
    assert!(!Path::new(&socket).exists());
}

#[test]
fn an_operator_can_listen_where_the_operator_may_make_a_socket() {
    let mut builder = steered("works");
    let jail = builder.directory().join("jail");
    fs::create_dir(&jail).unwrap();
    if is_root() {
        builder = builder.options(["-j", jail.to_str().unwrap()]);
    }
    let mut pen = builder.start();
    // The path as an operator names it.
    let named = |name: &str| {
        if is_root() { format!("/{name}") } else { jail.join(name).display().to_string() }
    };
    let reply = pen.refuses(&format!("listen {}", named("no/sock")));
    assert!(reply.starts_with("listen: "), "{reply}");
    assert!(reply.contains("no such file or directory"), "{reply}");
    if is_root() {
        let reply = pen.refuses("listen /sock");
        assert!(reply.contains("permission denied"), "{reply}");
        std::os::unix::fs::chown(&jail, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    for name in ["first", "second"] {
        pen.tells(&format!("listen {}", named(name)), &named(name));
        UnixStream::connect(jail.join(name)).unwrap();
    }
    eventually("the others end", || {
        !pen.directory().join("front.sock").exists() && !jail.join("first").exists()
    });
    pen.end_by(Signal::TERM);
    assert!(!jail.join("second").exists());
}

#[test]
fn exit_needs_permission() {
    let pen = steered("works").start();
    pen.tells("exit", "Exit is not enabled; restart with -X flag");
    end(pen);
    let mut pen = steered("works").options(["-X"]).start();
    pen.ends_when(|pen| pen.tells("exit", ""));
    assert!(!pen.directory().join("control.sock").exists());
}
