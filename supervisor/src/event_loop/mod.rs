//! The supervisor's event loop: signals, messages, deaths, replacements, reports and commands.
//!
//! `waiting`, `hearing`, `staff` and `watch` are the steps of one turn of the loop. `desk` carries out commands one at a time, `query` answers questions,
//! and `prepare` gets hold of what `change` puts in force. One thread, poll(2), nothing that waits for a worker. poll and not epoll, because an epoll set would be shared with every
//! child that is forked.

#![forbid(unsafe_code)]

pub(crate) mod commands;
pub(crate) mod full;
pub(crate) mod heartbeat;
pub(crate) mod messages;
pub(crate) mod obstructed;
pub(crate) mod poll;
pub(crate) mod reload;
pub(crate) mod respawn;
pub(crate) mod state;
pub(crate) mod tls_rotation;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pen_config::command::LogTarget;
use pen_config::ids::WorkerId;
use pen_ipc::stats::Counters;

use crate::StartError;
use crate::event_loop::commands::{By, Desk};
use crate::event_loop::full::Crowd;
use crate::event_loop::obstructed::Obstructed;
use crate::event_loop::reload::notices::Notices;
use crate::event_loop::state::Standing;
use crate::files::request_log;
use crate::limits::why_within_limits;
use crate::log::Say;
use crate::log::errno::why;
use crate::log::events::throttle::Throttle;
use crate::processes::control::Control;
use crate::processes::liveness::Beat;
use crate::processes::pool::Crew;
use crate::processes::spawn::Inheritance;
use crate::report::Reporter;
use crate::signals::{Request, Signals};
use crate::startup::interrupt::Interrupts;
use crate::systemd::notify::Notify;

/// The running pen.
#[derive(Debug)]
pub(crate) struct Service {
    standing: Standing,
    inheritance: Inheritance,
    crew: Crew,
    /// With `-C`.
    control: Option<Control>,
    reporter: Reporter,
    desk: Desk,
    say: Say,
    notify: Notify,
    beat: Beat,
    /// On what workers tell and clients cause.
    throttle: Throttle,
    /// On what operators cause.
    notices: Notices,
    /// Who waits for a connection.
    crowd: Crowd,
    /// Which servers are passed over.
    obstructed: Obstructed,
    /// Whether the configuration file was not used when it was last read.
    file_refused: bool,
    phase: Phase,
}

/// Why serving ends.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(Signal),
    /// The exit command, by whom.
    Command(By),
}

/// What the death of a worker means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The start has failed, unless the worker had been ready.
    Starting,
    /// The worker is to be replaced.
    Serving,
    /// It is one less to wait for.
    Stopping,
}

impl Service {
    pub(crate) fn new(
        standing: Standing,
        inheritance: Inheritance,
        workers: u8,
        control: Option<Control>,
        say: Say,
        notify: Notify,
    ) -> Service {
        let (crew, reporter, desk, beat) = (Crew::new(workers), Reporter::new(), Desk::default(), Beat::default());
        let (throttle, notices) = (Throttle::new(Instant::now()), Notices::new(Instant::now()));
        let (file_refused, phase) = (false, Phase::Starting);
        Service {
            standing,
            inheritance,
            crew,
            control,
            reporter,
            desk,
            say,
            notify,
            beat,
            throttle,
            notices,
            crowd: Crowd::default(),
            obstructed: Obstructed::new(Instant::now()),
            file_refused,
            phase,
        }
    }

