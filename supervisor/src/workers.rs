//! One worker as its supervisor sees it: a process, a channel, and what it last said of itself.
//!
//! A worker may be in a stranger's hands: whatever it sends is bounded, checked and never makes the supervisor wait or panic.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use pen_contract::channel::{Channel, ChannelError, Received, Sent};
use pen_contract::ids::WorkerId;
use pen_contract::message::{Event, FromStartingWorker, FromWorker, PROTOCOL_VERSION, ReportPage, ToWorker};
use pen_contract::stats::Counters;
use pen_table::LAYOUT_VERSION;

use crate::child::watch;
use crate::flood::{Admission, Flood};
use crate::inheritance::{Inheritance, descriptor};
use crate::sys;

/// A worker that is not known to be dead.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) pid: Pid,
    pub(crate) born: Instant,
    /// Whether it ever served clients.
    pub(crate) was_ready: bool,
    /// What it last reported.
    pub(crate) counters: Counters,
    /// Why it could not start, in its own words, or why it was expelled.
    pub(crate) failed: Option<String>,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    link: Link,
    /// A bound on its messages.
    messages: Flood,
    /// A bound on what the administrator hears from it.
    pub(crate) events: Flood,
    log_due: bool,
    stop_due: bool,
    /// Until when it may live after it closed its channel.
    overdue: Option<Instant>,
}

#[derive(Debug)]
enum Link {
    Starting {
        channel: Channel<ToWorker, FromStartingWorker>,
        greeted: bool,
    },
    Ready(Channel<ToWorker, FromWorker>),
    /// Closed by either side; the end of the process follows.
    Cut,
}

/// What a worker said that concerns others.
#[derive(Debug)]
pub(crate) enum News {
    /// It serves clients.
    Ready,
    /// Part of its report.
    Page(ReportPage),
    /// Something for the administrator.
    Event(Event),
}

impl Worker {
    /// Forks a worker.
    ///
    /// # Errors
    /// No process, no descriptor or no memory can be had now.
    pub(crate) fn spawn(id: WorkerId, inheritance: &Inheritance, now: Instant) -> io::Result<Worker> {
        let (ours, theirs) = Channel::<ToWorker, FromStartingWorker>::pair()?;
        let supervisor = getpid();
        let mut theirs = Some(theirs);
        let pid = sys::fork(|| theirs.take().map_or(1, |channel| inheritance.live(id, channel, supervisor)))?;
        let pidfd = watch(pid)?;
        Ok(Worker {
            id,
            pid,
            born: now,
            was_ready: false,
            counters: Counters::default(),
            failed: None,
            pidfd,
            link: Link::Starting { channel: ours, greeted: false },
            messages: Flood::new(MOST_MESSAGES, Duration::from_secs(1), now),
            events: Flood::new(MOST_EVENTS, Duration::from_secs(10), now),
            log_due: false,
            stop_due: false,
            overdue: None,
        })
    }

