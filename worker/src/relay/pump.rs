//! Moves bytes from one end of a connection to the other, until the kernel says that it must wait.
//!
//! Little data is copied through one buffer that all connections of the worker share; bytes stay with a connection only while
//! the receiving end takes none. A direction that keeps carrying much is switched to splice(2) through a pipe from a pool,
//! and back when it carries little again: a pipe saves the copies but costs system calls.
//!
//! Epoll is edge-triggered here: an end is asked again only after an event said so, hence `readable` of [`End`] is cleared
//! only on the kernel's word. The number of rounds is bounded so that one busy connection does not keep the others
//! waiting; whoever has more to move is told so and must come back by itself.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::connection::End;

/// Bytes of the shared buffer: reads of this size cost about half as much per byte as reads of 64 KiB.
pub const BUFFER: usize = 256 * 1024;

/// Rounds of reading and sending before others get their turn.
const ROUNDS: u32 = 8;

/// From this size a read counts as large.
const LARGE_READ: usize = 12 * 1024;

/// So many large reads in a row switch a direction to splice(2).
const LARGE_READS: u8 = 2;

/// A splice that moves less than this switches back to copying.
const SMALL_SPLICE: usize = 8 * 1024;

/// Bytes that a pipe is asked to hold; the kernel may grant less (pipe(7), pipe-user-pages-soft).
const PIPE: usize = 256 * 1024;

/// Idle pipes that a worker keeps; it always has the descriptors for so many.
pub const POOLED_PIPES: usize = 32;

/// Bytes read from one end that the other has not taken.
#[derive(Debug)]
pub enum Held {
    /// Copied; sent up to `start`.
    Bytes {
        /// The bytes.
        data: Box<[u8]>,
        /// How many of them were sent.
        start: usize,
    },
    /// In a pipe.
    Pipe {
        /// The pipe.
        pipe: Pipe,
        /// How many bytes are in it.
        bytes: usize,
    },
}

impl Held {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        match self {
            Held::Bytes { data, start } => data.len() - start,
            Held::Pipe { bytes, .. } => *bytes,
        }
    }
}

/// A pipe for splice(2).
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Counts it.
    _one_of: Rc<()>,
}

/// What all connections of a worker use in turn: the buffer and the pipes.
#[derive(Debug)]
pub struct Tools {
    buffer: Box<[u8]>,
    pipes: Vec<Pipe>,
    /// As many further references as there are pipes, here and with connections.
    all_pipes: Rc<()>,
    most_pipes: usize,
}

impl Tools {
    /// The tools of one worker, which may have so many pipes, of two descriptors each: peers that do not read must not use up those
    /// of clients to come. The buffer takes memory only as far as reads fill it.
    pub fn new(most_pipes: usize) -> Tools {
        Tools { buffer: vec![0; BUFFER].into_boxed_slice(), pipes: Vec::new(), all_pipes: Rc::default(), most_pipes }
    }

    /// Changes how many pipes there may be; those in use stay.
    pub fn set_most_pipes(&mut self, most_pipes: usize) {
        self.most_pipes = most_pipes;
    }

    fn pipe(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.pipes.pop() {
            return Some(pipe);
        }
        // Without descriptors or memory for a pipe, copying goes on.
        if Rc::strong_count(&self.all_pipes) > self.most_pipes {
            return None;
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
        Some(Pipe { read, write, _one_of: self.all_pipes.clone() })
    }

    /// Takes back an empty pipe.
    fn pool(&mut self, pipe: Pipe) {
        if self.pipes.len() < POOLED_PIPES {
            self.pipes.push(pipe);
        }
    }
}

/// How a direction is to be moved.
pub struct Manner<'w> {
    /// splice(2) may be used: nobody needs to see the bytes.
    pub may_splice: bool,
    /// Sees the bytes of each read before they are sent.
    pub watch: Option<Watch<'w>>,
}

/// Sees bytes on their way.
pub type Watch<'w> = &'w mut dyn FnMut(&[u8]);

/// What was moved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moved {
    /// Bytes read; all of them were sent or are held.
    pub bytes: u64,
    /// There may be more to move now: come back without waiting for an event.
    pub more: bool,
}

