//! Moves bytes from one end of a connection to the other, until the kernel says that it would
//! block.
//!
//! Small amounts are copied through one buffer that all connections of the worker share. Data stays
//! with a connection only while the receiving end takes none. A direction with much data is
//! switched to splice(2) through a pipe from a pool, and back when it has little data again. A pipe
//! saves the copies but costs system calls.
//!
//! Epoll is edge-triggered: an end is read again only after an event. Hence an end stays readable
//! until the kernel said that its queue is empty, or a later check is sure to follow
//! (`splice_recheck`). The number of rounds is bounded, so that one busy connection does not
//! delay the others. If there is more to move, the result says so, and the caller must come back by
//! itself.

use rustix::net::SendFlags;

use crate::relay::connection::endpoint;
use crate::relay::connection::endpoint::{
    Buffers, Endpoint, HeldBytes, RecvState, SendState, deliver, receive, send,
};
use crate::relay::connection::pipes::Pipes;
use crate::relay::http::Exchange;
use crate::relay::http::direction::Direction;
use crate::relay::transfer::splice::{drain, fill};
use crate::tls::{Cipher, PLAIN};

/// Rounds of reading and sending before other connections are served.
const ROUNDS: u32 = 8;

/// This many large reads in a row switch a direction to splice(2).
const LARGE_READS: u8 = 2;

/// A splice that moves less than this switches back to copying.
const SMALL_SPLICE: usize = 8 * 1024;

/// What all connections of a worker share: the buffers and the pipes.
#[derive(Debug)]
pub struct Tools {
    buffers: Buffers,
    /// Data that is sent instead of what was read.
    altered: Vec<u8>,
    pipes: Pipes,
}

impl Tools {
    /// The tools of one worker, which may have `most_pipes` pipes. The buffer uses memory only as
    /// far as reads fill it.
    pub fn new(most_pipes: usize) -> Tools {
        let buffers = Buffers {
            plain: vec![0; PLAIN].into_boxed_slice(),
            cipher: Cipher::default(),
            room: PLAIN,
        };
        Tools { buffers, altered: Vec::new(), pipes: Pipes::new(most_pipes) }
    }

    /// The buffers.
    pub fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Changes the most that is read at once, up to [`PLAIN`].
    pub fn set_room(&mut self, room: usize) {
        self.buffers.room = room.min(PLAIN);
    }

    /// Changes the number of pipes allowed. Pipes in use stay.
    pub fn set_most_pipes(&mut self, most_pipes: usize) {
        self.pipes.set_most(most_pipes);
    }
}

/// How to move a direction.
pub struct PumpOptions<'w> {
    /// splice(2) may be used: the bytes need not be seen.
    pub may_splice: bool,
    /// Gets the bytes of each read before they are sent.
    pub watch: Option<WatchedEvents<'w>>,
    /// With `-H`: follows the bytes and alters some.
    pub http: Option<Direction<'w>>,
    /// Monotonic milliseconds.
    pub now: u64,
}

/// An observer of the bytes.
pub type WatchedEvents<'w> = &'w mut dyn FnMut(&[u8]);

/// The result of a move.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moved {
    /// Bytes read. All of them were sent, are held, or were refused (`-H`).
    pub bytes: u64,
    /// Bytes passed to the other end, sent or held. They include what `-H` adds, and not what it
    /// keeps back.
    pub given: u64,
    /// There may be more to move now: come back without waiting for an event.
    pub more: bool,
}

/// Moves bytes from one end to the other, end of file included. The states of the ends tell what
/// happened to them: `recv` of `from`, `send` of `to`.
pub fn pump(
    from: &mut Endpoint,
    to: &mut Endpoint,
    tools: &mut Tools,
    mut manner: PumpOptions<'_>,
) -> Moved {
    let mut moved = Moved::default();
    for _ in 0..ROUNDS {
        if to.held.is_some() && !flush(to, tools) {
            return moved;
        }
        if let Some(turn) = &mut manner.http {
            match before_reading(turn, from, to, tools) {
                NextStep::Read => {}
                NextStep::Again(given) => {
                    moved.given += given;
                    continue;
                }
                NextStep::Wait => return moved,
            }
        }
        if from.recv == RecvState::Ended {
            pass_end(from, to, tools);
            return moved;
        }
        if !from.recv.is_readable() || to.is_broken() {
            return moved;
        }
        let (bytes, given) = match by_splice(from, to, tools, &mut manner) {
            Some(bytes) => (bytes, bytes),
            None => by_copy(from, to, tools, &mut manner),
        };
        moved.bytes += bytes;
        moved.given += given;
    }
    // Also if the last round found the end of file: no event will tell of it again.
    let is_end_due = from.recv == RecvState::Ended && to.send_state() == SendState::Open;
    moved.more = to.held.is_none() && !to.is_broken() && (from.recv.is_readable() || is_end_due);
    moved
}

/// Sends the held data of an end. True if none is left.
pub fn flush(to: &mut Endpoint, tools: &mut Tools) -> bool {
    let Some(mut held) = to.held.take() else { return true };
    if to.is_broken() {
        return false;
    }
    let empty = match &mut *held {
        HeldBytes::Bytes { data, start } => {
            *start += send(to, &data[*start..], SendFlags::empty());
            *start == data.len()
        }
        HeldBytes::Pipe { pipe, bytes } => {
            *bytes -= drain(pipe, to, *bytes);
            *bytes == 0
        }
    };
    match (empty, *held) {
        (true, HeldBytes::Pipe { pipe, .. }) => tools.pipes.pool(pipe),
        (true, HeldBytes::Bytes { .. }) => {}
        (false, held) if !to.is_broken() => to.held = Some(Box::new(held)),
        (false, _) => {}
    }
    empty && !to.is_broken()
}

