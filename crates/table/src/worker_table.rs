//! The operations of a worker on the table.

use std::cell::{Cell, RefCell};
use std::fmt;

use crate::clients::entry::NO_SERVER;
use crate::clients::{Arrival, ClientRef, Occupant};
use crate::hash::HashedKey;
use crate::lock::{LockId, LockStuck, LockTaken, StuckLocks};
use crate::numbers::{self, Numbers};
use crate::servers::blacklist::{Blacklist, Failure};
use crate::servers::standing::ServerView;
use crate::servers::statistics::{FailureClass, Timed};
use crate::sync::Ordering::*;
use crate::view::{ClientShard, View};

/// The view of the table for one worker, which is the only writer of its row. One process has at
/// most one `WorkerTable` of a row.
pub struct WorkerTable<'t> {
    pub(crate) view: View<'t>,
    pub(crate) row: u32,
    /// Whether the row's bit in `waiting` is set.
    waits: Cell<bool>,
    pub(crate) stuck: RefCell<StuckLocks>,
    rebuilt: Cell<Option<u32>>,
    /// Slots of every shard of nets, as far as this worker knows.
    pub(crate) net_slots: Cell<u32>,
    /// Slots of every shard, as far as this worker knows. The value is checked under each lock; the
    /// copy here avoids a wait for the shared one.
    slots: Cell<u32>,
}

/// One client's shard, locked. Dropping it unlocks the shard.
pub struct Locked<'s> {
    worker_table: &'s WorkerTable<'s>,
    shard: ClientShard<'s>,
    key: HashedKey,
}

impl<'t> WorkerTable<'t> {
    pub(crate) fn new(view: View<'t>, row: u32) -> WorkerTable<'t> {
        let slots = Cell::new(view.layout.share(view.layout.shape.clients));
        WorkerTable {
            view,
            row,
            waits: Cell::new(false),
            stuck: RefCell::default(),
            rebuilt: Cell::new(None),
            net_slots: Cell::new(0),
            slots,
        }
    }

    /// Connections in use, of all workers.
    pub fn connections_open(&self) -> u32 {
        numbers::taken(self.view)
    }

    /// Takes the lowest free connection number below `limit`: the slot under -x. `None`: all are in
    /// use.
    pub fn claim_connection(&self, limit: u32) -> Option<u32> {
        self.numbers().claim(limit).inspect(|number| self.begin_without_net(*number))
    }

    /// Gives a number back. Returns whether a paused worker waits; then the caller takes a client
    /// for it or wakes a waiting worker. A number that this worker does not have is not changed.
    #[must_use]
    pub fn release_connection(&self, number: u32) -> bool {
        self.numbers().release(number) && numbers::anyone_waits(self.view)
    }

    /// Marks this worker as waiting for a free connection. The caller must try to claim once more
    /// before it really waits.
    pub fn await_connection(&self) {
        self.waits.set(true);
        self.numbers().wait();
    }

    /// Marks this worker as not waiting: it looks for clients by itself again. A successful claim
    /// does not do this, because the connection can be for another purpose.
    pub fn stop_waiting(&self) {
        if self.waits.replace(false) {
            self.numbers().stop_waiting();
        }
    }

    /// Writes again all that the table holds in this worker's row: the number of each of its
    /// connections and, if the connection is counted at a server, that server's count. The caller
    /// must call [`WorkerTable::set_pending`] again. For the case that a sibling may have
    /// overwritten the table, because only this worker knows its own state. `limit`: as for
    /// [`WorkerTable::claim_connection`]. The worker must not hold a lock. Returns whether a paused
    /// worker waits, because this may free slots.
    #[must_use]
    pub fn republish(&self, limit: u32, open: impl Iterator<Item = (u32, Option<u32>)>) -> bool {
        let row = self.view.row(self.row);
        self.view.raise_rows_used(self.row);
        let mut numbers = vec![0; self.view.owners.len()];
        let mut counts = vec![0u32; row.len()];
        for (number, server) in open {
            self.numbers().note(&mut numbers, number);
            if let Some(count) = server.and_then(|server| counts.get_mut(server as usize)) {
                *count += 1;
            }
        }
        for (figures, count) in row.iter().zip(counts) {
            figures.republish(count);
            figures.set_pending(false);
        }
        self.numbers().republish(&numbers, limit, self.waits.get());
        // A recount before this may have left out numbers that had no owner, or a wrong one.
        self.view.want_recounts();
        // This worker holds no lock now, so a lock in its name would never be released.
        let rows = self.view.layout.shape.rows;
        self.view.reclaim_locks(|row| row == self.row || row >= rows);
        numbers::anyone_waits(self.view)
    }

    /// Locks the shard of a client until the result is dropped. It waits at most 0.1 s, and not at
    /// all while the lock is known to be stuck.
    ///
    /// # Errors
    /// The lock's holder does not release it (it is stopped, or was killed and not yet reclaimed).
    /// Also if this worker itself holds the lock.
    pub fn lock(&self, key: [u8; 16]) -> Result<Locked<'_>, LockStuck> {
        let key = self.view.hash_key.of(key);
        let number = self.view.shard_of(key.hash);
        let slots = self.slots.get();
        let shard = self.view.shard(number, slots);
        let state = shard.lock;
        let taken =
            state.lock.take(self.row, LockId::Shard(number), &mut self.stuck.borrow_mut())?;
        let mut locked = Locked { worker_table: self, shard, key };
        if !state.has_size(slots) || taken == LockTaken::Orphaned {
            locked.repair(number, taken);
        }
        Ok(locked)
    }

