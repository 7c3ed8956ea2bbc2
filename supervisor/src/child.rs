//! A child of the supervisor: its start, what it does, its end, and how its end is told.
//!
//! Children that are jailed have another user, and the supervisor does not keep the right to signal whom it likes (CAP_KILL): it kills
//! such a child as that user.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, Uid, getegid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::sys;
use crate::user;
use crate::watchdog::{State, Subject};

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

/// The kernel's word about a child that has not been waited for.
#[derive(Debug)]
pub(crate) struct Observed {
    pid: Pid,
    clock: Option<ClockId>,
}

impl Observed {
    /// A child. Its clock needs no right and no /proc (clock_getcpuclockid(3)).
    pub(crate) fn new(child: Child) -> Observed {
        Observed { pid: child.pid, clock: clock_getcpuclockid(child.pid).ok() }
    }
}

impl Subject for Observed {
    fn used(&self) -> Duration {
        self.clock.and_then(|clock| clock_gettime(clock).ok()).map_or(Duration::ZERO, Duration::from)
    }

    /// Looked up only when an answer is missing.
    fn state(&self) -> State {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).map_or(State::Unknown, |stat| state(&stat))
    }
}

/// The third field of /proc/PID/stat (proc_pid_stat(5)); the second ends with the last parenthesis.
fn state(stat: &str) -> State {
    match stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()) {
        Some('R') => State::Runnable,
        Some('T' | 't') => State::Stopped,
        Some(_) => State::Waiting,
        None => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_behind_a_name_that_may_have_anything_in_it() {
        assert_eq!(state("1 (pen) R 1 1"), State::Runnable);
        assert_eq!(state("1 (a) R) S 1 1"), State::Waiting);
        assert_eq!(state("1 (pen) T 1"), State::Stopped);
        assert_eq!(state("1 (pen) D 1"), State::Waiting);
        assert_eq!(state(""), State::Unknown);
        assert_eq!(state("1 (pen)"), State::Unknown);
    }

    #[test]
    fn the_kernel_tells_what_a_child_does() {
        let child = Child::fork(Uid::current(), || {
            loop {
                std::hint::spin_loop();
            }
        });
        let (child, short) = (child.unwrap(), Duration::from_millis(20));
        let observed = Observed::new(child);
        while observed.used() < short {
            assert_eq!(observed.state(), State::Runnable);
        }
        kill(child.pid, Signal::SIGSTOP).unwrap();
        waitpid(child.pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(observed.state(), State::Stopped);
        assert_eq!(observed.used(), observed.used());
        child.kill();
        waitpid(child.pid, None).unwrap();
        assert_eq!(observed.state(), State::Unknown);
    }
}
