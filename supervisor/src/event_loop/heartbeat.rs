//! Heartbeats: the supervisor asks the jailed processes for a sign of life, and gives one to the
//! service manager.

#![forbid(unsafe_code)]

use std::time::Instant;

use crate::event_loop::Supervisor;

impl Supervisor {
    /// Sends the heartbeats and logs the summaries that are due. Called in every turn of the loop,
    /// so that a heartbeat proves that the loop runs.
    pub(in crate::event_loop) fn beat(&mut self, now: Instant) {
        self.notify.beat(now);
        if !self.beat.falls(now) {
            return;
        }
        self.pool.workers_mut().for_each(|worker| worker.beat());
        for (id, withheld) in self.pool.withheld_events(now) {
            self.tell_withheld(id, withheld);
        }
        let due = self.throttle.settle(now);
        self.tell_many(due);
        self.tell_obstructed(now);
        if self.crowd.is_over(now) {
            let (open, most) =
                (self.context.table.connections_open(), self.context.settings.connections_max);
            self.logger.notice(&format!(
                "clients no longer wait for a connection: {open} of {most} in use"
            ));
        }
        let changes = self.notices.settle(now);
        changes.iter().for_each(|line| self.logger.notice(line));
        // While the queue is full, nobody reads the messages of the control process. It must not be
        // judged then, unless it causes the delay itself by not reading a reply.
        let unheard = self.queue.is_full()
            && self.control.as_ref().is_some_and(|control| !control.is_choked());
        self.control.iter_mut().for_each(|control| control.beat(unheard));
        if self.notify.is_heard() {
            let status = self.status();
            self.notify.status(&status, now);
        }
    }

    /// When [`Supervisor::beat`] has something to do.
    pub(in crate::event_loop) fn next_beat(&self) -> Option<Instant> {
        [Some(self.beat.due()), self.notify.deadline()].into_iter().flatten().min()
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
        let open = self.pool.open();
        let accepted = self.pool.totals().accepted;
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
