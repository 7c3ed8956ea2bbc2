//! A worker's seat: everything that a worker does with the table.

use std::cell::{Cell, RefCell};
use std::fmt;

use crate::hash::HashedKey;
use crate::lock::{LockId, StuckLocks, Taken};
use crate::numbers::{self, Numbers};
use crate::sync::Ordering::*;
use crate::view::{Shard, View};
use crate::{Arrival, Blacklist, ClientRef, Failure, LockStuck, NO_SERVER};

/// A worker's seat: the only writer of its rows. One process has at most one seat of a worker's
/// number.
pub struct WorkerTable<'t> {
    view: View<'t>,
    worker: u32,
    /// Whether the worker's bit in `waiting` is set.
    waits: Cell<bool>,
    stuck: RefCell<StuckLocks>,
    rebuilt: Cell<Option<u32>>,
    /// Slots of every shard, as far as this worker knows: found out anew under each lock, but
    /// known before, so that nothing waits for it.
    slots: Cell<u32>,
}

/// The table of one client's shard, locked. Dropping it unlocks.
pub struct Locked<'s> {
    worker_table: &'s WorkerTable<'s>,
    shard: Shard<'s>,
    key: HashedKey,
}

impl<'t> WorkerTable<'t> {
    pub(crate) fn new(view: View<'t>, worker: u32) -> WorkerTable<'t> {
        let slots = Cell::new(view.layout.share(view.layout.shape.clients));
        WorkerTable {
            view,
            worker,
            waits: Cell::new(false),
            stuck: RefCell::default(),
            rebuilt: Cell::new(None),
            slots,
        }
    }

    /// Connections in use, of all workers.
    pub fn connections_open(&self) -> u32 {
        numbers::taken(self.view)
    }

    /// Takes the lowest free connection number below `limit`: the place under -x. None: all in use.
    pub fn claim_connection(&self, limit: u32) -> Option<u32> {
        self.numbers().claim(limit)
    }

    /// Gives a number back. Returns whether a paused worker waits: then take a client for it, or
    /// wake one that waits. A number that this worker does not have is left alone.
    #[must_use]
    pub fn release_connection(&self, number: u32) -> bool {
        self.numbers().release(number) && self.numbers().anyone_waits()
    }

    /// Says that this worker waits for a free connection and has to be woken; try to claim once
    /// more afterwards, before really waiting.
    pub fn await_connection(&self) {
        self.waits.set(true);
        self.numbers().wait();
    }

    /// Says that this worker does not wait any more: it looks for clients by itself again. Getting
    /// a connection says no such thing, for that can be one for another purpose.
    pub fn stop_waiting(&self) {
        if self.waits.replace(false) {
            self.numbers().stop_waiting();
        }
    }

    /// Says anew all that the table holds in this worker's name: the number of each of its
    /// connections and, if it has a place at a server, that one's row; what was said by
    /// [`WorkerTable::set_pending`] is to be said again. For when a sibling may have written
    /// anything over the table: only this worker knows its own. `limit`: as for
    /// [`WorkerTable::claim_connection`]. Not while this seat has a lock. Returns whether a paused
    /// worker waits: places may be free by this.
    #[must_use]
    pub fn republish(&self, limit: u32, open: impl Iterator<Item = (u32, Option<u32>)>) -> bool {
        let rows = self.view.rows(self.worker);
        let mut numbers = vec![0; self.view.owners.len()];
        let mut counts = vec![0u32; rows.len()];
        for (number, server) in open {
            self.numbers().note(&mut numbers, number);
            if let Some(count) = server.and_then(|server| counts.get_mut(server as usize)) {
                *count += 1;
            }
        }
        for (row, count) in rows.iter().zip(counts) {
            row.republish(count);
            row.set_pending(false);
        }
        self.numbers().republish(&numbers, limit, self.waits.get());
        // It has no lock now, so what is locked in its name nobody would ever unlock.
        self.view.bury_locks(self.worker);
        self.numbers().anyone_waits()
    }

    /// Locks the shard of a client for as short as the caller holds it; waits at most a few
    /// milliseconds, and while a lock is known to be stuck, not at all.
    ///
    /// # Errors
    /// The lock's holder does not let go (it is stopped, or was killed and not yet reclaimed). Also
    /// while this seat itself has the lock.
    pub fn lock(&self, key: [u8; 16]) -> Result<Locked<'_>, LockStuck> {
        let key = self.view.hash_key.of(key);
        let number = self.view.shard_of(key.hash);
        let slots = self.slots.get();
        let shard = self.view.shard(number, slots);
        let state = &shard.state.lock.0;
        let taken =
            state.lock.take(self.worker, LockId::Shard(number), &mut self.stuck.borrow_mut())?;
        let mut locked = Locked { worker_table: self, shard, key };
        if !state.has_size(slots) || taken == Taken::Orphaned {
            locked.repair(number, taken);
        }
        Ok(locked)
    }