    /// The channel, to be polled for reading, and for writing too if something waits to be sent.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let due = self.log_due || self.stop_due;
        match &self.link {
            Link::Starting { channel, .. } => Some((channel.as_fd(), due)),
            Link::Ready(channel) => Some((channel.as_fd(), due)),
            Link::Cut => None,
        }
    }

    /// To be polled for the end of the process.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it serves clients.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.link, Link::Ready(_))
    }

    /// Reads at most `most` messages, so that one worker cannot keep the supervisor from the others.
    pub(crate) fn read(&mut self, most: usize, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for _ in 0..most {
            match self.read_one() {
                Ok(Some(_)) if self.messages.admit(now) == Admission::Withheld => self.expel("it floods its channel"),
                Ok(Some(said)) => news.extend(said),
                Ok(None) => break,
                Err(reason) => self.expel(&reason),
            }
        }
        news
    }

    /// Asks for a report; false if it cannot be asked now.
    pub(crate) fn ask_report(&self, serial: u32) -> bool {
        matches!(self.send(&ToWorker::Report { serial }, None), Some(Sent::Queued))
    }

    /// Has the reopened log sent by [`Worker::send_due`].
    pub(crate) fn renew_log(&mut self) {
        self.log_due = true;
    }

    /// Has the order to end sent by [`Worker::send_due`].
    pub(crate) fn order_stop(&mut self) {
        self.stop_due = true;
    }

    /// Sends what waits to be sent, as far as the channel has room.
    pub(crate) fn send_due(&mut self, inheritance: &Inheritance) {
        if self.log_due {
            let log = inheritance.log.as_ref().map(descriptor);
            self.log_due = self.send(&ToWorker::Log, log) == Some(Sent::Full);
        }
        if self.stop_due {
            self.stop_due = self.send(&ToWorker::Stop, None) == Some(Sent::Full);
        }
    }

    /// When [`Worker::kill_overdue`] has to be called.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.overdue
    }

    /// Kills it if it lives on without a channel.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        if self.overdue.is_some_and(|overdue| overdue <= now) {
            self.expel("it closed its channel");
        }
    }

    /// Kills it because it cannot be trusted any more; the reason is told when it is reaped.
    pub(crate) fn expel(&mut self, reason: &str) {
        self.failed.get_or_insert_with(|| reason.into());
        self.kill();
    }

    /// Kills it. Its pid is still its own, because it has not been waited for.
    pub(crate) fn kill(&mut self) {
        (self.link, self.overdue) = (Link::Cut, None);
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// None: nothing now, or never again.
    fn read_one(&mut self) -> Result<Option<Option<News>>, String> {
        match &self.link {
            Link::Cut => Ok(None),
            Link::Starting { channel, .. } => match channel.receive() {
                Ok(Received::Message(message, _)) => self.hear_starting(message).map(Some),
                other => self.nothing(other),
            },
            Link::Ready(channel) => match channel.receive() {
                Ok(Received::Message(message, _)) => Ok(Some(self.hear(message))),
                other => self.nothing(other),
            },
        }
    }

    fn nothing<Rx>(&mut self, received: Result<Received<Rx>, ChannelError>) -> Result<Option<Option<News>>, String> {
        match received {
            Ok(Received::Closed) => {
                // It ends, perhaps with a log to be written out first.
                (self.link, self.overdue) = (Link::Cut, Some(Instant::now() + GRACE));
                Ok(None)
            }
            Ok(Received::Message(_, _) | Received::Empty) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn hear_starting(&mut self, message: FromStartingWorker) -> Result<Option<News>, String> {
        match (message, std::mem::replace(&mut self.link, Link::Cut)) {
            (FromStartingWorker::Hello { protocol, layout }, Link::Starting { channel, greeted: false }) => {
                if (protocol, layout) != (PROTOCOL_VERSION, LAYOUT_VERSION) {
                    return Err(format!("it speaks protocol {protocol} and layout {layout}"));
                }
                self.link = Link::Starting { channel, greeted: true };
                Ok(None)
            }
            (FromStartingWorker::Ready, Link::Starting { channel, greeted: true }) => {
                self.link = Link::Ready(channel.into_phase());
                self.was_ready = true;
                Ok(Some(News::Ready))
            }
            (FromStartingWorker::Failed { reason }, link) => {
                self.failed = Some(printable(&reason));
                self.link = link;
                Ok(None)
            }
            _ => Err("its first messages are out of order".into()),
        }
    }

    fn hear(&mut self, message: FromWorker) -> Option<News> {
        match message {
            FromWorker::Counters(counters) => {
                self.counters = counters;
                None
            }
            FromWorker::Report(page) => {
                self.counters = page.counters;
                Some(News::Page(page))
            }
            FromWorker::Event(event) => Some(News::Event(event)),
        }
    }

    fn send(&self, message: &ToWorker, descriptor: Option<BorrowedFd<'_>>) -> Option<Sent> {
        match &self.link {
            Link::Starting { channel, .. } => channel.send(message, descriptor).ok(),
            Link::Ready(channel) => channel.send(message, descriptor).ok(),
            Link::Cut => None,
        }
    }
}

/// A worker's own words, made harmless for a terminal and a log: one line, not too long.
fn printable(text: &str) -> String {
    let clean = |letter: char| if letter.is_control() { '.' } else { letter };
    text.chars().take(LONGEST_REASON).map(clean).collect()
}

/// Most messages in a second. A report about a million connections has a thousand pages.
const MOST_MESSAGES: u32 = 20_000;

/// Most events in ten seconds that are passed on to the administrator.
const MOST_EVENTS: u32 = 100;

/// How long a worker may live after it closed its channel.
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
    }
}
