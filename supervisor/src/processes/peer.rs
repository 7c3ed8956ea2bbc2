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
use pen_ipc::codec::Incoming;
use pen_ipc::message::FromStartingWorker;
use serde::Serialize;

use crate::flood::{Admission, Flood};
use crate::log::printable::printable;
use crate::processes::child::{Child, Observed};
use crate::processes::liveness::{Grace, HUNG, LivenessWatch, NEVER_READY, Subject};

/// A process that is not known to be dead. It receives `Tx` and, once it is ready, sends `Rx`.
#[derive(Debug)]
pub(crate) struct Peer<Tx, Rx> {
    child: Child,
    pub(crate) born: Instant,
    /// Whether it was ever ready.
    pub(crate) was_ready: bool,
    /// The reason why it could not start, as it reported it, or why it was killed.
    pub(crate) failed: Option<String>,
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
    Starting(Channel<Tx, FromStartingWorker>),
    Ready(Channel<Tx, Rx>),
    /// Closed by either side; the process ends soon.
    Closed,
}

/// A process that an earlier program in this process forked.
#[derive(Debug)]
pub(crate) struct AdoptedProcess {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The supervisor's end of its channel; none if that is closed.
    pub(crate) channel: Option<OwnedFd>,
    /// Its open /proc/PID/stat.
    pub(crate) stat: Option<OwnedFd>,
    /// The processor time that it had used.
    pub(crate) used: Duration,
    pub(crate) born: Instant,
}

/// A message of a process.
#[derive(Debug)]
pub(crate) enum PeerMessage<Rx> {
    /// It is ready.
    Ready,
    /// A message, with the descriptor that came with it.
    Message(Rx, Option<OwnedFd>),
    /// A message of the start, which needs no action.
    NoAction,
}