/// Reads and discards the data of an end.
pub fn discard(from: &mut Endpoint, tools: &mut Tools) -> Moved {
    let mut moved = Moved::default();
    for _ in 0..ROUNDS {
        if !from.recv.is_readable() {
            return moved;
        }
        moved.bytes += receive(from, &mut tools.buffers) as u64;
    }
    moved.more = from.recv.is_readable();
    moved
}

/// Sends pen's own bytes to an end that holds no data.
pub fn give(to: &mut Endpoint, bytes: &[u8], tools: &mut Tools) {
    deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
}

/// Passes the end of file on.
pub fn shut(to: &mut Endpoint, tools: &mut Tools) {
    endpoint::shut(to, false, &mut tools.buffers.cipher);
}

/// The data of one read from an end, if it has some now.
pub fn take<'t>(from: &mut Endpoint, tools: &'t mut Tools) -> &'t [u8] {
    let length = if from.recv.is_readable() { receive(from, &mut tools.buffers) } else { 0 };
    &tools.buffers.plain[..length]
}

/// Copies once. Returns the bytes read, and the bytes passed to the other end.
fn by_copy(
    from: &mut Endpoint,
    to: &mut Endpoint,
    tools: &mut Tools,
    manner: &mut PumpOptions<'_>,
) -> (u64, u64) {
    let length = receive(from, &mut tools.buffers);
    if length == 0 {
        return (0, 0);
    }
    let large = tools.pipes.worth().min(tools.buffers.room);
    from.large_reads = if length >= large { LARGE_READS.min(from.large_reads + 1) } else { 0 };
    let bytes = &tools.buffers.plain[..length];
    if let Some(watch) = &mut manner.watch {
        watch(bytes);
    }
    let bytes = match &mut manner.http {
        Some(turn) => turn.pass(bytes, &mut tools.altered),
        None => bytes,
    };
    // The end of file goes out in the same segment as the last bytes: shutdown(2) or close(2)
    // follow at once and push both. With `-H` the end of file may have to wait for an answer.
    let is_last = from.recv == RecvState::Ended && manner.http.is_none();
    let flags = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    let given = bytes.len() as u64;
    deliver(to, bytes, flags, &mut tools.buffers.cipher);
    if tools.altered.capacity() > PLAIN {
        // Only a flood of small requests makes it this large.
        tools.altered = Vec::new();
    }
    (length as u64, given)
}

/// Passes an end the held bytes of a client that cannot be told to be HTTP (`http mixed`). Returns
/// how many.
pub fn give_undecided(exchange: &mut Exchange, to: &mut Endpoint, tools: &mut Tools) -> u64 {
    let bytes = exchange.decide(&mut tools.altered);
    if !bytes.is_empty() && !to.is_broken() {
        deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
    }
    bytes.len() as u64
}

/// The next step where `-H` is on.
enum NextStep {
    /// Read as usual.
    Read,
    /// Another round: this many bytes were sent.
    Again(u64),
    /// Wait until the server has answered.
    Wait,
}

/// Sends the data that waited for an answer, or for the end of file.
fn before_reading(
    turn: &mut Direction<'_>,
    from: &Endpoint,
    to: &mut Endpoint,
    tools: &mut Tools,
) -> NextStep {
    let ended = from.recv == RecvState::Ended;
    let bytes = turn.due(ended, &mut tools.altered);
    if !bytes.is_empty() {
        deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
        return NextStep::Again(bytes.len() as u64);
    }
    if turn.must_wait(ended) { NextStep::Wait } else { NextStep::Read }
}

/// Moves a direction with much data through a pipe. None: copy instead.
fn by_splice(
    from: &mut Endpoint,
    to: &mut Endpoint,
    tools: &mut Tools,
    manner: &mut PumpOptions<'_>,
) -> Option<u64> {
    if from.large_reads < LARGE_READS
        || !manner.may_splice
        || manner.watch.is_some()
        || from.careful
    {
        return None;
    }
    let unseen = manner
        .http
        .as_ref()
        .map_or(usize::MAX, |turn| usize::try_from(turn.unseen()).unwrap_or(usize::MAX));
    if unseen < SMALL_SPLICE {
        return None;
    }
    let pipe = tools.pipes.take()?;
    let filled = fill(from, &pipe, unseen);
    let Some(filled @ 1..) = filled else {
        tools.pipes.pool(pipe);
        return filled.map(|_| 0);
    };
    if let Some(turn) = &mut manner.http {
        turn.skip(filled as u64);
    }
    if filled < SMALL_SPLICE {
        from.large_reads = 0;
    }
    from.has_spliced(filled >= SMALL_SPLICE && pipe.was_ample(filled, unseen), manner.now);
    let left = filled - drain(&pipe, to, filled);
    if left == 0 {
        tools.pipes.pool(pipe);
    } else if !to.is_broken() {
        to.held = Some(Box::new(HeldBytes::Pipe { pipe, bytes: left }));
    }
    Some(filled as u64)
}

/// Passes the end of file on after all earlier data was sent.
fn pass_end(from: &Endpoint, to: &mut Endpoint, tools: &mut Tools) {
    if to.send_state() != SendState::Open {
        return;
    }
    if from.is_cut() {
        // A server's handshake has an end all the same.
        endpoint::send_waiting(to);
        if let Some(session) = &mut to.session {
            // Somebody on the way may have forged the end of file. pen must not vouch for data
            // that its sender has not vouched for.
            session.cut();
        }
    }
    // With both directions at their end, the sockets are about to be closed.
    let closing = to.recv == RecvState::Ended && from.held.is_none();
    endpoint::shut(to, closing, &mut tools.buffers.cipher);
}

#[cfg(test)]
mod tests;
