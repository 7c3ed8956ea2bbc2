//! The worker pool: one slot per worker number, with its worker and the time for filling it again.

#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};
use pen_config::ids::WorkerId;
use pen_ipc::start::Begins;
use pen_ipc::stats::Counters;
use pen_status::WorkerStatus;
use pen_table::Table;
use serde::{Deserialize, Serialize};

use crate::flood::{Admission, Flood};
use crate::processes::backoff::Backoff;
use crate::processes::ending::{Ending, MOST_LAST_MESSAGES};
use crate::processes::liveness::Grace;
use crate::processes::old::OldWorkers;
use crate::processes::spawn::{Birth, SpawnContext};
use crate::processes::worker::{AdoptedWorker, Worker, WorkerReport};

/// The worker pool.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    slots: Vec<WorkerSlot>,
    /// The counters of dead workers, summed.
    retired: Counters,
}

#[derive(Debug)]
struct WorkerSlot {
    /// The row of the shared table that its workers have, one after the other.
    row: u32,
    worker: Option<Worker>,
    backoff: Backoff,
    /// The time that the next worker gets to become ready.
    grace: Grace,
    /// A limit for the log lines of this slot. It survives a worker, so that dying gives no new
    /// allowance.
    events: Flood,
    /// When to fill the slot, if it is empty and has to be filled.
    due: Option<Instant>,
    ended: EndedWorkers,
}

/// What is known of the workers of a slot that have ended, over upgrades.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndedWorkers {
    /// The processor time that they used, in nanoseconds.
    #[serde(default)]
    used: u64,
    /// How many of them were replaced, because they had died.
    #[serde(default)]
    replaced: u64,
}

/// A slot that an earlier program left.
#[derive(Debug)]
pub(crate) struct AdoptedSlot {
    /// The row of the table that its workers have.
    pub(crate) row: u32,
    pub(crate) worker: Option<AdoptedWorker>,
    /// The workers before it.
    pub(crate) ended: EndedWorkers,
}

/// A worker that was reaped.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) id: WorkerId,
    /// Its row of the shared table.
    pub(crate) row: u32,
    pub(crate) pid: Pid,
    pub(crate) lived: Duration,
    /// Whether it had served clients.
    pub(crate) was_ready: bool,
    /// Its last messages.
    pub(crate) reports: Vec<WorkerReport>,
    ending: Ending,
    failed: Option<String>,
}

impl WorkerPool {
    /// A pool of empty slots.
    pub(crate) fn new(slots: u8) -> WorkerPool {
        let now = Instant::now();
        let slot = |number| WorkerSlot {
            row: u32::from(number),
            worker: None,
            backoff: Backoff::default(),
            grace: Grace::default(),
            events: Flood::new(MOST_EVENTS, Duration::from_secs(10), now),
            due: None,
            ended: EndedWorkers::default(),
        };
        WorkerPool { slots: (0..slots).map(slot).collect(), retired: Counters::default() }
    }

    /// A pool with the workers that an earlier run of this program forked. An empty slot is filled
    /// at once.
    pub(crate) fn adopted(
        workers: Vec<AdoptedSlot>,
        retired: Counters,
        user: Uid,
        now: Instant,
    ) -> WorkerPool {
        // At most MAX_WORKERS.
        let mut pool = WorkerPool::new(workers.len() as u8);
        for ((id, slot), AdoptedSlot { row, worker, ended }) in
            pool.ids().zip(&mut pool.slots).zip(workers)
        {
            (slot.row, slot.ended) = (row, ended);
            slot.worker = worker.map(|worker| Worker::adopted(id, row, worker, user, now));
            slot.due = slot.worker.is_none().then_some(now);
        }
        pool.retired = retired;
        pool
    }

