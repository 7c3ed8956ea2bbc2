//! Bytes arrive unchanged, at any speed, in any order of closing, with half-close.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::harness::numbers::{Bytes, Numbers};
use crate::harness::{Backend, Client, Gate, Pen, Process, eventually};
use socket2::Socket;

const ME: Ipv4Addr = Ipv4Addr::new(127, 6, 0, 1);

/// Sends `length` bytes of the stream `seed` in pieces of odd sizes.
fn send_noise(mut to: &Socket, seed: u64, length: usize) -> io::Result<()> {
    let (mut bytes, mut sizes) = (Bytes::new(seed), Numbers::new(seed + 1));
    let mut left = length;
    while left > 0 {
        let size = (1 + sizes.below(100_000)).min(left);
        to.write_all(&bytes.take(size))?;
        left -= size;
    }
    Ok(())
}

/// Reads to end of file and compares with the stream `seed`; returns the number of bytes.
fn check_noise(mut from: &Socket, seed: u64) -> io::Result<usize> {
    let (mut bytes, mut sizes) = (Bytes::new(seed), Numbers::new(seed + 2));
    let (mut buffer, mut expected) = (vec![0; 150_000], vec![0; 150_000]);
    let mut total = 0;
    loop {
        let size = 1 + sizes.below(150_000);
        let read = from.read(&mut buffer[..size])?;
        if read == 0 {
            return Ok(total);
        }
        bytes.fill(&mut expected[..read]);
        assert!(buffer[..read] == expected[..read], "damaged within {read} bytes after {total}");
        total += read;
    }
}

#[test]
fn data_passes_unchanged_both_ways_at_once_and_each_way_ends_by_itself() {
    const UP: usize = 60_000_000;
    const DOWN: usize = 50_000_001;
    let received = Arc::new(Mutex::new(None));
    let result = received.clone();
    let server = Backend::with(move |connection| {
        let twin = connection.try_clone()?;
        let sender = thread::spawn(move || {
            send_noise(&twin, 1, DOWN).unwrap();
            twin.shutdown(Shutdown::Write).unwrap();
        });
        let total = check_noise(connection, 2);
        sender.join().unwrap();
        *result.lock().unwrap() = Some(total?);
        Ok(())
    });
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    thread::scope(|scope| {
        scope.spawn(|| {
            send_noise(client.socket(), 2, UP).unwrap();
            client.finish();
        });
        assert_eq!(check_noise(client.socket(), 1).unwrap(), DOWN);
    });
    eventually("the server has everything", || received.lock().unwrap().is_some());
    assert_eq!(*received.lock().unwrap(), Some(UP));
    pen.settle();
    let report = pen.report();
    assert_eq!((report.server(0, "sent"), report.server(0, "received")), (UP as i64, DOWN as i64));
    let row = &report.clients[0];
    assert_eq!((row["sent"].clone(), row["received"].clone()), (DOWN.to_string(), UP.to_string()));
}

#[test]
fn many_connections_do_not_mix_their_bytes() {
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Pen::builder().server(&server).start();
    thread::scope(|scope| {
        for n in 0..40 {
            let pen = &pen;
            scope.spawn(move || {
                let client = pen.connect(Ipv4Addr::new(127, 6, 1, n));
                let twin = client.twin();
                let sender = thread::spawn(move || {
                    send_noise(twin.socket(), u64::from(n) + 100, 700_001).unwrap();
                    twin.finish();
                });
                assert_eq!(check_noise(client.socket(), u64::from(n) + 100).unwrap(), 700_001);
                sender.join().unwrap();
            });
        }
    });
    pen.settle();
}

#[test]
fn small_writes_go_through_one_by_one() {
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    for n in 0..500 {
        client.echoes(&format!("line {n}"));
    }
}

#[test]
fn the_server_may_speak_first() {
    let server = Backend::named("220 hello");
    let pen = Pen::builder().server(&server).start();
    assert_eq!(pen.connect(ME).line().as_deref(), Some("220 hello"));
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let server = Backend::with(|mut connection| {
        let mut request = Vec::new();
        connection.read_to_end(&mut request)?;
        connection.write_all(&Bytes::new(3).take(1_000_000))?;
        connection.write_all(&request)
    });
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    client.send("and the request");
    client.finish();
    let answer = client.read_to_end().unwrap();
    assert!(answer[..1_000_000] == Bytes::new(3).take(1_000_000));
    assert_eq!(&answer[1_000_000..], b"and the request");
    pen.settle();
}

