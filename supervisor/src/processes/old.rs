//! Workers of earlier programs: they take no clients and serve the connections that they have.
//!
//! They may be of another release. So the supervisor sends them lasting messages only, and skips
//! what it does not understand. Each keeps its row of its table, so that limits count its
//! connections. That is the table in use, or one of `old_tables`. When one dies, nobody replaces
//! it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};
use pen_config::checks::Admission;
use pen_config::ids::WorkerId;
use pen_ipc::channel::Sent;
use pen_ipc::message::{
    ClientLimits, LastingToWorker, Rebalance, ToOldWorker, WITH_CLIENT_LIMITS, WITH_CONNECTION_LOG,
    WITH_REBALANCE, WITH_SERVER_ORDERS,
};
use pen_ipc::stats::Counters;
use pen_table::Table;

use crate::processes::closes::ServerClose;
use crate::processes::ending::{Ending, MOST_LAST_MESSAGES};
use crate::processes::old_tables::{TableNumber, TableRow};
use crate::processes::old_worker::{AdoptedOldWorker, Due, OldWorker};
use crate::processes::peer::Peer;
use crate::processes::spawn::SpawnContext;
use crate::processes::worker::WorkerReport;

/// The workers of earlier programs, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct OldWorkers(Vec<OldWorker>);

/// The death of an old worker.
#[derive(Debug)]
pub(crate) struct OldDeath {
    pub(crate) row: TableRow,
    /// Its last messages.
    pub(crate) reports: Vec<WorkerReport>,
    pub(crate) id: WorkerId,
    pub(crate) counters: Counters,
    /// The processor time that it used.
    pub(crate) used: Duration,
    /// A line for the log, unless it ended as it should.
    pub(crate) line: Option<String>,
    /// The version of its program, if it was the last worker of that generation.
    pub(crate) last_of: Option<String>,
}

/// An old worker, for reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OldWorkerSummary {
    /// The version of its program.
    pub(crate) version: String,
    /// How long it has taken no clients.
    pub(crate) age: Duration,
    /// Its open connections. In the table of another layout: as it last reported.
    pub(crate) connections: u64,
}

impl fmt::Display for OldWorkerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OldWorkerSummary { version, age, connections } = self;
        let age = age.as_secs();
        let plural = if *connections == 1 { "" } else { "s" };
        write!(
            f,
            "old worker of pen {version}: {connections} connection{plural}, drains for {age} s"
        )
    }
}

impl OldWorkers {
    /// The workers that were found at an upgrade, the oldest first. Those that still take clients
    /// are ordered to drain by [`OldWorkers::drain`].
    pub(crate) fn adopted(
        workers: impl IntoIterator<Item = AdoptedOldWorker>,
        user: Uid,
        now: Instant,
    ) -> OldWorkers {
        let adopt = |AdoptedOldWorker { origin, process, counters }| {
            let peer = Peer::adopted(process, user, now);
            OldWorker { origin, peer, counters, due: Due::default() }
        };
        OldWorkers(workers.into_iter().map(adopt).collect())
    }

    /// Queues the order to take no more clients for all of them.
    pub(crate) fn drain(&mut self) {
        self.0.iter_mut().for_each(|worker| worker.due.drain = true);
    }

