//! Execution of commands: one at a time, in the order of arrival, without blocking. A command that
//! takes time is a job. The stage of the job says what it waits for; every turn of the loop
//! advances it.

#![forbid(unsafe_code)]

pub(crate) mod query;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pen_config::command::Command;
use pen_config::ids::WorkerId;
use pen_ipc::message::{Operator, ReportPage};

use crate::event_loop::Supervisor;
use crate::event_loop::job::{JobStage, PATIENCE, Progress, Requester, Settling};
use crate::files::status_file::Writer;
use crate::helpers::names;
use crate::processes::control::ControlReply;
use crate::report::TooMany;

/// Commands that wait, and the command that is being executed.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct CommandQueue {
    queue: VecDeque<QueuedCommand>,
    job: Option<Job>,
    /// The configuration file is to be read again.
    hangup: bool,
    /// The job that began last was a reload by HUP.
    after_hangup: bool,
    /// The TLS files are to be read again.
    reread: bool,
    /// The operator whose command is being executed.
    serving: Option<Operator>,
    /// Jobs can begin or advance at once.
    more: bool,
    /// The requester of the exit command.
    exit: Option<Requester>,
    serial: u32,
    /// Children of finished jobs that are still to be reaped. A child that hangs in a file system
    /// stays here.
    leaving: Vec<Pid>,
}

#[derive(Debug)]
struct QueuedCommand {
    by: Requester,
    command: Command,
    file: Option<OwnedFd>,
}

#[derive(Debug)]
struct Job {
    by: Requester,
    stage: JobStage,
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

    /// Requests that the TLS files are read again.
    pub(in crate::event_loop) fn reread_tls(&mut self) {
        self.reread = true;
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

    /// A worker died.
    pub(in crate::event_loop) fn forget(&mut self, worker: WorkerId) {
        match self.job.as_mut().map(|job| &mut job.stage) {
            Some(JobStage::Gathering(gathering, _)) => gathering.forget(worker),
            Some(JobStage::Explaining(explaining)) if explaining.worker == worker => {
                let ended = || {
                    ControlReply::refusal("explain: the worker that was asked has ended; ask again")
                };
                explaining.answer.get_or_insert_with(ended);
            }
            _ => {}
        }
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
        match self.job.as_mut().map(|job| &mut job.stage) {
            Some(JobStage::Gathering(gathering, _)) => gathering.page(worker, page, most),
            _ => Ok(()),
        }
    }

    /// Takes an explanation from a worker.
    pub(in crate::event_loop) fn explained(&mut self, worker: WorkerId, serial: u32, text: String) {
        if let Some(JobStage::Explaining(explaining)) = self.job.as_mut().map(|job| &mut job.stage)
            && (explaining.worker, explaining.serial) == (worker, serial)
        {
            explaining.answer = Some(ControlReply::text(text));
        }
    }

    /// Whether too many children of earlier jobs hang to start another one.
    pub(in crate::event_loop) fn hangs(&self) -> bool {
        self.leaving.len() >= MOST_LEAVING
    }

    /// Whether this child belonged to a job; notes its end.
    pub(in crate::event_loop) fn reaped(&mut self, child: Pid, status: WaitStatus) -> bool {
        if let Some(index) = self.leaving.iter().position(|leaving| *leaving == child) {
            self.leaving.swap_remove(index);
            return true;
        }
        match self.job.as_mut().map(|job| &mut job.stage) {
            Some(JobStage::Asking(asking, _, _)) => asking.reaped(child),
            Some(JobStage::Fetching(fetching, _)) => fetching.reaped(child),
            Some(JobStage::Examining(examining, _)) => examining.reaped(child),
            Some(JobStage::HelperTask(task, _, ended)) if task.is(child) => {
                *ended = Some(status);
                true
            }
            _ => false,
        }
    }

    /// Descriptors to poll for reading.
    pub(in crate::event_loop) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self.job.as_ref().map(|job| &job.stage) {
            Some(JobStage::Asking(asking, _, _)) => asking.descriptors().collect(),
            Some(JobStage::Fetching(fetching, _)) => vec![fetching.descriptor()],
            Some(JobStage::Examining(examining, _)) => vec![examining.descriptor()],
            Some(JobStage::HelperTask(task, _, _)) => vec![task.process()],
            _ => Vec::new(),
        }
    }

