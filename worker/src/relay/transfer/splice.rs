//! Pipes for splice(2), which moves bytes from socket to socket without copying them into this
//! process.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use crate::relay::connection::endpoint::{End, on_broken};

/// Bytes that a pipe is asked to hold; the kernel may grant less (pipe(7), pipe-user-pages-soft).
const PIPE: usize = 256 * 1024;

/// From this size a read is worth a pipe: if the pipe hardly runs out of places that way, so that
/// two calls do, or if not.
const WORTH: usize = 12 * 1024;
const WORTH_OF_THREE_CALLS: usize = 20 * 1024;

/// Bytes that a piece has at least, where segments are not unusually small: the payload of a
/// segment that all networks carry (RFC 9293, 3.7.1).
const PIECE: usize = 536;

/// Idle pipes that a worker keeps at most.
pub const POOLED_PIPES: usize = 32;

/// A pipe for splice(2).
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Fewer bytes hardly use up its places.
    ample: usize,
    /// Counts it.
    _one_of: Rc<()>,
}

/// The pipes of a worker that carry nothing now.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    /// As many further references as there are pipes, here and with connections.
    all: Rc<()>,
    most: usize,
    worth: usize,
}

impl Pipes {
    /// So many pipes there may be, of two descriptors each: peers that do not read must not use up
    /// those of clients to come.
    pub fn new(most: usize) -> Pipes {
        Pipes { idle: Vec::new(), all: Rc::default(), most, worth: WORTH }
    }

    /// Bytes from which a read is worth a pipe.
    pub fn worth(&self) -> usize {
        self.worth
    }

    /// Changes how many there may be; those in use stay.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// A pipe, if there may be one more.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        // Without descriptors or memory for a pipe, copying goes on.
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
    /// Whether a splice into this pipe, when it was empty, that took so many bytes instead of
    /// `most` can hardly have used up its places.
    pub fn was_ample(&self, filled: usize, most: usize) -> bool {
        filled < most && filled < self.ample
    }
}

/// From a socket into an empty pipe, at most so many bytes. None: reading has to say what there is,
/// or this socket cannot be spliced.
pub fn fill(from: &mut End, pipe: &Pipe, most: usize) -> Option<usize> {
    let socket = from.socket.as_ref()?;
    loop {
        match rustix::pipe::splice(socket, None, &pipe.write, None, most.min(PIPE), flags()) {
            Ok(length @ 1..) => return Some(length),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                from.found_empty();
                return Some(0);
            }
            // The end of file, or urgent data, which stops splice(2) with 0 as well
            // (tcp_splice_read).
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

/// From a pipe that holds `bytes` into a socket; returns how many it took.
pub fn drain(pipe: &Pipe, to: &mut End, bytes: usize) -> usize {
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
            // A splice(2) that fails midway says how much it moved and keeps the error to itself.
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