    /// Forks the workers and waits until all are ready, and then the control process.
    ///
    /// # Errors
    /// A process cannot be forked, jailed or readied, or the start is interrupted. All are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let now = Instant::now();
        for id in self.crew.ids() {
            let cannot = |error| StartError(format!("cannot start worker {id}: {}", why_within_limits(&error)));
            self.crew.hire(id, &self.inheritance, now).map_err(cannot)?;
        }
        let deadline = now + START_PATIENCE;
        while !self.crew.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        if let Some(control) = &mut self.control {
            let cannot = |error| StartError(format!("cannot start the control process: {}", why_within_limits(&error)));
            control.hire(&self.inheritance, Instant::now()).map_err(cannot)?;
        }
        while self.control.as_ref().is_some_and(|control| !control.is_ready()) || !self.crew.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        Ok(())
    }

    fn start_turn(&mut self, interrupts: &mut Interrupts, deadline: Instant) -> Result<(), StartError> {
        let sources: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
        self.turn(&sources, Some(deadline))?;
        drop(sources);
        interrupts.check()?;
        if Instant::now() >= deadline {
            let late = self.crew.workers().find(|worker| !worker.peer.is_ready());
            let late = late.map_or("the control process".into(), |worker| format!("worker {}", worker.id));
            return Err(StartError(format!("{late} was not ready within {} s", START_PATIENCE.as_secs())));
        }
        Ok(())
    }

    /// Serves until a signal or a command ends it; `deferred` came before.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<Request>) {
        self.phase = Phase::Serving;
        self.announce(Instant::now());
        let mut stop = deferred.into_iter().find_map(|request| self.obey(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.obey(request));
            }
            stop = stop.or(self.desk.ends().map(Stop::Command));
        }
        let why = match stop {
            Some(Stop::Signal(signal)) => format!("stopping on signal {signal}"),
            Some(Stop::Command(by)) => format!("stopping on the exit command, by {by}"),
            None => "stopping".into(),
        };
        match stop {
            Some(Stop::Command(by)) => self.tell_operator(&format!("exit, by {by}"), Instant::now()),
            Some(Stop::Signal(_)) | None => self.say.debug(&why),
        }
        self.notify.stopping(&why, Instant::now());
        self.stop(signals);
    }

    /// To the administrator.
    pub(crate) fn say(&mut self) -> &mut Say {
        &mut self.say
    }

    /// Says where pen listens.
    pub(crate) fn say_where(&mut self) {
        self.say.debug(&format!("listening on {}", self.standing.listen));
        if let Some(control) = &self.control {
            self.say.debug(&format!("control port {}", control.name()));
        }
    }

    /// Does what a signal asks; returns the signal if it asks to stop.
    fn obey(&mut self, request: Request) -> Option<Stop> {
        match request {
            Request::Reopen => {
                self.notify.reloading("reading the configuration again", Instant::now());
                self.reopen_log();
                self.desk.hang_up();
                self.work(Instant::now());
            }
            Request::Report => {
                self.reporter.request();
                self.report(Instant::now());
            }
            // Every turn looks for the dead.
            Request::Child => {}
            Request::Stop(signal) => return Some(Stop::Signal(signal)),
        }
        None
    }

    /// Waits for something to happen, at most until `latest`, and deals with it.
    ///
    /// # Errors
    /// A worker died during the start.
    fn turn(&mut self, sources: &[BorrowedFd<'_>], latest: Option<Instant>) -> Result<(), StartError> {
        let (speakers, control) = self.wait(sources, latest);
        let now = Instant::now();
        for id in speakers {
            let news = self.crew.worker_mut(id).map(|worker| worker.read(MOST_AT_ONCE, now));
            self.hear(id, news.unwrap_or_default(), now);
        }
        if control {
            self.hear_control(now);
        }
        self.crew.workers_mut().for_each(|worker| worker.peer.kill_overdue(now));
        self.control.iter_mut().for_each(|control| control.kill_overdue(now));
        self.reap(now)?;
        if self.phase != Phase::Stopping {
            for id in self.crew.due(now) {
                self.fill(id, None, now);
            }
            self.keep_keys(now);
        }
        if self.phase == Phase::Serving {
            self.fill_control(now);
            self.report(now);
            self.work(now);
            self.beat(now);
        }
        self.send_due();
        Ok(())
    }

    /// Sends all processes what waits to be sent to them, and lets go of listeners that nobody uses any more.
    fn send_due(&mut self) {
        self.crew.workers_mut().for_each(|worker| worker.send_due(&self.inheritance));
        self.control.iter_mut().for_each(|control| control.send_due(&self.inheritance));
        if !self.standing.retired.is_empty() && self.crew.workers().all(|worker| worker.has_moved()) {
            self.standing.retired.clear();
        }
    }

    /// Takes a report a step further.
    fn report(&mut self, now: Instant) {
        self.reporter.expire(now, &mut self.say);
        if let Some(gathered) = self.reporter.gathered(&self.crew.totals(), now) {
            let file = self.standing.status.as_ref();
            let listen = self.standing.local.to_string();
            let (program, to) = (self.program(&listen, now), (file, &self.say));
            if let Err(error) = self.reporter.render(&gathered, &program, &self.inheritance, to, now) {
                self.say.warning(&format!("a report cannot be made now: {}", why(&error)));
            }
        }
        let Some(serial) = self.reporter.due() else { return };
        let (asked, unreachable) = self.ask_reports(serial, |_| true);
        self.reporter.begin(asked, unreachable, now);
    }

    /// Asks workers for reports; returns those that were asked and those whose channel is full.
    fn ask_reports(&self, serial: u32, of: impl Fn(WorkerId) -> bool) -> (BTreeSet<WorkerId>, BTreeSet<WorkerId>) {
        let serving = self.crew.workers().filter(|worker| worker.peer.is_ready() && of(worker.id));
        let (asked, unreachable): (Vec<_>, Vec<_>) = serving.partition(|worker| worker.ask_report(serial));
        let ids =
            |workers: Vec<&crate::processes::worker::Worker>| workers.into_iter().map(|worker| worker.id).collect();
        (ids(asked), ids(unreachable))
    }

    /// Opens the request log again and hands it to every worker, replacements included.
    fn reopen_log(&mut self) {
        // One that an operator named is known by its descriptor alone.
        let Some(LogTarget::File(path)) = self.standing.log.as_ref().filter(|_| !self.standing.log_is_held) else {
            return;
        };
        match request_log::open(path) {
            Ok(log) => {
                self.inheritance.log = Some(log);
                self.crew.workers_mut().for_each(|worker| worker.renew_log());
                self.say.debug(&format!("request log {} is reopened", path.display()));
            }
            Err(error) => self.say.warning(&format!("{error}; lines still go to the file that was opened before")),
        }
    }

    /// Ends all workers: by order, and after a time by force. A second signal is no reason to lose what workers still write out.
    fn stop(&mut self, signals: &Signals) {
        self.phase = Phase::Stopping;
        let deadline = Instant::now() + STOP_PATIENCE;
        self.crew.workers_mut().for_each(|worker| worker.order_stop());
        self.control.iter_mut().for_each(|control| control.order_stop());
        self.send_due();
        while !self.is_alone() && Instant::now() < deadline {
            let _ = self.turn(&[signals.as_fd()], Some(deadline));
            self.notify.settle();
            while signals.next().is_some() {}
        }
        for worker in self.crew.workers() {
            self.say.warning(&format!("worker {} (pid {}) did not stop in time; killed", worker.id, worker.peer.pid()));
        }
        self.end();
        let untold = self.throttle.finish();
        self.tell_many(untold);
        let untold = self.notices.finish(Instant::now());
        untold.iter().for_each(|line| self.say.notice(line));
        let totals = self.crew.totals();
        self.say.debug(&format!("stopped; {} clients accepted, {} unserved", totals.accepted, totals.unserved));
        if totals.crowded > 0 {
            self.say.debug(&format!("{} clients were closed for memory", totals.crowded));
        }
        if self.inheritance.keys.is_some() {
            let Counters { handshakes, resumed, failed_handshakes, .. } = totals;
            self.say
                .debug(&format!("TLS: {handshakes} handshakes, {resumed} of them resumed, {failed_handshakes} failed"));
        }
    }

    /// Kills and reaps whatever child is left.
    fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.reporter.stop();
        self.desk.stop();
        self.crew.workers_mut().for_each(|worker| worker.peer.kill());
        self.control.iter_mut().for_each(|control| control.kill());
        // SIGKILL needs no help; only a process in the midst of a device's work takes its time, and is left to it.
        let deadline = Instant::now() + KILL_PATIENCE;
        while !(self.is_alone() && self.reporter.process().is_none()) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }

    /// Whether no jailed process is left.
    fn is_alone(&self) -> bool {
        self.crew.is_empty() && self.control.as_ref().is_none_or(Control::is_empty)
    }
}

/// A start that fails leaves no worker.
impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long all processes may take to become ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to stop; with [`KILL_PATIENCE`] it is within the three seconds that the manual promises.
const STOP_PATIENCE: Duration = Duration::from_millis(2500);

/// How long killed workers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(300);

/// Most messages of one worker in one turn.
const MOST_AT_ONCE: usize = 64;
