//! What travels within TLS.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Shutdown};
use std::thread;

use super::pen;
use crate::harness::numbers::Bytes;
use crate::harness::tls::{Authority, ONLY_12, ONLY_13, write};
use crate::harness::tls_server::{Secured, TlsServer};
use crate::harness::{Builder, Gate, Pen, eventually};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn ten_megabytes_go_both_ways_and_each_end_is_passed_on() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).start();
    let pen = pen(&root).server(&server.backend).start();
    let client = pen.connect(LOCALHOST);
    assert_eq!(client.line().as_deref(), Some("one"));
    let bytes = Bytes::new(7).take(10 << 20);
    let writer = client.twin();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        writer.send(&sent);
        writer.finish();
    });
    let back = client.read_to_end().expect("an orderly end");
    sending.join().unwrap();
    assert!(back == bytes, "{} bytes came back", back.len());
    eventually("the server has seen an end", || server.seen()[0].ended);
    assert!(server.seen()[0].bytes == bytes);
    pen.settle();
    assert_eq!(pen.report().in_use(), 0);
}

#[test]
fn a_client_with_tls_reaches_a_server_with_tls() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).start();
    let pen = both(&root, &server);
    for _ in 0..3 {
        let answer = root.client().ask(pen.address(), "localhost");
        assert!(answer.is_some(), "{}", pen.said());
    }
    assert_eq!(server.seen().len(), 3);
}

/// The server gets exactly this before the request.
fn sent(builder: Builder, before: &str, request: &str, after: &str) {
    let root = Authority::root("root");
    let server = TlsServer::named("", root.issue(&["127.0.0.1"]))
        .answers("\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n")
        .start();
    let path = write(builder.directory(), "ca.pem", root.pem());
    let ca = format!("server_tls_ca {}", path.display());
    let builder = builder.options(["-O", "server_tls on", "-O", &ca]);
    let pen = builder.server(&server.backend).start();
    let client = pen.connect(LOCALHOST);
    client.send(request);
    let answer = client.read_exactly("HTTP/1.1 204 No Content\r\n\r\n".len());
    assert!(answer.starts_with(b"HTTP/1.1 204"));
    client.send(request);
    client.read_exactly(answer.len());
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"");
    let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
    let before = before
        .replace("CLIENT", &port.to_string())
        .replace("PEN", &pen.address().port().to_string());
    eventually("the end has come", || server.seen()[0].ended);
    let bytes = String::from_utf8(server.seen()[0].bytes.clone()).unwrap();
    assert_eq!(bytes, format!("{before}{after}{after}"));
}

#[test]
fn proxy_headers_and_the_lines_of_forwarding_are_within_tls() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let forwarded = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\n\
                     X-Forwarded-For: 127.0.0.1\r\n\r\n";
    let header = "PROXY TCP4 127.0.0.1 127.0.0.1 CLIENT PEN\r\n";
    let builder = || crate::harness::Pen::builder();
    let proxy = ["-O", "proxy_protocol out v1"];
    sent(builder().options(proxy), header, request, request);
    sent(builder().options(["-H"]), "", request, forwarded);
    sent(builder().options(["-H"]).options(proxy), header, request, forwarded);
}

#[test]
fn an_end_that_comes_with_the_handshake_is_passed_on() {
    let root = Authority::root("root");
    for versions in [ONLY_12, ONLY_13] {
        let server = TlsServer::named("", root.issue(&["127.0.0.1"]));
        let server = server.speaks(versions).ends_at_once().start();
        let pen = pen(&root).server(&server.backend).start();
        let client = pen.connect(LOCALHOST);
        assert_eq!(client.read_to_end().expect("an orderly end"), b"");
        client.send("still");
        client.finish();
        eventually("the other direction goes on to its end", || {
            server.seen().first().is_some_and(|seen| seen.ended && seen.bytes == b"still")
        });
        eventually("nothing is left", || pen.report().in_use() == 0);
    }
}

#[test]
fn a_client_that_ends_before_the_handshake_is_over_gets_its_answer() {
    let root = Authority::root("root");
    let server = TlsServer::named("", root.issue(&["127.0.0.1"])).answers("request", "answer");
    let server = server.start();
    let pen = pen(&root).server(&server.backend).start();
    let client = pen.connect(LOCALHOST);
    client.send("request");
    client.finish();
    assert_eq!(client.read_to_end().expect("an orderly end"), b"answer");
    let seen = &server.seen()[0];
    assert!(seen.ended && seen.bytes == b"request", "{seen:?}");
}

