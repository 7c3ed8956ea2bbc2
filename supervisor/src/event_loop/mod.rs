//! The supervisor's event loop: signals, messages, deaths, replacements, reports and commands.
//!
//! `poll`, `messages`, `respawn` and `heartbeat` are the steps of one turn of the loop. `commands`
//! executes commands one at a time; `reload` prepares changes of settings and puts them in force.
//! There is one thread, and nothing waits for a worker. It uses poll(2) and not epoll, because
//! every forked child would share an epoll set.

#![forbid(unsafe_code)]

pub(crate) mod commands;
pub(crate) mod full;
pub(crate) mod heartbeat;
pub(crate) mod job;
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
use crate::event_loop::commands::CommandQueue;
use crate::event_loop::full::Crowd;
use crate::event_loop::job::Requester;
use crate::event_loop::obstructed::Obstructed;
use crate::event_loop::reload::notices::ChangeNotices;
use crate::event_loop::state::RuntimeState;
use crate::files::request_log;
use crate::launch::interrupt::Interrupts;
use crate::limits::why_within_limits;
use crate::log::Logger;
use crate::log::errno::why;
use crate::log::events::throttle::Throttle;
use crate::processes::control::Control;
use crate::processes::liveness::Beat;
use crate::processes::pool::WorkerPool;
use crate::processes::spawn::SpawnContext;
use crate::report::Reporter;
use crate::signals::{SignalRequest, Signals};
use crate::systemd::notify::Notify;

/// The running pen.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: RuntimeState,
    context: SpawnContext,
    pool: WorkerPool,
    /// The control process, with `-C`.
    control: Option<Control>,
    reporter: Reporter,
    queue: CommandQueue,
    logger: Logger,
    notify: Notify,
    beat: Beat,
    /// The limit for log lines about events that workers report and clients can cause.
    throttle: Throttle,
    /// The limit for log lines about changes by operators.
    notices: ChangeNotices,
    /// Whether clients wait for a connection.
    crowd: Crowd,
    /// The servers that are passed over.
    obstructed: Obstructed,
    /// Whether the configuration file had errors when it was last read, and was not used.
    file_refused: bool,
    phase: Phase,
}

/// The reason why pen stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(Signal),
    /// The exit command, with its requester.
    Command(Requester),
}

/// The phase of the program, which decides what the death of a worker means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The start fails, unless the worker was ready before.
    Starting,
    /// The worker is replaced.
    Serving,
    /// One worker less to wait for.
    Stopping,
}

