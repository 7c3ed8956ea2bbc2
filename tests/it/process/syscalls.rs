//! The system calls of a connection, which are all known: strace(1) counts those of a worker.
//!
//! The worker is stopped while clients connect and send, and traced when it continues. So all input
//! is ready, and the numbers are the same every time. All connections of a round of events share
//! the calls of that round (epoll_wait(2), the clock), so these are not counted.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;

use crate::harness::{Backend, Calls, Client, Pen, Process, Trace, eventually, needs_root};
use socket2::Socket;

/// Connections of a measurement, few enough for one round of events.
const CLIENTS: usize = 32;

/// Bytes of a request, and of an answer.
const REQUEST: usize = 64;
const ANSWER: usize = 1024;

/// The calls without those of rounds, of the supervisor's channel and of memory.
fn per_connection(mut calls: Calls) -> Calls {
    // A worker accepts until no client is left, in growing batches, so it does not know their
    // number before.
    assert!(calls.remove("accept4 EAGAIN").unwrap_or(0) <= 3, "accept(2) seldom finds nobody");
    let rounds = calls.remove("epoll_wait").unwrap_or(0);
    assert!(rounds <= 6 * CLIENTS, "{rounds} rounds");
    if cfg!(debug_assertions) {
        // The standard library then checks whether a descriptor is open before it closes it.
        calls.remove("fcntl");
    }
    calls.retain(|name, _| {
        let of_rounds = ["epoll_wait", "restart_syscall", "clock_gettime", "sendmsg", "recvmsg"];
        // The heap grows sometimes.
        let of_memory = ["brk", "mmap", "mremap", "munmap", "prctl"];
        !of_rounds.iter().chain(&of_memory).any(|other| name.starts_with(other))
    });
    calls
}

fn table(expected: &[(&str, usize)]) -> Calls {
    expected.iter().map(|(name, times)| (name.to_string(), times * CLIENTS)).collect()
}

/// Reads a request, and sends an answer and its end in one segment, as a kernel does if the server
/// writes and closes at once.
fn answer_and_end(mut connection: &Socket) -> std::io::Result<()> {
    connection.read_exact(&mut [0; REQUEST])?;
    connection.send_with_flags(&[b'a'; ANSWER], rustix::net::SendFlags::MORE.bits() as i32)?;
    connection.shutdown(Shutdown::Write)?;
    connection.read(&mut [0]).map(|_| ())
}

fn start(backend: &Backend) -> (Pen, Process, PathBuf) {
    let pen = Pen::builder().workers(1).server(backend).start();
    let worker = pen.workers().remove(0);
    let output = pen.directory().join("trace");
    (pen, worker, output)
}

fn clients(pen: &Pen) -> Vec<Client> {
    (0..CLIENTS).map(|_| pen.connect(crate::harness::client::ANYONE)).collect()
}

#[test]
fn a_short_connection_makes_fourteen_calls() {
    if !needs_root() {
        return;
    }
    let backend = Backend::with(answer_and_end);
    let (pen, worker, output) = start(&backend);
    worker.stop();
    let clients = clients(&pen);
    clients.iter().for_each(|client| client.send([b'r'; REQUEST]));
    let trace = Trace::begin(&worker, output);
    worker.resume();
    for client in clients {
        assert_eq!(client.read_to_end().unwrap().len(), ANSWER);
    }
    let calls = trace.end("both ends of each connection are closed", 2 * CLIENTS, |line| {
        line.contains(" close(")
    });
    let expected = [
        ("accept4", 1),    // the client, non-blocking from the start
        ("epoll_ctl", 2),  // each socket, once and for life
        ("socket", 1),     // the server's, non-blocking from the start
        ("setsockopt", 1), // TCP_QUICKACK off: the request acknowledges the handshake
        ("connect", 1),
        ("recvfrom", 3), /* the request; the answer, with the news that it is the last; the
                          * client's end of file */
        ("sendto", 2), // the request; the answer, kept back for the end of file that follows
        ("shutdown", 1), // the server's end of file passed on
        ("close", 2),
    ];
    assert_eq!(per_connection(calls), table(&expected));
}

#[test]
fn a_client_that_waits_for_the_server_to_speak_makes_eleven_calls() {
    if !needs_root() {
        return;
    }
    let backend = Backend::with(|connection: &Socket| {
        connection.send_with_flags(&[b'a'; ANSWER], rustix::net::SendFlags::MORE.bits() as i32)?;
        connection.shutdown(Shutdown::Write)?;
        let mut connection = connection;
        connection.read(&mut [0]).map(|_| ())
    });
    let (pen, worker, output) = start(&backend);
    worker.stop();
    let clients = clients(&pen);
    let trace = Trace::begin(&worker, output);
    worker.resume();
    for client in clients {
        assert_eq!(client.read_to_end().unwrap().len(), ANSWER);
    }
    let calls =
        per_connection(trace.end("both ends of each connection are closed", 2 * CLIENTS, |line| {
            line.contains(" close(")
        }));
    let expected = [
        ("accept4", 1),
        ("epoll_ctl", 2),
        ("socket", 1),
        ("connect", 1),
        ("recvfrom", 2),
        ("sendto", 1),
        ("shutdown", 1),
        ("close", 2),
    ];
    assert_eq!(calls, table(&expected));
}