    /// When the queue needs a turn of the loop even if nothing happens.
    pub(in crate::event_loop) fn deadline(&self) -> Option<Instant> {
        let Some(job) = &self.job else { return self.more.then(Instant::now) };
        match &job.stage {
            JobStage::Begin(_, _) | JobStage::Reopen | JobStage::Reload | JobStage::RereadTls => {
                Some(Instant::now())
            }
            JobStage::Fetching(fetching, _) => Some(fetching.deadline()),
            JobStage::Examining(examining, _) => Some(examining.deadline()),
            JobStage::Asking(asking, _, _) => Some(asking.deadline()),
            JobStage::Settling(settling) => Some(settling.deadline),
            JobStage::Explaining(explaining) => Some(explaining.deadline),
            JobStage::Gathering(gathering, _) => Some(gathering.deadline()),
            JobStage::HelperTask(task, _, _) => task.deadline(),
        }
    }

    /// The operator whose command is being executed; none for a job of the signal HUP.
    pub(in crate::event_loop) fn serving(&self) -> Option<Operator> {
        self.serving
    }

    /// A serial number for a question to workers. It is even, because those of reports by signal
    /// are odd.
    pub(in crate::event_loop) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(2) & !1;
        self.serial
    }

    /// Takes the next job. Commands are taken only if they can be answered. Commands and HUP take
    /// turns when both wait: repeated HUP signals must not lock operators out.
    fn next(&mut self, answerable: bool) -> Option<Job> {
        let commands = answerable && self.exit.is_none() && !self.queue.is_empty();
        self.after_hangup = self.hangup && !(self.after_hangup && commands);
        if self.after_hangup {
            // The reload reads the TLS files too.
            (self.hangup, self.reread) = (false, false);
            return Some(Job { by: Requester::Hangup, stage: JobStage::Reopen });
        }
        if !self.hangup && std::mem::take(&mut self.reread) {
            return Some(Job { by: Requester::Hangup, stage: JobStage::RereadTls });
        }
        let QueuedCommand { by, command, file } =
            if commands { self.queue.pop_front()? } else { return None };
        Some(Job { by, stage: JobStage::Begin(command, file) })
    }

    /// Drops all work, because pen ends. A child is still to be reaped.
    pub(in crate::event_loop) fn stop(&mut self) {
        if let Some(Job { stage: JobStage::HelperTask(task, _, None), .. }) = &self.job {
            task.kill();
        }
        (self.job, self.hangup, self.reread, self.more) = (None, false, false, false);
        self.queue.clear();
    }
}

impl Supervisor {
    /// Advances the current job, and begins the next ones.
    pub(in crate::event_loop) fn work(&mut self, now: Instant) {
        self.queue.more = false;
        for _ in 0..MOST_STEPS {
            let Some(Job { by, stage }) = self.queue.job.take().or_else(|| self.next_job()) else {
                return;
            };
            match self.advance(by, stage, now) {
                Progress::Wait(stage) => {
                    self.queue.job = Some(Job { by, stage });
                    return;
                }
                Progress::Next(stage) => self.queue.job = Some(Job { by, stage }),
                Progress::Done(reply) => self.conclude(by, reply),
            }
        }
        self.queue.more = true;
    }

    fn next_job(&mut self) -> Option<Job> {
        let answerable = self.control.as_ref().is_some_and(|control| !control.is_choked());
        self.queue.next(answerable)
    }

