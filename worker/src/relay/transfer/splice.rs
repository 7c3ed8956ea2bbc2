//! splice(2) through a pipe: moves bytes from socket to socket without copying them into this
//! process.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::relay::connection::endpoint::{Endpoint, RecvState, SendState, on_broken};
use crate::relay::connection::pipes::{PIPE, Pipe};

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
                from.recv = RecvState::Failed;
                return Some(0);
            }
        }
    }
}

/// Moves `bytes` bytes from a pipe into a socket, and returns how many it took.
pub fn drain(pipe: &Pipe, to: &mut Endpoint, bytes: usize) -> usize {
    let Some(socket) = &to.socket else {
        to.sending_is(SendState::Broken);
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
