//! What an upgrade leaves as it was: the process, its files and sockets, and all that it knows.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::{Installed, OLD, remembered};
use crate::harness::control::PENCTL;
use crate::harness::events::{event, events, has, watch};
use crate::harness::{Backend, Client, Pen, Process, eventually, until};

/// A client address of its own for each number.
fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 70, high, low)
}

/// The inode of the socket that listens at an address (proc_net(5)).
#[track_caller]
fn listening_socket(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let ip = u32::from_le_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut found = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1] == local && fields[3] == "0A").then(|| fields[9].to_string())
    });
    let inode = found.next().expect("a socket listens");
    assert_eq!(found.next(), None, "one socket listens");
    inode
}

/// The inode of the Unix socket that listens at a path.
#[track_caller]
fn listening_unix_socket(path: &Path) -> String {
    let text = fs::read_to_string("/proc/net/unix").unwrap();
    let mut found = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(7) == path.to_str().as_ref() && fields[3] == "00010000";
        is_it.then(|| fields[6].to_string())
    });
    let inode = found.next().expect("a socket listens");
    assert_eq!(found.next(), None, "one socket listens");
    inode
}

#[test]
fn the_process_its_pid_file_and_its_listener_are_the_same() {
    let server = Backend::named("a");
    for background in [false, true] {
        let builder = Pen::builder().server(&server);
        let builder = if background { builder.background() } else { builder };
        let pen = Installed::start(builder);
        let (workers, pid_file) = (pen.pids(), pen.directory().join("pid"));
        let listener = listening_socket(pen.address());
        let state = || {
            let comm = fs::read_to_string(pen.supervisor().proc("comm")).unwrap();
            let file = fs::metadata(&pid_file).unwrap();
            (fs::read(&pid_file).unwrap(), file.ino(), file.mode(), comm, pen.supervisor().title())
        };
        let before = state();
        assert_eq!(pen.upgrade("0.2.0"), 0);
        assert_eq!(state(), before);
        assert_eq!(listening_socket(pen.address()), listener);
        pen.has_only_new(&workers, 3);
        assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
        // The lock is held.
        let second = Pen::builder().pid_file(&pid_file).server(&server).fails();
        let said = String::from_utf8(second.stderr).unwrap();
        assert!(said.contains(pid_file.to_str().unwrap()), "{said}");
        assert_eq!(state(), before);
    }
}

#[test]
fn clients_that_wait_to_be_accepted_are_served_by_the_new_workers() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server));
    let workers = pen.workers();
    workers.iter().for_each(|worker| worker.stop());
    let waiting: Vec<Client> = (0..50).map(|n| pen.connect(client(n))).collect();
    assert_eq!(pen.upgrade("0.2.0"), 0);
    for client in waiting {
        assert_eq!(client.line().as_deref(), Some("a"));
    }
    workers.iter().for_each(|worker| worker.resume());
}

#[test]
fn the_control_socket_stays_and_operators_come_in_before_and_after() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let path = builder.directory().join("control");
    let pen = Installed::start(builder.control_unix(&path));
    let inode = || (listening_unix_socket(&path), fs::metadata(&path).unwrap().ino());
    let (before, workers) = (inode(), pen.pids());
    pen.tells("pid", &pen.supervisor().pid().to_string());
    pen.upgrade("0.2.0");
    assert_eq!(inode(), before);
    pen.has_only_new(&workers, 4);
    pen.tells("pid", &pen.supervisor().pid().to_string());
    let mut pen = pen;
    pen.end_by(Signal::TERM);
    assert!(!path.exists(), "the new program removes the socket at its end");
}

#[test]
fn an_operator_gets_the_reply_to_the_command_upgrade() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().options(["-X"]).server(&server).control());
    pen.install("0.2.0");
    let pid = pen.supervisor().pid();
    let done = |before: &str, after: &str| {
        format!(
            "pen {before} is now pen {after}, pid {pid}, no connection stays with the old workers"
        )
    };
    pen.tells("upgrade", &done(OLD, "0.2.0"));
    pen.hears(&done(OLD, "0.2.0"));
    pen.install("0.3.0 adoption panics");
    let reply = pen.refuses("upgrade");
    assert!(reply.starts_with("upgrade failed: ") && reply.ends_with("; pen 0.2.0 goes on"));
    pen.install("0.3.0");
    assert_eq!(
        pen.tell("outcome upgrade"),
        format!("outcome: ok\n{}\n", done("0.2.0", "0.3.0")),
        "penctl learns the outcome"
    );
}

