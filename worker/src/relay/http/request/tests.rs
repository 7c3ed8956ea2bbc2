//! What a head means and what is refused, by examples. The tests of the whole exchange check the
//! resulting lines.

use crate::relay::http::request::*;

fn read(head: &str) -> Result<Request, Refusal> {
    let (sender, mut out) =
        (Sender { address: "10.0.0.1".into(), https: false }, b"before".to_vec());
    let request = rebuild(head.as_bytes(), &sender, &mut out);
    let end: &[u8] = if head.contains('\r') { b"10.0.0.1\r\n\r\n" } else { b"10.0.0.1\n\n" };
    match request {
        Ok(_) => assert!(out.ends_with(end), "{head:?}"),
        Err(_) => assert_eq!(out, b"before", "{head:?}"),
    }
    request
}

#[test]
fn requests_say_what_follows_them() {
    let plain =
        || Request { body: Body::Length(0), asks: Asks::Answer, protocols: "".into(), ends: false };
    assert_eq!(read("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Ok(plain()));
    assert_eq!(read("x-odd!method /~ HTTP/1.0\n\n"), Ok(plain()));
    assert_eq!(read("OPTIONS * HTTP/1.1\r\n\r\n"), Ok(plain()));
    assert_eq!(read("GET http://h/x?y HTTP/1.1\r\n\r\n"), Ok(plain()));
    assert_eq!(read("HEAD / HTTP/1.1\r\n\r\n"), Ok(Request { asks: Asks::Head, ..plain() }));
    assert_eq!(read("CONNECT a:1 HTTP/1.1\r\n\r\n"), Ok(Request { asks: Asks::Tunnel, ..plain() }));
    assert_eq!(
        read("CONNECT [::1]:1 HTTP/1.1\r\n\r\n"),
        Ok(Request { asks: Asks::Tunnel, ..plain() })
    );
    let asks =
        |protocols: &str| Request { asks: Asks::Upgrade, protocols: protocols.into(), ..plain() };
    assert_eq!(
        read("GET / HTTP/1.1\r\nupgrade: x\r\nUpgrade: y/1, h2c\r\n\r\n"),
        Ok(asks("x,y/1"))
    );
    assert_eq!(read("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n"), Ok(plain()));
    let long = "PUT / HTTP/1.1\r\ncontent-length: 12 \r\nX-FORWARDED-proto: x\r\nExpect: \
        100-Continue\r\n\r\n";
    assert_eq!(read(long), Ok(Request { body: Body::Length(12), ..plain() }));
    let chunked = "PUT / HTTP/1.1\r\nTRANSFER-ENCODING:\tChunked\r\n\r\n";
    assert_eq!(read(chunked), Ok(Request { body: Body::chunked(), ..plain() }));
}

#[test]
fn fields_that_servers_read_differently_are_refused() {
    for (lines, why) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Refusal::Length),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Refusal::Length),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Refusal::Length),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", Refusal::Length),
        ("Content-Length: 5, 5\r\n", Refusal::Length),
        ("Content-Length: +5\r\n", Refusal::Length),
        ("Content-Length: 0012\r\n", Refusal::Length),
        ("Content-Length:\r\n", Refusal::Length),
        ("Content-Length: 99999999999999999999\r\n", Refusal::TooLarge),
        ("Content_Length: 5\r\n", Refusal::Length),
        ("Transfer_Encoding: chunked\r\n", Refusal::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refusal::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", Refusal::UnknownCoding),
        ("Transfer-Encoding: xchunked\r\n", Refusal::UnknownCoding),
        ("Transfer-Encoding: identity\r\n", Refusal::UnknownCoding),
        ("Transfer-Encoding:\r\n", Refusal::Coding),
        ("Transfer-Encoding : chunked\r\n", Refusal::Fields),
        ("Transfer-Encoding: \x0bchunked\r\n", Refusal::Fields),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", Refusal::Fields),
        ("X: y\rTransfer-Encoding: chunked\r\n", Refusal::Fields),
        ("X: y\nTransfer-Encoding: chunked\r\n", Refusal::LineEnds),
        ("X\r\n", Refusal::Fields),
        (": y\r\n", Refusal::Fields),
        ("X y: z\r\n", Refusal::Fields),
        ("X\u{85}: z\r\n", Refusal::Fields),
        ("X: \0\r\n", Refusal::Fields),
        ("X: \x1c\r\n", Refusal::Fields),
        ("Host: a\r\nHost: a\r\n", Refusal::Host),
        ("Expect: 200-ok\r\n", Refusal::Expect),
        ("Expect: 100-continue, x\r\n", Refusal::Expect),
        ("Connection: close x\r\n", Refusal::Connection),
        ("Connection: Content-Length\r\n", Refusal::Connection),
        ("Connection: close, transfer_encoding\r\n", Refusal::Connection),
        ("Content-Length: 9\r\nSec-WebSocket-Key1: x\r\n", Refusal::Length),
    ] {
        assert_eq!(read(&format!("POST / HTTP/1.1\r\n{lines}\r\n")), Err(why), "{lines:?}");
    }
    let many = "X: y\r\n".repeat(FIELDS + 1);
    assert_eq!(read(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Refusal::TooLong));
    assert_eq!(read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Refusal::Coding));
    assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), Err(Refusal::Body));
    assert_eq!(read("TRACE / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), Err(Refusal::Body));
}

#[test]
fn lines_that_servers_read_differently_are_refused() {
    for (line, why) in [
        ("head / HTTP/1.1", Refusal::Method),
        ("Connect a:1 HTTP/1.1", Refusal::Method),
        ("!x / HTTP/1.1", Refusal::Method),
        ("GET * HTTP/1.1", Refusal::Target),
        ("GET x HTTP/1.1", Refusal::Target),
        ("GET :x HTTP/1.1", Refusal::Target),
        ("GET 1:x HTTP/1.1", Refusal::Target),
        ("CONNECT / HTTP/1.1", Refusal::Target),
        ("CONNECT a HTTP/1.1", Refusal::Target),
        ("CONNECT a:b HTTP/1.1", Refusal::Target),
        ("CONNECT a@b:1 HTTP/1.1", Refusal::Target),
        ("GET /\u{85} HTTP/1.1", Refusal::NotHttp),
    ] {
        assert_eq!(read(&format!("{line}\r\n\r\n")), Err(why), "{line:?}");
    }
}
