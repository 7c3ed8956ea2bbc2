//! Generations of workers: a program that took over starts its own, and the workers before it serve
//! what they have.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::unistd::{Pid, getsid};
use pen_config::ids::WorkerId;
use pen_ipc::message::Outcome;
use pen_ipc::start::Begins;
use pen_ipc::stats::Counters;
use pen_status::ChangeResult;
use pen_status::event::EventKind;

use crate::StartError;
use crate::asker;
use crate::event_loop::job::Requester;
use crate::event_loop::names::NamesOverTime;
use crate::event_loop::phases::start::not_ready;
use crate::event_loop::servers::checker::Checking;
use crate::event_loop::servers::rebalance::Rebalancing;
use crate::event_loop::state::RuntimeState;
use crate::event_loop::{Output, Phase, Ports, Supervisor};
use crate::former_marks::FormerMarks;
use crate::handover::Build;
use crate::handover::TableTransfer;
use crate::handover::marker::Role;
use crate::handover::state::Asker;
use crate::kept::state::End;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::lookups::CarriedLookups;
use crate::processes::child::{Child, children};
use crate::processes::old::OldWorkers;
use crate::processes::old_tables::{OldTables, TableNumber, TableRow};
use crate::processes::old_worker::{AdoptedOldWorker, Origin};
use crate::processes::peer::AdoptedProcess;
use crate::processes::pool::{AdoptedSlot, WorkerPool};
use crate::processes::ports::control::{ControlReply, ReplyBody};
use crate::processes::ports::kind::AcceptOrder;
use crate::processes::ports::old::{OldControl, OldPage};
use crate::processes::ports::port::Port;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;
use crate::processes::worker::AdoptedWorker;
use crate::report::past::{CarriedPast, Past};
use crate::verdicts::CarriedChecks;

/// The processes that an earlier program left.
#[derive(Debug)]
pub(crate) struct Adopted {
    /// Whether this program takes over from it, or is itself that program.
    pub(crate) role: Role,
    /// Its version.
    pub(crate) version: String,
    /// The version of the lasting messages that its workers know.
    pub(crate) lasting: u16,
    /// The number of that program among those that had this process.
    pub(crate) generation: u32,
    /// The slots, with the workers that take clients.
    pub(crate) slots: Vec<AdoptedSlot>,
    pub(crate) old_workers: Vec<AdoptedOldWorker>,
    pub(crate) old_tables: OldTables,
    /// The number of the table of its workers, if it is not the one in use.
    pub(crate) replaced: Option<TableNumber>,
    /// The control port, and its process if there is one.
    pub(crate) control: Option<(Port, Option<AdoptedProcess>)>,
    /// The port of the page, and its process if there is one.
    pub(crate) page: Option<(Port, Option<AdoptedProcess>)>,
    /// The verdicts of checks, and the checker if there is one.
    pub(crate) checks: (CarriedChecks, Option<AdoptedProcess>),
    /// What is known of the names of servers.
    pub(crate) lookups: CarriedLookups,
    /// The marks of servers before they moved.
    pub(crate) former_marks: FormerMarks,
    /// The counters of workers that have ended, summed.
    pub(crate) retired: Counters,
    /// What reports tell of the past.
    pub(crate) past: CarriedPast,
    /// Whether the configuration file had errors when it was last read.
    pub(crate) file_refused: bool,
}

