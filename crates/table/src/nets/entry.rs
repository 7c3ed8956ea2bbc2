//! One net's entry: its identity and its open connections.
//!
//! The word `open` holds the generation (bits 32–63), whether the entry is whole (bit 31), whether
//! the hand of the clock marked it as busy (bit 30, see `nets/clock.rs`), and how many connections
//! of the net are open (bits 0–29). A slot gets a new net under the shard's lock,
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

/// What counting a connection less made of an entry.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lowered {
    /// As busy as it was, or never marked.
    Open,
    /// It was marked as busy, and is not any more.
    Idle,
}

/// The most connections that can be counted: more than there can be.
pub(crate) const MOST_OPEN: u32 = COUNT as u32 - 1;

const WHOLE: u64 = 1 << 31;
const BUSY: u64 = 1 << 30;
const COUNT: u64 = BUSY - 1;

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

    /// Whether the hand of the clock marked the entry as busy.
    pub fn is_busy(self) -> bool {
        self.0 & BUSY != 0
    }

    fn with_count(self, count: u32) -> Open {
        Open(self.0 & !COUNT | u64::from(count) & COUNT)
    }

    /// Marks it as busy if connections are open, and not otherwise.
    fn marked(self) -> Open {
        match self.count() {
            0 => Open(self.0 & !BUSY),
            _ => Open(self.0 | BUSY),
        }
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

    /// The clock has the order.
    fn last_use(&self) -> u64 {
        0
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
    pub fn give_to(&self, key: [u64; 2]) {
        self.key[0].store(key[0], Relaxed);
        self.key[1].store(key[1], Relaxed);
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

    /// Counts a connection less. After the last one, an entry that was marked as busy is not so any
    /// more.
    pub fn lower(&self) -> Lowered {
        for _ in 0..TRIES {
            let open = self.open();
            let Some(less) = open.count().checked_sub(1) else { return Lowered::Open };
            let next = match less {
                0 => open.with_count(0).marked(),
                _ => open.with_count(less),
            };
            if self.open.compare_exchange(open.0, next.0, AcqRel, Relaxed).is_ok() {
                return if open.is_busy() && less == 0 { Lowered::Idle } else { Lowered::Open };
            }
        }
        Lowered::Open
    }

    /// Marks an entry as busy if it has connections, and not otherwise. Returns whether it is busy
    /// now. Requires the lock.
    pub fn mark(&self) -> bool {
        for _ in 0..TRIES {
            let open = self.open();
            let next = open.marked();
            if open == next || self.open.compare_exchange(open.0, next.0, AcqRel, Relaxed).is_ok() {
                return next.is_busy();
            }
        }
        false
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
