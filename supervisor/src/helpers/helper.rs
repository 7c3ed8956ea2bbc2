//! A helper process: a child of the supervisor that answers over a channel and then ends.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid, getpid};
use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::processes::child::Child;

/// The question type of a helper that gets its question by fork(2) and no messages.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum NoQuestion {}

/// A helper that receives `Question`s and sends `Answer`s. The drop kills the child; the supervisor
/// reaps it with its other children.
#[derive(Debug)]
pub(crate) struct Helper<Question, Answer> {
    channel: Channel<Question, Answer>,
    /// None once the child was reaped: its pid can then belong to another process.
    child: Option<Child>,
}

impl<Question, Answer> Helper<Question, Answer>
where
    Question: Serialize + DeserializeOwned,
    Answer: Serialize + DeserializeOwned,
{
    /// Forks a child. The child runs `work` with its end of the channel and its parent's pid; the
    /// result is its exit status. `user` is the user that the child becomes if it enters a jail.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn begin(
        user: Uid,
        work: impl FnOnce(&Channel<Answer, Question>, Pid) -> i32,
    ) -> io::Result<Self> {
        let (channel, theirs): (Channel<Question, Answer>, Channel<Answer, Question>) =
            Channel::pair()?;
        let supervisor = getpid();
        let child = Child::fork(user, || work(&theirs, supervisor))?;
        Ok(Helper { channel, child: Some(child) })
    }

    #[cfg(test)]
    pub(crate) fn without_child(channel: Channel<Question, Answer>) -> Self {
        Helper { channel, child: None }
    }

    /// The next answer of the child, if there is one.
    ///
    /// # Errors
    /// The child sent a message that is no answer.
    pub(crate) fn receive(&self) -> Result<Received<Answer>, ChannelError> {
        self.channel.receive()
    }

    /// Sends a question to the child. Returns false if the child cannot be asked any more.
    pub(crate) fn ask(&self, question: &Question) -> bool {
        matches!(self.channel.send(question, None), Ok(Sent::Queued))
    }
}

impl<Question, Answer> Helper<Question, Answer> {
    /// The descriptor to poll for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Whether this reaped child was the helper.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.child.take_if(|own| own.pid == child).is_some()
    }

    /// The child, unless it was reaped.
    pub(crate) fn child(&self) -> Option<Pid> {
        self.child.map(|child| child.pid)
    }

    /// Kills the child, which is still to be reaped.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.child {
            child.kill();
        }
    }

    /// Kills and reaps the child, for the time when nobody else reaps children yet. A child that
    /// the kernel does not let end is left alone.
    pub(crate) fn end(mut self) {
        let Some(child) = self.child.take() else { return };
        child.kill();
        let deadline = Instant::now() + END_PATIENCE;
        while waitpid(child.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<Question, Answer> Drop for Helper<Question, Answer> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long a killed child may take to end. It needs no time unless a file system holds it.
const END_PATIENCE: Duration = Duration::from_millis(200);