impl Supervisor {
    /// A supervisor with the processes that an earlier program left.
    pub(crate) fn adopted(
        state: RuntimeState,
        context: SpawnContext,
        adopted: Adopted,
        output: Output,
        build: Build,
    ) -> Supervisor {
        let now = Instant::now();
        let user = context.jail.identity.uid;
        let settings = context.settings.generation;
        let Adopted { role, slots, control, page, checks, retired, .. } = adopted;
        let checking = Checking::adopted(checks, role, &context.settings, user, now);
        let (version, mut old_workers) = (adopted.version, adopted.old_workers);
        // At most MAX_WORKERS.
        let workers = slots.len() as u8;
        let (mut old_control, mut old_page) = (None, None);
        let (pool, ports) = match role {
            Role::Predecessor => {
                let control = control
                    .map(|(port, process)| Slot::adopted(port, process, settings, user, now));
                let page =
                    page.map(|(port, process)| Slot::adopted(port, process, settings, user, now));
                (WorkerPool::adopted(slots, retired, user, now), Ports { control, page })
            }
            Role::Successor => {
                let (lasting, generation) = (adopted.lasting, adopted.generation);
                let ended: Vec<_> = slots.iter().map(|slot| slot.ended).collect();
                let becoming_old = (0..).zip(slots).filter_map(|(number, slot)| {
                    let AdoptedWorker { process, counters, .. } = slot.worker?;
                    let (id, version) = (WorkerId(number), version.clone());
                    let row = TableRow { table: adopted.replaced, row: slot.row };
                    let origin = Origin { id, row, version, lasting, generation, since: now };
                    Some(AdoptedOldWorker { origin, process, counters })
                });
                old_workers.extend(becoming_old);
                let control = control.map(|(port, process)| {
                    old_control = process.map(|process| OldControl::adopted(process, user, now));
                    Slot::new(port)
                });
                let page = page.map(|(port, process)| {
                    old_page = process.map(|process| OldPage::adopted(process, user, now));
                    Slot::new(port)
                });
                let mut pool = WorkerPool::new(workers);
                pool.retire(&retired);
                pool.follow(ended);
                (pool, Ports { control, page })
            }
        };
        let uptime = now.saturating_duration_since(state.started);
        let mut service = Supervisor::new(state, context, workers, ports, output, build);
        service.pool = pool;
        service.old = OldWorkers::adopted(old_workers, user, now);
        service.old_control = old_control;
        service.old_page = old_page;
        service.checking = checking;
        let (lookups, former) = (adopted.lookups, adopted.former_marks);
        service.names = NamesOverTime::adopted(lookups, former, &service.context.settings);
        service.rebalancing = Rebalancing::adopted(now);
        service.old_tables = adopted.old_tables;
        service.past = Past::adopted(adopted.past, uptime);
        service.file_refused = adopted.file_refused;
        match role {
            Role::Successor => {
                service.begins = Begins::OnOrder;
                service.give_rows();
            }
            // Its slots have rows.
            Role::Predecessor => {}
        }
        service.copy_old_tables(now);
        service
    }

    /// Gives the slots of the pool rows of the table in use that nobody has. There are enough: the
    /// earlier program waited until there were.
    fn give_rows(&mut self) {
        let rows = self.context.table.shape().rows;
        let taken = self.rows_of_old_workers();
        self.pool.set_rows((0..rows).filter(|row| !taken.contains(row)));
    }

    /// The rows of the table in use that old workers have, or that stand for them.
    fn rows_of_old_workers(&self) -> Vec<u32> {
        let own = self.old.workers().filter(|worker| worker.origin.row.table.is_none());
        let own = own.map(|worker| worker.origin.row.row);
        own.chain(self.old_tables.iter().map(|table| table.row)).collect()
    }