#[test]
fn the_command_upgrade_needs_x_and_the_signal_does_not() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let workers = pen.pids();
    pen.install("0.2.0");
    pen.tells("upgrade", "Upgrade is not enabled; restart with -X flag");
    assert_eq!(pen.pids(), workers);
    // The signal is the right of the user who started pen.
    assert_eq!(pen.becomes("0.2.0"), 0);
}

#[test]
fn known_clients_return_to_their_servers_and_count_on() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Installed::start(Pen::builder().servers(&farm));
    let homes: Vec<String> = (0..300).map(|n| pen.ask(client(n)).unwrap()).collect();
    pen.settle();
    let before = pen.report();
    for version in ["0.2.0", "0.3.0"] {
        let earlier = if version == "0.2.0" { OLD } else { "0.2.0" };
        pen.install(version);
        pen.goes_on_as(earlier, version);
        let report = pen.report();
        assert_eq!(report.clients.len(), 300);
        for n in [0, 150, 299] {
            assert_eq!(remembered(&report, client(n)), remembered(&before, client(n)));
        }
    }
    let again: Vec<String> = (0..300).map(|n| pen.ask(client(n)).unwrap()).collect();
    assert!(again == homes);
    pen.settle();
    let report = pen.report();
    assert_eq!(report.clients.len(), 300);
    assert_eq!(report.client(&client(7).to_string()).unwrap()["connects"], "2");
}

#[test]
fn a_blacklisted_server_stays_so_until_its_time_is_over() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Installed::start(Pen::builder().options(["-r", "-b", "3600"]).servers(&farm));
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    pen.hears("blacklisting server 1");
    let until = pen.report().server(1, "status");
    farm[1].start();
    pen.upgrade("0.2.0");
    assert_eq!(pen.report().server(1, "status"), until);
    for n in 0..12 {
        assert_eq!(pen.only(n % 3, || pen.ask(client(1))).as_deref(), Some("a"));
    }
    assert_eq!(farm[1].accepted(), 0);
}

/// The numbers in a status report that never fall, by name.
fn counted(status: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for part in ["counters", "requests_refused", "tls_handshakes", "tls_failures"] {
        for (name, value) in status[part].as_object().unwrap() {
            all.insert(name.clone(), value.as_u64().unwrap());
        }
    }
    for (number, server) in status["servers"].as_array().unwrap().iter().enumerate() {
        for name in ["sent", "received", "connections_total", "failovers"] {
            all.insert(format!("{name} {number}"), server[name].as_u64().unwrap());
        }
        for failure in server["connect_failures"].as_array().unwrap() {
            let reason = failure["reason"].as_str().unwrap();
            all.insert(format!("{reason} {number}"), failure["count"].as_u64().unwrap());
        }
        for name in ["connect", "length"] {
            let histogram = &server[name];
            all.insert(format!("{name} {number}"), histogram["sum"].as_u64().unwrap());
            for (bucket, count) in histogram["buckets"].as_array().unwrap().iter().enumerate() {
                all.insert(format!("{name} {number} {bucket}"), count.as_u64().unwrap());
            }
        }
    }
    all.insert("uptime".into(), status["uptime"].as_u64().unwrap());
    all
}

#[test]
fn counters_never_fall() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Installed::start(Pen::builder().options(["-r", "-b", "1"]).servers(&farm).control());
    let held = pen.hold(client(1)).unwrap().0;
    for n in 0..20 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    let (mut before, mut version) = (counted(&pen.status()), OLD.to_string());
    eventually("all is counted", || {
        before = counted(&pen.status());
        before["accepted"] == 21
    });
    assert!(before["failed_connects"] > 0 && before["received 0"] > 0, "{before:?}");
    assert_eq!((before["connections_total 0"], before["connections_total 1"]), (21, 0));
    assert_eq!(
        (before["refused 1"], before["failovers 1"]),
        (before["failed_connects"], before["failovers"])
    );
    assert!(before["failovers"] > 0 && before["connect 0"] > 0, "{before:?}");
    for round in 1..=3_u64 {
        let next = format!("0.2.{round}");
        pen.install(&next);
        assert_eq!(pen.goes_on_as(&version, &next), 1);
        // Workers that end give their last counters later; nothing is less meanwhile.
        for _ in 0..20 {
            let now = counted(&pen.status());
            for (name, value) in &before {
                assert!(now[name] >= *value, "{name} was {value} and is {}", now[name]);
            }
            before = now;
        }
        assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
        eventually("the new workers count on", || {
            let now = counted(&pen.status());
            now["accepted"] == 21 + round && now["connections_total 0"] == 21 + round
        });
        version = next;
    }
    held.echoes("still here");
    drop(held);
    pen.settle();
    eventually("and no connection is counted twice", || {
        let now = counted(&pen.status());
        let all = |name: &str| -> u64 { (0..24).map(|n| now[&format!("{name} 0 {n}")]).sum() };
        now["accepted"] == 24 && (all("connect"), all("length")) == (24, 24)
    });
}

