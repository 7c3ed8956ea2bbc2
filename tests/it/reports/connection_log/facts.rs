//! What a line says besides the end: times, addresses, TLS.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{entries, logging};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Gate, Pen, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 82, 0, number)
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("{key} of {line}"))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

#[test]
fn times_are_within_what_the_client_has_measured() {
    // Longer than a millisecond, so that truncation is no excuse.
    const WAIT: Duration = Duration::from_millis(40);
    let (gate, asked) = (Gate::closed(), Gate::closed());
    let server = {
        let (gate, asked) = (gate.clone(), asked.clone());
        Backend::with(move |mut connection| {
            connection.read_exact(&mut [0])?;
            asked.open();
            gate.pass();
            connection.write_all(b"answer")
        })
    };
    let (builder, log) = logging(Pen::builder().server(&server));
    let pen = builder.start();
    let (before, begun) = (SystemTime::now(), Instant::now());
    let client = pen.connect(client(1));
    client.send("?");
    asked.pass();
    let closed = Instant::now();
    eventually("the server has thought", || closed.elapsed() >= WAIT);
    gate.open();
    assert_eq!(client.read_to_end().unwrap(), b"answer");
    drop(client);
    let line = entries(&log, 1).remove(0);
    let whole = milliseconds(begun.elapsed()) + 1;
    let [wait, connect, first_byte, total] =
        ["wait_ms", "connect_ms", "first_byte_ms", "total_ms"].map(|key| number(&line, key));
    assert!(first_byte + 1 >= milliseconds(WAIT), "{line}");
    assert!(total >= first_byte && wait + connect + first_byte <= total + 1, "{line}");
    assert!(total <= whole, "{line}: the client measured {whole}");
    // date(1) reads RFC 3339.
    let date = ["--date", line["time"].as_str().unwrap(), "+%s%3N"];
    let time = Command::new("date").args(date).output().unwrap().stdout;
    let time: u64 = String::from_utf8(time).unwrap().trim().parse().unwrap();
    let since = |time: SystemTime| milliseconds(time.duration_since(UNIX_EPOCH).unwrap());
    assert!((since(before)..=since(SystemTime::now())).contains(&time), "{line}");
    assert_eq!(line["listen"], pen.address().to_string());
}

#[test]
fn a_client_that_is_passed_on_has_the_server_that_served_it() {
    let (down, server) = (Backend::down("a"), Backend::named("b"));
    let (builder, log) = logging(Pen::builder().options(["-r"]).servers([&down, &server]));
    let pen = builder.start();
    let mut tried = 0;
    // Round robin begins anywhere.
    eventually("a client is passed on", || {
        tried += 1;
        assert_eq!(pen.ask(client(tried)).as_deref(), Some("b"));
        let lines = entries(&log, tried.into());
        assert!(lines.iter().all(|line| line["address"] == server.operand()), "{lines:?}");
        assert!(lines.iter().all(|line| line["server"] == 1), "{lines:?}");
        lines.iter().any(|line| line["attempts"] == 2)
    });
}

#[test]
fn a_client_of_a_unix_socket_has_no_port() {
    let builder = Pen::builder();
    let (front, back) = (builder.directory().join("front"), builder.directory().join("back"));
    let server = Backend::named_unix(&back, "a");
    let (builder, log) = logging(builder.listen(&front).server_as(&back));
    let _pen = builder.options(["-u", "root"]).start();
    drop(Client::connect_unix(&front).unwrap());
    let line = entries(&log, 1).remove(0);
    assert_eq!((&line["client"], &line["client_port"]), (&json!("unix"), &Value::Null));
    assert_eq!(line["listen"], front.to_str().unwrap());
    assert_eq!(line["address"], back.to_str().unwrap());
    drop(server);
}

#[test]
fn a_session_is_told_with_its_name_and_that_it_was_resumed() {
    let authority = Authority::root("Test CA");
    let identity = authority.issue(&["www.example"]);
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let text = format!("{}{}", identity.key, identity.chain);
    let certificate = write(builder.directory(), "a.pem", text);
    let (builder, log) = logging(builder.options(["-E", certificate.to_str().unwrap()]));
    let pen = builder.start();
    let mut client = authority.client();
    for _ in 0..2 {
        assert_eq!(client.ask(pen.address(), "www.example").unwrap().0, "a");
    }
    let lines = entries(&log, 2);
    for (line, resumed) in lines.iter().zip([false, true]) {
        let tls = &line["tls"];
        assert_eq!((&tls["version"], &tls["resumed"]), (&json!("TLSv1.3"), &json!(resumed)));
        assert_eq!(tls["name"], "www.example");
        assert!(tls["cipher"].as_str().unwrap().starts_with("TLS_"), "{line}");
        assert!(number(line, "tls_ms") <= number(line, "total_ms"), "{line}");
        // The greeting, without TLS.
        assert_eq!(number(line, "bytes_sent"), 2, "{line}");
    }
}

#[test]
fn connections_that_were_open_before_the_log_have_a_line_with_what_is_known() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().by_nobody().server(&server).control().start();
    let held = pen.hold(client(1)).unwrap();
    let log = crate::harness::steering::open_directory(&pen).join("connections");
    pen.tell("connection_log_format json");
    pen.tell(&format!("connection_log {}", log.display()));
    drop(pen.hold(client(2)).unwrap());
    drop(held);
    let mut lines = entries(&log, 2);
    lines.sort_by_key(|line| line["client"].as_str().unwrap().to_owned());
    assert_eq!((&lines[0]["bytes_sent"], &lines[1]["bytes_sent"]), (&Value::Null, &json!(2)));
    assert!(lines.iter().all(|line| line["end"] == "client" && line["server"] == 0), "{lines:?}");
    pen.tell("no connection_log");
    assert_eq!(pen.ask(client(3)).as_deref(), Some("a"));
    pen.end_by(Signal::TERM);
    assert_eq!(entries(&log, 2).len(), 2);
}
