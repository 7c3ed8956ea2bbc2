//! What strangers can cause in numbers: messages, memory.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::tls::{Authority, write};
use harness::{Backend, Builder, Pen};

mod harness;

/// A pen whose clients speak TLS.
fn with_tls() -> Builder {
    let identity = Authority::root("root").issue(&["localhost"]);
    let builder = Pen::builder();
    let path = write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    builder.options(["-E".as_ref(), path.as_os_str()])
}

#[test]
fn failed_handshakes_are_told_once_a_second_by_all_workers_together() {
    let backend = Backend::named("one");
    let pen = with_tls().workers(8).server(&backend).start();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        // They stay open together, so that all workers get some.
        let clients: Vec<_> = (0..64)
            .map(|_| {
                let mut client = TcpStream::connect(pen.address()).unwrap();
                client.write_all(b"this is no TLS\r\n\r\n").unwrap();
                client
            })
            .collect();
        harness::eventually("all are refused", || {
            clients.iter().all(|client| {
                client.set_nonblocking(true).unwrap();
                let mut byte = [0];
                !matches!(client.peek(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            })
        });
    }
    pen.hears("TLS handshake failed: what it sent is no TLS");
    let lines = pen.said().matches("TLS handshake failed").count();
    let most = begin.elapsed().as_secs() as usize + 2;
    assert!(lines <= most, "{lines} lines in {most} s");
}
