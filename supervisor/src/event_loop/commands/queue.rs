//! The queue of commands and signals, and what the event loop needs to know of the current job: its
//! descriptors, its deadline and its children.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::unistd::Pid;
use pen_config::command::{Command, Query};
use pen_config::ids::WorkerId;
use pen_ipc::message::{Operator, ReportPage};

use crate::event_loop::commands::stages::QueryStage;
use crate::event_loop::job::Requester;
use crate::event_loop::reload::stages::{ReloadStage, Success};
use crate::event_loop::servers::drains::Drain;
use crate::files::status_file::Writer;
use crate::processes::child::Child;
use crate::processes::ending::Ending;
use crate::report::TooMany;

/// Commands that wait, and the command that is being executed.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct CommandQueue {
    queue: VecDeque<QueuedCommand>,
    pub(in crate::event_loop::commands) job: Option<Job>,
    /// The report by signal. It is no part of the queue: its reader may be slow.
    pub(in crate::event_loop::commands) report: Option<QueryStage>,
    /// A report by signal is to be made.
    pub(in crate::event_loop::commands) report_requested: bool,
    /// The configuration file is to be read again.
    pub(in crate::event_loop::commands) hangup: bool,
    /// The job that began last was a reload by HUP.
    after_hangup: bool,
    /// The TLS files are to be read again.
    reread: bool,
    /// Names have addresses that are to be put in force.
    moves: bool,
    /// The requesters of upgrades by signal, in order.
    upgrades: VecDeque<Requester>,
    /// The job that began last was an upgrade by signal.
    after_upgrade: bool,
    /// The operator whose command is being executed.
    pub(in crate::event_loop::commands) serving: Option<Operator>,
    /// Jobs can begin or advance at once.
    pub(in crate::event_loop::commands) more: bool,
    /// The requester of the exit command.
    exit: Option<Requester>,
    serial: u32,
    /// Killed children of finished jobs. One that hangs in a file system stays here.
    pub(in crate::event_loop::commands) leaving: Vec<Child>,
}

#[derive(Debug)]
struct QueuedCommand {
    by: Requester,
    command: Command,
    file: Option<OwnedFd>,
}

/// What begins a job.
#[derive(Debug)]
pub(in crate::event_loop::commands) enum Request {
    /// A command of an operator, with the file that it names.
    Command(Command, Option<OwnedFd>),
    /// The signal HUP.
    Hangup,
    /// The reading of the TLS files again.
    RereadTls,
    /// The answers for the names of servers.
    MoveServers,
    /// The signal USR2.
    Upgrade,
}

/// A command on its way.
#[derive(Debug)]
pub(in crate::event_loop::commands) struct Job {
    pub(in crate::event_loop::commands) by: Requester,
    pub(in crate::event_loop::commands) stage: JobStage,
    pub(in crate::event_loop::commands) then: Follow,
}

/// What follows if a job succeeds.
#[derive(Debug)]
pub(in crate::event_loop::commands) enum Follow {
    /// Nothing: its reply is sent.
    Nothing,
    /// The answer to this query is the reply.
    Query(Query),
    /// The reply is sent when a server has drained.
    Drain(Drain),
}

/// What a job waits for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one job at a time")]
pub(in crate::event_loop::commands) enum JobStage {
    /// A change of settings.
    Reload(ReloadStage),
    /// The answer to a query, or the writing of the settings.
    Query(QueryStage),
}

impl CommandQueue {
    /// Appends a command.
    pub(in crate::event_loop) fn enter(
        &mut self,
        by: Requester,
        command: Command,
        file: Option<OwnedFd>,
    ) {
        self.queue.push_back(QueuedCommand { by, command, file });
    }

    /// Requests a reload of the configuration file.
    pub(in crate::event_loop) fn hang_up(&mut self) {
        self.hangup = true;
    }

    /// Requests a report by signal. All requests during a report give one further report.
    pub(in crate::event_loop) fn request_report(&mut self) {
        self.report_requested = true;
    }