#[test]
fn a_client_that_half_closes_without_a_word_gets_its_answer() {
    let gate = Gate::closed();
    let opens = gate.clone();
    let server = Backend::with(move |mut connection| {
        assert_eq!(connection.read(&mut [0])?, 0);
        opens.pass();
        connection.write_all(b"late answer")
    });
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    client.finish();
    eventually("the connection is half-closed", || {
        pen.report().in_use() == 1 && server.open() == 1
    });
    gate.open();
    assert_eq!(client.read_to_end().unwrap(), b"late answer");
    pen.settle();
}

#[test]
fn a_server_that_half_closes_still_gets_what_the_client_sends() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let result = received.clone();
    let server = Backend::with(move |mut connection| {
        connection.write_all(b"all I have to say")?;
        connection.shutdown(Shutdown::Write)?;
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes)?;
        *result.lock().unwrap() = bytes;
        Ok(())
    });
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    assert_eq!(client.read_to_end().unwrap(), b"all I have to say");
    client.send(Bytes::new(4).take(2_000_000));
    client.finish();
    pen.settle();
    eventually("the server has it", || !received.lock().unwrap().is_empty());
    assert!(*received.lock().unwrap() == Bytes::new(4).take(2_000_000));
}

#[test]
fn a_server_that_sends_and_closes_at_once_is_heard_to_the_end() {
    const SIZE: usize = 3_000_000;
    let server = Backend::with(|mut connection| {
        connection.read_exact(&mut [0])?;
        connection.write_all(&Bytes::new(5).take(SIZE))
    });
    let pen = Pen::builder().server(&server).start();
    for _ in 0..5 {
        let client = pen.connect(ME);
        client.send("x");
        // The server has closed before the client reads its first byte.
        eventually("the server is done or waits for the reader", || client.has_news());
        assert!(client.read_to_end().unwrap() == Bytes::new(5).take(SIZE));
    }
    pen.settle();
}

#[test]
fn a_client_that_sends_and_closes_at_once_is_heard_to_the_end() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let result = received.clone();
    let server = Backend::with(move |mut connection| {
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes)?;
        result.lock().unwrap().push(bytes);
        Ok(())
    });
    let pen = Pen::builder().server(&server).start();
    for size in [1, 1_000, 40_000, 3_000_000] {
        let client = pen.connect(ME);
        client.send(Bytes::new(6).take(size));
        drop(client);
        eventually("the server has it", || received.lock().unwrap().len() == 1);
        assert!(
            received.lock().unwrap().pop().unwrap() == Bytes::new(6).take(size),
            "{size} bytes"
        );
    }
    pen.settle();
}

#[test]
fn every_transfer_ends_whatever_its_size() {
    // A server that sends the requested number of bytes, and closes.
    let server = Backend::with(|mut connection| {
        let mut size = [0; 4];
        connection.read_exact(&mut size)?;
        connection.write_all(&vec![b'x'; u32::from_be_bytes(size) as usize])
    });
    let pen = Pen::builder().server(&server).start();
    thread::scope(|scope| {
        for seed in 0..4 {
            let pen = &pen;
            scope.spawn(move || {
                let mut sizes = Numbers::new(seed);
                for _ in 0..150 {
                    let size = 1 + sizes.below(6_000_000);
                    let client = pen.connect(ME);
                    client.send((size as u32).to_be_bytes());
                    let mut buffer = vec![0; 1 << 20];
                    let mut got = 0;
                    while let read @ 1.. =
                        Read::read(&mut client.socket(), &mut buffer).expect("bytes or an end")
                    {
                        got += read;
                    }
                    assert_eq!(got, size);
                }
            });
        }
    });
    pen.settle();
}

