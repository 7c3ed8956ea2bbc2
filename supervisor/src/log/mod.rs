//! Messages to the administrator: standard error (which may be the journal's) in the foreground,
//! the syslog daemon otherwise.
//!
//! Nothing here waits for long: a terminal that is stopped, a pipe that nobody reads or a daemon
//! that is gone costs messages, which are counted, never service.

#![forbid(unsafe_code)]

pub(crate) mod errno;
pub(crate) mod events;
pub(crate) mod journal;
mod stderr;
mod syslog;

use std::time::Duration;

pub(crate) use crate::log::stderr::{Stderr, never_wait};
pub(crate) use crate::log::syslog::{Syslog, for_worker};

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Severity {
    /// Pen ends, or did not start.
    Error,
    /// An administrator must know.
    Warning,
    /// Something that changed, as it was asked for.
    Notice,
    /// What was asked for: reports, and decisions with `-d`.
    Debug,
}

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Logger {
    sink: Sink,
    /// `-d`.
    verbosity: u8,
    /// Messages that the sink did not take since the last one that it did.
    lost: u64,
}

#[derive(Debug)]
enum Sink {
    Stderr(Stderr),
    Syslog(Syslog),
}

/// How long a reader is waited for by the supervisor, which has workers to look after.
const HURRIED: Duration = Duration::from_millis(50);

/// How long by a child that only writes a report.
const PATIENT: Duration = Duration::from_secs(5);

impl Logger {
    /// To standard error.
    pub(crate) fn foreground(verbosity: u8) -> Logger {
        Logger { sink: Sink::Stderr(Stderr::open()), verbosity, lost: 0 }
    }

    /// To the syslog daemon.
    pub(crate) fn background(verbosity: u8) -> Logger {
        Logger { sink: Sink::Syslog(Syslog::new(syslog::DAEMON)), verbosity, lost: 0 }
    }

    /// The same way to the administrator, opened again: for a child that has closed what it
    /// inherited.
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

    /// A failure that an administrator must know, at every debug level.
    pub(crate) fn warning(&mut self, text: &str) {
        self.say(Severity::Warning, text);
    }

    /// Something that changed, as it was asked for, at every debug level.
    pub(crate) fn notice(&mut self, text: &str) {
        self.say(Severity::Notice, text);
    }

    /// A decision, from debug level 1 on.
    pub(crate) fn debug(&mut self, text: &str) {
        if self.verbosity >= 1 {
            self.say(Severity::Debug, text);
        }
    }

    /// Part of a report, at every debug level: it was asked for. May have several lines.
    pub(crate) fn report(&mut self, text: &str) {
        self.say(Severity::Debug, text);
    }

    /// Changes how much is said.
    pub(crate) fn set_verbosity(&mut self, verbosity: u8) {
        self.verbosity = verbosity;
    }

    /// Waits for slow readers as long as a process may that has nothing else to do.
    pub(crate) fn be_patient(&mut self) {
        match &mut self.sink {
            Sink::Stderr(stderr) => stderr.be_patient(),
            Sink::Syslog(syslog) => syslog.be_patient(),
        }
    }

    /// Whether messages were lost of which nobody was told yet.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether messages go to the syslog daemon, which long reports must spare.
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
