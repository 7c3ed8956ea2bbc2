//! The control port itself: access, the syntax of lines, and that no operator, however badly
//! behaved, disturbs the service.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::harness::control::{Control, DEBIAN_PENCTL, PENCTL, run_penctl, text};
use crate::harness::machine::{NOBODY, is_root};
use crate::harness::{Backend, Client, Pen, Port, SetOnDrop, eventually, needs_root, not_checked};
use rustix::process::Signal;

/// The client of these tests.
const ME: Ipv4Addr = Ipv4Addr::new(127, 21, 0, 1);

fn steered(server: &Backend) -> Pen {
    Pen::builder().server(server).control().start()
}

#[test]
fn a_line_may_come_in_pieces_and_what_follows_is_ignored() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let pid = format!("{}\n", pen.supervisor().pid());
    for bytes in ["pid\n", "pid\r\n", "pid", "  pid \t", "pid\nmode\nexit\n", "pid\n\n\n"] {
        assert_eq!(pen.control().send(bytes), pid, "{bytes:?}");
    }
    let operator = pen.control().connect().unwrap();
    for piece in ["p", "i", "d", "\n"] {
        operator.send(piece);
    }
    assert_eq!(operator.read_to_end().unwrap(), pid.as_bytes());
    assert_eq!(pen.control().send(""), "");
}

#[test]
fn a_line_that_is_too_long_is_an_error() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let pid = format!("{}\n", pen.supervisor().pid());
    assert_eq!(pen.control().send(format!("pid #{}\n", "x".repeat(4090))), pid);
    for bytes in [format!("pid #{}\n", "x".repeat(4091)), "x".repeat(4096), "x".repeat(1_000_000)] {
        assert_eq!(pen.control().send(bytes), "line: longer than 4095 bytes\n");
    }
}

/// Clients that connect again and again while `act` runs. Returns the number of served clients;
/// every client must be served.
fn with_traffic(pen: &Pen, act: impl FnOnce()) -> usize {
    let (over, served, address) = (AtomicBool::new(false), AtomicUsize::new(0), pen.address());
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for n in 0..4 {
            let (over, served) = (&over, &served);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let name = crate::harness::ask(address, Ipv4Addr::new(127, 21, 1, n).into());
                    assert!(name.is_some(), "a client was not served");
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        act();
        // Wait long enough to see that the service continues afterwards.
        let now = served.load(SeqCst);
        eventually("clients are served", || served.load(SeqCst) > now + 100);
        drop(ends);
    });
    served.load(SeqCst)
}

#[test]
fn hostile_operators_harm_nobody() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let served = with_traffic(&pen, || {
        let control = pen.control();
        // Operators that are silent, stop in the middle of a line, send without end, are half-open,
        // or read nothing.
        let silent: Vec<Client> = (0..10).map(|_| control.connect().unwrap()).collect();
        let slow = control.connect().unwrap();
        slow.send("mo");
        let endless = control.connect().unwrap();
        let _ = endless.socket().write_all(&vec![b'x'; 5_000_000]);
        let half = control.connect().unwrap();
        half.send("status\n");
        half.finish();
        let deaf: Vec<Client> = (0..10)
            .map(|_| {
                let operator = control.connect().unwrap();
                operator.send("status\n");
                operator
            })
            .collect();
        pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
        assert!(
            text(&half.read_to_end().unwrap()).ends_with("</html>\n"),
            "a half-closed operator gets its reply"
        );
        slow.send("de\n");
        assert_eq!(
            slow.line().as_deref(),
            Some("no hash no roundrobin no stubborn no weight no prio")
        );
        // Many at once: the oldest are closed, the newest are served.
        let crowd: Vec<Client> = (0..200).map(|_| control.connect().unwrap()).collect();
        pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
        for gone in silent.iter().chain(&crowd[..100]) {
            assert!(gone.read(1).is_ok_and(|bytes| bytes.is_empty()), "an old operator is closed");
        }
        let last = crowd.last().unwrap();
        assert!(!last.has_news(), "a new one is not");
        // Operators that reset their connections.
        for operator in crowd.into_iter().skip(150) {
            operator.reset();
        }
        drop(deaf);
        pen.tells("pid", &pen.supervisor().pid().to_string());
    });
    assert!(served > 100);
}

