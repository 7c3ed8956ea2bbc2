//! A child of the supervisor that answers over a channel and ends: the process, its channel, and
//! its end.

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

/// A helper that is born with its question is told nothing.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum NoQuestion {}

/// The supervisor's hold on a child that is told `Question`s and says `Answer`s. The child is
/// killed when this is dropped; whoever waits for this process's children reaps it.
#[derive(Debug)]
pub(crate) struct Helper<Question, Answer> {
    channel: Channel<Question, Answer>,
    /// None once it was waited for: then the pid can be somebody else's.
    child: Option<Child>,
}

impl<Question, Answer> Helper<Question, Answer>
where
    Question: Serialize + DeserializeOwned,
    Answer: Serialize + DeserializeOwned,
{
    /// Forks a child that runs `work`, with its end of the channel and its parent's pid, and ends
    /// with its result as status. `user` is who it becomes if it enters a jail.
    ///
    /// # Errors
    /// No process, descriptor or memory can be had now.
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

    /// What the child said, if it has said something.
    ///
    /// # Errors
    /// It said what is no answer.
    pub(crate) fn receive(&self) -> Result<Received<Answer>, ChannelError> {
        self.channel.receive()
    }

    /// Asks the child; false: it cannot be asked any more.
    pub(crate) fn ask(&self, question: &Question) -> bool {
        matches!(self.channel.send(question, None), Ok(Sent::Queued))
    }
}

impl<Question, Answer> Helper<Question, Answer> {
    /// To be polled for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Whether this child was the one; it has been waited for.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.child.take_if(|own| own.pid == child).is_some()
    }

    /// The child, unless it was waited for.
    pub(crate) fn child(&self) -> Option<Pid> {
        self.child.map(|child| child.pid)
    }

    /// Kills the child, which is still to be reaped.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.child {
            child.kill();
        }
    }

    /// Ends the child and reaps it, where nobody else waits for children yet. One that the kernel
    /// does not let go is left alone.
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

/// How long a killed child may take to be gone: it needs no time unless a file system keeps it.
const END_PATIENCE: Duration = Duration::from_millis(200);