    /// The slots, in the order of their numbers: the row of the table, and the worker.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, Option<&Worker>)> {
        self.slots.iter().map(|slot| (slot.row, slot.worker.as_ref()))
    }

    /// The number of slots.
    pub(crate) fn size(&self) -> usize {
        self.slots.len()
    }

    /// The counters of dead workers, summed.
    pub(crate) fn retired(&self) -> &Counters {
        &self.retired
    }

    /// Adds the counters of workers that have ended.
    pub(crate) fn retire(&mut self, counters: &Counters) {
        self.retired.add(counters);
    }

    /// What is known of the workers of each slot that have ended, in the order of the slots.
    pub(crate) fn ended(&self) -> impl Iterator<Item = EndedWorkers> {
        self.slots.iter().map(|slot| slot.ended)
    }

    /// Notes what is known of the workers before those of this pool, in the order of the slots.
    pub(crate) fn follow(&mut self, ended: impl IntoIterator<Item = EndedWorkers>) {
        for (slot, ended) in self.slots.iter_mut().zip(ended) {
            slot.ended = ended;
        }
    }

    /// Notes the processor time of a worker of an earlier program that had this number.
    pub(crate) fn retire_used(&mut self, id: WorkerId, used: Duration) {
        if let Some(slot) = self.slots.get_mut(usize::from(id.0)) {
            slot.ended.add(used);
        }
    }

    /// Gives each slot a row of the table, in this order. Workers that are forked later use them.
    pub(crate) fn set_rows(&mut self, rows: impl IntoIterator<Item = u32>) {
        for (slot, row) in self.slots.iter_mut().zip(rows) {
            slot.row = row;
        }
    }

    /// The number of the worker that has this row of the table.
    pub(crate) fn of_row(&self, row: u32) -> Option<WorkerId> {
        let mut slots = self.ids().zip(&self.slots);
        slots.find(|(_, slot)| slot.row == row).map(|(id, _)| id)
    }

    /// Forks a worker into a slot.
    ///
    /// # Errors
    /// No process can be forked now.
    pub(crate) fn spawn(
        &mut self,
        id: WorkerId,
        begins: Begins,
        context: &SpawnContext,
        now: Instant,
    ) -> io::Result<Pid> {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let birth = Birth { id, row: slot.row, begins, grace: slot.grace };
        let worker = Worker::spawn(birth, context, now)?;
        let pid = worker.peer.pid();
        slot.worker = Some(worker);
        if slot.due.take().is_some() {
            slot.ended.replaced = slot.ended.replaced.saturating_add(1);
        }
        Ok(pid)
    }

    /// Takes a dead worker from its slot, if the process was a worker.
    pub(crate) fn take_dead(&mut self, pid: Pid, ending: Ending, now: Instant) -> Option<Death> {
        let is_it = |worker: &mut Worker| worker.peer.pid() == pid;
        let (mut worker, grace, ended) = self.slots.iter_mut().find_map(|slot| {
            Some((slot.worker.take_if(is_it)?, &mut slot.grace, &mut slot.ended))
        })?;
        ended.add(worker.peer.used());
        let reports = worker.read(MOST_LAST_MESSAGES, now);
        let was_ready = worker.peer.was_ready;
        *grace = grace.after(was_ready);
        self.retired.add(&worker.counters);
        Some(Death {
            id: worker.id,
            row: worker.row,
            pid,
            lived: now.saturating_duration_since(worker.peer.born),
            was_ready,
            reports,
            ending,
            failed: worker.peer.failed,
        })
    }

    /// Whether to log one more event of a worker, dead or alive, that has so many servers. A
    /// working worker reports two events per server in the shortest blacklist time, which is one
    /// second.
    pub(crate) fn admit_event(&mut self, id: WorkerId, servers: u32, now: Instant) -> Admission {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else { return Admission::Withheld };
        slot.events.set_most(MOST_EVENTS.saturating_add(servers.saturating_mul(20)));
        slot.events.admit(now)
    }

    /// The number of withheld events by worker, as far as it is still to be logged.
    pub(crate) fn withheld_events(&mut self, now: Instant) -> Vec<(WorkerId, u64)> {
        let withheld =
            self.slots.iter_mut().map(|slot| slot.events.take_withheld(now)).collect::<Vec<u64>>();
        self.ids().zip(withheld).filter(|(_, withheld)| *withheld > 0).collect()
    }

    /// Decides when to fill the slot of a worker that lived for this time; returns the delay.
    pub(crate) fn schedule(&mut self, id: WorkerId, lived: Duration, now: Instant) -> Duration {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else { return Duration::ZERO };
        let delay = slot.backoff.after(lived);
        slot.due = Some(now + delay);
        delay
    }

    /// The slots to fill now.
    pub(crate) fn due(&self, now: Instant) -> Vec<WorkerId> {
        self.ids()
            .filter(|id| self.slots[usize::from(id.0)].due.is_some_and(|due| due <= now))
            .collect()
    }

    /// When to fill the next slot.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| slot.due).min()
    }

    /// The numbers of all slots.
    pub(crate) fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        // At most MAX_WORKERS.
        (0..self.slots.len() as u8).map(WorkerId)
    }

    /// The workers that are not known to be dead.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.slots.iter().filter_map(|slot| slot.worker.as_ref())
    }

    /// The workers that are not known to be dead.
    pub(crate) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.slots.iter_mut().filter_map(|slot| slot.worker.as_mut())
    }

    /// The worker in a slot.
    pub(crate) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.slots.get_mut(usize::from(id.0))?.worker.as_mut()
    }

    /// Whether every slot has a worker that serves clients.
    pub(crate) fn is_complete(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| slot.worker.as_ref().is_some_and(|worker| worker.peer.is_ready()))
    }

    /// Whether no worker is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.worker.is_none())
    }

    /// Each worker, in the order of their numbers.
    pub(crate) fn statuses(&self, old: &OldWorkers, table: &Table) -> Vec<WorkerStatus> {
        let slots = self.ids().zip(&self.slots);
        slots.map(|(id, slot)| slot.status(id, old, table)).collect()
    }

    /// The open connections of living workers, as they report them.
    pub(crate) fn open(&self) -> u64 {
        self.workers().fold(0, |sum, worker| sum.saturating_add(worker.counters.open()))
    }

    /// The clients that living workers hold, as they report them.
    pub(crate) fn held(&self) -> u64 {
        self.workers().fold(0, |sum, worker| sum.saturating_add(worker.counters.held_now()))
    }

    /// The connections that living workers keep open and silent, as they report them.
    pub(crate) fn tarpitted(&self) -> u64 {
        self.workers().fold(0, |sum, worker| sum.saturating_add(worker.counters.tarpitted_now()))
    }

    /// The counters of all workers, dead and alive, summed.
    pub(crate) fn totals(&self) -> Counters {
        let mut totals = self.retired;
        self.workers().for_each(|worker| totals.add(&worker.counters));
        totals
    }
}

