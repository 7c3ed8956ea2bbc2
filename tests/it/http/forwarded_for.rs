//! `-H`: pen adds the client's address to every HTTP request, and changes nothing else.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::harness::numbers::Bytes;
use crate::harness::program::curl;
use crate::harness::recorder::shown;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Gate, Pen, Port, Program, Recorder, eventually, until};

const ME: Ipv4Addr = Ipv4Addr::new(127, 12, 0, 1);

/// The fields that pen adds to a request without them.
const ADDED: &str = "X-Forwarded-Proto: http\r\nX-Forwarded-For: 127.12.0.1\r\n";

/// A request with a forged client address.
const FORGED: &str = "GET /forged HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

/// The same request after pen.
const NAMED: &str = "GET /forged HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 6.6.6.6, \
    127.12.0.1\r\n\r\n";

fn pen(server: &Backend) -> Pen {
    Pen::builder().options(["-H", "-d"]).server(server).start()
}

/// A head, with or without the added fields.
fn get(path: &str, added: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{added}\r\n")
}

#[test]
fn requests_come_out_as_the_manual_says() {
    let server = Recorder::silent();
    let pen = pen(&server.backend);
    let body = get("/trap", "");
    let put = |length: &str, added: &str| format!("PUT /p HTTP/1.1\r\n{length}\r\n{added}\r\n");
    let long = "X: ".to_owned() + &"y".repeat(40_000) + "\r\n";
    let chunks =
        format!("5\r\nhello\r\n{:x};ext=\"1\"\r\n{body}\r\n0\r\nTrailer: x\r\n\r\n", body.len());
    let length = format!("Content-Length: {}", body.len());
    let rows = [
        (get("/", ""), get("/", ADDED)),
        (
            get("/1", "") + &get("/2", "") + &get("/3", ""),
            get("/1", ADDED) + &get("/2", ADDED) + &get("/3", ADDED),
        ),
        (put(&length, "") + &body + FORGED, put(&length, ADDED) + &body + NAMED),
        (
            put("Transfer-Encoding: chunked", "") + &chunks + FORGED,
            put("Transfer-Encoding: chunked", ADDED) + &chunks + NAMED,
        ),
        ("odd!method /x HTTP/1.0\r\n\r\n".into(), format!("odd!method /x HTTP/1.0\r\n{ADDED}\r\n")),
        (
            "GET / HTTP/1.1\nHost: x\n\n".into(),
            format!("GET / HTTP/1.1\nHost: x\n{}\n", ADDED.replace('\r', "")),
        ),
        // Empty lines before a request do not belong to it.
        ("\r\n\n".to_owned() + FORGED, NAMED.to_owned()),
        (format!("GET / HTTP/1.1\r\n{long}\r\n"), format!("GET / HTTP/1.1\r\n{long}{ADDED}\r\n")),
        ("".into(), "".into()),
    ];
    comes_out(&server, &pen, &rows);
}

#[test]
fn mixed_passes_what_is_not_http() {
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-O", "http mixed"]).server(&server.backend).start();
    let passes = |text: &str| (text.to_owned() + FORGED, text.to_owned() + FORGED);
    let rows = [
        (get("/", ""), get("/", ADDED)),
        passes("GET /\r\n"),
        passes("EHLO me\r\n"),
        passes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        passes("\x16\x03\x01\0"),
        (get("/", "") + "\0" + FORGED, get("/", ADDED) + "\0" + FORGED),
        ("QUIT".into(), "QUIT".into()),
    ];
    comes_out(&server, &pen, &rows);
}

#[test]
fn mixed_holds_nothing_back_for_long() {
    // MySQL's request for TLS, LDAP's bind: no HTTP request can begin so, and the client waits for
    // an answer.
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-O", "http mixed"]).server(&server.backend).start();
    let ssl_request = b" \0\0\x01\x85\xae\xff\0\0\0\0\x01\xff".as_slice();
    let rows =
        [ssl_request, b"0\x0c\x02\x01\x01\x60\x07", b"{\"id\":1}", b"PING", b"GET / HTTP/1.1\r"];
    for (connection, sent) in rows.into_iter().enumerate() {
        let client = pen.connect(ME);
        client.send(sent);
        server.has(connection, sent);
        client.send(FORGED);
        server.has(connection, [sent, FORGED.as_bytes()].concat());
    }
}

