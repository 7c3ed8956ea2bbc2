//! A report on request (USR1): the workers' pages are gathered, and one snapshot is rendered by a child of its own.
//!
//! The child is what makes a report harmless: a table of millions of clients, a slow disk under `-w` or a terminal that is
//! stopped keeps that child busy, while the supervisor goes on replacing workers and hearing signals.

#![forbid(unsafe_code)]

mod html;
mod snapshot;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid, getppid};
use pen_contract::ids::WorkerId;
use pen_contract::message::ReportPage;
use pen_contract::settings::Settings;
use pen_contract::stats::ConnectionInfo;
use pen_table::Table;

pub(crate) use self::snapshot::Gathered;
use self::snapshot::Snapshot;
use crate::child::watch;
use crate::say::Say;
use crate::status_file;
use crate::sys;

/// The state of reporting. At most one report is under way.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// `-w`.
    file: Option<PathBuf>,
    state: State,
    /// Asked for while one was under way.
    again: bool,
    serial: u32,
}

#[derive(Debug)]
enum State {
    Idle,
    Gathering(Gathering),
    Rendering(Rendering),
}

#[derive(Debug)]
struct Rendering {
    child: Pid,
    /// Readable once the child has ended.
    pidfd: OwnedFd,
    /// When the child is killed; none if it has been.
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Gathering {
    deadline: Instant,
    waiting: BTreeSet<WorkerId>,
    connections: BTreeMap<WorkerId, Vec<ConnectionInfo>>,
    missing: BTreeSet<WorkerId>,
}

/// A worker reports more connections than there can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooMany;

impl Reporter {
    pub(crate) fn new(file: Option<PathBuf>) -> Reporter {
        Reporter { file, state: State::Idle, again: false, serial: 0 }
    }

    /// Notes that a report is wanted. Requests that come while one is under way are answered by one more.
    pub(crate) fn request(&mut self) {
        self.again = true;
    }

    /// Whether a report should begin now: then ask the workers with this serial.
    pub(crate) fn due(&mut self) -> Option<u32> {
        if !self.again || !matches!(self.state, State::Idle) {
            return None;
        }
        self.again = false;
        self.serial = self.serial.wrapping_add(1);
        Some(self.serial)
    }

    /// Begins a report with the workers that were asked and those whose channel is full.
    pub(crate) fn begin(&mut self, asked: BTreeSet<WorkerId>, unreachable: BTreeSet<WorkerId>, now: Instant) {
        self.state = State::Gathering(Gathering {
            deadline: now + PATIENCE,
            waiting: asked,
            connections: BTreeMap::new(),
            missing: unreachable,
        });
    }

    /// Takes a page; one that answers no open question is dropped.
    ///
    /// # Errors
    /// The worker reports more connections than `most`.
    pub(crate) fn page(&mut self, worker: WorkerId, page: ReportPage, most: usize) -> Result<(), TooMany> {
        let State::Gathering(gathering) = &mut self.state else { return Ok(()) };
        if page.serial != self.serial || !gathering.waiting.contains(&worker) {
            return Ok(());
        }
        let connections = gathering.connections.entry(worker).or_default();
        if connections.len() + page.connections.len() > most {
            return Err(TooMany);
        }
        connections.extend(page.connections);
        if page.last {
            gathering.waiting.remove(&worker);
        }
        Ok(())
    }

