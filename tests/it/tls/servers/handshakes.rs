//! Handshakes: versions, resumption, pen's own certificate, and servers that break them off.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};

use rustls::ProtocolVersion;
use serde_json::Value;

use super::{failures, pen};
use crate::harness::tls::{Authority, ONLY_12, ONLY_13, write};
use crate::harness::tls_server::TlsServer;
use crate::harness::{Backend, Builder, Client, Gate, Pen, eventually};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn later_connections_resume_the_session_in_both_versions() {
    let root = Authority::root("root");
    for (versions, version, names) in [
        (ONLY_12, ProtocolVersion::TLSv1_2, ["tls12", "tls12_resumed"]),
        (ONLY_13, ProtocolVersion::TLSv1_3, ["tls13", "tls13_resumed"]),
    ] {
        let identity = root.issue(&["127.0.0.1"]);
        let server = TlsServer::named("one", identity).speaks(versions).start();
        let pen = pen(&root).workers(1).server(&server.backend).start();
        for _ in 0..4 {
            assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
        }
        let seen = server.seen();
        let resumed: Vec<bool> = seen.iter().map(|seen| seen.resumed).collect();
        assert_eq!(resumed, [false, true, true, true], "{version:?}");
        assert!(seen.iter().all(|seen| seen.version == Some(version)));
        eventually("all are counted", || {
            let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
            names.map(|name| status["server_tls_handshakes"][name].as_u64().unwrap()) == [1, 3]
        });
    }
}

#[test]
fn nothing_is_resumed_under_another_name_or_at_another_address() {
    let root = Authority::root("root");
    for versions in [ONLY_12, ONLY_13] {
        let identity = root.issue(&["127.0.0.1", "a.example"]);
        let [one, other] = TlsServer::named("one", identity).speaks(versions).start_two();
        let pen = pen(&root).workers(1).server(&one.backend).start();
        let are_resumed = || {
            let before = one.seen().len();
            for _ in 0..2 {
                assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
            }
            let seen = one.seen();
            [before, before + 1].map(|place| seen[place].resumed)
        };
        assert_eq!(are_resumed(), [false, true]);
        assert_eq!(are_resumed(), [true, true]);
        // Each of these would resume the sessions from before, and pen has read no file since.
        pen.tell("server_tls_name a.example");
        assert_eq!(are_resumed(), [false, true]);
        let (ip, port) = (other.backend.address().ip(), other.backend.address().port());
        pen.tell(&format!("server 0 address {ip} port {port}"));
        assert_eq!(are_resumed(), [false, true]);
        assert_eq!(other.backend.accepted(), 2);
    }
}

/// So many connections to a server that never ends its handshake, and so much of it.
const UNFINISHED: usize = 400;
const PART: usize = 60_000;

/// So many of them have 16 MiB.
const MOST_LEFT: usize = (16 << 20) / PART;

/// The beginning of the hello of a server (RFC 8446, 4.1.3), in records.
fn begun_hello() -> Vec<u8> {
    let mut message = vec![2, 0, 0xff, 0xf0];
    message.resize(PART, 0);
    let record =
        |part: &[u8]| [&[22, 3, 3, (part.len() >> 8) as u8, part.len() as u8], part].concat();
    message.chunks(16_000).flat_map(record).collect()
}

