//! What reaches the workers of earlier programs: operators, a rotated log, a stop, the drain
//! timeout.

use std::fs;
use std::net::Ipv4Addr;

use rustix::process::Signal;

use super::{Installed, OLD};
use crate::harness::{Backend, Client, Pen, Process, eventually, needs_root};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, 0, number)
}

#[test]
fn close_ends_a_connection_of_an_old_worker() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let held: Vec<Client> = (1..=3).map(|n| pen.hold(client(n)).unwrap().0).collect();
    let number = |of: u8| {
        let status = pen.status();
        let clients = status["clients"].as_array().unwrap();
        let slot = clients.iter().find(|row| row["address"] == client(of).to_string());
        let slot = slot.expect("a row of a client")["slot"].clone();
        let connections = status["connections"].as_array().unwrap();
        let row = connections.iter().find(|row| row["client"] == slot);
        row.expect("a row of a connection")["number"].as_u64().unwrap()
    };
    let numbers = [1, 2, 3].map(number);
    assert_eq!(pen.upgrade("0.2.0"), 3);
    pen.tell(&format!("close {}", numbers[1]));
    assert_eq!(held[1].read_to_end().unwrap_or_default(), b"");
    for n in [0, 2] {
        held[n].echoes("untouched");
    }
    pen.has_old_workers(&[(OLD, 2)]);
    // The number is free: its next connection is one of a new worker.
    let next = pen.hold(client(4)).unwrap().0;
    assert_eq!(number(4), numbers[1]);
    pen.tell(&format!("close {}", numbers[1]));
    assert_eq!(next.read_to_end().unwrap_or_default(), b"");
    held[0].echoes("untouched");
}

#[test]
fn a_rotated_log_is_opened_anew_by_old_workers_too() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let log = builder.directory().join("requests");
    let pen = Installed::start(builder.options(["-l", log.to_str().unwrap()]).server(&server));
    let old = pen.connect(client(1));
    old.echoes("before");
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let new = pen.connect(client(2));
    new.echoes("before");
    let rotated = log.with_extension("1");
    fs::rename(&log, &rotated).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("there is a new log", || log.exists());
    // A worker may not have read the message yet.
    for (held, name) in [(&old, "old"), (&new, "new")] {
        eventually("a worker writes into the new log", || {
            held.echoes(name);
            fs::read_to_string(&log).unwrap().lines().any(|line| line.ends_with(name))
        });
    }
    let rotated = fs::read_to_string(&rotated).unwrap();
    let before = rotated.lines().filter(|line| line.ends_with("before")).count();
    assert_eq!(before, 2, "{rotated}");
}

#[test]
fn the_log_command_reaches_old_workers() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    crate::harness::machine::open_to_all(builder.directory());
    let place = crate::harness::machine::directory(builder.directory(), "logs", 0o777, 0);
    fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let log = place.join("requests");
    let pen = Installed::start(builder.server(&server).control());
    let old = pen.connect(client(1));
    old.echoes("unlogged");
    assert_eq!(pen.upgrade("0.2.0"), 1);
    pen.tells(&format!("log {}", log.display()), log.to_str().unwrap());
    eventually("an old worker writes into it", || {
        old.echoes("logged");
        fs::read_to_string(&log).unwrap().lines().any(|line| line.ends_with("logged"))
    });
    pen.tells("no log", "");
    eventually("and stops", || {
        let before = fs::read_to_string(&log).unwrap();
        old.echoes("unlogged");
        fs::read_to_string(&log).unwrap() == before
    });
}

#[test]
fn a_stop_ends_all_generations() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Backend::named("a");
        let mut pen = Installed::start(Pen::builder().server(&server));
        let first = pen.hold(client(1)).unwrap().0;
        pen.upgrade("0.2.0");
        let second = pen.hold(client(2)).unwrap().0;
        pen.install("0.3.0");
        pen.goes_on_as("0.2.0", "0.3.0");
        let third = pen.hold(client(3)).unwrap().0;
        pen.end_by(signal);
        for held in [first, second, third] {
            assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()), "closed in order");
        }
    }
}

#[test]
fn no_worker_outlives_a_killed_supervisor() {
    let server = Backend::named("a");
    let mut pen = Installed::start(Pen::builder().server(&server));
    let _first = pen.hold(client(1)).unwrap().0;
    pen.upgrade("0.2.0");
    let _second = pen.hold(client(2)).unwrap().0;
    let staff = pen.staff();
    pen.kill_supervisor();
    eventually("all have ended", || staff.iter().all(Process::gone));
}

#[test]
fn after_the_drain_timeout_old_workers_close_what_they_have() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let before = pen.pids();
    let old = [1, 2].map(|n| pen.hold(client(n)).unwrap().0);
    pen.tells("drain_timeout", "0");
    assert_eq!(pen.upgrade("0.2.0"), 2);
    let new = pen.hold(client(3)).unwrap().0;
    old[0].echoes("as long as they like");
    pen.tells("drain_timeout 1", "1");
    for held in &old {
        assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()), "closed in order");
    }
    pen.has_only_new(&before, 4);
    pen.hears("drain_timeout");
    new.echoes("untouched");
    // It counts from the upgrade on.
    assert_eq!(pen.tell("drain_timeout"), "1\n");
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 1);
    assert!(new.read_to_end().is_ok_and(|rest| rest.is_empty()));
}

#[test]
fn an_old_worker_that_hangs_is_killed_like_any_other() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(1).server(&server));
    let old = pen.workers().remove(0);
    let _held = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    old.stop();
    eventually("it is killed", || old.gone());
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
}