/// So many requests that the lines of `-H` make one read of them longer than what a session takes
/// at once.
const REQUESTS: usize = 20_000;

#[test]
fn a_flood_of_requests_arrives_whole_with_the_lines_of_forwarding() {
    let root = Authority::root("root");
    let answer = "HTTP/1.1 204 No Content\r\n\r\n";
    let server = TlsServer::named("", root.issue(&["127.0.0.1"])).answers("\r\n\r\n", answer);
    let server = server.start();
    let pen = pen(&root).options(["-H"]).server(&server.backend).start();
    let client = pen.connect(LOCALHOST);
    let writer = client.twin();
    let sending = thread::spawn(move || {
        writer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(REQUESTS));
        writer.finish();
    });
    let back = client.read_to_end().expect("an orderly end");
    sending.join().unwrap();
    assert_eq!(back.len(), REQUESTS * answer.len());
    let seen = &server.seen()[0];
    let forwarded = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: http\r\n\
                     X-Forwarded-For: 127.0.0.1\r\n\r\n";
    assert!(seen.bytes == forwarded.repeat(REQUESTS).into_bytes(), "{}", seen.bytes.len());
}

#[test]
fn a_server_that_ends_without_close_notify_has_ended() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).cuts().start();
    let pen = pen(&root).server(&server.backend).start();
    let client = pen.connect(LOCALHOST);
    assert_eq!(client.read_to_end().expect("an orderly end"), b"one\n");
    client.finish();
    eventually("the client's end goes on to the server", || server.seen()[0].ended);
    eventually("nothing is left", || pen.report().in_use() == 0);
}

/// A pen with TLS at both ends.
fn both(root: &Authority, server: &Secured) -> Pen {
    let builder = pen(root);
    let own = root.issue(&["localhost"]);
    let path = write(builder.directory(), "cert.pem", format!("{}{}", own.chain, own.key));
    builder.options(["-E".as_ref(), path.as_os_str()]).server(&server.backend).start()
}

#[test]
fn an_answer_that_was_cut_is_cut_for_a_client_with_tls_too() {
    let root = Authority::root("root");
    for versions in [ONLY_12, ONLY_13] {
        let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).speaks(versions);
        let server = server.cuts().start();
        let pen = both(&root, &server);
        let mut client = root.client().connect(pen.address(), "localhost").unwrap();
        assert_eq!(client.line().unwrap(), "one");
        let end = client.read_to_end().expect_err("nobody has said that this is all");
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        client.finish();
        eventually("the client's end goes on to the server", || server.seen()[0].ended);
        eventually("nothing is left", || pen.report().in_use() == 0);
    }
}

#[test]
fn a_request_that_was_cut_is_cut_for_the_server_too() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).start();
    let pen = both(&root, &server);
    let mut client = root.client().connect(pen.address(), "localhost").unwrap();
    assert_eq!(client.line().unwrap(), "one");
    client.send("the first half");
    eventually("it has come", || server.seen()[0].bytes == b"the first half");
    client.socket.shutdown(Shutdown::Write).unwrap();
    eventually("nothing is left", || pen.report().in_use() == 0 && server.backend.open() == 0);
    assert!(!server.seen()[0].ended);
}

#[test]
fn a_client_that_is_cut_before_its_first_byte_leaves_the_server_a_finished_handshake() {
    let root = Authority::root("root");
    let gate = Gate::closed();
    let server = TlsServer::named("", root.issue(&["127.0.0.1"])).answers("request", "answer");
    let server = server.speaks(ONLY_13).waits(&gate).start();
    let pen = both(&root, &server);
    let client = root.client().connect(pen.address(), "localhost").unwrap();
    eventually("pen is with the server", || server.backend.accepted() == 1);
    client.socket.shutdown(Shutdown::Write).unwrap();
    gate.open();
    eventually("the handshake is over", || server.seen().len() == 1);
    eventually("nothing is left", || pen.report().in_use() == 0 && server.backend.open() == 0);
    assert!(!server.seen()[0].ended);
}
