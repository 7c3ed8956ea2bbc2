//! Failed servers: their blacklist time, the next attempt, and the messages.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use crate::harness::backend::{Blackhole, greeter};
use crate::harness::{Backend, Client, Pen, Port, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 3, 0, number)
}

#[test]
fn a_failed_server_is_left_out_by_all_workers_at_once_and_said_once() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().options(["-r", "-b", "3600"]).servers(&farm).start();
    assert_eq!(pen.only(0, || pen.ask(client(1))).as_deref(), Some("a"));
    // It runs again, but no worker tries it before the hour is over.
    farm[1].start();
    for n in 0..12 {
        assert_eq!(pen.only(n % 3, || pen.ask(client(1))).as_deref(), Some("a"));
    }
    assert_eq!(farm[1].accepted(), 0);
    let message = format!("blacklisting server 1 ({}) for 3600 s: ", farm[1].operand());
    pen.hears(&message);
    assert_eq!(pen.said().matches(&message).count(), 1);
    let report = pen.report();
    assert_eq!(report.server(0, "status"), 0);
    assert!(report.server(1, "status") > 1_600_000_000, "the status is the time of the failure");
}

#[test]
fn many_clients_at_once_on_a_dead_server_are_all_served_and_it_is_said_once() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    thread::scope(|scope| {
        for n in 1..=40 {
            let pen = &pen;
            scope.spawn(move || assert_eq!(pen.ask(client(n)).as_deref(), Some("a")));
        }
    });
    pen.hears("blacklisting server 1");
    assert_eq!(pen.said().matches("blacklisting server 1").count(), 1);
}

#[test]
fn a_server_comes_back_after_its_time_and_that_is_said_once() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().options(["-r", "-b", "1"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    pen.hears("blacklisting server 1");
    farm[1].start();
    let said = pen.said().len();
    eventually("b is tried again", || pen.ask(client(1)).as_deref() == Some("b"));
    eventually("its return is said", || pen.said()[said..].contains("server 1"));
    let sequence: String = (0..4).map(|_| pen.ask(client(1)).unwrap()).collect();
    assert_eq!(sequence, "abab");
    assert_eq!(pen.said()[said..].matches("server 1").count(), 1, "once: {}", pen.said());
    assert_eq!(pen.report().server(1, "status"), 0);
}

#[test]
fn a_server_that_is_still_dead_after_its_time_costs_no_client_its_answer() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().options(["-r", "-b", "1"]).servers(&farm).start();
    for _ in 0..3 {
        // One of two selections is the dead server.
        assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
        assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
        assert!(pen.report().server(1, "status") > 0, "it has been tried and left out again");
        eventually("its time is over", || pen.report().server(1, "status") == 0);
    }
}

#[test]
fn after_its_time_one_client_tries_a_server_and_the_others_do_not_wait_for_it() {
    let a = Backend::named("a");
    let port = Port::reserve();
    let pen = Pen::builder()
        .options(["-r", "-b", "1", "-t", "60"])
        .server(&a)
        .server_as(port.address().to_string())
        .start();
    // It refuses, and is blacklisted for a second; from now on it does not answer at all.
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    let hole = Blackhole::on(&port);
    eventually("its time is over", || pen.report().server(1, "status") == 0);
    let waiting: Vec<_> =
        (1..=12).map(|n| pen.only(n % 3, || pen.connect(client(n as u8)))).collect();
    eventually("all but one are answered", || {
        waiting.iter().filter(|client| client.has_news()).count() >= 11
    });
    assert_eq!(pen.report().server(1, "connections"), 1, "one connection tries it");
    let prober = waiting.iter().find(|client| !client.has_news()).expect("one waits");
    let _revived = hole.revive(greeter("b"));
    assert_eq!(
        prober.line().as_deref(),
        Some("b"),
        "who waited is served by the server that came back"
    );
    prober.finish();
    eventually("it is in rotation again", || pen.ask(client(50)).as_deref() == Some("b"));
}

