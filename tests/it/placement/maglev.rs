//! `maglev`: the same server for a client whatever happens, and a bound on the loads.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Backend, Pen, eventually};
use crate::placement::{client, counts, held, pen_with};

/// What each of forty clients gets.
fn choices(pen: &Pen) -> Vec<String> {
    (0..40).map(|number| pen.ask(client(number)).unwrap()).collect()
}

#[test]
fn every_pen_with_the_same_servers_chooses_alike_whatever_their_numbers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let [a, b, c] = &farm;
    let first = choices(&pen_with(&["maglev"], &[(a, 1), (b, 2), (c, 1)]));
    for name in ["a", "b", "c"] {
        assert!(first.iter().any(|at| at == name), "{first:?}");
    }
    let again = pen_with(&["maglev", "roundrobin"], &[(a, 1), (b, 2), (c, 1)]);
    assert_eq!(choices(&again), first);
    let other = pen_with(&["maglev"], &[(c, 1), (a, 1), (b, 2)]);
    assert_eq!(choices(&other), first);
    // Running workers get the table from the supervisor.
    let changed = pen_with(&[], &[(b, 2), (a, 1), (c, 1)]);
    changed.tells("maglev", "");
    assert_eq!(choices(&changed), first);
}

#[test]
fn only_clients_of_a_server_that_leaves_or_joins_move() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let [a, b, c, d] = &farm;
    let pen = pen_with(&["maglev", "roundrobin"], &[(a, 1), (b, 1), (c, 1), (d, 1)]);
    let before = choices(&pen);
    pen.tells("no server 2", "");
    let without = choices(&pen);
    for (before, after) in before.iter().zip(&without) {
        assert!(before == after || (before == "c" && after != "c"), "{before} {after}");
    }
    let port = c.address().port();
    pen.tells(&format!("server 2 address 127.0.0.1 port {port}"), "");
    assert_eq!(choices(&pen), before, "it is back");
    pen.tells("server 2 state maint", "");
    let kept =
        |after: &[String]| before.iter().zip(after).all(|(one, other)| one == other || one == "c");
    assert!(kept(&choices(&pen)));
}

#[test]
fn clients_of_a_server_that_fails_spread_and_return() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let weights = farm.each_ref().map(|server| (server, 1));
    let pen = pen_with(&["maglev", "roundrobin", "blacklist 1"], &weights);
    let before = choices(&pen);
    farm[1].stop();
    let after = choices(&pen);
    let moved: Vec<&String> =
        before.iter().zip(&after).filter(|(one, _)| *one == "b").map(|(_, now)| now).collect();
    for (one, other) in before.iter().zip(&after) {
        assert!(one == other || one == "b", "{one} {other}");
    }
    assert!(moved.iter().all(|at| *at != "b"));
    assert!(moved.iter().any(|at| *at != moved[0]), "they spread: {moved:?}");
    farm[1].start();
    eventually("all are back", || choices(&pen) == before);
}

#[test]
fn a_bound_keeps_connections_even() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let weights = farm.each_ref().map(|server| (server, 1));
    let pen = pen_with(&["maglev bounded 110"], &weights);
    let all = held(&pen, 0..80);
    for count in counts(&all, ["a", "b", "c", "d"]) {
        assert!((14..=24).contains(&count), "{count}");
    }
    pen.tells("show maglev", "maglev bounded 110");
    assert!(pen.tell("write -").contains("\nmaglev bounded 110\n"));
}

#[test]
fn it_is_explained_and_shown_and_a_file_can_set_it() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().servers(&farm).file("maglev\n").control().start();
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio maglev");
    let explained = pen.tell("explain 192.0.2.1");
    let reason = "client 192.0.2.1: not tracked; by maglev\nmaglev: position ";
    assert!(explained.starts_with(reason), "{explained}");
    let of = |number: u8| format!(" of 65537 belongs to server {number}\nserver {number} (");
    assert!(explained.contains(&of(0)) || explained.contains(&of(1)), "{explained}");
    fs::write(pen.directory().join("pen.cfg"), "no maglev\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || !pen.tell("mode").contains("maglev"));
    let wrong = "maglev: '99' is not a number from 100 to 1000";
    pen.tells("maglev bounded 99", wrong);
    pen.tells("maglev bounded", "usage: maglev [on|off|bounded PERCENT]");
}
