//! The order of last use of a shard's clients: a list through `links`, from the newest to the
//! oldest. All code here runs in a worker that holds the shard's lock.
//!
//! A link that its target does not return is [`Corrupt`].

use crate::chained::{Corrupt, Entry};
use crate::parts::LruLinks;
use crate::sync::Ordering::*;
use crate::view::ClientShard;

impl<'t> ClientShard<'t> {
    /// The slot that was used least recently.
    pub fn oldest(self) -> Result<u32, Corrupt> {
        self.order.oldest.load(Relaxed).checked_sub(1).ok_or(Corrupt)
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

    /// Makes a slot in the list the newest.
    pub fn lru_touch(self, slot: u32) -> Result<(), Corrupt> {
        if self.order.newest.load(Relaxed) == slot + 1 {
            return Ok(());
        }
        self.lru_remove(slot)?;
        self.lru_push(slot)
    }

    /// Rebuilds the chains and the list. Returns the number of entries kept.
    pub fn rebuild(self) -> u32 {
        self.rebuild_grown(self.buckets.len())
    }

    /// Rebuilds a shard in which only the first `buckets` buckets were ever used.
    pub fn rebuild_grown(self, buckets: usize) -> u32 {
        let slots = self.chains_anew(buckets);
        self.list_anew(slots.whole.iter().chain(&slots.empty));
        slots.whole.len() as u32
    }

    /// Links slots to the list, the newest first.
    fn list_anew<'s>(self, slots: impl Iterator<Item = &'s u32>) {
        let mut newer = 0;
        // The link that will lead to the next slot.
        let mut end = self.order.newest;
        for slot in slots {
            let links = &self.order.links[*slot as usize];
            links.newer.store(newer, Relaxed);
            end.store(slot + 1, Relaxed);
            end = &links.older;
            newer = slot + 1;
        }
        end.store(0, Relaxed);
        self.order.oldest.store(newer, Relaxed);
    }

    /// Puts a slot that is not in the list at its newest end.
    fn lru_push(self, slot: u32) -> Result<(), Corrupt> {
        let head = self.order.newest.load(Relaxed);
        let links = self.links(slot + 1)?;
        links.newer.store(0, Relaxed);
        links.older.store(head, Relaxed);
        match head {
            0 => self.order.oldest.store(slot + 1, Relaxed),
            _ => self.links(head)?.newer.store(slot + 1, Relaxed),
        }
        self.order.newest.store(slot + 1, Relaxed);
        Ok(())
    }

    fn lru_remove(self, slot: u32) -> Result<(), Corrupt> {
        let me = slot + 1;
        let links = self.links(me)?;
        let (newer, older) = (links.newer.load(Relaxed), links.older.load(Relaxed));
        // The pointers to this slot from both sides: a neighbour, or an end of the list.
        let from_newer = if newer == 0 { self.order.newest } else { &self.links(newer)?.older };
        let from_older = if older == 0 { self.order.oldest } else { &self.links(older)?.newer };
        if from_newer.load(Relaxed) != me || from_older.load(Relaxed) != me {
            return Err(Corrupt);
        }
        from_newer.store(older, Relaxed);
        from_older.store(newer, Relaxed);
        Ok(())
    }

    /// The neighbours of the slot that a non-zero link leads to.
    fn links(self, link: u32) -> Result<&'t LruLinks, Corrupt> {
        link.checked_sub(1).and_then(|slot| self.order.links.get(slot as usize)).ok_or(Corrupt)
    }
}
