//! A process with a port of an earlier program: it answers its last clients and ends.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};
use pen_ipc::channel::Sent;
use pen_ipc::message::{FromOldPort, Outcome, ToChecker, ToControl, ToPage};
use serde::Serialize;

use crate::processes::peer::{AdoptedProcess, Peer};

/// The control process of an earlier program.
pub(crate) type OldControl = OldPortProcess<ToControl>;

/// The page process of an earlier program.
pub(crate) type OldPage = OldPortProcess<ToPage>;

/// The checker of an earlier program.
pub(crate) type OldChecker = OldPortProcess<ToChecker>;

/// A process that ends.
#[derive(Debug)]
pub(crate) struct OldPortProcess<To> {
    peer: Peer<To, FromOldPort>,
    /// Its last messages, in this order. The last one is the order to end.
    due: Vec<To>,
    /// When it is killed if it has not ended; none before it has the order.
    deadline: Option<Instant>,
}

impl OldControl {
    /// Orders it to end, after a reply to the operator with this number.
    pub(crate) fn end(&mut self, reply: Option<(u64, Outcome, String)>, now: Instant) {
        let reply = reply.map(|(ticket, outcome, text)| ToControl::Reply { ticket, outcome, text });
        self.end_after(reply.into_iter().chain([ToControl::Leave]).collect(), now);
    }
}

impl OldPage {
    /// Orders it to end.
    pub(crate) fn end(&mut self, now: Instant) {
        self.end_after(vec![ToPage::Leave], now);
    }
}

impl OldChecker {
    /// Orders it to end.
    pub(crate) fn end(&mut self, now: Instant) {
        self.end_after(vec![ToChecker::Leave], now);
    }
}

impl<To: Serialize> OldPortProcess<To> {
    /// Takes over the process of an earlier program.
    pub(crate) fn adopted(process: AdoptedProcess, user: Uid, now: Instant) -> OldPortProcess<To> {
        OldPortProcess { peer: Peer::adopted(process, user, now), due: Vec::new(), deadline: None }
    }

    /// Sends its last messages. The last one is the order to end.
    fn end_after(&mut self, messages: Vec<To>, now: Instant) {
        self.deadline = Some(now + PATIENCE);
        self.due = messages;
    }

    /// Shortens the time until it is killed: a further upgrade waits for its end.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let soon = now + HURRIED;
        self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
    }

    /// The pid.
    pub(crate) fn pid(&self) -> Pid {
        self.peer.pid()
    }

    /// The descriptor to poll for the end of the process.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.peer.pidfd()
    }

    /// The channel to poll for reading, and whether to poll it for writing too. None before it has
    /// the order to end: its messages are for the earlier program, which may get the process back.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.deadline?;
        Some((self.peer.channel()?, !self.due.is_empty()))
    }

    /// Reads and skips what it sends: it speaks the language of its own release.
    pub(crate) fn skip(&mut self, most: usize, now: Instant) {
        for _ in 0..most {
            if self.peer.read(now).is_none() {
                return;
            }
        }
    }

    /// Sends queued messages, as far as the channel has room.
    pub(crate) fn send_due(&mut self) {
        while let Some(message) = self.due.first()
            && self.peer.send(message, None) != Some(Sent::Full)
        {
            self.due.remove(0);
        }
    }

    /// When to call [`OldPortProcess::kill_overdue`].
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.peer.overdue().into_iter().chain(self.deadline).min()
    }

    /// Kills it if it does not end.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        match self.deadline {
            Some(deadline) if deadline <= now => self.peer.kill(),
            Some(_) | None => self.peer.kill_overdue(now),
        }
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.peer.kill();
    }
}

/// How long it may take when an upgrade waits for it.
const HURRIED: Duration = Duration::from_secs(5);

/// How long it may take to send its replies and to end: longer than its own limit for a reply.
const PATIENCE: Duration = Duration::from_secs(90);
