//! Death of children: they are reaped, the resources of a worker are reclaimed, and its slot is
//! filled again.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_ipc::start::Begins;
use pen_ipc::text::error_text;
use pen_status::event::EventKind;

use crate::StartError;
use crate::event_loop::{Phase, Supervisor};
use crate::helpers::render;
use crate::limits::why_within_limits;
use crate::log::recent::Incident;
use crate::log::{Logger, Severity};
use crate::processes::ending::{self, Ending};
use crate::processes::old::OldDeath;
use crate::processes::pool::Death;
use crate::processes::ports::control::Control;
use crate::processes::ports::kind::{PortDeath, PortKind};
use crate::processes::ports::page::Page;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;

impl Supervisor {
    /// Reaps all dead children.
    pub(in crate::event_loop) fn reap(&mut self, now: Instant) -> Result<(), StartError> {
        while let Some(pid) = ending::dead_child() {
            self.note_used(pid);
            let Some(ending) = ending::reap(pid) else { break };
            self.handle_death(pid, ending, now)?;
        }
        Ok(())
    }

    /// Notes how much processor time a dead worker used. The kernel forgets it when it is reaped.
    fn note_used(&self, pid: Pid) {
        let own = self.pool.workers().find(|worker| worker.peer.pid() == pid);
        let old = self.old.workers().find(|worker| worker.peer.pid() == pid);
        own.map(|worker| worker.peer.used()).or(old.map(|worker| worker.peer.used()));
    }

    /// Handles the deaths of jailed processes that a failed new program has reaped.
    pub(in crate::event_loop) fn bury_reaped(&mut self, now: Instant) {
        let workers = self.pool.workers().filter(|worker| worker.peer.is_reaped());
        let old = self.old.workers().filter(|worker| worker.peer.is_reaped());
        let control = self.control.as_ref().and_then(Control::reaped_pid);
        let page = self.page.as_ref().and_then(Page::reaped_pid);
        let pids: Vec<Pid> = workers
            .map(|worker| worker.peer.pid())
            .chain(old.map(|worker| worker.peer.pid()))
            .chain(control)
            .chain(page)
            .chain(self.checking.reaped_pid())
            .collect();
        for pid in pids {
            // How it ended is not known. In this phase no death is an error.
            let _ = self.handle_death(pid, Ending::Unknown, now);
        }
    }

    fn handle_death(&mut self, pid: Pid, ending: Ending, now: Instant) -> Result<(), StartError> {
        if let Some(writer) = self.queue.reaped(pid, ending) {
            if let (Ending::Killed(_), Some(file)) = (ending, &self.state.status) {
                let jail = &self.context.jail;
                let child = render::clean_up(jail.identity.uid, || {
                    jail.sandbox.enter_reporter()?;
                    file.forget(writer);
                    Ok(())
                });
                // Without it, the next report replaces the file.
                child.into_iter().for_each(|child| self.queue.leave(child));
            }
            return Ok(());
        }
        if self.page_question.reaped(pid, ending) {
            return Ok(());
        }
        let control = self.control.as_mut().and_then(|control| control.take_dead(pid, ending, now));
        if let Some(death) = control {
            self.queue.forget_operators();
            return self.handle_port_death(death);
        }
        let page = self.page.as_mut().and_then(|page| page.take_dead(pid, ending, now));
        if let Some(death) = page {
            return self.handle_port_death(death);
        }
        if let Some(death) = self.checking.take_dead(pid, ending, now) {
            return self.handle_port_death(death);
        }
        if self.checking.buried(pid)
            || self.old_control.take_if(|old| old.pid() == pid).is_some()
            || self.old_page.take_if(|old| old.pid() == pid).is_some()
        {
            return Ok(());
        }
        if let Some(death) = self.old.take_dead(pid, Some(ending), now) {
            self.handle_old_death(death, now);
            return Ok(());
        }
        // As process 1 of a container, the supervisor also gets orphans of other processes.
        let Some(mut death) = self.pool.take_dead(pid, ending, now) else { return Ok(()) };
        let last_messages = std::mem::take(&mut death.reports);
        self.handle_messages(death.id, last_messages, now);
        self.queue.forget(death.id);
        self.reclaim(death.row);
        match self.phase {
            Phase::Starting if !death.was_ready => return Err(StartError(death.start_failure())),
            Phase::Starting | Phase::Serving => self.replace(&death, now),
            Phase::Stopping => {}
        }
        Ok(())
    }

    /// Handles the death of a process with a port of its own.
    fn handle_port_death(&mut self, death: PortDeath) -> Result<(), StartError> {
        let PortDeath { process, pid, how, line, reason } = death;
        match self.phase {
            Phase::Starting => {
                return Err(StartError(reason.unwrap_or(format!("{line} before it was ready"))));
            }
            Phase::Serving => {
                let incident = port(process, EventKind::WorkerDied, pid).with("reason", how);
                let line = format!("{line}; it is replaced, clients are served all the time");
                self.logger.event(Severity::Warning, incident, &line);
            }
            Phase::Stopping => {}
        }
        Ok(())
    }

    /// Takes back what a dead worker held in the table in use.
    fn reclaim(&mut self, row: u32) {
        // Before a replacement writes to the same row.
        if self.context.table.reclaim(row) {
            self.notify_freed();
        }
        // The dead worker may have been under an attacker's control and may have written wrong
        // values everywhere. Only the living workers can correct those in their rows.
        self.restate();
        self.context.table.grow_clients(self.context.settings.clients_max);
        self.pool.workers_mut().for_each(|worker| worker.order_republish());
        self.old.order_republish(None);
    }

