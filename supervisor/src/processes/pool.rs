//! The worker pool: one slot per worker number, with its worker and the time for filling it again.

#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_ipc::stats::Counters;

use crate::processes::backoff::Backoff;
use crate::processes::flood::{Admission, Flood};
use crate::processes::liveness::Grace;
use crate::processes::spawn::SpawnContext;
use crate::processes::worker::{Worker, WorkerReport};

/// The worker pool.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    slots: Vec<WorkerSlot>,
    /// The counters of dead workers, summed.
    retired: Counters,
}

#[derive(Debug)]
struct WorkerSlot {
    worker: Option<Worker>,
    backoff: Backoff,
    /// The time that the next worker gets to become ready.
    grace: Grace,
    /// A limit for the log lines of this slot. It survives a worker, so that dying gives no new
    /// allowance.
    events: Flood,
    /// When to fill the slot, if it is empty and has to be filled.
    due: Option<Instant>,
}

/// A worker that was reaped.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) id: WorkerId,
    pub(crate) pid: Pid,
    pub(crate) lived: Duration,
    /// Whether it had served clients.
    pub(crate) was_ready: bool,
    /// Its last messages.
    pub(crate) reports: Vec<WorkerReport>,
    status: WaitStatus,
    failed: Option<String>,
}

impl WorkerPool {
    /// A pool of empty slots.
    pub(crate) fn new(slots: u8) -> WorkerPool {
        let now = Instant::now();
        let slot = |_| WorkerSlot {
            worker: None,
            backoff: Backoff::default(),
            grace: Grace::default(),
            events: Flood::new(MOST_EVENTS, Duration::from_secs(10), now),
            due: None,
        };
        WorkerPool { slots: (0..slots).map(slot).collect(), retired: Counters::default() }
    }

    /// Forks a worker into a slot.
    ///
    /// # Errors
    /// No process can be forked now.
    pub(crate) fn spawn(
        &mut self,
        id: WorkerId,
        context: &SpawnContext,
        now: Instant,
    ) -> io::Result<Pid> {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let worker = Worker::spawn(id, slot.grace, context, now)?;
        let pid = worker.peer.pid();
        (slot.worker, slot.due) = (Some(worker), None);
        Ok(pid)
    }

    /// Takes a dead worker from its slot, if the process was a worker.
    pub(crate) fn discharge(
        &mut self,
        pid: Pid,
        status: WaitStatus,
        now: Instant,
    ) -> Option<Death> {
        let is_it = |worker: &mut Worker| worker.peer.pid() == pid;
        let (mut worker, grace) = self
            .slots
            .iter_mut()
            .find_map(|slot| Some((slot.worker.take_if(is_it)?, &mut slot.grace)))?;
        let reports = worker.read(LAST_WORDS, now);
        let was_ready = worker.peer.was_ready;
        *grace = grace.after(was_ready);
        self.retired.add(&worker.counters);
        Some(Death {
            id: worker.id,
            pid,
            lived: now.saturating_duration_since(worker.peer.born),
            was_ready,
            reports,
            status,
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
            self.slots.iter_mut().map(|slot| slot.events.settle(now)).collect::<Vec<u64>>();
        self.ids().zip(withheld).filter(|(_, withheld)| *withheld > 0).collect()
    }

    /// Decides when to fill the slot of a worker that lived for this time; returns the delay.
    pub(crate) fn refill(&mut self, id: WorkerId, lived: Duration, now: Instant) -> Duration {
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

    /// The open connections of living workers, as they report them.
    pub(crate) fn open(&self) -> u64 {
        self.workers().fold(0, |sum, worker| sum.saturating_add(worker.counters.open()))
    }

    /// The counters of all workers, dead and alive, summed.
    pub(crate) fn totals(&self) -> Counters {
        let mut totals = self.retired;
        self.workers().for_each(|worker| totals.add(&worker.counters));
        totals
    }
}

impl Death {
    /// `worker 1 (pid 123) was killed by signal 9`
    pub(crate) fn line(&self) -> String {
        let how = match self.status {
            WaitStatus::Signaled(_, signal, _) => killed_by(signal),
            WaitStatus::Exited(_, status) => format!("ended with status {status}"),
            _ => "is gone".into(),
        };
        let why = self.failed.as_ref().map_or(String::new(), |why| format!(": {why}"));
        format!("worker {} (pid {}) {how}{why}", self.id, self.pid)
    }

    /// The error of a start that failed because of this death.
    pub(crate) fn start_failure(self) -> String {
        match (self.status, self.failed) {
            (WaitStatus::Exited(_, _), Some(why)) => why,
            (status, failed) => {
                format!("{} before it was ready", Death { status, failed, ..self }.line())
            }
        }
    }
}

/// `was killed by signal 9`
pub(crate) fn killed_by(signal: Signal) -> String {
    let why = if signal == Signal::SIGSYS { ": its sandbox has no such system call" } else { "" };
    format!("was killed by signal {}{why}", signal as i32)
}

/// Most events in ten seconds that are logged of a worker without servers.
const MOST_EVENTS: u32 = 100;

/// Most messages of a dead worker that are still read; its channel holds fewer.
const LAST_WORDS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn death(status: WaitStatus, failed: Option<&str>) -> Death {
        Death {
            id: WorkerId(1),
            pid: Pid::from_raw(123),
            lived: Duration::ZERO,
            was_ready: false,
            reports: Vec::new(),
            status,
            failed: failed.map(Into::into),
        }
    }

    #[test]
    fn a_death_is_one_line() {
        let pid = Pid::from_raw(123);
        let killed = death(WaitStatus::Signaled(pid, Signal::SIGKILL, false), None);
        assert_eq!(killed.line(), "worker 1 (pid 123) was killed by signal 9");
        assert_eq!(
            killed.start_failure(),
            "worker 1 (pid 123) was killed by signal 9 before it was ready"
        );
        let failed =
            death(WaitStatus::Exited(pid, 1), Some("cannot jail worker 1: setgroups: denied"));
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
        assert_eq!(pool.refill(WorkerId(1), Duration::from_secs(2), now), Duration::ZERO);
        assert_eq!(pool.due(now), [WorkerId(1)]);
        let delay = pool.refill(WorkerId(0), Duration::ZERO, now);
        assert_eq!(pool.due(now + delay), [WorkerId(0), WorkerId(1)]);
        assert_eq!(pool.next_due(), Some(now));
    }
}
