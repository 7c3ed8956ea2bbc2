//! The log for the administrator: standard error (perhaps read by the journal) in the foreground,
//! the syslog daemon otherwise. The last lines are kept as events (`recent`).
//!
//! Nothing here waits for long. A stopped terminal, a pipe without a reader or a missing daemon
//! costs messages, which are counted, but never service.

#![forbid(unsafe_code)]

pub(crate) mod events;
pub(crate) mod journal;
pub(crate) mod printable;
pub(crate) mod recent;
mod stderr;
mod syslog;

use std::time::Duration;

use pen_status::event::EventKind;

use crate::clock;
use crate::log::recent::{Incident, Recent};
pub(crate) use crate::log::stderr::{Stderr, make_nonblocking};
pub(crate) use crate::log::syslog::{DAEMON, Reach, Syslog, for_worker};

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
    sink: LogSink,
    /// `-d`.
    verbosity: u8,
    /// Messages lost since the last one that was delivered.
    lost: u64,
    /// The last events.
    recent: Recent,
}

#[derive(Debug)]
enum LogSink {
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
        Logger::new(LogSink::Stderr(Stderr::open()), verbosity)
    }

    /// A logger to the syslog daemon.
    pub(crate) fn background(verbosity: u8) -> Logger {
        Logger::new(LogSink::Syslog(Syslog::new(syslog::DAEMON)), verbosity)
    }

    fn new(sink: LogSink, verbosity: u8) -> Logger {
        Logger { sink, verbosity, lost: 0, recent: Recent::new() }
    }

    /// A logger to the same target, opened again, for a child that has closed the inherited
    /// descriptor.
    pub(crate) fn reopen(&self) -> Logger {
        match self.sink {
            LogSink::Stderr(_) => Logger::foreground(self.verbosity),
            LogSink::Syslog(_) => Logger::background(self.verbosity),
        }
    }

    /// Pen ends, or did not start.
    pub(crate) fn error(&mut self, text: &str) {
        self.log(Severity::Error, text);
    }

    /// A failure that the administrator must know about, at every debug level. It is an event of no
    /// special kind.
    pub(crate) fn warning(&mut self, text: &str) {
        self.event(Severity::Warning, Incident::of(EventKind::Other), text);
    }

    /// A warning that repeats an event, which is logged only.
    pub(crate) fn remind(&mut self, text: &str) {
        self.log(Severity::Warning, text);
    }

    /// A requested change, at every debug level. It is an event of no special kind.
    pub(crate) fn notice(&mut self, text: &str) {
        self.event(Severity::Notice, Incident::of(EventKind::Other), text);
    }

    /// An event: it is kept, and logged as its severity demands.
    pub(crate) fn event(&mut self, severity: Severity, incident: Incident, text: &str) {
        self.recent.enter(incident, text, clock::event_time());
        match severity {
            Severity::Error | Severity::Warning | Severity::Notice => self.log(severity, text),
            Severity::Debug => self.debug(text),
        }
    }

    /// The last events.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The last events, to change them.
    pub(crate) fn recent_mut(&mut self) -> &mut Recent {
        &mut self.recent
    }

    /// Goes on with the events of an earlier program.
    pub(crate) fn adopt(&mut self, recent: Recent) {
        self.recent = recent;
    }

    /// A decision, from debug level 1 on.
    pub(crate) fn debug(&mut self, text: &str) {
        if self.verbosity >= 1 {
            self.log(Severity::Debug, text);
        }
    }

    /// Part of a report, at every debug level. May have several lines.
    pub(crate) fn report(&mut self, text: &str) {
        self.log(Severity::Debug, text);
    }

    /// Changes the debug level.
    pub(crate) fn set_verbosity(&mut self, verbosity: u8) {
        self.verbosity = verbosity;
    }

    /// Waits longer for slow readers, for a process that has nothing else to do.
    pub(crate) fn wait_longer(&mut self) {
        match &mut self.sink {
            LogSink::Stderr(stderr) => stderr.wait_longer(),
            LogSink::Syslog(syslog) => syslog.wait_longer(),
        }
    }

    /// Whether messages were lost that are not reported yet.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether messages go to the syslog daemon, to which long reports must not go.
    pub(crate) fn is_syslog(&self) -> bool {
        matches!(self.sink, LogSink::Syslog(_))
    }

    fn log(&mut self, severity: Severity, text: &str) {
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
            LogSink::Stderr(stderr) => stderr.send(severity, text),
            LogSink::Syslog(syslog) => syslog.send(severity, text),
        }
    }
}
