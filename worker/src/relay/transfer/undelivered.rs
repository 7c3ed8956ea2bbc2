//! Data that was read from one end and not yet taken by the other. It is copied into this worker's
//! memory until then.
//!
//! No connection is closed for being slow. Instead, the next reads of all connections become
//! smaller as more data is kept. A connection keeps at most the data of one read. So with many ends
//! that take nothing, a worker keeps the last of [`STEPS`], plus [`LEAST`] bytes for each
//! connection. Data in pipes belongs to the kernel and is bounded by the number of pipes
//! (`splice`).

use crate::relay::connection::Connection;
use crate::relay::connection::endpoint::Endpoint;
use crate::tls::PLAIN;

/// Bytes kept by all connections, and the most that is read at once while less is kept. A TLS
/// record fits all sizes but `LEAST`.
const STEPS: [(usize, usize); 3] = [(8 << 20, PLAIN), (16 << 20, 64 << 10), (64 << 20, 16 << 10)];

/// The most that is read at once beyond the last step.
const LEAST: usize = 4 << 10;

/// The undelivered data of all connections of a worker.
#[derive(Debug, Default)]
pub struct Undelivered {
    bytes: usize,
}

impl Undelivered {
    /// Replaces the number of bytes kept for a connection.
    pub fn note(&mut self, kept: &mut u32, bytes: u32) {
        self.bytes = self.bytes - *kept as usize + bytes as usize;
        *kept = bytes;
    }

    /// The most that is read at once now.
    pub fn room(&self) -> usize {
        STEPS.iter().find(|(most, _)| self.bytes < *most).map_or(LEAST, |(_, room)| *room)
    }
}

impl Connection {
    /// Bytes of memory kept until its ends take them.
    pub fn undelivered_bytes(&self) -> u32 {
        let kept = |end: &Endpoint| end.held.as_ref().map_or(0, |held| held.copied());
        u32::try_from(kept(&self.down) + kept(&self.up)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_kept_the_less_is_read_and_what_is_kept_is_bounded() {
        let (mut all, mut each) = (Undelivered::default(), vec![0; 20_000]);
        assert_eq!(all.room(), PLAIN);
        // No end takes anything, and each is read once.
        for kept in &mut each {
            let room = u32::try_from(all.room()).unwrap();
            all.note(kept, room);
        }
        assert!(all.bytes < (64 << 20) + each.len() * LEAST + PLAIN, "{}", all.bytes);
        for kept in &mut each {
            all.note(kept, 0);
        }
        assert_eq!((all.bytes, all.room()), (0, PLAIN));
    }
}