#[test]
fn who_says_nothing_for_ten_seconds_is_closed() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let silent = pen.control().connect().unwrap();
    let slow = pen.control().connect().unwrap();
    slow.send("exi");
    assert_eq!(silent.read(1).unwrap(), b"");
    assert!(slow.read_to_end().is_ok_and(|bytes| bytes.is_empty()));
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn the_control_access_list_turns_away_without_reading() {
    let server = Backend::named("a");
    let pen = steered(&server);
    pen.tells("acl 5 deny 127.0.0.9", "");
    pen.tells("control_acl 5", "5");
    let Control::Tcp(port) = pen.control() else { panic!() };
    let refused = Client::connect(Ipv4Addr::new(127, 0, 0, 9).into(), port.address()).unwrap();
    match refused.read(1) {
        Ok(bytes) => assert_eq!(bytes, b""),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    pen.hears("127.0.0.9");
    pen.tells("control_acl", "5");
    // An operator cannot lock himself out.
    let why = pen.refuses("acl 5 permit 192.0.2.1");
    assert!(
        why.starts_with(
            "acl: access list 5, which control_acl refers to, would refuse 127.0.0.1, "
        ),
        "{why}"
    );
    pen.tells("control_acl", "5");
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn a_control_socket_is_the_users_and_nobody_elses() {
    let server = Backend::named("a");
    let builder =
        Pen::builder().through(["sh", "-c", "umask 0; exec \"$0\" \"$@\""]).server(&server);
    let path = builder.directory().join("control.sock");
    let mut pen = builder.control_unix(&path).start();
    let there = fs::symlink_metadata(&path).unwrap();
    assert!(there.file_type().is_socket());
    assert!(
        [0o600, 0o660].contains(&(there.permissions().mode() & 0o777)),
        "{:o}",
        there.permissions().mode()
    );
    if is_root() {
        assert_eq!(there.uid(), NOBODY);
    }
    pen.tells("control", path.to_str().unwrap());
    pen.tells("acl 0 deny 0.0.0.0/0", "");
    pen.tells("control_acl", "0");
    let output = run_penctl(PENCTL, [path.to_str().unwrap(), "pid"], "");
    assert_eq!(text(&output.stdout), format!("{}\n", pen.supervisor().pid()));
    pen.end_by(Signal::TERM);
    assert!(!path.exists(), "the socket is removed at the end");
}

#[test]
fn a_stale_control_socket_is_replaced_and_another_file_is_not() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let path = builder.directory().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let pen = builder.control_unix(&path).start();
    pen.tells("control", path.to_str().unwrap());
    drop(pen);
    let builder = Pen::builder().server(&server);
    let path = builder.directory().join("precious");
    fs::write(&path, "precious").unwrap();
    builder.control_unix(&path).fails();
}

#[test]
fn root_has_to_say_as_whom_operators_are_served() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let port = Port::reserve();
    let place = port.address().to_string();
    let output = Pen::builder().server(&server).options(["-C", &place]).fails();
    assert!(text(&output.stderr).contains("-u user"), "{output:?}");
    let pen = Pen::builder().server(&server).options(["-C", &place, "-u", "root"]).start();
    assert_eq!(Control::Tcp(port).tell("pid"), format!("{}\n", pen.supervisor().pid()));
}

#[test]
fn a_port_alone_is_one_of_this_machine_only() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let user: &[&str] = if is_root() { &["-u", "nobody"] } else { &[] };
    let number = port.address().port().to_string();
    let pen = Pen::builder().server(&server).options(["-C", &number]).options(user).start();
    let control = Control::Tcp(port);
    assert_eq!(control.tell("control"), format!("{control}\n"));
    assert!(pen.said().is_empty(), "{}", pen.said());
}

