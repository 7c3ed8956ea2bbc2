//! The nets of clients, for the limits per client: how many connections of each are open, and how
//! many it attempted within a time ([`rate`]).
//!
//! A net is a client's address without its last bits; the caller gives it a key. Nets are found as
//! clients are ([`crate::chained`]), in shards of their own. When all slots are in use, a new net
//! gets one of which the net has no open connection, and was not used for some time ([`clock`]).
//! There are twice as many slots as connections, so that there is always one.
//!
//! **Open connections.** The holders are the truth: for each connection number the net whose
//! connection has it, written by the worker that has the number. The count in a net's entry is
//! derived from them, and is what a limit asks. It rises under the shard's lock, and falls without
//! it. A worker that dies leaves its holders, which the supervisor removes; then it asks every
//! shard for a *recount*, which the next owner of the shard's lock makes.
//!
//! A recount and a change without the lock can meet. A worker that makes such a change compares
//! `wanted` after it with `done` before it. If they differ, a recount was wanted or under way, and
//! may have missed the change. Then the worker wants another one. Both sides have a SeqCst fence,
//! between the change and the comparison, and between the beginning of the recount and its reading.
//! So either the recount sees the change, or the worker sees the recount.
//!
//! Until that other recount, the count may be wrong. A connection that ends lowers the count before
//! its holder is removed, so that the count is too high then, and never too low. One that comes
//! without the lock can be lost from the count: a recount reads the holders before it has one, and
//! sets the count after it has risen. So a connection that saw a recount counts the holders itself,
//! and leaves if they are too many. One with the lock does the same if another recount is wanted
//! when its own holder is stored.
//!
//! **A lock that is stuck.** The net is looked for without the lock, and its count still keeps to
//! the limit. Only a net without an entry is let in unchecked: it has no connection that is known.

mod clock;
pub(crate) mod entry;
mod rate;

use crate::chained::{Corrupt, Entry};
use crate::hash::HashedKey;
use crate::nets::entry::Lowered;
use crate::numbers;
use crate::parts::{NetShard, Recount, StoredNet};
use crate::sync::{AtomicU32, Ordering::*, fence};
use crate::view::{NetsShard, View};

/// What else happened while a holder and a count were changed without the lock.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Beside {
    /// No recount: each one that begins later sees the change.
    Nothing,
    /// A recount may have missed the change, so another one is wanted.
    Recount,
}

/// The entry of a holder.
#[derive(Clone, Copy)]
pub(crate) struct HeldNet<'t> {
    pub entry: &'t StoredNet,
    pub recount: &'t Recount,
    /// Its shard, and its slot there.
    place: (u32, u32),
}

impl<'t> NetsShard<'t> {
    /// The slot of a net, which is entered if it is new. None: all slots have connections.
    pub fn enter(self, key: HashedKey) -> Result<Option<u32>, Corrupt> {
        if let Some(slot) = self.find(key)? {
            self.order.touch(slot);
            return Ok(Some(slot));
        }
        let Some(slot) = self.vacate()? else { return Ok(None) };
        self.entry(slot)?.give_to(key.words);
        self.chain_push(key.hash, slot)?;
        Ok(Some(slot))
    }

    /// Rebuilds the chains.
    pub fn rebuild(self) {
        self.rebuild_grown(self.buckets.len());
    }

    /// Rebuilds the chains of a shard in which only the first `buckets` buckets were ever used.
    pub fn rebuild_grown(self, buckets: usize) {
        self.chains_anew(buckets);
    }

    /// An empty slot for a new net, in no chain.
    fn vacate(self) -> Result<Option<u32>, Corrupt> {
        if let Some(slot) = self.fresh_slot() {
            return Ok(Some(slot));
        }
        // Each that is looked at in vain is marked, and not looked at again.
        for _ in 0..=self.used() {
            let Some(slot) = self.order.advance(self.used()) else { return Ok(None) };
            let entry = self.entry(slot)?;
            // One that a worker left half-written is empty and in no chain.
            if !entry.is_whole() {
                return Ok(Some(slot));
            }
            if entry.vacate() {
                self.chain_remove(slot, entry)?;
                return Ok(Some(slot));
            }
            self.order.mark(slot, entry);
        }
        Ok(None)
    }
}

