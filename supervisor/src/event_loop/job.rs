//! What the parts that carry out commands share: the requester, and the progress of a job.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use nix::unistd::Pid;
use pen_ipc::message::Operator;

use crate::processes::ports::control::ControlReply;

/// The requester of a command, who gets the outcome.
#[derive(Clone, Copy, Debug)]
pub(in crate::event_loop) enum Requester {
    /// An operator.
    Operator {
        /// The pid of the control process.
        pid: Pid,
        /// The number of the operator in the control process.
        ticket: u64,
        /// The identity of the operator.
        who: Operator,
    },
    /// The signal HUP: nobody waits for a reply.
    Hangup,
    /// Another answer for the name of a server: nobody waits for a reply.
    Names,
    /// The signal USR2.
    Signal {
        /// The process that sent it, which may wait for the outcome beside the pid file.
        asker: Option<Pid>,
    },
}

/// The progress of a job, whose stages are `S`.
#[derive(Debug)]
pub(in crate::event_loop) enum Progress<S> {
    /// The job waits.
    Wait(S),
    /// The job is finished.
    Done(ControlReply),
    /// The work goes on elsewhere, and the reply comes from there.
    Detached,
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requester::Operator { who, .. } => who.fmt(f),
            Requester::Hangup => f.write_str("the configuration file"),
            Requester::Names => f.write_str("names"),
            Requester::Signal { asker: Some(asker) } => write!(f, "signal USR2 of process {asker}"),
            Requester::Signal { asker: None } => f.write_str("signal USR2"),
        }
    }
}

impl Requester {
    /// The operator, if it is one.
    pub(in crate::event_loop) fn operator(self) -> Option<Operator> {
        match self {
            Requester::Operator { who, .. } => Some(who),
            Requester::Hangup | Requester::Names | Requester::Signal { .. } => None,
        }
    }
}

impl<S> Progress<S> {
    /// The same progress with another type of stage.
    pub(in crate::event_loop) fn map<T>(self, stage: impl FnOnce(S) -> T) -> Progress<T> {
        match self {
            Progress::Wait(waiting) => Progress::Wait(stage(waiting)),
            Progress::Done(reply) => Progress::Done(reply),
            Progress::Detached => Progress::Detached,
        }
    }
}

/// How long all processes have to apply new settings.
pub(in crate::event_loop) const PATIENCE: Duration = Duration::from_secs(1);
