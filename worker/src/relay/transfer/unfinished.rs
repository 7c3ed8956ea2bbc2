//! Unfinished data: TLS handshakes, records, and HTTP heads, kept in this worker's memory until the
//! rest comes.
//!
//! Their total size is bounded. Beyond the bound, the connections with the oldest unfinished piece
//! are reset, so that clients who finish are served whatever the others do. The age is that of the
//! present piece: a new piece after a finished one starts anew. When much was kept and little is
//! left, the memory is given back to the system, which the allocator would not do.
//!
//! Of a server, only the handshake counts. After it, many downloads stand in the middle of a
//! record, and no client could help that: each connection has a bound of its own then
//! (`tls::session`). A server that sends much of a handshake and does not end it is unusual. So if
//! servers have most of the memory, the connections with most of it go first.

use std::cmp::Reverse;

use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::{Connection, Piece};
use crate::sys;
use crate::tls::Session;

/// Most bytes of all connections together. One piece of a client has at most about 64 KiB, so the
/// default `-x` of 256 never reaches it by clients alone.
const MOST: usize = 16 << 20;

/// Bytes left after connections were given up. The free room means that the oldest are searched
/// only once in 2 MiB.
pub const LEFT: usize = MOST - MOST / 8;

/// Memory is given back after this many bytes were kept, or this many connections were open, and a
/// quarter of that is left.
const MUCH: usize = 2 << 20;
const MANY: usize = 1000;

/// All unfinished pieces of a worker.
#[derive(Debug, Default)]
pub struct Unfinished {
    bytes: usize,
    /// The highest number since memory was last given back.
    most_bytes: usize,
    most_open: usize,
}

impl Unfinished {
    /// Updates the unfinished bytes of a connection. Fewer bytes than before mean a new piece: the
    /// one before was finished.
    pub fn note(&mut self, piece: &mut Piece, bytes: usize, now: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes == piece.bytes {
            return;
        }
        if piece.bytes == 0 || bytes < piece.bytes {
            piece.since = now as u32;
        }
        self.bytes = self.bytes + bytes as usize - piece.bytes as usize;
        self.most_bytes = self.most_bytes.max(self.bytes);
        piece.bytes = bytes;
    }

    /// Forgets the piece of a connection that ends.
    pub fn forget(&mut self, piece: Piece) {
        self.bytes -= piece.bytes as usize;
    }

    /// The connections to give up, if the total is beyond the bound. Without them, at most [`LEFT`]
    /// bytes remain.
    pub fn surplus(&self, pool: &Pool, now: u64) -> Vec<Surplus> {
        if self.bytes <= MOST {
            return Vec::new();
        }
        let pieces = (0..pool.slots()).map(|slot| Candidate {
            slot,
            piece: pool[slot].unfinished,
            of_server: pool[slot].unfinished_of_server(),
        });
        chosen(pieces.filter(|one| one.piece.bytes > 0).collect(), self.bytes, LEFT, now)
    }

    /// Gives memory back to the system if much less is needed than before. Call it at most once a
    /// second.
    pub fn give_memory_back(&mut self, open: usize) {
        if self.has_shrunk(open) {
            sys::give_memory_back();
        }
    }

    /// Whether to give memory back, with this many connections open.
    fn has_shrunk(&mut self, open: usize) -> bool {
        self.most_open = self.most_open.max(open);
        let ebbs = (self.most_bytes >= MUCH && self.bytes <= self.most_bytes / 4)
            || (self.most_open >= MANY && open <= self.most_open / 4);
        if ebbs {
            (self.most_bytes, self.most_open) = (self.bytes, open);
        }
        ebbs
    }
}

/// A connection to give up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Surplus {
    /// Its slot.
    pub slot: u32,
    /// Who is to blame.
    pub sender: Sender,
}

/// Who has sent the unfinished data for which a connection is given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sender {
    /// Its client, or nobody in particular: it is just the oldest.
    Client,
    /// Its server: servers have most of the memory, and this one most of the piece.
    Server,
}

/// A connection that may be given up.
struct Candidate {
    slot: u32,
    piece: Piece,
    /// How much of the piece is its server's.
    of_server: usize,
}