#[test]
fn the_request_log_goes_on_in_the_same_file() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let log = builder.directory().join("requests");
    let pen = Installed::start(builder.options(["-l", log.to_str().unwrap()]).server(&server));
    let old = pen.connect(client(1));
    old.echoes("one");
    let inode = fs::metadata(&log).unwrap().ino();
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let new = pen.connect(client(2));
    new.echoes("two");
    old.echoes("three");
    eventually("old and new workers write into it", || {
        let text = fs::read_to_string(&log).unwrap();
        let mut requests: Vec<&str> =
            text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        requests.sort_unstable();
        requests == ["one", "three", "two"]
    });
    assert_eq!(fs::metadata(&log).unwrap().ino(), inode);
}

#[test]
fn the_connection_log_goes_on_and_old_workers_follow_it() {
    let server = Backend::named("a");
    for form in ["text", "json"] {
        let builder = Pen::builder().control();
        let log = builder.directory().join("connections");
        let command = format!("connection_log {}", log.display());
        let form = format!("connection_log_format {form}");
        let options = ["-O", &command, "-O", &form];
        let pen = Installed::start(builder.options(options).server(&server));
        let of = |number: u16| format!("{}", client(number));
        let has = |path: &Path, number: u16| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines().filter(|line| line.contains(&of(number)));
            lines.next().is_some_and(|line| line.contains("client")) && lines.next().is_none()
        };
        let old: Vec<_> = (21..=23).map(|n| pen.hold(client(n)).unwrap()).collect();
        assert_eq!(pen.upgrade("0.2.0"), 3);
        let mut old = old.into_iter();
        drop(old.next());
        pen.ask(client(31)).unwrap();
        eventually("old and new workers write into it", || has(&log, 21) && has(&log, 31));
        // HUP opens it again for all of them.
        let moved = log.with_extension("1");
        fs::rename(&log, &moved).unwrap();
        pen.supervisor().signal(Signal::HUP);
        let has_it = |worker: &Process| {
            worker.descriptors().iter().any(|(_, to)| Some(to.as_str()) == log.to_str())
        };
        let workers = || {
            let mut all = pen.supervisor().children();
            all.retain(|process| process.title().contains("worker"));
            all
        };
        eventually("all workers have it", || workers().iter().all(has_it));
        drop(old.next());
        pen.ask(client(32)).unwrap();
        eventually("they use the new file", || has(&log, 22) && has(&log, 32));
        // So does another form, and the end of the log.
        pen.tell("connection_log_format haproxy");
        pen.tell("no connection_log");
        drop(old);
        pen.ask(client(33)).unwrap();
        eventually("the old workers have ended", || workers().len() == 3);
        let all = [&log, &moved].map(|path| fs::read_to_string(path).unwrap()).concat();
        assert_eq!(all.lines().count(), 4, "{all}");
    }
}

