//! The upgrade: this program rehearses another one and then executes it in its own place.
//!
//! 1. `files::program` opens the file at the path of the start and judges it.
//! 2. `rehearsal` executes that file in a child, which reads the state and says whether it could go
//!    on from there. Commands and signals are handled meanwhile.
//! 3. The control process accepts no more operators, who wait. The upgrade waits until nothing is
//!    under way that a state cannot hold: a command, a worker that starts, a message that is
//!    queued, a listener that workers still leave, a report.
//! 4. `save` writes the state, and the supervisor executes the file (execveat(2)).
//!
//! What the new program does then is in `successor`. If any step fails, this program goes on.

#![forbid(unsafe_code)]

pub(crate) mod execute;
pub(crate) mod rehearsal;
mod save;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use pen_ipc::text::error_text;
use pen_status::ChangeResult;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::{Progress, Requester};
use crate::event_loop::upgrade::rehearsal::{Rehearsal, Verdict};
use crate::files;
use crate::handover::TableTransfer;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::processes::child::Child;
use crate::processes::ports::control::ControlReply;
use crate::processes::ports::kind::AcceptOrder;
use crate::sys::program;

/// An upgrade under way.
#[derive(Debug)]
pub(in crate::event_loop) struct Upgrade {
    by: Requester,
    /// The child that executed the file. While it lives, nobody can write to the file (ETXTBSY).
    rehearsal: Rehearsal,
    stage: UpgradeStage,
}

#[derive(Debug)]
enum UpgradeStage {
    /// The other program judges the state.
    Rehearsing,
    /// It can go on from the state. The upgrade waits until nothing else is under way.
    Quiescing {
        /// The version of the other program.
        version: String,
        /// What it does with the shared table.
        table: TableTransfer,
        /// When to give up.
        deadline: Instant,
    },
}

impl Upgrade {
    /// The descriptor to poll for reading.
    pub(in crate::event_loop) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self.stage {
            UpgradeStage::Rehearsing => Some(self.rehearsal.descriptor()),
            UpgradeStage::Quiescing { .. } => None,
        }
    }

    /// Whether this process asked for it by signal.
    pub(in crate::event_loop) fn is_by(&self, other: Requester) -> bool {
        match (self.by, other) {
            (
                Requester::Signal { asker: Some(asker) },
                Requester::Signal { asker: Some(other) },
            ) => asker == other,
            (
                Requester::Signal { .. }
                | Requester::Operator { .. }
                | Requester::Hangup
                | Requester::Names,
                Requester::Signal { .. }
                | Requester::Operator { .. }
                | Requester::Hangup
                | Requester::Names,
            ) => false,
        }
    }

    /// Ends the rehearsal, and returns its child.
    pub(in crate::event_loop) fn kill(self) -> Child {
        self.rehearsal.kill()
    }

    /// When to advance at the latest.
    pub(in crate::event_loop) fn deadline(&self) -> Instant {
        match self.stage {
            UpgradeStage::Rehearsing => self.rehearsal.deadline(),
            UpgradeStage::Quiescing { deadline, .. } => deadline,
        }
    }
}

impl Supervisor {
    /// Begins an upgrade.
    pub(in crate::event_loop) fn begin_upgrade<S>(
        &mut self,
        by: Requester,
        now: Instant,
    ) -> Progress<S> {
        if self.upgrade.is_some() {
            let why = "an upgrade is under way already";
            return Progress::Done(ControlReply::refusal(why));
        }
        let file = self.state.program.as_ref();
        let begun = self
            .context
            .jail
            .sandbox
            .execution
            .allows_upgrade()
            .and_then(|()| file.ok_or("the path of this program is not known (no /proc)".into()))
            .and_then(files::program::open)
            .and_then(|file| program::set_successor(file).map_err(|error| cannot(&error)))
            .and_then(|()| self.rehearse(by, now));
        match begun {
            Ok(rehearsal) => {
                self.stop_round();
                self.logger.debug(&format!("upgrade, by {by}: the new program is rehearsed"));
                let stage = UpgradeStage::Rehearsing;
                self.upgrade = Some(Upgrade { by, rehearsal, stage });
                Progress::Detached
            }
            Err(why) => Progress::Done(self.upgrade_failed(by, &why)),
        }
    }