    /// A worker died, and its connections with it.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        if let State::Gathering(gathering) = &mut self.state {
            gathering.waiting.remove(&worker);
            gathering.missing.remove(&worker);
            gathering.connections.remove(&worker);
        }
    }

    /// When [`Reporter::gathered`] or [`Reporter::expire`] has to be looked at again without any message.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle => None,
            State::Gathering(gathering) => Some(gathering.deadline),
            State::Rendering(rendering) => rendering.deadline,
        }
    }

    /// What was gathered, once all have answered or the time is up.
    pub(crate) fn gathered(&mut self, now: Instant) -> Option<Gathered> {
        let State::Gathering(gathering) = &mut self.state else { return None };
        if !gathering.waiting.is_empty() && now < gathering.deadline {
            return None;
        }
        let Gathering { mut waiting, connections, mut missing, .. } =
            std::mem::replace(gathering, Gathering::empty(now));
        self.state = State::Idle;
        missing.append(&mut waiting);
        let whole = connections.into_iter().filter(|(worker, _)| !missing.contains(worker));
        let mut connections: Vec<ConnectionInfo> = whole.flat_map(|(_, connections)| connections).collect();
        connections.sort_unstable_by_key(|connection| connection.number);
        Some(Gathered { connections, missing: missing.into_iter().collect() })
    }

    /// Has a child render what was gathered.
    ///
    /// # Errors
    /// There can be no child now.
    pub(crate) fn render(
        &mut self,
        gathered: Gathered,
        settings: &Settings,
        table: &Table,
        say: &mut Say,
        now: Instant,
    ) -> io::Result<()> {
        let (file, supervisor) = (self.file.as_deref(), getpid());
        let child = sys::fork(|| deliver(Snapshot::take(&gathered, settings, table), file, supervisor, say))?;
        let pidfd = watch(child)?;
        self.state = State::Rendering(Rendering { child, pidfd, deadline: Some(now + RENDER_PATIENCE) });
        Ok(())
    }

    /// To be polled for the end of the child that renders, if there is one.
    pub(crate) fn process(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Rendering(rendering) => Some(rendering.pidfd.as_fd()),
            State::Idle | State::Gathering(_) => None,
        }
    }

    /// Ends a rendering that takes too long.
    pub(crate) fn expire(&mut self, now: Instant, say: &mut Say) {
        if let State::Rendering(rendering) = &mut self.state
            && rendering.deadline.is_some_and(|deadline| deadline <= now)
        {
            rendering.kill();
            say.warning(&format!("the report was not finished within {} s", RENDER_PATIENCE.as_secs()));
        }
    }

    /// Whether this child was the one that renders; if so it is over. It has told its own failures.
    pub(crate) fn reaped(&mut self, child: Pid, status: WaitStatus, say: &mut Say) -> bool {
        let killed = match &self.state {
            State::Rendering(rendering) if rendering.child == child => rendering.deadline.is_none(),
            State::Idle | State::Gathering(_) | State::Rendering(_) => return false,
        };
        self.state = State::Idle;
        if let WaitStatus::Signaled(_, signal, _) = status {
            if let Some(file) = &self.file {
                let _ = fs::remove_file(status_file::temporary(file, std::process::id()));
            }
            if !killed {
                say.warning(&format!("the report was not finished: killed by signal {}", signal as i32));
            }
        }
        true
    }

    /// Ends whatever is under way, because pen ends. A child that renders is still to be reaped.
    pub(crate) fn stop(&mut self) {
        match &mut self.state {
            State::Rendering(rendering) => rendering.kill(),
            State::Idle | State::Gathering(_) => self.state = State::Idle,
        }
    }
}

impl Rendering {
    fn kill(&mut self) {
        self.deadline = None;
        // The pid is still the child's, because it has not been waited for.
        let _ = kill(self.child, Signal::SIGKILL);
    }
}

impl Gathering {
    fn empty(now: Instant) -> Gathering {
        Gathering { deadline: now, waiting: BTreeSet::new(), connections: BTreeMap::new(), missing: BTreeSet::new() }
    }
}

/// In the child: writes the report where it belongs.
fn deliver(snapshot: Snapshot<'_>, file: Option<&Path>, supervisor: Pid, say: &mut Say) -> i32 {
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != supervisor {
        return 1;
    }
    say.be_patient();
    let Some(file) = file else {
        text::render(snapshot, say);
        return 0;
    };
    let temporary = status_file::temporary(file, supervisor.as_raw().unsigned_abs());
    match status_file::replace(file, &temporary, |to| html::render(snapshot, to)) {
        Ok(()) => 0,
        Err(error) => {
            say.warning(&error.to_string());
            1
        }
    }
}