    fn advance(&mut self, by: Requester, stage: JobStage, now: Instant) -> Progress {
        self.queue.serving = match by {
            Requester::Operator { who, .. } => Some(who),
            Requester::Hangup => None,
        };
        match stage {
            JobStage::Begin(command, file) => self.begin(by, command, file, now),
            JobStage::Reopen => self.reopen_held_log(now),
            JobStage::Reload => self.reload(now),
            JobStage::RereadTls => self.reread_tls(now),
            JobStage::Examining(examining, waiting) => match examining.read(now) {
                None => Progress::Wait(JobStage::Examining(examining, waiting)),
                Some(found) => {
                    let (change, batch) = *waiting;
                    self.examined(found, change, &batch, now)
                }
            },
            JobStage::Fetching(fetching, purpose) => match fetching.read(now) {
                None => Progress::Wait(JobStage::Fetching(fetching, purpose)),
                Some(fetched) => {
                    self.queue.leaving.extend(fetching.end());
                    self.fetched(fetched, purpose, now)
                }
            },
            JobStage::Asking(mut asking, inquiry, mut batch) => match asking.read(now) {
                None => Progress::Wait(JobStage::Asking(asking, inquiry, batch)),
                Some(Ok(answers)) => match inquiry.found(answers) {
                    Ok(found) => {
                        batch.found = found;
                        self.change(*batch, now)
                    }
                    Err(why) => self.refuse(&batch, vec![why]),
                },
                Some(Err(unresolved)) => {
                    let errors = names::placed(&unresolved, batch.commands.iter());
                    self.refuse(&batch, errors)
                }
            },
            JobStage::Settling(settling) => self.settle(by, settling, now),
            JobStage::Explaining(explaining) => match explaining.answer {
                Some(reply) => Progress::Done(reply),
                None if now >= explaining.deadline => Progress::Done(ControlReply::refusal(
                    format!("explain: worker {} does not answer", explaining.worker),
                )),
                None => Progress::Wait(JobStage::Explaining(explaining)),
            },
            JobStage::Gathering(gathering, wanted) => match gathering.is_over(now) {
                true => self.gathered(&gathering.finish(&self.pool.totals()), wanted, now),
                false => Progress::Wait(JobStage::Gathering(gathering, wanted)),
            },
            JobStage::HelperTask(mut task, word, ended) => match ended {
                Some(status) => {
                    if let (WaitStatus::Signaled(_, _, _), Some(file)) =
                        (status, &self.state.status)
                    {
                        file.forget(Writer::Command(std::process::id()));
                    }
                    Progress::Done(task.reply(word, status))
                }
                None => {
                    task.expire(now);
                    Progress::Wait(JobStage::HelperTask(task, word, None))
                }
            },
        }
        .told(by)
    }

    /// Waits until all processes work by the new settings, or until the deadline.
    fn settle(&mut self, by: Requester, settling: Settling, now: Instant) -> Progress {
        let generation = settling.generation;
        let control = self.control.as_ref().is_none_or(|control| control.has_applied(generation));
        let late = |worker: &&crate::processes::worker::Worker| {
            !worker.has_applied(generation) || !worker.has_moved()
        };
        if now < settling.deadline && (!control || self.pool.workers().any(|worker| late(&worker)))
        {
            return Progress::Wait(JobStage::Settling(settling));
        }
        let silent: Vec<String> = self
            .pool
            .workers()
            .filter(|worker| worker.peer.is_ready())
            .filter(late)
            .map(|worker| format!("worker {} (pid {})", worker.id, worker.peer.pid()))
            .chain((!control).then(|| "the control process".into()))
            .collect();
        for name in silent {
            self.logger.warning(&format!(
                "{name} has not taken the new settings within {} s",
                PATIENCE.as_secs()
            ));
        }
        self.settled(by, settling, now)
    }

    fn conclude(&mut self, by: Requester, reply: ControlReply) {
        match (by, &mut self.control) {
            (Requester::Operator { pid, ticket, .. }, Some(control)) => {
                control.reply(pid, ticket, reply)
            }
            (Requester::Operator { .. }, None) => {}
            // A HUP that came meanwhile is still to be answered.
            (Requester::Hangup, _) if self.queue.hangup => {}
            (Requester::Hangup, _) => self.announce(Instant::now()),
        }
    }
}

/// Most commands that wait: as many as the control process can have operators.
const MOST_WAITING: usize = 64;

/// Most children that hang in file systems. Each keeps a process and its memory, and a further one
/// would hang too.
const MOST_LEAVING: usize = 16;

/// Most steps of jobs in one turn of the loop.
const MOST_STEPS: usize = 32;

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
        (0..commands).for_each(|ticket| queue.enter(by(ticket), Command::Pid, None));
        queue
    }

    /// The job that begins next: `H` for HUP, the operator's ticket for a command, or nothing.
    fn begun(queue: &mut CommandQueue, answerable: bool) -> String {
        match queue.next(answerable).map(|job| (job.by, job.stage)) {
            Some((Requester::Hangup, JobStage::Reopen)) => "H".into(),
            Some((Requester::Operator { ticket, .. }, JobStage::Begin(_, None))) => {
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
}
