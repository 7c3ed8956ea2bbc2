//! The pump against real sockets: what is held, what ends, what fails.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use std::os::fd::AsFd;

use rustix::net::SendFlags;

use crate::relay::connection::endpoint::RecvState;
use crate::relay::connection::pipes::POOLED_PIPES;
use crate::relay::transfer::pump::*;

fn pair() -> (TcpStream, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut end = Endpoint::new(ours.into(), false);
    end.recv = RecvState::Readable;
    (peer, end)
}

fn wait_readable(end: &Endpoint) {
    let mut poll =
        [rustix::event::PollFd::new(end.socket.as_ref().unwrap(), rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, None).unwrap();
}

fn wait_writable(end: &Endpoint) {
    let mut poll =
        [rustix::event::PollFd::new(end.socket.as_ref().unwrap(), rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut poll, None).unwrap();
}

fn plain() -> PumpOptions<'static> {
    PumpOptions { may_splice: true, watch: None, http: None, now: 0 }
}

#[test]
fn what_one_side_does_not_take_is_held_and_comes_out_whole() {
    let (mut source, mut from) = pair();
    let (mut sink, mut to) = pair();
    let mut tools = Tools::new(POOLED_PIPES);
    let total = 24 << 20;
    let data: Vec<u8> = (0..total).map(|n: u32| (n / 3) as u8).collect();
    let expected = data.clone();
    let writer = std::thread::spawn(move || source.write_all(&data));
    // The peer does not read: the receiving socket fills up and the rest is held.
    while to.held.is_none() {
        wait_readable(&from);
        from.recv = RecvState::Readable;
        pump(&mut from, &mut to, &mut tools, plain());
    }
    assert!(to.held.as_ref().unwrap().len() <= PLAIN);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        sink.read_to_end(&mut got).map(|_| got)
    });
    while to.send_state() != SendState::Shut {
        if to.held.is_some() {
            wait_writable(&to);
        } else if from.recv != RecvState::Ended {
            wait_readable(&from);
        }
        from.was_reported();
        pump(&mut from, &mut to, &mut tools, plain());
    }
    writer.join().unwrap().unwrap();
    assert!(reader.join().unwrap().unwrap() == expected);
}

#[test]
fn a_short_read_after_a_hang_up_is_the_end() {
    let (mut source, mut from) = pair();
    let (mut sink, mut to) = pair();
    source.write_all(b"last words").unwrap();
    drop(source);
    from.hung_up = true;
    wait_readable(&from);
    let moved = pump(&mut from, &mut to, &mut Tools::new(POOLED_PIPES), plain());
    assert_eq!(moved, Moved { bytes: 10, given: 10, more: false });
    assert_eq!((from.recv, to.send_state()), (RecvState::Ended, SendState::Shut));
    let mut got = String::new();
    sink.read_to_string(&mut got).unwrap();
    assert_eq!(got, "last words");
}

#[test]
fn a_known_end_of_file_follows_the_held_data_without_another_read() {
    let (mut source, mut from) = pair();
    let (mut sink, mut to) = pair();
    let mut tools = Tools::new(POOLED_PIPES);
    let filler = vec![b'x'; 1 << 20];
    let mut filled = 0;
    while let sent @ 1.. = send(&mut to, &filler, SendFlags::empty()) {
        filled += sent;
    }
    source.write_all(b"last words").unwrap();
    drop(source);
    from.hung_up = true;
    wait_readable(&from);
    pump(&mut from, &mut to, &mut tools, plain());
    assert_eq!((from.recv, to.send_state()), (RecvState::Ended, SendState::Open));
    assert_eq!(to.held_bytes(), 10);
    // A read would find out that there is no socket.
    from.socket = None;
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        sink.read_to_end(&mut got).map(|_| got)
    });
    while to.send_state() != SendState::Shut {
        wait_writable(&to);
        pump(&mut from, &mut to, &mut tools, plain());
        assert_eq!(from.recv, RecvState::Ended);
    }
    let got = reader.join().unwrap().unwrap();
    assert!(got.len() == filled + 10 && got.ends_with(b"last words"));
}

