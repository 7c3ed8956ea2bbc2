//! Death of children: they are reaped, the resources of a worker are reclaimed, and its slot is
//! filled again.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pen_config::ids::WorkerId;

use crate::StartError;
use crate::event_loop::{Phase, Supervisor};
use crate::limits::why_within_limits;
use crate::log::errno::why;
use crate::processes::pool::Death;

impl Supervisor {
    /// Reaps all dead children.
    pub(in crate::event_loop) fn reap(&mut self, now: Instant) -> Result<(), StartError> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))) => {
                    self.dead(pid, status, now)?;
                }
                Err(Errno::EINTR) => {}
                // No child is dead, or there is none.
                _ => return Ok(()),
            }
        }
    }

    fn dead(&mut self, pid: Pid, status: WaitStatus, now: Instant) -> Result<(), StartError> {
        if self.reporter.reaped(pid, status, self.state.status.as_ref(), &mut self.logger)
            || self.queue.reaped(pid, status)
        {
            return Ok(());
        }
        if let Some((line, reason)) =
            self.control.as_mut().and_then(|control| control.discharge(pid, status, now))
        {
            self.queue.forget_operators();
            return match self.phase {
                Phase::Starting => {
                    Err(StartError(reason.unwrap_or(format!("{line} before it was ready"))))
                }
                Phase::Serving => {
                    self.logger.warning(&format!(
                        "{line}; it is replaced, clients are served all the time"
                    ));
                    Ok(())
                }
                Phase::Stopping => Ok(()),
            };
        }
        // As process 1 of a container, the supervisor also gets orphans of other processes.
        let Some(mut death) = self.pool.discharge(pid, status, now) else { return Ok(()) };
        let last_words = std::mem::take(&mut death.reports);
        self.hear(death.id, last_words, now);
        self.reporter.forget(death.id);
        self.queue.forget(death.id);
        // Reclaim before a replacement writes to the same rows.
        if self.context.table.reclaim(u32::from(death.id.0)) {
            self.pool.workers_mut().for_each(|worker| worker.tell_freed());
        }
        // The dead worker may have been under an attacker's control and may have written wrong
        // values into rows of living workers. Only the living workers can correct those.
        self.pool.workers_mut().for_each(|worker| worker.order_republish());
        match self.phase {
            Phase::Starting if !death.was_ready => return Err(StartError(death.start_failure())),
            Phase::Starting | Phase::Serving => self.replace(&death, now),
            Phase::Stopping => {}
        }
        Ok(())
    }

    /// Replaces a dead worker, now or later, and logs it in one line.
    fn replace(&mut self, death: &Death, now: Instant) {
        let delay = self.pool.refill(death.id, death.lived, now);
        match delay.is_zero() {
            true => self.fill(death.id, Some(death), now),
            false => self.logger.warning(&format!(
                "{}; to be replaced in {} ms",
                death.line(),
                delay.as_millis()
            )),
        }
    }

    /// Fills a slot; if that fails now, tries again later.
    pub(in crate::event_loop) fn fill(
        &mut self,
        id: WorkerId,
        predecessor: Option<&Death>,
        now: Instant,
    ) {
        let line = predecessor.map_or(format!("worker {id}"), Death::line);
        match self.pool.spawn(id, &self.context, now) {
            Ok(_) if predecessor.is_some() => self.logger.warning(&format!("{line}; replaced")),
            Ok(pid) => self.logger.debug(&format!("worker {id} is replaced by pid {pid}")),
            Err(error) => {
                let delay = self.pool.refill(id, Duration::ZERO, now).as_millis();
                let reason = why_within_limits(&error);
                self.logger.warning(&format!(
                    "{line}; cannot be replaced: {reason}; tried again in {delay} ms"
                ));
            }
        }
    }

    /// Replaces a dead control process when it is time.
    pub(in crate::event_loop) fn fill_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        if control.due().is_none_or(|due| due > now) {
            return;
        }
        match control.spawn(&self.context, now) {
            Ok(pid) => self.logger.debug(&format!("the control process is replaced by pid {pid}")),
            Err(error) => {
                let delay = control.postpone(now).as_millis();
                self.logger.warning(&format!(
                    "the control process cannot be replaced: {}; tried again in {delay} ms",
                    why(&error)
                ));
            }
        }
    }
}
