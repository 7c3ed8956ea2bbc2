//! Moves bytes from one end of a connection to the other, until the kernel says that it must wait.
//!
//! Little data is copied through one buffer that all connections of the worker share; bytes stay
//! with a connection only while the receiving end takes none. A direction that keeps carrying much
//! is switched to splice(2) through a pipe from a pool, and back when it carries little again: a
//! pipe saves the copies but costs system calls.
//!
//! Epoll is edge-triggered here: an end is asked again only after an event said so, hence
//! `readable` of [`End`] is cleared only on the kernel's word, or where a second look is sure to
//! follow (`second_look`). The number of rounds is bounded so that one busy connection does not
//! keep the others waiting; whoever has more to move is told so and must come back by itself.

use rustix::net::SendFlags;

use crate::relay::connection::endpoint;
use crate::relay::connection::endpoint::{Buffers, End, Held, deliver, receive, send};
use crate::relay::http::{Exchange, Turn};
use crate::relay::tls::Cipher;
use crate::relay::transfer::splice::{Pipes, drain, fill};

/// Bytes of the shared buffer: reads of this size cost about half as much per byte as reads of 64
/// KiB.
pub const BUFFER: usize = 256 * 1024;

/// Rounds of reading and sending before others get their turn.
const ROUNDS: u32 = 8;

/// So many large reads in a row switch a direction to splice(2).
const LARGE_READS: u8 = 2;

/// A splice that moves less than this switches back to copying.
const SMALL_SPLICE: usize = 8 * 1024;

/// What all connections of a worker use in turn: the buffer and the pipes.
#[derive(Debug)]
pub struct Tools {
    buffers: Buffers,
    /// What is sent in place of what was read.
    altered: Vec<u8>,
    pipes: Pipes,
}

impl Tools {
    /// The tools of one worker, which may have so many pipes. The buffer takes memory only as far
    /// as reads fill it.
    pub fn new(most_pipes: usize) -> Tools {
        let buffers = Buffers {
            plain: vec![0; BUFFER].into_boxed_slice(),
            cipher: Cipher::default(),
            room: BUFFER,
        };
        Tools { buffers, altered: Vec::new(), pipes: Pipes::new(most_pipes) }
    }

    /// The buffers.
    pub fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Changes how much is read at once, at most [`BUFFER`].
    pub fn set_room(&mut self, room: usize) {
        self.buffers.room = room.min(BUFFER);
    }

    /// Changes how many pipes there may be; those in use stay.
    pub fn set_most_pipes(&mut self, most_pipes: usize) {
        self.pipes.set_most(most_pipes);
    }
}

/// How a direction is to be moved.
pub struct PumpOptions<'w> {
    /// splice(2) may be used: nobody needs to see the bytes.
    pub may_splice: bool,
    /// Sees the bytes of each read before they are sent.
    pub watch: Option<Watch<'w>>,
    /// Follows the bytes, and alters some, where `-H` is on.
    pub http: Option<Turn<'w>>,
    /// Monotonic milliseconds.
    pub now: u64,
}

/// Sees bytes on their way.
pub type Watch<'w> = &'w mut dyn FnMut(&[u8]);

/// What was moved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moved {
    /// Bytes read; all of them were sent, are held, or were refused (`-H`).
    pub bytes: u64,
    /// Bytes given to the other end, sent or held: what `-H` adds counts, what it keeps back does
    /// not.
    pub given: u64,
    /// There may be more to move now: come back without waiting for an event.
    pub more: bool,
}

