//! The limits are exact over all workers, and the clients of other nets do not notice.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use super::{beyond, client, fill, open, overview};
use crate::harness::machine::in_own_network;
use crate::harness::{Backend, Client, Pen, Port, SetOnDrop, ask, eventually, hold};

#[test]
fn of_many_connections_at_once_exactly_as_many_are_served_as_may_be() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(4)
        .options(["-x", "300", "-O", "per_client_max 7"])
        .control()
        .server(&server)
        .start();
    for round in 0..5 {
        let to = pen.address();
        let threads: Vec<_> = (0..40).map(|_| thread::spawn(move || hold(to, client(1)))).collect();
        let served: Vec<Client> =
            threads.into_iter().filter_map(|one| one.join().unwrap()).map(|(one, _)| one).collect();
        assert_eq!(served.len(), 7, "round {round}");
        assert_eq!(open(&pen, client(1)), 7);
        assert_eq!(pen.ask(client(2)).as_deref(), Some("a"), "another client");
        drop(served);
        eventually("all are gone", || open(&pen, client(1)) == 0);
    }
    eventually("the others are counted", || beyond(&pen) == [5 * 33, 0]);
    pen.settle();
}

/// An attacker makes 10 000 connections from addresses that are one client. It may have 10. Clients
/// with other addresses are served meanwhile.
fn flood(
    to: SocketAddr,
    nets: [&str; 2],
    attacker: impl Fn(u32) -> IpAddr + Sync,
    other: impl Fn(usize) -> IpAddr,
) {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .listen(to.to_string())
        .workers(2)
        .options(["-x", "100", "-O", "per_client_max 10"])
        .options(["-O", &format!("per_client_net {}", nets.join(" "))])
        .control()
        .server(&server)
        .start();
    let held: Vec<Client> =
        (0..10).map(|n| hold(to, attacker(n)).expect("it is within the limit").0).collect();
    let over = AtomicBool::new(false);
    let others = thread::scope(|scope| {
        let flood: Vec<_> = (0..4)
            .map(|thread| {
                let (attacker, over) = (&attacker, &over);
                scope.spawn(move || {
                    let _ends = SetOnDrop(over);
                    for n in 0..2500 {
                        match Client::connect(attacker(thread * 2500 + n), to) {
                            Ok(flooding) => assert_eq!(flooding.line(), None),
                            // The reset was faster than the return of connect(2).
                            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                        }
                    }
                })
            })
            .collect();
        let mut others = 0;
        while !over.load(SeqCst) || others == 0 {
            assert_eq!(ask(to, other(others)).as_deref(), Some("a"));
            others += 1;
        }
        flood.into_iter().for_each(|one| one.join().unwrap());
        others
    });
    eventually("all are counted", || beyond(&pen) == [10_000, 0]);
    assert_eq!(open(&pen, attacker(7)), 10);
    assert_eq!(server.open(), 10, "servers had no part in it");
    assert_eq!(server.accepted(), 10 + others);
    assert_eq!(overview(&pen)["counts"]["limits_unchecked"], 0);
    drop(held);
    // The log has one line of each net in a minute.
    let told = pen.said().lines().filter(|line| line.contains("per_client_max")).count();
    assert!((1..=3).contains(&told), "{}", pen.said());
}

/// One of 200 other clients.
fn another(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 84, 1, (number % 200) as u8).into()
}

#[test]
fn a_flood_from_one_address_is_held_to_the_limit_while_others_are_served() {
    flood(Port::reserve().address(), ["32", "64"], |_| client(1), another);
}

#[test]
fn a_flood_from_one_net_is_held_to_the_limit_while_others_are_served() {
    flood(Port::reserve().address(), ["24", "64"], |n| client((n % 250) as u8), another);
}

#[test]
fn a_flood_from_one_ipv6_net_is_held_to_the_limit_while_others_are_served() {
    let name = "a_flood_from_one_ipv6_net_is_held_to_the_limit_while_others_are_served";
    // Every address of these nets is one of the test's own network.
    let setup = ["ip -6 route add local 2001:db8::/32 dev lo".to_owned()];
    if !in_own_network(name, &setup) {
        return;
    }
    let address = |net: u16, low: u32| {
        let [high, low] = [(low >> 16) as u16, low as u16];
        Ipv6Addr::new(0x2001, 0xdb8, 0, net, low, 0, high, low).into()
    };
    // 10 000 addresses of one /64, and clients of other nets beside it.
    let port = Port::reserve_on(Ipv6Addr::LOCALHOST.into());
    flood(port.address(), ["32", "64"], |n| address(1, n), |n| address(2 + (n % 200) as u16, 1));
}

