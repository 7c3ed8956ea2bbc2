//! A shard of entries that are found by a key, by hash chains. The clients and the nets of clients
//! are kept in this form; which of them makes room for another one is decided in `clients` and
//! `nets`. All code here runs in a worker that holds the shard's lock.
//!
//! A bucket holds the head of a chain through the entries' `chain`. Slots are handed out in order.
//!
//! No value that is read here is trusted. A link that leads nowhere is [`Corrupt`]. Then the
//! derived data is rebuilt and the operation runs again, once. Walks along a chain are bounded.

mod rebuild;

use crate::hash::HashedKey;
use crate::sync::{AtomicU32, Ordering::*};
use crate::view::Shard;

/// An entry as this code sees it.
pub(crate) trait Entry {
    /// Whether it holds something; else its slot is empty.
    fn is_whole(&self) -> bool;
    /// The key, in its stored form.
    fn key(&self) -> [u64; 2];
    /// Last use, monotonic milliseconds; 0 where the order does not depend on it.
    fn last_use(&self) -> u64;
    /// The next slot + 1 of the same bucket.
    fn chain(&self) -> &AtomicU32;
    /// Makes the slot empty.
    fn clear(&self);
}

/// The derived data contradicts itself.
#[derive(Debug)]
pub(crate) struct Corrupt;

/// Longest chain that the hash can make. With at least as many buckets as slots, the chance of a
/// longer one is below 10^-80.
pub(crate) const CHAIN_MAX: u32 = 64;

impl<'t, E: Entry, O: Copy> Shard<'t, E, O> {
    /// Slots handed out so far.
    pub fn used(self) -> u32 {
        self.used.load(Relaxed).min(self.slots())
    }

    pub fn entry(self, slot: u32) -> Result<&'t E, Corrupt> {
        self.entries.get(slot as usize).ok_or(Corrupt)
    }

    /// The slot of a key.
    pub fn find(self, key: HashedKey) -> Result<Option<u32>, Corrupt> {
        for link in self.chain(self.bucket(key.hash)?) {
            let (slot, entry) = link?;
            if !entry.is_whole() {
                return Err(Corrupt);
            }
            if entry.key() == key.words {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// A slot that was never used.
    pub fn fresh_slot(self) -> Option<u32> {
        let used = self.used();
        // This store comes before the slot is written, because a rebuild looks only below it.
        (used < self.slots()).then(|| self.used.store(used + 1, Relaxed)).map(|()| used)
    }

    /// Whether all slots are handed out.
    pub fn is_full(self) -> bool {
        self.used() == self.slots()
    }

    pub fn bucket(self, hash: u64) -> Result<&'t AtomicU32, Corrupt> {
        // The number of buckets is a power of two. The lower half of the hash is used, because the
        // upper half chose the shard.
        self.buckets.get(hash as u32 as usize & (self.buckets.len() - 1)).ok_or(Corrupt)
    }

    /// The slots of a chain, beginning at a link: at most [`CHAIN_MAX`], whatever the links
    /// contain.
    pub fn chain(
        self,
        head: &AtomicU32,
    ) -> impl Iterator<Item = Result<(u32, &'t E), Corrupt>> + use<'t, E, O> {
        let mut link = head.load(Relaxed);
        let mut left = CHAIN_MAX;
        std::iter::from_fn(move || {
            let slot = link.checked_sub(1)?;
            let next = left.checked_sub(1).ok_or(Corrupt).and_then(|rest| {
                left = rest;
                self.entry(slot)
            });
            // After an error the chain ends.
            link = next.as_ref().map_or(0, |entry| entry.chain().load(Relaxed));
            Some(next.map(|entry| (slot, entry)))
        })
    }

    fn slots(self) -> u32 {
        self.entries.len() as u32
    }

    /// Puts a slot at the head of its bucket's chain.
    pub fn chain_push(self, hash: u64, slot: u32) -> Result<(), Corrupt> {
        let head = self.bucket(hash)?;
        self.entry(slot)?.chain().store(head.load(Relaxed), Relaxed);
        head.store(slot + 1, Relaxed);
        Ok(())
    }

    /// Takes a slot out of its bucket's chain.
    pub fn chain_remove(self, slot: u32, entry: &E) -> Result<(), Corrupt> {
        let mut link = self.bucket(self.hash_key.of_words(entry.key()).hash)?;
        for step in self.chain(link) {
            let (at, member) = step?;
            if at == slot {
                link.store(entry.chain().load(Relaxed), Relaxed);
                return Ok(());
            }
            link = member.chain();
        }
        Err(Corrupt)
    }
}
