//! Handling of the messages from workers and from the control process.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_config::ids::{Target, WorkerId};
use pen_ipc::message::Event;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::event_loop::obstructed::Capacity;
use crate::log::events;
use crate::log::events::throttle::{Told, Topic};
use crate::processes::control::ControlReport;
use crate::processes::flood::Admission;
use crate::processes::worker::WorkerReport;

impl Supervisor {
    /// Handles messages from the control process.
    pub(in crate::event_loop) fn hear_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some(pid) = control.pid() else { return };
        for reports in control.read(self.queue.room(), now) {
            match reports {
                ControlReport::Ready => self.logger.debug("the control process is ready"),
                ControlReport::Command { ticket, by, command, file } => {
                    self.queue.enter(Requester::Operator { pid, ticket, who: by }, command, file);
                }
                ControlReport::Line(line) => self.logger.warning(&line),
            }
        }
    }

    /// Handles messages from a worker.
    pub(in crate::event_loop) fn hear(
        &mut self,
        id: WorkerId,
        reports: Vec<WorkerReport>,
        now: Instant,
    ) {
        for reports in reports {
            match reports {
                WorkerReport::Ready => self.logger.debug(&format!("worker {id} is ready")),
                WorkerReport::Event(event) => self.hear_event(id, event, now),
                WorkerReport::Dropped(events) => {
                    self.tell(
                        id,
                        &format!("worker {id} could not tell of {events} more events"),
                        now,
                    );
                }
                WorkerReport::Page(page) => {
                    let most = self.context.settings.connections_max as usize;
                    let taken =
                        self.reporter.page(id, &page, most).and(self.queue.page(id, &page, most));
                    if taken.is_err()
                        && let Some(worker) = self.pool.worker_mut(id)
                    {
                        worker.peer.expel("it reports more connections than there can be");
                    }
                }
                WorkerReport::Explained { serial, text } => self.queue.explained(id, serial, text),
            }
        }
    }

    /// Logs an event. Events that clients can cause share one rate limit for all workers; others
    /// are logged one by one.
    fn hear_event(&mut self, id: WorkerId, event: Event, now: Instant) {
        let Some(line) = events::line(&event, &self.context.settings) else { return };
        if event == Event::ConnectionsFull && !self.crowd.hear(now) {
            return;
        }
        match event {
            Event::PassedOver { server, obstacle, .. } => {
                if self.obstructed.hear(server, obstacle, event, now) {
                    self.logger.warning(&line);
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
            | Event::HandshakeFailed { .. }
            | Event::LockStuck
            | Event::BadSender { .. }
            | Event::Crowded { .. }
            | Event::RequestRefused { .. }
            | Event::TableRebuilt { .. } => {}
        }
        match Topic::of(&event) {
            None => self.tell(id, &line, now),
            Some(topic) => {
                let told = self.throttle.take(topic, event, now);
                self.tell_many(told);
            }
        }
    }

    /// Logs lines that each stand for several events.
    pub(in crate::event_loop) fn tell_many(&mut self, told: impl IntoIterator<Item = Told>) {
        for told in told {
            if let Some(line) = events::line_of_many(&told, &self.context.settings) {
                self.logger.warning(&line);
            }
        }
    }

    /// Logs which servers are passed over, and which are in use again.
    pub(in crate::event_loop) fn tell_obstructed(&mut self, now: Instant) {
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
        for event in self.obstructed.settle(state, now) {
            if let Some(line) = events::line(&event, settings) {
                self.logger.warning(&line);
            }
        }
    }

    /// Logs a line of a worker, within its limit.
    fn tell(&mut self, id: WorkerId, line: &str, now: Instant) {
        let servers = self.context.settings.table_size();
        if let Admission::Admitted { withheld_before } = self.pool.admit_event(id, servers, now) {
            self.tell_withheld(id, withheld_before);
            self.logger.warning(line);
        }
    }

    /// Logs how many lines of a worker were withheld.
    pub(in crate::event_loop) fn tell_withheld(&mut self, id: WorkerId, withheld: u64) {
        if withheld > 0 {
            self.logger.warning(&format!("{withheld} more messages of worker {id} were withheld"));
        }
    }
}
