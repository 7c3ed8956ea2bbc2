//! A child of the supervisor: its start, its state, its end, and the log text for its end.
//!
//! Jailed children run as another user. The supervisor does not keep the right to signal every
//! process (CAP_KILL). It kills such a child as the child's user.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, Uid, getegid, getpid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::jail::user;
use crate::processes::liveness::{ProcessState, Subject};
use crate::sys;

/// A child that has not been reaped. Until then its pid belongs to it, dead or alive: only the
/// supervisor reaps its children.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Child {
    /// The pid.
    pub(crate) pid: Pid,
    /// The user that the child becomes if it enters its jail.
    user: Uid,
}

impl Child {
    /// Forks a child that runs `live`; the result is its exit status. ps(1) shows it as a helper,
    /// unless it sets another title.
    ///
    /// # Errors
    /// No process or memory is available now.
    pub(crate) fn fork(user: Uid, live: impl FnOnce() -> i32) -> io::Result<Child> {
        let run = || {
            sys::title::set("helper");
            live()
        };
        Ok(Child { pid: sys::fork(run)?, user })
    }

    /// Kills the child, which is still to be reaped.
    pub(crate) fn kill(self) {
        // Before the jail, the child has the user of the supervisor. Inside, it never becomes that
        // user again.
        if kill(self.pid, Signal::SIGKILL) == Err(Errno::EPERM) {
            let _ = user::acting_as(self.user, getegid(), || kill(self.pid, Signal::SIGKILL));
        }
    }

    /// Opens a pidfd of the child. It becomes readable when the child ends, or at once if it has
    /// ended.
    ///
    /// # Errors
    /// No descriptors left. The child is then killed and reaped, because its end could not be seen.
    pub(crate) fn watch(self) -> io::Result<OwnedFd> {
        let pid =
            rustix::process::Pid::from_raw(self.pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            self.kill();
            let _ = waitpid(self.pid, None);
        })?)
    }
}

/// Information of the kernel about a child that has not been reaped.
#[derive(Debug)]
pub(crate) struct Observed {
    pid: Pid,
    clock: Option<ClockId>,
    /// Its /proc/PID/stat, opened while the child still has the supervisor's user: once it is in
    /// its jail, `hidepid` (proc(5)) hides the file.
    stat: Option<File>,
}

impl Observed {
    /// For a new child. Its clock needs no right and no /proc (clock_getcpuclockid(3)).
    pub(crate) fn new(child: Child) -> Observed {
        let stat = stat_of(child.pid).ok().filter(are_plenty);
        Observed { pid: child.pid, clock: clock_getcpuclockid(child.pid).ok(), stat }
    }

    fn read(&self) -> io::Result<String> {
        let mut bytes = [0; MOST_OF_STAT];
        let length = match &self.stat {
            Some(stat) => stat.read_at(&mut bytes, 0)?,
            // Opened only when needed, because descriptors are short.
            None => stat_of(self.pid)?.read_at(&mut bytes, 0)?,
        };
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

impl Subject for Observed {
    fn used(&self) -> Duration {
        self.clock
            .and_then(|clock| clock_gettime(clock).ok())
            .map_or(Duration::ZERO, Duration::from)
    }

    /// Read only when an answer is missing.
    fn state(&self) -> ProcessState {
        match self.read() {
            // Without a clock, nobody knows whether the process got processor time.
            Ok(stat) if self.clock.is_some() => state(&stat, getpid()),
            Ok(_) | Err(_) => ProcessState::Unknown,
        }
    }
}

/// Whether many descriptors are free beside this one. This file is optional and must not take the
/// last one.
fn are_plenty(file: &File) -> bool {
    let number = u64::try_from(file.as_raw_fd()).unwrap_or(u64::MAX);
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(limit, _)| number < limit / 2)
}

fn stat_of(pid: Pid) -> io::Result<File> {
    File::open(format!("/proc/{pid}/stat"))
}

/// The third and fourth field of /proc/PID/stat (proc_pid_stat(5)); the second ends with the last
/// parenthesis. Another parent means another process: /proc may show another pid namespace, with
/// other numbers.
fn state(stat: &str, parent: Pid) -> ProcessState {
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let (state, of) = (fields.next(), fields.next().and_then(|of| of.parse().ok()));
    if of != Some(parent.as_raw()) {
        return ProcessState::Unknown;
    }
    match state {
        Some("R") => ProcessState::Runnable,
        Some("T" | "t") => ProcessState::Stopped,
        Some("D") => ProcessState::Blocked,
        Some(_) => ProcessState::Waiting,
        None => ProcessState::Unknown,
    }
}

/// The bytes that are read: far more than the first fields need.
const MOST_OF_STAT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_behind_a_name_that_may_have_anything_in_it() {
        let state = |stat| state(stat, Pid::from_raw(7));
        assert_eq!(state("1 (pen) R 7 1"), ProcessState::Runnable);
        assert_eq!(state("1 (a) R) S 7 1"), ProcessState::Waiting);
        assert_eq!(state("1 (pen) T 7"), ProcessState::Stopped);
        assert_eq!(state("1 (pen) D 7"), ProcessState::Blocked);
        assert_eq!(state("1 (of another namespace) D 1 1"), ProcessState::Unknown);
        assert_eq!(state(""), ProcessState::Unknown);
        assert_eq!(state("1 (pen)"), ProcessState::Unknown);
        assert_eq!(state("1 (pen) R"), ProcessState::Unknown);
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
            assert_eq!(observed.state(), ProcessState::Runnable);
        }
        kill(child.pid, Signal::SIGSTOP).unwrap();
        waitpid(child.pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(observed.state(), ProcessState::Stopped);
        assert_eq!(observed.used(), observed.used());
        child.kill();
        waitpid(child.pid, None).unwrap();
        assert_eq!(observed.state(), ProcessState::Unknown);
    }
}
