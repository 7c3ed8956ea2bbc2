//! Commands about connections and clients: times, limits, sockets, and their effect on open
//! connections.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use crate::harness::steering::{all_give, client, each_worker_for, steered};
use crate::harness::{Backend, Gate, Pen, Port, Report, eventually};

#[test]
fn tracking_time_and_blacklist_time_apply_from_now_on() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    let first = pen.ask(client(1)).unwrap();
    assert_eq!(each_worker_for(&pen, 1), [first.as_str(); 3]);
    pen.tells("tracking 1", "1");
    let mut seen = BTreeSet::from([first]);
    eventually("a client that stays away longer than a second is placed as a new one", || {
        pen.await_age(client(1), 2);
        seen.insert(pen.ask(client(1)).unwrap());
        seen.len() == 2
    });
    pen.tells("tracking 0", "0");
    pen.tells("blacklist 0", "0");
    farm[1].stop();
    for n in 10..16 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    assert!(!pen.said().contains("blacklisting"), "{}", pen.said());
    pen.tells("blacklist 40", "40");
    eventually("the dead server is found dead", || {
        pen.ask(client(30)).is_some() && pen.said().contains("for 40 s")
    });
}

#[test]
fn the_connect_timeout_applies_from_now_on() {
    let port = Port::reserve();
    let hole = crate::harness::backend::Blackhole::on(&port);
    let server = Backend::named("a");
    let pen = Pen::builder()
        .server_as(port.address().to_string())
        .server(&server)
        .options(["-t", "1000", "--prio"])
        .control()
        .start();
    pen.tells("server 1 prio 1", "");
    pen.tells("timeout", "1000");
    pen.tells("timeout 1", "1");
    for worker in 0..3 {
        pen.tells("server 0 blacklist 0", "");
        assert_eq!(pen.only(worker, || pen.ask(client(worker as u8 + 1))).as_deref(), Some("a"));
    }
    drop(hole);
}

#[test]
fn idle_connections_are_closed_in_time_also_those_that_are_open() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let held = [0, 1, 2].map(|worker| pen.only(worker, || pen.hold(client(1)).unwrap().0));
    pen.tells("idle_timeout 1", "Idle timeout: 1 seconds");
    for held in held {
        assert!(held.read_to_end().is_ok(), "an end of file");
    }
    pen.settle();
}

#[test]
fn an_idle_half_closed_connection_with_all_data_sent_is_not_reset() {
    const MUCH: usize = 20_000_000;
    let (closed, error) = (Gate::closed(), Arc::new(Mutex::new(None)));
    let (is_closed, kept) = (closed.clone(), error.clone());
    let server = Backend::with(move |mut connection| {
        connection.read_to_end(&mut Vec::new())?;
        connection.write_all(&vec![b'x'; MUCH])?;
        is_closed.pass();
        *kept.lock().unwrap() = Some(connection.take_error()?);
        Ok(())
    });
    let pen = Pen::builder().server(&server).control().start();
    let held = pen.connect(client(1));
    held.finish();
    held.read_exactly(MUCH);
    pen.tells("idle_timeout 1", "Idle timeout: 1 seconds");
    assert_eq!(held.read_to_end().unwrap(), b"");
    closed.open();
    eventually("the server has looked at its socket", || error.lock().unwrap().is_some());
    let error = error.lock().unwrap().take().unwrap();
    assert!(error.is_none(), "{error:?}");
    pen.settle();
}

#[test]
fn fastclose_makes_one_end_the_end_of_both() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    for (how, worker) in [("down", 0), ("both", 1), ("both", 2)] {
        pen.tells(&format!("tcp_fastclose {how}"), "");
        let (held, _) = pen.only(worker, || pen.hold(client(1)).unwrap());
        held.finish();
        assert_eq!(held.read_to_end().unwrap(), b"");
    }
    for quiet in [
        "tcp_fastclose up",
        "tcp_fastclose off",
        "tcp_nodelay",
        "no tcp_nodelay",
        "keepalive",
        "no keepalive",
    ] {
        pen.tells(quiet, "");
    }
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn the_source_address_is_what_servers_see() {
    let server = Backend::with(|mut connection| {
        use std::io::Write;
        let peer = connection.peer_addr()?.as_socket().unwrap().ip();
        connection.write_all(format!("{peer}\n").as_bytes())
    });
    let pen = steered([&server]).start();
    all_give(&pen, 1, "127.0.0.1");
    pen.tells("source 127.20.7.7", "");
    all_give(&pen, 10, "127.20.7.7");
    assert_eq!(pen.refuses("source nonsense"), "unable to set source address to 'nonsense'");
    assert_eq!(pen.refuses("source 192.0.2.7"), "unable to set source address to '192.0.2.7'");
    all_give(&pen, 20, "127.20.7.7");
}