    /// Records the server of a client, without a lock (failover). Dropped if the entry has a new
    /// owner.
    pub fn record(&self, client: ClientRef, server: i32) {
        if let Some(entry) = self.view.entries.get(client.slot as usize) {
            entry.record(client.generation, server);
        }
    }

    /// Records another server for a client that is recorded at `from`, without a lock. No effect if
    /// another one is recorded by now, or if the entry has a new owner.
    pub fn transfer(&self, client: ClientRef, from: i32, to: i32) {
        if let Some(entry) = self.view.entries.get(client.slot as usize) {
            entry.transfer(client.generation, from, to);
        }
    }

    /// Adds relayed bytes to a client. Dropped if the entry has a new owner.
    pub fn add_client_bytes(&self, client: ClientRef, sent: u64, received: u64) {
        if let Some(entry) = self.view.entries.get(client.slot as usize) {
            entry.add_bytes(client.generation, sent, received);
        }
    }

    /// Takes a connection to a server, if all workers together have fewer than `limit`. The count
    /// is exact for every interleaving: never one too many, and never one too few unless another
    /// worker is stuck here. False for a server that does not exist.
    pub fn reserve(&self, server: u32, limit: Option<u32>) -> bool {
        self.view.reserve(self.row, server, limit, &mut self.stuck.borrow_mut())
    }

    /// Gives a connection to a server back.
    pub fn release(&self, server: u32) {
        if let Some(figures) = self.view.figures(self.row, server) {
            figures.lower();
        }
    }

    /// Connections to a server, of all workers.
    pub fn connections(&self, server: u32) -> u32 {
        match self.view.server(server) {
            Some(_) => self.view.connections(server),
            None => 0,
        }
    }

    /// Sets whether this worker has the maximum of pending connects to a server.
    pub fn set_pending(&self, server: u32, pending: bool) {
        if let Some(figures) = self.view.figures(self.row, server) {
            figures.set_pending(pending);
        }
    }

    /// Whether any worker has the maximum of pending connects to a server.
    pub fn is_pending(&self, server: u32) -> bool {
        self.view.is_pending(server)
    }

    /// Adds relayed bytes to a server: `sent` to it, `received` from it.
    pub fn add_server_bytes(&self, server: u32, sent: u64, received: u64) {
        if let Some(figures) = self.view.figures(self.row, server) {
            figures.add_bytes(sent, received);
        }
    }

    /// Counts a connection of a client that reached a server.
    pub fn count_reached(&self, server: u32) {
        if let Some(statistics) = self.view.statistics(self.row, server) {
            statistics.count_reached();
        }
    }

