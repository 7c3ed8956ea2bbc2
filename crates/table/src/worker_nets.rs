//! The operations of a worker on the nets of clients: limits per client, and the tarpit.

use crate::chained::Corrupt;
use crate::hash::HashedKey;
use crate::lock::{LockId, LockTaken};
use crate::nets::Beside;
use crate::nets::entry::{MOST_OPEN, Open, Raised};
use crate::parts::StoredNet;
use crate::sync::{Ordering::*, fence};
use crate::view::NetsShard;
use crate::worker_table::WorkerTable;

/// The limits of a net.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NetLimits {
    /// Most open connections. `None`: there is no limit, and none is counted.
    pub connections: Option<u32>,
    /// Most attempts within a time. `None`: there is no limit, and none is counted.
    pub rate: Option<Rate>,
}

/// Most attempts within a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// The attempts.
    pub attempts: u32,
    /// The time.
    pub seconds: u32,
}

/// The limit that a connection would exceed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exceeded {
    /// As many connections are open as may be.
    Connections,
    /// There were as many attempts within the time as may be.
    Rate,
}

/// What a connection of a net is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NetArrival {
    /// It is within the limits and counted: [`WorkerTable::release_net`] takes it back.
    Counted,
    /// It is within the limits, and open connections are not counted.
    Within,
    /// It is beyond a limit, and not counted as open.
    Beyond(Exceeded, Telling),
    /// The net is not known, and it could not be checked.
    Unchecked(Unchecked),
}

/// Why a connection could not be checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unchecked {
    /// There is no slot for its net: all that were looked at have open connections.
    NoSlot,
    /// The lock's owner did not go on.
    LockStuck,
}

/// Whether an administrator is told of a net beyond a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Telling {
    /// For the first time within a minute.
    Now,
    /// It was told of within the last minute, by some worker.
    Known,
}

/// What is counted of a net.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NetUse {
    /// Open connections.
    pub open: u32,
    /// Attempts within the time.
    pub attempts: u32,
}

/// Seconds between two reports of one net.
const TELL_EVERY: u32 = 60;

/// A net that was found.
struct Found<'t> {
    /// Its slot among all.
    slot: u32,
    shard: u32,
    entry: &'t StoredNet,
    /// The word that the entry had with the key. Without the lock, the slot may have another net
    /// meanwhile.
    open: Open,
}

/// A locked shard of nets. Dropping it unlocks the shard.
struct LockedNets<'s> {
    worker_table: &'s WorkerTable<'s>,
    number: u32,
    shard: NetsShard<'s>,
}

impl<'t> WorkerTable<'t> {
    /// Makes room for the nets of this many connections; the room never shrinks. To be called
    /// before the first of the operations below, when there can be more connections, and after a
    /// sibling died that may have overwritten the table.
    pub fn want_nets(&self, connections: u32) {
        let share = self.view.layout.net_share(connections);
        self.net_slots.set(self.net_slots.get().max(share));
        for shard in self.view.net_shards {
            let wanted = &shard.lock.0.wanted;
            if wanted.load(Relaxed) < share {
                wanted.fetch_max(share, Relaxed);
            }
        }
    }

    /// Makes sure that a number which was just claimed is counted for no net. Only a hostile worker
    /// can have written one.
    pub(crate) fn begin_without_net(&self, number: u32) {
        // Without limits nobody reads the holders: to read them here would allocate their memory.
        if self.net_slots.get() == 0 {
            return;
        }
        let Some(holder) = self.view.holder(number) else { return };
        let written = holder.load(Relaxed);
        if written != 0 {
            match self.view.held_net(written) {
                Some(held) => drop(held.recount.beside(|| holder.store(0, Relaxed))),
                None => holder.store(0, Relaxed),
            }
        }
    }