/// Checks the server's input for a client's output: sent in one piece, cut anywhere, and byte by
/// byte (unless that takes too long).
#[track_caller]
fn comes_out(server: &Recorder, pen: &Pen, rows: &[(String, String)]) {
    let mut connection = 0;
    for (sent, expected) in rows {
        let sizes = [sent.len().max(1), 100, 7, 1];
        for size in sizes.into_iter().filter(|size| sent.len() / size < 2000) {
            let client = pen.connect(ME);
            client.socket().set_tcp_nodelay(true).unwrap();
            sent.as_bytes().chunks(size).for_each(|piece| client.send(piece));
            client.finish();
            assert_eq!(client.read_to_end().unwrap(), b"", "a silent server");
            let got = server.whole(connection);
            assert_eq!(
                shown(&got),
                shown(expected.as_bytes()),
                "{:.200?} in pieces of {size}",
                sent
            );
            connection += 1;
        }
    }
}

#[test]
fn what_is_not_quite_http_reaches_no_server() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let server =
        Recorder::answering(|_, before| if before == 0 { ANSWER.to_vec() } else { Vec::new() });
    let pen = pen(&server.backend);
    let post = |lines: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    let chunked = post("Transfer-Encoding: chunked\r\n");
    let named = post(&format!("Transfer-Encoding: chunked\r\n{ADDED}"));
    let nothing = String::new();
    let mut many = String::new();
    (0..1000).for_each(|n| many.push_str(&format!("X-{n}: y\r\n")));
    let rows = [
        (post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\nG", &nothing),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n") + "0\r\n\r\nG", &nothing),
        (post("Content-Length: 6\r\nContent-Length: 5\r\n") + "123456", &nothing),
        (post("Content-Length: 5\r\nContent-Length: 5\r\n") + "12345", &nothing),
        (post("Content-Length: 5, 6\r\n") + "12345", &nothing),
        (post("Content-Length: +5\r\n") + "12345", &nothing),
        (post("Content-Length: 5x\r\n") + "12345", &nothing),
        (post("Content-Length: -1\r\n"), &nothing),
        (post("Content-Length: 18446744073709551621\r\n") + "12345", &nothing),
        (post("Content_Length: 5\r\n") + "12345", &nothing),
        (post("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", &nothing),
        (post("Transfer-Encoding: identity, chunked\r\n") + "0\r\n\r\n", &nothing),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n") + "0\r\n\r\n", &nothing),
        (post("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n", &nothing),
        (post("Transfer-Encoding: \x0bchunked\r\n") + "0\r\n\r\n", &nothing),
        (post("X: y\r\n Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", &nothing),
        (post("X: y\rTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", &nothing),
        (post("X: y\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", &nothing),
        (post("X: \0\r\n"), &nothing),
        (post("no field\r\n"), &nothing),
        (post(&many), &nothing),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), &nothing),
        ("GET  / HTTP/1.1\r\n\r\n".into(), &nothing),
        ("GET / HTTP/1.1\r\r\n\r\n".into(), &nothing),
        ("\rGET / HTTP/1.1\r\n\r\n".into(), &nothing),
        ("GET /\x01 HTTP/1.1\r\n\r\n".into(), &nothing),
        (" GET / HTTP/1.1\r\n\r\n".into(), &nothing),
        ("GET / HTTP/2.0\r\n\r\n".into(), &nothing),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &nothing),
        ("GET /\r\n".into(), &nothing),
        ("EHLO me\r\n".into(), &nothing),
        ("GET /\x1c HTTP/1.1\r\n\r\n".into(), &nothing),
        ("GET /\u{85}HTTP/1.1\r\n\r\n".into(), &nothing),
        ("\x16\x03\x01\0".into(), &nothing),
        ("PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\n".into(), &nothing),
        ("\r\n\r\n\0\r\nQUIT\n".into(), &nothing),
        ("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345".into(), &nothing),
        // Of a body, the correct part passes, and no more.
        (chunked.clone() + "0x5\r\nhello\r\n0\r\n\r\n", &(named.clone() + "0")),
        (chunked.clone() + "5\nhello\n0\n\n", &(named.clone() + "5")),
        (chunked.clone() + "5;a\rb\r\nhello\r\n0\r\n\r\n", &(named.clone() + "5;a\r")),
        (chunked.clone() + "5\r\nhelloX\r\n0\r\n\r\n", &(named.clone() + "5\r\nhello")),
        (chunked.clone() + "0\r\nGET /x: HTTP/1.1\r\n\r\n", &(named.clone() + "0\r\n")),
        (chunked.clone() + "fffffffffffffffff\r\n", &(named.clone() + "fffffffffffffff")),
    ];
    let mut connection = 0;
    for (bad, expected) in rows {
        for size in [usize::MAX, 1] {
            let client = pen.connect(ME);
            client.socket().set_tcp_nodelay(true).unwrap();
            client.send(FORGED);
            server.has(connection, NAMED);
            assert_eq!(client.read_exactly(ANSWER.len()), ANSWER);
            let sent = bad.clone() + FORGED;
            // The first refused byte may already have closed the connection.
            let _ = sent.as_bytes().chunks(size.min(sent.len())).try_for_each(|piece| {
                use std::io::Write;
                let mut socket = client.socket();
                socket.write_all(piece)
            });
            // The connection is closed, although this side has not ended.
            let said = client.read_to_end().unwrap_or_default();
            assert!(
                said.is_empty()
                    || said.starts_with(b"HTTP/1.1 4")
                    || said.starts_with(b"HTTP/1.1 5"),
                "{bad:.200?}"
            );
            let got = server.whole(connection);
            assert_eq!(
                shown(&got),
                shown((NAMED.to_owned() + expected).as_bytes()),
                "{bad:.200?} by {size}"
            );
            connection += 1;
        }
    }
    pen.hears("request refused: malformed or ambiguous length");
    pen.settle();
}