#[test]
fn addresses_in_headers_count_and_not_those_of_their_sender() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(2)
        .options(["-O", "per_client_max 3", "-O", "proxy_protocol in from 127.84.0.1"])
        .control()
        .server(&server)
        .start();
    let by = |address: &str| {
        let one = pen.connect(client(1));
        one.send(format!("PROXY TCP6 {address} 2001:db8::ff 1000 80\r\n"));
        one
    };
    let net: Vec<Client> = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:9::7"].map(by).into();
    assert!(net.iter().all(|one| one.line().as_deref() == Some("a")));
    assert_eq!(by("2001:db8::8").line(), None, "a fourth of the /64");
    assert_eq!(by("2001:db8:0:1::8").line().as_deref(), Some("a"), "another net");
    let said = pen.tell("explain 2001:db8::9");
    assert!(said.contains("as one of 2001:db8::/64: 3 of 3 open"), "{said}");
    assert!(said.ends_with("beyond per_client_max: the connection would be reset\n"), "{said}");
    eventually("it is told", || {
        pen.said().contains("client 2001:db8::/64 has 3 connections, and may have no more")
    });
}

#[test]
fn attempts_within_a_time_are_limited_and_refused_ones_count() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(3)
        .options(["-O", "per_client_rate 20 3600"])
        .control()
        .server(&server)
        .start();
    let served = (0..50).filter(|_| pen.ask(client(1)).is_some()).count();
    assert_eq!(served, 20);
    eventually("the others are counted", || beyond(&pen) == [0, 30]);
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
    let said = pen.tell(&format!("explain {}", client(1)));
    assert!(said.contains("50 of 20 connections within 3600 s (per_client_rate)"), "{said}");
    pen.tells("per_client_rate 60 3600", "");
    assert_eq!((0..20).filter(|_| pen.ask(client(1)).is_some()).count(), 10);
    // Another time begins the count again, as explain says.
    pen.tells("per_client_rate 5 1800", "");
    let said = pen.tell(&format!("explain {}", client(1)));
    assert!(said.contains("0 of 5 connections within 1800 s (per_client_rate)"), "{said}");
    assert_eq!((0..7).filter(|_| pen.ask(client(1)).is_some()).count(), 5);
    let said = pen.tell(&format!("explain {}", client(1)));
    assert!(said.contains("7 of 5 connections within 1800 s (per_client_rate)"), "{said}");
    pen.tells("no per_client_rate", "");
    assert!(pen.ask(client(1)).is_some());
    assert_eq!(overview(&pen)["counts"]["limits_unchecked"], 0);
}

#[test]
fn a_list_and_unix_sockets_have_no_limits() {
    let server = Backend::named("a");
    let file = "per_client_max 1\nacl 3 permit 127.84.0.3\nunlimited_acl 3\n";
    let pen = Pen::builder().file(file).control().server(&server).start();
    let _held = [fill(&pen, client(3), 5), fill(&pen, client(1), 1)];
    assert_eq!(pen.ask(client(1)), None);
    let said = pen.tell("explain 127.84.0.3");
    assert!(said.contains("no limits per client: permitted by acl 3 (unlimited_acl)"), "{said}");
    // The list changes for connections that are open, too.
    pen.tells("no unlimited_acl", "");
    assert_eq!(open(&pen, client(3)), 5);
    let builder = Pen::builder().options(["-O", "per_client_max 1"]);
    let path = builder.directory().join("s");
    let _unix = builder.listen(&path).server(&server).start();
    let unix: Vec<Client> = (0..4).map(|_| Client::connect_unix(&path).unwrap()).collect();
    assert!(unix.iter().all(|one| one.line().as_deref() == Some("a")));
}

#[test]
fn of_64_workers_together_a_client_gets_exactly_what_it_may() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(64)
        .options(["-x", "1000", "-O", "per_client_max 100"])
        .control()
        .server(&server)
        .start();
    let to = pen.address();
    let threads: Vec<_> = (0..200).map(|_| thread::spawn(move || hold(to, client(1)))).collect();
    let served: Vec<Client> =
        threads.into_iter().filter_map(|one| one.join().unwrap()).map(|(one, _)| one).collect();
    assert_eq!((served.len(), open(&pen, client(1))), (100, 100));
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"), "another client");
    drop(served);
    eventually("all are gone", || open(&pen, client(1)) == 0);
    assert_eq!(overview(&pen)["counts"]["limits_unchecked"], 0);
}

#[test]
fn a_client_that_stays_away_for_the_time_is_served_again() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(2)
        .options(["-O", "per_client_rate 3 1"])
        .control()
        .server(&server)
        .start();
    let explained = |words: &str| pen.tell("explain 127.84.0.1").contains(words);
    for _ in 0..3 {
        // On a busy machine the attempts may be further apart than the time.
        let served = (0..20).filter(|_| pen.ask(client(1)).is_some()).count();
        assert!(served >= 3);
        eventually("all are forgotten", || explained(": 0 of 3 connections within 1 s"));
        assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
        eventually("this one too", || explained(": 0 of 3 connections within 1 s"));
    }
}