/// Moves bytes from one end to the other, end of file included. What happened to the ends is in their flags: `ended` or `failed` of
/// `from`, `broken` of `to`.
pub fn pump(from: &mut End, to: &mut End, tools: &mut Tools, mut manner: Manner<'_>) -> Moved {
    let mut moved = Moved::default();
    for _ in 0..ROUNDS {
        if to.held.is_some() && !flush(to, tools) {
            return moved;
        }
        if from.ended {
            pass_end(from, to);
            return moved;
        }
        if !from.readable || to.broken {
            return moved;
        }
        moved.bytes += match by_splice(from, to, tools, &manner) {
            Some(bytes) => bytes,
            None => by_copy(from, to, tools, &mut manner),
        };
    }
    // Also when the last round found the end: no event will tell of it again.
    moved.more = (from.readable || (from.ended && !to.shut)) && to.held.is_none() && !to.broken;
    moved
}

/// Sends what is held for an end. True if nothing is left.
pub fn flush(to: &mut End, tools: &mut Tools) -> bool {
    let Some(mut held) = to.held.take() else { return true };
    if to.broken {
        return false;
    }
    let empty = match &mut *held {
        Held::Bytes { data, start } => {
            *start += send(to, &data[*start..], SendFlags::empty());
            *start == data.len()
        }
        Held::Pipe { pipe, bytes } => {
            *bytes -= drain(pipe, to, *bytes);
            *bytes == 0
        }
    };
    match (empty, *held) {
        (true, Held::Pipe { pipe, .. }) => tools.pool(pipe),
        (true, Held::Bytes { .. }) => {}
        (false, held) if !to.broken => to.held = Some(Box::new(held)),
        (false, _) => {}
    }
    empty && !to.broken
}

/// Reads and throws away what an end still sends.
pub fn discard(from: &mut End, tools: &mut Tools) -> Moved {
    let mut moved = Moved::default();
    for _ in 0..ROUNDS {
        if from.ended || from.failed || !from.readable {
            return moved;
        }
        moved.bytes += receive(from, &mut tools.buffer) as u64;
    }
    moved.more = from.readable;
    moved
}

/// What one read from an end gives, if it has something now.
pub fn take<'t>(from: &mut End, tools: &'t mut Tools) -> &'t [u8] {
    let length = if from.readable { receive(from, &mut tools.buffer) } else { 0 };
    &tools.buffer[..length]
}

fn by_copy(from: &mut End, to: &mut End, tools: &mut Tools, manner: &mut Manner<'_>) -> u64 {
    let length = receive(from, &mut tools.buffer);
    if length == 0 {
        return 0;
    }
    from.large_reads = if length >= LARGE_READ { LARGE_READS.min(from.large_reads + 1) } else { 0 };
    let bytes = &tools.buffer[..length];
    if let Some(watch) = &mut manner.watch {
        watch(bytes);
    }
    // With the last bytes the end of file goes out in one segment: shutdown(2) or close(2) follow at once and push both.
    let sent = send(to, bytes, if from.ended { SendFlags::MORE } else { SendFlags::empty() });
    if sent < length && !to.broken {
        to.held = Some(Box::new(Held::Bytes { data: bytes[sent..].into(), start: 0 }));
    }
    length as u64
}

/// One read, with all that it says about the end. 0: nothing, end of file, or a failure.
fn receive(from: &mut End, buffer: &mut [u8]) -> usize {
    let Some(socket) = &from.socket else {
        from.readable = false;
        return 0;
    };
    loop {
        match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                at_end(from);
                return 0;
            }
            Ok((length, _)) => {
                if length < buffer.len() && !from.careful {
                    // The queue is empty: either the end of file is all that is left, or an event will tell of more.
                    from.readable = false;
                    if from.hung_up {
                        at_end(from);
                    }
                }
                acknowledge(from);
                return length;
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => from.readable = false,
            Err(_) => {
                from.failed = true;
                from.readable = false;
            }
        }
        return 0;
    }
}

