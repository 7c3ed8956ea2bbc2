//! Workers of earlier programs: what they serve, how they are counted, shown and ended.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use serde_json::json;

use super::{Installed, OLD};
use crate::harness::numbers::Bytes;
use crate::harness::{Backend, Client, Gate, Pen, Process, eventually, needs_root};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 71, 0, number)
}

/// Opens a connection in a worker; `workers` are all that accept.
#[track_caller]
fn hold_in(pen: &Pen, workers: &[Process], chosen: &Process) -> Client {
    let others = || workers.iter().filter(|worker| worker.pid() != chosen.pid());
    others().for_each(Process::stop);
    let held = pen.hold(client(1)).expect("a worker serves").0;
    others().for_each(Process::resume);
    held
}

/// [`hold_in`] for each of these workers, which are all that accept.
#[track_caller]
fn hold_in_each(pen: &Pen, workers: &[Process]) -> Vec<Client> {
    workers.iter().map(|chosen| hold_in(pen, workers, chosen)).collect()
}

/// The workers that were not there before.
#[track_caller]
fn new_workers(pen: &Installed, before: &BTreeSet<i32>, count: usize) -> Vec<Process> {
    let mut new = Vec::new();
    eventually("the new workers are there", || {
        new = pen.staff();
        new.retain(|worker| !before.contains(&worker.pid()));
        new.len() == count
    });
    new
}

#[test]
fn old_workers_serve_what_they_have_to_its_end() {
    const LENGTH: usize = 30_000_000;
    // Sends half, and the rest when the test allows it.
    let half = Gate::closed();
    let may_go_on = half.clone();
    let server = Backend::with(move |mut connection| {
        let mut request = [0; 1];
        while connection.read(&mut request)? == 1 {
            match &request {
                b"D" => {
                    let bytes = Bytes::new(7).take(LENGTH);
                    connection.write_all(&bytes[..LENGTH / 2])?;
                    may_go_on.pass();
                    connection.write_all(&bytes[LENGTH / 2..])?;
                }
                // The end of the client's data is answered.
                _ => connection.write_all(&request)?,
            }
        }
        connection.write_all(b"bye")
    });
    let pen = Installed::start(Pen::builder().server(&server).control());
    let before = pen.pids();
    let (download, idle, half_closed) =
        (pen.connect(client(1)), pen.connect(client(2)), pen.connect(client(3)));
    download.send("D");
    download.read_exactly(1);
    for other in [&idle, &half_closed] {
        other.send("x");
        assert_eq!(other.read_exactly(1), b"x");
    }
    // An upload whose end the server has not read yet.
    half_closed.send(vec![b'y'; 100]);
    assert_eq!(pen.upgrade("0.2.0"), 3);
    half_closed.finish();
    assert_eq!(half_closed.read_to_end().unwrap(), [&[b'y'; 100][..], b"bye"].concat());
    pen.has_old_workers(&[(OLD, 2)]);
    half.open();
    let rest = download.read_exactly(LENGTH - 1);
    assert!(rest == Bytes::new(7).take(LENGTH)[1..], "every byte is as it was sent");
    download.send("x");
    assert_eq!(download.read_exactly(1), b"x");
    drop(download);
    pen.has_old_workers(&[(OLD, 1)]);
    idle.send("z");
    assert_eq!(idle.read_exactly(1), b"z", "an idle connection is open");
    idle.finish();
    assert_eq!(idle.read_to_end().unwrap(), b"bye");
    pen.has_old_workers(&[]);
    pen.has_only_new(&before, 4);
    assert!(!pen.said().contains("killed") && !pen.said().contains("ended with"));
}

#[test]
fn an_old_worker_takes_no_client_and_ends_with_its_last_connection() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(1).server(&server).control());
    let old = pen.workers().remove(0);
    let held = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    // The new workers stand still: nobody else could serve.
    let new = new_workers(&pen, &BTreeSet::from([old.pid()]), 2);
    new.iter().for_each(Process::stop);
    let waiting = pen.connect(client(2));
    held.echoes("served");
    assert!(!waiting.has_news(), "an old worker accepts nobody");
    new.iter().for_each(Process::resume);
    assert_eq!(waiting.line().as_deref(), Some("a"));
    assert!(!old.gone());
    drop(held);
    eventually("it ends", || old.gone());
    waiting.echoes("on");
}