    /// Counts how long a connect took that succeeded.
    pub fn count_connect(&self, server: u32, time: Timed) {
        if let Some(statistics) = self.view.statistics(self.row, server) {
            statistics.count_connect(time);
        }
    }

    /// Counts a connect that failed.
    pub fn count_failure(&self, server: u32, class: FailureClass) {
        if let Some(statistics) = self.view.statistics(self.row, server) {
            statistics.count_failure(class);
        }
    }

    /// Counts a client that is passed on to another server, because this one was not usable.
    pub fn count_failover(&self, server: u32) {
        if let Some(statistics) = self.view.statistics(self.row, server) {
            statistics.count_failover();
        }
    }

    /// Counts how long a connection lasted that reached a server and has ended.
    pub fn count_length(&self, server: u32, time: Timed) {
        if let Some(statistics) = self.view.statistics(self.row, server) {
            statistics.count_length(time);
        }
    }

    /// Sets the number of this worker's open connections; `None`: it takes no clients now.
    pub fn set_open(&self, open: Option<u32>) {
        if let Some(load) = self.view.loads.get(self.row as usize) {
            load.open.store(open.map_or(0, |open| open.saturating_add(1)), Relaxed);
        }
    }

    /// The fewest connections that any other worker has open; `None`: no other worker takes
    /// clients. It reads a cache line per row, so it must not be called for each connection.
    pub fn fewest_open(&self) -> Option<u32> {
        let used = self.view.loads.iter().take(self.view.rows_used() as usize);
        let others = (0..).zip(used).filter(|(row, _)| *row != self.row);
        others.filter_map(|(_, load)| load.open.load(Relaxed).checked_sub(1)).min()
    }

    /// Which of a server's addresses is in use. The value may be out of range.
    pub fn address(&self, server: u32) -> u32 {
        self.view.server(server).map_or(0, |state| state.address.load(Relaxed))
    }

    /// Makes all workers use another address of a server. False: another worker was faster, or
    /// there is no such server. The caller that gets true reports the change.
    pub fn move_address(&self, server: u32, from: u32, to: u32) -> bool {
        let state = self.view.server(server);
        state
            .is_some_and(|state| state.address.compare_exchange(from, to, Relaxed, Relaxed).is_ok())
    }

    /// The round-robin cursor: the server that the last round-robin selection returned. The value
    /// may be out of range.
    pub fn cursor(&self) -> u32 {
        self.view.globals.cursor.0.load(Acquire)
    }

