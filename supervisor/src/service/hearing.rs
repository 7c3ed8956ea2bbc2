//! What becomes of the messages of workers and of the control process.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_contract::ids::WorkerId;
use pen_contract::message::Event;

use super::Service;
use crate::control::ControlNews;
use crate::events;
use crate::flood::Admission;
use crate::workers::News;

impl Service {
    /// Deals with what the control process said.
    pub(super) fn hear_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some(pid) = control.pid() else { return };
        for news in control.read(self.desk.room(), now) {
            match news {
                ControlNews::Ready => self.say.debug("the control process is ready"),
                ControlNews::Command { ticket, command, file } => self.desk.enter(pid, ticket, command, file),
                ControlNews::Line(line) => self.say.warning(&line),
            }
        }
    }

    /// Deals with what a worker said.
    pub(super) fn hear(&mut self, id: WorkerId, news: Vec<News>, now: Instant) {
        for news in news {
            match news {
                News::Ready => self.say.debug(&format!("worker {id} is ready")),
                News::Event(event) => self.tell(id, &event, now),
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

    /// Passes an event on to the administrator, within bounds.
    fn tell(&mut self, id: WorkerId, event: &Event, now: Instant) {
        let Some(line) = events::line(event, &self.inheritance.settings) else { return };
        match self.crew.worker_mut(id).map(|worker| worker.events.admit(now)) {
            Some(Admission::Admitted { withheld_before }) => {
                if withheld_before > 0 {
                    self.say.warning(&format!("{withheld_before} more messages of worker {id} were withheld"));
                }
                self.say.warning(&line);
            }
            Some(Admission::Withheld) => {}
            // Its last words; there are not many.
            None => self.say.warning(&line),
        }
    }
}