#[test]
fn each_generation_is_shown_until_its_end_oldest_first() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    assert_eq!(pen.old_workers(), []);
    let first = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let second = [2, 3].map(|n| pen.hold(client(n)).unwrap().0);
    pen.has_old_workers(&[(OLD, 1)]);
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 3);
    pen.has_old_workers(&[(OLD, 1), ("0.2.0", 2)]);
    let page = pen.tell("status");
    for text in [
        &format!("old worker of pen {OLD}: 1 connection, drains for "),
        "old worker of pen 0.2.0: ",
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
    let third = pen.hold(client(4)).unwrap().0;
    assert_eq!(pen.status()["connections_used"], 4);
    assert_eq!(pen.report().in_use(), 4, "all are counted at the server");
    for held in second.iter().chain([&first, &third]) {
        held.echoes("all go on");
    }
    drop(first);
    pen.has_old_workers(&[("0.2.0", 2)]);
    drop(second);
    pen.has_old_workers(&[]);
    third.echoes("and this one");
}

#[test]
fn many_generations_fit_side_by_side() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server).control());
    let (mut held, mut seen, mut version) = (Vec::new(), BTreeSet::new(), OLD.to_string());
    for round in 1..=10 {
        // The control process is one of the new ones.
        let mut new = new_workers(&pen, &seen, 3);
        new.retain(|process| process.title() != "pen: control");
        seen = pen.pids();
        held.extend(hold_in_each(&pen, &new));
        let next = format!("0.2.{round}");
        pen.install(&next);
        assert_eq!(pen.goes_on_as(&version, &next) as usize, held.len());
        version = next;
    }
    assert_eq!(pen.old_workers().len(), 10);
    for client in &held {
        client.echoes("all go on");
    }
    assert_eq!(pen.report().in_use(), 20);
    drop(held);
    pen.has_old_workers(&[]);
}

/// A pen of 64 workers: the table has room for three generations of them, and two more workers.
fn with_64_workers(server: &Backend) -> Installed {
    let builder = Pen::builder().workers(64).options(["-x", "1000"]).server(server).control();
    Installed::start(builder)
}

/// Opens a connection in each of so many workers of the 64 that accept. Needs root.
#[track_caller]
fn hold_in_some(pen: &Installed, before: &BTreeSet<i32>, count: usize) -> Vec<Client> {
    let mut free = new_workers(pen, before, 65);
    free.retain(|process| process.title() != "pen: control");
    let sockets = |worker: &Process| {
        worker.descriptors().iter().filter(|(_, target)| target.starts_with("socket:")).count()
    };
    let fewest = free.iter().map(sockets).min().unwrap();
    let (mut used, mut held) = (Vec::new(), Vec::new());
    while held.len() < count {
        used.iter().for_each(Process::stop);
        held.push(pen.hold(client(1)).expect("a worker serves").0);
        used.iter().for_each(Process::resume);
        let chosen = free.iter().position(|worker| sockets(worker) > fewest);
        used.push(free.remove(chosen.expect("a worker without a connection has it")));
        // All have answered. Otherwise the watchdog would find that those hang which are stopped.
        eventually("no worker is missing", || pen.status()["workers_missing"] == json!([]));
    }
    held
}

#[test]
fn the_oldest_generation_is_closed_for_want_of_room_but_only_by_an_upgrade_that_succeeds() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = with_64_workers(&server);
    let first = hold_in_some(&pen, &BTreeSet::new(), 40);
    let before = pen.pids();
    assert_eq!(pen.upgrade("0.2.0"), 40);
    // Together, one worker too many for a third generation and one after it.
    let second = hold_in_some(&pen, &before, 27);
    pen.install("0.3.0 adoption panics");
    let asked = pen.ask_for_upgrade();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.ends_with("; pen 0.2.0 goes on\n"), "{said}");
    pen.has_old_workers(&[(OLD, 40)]);
    for held in first.iter().chain(&second) {
        held.echoes("two generations fit, and the third failed");
    }
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 67);
    pen.hears(&format!("the oldest workers, of pen {OLD}, close their connections"));
    for held in &first {
        assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()), "closed in order");
    }
    pen.has_old_workers(&[("0.2.0", 27)]);
    second.iter().for_each(|held| held.echoes("the others go on"));
}