#[test]
fn a_server_that_does_not_answer_is_given_up_after_the_connect_timeout() {
    let a = Backend::named("a");
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let pen = Pen::builder()
        .options(["-t", "1"])
        .server(&a)
        .server_as(port.address().to_string())
        .start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    pen.hears(&format!("blacklisting server 1 ({}) for 30 s: ", port.address()));
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"), "and remembered there");
    assert_eq!(pen.report().server(1, "connections"), 0);
}

#[test]
fn a_client_that_waits_for_a_silent_server_delays_nobody() {
    let a = Backend::named("a");
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let pen = Pen::builder()
        .workers(1)
        .options(["-r", "-t", "3600"])
        .server(&a)
        .server_as(port.address().to_string())
        .start();
    let waiting = pen.connect(client(1));
    eventually("its connect is pending", || pen.report().server(1, "connections") == 1);
    // Every other selection is the silent server, and no worker knows that yet.
    let crowd: Vec<_> = (0..20).map(|_| pen.connect(client(2))).collect();
    eventually("half of them are served", || {
        crowd.iter().filter(|client| client.has_news()).count() == 10
    });
    assert!(!waiting.has_news());
    waiting.reset();
    crowd.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn a_client_that_leaves_while_its_connect_is_pending_gives_everything_back() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let pen = Pen::builder().options(["-t", "3600"]).server_as(port.address().to_string()).start();
    for round in 1..=3 {
        let client = pen.connect(client(round));
        eventually("its connect is pending", || pen.report().in_use() == 1);
        client.reset();
        pen.settle();
    }
}

#[test]
fn blacklist_time_0_never_leaves_a_server_out_and_tries_each_once_per_client() {
    let farm = [Backend::down("a"), Backend::down("b"), Backend::down("c")];
    let pen = Pen::builder().options(["-b", "0"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)), None);
    pen.hears(") failed and is used all the same (-b 0): connection refused");
    farm[2].start();
    for n in 1..=6 {
        assert_eq!(pen.only(usize::from(n) % 3, || pen.ask(client(n))).as_deref(), Some("c"));
    }
    farm[0].start();
    assert_eq!(pen.ask(client(8)).as_deref(), Some("c"), "the selection is b, which fails");
    farm[1].start();
    let all: String = (20..=25).map(|n| pen.ask(client(n)).unwrap()).collect();
    for name in ["a", "b", "c"] {
        assert_eq!(all.matches(name).count(), 2, "all are back at once: {all}");
    }
}

#[test]
fn while_all_servers_are_blacklisted_clients_are_closed_without_an_attempt() {
    let farm = [Backend::down("a"), Backend::down("b")];
    let pen = Pen::builder().options(["-b", "3600"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)), None);
    farm.iter().for_each(Backend::start);
    for n in 0..6 {
        assert_eq!(pen.only(n % 3, || pen.ask(client(2))), None);
    }
    assert!(farm.iter().all(|backend| backend.accepted() == 0));
}

#[test]
fn a_failure_after_the_connection_stood_blacklists_nobody() {
    let rude = Backend::with(|mut connection| {
        connection.write_all(b"hello\n")?;
        connection.read_exact(&mut [0])?;
        connection.set_linger(Some(Duration::ZERO))
    });
    let pen = Pen::builder().server(&rude).start();
    for n in 1..=6 {
        let (client, _) = pen.hold(client(n)).unwrap();
        client.send("x");
        assert!(client.read(1).is_err(), "reset");
    }
    assert_eq!(rude.accepted(), 6);
    assert!(!pen.said().contains("blacklisting"));
}

#[test]
fn each_server_that_is_used_all_the_same_is_told_to_have_failed() {
    let farm = [Backend::down("a"), Backend::down("b"), Backend::named("c")];
    let pen = Pen::builder().workers(1).options(["-r", "-b", "0"]).servers(&farm).start();
    for _ in 0..20 {
        assert_eq!(pen.ask(client(1)).as_deref(), Some("c"));
        assert_eq!(pen.ask(client(2)).as_deref(), Some("c"));
    }
    pen.hears(&format!("server 0 ({}) failed and is used all the same", farm[0].operand()));
    pen.hears(&format!("server 1 ({}) failed and is used all the same", farm[1].operand()));
}
