//! Floods that untrusted clients can cause: messages, memory.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::wait::within;

use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Pen, eventually};

/// A pen whose clients use TLS.
fn with_tls() -> Builder {
    let identity = Authority::root("root").issue(&["localhost"]);
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    builder.options(["-E".as_ref(), path.as_os_str()])
}

#[test]
fn failed_handshakes_are_told_once_a_second_by_all_workers_together() {
    let backend = Backend::named("one");
    let pen = with_tls().workers(8).server(&backend).start();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        // They stay open together, so that every worker gets some.
        let clients: Vec<_> = (0..64)
            .map(|_| {
                let mut client = TcpStream::connect(pen.address()).unwrap();
                client.write_all(b"this is no TLS\r\n\r\n").unwrap();
                client
            })
            .collect();
        eventually("all are refused", || {
            clients.iter().all(|client| {
                client.set_nonblocking(true).unwrap();
                let mut byte = [0];
                let peeked = client.peek(&mut byte).map_err(|error| error.kind());
                peeked != Err(std::io::ErrorKind::WouldBlock)
            })
        });
    }
    pen.hears("TLS handshake failed: what it sent is no TLS");
    let lines = pen.said().matches("TLS handshake failed").count();
    let most = begin.elapsed().as_secs() as usize + 2;
    assert!(lines <= most, "{lines} lines in {most} s");
}

#[test]
fn the_end_of_a_flood_of_refused_requests_is_told() {
    const REQUESTS: usize = 20;
    let server = Backend::named("one");
    let pen = Pen::builder().workers(1).server(&server).options(["-H"]).start();
    for _ in 0..REQUESTS {
        let mut client = TcpStream::connect(pen.address()).unwrap();
        client.write_all(b"this is no request\r\n\r\n").unwrap();
        // Until it is refused.
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    }
    eventually("all are told of", || {
        told(&pen, "request refused: ", " more were refused") == REQUESTS
    });
}

/// The sum over the lines with `text`; some of them count further events before `more`.
fn told(pen: &Pen, text: &str, more: &str) -> usize {
    let said = pen.said();
    let number = |line: &str| {
        let others = line.split_once(" (").and_then(|(_, rest)| rest.split_once(more));
        1 + others.map_or(0, |(number, _)| number.parse::<usize>().unwrap())
    };
    said.lines().filter(|line| line.contains(text)).map(number).sum()
}

#[test]
fn the_end_of_a_flood_of_bad_senders_is_told() {
    const SENDERS: usize = 20;
    let server = Backend::named("one");
    let file = "proxy_protocol in from 127.0.0.0/8\n";
    let pen = Pen::builder().workers(1).server(&server).file(file).start();
    for _ in 0..SENDERS {
        let mut client = TcpStream::connect(pen.address()).unwrap();
        client.write_all(b"this is no header\r\n\r\n").unwrap();
        // Until it is closed.
        let _ = std::io::copy(&mut client, &mut std::io::sink());
    }
    let text = "is listed by proxy_protocol in, but sent no PROXY protocol header first: closed";
    eventually("all are told of", || told(&pen, text, " more were closed for this") == SENDERS);
}

/// Clients that send these bytes and nothing more.
fn unfinished(pen: &Pen, clients: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let client = |_| {
        let mut client = TcpStream::connect(pen.address()).unwrap();
        // It may be closed for it.
        let _ = client.write_all(bytes);
        client
    };
    (0..clients).map(client).collect()
}

/// Many clients begin a message of 60 kB. The worker must stay small, serve others meanwhile, and
/// be small again afterwards.
fn stays_small(pen: &Pen, begun: &[u8], serves: impl Fn() -> bool) {
    assert!(serves());
    let before = pen.workers()[0].resident();
    let clients = unfinished(pen, CLIENTS, begun);
    pen.hears("had been unfinished for longest");
    assert!(serves(), "another client is served meanwhile");
    let grown = pen.workers()[0].resident().saturating_sub(before);
    assert!(grown < 40 << 10, "the worker has grown by {grown} KiB");
    drop(clients);
    let small = || {
        // An event is needed before pen notices it.
        assert!(serves());
        pen.workers()[0].resident().saturating_sub(before) < 6 << 10
    };
    assert!(
        within(crate::harness::PATIENCE, small),
        "still {} KiB instead of {before}",
        pen.workers()[0].resident()
    );
    pen.settle();
}

const CLIENTS: usize = 900;

