//! The wait of the event loop: its sources and its deadline.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::PollFlags;
use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_ipc::start::Begins;
use serde::Serialize;

use crate::event_loop::upgrade::Upgrade;
use crate::event_loop::{Phase, Supervisor};
use crate::poll::PollSet;
use crate::processes::ports::checker::Checker;
use crate::processes::ports::control::Control;
use crate::processes::ports::kind::PortKind;
use crate::processes::ports::old::{OldControl, OldPage, OldPortProcess};
use crate::processes::ports::page::Page;
use crate::processes::ports::slot::Slot;

/// What the event loop waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::event_loop) enum Source {
    /// A signal, or during a start the end of the command that waits for it.
    Signals,
    /// The channel of a worker.
    Worker(WorkerId),
    /// The channel of the worker of an earlier program, by its pid.
    OldWorker(Pid),
    /// The channel of the control process.
    Control,
    /// The channel of the page process.
    Page,
    /// The channel of the checker.
    Checker,
    /// The channel of the control or page process or the checker of an earlier program.
    OldPort,
    /// The end of a jailed process.
    Process,
    /// An answer or the end of a helper.
    Helper,
}

impl Supervisor {
    /// Waits for an event, at most until `latest`. Returns the sources that are ready. `signals`
    /// are the descriptors of [`Source::Signals`].
    pub(in crate::event_loop) fn wait(
        &self,
        signals: &[BorrowedFd<'_>],
        latest: Option<Instant>,
    ) -> Vec<Source> {
        let mut set = PollSet::new();
        for worker in self.pool.workers() {
            if let Some((channel, due)) = worker.channel() {
                set.add(Source::Worker(worker.id), channel, events(true, due));
            }
            set.add(Source::Process, worker.peer.pidfd(), PollFlags::POLLIN);
        }
        // Before the commit, the earlier program may still need their messages.
        let reads_old = self.begins == Begins::AtOnce;
        for worker in self.old.workers() {
            if let Some((channel, due)) = worker.channel().filter(|_| reads_old) {
                set.add(Source::OldWorker(worker.peer.pid()), channel, events(true, due));
            }
            set.add(Source::Process, worker.peer.pidfd(), PollFlags::POLLIN);
        }
        self.old_control.iter().for_each(|old| add_old(&mut set, old));
        self.old_page.iter().for_each(|old| add_old(&mut set, old));
        self.checking.old().into_iter().for_each(|old| add_old(&mut set, old));
        if let Some(control) = &self.control {
            add(&mut set, Source::Control, control, !self.queue.is_full());
        }
        self.page.iter().for_each(|page| add(&mut set, Source::Page, page, true));
        let checker = self.checking.process();
        checker.into_iter().for_each(|checker| add(&mut set, Source::Checker, checker, true));
        for ending in self.checking.ending() {
            set.add(Source::Process, ending, PollFlags::POLLIN);
        }
        if let Some(upgrade) = self.upgrade.as_ref().and_then(Upgrade::descriptor) {
            set.add(Source::Helper, upgrade, PollFlags::POLLIN);
        }
        let helpers = self.queue.descriptors().into_iter().chain(self.page_question.descriptor());
        for helper in helpers.chain(self.names.descriptors()) {
            set.add(Source::Helper, helper, PollFlags::POLLIN);
        }
        for signals in signals {
            set.add(Source::Signals, *signals, PollFlags::POLLIN);
        }
        set.wait(self.deadline(latest))
    }

    /// When the loop needs a turn even if nothing happens.
    fn deadline(&self, latest: Option<Instant>) -> Option<Instant> {
        let overdue = self.pool.workers().filter_map(|worker| worker.peer.overdue());
        let old = self.old.workers().filter_map(|worker| worker.peer.overdue());
        let overdue = overdue.chain(old).min();
        let old_control = self.old_control.as_ref().and_then(OldControl::overdue);
        let old_page = self.old_page.as_ref().and_then(OldPage::overdue);
        let drained = match self.phase {
            Phase::Serving => self.old.timeout(self.context.settings.drain_timeout),
            Phase::Starting | Phase::Stopping => None,
        };
        let now = Instant::now();
        let (control, page) = (self.control.as_ref(), self.page.as_ref());
        let pause = control.and_then(|control| control.paused_until(now));
        let page_pause = page.and_then(|page| page.paused_until(now));
        let keys = self.context.keys.as_ref().filter(|_| self.phase == Phase::Serving);
        let keys = keys.map(|keys| keys.rotation.min(keys.reading));
        let server_keys =
            self.context.server_keys.as_ref().filter(|_| self.phase == Phase::Serving);
        let server_keys = server_keys.map(|keys| keys.looking);
        let overdue_port = control.and_then(Control::overdue);
        let overdue_port = overdue_port.into_iter().chain(page.and_then(Page::overdue)).min();
        let always =
            [latest, overdue, old_control, old_page, overdue_port, drained, keys, server_keys];
        let always = always.into_iter().chain([pause, page_pause, self.checking.overdue(now)]);
        let due = match self.phase {
            Phase::Starting => {
                [self.pool.next_due(), None, None, None, None, None, None, None, None, None, None]
            }
            Phase::Serving => [
                self.pool.next_due(),
                self.queue.deadline(),
                control.and_then(Control::due),
                page.and_then(Page::due),
                self.checking.process().and_then(Checker::due),
                self.page_question.deadline(),
                self.next_beat(),
                self.upgrade.as_ref().map(Upgrade::deadline),
                self.old_tables.due(),
                self.drains.due(),
                self.names.deadline(self.upgrade.is_none()),
            ],
            Phase::Stopping => [None; 11],
        };
        always.chain(due).flatten().min()
    }
}

/// Adds a process with a port. One that sends messages too fast has to wait, and so has one whose
/// messages cannot be taken now (`reads`).
fn add<'s, K: PortKind>(
    set: &mut PollSet<'s, Source>,
    source: Source,
    slot: &'s Slot<K>,
    reads: bool,
) {
    if let Some((channel, due)) = slot.channel() {
        let is_paused = slot.paused_until(Instant::now()).is_some();
        set.add(source, channel, events(reads && !is_paused, due));
    }
    if let Some(pidfd) = slot.pidfd() {
        set.add(Source::Process, pidfd, PollFlags::POLLIN);
    }
}

/// Adds a process with a port of an earlier program.
fn add_old<'s, To: Serialize>(set: &mut PollSet<'s, Source>, old: &'s OldPortProcess<To>) {
    if let Some((channel, due)) = old.channel() {
        set.add(Source::OldPort, channel, events(true, due));
    }
    set.add(Source::Process, old.pidfd(), PollFlags::POLLIN);
}

/// The events to wait for at a channel.
fn events(reads: bool, due: bool) -> PollFlags {
    let read = if reads { PollFlags::POLLIN } else { PollFlags::empty() };
    if due { read | PollFlags::POLLOUT } else { read }
}
