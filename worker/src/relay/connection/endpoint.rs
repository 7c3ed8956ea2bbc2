//! One end of a connection: its socket, what the kernel said about it, and what waits to be sent to
//! it.
//!
//! Reading and sending here says all that it learns in the flags of [`End`]; who looks at them
//! decides what follows (`pump`, `ending`). Epoll is edge-triggered: `readable` is set by events
//! and cleared only on the kernel's word, or in a doubt (`second_look`).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::relay::tls::{Cipher, Session};
use crate::relay::transfer::splice::Pipe;
use crate::relay::transfer::splice_recheck::DrainState;

/// One socket of a connection, and what waits to be sent to it.
#[derive(Debug, Default)]
pub struct End {
    /// The socket; none before it is made and after it is closed.
    pub socket: Option<OwnedFd>,
    /// May have something to read. Edge-triggered: set by events, cleared only when the kernel
    /// said that there is nothing, or in a doubt.
    pub readable: bool,
    /// The peer's end of file is in the receive queue, behind what is still unread.
    pub hung_up: bool,
    /// A short read does not mean that the queue is empty: read until the kernel says so. Unix
    /// sockets stop a read at a message that carries descriptors, TCP at urgent data (tcp(7)).
    pub careful: bool,
    /// All that the peer sent has been read.
    pub ended: bool,
    /// Reading failed: the peer reset the connection.
    pub failed: bool,
    /// Writing failed: the peer takes nothing any more.
    pub broken: bool,
    /// Writing failed because the peer reset the connection, which the kernel says only once.
    pub reset: bool,
    /// The end of file was passed on to the peer (shutdown(2)).
    pub shut: bool,
    /// Is a TCP socket that has Nagle's algorithm on; it is switched off before the second send.
    pub nagle: bool,
    /// Something was sent.
    pub sent: bool,
    /// Acknowledgements of what comes are kept back; they are let go with the first bytes.
    pub withholds_acks: bool,
    /// Large reads in a row from this end, up to the number that makes it worth a pipe.
    pub large_reads: u8,
    /// Waits on the list of those that have more to read now.
    pub queued: bool,
    /// Whether `readable` is without doubt where it is not set.
    pub doubt: DrainState,
    /// Is on the list of those that are looked at again because of the doubt.
    pub listed: bool,
    /// The monotonic millisecond of the last splice(2) from it, without the upper half.
    pub spliced_at: u32,
    /// Bytes read from the other end that this end has not taken yet; with a session, records.
    pub held: Option<Box<Held>>,
    /// The TLS session with the peer, if there is one: what is read and sent is plain text, what
    /// goes through the socket is not.
    pub session: Option<Box<Session>>,
}

/// The buffers that all connections of a worker use in turn. They take memory only as far as they
/// are filled.
#[derive(Debug)]
pub struct Buffers {
    /// What was read.
    pub plain: Box<[u8]>,
    /// Records of TLS.
    pub cipher: Cipher,
    /// The most that is read at once.
    pub room: usize,
}

impl End {
    /// An end with a socket.
    pub fn new(socket: OwnedFd, unix: bool) -> End {
        End { socket: Some(socket), careful: unix, ..End::default() }
    }

    /// How many bytes wait to be taken.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.len())
    }
}

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

    /// How many bytes of this process's memory it takes.
    pub fn copied(&self) -> usize {
        match self {
            Held::Bytes { data, .. } => data.len(),
            Held::Pipe { .. } => 0,
        }
    }
}

/// One read, with all that it says about the end; what it gave is at the beginning of the plain
/// buffer. 0: nothing yet, end of file, or a failure.
pub fn receive(from: &mut End, buffers: &mut Buffers) -> usize {
    let Some(mut session) = from.session.take() else {
        return read(from, &mut buffers.plain[..buffers.room]);
    };
    let length = receive_records(from, &mut session, buffers);
    from.session = Some(session);
    length
}

fn receive_records(from: &mut End, session: &mut Session, buffers: &mut Buffers) -> usize {
    let Buffers { plain, cipher, room } = buffers;
    if let Some((length, ended)) = session.take_early(plain) {
        from.ended |= ended;
        return length;
    }
    let length = read(from, session.room(cipher, *room));
    if length == 0 {
        return 0;
    }
    let taken = session.take(length, cipher, plain);
    let out = session.take_out();
    if !out.is_empty() {
        put(from, &out, SendFlags::empty());
    }
    if taken.closed {
        // Whatever may follow in the stream means nothing.
        (from.readable, from.ended) = (false, true);
    }
    if let Some(error) = taken.error {
        (from.readable, from.failed) = (false, true);
        session.set_error(error);
    }
    taken.plain
}

