//! Which clients are remembered, by which address, for how long.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread;

use crate::harness::{Backend, Client, Pen, Port};

/// A client address of its own for each number.
fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 4, high, low)
}

#[test]
fn a_client_returns_to_its_server_whatever_worker_accepts_it() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    let homes: Vec<String> =
        (1..=9).map(|n| pen.only(usize::from(n) % 3, || pen.ask(client(n)).unwrap())).collect();
    for worker in 0..3 {
        let again: Vec<String> =
            pen.only(worker, || (1..=9).map(|n| pen.ask(client(n)).unwrap()).collect());
        assert_eq!(again, homes);
    }
}

#[test]
fn parallel_first_connections_of_one_client_go_to_one_server() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    for n in 1..=10 {
        let names: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| pen.ask(client(n)).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(names.iter().all(|name| *name == names[0]), "client {n}: {names:?}");
    }
}

#[test]
fn a_thousand_clients_keep_their_servers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    let homes: Vec<String> = (1..=1000).map(|n| pen.ask(client(n)).unwrap()).collect();
    let again: Vec<String> = (1..=1000).map(|n| pen.ask(client(n)).unwrap()).collect();
    assert!(homes == again);
    let report = pen.report();
    assert_eq!(report.clients.len(), 1000);
    let row = report.client(&client(7).to_string()).unwrap();
    assert_eq!(
        (row["connects"].as_str(), row["sent"].as_str(), row["received"].as_str()),
        ("2", "4", "0")
    );
}

#[test]
fn ipv6_clients_are_told_apart_by_their_whole_address() {
    // A loopback interface has one IPv6 address; more addresses need the test's own network.
    // Without nodad they are tentative at first, and cannot be bound.
    let name = "ipv6_clients_are_told_apart_by_their_whole_address";
    let addresses = ["fd00::15", "fd00::16", "fd01::15", "fd00:0:0:1::15"];
    let setup = addresses.map(|address| format!("ip -6 address add {address}/128 dev lo nodad"));
    if !crate::harness::machine::in_own_network(name, &setup) {
        return;
    }
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let port = Port::reserve_on(Ipv6Addr::LOCALHOST.into());
    let pen = Pen::builder().listen(port.address().to_string()).servers(&farm).start();
    for worker in 0..3 {
        let homes: Vec<String> = addresses
            .iter()
            .map(|address| {
                pen.only(worker, || {
                    crate::harness::ask(port.address(), address.parse().unwrap()).unwrap()
                })
            })
            .collect();
        assert_eq!(homes, ["b", "c", "d", "a"]);
    }
    let report = pen.report();
    for address in addresses {
        assert_eq!(report.client(address).unwrap()["connects"], "3");
    }
}

#[test]
fn a_full_table_forgets_the_client_that_was_used_least_recently() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let pen = Pen::builder().options(["-c", "2"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    assert_eq!(pen.ask(client(2)).as_deref(), Some("c"));
    // "Least recently" is promised to the second.
    pen.await_age(client(2), 2);
    assert_eq!(
        pen.only(2, || pen.ask(client(1))).as_deref(),
        Some("b"),
        "1 is used again, by another worker"
    );
    assert_eq!(pen.only(1, || pen.ask(client(3))).as_deref(), Some("d"), "3 takes the place of 2");
    assert_eq!(
        pen.ask(client(1)).as_deref(),
        Some("b"),
        "1 is still known; as a new client it would go to a"
    );
    assert_eq!(pen.report().clients.len(), 2);
    assert!(pen.report().client(&client(2).to_string()).is_none());
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"), "2 is placed as a new client");
}

#[test]
fn open_connections_of_a_forgotten_client_go_on_and_count_for_nobody() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-c", "1"]).servers(&farm).start();
    let (held, _) = pen.hold(client(1)).unwrap();
    let other = pen.ask(client(2)).unwrap();
    held.echoes("still here");
    let report = pen.report();
    assert_eq!(report.clients.len(), 1);
    let row = report.client(&client(2).to_string()).unwrap();
    assert_eq!(
        row["sent"],
        (other.len() + 1).to_string(),
        "the new owner of the slot has its own bytes only"
    );
}

#[test]
fn a_client_is_forgotten_after_the_tracking_time() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().options(["-T", "1"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    assert_eq!(pen.ask(client(2)).as_deref(), Some("c"));
    pen.await_age(client(1), 2);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"), "placed as a new client");
    assert_eq!(
        pen.report().client(&client(1).to_string()).unwrap()["connects"],
        "1",
        "its counters restart"
    );
}

#[test]
fn without_a_tracking_time_a_client_is_never_forgotten() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    pen.await_age(client(1), 2);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
}

#[test]
fn round_robin_enters_clients_in_the_table_too() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    for _ in 0..3 {
        pen.ask(client(1)).unwrap();
    }
    assert_eq!(pen.report().client(&client(1).to_string()).unwrap()["connects"], "3");
}

#[test]
fn all_clients_of_a_unix_listener_are_one() {
    let farm = Backend::farm(["a", "b", "c"]);
    let builder = Pen::builder();
    let path = builder.directory().join("front");
    let pen = builder.listen(&path).servers(&farm).start();
    let names: Vec<String> = (0..6)
        .map(|n| {
            let client = pen.only(n % 3, || Client::connect_unix(&path).unwrap());
            client.finish();
            String::from_utf8(client.read_to_end().unwrap()).unwrap()
        })
        .collect();
    assert_eq!(names, vec!["b\n"; 6]);
    assert_eq!(pen.report().client("unix").unwrap()["connects"], "6");
}