#[test]
fn a_refused_request_gets_a_status_and_is_counted() {
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-H"]).control().server(&server.backend).start();
    for (sent, status) in [
        ("GET /\r\n", "400 Bad Request"),
        ("\x16\x03\x01", "400 Bad Request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP Version Not Supported"),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "413 Content Too Large",
        ),
        ("POST / HTTP/1.1\r\nExpect: x\r\n\r\n", "417 Expectation Failed"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx", "400 Bad Request"),
    ] {
        let client = pen.connect(ME);
        client.send(sent);
        let expected =
            format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(shown(&client.read_to_end().unwrap()), shown(expected.as_bytes()), "{sent:?}");
    }
    let client = pen.connect(ME);
    client.send("GET / HTTP/1.1\r\nX: ");
    client.send("y".repeat(64 * 1024));
    assert!(client.read_to_end().unwrap().starts_with(b"HTTP/1.1 431 "));
    pen.settle();
    let report = pen.tell("status json");
    let counts = |name: &str, count: u32| {
        assert!(report.contains(&format!("\"{name}\":{count}")), "{name}: {report}")
    };
    for (name, count) in
        [("not_http", 2), ("version", 1), ("too_large", 1), ("too_long", 1), ("chunk", 1)]
    {
        counts(name, count);
    }
}

#[test]
fn a_head_has_ten_seconds() {
    let server = Recorder::answering(|bytes, _| match bytes.ends_with(b"\r\n\r\n") {
        true => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => Vec::new(),
    });
    let pen = Pen::builder().options(["-H"]).server(&server.backend).start();
    // A connection without a byte, and one after its answer, may wait without limit.
    let (silent, idle, late, later) =
        (pen.connect(ME), pen.connect(ME), pen.connect(ME), pen.connect(ME));
    for client in [&idle, &later] {
        client.send(get("/", ""));
        assert!(client.read_exactly(15).starts_with(b"HTTP/1.1 200 OK"));
    }
    late.send("GET / HT");
    later.send("GET / HTTP/1.1\r\nHost: x\r\n");
    let expected =
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(shown(&late.read_to_end().unwrap()), shown(expected));
    let rest = later.read_to_end().unwrap();
    assert!(rest.ends_with(expected), "{}", shown(&rest));
    for client in [silent, idle] {
        client.send(get("/", "Connection: close\r\n"));
        client.finish();
        assert!(String::from_utf8(client.read_to_end().unwrap()).unwrap().contains("200 OK"));
    }
    let records: Vec<_> = (0..server.count()).map(|number| server.so_far(number).bytes).collect();
    assert!(!records.iter().any(|bytes| bytes.starts_with(b"GET / HTTP/1.1\r\nHost: x\r\nGET")));
}