    /// Starts the workers and the control process of this program. They accept nobody yet.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub(crate) fn begin_generation(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + PATIENCE;
        self.spawn_workers()?;
        self.spawn_ports()?;
        while let Some(late) = self.late() {
            if Instant::now() >= deadline {
                return Err(not_ready(&late, PATIENCE));
            }
            // Signals stay pending: if this program fails, the earlier one handles them.
            self.turn(&[], Some(deadline.min(Instant::now() + BEAT)))?;
            self.notify.beat(Instant::now());
        }
        Ok(())
    }

    /// Lets the new workers accept clients, and orders the earlier ones to drain.
    pub(crate) fn commit(&mut self, asked_by: Asker, before: &str, table: TableTransfer) {
        if let Err(why) = self.context.jail.sandbox.complete() {
            let text = format!("upgrade: the supervisor is confined only as before: {why}");
            self.logger.warning(&text);
        }
        (self.begins, self.phase) = (Begins::AtOnce, Phase::Serving);
        self.restate();
        // Before a turn of the loop: it would have the manager forget what nobody wants yet.
        self.keep(End::Running);
        if table == TableTransfer::Copied {
            self.drain_first();
        }
        self.pool.workers_mut().for_each(|worker| worker.order_begin());
        self.order_ports(AcceptOrder::Begin);
        self.send_due();
        // The file may say others than those that the earlier program had.
        self.old.order_limits(self.context.settings.per_client.into());
        if table == TableTransfer::Adopted {
            self.old.drain();
            self.await_drain();
        }
        let rows = self.rows_of_old_workers().into_iter();
        let connections: u32 = rows.map(|row| self.context.table.connections_of(row)).sum();
        let line = format!(
            "pen {before} is now pen {}, pid {}, {} with the old workers",
            self.build.version,
            Pid::this(),
            match connections {
                0 => "no connection stays".to_owned(),
                1 => "1 connection stays".to_owned(),
                more => format!("{more} connections stay"),
            }
        );
        let incident = Incident::of(EventKind::Upgraded)
            .with("from", before)
            .with("to", self.build.version)
            .with("pid", i64::from(Pid::this().as_raw()))
            .with("connections", connections)
            .with("by", Requester::from(asked_by).to_string());
        self.logger.event(Severity::Notice, incident, &line);
        self.past.upgrades.count(ChangeResult::Success, &line);
        let reply = match asked_by {
            Asker::Signal(asker) => {
                self.answer_asker(asker.map(Pid::from_raw), &ControlReply::line(&line));
                None
            }
            Asker::Operator { ticket, .. } => Some((ticket, Outcome::Done, line + "\n")),
        };
        if let Some(old) = &mut self.old_control {
            old.end(reply, Instant::now());
        }
        self.old_page.iter_mut().for_each(|old| old.end(Instant::now()));
        self.commit_checks(Instant::now());
        self.send_due();
    }

    /// Orders the processes with ports of their own to accept, or not to.
    pub(in crate::event_loop) fn order_ports(&mut self, order: AcceptOrder) {
        self.control.iter_mut().for_each(|control| control.order_accept(order));
        self.page.iter_mut().for_each(|page| page.order_accept(order));
        self.order_checker(order);
    }

    /// Waits until no earlier worker takes clients, as far as they answer soon.
    fn await_drain(&mut self) {
        let deadline = Instant::now() + DRAIN_PATIENCE;
        let takes_clients = |service: &Supervisor| {
            let mut old = service.old.workers().filter(|old| old.origin.row.table.is_none());
            old.any(|old| service.context.table.takes_clients(old.origin.row.row))
        };
        self.send_due();
        while takes_clients(self) && Instant::now() < deadline {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[], Some(Instant::now() + Duration::from_millis(1)));
        }
    }

    /// Orders the earlier workers to drain, and waits a little until they have. They do not see the
    /// counts of the new workers. So both must not take clients at the same time, or limits would
    /// be exceeded. Clients wait in the queue of the listener.
    fn drain_first(&mut self) {
        self.old.drain();
        self.send_due();
        self.old.beat();
        let deadline = Instant::now() + PAUSE_PATIENCE;
        while !self.old.have_answered() && Instant::now() < deadline {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[], Some(deadline));
        }
        self.copy_old_tables(Instant::now());
    }

    /// Goes on after a new program failed, and tells so.
    pub(crate) fn upgrade_was_undone(
        &mut self,
        asked_by: Asker,
        children_before: &[i32],
        why: &str,
    ) {
        self.phase = Phase::Serving;
        self.kill_strangers(children_before);
        let now = Instant::now();
        // Its workers had accepted nobody, but their rows were in use. One call takes back what was
        // written in the name of any row without a worker.
        let old = self.rows_of_old_workers();
        let is_free = |row: &u32| self.pool.of_row(*row).is_none() && !old.contains(row);
        let free = (0..self.context.table.shape().rows).find(is_free);
        if free.is_some_and(|row| self.context.table.reclaim(row)) {
            self.notify_freed();
        }
        self.restate();
        self.bury_reaped(now);
        self.order_ports(AcceptOrder::Begin);
        let line = self.upgrade_failure(asked_by.into(), why);
        match asked_by {
            Asker::Signal(asker) => {
                self.answer_asker(asker.map(Pid::from_raw), &ControlReply::refusal(line));
            }
            Asker::Operator { pid, ticket, .. } => {
                if let Some(control) = &mut self.control {
                    control.reply(Pid::from_raw(pid), ticket, ControlReply::refusal(line));
                }
            }
        }
    }

    /// Kills the children that a failed new program forked: those that were not there at the
    /// handover and are in the session of this process. One that works ends with its channel
    /// anyway. As process 1 of a container, pen gets children of others, which have another
    /// session.
    fn kill_strangers(&mut self, before: &[i32]) {
        let own = getsid(None);
        for pid in children().into_iter().filter(|pid| !before.contains(&pid.as_raw())) {
            if getsid(Some(pid)) == own
                && let Ok(child) = Child::of_pid(pid, self.context.jail.identity.uid)
            {
                child.kill();
                self.queue.leave(child);
            }
        }
    }

    /// Sends the outcome of an upgrade to the process that asked for it by signal.
    pub(in crate::event_loop) fn answer_asker(&mut self, asker: Option<Pid>, reply: &ControlReply) {
        let text = match &reply.body {
            ReplyBody::Text(text) => text.trim_end(),
            // An upgrade has no long replies.
            ReplyBody::Memory(_) => "",
        };
        if let Some(asker) = asker {
            let outcome = match reply.outcome {
                Outcome::Done => Ok(text),
                Outcome::Refused => Err(text),
            };
            if asker::answer(self.state.pid_file(), asker, outcome) {
                self.answered = Some(asker);
            }
        }
    }

    /// Orders the workers of earlier programs to end that have drained for too long.
    pub(in crate::event_loop) fn end_overdue_workers(&mut self, now: Instant) {
        let seconds = self.context.settings.drain_timeout;
        if let Some(connections) = self.old.end_overdue(seconds, &self.context.table, now) {
            let plural = if connections == 1 { "" } else { "s" };
            self.logger.notice(&format!(
                "old workers close {connections} connection{plural}: they have drained for \
                 {seconds} s (drain_timeout)"
            ));
        }
    }

    /// Orders the oldest workers of earlier programs to end if an upgrade has left no room in the
    /// table for another generation. This is not part of the next upgrade, because that could fail.
    /// Then it would have cost connections for nothing.
    pub(in crate::event_loop) fn make_room(&mut self, now: Instant) {
        if let Some(version) = self.old.make_room(self.pool.size(), &self.context.table, now) {
            self.logger.notice(&format!(
                "upgrade: the oldest workers, of pen {version}, close their connections: there is \
                 room for no more generations"
            ));
        }
    }

    /// The counters of all workers, dead and alive, summed.
    pub(in crate::event_loop) fn totals(&self) -> Counters {
        let mut totals = self.pool.totals();
        self.old.add_to(&mut totals);
        totals
    }
}

impl From<Asker> for Requester {
    fn from(asker: Asker) -> Requester {
        match asker {
            Asker::Signal(asker) => Requester::Signal { asker: asker.map(Pid::from_raw) },
            Asker::Operator { pid, ticket, who } => {
                Requester::Operator { pid: Pid::from_raw(pid), ticket, who }
            }
        }
    }
}

/// How often the service manager is told that pen lives while workers start.
const BEAT: Duration = Duration::from_millis(200);

/// How long a busy worker of an earlier program may take to stop accepting.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);

/// How long the workers of a program that takes over may take to become ready.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long clients wait at most until workers of another table take no more of them.
const PAUSE_PATIENCE: Duration = Duration::from_millis(20);
