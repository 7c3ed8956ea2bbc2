//! The supervisor's event loop: signals, messages, deaths, replacements, reports and commands.
//!
//! `poll`, `messages`, `respawn` and `heartbeat` are the steps of one turn of the loop. `commands`
//! executes commands one at a time; `reload` prepares changes of settings and puts them in force.
//! There is one thread, and nothing waits for a worker. It uses poll(2) and not epoll, because
//! every forked child would share an epoll set.

#![forbid(unsafe_code)]

pub(crate) mod commands;
pub(crate) mod full;
pub(crate) mod generation;
pub(crate) mod heartbeat;
pub(crate) mod job;
pub(crate) mod keep;
pub(crate) mod messages;
pub(crate) mod obstructed;
pub(crate) mod page;
pub(crate) mod poll;
pub(crate) mod reload;
pub(crate) mod respawn;
pub(crate) mod state;
pub(crate) mod tls_rotation;
pub(crate) mod upgrade;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pen_config::command::LogTarget;
use pen_config::ids::WorkerId;
use pen_ipc::start::Begins;
use pen_ipc::stats::Counters;
use pen_status::event::EventKind;

use crate::StartError;
use crate::event_loop::commands::queue::CommandQueue;
use crate::event_loop::full::FullPeriod;
pub(crate) use crate::event_loop::generation::Adopted;
use crate::event_loop::job::Requester;
use crate::event_loop::obstructed::Obstructed;
use crate::event_loop::page::PageQuestion;
use crate::event_loop::poll::Source;
use crate::event_loop::reload::notices::ChangeNotices;
use crate::event_loop::state::RuntimeState;
use crate::event_loop::upgrade::Upgrade;
use crate::files::line_log;
use crate::files::line_log::{LineLog, OpenLog};
use crate::files::made::MadeFile;
use crate::files::pid_file::{PidFile, PidFileError};
use crate::handover::Build;
use crate::kept::Keeper;
use crate::kept::state::End;
use crate::launch::interrupt::Interrupts;
use crate::limits::why_within_limits;
use crate::log::events::throttle::Throttle;
use crate::log::recent::Incident;
use crate::log::{Logger, Reach, Severity};
use crate::processes::liveness::Beat;
use crate::processes::old::OldWorkers;
use crate::processes::old_tables::OldTables;
use crate::processes::pool::WorkerPool;
use crate::processes::ports::control::Control;
use crate::processes::ports::kind::PortKind;
use crate::processes::ports::old::{OldControl, OldPage};
use crate::processes::ports::page::Page;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::OpenConnectionLog;
use crate::processes::spawn::SpawnContext;
use crate::report::past::Past;
use crate::signals::{SignalRequest, Signals};
use crate::systemd::notify::Notify;
use pen_ipc::start::RequestLog;

/// The running pen.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state: RuntimeState,
    context: SpawnContext,
    pool: WorkerPool,
    /// Workers of earlier programs that still have connections.
    old: OldWorkers,
    /// The tables of those that use another one than `context.table`.
    old_tables: OldTables,
    /// The control process of an earlier program, until it has ended.
    old_control: Option<OldControl>,
    /// The page process of an earlier program, until it has ended.
    old_page: Option<OldPage>,
    /// The control process, with `-C`.
    control: Option<Control>,
    /// The page process, with `page`.
    page: Option<Page>,
    page_question: PageQuestion,
    queue: CommandQueue,
    /// An upgrade under way.
    upgrade: Option<Upgrade>,
    /// The process that last got the outcome of an upgrade that it had asked for by signal.
    answered: Option<Pid>,
    logger: Logger,
    notify: Notify,
    keeper: Keeper,
    beat: Beat,
    /// The limit for log lines about events that workers report and clients can cause.
    throttle: Throttle,
    /// The limit for log lines about changes by operators.
    notices: ChangeNotices,
    /// Whether clients wait for a connection.
    full: FullPeriod,
    /// The servers that are passed over.
    obstructed: Obstructed,
    /// Whether the connection log reaches the syslog daemon.
    daemon: Reach,
    /// What reports tell of the past.
    past: Past,
    /// Whether the configuration file had errors when it was last read, and was not used.
    file_refused: bool,
    phase: Phase,
    /// When new workers and a new control process accept: not before this program is in charge.
    begins: Begins,
    /// This program.
    build: Build,
    /// The pid file. It is the last field, so that it is removed last.
    pid_file: Option<PidFile>,
}

