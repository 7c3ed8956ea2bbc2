//! Work for a child of its own: a long reply, or a file to be written, that must not keep the
//! supervisor from its other work.
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
use crate::processes::control::{Body, Reply};
use crate::sys;

/// A child at work.
#[derive(Debug)]
pub(crate) struct HelperTask {
    child: Child,
    /// Readable once the child has ended.
    pidfd: OwnedFd,
    reply: File,
    deadline: Instant,
    late: bool,
}

/// For whom a child works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskContext<'r> {
    /// Its parent.
    pub(crate) supervisor: Pid,
    /// The memory that the reply is written to, which has to stay open.
    pub(crate) reply: BorrowedFd<'r>,
}

impl HelperTask {
    /// Forks the child, which has no descriptors but those in `keep`. What `work` writes is the
    /// reply; if it fails, its error is the reply, after `word`. `user` is who it becomes if it
    /// enters a jail.
    ///
    /// # Errors
    /// There can be no child now.
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

    /// To be polled for the end of the child.
    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When [`HelperTask::expire`] has to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.late).then_some(self.deadline)
    }

    /// Ends one that takes too long.
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

    /// Whether this child is the one.
    pub(crate) fn is(&self, child: Pid) -> bool {
        self.child.pid == child
    }

    /// The reply, once the child has been waited for.
    pub(crate) fn reply(self, word: &str, status: WaitStatus) -> Reply {
        let ended = match status {
            WaitStatus::Exited(_, status @ (0 | REFUSED)) => match self.reply.metadata() {
                Ok(there) if there.len() == 0 => return Reply::none(),
                _ => {
                    let outcome = if status == REFUSED { Outcome::Refused } else { Outcome::Done };
                    let sealed = memory::seal(self.reply).map(Body::Memory);
                    sealed.map(|body| Reply { outcome, body }).map_err(|error| why(&error))
                }
            },
            _ if self.late => Err(format!("not finished within {} s", PATIENCE.as_secs())),
            WaitStatus::Signaled(_, signal, _) => {
                Err(format!("not finished: killed by signal {}", signal as i32))
            }
            _ => Err("not finished".into()),
        };
        ended.unwrap_or_else(|why| Reply::refusal(format!("{word}: {why}")))
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
            // Not behind half a page.
            let told = reply.set_len(0).and_then(|()| io::Seek::rewind(&mut reply));
            let told = told.and_then(|()| writeln!(reply, "{word}: {}", why(&error)));
            if told.is_ok() { REFUSED } else { 1 }
        }
    }
}

/// The exit status of a child that could not do it; the reply says why.
const REFUSED: i32 = 3;

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(30);