#[test]
fn a_server_that_never_ends_its_messages_gets_little_memory_and_loses_its_clients() {
    let root = Authority::root("root");
    let good = TlsServer::named("good", root.issue(&["127.0.0.1"])).start();
    let hostile = Backend::with(|mut socket| {
        socket.write_all(&begun_hello())?;
        socket.read_to_end(&mut Vec::new()).map(drop)
    });
    let settings = ["-O", "timeout 600", "-O", "pending_max 1000", "-x", "1000"];
    let builder = pen(&root).workers(1).options(settings);
    let pen = builder.servers([&hostile, &good.backend]).start();
    pen.tell("server 1 state maint");
    let before = UNFINISHED / 2;
    let mut clients: Vec<Client> = (0..before).map(|_| pen.connect(LOCALHOST)).collect();
    eventually("these are with the server", || hostile.accepted() == before);
    pen.tell("server 1 state ready");
    clients.extend((before..UNFINISHED).map(|_| pen.connect(LOCALHOST)));
    pen.hears(&format!("blacklisting server 0 ({}) for 30 s: timeout in the", hostile.address()));
    eventually("only so many are left with it", || hostile.open() <= MOST_LEFT);
    // Nobody was closed, and those who come have the other one.
    eventually("the others are with the other one", || {
        hostile.open() + good.backend.open() == UNFINISHED
    });
    assert_eq!(pen.report().in_use(), UNFINISHED as i64);
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("good"));
    clients.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn what_a_failed_handshake_has_left_counts_no_more() {
    let root = Authority::root("root");
    let bad = Backend::with(|mut socket| {
        socket.write_all(&begun_hello())?;
        socket.shutdown(Shutdown::Write)?;
        socket.read_to_end(&mut Vec::new()).map(drop)
    });
    let settings = ["-O", "blacklist 0", "-O", "hold 600", "-O", "pending_max 1000", "-x", "1000"];
    let pen = pen(&root).workers(1).options(settings).server(&bad).start();
    let clients: Vec<Client> = (0..UNFINISHED).map(|_| pen.connect(LOCALHOST)).collect();
    eventually("each has failed", || failures(&pen, "closed") >= UNFINISHED as u64);
    let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
    assert_eq!(status["counters"]["crowded"], 0, "{}", pen.said());
    clients.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn a_server_may_ask_for_a_certificate_and_gets_the_one_that_pen_has() {
    let root = Authority::root("root");
    for versions in [ONLY_12, ONLY_13] {
        let server = TlsServer::named("one", root.issue(&["127.0.0.1"]));
        let server = server.asks(&root).speaks(versions).start();
        let with = |builder: Builder, authority: &Authority| {
            let own = authority.issue(&["client"]);
            let file = write(builder.directory(), "own.pem", own.chain);
            let key = write(builder.directory(), "own.key", own.key);
            let command = format!("server_tls_cert {} {}", file.display(), key.display());
            builder.options(["-O", &command]).server(&server.backend).start()
        };
        let certified = with(pen(&root), &root);
        assert_eq!(certified.ask(LOCALHOST).as_deref(), Some("one"));
        assert!(server.seen()[0].certified);
        // One of a stranger, and none. In TLS 1.3, pen has taken the connection for established.
        let others = [
            with(pen(&root), &Authority::root("stranger")),
            pen(&root).server(&server.backend).start(),
        ];
        for refused in others {
            let client = refused.connect(LOCALHOST);
            let _ = client.read_to_end();
            eventually("it is a failure", || failures(&refused, "alert") == 1);
            refused.hears("blacklisting server 0 (");
            refused.hears("it ended the TLS handshake: ");
        }
        assert_eq!(server.seen().len(), 1);
    }
}

/// The client of a server that fails gets the other one, and the failure has this reason.
#[track_caller]
fn is_passed_over(bad: Backend, reason: &str, text: &str) {
    let root = Authority::root("root");
    let good = TlsServer::named("good", root.issue(&["127.0.0.1"])).start();
    let builder = pen(&root).options(["-r", "-O", "timeout 1"]);
    let pen = builder.servers([&bad, &good.backend]).start();
    for _ in 0..2 {
        assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("good"), "{reason}");
    }
    eventually("it is counted", || failures(&pen, reason) == 1);
    pen.hears(&format!("blacklisting server 0 ({}) for 30 s: {text}", bad.address()));
}

#[test]
fn a_server_that_breaks_off_is_a_failed_connect() {
    let bad = Backend::with(|mut socket| {
        // After the hello.
        socket.read_exact(&mut [0; 5])
    });
    is_passed_over(bad, "closed", "closed in the TLS handshake");
}

#[test]
fn a_server_that_is_silent_in_the_handshake_is_one_too() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let bad = Backend::with(move |_| {
        waiting.pass();
        Ok(())
    });
    is_passed_over(bad, "timeout", "timeout in the TLS handshake");
    gate.open();
}

#[test]
fn a_server_that_does_not_speak_tls_is_one_too() {
    let bad = Backend::with(|mut socket| socket.write_all(b"220 mail.example ESMTP\r\n"));
    is_passed_over(bad, "not_tls", "its answer is not TLS");
}

#[test]
fn a_client_that_leaves_in_the_handshake_leaves_nothing_behind() {
    let root = Authority::root("root");
    let gate = Gate::closed();
    let waiting = gate.clone();
    let silent = Backend::with(move |_| {
        waiting.pass();
        Ok(())
    });
    let pen: Pen = pen(&root).server(&silent).start();
    let client = pen.connect(LOCALHOST);
    eventually("pen has connected", || silent.accepted() == 1);
    client.reset();
    eventually("nothing is left", || pen.report().in_use() == 0);
    gate.open();
}