    /// Requests an upgrade by signal. A process that has asked already waits for that outcome.
    pub(in crate::event_loop) fn request_upgrade(&mut self, asker: Option<Pid>) {
        let is_asked =
            |by: &Requester| matches!(by, Requester::Signal { asker: by } if *by == asker);
        if self.upgrades.len() < MOST_UPGRADES && !self.upgrades.iter().any(is_asked) {
            self.upgrades.push_back(Requester::Signal { asker });
        }
    }

    /// Requests that the TLS files are read again.
    pub(in crate::event_loop) fn reread_tls(&mut self) {
        self.reread = true;
    }

    /// Requests that the answers for names are put in force.
    pub(in crate::event_loop) fn move_servers(&mut self) {
        self.moves = true;
    }

    /// The requesters of further upgrades by signal.
    pub(in crate::event_loop) fn upgrades(&self) -> impl Iterator<Item = Requester> {
        self.upgrades.iter().copied()
    }

    /// Whether a command, a reload or a report is under way or waits.
    pub(in crate::event_loop) fn has_work(&self) -> bool {
        self.job.is_some()
            || !self.queue.is_empty()
            || self.hangup
            || self.reread
            || self.moves
            || self.report.is_some()
            || self.report_requested
    }

    /// Whether the queue takes no more commands for now.
    pub(in crate::event_loop) fn is_full(&self) -> bool {
        self.queue.len() >= MOST_WAITING
    }

    /// How many messages of the control process may be read now. At least one, so that its end is
    /// noticed.
    pub(in crate::event_loop) fn room(&self) -> usize {
        MOST_WAITING.saturating_sub(self.queue.len()).max(1)
    }

    /// Whether the job that began last was requested by HUP.
    pub(in crate::event_loop) fn is_hangup(&self) -> bool {
        self.after_hangup
    }

    /// The requester of the exit command, if it was given.
    pub(in crate::event_loop) fn ends(&self) -> Option<Requester> {
        self.exit
    }

    /// Notes the exit command.
    pub(in crate::event_loop) fn exit(&mut self, by: Requester) {
        self.exit = Some(by);
    }

    /// The control process died, and its operators are gone. The current job still finishes.
    pub(in crate::event_loop) fn forget_operators(&mut self) {
        self.queue.clear();
    }

    /// The query that is being answered, and the report by signal.
    fn queries(&mut self) -> impl Iterator<Item = &mut QueryStage> {
        let of_job = match self.job.as_mut().map(|job| &mut job.stage) {
            Some(JobStage::Query(query)) => Some(query),
            Some(JobStage::Reload(_)) | None => None,
        };
        of_job.into_iter().chain(&mut self.report)
    }

    /// A worker died.
    pub(in crate::event_loop) fn forget(&mut self, worker: WorkerId) {
        self.queries().for_each(|query| query.forget(worker));
    }

    /// Takes a page of a report. A page that answers no open question is dropped.
    ///
    /// # Errors
    /// The worker reports more connections than `most`.
    pub(in crate::event_loop) fn page(
        &mut self,
        worker: WorkerId,
        page: &ReportPage,
        most: usize,
    ) -> Result<(), TooMany> {
        self.queries().try_for_each(|query| query.page(worker, page, most))
    }

    /// Takes an explanation from a worker.
    pub(in crate::event_loop) fn explained(&mut self, worker: WorkerId, serial: u32, text: &str) {
        self.queries().for_each(|query| query.explained(worker, serial, text));
    }

    /// Notes a killed child of the current job.
    pub(in crate::event_loop) fn leave(&mut self, child: Child) {
        self.leaving.push(child);
    }

    /// Whether too many children of earlier jobs hang to start another one.
    pub(in crate::event_loop) fn hangs(&self) -> bool {
        self.leaving.len() >= MOST_LEAVING
    }

    /// If this reaped child was a reporter, notes its end. Returns which writer of the file of `-w`
    /// it may have been.
    pub(in crate::event_loop) fn reaped(&mut self, child: Pid, ending: Ending) -> Option<Writer> {
        let supervisor = std::process::id();
        if self.report.as_mut().is_some_and(|report| report.reaped(child, ending)) {
            return Some(Writer::Report(supervisor));
        }
        self.queries()
            .any(|query| query.reaped(child, ending))
            .then_some(Writer::Command(supervisor))
    }