#[test]
fn figures_count_what_servers_get() {
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-H"]).control().server(&server.backend).start();
    let client = pen.connect(ME);
    client.send(get("/", "") + "GET /unfinished HTTP/1.1\r\nHost: x\r\n");
    let length = get("/", ADDED).len();
    server.has(0, get("/", ADDED));
    let counted = || pen.tell("servers").contains(&format!("sx {length}"));
    eventually("the figures are there", counted);
}

#[test]
fn an_unfinished_head_does_not_pass_at_the_end() {
    let server = Recorder::silent();
    let pen = pen(&server.backend);
    let client = pen.connect(ME);
    client.send(&FORGED[..FORGED.len() - 2]);
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(server.whole(0), b"");
}

#[test]
fn a_head_goes_on_when_it_is_whole_and_a_body_at_once() {
    let server = Recorder::answering(|bytes, before| match before {
        0 if bytes.ends_with(b"\r\n\r\n") => b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
        _ => Vec::new(),
    });
    let pen = pen(&server.backend);
    let client = pen.connect(ME);
    let head = |added: &str| {
        format!("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n{added}\r\n")
    };
    client.send(head(""));
    assert_eq!(client.read_exactly(25), b"HTTP/1.1 100 Continue\r\n\r\n");
    for (sent, so_far) in [("01234", "01234"), ("5", "012345"), ("6789GET", "0123456789")] {
        client.send(sent);
        server.has(0, head(ADDED) + so_far);
    }
}