/// Reads from the socket.
fn read(from: &mut End, buffer: &mut [u8]) -> usize {
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
                from.has_read();
                if length < buffer.len() && !from.careful {
                    // The queue is empty: either the end of file is all that is left, or an event
                    // will tell of more.
                    from.found_empty();
                    if from.hung_up {
                        at_end(from);
                    }
                }
                acknowledge(from);
                return length;
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => from.found_empty(),
            Err(_) => {
                from.failed = true;
                from.readable = false;
            }
        }
        return 0;
    }
}

/// The first bytes came from a server that was sent a request before its handshake was acknowledged
/// (`relay::dial`): the kernel has taken that for a conversation by turns and keeps
/// acknowledgements back, for which a peer with Nagle's algorithm may wait 40 ms. If this
/// is all, there is nothing to wait for.
fn acknowledge(from: &mut End) {
    if std::mem::take(&mut from.withholds_acks)
        && !from.ended
        && let Some(socket) = &from.socket
    {
        let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
    }
}

/// Nothing more will come from an end: in good order, unless sending to it has used up the kernel's
/// word of a reset, after which reading looks like an end of file.
fn at_end(from: &mut End) {
    from.readable = false;
    match from.reset {
        true => from.failed = true,
        false => from.ended = true,
    }
}

/// Sending failed. EPIPE comes after an end of file, so what the peer had to say is whole; anything
/// else is a reset.
pub fn on_broken(to: &mut End, errno: Errno) {
    to.broken = true;
    to.reset = errno != Errno::PIPE;
}

/// Sends bytes; what the end does not take now is held for it. Nothing may be held already, unless
/// there is a session. With the flag MORE the kernel may wait for what follows (send(2)), so
/// something has to follow at once.
pub fn deliver(to: &mut End, bytes: &[u8], flags: SendFlags, cipher: &mut Cipher) {
    match to.session.as_mut().map(|session| session.encrypt(bytes, cipher)) {
        None => put(to, bytes, flags),
        Some(Some(length)) => put(to, cipher.first(length), flags),
        Some(None) => to.broken = true,
    }
}

/// Sends bytes as they are, behind what is held; what the end does not take is held too.
fn put(to: &mut End, bytes: &[u8], flags: SendFlags) {
    match to.held.take().map(|held| *held) {
        Some(Held::Bytes { data, start }) => {
            let data = [&data[start..], bytes].concat().into_boxed_slice();
            to.held = Some(Box::new(Held::Bytes { data, start: 0 }));
        }
        // Pipes are for ends without a session, which are given bytes only when nothing is held.
        Some(pipe @ Held::Pipe { .. }) => to.held = Some(Box::new(pipe)),
        None => {
            let sent = send(to, bytes, flags);
            if sent < bytes.len() && !to.broken {
                to.held = Some(Box::new(Held::Bytes { data: bytes[sent..].into(), start: 0 }));
            }
        }
    }
}

/// Sends what the end takes and returns how much that was. Less than all: the end is full, or
/// broken.
pub fn send(to: &mut End, bytes: &[u8], flags: SendFlags) -> usize {
    let Some(socket) = &to.socket else {
        to.broken = true;
        return 0;
    };
    if to.sent && to.nagle {
        // A second small write would otherwise wait for the acknowledgement of the first, 40 ms and
        // more.
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

/// Tells the peer that nothing more comes, once all that came before has been sent; `shut` says
/// whether that is done. If the socket is about to be closed, that says the same as shutdown(2),
/// but nothing says the same as close_notify.
pub fn shut(to: &mut End, closing: bool, cipher: &mut Cipher) {
    if let Some(session) = to.session.as_mut().filter(|session| !session.is_closed())
        && let Some(length) = session.close(cipher)
    {
        put(to, cipher.first(length), SendFlags::empty());
    }
    if to.held.is_some() {
        return;
    }
    to.shut = true;
    if let (false, Some(socket)) = (closing, &to.socket) {
        let _ = rustix::net::shutdown(socket, Shutdown::Write);
    }
}