#[test]
fn a_control_port_that_cannot_be_had_stops_the_start() {
    let server = Backend::named("a");
    let user: &[&str] = if is_root() { &["-u", "nobody"] } else { &[] };
    for place in [
        server.operand(),
        "/no/such/directory/socket".into(),
        "192.0.2.1:7".into(),
        "127.0.0.1:0".into(),
    ] {
        Pen::builder().server(&server).options(["-C", &place]).options(user).fails();
    }
}

#[test]
fn the_control_process_is_jailed_and_holds_nothing_of_clients() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).control();
    let jail = crate::harness::machine::directory(builder.directory(), "jail", 0o755, 0);
    let pen = builder.options(["-j", jail.to_str().unwrap()]).start();
    let _held = pen.hold(ME).unwrap();
    let control = pen.control_process();
    assert_eq!(fs::read_link(control.proc("root")).unwrap(), jail);
    for ids in ["Uid", "Gid"] {
        let all: Vec<u32> = control.status(ids).split(' ').map(|id| id.parse().unwrap()).collect();
        assert_eq!(all, [NOBODY; 4], "{ids}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(control.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(control.status("NoNewPrivs"), "1");
    let sockets =
        control.descriptors().iter().filter(|(_, target)| target.starts_with("socket:")).count();
    assert_eq!(sockets, 2, "the channel and the port: {:?}", control.descriptors());
    // A file that an operator names is looked up inside the jail.
    fs::write(jail.join("inside.cfg"), "blacklist 77\n").unwrap();
    pen.tells("include /inside.cfg", "");
    pen.tells("blacklist", "77");
    assert!(pen.tell("include /etc/passwd").starts_with("include: /etc/passwd: no such file"));
}

#[test]
fn what_operators_write_has_the_users_rights() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = steered(&server);
    fs::set_permissions(pen.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let mine = crate::harness::machine::directory(pen.directory(), "mine", 0o755, NOBODY);
    let (secret, victim, link) =
        (pen.directory().join("secret"), pen.directory().join("victim"), mine.join("link"));
    fs::write(&secret, "blacklist 1\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    for word in ["write", "log", "web_stats"] {
        let reply = pen.refuses(&format!("{word} {}", victim.display()));
        assert!(
            reply.starts_with(&format!("{word}: ")) && reply.ends_with("permission denied"),
            "{reply}"
        );
        pen.refuses(&format!("{word} {}", link.display()));
    }
    assert!(pen.refuses(&format!("include {}", secret.display())).ends_with("permission denied"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    pen.tells(&format!("write {}", mine.join("new.cfg").display()), "");
    let made = fs::metadata(mine.join("new.cfg")).unwrap();
    assert_eq!((made.uid(), made.permissions().mode() & 0o022), (NOBODY, 0));
    assert_eq!(fs::read_dir(&mine).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn a_killed_control_process_comes_back_and_service_goes_on() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = steered(&server);
    let (held, _) = pen.hold(ME).unwrap();
    let workers: Vec<i32> = pen.workers().iter().map(crate::harness::Process::pid).collect();
    with_traffic(&pen, || {
        for round in 0..5 {
            let waiting = pen.control().connect().unwrap();
            waiting.send("half a li");
            // All earlier operators are accepted by now.
            pen.tells("pid", &pen.supervisor().pid().to_string());
            let control = pen.control_process();
            control.kill();
            assert!(waiting.read(1).map_or(true, |bytes| bytes.is_empty()));
            eventually("it comes back", || {
                pen.control()
                    .try_tell(&format!("blacklist {round}"))
                    .is_ok_and(|reply| reply == format!("{round}\n").as_bytes())
            });
            assert_ne!(pen.control_process().pid(), control.pid());
        }
    });
    held.echoes("still here");
    let after: Vec<i32> = pen.workers().iter().map(crate::harness::Process::pid).collect();
    assert_eq!(workers, after, "no worker was replaced");
}

#[test]
fn a_control_process_that_hangs_holds_up_nobody() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let mut pen = steered(&server);
    pen.control_process().stop();
    with_traffic(&pen, || {
        pen.supervisor().signal(Signal::HUP);
        pen.report();
    });
    pen.control_process().resume();
    pen.tells("pid", &pen.supervisor().pid().to_string());
    pen.control_process().stop();
    pen.end_by(Signal::TERM);
}

#[test]
fn a_hanging_worker_does_not_keep_an_operator_waiting_for_long() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let workers = pen.workers();
    workers[1].stop();
    pen.tell("roundrobin");
    pen.tells("mode", "no hash roundrobin no stubborn no weight no prio");
    assert!(pen.tell("status").ends_with("</html>\n"));
    workers.iter().for_each(crate::harness::Process::resume);
}

#[test]
fn debians_own_penctl_is_understood() {
    if !Path::new(DEBIAN_PENCTL).exists() {
        not_checked(&format!("it needs {DEBIAN_PENCTL} (package pen)"));
        return;
    }
    let server = Backend::named("a");
    let pen = steered(&server);
    let place = pen.control().to_string();
    let ask = |words: &[&str]| {
        let output = run_penctl(DEBIAN_PENCTL, [&[place.as_str()], words].concat(), "");
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout)
    };
    assert_eq!(ask(&["pid"]), format!("{}\n", pen.supervisor().pid()));
    assert_eq!(ask(&["mode"]), "no hash no roundrobin no stubborn no weight no prio\n");
    assert_eq!(ask(&["roundrobin"]), "");
    assert_eq!(ask(&["blacklist", "12"]), "12\n");
    assert_eq!(ask(&["server", "0", "max", "7"]), "");
    assert!(ask(&["servers"]).contains(" max 7 "));
    assert!(ask(&["status"]).ends_with("</html>\n"));
    assert_eq!(ask(&["frob"]), "do_cmd: ignoring command starting with 'frob'\n");
    assert_eq!(ask(&["exit"]), "Exit is not enabled; restart with -X flag\n");
}

#[test]
fn reports_come_as_json_too() {
    let server = Backend::named("a");
    let pen = steered(&server);
    let (held, _) = pen.hold(ME).unwrap();
    held.echoes("four");
    let place = pen.control().to_string();
    for command in ["servers", "status", "recent", "mode"] {
        let output = run_penctl(PENCTL, ["--json", &place, command], "");
        let reply = text(&output.stdout);
        assert!(output.status.success() && is_json(reply.trim()), "{command}: {reply}");
        let expected = match command {
            "mode" => "roundrobin",
            "recent" => "127.21.0.1",
            _ => "127.0.0.1",
        };
        assert!(reply.contains(expected), "{command}: {reply}");
        assert_eq!(pen.tell(&format!("{command} json")).lines().count(), reply.lines().count());
    }
}

/// Whether a text is one JSON value (RFC 8259).
fn is_json(text: &str) -> bool {
    fn value(text: &str) -> Option<&str> {
        let text = text.trim_start();
        match text.chars().next()? {
            '{' => members(&text[1..], '}', true),
            '[' => members(&text[1..], ']', false),
            '"' => string(text),
            _ => {
                let end = text.find([',', '}', ']', ' ', '\n']).unwrap_or(text.len());
                let word = &text[..end];
                let known =
                    ["true", "false", "null"].contains(&word) || word.parse::<f64>().is_ok();
                known.then(|| &text[end..])
            }
        }
    }
    fn string(text: &str) -> Option<&str> {
        let mut escaped = false;
        for (at, letter) in text.char_indices().skip(1) {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(&text[at + 1..]),
                letter if letter < ' ' => return None,
                _ => {}
            }
        }
        None
    }
    fn members(text: &str, end: char, named: bool) -> Option<&str> {
        let mut text = text.trim_start();
        if let Some(rest) = text.strip_prefix(end) {
            return Some(rest);
        }
        loop {
            if named {
                text = string(text.trim_start().starts_with('"').then_some(text.trim_start())?)?
                    .trim_start()
                    .strip_prefix(':')?;
            }
            text = value(text)?.trim_start();
            if let Some(rest) = text.strip_prefix(end) {
                return Some(rest);
            }
            text = text.strip_prefix(',')?.trim_start();
        }
    }
    value(text).is_some_and(|rest| rest.trim().is_empty())
}