    /// Records the server that a client is given, without a lock (failover). Dropped if the entry
    /// has a new owner.
    pub fn record(&self, client: ClientRef, server: i32) {
        if let Some(entry) = self.view.entries.get(client.slot as usize) {
            entry.record(client.generation, server);
        }
    }

    /// Adds relayed bytes to a client. Dropped if the entry has a new owner.
    pub fn add_client_bytes(&self, client: ClientRef, sent: u64, received: u64) {
        if let Some(entry) = self.view.entries.get(client.slot as usize) {
            entry.add_bytes(client.generation, sent, received);
        }
    }

    /// Takes a connection to a server, if fewer than `limit` are taken by all workers. Exact,
    /// whatever interleaves: never one too many, and never one too few unless another worker is
    /// stuck just here. False for a server that does not exist.
    pub fn reserve(&self, server: u32, limit: Option<u32>) -> bool {
        self.view.reserve(self.worker, server, limit, &mut self.stuck.borrow_mut())
    }

    /// Gives a connection to a server back.
    pub fn release(&self, server: u32) {
        if let Some(row) = self.view.rows(self.worker).get(server as usize) {
            row.lower();
        }
    }

    /// Connections to a server, of all workers.
    pub fn connections(&self, server: u32) -> u32 {
        match self.view.servers.get(server as usize) {
            Some(_) => self.view.connections(server),
            None => 0,
        }
    }

    /// Says whether as many connects to a server are pending in this worker as there may be.
    pub fn set_pending(&self, server: u32, pending: bool) {
        if let Some(row) = self.view.rows(self.worker).get(server as usize) {
            row.set_pending(pending);
        }
    }

    /// Whether any worker said so of a server.
    pub fn is_pending(&self, server: u32) -> bool {
        self.view.is_pending(server)
    }

    /// Adds relayed bytes to a server: `sent` to it, `received` from it.
    pub fn add_server_bytes(&self, server: u32, sent: u64, received: u64) {
        if let Some(row) = self.view.rows(self.worker).get(server as usize) {
            row.add_bytes(sent, received);
        }
    }

    /// Says how many connections this worker has open; none: it takes no clients now.
    pub fn set_open(&self, open: Option<u32>) {
        if let Some(load) = self.view.loads.get(self.worker as usize) {
            load.open.store(open.map_or(0, |open| open.saturating_add(1)), Relaxed);
        }
    }

    /// The fewest connections that any other worker has open; none: no other takes clients. A line
    /// of memory per worker: not to be asked for each connection.
    pub fn fewest_open(&self) -> Option<u32> {
        let others = (0..).zip(self.view.loads).filter(|(worker, _)| *worker != self.worker);
        others.filter_map(|(_, load)| load.open.load(Relaxed).checked_sub(1)).min()
    }

    /// Which of a server's addresses is in use. Not to be trusted to be in range.
    pub fn address(&self, server: u32) -> u32 {
        self.view.servers.get(server as usize).map_or(0, |state| state.address.load(Relaxed))
    }

    /// Has all workers use another address of a server; false: another worker was faster, or there
    /// is no such server. The change is to be reported by whom this says true to.
    pub fn move_address(&self, server: u32, from: u32, to: u32) -> bool {
        let state = self.view.servers.get(server as usize);
        state
            .is_some_and(|state| state.address.compare_exchange(from, to, Relaxed, Relaxed).is_ok())
    }

    /// The round-robin cursor: the server that the last round-robin selection returned. Not to be
    /// trusted to be in range.
    pub fn cursor(&self) -> u32 {
        self.view.globals.cursor.0.load(Acquire)
    }