    /// Whether a connection of a net is within its limits; counts it as an attempt, and if it is
    /// within them, as open. `number` is its connection number, which this worker has. The limits
    /// are exact for every interleaving, unless another worker is stuck here: then they may let in
    /// one that is new. `now` is in monotonic milliseconds.
    pub fn arrive_in_net(
        &self,
        number: u32,
        key: [u8; 16],
        limits: NetLimits,
        now: u64,
    ) -> NetArrival {
        let key = self.view.hash_key.of(key);
        match self.lock_nets(key) {
            Some(locked) => match locked.enter(key) {
                Some(found) => locked.judge(number, &found, limits, now),
                None => NetArrival::Unchecked(Unchecked::NoSlot),
            },
            None => self.arrive_unlocked(number, key, limits, now),
        }
    }

    /// Counts a connection as open, whatever the limits are; what it was counted for before is
    /// taken back. For connections that are open when limits change, and after a sibling died that
    /// may have overwritten the table. Without a lock or a slot, it is not counted. One that is
    /// counted for this net already stays so all the time: no other gets its place.
    pub fn count_in_net(&self, number: u32, key: [u8; 16], now: u64) -> NetArrival {
        let key = self.view.hash_key.of(key);
        let limits = NetLimits { connections: Some(MOST_OPEN), rate: None };
        // Mostly it needs no lock: its holder names the net, so every recount counts it.
        if self.look_up(key).is_some_and(|found| self.holds(number, found.slot)) {
            return NetArrival::Counted;
        }
        let Some(locked) = self.lock_nets(key) else {
            self.view.release_net(number);
            return self.arrive_unlocked(number, key, limits, now);
        };
        match locked.enter(key) {
            // A walk without the lock can miss an entry.
            Some(found) if self.holds(number, found.slot) => NetArrival::Counted,
            Some(found) => {
                self.view.release_net(number);
                locked.judge(number, &found, limits, now)
            }
            None => {
                self.view.release_net(number);
                NetArrival::Unchecked(Unchecked::NoSlot)
            }
        }
    }

    /// Takes back what a connection was counted for, if it was.
    pub fn release_net(&self, number: u32) {
        self.view.release_net(number);
    }

    /// Has the counts of all nets made anew. To be called when all connections are counted again
    /// after a sibling died: holders that it had written over may have lowered the counts of others
    /// when they were taken back.
    pub fn want_recounts(&self) {
        self.view.want_recounts();
    }

    /// What an arrival would find counted of a net, with the attempts within `seconds`; changes
    /// nothing.
    pub fn net_use(&self, key: [u8; 16], seconds: u32, now: u64) -> NetUse {
        let key = self.view.hash_key.of(key);
        self.look_up(key).map_or(NetUse::default(), |found| {
            // The next one that takes the lock will count the holders.
            let is_due = self.view.net_shards[found.shard as usize].recount.0.is_due();
            NetUse {
                open: match is_due {
                    true => self.view.holders_of(found.slot),
                    false => found.open.count(),
                },
                attempts: found.entry.attempts(now, seconds),
            }
        })
    }

    /// Counts a connection more that is kept open and silent, if all workers together have fewer
    /// than `most`. Never one too many.
    pub fn reserve_tarpit(&self, most: u32) -> bool {
        let Some(own) = self.view.loads.get(self.row as usize).map(|load| &load.tarpitted.0) else {
            return false;
        };
        let Some(raised) = own.load(Relaxed).checked_add(1).filter(|_| self.tarpitted() < most)
        else {
            return false;
        };
        // There is one writer.
        own.store(raised, Relaxed);
        fence(SeqCst);
        let is_within = self.tarpitted() <= most;
        if !is_within {
            own.store(raised - 1, Release);
        }
        is_within
    }

    /// Sets how many connections this worker keeps open and silent.
    pub fn set_tarpitted(&self, connections: u32) {
        if let Some(load) = self.view.loads.get(self.row as usize) {
            load.tarpitted.0.store(connections, Release);
        }
    }