/// The processes with ports of their own.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) control: Option<Control>,
    pub(crate) page: Option<Page>,
}

/// Whom the running pen tells about itself.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) logger: Logger,
    /// The service manager.
    pub(crate) notify: Notify,
    /// What the manager keeps for the next start.
    pub(crate) keeper: Keeper,
    /// The pid file, locked.
    pub(crate) pid_file: Option<PidFile>,
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
        ports: Ports,
        output: Output,
        build: Build,
    ) -> Supervisor {
        let now = Instant::now();
        let Output { logger, notify, keeper, pid_file } = output;
        let Ports { control, page } = ports;
        Supervisor {
            state,
            context,
            pool: WorkerPool::new(workers),
            old: OldWorkers::default(),
            old_tables: OldTables::default(),
            old_control: None,
            old_page: None,
            control,
            page,
            page_question: PageQuestion::default(),
            queue: CommandQueue::default(),
            upgrade: None,
            answered: None,
            logger,
            notify,
            keeper,
            beat: Beat::default(),
            throttle: Throttle::new(now),
            notices: ChangeNotices::new(now),
            full: FullPeriod::default(),
            obstructed: Obstructed::new(now),
            daemon: Reach::default(),
            past: Past::new(),
            file_refused: false,
            phase: Phase::Starting,
            begins: Begins::AtOnce,
            build,
            pid_file,
        }
    }

    /// Forks the workers, waits until all are ready, and then does the same with the processes that
    /// have ports of their own.
    ///
    /// # Errors
    /// A process cannot be forked or jailed or does not become ready, or the start is interrupted.
    /// All children are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let deadline = Instant::now() + START_PATIENCE;
        self.spawn_workers()?;
        while !self.pool.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        self.spawn_ports()?;
        while self.late().is_some() {
            self.start_turn(interrupts, deadline)?;
        }
        Ok(())
    }

    fn start_turn(
        &mut self,
        interrupts: &mut Interrupts,
        deadline: Instant,
    ) -> Result<(), StartError> {
        let signals: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
        self.turn(&signals, Some(deadline))?;
        drop(signals);
        interrupts.check()?;
        match self.late().filter(|_| Instant::now() >= deadline) {
            Some(late) => Err(not_ready(&late, START_PATIENCE)),
            None => Ok(()),
        }
    }

    /// Forks a worker into each slot.
    fn spawn_workers(&mut self) -> Result<(), StartError> {
        for id in self.pool.ids() {
            let cannot = |error| {
                StartError(format!("cannot start worker {id}: {}", why_within_limits(&error)))
            };
            self.pool.spawn(id, self.begins, &self.context, Instant::now()).map_err(cannot)?;
        }
        Ok(())
    }

    /// Forks the control and the page process, if there are to be such.
    fn spawn_ports(&mut self) -> Result<(), StartError> {
        let (begins, context) = (self.begins, &self.context);
        self.control.iter_mut().try_for_each(|control| spawn_port(control, begins, context))?;
        self.page.iter_mut().try_for_each(|page| spawn_port(page, begins, context))
    }

    /// The first process that is not ready yet.
    fn late(&self) -> Option<String> {
        let worker = self
            .pool
            .ids()
            .zip(self.pool.slots())
            .find(|(_, (_, worker))| !worker.is_some_and(|worker| worker.peer.is_ready()))
            .map(|(id, _)| format!("worker {id}"));
        let control = self.control.as_ref().and_then(late_port);
        worker.or(control).or_else(|| self.page.as_ref().and_then(late_port))
    }

    /// Serves until a signal or a command ends it. `deferred` are the signals that came earlier.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<SignalRequest>) {
        self.phase = Phase::Serving;
        self.keep(End::Running);
        self.announce(Instant::now());
        let mut stop = deferred.into_iter().find_map(|request| self.handle_signal(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.handle_signal(request));
            }
            stop = stop.or(self.queue.ends().map(Stop::Command));
        }
        let why = match stop {
            Some(Stop::Signal(signal)) => format!("stopping on signal {signal}"),
            Some(Stop::Command(by)) => format!("stopping on the exit command, by {by}"),
            None => "stopping".into(),
        };
        let incident = Incident::of(EventKind::Stopping);
        match stop {
            Some(Stop::Command(by)) => self.tell_operator("exit", incident, by, Instant::now()),
            Some(Stop::Signal(signal)) => {
                let incident = incident.with("reason", signal.as_str());
                self.logger.event(Severity::Debug, incident, &why);
            }
            None => self.logger.event(Severity::Debug, incident, &why),
        }
        self.notify.stopping(&why, Instant::now());
        self.stop(signals);
    }

    /// Writes the pid file, if there is one.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(crate) fn write_pid_file(&mut self) -> Result<(), PidFileError> {
        self.pid_file.as_mut().map_or(Ok(()), PidFile::write)
    }

    /// The logger.
    pub(crate) fn logger(&mut self) -> &mut Logger {
        &mut self.logger
    }

    /// Logs the listen address, and what became of the pen before, as far as a service manager
    /// kept that. `used` says what else it kept.
    pub(crate) fn log_start(&mut self, before: Option<End>, used: Option<String>) {
        let address = self.state.listen.to_string();
        let mut line = format!("listening on {address}");
        let (previous, severity) = match before {
            Some(End::Running) => (Some("died"), Severity::Notice),
            Some(End::Orderly) => (Some("stopped"), Severity::Debug),
            None => (None, Severity::Debug),
        };
        if before == Some(End::Running) {
            line += "; pen died before";
        }
        used.iter().for_each(|used| line += &format!("; {used}"));
        let incident = Incident::of(EventKind::Started)
            .with("address", address)
            .with("version", self.build.version)
            .with("pid", std::process::id())
            .with_if("previous", previous);
        self.logger.event(severity, incident, &line);
        if let Some(control) = &self.control {
            self.logger.debug(&format!("control port {}", control.port().name));
        }
        if let Some(page) = &self.page {
            self.logger.debug(&format!("page {}", page.port().name));
        }
    }

    /// Carries out the request of a signal. Returns the signal if it stops pen.
    fn handle_signal(&mut self, request: SignalRequest) -> Option<Stop> {
        match request {
            SignalRequest::Reopen => {
                self.notify.reloading("reading the configuration again", Instant::now());
                self.reopen_logs();
                self.queue.hang_up();
                self.work(Instant::now());
            }
            SignalRequest::Report => {
                self.queue.request_report();
                self.work(Instant::now());
            }
            SignalRequest::Upgrade { asker } => {
                let by = Requester::Signal { asker };
                // A process that waits sends its signal again and again. The last one may come when
                // the process has its answer.
                let has_answer =
                    asker.is_some() && self.answered.take_if(|last| Some(*last) == asker).is_some();
                let waits = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_by(by));
                if !has_answer && !waits {
                    self.queue.request_upgrade(asker);
                }
                self.work(Instant::now());
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
        signals: &[BorrowedFd<'_>],
        latest: Option<Instant>,
    ) -> Result<(), StartError> {
        let ready = self.wait(signals, latest);
        let now = Instant::now();
        for source in ready {
            match source {
                Source::Worker(id) => {
                    let worker = self.pool.worker_mut(id);
                    let reports = worker.map(|worker| worker.read(MOST_AT_ONCE, now));
                    self.handle_messages(id, reports.unwrap_or_default(), now);
                }
                Source::OldWorker(pid) => {
                    for (id, event) in self.old.read(pid, MOST_AT_ONCE, now) {
                        self.handle_event(id, event, now);
                    }
                }
                Source::Control => self.handle_control_messages(now),
                Source::Page => self.handle_page_messages(MOST_AT_ONCE, now),
                Source::OldPort => {
                    self.old_control.iter_mut().for_each(|old| old.skip(MOST_AT_ONCE, now));
                    self.old_page.iter_mut().for_each(|old| old.skip(MOST_AT_ONCE, now));
                }
                // The caller reads signals. Dead processes and the answers of helpers are looked
                // for in every turn.
                Source::Signals | Source::Process | Source::Helper => {}
            }
        }
        self.pool.workers_mut().for_each(|worker| worker.peer.kill_overdue(now));
        self.control.iter_mut().for_each(|control| control.kill_overdue(now));
        self.page.iter_mut().for_each(|page| page.kill_overdue(now));
        self.old.kill_overdue(now);
        self.old_control.iter_mut().for_each(|old| old.kill_overdue(now));
        self.old_page.iter_mut().for_each(|old| old.kill_overdue(now));
        self.reap(now)?;
        if self.phase != Phase::Stopping {
            for id in self.pool.due(now) {
                self.respawn(id, None, now);
            }
        }
        match self.phase {
            Phase::Starting => {}
            Phase::Serving => {
                self.keep_keys(now);
                self.respawn_ports(now);
                self.end_overdue_workers(now);
                if self.old_tables.due().is_some_and(|due| due <= now) {
                    self.copy_old_tables(now);
                }
                self.work(now);
                self.work_on_page(now);
                self.work_on_upgrade(now);
                self.beat(now);
            }
            Phase::Stopping => self.work_on_report(now),
        }
        self.send_due();
        Ok(())
    }

    /// Sends queued messages to all processes, and closes old listeners that no worker uses any
    /// more.
    fn send_due(&mut self) {
        self.pool.workers_mut().for_each(|worker| worker.send_due(&self.context));
        if let Some(control) = &mut self.control {
            // Before an order to end.
            control.send_events(self.logger.recent());
            control.send_due(&self.context);
        }
        self.page.iter_mut().for_each(|page| page.send_due(&self.context));
        self.old.send_due(&self.context);
        self.old_control.iter_mut().for_each(OldControl::send_due);
        self.old_page.iter_mut().for_each(OldPage::send_due);
        if !self.state.retired.is_empty() && self.pool.workers().all(|worker| worker.has_moved()) {
            self.state.retired.clear();
        }
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

    /// Opens the logs again and passes them to every worker, replacements included.
    fn reopen_logs(&mut self) {
        self.reopen_log(LineLog::Requests);
        self.reopen_log(LineLog::Connections);
        if self.context.logs_to_daemon() {
            // Old workers cannot ask for another daemon.
            self.renew_connection_log();
        }
    }

    fn reopen_log(&mut self, which: LineLog) {
        // A log that an operator named is known only by its descriptor.
        let (target, is_held) = self.state.line_log(which);
        let Some(path) = target.filter(|_| !is_held).and_then(LogTarget::file) else { return };
        match line_log::open_file(which, path) {
            Ok(OpenLog { log, made }) => {
                made.map(MadeFile::keep);
                self.logger.debug(&format!("{which} {} is reopened", path.display()));
                self.use_log(which, log);
            }
            Err(error) => self
                .logger
                .warning(&format!("{error}; lines still go to the file that was opened before")),
        }
    }

    /// Passes a log that was opened again to every worker.
    pub(in crate::event_loop) fn use_log(&mut self, which: LineLog, log: RequestLog) {
        match which {
            LineLog::Requests => {
                self.context.log = Some(log);
                self.pool.workers_mut().for_each(|worker| worker.renew_log());
                self.old.renew_log();
            }
            LineLog::Connections => {
                self.context.connection_log = Some(OpenConnectionLog::Log(log));
                self.renew_connection_log();
            }
        }
    }

    /// Passes the connection log to every worker.
    pub(in crate::event_loop) fn renew_connection_log(&mut self) {
        if !self.context.logs_to_daemon() {
            self.daemon = Reach::default();
        }
        self.pool.workers_mut().for_each(|worker| worker.renew_connection_log());
        self.old.renew_connection_log();
    }

    /// Ends all workers: by message, and after a while by SIGKILL. A second signal does not shorten
    /// this: the workers may still write log lines.
    fn stop(&mut self, signals: &Signals) {
        self.phase = Phase::Stopping;
        let deadline = Instant::now() + STOP_PATIENCE;
        self.pool.workers_mut().for_each(|worker| worker.order_stop());
        self.control.iter_mut().for_each(|control| control.order_stop());
        self.page.iter_mut().for_each(|page| page.order_stop());
        self.page_question.kill();
        self.old.order_stop();
        self.old_control.iter_mut().for_each(OldControl::kill);
        self.old_page.iter_mut().for_each(OldPage::kill);
        self.send_due();
        if let Some((by, success)) = self.queue.take_unconfirmed() {
            self.tell_success(success, by, Instant::now());
        }
        if self.queue.has_unwritten_report() {
            self.logger.warning("the report was not made: pen stops");
        }
        self.queue.stop();
        if let Some(upgrade) = self.upgrade.take() {
            self.queue.leave(upgrade.kill());
        }
        while !self.all_ended() && Instant::now() < deadline {
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
        for worker in self.old.workers() {
            self.logger.warning(&format!(
                "old worker {} (pid {}) did not stop in time; killed",
                worker.origin.id,
                worker.peer.pid()
            ));
        }
        self.end();
        self.leave_kept();
        self.log_unlogged(Instant::now());
        let totals = self.totals();
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
        self.queue.stop();
        self.queue.kill();
        self.pool.workers_mut().for_each(|worker| worker.peer.kill());
        self.control.iter_mut().for_each(|control| control.kill());
        self.page.iter_mut().for_each(|page| page.kill());
        self.page_question.kill();
        self.old.kill();
        self.old_control.iter_mut().for_each(OldControl::kill);
        self.old_page.iter_mut().for_each(OldPage::kill);
        // SIGKILL needs no cooperation. Only a process that waits for a device ends later; it is
        // left to the kernel.
        let deadline = Instant::now() + KILL_PATIENCE;
        let is_over = |service: &mut Supervisor| {
            service.all_ended() && service.queue.is_reaped() && service.page_question.is_reaped()
        };
        while !is_over(self) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }

    /// Whether all jailed processes have ended.
    fn all_ended(&self) -> bool {
        self.pool.is_empty()
            && self.control.as_ref().is_none_or(Control::is_empty)
            && self.page.as_ref().is_none_or(Page::is_empty)
            && self.old.is_empty()
            && self.old_control.is_none()
            && self.old_page.is_none()
    }
}

/// A failed start leaves no worker behind.
impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Forks a process with a port into its slot.
fn spawn_port<K: PortKind>(
    slot: &mut Slot<K>,
    begins: Begins,
    context: &SpawnContext,
) -> Result<(), StartError> {
    let cannot =
        |error| StartError(format!("cannot start {}: {}", K::NAME, why_within_limits(&error)));
    slot.spawn(begins, context, Instant::now()).map(drop).map_err(cannot)
}

/// The name of a process with a port that is not ready yet.
fn late_port<K: PortKind>(slot: &Slot<K>) -> Option<String> {
    (!slot.is_ready()).then(|| K::NAME.to_owned())
}

/// The error of a start in which a process is late.
fn not_ready(late: &str, patience: Duration) -> StartError {
    StartError(format!("{late} was not ready within {} s", patience.as_secs()))
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