    pub(in crate::event_loop) fn notify_freed(&mut self) {
        self.pool.workers_mut().for_each(|worker| worker.notify_freed());
        self.old.notify_freed();
    }

    /// Copies the figures of workers in other tables into the table in use.
    pub(in crate::event_loop) fn copy_old_tables(&mut self, now: Instant) {
        let old = &self.old;
        if self.old_tables.copy(&self.context.table, |row| old.has(row), now) {
            self.notify_freed();
        }
    }

    /// Handles the end of a worker of an earlier program. Nobody replaces it.
    pub(in crate::event_loop) fn handle_old_death(&mut self, death: OldDeath, now: Instant) {
        self.handle_messages(death.id, death.reports, now);
        self.pool.retire(&death.counters);
        self.pool.retire_used(death.id, death.used);
        match death.row.table {
            None => self.reclaim(death.row.row),
            Some(_) => {
                // Nobody can take back a lock in that table. Its workers take no clients, and wait
                // for it in vain only once.
                self.old.order_republish(death.row.table);
                self.copy_old_tables(now);
            }
        }
        if let Some(line) = death.line {
            let incident = Incident::of(EventKind::WorkerDied)
                .with("process", "old_worker")
                .with("worker", i64::from(death.id.0));
            self.logger.event(Severity::Warning, incident, &line);
        }
        if let Some(version) = death.last_of {
            let line = format!("the last worker of pen {version} has ended");
            let incident = Incident::of(EventKind::Other).with("version", version);
            self.logger.event(Severity::Notice, incident, &line);
        }
    }

    /// Replaces a dead worker, now or later, and logs it in one line.
    fn replace(&mut self, death: &Death, now: Instant) {
        let delay = self.pool.schedule(death.id, death.lived, now);
        match delay.is_zero() {
            true => self.respawn(death.id, Some(death), now),
            false => {
                let line = format!("{}; to be replaced in {} ms", death.line(), delay.as_millis());
                self.logger.event(Severity::Warning, died(death), &line);
            }
        }
    }

    /// Fills a slot; if that fails now, tries again later.
    pub(in crate::event_loop) fn respawn(
        &mut self,
        id: WorkerId,
        predecessor: Option<&Death>,
        now: Instant,
    ) {
        let line = predecessor.map_or(format!("worker {id}"), Death::line);
        match self.pool.spawn(id, self.begins, &self.context, now) {
            Ok(pid) => match predecessor {
                Some(death) => {
                    let incident = died(death).with("replaced_by", i64::from(pid.as_raw()));
                    let line = format!("{line}; replaced");
                    self.logger.event(Severity::Warning, incident, &line);
                }
                None => {
                    let incident = worker(EventKind::WorkerReplaced, id, pid);
                    let line = format!("worker {id} is replaced by pid {pid}");
                    self.logger.event(Severity::Debug, incident, &line);
                }
            },
            Err(error) => {
                let delay = self.pool.schedule(id, Duration::ZERO, now).as_millis();
                let reason = why_within_limits(&error);
                let line =
                    format!("{line}; cannot be replaced: {reason}; tried again in {delay} ms");
                let incident = match predecessor {
                    Some(death) => died(death),
                    None => shortage("replace", reason).with("worker", i64::from(id.0)),
                };
                self.logger.event(Severity::Warning, incident, &line);
            }
        }
    }

    /// Replaces a dead control or page process or checker when it is time.
    pub(in crate::event_loop) fn respawn_ports(&mut self, now: Instant) {
        self.seed_checker(now);
        let (begins, context, logger) = (self.begins, &self.context, &mut self.logger);
        self.control.iter_mut().for_each(|control| refill(control, begins, context, logger, now));
        self.page.iter_mut().for_each(|page| refill(page, begins, context, logger, now));
        let checker = self.checking.process_mut();
        checker.into_iter().for_each(|checker| refill(checker, begins, context, logger, now));
    }
}

/// Fills the slot of a process with a port when it is time; if that fails now, tries again later.
fn refill<K: PortKind>(
    slot: &mut Slot<K>,
    begins: Begins,
    context: &SpawnContext,
    logger: &mut Logger,
    now: Instant,
) {
    if slot.due().is_none_or(|due| due > now) {
        return;
    }
    let name = K::NAME;
    match slot.spawn(begins, context, now) {
        Ok(pid) => {
            let incident = port(K::TITLE, EventKind::WorkerReplaced, pid);
            logger.event(Severity::Debug, incident, &format!("{name} is replaced by pid {pid}"));
        }
        Err(error) => {
            let (delay, reason) = (slot.postpone(now).as_millis(), error_text(&error));
            let line = format!("{name} cannot be replaced: {reason}; tried again in {delay} ms");
            logger.event(Severity::Warning, shortage("replace", reason), &line);
        }
    }
}

/// Something about a worker.
fn worker(kind: EventKind, id: WorkerId, pid: Pid) -> Incident {
    Incident::of(kind)
        .with("process", "worker")
        .with("worker", i64::from(id.0))
        .with("pid", i64::from(pid.as_raw()))
}

fn died(death: &Death) -> Incident {
    worker(EventKind::WorkerDied, death.id, death.pid).with("reason", death.reason())
}

/// Something about the control or page process.
fn port(process: &str, kind: EventKind, pid: Pid) -> Incident {
    Incident::of(kind).with("process", process).with("pid", i64::from(pid.as_raw()))
}

fn shortage(during: &str, reason: String) -> Incident {
    Incident::of(EventKind::Shortage).with("during", during).with("reason", reason)
}
