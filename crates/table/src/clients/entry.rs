//! One client's entry. It is written so that it is whole or empty at any instruction, and it is
//! read without a lock.
//!
//! The owner word holds the generation (bits 32–63), the recorded server (bits 16–31, an `i16`) and
//! the state (bits 0–15: [`WHOLE`]; any other value is empty). A slot gets a new owner under the
//! shard's lock in three steps: the owner word becomes the next generation and empty; the fields
//! are written; the owner word becomes whole. So a worker that dies in between leaves an empty
//! slot. A reader that finds the same whole owner word before and after reading the fields has read
//! the fields of one owner. (Boehm, "Can seqlocks get along with programming language memory
//! models?", 2012: Release fence after the first step, Release store at the last; Acquire load
//! first, Acquire fence before the second load.)
//!
//! A connection can outlive its client's entry. Without the lock, the generation protects the new
//! owner: recording a server is a compare-and-swap of the owner word. Adding bytes loads the
//! generation first. If a new owner's first store comes between this load and the addition, the
//! bytes are credited to the new owner. This happens once, if a worker is interrupted between two
//! instructions, and it is cheaper than a lock per relayed buffer.

use crate::chained::Entry;
use crate::hash::key_bytes;
use crate::parts::StoredEntry;
use crate::sync::{AtomicU32, Ordering::*, fence};

/// One client's entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientEntry {
    /// Its slot.
    pub slot: u32,
    /// Its key.
    pub key: [u8; 16],
    /// Last use, monotonic milliseconds.
    pub last_use: u64,
    /// Recorded server's code.
    pub server: i32,
    /// Connections accepted.
    pub connects: u64,
    /// Bytes sent to the client.
    pub sent: u64,
    /// Bytes received from the client.
    pub received: u64,
}

/// The code of "no recorded server".
pub(crate) const NO_SERVER: i32 = -3;

/// The owner word of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner(u64);

impl Owner {
    /// The word of a client that was just entered.
    fn whole(generation: u32) -> Owner {
        Owner(u64::from(generation) << 32 | WHOLE).with_server(NO_SERVER)
    }

    /// The word of an empty slot.
    fn empty(generation: u32) -> Owner {
        Owner(u64::from(generation) << 32)
    }

    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The recorded server's code.
    pub fn server(self) -> i32 {
        i32::from((self.0 >> 16) as u16 as i16)
    }

    pub fn is_whole(self) -> bool {
        self.0 & 0xffff == WHOLE
    }

    fn with_server(self, server: i32) -> Owner {
        let server = i16::try_from(server).unwrap_or(NO_SERVER as i16);
        Owner(self.0 & !(0xffff << 16) | u64::from(server as u16) << 16)
    }
}

/// The state of an entry that holds a client.
const WHOLE: u64 = 1;

impl Entry for StoredEntry {
    fn is_whole(&self) -> bool {
        self.owner().is_whole()
    }

    /// The key at this moment. Only the holder of the shard's lock gets both halves of one key.
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
        self.make_empty(self.owner().generation());
    }
}

impl StoredEntry {
    pub fn owner(&self) -> Owner {
        Owner(self.owner.load(Acquire))
    }

    /// Whether a connection's client still has this entry.
    pub fn belongs_to(&self, generation: u32) -> bool {
        let owner = self.owner();
        owner.is_whole() && owner.generation() == generation
    }

    /// Gives the slot to a client that connects for the first time. Requires the lock. Returns the
    /// new generation.
    pub fn give_to(&self, key: [u64; 2], now: u64) -> u32 {
        let generation = self.owner().generation().wrapping_add(1);
        self.make_empty(generation);
        self.key[0].store(key[0], Relaxed);
        self.key[1].store(key[1], Relaxed);
        self.last_use.store(now, Relaxed);
        self.connects.store(1, Relaxed);
        self.sent.store(0, Relaxed);
        self.received.store(0, Relaxed);
        self.owner.store(Owner::whole(generation).0, Release);
        generation
    }

    fn make_empty(&self, generation: u32) {
        // An exchange, not a store: then it and a concurrent `record` have an order in the word's
        // history.
        self.owner.swap(Owner::empty(generation).0, Relaxed);
        fence(Release);
    }

    /// Counts a connect. Requires the lock.
    pub fn count_connect(&self, now: u64) {
        self.last_use.store(now, Relaxed);
        self.connects.store(self.connects.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Records a server, unless the slot has another owner.
    pub fn record(&self, generation: u32, server: i32) {
        self.record_if(generation, server, |_| true);
    }

    /// Records another server if this one is recorded, unless the slot has another owner.
    pub fn transfer(&self, generation: u32, from: i32, to: i32) {
        self.record_if(generation, to, |recorded| recorded == from);
    }

    fn record_if(&self, generation: u32, server: i32, replaces: impl Fn(i32) -> bool) {
        // The exchange fails only if another connection of the client records a server, or the slot
        // gets a new owner. The bound is for a hostile worker.
        for _ in 0..RECORD_TRIES {
            let owner = self.owner();
            let next = owner.with_server(server);
            let is_same = owner.is_whole() && owner.generation() == generation;
            if !is_same || owner == next || !replaces(owner.server()) {
                return;
            }
            if self.owner.compare_exchange(owner.0, next.0, AcqRel, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Sets what another table knew of the client. Nobody else may use the entry.
    pub fn import(&self, server: i32, connects: u64, sent: u64, received: u64) {
        self.connects.store(connects, Relaxed);
        self.sent.store(sent, Relaxed);
        self.received.store(received, Relaxed);
        self.record(self.owner().generation(), server);
    }

    /// Adds relayed bytes, unless the slot has another owner.
    pub fn add_bytes(&self, generation: u32, sent: u64, received: u64) {
        if self.belongs_to(generation) {
            self.sent.fetch_add(sent, Relaxed);
            self.received.fetch_add(received, Relaxed);
        }
    }

    /// Reads the entry without a lock; `None` if it is empty or just changed its owner.
    pub fn read(&self, slot: u32) -> Option<ClientEntry> {
        let before = self.owner();
        if !before.is_whole() {
            return None;
        }
        let key = self.key();
        let entry = ClientEntry {
            slot,
            key: key_bytes(key),
            last_use: self.last_use.load(Relaxed),
            server: before.server(),
            connects: self.connects.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        };
        fence(Acquire);
        let after = Owner(self.owner.load(Relaxed));
        (after.is_whole() && after.generation() == before.generation()).then_some(entry)
    }
}

const RECORD_TRIES: u32 = 64;
