//! Pipes for splice(2): the idle ones of a worker, and the limits.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::pipe::PipeFlags;

/// Size in bytes requested for a pipe. The kernel may grant less (pipe(7), pipe-user-pages-soft).
pub const PIPE: usize = 256 * 1024;

/// Read sizes from which a pipe is worth its cost: if its buffers hardly ever run out, so that two
/// calls are enough, and if they may.
const WORTH: usize = 12 * 1024;
const WORTH_OF_THREE_CALLS: usize = 20 * 1024;

/// Least bytes of one buffer of a pipe, unless segments are unusually small: the payload of a
/// segment that all networks carry (RFC 9293, 3.7.1).
const PIECE: usize = 536;

/// Most idle pipes that a worker keeps.
pub const POOLED_PIPES: usize = 32;

/// A pipe for splice(2).
#[derive(Debug)]
pub struct Pipe {
    /// The end that data comes out of.
    pub read: OwnedFd,
    /// The end that data goes into.
    pub write: OwnedFd,
    /// Fewer bytes than this hardly ever use up the pipe's buffers.
    ample: usize,
    /// Counts the pipe.
    _one_of: Rc<()>,
}

/// The idle pipes of a worker, and the limits.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    /// Has one further reference for each pipe, idle or in use.
    all: Rc<()>,
    most: usize,
    worth: usize,
}

impl Pipes {
    /// Allows `most` pipes of two descriptors each: peers that do not read must not use up the
    /// descriptors of later clients.
    pub fn new(most: usize) -> Pipes {
        Pipes { idle: Vec::new(), all: Rc::default(), most, worth: WORTH }
    }

    /// Bytes of a read from which a pipe is worth its cost.
    pub fn worth(&self) -> usize {
        self.worth
    }

    /// Changes the number of pipes allowed. Pipes in use stay.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// A pipe, if one more is allowed.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        // Without descriptors or memory for a pipe, data is copied.
        if Rc::strong_count(&self.all) > self.most {
            return None;
        }
        let (read, write) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let size = rustix::pipe::fcntl_setpipe_size(&write, PIPE)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&write));
        let ample = size.unwrap_or(0) / rustix::param::page_size() * PIECE;
        self.worth = if ample > WORTH { WORTH } else { WORTH_OF_THREE_CALLS };
        Some(Pipe { read, write, ample, _one_of: self.all.clone() })
    }

    /// Takes back an empty pipe.
    pub fn pool(&mut self, pipe: Pipe) {
        if self.idle.len() < POOLED_PIPES {
            self.idle.push(pipe);
        }
    }
}

impl Pipe {
    /// Whether a splice that moved `filled` bytes instead of `most` into this empty pipe hardly can
    /// have used up its buffers.
    pub fn was_ample(&self, filled: usize, most: usize) -> bool {
        filled < most && filled < self.ample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_have_a_bound_and_those_of_ended_connections_count_no_more() {
        let mut pipes = Pipes::new(2);
        let (first, second) = (pipes.take(), pipes.take());
        assert!(first.is_some() && second.is_some() && pipes.take().is_none());
        drop(first);
        let third = pipes.take().expect("one was dropped");
        assert!(pipes.take().is_none());
        pipes.pool(third);
        assert!(pipes.take().is_some() && pipes.take().is_some());
    }
}
