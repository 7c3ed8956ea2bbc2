//! A helper task: a child that writes a long reply or a file, so that the supervisor can do other
//! work meanwhile.
//!
//! The child writes the reply into a memfd and ends. It is killed if it takes too long.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, Uid, getpid, getppid};
use pen_ipc::message::Outcome;

use crate::files::memory;
use crate::log::errno::why;
use crate::processes::child::Child;
use crate::processes::control::{ControlReply, ReplyBody};
use crate::sys;

/// A helper task at work.
#[derive(Debug)]
pub(crate) struct HelperTask {
    child: Child,
    /// Readable once the child has ended.
    pidfd: OwnedFd,
    reply: File,
    deadline: Instant,
    late: bool,
}

/// The context of the work in the child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskContext<'r> {
    /// The pid of the parent.
    pub(crate) supervisor: Pid,
    /// The memory of the reply. It has to stay open.
    pub(crate) reply: BorrowedFd<'r>,
}

impl HelperTask {
    /// Forks the child, which keeps only the descriptors in `keep`. The reply is what `work`
    /// writes. If `work` fails, the reply is `word` and the error. `user` is the user that the
    /// child becomes if it enters a jail.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn begin(
        word: &str,
        user: Uid,
        keep: &[BorrowedFd<'_>],
        now: Instant,
        work: impl FnOnce(&mut dyn Write, TaskContext<'_>) -> io::Result<()>,
    ) -> io::Result<HelperTask> {
        let reply = memory::new()?;
        let supervisor = getpid();
        let child = Child::fork(user, || run(word, keep, &reply, supervisor, work))?;
        let pidfd = child.watch()?;
        Ok(HelperTask { child, pidfd, reply, deadline: now + PATIENCE, late: false })
    }

    /// The descriptor to poll for the end of the child.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When to call [`HelperTask::expire`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.late).then_some(self.deadline)
    }

    /// Kills a child that takes too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        if !self.late && now >= self.deadline {
            self.late = true;
            self.kill();
        }
    }

    /// Kills the child, which is still to be reaped.
    pub(crate) fn kill(&self) {
        self.child.kill();
    }

    /// Whether this is the child.
    pub(crate) fn is(&self, child: Pid) -> bool {
        self.child.pid == child
    }

    /// The reply, once the child was reaped.
    pub(crate) fn reply(self, word: &str, status: WaitStatus) -> ControlReply {
        let ended = match status {
            WaitStatus::Exited(_, status @ (0 | REFUSED)) => match self.reply.metadata() {
                Ok(there) if there.len() == 0 => return ControlReply::none(),
                _ => {
                    let outcome = if status == REFUSED { Outcome::Refused } else { Outcome::Done };
                    let sealed = memory::seal(self.reply).map(ReplyBody::Memory);
                    sealed.map(|body| ControlReply { outcome, body }).map_err(|error| why(&error))
                }
            },
            _ if self.late => Err(format!("not finished within {} s", PATIENCE.as_secs())),
            WaitStatus::Signaled(_, signal, _) => {
                Err(format!("not finished: killed by signal {}", signal as i32))
            }
            _ => Err("not finished".into()),
        };
        ended.unwrap_or_else(|why| ControlReply::refusal(format!("{word}: {why}")))
    }
}

fn run(
    word: &str,
    keep: &[BorrowedFd<'_>],
    mut reply: &File,
    supervisor: Pid,
    work: impl FnOnce(&mut dyn Write, TaskContext<'_>) -> io::Result<()>,
) -> i32 {
    let keep: Vec<_> = keep.iter().copied().chain([reply.as_fd()]).collect();
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err()
        || getppid() != supervisor
        || sys::close_all_but(&keep).is_err()
    {
        return 1;
    }
    let mut buffered = BufWriter::with_capacity(1 << 16, reply);
    let context = TaskContext { supervisor, reply: reply.as_fd() };
    let done = work(&mut buffered, context).and_then(|()| buffered.flush());
    drop(buffered);
    match done {
        Ok(()) => 0,
        Err(error) => {
            // The error replaces a partly written reply.
            let told = reply.set_len(0).and_then(|()| io::Seek::rewind(&mut reply));
            let told = told.and_then(|()| writeln!(reply, "{word}: {}", why(&error)));
            if told.is_ok() { REFUSED } else { 1 }
        }
    }
}

/// The exit status of a child that failed; the reply has the reason.
const REFUSED: i32 = 3;

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(30);