#[test]
fn workers_that_end_by_themselves_cost_no_connection_for_want_of_room() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = with_64_workers(&server);
    let held = hold_in_some(&pen, &BTreeSet::new(), 3);
    let before = pen.pids();
    assert_eq!(pen.upgrade("0.2.0"), 3);
    pen.has_old_workers(&[(OLD, 3)]);
    // They have no connections, and cannot end until the watchdog kills them. Heartbeats see them.
    let mut idle = new_workers(&pen, &before, 65);
    idle.retain(|process| process.title() != "pen: control");
    assert_eq!(idle.len(), 64);
    idle.iter().for_each(Process::stop);
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 3);
    eventually("the idle workers have ended", || idle.iter().all(Process::gone));
    pen.has_old_workers(&[(OLD, 3)]);
    held.iter().for_each(|held| held.echoes("through all of it"));
    assert!(!pen.said().contains("close their connections"), "{}", pen.said());
}

#[test]
fn limits_count_the_connections_of_all_generations() {
    let farm = Backend::farm(["a"]);
    let pen = Installed::start(Pen::builder().servers_with_limits(&farm, "2").control());
    let old = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let new = pen.hold(client(2)).unwrap().0;
    assert!(pen.hold(client(3)).is_none(), "the server has two");
    drop(old);
    pen.has_old_workers(&[]);
    let third = pen.hold(client(3)).expect("a place is free").0;
    assert!(pen.hold(client(4)).is_none());
    assert_eq!(farm[0].open(), 2);
    drop((new, third));
    pen.settle();
}

#[test]
fn connection_numbers_are_unique_over_generations_and_their_limit_holds() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().options(["-x", "4"]).server(&server).control());
    let old = [1, 2].map(|n| pen.hold(client(n)).unwrap().0);
    assert_eq!(pen.upgrade("0.2.0"), 2);
    let new = [3, 4].map(|n| pen.hold(client(n)).unwrap().0);
    let fifth = pen.connect(client(5));
    pen.report();
    assert!(!fifth.has_news(), "it waits: there are four connections");
    assert_eq!(pen.status()["connections_used"], 4);
    let [first, second] = old;
    // A place that an old worker frees is known to the new ones.
    drop(first);
    assert_eq!(fifth.line().as_deref(), Some("a"));
    second.echoes("old");
    new.iter().for_each(|held| held.echoes("new"));
    assert_eq!(server.open(), 4);
}

#[test]
fn an_old_worker_that_is_killed_is_not_replaced_and_its_places_are_free() {
    let farm = Backend::farm(["a"]);
    let pen = Installed::start(Pen::builder().workers(2).servers_with_limits(&farm, "2").control());
    let workers = pen.workers();
    let held = hold_in_each(&pen, &workers);
    assert_eq!(pen.upgrade("0.2.0"), 2);
    assert!(pen.hold(client(3)).is_none());
    workers[0].kill();
    let line = format!("(pid {}) of pen {OLD} was killed by signal 9", workers[0].pid());
    pen.hears(&line);
    pen.has_old_workers(&[(OLD, 1)]);
    held[1].echoes("the other goes on");
    let _new = pen.hold(client(3)).expect("its place is free").0;
    assert!(pen.hold(client(4)).is_none(), "and only its place");
    // Two new workers, an old one, and the control process.
    assert_eq!(pen.staff().len(), 4);
}

#[test]
fn a_new_worker_that_is_killed_is_replaced_and_nothing_else_happens() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server));
    let before = pen.pids();
    let old = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let new = new_workers(&pen, &before, 2);
    new[0].kill();
    eventually("it is replaced", || {
        let now = pen.pids();
        !now.contains(&new[0].pid()) && now.difference(&before).count() == 2
    });
    for n in 2..8 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    old.echoes("untouched");
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 1, "and it can be upgraded again");
}

#[test]
fn old_workers_keep_their_own_times() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().options(["-O", "idle_timeout 1"]).server(&server));
    let before = pen.pids();
    let held = pen.hold(client(1)).unwrap().0;
    pen.upgrade("0.2.0");
    assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()), "idle for too long");
    pen.has_only_new(&before, 3);
}
