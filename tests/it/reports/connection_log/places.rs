//! Where the connection log goes: files that are rotated, full or slow, syslog, a log host; and
//! what commands say of it.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use serde_json::Value;

use super::{entries, lines, logging};
use crate::harness::{
    Backend, PATIENCE, Pen, SetOnDrop, eventually, machine, needs_root, steering,
};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 84, 0, number)
}

#[test]
fn hup_reopens_the_log_and_no_line_is_lost_or_doubled_under_load() {
    const ROTATIONS: usize = 15;
    let server = Backend::named("a");
    let (builder, log) = logging(Pen::builder().server(&server));
    let mut pen = builder.start();
    let over = AtomicBool::new(false);
    let address = pen.address();
    let mut expected: Vec<u16> = thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        let crowd: Vec<_> = (0..4)
            .map(|n| {
                let over = &over;
                scope.spawn(move || {
                    let mut ports = Vec::new();
                    while !over.load(SeqCst) {
                        let client =
                            crate::harness::Client::connect(client(n).into(), address).unwrap();
                        let from = client.socket().local_addr().unwrap();
                        ports.push(from.as_socket().unwrap().port());
                        client.echoes_after_greeting("hello");
                        client.finish();
                        client.read_to_end().unwrap();
                    }
                    ports
                })
            })
            .collect();
        for n in 1..=ROTATIONS {
            fs::rename(&log, log.with_extension(n.to_string())).unwrap();
            pen.supervisor().signal(Signal::HUP);
            eventually("the log is there again", || log.exists());
            let is_used = || fs::metadata(&log).is_ok_and(|file| file.len() > 2000);
            eventually("and used", is_used);
        }
        drop(ends);
        crowd.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    pen.end_by(Signal::TERM);
    let mut found = Vec::new();
    for n in 0..=ROTATIONS {
        let path = if n == 0 { log.clone() } else { log.with_extension(n.to_string()) };
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{}", path.display());
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["end"], &line["bytes_sent"]), (&"client".into(), &8.into()));
            found.push(u16::try_from(line["client_port"].as_u64().unwrap()).unwrap());
        }
    }
    expected.sort_unstable();
    found.sort_unstable();
    assert!(found == expected, "{} connections, {} lines", expected.len(), found.len());
}

#[test]
fn a_full_disk_costs_lines_which_are_counted_and_nothing_else() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder();
    let disk = machine::directory(builder.directory(), "disk", 0o755, 0);
    let script = "set -e; mount -t tmpfs -o size=24k none $DISK; \
        head -c 8192 /dev/zero >$DISK/other; exec \"$0\" \"$@\"";
    let setting = format!("DISK={}", disk.display());
    let log = disk.join("log");
    let command = format!("connection_log {}", log.display());
    let pen = builder
        .through(["env", &setting, "unshare", "--mount", "sh", "-c", script])
        .options(["-u", "root", "-O", &command])
        .server(&server)
        .control()
        .start();
    for n in 0..200 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    pen.hears("connection log lines were lost: no space left on device");
    // All workers have reported: what was written and what was lost is all.
    let counters = || -> Value {
        serde_json::from_str::<Value>(&pen.tell("status json")).unwrap()["counters"].clone()
    };
    eventually("each line is accounted for", || {
        let counters = counters();
        let number = |name: &str| counters[name].as_u64().unwrap();
        number("connection_log_lines") + number("connection_log_lost") == 200
            && number("log_lost") == 0
    });
    let seen = pen.supervisor().proc("root").join(log.strip_prefix("/").unwrap());
    let mut sums = (0, 0);
    let all = || {
        let text = fs::read_to_string(&seen).unwrap();
        let whole = text.lines().filter(|line| line.ends_with(" tls=-")).count() as u64;
        let counters = counters();
        sums = (whole, counters["connection_log_lost"].as_u64().unwrap());
        // A line may lack nothing but its line end.
        let written = counters["connection_log_lines"].as_u64().unwrap();
        sums.0 + sums.1 >= 200 && (written..=written + 1).contains(&whole)
    };
    let is_so = crate::harness::wait::within(PATIENCE, all);
    assert!(is_so, "{sums:?} were written and lost");
    // There is room again. The torn line is ended, also if no connection ends.
    let text = || fs::read_to_string(&seen).unwrap();
    fs::remove_file(seen.with_file_name("other")).unwrap();
    eventually("no line is torn any more", || text().ends_with('\n'));
    let before = sums.0;
    for n in 0..20 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    let whole = || text().lines().filter(|line| line.ends_with(" tls=-")).count() as u64;
    eventually("later lines are written", || whole() == before + 20);
    let is_glued = |line: &&str| line.matches(" client=").count() > 1;
    assert_eq!(text().lines().find(is_glued), None);
    // Each worker says it at most once a second, however long all of this took. The first second
    // has begun.
    let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
    let most = 3 * (status["uptime"].as_u64().unwrap() + 2);
    let times = pen.said().matches("connection log lines were lost").count() as u64;
    assert!(times <= most, "said {times} times, and not for every line: {}", pen.said());
}

#[test]
fn a_fifo_that_nobody_empties_stops_no_traffic() {
    let server = Backend::named("a");
    let builder = Pen::builder().workers(1);
    let path = builder.directory().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut reader: fs::File = rustix::fs::open(&path, flags, Mode::empty()).unwrap().into();
    let command = format!("connection_log {}", path.display());
    let pen = builder.options(["-O", &command]).server(&server).start();
    // More than a pipe and a worker hold together.
    let mut asked = 0;
    eventually("lines are lost", || {
        for _ in 0..100 {
            assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
        }
        asked += 100;
        pen.said().contains("connection log lines were lost")
    });
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let whole = |line: &str| line.ends_with(" tls=-");
    assert!(text.ends_with('\n') && text.lines().all(whole), "each line is whole");
    assert!(text.lines().count() < asked);
}

