//! What becomes of the messages of workers and of the control process.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_config::ids::{Target, WorkerId};
use pen_ipc::message::Event;

use crate::event_loop::Service;
use crate::event_loop::commands::By;
use crate::event_loop::obstructed::Standing;
use crate::log::events;
use crate::log::events::throttle::{Told, Topic};
use crate::processes::control::ControlNews;
use crate::processes::flood::Admission;
use crate::processes::worker::News;

impl Service {
    /// Deals with what the control process said.
    pub(in crate::event_loop) fn hear_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some(pid) = control.pid() else { return };
        for news in control.read(self.desk.room(), now) {
            match news {
                ControlNews::Ready => self.say.debug("the control process is ready"),
                ControlNews::Command { ticket, by, command, file } => {
                    self.desk.enter(By::Operator { pid, ticket, who: by }, command, file);
                }
                ControlNews::Line(line) => self.say.warning(&line),
            }
        }
    }

    /// Deals with what a worker said.
    pub(in crate::event_loop) fn hear(&mut self, id: WorkerId, news: Vec<News>, now: Instant) {
        for news in news {
            match news {
                News::Ready => self.say.debug(&format!("worker {id} is ready")),
                News::Event(event) => self.hear_event(id, event, now),
                News::Dropped(events) => {
                    self.tell(id, &format!("worker {id} could not tell of {events} more events"), now);
                }
                News::Page(page) => {
                    let most = self.inheritance.settings.connections_max as usize;
                    let taken = self.reporter.page(id, &page, most).and(self.desk.page(id, &page, most));
                    if taken.is_err()
                        && let Some(worker) = self.crew.worker_mut(id)
                    {
                        worker.peer.expel("it reports more connections than there can be");
                    }
                }
                News::Explained { serial, text } => self.desk.explained(id, serial, text),
            }
        }
    }

    /// Tells of an event: what clients cause at a limited rate for all workers together, all else each by itself.
    fn hear_event(&mut self, id: WorkerId, event: Event, now: Instant) {
        let Some(line) = events::line(&event, &self.inheritance.settings) else { return };
        if event == Event::ConnectionsFull && !self.crowd.hear(now) {
            return;
        }
        match event {
            Event::PassedOver { server, obstacle, .. } => {
                if self.obstructed.hear(server, obstacle, event, now) {
                    self.say.warning(&line);
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

    /// Tells of events that stand for several.
    pub(in crate::event_loop) fn tell_many(&mut self, told: impl IntoIterator<Item = Told>) {
        for told in told {
            if let Some(line) = events::line_of_many(&told, &self.inheritance.settings) {
                self.say.warning(&line);
            }
        }
    }

    /// Tells which servers are passed over, and which are so no more.
    pub(in crate::event_loop) fn tell_obstructed(&mut self, now: Instant) {
        let (settings, table) = (&self.inheritance.settings, &self.inheritance.table);
        let standing = |code: i32| {
            let Some((target, server)) =
                Target::from_code(code).and_then(|target| Some((target, settings.target(target)?)))
            else {
                return Standing::Gone;
            };
            let totals = table.server_totals(target.row(settings.table_size()));
            match totals.blacklisted_until {
                0 => Standing::Room {
                    connections: server.limit(false).is_none_or(|limit| totals.connections < limit),
                    pending: !totals.is_pending,
                },
                _ => Standing::Gone,
            }
        };
        for event in self.obstructed.settle(standing, now) {
            if let Some(line) = events::line(&event, settings) {
                self.say.warning(&line);
            }
        }
    }

    /// Passes on to the administrator what a worker told, within bounds.
    fn tell(&mut self, id: WorkerId, line: &str, now: Instant) {
        let servers = self.inheritance.settings.table_size();
        if let Admission::Admitted { withheld_before } = self.crew.admit_event(id, servers, now) {
            self.tell_withheld(id, withheld_before);
            self.say.warning(line);
        }
    }

    /// Tells how much of what a worker told was not passed on.
    pub(in crate::event_loop) fn tell_withheld(&mut self, id: WorkerId, withheld: u64) {
        if withheld > 0 {
            self.say.warning(&format!("{withheld} more messages of worker {id} were withheld"));
        }
    }
}
