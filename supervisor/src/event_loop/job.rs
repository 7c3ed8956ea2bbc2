//! A job: one command on its way, what it waits for, and how far it is.

#![forbid(unsafe_code)]

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pen_config::command::Command;
use pen_config::ids::{ServerId, Target, WorkerId};
use pen_ipc::message::Operator;

use crate::event_loop::commands::query::ReportRequest;
use crate::event_loop::reload::notices::Success;
use crate::event_loop::reload::prepare::PreparedChange;
use crate::event_loop::reload::{Batch, OpenPurpose};
use crate::helpers::examine::Examining;
use crate::helpers::names::Inquiry;
use crate::helpers::open::Fetching;
use crate::helpers::resolve::Asking;
use crate::helpers::task::HelperTask;
use crate::processes::control::ControlReply;
use crate::report::Gathering;

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
}

/// What a job waits for.
#[derive(Debug)]
pub(in crate::event_loop) enum JobStage {
    /// The begin of the command, with the file that it names.
    Begin(Command, Option<OwnedFd>),
    /// The opening again of a request log that an operator named.
    Reopen,
    /// The reading of the configuration file.
    Reload,
    /// An opener, and its purpose.
    Fetching(Fetching, OpenPurpose),
    /// Resolvers, the names that they look up, and the commands that need them.
    Asking(Asking, Inquiry, Box<Batch>),
    /// An examiner of the TLS files, and the change that is put in force afterwards.
    Examining(Examining, Box<(PreparedChange, Batch)>),
    /// The reading of the TLS files again.
    RereadTls,
    /// The acknowledgements of new settings.
    Settling(Settling),
    /// An explanation from a worker.
    Explaining(Explaining),
    /// The reports of workers.
    Gathering(Gathering, ReportRequest),
    /// A helper task, the word of its command, and its exit status once it has ended.
    HelperTask(HelperTask, &'static str, Option<WaitStatus>),
}

/// New settings that were sent and are not yet applied by all processes.
#[derive(Debug)]
pub(in crate::event_loop) struct Settling {
    pub(in crate::event_loop) generation: u64,
    pub(in crate::event_loop) deadline: Instant,
    /// Work for the time after that: table rows that belong to another server now, and servers to
    /// blacklist.
    pub(in crate::event_loop) readdressed: Vec<Target>,
    pub(in crate::event_loop) blacklist: Vec<(ServerId, u32)>,
    pub(in crate::event_loop) then: AfterApply,
    /// The change to log afterwards.
    pub(in crate::event_loop) success: Option<Success>,
}

/// The reply once all processes work by the new settings.
#[derive(Debug)]
pub(in crate::event_loop) enum AfterApply {
    /// This reply.
    Reply(ControlReply),
    /// The answer to this query, taken at that time.
    Ask(Command),
    /// An empty reply, because the configuration file was read again.
    Reloaded,
}

/// A query to a worker: which server would a client get?
#[derive(Debug)]
pub(in crate::event_loop) struct Explaining {
    pub(in crate::event_loop) worker: WorkerId,
    pub(in crate::event_loop) serial: u32,
    pub(in crate::event_loop) deadline: Instant,
    pub(in crate::event_loop) answer: Option<ControlReply>,
}

/// The progress of a job.
#[derive(Debug)]
pub(in crate::event_loop) enum Progress {
    /// The job waits.
    Wait(JobStage),
    /// The job goes on at once.
    Next(JobStage),
    /// The job is finished.
    Done(ControlReply),
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Requester::Operator { who, .. } => who.fmt(f),
            Requester::Hangup => f.write_str("the configuration file"),
        }
    }
}

impl Progress {
    /// Finishes a job whose requester is a signal: there is no reply.
    pub(in crate::event_loop) fn told(self, by: Requester) -> Progress {
        match (by, self) {
            (Requester::Hangup, Progress::Done(_)) => Progress::Done(ControlReply::none()),
            (_, progress) => progress,
        }
    }
}

/// How long all processes have to apply new settings.
pub(in crate::event_loop) const PATIENCE: Duration = Duration::from_secs(1);
