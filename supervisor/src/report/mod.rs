//! Reports: on request by signal (USR1), and as replies to commands.
//!
//! Rendering is a child's work. That is what makes a report harmless: a table of millions of
//! clients, a slow disk under `-w` or a terminal that is stopped keeps that child busy, while the
//! supervisor goes on replacing workers and hearing signals.

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

/// The state of reports by signal. At most one is under way.
#[derive(Debug)]
pub(crate) struct Reporter {
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
    child: Child,
    /// Readable once the child has ended.
    pidfd: OwnedFd,
    /// When the child is killed; none if it has been.
    deadline: Option<Instant>,
}

impl Reporter {
    pub(crate) fn new() -> Reporter {
        Reporter { state: State::Idle, again: false, serial: u32::MAX }
    }

    /// Notes that a report is wanted. Requests that come while one is under way are answered by one
    /// more.
    pub(crate) fn request(&mut self) {
        self.again = true;
    }

    /// Whether a report should begin now: then ask the workers with this serial. It is odd;
    /// commands have the even ones.
    pub(crate) fn due(&mut self) -> Option<u32> {
        if !self.again || !matches!(self.state, State::Idle) {
            return None;
        }
        self.again = false;
        self.serial = self.serial.wrapping_add(2) | 1;
        Some(self.serial)
    }

    /// Begins a report with the workers that were asked and those whose channel is full.
    pub(crate) fn begin(
        &mut self,
        asked: BTreeSet<WorkerId>,
        unreachable: BTreeSet<WorkerId>,
        now: Instant,
    ) {
        self.state = State::Gathering(Gathering::new(self.serial, asked, unreachable, now));
    }

    /// Takes a page; one that answers no open question is dropped.
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
            State::Gathering(gathering) => gathering.page(worker, page, most),
            State::Idle | State::Rendering(_) => Ok(()),
        }
    }

    /// A worker died, and its connections with it.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        if let State::Gathering(gathering) = &mut self.state {
            gathering.forget(worker);
        }
    }

    /// When [`Reporter::gathered`] or [`Reporter::expire`] has to be looked at again without any
    /// message.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle => None,
            State::Gathering(gathering) => Some(gathering.deadline()),
            State::Rendering(rendering) => rendering.deadline,
        }
    }

    /// What was gathered, once all have answered or the time is up.
    pub(crate) fn gathered(&mut self, counters: &Counters, now: Instant) -> Option<Gathered> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Gathering(gathering) if gathering.is_over(now) => {
                Some(gathering.finish(counters))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Has a child render what was gathered.
    ///
    /// # Errors
    /// There can be no child now.
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
            // A copy of a listener, above all, would hold the old address after a move for as long
            // as this takes.
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
        self.state =
            State::Rendering(Rendering { child, pidfd, deadline: Some(now + RENDER_PATIENCE) });
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
    pub(crate) fn expire(&mut self, now: Instant, logger: &mut Logger) {
        if let State::Rendering(rendering) = &mut self.state
            && rendering.deadline.is_some_and(|deadline| deadline <= now)
        {
            rendering.kill();
            logger.warning(&format!(
                "the report was not finished within {} s",
                RENDER_PATIENCE.as_secs()
            ));
        }
    }

    /// Whether this child was the one that renders; if so it is over. It has told its own failures.
    pub(crate) fn reaped(
        &mut self,
        child: Pid,
        status: WaitStatus,
        file: Option<&StatusFile>,
        logger: &mut Logger,
    ) -> bool {
        let killed = match &self.state {
            State::Rendering(rendering) if rendering.child.pid == child => {
                rendering.deadline.is_none()
            }
            State::Idle | State::Gathering(_) | State::Rendering(_) => return false,
        };
        self.state = State::Idle;
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
        self.child.kill();
    }
}

/// In the child: writes the report where it belongs.
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

/// What `servers` replies.
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

/// What `certificates` replies.
pub(crate) fn certificates(form: Form, facts: &[Fact], to: &mut dyn Write) -> io::Result<()> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    match form {
        Form::Plain => lists::certificates(facts, now, to),
        Form::Json => json::certificates(facts, now, to),
    }
}

/// What only the supervisor knows of the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a> {
    /// How long it has been there.
    pub(crate) uptime: Duration,
    /// Where it listens, as it was written.
    pub(crate) listen: &'a str,
    /// Its workers.
    pub(crate) workers: usize,
}

/// What `overview` replies.
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

/// What `recent` replies.
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

/// What `status` replies.
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

/// The exit status of a child whose report nobody took to the end.
const LOST: i32 = 2;

/// How long a child may render.
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
