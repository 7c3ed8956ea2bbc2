//! One end of a connection: its socket, the socket's known state, and the data that waits to be
//! sent to it.
//!
//! Reading and sending record their results in the states of [`Endpoint`]. The callers decide by
//! the states what follows (`pump`, `closing`).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::relay::connection::pipes::Pipe;
use crate::tls::{Cipher, PLAIN, Session};

/// One socket of a connection, and what waits to be sent to it.
#[derive(Debug, Default)]
pub struct Endpoint {
    /// The socket; none before it is created and after it is closed.
    pub socket: Option<OwnedFd>,
    /// What is known of the data that the peer sends.
    pub recv: RecvState,
    /// Whether data can be sent to the peer; changed by [`Endpoint::sending_is`] alone.
    send: SendState,
    /// How data travels to and from a server; a client's end has the default.
    pub transport: Transport,
    /// Nagle's algorithm on the socket.
    pub nagle: Nagle,
    /// The peer's end of file is in the receive queue, after the unread data.
    pub hung_up: bool,
    /// A short read does not mean that the queue is empty: read until the kernel says so. A read
    /// from a Unix socket stops at a message that carries descriptors, one from TCP at urgent data
    /// (tcp(7)).
    pub careful: bool,
    /// Acknowledgements of received data are delayed. They are sent with the first data.
    pub withholds_acks: bool,
    /// Is on the list of ends that have more to read now.
    pub queued: bool,
    /// Is on the list of ends to check again after a short splice.
    pub listed: bool,
    /// Number of large reads in a row from this end, up to the number that makes a pipe worth its
    /// cost.
    pub large_reads: u8,
    /// How many times the kernel must say that there is no data before a short splice(2) is
    /// believed.
    pub wary: u8,
    /// The monotonic millisecond of the last splice(2) from this end, without the upper half.
    pub spliced_at: u32,
    /// Data read from the other end that this end has not taken yet; with a session, records.
    pub held: Option<Box<HeldBytes>>,
    /// The TLS session with the peer, if there is one: plain text is read and sent here, records go
    /// through the socket.
    pub session: Option<Box<Session>>,
}

/// What is known of the data that the peer sends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RecvState {
    /// There is none: the kernel said so, or there is no socket.
    #[default]
    Empty,
    /// A short splice(2) said that there is none, since the last round of checks.
    AssumedEmpty,
    /// The same before the last round of checks: the next round reads it.
    CheckDue,
    /// There may be some: it is read because of a check.
    Checking,
    /// There may be some: an event said so, or the last read did not find the end.
    Readable,
    /// All data was read, the end of file included.
    Ended,
    /// Reading failed: the peer reset the connection, or its TLS session broke.
    Failed,
}

impl RecvState {
    /// Whether to read: there may be data.
    pub fn is_readable(self) -> bool {
        matches!(self, RecvState::Checking | RecvState::Readable)
    }

    /// Whether nothing more will be read.
    pub fn is_over(self) -> bool {
        matches!(self, RecvState::Ended | RecvState::Failed)
    }

    /// Whether only a check will tell if there is data.
    pub fn is_unsure(self) -> bool {
        matches!(self, RecvState::AssumedEmpty | RecvState::CheckDue | RecvState::Checking)
    }
}

/// Whether data can be sent to a peer. An end only passes from a state to a later one: a failure
/// stays known whatever is tried after it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum SendState {
    /// It can, as far as is known.
    #[default]
    Open,
    /// The end of file was passed on to the peer (shutdown(2)).
    Shut,
    /// Sending failed: the peer takes no more data.
    Broken,
    /// Sending failed because the peer reset the connection. The kernel reports that only once, so
    /// the next read looks like an end of file.
    Reset,
}

/// How data travels to and from a server, as it was when the connect began. The settings may have
/// changed, or lost the server, when the connect is over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// In clear text.
    #[default]
    Plain,
    /// In TLS, and never otherwise.
    Tls,
}

/// Nagle's algorithm on a TCP socket. With it, a second small write would wait for the
/// acknowledgement of the first, 40 ms and more. So it is switched off before the second send.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Nagle {
    /// It is off, or the socket has none.
    #[default]
    Off,
    /// It is on, and nothing was sent.
    Unsent,
    /// It is on, and data was sent.
    Sent,
}

