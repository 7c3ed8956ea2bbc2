//! Heartbeats: the supervisor asks the jailed processes for a sign of life, and gives one to the
//! service manager.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::kept::state::End;
use crate::log::Severity;
use crate::log::recent::Incident;

impl Supervisor {
    /// Sends the heartbeats and logs the summaries that are due. Called in every turn of the loop,
    /// so that a heartbeat proves that the loop runs.
    pub(in crate::event_loop) fn beat(&mut self, now: Instant) {
        self.notify.beat(now);
        self.keeper.settle();
        if self.has_readers() {
            self.past.histories.sample(&self.context.settings, &self.context.table, now);
        }
        if !self.beat.take_due(now) {
            return;
        }
        if self.keeper.is_short() {
            self.keep(End::Running);
        }
        self.pool.workers_mut().for_each(|worker| worker.beat());
        self.old.beat();
        self.make_room(now);
        for (id, withheld) in self.pool.withheld_events(now) {
            self.log_withheld(id, withheld);
        }
        let due = self.throttle.due(now);
        self.log_merged(due);
        self.log_obstructed(now);
        if self.full.is_over(now) {
            let (open, most) =
                (self.context.table.connections_open(), self.context.settings.connections_max);
            let incident = Incident::of(EventKind::ConnectionsLimit)
                .with("connections", open)
                .with("limit", most);
            let line = format!("clients no longer wait for a connection: {open} of {most} in use");
            self.logger.event(Severity::Notice, incident, &line);
        }
        let changes = self.notices.settle(now);
        self.log_changes(changes);
        // While the queue is full, nobody reads the messages of the control process. It must not be
        // judged then, unless it causes the delay itself by not reading a reply.
        let unread = self.queue.is_full()
            && self.control.as_ref().is_some_and(|control| !control.has_pending_reply());
        self.control.iter_mut().for_each(|control| control.beat(unread));
        self.page.iter_mut().for_each(|page| page.beat(false));
        self.beat_checker(now);
        self.rebalance(now);
        if self.notify.is_heard() {
            let status = self.status();
            self.notify.status(&status, now);
        }
    }

    /// When [`Supervisor::beat`] has something to do.
    pub(in crate::event_loop) fn next_beat(&self) -> Option<Instant> {
        let period = self.past.histories.due().filter(|_| self.has_readers());
        [Some(self.beat.due()), self.notify.deadline(), period].into_iter().flatten().min()
    }

    /// Whether there is somebody who can ask for the history.
    fn has_readers(&self) -> bool {
        self.control.is_some() || self.page.is_some()
    }

    /// Reports to the service manager that pen is ready: it works by the wanted settings, or has
    /// logged why not.
    pub(in crate::event_loop) fn announce(&mut self, now: Instant) {
        let status = self.status();
        self.notify.ready(&status, now);
    }

    /// The state of the service in one line.
    fn status(&self) -> String {
        let all = self.pool.ids().count();
        let ready = self.pool.workers().filter(|worker| worker.peer.is_ready()).count();
        let open = self.pool.open().saturating_add(self.old.open());
        let accepted = self.totals().accepted;
        let workers = if ready == all {
            format!("{all} workers")
        } else {
            format!("{ready} of {all} workers")
        };
        let refused = if self.file_refused {
            "; the configuration file has errors and was not used, see the log"
        } else {
            ""
        };
        format!("{workers}, {open} connections, {accepted} clients accepted{refused}")
    }
}
