//! The operations of a worker on the nets of clients: limits per client, and the tarpit.

use crate::chained::Corrupt;
use crate::hash::HashedKey;
use crate::lock::{LockId, LockTaken};
use crate::nets::entry::{MOST_OPEN, Open, Raised};
use crate::parts::StoredNet;
use crate::sync::{Ordering::*, fence};
use crate::view::Shard;
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
    /// It could not be checked, because the net is new and there is no slot for it, or no lock.
    Unchecked,
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

/// A net that was found without the lock.
struct Found<'t> {
    /// Its slot among all.
    slot: u32,
    shard: u32,
    entry: &'t StoredNet,
    /// The word that the entry had with the key. The slot may have another net meanwhile.
    open: Open,
}

/// A locked shard of nets. Dropping it unlocks the shard.
struct LockedNets<'s> {
    worker_table: &'s WorkerTable<'s>,
    number: u32,
    shard: Shard<'s, StoredNet>,
}

impl<'t> WorkerTable<'t> {
    /// Makes room for the nets of this many connections; the room never shrinks. To be called
    /// before the first of the operations below, and when there can be more connections.
    pub fn want_nets(&self, connections: u32) {
        let share = self.view.layout.net_share(connections);
        self.net_slots.set(self.net_slots.get().max(share));
        for shard in self.view.net_shards {
            let wanted = &shard.state.lock.0.wanted;
            if wanted.load(Relaxed) < share {
                wanted.fetch_max(share, Relaxed);
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
            Some(locked) => match locked.enter(key, now) {
                Some((slot, entry)) => {
                    let attempts = |rate: Rate| entry.attempt(now, rate.seconds);
                    let arrival = judge(entry, entry.open(), limits, attempts, now);
                    self.hold_if_counted(number, slot, arrival);
                    arrival
                }
                None => NetArrival::Unchecked,
            },
            None => self.arrive_unlocked(number, key, limits, now),
        }
    }

    /// Counts a connection as open, whatever the limits are; what it was counted for before is
    /// taken back. For connections that are open when limits change, and after a sibling died that
    /// may have overwritten the table. Without a lock or a slot, it is not counted.
    pub fn count_in_net(&self, number: u32, key: [u8; 16], now: u64) -> NetArrival {
        self.view.release_net(number);
        let limits = NetLimits { connections: Some(MOST_OPEN), rate: None };
        self.arrive_in_net(number, key, limits, now)
    }

    /// Takes back what a connection was counted for, if it was.
    pub fn release_net(&self, number: u32) {
        self.view.release_net(number);
    }

    /// What is counted of a net, with the attempts within `seconds`; changes nothing.
    pub fn net_use(&self, key: [u8; 16], seconds: u32, now: u64) -> NetUse {
        let key = self.view.hash_key.of(key);
        self.look_up(key).map_or(NetUse::default(), |found| NetUse {
            open: found.open.count(),
            attempts: found.entry.attempts(now, seconds),
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
        let Some(found) = self.look_up(key) else { return NetArrival::Unchecked };
        let mut arrival = NetArrival::Unchecked;
        self.view.net_shards[found.shard as usize].recount.0.beside(|| {
            let attempts = |rate: Rate| found.entry.attempt_unlocked(now, rate.seconds);
            arrival = judge(found.entry, found.open, limits, attempts, now);
            self.hold_if_counted(number, found.slot, arrival);
        });
        arrival
    }

    /// The entry of a net, without the lock.
    fn look_up(&self, key: HashedKey) -> Option<Found<'t>> {
        let number = self.view.net_shard_of(key.hash);
        let slots = self.view.net_shards[number as usize].state.lock.0.slots.load(Relaxed);
        let shard = self.view.net_shard(number, slots);
        let chain = shard.chain(shard.bucket(key.hash).ok()?);
        let mut links = chain.map_while(Result::ok);
        links.find_map(|(slot, entry)| {
            let open = entry.belongs_to(key.words)?;
            Some(Found { slot: shard.first + slot, shard: number, entry, open })
        })
    }

    fn hold_if_counted(&self, number: u32, slot: u32, arrival: NetArrival) {
        match (arrival, self.view.holder(number)) {
            (NetArrival::Counted, Some(holder)) => holder.store(slot + 1, Relaxed),
            (NetArrival::Counted, None)
            | (NetArrival::Within | NetArrival::Beyond(..) | NetArrival::Unchecked, _) => {}
        }
    }

    /// Locks the shard of a net, and makes it consistent. None: the lock is stuck.
    fn lock_nets(&self, key: HashedKey) -> Option<LockedNets<'_>> {
        let number = self.view.net_shard_of(key.hash);
        let slots = self.net_slots.get();
        let shard = self.view.net_shard(number, slots);
        let lock = &shard.state.lock.0;
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

/// Whether a connection is within the limits. It counts as an attempt, and as open if it is, for
/// the net that had the entry when its word was `found`.
fn judge(
    entry: &StoredNet,
    found: Open,
    limits: NetLimits,
    attempts: impl FnOnce(Rate) -> u32,
    now: u64,
) -> NetArrival {
    let beyond = |exceeded| NetArrival::Beyond(exceeded, tell(entry, now));
    if let Some(rate) = limits.rate
        && attempts(rate) > rate.attempts
    {
        return beyond(Exceeded::Rate);
    }
    let Some(most) = limits.connections else { return NetArrival::Within };
    match entry.raise(found.generation(), most) {
        Raised::Counted => NetArrival::Counted,
        Raised::AtLimit => beyond(Exceeded::Connections),
        Raised::Gone => NetArrival::Unchecked,
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

impl LockedNets<'_> {
    /// The entry of a net and its slot among all. None: there is no slot for it.
    fn enter(&self, key: HashedKey, now: u64) -> Option<(u32, &StoredNet)> {
        let entered = self.shard.enter(key, now).or_else(|Corrupt| {
            self.rebuild();
            self.shard.enter(key, now)
        });
        // A hostile worker may overwrite the table at this moment.
        let slot = entered.ok().flatten()?;
        Some((self.shard.first + slot, self.shard.entries.get(slot as usize)?))
    }

    /// Gives the shard its wanted size and makes it consistent.
    #[cold]
    fn repair(&mut self, taken: LockTaken) {
        // If the worker dies between this and the rebuild, the lock is orphaned, and its next owner
        // rebuilds.
        let (slots, grown) = self.shard.state.lock.0.settle();
        self.worker_table.net_slots.set(slots);
        self.shard = self.worker_table.view.net_shard(self.number, slots);
        match (taken, grown) {
            (LockTaken::Whole, None) => {}
            (LockTaken::Whole, Some(buckets)) => {
                self.shard.rebuild_grown(buckets);
            }
            (LockTaken::Orphaned, _) => return self.rebuild(),
        }
        if self.worker_table.view.net_shards[self.number as usize].recount.0.is_due() {
            self.recount();
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
        self.shard.state.lock.0.lock.give_back(self.worker_table.row);
    }
}
