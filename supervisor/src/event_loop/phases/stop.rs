//! The end of pen: all processes are asked to end, and killed after a while.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pen_ipc::stats::Counters;

use crate::event_loop::{Phase, Supervisor};
use crate::processes::ports::control::Control;
use crate::processes::ports::old::{OldControl, OldPage};
use crate::processes::ports::page::Page;
use crate::signals::Signals;

impl Supervisor {
    /// Ends all workers: by message, and after a while by SIGKILL. A second signal does not shorten
    /// this: the workers may still write log lines.
    pub(in crate::event_loop::phases) fn stop(&mut self, signals: &Signals) {
        self.phase = Phase::Stopping;
        let deadline = Instant::now() + STOP_PATIENCE;
        self.pool.workers_mut().for_each(|worker| worker.order_stop());
        self.control.iter_mut().for_each(|control| control.order_stop());
        self.page.iter_mut().for_each(|page| page.order_stop());
        self.checking.order_stop();
        self.page_question.kill();
        self.old.order_stop();
        self.old_control.iter_mut().for_each(OldControl::kill);
        self.old_page.iter_mut().for_each(OldPage::kill);
        self.send_due();
        if let Some((by, success)) = self.queue.take_unconfirmed() {
            self.tell_success(success, by, Instant::now());
        }
        if self.queue.has_unwritten_report() {
            self.logger.warning("the report was not made: pen stops");
        }
        self.queue.stop();
        self.stop_round();
        if let Some(upgrade) = self.upgrade.take() {
            self.queue.leave(upgrade.kill());
        }
        while !self.all_ended() && Instant::now() < deadline {
            let _ = self.turn(&[signals.as_fd()], Some(deadline));
            self.notify.settle();
            while signals.next().is_some() {}
        }
        for worker in self.pool.workers() {
            self.logger.warning(&format!(
                "worker {} (pid {}) did not stop in time; killed",
                worker.id,
                worker.peer.pid()
            ));
        }
        for worker in self.old.workers() {
            self.logger.warning(&format!(
                "old worker {} (pid {}) did not stop in time; killed",
                worker.origin.id,
                worker.peer.pid()
            ));
        }
        self.end();
        self.leave_kept();
        self.log_unlogged(Instant::now());
        let totals = self.totals();
        self.logger.debug(&format!(
            "stopped; {} clients accepted, {} unserved",
            totals.accepted, totals.unserved
        ));
        if totals.crowded > 0 {
            self.logger.debug(&format!("{} clients were closed for memory", totals.crowded));
        }
        if self.context.keys.is_some() {
            let Counters { handshakes, resumed, failed_handshakes, .. } = totals;
            self.logger.debug(&format!(
                "TLS: {handshakes} handshakes, {resumed} of them resumed, \
                    {failed_handshakes} failed"
            ));
        }
    }

    /// Kills and reaps all children that are left.
    fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.queue.stop();
        self.stop_round();
        self.queue.kill();
        self.pool.workers_mut().for_each(|worker| worker.peer.kill());
        self.control.iter_mut().for_each(|control| control.kill());
        self.page.iter_mut().for_each(|page| page.kill());
        self.checking.kill();
        self.page_question.kill();
        self.old.kill();
        self.old_control.iter_mut().for_each(OldControl::kill);
        self.old_page.iter_mut().for_each(OldPage::kill);
        // SIGKILL needs no cooperation. Only a process that waits for a device ends later; it is
        // left to the kernel.
        let deadline = Instant::now() + KILL_PATIENCE;
        let is_over = |service: &mut Supervisor| {
            service.all_ended() && service.queue.is_reaped() && service.page_question.is_reaped()
        };
        while !is_over(self) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }

    /// Whether all jailed processes have ended.
    fn all_ended(&self) -> bool {
        self.pool.is_empty()
            && self.control.as_ref().is_none_or(Control::is_empty)
            && self.page.as_ref().is_none_or(Page::is_empty)
            && self.checking.has_ended()
            && self.old.is_empty()
            && self.old_control.is_none()
            && self.old_page.is_none()
    }
}

/// A failed start leaves no worker behind.
impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long workers may take to stop; with [`KILL_PATIENCE`] it is within the three seconds that
/// the manual promises.
const STOP_PATIENCE: Duration = Duration::from_millis(2500);

/// How long killed workers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(300);
