//! Which rows have a worker, as the supervisor knows it. This is not in the shared memory, so no
//! worker can change it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::parts::WAITING_WORDS;

/// The rows of a table. Not the atomics of the shared memory: only one process uses them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Bit n of all words: row n has a worker.
    live: [AtomicU64; WAITING_WORDS],
    /// All rows that ever had a worker are below it.
    used: AtomicU32,
}

impl Rows {
    /// The rows of a table that another program used.
    #[cfg(not(loom))]
    pub fn new(used: u32, live: impl Iterator<Item = u32>) -> Rows {
        let rows = Rows { used: AtomicU32::new(used), ..Rows::default() };
        live.for_each(|row| rows.give(row));
        rows
    }

    /// Notes that a row has a worker.
    pub fn give(&self, row: u32) {
        if let Some(word) = self.live.get(row as usize / 64) {
            word.fetch_or(1 << (row % 64), Relaxed);
            self.used.fetch_max(row + 1, Relaxed);
        }
    }

    /// Notes that a row has no worker.
    pub fn take(&self, row: u32) {
        if let Some(word) = self.live.get(row as usize / 64) {
            word.fetch_and(!(1 << (row % 64)), Relaxed);
        }
    }

    /// Whether a row has a worker.
    pub fn has_worker(&self, row: u32) -> bool {
        let word = self.live.get(row as usize / 64);
        word.is_some_and(|word| word.load(Relaxed) >> (row % 64) & 1 != 0)
    }

    /// The number below which all rows are that ever had a worker.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }
}