/// Sends a request with a large body, gets a large answer, and compares all bytes.
#[test]
fn large_bodies_pass_unaltered_both_ways() {
    const LENGTH: usize = 24 << 20;
    let answer = Bytes::new(7).take(LENGTH);
    let reply = answer.clone();
    let server = Recorder::answering(move |bytes, _| match bytes.ends_with(b"the last") {
        true => [format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes(), &reply]
            .concat(),
        false => Vec::new(),
    });
    let pen = pen(&server.backend);
    let chunk = Bytes::new(9).take(3 << 20);
    let head = |line: &str, added: &str| format!("PUT / HTTP/1.1\r\n{line}\r\n{added}\r\n");
    let chunked = [format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n0\r\n\r\n"].concat();
    let mut body = Bytes::new(8).take(LENGTH);
    body.extend(b"the last");
    let length = format!("Content-Length: {}", body.len());
    let coding = "Transfer-Encoding: chunked";
    let sent =
        [head(coding, "").as_bytes(), &chunked, head(&length, "").as_bytes(), &body].concat();
    let expected =
        [head(coding, ADDED).as_bytes(), &chunked, head(&length, ADDED).as_bytes(), &body].concat();
    let client = pen.connect(ME);
    let writer = client.twin();
    let writing = std::thread::spawn(move || {
        writer.send(sent);
        writer.finish();
    });
    let got = client.read_to_end().unwrap();
    writing.join().unwrap();
    assert!(server.whole(0) == expected, "the request is whole");
    assert!(got.ends_with(&answer) && got.len() < LENGTH + 100, "the answer is whole");
}

#[test]
fn a_protocol_that_the_server_agreed_to_is_left_alone() {
    const UPGRADE: &str = "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    const CONNECT: &str = "CONNECT there:1 HTTP/1.1\r\n";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
    const NO_TUNNEL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    for (request, reply, passes) in [
        (UPGRADE, SWITCH, true),
        (CONNECT, TUNNEL, true),
        (UPGRADE, REFUSED, false),
        (CONNECT, REFUSED, false),
        (CONNECT, NO_TUNNEL, false),
    ] {
        let gate = Gate::closed();
        let server = answers_once(reply, &gate);
        let pen = pen(&server.backend);
        let client = pen.connect(ME);
        // Early bytes wait until pen knows what they are.
        client.send(format!("{request}\r\n{FORGED}"));
        eventually("the request has arrived", || server.backend.accepted() == 1);
        gate.open();
        assert_eq!(client.read_exactly(reply.len()), reply.as_bytes());
        let follows = if passes { FORGED } else { NAMED };
        server.has(0, format!("{request}{ADDED}\r\n{follows}"));
        client.send(FORGED);
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        assert_eq!(
            shown(&server.whole(0)),
            shown(format!("{request}{ADDED}\r\n{follows}{follows}").as_bytes())
        );
    }
}

/// A server that gives one answer when the gate is open.
fn answers_once(reply: &'static str, gate: &Gate) -> Recorder {
    let gate = gate.clone();
    Recorder::answering(move |_, before| {
        if before > 0 {
            return Vec::new();
        }
        gate.pass();
        reply.as_bytes().to_vec()
    })
}

#[test]
fn an_end_behind_a_request_for_a_switch_is_passed_on_when_the_server_agreed() {
    for (request, reply) in [
        (
            "GET / HTTP/1.1\r\nUpgrade: x\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        ),
        ("CONNECT there:1 HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
        ("CONNECT there:1 HTTP/1.1\r\n", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let gate = Gate::closed();
        let server = answers_once(reply, &gate);
        let pen = pen(&server.backend);
        let client = pen.connect(ME);
        client.send(format!("{request}\r\n"));
        client.finish();
        eventually("the request has arrived", || server.backend.accepted() == 1);
        gate.open();
        assert_eq!(client.read_to_end().unwrap(), reply.as_bytes());
        assert_eq!(shown(&server.whole(0)), shown(format!("{request}{ADDED}\r\n").as_bytes()));
    }
}

#[test]
fn a_client_that_asked_for_a_switch_may_go_and_a_server_too() {
    // The server closes without an answer: the waiting bytes are dropped.
    let server = Recorder::silent();
    let pen = pen(&server.backend);
    let upgrade = |added: &str| format!("GET / HTTP/1.1\r\nUpgrade: x\r\n{added}\r\n");
    let client = pen.connect(ME);
    client.send(upgrade("") + FORGED);
    server.has(0, upgrade(ADDED));
    server.backend.die();
    assert_eq!(client.read_to_end().unwrap_or_default(), b"");
    drop(client);
    pen.settle();
    // The client resets; pen notices it although bytes of the client wait.
    server.backend.start();
    let client = pen.connect(ME);
    client.send(upgrade("") + FORGED);
    server.has(1, upgrade(ADDED));
    client.reset();
    pen.settle();
}

#[test]
fn requests_before_a_refused_one_are_answered_and_the_server_is_not_ended() {
    let gate = Gate::closed();
    let passing = gate.clone();
    let server = Backend::with(move |mut connection| {
        use std::io::{Read, Write};
        let mut buffer = [0; 4096];
        let _ = connection.read(&mut buffer)?;
        passing.pass();
        // The client's direction must not have ended, because servers abort the work for such a
        // client.
        connection.set_nonblocking(true)?;
        assert_eq!(
            connection.read(&mut buffer).map_err(|error| error.kind()),
            Err(std::io::ErrorKind::WouldBlock)
        );
        connection.set_nonblocking(false)?;
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")?;
        connection.write_all(b"lo")?;
        // A server that ignores its client's end.
        Gate::closed().pass();
        Ok(())
    });
    let pen = pen(&server);
    let client = pen.connect(ME);
    client.send(get("/", "") + "BAD / HTTP/9\r\n\r\n" + &get("/", ""));
    eventually("the good one has arrived", || server.accepted() == 1);
    gate.open();
    assert_eq!(
        shown(&client.read_to_end().unwrap()),
        shown(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    );
}

#[test]
fn floods_of_heads_are_bounded() {
    use std::io::Write;
    let server = Recorder::silent();
    let pen = Pen::builder().options(["-H"]).workers(1).server(&server.backend).start();
    let worker = &pen.workers()[0];
    // First, the worker allocates what it always has.
    let client = pen.connect(ME);
    client.send(get("/", ""));
    server.has(0, get("/", ADDED));
    let before = worker.resident();
    let clients: Vec<Client> = (0..50).map(|_| pen.connect(ME)).collect();
    for client in &clients {
        let mut socket = client.socket();
        let line = format!("X: {}\r\n", "y".repeat(8000));
        let _ = socket.write_all(b"GET / HTTP/1.1\r\n");
        // Ten megabytes each, unless it is closed earlier.
        let _ = (0..1250).try_for_each(|_| socket.write_all(line.as_bytes()));
    }
    for client in clients {
        let said = client.read_to_end().unwrap_or_default();
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431 "), "cut off");
    }
    let grown = worker.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for 500 MiB of heads");
    // And many short ones at once.
    let client = pen.connect(ME);
    let writer = client.twin();
    let writing = std::thread::spawn(move || {
        writer.send("GET / HTTP/1.1\r\n\r\n".repeat(100_000));
        writer.finish();
    });
    assert_eq!(client.read_to_end().unwrap(), b"");
    writing.join().unwrap();
    assert!(
        server.whole(server.count() - 1)
            == format!("GET / HTTP/1.1\r\n{ADDED}\r\n").repeat(100_000).into_bytes()
    );
}

#[test]
fn the_switch_counts_for_later_connections() {
    let server = Recorder::silent();
    let pen = Pen::builder().control().server(&server.backend).start();
    let ask = |expected: &str| {
        let client = pen.connect(ME);
        client.send(FORGED);
        client.finish();
        client.read_to_end().unwrap();
        assert_eq!(shown(&server.whole(server.count() - 1)), shown(expected.as_bytes()));
    };
    ask(FORGED);
    pen.tells("http", "");
    ask(NAMED);
    let client = pen.connect(ME);
    client.send(FORGED);
    let number = until("it is connected", || server.count().checked_sub(1).filter(|n| *n == 2));
    server.has(number, NAMED);
    pen.tells("no http", "");
    client.send(FORGED);
    server.has(number, NAMED.to_owned() + NAMED);
    ask(FORGED);
    drop(client);
}

#[test]
fn a_server_may_speak_first() {
    let server = Backend::named("220 ready");
    let pen = Pen::builder().options(["-O", "http mixed"]).server(&server).start();
    let client = pen.connect(ME);
    client.echoes_after_greeting("HELO me");
    client.echoes("GET / HTTP/1.1");
}

#[test]
fn ipv6_clients_are_named_without_brackets() {
    let server = Recorder::silent();
    let port = Port::reserve_on(Ipv6Addr::LOCALHOST.into());
    let pen = Pen::builder()
        .options(["-H"])
        .listen(format!("[::1]:{}", port.address().port()))
        .server(&server.backend)
        .start();
    let client = Client::connect(Ipv6Addr::LOCALHOST.into(), port.address()).unwrap();
    client.send(get("/", ""));
    server.has(0, get("/", "X-Forwarded-Proto: http\r\nX-Forwarded-For: ::1\r\n"));
    drop((client, pen));
}

#[test]
fn what_comes_by_tls_is_said_to() {
    let root = Authority::root("root");
    let identity = root.issue(&["localhost"]);
    let server = Recorder::silent();
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.key, identity.chain));
    let pen = builder.options(["-H", "-E", path.to_str().unwrap()]).server(&server.backend).start();
    let mut client = root.client().connect(pen.address(), "localhost").unwrap();
    let mut large = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", 3 << 20).into_bytes();
    large.extend(Bytes::new(4).take(3 << 20));
    client.send([get("/", "").as_bytes(), &large, FORGED.as_bytes()].concat());
    let https =
        |text: &str| text.replace("Proto: http", "Proto: https").replace("127.12.0.1", "127.0.0.1");
    let head = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n", 3 << 20);
    let named = [
        https(&get("/", ADDED)).as_bytes(),
        https(&format!("{head}{ADDED}\r\n")).as_bytes(),
        &large[head.len() + 2..],
        https(NAMED).as_bytes(),
    ]
    .concat();
    eventually("all has arrived", || server.so_far(0).bytes.len() >= named.len());
    assert!(server.so_far(0).bytes == named);
    // Refused within TLS: the session ends in order.
    client.send("BAD / HTTP/9\r\n\r\n");
    server.backend.die();
    assert_eq!(client.read_to_end().unwrap_or_default(), b"");
}

/// nginx that reports how it understood a request, and stores uploads.
fn nginx() -> Program {
    Program::nginx(
        "",
        "location / \
         { return 200 \"$request_method $request_uri $http_x_forwarded_for \
         $http_x_forwarded_proto\\n\"; }\n\
         location /files/ { dav_methods PUT; create_full_put_path on; }",
    )
}

#[test]
fn nginx_and_curl_understand_each_other() {
    let nginx = nginx();
    let pen = Pen::builder().options(["-H"]).server_as(nginx.address().to_string()).start();
    let url = |path: &str| format!("http://{}{path}", pen.address());
    let from = ["--interface", "127.12.0.1"];
    let ask = |words: &[&str]| curl(from.iter().chain(words));
    assert_eq!(ask(&[&url("/a")]), "GET /a 127.12.0.1 http\n");
    let forged = ["-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Forwarded-Proto: gopher"];
    assert_eq!(ask(&[&forged[..], &[&url("/b")]].concat()), "GET /b 6.6.6.6, 127.12.0.1 http\n");
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "REPORT"] {
        assert_eq!(ask(&["-X", method, &url("/c")]), format!("{method} /c 127.12.0.1 http\n"));
    }
    assert_eq!(ask(&["--http1.0", &url("/d")]), "GET /d 127.12.0.1 http\n");
    // An HTTP/2 upgrade that nginx declines, and three requests over one connection.
    let many = [url("/e"), url("/f"), url("/g")];
    let many: Vec<&str> = ["--http2"].into_iter().chain(many.iter().map(String::as_str)).collect();
    assert_eq!(
        ask(&many),
        "GET /e 127.12.0.1 http\nGET /f 127.12.0.1 http\nGET /g 127.12.0.1 http\n"
    );
    // Files, with a length and in chunks, with `100 Continue` before the body.
    let data = [Bytes::new(3).take(5 << 20), FORGED.repeat(20_000).into_bytes()].concat();
    let file = nginx.directory().join("sent");
    fs::write(&file, &data).unwrap();
    for (name, coding) in [("length", "X: y"), ("chunks", "Transfer-Encoding: chunked")] {
        let (path, place) = (file.to_str().unwrap(), url(&format!("/files/{name}")));
        let more = url("/after");
        let said = ask(&[
            "-H",
            coding,
            "-H",
            "Expect: 100-continue",
            "-T",
            path,
            &place,
            "--next",
            from[0],
            from[1],
            &more,
        ]);
        assert!(said.ends_with("GET /after 127.12.0.1 http\n"), "{said}");
        assert!(fs::read(nginx.directory().join("files").join(name)).unwrap() == data, "{name}");
        // And back.
        assert_eq!(curl(["-o", nginx.directory().join("got").to_str().unwrap(), &place]), "");
        assert!(fs::read(nginx.directory().join("got")).unwrap() == data, "{name}");
    }
}

#[test]
fn nginx_answers_what_is_pipelined() {
    let nginx = nginx();
    let pen = Pen::builder().options(["-H"]).server_as(nginx.address().to_string()).start();
    let client = pen.connect(ME);
    let mut sent = String::new();
    for n in 0..200 {
        sent.push_str(&match n % 4 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n"),
            1 => format!(
                "POST /{n} HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nGET /trap \
                 HTTP/1.1\r\nHost: x\r\n\r\n"
            ),
            2 => format!(
                "POST /{n} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \
                 chunked\r\n\r\n2;x=y\r\n\r\n\r\n0\r\nT: 1\r\n\r\n"
            ),
            _ => format!("HEAD /{n} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"),
        });
    }
    sent.push_str("GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    client.send(sent);
    let got = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    let understood: Vec<&str> =
        got.lines().filter(|line| line.starts_with("GET ") || line.starts_with("POST ")).collect();
    assert_eq!(understood.len(), 151);
    for (line, n) in understood.iter().zip((0..200).filter(|n| n % 4 != 3)) {
        let method = if n % 4 == 0 { "GET" } else { "POST" };
        assert_eq!(*line, format!("{method} /{n} 127.12.0.1 http"));
    }
    assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 201);
}