    /// The descriptors to poll for reading.
    pub(in crate::event_loop) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let of_job = self.job.as_ref().map(|job| match &job.stage {
            JobStage::Reload(stage) => stage.descriptors(),
            JobStage::Query(stage) => stage.descriptor().into_iter().collect(),
        });
        let of_report = self.report.as_ref().and_then(QueryStage::descriptor);
        of_job.into_iter().flatten().chain(of_report).collect()
    }

    /// When the queue needs a turn of the loop even if nothing happens.
    pub(in crate::event_loop) fn deadline(&self) -> Option<Instant> {
        let of_job = match self.job.as_ref().map(|job| &job.stage) {
            Some(JobStage::Reload(stage)) => Some(stage.deadline()),
            Some(JobStage::Query(stage)) => stage.deadline(),
            None => self.more.then(Instant::now),
        };
        let of_report = self.report.as_ref().and_then(QueryStage::deadline);
        of_job.into_iter().chain(of_report).min()
    }

    /// The operator whose command is being executed; none for a job of the signal HUP.
    pub(in crate::event_loop) fn serving(&self) -> Option<Operator> {
        self.serving
    }

    /// A serial number for a question to workers.
    pub(in crate::event_loop) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Takes the next request. Commands are taken only if they can be answered. Commands and HUP
    /// take turns when both wait: repeated HUP signals must not lock operators out. If one of them
    /// waits, it comes before a second upgrade by signal. `is_upgrading`: one is under way.
    pub(in crate::event_loop::commands) fn next(
        &mut self,
        answerable: bool,
        is_upgrading: bool,
    ) -> Option<(Requester, Request)> {
        let commands = answerable && self.exit.is_none() && !self.queue.is_empty();
        let others = commands || self.hangup;
        let may_upgrade = !is_upgrading && self.exit.is_none() && !(self.after_upgrade && others);
        let upgrade = if may_upgrade { self.upgrades.pop_front() } else { None };
        self.after_upgrade = upgrade.is_some();
        if let Some(by) = upgrade {
            return Some((by, Request::Upgrade));
        }
        self.after_hangup = self.hangup && !(self.after_hangup && commands);
        if self.after_hangup {
            // The reload reads the TLS files too.
            (self.hangup, self.reread) = (false, false);
            return Some((Requester::Hangup, Request::Hangup));
        }
        if !self.hangup && std::mem::take(&mut self.reread) {
            return Some((Requester::Hangup, Request::RereadTls));
        }
        if std::mem::take(&mut self.moves) {
            return Some((Requester::Names, Request::MoveServers));
        }
        let QueuedCommand { by, command, file } =
            if commands { self.queue.pop_front()? } else { return None };
        Some((by, Request::Command(command, file)))
    }

    /// Takes what is to be logged about a change that is in force, but not yet confirmed by all
    /// processes.
    pub(in crate::event_loop) fn take_unconfirmed(&mut self) -> Option<(Requester, Success)> {
        let Job { by, stage, then } = self.job.take()?;
        match stage {
            JobStage::Reload(ReloadStage::Applied(applied)) => Some((by, applied.success)),
            stage @ (JobStage::Reload(
                ReloadStage::Asking(..) | ReloadStage::Fetching(..) | ReloadStage::Examining(..),
            )
            | JobStage::Query(_)) => {
                self.job = Some(Job { by, stage, then });
                None
            }
        }
    }

    /// Whether a report by signal was requested and no reporter writes it yet.
    pub(in crate::event_loop) fn has_unwritten_report(&self) -> bool {
        self.report_requested || self.report.as_ref().is_some_and(|stage| !stage.is_rendering())
    }

    /// Drops all work except reporters, because pen stops.
    pub(in crate::event_loop) fn stop(&mut self) {
        self.job.take_if(|job| match &job.stage {
            JobStage::Reload(_) => true,
            JobStage::Query(stage) => !stage.is_rendering(),
        });
        self.report.take_if(|stage| !stage.is_rendering());
        (self.hangup, self.reread, self.moves, self.more) = (false, false, false, false);
        self.report_requested = false;
        self.queue.clear();
        self.upgrades.clear();
    }

    /// Kills the reporters, which are still to be reaped.
    pub(in crate::event_loop) fn kill(&mut self) {
        self.queries().for_each(QueryStage::kill);
    }

    /// Whether no reporter is to be reaped.
    pub(in crate::event_loop) fn is_reaped(&mut self) -> bool {
        !self.queries().any(|query| query.is_rendering())
    }
}

