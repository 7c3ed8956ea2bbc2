//! The supervisor's event loop: signals, messages, deaths, replacements, reports and commands.
//!
//! `poll`, `messages`, `respawn` and `heartbeat` are the steps of one turn of the loop. `phases`
//! has its start and its end. `commands` executes commands one at a time; `reload` prepares changes
//! of settings and puts them in force.
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
pub(crate) mod moves;
pub(crate) mod names;
pub(crate) mod obstructed;
pub(crate) mod page;
pub(crate) mod phases;
pub(crate) mod poll;
pub(crate) mod reload;
pub(crate) mod respawn;
pub(crate) mod servers;
pub(crate) mod state;
pub(crate) mod tls_rotation;
pub(crate) mod upgrade;

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::unistd::Pid;
use pen_config::ids::{ServerId, WorkerId};
use pen_ipc::start::Begins;

use crate::StartError;
use crate::event_loop::commands::queue::CommandQueue;
use crate::event_loop::full::FullPeriod;
pub(crate) use crate::event_loop::generation::Adopted;
use crate::event_loop::names::NamesOverTime;
use crate::event_loop::obstructed::Obstructed;
use crate::event_loop::page::PageQuestion;
use crate::event_loop::poll::Source;
use crate::event_loop::reload::notices::ChangeNotices;
use crate::event_loop::servers::checker::Checking;
use crate::event_loop::servers::drains::Drains;
use crate::event_loop::servers::rebalance::Rebalancing;
use crate::event_loop::state::RuntimeState;
use crate::event_loop::upgrade::Upgrade;
use crate::files::pid_file::PidFile;
use crate::handover::Build;
use crate::kept::Keeper;
use crate::log::events::throttle::Throttle;
use crate::log::{Logger, Reach};
use crate::processes::liveness::Beat;
use crate::processes::old::OldWorkers;
use crate::processes::old_tables::OldTables;
use crate::processes::pool::WorkerPool;
use crate::processes::ports::control::Control;
use crate::processes::ports::old::{OldControl, OldPage};
use crate::processes::ports::page::Page;
use crate::processes::spawn::SpawnContext;
use crate::report::past::Past;
use crate::systemd::notify::Notify;

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
    /// The checker, and what it found out.
    checking: Checking,
    /// The servers that leave by settings that not all workers have yet: they keep their standing.
    leaving: BTreeSet<ServerId>,
    /// The names of servers, and their lookups.
    names: NamesOverTime,
    queue: CommandQueue,
    /// The operators who wait until a server has drained.
    drains: Drains,
    /// The servers that have more than their share of the connections.
    rebalancing: Rebalancing,
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
            checking: Checking::default(),
            leaving: BTreeSet::new(),
            names: NamesOverTime::default(),
            queue: CommandQueue::default(),
            drains: Drains::default(),
            rebalancing: Rebalancing::default(),
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

    /// The logger.
    pub(crate) fn logger(&mut self) -> &mut Logger {
        &mut self.logger
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
                    if let Some((id, reports)) = self.old.read(pid, MOST_AT_ONCE, now) {
                        self.handle_messages(id, reports, now);
                    }
                }
                Source::Control => self.handle_control_messages(now),
                Source::Page => self.handle_page_messages(MOST_AT_ONCE, now),
                Source::Checker => self.handle_checker_messages(MOST_AT_ONCE, now),
                Source::OldPort => {
                    self.old_control.iter_mut().for_each(|old| old.skip(MOST_AT_ONCE, now));
                    self.old_page.iter_mut().for_each(|old| old.skip(MOST_AT_ONCE, now));
                    let checker = self.checking.old_mut();
                    checker.into_iter().for_each(|old| old.skip(MOST_AT_ONCE, now));
                }
                // The caller reads signals. Dead processes and the answers of helpers are looked
                // for in every turn.
                Source::Signals | Source::Process | Source::Helper => {}
            }
        }
        self.pool.workers_mut().for_each(|worker| worker.peer.kill_overdue(now));
        self.control.iter_mut().for_each(|control| control.kill_overdue(now));
        self.page.iter_mut().for_each(|page| page.kill_overdue(now));
        self.checking.kill_overdue(now);
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
                self.work_on_names(now);
                self.work(now);
                self.work_on_drains(now);
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
        self.send_due_to_checkers();
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
}

/// Most messages of one worker in one turn.
const MOST_AT_ONCE: usize = 64;
