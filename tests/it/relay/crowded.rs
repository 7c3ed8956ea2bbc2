//! Messages about limits that clients reach: `-x`, a server's `max`, and no server left.

use std::net::Ipv4Addr;

use crate::harness::{Backend, Pen, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 61, 0, number)
}

#[test]
fn clients_that_wait_at_x_are_told_of_once_and_their_end_too() {
    let server = Backend::named("a");
    let pen = Pen::builder().options(["-x", "2"]).server(&server).control().start();
    let mut held: Vec<_> = (0..2).map(|n| pen.hold(client(n)).unwrap()).collect();
    let full = "2 of 2 connections are in use: ";
    assert!(pen.tell("explain 127.0.0.1").starts_with(full), "{}", pen.tell("explain 127.0.0.1"));
    assert!(!pen.said().contains("clients wait"), "nobody waits: {}", pen.said());
    let waiting = pen.connect(client(9));
    let told = "2 of 2 connections in use, clients wait; raise -x (conn_max)";
    pen.hears(told);
    assert!(pen.report().html.contains(full));
    assert!(pen.tell("status json").contains(",\"connections_full\":true,"));
    held.clear();
    drop(waiting);
    pen.hears("clients no longer wait for a connection: ");
    assert_eq!(pen.said().matches(told).count(), 1, "{}", pen.said());
    eventually("a place is free", || !pen.tell("explain 127.0.0.1").contains(full));
    assert!(pen.tell("status json").contains(",\"connections_full\":false,"));
}

#[test]
fn a_server_that_is_full_is_told_of_and_that_clients_were_closed() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-r"]).servers_with_limits(&farm, "1").control().start();
    let held: Vec<_> = (0..2).map(|n| pen.hold(client(n)).unwrap()).collect();
    let states = |pen: &Pen, state: &str| {
        pen.tell("servers json").matches(&format!("\"state\":\"{state}\"")).count()
    };
    assert_eq!(states(&pen, "full"), 2, "{}", pen.tell("servers json"));
    for n in 0..30 {
        assert_eq!(pen.ask(client(10 + n)), None);
    }
    for (n, server) in farm.iter().enumerate() {
        let told = format!(
            "server {n} ({}) is passed over: it has 1 of 1 connections; raise its max",
            server.operand()
        );
        pen.hears(&told);
        assert_eq!(pen.said().matches(&told).count(), 1, "{}", pen.said());
    }
    let closed = |line: &str| -> Option<u32> {
        let (line, _) = line.split_once(" closed: no server could be used for ")?;
        line.rsplit_once(": ").unwrap().1.split(' ').next().unwrap().parse().ok()
    };
    // Events within ten seconds are only counted.
    eventually("all are accounted for", || {
        pen.ask(client(50));
        pen.said().lines().filter_map(closed).sum::<u32>() >= 30
    });
    assert!(pen.said().lines().filter_map(closed).count() < 10, "{}", pen.said());
    // The clients that ask get no server, and cause no other new message.
    assert_eq!(pen.said().matches(" is passed over: ").count(), 2, "{}", pen.said());
    assert!(!pen.said().contains(" is in use again"), "both are full: {}", pen.said());
    drop(held);
    eventually("both have room", || states(&pen, "up") == 2);
    // This needs no further client.
    eventually("their end is told", || pen.said().matches(" is in use again").count() == 2);
}