#[test]
fn a_log_host_gets_syslog_messages() {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = receiver.local_addr().unwrap();
    let server = Backend::named("a");
    let options = ["-O", &format!("connection_log {to}"), "-O", "connection_log_format json"]
        .map(str::to_owned);
    let pen = Pen::builder().options(options).server(&server).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    let mut buffer = [0; 2048];
    let length = receiver.recv(&mut buffer).unwrap();
    let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
    assert!(message.starts_with("<14>") && message.contains(" pen["), "{message}");
    let (_, json) = message.split_once("]: ").unwrap();
    let line: Value = serde_json::from_str(json).unwrap();
    assert_eq!(line["client"], "127.84.0.1");
}

#[test]
fn the_syslog_daemon_gets_all_lines_also_if_it_is_restarted() {
    if !needs_root() {
        return;
    }
    let builder = Pen::builder().workers(1).options(["-u", "root"]);
    let dev = machine::directory(builder.directory(), "dev", 0o755, 0);
    let script = "set -e; for n in null zero random urandom; do touch $DEV/$n; mount --bind \
        /dev/$n $DEV/$n; done; mount --bind $DEV /dev; exec \"$0\" \"$@\"";
    let server = Backend::named("a");
    let pen = builder
        .env("DEV", &dev)
        .through(["unshare", "--mount", "sh", "-c", script])
        .options(["-O", "connection_log syslog", "-O", "connection_log_format haproxy"])
        .server(&server)
        .start();
    let path = dev.join("log");
    let times = |text: &str| pen.said().matches(text).count();
    for (news, n) in [(1, 1), (2, 3)] {
        // There is no daemon, or none any more. The first lines may still reach the socket of the
        // last one: a child that another test forks has it until it executes its program.
        eventually("that is said", || {
            assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
            times("there is no syslog daemon at /dev/log") == news
        });
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        eventually("that too", || times("the syslog daemon is there again") == news);
        assert_eq!(pen.ask(client(n + 1)).as_deref(), Some("a"));
        let mut kept = 0;
        loop {
            let mut buffer = [0; 2048];
            let length = daemon.recv(&mut buffer).unwrap();
            let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
            assert!(line.starts_with("<14>") && line.contains(" pen["), "{line}");
            if line.contains(&format!("]: 127.84.0.{}:", n + 1)) {
                break;
            }
            assert!(line.contains(&format!("]: 127.84.0.{n}:")), "{line}");
            kept += 1;
        }
        assert!(kept > 0, "lines wait for a daemon");
        drop(daemon);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn an_operator_turns_it_on_and_off_and_hup_opens_that_file_too() {
    let server = Backend::named("a");
    let pen = Pen::builder().by_nobody().server(&server).control().start();
    let directory = steering::open_directory(&pen);
    let log = directory.join("log");
    let path = log.display().to_string();
    assert_eq!(pen.tell("connection_log"), "");
    assert_eq!(pen.tell("show connection_log"), "no connection_log\n");
    assert_eq!(pen.tell("connection_log_format"), "connection_log_format text\n");
    assert_eq!(pen.tell("connection_log_format json"), "");
    assert_eq!(pen.tell(&format!("connection_log {path}")), format!("{path}\n"));
    assert_eq!(pen.tell("connection_log"), format!("{path}\n"));
    let written = pen.tell("write -");
    assert!(written.contains(&format!("\nconnection_log {path}\n")), "{written}");
    assert!(written.contains("\nconnection_log_format json\n"), "{written}");
    pen.hears(&format!("operator: connection_log {path}, by "));
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    assert_eq!(entries(&log, 1)[0]["end"], "client");
    let old = log.with_extension("1");
    fs::rename(&log, &old).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the log is there again", || log.exists());
    // Another form begins with a whole line, in the same file.
    pen.tell("connection_log_format text");
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
    assert!(lines(&log, 1)[0].contains(" client=127.84.0.2:"));
    assert_eq!(lines(&old, 1).len(), 1);
    assert_eq!(pen.tell("no connection_log"), "");
    assert!(!pen.tell("write -").contains("connection_log "));
    assert!(pen.refuses("connection_log /no/such/place").starts_with("connection_log: "));
    assert!(pen.refuses("connection_log_format xml").contains("none of text, json"));
}

#[test]
fn a_file_turns_it_on_and_off_and_a_path_is_for_one_log() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    let text = |command: &str| format!("connection_log_format json\n{command}\n");
    let on = format!("connection_log {}", log.display());
    let builder = builder.server(&server).file(&text(&on));
    let both = builder.command().args(["--check", "-l", log.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(both.stderr).unwrap();
    assert!(said.contains("one path for the request log"), "{said}");
    let file = builder.directory().join("pen.cfg");
    let pen = builder.start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    assert_eq!(entries(&log, 1).len(), 1);
    fs::write(&file, text("no connection_log")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("no connection_log");
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
    fs::write(&file, text(&on)).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears(&format!("{}: {on}", file.display()));
    assert_eq!(pen.ask(client(3)).as_deref(), Some("a"));
    let clients: Vec<Value> = entries(&log, 2).iter().map(|line| line["client"].clone()).collect();
    assert_eq!(clients, ["127.84.0.1", "127.84.0.3"]);
}