#[test]
fn settings_of_options_of_the_file_and_of_the_control_port_stay() {
    let farm = Backend::farm(["a", "b"]);
    let builder = Pen::builder().options(["-r", "-O", "weight"]).servers(&farm);
    let builder = builder.file("blacklist 77\nidle_timeout 7200\n").control();
    let pen = Installed::start(builder);
    for line in [
        "tracking 1234",
        "server 0 weight 5 max 70",
        "acl 3 deny 192.0.2.0/24",
        "no tcp_nodelay",
        "timeout 9",
        "debug 1",
        "no server 1",
        "server 4 address 127.0.0.1 port 9",
        "server 4 blacklist 3600",
    ] {
        let reply = pen.tell(line);
        assert!(reply.lines().count() <= 1 && !reply.contains("unable"), "{line}: {reply}");
    }
    let shown = pen.tell("show");
    for part in ["blacklist 77", "tracking 1234", "idle_timeout 7200", "weight 5", "192.0.2.0"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let mut version = OLD;
    for next in ["0.2.0", "0.3.0"] {
        pen.install(next);
        pen.goes_on_as(version, next);
        assert_eq!(pen.tell("show"), shown);
        version = next;
    }
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    // The file is read again as before.
    fs::write(pen.directory().join("pen.cfg"), "blacklist 78\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || pen.tell("blacklist") == "78\n");
    pen.tells("tracking", "1234");
}

#[test]
fn reports_go_on_into_the_status_file() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Installed::start(Pen::builder().servers(&farm));
    let held = [1, 2].map(|n| pen.hold(client(n)).unwrap().0);
    assert_eq!(pen.upgrade("0.2.0"), 2);
    let new = pen.hold(client(3)).unwrap().0;
    let report = pen.report();
    assert_eq!((report.in_use(), report.clients.len()), (3, 3));
    drop((held, new));
    pen.settle();
}

#[test]
fn events_go_on_with_their_numbers_and_who_watches_is_told_to_watch_again() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    pen.tells("prio", "");
    let (before, operator) = (events(&pen), watch(&pen));
    let kinds: Vec<_> = before.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"setting"), "{kinds:?}");
    pen.upgrade("0.2.0");
    // Who watches may be told of the upgrade itself before.
    let closed = until("the end", || Some(operator.next()).filter(|seen| !seen["id"].is_u64()));
    assert_eq!(closed["closed"], "pen was upgraded; watch again");
    assert_eq!(operator.line(), None);
    let again = watch(&pen);
    let after = events(&pen);
    assert_eq!(after[..before.len()], before);
    let upgraded = event(&pen, "upgraded", |_| true);
    let pid = pen.supervisor().pid();
    has(&pen, &upgraded, &[("from", OLD.into()), ("to", "0.2.0".into()), ("pid", pid.into())]);
    pen.tells("no prio", "");
    // The old workers may end before that.
    let seen = until("the change", || Some(again.next()).filter(|seen| seen["kind"] == "setting"));
    let all = events(&pen);
    let ids: Vec<_> = all.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    assert!(all.contains(&seen), "{seen} in {all:?}");
}

#[test]
fn penctl_that_watches_prints_each_event_once_over_an_upgrade() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let directory = tempfile::tempdir().unwrap();
    let outputs = ["json", "plain"].map(|name| directory.path().join(name));
    let address = pen.control().to_string();
    let words = [&[&address, "watch", "--json"][..], &[&address, "watch"]];
    let mut watching = [0, 1].map(|n| {
        let output = fs::File::create(&outputs[n]).unwrap();
        let mut command = Command::new(PENCTL);
        command.args(words[n]).stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        command.spawn().unwrap()
    });
    let printed = |n: usize| fs::read_to_string(&outputs[n]).unwrap();
    let mut weight = 1;
    eventually("both watch", || {
        weight += 1;
        pen.tells(&format!("server 0 weight {weight}"), "");
        [0, 1].iter().all(|n| printed(*n).contains("weight"))
    });
    pen.upgrade("0.2.0");
    eventually("events go on", || {
        weight += 1;
        pen.tells(&format!("server 0 weight {weight}"), "");
        let goes_on = |n: usize| {
            let all = printed(n);
            all.split_once("is now pen 0.2.0").is_some_and(|(_, after)| after.contains("weight"))
        };
        [0, 1].into_iter().all(goes_on)
    });
    watching.iter_mut().for_each(|child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let all = events(&pen);
    let json = printed(0);
    let shown: Vec<Value> = json
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|record: &Value| record["id"].is_u64())
        .collect();
    let first = shown[0]["id"].as_u64().unwrap() as usize;
    assert_eq!(shown, all[first - 1..][..shown.len()], "none is missing, none comes twice");
    // The lines for people are those of `events`.
    let plain = printed(1);
    let lines: Vec<&str> = plain.lines().filter(|line| line.starts_with("20")).collect();
    let told = pen.tell("events 1000");
    let from = told.find(lines[0]).expect("the first line");
    assert!(told[from..].starts_with(&lines.join("\n")), "{plain}\n{told}");
}