impl EndedWorkers {
    fn add(&mut self, used: Duration) {
        let used = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        self.used = self.used.saturating_add(used);
    }
}

impl WorkerSlot {
    fn status(&self, id: WorkerId, old: &OldWorkers, table: &Table) -> WorkerStatus {
        let peer = self.worker.as_ref().map(|worker| &worker.peer);
        let used = Duration::from_nanos(self.ended.used)
            .saturating_add(old.used(id))
            .saturating_add(peer.map_or(Duration::ZERO, |peer| peer.used()));
        WorkerStatus {
            number: id.0.into(),
            pid: peer.map(|peer| peer.pid().as_raw().unsigned_abs()),
            connections: table.connections_of(self.row).into(),
            busy_ms: u64::try_from(used.as_millis()).unwrap_or(u64::MAX),
            memory: peer.and_then(|peer| peer.memory()),
            restarts: self.ended.replaced,
        }
    }
}

impl Death {
    /// `worker 1 (pid 123) was killed by signal 9`
    pub(crate) fn line(&self) -> String {
        format!("worker {} (pid {}) {}", self.id, self.pid, self.reason())
    }

    /// How it died, and why if it said so.
    pub(crate) fn reason(&self) -> String {
        let why = self.failed.as_ref().map_or(String::new(), |why| format!(": {why}"));
        format!("{}{why}", self.ending.how())
    }

    /// The error of a start that failed because of this death.
    pub(crate) fn start_failure(self) -> String {
        match (self.ending, self.failed) {
            (Ending::Exited(_), Some(why)) => why,
            (ending, failed) => {
                format!("{} before it was ready", Death { ending, failed, ..self }.line())
            }
        }
    }
}

/// Most events in ten seconds that are logged of a worker without servers.
const MOST_EVENTS: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn death(ending: Ending, failed: Option<&str>) -> Death {
        Death {
            id: WorkerId(1),
            row: 1,
            pid: Pid::from_raw(123),
            lived: Duration::ZERO,
            was_ready: false,
            reports: Vec::new(),
            ending,
            failed: failed.map(Into::into),
        }
    }

    #[test]
    fn a_death_is_one_line() {
        let killed = death(Ending::Killed(9), None);
        assert_eq!(killed.line(), "worker 1 (pid 123) was killed by signal 9");
        assert_eq!(
            killed.start_failure(),
            "worker 1 (pid 123) was killed by signal 9 before it was ready"
        );
        let failed = death(Ending::Exited(1), Some("cannot jail worker 1: setgroups: denied"));
        assert!(
            failed.line().ends_with("ended with status 1: cannot jail worker 1: setgroups: denied")
        );
        assert_eq!(failed.start_failure(), "cannot jail worker 1: setgroups: denied");
    }

    #[test]
    fn who_comes_next_has_no_new_measure_of_events() {
        let (mut pool, now) = (WorkerPool::new(2), Instant::now());
        let admitted = (0..300)
            .filter(|_| pool.admit_event(WorkerId(1), 0, now) != Admission::Withheld)
            .count();
        assert_eq!(admitted as u32, MOST_EVENTS);
        assert_ne!(
            pool.admit_event(WorkerId(1), 1, now),
            Admission::Withheld,
            "with servers there is more to tell"
        );
        assert_ne!(
            pool.admit_event(WorkerId(0), 0, now),
            Admission::Withheld,
            "another one's is its own"
        );
        assert_eq!(
            pool.admit_event(WorkerId(7), 0, now),
            Admission::Withheld,
            "there is no such worker"
        );
        assert_eq!(pool.withheld_events(now), []);
        let later = now + Duration::from_secs(60);
        assert_eq!(pool.withheld_events(later), [(WorkerId(1), 200)]);
        assert_eq!(pool.withheld_events(later), []);
    }

    #[test]
    fn a_post_is_refilled_when_it_is_due() {
        let (mut pool, now) = (WorkerPool::new(2), Instant::now());
        assert!(pool.is_empty() && !pool.is_complete());
        assert_eq!(pool.schedule(WorkerId(1), Duration::from_secs(2), now), Duration::ZERO);
        assert_eq!(pool.due(now), [WorkerId(1)]);
        let delay = pool.schedule(WorkerId(0), Duration::ZERO, now);
        assert_eq!(pool.due(now + delay), [WorkerId(0), WorkerId(1)]);
        assert_eq!(pool.next_due(), Some(now));
    }
}
