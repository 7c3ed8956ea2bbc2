//! Reports: by signal (USR1), and as replies to commands.
//!
//! A child renders a report. A table of millions of clients, a slow disk under `-w` or a stopped
//! terminal only delays that child. Meanwhile the supervisor replaces workers and handles signals.

#![forbid(unsafe_code)]

mod gather;
mod html;
mod json;
mod lists;
mod snapshot;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid, getppid};
use pen_config::command::Form;
use pen_config::ids::{Target, WorkerId};
use pen_config::settings::Settings;
use pen_ipc::message::ReportPage;
use pen_ipc::stats::Counters;
use pen_ipc::tls_files::Fact;
use pen_table::Table;

use crate::clock;
use crate::files::status_file::{StatusFile, Writer};
use crate::jail::sandbox::Summary;
use crate::log::Logger;
use crate::log::errno::why;
use crate::processes::child::Child;
use crate::processes::spawn::SpawnContext;
pub(crate) use crate::report::gather::{Gathered, Gathering, TooMany};
use crate::report::snapshot::Snapshot;
use crate::sys;

/// The state of reports by signal. There is at most one at a time.
#[derive(Debug)]
pub(crate) struct Reporter {
    state: ReportState,
    /// Another report was requested during the present one.
    again: bool,
    serial: u32,
}

#[derive(Debug)]
enum ReportState {
    Idle,
    Gathering(Gathering),
    Rendering(Rendering),
}

#[derive(Debug)]
struct Rendering {
    child: Child,
    /// Readable once the child has ended.
    pidfd: OwnedFd,
    /// When to kill the child; none if it was killed.
    deadline: Option<Instant>,
}

impl Reporter {
    pub(crate) fn new() -> Reporter {
        Reporter { state: ReportState::Idle, again: false, serial: u32::MAX }
    }

    /// Requests a report. All requests during a report are answered by one further report.
    pub(crate) fn request(&mut self) {
        self.again = true;
    }

    /// The serial number for asking workers, if a report should begin now. It is odd; commands have
    /// even ones.
    pub(crate) fn due(&mut self) -> Option<u32> {
        if !self.again || !matches!(self.state, ReportState::Idle) {
            return None;
        }
        self.again = false;
        self.serial = self.serial.wrapping_add(2) | 1;
        Some(self.serial)
    }

    /// Begins a report: with the workers that were asked, and those whose channel is full.
    pub(crate) fn begin(
        &mut self,
        asked: BTreeSet<WorkerId>,
        unreachable: BTreeSet<WorkerId>,
        now: Instant,
    ) {
        self.state = ReportState::Gathering(Gathering::new(self.serial, asked, unreachable, now));
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
        match &mut self.state {
            ReportState::Gathering(gathering) => gathering.page(worker, page, most),
            ReportState::Idle | ReportState::Rendering(_) => Ok(()),
        }
    }

