//! The checker in the event loop: it exists while a server has a check. Its results become events
//! and words in the shared table.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::unistd::{Pid, Uid};
use pen_config::checks::OnDown;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;
use pen_ipc::checks::{CheckResult, CheckState};
use pen_ipc::message::{ClosedServer, Event};
use pen_status::event::EventKind;
use time::OffsetDateTime;

use crate::StartError;
use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::phases::start::{late_port, spawn_port};
use crate::handover::marker::Role;
use crate::limits::why_within_limits;
use crate::log::Severity;
use crate::log::events;
use crate::log::recent::Incident;
use crate::processes::ending::Ending;
use crate::processes::peer::AdoptedProcess;
use crate::processes::ports::checker::{Checker, Seeds};
use crate::processes::ports::kind::{AcceptOrder, PortDeath, PortReport};
use crate::processes::ports::old::OldChecker;
use crate::processes::spawn::SpawnContext;
use crate::verdicts::{CarriedChecks, Checks, Outcome};

/// The checkers, and what they found out.
#[derive(Debug, Default)]
pub(crate) struct Checking {
    pub(crate) known: Checks,
    /// The checker, while a server has a check.
    process: Option<Checker>,
    /// Checkers that were told to stop, because no server had a check any more.
    ending: Vec<Checker>,
    /// The checker of an earlier program, until it has ended.
    old: Option<OldChecker>,
}

impl Checking {
    /// Goes on with what an earlier program left. A program that takes over forks a checker of its
    /// own.
    pub(crate) fn adopted(
        (carried, process): (CarriedChecks, Option<AdoptedProcess>),
        role: Role,
        settings: &Settings,
        user: Uid,
        now: Instant,
    ) -> Checking {
        let mut checking =
            Checking { known: Checks::adopted(carried, settings, now), ..Checking::default() };
        match role {
            Role::Predecessor if settings.has_checks() => {
                let seeds = Seeds::default();
                let slot = Checker::adopted(seeds, process, settings.generation, user, now);
                checking.process = Some(slot);
            }
            Role::Predecessor | Role::Successor => {
                checking.old = process.map(|process| OldChecker::adopted(process, user, now));
            }
        }
        checking
    }

    /// The checker, while a server has a check.
    pub(crate) fn process(&self) -> Option<&Checker> {
        self.process.as_ref()
    }

    /// The checker, while a server has a check.
    pub(crate) fn process_mut(&mut self) -> Option<&mut Checker> {
        self.process.as_mut()
    }

    /// The checker of an earlier program.
    pub(crate) fn old(&self) -> Option<&OldChecker> {
        self.old.as_ref()
    }

    /// The checker of an earlier program.
    pub(crate) fn old_mut(&mut self) -> Option<&mut OldChecker> {
        self.old.as_mut()
    }

    /// Checkers that end: for the wait for their end.
    pub(crate) fn ending(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ending.iter().filter_map(Checker::pidfd)
    }

    /// All that can be killed.
    fn all_mut(&mut self) -> impl Iterator<Item = &mut Checker> {
        self.process.iter_mut().chain(&mut self.ending)
    }

