//! A helper: a child of the supervisor that answers over a channel and then ends.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::poll::PollFlags;
use nix::unistd::{Pid, Uid, getpid};
use pen_ipc::channel::{Channel, Received, Sent};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StartError;
use crate::launch::interrupt::Interrupts;
use crate::poll::PollSet;
use crate::processes::child::Child;

/// The question type of a helper that gets its question by fork(2) and no messages.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum NoQuestion {}

/// A helper that sends `Answer`s, and receives `Question`s if it is asked more than once. The drop
/// kills it.
#[derive(Debug)]
pub(crate) struct Helper<Answer, Question = NoQuestion> {
    child: Child,
    channel: Channel<Question, Answer>,
    deadline: Instant,
}

/// The reason why a helper gives no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HelperFailure {
    /// Its deadline has passed.
    Late,
    /// It has ended, or sent a message that is no answer.
    Ended,
}

impl<Answer, Question> Helper<Answer, Question>
where
    Answer: Serialize + DeserializeOwned,
    Question: Serialize + DeserializeOwned,
{
    /// Forks a child. The child runs `work` with its end of the channel and its parent's pid; the
    /// result is its exit status. `user` is the user that the child becomes if it enters a jail.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn begin(
        user: Uid,
        deadline: Instant,
        work: impl FnOnce(&Channel<Answer, Question>, Pid) -> i32,
    ) -> io::Result<Self> {
        let (channel, theirs) = Channel::<Question, Answer>::pair()?;
        let supervisor = getpid();
        let child = Child::fork(user, || work(&theirs, supervisor))?;
        Ok(Helper { child, channel, deadline })
    }

    /// The next answer with its descriptor, or the reason why there is none; none: not known yet.
    pub(crate) fn read(
        &self,
        now: Instant,
    ) -> Option<Result<(Answer, Option<OwnedFd>), HelperFailure>> {
        match self.channel.receive() {
            Ok(Received::Message(answer, descriptor)) => Some(Ok((answer, descriptor))),
            Ok(Received::Empty) if now < self.deadline => None,
            Ok(Received::Empty) => Some(Err(HelperFailure::Late)),
            Ok(Received::Closed) | Err(_) => Some(Err(HelperFailure::Ended)),
        }
    }

    /// Sends a question, to be answered until `deadline`. Returns false if the child cannot be
    /// asked any more.
    pub(crate) fn ask(&mut self, question: &Question, deadline: Instant) -> bool {
        self.deadline = deadline;
        matches!(self.channel.send(question, None), Ok(Sent::Queued))
    }
}

impl<Answer, Question> Helper<Answer, Question> {
    /// The descriptor to poll for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// When to call [`Helper::read`] at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the child has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.child.has_ended()
    }

    /// Kills the child, and returns it: it ends later if a file system holds it.
    pub(crate) fn kill(self) -> Child {
        self.child.kill();
        self.child
    }
}

/// Waits at a start until one of these descriptors can be read, or until the deadline.
///
/// # Errors
/// The start is interrupted.
pub(crate) fn wait<'d>(
    descriptors: impl Iterator<Item = BorrowedFd<'d>>,
    deadline: Instant,
    interrupts: &mut Interrupts,
) -> Result<(), StartError> {
    let mut set = PollSet::new();
    interrupts.descriptors().for_each(|fd| set.add((), fd, PollFlags::POLLIN));
    descriptors.for_each(|fd| set.add((), fd, PollFlags::POLLIN));
    set.wait(Some(deadline));
    interrupts.check()
}