/// The buffers that all connections of a worker share. They use memory only as far as they are
/// filled.
#[derive(Debug)]
pub struct Buffers {
    /// The data of the last read.
    pub plain: Box<[u8]>,
    /// TLS records.
    pub cipher: Cipher,
    /// Most bytes of one read.
    pub room: usize,
}

impl Endpoint {
    /// An end with a socket.
    pub fn new(socket: OwnedFd, unix: bool) -> Endpoint {
        Endpoint { socket: Some(socket), careful: unix, ..Endpoint::default() }
    }

    /// Whether data can be sent to the peer.
    pub fn send_state(&self) -> SendState {
        self.send
    }

    /// Notes the result of sending. If the present state is a later one, it stays.
    pub fn sending_is(&mut self, state: SendState) {
        self.send = self.send.max(state);
    }

    /// Whether sending has failed.
    pub fn is_broken(&self) -> bool {
        matches!(self.send, SendState::Broken | SendState::Reset)
    }

    /// Whether the peer has a session and has not said by close_notify that its data is complete.
    pub fn is_cut(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| !session.is_handshaking() && !session.peer_closed())
    }

    /// How many bytes wait to be sent.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.len())
    }
}

/// Data read from one end that the other has not taken.
#[derive(Debug)]
pub enum HeldBytes {
    /// Copied data, sent up to `start`.
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

impl HeldBytes {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        match self {
            HeldBytes::Bytes { data, start } => data.len() - start,
            HeldBytes::Pipe { bytes, .. } => *bytes,
        }
    }

    /// How many bytes of this process's memory it uses.
    pub fn copied(&self) -> usize {
        match self {
            HeldBytes::Bytes { data, .. } => data.len(),
            HeldBytes::Pipe { .. } => 0,
        }
    }
}

/// Reads once and records the result in the state of the end. The data is at the start of the plain
/// buffer. 0: no data yet, end of file, or a failure.
pub fn receive(from: &mut Endpoint, buffers: &mut Buffers) -> usize {
    let Some(mut session) = from.session.take() else {
        return read(from, &mut buffers.plain[..buffers.room]);
    };
    let length = receive_records(from, &mut session, buffers);
    from.session = Some(session);
    length
}

fn receive_records(from: &mut Endpoint, session: &mut Session, buffers: &mut Buffers) -> usize {
    let Buffers { plain, cipher, room } = buffers;
    if let Some((length, ended)) = session.take_early(plain) {
        if ended {
            from.recv = RecvState::Ended;
        }
        return length;
    }
    let length = read(from, session.room(cipher, *room));
    if length == 0 {
        return 0;
    }
    let awaited = session.awaits_answer();
    let taken = session.take(length, cipher, plain);
    let out = session.take_out();
    if !out.is_empty() {
        put(from, &out, SendFlags::empty());
    }
    if awaited && taken.plain == 0 {
        // Tickets of a server, ahead of its answer. With Nagle's algorithm, it holds the answer
        // back until they are acknowledged.
        from.withholds_acks = true;
        acknowledge(from);
    }
    if taken.closed {
        // Any data after that has no meaning.
        from.recv = RecvState::Ended;
    }
    if let Some(error) = taken.error {
        from.recv = RecvState::Failed;
        session.set_error(error);
    }
    taken.plain
}

/// Reads from the socket.
fn read(from: &mut Endpoint, buffer: &mut [u8]) -> usize {
    let Some(socket) = &from.socket else {
        from.recv = RecvState::Empty;
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
                    // The queue is empty: either only the end of file is left, or an event will
                    // tell of more data.
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
            Err(_) => from.recv = RecvState::Failed,
        }
        return 0;
    }
}

/// Sends the delayed acknowledgement after the first data of a server that got a request before its
/// handshake was acknowledged (`relay::upstream::dial`). The kernel has taken that for an
/// interactive connection and delays acknowledgements. A peer with Nagle's algorithm may wait 40 ms
/// for one. If this is all the data, there is nothing to wait for.
fn acknowledge(from: &mut Endpoint) {
    if std::mem::take(&mut from.withholds_acks)
        && from.recv != RecvState::Ended
        && let Some(socket) = &from.socket
    {
        let _ = rustix::net::sockopt::set_tcp_quickack(socket, true);
    }
}