/// Moves bytes from one end to the other, end of file included. What happened to the ends is in
/// their flags: `ended` or `failed` of `from`, `broken` of `to`.
pub fn pump(from: &mut End, to: &mut End, tools: &mut Tools, mut manner: PumpOptions<'_>) -> Moved {
    let mut moved = Moved::default();
    for _ in 0..ROUNDS {
        if to.held.is_some() && !flush(to, tools) {
            return moved;
        }
        if let Some(turn) = &mut manner.http {
            match before_reading(turn, from, to, tools) {
                Next::Read => {}
                Next::Again(given) => {
                    moved.given += given;
                    continue;
                }
                Next::Wait => return moved,
            }
        }
        if from.ended {
            pass_end(from, to, tools);
            return moved;
        }
        if !from.readable || to.broken {
            return moved;
        }
        let (bytes, given) = match by_splice(from, to, tools, &mut manner) {
            Some(bytes) => (bytes, bytes),
            None => by_copy(from, to, tools, &mut manner),
        };
        moved.bytes += bytes;
        moved.given += given;
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
        (true, Held::Pipe { pipe, .. }) => tools.pipes.pool(pipe),
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
        moved.bytes += receive(from, &mut tools.buffers) as u64;
    }
    moved.more = from.readable;
    moved
}

/// Sends bytes that are pen's own to an end that holds nothing.
pub fn give(to: &mut End, bytes: &[u8], tools: &mut Tools) {
    deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
}

/// Passes on that nothing more comes.
pub fn shut(to: &mut End, tools: &mut Tools) {
    endpoint::shut(to, false, &mut tools.buffers.cipher);
}

/// What one read from an end gives, if it has something now.
pub fn take<'t>(from: &mut End, tools: &'t mut Tools) -> &'t [u8] {
    let length = if from.readable { receive(from, &mut tools.buffers) } else { 0 };
    &tools.buffers.plain[..length]
}

/// How many bytes were read, and how many given to the other end.
fn by_copy(
    from: &mut End,
    to: &mut End,
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
    // With the last bytes the end of file goes out in one segment: shutdown(2) or close(2) follow
    // at once and push both. With `-H` the end may have to wait for an answer.
    let is_last = from.ended && manner.http.is_none();
    let flags = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    let given = bytes.len() as u64;
    deliver(to, bytes, flags, &mut tools.buffers.cipher);
    if tools.altered.capacity() > BUFFER {
        // Only a flood of small requests grows it so far.
        tools.altered = Vec::new();
    }
    (length as u64, given)
}

/// Gives an end bytes of a client that were held, since it cannot be told what they are (`http
/// mixed`). How many.
pub fn give_undecided(exchange: &mut Exchange, to: &mut End, tools: &mut Tools) -> u64 {
    let bytes = exchange.decide(&mut tools.altered);
    if !bytes.is_empty() && !to.broken {
        deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
    }
    bytes.len() as u64
}

/// What is next where `-H` is on.
enum Next {
    /// Reading, as elsewhere.
    Read,
    /// Another round: so many bytes were sent.
    Again(u64),
    /// Nothing, until the server has answered.
    Wait,
}

/// Sends what waited for an answer, or for the end of file.
fn before_reading(turn: &mut Turn<'_>, from: &End, to: &mut End, tools: &mut Tools) -> Next {
    let bytes = turn.due(from.ended, &mut tools.altered);
    if !bytes.is_empty() {
        deliver(to, bytes, SendFlags::empty(), &mut tools.buffers.cipher);
        return Next::Again(bytes.len() as u64);
    }
    if turn.must_wait(from.ended) { Next::Wait } else { Next::Read }
}

/// Moves a direction that carries much through a pipe. None: it is to be copied.
fn by_splice(
    from: &mut End,
    to: &mut End,
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
    } else if !to.broken {
        to.held = Some(Box::new(Held::Pipe { pipe, bytes: left }));
    }
    Some(filled as u64)
}

/// Passes the end of file on, once all that came before it has been sent.
fn pass_end(from: &End, to: &mut End, tools: &mut Tools) {
    if to.shut || to.broken {
        return;
    }
    // With both directions at their end the sockets are about to be closed.
    let closing = to.ended && from.held.is_none();
    endpoint::shut(to, closing, &mut tools.buffers.cipher);
}

#[cfg(test)]
mod tests;