#[test]
fn a_request_on_an_open_connection_makes_four_calls() {
    if !needs_root() {
        return;
    }
    let backend = Backend::with(|mut connection: &Socket| {
        loop {
            connection.read_exact(&mut [0; REQUEST])?;
            connection.write_all(&[b'a'; ANSWER])?;
        }
    });
    let (pen, worker, output) = start(&backend);
    let clients = clients(&pen);
    let exchange = || {
        clients.iter().for_each(|client| client.send([b'r'; REQUEST]));
        clients.iter().for_each(|client| {
            client.read_exactly(ANSWER);
        });
    };
    // The first two exchanges do what each connection needs once: TCP_NODELAY and TCP_QUICKACK.
    exchange();
    exchange();
    worker.stop();
    let trace = Trace::begin(&worker, output);
    worker.resume();
    for _ in 0..3 {
        exchange();
    }
    let sent = |line: &str| line.contains(" sendto(");
    let calls = per_connection(trace.end("all answers were sent", 6 * CLIENTS, sent));
    assert_eq!(calls, table(&[("recvfrom", 6), ("sendto", 6)]));
    drop(pen);
}

#[test]
fn an_answer_of_16_kb_makes_four_calls_and_is_not_copied() {
    const LARGE: usize = 16 * 1024;
    const EXCHANGES: usize = 100;
    if !needs_root() {
        return;
    }
    let backend = Backend::with(|mut connection: &Socket| {
        loop {
            connection.read_exact(&mut [0; REQUEST])?;
            connection.write_all(&[b'a'; LARGE])?;
        }
    });
    let (pen, worker, output) = start(&backend);
    let client = pen.connect(crate::harness::client::ANYONE);
    let exchange = || {
        client.send([b'r'; REQUEST]);
        client.read_exactly(LARGE);
    };
    // The first two exchanges show that a pipe is worthwhile, and the third makes one.
    (0..3).for_each(|_| exchange());
    worker.stop();
    let trace = Trace::begin(&worker, output);
    worker.resume();
    (0..EXCHANGES).for_each(|_| exchange());
    let is_splice = |line: &str| line.contains(" splice(");
    let has_moved = |line: &str| is_splice(line) && !line.contains("EAGAIN");
    eventually("all answers were moved", || {
        trace.lines().iter().filter(|line| has_moved(line)).count() == 2 * EXCHANGES
    });
    let lines = trace.lines();
    let mut calls = trace.end("strace has told of them", 2 * EXCHANGES, has_moved);
    // One client has rounds of its own.
    calls.remove("epoll_wait");
    calls.remove("splice EAGAIN");
    let expected = [("recvfrom", EXCHANGES), ("sendto", EXCHANGES), ("splice", 2 * EXCHANGES)];
    assert_eq!(
        per_connection(calls),
        expected.map(|(name, times)| (name.to_string(), times)).into()
    );
    // The worker checks at once whether the socket is empty only if an answer comes late; otherwise
    // a later round does.
    let asked = lines
        .windows(2)
        .filter(|pair| has_moved(&pair[0]) && is_splice(&pair[1]) && !has_moved(&pair[1]))
        .count();
    assert!(asked < EXCHANGES * 9 / 10, "asked {asked} times");
    drop(pen);
}

#[test]
fn acknowledgements_are_kept_back_no_longer_than_to_the_first_bytes() {
    if !needs_root() {
        return;
    }
    // A server with Nagle's algorithm that answers in several writes and continues. The second
    // write waits for the acknowledgement of the first.
    let backend = Backend::with(|mut connection: &Socket| {
        connection.set_tcp_nodelay(false)?;
        connection.read_exact(&mut [0; REQUEST])?;
        for _ in 0..4 {
            connection.write_all(&[b'a'; ANSWER / 4])?;
        }
        connection.read(&mut [0]).map(|_| ())
    });
    let (pen, worker, output) = start(&backend);
    worker.stop();
    let clients = clients(&pen);
    clients.iter().for_each(|client| client.send([b'r'; REQUEST]));
    let trace = Trace::begin(&worker, output);
    worker.resume();
    clients.iter().for_each(|client| {
        client.read_exactly(ANSWER);
    });
    let lines = |word: &str| trace.lines().iter().filter(|line| line.contains(word)).count();
    assert_eq!((lines("TCP_QUICKACK, [0]"), lines("TCP_QUICKACK, [1]")), (CLIENTS, CLIENTS));
    trace.end("the worker waits", 1, |line| line.contains("epoll_wait("));
    drop(clients);
    drop(pen);
}