#[test]
fn unfinished_hellos_of_many_clients_take_little_memory() {
    let root = Authority::root("root");
    let identity = root.issue(&["localhost"]);
    let backend = Backend::named("one");
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let options = [
        "-E".as_ref(),
        path.as_os_str(),
        "-x".as_ref(),
        "2000".as_ref(),
        "-t".as_ref(),
        "600".as_ref(),
    ];
    let pen = builder.workers(1).options(options).server(&backend).start();
    // A hello of 60000 bytes in records of 16384; the last 2 kB do not come.
    let mut hello = vec![1, 0, 60000_u32.to_be_bytes()[2], 60000_u32.to_be_bytes()[3]];
    hello.resize(58_000, 0);
    let record =
        |bytes: &[u8]| [&[22, 3, 1], &(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let records: Vec<u8> = hello.chunks(16384).flat_map(record).collect();
    stays_small(&pen, &records, || root.client().ask(pen.address(), "localhost").is_some());
}

#[test]
fn unfinished_heads_of_many_clients_take_little_memory() {
    let backend = Backend::named("one");
    let pen = Pen::builder().workers(1).options(["-H", "-x", "2000"]).server(&backend).start();
    let head = [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".as_slice(), &[b'a'; 60_000]].concat();
    stays_small(&pen, &head, || pen.ask([127, 0, 0, 9]).as_deref() == Some("one"));
}

/// Bytes from pen that the kernel holds for a client of this port: those not acknowledged
/// (proc_net_tcp(5)).
fn queued_for(pen: &Pen, client: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // Clients of other tests may have the same port at another address.
    let ends = [pen.address().port(), client].map(|port| format!(":{port:04X}"));
    let is_it = |row: &&str| {
        row.split_whitespace().skip(1).zip(&ends).all(|(address, port)| address.ends_with(port))
    };
    let row = table.lines().find(is_it);
    let queues = row.and_then(|row| row.split_whitespace().nth(4)).map_or("0:0", |queues| queues);
    usize::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn a_client_that_reads_nothing_has_little_in_the_kernel() {
    let backend = talkative();
    let pen = Pen::builder().workers(1).server(&backend).start();
    let client = pen.connect([127, 0, 0, 7]);
    let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
    let (mut last, mut equal) = (0, 0);
    eventually("nothing more goes to the client", || {
        let now = queued_for(&pen, port);
        equal = if now == last && now > 0 { equal + 1 } else { 0 };
        last = now;
        equal >= 20
    });
    assert!(last < 1 << 20, "{last} bytes wait in the kernel");
}

/// A server that sends much data to every client.
fn talkative() -> Backend {
    Backend::with(|mut connection| {
        loop {
            connection.write_all(&[b'x'; 65536])?;
        }
    })
}

/// Many clients read none of their data. The worker must stay small.
fn stays_small_before_the_deaf<Client>(pen: &Pen, connect: impl FnMut(usize) -> Client) {
    let before = pen.workers()[0].resident();
    let deaf: Vec<Client> = (0..300).map(connect).collect();
    let (mut last, mut equal) = (0, 0);
    eventually("nothing more is taken", || {
        let now = pen.workers()[0].resident();
        equal =
            if now == last && pen.report().connections.len() == deaf.len() { equal + 1 } else { 0 };
        last = now;
        equal >= 10
    });
    let grown = last.saturating_sub(before);
    assert!(grown < 40 << 10, "the worker has grown by {grown} KiB");
}

#[test]
fn what_clients_do_not_take_is_little_memory() {
    let backend = talkative();
    let pen = Pen::builder().workers(1).options(["-x", "1000"]).server(&backend).start();
    stays_small_before_the_deaf(&pen, |_| TcpStream::connect(pen.address()).unwrap());
}

#[test]
fn records_that_clients_do_not_take_are_little_memory() {
    let root = Authority::root("root");
    let identity = root.issue(&["localhost"]);
    let (backend, builder) = (talkative(), Pen::builder());
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let options = ["-E".as_ref(), path.as_os_str(), "-x".as_ref(), "1000".as_ref()];
    let pen = builder.workers(1).options(options).server(&backend).start();
    let mut client = root.client();
    stays_small_before_the_deaf(&pen, |_| client.connect(pen.address(), "localhost").unwrap());
}

#[test]
fn socket_buffers_bound_both_sides_and_can_be_set_at_run_time() {
    let backend = talkative();
    let pen = Pen::builder().control().workers(1).server(&backend).start();
    for line in ["socket_buffers client 16384 16384", "socket_buffers server 16384 0"] {
        pen.tells(line, "");
    }
    let client = pen.connect([127, 0, 0, 8]);
    let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
    eventually("something waits for the client", || queued_for(&pen, port) > 0);
    assert!(
        queued_for(&pen, port) < 256 << 10,
        "{} bytes wait in the kernel",
        queued_for(&pen, port)
    );
    pen.refuses("socket_buffers client many 1");
}
