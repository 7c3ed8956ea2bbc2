//! A jailed process as the supervisor sees it: the process, its channel, and the allowed order of
//! messages.
//!
//! An attacker may control the process. So all its messages are bounded and checked, and none makes
//! the supervisor wait or panic.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid, getpid};
use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::message::{FromStartingWorker, PROTOCOL_VERSION};
use pen_table::LAYOUT_VERSION;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::processes::child::{Child, Observed};
use crate::processes::flood::{Admission, Flood};
use crate::processes::liveness::{Grace, HUNG, LivenessWatch, NEVER_READY};

/// A process that is not known to be dead. It receives `Tx` and, once it is ready, sends `Rx`.
#[derive(Debug)]
pub(crate) struct Peer<Tx, Rx> {
    child: Child,
    pub(crate) born: Instant,
    /// Whether it was ever ready.
    pub(crate) was_ready: bool,
    /// The reason why it could not start, in its own words, or why it was expelled.
    pub(crate) failed: Option<String>,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    link: PeerLink<Tx, Rx>,
    /// A limit for its messages.
    messages: Flood,
    /// Until when it may live after its channel was closed.
    overdue: Option<Instant>,
    /// Its liveness.
    pub(crate) watch: LivenessWatch,
    observed: Observed,
}

#[derive(Debug)]
enum PeerLink<Tx, Rx> {
    Starting {
        channel: Channel<Tx, FromStartingWorker>,
        greeted: bool,
    },
    Ready(Channel<Tx, Rx>),
    /// Closed by either side; the process ends soon.
    Cut,
}

/// A message of a process.
#[derive(Debug)]
pub(crate) enum PeerMessage<Rx> {
    /// It is ready.
    Ready,
    /// A message, with the descriptor that came with it.
    Message(Rx, Option<OwnedFd>),
    /// A message of the start, which needs no action.
    Nothing,
}