/// The first bytes came from a server that was sent a request before its handshake was acknowledged (`relay::dial`): the kernel has taken
/// that for a conversation by turns and keeps acknowledgements back, for which a peer with Nagle's algorithm may wait 40 ms. If this
/// is all, there is nothing to wait for.
fn acknowledge(from: &mut End) {
    if std::mem::take(&mut from.withholds_acks)
        && !from.ended
        && let Some(socket) = &from.socket
    {
        let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
    }
}

/// Nothing more will come from an end: in good order, unless sending to it has used up the kernel's word of a reset, after
/// which reading looks like an end of file.
fn at_end(from: &mut End) {
    from.readable = false;
    match from.reset {
        true => from.failed = true,
        false => from.ended = true,
    }
}

/// Sending failed. EPIPE comes after an end of file, so what the peer had to say is whole; anything else is a reset.
fn on_broken(to: &mut End, errno: Errno) {
    to.broken = true;
    to.reset = errno != Errno::PIPE;
}

/// Sends what the end takes and returns how much that was. Less than all: the end is full, or broken.
fn send(to: &mut End, bytes: &[u8], flags: SendFlags) -> usize {
    let Some(socket) = &to.socket else {
        to.broken = true;
        return 0;
    };
    if to.sent && to.nagle {
        // A second small write would otherwise wait for the acknowledgement of the first, 40 ms and more.
        let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
        to.nagle = false;
    }
    to.sent = true;
    let mut start = 0;
    while start < bytes.len() {
        match rustix::net::send(socket, &bytes[start..], SendFlags::NOSIGNAL | flags) {
            // Less than asked: the socket's buffer is full, and an event will tell when it is not.
            Ok(length) if length < bytes.len() - start => return start + length,
            Ok(length) => start += length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return start,
            Err(errno) => {
                on_broken(to, errno);
                return start;
            }
        }
    }
    start
}

/// Moves a direction that carries much through a pipe. None: it is to be copied.
fn by_splice(from: &mut End, to: &mut End, tools: &mut Tools, manner: &Manner<'_>) -> Option<u64> {
    if from.large_reads < LARGE_READS || !manner.may_splice || manner.watch.is_some() || from.careful {
        return None;
    }
    let pipe = tools.pipe()?;
    let filled = fill(from, &pipe);
    let Some(filled @ 1..) = filled else {
        tools.pool(pipe);
        return filled.map(|_| 0);
    };
    if filled < SMALL_SPLICE {
        from.large_reads = 0;
    }
    let left = filled - drain(&pipe, to, filled);
    if left == 0 {
        tools.pool(pipe);
    } else if !to.broken {
        to.held = Some(Box::new(Held::Pipe { pipe, bytes: left }));
    }
    Some(filled as u64)
}

/// From a socket into an empty pipe. None: reading has to say what there is, or this socket cannot be spliced.
fn fill(from: &mut End, pipe: &Pipe) -> Option<usize> {
    let socket = from.socket.as_ref()?;
    loop {
        match rustix::pipe::splice(socket, None, &pipe.write, None, PIPE, flags()) {
            Ok(length @ 1..) => return Some(length),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                from.readable = false;
                return Some(0);
            }
            // The end of file, or urgent data, which stops splice(2) with 0 as well (tcp_splice_read).
            Ok(0) | Err(Errno::INVAL) => {
                from.large_reads = 0;
                return None;
            }
            Err(_) => {
                from.failed = true;
                from.readable = false;
                return Some(0);
            }
        }
    }
}