    /// The connections that all workers keep open and silent.
    pub fn tarpitted(&self) -> u32 {
        let used = self.view.loads.iter().take(self.view.rows_used() as usize);
        used.fold(0, |sum, load| sum.saturating_add(load.tarpitted.0.load(Acquire)))
    }

    /// What `arrive_in_net` does without the lock.
    pub(crate) fn arrive_unlocked(
        &self,
        number: u32,
        key: HashedKey,
        limits: NetLimits,
        now: u64,
    ) -> NetArrival {
        let Some(found) = self.look_up(key) else {
            return NetArrival::Unchecked(Unchecked::LockStuck);
        };
        let recount = &self.view.net_shards[found.shard as usize].recount.0;
        let mut arrival = NetArrival::Unchecked(Unchecked::LockStuck);
        let beside = recount.beside(|| {
            let attempts = |rate: Rate| found.entry.attempt_unlocked(now, rate.seconds);
            arrival = judge(&found, limits, attempts, now);
            if arrival == NetArrival::Counted {
                self.hold(number, found.slot);
            }
        });
        match (arrival, beside) {
            (NetArrival::Counted, Beside::Recount) if self.is_one_too_many(found.slot, limits) => {
                self.view.release_net(number);
                NetArrival::Beyond(Exceeded::Connections, tell(found.entry, now))
            }
            _ => arrival,
        }
    }

    /// The entry of a net, without the lock.
    fn look_up(&self, key: HashedKey) -> Option<Found<'t>> {
        let number = self.view.net_shard_of(key.hash);
        let slots = self.view.net_shards[number as usize].lock.0.slots.load(Relaxed);
        let shard = self.view.net_shard(number, slots);
        let chain = shard.chain(shard.bucket(key.hash).ok()?);
        let mut links = chain.map_while(Result::ok);
        links.find_map(|(slot, entry)| {
            let open = entry.belongs_to(key.words)?;
            Some(Found { slot: shard.first + slot, shard: number, entry, open })
        })
    }

    fn hold(&self, number: u32, slot: u32) {
        if let Some(holder) = self.view.holder(number) {
            holder.store(slot + 1, Relaxed);
        }
    }

    /// Whether a connection is counted for the net of a slot.
    fn holds(&self, number: u32, slot: u32) -> bool {
        self.view.holder(number).is_some_and(|holder| holder.load(Relaxed) == slot + 1)
    }

    /// Whether the holders of a slot are more than may be. For a connection whose holder is stored
    /// and that a recount may have missed: its count can be too low. Of several such connections
    /// each sees the others or is seen by them.
    #[cold]
    fn is_one_too_many(&self, slot: u32, limits: NetLimits) -> bool {
        let most = limits.connections.unwrap_or(MOST_OPEN);
        fence(SeqCst);
        self.view.holders_of(slot) > most
    }

    /// Locks the shard of a net, and makes it consistent. None: the lock is stuck.
    fn lock_nets(&self, key: HashedKey) -> Option<LockedNets<'_>> {
        let number = self.view.net_shard_of(key.hash);
        let slots = self.net_slots.get();
        let shard = self.view.net_shard(number, slots);
        let lock = shard.lock;
        let stuck = &mut self.stuck.borrow_mut();
        let taken = lock.lock.take(self.row, LockId::Nets(number), stuck).ok()?;
        let mut locked = LockedNets { worker_table: self, number, shard };
        let is_due = self.view.net_shards[number as usize].recount.0.is_due();
        if !lock.has_size(slots) || taken == LockTaken::Orphaned || is_due {
            locked.repair(taken);
        }
        Some(locked)
    }
}

