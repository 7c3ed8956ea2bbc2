//! Unfinished data of clients: TLS hellos and records, and HTTP heads, kept in this worker's memory
//! until the rest comes.
//!
//! Their total size is bounded. Beyond the bound, the connections with the oldest unfinished piece
//! are reset, so that clients who finish are served whatever the others do. The age is that of the
//! present piece: a new piece after a finished one starts anew. When much was kept and little is
//! left, the memory is given back to the system, which the allocator would not do.

use pen_ipc::message::Event;

use crate::relay::Relay;
use crate::relay::connection::Connection;
use crate::relay::connection::closing::reset_on_close;
use crate::relay::link::Rated;
use crate::sys;

/// Most bytes of all connections together. One piece has at most about 64 KiB, so the default `-x`
/// of 256 never reaches it.
const MOST: usize = 16 << 20;

/// Bytes left after connections were reset. The free room means that the oldest are searched only
/// once in 2 MiB.
const LEFT: usize = MOST - MOST / 8;

/// Memory is given back after this many bytes were kept, or this many connections were open, and a
/// quarter of that is left.
const MUCH: usize = 2 << 20;
const MANY: usize = 1000;

/// The unfinished data of a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    /// Bytes of memory that it uses.
    bytes: u32,
    /// When it began, in monotonic milliseconds without the upper half.
    since: u32,
}

/// All unfinished pieces of a worker.
#[derive(Debug, Default)]
pub struct Unfinished {
    bytes: usize,
    /// The highest number since memory was last given back.
    most_bytes: usize,
    most_open: usize,
    /// Connections that were reset and not yet reported.
    untold: u64,
}

impl Unfinished {
    /// Updates the unfinished bytes of a connection. Fewer bytes than before mean a new piece: the
    /// one before was finished.
    fn note(&mut self, piece: &mut Piece, bytes: usize, now: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
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

    /// Whether connections were reset that are not yet reported.
    pub fn is_untold(&self) -> bool {
        self.untold > 0
    }

    /// Whether to give memory back, with this many connections open.
    fn ebbs(&mut self, open: usize) -> bool {
        self.most_open = self.most_open.max(open);
        let ebbs = (self.most_bytes >= MUCH && self.bytes <= self.most_bytes / 4)
            || (self.most_open >= MANY && open <= self.most_open / 4);
        if ebbs {
            (self.most_bytes, self.most_open) = (self.bytes, open);
        }
        ebbs
    }
}

/// The pieces to drop, oldest first, until at most `left` bytes remain. Each piece comes with its
/// slot.
fn oldest(mut pieces: Vec<(Piece, u32)>, mut bytes: usize, left: usize, now: u64) -> Vec<u32> {
    // Sorts by age, because the upper half of the time is not kept.
    pieces.sort_by_key(|(piece, _)| std::cmp::Reverse((now as u32).wrapping_sub(piece.since)));
    let mut gone = Vec::new();
    for (piece, slot) in pieces {
        if bytes <= left {
            break;
        }
        bytes = bytes.saturating_sub(piece.bytes as usize);
        gone.push(slot);
    }
    gone
}

impl Connection {
    /// Bytes kept for the client until it finishes the piece.
    fn unfinished_bytes(&self) -> usize {
        let session = self.down.session.as_ref().map_or(0, |session| {
            // The server's part of a handshake that the client does not take is held too.
            let held = self.down.held.as_ref().filter(|_| session.is_handshaking());
            session.held_bytes() + held.map_or(0, |held| held.copied())
        });
        session + self.http.as_ref().map_or(0, |exchange| exchange.held_bytes())
    }
}

impl Relay<'_> {
    /// Updates the unfinished bytes of a connection after data of its client.
    pub(in crate::relay) fn note_unfinished(&mut self, slot: u32) {
        let connection = &mut self.pool[slot];
        let bytes = connection.unfinished_bytes();
        if bytes != connection.unfinished.bytes as usize {
            self.unfinished.note(&mut connection.unfinished, bytes, self.now);
        }
    }

    /// Resets the connections with the oldest pieces if the total is beyond the bound.
    pub(in crate::relay) fn bound_unfinished(&mut self) {
        if self.unfinished.bytes <= MOST {
            return;
        }
        let slots = (0..self.pool.slots()).map(|slot| (self.pool[slot].unfinished, slot));
        let pieces: Vec<(Piece, u32)> = slots.filter(|(piece, _)| piece.bytes > 0).collect();
        for slot in oldest(pieces, self.unfinished.bytes, LEFT, self.now) {
            let connection = &self.pool[slot];
            connection.up.socket.iter().chain(&connection.down.socket).for_each(reset_on_close);
            self.counters.crowded += 1;
            self.unfinished.untold += 1;
            self.finish(slot);
        }
        self.tell_crowded();
    }

    /// Reports how many were reset, unless such a report was sent just now.
    pub(in crate::relay) fn tell_crowded(&mut self) {
        if self.unfinished.is_untold() && self.supervisor.may_tell(Rated::Crowded, self.now) {
            let clients = std::mem::take(&mut self.unfinished.untold);
            self.supervisor.tell(Event::Crowded { clients, kept: LEFT as u64 }, &mut self.counters);
        }
    }

    /// Gives memory back if much less is needed than before. It is called at most once a second.
    pub(in crate::relay) fn give_memory_back(&mut self) {
        if self.unfinished.ebbs(self.pool.open()) {
            sys::give_memory_back();
        }
    }
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
        let piece = |bytes, age: u32| Piece { bytes, since: (now as u32).wrapping_sub(age) };
        let pieces = || vec![(piece(10, 5), 1), (piece(10, 500), 2), (piece(10, 50), 3)];
        assert!(oldest(pieces(), 30, 30, now).is_empty());
        assert_eq!(oldest(pieces(), 30, 20, now), [2]);
        assert_eq!(oldest(pieces(), 30, 19, now), [2, 3]);
        assert_eq!(oldest(pieces(), 30, 0, now), [2, 3, 1]);
    }

    #[test]
    fn memory_goes_back_once_when_little_is_left_of_much() {
        let (mut all, mut piece) = (Unfinished::default(), Piece::default());
        all.note(&mut piece, MUCH, 1);
        assert!(!all.ebbs(10));
        all.note(&mut piece, 0, 2);
        assert!(all.ebbs(10) && !all.ebbs(10));
        assert!(!all.ebbs(MANY) && !all.ebbs(MANY / 2) && all.ebbs(MANY / 4) && !all.ebbs(0));
    }
}