    /// Moves the cursor if no other worker moved it meanwhile; false: the caller must read it
    /// again.
    pub fn advance_cursor(&self, from: u32, to: u32) -> bool {
        self.view.globals.cursor.0.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    /// Notes the code of the server that a connection gets.
    pub fn set_current(&self, server: i32) {
        let current = &self.view.globals.current.0;
        // With few servers the value mostly stays the same. Then no other processor loses the cache
        // line.
        if current.load(Relaxed) != server as u32 {
            current.store(server as u32, Relaxed);
        }
    }

    /// The blacklist state of a server. A server that does not exist is in use.
    pub fn blacklist(&self, server: u32, now: u64) -> Blacklist {
        self.view.server(server).map_or(Blacklist::Clear, |state| state.blacklist(now))
    }

    /// What a choice asks of a server. A server that does not exist is free.
    pub fn server_view(&self, server: u32, now: u64) -> ServerView {
        self.view.server(server).map_or(ServerView::FREE, |state| state.view(now))
    }

    /// Blacklists a server until a time in monotonic milliseconds; `failed_at` is Unix time in
    /// seconds. Returns whether the server was in use before, so that the change is reported once.
    /// A server that fails its probe was not in use. An `until` of 0 clears the blacklist.
    pub fn set_blacklist(&self, server: u32, until: u64, failed_at: u64) -> bool {
        self.view.server(server).is_some_and(|state| state.set_blacklist(until, failed_at))
    }

    /// Whether an operator blacklisted a server. Meaningless while it is not blacklisted.
    pub fn is_taken_out(&self, server: u32) -> bool {
        self.view.server(server).is_some_and(|state| state.is_taken_out())
    }

    /// Notes that a connect to a server failed: Unix time in seconds, and a code for the reason.
    pub fn note_failure(&self, server: u32, at: u64, cause: u16) {
        if let Some(state) = self.view.server(server) {
            state.note_failure(at, cause);
        }
    }

    /// The last failed connect to a server.
    pub fn last_failure(&self, server: u32) -> Option<Failure> {
        self.view.server(server)?.last_failure()
    }

    /// Makes this worker's attempt the only probe of a server whose blacklist time is over. Others
    /// see [`Blacklist::Probed`] until `until`, and then [`Blacklist::Expired`] again if there is
    /// no result. False: another worker was faster.
    pub fn begin_probe(&self, server: u32, now: u64, until: u64) -> bool {
        self.view.server(server).is_some_and(|state| state.begin_probe(now, until))
    }

    /// Ends the probe of a server without a result: another probe may begin. No effect for a server
    /// that is not being probed.
    pub fn abandon_probe(&self, server: u32, now: u64) {
        if let Some(state) = self.view.server(server) {
            state.abandon_probe(now);
        }
    }

    /// Marks a server as in use again after a connect, at a time in monotonic milliseconds. Returns
    /// whether it was blacklisted before, so that the change is reported once.
    pub fn return_to_service(&self, server: u32, now: u64) -> bool {
        self.view.server(server).is_some_and(|state| state.return_to_service(now))
    }

    /// When a server came back into service; 0 = it was never out. Any worker can write it.
    pub fn returned(&self, server: u32) -> u64 {
        self.view.server(server).map_or(0, |state| state.returned.load(Relaxed))
    }

    /// The number of clients kept in a shard, if taking or using a lock found half-changed data of
    /// a dead worker and rebuilt it. Returned once per rebuild.
    pub fn take_rebuilt(&self) -> Option<u32> {
        self.rebuilt.take()
    }

    fn numbers(&self) -> Numbers<'t> {
        Numbers { view: self.view, row: self.row }
    }
}

impl Locked<'_> {
    /// Finds a client's entry or makes one (instead of the least recently used one if the table is
    /// full). Sets its last use to now, and counts the connect. An entry that was last used more
    /// than `tracking` milliseconds ago is forgotten first (0 = never).
    pub fn arrive(&mut self, now: u64, tracking: u64) -> Arrival {
        self.shard.arrive(self.key, now, tracking).unwrap_or_else(|_| {
            self.rebuild();
            // If a hostile worker overwrites the table at this moment, the client is served without
            // being remembered.
            self.shard.arrive(self.key, now, tracking).unwrap_or(Arrival {
                client: ClientRef::NOBODY,
                recorded: NO_SERVER,
                former: Occupant::Nobody,
            })
        })
    }

    /// The recorded server's code that [`Locked::arrive`] would find now; changes nothing.
    pub fn recorded(&self, now: u64, tracking: u64) -> i32 {
        self.shard.recorded(self.key, now, tracking).unwrap_or(NO_SERVER)
    }

    /// Records the server that the client gets.
    pub fn record(&mut self, client: ClientRef, server: i32) {
        self.worker_table.record(client, server);
    }

    /// Gives the shard its wanted size and makes it consistent.
    #[cold]
    fn repair(&mut self, number: u32, taken: LockTaken) {
        // If the worker dies between this and the rebuild, the lock is orphaned, and its next owner
        // rebuilds.
        let (slots, grown) = self.shard.lock.settle();
        self.worker_table.slots.set(slots);
        self.shard = self.worker_table.view.shard(number, slots);
        match (taken, grown) {
            (LockTaken::Whole, None) => {}
            (LockTaken::Whole, Some(buckets)) => {
                self.shard.rebuild_grown(buckets);
            }
            (LockTaken::Orphaned, _) => self.rebuild(),
        }
    }

    fn rebuild(&self) {
        self.worker_table.rebuilt.set(Some(self.shard.rebuild()));
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.shard.lock.lock.give_back(self.worker_table.row);
    }
}

impl fmt::Debug for WorkerTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerTable").field("row", &self.row).finish_non_exhaustive()
    }
}

impl fmt::Debug for Locked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locked").field("row", &self.worker_table.row).finish_non_exhaustive()
    }
}