#[test]
fn dummy_answers_without_a_server() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    pen.tells("dummy", "");
    for worker in 0..3 {
        let page = pen.only(worker, || {
            let client = pen.connect(client(1));
            client.send("GET / HTTP/1.0\r\n\r\n");
            String::from_utf8(client.read_to_end().unwrap()).unwrap()
        });
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nUlric was here."),
            "{page:?}"
        );
        assert!(
            page.contains("Content-Length: 15\r\n") && page.contains("Content-Type: text/html\r\n"),
            "{page:?}"
        );
    }
    assert_eq!(server.accepted(), 0);
    pen.tells("no dummy", "");
    all_give(&pen, 10, "a");
}

#[test]
fn idlers_are_opened_kept_and_closed() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tell("idlers 6");
    eventually("six idlers are open", || {
        pen.tell("idlers") == "Idlers: 6/6\n" && farm[0].open() + farm[1].open() == 6
    });
    farm[0].die();
    farm[0].start();
    eventually("they are opened again", || {
        pen.tell("idlers") == "Idlers: 6/6\n" && farm[0].open() + farm[1].open() == 6
    });
    assert_eq!(
        pen.ask(client(1)).map(|name| name.len()),
        Some(1),
        "clients get servers of their own"
    );
    pen.tell("idlers 0");
    eventually("they are closed", || {
        pen.tell("idlers") == "Idlers: 0/0\n" && farm[0].open() + farm[1].open() == 0
    });
}

#[test]
fn a_larger_conn_max_lets_those_in_who_wait() {
    let server = Backend::named("a");
    let pen = steered([&server]).options(["-x", "2"]).start();
    let _held = [1, 2].map(|n| pen.hold(client(n)).unwrap());
    let waiting = pen.connect(client(3));
    assert!(!waiting.has_news());
    pen.tells("conn_max 4", "4");
    assert_eq!(waiting.line().as_deref(), Some("a"));
}

#[test]
fn a_larger_client_table_keeps_its_clients_and_holds_more() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = steered(&farm).options(["-c", "4"]).start();
    let before: Vec<String> = (1..=4).map(|n| pen.ask(client(n)).unwrap()).collect();
    pen.tells("clients_max 100", "100");
    for n in 5..=60 {
        pen.ask(client(n)).unwrap();
    }
    for worker in 0..3 {
        let after: Vec<String> =
            pen.only(worker, || (1..=4).map(|n| pen.ask(client(n)).unwrap()).collect());
        assert_eq!(after, before, "worker {worker}");
    }
    assert_eq!(pen.tell("recent").lines().count(), 60);
}

#[test]
fn facts_about_a_connection_and_its_end() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let unused =
        "Connection 0:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 0\npend = 0";
    pen.tells("connection", unused);
    let (held, _) = pen.only(1, || pen.hold(client(1)).unwrap());
    let facts = pen.tell("connection 0");
    let lines: Vec<&str> = facts.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (5, "Connection 0:", "state = 2"), "{facts}");
    assert!(
        lines[2].starts_with("downfd = ")
            && lines[2].contains(", upfd = ")
            && !lines[2].contains("-1"),
        "{facts}"
    );
    assert_eq!(lines[3..], ["client = 0, server = 0", "pend = 0"]);
    held.finish();
    eventually("the client's end is seen", || {
        let state = pen.tell("connection 0");
        state.contains("state = 10\n") || state.contains("state = 0\n")
    });
    let (other, _) = pen.only(2, || pen.hold(client(2)).unwrap());
    let report = Report::parse(pen.tell("status"));
    let number = &report.connections.last().unwrap()["connection"];
    pen.tells(&format!("close {number}"), &format!("Forcibly closing connection {number}"));
    assert!(other.read_to_end().unwrap_or_default().is_empty(), "the client is cut off");
    pen.tells("close 5", "close: connection 5 is not in use");
    pen.tells("close 256", "Connection 256 out of range");
    pen.tells("socket 7", "Socket 7 belongs to connection -1");
    drop(held);
    pen.settle();
}
