//! What was read from one end and the other has not taken, copied into this worker's memory until
//! it does.
//!
//! Nobody is ended for being slow. Instead the next reads become smaller, for all alike, as more is
//! kept: a connection keeps at most what one read gave it, so that many ends that take nothing have
//! a worker keep [`STEPS`] and [`LEAST`] bytes for each. What waits in pipes is the kernel's, and
//! bounded by their number (`pipe`).

use crate::relay::Relay;
use crate::relay::connection::Connection;
use crate::relay::transfer::pump::BUFFER;

/// Bytes of all connections together, and the most that is read at once while less is kept. A
/// record of TLS fits all but the last.
const STEPS: [(usize, usize); 3] = [(8 << 20, BUFFER), (16 << 20, 64 << 10), (64 << 20, 16 << 10)];

/// The most that is read at once beyond that.
const LEAST: usize = 4 << 10;

/// What all ends of a worker have not taken.
#[derive(Debug, Default)]
pub struct Untaken {
    bytes: usize,
}

impl Untaken {
    /// Replaces what is kept for a connection.
    fn note(&mut self, kept: &mut u32, bytes: u32) {
        self.bytes = self.bytes - *kept as usize + bytes as usize;
        *kept = bytes;
    }

    /// The most that is to be read at once.
    fn room(&self) -> usize {
        STEPS.iter().find(|(most, _)| self.bytes < *most).map_or(LEAST, |(_, room)| *room)
    }
}

impl Connection {
    /// Bytes of memory that are kept until its ends take them.
    fn untaken_bytes(&self) -> u32 {
        let kept = |end: &crate::relay::connection::endpoint::End| {
            end.held.as_ref().map_or(0, |held| held.copied())
        };
        u32::try_from(kept(&self.down) + kept(&self.up)).unwrap_or(u32::MAX)
    }
}

impl Relay<'_> {
    /// Notes what is kept for a connection now, after bytes were moved.
    pub(in crate::relay) fn note_untaken(&mut self, slot: u32) {
        let connection = &mut self.pool[slot];
        let bytes = connection.untaken_bytes();
        if bytes != connection.untaken {
            self.untaken.note(&mut connection.untaken, bytes);
            self.tools.set_room(self.untaken.room());
        }
    }

    /// A connection ends.
    pub(in crate::relay) fn forget_untaken(&mut self, slot: u32) {
        let connection = &mut self.pool[slot];
        if connection.untaken > 0 {
            self.untaken.note(&mut connection.untaken, 0);
            self.tools.set_room(self.untaken.room());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_kept_the_less_is_read_and_what_is_kept_is_bounded() {
        let (mut all, mut each) = (Untaken::default(), vec![0; 20_000]);
        assert_eq!(all.room(), BUFFER);
        // None takes anything, and each may be read for once.
        for kept in &mut each {
            let room = u32::try_from(all.room()).unwrap();
            all.note(kept, room);
        }
        assert!(all.bytes < (64 << 20) + each.len() * LEAST + BUFFER, "{}", all.bytes);
        for kept in &mut each {
            all.note(kept, 0);
        }
        assert_eq!((all.bytes, all.room()), (0, BUFFER));
    }
}
