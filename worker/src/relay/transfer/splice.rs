//! Pipes for splice(2), which moves bytes from socket to socket without copying them into this
//! process.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::relay::connection::endpoint::{Endpoint, on_broken};

/// Size in bytes requested for a pipe. The kernel may grant less (pipe(7), pipe-user-pages-soft).
const PIPE: usize = 256 * 1024;

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
    read: OwnedFd,
    write: OwnedFd,
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

/// Moves at most `most` bytes from a socket into an empty pipe. None: use read(2), which tells what
/// there is, or this socket cannot be spliced.
pub fn fill(from: &mut Endpoint, pipe: &Pipe, most: usize) -> Option<usize> {
    let socket = from.socket.as_ref()?;
    loop {
        match rustix::pipe::splice(socket, None, &pipe.write, None, most.min(PIPE), flags()) {
            Ok(length @ 1..) => return Some(length),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                from.found_empty();
                return Some(0);
            }
            // The end of file, or urgent data, at which splice(2) also returns 0 (tcp_splice_read).
            Ok(0) | Err(Errno::INVAL) => {
                from.large_reads = 0;
                return None;
            }
            Err(_) => {
                from.failed = true;
                from.readable = false;
                return Some(0);
            }
        }
    }
}

/// Moves `bytes` bytes from a pipe into a socket, and returns how many it took.
pub fn drain(pipe: &Pipe, to: &mut Endpoint, bytes: usize) -> usize {
    let Some(socket) = &to.socket else {
        to.broken = true;
        return 0;
    };
    let mut done = 0;
    while done < bytes {
        match rustix::pipe::splice(&pipe.read, None, socket.as_fd(), None, bytes - done, flags()) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => continue,
            // A splice(2) that fails midway returns the bytes that it moved and drops the error.
            Err(Errno::PIPE) if done > 0 && !to.hung_up => {
                on_broken(to, Errno::CONNRESET);
                break;
            }
            Err(errno) => {
                on_broken(to, errno);
                break;
            }
        }
    }
    done
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
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