#[test]
fn a_peer_that_takes_nothing_breaks_its_end_only() {
    let (mut source, mut from) = pair();
    let (sink, mut to) = pair();
    drop(sink);
    while !to.is_broken() {
        source.write_all(b"x").unwrap();
        wait_readable(&from);
        from.recv = RecvState::Readable;
        pump(&mut from, &mut to, &mut Tools::new(POOLED_PIPES), plain());
    }
    assert!(!from.recv.is_over() && to.held.is_none());
}

#[test]
fn the_end_of_file_is_passed_on_in_whatever_round_it_is_found() {
    for pieces in 1..2 * ROUNDS {
        let (source, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut from = Endpoint::new(ours.into(), true);
        from.recv = RecvState::Readable;
        from.hung_up = true;
        let (mut sink, mut to) = pair();
        let mut tools = Tools::new(POOLED_PIPES);
        for _ in 0..pieces {
            // A read stops at a message that carries a descriptor.
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            let descriptors = [source.as_fd()];
            assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)));
            let piece = [std::io::IoSlice::new(b"x")];
            rustix::net::sendmsg(&source, &piece, &mut control, SendFlags::empty()).unwrap();
        }
        drop(source);
        // Only the pump itself says that there is more: the kernel has already sent every event.
        while pump(&mut from, &mut to, &mut tools, plain()).more {}
        assert_eq!(
            (from.recv, to.send_state()),
            (RecvState::Ended, SendState::Shut),
            "{pieces} pieces"
        );
        drop(to);
        let mut got = Vec::new();
        sink.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), pieces as usize);
    }
}

#[test]
fn urgent_data_is_no_end_of_file_for_splice() {
    let (mut source, mut from) = pair();
    let (mut sink, mut to) = pair();
    rustix::net::send(&source, b"!", SendFlags::OOB).unwrap();
    source.write_all(b"and more").unwrap();
    drop(source);
    wait_readable(&from);
    // The state when the urgent byte comes during a large transfer, before an event tells of it.
    from.large_reads = LARGE_READS;
    let mut tools = Tools::new(POOLED_PIPES);
    while to.send_state() != SendState::Shut {
        from.recv = RecvState::Readable;
        pump(&mut from, &mut to, &mut tools, plain());
    }
    let mut got = String::new();
    sink.read_to_string(&mut got).unwrap();
    assert_eq!(got, "and more");
}

#[test]
fn a_reset_that_sending_found_out_is_no_end_of_file() {
    let (sink, mut to) = pair();
    rustix::net::sockopt::set_socket_linger(&sink, Some(std::time::Duration::ZERO)).unwrap();
    drop(sink);
    let (mut source, mut from) = pair();
    source.write_all(b"x").unwrap();
    wait_readable(&from);
    pump(&mut from, &mut to, &mut Tools::new(POOLED_PIPES), plain());
    assert_eq!(to.send_state(), SendState::Reset);
    // Then the other way.
    pump(&mut to, &mut from, &mut Tools::new(POOLED_PIPES), plain());
    assert!(to.recv == RecvState::Failed && from.send_state() != SendState::Shut);
}

#[test]
fn watchers_see_every_byte_in_order() {
    let (mut source, mut from) = pair();
    let (_sink, mut to) = pair();
    source.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    wait_readable(&from);
    let mut seen = Vec::new();
    let mut watch = |bytes: &[u8]| seen.extend_from_slice(bytes);
    pump(
        &mut from,
        &mut to,
        &mut Tools::new(POOLED_PIPES),
        PumpOptions { may_splice: true, watch: Some(&mut watch), http: None, now: 0 },
    );
    assert_eq!(seen, b"GET / HTTP/1.0\r\n\r\n");
}