    /// What an upgrade must wait for.
    pub(crate) fn unfinished(&self) -> Option<&'static str> {
        if self.old.is_some() {
            return Some("the checker before the last upgrade did not end");
        }
        if !self.ending.is_empty() {
            return Some("a checker did not end");
        }
        let is_busy = self.process.as_ref().is_some_and(|process| !process.is_settled());
        is_busy.then_some("the checker was busy")
    }

    /// The pid of the checker, if an earlier program in this process has reaped it.
    pub(crate) fn reaped_pid(&self) -> Option<Pid> {
        self.process.as_ref().and_then(Checker::reaped_pid)
    }

    /// Whether a dead process was one that was told to end.
    pub(crate) fn buried(&mut self, pid: Pid) -> bool {
        let before = self.ending.len();
        self.ending.retain(|process| process.pid() != Some(pid));
        self.old.take_if(|old| old.pid() == pid).is_some() || self.ending.len() < before
    }

    /// Takes the dead checker from its slot, if it was there.
    pub(crate) fn take_dead(
        &mut self,
        pid: Pid,
        ending: Ending,
        now: Instant,
    ) -> Option<PortDeath> {
        self.process.as_mut()?.take_dead(pid, ending, now)
    }

    /// Kills those that were told to end before, or that have closed their channel.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        self.all_mut().for_each(|process| process.kill_overdue(now));
        self.old.iter_mut().for_each(|old| old.kill_overdue(now));
    }

    /// Orders all to end.
    pub(crate) fn order_stop(&mut self) {
        self.all_mut().for_each(Checker::order_stop);
        self.old.iter_mut().for_each(OldChecker::kill);
    }

    /// Kills all.
    pub(crate) fn kill(&mut self) {
        self.all_mut().for_each(Checker::kill);
        self.old.iter_mut().for_each(OldChecker::kill);
    }

    /// Whether all have ended.
    pub(crate) fn has_ended(&self) -> bool {
        let is_empty = self.process.as_ref().is_none_or(Checker::is_empty);
        is_empty && self.ending.is_empty() && self.old.is_none()
    }

    /// The name of the checker, if it is to be ready and is not.
    pub(crate) fn late(&self) -> Option<String> {
        self.process.as_ref().and_then(late_port)
    }

    /// When the loop needs a turn for it, in any phase.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Instant> {
        let process = self.process.as_ref();
        [
            process.and_then(Checker::overdue),
            process.and_then(|process| process.paused_until(now)),
            self.old.as_ref().and_then(OldChecker::overdue),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// What the next checker gets.
fn seeds(known: &Checks, context: &SpawnContext) -> Seeds {
    let tls = context.server_keys.as_ref().map(|keys| keys.files.clone());
    Seeds { servers: known.seeds(&context.table), tls }
}

impl Supervisor {
    /// Forks the checker, if there is to be one.
    ///
    /// # Errors
    /// No process can be forked.
    pub(in crate::event_loop) fn start_checker(&mut self) -> Result<(), StartError> {
        let now = Instant::now();
        self.checking.known.follow(&self.context.settings, unix(), now);
        if !self.context.settings.has_checks() {
            return Ok(());
        }
        let slot =
            self.checking.process.insert(Checker::new(seeds(&self.checking.known, &self.context)));
        spawn_port(slot, self.begins, &self.context)
    }

    /// Starts or stops the checker, and tells it, after the settings have changed.
    pub(in crate::event_loop) fn renew_checks(&mut self) {
        let (settings, now) = (&self.context.settings, Instant::now());
        self.checking.known.follow(settings, unix(), now);
        match (self.context.settings.has_checks(), self.checking.process.take()) {
            (true, Some(mut process)) => {
                process.renew_settings();
                self.checking.process = Some(process);
            }
            (true, None) => {
                let seeds = seeds(&self.checking.known, &self.context);
                let slot = self.checking.process.insert(Checker::new(seeds));
                if let Err(error) = slot.spawn(self.begins, &self.context, now) {
                    let (delay, why) = (slot.postpone(now).as_millis(), why_within_limits(&error));
                    self.logger.warning(&format!(
                        "the checker cannot be started: {why}; tried again in {delay} ms"
                    ));
                }
            }
            (false, Some(mut process)) => {
                process.order_stop();
                process.send_due(&self.context);
                if !process.is_empty() {
                    self.checking.ending.push(process);
                }
            }
            (false, None) => {}
        }
    }

    /// Tells the next checker what is known, if there is to be one now.
    pub(in crate::event_loop) fn seed_checker(&mut self, now: Instant) {
        let Checking { process: Some(process), known, .. } = &mut self.checking else { return };
        if process.due().is_some_and(|due| due <= now) {
            *process.port_mut() = seeds(known, &self.context);
        }
    }

    /// Handles messages from the checker.
    pub(in crate::event_loop) fn handle_checker_messages(&mut self, most: usize, now: Instant) {
        let Some(process) = &mut self.checking.process else { return };
        for report in process.read(most, now) {
            match report {
                PortReport::Ready => self.logger.debug("the checker is ready"),
                PortReport::Request(results) => self.take_results(results, now),
                // It has no port, and no such message.
                PortReport::Refused { .. } => {}
            }
        }
    }

    fn take_results(&mut self, results: Vec<CheckResult>, now: Instant) {
        let unix = unix();
        for result in results {
            let Some(outcome) = self.checking.known.take(result, unix, now) else { continue };
            let Outcome { server, change, works_since } = outcome;
            self.restate_server(server);
            if let Some((before, after)) = change {
                self.tell_verdict(server, before, after);
                if (after, self.context.settings.on_down) == (CheckState::Down, OnDown::Close) {
                    self.close_server(Target::Server(server), ClosedServer::Down);
                }
            }
            if let Some(began) = works_since {
                self.lift_blacklisting(server, began);
            }
        }
    }

    /// Logs that checks say something else of a server.
    fn tell_verdict(&mut self, server: ServerId, before: CheckState, after: CheckState) {
        let Some(name) = events::name(Target::Server(server).code(), &self.context.settings) else {
            return;
        };
        let down = self.checking.known.row(server).and_then(|row| row.reason()).cloned();
        let (severity, kind, line) = match (before, after, &down) {
            (_, CheckState::Down, Some(why)) => {
                let line = format!("{name} is down by check: {why}");
                (Severity::Warning, EventKind::ServerDown, line)
            }
            (CheckState::Down, CheckState::Up, _) => {
                (Severity::Warning, EventKind::ServerUp, format!("{name} is up by check"))
            }
            // As expected after a start. A thousand lines of it would hide others.
            (_, CheckState::Up, _) => {
                (Severity::Debug, EventKind::ServerUp, format!("{name} is up by check"))
            }
            (_, CheckState::Unknown | CheckState::Down, _) => return,
        };
        let incident = self
            .about_server(kind, server)
            .with("by", "check")
            .with_if("reason", down.map(|fault| fault.text));
        self.logger.event(severity, incident, &line);
    }

    /// Ends the blacklisting of a server that works, if traffic caused it before the check began.
    fn lift_blacklisting(&mut self, server: ServerId, began: u64) {
        let (settings, table) = (&self.context.settings, &self.context.table);
        let row = u32::from(server.0);
        let until = table.server_totals(row).blacklisted_until;
        let failed = failed_at(until, settings.blacklist, clock::monotonic());
        if until == 0 || failed >= began || !table.lift_blacklist(row, clock::monotonic()) {
            return;
        }
        let Some(name) = events::name(Target::Server(server).code(), settings) else { return };
        let incident = self.about_server(EventKind::ServerUp, server).with("by", "check");
        let line = format!("{name} is in use again: its check succeeds");
        self.logger.event(Severity::Warning, incident, &line);
    }

    fn about_server(&self, kind: EventKind, server: ServerId) -> Incident {
        let found = self.context.settings.target(Target::Server(server));
        Incident::of(kind)
            .with("server", i64::from(server.0))
            .with_if("address", found.map(|found| found.place_at(0).to_string()))
    }

    /// Has the checker know what a worker found out about a server.
    pub(in crate::event_loop) fn note_traffic(&mut self, event: &Event) {
        let Some(process) = &mut self.checking.process else { return };
        match event {
            Event::Blacklisted { server, .. } => {
                if let Some(Target::Server(id)) = Target::from_code(*server)
                    && self.checking.known.failed(id, clock::monotonic())
                {
                    process.suspect(*server);
                }
            }
            Event::AddressChanged { server, to, .. } => process.address(*server, *to),
            Event::BackInUse { .. }
            | Event::Reached { .. }
            | Event::PassedOver { .. }
            | Event::ConnectionsFull
            | Event::Unserved { .. }
            | Event::Shortage { .. }
            | Event::LogLost { .. }
            | Event::ConnectionLogLost { .. }
            | Event::HandshakeFailed { .. }
            | Event::LockStuck
            | Event::BadSender { .. }
            | Event::Crowded { .. }
            | Event::RequestRefused { .. }
            | Event::BeyondLimit { .. }
            | Event::LimitsUnchecked { .. }
            | Event::TableRebuilt { .. } => {}
        }
    }

    /// Asks the checker for a sign of life, and forgets verdicts that are too old.
    pub(in crate::event_loop) fn beat_checker(&mut self, now: Instant) {
        self.checking.process.iter_mut().for_each(|process| process.beat(false));
        // They have had a whole beat to end.
        self.checking.ending.iter_mut().for_each(Checker::kill);
        let outdated = self.checking.known.sweep(&self.context.settings, unix(), now);
        let Some(first) = outdated.first().copied() else { return };
        outdated.iter().for_each(|server| self.restate_server(*server));
        let name = || events::name(Target::Server(first).code(), &self.context.settings);
        let (which, them) = match outdated.len() {
            1 => (name().unwrap_or_else(|| "1 server".to_owned()) + " has", "it is"),
            more => (format!("{more} servers have"), "they are"),
        };
        let line = format!("{which} had no check for too long; {them} used as if unchecked");
        let incident = match outdated.len() {
            1 => self.about_server(EventKind::Other, first),
            more => Incident::of(EventKind::Other).with("servers", more as i64),
        };
        self.logger.event(Severity::Warning, incident, &line);
    }

    /// Sends queued messages to the checkers.
    pub(in crate::event_loop) fn send_due_to_checkers(&mut self) {
        self.checking.all_mut().for_each(|process| process.send_due(&self.context));
        self.checking.old.iter_mut().for_each(OldChecker::send_due);
    }

    /// Lets the checker check, or not.
    pub(in crate::event_loop) fn order_checker(&mut self, order: AcceptOrder) {
        self.checking.process.iter_mut().for_each(|process| process.order_accept(order));
    }

    /// Ends the checker of an earlier program: this one is in charge from now on.
    pub(in crate::event_loop) fn commit_checks(&mut self, now: Instant) {
        self.checking.old.iter_mut().for_each(|old| old.end(now));
        self.checking.known.refresh(now);
    }
}

/// When the failure was that blacklisted a server until then; all times are in milliseconds but
/// `blacklist`, which is in seconds. If the setting was longer at that time, the result would be in
/// the future, and no check could end the blacklisting: then 0, which is before every check.
fn failed_at(until: u64, blacklist: u32, now: u64) -> u64 {
    let failed = until.saturating_sub(u64::from(blacklist) * 1000);
    if failed > now { 0 } else { failed }
}

/// The present time in seconds since 1970.
fn unix() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_blacklist_time_does_not_move_a_failure_into_the_future() {
        let now = 50_000;
        assert_eq!(failed_at(70_000, 30, now), 40_000);
        assert_eq!(failed_at(80_000, 30, now), now);
        assert_eq!(failed_at(80_001, 30, now), 0, "it was longer then");
        assert_eq!(failed_at(3_600_000, 1, now), 0);
        assert_eq!(failed_at(20_000, 30, now), 0, "shortly after the start of the machine");
        assert_eq!(failed_at(u64::MAX, u32::MAX, u64::MAX), u64::MAX - u64::from(u32::MAX) * 1000);
    }
}