impl Supervisor {
    pub(crate) fn new(
        state: RuntimeState,
        context: SpawnContext,
        workers: u8,
        control: Option<Control>,
        logger: Logger,
        notify: Notify,
    ) -> Supervisor {
        let (pool, reporter, queue, beat) =
            (WorkerPool::new(workers), Reporter::new(), CommandQueue::default(), Beat::default());
        let (throttle, notices) =
            (Throttle::new(Instant::now()), ChangeNotices::new(Instant::now()));
        let (file_refused, phase) = (false, Phase::Starting);
        Supervisor {
            state,
            context,
            pool,
            control,
            reporter,
            queue,
            logger,
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

    /// Forks the workers, waits until all are ready, and then does the same with the control
    /// process.
    ///
    /// # Errors
    /// A process cannot be forked or jailed or does not become ready, or the start is interrupted.
    /// All children are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let now = Instant::now();
        for id in self.pool.ids() {
            let cannot = |error| {
                StartError(format!("cannot start worker {id}: {}", why_within_limits(&error)))
            };
            self.pool.spawn(id, &self.context, now).map_err(cannot)?;
        }
        let deadline = now + START_PATIENCE;
        while !self.pool.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        if let Some(control) = &mut self.control {
            let cannot = |error| {
                StartError(format!(
                    "cannot start the control process: {}",
                    why_within_limits(&error)
                ))
            };
            control.spawn(&self.context, Instant::now()).map_err(cannot)?;
        }
        while self.control.as_ref().is_some_and(|control| !control.is_ready())
            || !self.pool.is_complete()
        {
            self.start_turn(interrupts, deadline)?;
        }
        Ok(())
    }

    fn start_turn(
        &mut self,
        interrupts: &mut Interrupts,
        deadline: Instant,
    ) -> Result<(), StartError> {
        let sources: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
        self.turn(&sources, Some(deadline))?;
        drop(sources);
        interrupts.check()?;
        if Instant::now() >= deadline {
            let late = self.pool.workers().find(|worker| !worker.peer.is_ready());
            let late =
                late.map_or("the control process".into(), |worker| format!("worker {}", worker.id));
            return Err(StartError(format!(
                "{late} was not ready within {} s",
                START_PATIENCE.as_secs()
            )));
        }
        Ok(())
    }

    /// Serves until a signal or a command ends it. `deferred` are the signals that came earlier.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<SignalRequest>) {
        self.phase = Phase::Serving;
        self.announce(Instant::now());
        let mut stop = deferred.into_iter().find_map(|request| self.obey(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.obey(request));
            }
            stop = stop.or(self.queue.ends().map(Stop::Command));
        }
        let why = match stop {
            Some(Stop::Signal(signal)) => format!("stopping on signal {signal}"),
            Some(Stop::Command(by)) => format!("stopping on the exit command, by {by}"),
            None => "stopping".into(),
        };
        match stop {
            Some(Stop::Command(by)) => {
                self.tell_operator(&format!("exit, by {by}"), Instant::now())
            }
            Some(Stop::Signal(_)) | None => self.logger.debug(&why),
        }
        self.notify.stopping(&why, Instant::now());
        self.stop(signals);
    }

    /// The logger.
    pub(crate) fn logger(&mut self) -> &mut Logger {
        &mut self.logger
    }

    /// Logs the listen address.
    pub(crate) fn say_where(&mut self) {
        self.logger.debug(&format!("listening on {}", self.state.listen));
        if let Some(control) = &self.control {
            self.logger.debug(&format!("control port {}", control.name()));
        }
    }

    /// Carries out the request of a signal. Returns the signal if it stops pen.
    fn obey(&mut self, request: SignalRequest) -> Option<Stop> {
        match request {
            SignalRequest::Reopen => {
                self.notify.reloading("reading the configuration again", Instant::now());
                self.reopen_log();
                self.queue.hang_up();
                self.work(Instant::now());
            }
            SignalRequest::Report => {
                self.reporter.request();
                self.report(Instant::now());
            }
            // Every turn of the loop reaps children.
            SignalRequest::Child => {}
            SignalRequest::Stop(signal) => return Some(Stop::Signal(signal)),
        }
        None
    }

    /// Waits for an event, at most until `latest`, and handles it.
    ///
    /// # Errors
    /// A worker died during the start.
    fn turn(
        &mut self,
        sources: &[BorrowedFd<'_>],
        latest: Option<Instant>,
    ) -> Result<(), StartError> {
        let (speakers, control) = self.wait(sources, latest);
        let now = Instant::now();
        for id in speakers {
            let reports = self.pool.worker_mut(id).map(|worker| worker.read(MOST_AT_ONCE, now));
            self.hear(id, reports.unwrap_or_default(), now);
        }
        if control {
            self.hear_control(now);
        }
        self.pool.workers_mut().for_each(|worker| worker.peer.kill_overdue(now));
        self.control.iter_mut().for_each(|control| control.kill_overdue(now));
        self.reap(now)?;
        if self.phase != Phase::Stopping {
            for id in self.pool.due(now) {
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

    /// Sends queued messages to all processes, and closes old listeners that no worker uses any
    /// more.
    fn send_due(&mut self) {
        self.pool.workers_mut().for_each(|worker| worker.send_due(&self.context));
        self.control.iter_mut().for_each(|control| control.send_due(&self.context));
        if !self.state.retired.is_empty() && self.pool.workers().all(|worker| worker.has_moved()) {
            self.state.retired.clear();
        }
    }

    /// Advances a report.
    fn report(&mut self, now: Instant) {
        self.reporter.expire(now, &mut self.logger);
        if let Some(gathered) = self.reporter.gathered(&self.pool.totals(), now) {
            let file = self.state.status.as_ref();
            let listen = self.state.local.to_string();
            let (program, to) = (self.program(&listen, now), (file, &self.logger));
            if let Err(error) = self.reporter.render(&gathered, &program, &self.context, to, now) {
                self.logger.warning(&format!("a report cannot be made now: {}", why(&error)));
            }
        }
        let Some(serial) = self.reporter.due() else { return };
        let (asked, unreachable) = self.ask_reports(serial, |_| true);
        self.reporter.begin(asked, unreachable, now);
    }

    /// Asks workers for reports. Returns the workers that were asked, and those whose channel is
    /// full.
    fn ask_reports(
        &self,
        serial: u32,
        of: impl Fn(WorkerId) -> bool,
    ) -> (BTreeSet<WorkerId>, BTreeSet<WorkerId>) {
        let serving = self.pool.workers().filter(|worker| worker.peer.is_ready() && of(worker.id));
        let (asked, unreachable): (Vec<_>, Vec<_>) =
            serving.partition(|worker| worker.ask_report(serial));
        let ids = |workers: Vec<&crate::processes::worker::Worker>| {
            workers.into_iter().map(|worker| worker.id).collect()
        };
        (ids(asked), ids(unreachable))
    }

    /// Opens the request log again and passes it to every worker, replacements included.
    fn reopen_log(&mut self) {
        // A log that an operator named is known only by its descriptor.
        let Some(LogTarget::File(path)) =
            self.state.log.as_ref().filter(|_| !self.state.log_is_held)
        else {
            return;
        };
        match request_log::open(path) {
            Ok(log) => {
                self.context.log = Some(log);
                self.pool.workers_mut().for_each(|worker| worker.renew_log());
                self.logger.debug(&format!("request log {} is reopened", path.display()));
            }
            Err(error) => self
                .logger
                .warning(&format!("{error}; lines still go to the file that was opened before")),
        }
    }

    /// Ends all workers: by message, and after a while by SIGKILL. A second signal does not shorten
    /// this: the workers may still write log lines.
    fn stop(&mut self, signals: &Signals) {
        self.phase = Phase::Stopping;
        let deadline = Instant::now() + STOP_PATIENCE;
        self.pool.workers_mut().for_each(|worker| worker.order_stop());
        self.control.iter_mut().for_each(|control| control.order_stop());
        self.send_due();
        while !self.is_alone() && Instant::now() < deadline {
            let _ = self.turn(&[signals.as_fd()], Some(deadline));
            self.notify.settle();
            while signals.next().is_some() {}
        }
        for worker in self.pool.workers() {
            self.logger.warning(&format!(
                "worker {} (pid {}) did not stop in time; killed",
                worker.id,
                worker.peer.pid()
            ));
        }
        self.end();
        let untold = self.throttle.finish();
        self.tell_many(untold);
        let untold = self.notices.finish(Instant::now());
        untold.iter().for_each(|line| self.logger.notice(line));
        let totals = self.pool.totals();
        self.logger.debug(&format!(
            "stopped; {} clients accepted, {} unserved",
            totals.accepted, totals.unserved
        ));
        if totals.crowded > 0 {
            self.logger.debug(&format!("{} clients were closed for memory", totals.crowded));
        }
        if self.context.keys.is_some() {
            let Counters { handshakes, resumed, failed_handshakes, .. } = totals;
            self.logger.debug(&format!(
                "TLS: {handshakes} handshakes, {resumed} of them resumed, \
                    {failed_handshakes} failed"
            ));
        }
    }

    /// Kills and reaps all children that are left.
    fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.reporter.stop();
        self.queue.stop();
        self.pool.workers_mut().for_each(|worker| worker.peer.kill());
        self.control.iter_mut().for_each(|control| control.kill());
        // SIGKILL needs no cooperation. Only a process that waits for a device ends later; it is
        // left to the kernel.
        let deadline = Instant::now() + KILL_PATIENCE;
        while !(self.is_alone() && self.reporter.process().is_none()) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }

    /// Whether all jailed processes have ended.
    fn is_alone(&self) -> bool {
        self.pool.is_empty() && self.control.as_ref().is_none_or(Control::is_empty)
    }
}

/// A failed start leaves no worker behind.
impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long all processes may take to become ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to stop; with [`KILL_PATIENCE`] it is within the three seconds that
/// the manual promises.
const STOP_PATIENCE: Duration = Duration::from_millis(2500);

/// How long killed workers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(300);

/// Most messages of one worker in one turn.
const MOST_AT_ONCE: usize = 64;
