//! Handling of the messages from workers and from the control process.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_config::ids::{ClientKey, Target, WorkerId};
use pen_ipc::message::Event;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::event_loop::obstructed::Capacity;
use crate::flood::Admission;
use crate::log::events::throttle::{MergedEvent, Topic};
use crate::log::events::{self, incident};
use crate::log::recent::Incident;
use crate::log::{DAEMON, Reach, Severity};
use crate::processes::ports::control::{ControlKind, ControlRequest};
use crate::processes::ports::kind::{PortKind, PortReport};
use crate::processes::worker::WorkerReport;

impl Supervisor {
    /// Handles messages from the control process.
    pub(in crate::event_loop) fn handle_control_messages(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some(pid) = control.pid() else { return };
        for report in control.read(self.queue.room(), now) {
            match report {
                PortReport::Ready => self.logger.debug("the control process is ready"),
                PortReport::Request(ControlRequest::Command { ticket, by, command, file }) => {
                    self.queue.enter(Requester::Operator { pid, ticket, who: by }, command, file);
                }
                PortReport::Request(ControlRequest::Watching(from)) => {
                    let next = self.logger.recent().next();
                    control.watch(from.map(|from| from.min(next)));
                }
                PortReport::Refused { client, line } => {
                    self.logger.event(Severity::Warning, refused(client, ControlKind::ACL), &line);
                }
            }
        }
    }

    /// Handles messages from a worker.
    pub(in crate::event_loop) fn handle_messages(
        &mut self,
        id: WorkerId,
        reports: Vec<WorkerReport>,
        now: Instant,
    ) {
        for report in reports {
            match report {
                WorkerReport::Ready => self.logger.debug(&format!("worker {id} is ready")),
                WorkerReport::Event(event) => self.handle_event(id, event, now),
                WorkerReport::Dropped(events) => {
                    let line = format!("worker {id} could not tell of {events} more events");
                    self.log_limited(id, Incident::of(EventKind::Other), &line, now);
                }
                WorkerReport::Page(page) => {
                    let most = self.context.settings.connections_max as usize;
                    if self.queue.page(id, &page, most).is_err()
                        && let Some(worker) = self.pool.worker_mut(id)
                    {
                        worker.peer.kill_for("it reports more connections than there can be");
                    }
                }
                WorkerReport::Rebalanced { serial, closed } => {
                    self.rebalanced(serial, closed, now);
                }
                WorkerReport::NoSyslog => self.tell_of_daemon(),
                WorkerReport::Explained { serial, text } => self.queue.explained(id, serial, &text),
            }
        }
    }

    /// Says once that the connection log does not reach the syslog daemon, and once that it does
    /// again.
    fn tell_of_daemon(&mut self) {
        if !self.context.logs_to_daemon() {
            return;
        }
        match self.daemon.news() {
            None => {}
            Some(Reach::Missed) => self.logger.warning(&format!(
                "connection_log: there is no syslog daemon at {DAEMON}, or it takes no datagrams; \
                 lines wait for one, and are lost when there are too many"
            )),
            Some(Reach::Reached) => {
                self.logger.notice("connection_log: the syslog daemon is there again");
            }
        }
    }

    /// Logs an event. Events that clients can cause share one rate limit for all workers; others
    /// are logged one by one.
    pub(in crate::event_loop) fn handle_event(&mut self, id: WorkerId, event: Event, now: Instant) {
        self.note_traffic(&event);
        let settings = &self.context.settings;
        let Some(line) = events::line(&event, settings) else { return };
        let incident = incident::incident(&event, settings);
        if event == Event::ConnectionsFull && !self.full.note(now) {
            return;
        }
        match event {
            Event::PassedOver { server, obstacle, .. } => {
                if self.obstructed.note(server, obstacle, event, now) {
                    self.logger.event(Severity::Warning, incident, &line);
                }
                return;
            }
            Event::Reached { server } => return self.obstructed.reached(server),
            Event::Blacklisted { .. }
            | Event::AddressChanged { .. }
            | Event::BackInUse { .. }
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
        match Topic::of(&event) {
            None => self.log_limited(id, incident, &line, now),
            Some(topic) => {
                let merged = self.throttle.take(topic, event, now);
                self.log_merged(merged);
            }
        }
    }

    /// Logs lines that each stand for several events.
    pub(in crate::event_loop) fn log_merged(
        &mut self,
        merged: impl IntoIterator<Item = MergedEvent>,
    ) {
        for merged in merged {
            let settings = &self.context.settings;
            if let Some(line) = events::merged_line(&merged, settings) {
                let incident = incident::merged(&merged, settings);
                self.logger.event(Severity::Warning, incident, &line);
            }
        }
    }

    /// Logs the events and changes that wait to be logged together with later ones.
    pub(in crate::event_loop) fn log_unlogged(&mut self, now: Instant) {
        let unlogged = self.throttle.finish();
        self.log_merged(unlogged);
        let unlogged = self.notices.finish(now);
        self.log_changes(unlogged);
    }

    /// Logs which servers are passed over, and which are in use again.
    pub(in crate::event_loop) fn log_obstructed(&mut self, now: Instant) {
        let (settings, table) = (&self.context.settings, &self.context.table);
        let state = |code: i32| {
            let Some((target, server)) =
                Target::from_code(code).and_then(|target| Some((target, settings.target(target)?)))
            else {
                return Capacity::Gone;
            };
            let totals = table.server_totals(target.row(settings.table_size()));
            match totals.blacklisted_until {
                0 => Capacity::Room {
                    connections: server.limit(false).is_none_or(|limit| totals.connections < limit),
                    pending: !totals.is_pending,
                },
                _ => Capacity::Gone,
            }
        };
        for event in self.obstructed.due(state, now) {
            if let Some(line) = events::line(&event, settings) {
                let incident = incident::incident(&event, settings);
                self.logger.event(Severity::Warning, incident, &line);
            }
        }
    }

    /// Logs a line of a worker, within its limit.
    fn log_limited(&mut self, id: WorkerId, incident: Incident, line: &str, now: Instant) {
        let servers = self.context.settings.table_size();
        if let Admission::Admitted { withheld_before } = self.pool.admit_event(id, servers, now) {
            self.log_withheld(id, withheld_before);
            self.logger.event(Severity::Warning, incident, line);
        }
    }

    /// Logs how many lines of a worker were withheld.
    pub(in crate::event_loop) fn log_withheld(&mut self, id: WorkerId, withheld: u64) {
        if withheld > 0 {
            self.logger.recent_mut().lose(withheld);
            self.logger.warning(&format!("{withheld} more messages of worker {id} were withheld"));
        }
    }
}

/// A client that the access list of a port refused.
pub(in crate::event_loop) fn refused(client: ClientKey, acl: &str) -> Incident {
    Incident::of(EventKind::ClientRefused).with("client", client.to_string()).with("reason", acl)
}