/// How long workers have to answer (SPEC: a report is made without one that does not answer within a second).
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a child may render.
const RENDER_PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use pen_contract::stats::Counters;

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
            counters: Counters::default(),
            connections: numbers.iter().map(connection).collect(),
        }
    }

    fn begun(workers: u8) -> (Reporter, Instant) {
        let (mut reporter, now) = (Reporter::new(None), Instant::now());
        reporter.request();
        assert_eq!(reporter.due(), Some(1));
        reporter.begin((0..workers).map(WorkerId).collect(), BTreeSet::new(), now);
        (reporter, now)
    }

    fn numbers(gathered: &Gathered) -> Vec<u32> {
        gathered.connections.iter().map(|connection| connection.number).collect()
    }

    #[test]
    fn pages_are_gathered_until_all_have_answered() {
        let (mut reporter, now) = begun(2);
        reporter.page(WorkerId(0), page(1, false, &[5, 1]), 10).unwrap();
        reporter.page(WorkerId(1), page(1, true, &[2]), 10).unwrap();
        assert!(reporter.gathered(now).is_none());
        reporter.page(WorkerId(0), page(1, true, &[0]), 10).unwrap();
        let gathered = reporter.gathered(now).unwrap();
        assert_eq!(numbers(&gathered), [0, 1, 2, 5]);
        assert!(gathered.missing.is_empty());
        assert!(reporter.gathered(now).is_none());
    }

    #[test]
    fn a_worker_that_does_not_answer_is_left_out_and_named() {
        let (mut reporter, now) = begun(2);
        reporter.page(WorkerId(0), page(1, true, &[3]), 10).unwrap();
        reporter.page(WorkerId(1), page(1, false, &[4]), 10).unwrap();
        assert!(reporter.gathered(now).is_none());
        let gathered = reporter.gathered(reporter.deadline().unwrap()).unwrap();
        assert_eq!(numbers(&gathered), [3]);
        assert_eq!(gathered.missing, [WorkerId(1)]);
    }

    #[test]
    fn a_worker_that_dies_is_not_waited_for() {
        let (mut reporter, now) = begun(2);
        reporter.page(WorkerId(0), page(1, false, &[3]), 10).unwrap();
        reporter.page(WorkerId(1), page(1, true, &[4]), 10).unwrap();
        reporter.forget(WorkerId(0));
        let gathered = reporter.gathered(now).unwrap();
        assert_eq!((numbers(&gathered), gathered.missing.len()), (vec![4], 0));
    }

    #[test]
    fn stale_and_surplus_pages_are_dropped_and_too_much_is_an_error() {
        let (mut reporter, now) = begun(1);
        reporter.page(WorkerId(0), page(7, true, &[1]), 10).unwrap();
        reporter.page(WorkerId(3), page(1, true, &[1]), 10).unwrap();
        assert!(reporter.gathered(now).is_none());
        assert_eq!(reporter.page(WorkerId(0), page(1, false, &[1, 2, 3]), 2), Err(TooMany));
        reporter.page(WorkerId(0), page(1, true, &[1]), 2).unwrap();
        reporter.page(WorkerId(0), page(1, true, &[1]), 2).unwrap();
        assert_eq!(numbers(&reporter.gathered(now).unwrap()), [1]);
    }

    #[test]
    fn requests_during_a_report_give_one_more() {
        let (mut reporter, now) = begun(1);
        reporter.request();
        reporter.request();
        assert_eq!(reporter.due(), None);
        reporter.page(WorkerId(0), page(1, true, &[]), 10).unwrap();
        reporter.gathered(now).unwrap();
        assert_eq!(reporter.due(), Some(2));
        assert_eq!(reporter.due(), None);
    }
}
