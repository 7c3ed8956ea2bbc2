//! A shard of entries that are found by a key: hash chains, and the order of last use. The clients
//! and the nets of clients are kept in this form. All code here runs in a worker that holds the
//! shard's lock.
//!
//! A bucket holds the head of a chain through the entries' `chain`; the LRU list goes through
//! `lru`. Slots are handed out in order.
//!
//! No value that is read here is trusted. A link that leads nowhere, or that its target does not
//! return, is [`Corrupt`]. Then the derived data is rebuilt and the operation runs again, once.
//! Walks along a chain are bounded.

mod rebuild;

use crate::hash::HashedKey;
use crate::parts::LruLinks;
use crate::sync::{AtomicU32, Ordering::*};
use crate::view::Shard;

/// An entry as this code sees it.
pub(crate) trait Entry {
    /// Whether it holds something; else its slot is empty.
    fn is_whole(&self) -> bool;
    /// The key, in its stored form.
    fn key(&self) -> [u64; 2];
    /// Last use, monotonic milliseconds.
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

impl<'t, E: Entry> Shard<'t, E> {
    /// Slots handed out so far.
    pub fn used(self) -> u32 {
        self.state.used.load(Relaxed).min(self.slots())
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
        (used < self.slots()).then(|| self.state.used.store(used + 1, Relaxed)).map(|()| used)
    }

    /// Whether all slots are handed out.
    pub fn is_full(self) -> bool {
        self.used() == self.slots()
    }

    /// The slot that was used least recently.
    pub fn oldest(self) -> Result<u32, Corrupt> {
        self.state.oldest.load(Relaxed).checked_sub(1).ok_or(Corrupt)
    }

    /// Puts a slot in the chain of its bucket and in the list, as the newest.
    pub fn link(self, hash: u64, slot: u32) -> Result<(), Corrupt> {
        self.chain_push(hash, slot)?;
        self.lru_push(slot)
    }

    /// Takes a slot out of its chain, if it holds something, and out of the list.
    pub fn unlink(self, slot: u32) -> Result<(), Corrupt> {
        // A slot that a rebuild found half-written is in the list as the oldest, but in no chain.
        let entry = self.entry(slot)?;
        if entry.is_whole() {
            self.chain_remove(slot, entry)?;
        }
        self.lru_remove(slot)
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
    ) -> impl Iterator<Item = Result<(u32, &'t E), Corrupt>> + use<'t, E> {
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

    /// Makes a slot in the list the newest.
    pub fn lru_touch(self, slot: u32) -> Result<(), Corrupt> {
        if self.state.newest.load(Relaxed) == slot + 1 {
            return Ok(());
        }
        self.lru_remove(slot)?;
        self.lru_push(slot)
    }

    fn slots(self) -> u32 {
        self.entries.len() as u32
    }

    /// Puts a slot at the head of its bucket's chain.
    fn chain_push(self, hash: u64, slot: u32) -> Result<(), Corrupt> {
        let head = self.bucket(hash)?;
        self.entry(slot)?.chain().store(head.load(Relaxed), Relaxed);
        head.store(slot + 1, Relaxed);
        Ok(())
    }

    fn chain_remove(self, slot: u32, entry: &E) -> Result<(), Corrupt> {
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

    /// Puts a slot that is not in the list at its newest end.
    fn lru_push(self, slot: u32) -> Result<(), Corrupt> {
        let head = self.state.newest.load(Relaxed);
        let links = self.links(slot + 1)?;
        links.newer.store(0, Relaxed);
        links.older.store(head, Relaxed);
        match head {
            0 => self.state.oldest.store(slot + 1, Relaxed),
            _ => self.links(head)?.newer.store(slot + 1, Relaxed),
        }
        self.state.newest.store(slot + 1, Relaxed);
        Ok(())
    }

    fn lru_remove(self, slot: u32) -> Result<(), Corrupt> {
        let me = slot + 1;
        let links = self.links(me)?;
        let (newer, older) = (links.newer.load(Relaxed), links.older.load(Relaxed));
        // The pointers to this slot from both sides: a neighbour, or an end of the list.
        let from_newer = if newer == 0 { &self.state.newest } else { &self.links(newer)?.older };
        let from_older = if older == 0 { &self.state.oldest } else { &self.links(older)?.newer };
        if from_newer.load(Relaxed) != me || from_older.load(Relaxed) != me {
            return Err(Corrupt);
        }
        from_newer.store(older, Relaxed);
        from_older.store(newer, Relaxed);
        Ok(())
    }

    /// The neighbours of the slot that a non-zero link leads to.
    fn links(self, link: u32) -> Result<&'t LruLinks, Corrupt> {
        link.checked_sub(1).and_then(|slot| self.lru.get(slot as usize)).ok_or(Corrupt)
    }
}