    /// All that are not known to be dead.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &OldWorker> {
        self.0.iter()
    }

    /// Whether none is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a table of so many rows has room for another generation of so many workers.
    pub(crate) fn has_room_for(&self, workers: usize, rows: u32) -> bool {
        rows_of(self.0.iter()) + 2 * workers <= rows as usize
    }

    /// If there is no room for another generation of so many workers, orders the oldest generation
    /// to end. Returns its version. Workers that end by themselves soon make room too, so this does
    /// nothing while some have just begun to drain.
    pub(crate) fn make_room(
        &mut self,
        workers: usize,
        table: &Table,
        now: Instant,
    ) -> Option<String> {
        let rows = table.shape().rows;
        let drains_for = |worker: &OldWorker| now.saturating_duration_since(worker.origin.since);
        if self.has_room_for(workers, rows)
            || self.0.iter().any(|worker| drains_for(worker) < SETTLING)
        {
            return None;
        }
        let lasts = |worker: &OldWorker| {
            let is_used = worker.connections(table) > 0 || worker.origin.row.table.is_some();
            worker.is_staying() && (is_used || drains_for(worker) >= LONG_IDLE)
        };
        let mut first_version = None;
        while rows_of(self.0.iter().filter(|worker| lasts(worker))) + 2 * workers > rows as usize {
            let lasting = self.0.iter().filter(|worker| lasts(worker));
            let oldest = lasting.map(|worker| worker.origin.generation).min()?;
            for worker in self.0.iter_mut().filter(|worker| worker.origin.generation == oldest) {
                worker.due.order_end();
                first_version.get_or_insert_with(|| worker.origin.version.clone());
            }
        }
        first_version
    }

    /// Reads messages of the worker with this pid. Returns its number too.
    pub(crate) fn read(
        &mut self,
        pid: Pid,
        most: usize,
        now: Instant,
    ) -> Option<(WorkerId, Vec<WorkerReport>)> {
        let worker = self.0.iter_mut().find(|worker| worker.peer.pid() == pid)?;
        Some((worker.origin.id, worker.read(most, now)))
    }

    /// Takes a dead worker out, if the process was one of these.
    pub(crate) fn take_dead(
        &mut self,
        pid: Pid,
        ending: Option<Ending>,
        now: Instant,
    ) -> Option<OldDeath> {
        let index = self.0.iter().position(|worker| worker.peer.pid() == pid)?;
        let mut worker = self.0.remove(index);
        let reports = worker.read(MOST_LAST_MESSAGES, now);
        let is_last =
            self.0.iter().all(|other| other.origin.generation != worker.origin.generation);
        let line = worker.death_line(ending);
        Some(OldDeath {
            row: worker.origin.row,
            reports,
            id: worker.origin.id,
            counters: worker.counters,
            used: worker.peer.used(),
            line,
            last_of: is_last.then_some(worker.origin.version),
        })
    }

    /// All of them, the oldest first.
    pub(crate) fn summaries(&self, table: &Table, now: Instant) -> Vec<OldWorkerSummary> {
        let summary = |worker: &OldWorker| OldWorkerSummary {
            version: worker.origin.version.clone(),
            age: now.saturating_duration_since(worker.origin.since),
            connections: worker.connections(table),
        };
        self.0.iter().map(summary).collect()
    }

    /// When the next workers reach the drain timeout; 0 seconds: never.
    pub(crate) fn timeout(&self, seconds: u32) -> Option<Instant> {
        let waiting = self.0.iter().filter(|worker| worker.is_staying());
        let oldest = waiting.map(|worker| worker.origin.since).min().filter(|_| seconds > 0)?;
        oldest.checked_add(Duration::from_secs(seconds.into()))
    }

    /// Orders the workers to end that have reached the drain timeout. Returns how many connections
    /// they still have, if there are such workers.
    pub(crate) fn end_overdue(&mut self, seconds: u32, table: &Table, now: Instant) -> Option<u64> {
        let patience = Duration::from_secs(seconds.into());
        let overdue = self.0.iter_mut().filter(|worker| {
            seconds > 0
                && worker.is_staying()
                && now.saturating_duration_since(worker.origin.since) >= patience
        });
        let connections: Vec<u64> = overdue
            .map(|worker| {
                worker.due.order_end();
                worker.connections(table)
            })
            .collect();
        (!connections.is_empty()).then(|| connections.into_iter().fold(0, u64::saturating_add))
    }

    /// Queues the order to close a connection for the worker with this row. Returns whether there
    /// is such a worker.
    pub(crate) fn order_close(&mut self, row: TableRow, number: u32, before: u64) -> bool {
        let owner = self.0.iter_mut().find(|worker| worker.origin.row == row);
        owner.map(|worker| worker.due.close.number(number, before)).is_some()
    }

    /// Queues the order to close the connections of a server for all that know of such a thing.
    pub(crate) fn order_close_server(&mut self, order: ServerClose) {
        let knows = |worker: &&mut OldWorker| worker.origin.lasting >= WITH_SERVER_ORDERS;
        self.0.iter_mut().filter(knows).for_each(|worker| worker.due.close.server(order));
    }

    /// Those that can end silent connections when they are ordered to.
    pub(crate) fn rebalancing(&self) -> impl Iterator<Item = &OldWorker> {
        self.0.iter().filter(|worker| worker.origin.lasting >= WITH_REBALANCE)
    }

    /// Orders the worker with this pid to end silent connections. Returns false if that is
    /// impossible now.
    pub(crate) fn order_rebalance(&self, pid: Pid, order: Rebalance) -> bool {
        let order = ToOldWorker::Lasting(LastingToWorker::Rebalance(order));
        let worker = self.rebalancing().find(|worker| worker.peer.pid() == pid);
        worker.is_some_and(|worker| worker.peer.send(&order, None) == Some(Sent::Queued))
    }

    /// Queues for all that know of pauses whether one is on.
    pub(crate) fn order_admit(&mut self, admission: Admission) {
        let knows = |worker: &&mut OldWorker| worker.origin.lasting >= WITH_SERVER_ORDERS;
        let workers = self.0.iter_mut().filter(knows);
        workers.for_each(|worker| worker.due.admit = Some(admission));
    }

    /// Queues the limits per client for all that know of such a message.
    pub(crate) fn order_limits(&mut self, limits: ClientLimits) {
        let knows = |worker: &&mut OldWorker| worker.origin.lasting >= WITH_CLIENT_LIMITS;
        let workers = self.0.iter_mut().filter(knows);
        workers.for_each(|worker| worker.due.limits = Some(limits));
    }

    /// Queues the request log for all of them.
    pub(crate) fn renew_log(&mut self) {
        self.0.iter_mut().for_each(|worker| worker.due.log = true);
    }

    /// Queues the connection log for all that know of such a thing.
    pub(crate) fn renew_connection_log(&mut self) {
        let knows = |worker: &&mut OldWorker| worker.origin.lasting >= WITH_CONNECTION_LOG;
        let workers = self.0.iter_mut().filter(knows);
        workers.for_each(|worker| worker.due.connection_log = true);
    }

    /// Whether the worker of a row lives.
    pub(crate) fn has(&self, row: TableRow) -> bool {
        self.0.iter().any(|worker| worker.origin.row == row)
    }

    /// Queues the message that connection slots are free, for those that use the table in use.
    pub(crate) fn notify_freed(&mut self) {
        self.of_table(None).for_each(|worker| worker.due.freed = true);
    }

    /// Queues the order to republish their rows of this table, for those that use it.
    pub(crate) fn order_republish(&mut self, table: Option<TableNumber>) {
        self.of_table(table).for_each(|worker| worker.due.republish = true);
    }

    fn of_table(&mut self, table: Option<TableNumber>) -> impl Iterator<Item = &mut OldWorker> {
        self.0.iter_mut().filter(move |worker| worker.origin.row.table == table)
    }

    /// Queues the order to end.
    pub(crate) fn order_stop(&mut self) {
        self.0.iter_mut().for_each(|worker| worker.due.order_end());
    }

    /// Sends queued messages, as far as the channels have room.
    pub(crate) fn send_due(&mut self, context: &SpawnContext) {
        self.0.iter_mut().for_each(|worker| worker.send_due(context));
    }

    /// Asks all of them for a sign of life.
    pub(crate) fn beat(&mut self) {
        for worker in &mut self.0 {
            worker.peer.beat(|serial| ToOldWorker::Lasting(LastingToWorker::Ping { serial }));
        }
    }

    /// Kills those that have closed their channel and do not end.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|worker| worker.peer.kill_overdue(now));
    }

    /// Kills all of them.
    pub(crate) fn kill(&mut self) {
        self.0.iter_mut().for_each(|worker| worker.peer.kill());
    }

    /// Whether all of them have answered the last ping. Each has carried out the orders before it
    /// then.
    pub(crate) fn have_answered(&self) -> bool {
        let is_due = |worker: &OldWorker| worker.peer.is_ready() && worker.due.drain;
        self.0.iter().all(|worker| !is_due(worker) && worker.peer.has_answered())
    }

    /// Their counters, summed.
    pub(crate) fn add_to(&self, totals: &mut Counters) {
        self.0.iter().for_each(|worker| totals.add(&worker.counters));
    }

    /// The processor time that those with this number have used.
    pub(crate) fn used(&self, id: WorkerId) -> Duration {
        let these = self.0.iter().filter(|worker| worker.origin.id == id);
        these.map(|worker| worker.peer.used()).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// The clients that they hold, as they last reported.
    pub(crate) fn held(&self) -> u64 {
        self.0.iter().fold(0, |sum, worker| sum.saturating_add(worker.counters.held_now()))
    }

    /// The connections that they keep open and silent, as they last reported.
    pub(crate) fn tarpitted(&self) -> u64 {
        self.0.iter().fold(0, |sum, worker| sum.saturating_add(worker.counters.tarpitted_now()))
    }

    /// Their open connections, as they last reported.
    pub(crate) fn open(&self) -> u64 {
        self.0.iter().fold(0, |sum, worker| sum.saturating_add(worker.counters.open()))
    }
}

/// How long a worker may take to stop accepting and to close idle connections of its own.
const SETTLING: Duration = Duration::from_secs(1);

/// How long a worker may take to end without a connection, until it counts like one that has some.
/// That is longer than the watchdog takes for one that hangs.
const LONG_IDLE: Duration = Duration::from_secs(15);

/// How many rows of the table in use these workers need: their own, and one for each other table.
fn rows_of<'w>(workers: impl Iterator<Item = &'w OldWorker>) -> usize {
    let (mut own, mut tables) = (0, BTreeSet::new());
    for worker in workers {
        match worker.origin.row.table {
            Some(table) => {
                tables.insert(table);
            }
            None => own += 1,
        }
    }
    own + tables.len()
}
