//! The log for the administrator: standard error (perhaps read by the journal) in the foreground,
//! the syslog daemon otherwise.
//!
//! Nothing here waits for long. A stopped terminal, a pipe without a reader or a missing daemon
//! costs messages, which are counted, but never service.

#![forbid(unsafe_code)]

pub(crate) mod errno;
pub(crate) mod events;
pub(crate) mod journal;
mod stderr;
mod syslog;

use std::time::Duration;

pub(crate) use crate::log::stderr::{Stderr, never_wait};
pub(crate) use crate::log::syslog::{Syslog, for_worker};

/// The severity of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Severity {
    /// Pen ends, or did not start.
    Error,
    /// The administrator must know about it.
    Warning,
    /// Something changed as requested.
    Notice,
    /// Requested output: reports, and decisions with `-d`.
    Debug,
}

/// The target of messages, and its state.
#[derive(Debug)]
pub(crate) struct Logger {
    sink: Sink,
    /// `-d`.
    verbosity: u8,
    /// Messages lost since the last one that was delivered.
    lost: u64,
}

#[derive(Debug)]
enum Sink {
    Stderr(Stderr),
    Syslog(Syslog),
}

/// How long the supervisor waits for a slow reader; it has workers to manage.
const HURRIED: Duration = Duration::from_millis(50);

/// How long a child that only writes a report waits for a slow reader.
const PATIENT: Duration = Duration::from_secs(5);

impl Logger {
    /// A logger to standard error.
    pub(crate) fn foreground(verbosity: u8) -> Logger {
        Logger { sink: Sink::Stderr(Stderr::open()), verbosity, lost: 0 }
    }

    /// A logger to the syslog daemon.
    pub(crate) fn background(verbosity: u8) -> Logger {
        Logger { sink: Sink::Syslog(Syslog::new(syslog::DAEMON)), verbosity, lost: 0 }
    }

    /// A logger to the same target, opened again, for a child that has closed the inherited
    /// descriptor.
    pub(crate) fn anew(&self) -> Logger {
        match self.sink {
            Sink::Stderr(_) => Logger::foreground(self.verbosity),
            Sink::Syslog(_) => Logger::background(self.verbosity),
        }
    }

    /// Pen ends, or did not start.
    pub(crate) fn error(&mut self, text: &str) {
        self.say(Severity::Error, text);
    }

    /// A failure that the administrator must know about, at every debug level.
    pub(crate) fn warning(&mut self, text: &str) {
        self.say(Severity::Warning, text);
    }

    /// A requested change, at every debug level.
    pub(crate) fn notice(&mut self, text: &str) {
        self.say(Severity::Notice, text);
    }

    /// A decision, from debug level 1 on.
    pub(crate) fn debug(&mut self, text: &str) {
        if self.verbosity >= 1 {
            self.say(Severity::Debug, text);
        }
    }

    /// Part of a report, at every debug level. May have several lines.
    pub(crate) fn report(&mut self, text: &str) {
        self.say(Severity::Debug, text);
    }

    /// Changes the debug level.
    pub(crate) fn set_verbosity(&mut self, verbosity: u8) {
        self.verbosity = verbosity;
    }

    /// Waits longer for slow readers, for a process that has nothing else to do.
    pub(crate) fn be_patient(&mut self) {
        match &mut self.sink {
            Sink::Stderr(stderr) => stderr.be_patient(),
            Sink::Syslog(syslog) => syslog.be_patient(),
        }
    }

    /// Whether messages were lost that are not reported yet.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether messages go to the syslog daemon, to which long reports must not go.
    pub(crate) fn is_syslog(&self) -> bool {
        matches!(self.sink, Sink::Syslog(_))
    }

    fn say(&mut self, severity: Severity, text: &str) {
        let lost = match self.lost {
            0 => None,
            1 => Some("1 message was lost".into()),
            more => Some(format!("{more} messages were lost")),
        };
        if lost.is_some_and(|lost: String| self.send(Severity::Warning, &lost)) {
            self.lost = 0;
        }
        if !self.send(severity, text) {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn send(&mut self, severity: Severity, text: &str) -> bool {
        match &mut self.sink {
            Sink::Stderr(stderr) => stderr.send(severity, text),
            Sink::Syslog(syslog) => syslog.send(severity, text),
        }
    }
}
