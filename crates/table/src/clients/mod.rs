//! The clients of one shard: find or enter, and the LRU order. All code here runs in a worker that
//! holds the shard's lock.
//!
//! A bucket holds the head of a chain through the entries' `chain`; the LRU list goes through
//! `lru`. Slots are handed out in order. When all are in use, a new client gets the least recently
//! used slot.
//!
//! The order of the LRU list is exact to the second. An entry that was last used in the same second
//! stays where it is, so a busy client costs one cache line instead of five.
//!
//! No value that is read here is trusted. A link that leads nowhere, or that its target does not
//! return, is [`Corrupt`]. Then the derived data is rebuilt and the operation runs again, once.
//! Walks along a chain are bounded.

pub(crate) mod entry;
mod rebuild;

use crate::clients::entry::NO_SERVER;
use crate::hash::HashedKey;
use crate::parts::{LruLinks, StoredEntry};
use crate::sync::{AtomicU32, Ordering::*};
use crate::view::Shard;

/// A reference to a client's entry at its arrival. It may outlive the entry: later writes through
/// it are dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientRef {
    /// Slot.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
}

impl ClientRef {
    /// No client entry: writes through it are dropped. For a client that could not be remembered.
    pub const NOBODY: ClientRef = ClientRef { slot: u32::MAX, generation: 0 };
}

impl Default for ClientRef {
    fn default() -> ClientRef {
        ClientRef::NOBODY
    }
}

/// The result of a client's arrival.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// The entry.
    pub client: ClientRef,
    /// The recorded server's code; -3 for a new or forgotten client.
    pub recorded: i32,
    /// Who had the entry before.
    pub former: Occupant,
}

/// Who had a client's entry before it arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occupant {
    /// The client itself.
    TheClient,
    /// Nobody, as far as is known.
    Nobody,
    /// The client that was used least recently, which is forgotten now.
    AnotherClient,
}

/// The derived data contradicts itself.
#[derive(Debug)]
pub(crate) struct Corrupt;

/// Longest chain that the hash can make. With at least as many buckets as slots, the chance of a
/// longer one is below 10^-80.
pub(crate) const CHAIN_MAX: u32 = 64;

impl<'t> Shard<'t> {
    /// Finds a client's entry or makes one, and counts the connect; see [`crate::Locked::arrive`].
    pub fn arrive(self, key: HashedKey, now: u64, tracking: u64) -> Result<Arrival, Corrupt> {
        let Some(slot) = self.find(key)? else {
            let (slot, former) = self.vacate()?;
            let generation = self.entry(slot)?.give_to(key.words, now);
            self.chain_push(key.hash, slot)?;
            self.lru_push(slot)?;
            return Ok(self.arrival(slot, generation, NO_SERVER, former));
        };
        let entry = self.entry(slot)?;
        let last_use = entry.last_use.load(Relaxed);
        if last_use / 1000 != now / 1000 {
            self.lru_touch(slot)?;
        }
        if tracking != 0 && now.saturating_sub(last_use) > tracking {
            let generation = entry.give_to(key.words, now);
            return Ok(self.arrival(slot, generation, NO_SERVER, Occupant::TheClient));
        }
        entry.count_connect(now);
        let owner = entry.owner();
        Ok(self.arrival(slot, owner.generation(), owner.server(), Occupant::TheClient))
    }