impl<Tx: Serialize + DeserializeOwned, Rx: Serialize + DeserializeOwned> Peer<Tx, Rx> {
    /// Forks a process that runs `live` with its end of the channel and the supervisor's pid.
    /// `user` is the user that it becomes.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn spawn(
        user: Uid,
        grace: Grace,
        live: impl FnOnce(Channel<FromStartingWorker, Tx>, Pid) -> i32,
        now: Instant,
    ) -> io::Result<Peer<Tx, Rx>> {
        let (ours, theirs) = Channel::<Tx, FromStartingWorker>::pair()?;
        let supervisor = getpid();
        let child = Child::fork(user, move || live(theirs, supervisor))?;
        let pidfd = child.watch()?;
        Ok(Peer {
            child,
            born: now,
            was_ready: false,
            failed: None,
            pidfd,
            link: PeerLink::Starting { channel: ours, greeted: false },
            messages: Flood::new(MOST_MESSAGES, Duration::from_secs(1), now),
            overdue: None,
            watch: LivenessWatch::of_birth(grace),
            observed: Observed::new(child),
        })
    }

    /// The channel, unless it is closed.
    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            PeerLink::Starting { channel, .. } => Some(channel.as_fd()),
            PeerLink::Ready(channel) => Some(channel.as_fd()),
            PeerLink::Cut => None,
        }
    }

    /// The pid.
    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }

    /// The descriptor to poll for the end of the process.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it is ready and its channel is open.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.link, PeerLink::Ready(_))
    }

    /// Reads one message; none if there is none now, or the channel is closed. A process that
    /// breaks the protocol is expelled.
    pub(crate) fn read(&mut self, now: Instant) -> Option<PeerMessage<Rx>> {
        match self.read_one() {
            Ok(Some(_)) if self.messages.admit(now) == Admission::Withheld => {
                self.expel("it floods its channel");
                None
            }
            Ok(heard) => heard,
            Err(reason) => {
                self.expel(&reason);
                None
            }
        }
    }

    /// Sends a message; none if the channel is closed.
    pub(crate) fn send(&self, message: &Tx, descriptor: Option<BorrowedFd<'_>>) -> Option<Sent> {
        match &self.link {
            PeerLink::Starting { channel, .. } => channel.send(message, descriptor).ok(),
            PeerLink::Ready(channel) => channel.send(message, descriptor).ok(),
            PeerLink::Cut => None,
        }
    }

    /// When to call [`Peer::kill_overdue`].
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.overdue
    }

    /// Kills a process that has closed its channel and does not end.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        if self.overdue.is_some_and(|overdue| overdue <= now) {
            self.expel("it closed its channel");
        }
    }

    /// Asks for a sign of life, and kills a process that has given none for too long. A process
    /// without a channel is ending already.
    pub(crate) fn beat(&mut self, ping: impl FnOnce(u32) -> Tx) {
        let hung = match &self.link {
            PeerLink::Cut => return,
            PeerLink::Starting { .. } => {
                (!self.watch.beat_of_start(&self.observed)).then_some(NEVER_READY)
            }
            PeerLink::Ready(channel) => {
                let ask = |serial| matches!(channel.send(&ping(serial), None), Ok(Sent::Queued));
                (!self.watch.beat(&self.observed, ask)).then_some(HUNG)
            }
        };
        if let Some(reason) = hung {
            self.expel(reason);
        }
    }

    /// Kills a process that can no longer be trusted. The reason is logged when it is reaped.
    pub(crate) fn expel(&mut self, reason: &str) {
        self.failed.get_or_insert_with(|| reason.into());
        self.kill();
    }

    /// Kills the process, which is still to be reaped.
    pub(crate) fn kill(&mut self) {
        (self.link, self.overdue) = (PeerLink::Cut, None);
        self.child.kill();
    }

    fn read_one(&mut self) -> Result<Option<PeerMessage<Rx>>, String> {
        match &self.link {
            PeerLink::Cut => Ok(None),
            PeerLink::Starting { channel, .. } => match channel.receive() {
                Ok(Received::Message(message, _)) => self.hear_starting(message).map(Some),
                other => self.nothing(other),
            },
            PeerLink::Ready(channel) => match channel.receive() {
                Ok(Received::Message(message, descriptor)) => {
                    Ok(Some(PeerMessage::Message(message, descriptor)))
                }
                other => self.nothing(other),
            },
        }
    }

    fn nothing<Said>(
        &mut self,
        received: Result<Received<Said>, ChannelError>,
    ) -> Result<Option<PeerMessage<Rx>>, String> {
        match received {
            Ok(Received::Closed) => {
                // The process ends, perhaps after writing out its log.
                (self.link, self.overdue) = (PeerLink::Cut, Some(Instant::now() + GRACE));
                Ok(None)
            }
            Ok(Received::Message(_, _) | Received::Empty) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn hear_starting(&mut self, message: FromStartingWorker) -> Result<PeerMessage<Rx>, String> {
        match (message, std::mem::replace(&mut self.link, PeerLink::Cut)) {
            (
                FromStartingWorker::Hello { protocol, layout },
                PeerLink::Starting { channel, greeted: false },
            ) => {
                if (protocol, layout) != (PROTOCOL_VERSION, LAYOUT_VERSION) {
                    return Err(format!("it speaks protocol {protocol} and layout {layout}"));
                }
                self.link = PeerLink::Starting { channel, greeted: true };
                Ok(PeerMessage::Nothing)
            }
            (FromStartingWorker::Ready, PeerLink::Starting { channel, greeted: true }) => {
                self.link = PeerLink::Ready(channel.into_phase());
                self.was_ready = true;
                self.watch.begin_anew();
                Ok(PeerMessage::Ready)
            }
            (FromStartingWorker::Failed { reason }, link) => {
                self.failed = Some(printable(&reason));
                self.link = link;
                Ok(PeerMessage::Nothing)
            }
            _ => Err("its first messages are out of order".into()),
        }
    }
}

/// Text from a process, made safe for a terminal and a log: one line of bounded length.
pub(crate) fn printable(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { '.' } else { letter };
    text.chars().take(LONGEST_REASON).map(clean).collect()
}

/// Lines from a process, made safe for a terminal.
pub(crate) fn printable_lines(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() && letter != '\n' { '.' } else { letter };
    let mut lines: String = text.chars().map(clean).collect();
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines
}

/// Most messages in a second. A report about a million connections has a thousand pages.
const MOST_MESSAGES: u32 = 20_000;

/// How long a process may live after its channel was closed.
const GRACE: Duration = Duration::from_secs(1);

/// Longest reason for a failed start, in characters.
const LONGEST_REASON: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_are_made_harmless() {
        assert_eq!(printable("a\nb\x1b[2J"), "a.b.[2J");
        assert_eq!(printable(&"x".repeat(10_000)).len(), LONGEST_REASON);
        assert_eq!(printable_lines("a\nb\x1b[2J\r\u{9b}"), "a\nb.[2J..\n");
        assert_eq!(printable_lines("a\n"), "a\n");
    }
}