impl<Tx: Serialize, Rx: Incoming> Peer<Tx, Rx> {
    /// Forks a process that runs `live` with its end of the channel and the supervisor's pid.
    /// `user` is the user that it becomes.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn spawn(
        user: Uid,
        grace: Grace,
        run: impl FnOnce(Channel<FromStartingWorker, Tx>, Pid) -> i32,
        now: Instant,
    ) -> io::Result<Peer<Tx, Rx>> {
        let (ours, theirs) = Channel::<Tx, FromStartingWorker>::pair()?;
        let supervisor = getpid();
        let child = Child::fork(user, move || run(theirs, supervisor))?;
        Ok(Peer {
            observed: Observed::new(&child),
            child,
            born: now,
            was_ready: false,
            failed: None,
            link: PeerLink::Starting(ours),
            messages: Flood::new(MOST_MESSAGES, Duration::from_secs(1), now),
            overdue: None,
            watch: LivenessWatch::new(grace),
        })
    }

    /// A process that an earlier program forked, and that is ready. Without a channel, it ends.
    pub(crate) fn adopted(process: AdoptedProcess, user: Uid, now: Instant) -> Peer<Tx, Rx> {
        let AdoptedProcess { pid, pidfd, channel, stat, used, born } = process;
        let overdue = channel.is_none().then(|| now + END_PATIENCE);
        Peer {
            observed: Observed::adopted(pid, stat, used),
            child: Child::adopted(pid, pidfd, user),
            born,
            was_ready: true,
            failed: None,
            link: channel.map_or(PeerLink::Closed, |socket| {
                PeerLink::Ready(Channel::from_descriptor(socket))
            }),
            messages: Flood::new(MOST_MESSAGES, Duration::from_secs(1), now),
            overdue,
            watch: LivenessWatch::new(Grace::default()),
        }
    }

    /// Whether it has ended and was reaped by an earlier program in this process.
    pub(crate) fn is_reaped(&self) -> bool {
        self.child.is_reaped()
    }

    /// Whether it runs and is not ready yet.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.link, PeerLink::Starting(_))
    }

    /// The open /proc/PID/stat of the process.
    pub(crate) fn stat(&self) -> Option<BorrowedFd<'_>> {
        self.observed.stat()
    }

    /// The processor time that it has used. If it was reaped: as far as somebody asked before.
    pub(crate) fn used(&self) -> Duration {
        self.observed.used()
    }

    /// Its resident memory in bytes, if the kernel shows it.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.observed.memory()
    }

    /// The channel, unless it is closed.
    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        match &self.link {
            PeerLink::Starting(channel) => Some(channel.as_fd()),
            PeerLink::Ready(channel) => Some(channel.as_fd()),
            PeerLink::Closed => None,
        }
    }

    /// The pid.
    pub(crate) fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// The descriptor to poll for the end of the process.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Whether it is ready and its channel is open.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.link, PeerLink::Ready(_))
    }

    /// Reads one message; none if there is none now, or the channel is closed. A process that
    /// breaks the protocol is killed.
    pub(crate) fn read(&mut self, now: Instant) -> Option<PeerMessage<Rx>> {
        match self.read_one() {
            Ok(Some(_)) if self.messages.admit(now) == Admission::Withheld => {
                self.kill_for("it floods its channel");
                None
            }
            Ok(message) => message,
            Err(reason) => {
                self.kill_for(&reason);
                None
            }
        }
    }

    /// Sends a message; none if the channel is closed.
    pub(crate) fn send(&self, message: &Tx, descriptor: Option<BorrowedFd<'_>>) -> Option<Sent> {
        match &self.link {
            PeerLink::Starting(channel) => channel.send(message, descriptor).ok(),
            PeerLink::Ready(channel) => channel.send(message, descriptor).ok(),
            PeerLink::Closed => None,
        }
    }

    /// Whether it has answered the last ping. A process without a channel never will.
    pub(crate) fn has_answered(&self) -> bool {
        match &self.link {
            PeerLink::Starting(_) | PeerLink::Ready(_) => self.watch.is_answered(),
            PeerLink::Closed => true,
        }
    }

    /// When to call [`Peer::kill_overdue`].
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.overdue
    }

    /// Kills a process that has closed its channel and does not end.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        if self.overdue.is_some_and(|overdue| overdue <= now) {
            self.kill_for("it closed its channel");
        }
    }

    /// Asks for a sign of life, and kills a process that has given none for too long. A process
    /// without a channel is ending already.
    pub(crate) fn beat(&mut self, ping: impl FnOnce(u32) -> Tx) {
        let hung = match &self.link {
            PeerLink::Closed => return,
            PeerLink::Starting(_) => {
                (!self.watch.beat_while_starting(&self.observed)).then_some(NEVER_READY)
            }
            PeerLink::Ready(channel) => {
                let ask = |serial| matches!(channel.send(&ping(serial), None), Ok(Sent::Queued));
                (!self.watch.beat(&self.observed, ask)).then_some(HUNG)
            }
        };
        if let Some(reason) = hung {
            self.kill_for(reason);
        }
    }

    /// Kills a process that can no longer be trusted. The reason is logged when it is reaped.
    pub(crate) fn kill_for(&mut self, reason: &str) {
        self.failed.get_or_insert_with(|| reason.into());
        self.kill();
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        (self.link, self.overdue) = (PeerLink::Closed, None);
        self.child.kill();
    }

    fn read_one(&mut self) -> Result<Option<PeerMessage<Rx>>, String> {
        match &self.link {
            PeerLink::Closed => Ok(None),
            PeerLink::Starting(channel) => match channel.receive() {
                Ok(Received::Message(message, _)) => Ok(Some(self.handle_starting(message))),
                other => self.without_message(other),
            },
            PeerLink::Ready(channel) => match channel.receive() {
                Ok(Received::Message(message, descriptor)) => {
                    Ok(Some(PeerMessage::Message(message, descriptor)))
                }
                other => self.without_message(other),
            },
        }
    }

    fn without_message<T>(
        &mut self,
        received: Result<Received<T>, ChannelError>,
    ) -> Result<Option<PeerMessage<Rx>>, String> {
        match received {
            Ok(Received::Closed) => {
                // The process ends, perhaps after writing out its log.
                (self.link, self.overdue) = (PeerLink::Closed, Some(Instant::now() + END_PATIENCE));
                Ok(None)
            }
            Ok(Received::Message(_, _) | Received::Empty) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn handle_starting(&mut self, message: FromStartingWorker) -> PeerMessage<Rx> {
        match message {
            FromStartingWorker::Ready => {
                self.link = match std::mem::replace(&mut self.link, PeerLink::Closed) {
                    PeerLink::Starting(channel) => PeerLink::Ready(channel.into_phase()),
                    other @ (PeerLink::Ready(_) | PeerLink::Closed) => other,
                };
                self.was_ready = true;
                self.watch.reset();
                PeerMessage::Ready
            }
            FromStartingWorker::Failed { reason } => {
                self.failed = Some(printable(&reason));
                PeerMessage::NoAction
            }
        }
    }
}

/// Most messages in a second. A report about a million connections has a thousand pages.
const MOST_MESSAGES: u32 = 20_000;

/// How long a process may live after its channel was closed.
const END_PATIENCE: Duration = Duration::from_secs(1);