/// Notes that no more data will come from an end. The end is orderly, unless a failed send has
/// already used up the kernel's report of a reset: after that, reading looks like an end of file.
fn at_end(from: &mut Endpoint) {
    from.recv = match from.send {
        SendState::Reset => RecvState::Failed,
        SendState::Open | SendState::Shut | SendState::Broken => RecvState::Ended,
    };
}

/// Notes that sending failed. EPIPE comes after an end of file, so the peer's data is complete. Any
/// other error is a reset.
pub fn on_broken(to: &mut Endpoint, errno: Errno) {
    to.sending_is(if errno == Errno::PIPE { SendState::Broken } else { SendState::Reset });
}

/// Sends the messages of a session that wait: its hello, or its last ones of a handshake.
pub fn send_waiting(to: &mut Endpoint) {
    let Some(session) = &mut to.session else { return };
    let mut out = session.take_out();
    out.append(&mut session.take_last_flight());
    if !out.is_empty() {
        put(to, &out, SendFlags::empty());
    }
}

/// Sends bytes. What the end does not take now is held for it. Nothing may be held already, unless
/// there is a session. With the flag MORE the kernel may wait for further data (send(2)), so more
/// data must follow at once.
pub fn deliver(to: &mut Endpoint, bytes: &[u8], flags: SendFlags, cipher: &mut Cipher) {
    if to.session.is_none() {
        return put(to, bytes, flags);
    }
    // `-H` makes requests longer than what was read, and so than a session takes at once.
    for piece in bytes.chunks(PLAIN) {
        match to.session.as_mut().and_then(|session| session.encrypt(piece, cipher)) {
            Some(length) => put(to, cipher.first(length), flags),
            // The session is over, and no event will tell of it. So the end has failed.
            None => {
                to.sending_is(SendState::Broken);
                to.recv = RecvState::Failed;
                return;
            }
        }
    }
}

/// Sends bytes as they are, after the held data. What the end does not take is held too.
fn put(to: &mut Endpoint, bytes: &[u8], flags: SendFlags) {
    match to.held.take().map(|held| *held) {
        Some(HeldBytes::Bytes { data, start }) => {
            let data = [&data[start..], bytes].concat().into_boxed_slice();
            to.held = Some(Box::new(HeldBytes::Bytes { data, start: 0 }));
        }
        // Only ends without a session use pipes, and such an end gets bytes only when nothing is
        // held.
        Some(pipe @ HeldBytes::Pipe { .. }) => to.held = Some(Box::new(pipe)),
        None => {
            let sent = send(to, bytes, flags);
            if sent < bytes.len() && !to.is_broken() {
                to.held = Some(Box::new(HeldBytes::Bytes { data: bytes[sent..].into(), start: 0 }));
            }
        }
    }
}

/// Sends what the end takes and returns that number of bytes. If it is less than all, the end is
/// full or broken.
pub fn send(to: &mut Endpoint, bytes: &[u8], flags: SendFlags) -> usize {
    let Some(socket) = &to.socket else {
        to.sending_is(SendState::Broken);
        return 0;
    };
    match to.nagle {
        Nagle::Off => {}
        Nagle::Unsent => to.nagle = Nagle::Sent,
        Nagle::Sent => {
            let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
            to.nagle = Nagle::Off;
        }
    }
    let mut start = 0;
    while start < bytes.len() {
        match rustix::net::send(socket, &bytes[start..], SendFlags::NOSIGNAL | flags) {
            // Less than asked: the socket's buffer is full, and an event will tell when it has
            // room.
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

/// Sends the end of file after all earlier data was sent; `shut` says whether that is done. If the
/// socket is about to be closed, the close replaces shutdown(2), but nothing replaces close_notify.
pub fn shut(to: &mut Endpoint, closing: bool, cipher: &mut Cipher) {
    if let Some(session) = to.session.as_mut().filter(|session| !session.is_closed())
        && let Some(length) = session.close(cipher)
    {
        put(to, cipher.first(length), SendFlags::empty());
    }
    if to.held.is_some() {
        return;
    }
    to.sending_is(SendState::Shut);
    if let (false, Some(socket)) = (closing, &to.socket) {
        let _ = rustix::net::shutdown(socket, Shutdown::Write);
    }
}

/// Makes the next close a reset.
pub fn reset_on_close(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