/// Whether a connection is within the limits. It counts as an attempt, and as open if it is.
fn judge(
    found: &Found<'_>,
    limits: NetLimits,
    attempts: impl FnOnce(Rate) -> u32,
    now: u64,
) -> NetArrival {
    let beyond = |exceeded| NetArrival::Beyond(exceeded, tell(found.entry, now));
    if let Some(rate) = limits.rate
        && attempts(rate) > rate.attempts
    {
        return beyond(Exceeded::Rate);
    }
    let Some(most) = limits.connections else { return NetArrival::Within };
    match found.entry.raise(found.open.generation(), most) {
        Raised::Counted => NetArrival::Counted,
        Raised::AtLimit => beyond(Exceeded::Connections),
        // Another worker gave the slot to another net, which needs the lock.
        Raised::Gone => NetArrival::Unchecked(Unchecked::LockStuck),
    }
}

/// Whether to tell of a net now. Of all workers, one does.
fn tell(entry: &StoredNet, now: u64) -> Telling {
    let now = (now / 1000) as u32 + 1;
    let last = entry.told.load(Relaxed);
    let is_new = last == 0 || now.wrapping_sub(last) >= TELL_EVERY;
    match is_new && entry.told.compare_exchange(last, now, Relaxed, Relaxed).is_ok() {
        true => Telling::Now,
        false => Telling::Known,
    }
}

impl<'s> LockedNets<'s> {
    /// What a connection of a net is told.
    fn judge(&self, number: u32, found: &Found<'_>, limits: NetLimits, now: u64) -> NetArrival {
        let attempts = |rate: Rate| found.entry.attempt(now, rate.seconds);
        let arrival = judge(found, limits, attempts, now);
        if arrival != NetArrival::Counted {
            return arrival;
        }
        let worker_table = self.worker_table;
        worker_table.hold(number, found.slot);
        fence(SeqCst);
        // A connection may have come without the lock, and not be in the count.
        let is_due = worker_table.view.net_shards[self.number as usize].recount.0.is_due();
        if is_due && worker_table.is_one_too_many(found.slot, limits) {
            worker_table.view.release_net(number);
            return NetArrival::Beyond(Exceeded::Connections, tell(found.entry, now));
        }
        arrival
    }

    /// The entry of a net. None: there is no slot for it.
    fn enter(&self, key: HashedKey) -> Option<Found<'s>> {
        let entered = self.shard.enter(key).or_else(|Corrupt| {
            self.rebuild();
            self.shard.enter(key)
        });
        // A hostile worker may overwrite the table at this moment.
        let slot = entered.ok().flatten()?;
        let entry = self.shard.entries.get(slot as usize)?;
        let (slot, shard) = (self.shard.first + slot, self.number);
        Some(Found { slot, shard, entry, open: entry.open() })
    }

    /// Gives the shard its wanted size and makes it consistent.
    #[cold]
    fn repair(&mut self, taken: LockTaken) {
        // If the worker dies between this and the rebuild, the lock is orphaned, and its next owner
        // rebuilds.
        let (slots, grown) = self.shard.lock.settle();
        self.worker_table.net_slots.set(slots);
        self.shard = self.worker_table.view.net_shard(self.number, slots);
        let is_due = self.worker_table.view.net_shards[self.number as usize].recount.0.is_due();
        match (taken, grown) {
            // After a death it may be a hostile worker who made the shard small: its derived data
            // is of no use.
            (LockTaken::Whole, Some(_)) if is_due => self.rebuild(),
            (LockTaken::Whole, Some(buckets)) => {
                self.shard.rebuild_grown(buckets);
            }
            (LockTaken::Orphaned, _) => self.rebuild(),
            (LockTaken::Whole, None) if is_due => self.recount(),
            (LockTaken::Whole, None) => {}
        }
    }

    fn rebuild(&self) {
        self.shard.rebuild();
        self.recount();
    }

    fn recount(&self) {
        self.worker_table.view.recount_nets(self.number, self.shard);
    }
}

impl Drop for LockedNets<'_> {
    fn drop(&mut self) {
        self.shard.lock.lock.give_back(self.worker_table.row);
    }
}