    /// Advances the upgrade, if there is one. Does not return if the new program takes over.
    pub(in crate::event_loop) fn work_on_upgrade(&mut self, now: Instant) {
        if self.queue.ends().is_some() {
            // The exit command ends pen right after this turn.
            return;
        }
        let Some(Upgrade { by, rehearsal, stage }) = self.upgrade.take() else { return };
        let (version, table, deadline) = match stage {
            UpgradeStage::Quiescing { version, table, deadline } => (version, table, deadline),
            UpgradeStage::Rehearsing => match rehearsal.verdict(now) {
                None => {
                    self.upgrade = Some(Upgrade { by, rehearsal, stage });
                    return;
                }
                Some(Verdict::Unable(why)) => return self.give_up(by, rehearsal, &why),
                Some(Verdict::Able { version, table }) => {
                    self.old_control.iter_mut().for_each(|old| old.hurry(now));
                    self.old_page.iter_mut().for_each(|old| old.hurry(now));
                    self.checking.old_mut().into_iter().for_each(|old| old.hurry(now));
                    self.order_ports(AcceptOrder::Pause);
                    self.send_due();
                    // Who asks the page now gets an answer of this program. Later questions wait
                    // 0.9 s, and so do not keep this program.
                    self.page_question.hurry();
                    self.work_on_page(now);
                    (version, table, now + QUIESCE_PATIENCE)
                }
            },
        };
        self.end_drains(now);
        let why = match self.unfinished() {
            // Without it, the file could be another one by now.
            None if rehearsal.has_ended() => "the process that rehearsed it was killed".into(),
            None => self.hand_over(by, &version, table),
            Some(_) if now < deadline => {
                let stage = UpgradeStage::Quiescing { version, table, deadline };
                self.upgrade = Some(Upgrade { by, rehearsal, stage });
                return;
            }
            Some(what) => format!("{what} for {} s; try again", QUIESCE_PATIENCE.as_secs()),
        };
        self.give_up(by, rehearsal, &why);
    }

    /// Ends an upgrade that failed.
    fn give_up(&mut self, by: Requester, rehearsal: Rehearsal, why: &str) {
        self.queue.leave(rehearsal.kill());
        let reply = self.upgrade_failed(by, why);
        self.conclude(by, reply);
    }

    /// What is under way that a state cannot hold.
    fn unfinished(&self) -> Option<String> {
        let starting = self.pool.workers().find(|worker| worker.peer.is_starting());
        if let Some(worker) = starting {
            return Some(format!("worker {} was starting", worker.id));
        }
        if self.old_control.is_some() {
            return Some("the control process before the last upgrade did not end".into());
        }
        if self.old_page.is_some() {
            return Some("the page process before the last upgrade did not end".into());
        }
        if !self.old.has_room_for(self.pool.size(), self.context.table.shape().rows) {
            return Some("old workers did not end".into());
        }
        if let Some(worker) = self.pool.workers().find(|worker| !worker.is_settled()) {
            return Some(format!("worker {} did not read its messages", worker.id));
        }
        if let Some(worker) = self.pool.workers().find(|worker| !worker.has_moved()) {
            return Some(format!("worker {} did not leave the listener before", worker.id));
        }
        if self.control.as_ref().is_some_and(|control| !control.is_settled()) {
            return Some("the control process was busy".into());
        }
        if self.page.as_ref().is_some_and(|page| !page.is_settled()) {
            return Some("the page process was busy".into());
        }
        if let Some(why) = self.checking.unfinished() {
            return Some(why.into());
        }
        if self.drains.has_some() {
            return Some("operators waited for a drain".into());
        }
        if self.page_question.has_work() {
            return Some("the page was being made".into());
        }
        self.queue.has_work().then(|| "a command or a report was under way".into())
    }

    /// Ends a failed upgrade; returns the reply.
    fn upgrade_failed(&mut self, by: Requester, why: &str) -> ControlReply {
        if let Err(error) = program::drop_successor() {
            self.logger.warning(&format!("upgrade: {}", error_text(&error)));
        }
        self.order_ports(AcceptOrder::Begin);
        ControlReply::refusal(self.upgrade_failure(by, why))
    }

    /// Logs and counts that an upgrade failed, and returns the line.
    pub(in crate::event_loop) fn upgrade_failure(&mut self, by: Requester, why: &str) -> String {
        let version = self.build.version;
        let line = format!("upgrade failed: {why}; pen {version} goes on");
        let incident = Incident::of(EventKind::UpgradeFailed)
            .with("reason", why)
            .with("version", version)
            .with("by", by.to_string());
        self.logger.event(Severity::Warning, incident, &line);
        self.past.upgrades.count(ChangeResult::Failure, &line);
        line
    }
}

fn cannot(error: &std::io::Error) -> String {
    format!("the new program cannot be held: {}", crate::limits::why_within_limits(error))
}

/// How long other work may take before the upgrade gives up.
const QUIESCE_PATIENCE: Duration = Duration::from_secs(10);