    /// Removes a dead worker and its connections.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        if let ReportState::Gathering(gathering) = &mut self.state {
            gathering.forget(worker);
        }
    }

    /// When to call [`Reporter::gathered`] or [`Reporter::expire`] even without a message.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            ReportState::Idle => None,
            ReportState::Gathering(gathering) => Some(gathering.deadline()),
            ReportState::Rendering(rendering) => rendering.deadline,
        }
    }

    /// The gathered data, once all workers have answered or the time is over.
    pub(crate) fn gathered(&mut self, counters: &Counters, now: Instant) -> Option<Gathered> {
        match std::mem::replace(&mut self.state, ReportState::Idle) {
            ReportState::Gathering(gathering) if gathering.is_over(now) => {
                Some(gathering.finish(counters))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Forks a child that renders the gathered data.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn render(
        &mut self,
        gathered: &Gathered,
        program: &Program<'_>,
        SpawnContext { settings, table, jail, .. }: &SpawnContext,
        (file, logger): (Option<&StatusFile>, &Logger),
        now: Instant,
    ) -> io::Result<()> {
        let (supervisor, summary) = (getpid(), jail.sandbox.summary(jail.root.is_some()));
        let child = Child::fork(jail.identity.uid, || {
            // The other descriptors are closed. An inherited listener, above all, would keep the
            // old address in use after a move until the child ends.
            let keep: Vec<_> = file.and_then(StatusFile::descriptor).into_iter().collect();
            let is_alone = prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == supervisor;
            if !is_alone || sys::close_all_but(&keep).is_err() {
                return 1;
            }
            let mut logger = logger.anew();
            if let Err(error) = jail.sandbox.enter_reporter() {
                logger.warning(&format!("a report cannot be made now: {}", why(&error)));
                return 1;
            }
            deliver(
                Snapshot::take(gathered, program, (settings, table), &summary),
                file,
                supervisor,
                logger,
            )
        })?;
        let pidfd = child.watch()?;
        self.state = ReportState::Rendering(Rendering {
            child,
            pidfd,
            deadline: Some(now + RENDER_PATIENCE),
        });
        Ok(())
    }

    /// The descriptor to poll for the end of the child, if there is one.
    pub(crate) fn process(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            ReportState::Rendering(rendering) => Some(rendering.pidfd.as_fd()),
            ReportState::Idle | ReportState::Gathering(_) => None,
        }
    }

    /// Kills a child that takes too long.
    pub(crate) fn expire(&mut self, now: Instant, logger: &mut Logger) {
        if let ReportState::Rendering(rendering) = &mut self.state
            && rendering.deadline.is_some_and(|deadline| deadline <= now)
        {
            rendering.kill();
            logger.warning(&format!(
                "the report was not finished within {} s",
                RENDER_PATIENCE.as_secs()
            ));
        }
    }

    /// Whether this reaped child was the one that renders; then the report is finished. The child
    /// logs its own failures.
    pub(crate) fn reaped(
        &mut self,
        child: Pid,
        status: WaitStatus,
        file: Option<&StatusFile>,
        logger: &mut Logger,
    ) -> bool {
        let killed = match &self.state {
            ReportState::Rendering(rendering) if rendering.child.pid == child => {
                rendering.deadline.is_none()
            }
            ReportState::Idle | ReportState::Gathering(_) | ReportState::Rendering(_) => {
                return false;
            }
        };
        self.state = ReportState::Idle;
        if let WaitStatus::Signaled(_, signal, _) = status {
            file.iter().for_each(|file| file.forget(Writer::Report(std::process::id())));
            if !killed {
                logger.warning(&format!(
                    "the report was not finished: killed by signal {}",
                    signal as i32
                ));
            }
        }
        if matches!(status, WaitStatus::Exited(_, LOST)) {
            logger.warning("the end of the report was lost: it has no reader, or too slow a one");
        }
        true
    }

    /// Ends the present report, because pen ends. A child that renders is still to be reaped.
    pub(crate) fn stop(&mut self) {
        match &mut self.state {
            ReportState::Rendering(rendering) => rendering.kill(),
            ReportState::Idle | ReportState::Gathering(_) => self.state = ReportState::Idle,
        }
    }
}

impl Rendering {
    fn kill(&mut self) {
        self.deadline = None;
        self.child.kill();
    }
}

/// Runs in the child: writes the report to its target.
fn deliver(
    snapshot: Snapshot<'_>,
    file: Option<&StatusFile>,
    supervisor: Pid,
    mut logger: Logger,
) -> i32 {
    logger.be_patient();
    let Some(file) = file else {
        text::render(snapshot, &mut logger);
        return if logger.has_lost() { LOST } else { 0 };
    };
    match file
        .put(Writer::Report(supervisor.as_raw().unsigned_abs()), |to| html::render(snapshot, to))
    {
        Ok(()) => 0,
        Err(error) => {
            logger.warning(&error.to_string());
            1
        }
    }
}

/// The reply to `servers`.
pub(crate) fn servers(
    form: Form,
    settings: &Settings,
    table: &Table,
    to: &mut dyn Write,
) -> io::Result<()> {
    let rows = snapshot::servers(settings, table);
    match form {
        Form::Plain => lists::servers(rows, to),
        Form::Json => json::servers(rows, to),
    }
}

/// The reply to `certificates`.
pub(crate) fn certificates(form: Form, facts: &[Fact], to: &mut dyn Write) -> io::Result<()> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    match form {
        Form::Plain => lists::certificates(facts, now, to),
        Form::Json => json::certificates(facts, now, to),
    }
}

/// Information about the program that only the supervisor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a> {
    /// The time since the start.
    pub(crate) uptime: Duration,
    /// The listen address as it was written.
    pub(crate) listen: &'a str,
    /// The number of workers.
    pub(crate) workers: usize,
}

/// The reply to `overview`.
pub(crate) fn overview(
    program: &Program<'_>,
    settings: &Settings,
    table: &Table,
    to: &mut dyn Write,
) -> io::Result<()> {
    let time = clock::now();
    let overview = json::Overview {
        version: env!("CARGO_PKG_VERSION"),
        time: clock::full(time),
        unix_time: time.unix_timestamp(),
        uptime: program.uptime.as_secs(),
        listen: program.listen,
        workers: program.workers,
        connections: table.connections_open(),
        connections_max: settings.connections_max,
        servers: snapshot::servers(settings, table).collect(),
        emergency: snapshot::backup(Target::Emergency, settings, table),
        abuse: snapshot::backup(Target::Abuse, settings, table),
    };
    json::overview(&overview, to)
}

/// The reply to `recent`.
pub(crate) fn recent(
    seconds: u32,
    form: Form,
    settings: &Settings,
    table: &Table,
    to: &mut dyn Write,
) -> io::Result<()> {
    let rows = snapshot::clients(settings, table);
    match form {
        Form::Plain => lists::recent(rows, seconds, to),
        Form::Json => json::recent(rows, seconds, to),
    }
}

/// The reply to `status`.
pub(crate) fn status(
    form: Form,
    gathered: &Gathered,
    program: &Program<'_>,
    (settings, table): (&Settings, &Table),
    sandbox: &Summary,
    to: &mut dyn Write,
) -> io::Result<()> {
    let snapshot = Snapshot::take(gathered, program, (settings, table), sandbox);
    match form {
        Form::Plain => html::render(snapshot, to),
        Form::Json => json::status(snapshot, to),
    }
}

/// The exit status of a child whose report was not taken completely.
const LOST: i32 = 2;

/// How long a child may take to render.
const RENDER_PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_during_a_report_give_one_more() {
        let (mut reporter, now) = (Reporter::new(), Instant::now());
        reporter.request();
        assert_eq!(reporter.due(), Some(1));
        reporter.begin(BTreeSet::new(), BTreeSet::new(), now);
        reporter.request();
        reporter.request();
        assert_eq!(reporter.due(), None);
        reporter.gathered(&Counters::default(), now).unwrap();
        assert!(reporter.gathered(&Counters::default(), now).is_none());
        assert_eq!(reporter.due(), Some(3));
        assert_eq!(reporter.due(), None);
    }
}