/// From a pipe that holds `bytes` into a socket; returns how many it took.
fn drain(pipe: &Pipe, to: &mut End, bytes: usize) -> usize {
    let Some(socket) = &to.socket else {
        to.broken = true;
        return 0;
    };
    let mut done = 0;
    while done < bytes {
        match rustix::pipe::splice(&pipe.read, None, socket.as_fd(), None, bytes - done, flags()) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => continue,
            // A splice(2) that fails midway says how much it moved and keeps the error to itself.
            Err(Errno::PIPE) if done > 0 && !to.hung_up => {
                on_broken(to, Errno::CONNRESET);
                break;
            }
            Err(errno) => {
                on_broken(to, errno);
                break;
            }
        }
    }
    done
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// Passes the end of file on, once all that came before it has been sent.
fn pass_end(from: &End, to: &mut End) {
    if to.shut || to.broken {
        return;
    }
    to.shut = true;
    let both_done = to.ended && from.held.is_none();
    // With both directions at their end the sockets are about to be closed, which says the same.
    if let (false, Some(socket)) = (both_done, &to.socket) {
        let _ = rustix::net::shutdown(socket, Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, End) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut end = End::new(ours.into(), false);
        end.readable = true;
        (peer, end)
    }

    fn wait_readable(end: &End) {
        let mut poll = [rustix::event::PollFd::new(end.socket.as_ref().unwrap(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
    }

    fn plain() -> Manner<'static> {
        Manner { may_splice: true, watch: None }
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
        // Nobody reads: the receiving socket fills up and the rest is held.
        while to.held.is_none() {
            wait_readable(&from);
            from.readable = true;
            pump(&mut from, &mut to, &mut tools, plain());
        }
        assert!(to.held.as_ref().unwrap().len() <= BUFFER);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).map(|_| got)
        });
        while !to.shut {
            if to.held.is_some() {
                let mut poll = [rustix::event::PollFd::new(to.socket.as_ref().unwrap(), rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut poll, None).unwrap();
            } else if !from.ended {
                wait_readable(&from);
            }
            from.readable = true;
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
        assert_eq!(moved, Moved { bytes: 10, more: false });
        assert!(from.ended && to.shut && !from.failed);
        let mut got = String::new();
        sink.read_to_string(&mut got).unwrap();
        assert_eq!(got, "last words");
    }

    #[test]
    fn a_peer_that_takes_nothing_breaks_its_end_only() {
        let (mut source, mut from) = pair();
        let (sink, mut to) = pair();
        drop(sink);
        while !to.broken {
            source.write_all(b"x").unwrap();
            wait_readable(&from);
            from.readable = true;
            pump(&mut from, &mut to, &mut Tools::new(POOLED_PIPES), plain());
        }
        assert!(!from.failed && !from.ended && to.held.is_none());
    }

    #[test]
    fn the_end_of_file_is_passed_on_in_whatever_round_it_is_found() {
        for pieces in 1..2 * ROUNDS {
            let (source, ours) = std::os::unix::net::UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut from = End { readable: true, hung_up: true, ..End::new(ours.into(), true) };
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
            // Nobody but the pump itself says that there is more: the kernel has told everything already.
            while pump(&mut from, &mut to, &mut tools, plain()).more {}
            assert!(from.ended && to.shut, "{pieces} pieces");
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
        // As it is when the urgent byte comes while much is being moved, before an event tells of it.
        from.large_reads = LARGE_READS;
        let mut tools = Tools::new(POOLED_PIPES);
        while !to.shut {
            from.readable = true;
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
        assert!(to.broken && to.reset);
        // Then the other way.
        pump(&mut to, &mut from, &mut Tools::new(POOLED_PIPES), plain());
        assert!(to.failed && !to.ended && !from.shut);
    }

    #[test]
    fn pipes_have_a_bound_and_those_of_ended_connections_count_no_more() {
        let mut tools = Tools::new(2);
        let (first, second) = (tools.pipe(), tools.pipe());
        assert!(first.is_some() && second.is_some() && tools.pipe().is_none());
        drop(first);
        let third = tools.pipe().expect("one was dropped");
        assert!(tools.pipe().is_none());
        tools.pool(third);
        assert!(tools.pipe().is_some() && tools.pipe().is_some());
    }

    #[test]
    fn watchers_see_every_byte_in_order() {
        let (mut source, mut from) = pair();
        let (_sink, mut to) = pair();
        source.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        wait_readable(&from);
        let mut seen = Vec::new();
        let mut watch = |bytes: &[u8]| seen.extend_from_slice(bytes);
        pump(&mut from, &mut to, &mut Tools::new(POOLED_PIPES), Manner { may_splice: true, watch: Some(&mut watch) });
        assert_eq!(seen, b"GET / HTTP/1.0\r\n\r\n");
    }
}
