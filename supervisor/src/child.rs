//! A child of the supervisor: its start, its end, and how its end is told.
//!
//! Children that are jailed have another user, and the supervisor does not keep the right to signal whom it likes (CAP_KILL): it kills
//! such a child as that user.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, Uid, getegid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::sys;
use crate::user;

/// A child that has not been waited for, so that its pid is its own, dead or alive: nobody else waits for this process's children.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Child {
    /// Its number.
    pub(crate) pid: Pid,
    /// Who it becomes if it enters its jail.
    user: Uid,
}

impl Child {
    /// Forks a child that runs `live` and ends with its result as status.
    ///
    /// # Errors
    /// No process or no memory can be had now.
    pub(crate) fn fork(user: Uid, live: impl FnOnce() -> i32) -> io::Result<Child> {
        Ok(Child { pid: sys::fork(live)?, user })
    }

    /// Kills it. It is still to be waited for.
    pub(crate) fn kill(self) {
        // Until it is in its jail it is the supervisor's own user's; in there it never becomes that again.
        if kill(self.pid, Signal::SIGKILL) == Err(Errno::EPERM) {
            let _ = user::acting_as(self.user, getegid(), || kill(self.pid, Signal::SIGKILL));
        }
    }

    /// Opens a pidfd of it; it becomes readable when the child ends, or at once if it has.
    ///
    /// # Errors
    /// No descriptors left. The child, which could not be watched, is killed and reaped.
    pub(crate) fn watch(self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            self.kill();
            let _ = waitpid(self.pid, None);
        })?)
    }
}