    /// Enters a client with its last use in another table; `None` if it is there already, or if the
    /// shard is full of clients that were used later. Nobody else may use the shard.
    pub fn import(self, key: HashedKey, last_use: u64) -> Result<Option<&'t StoredEntry>, Corrupt> {
        if self.find(key)?.is_some() {
            return Ok(None);
        }
        if self.used() == self.slots() {
            let oldest = self.state.oldest.load(Relaxed).checked_sub(1).ok_or(Corrupt)?;
            if self.entry(oldest)?.last_use.load(Relaxed) > last_use {
                return Ok(None);
            }
        }
        let arrival = self.arrive(key, last_use, 0)?;
        self.entry(arrival.client.slot - self.first).map(Some)
    }

    /// The recorded server of a client; see [`crate::Locked::recorded`].
    pub fn recorded(self, key: HashedKey, now: u64, tracking: u64) -> Result<i32, Corrupt> {
        let Some(slot) = self.find(key)? else { return Ok(NO_SERVER) };
        let entry = self.entry(slot)?;
        let is_forgotten =
            tracking != 0 && now.saturating_sub(entry.last_use.load(Relaxed)) > tracking;
        Ok(if is_forgotten { NO_SERVER } else { entry.owner().server() })
    }

    /// Slots handed out so far.
    pub fn used(self) -> u32 {
        self.state.used.load(Relaxed).min(self.slots())
    }

    pub fn entry(self, slot: u32) -> Result<&'t StoredEntry, Corrupt> {
        self.entries.get(slot as usize).ok_or(Corrupt)
    }

    /// Puts a slot at the head of its bucket's chain.
    pub fn chain_push(self, hash: u64, slot: u32) -> Result<(), Corrupt> {
        let head = self.bucket(hash)?;
        self.entry(slot)?.chain.store(head.load(Relaxed), Relaxed);
        head.store(slot + 1, Relaxed);
        Ok(())
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
    ) -> impl Iterator<Item = Result<(u32, &'t StoredEntry), Corrupt>> {
        let mut link = head.load(Relaxed);
        let mut left = CHAIN_MAX;
        std::iter::from_fn(move || {
            let slot = link.checked_sub(1)?;
            let next = left.checked_sub(1).ok_or(Corrupt).and_then(|rest| {
                left = rest;
                self.entry(slot)
            });
            // After an error the chain ends.
            link = next.as_ref().map_or(0, |entry| entry.chain.load(Relaxed));
            Some(next.map(|entry| (slot, entry)))
        })
    }

    fn slots(self) -> u32 {
        self.entries.len() as u32
    }

    fn arrival(self, slot: u32, generation: u32, recorded: i32, former: Occupant) -> Arrival {
        Arrival { client: ClientRef { slot: self.first + slot, generation }, recorded, former }
    }

    /// The slot of a client.
    fn find(self, key: HashedKey) -> Result<Option<u32>, Corrupt> {
        for link in self.chain(self.bucket(key.hash)?) {
            let (slot, entry) = link?;
            if !entry.owner().is_whole() {
                return Err(Corrupt);
            }
            if entry.key() == key.words {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// A slot for a new client: an unused one, or else the least recently used one, removed from
    /// its chain and the list. Also who had it.
    fn vacate(self) -> Result<(u32, Occupant), Corrupt> {
        let used = self.used();
        if used < self.slots() {
            // This store comes before the slot is written, because a rebuild looks only below it.
            self.state.used.store(used + 1, Relaxed);
            return Ok((used, Occupant::Nobody));
        }
        let slot = self.state.oldest.load(Relaxed).checked_sub(1).ok_or(Corrupt)?;
        // A slot that a rebuild found half-written is in the list as the oldest, but in no chain.
        let entry = self.entry(slot)?;
        let former = match entry.owner().is_whole() {
            true => {
                self.chain_remove(slot, entry)?;
                Occupant::AnotherClient
            }
            false => Occupant::Nobody,
        };
        self.lru_remove(slot)?;
        Ok((slot, former))
    }

    fn chain_remove(self, slot: u32, entry: &StoredEntry) -> Result<(), Corrupt> {
        let mut link = self.bucket(self.hash_key.of_words(entry.key()).hash)?;
        for step in self.chain(link) {
            let (at, member) = step?;
            if at == slot {
                link.store(entry.chain.load(Relaxed), Relaxed);
                return Ok(());
            }
            link = &member.chain;
        }
        Err(Corrupt)
    }

    /// Makes a slot in the list the newest.
    fn lru_touch(self, slot: u32) -> Result<(), Corrupt> {
        if self.state.newest.load(Relaxed) == slot + 1 {
            return Ok(());
        }
        self.lru_remove(slot)?;
        self.lru_push(slot)
    }

    /// Puts a slot that is not in the list at its newest end.
    pub fn lru_push(self, slot: u32) -> Result<(), Corrupt> {
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
