//! The clients of one shard: find or enter, and the LRU order. All code here runs in a worker that
//! holds the shard's lock.
//!
//! Slots are handed out in order. When all are in use, a new client gets the least recently used
//! slot.
//!
//! The order of the LRU list is exact to the second. An entry that was last used in the same second
//! stays where it is, so a busy client costs one cache line instead of five.

pub(crate) mod entry;
mod lru;

use crate::chained::{Corrupt, Entry};
use crate::clients::entry::NO_SERVER;
use crate::hash::HashedKey;
use crate::parts::StoredEntry;
use crate::sync::Ordering::*;
use crate::view::ClientShard;

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

impl<'t> ClientShard<'t> {
    /// Finds a client's entry or makes one, and counts the connect; see [`crate::Locked::arrive`].
    pub fn arrive(self, key: HashedKey, now: u64, tracking: u64) -> Result<Arrival, Corrupt> {
        let Some(slot) = self.find(key)? else {
            let (slot, former) = self.vacate()?;
            let generation = self.entry(slot)?.give_to(key.words, now);
            self.link(key.hash, slot)?;
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
        if self.is_full() && self.entry(self.oldest()?)?.last_use() > last_use {
            return Ok(None);
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

    fn arrival(self, slot: u32, generation: u32, recorded: i32, former: Occupant) -> Arrival {
        Arrival { client: ClientRef { slot: self.first + slot, generation }, recorded, former }
    }

    /// A slot for a new client: an unused one, or else the least recently used one, removed from
    /// its chain and the list. Also who had it.
    fn vacate(self) -> Result<(u32, Occupant), Corrupt> {
        if let Some(slot) = self.fresh_slot() {
            return Ok((slot, Occupant::Nobody));
        }
        let slot = self.oldest()?;
        let former = match self.entry(slot)?.is_whole() {
            true => Occupant::AnotherClient,
            false => Occupant::Nobody,
        };
        self.unlink(slot)?;
        Ok((slot, former))
    }
}
