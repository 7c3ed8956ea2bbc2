//! One net's entry: its identity and its open connections.
//!
//! The word `open` holds the generation (bits 32–63), whether the entry is whole (bit 31), and how
//! many connections of the net are open (bits 0–30). A slot gets a new net under the shard's lock,
//! in the steps of a client's entry (`clients/entry.rs`): empty with the next generation, the
//! fields, whole. The first step succeeds only if no connection is open.
//!
//! The number of connections changes by compare-and-swap, with and without the lock. So it never
//! exceeds a limit, and a connection is never counted for the next net of the slot.

use crate::chained::Entry;
use crate::parts::StoredNet;
use crate::sync::{AtomicU32, Ordering::*, fence};

/// The word `open` of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Open(u64);

/// The result of counting one connection more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Raised {
    /// It is counted.
    Counted,
    /// As many are open as may be.
    AtLimit,
    /// The slot has another net.
    Gone,
}

/// The most connections that can be counted: more than there can be.
pub(crate) const MOST_OPEN: u32 = COUNT as u32 - 1;

const WHOLE: u64 = 1 << 31;
const COUNT: u64 = WHOLE - 1;

/// More tries than there are other rows. The bound is for a hostile worker.
const TRIES: u32 = 4096;

impl Open {
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn count(self) -> u32 {
        (self.0 & COUNT) as u32
    }

    fn is_whole(self) -> bool {
        self.0 & WHOLE != 0
    }

    fn with_count(self, count: u32) -> Open {
        Open(self.0 & !COUNT | u64::from(count) & COUNT)
    }

    fn empty(generation: u32) -> Open {
        Open(u64::from(generation) << 32)
    }
}

impl Entry for StoredNet {
    fn is_whole(&self) -> bool {
        self.open().is_whole()
    }

    fn key(&self) -> [u64; 2] {
        [self.key[0].load(Relaxed), self.key[1].load(Relaxed)]
    }

    fn last_use(&self) -> u64 {
        self.last_use.load(Relaxed)
    }

    fn chain(&self) -> &AtomicU32 {
        &self.chain
    }

    /// Requires the lock.
    fn clear(&self) {
        self.open.swap(Open::empty(self.open().generation().wrapping_add(1)).0, Relaxed);
        fence(Release);
    }
}

impl StoredNet {
    pub fn open(&self) -> Open {
        Open(self.open.load(Acquire))
    }

    /// Makes the slot empty, unless a connection of its net is open. Requires the lock. Returns
    /// whether it is empty.
    pub fn vacate(&self) -> bool {
        let open = self.open();
        let next = Open::empty(open.generation().wrapping_add(1)).0;
        let is_empty =
            open.count() == 0 && self.open.compare_exchange(open.0, next, AcqRel, Relaxed).is_ok();
        fence(Release);
        is_empty
    }

    /// Gives an empty slot to a net. Requires the lock.
    pub fn give_to(&self, key: [u64; 2], now: u64) {
        self.key[0].store(key[0], Relaxed);
        self.key[1].store(key[1], Relaxed);
        self.last_use.store(now, Relaxed);
        self.forget_attempts();
        self.told.store(0, Relaxed);
        self.open.store(Open::empty(self.open().generation()).0 | WHOLE, Release);
    }

    /// Whether a net has this entry, without the lock. Returns the word that was read with the key.
    pub fn belongs_to(&self, key: [u64; 2]) -> Option<Open> {
        let before = self.open();
        let is_same = before.is_whole() && self.key() == key;
        fence(Acquire);
        let after = Open(self.open.load(Relaxed));
        (is_same && after.is_whole() && after.generation() == before.generation()).then_some(before)
    }

    /// Counts a connection more, if fewer than `most` are open and the slot has this generation.
    pub fn raise(&self, generation: u32, most: u32) -> Raised {
        for _ in 0..TRIES {
            let open = self.open();
            if !open.is_whole() || open.generation() != generation {
                return Raised::Gone;
            }
            if open.count() >= most.min(MOST_OPEN) {
                return Raised::AtLimit;
            }
            let next = open.with_count(open.count() + 1);
            if self.open.compare_exchange(open.0, next.0, AcqRel, Relaxed).is_ok() {
                return Raised::Counted;
            }
        }
        Raised::Gone
    }

    /// Counts a connection less.
    pub fn lower(&self) {
        for _ in 0..TRIES {
            let open = self.open();
            let Some(less) = open.count().checked_sub(1) else { return };
            let next = open.with_count(less);
            if self.open.compare_exchange(open.0, next.0, AcqRel, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Sets how many connections are open. A correct number is not written.
    pub fn set_count(&self, count: u32) {
        for _ in 0..TRIES {
            let open = self.open();
            let next = open.with_count(count);
            if open == next || self.open.compare_exchange(open.0, next.0, AcqRel, Relaxed).is_ok() {
                return;
            }
        }
    }
}