/// The connections to give up until at most `left` bytes remain: those with the oldest pieces. If
/// servers have more than half of the bytes, first those whose server has most.
fn chosen(mut all: Vec<Candidate>, mut bytes: usize, left: usize, now: u64) -> Vec<Surplus> {
    let of_servers: usize = all.iter().map(|one| one.of_server).sum();
    let blames_servers = of_servers > bytes / 2;
    all.sort_by_key(|one| {
        let of_server = if blames_servers { one.of_server } else { 0 };
        // By age, because the upper half of the time is not kept.
        Reverse((of_server, (now as u32).wrapping_sub(one.piece.since)))
    });
    let mut gone = Vec::new();
    for one in all {
        if bytes <= left {
            break;
        }
        bytes = bytes.saturating_sub(one.piece.bytes as usize);
        let is_servers = blames_servers && one.of_server > one.piece.bytes as usize / 2;
        let sender = if is_servers { Sender::Server } else { Sender::Client };
        gone.push(Surplus { slot: one.slot, sender });
    }
    gone
}

impl Connection {
    /// Whether it keeps such bytes, or may have kept some.
    pub fn may_be_unfinished(&self) -> bool {
        self.down.session.is_some()
            || self.up.session.is_some()
            || self.http.is_some()
            || self.unfinished.bytes > 0
    }

    /// Bytes kept until the client or the server finishes the piece.
    pub fn unfinished_bytes(&self) -> usize {
        self.down.session.as_ref().map_or(0, |session| kept(&self.down, session))
            + self.http.as_ref().map_or(0, |exchange| exchange.held_bytes())
            + self.unfinished_of_server()
    }

    /// Those of the server.
    fn unfinished_of_server(&self) -> usize {
        let Some(session) = &self.up.session else { return 0 };
        if session.is_handshaking() { kept(&self.up, session) } else { 0 }
    }
}

/// What is kept for a session. pen's part of a handshake that the peer does not take is held too.
fn kept(end: &Endpoint, session: &Session) -> usize {
    let held = end.held.as_ref().filter(|_| session.is_handshaking());
    session.held_bytes() + held.map_or(0, |held| held.copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_as_old_as_its_first_byte_and_a_new_one_is_young() {
        let (mut all, mut piece) = (Unfinished::default(), Piece::default());
        all.note(&mut piece, 100, 1);
        all.note(&mut piece, 300, 5);
        assert_eq!((piece.since, all.bytes), (1, 300));
        all.note(&mut piece, 50, 7);
        assert_eq!((piece.since, all.bytes), (7, 50));
        all.note(&mut piece, 0, 8);
        all.note(&mut piece, 10, 9);
        assert_eq!((piece.since, all.bytes), (9, 10));
        all.forget(piece);
        assert_eq!(all.bytes, 0);
    }

    #[test]
    fn the_oldest_go_and_no_more_than_must() {
        let now = (1 << 32) + 10;
        let one = |slot, age: u32, of_server| {
            let piece = Piece { bytes: 10, since: (now as u32).wrapping_sub(age) };
            Candidate { slot, piece, of_server }
        };
        let clients = || vec![one(1, 5, 0), one(2, 500, 0), one(3, 50, 0)];
        let of = |sender, slots: &[u32]| {
            slots.iter().map(|&slot| Surplus { slot, sender }).collect::<Vec<_>>()
        };
        assert!(chosen(clients(), 30, 30, now).is_empty());
        assert_eq!(chosen(clients(), 30, 20, now), of(Sender::Client, &[2]));
        assert_eq!(chosen(clients(), 30, 19, now), of(Sender::Client, &[2, 3]));
        assert_eq!(chosen(clients(), 30, 0, now), of(Sender::Client, &[2, 3, 1]));
        // Servers with less than half change nothing, and with more they go first. Each is to blame
        // where most of the piece is its own.
        let servers = |most| vec![one(1, 500, 0), one(2, 5, most), one(3, 50, 4)];
        assert_eq!(chosen(servers(8), 30, 10, now), of(Sender::Client, &[1, 3]));
        let both = [of(Sender::Server, &[2]), of(Sender::Client, &[3])].concat();
        assert_eq!(chosen(servers(10), 24, 4, now), both);
    }

    #[test]
    fn memory_goes_back_once_when_little_is_left_of_much() {
        let (mut all, mut piece) = (Unfinished::default(), Piece::default());
        all.note(&mut piece, MUCH, 1);
        assert!(!all.has_shrunk(10));
        all.note(&mut piece, 0, 2);
        assert!(all.has_shrunk(10) && !all.has_shrunk(10));
        assert!(
            !all.has_shrunk(MANY)
                && !all.has_shrunk(MANY / 2)
                && all.has_shrunk(MANY / 4)
                && !all.has_shrunk(0)
        );
    }
}
