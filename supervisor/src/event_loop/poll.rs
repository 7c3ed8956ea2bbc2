//! The wait of the event loop: its descriptors and its deadline.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pen_config::ids::WorkerId;

use crate::event_loop::{Phase, Supervisor};
use crate::patience::until;
use crate::processes::control::Control;

impl Supervisor {
    /// Waits. Returns the workers whose channel is readable, and whether that of the control
    /// process is. A death or a signal only ends the wait.
    pub(in crate::event_loop) fn wait(
        &self,
        sources: &[BorrowedFd<'_>],
        latest: Option<Instant>,
    ) -> (Vec<WorkerId>, bool) {
        let mut polled = Vec::new();
        let mut speakers = Vec::new();
        for worker in self.pool.workers() {
            if let Some((channel, due)) = worker.channel() {
                polled.push(PollFd::new(channel, events(true, due)));
                speakers.push(worker.id);
            }
        }
        // A control process that sends commands too fast has to wait.
        let rests = self
            .control
            .as_ref()
            .is_some_and(|control| control.rests_until(Instant::now()).is_some());
        let control = self.control.as_ref().and_then(|control| control.channel());
        let listening = control.is_some() && !rests && !self.queue.is_full();
        polled.extend(control.map(|(channel, due)| PollFd::new(channel, events(listening, due))));
        let channels = polled.len();
        let processes =
            self.pool.workers().map(|worker| worker.peer.process()).chain(self.reporter.process());
        let processes =
            processes.chain(self.control.as_ref().and_then(|control| control.descriptor()));
        let others = processes.chain(self.queue.descriptors()).chain(sources.iter().copied());
        polled.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = self.deadline(latest).map_or(PollTimeout::NONE, until);
        match poll(&mut polled, timeout) {
            Ok(_) => {
                let readable = |polled: &PollFd<'_>| {
                    polled.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT))
                };
                let heard = control.is_some() && polled.get(channels - 1).is_some_and(readable);
                let speaking =
                    speakers.into_iter().zip(&polled).filter(|(_, polled)| readable(polled));
                (speaking.map(|(id, _)| id).collect(), heard)
            }
            Err(Errno::EINTR) => (Vec::new(), false),
            // poll(2) fails at once if memory is short. Reading from every process in turn works as
            // well.
            Err(_) => (speakers, listening),
        }
    }

    /// When the loop needs a turn even if nothing happens.
    fn deadline(&self, latest: Option<Instant>) -> Option<Instant> {
        let overdue = self.pool.workers().filter_map(|worker| worker.peer.overdue()).min();
        let control = self.control.as_ref();
        let rest = control.and_then(|control| control.rests_until(Instant::now()));
        let keys = self.context.keys.as_ref().filter(|_| self.phase == Phase::Serving);
        let keys = keys.map(|keys| keys.rotation.min(keys.reading));
        let always = [latest, overdue, control.and_then(Control::overdue), rest, keys];
        let due = match self.phase {
            Phase::Starting => [self.pool.next_due(), None, None, None, None],
            Phase::Serving => [
                self.pool.next_due(),
                self.reporter.deadline(),
                self.queue.deadline(),
                control.and_then(Control::due),
                self.next_beat(),
            ],
            Phase::Stopping => [None; 5],
        };
        always.into_iter().chain(due).flatten().min()
    }
}

/// The events to wait for at a channel.
fn events(listening: bool, due: bool) -> PollFlags {
    let read = if listening { PollFlags::POLLIN } else { PollFlags::empty() };
    if due { read | PollFlags::POLLOUT } else { read }
}
