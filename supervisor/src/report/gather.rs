//! Data that only the workers have, not the table: the supervisor asks for it and gathers it page
//! by page.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pen_config::ids::WorkerId;
use pen_ipc::message::ReportPage;
use pen_ipc::stats::{ConnectionInfo, Counters};

use crate::processes::old::OldWorkerSummary;

/// Reports of workers that are being gathered.
#[derive(Debug)]
pub(crate) struct Gathering {
    serial: u32,
    deadline: Instant,
    waiting: BTreeSet<WorkerId>,
    connections: BTreeMap<WorkerId, Vec<ConnectionInfo>>,
    missing: BTreeSet<WorkerId>,
}

/// The data that the workers reported.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Open connections, sorted by number.
    pub(crate) connections: Vec<ConnectionInfo>,
    /// Workers that did not answer.
    pub(crate) missing: Vec<WorkerId>,
    /// The counters of all workers since the start, summed, dead workers included.
    pub(crate) counters: Counters,
    /// Workers of earlier programs. They are not asked: they may be of another release.
    pub(crate) old_workers: Vec<OldWorkerSummary>,
}

/// A worker reports more connections than there can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooMany;

impl Gathering {
    /// Waits for the workers that were asked with this serial number. `unreachable` are those whose
    /// channel is full.
    pub(crate) fn new(
        serial: u32,
        asked: BTreeSet<WorkerId>,
        unreachable: BTreeSet<WorkerId>,
        now: Instant,
    ) -> Gathering {
        let deadline = now + PATIENCE;
        Gathering {
            serial,
            deadline,
            waiting: asked,
            connections: BTreeMap::new(),
            missing: unreachable,
        }
    }

    /// Takes a page. A page that answers no open question is dropped.
    ///
    /// # Errors
    /// The worker reports more connections than `most`.
    pub(crate) fn page(
        &mut self,
        worker: WorkerId,
        page: &ReportPage,
        most: usize,
    ) -> Result<(), TooMany> {
        if page.serial != self.serial || !self.waiting.contains(&worker) {
            return Ok(());
        }
        let connections = self.connections.entry(worker).or_default();
        if connections.len() + page.connections.len() > most {
            return Err(TooMany);
        }
        connections.extend(&page.connections);
        if page.last {
            self.waiting.remove(&worker);
        }
        Ok(())
    }

    /// Removes a dead worker and its connections.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.waiting.remove(&worker);
        self.missing.remove(&worker);
        self.connections.remove(&worker);
    }

    /// When the gathering ends at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether all workers have answered or the time is over.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.waiting.is_empty() || now >= self.deadline
    }

    /// The gathered data, with the sums of the workers' counters.
    pub(crate) fn finish(
        mut self,
        counters: &Counters,
        old_workers: Vec<OldWorkerSummary>,
    ) -> Gathered {
        self.missing.append(&mut self.waiting);
        let whole =
            self.connections.into_iter().filter(|(worker, _)| !self.missing.contains(worker));
        let mut connections: Vec<ConnectionInfo> =
            whole.flat_map(|(_, connections)| connections).collect();
        connections.sort_unstable_by_key(|connection| connection.number);
        let missing = self.missing.into_iter().collect();
        Gathered { connections, missing, counters: *counters, old_workers }
    }
}

/// How long workers have to answer. A report is made without one that does not.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn page(serial: u32, last: bool, numbers: &[u32]) -> ReportPage {
        let connection = |number: &u32| ConnectionInfo {
            number: *number,
            state: 2,
            downfd: 6,
            upfd: 7,
            pending_down: 0,
            pending_up: 0,
            client: 0,
            server: 0,
        };
        ReportPage {
            serial,
            last,
            counters: Box::default(),
            connections: numbers.iter().map(connection).collect(),
        }
    }

    fn begun(workers: u8) -> (Gathering, Instant) {
        let now = Instant::now();
        (Gathering::new(1, (0..workers).map(WorkerId).collect(), BTreeSet::new(), now), now)
    }

    fn numbers(gathered: &Gathered) -> Vec<u32> {
        gathered.connections.iter().map(|connection| connection.number).collect()
    }

    #[test]
    fn pages_are_gathered_until_all_have_answered() {
        let (mut gathering, now) = begun(2);
        gathering.page(WorkerId(0), &page(1, false, &[5, 1]), 10).unwrap();
        gathering.page(WorkerId(1), &page(1, true, &[2]), 10).unwrap();
        assert!(!gathering.is_over(now));
        gathering.page(WorkerId(0), &page(1, true, &[0]), 10).unwrap();
        assert!(gathering.is_over(now));
        let gathered = gathering.finish(&Counters::default(), Vec::new());
        assert_eq!(numbers(&gathered), [0, 1, 2, 5]);
        assert!(gathered.missing.is_empty());
    }

    #[test]
    fn a_worker_that_does_not_answer_is_left_out_and_named() {
        let (mut gathering, now) = begun(2);
        gathering.page(WorkerId(0), &page(1, true, &[3]), 10).unwrap();
        gathering.page(WorkerId(1), &page(1, false, &[4]), 10).unwrap();
        assert!(!gathering.is_over(now) && gathering.is_over(gathering.deadline()));
        let gathered = gathering.finish(&Counters::default(), Vec::new());
        assert_eq!(numbers(&gathered), [3]);
        assert_eq!(gathered.missing, [WorkerId(1)]);
    }

    #[test]
    fn a_worker_that_dies_is_not_waited_for() {
        let (mut gathering, now) = begun(2);
        gathering.page(WorkerId(0), &page(1, false, &[3]), 10).unwrap();
        gathering.page(WorkerId(1), &page(1, true, &[4]), 10).unwrap();
        gathering.forget(WorkerId(0));
        assert!(gathering.is_over(now));
        let gathered = gathering.finish(&Counters::default(), Vec::new());
        assert_eq!((numbers(&gathered), gathered.missing.len()), (vec![4], 0));
    }

    #[test]
    fn stale_and_surplus_pages_are_dropped_and_too_much_is_an_error() {
        let (mut gathering, now) = begun(1);
        gathering.page(WorkerId(0), &page(7, true, &[1]), 10).unwrap();
        gathering.page(WorkerId(3), &page(1, true, &[1]), 10).unwrap();
        assert!(!gathering.is_over(now));
        assert_eq!(gathering.page(WorkerId(0), &page(1, false, &[1, 2, 3]), 2), Err(TooMany));
        gathering.page(WorkerId(0), &page(1, true, &[1]), 2).unwrap();
        gathering.page(WorkerId(0), &page(1, true, &[1]), 2).unwrap();
        assert_eq!(numbers(&gathering.finish(&Counters::default(), Vec::new())), [1]);
    }
}