/// Most commands that wait. The control process has at most 64 operators, but the commands of those
/// whom it closed for others are still here. While it is full, nothing that the control process
/// says is read, and each change of settings waits in vain for its answer.
const MOST_WAITING: usize = 256;

/// Most upgrades by signal that wait, each of another process.
const MOST_UPGRADES: usize = 8;

/// Most children that hang in file systems. Each keeps a process and its memory, and a further one
/// would hang too.
const MOST_LEAVING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with so many commands.
    fn queue(commands: u64) -> CommandQueue {
        let mut queue = CommandQueue::default();
        let by = |ticket| Requester::Operator {
            pid: Pid::from_raw(1),
            ticket,
            who: Operator::Local(None),
        };
        (0..commands).for_each(|ticket| queue.enter(by(ticket), Command::Query(Query::Pid), None));
        queue
    }

    /// The job that begins next: `H` for HUP, the operator's ticket for a command, or nothing.
    fn begun(queue: &mut CommandQueue, answerable: bool) -> String {
        match queue.next(answerable, false) {
            Some((Requester::Hangup, Request::Hangup)) => "H".into(),
            Some((Requester::Signal { asker: Some(asker) }, Request::Upgrade)) => {
                format!("U{asker}")
            }
            Some((Requester::Operator { ticket, .. }, Request::Command(_, None))) => {
                ticket.to_string()
            }
            None => "-".into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn signals_without_end_and_commands_take_turns() {
        let mut queue = queue(3);
        let mut next = |answerable| {
            queue.hang_up();
            begun(&mut queue, answerable)
        };
        assert_eq!([true; 8].map(&mut next).join(" "), "H 0 H 1 H 2 H H");
    }

    #[test]
    fn commands_go_on_in_order_when_no_signal_comes() {
        let mut queue = queue(2);
        assert_eq!([true; 3].map(|answerable| begun(&mut queue, answerable)).join(" "), "0 1 -");
        queue.hang_up();
        assert_eq!([true; 2].map(|answerable| begun(&mut queue, answerable)).join(" "), "H -");
    }

    #[test]
    fn commands_that_cannot_be_answered_wait_and_signals_do_not() {
        let mut queue = queue(1);
        queue.hang_up();
        assert_eq!(begun(&mut queue, false), "H");
        queue.hang_up();
        assert_eq!(begun(&mut queue, false), "H");
        assert_eq!(begun(&mut queue, false), "-");
        queue.exit(Requester::Hangup);
        assert_eq!(begun(&mut queue, true), "-", "pen ends");
    }

    #[test]
    fn each_process_that_asks_gets_one_upgrade_and_keeps_nobody_waiting() {
        let mut queue = queue(2);
        for asker in [5, 6, 5] {
            queue.request_upgrade(Some(Pid::from_raw(asker)));
        }
        queue.hang_up();
        let order = [true; 6].map(|answerable| begun(&mut queue, answerable)).join(" ");
        assert_eq!(order, "U5 H U6 0 1 -");
        (1..=100).for_each(|asker| queue.request_upgrade(Some(Pid::from_raw(asker))));
        assert_eq!(queue.upgrades.len(), MOST_UPGRADES);
        queue.exit(Requester::Hangup);
        assert_eq!(begun(&mut queue, true), "-", "pen ends");
    }
}
