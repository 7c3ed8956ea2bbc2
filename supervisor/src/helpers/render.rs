//! The reporter: a child that writes a long reply, a report or a file. The supervisor does other
//! work meanwhile.
//!
//! The child writes the reply into a memfd and ends. It has no channel, because a process that
//! writes files needs no system call for messages: its exit status says whether it succeeded. It is
//! killed if it takes too long.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid, getpid, getppid};
use pen_ipc::message::Outcome;
use pen_ipc::text::error_text;

use crate::files::memory;
use crate::processes::child::Child;
use crate::processes::ending::Ending;
use crate::processes::ports::control::{ControlReply, ReplyBody};
use crate::sys;

/// A reporter at work. The drop kills it.
#[derive(Debug)]
pub(crate) struct Reporter {
    child: Child,
    /// The beginning of error messages: the word of a command, or a sentence for a signal.
    word: &'static str,
    reply: File,
    /// When to kill the child; none if it was killed.
    deadline: Option<Instant>,
    /// Its end, once the child was reaped.
    ending: Option<Ending>,
}

/// The context of the work in the child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RenderContext<'r> {
    /// The pid of the parent.
    pub(crate) supervisor: Pid,
    /// The memory of the reply. It has to stay open.
    pub(crate) reply: BorrowedFd<'r>,
}

/// The end of a reporter.
#[derive(Debug)]
pub(crate) enum Rendered {
    /// It succeeded; the memory has the reply.
    Done(File),
    /// It failed; the memory has the reason in one line.
    Refused(File),
    /// It was killed by pen, because it took too long or because pen ends.
    Late,
    /// Somebody else killed it with this signal.
    Killed(i32),
    /// It ended without a reason.
    Failed,
}

impl Reporter {
    /// Forks the child, which keeps only the descriptors in `keep`. The reply is what `work`
    /// writes. If `work` fails, the reply is `word` and the error. `user` is the user that the
    /// child becomes if it enters a jail.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn begin(
        word: &'static str,
        user: Uid,
        keep: &[BorrowedFd<'_>],
        now: Instant,
        work: impl FnOnce(&mut dyn Write, RenderContext<'_>) -> io::Result<()>,
    ) -> io::Result<Reporter> {
        let reply = memory::new()?;
        let supervisor = getpid();
        let child = Child::fork(user, || run(word, keep, &reply, supervisor, work))?;
        Ok(Reporter { child, word, reply, deadline: Some(now + PATIENCE), ending: None })
    }

    /// The descriptor to poll for the end of the child.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// When to call [`Reporter::expire`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Shortens the time that the child may take.
    pub(crate) fn limit(&mut self, deadline: Instant) {
        self.deadline = self.deadline.map(|longest| longest.min(deadline));
    }

    /// Kills a child that takes too long. Returns whether it did that now.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let expires = self.deadline.take_if(|deadline| *deadline <= now).is_some();
        if expires {
            self.child.kill();
        }
        expires
    }

    /// Kills the child, unless it was reaped. Its end is to be noted all the same.
    pub(crate) fn kill(&mut self) {
        self.deadline = None;
        self.child.kill();
    }

    /// Whether this reaped child was the reporter; notes its end.
    pub(crate) fn reaped(&mut self, child: Pid, ending: Ending) -> bool {
        let is_own = self.ending.is_none() && self.child.pid() == child;
        if is_own {
            self.ending = Some(ending);
        }
        is_own
    }

    /// Whether the child was reaped.
    pub(crate) fn is_over(&self) -> bool {
        self.ending.is_some()
    }

    /// The beginning of error messages, and the end of the reporter, once the child was reaped.
    ///
    /// # Errors
    /// The reporter is still at work, and is returned.
    pub(crate) fn finish(self) -> Result<(&'static str, Rendered), Reporter> {
        let rendered = match self.ending {
            None => return Err(self),
            Some(Ending::Exited(DONE)) => Rendered::Done(self.reply),
            Some(Ending::Exited(REFUSED)) => Rendered::Refused(self.reply),
            Some(_) if self.deadline.is_none() => Rendered::Late,
            Some(Ending::Killed(signal)) => Rendered::Killed(signal),
            Some(Ending::Exited(_) | Ending::Unknown) => Rendered::Failed,
        };
        Ok((self.word, rendered))
    }
}

impl Rendered {
    /// The reply to the operator of a command.
    pub(crate) fn into_reply(self, word: &str) -> ControlReply {
        let (outcome, memory) = match self {
            Rendered::Done(memory) => (Outcome::Done, memory),
            Rendered::Refused(memory) => (Outcome::Refused, memory),
            Rendered::Late => {
                let seconds = PATIENCE.as_secs();
                return ControlReply::refusal(format!("{word}: not finished within {seconds} s"));
            }
            Rendered::Killed(signal) => {
                let line = format!("{word}: not finished: killed by signal {signal}");
                return ControlReply::refusal(line);
            }
            Rendered::Failed => return ControlReply::refusal(format!("{word}: not finished")),
        };
        if memory.metadata().is_ok_and(|there| there.len() == 0) {
            return ControlReply::none();
        }
        match memory::seal(memory) {
            Ok(memory) => ControlReply { outcome, body: ReplyBody::Memory(memory) },
            Err(error) => ControlReply::refusal(format!("{word}: {}", error_text(&error))),
        }
    }
}

/// Does in a child what is left to do after a killed reporter: the file system that held the
/// reporter may hold the child too. Waits a moment for it, and then kills it. The event loop reaps
/// it.
///
/// # Errors
/// No child can be forked now.
pub(crate) fn clean_up(user: Uid, work: impl FnOnce() -> io::Result<()>) -> io::Result<Child> {
    let supervisor = getpid();
    let child = Child::fork(user, || {
        let is_alone = prctl::set_pdeathsig(Signal::SIGKILL).is_ok()
            && getppid() == supervisor
            && sys::close_all_but(&[]).is_ok();
        if is_alone && work().is_ok() { DONE } else { FAILED }
    })?;
    if !child.ends_by(Instant::now() + CLEANING_PATIENCE) {
        child.kill();
    }
    Ok(child)
}

fn run(
    word: &str,
    keep: &[BorrowedFd<'_>],
    mut reply: &File,
    supervisor: Pid,
    work: impl FnOnce(&mut dyn Write, RenderContext<'_>) -> io::Result<()>,
) -> i32 {
    let keep: Vec<_> = keep.iter().copied().chain([reply.as_fd()]).collect();
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err()
        || getppid() != supervisor
        || sys::close_all_but(&keep).is_err()
    {
        return FAILED;
    }
    let mut buffered = BufWriter::with_capacity(1 << 16, reply);
    let context = RenderContext { supervisor, reply: reply.as_fd() };
    let done = work(&mut buffered, context).and_then(|()| buffered.flush());
    drop(buffered);
    match done {
        Ok(()) => DONE,
        Err(error) => {
            // The error replaces a partly written reply.
            let written = reply.set_len(0).and_then(|()| io::Seek::rewind(&mut reply));
            let written = written.and_then(|()| writeln!(reply, "{word}: {}", error_text(&error)));
            if written.is_ok() { REFUSED } else { FAILED }
        }
    }
}

/// The exit status of a child that succeeded.
const DONE: i32 = 0;

/// The exit status of a child that failed without a reason.
const FAILED: i32 = 1;

/// The exit status of a child that failed; the reply has the reason.
const REFUSED: i32 = 3;

/// How long the supervisor waits for a child that cleans up. It takes a millisecond.
const CLEANING_PATIENCE: Duration = Duration::from_millis(200);

/// How long a child may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