impl<'t> View<'t> {
    /// The entry of a holder; none if the number is out of range or has no net.
    pub fn held_net(self, holder: u32) -> Option<HeldNet<'t>> {
        let slot = holder.checked_sub(1)?;
        let each = self.layout.nets_per_shard;
        let place = (slot / each, slot % each);
        let shard = self.net_shards.get(place.0 as usize)?;
        Some(HeldNet { entry: self.nets.get(slot as usize)?, recount: &shard.recount.0, place })
    }

    /// The holder of a connection number.
    pub fn holder(self, number: u32) -> Option<&'t AtomicU32> {
        self.holders.get(number as usize)
    }

    /// Takes a connection from its net. Without the lock.
    pub fn release_net(self, number: u32) {
        let Some(holder) = self.holder(number) else { return };
        let Some(held) = self.held_net(holder.load(Relaxed)) else { return };
        // A recount between the two makes the count too high, and wants another one. In the other
        // order the count would be lowered twice, and one too many would get in.
        let _ = held.recount.beside(|| {
            match held.entry.lower() {
                Lowered::Open => {}
                Lowered::Idle => {
                    self.clock(held.place.0, self.layout.nets_per_shard).rest(held.place.1)
                }
            }
            holder.store(0, Relaxed);
        });
    }

    /// How many connections are counted for the net of a slot, by the holders.
    pub fn holders_of(self, slot: u32) -> u32 {
        let numbers = self.globals.high_water.0.numbers.load(Relaxed);
        let held = (0u32..numbers).zip(self.holders).filter(|(number, holder)| {
            holder.load(Relaxed) == slot + 1 && numbers::owner(self, *number).is_some()
        });
        held.count() as u32
    }

    /// Makes the counts of a shard's nets what the holders say. For the owner of its lock.
    pub fn recount_nets(self, number: u32, shard: NetsShard<'_>) {
        let recount = &self.net_shards[number as usize].recount.0;
        let wanted = recount.want();
        fence(SeqCst);
        let used = shard.used();
        let mut counts = vec![0u32; used as usize];
        let numbers = self.globals.high_water.0.numbers.load(Relaxed);
        for (number, holder) in (0u32..numbers).zip(self.holders) {
            let slot = holder.load(Relaxed).checked_sub(1);
            let slot = slot.and_then(|slot| slot.checked_sub(shard.first));
            // A number that nobody has can have a holder only by a hostile worker.
            if let Some(count) = slot.and_then(|slot| counts.get_mut(slot as usize))
                && numbers::owner(self, number).is_some()
            {
                *count += 1;
            }
        }
        for ((slot, entry), count) in (0u32..).zip(shard.entries).zip(counts) {
            if entry.is_whole() {
                entry.set_count(count);
            }
            shard.order.mend(slot, entry);
        }
        shard.order.mend_unused(used);
        recount.done.store(wanted, Release);
    }

    /// Makes every shard of nets count again: a worker is dead, and its holders are removed.
    pub fn want_recounts(self) {
        // No shard that was never used: that would allocate memory.
        let used = self.net_shards.iter().filter(|shard| shard.used.load(Relaxed) != 0);
        used.for_each(|NetShard { recount, .. }| {
            recount.0.want();
        });
    }
}

impl Recount {
    /// Whether the counts must be made anew. For the owner of the shard's lock.
    pub fn is_due(&self) -> bool {
        self.wanted.load(Acquire) != self.done.load(Relaxed)
    }

    /// Changes a holder and a count without the lock.
    pub fn beside(&self, change: impl FnOnce()) -> Beside {
        let done = self.done.load(Acquire);
        change();
        fence(SeqCst);
        if self.wanted.load(Relaxed) == done {
            return Beside::Nothing;
        }
        self.want();
        Beside::Recount
    }

    /// Wants a recount, and returns what `wanted` is now.
    fn want(&self) -> u32 {
        self.wanted.fetch_add(1, AcqRel).wrapping_add(1)
    }
}