#[test]
fn both_sides_closing_at_once_lose_nothing_and_leave_nothing() {
    let server = Backend::with(|mut connection| {
        connection.write_all(&Bytes::new(7).take(10_000))?;
        connection.shutdown(Shutdown::Write)?;
        connection.read_to_end(&mut Vec::new()).map(drop)
    });
    let pen = Pen::builder().server(&server).start();
    for _ in 0..200 {
        let client = pen.connect(ME);
        client.send("bye");
        client.finish();
        assert!(client.read_to_end().unwrap() == Bytes::new(7).take(10_000));
    }
    pen.settle();
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset() {
    let ended = Arc::new(Mutex::new(None));
    let result = ended.clone();
    let server = Backend::with(move |mut connection| {
        connection.write_all(b"hello\n")?;
        *result.lock().unwrap() = Some(connection.read_to_end(&mut Vec::new()));
        Ok(())
    });
    let pen = Pen::builder().server(&server).start();
    let (client, _) = pen.hold(ME).unwrap();
    client.reset();
    eventually("the server notices", || ended.lock().unwrap().is_some());
    let error = ended.lock().unwrap().take().unwrap().expect_err("a reset, not an end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    pen.settle();
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    let server = Backend::with(|mut connection| {
        connection.read_exact(&mut [0])?;
        connection.set_linger(Some(Duration::ZERO))
    });
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    client.send("x");
    assert_eq!(client.read_to_end().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pen.settle();
}

#[test]
fn urgent_data_does_not_harm_the_normal_bytes() {
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Pen::builder().server(&server).start();
    let client = pen.connect(ME);
    let mut expected = Vec::new();
    for n in 0..50 {
        let piece = format!("piece {n};");
        client.send(&piece);
        assert_eq!(client.socket().send_out_of_band(b"!").unwrap(), 1);
        expected.extend(piece.into_bytes());
    }
    client.finish();
    let answer = client.read_to_end().unwrap();
    // pen does not promise the urgent bytes themselves, but all other bytes in order.
    let normal: Vec<u8> = answer.into_iter().filter(|byte| *byte != b'!').collect();
    assert_eq!(String::from_utf8(normal), String::from_utf8(expected));
    pen.settle();
}

/// Sends without waiting until the socket accepts nothing more; returns the number of bytes
/// accepted.
fn stuff(mut socket: &Socket, pen: &Pen) -> usize {
    socket.set_nonblocking(true).unwrap();
    let chunk = vec![7; 1 << 20];
    let (mut taken, mut before) = (0, usize::MAX);
    // The socket is full if it is still full after a report, because every worker has then run its
    // loop.
    while taken != before {
        before = taken;
        while let Ok(written) = socket.write(&chunk) {
            taken += written;
            assert!(taken < 1 << 30, "there is no back pressure");
        }
        pen.report();
    }
    socket.set_nonblocking(false).unwrap();
    taken
}

#[test]
fn a_server_that_does_not_read_stops_the_client_and_pen_does_not_grow() {
    let gate = Gate::closed();
    let opens = gate.clone();
    let server = Backend::with(move |mut connection| {
        opens.pass();
        let total = io::copy(&mut connection, &mut io::sink())?;
        connection.write_all(format!("{total}\n").as_bytes())
    });
    let pen = Pen::builder().workers(1).options(["-x", "100"]).server(&server).start();
    pen.report();
    let before = pen.workers()[0].resident();
    let clients: Vec<_> = (0..20).map(|_| pen.connect(ME)).collect();
    let sent: Vec<usize> = clients.iter().map(|client| stuff(client.socket(), &pen)).collect();
    let grown = pen.workers()[0].resident().saturating_sub(before);
    assert!(grown < 20 * 256 + 2048, "{grown} KiB for 20 connections that stand still");
    gate.open();
    for (client, sent) in clients.iter().zip(sent) {
        client.finish();
        assert_eq!(client.line(), Some(sent.to_string()), "all that was taken arrives");
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_server_and_pen_does_not_grow() {
    const SIZE: usize = 40_000_000;
    let server = Backend::with(|mut connection| connection.write_all(&Bytes::new(8).take(SIZE)));
    let pen = Pen::builder().workers(1).server(&server).start();
    let before = pen.workers()[0].resident();
    let client = pen.connect(ME);
    eventually("data waits for the client", || client.has_news());
    let mut last = -1;
    eventually("pen takes no more from the server", || {
        let received = pen.report().server(0, "received");
        std::mem::replace(&mut last, received) == received
    });
    assert!(last < SIZE as i64, "there is back pressure");
    let grown = pen.workers()[0].resident().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    let (other, _) = (pen.connect(ME), ());
    assert!(!other.read(1).unwrap().is_empty(), "others go on");
    assert!(client.read_to_end().unwrap() == Bytes::new(8).take(SIZE), "nothing was lost");
}

#[test]
fn idle_connections_use_no_processor_time() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let _held: Vec<_> = (0..100).map(|n| pen.hold(Ipv4Addr::new(127, 6, 2, n)).unwrap()).collect();
    let half: Vec<_> = (0..20).map(|n| pen.hold(Ipv4Addr::new(127, 6, 3, n)).unwrap()).collect();
    let ticks = || pen.workers().iter().map(crate::harness::Process::ticks).sum::<u64>();
    let before = ticks();
    eventually("two seconds have passed", || {
        pen.report().client("127.6.3.19").unwrap()["age(secs)"].parse::<u32>().unwrap() >= 2
    });
    let used = ticks() - before;
    assert!(used < 50, "{used} hundredths of a second for idle connections");
    drop(half);
}

#[test]
fn a_reset_in_the_midst_of_an_upload_is_no_orderly_end() {
    let server = Backend::with(|mut connection| {
        connection.read_exact(&mut vec![0; 3_000_000])?;
        connection.set_linger(Some(Duration::ZERO))
    });
    let pen = Pen::builder().server(&server).start();
    let upload = vec![0; 12_000_000];
    for _ in 0..40 {
        let client = pen.connect(ME);
        // It fails here or, if pen has all bytes already, there; but it must fail.
        let sent = client
            .socket()
            .write_all(&upload)
            .and_then(|()| client.socket().shutdown(Shutdown::Write));
        let ended = sent.and_then(|()| client.read_to_end());
        assert!(
            ended.is_err(),
            "a client that lost most of its upload must not believe that it was taken"
        );
    }
    pen.settle();
}

#[test]
fn a_unix_server_that_answers_and_closes_at_once_is_heard() {
    let directory = tempfile::tempdir().unwrap();
    let server = Backend::with_unix(&directory.path().join("s"), |mut connection| {
        connection.write_all(b"answer")
    });
    let pen = Pen::builder().server(&server).start();
    for _ in 0..200 {
        assert_eq!(pen.connect(ME).read_to_end().unwrap(), b"answer");
    }
    assert!(!pen.said().contains("blacklisting"), "{}", pen.said());
    pen.settle();
}

#[test]
fn an_end_of_file_behind_any_number_of_pieces_is_passed_on() {
    let server = Backend::with(|mut connection| {
        let total = io::copy(&mut connection, &mut io::sink())?;
        connection.write_all(format!("{total}\n").as_bytes())
    });
    let builder = Pen::builder().workers(1);
    let front = builder.directory().join("front");
    let pen = builder.listen(&front).server(&server).start();
    for pieces in 1..20 {
        // All bytes are there when pen begins to read, so no event follows.
        pen.workers()[0].stop();
        let client = Client::connect_unix(&front).unwrap();
        for _ in 0..pieces {
            client.send_with_descriptor(b"x");
        }
        client.finish();
        pen.workers()[0].resume();
        assert_eq!(client.line(), Some(pieces.to_string()));
    }
}

/// Bytes that the other end of a connection on this machine has not read (proc_net_tcp in the
/// kernel's documentation).
fn unread_by_peer(socket: &Socket) -> usize {
    let port = |address: io::Result<socket2::SockAddr>| {
        format!(":{:04X}", address.unwrap().as_socket().unwrap().port())
    };
    let (here, there) = (port(socket.local_addr()), port(socket.peer_addr()));
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<&str>>());
    let of_peer = lines.find(|line| line[1].ends_with(&there) && line[2].ends_with(&here)).unwrap();
    usize::from_str_radix(of_peer[4].split_once(':').unwrap().1, 16).unwrap()
}

/// The number of pipe ends that a process has open.
fn ends_of_pipes(process: &Process) -> usize {
    let descriptors = fs::read_dir(process.proc("fd")).unwrap();
    let targets =
        descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn more_pieces_than_a_pipe_has_places_for_pass_without_an_event() {
    const LARGE: usize = 20_000;
    const PIECE: usize = 400;
    const PIECES: usize = 150;
    let (gate, written) = (Gate::closed(), Gate::closed());
    let (open, has_written) = (gate.clone(), written.clone());
    let server = Backend::with(move |mut connection: &Socket| {
        connection.set_tcp_nodelay(true)?;
        for _ in 0..10 {
            connection.read_exact(&mut [0])?;
            connection.write_all(&[1; LARGE])?;
        }
        open.pass();
        // The bytes come from separate pages, so that the kernel does not join them. A pipe has
        // room for 64 pages. The first splice is followed by another, because nothing came before
        // it for a long time; the second one is trusted.
        let pages = tempfile::tempfile()?;
        pages.set_len(4096 * PIECES as u64)?;
        for n in 0..PIECES as u64 {
            rustix::fs::sendfile(connection, &pages, Some(&mut (4096 * n)), PIECE)?;
        }
        eventually("all pieces wait to be read", || unread_by_peer(connection) == PIECE * PIECES);
        has_written.open();
        connection.read(&mut [0]).map(drop)
    });
    let pen = Pen::builder().workers(1).server(&server).start();
    let worker = pen.workers().remove(0);
    let before = ends_of_pipes(&worker);
    let client = pen.connect(ME);
    // After these answers, splice(2) is in use.
    for _ in 0..10 {
        client.send("r");
        client.read_exactly(LARGE);
    }
    assert_eq!(ends_of_pipes(&worker), before + 2);
    // All pieces are there when pen begins to read, so no event follows.
    worker.stop();
    gate.open();
    written.pass();
    worker.resume();
    assert_eq!(client.read_exactly(PIECE * PIECES), [0; PIECE * PIECES]);
    drop(client);
    pen.settle();
}