    /// Moves the cursor if nobody else moved it meanwhile; false: look again.
    pub fn advance_cursor(&self, from: u32, to: u32) -> bool {
        self.view.globals.cursor.0.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// Notes the code of the server that a connection is given.
    pub fn set_current(&self, server: i32) {
        let current = &self.view.globals.current.0;
        // Mostly it stays the same in a small farm, and then nobody's cache has to give the line
        // up.
        if current.load(Relaxed) != server as u32 {
            current.store(server as u32, Relaxed);
        }
    }

    /// Whether and until when a server is left out. A server that does not exist is in use.
    pub fn blacklist(&self, server: u32, now: u64) -> Blacklist {
        self.view
            .servers
            .get(server as usize)
            .map_or(Blacklist::Clear, |state| state.blacklist(now))
    }

    /// Leaves a server out until a time, monotonic milliseconds; `failed_at` is Unix time in
    /// seconds. Returns whether it was in use before: the transition is to be reported once. A
    /// server that fails its probe was not. An `until` of 0 clears the blacklist.
    pub fn set_blacklist(&self, server: u32, until: u64, failed_at: u64) -> bool {
        self.view
            .servers
            .get(server as usize)
            .is_some_and(|state| state.set_blacklist(until, failed_at))
    }

    /// Whether it is an operator who left a server out. Means nothing while it is not left out.
    pub fn is_taken_out(&self, server: u32) -> bool {
        self.view.servers.get(server as usize).is_some_and(|state| state.is_taken_out())
    }

    /// Notes that a connect to a server failed: Unix time in seconds, and a code for the reason.
    pub fn note_failure(&self, server: u32, at: u64, cause: u16) {
        if let Some(state) = self.view.servers.get(server as usize) {
            state.note_failure(at, cause);
        }
    }

    /// The last connect to a server that failed.
    pub fn last_failure(&self, server: u32) -> Option<Failure> {
        self.view.servers.get(server as usize)?.last_failure()
    }

    /// Makes this worker's attempt the one probe of a server whose time is up; others see
    /// [`Blacklist::Probed`] until `until`, and [`Blacklist::Expired`] again if there is no
    /// outcome by then. False: another was faster.
    pub fn begin_probe(&self, server: u32, now: u64, until: u64) -> bool {
        self.view.servers.get(server as usize).is_some_and(|state| state.begin_probe(now, until))
    }

    /// The probe of a server has no outcome: another may begin. Nothing for a server that is not
    /// being probed.
    pub fn abandon_probe(&self, server: u32, now: u64) {
        if let Some(state) = self.view.servers.get(server as usize) {
            state.abandon_probe(now);
        }
    }

    /// A server was connected to: it is in use again. Returns whether it was blacklisted before:
    /// the transition is to be reported once.
    pub fn clear_blacklist(&self, server: u32) -> bool {
        self.view.servers.get(server as usize).is_some_and(|state| state.clear_blacklist())
    }

    /// Clients kept in the shard concerned, if taking or using a lock found a table that a dead
    /// worker left half-changed and rebuilt it; once per rebuild.
    pub fn take_rebuilt(&self) -> Option<u32> {
        self.rebuilt.take()
    }

    fn numbers(&self) -> Numbers<'t> {
        Numbers { view: self.view, worker: self.worker }
    }
}

impl Locked<'_> {
    /// Finds a client's entry or makes one (in place of the least recently used one if the table is
    /// full), marks it used now, counts the connect. An entry last used more than `tracking`
    /// milliseconds ago is forgotten first (0 = never).
    pub fn arrive(&mut self, now: u64, tracking: u64) -> Arrival {
        self.shard.arrive(self.key, now, tracking).unwrap_or_else(|_| {
            self.rebuild();
            // If the table is being spoiled this very moment, the client is served without being
            // remembered.
            self.shard
                .arrive(self.key, now, tracking)
                .unwrap_or(Arrival { client: ClientRef::NOBODY, recorded: NO_SERVER })
        })
    }

    /// The recorded server's code, as [`Locked::arrive`] would find it now; changes nothing.
    pub fn recorded(&self, now: u64, tracking: u64) -> i32 {
        self.shard.recorded(self.key, now, tracking).unwrap_or(NO_SERVER)
    }

    /// Records the server that the client is given.
    pub fn record(&mut self, client: ClientRef, server: i32) {
        self.worker_table.record(client, server);
    }

    /// Makes the shard as large as it should be, and whole.
    #[cold]
    fn repair(&mut self, number: u32, taken: Taken) {
        // Whoever dies between this and the rebuild leaves an orphaned lock, and the next one
        // rebuilds.
        let (slots, grown) = self.shard.state.lock.0.settle();
        self.worker_table.slots.set(slots);
        self.shard = self.worker_table.view.shard(number, slots);
        match (taken, grown) {
            (Taken::Whole, None) => {}
            (Taken::Whole, Some(buckets)) => {
                self.shard.rebuild_grown(buckets);
            }
            (Taken::Orphaned, _) => self.rebuild(),
        }
    }

    fn rebuild(&self) {
        self.worker_table.rebuilt.set(Some(self.shard.rebuild()));
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.shard.state.lock.0.lock.give_back(self.worker_table.worker);
    }
}

impl fmt::Debug for WorkerTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl fmt::Debug for Locked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").field("worker", &self.worker_table.worker).finish_non_exhaustive()
    }
}
