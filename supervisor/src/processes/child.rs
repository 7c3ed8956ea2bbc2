//! A child of the supervisor: its start, its state, its end, and the log text for its end.
//!
//! Jailed children run as another user. The supervisor does not keep the right to signal every
//! process (CAP_KILL). It kills such a child as the child's user.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, Uid, getegid, getpid};
use rustix::io::Errno;
use rustix::param::page_size;
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::jail::user;
use crate::poll::until;
use crate::processes::liveness::{ProcessState, Subject};
use crate::sys;

/// A child. Signals go through its pidfd. So after it is reaped, they reach no other process that
/// has its pid. The drop kills it; the event loop reaps it with all other children.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// The user that the child becomes if it enters its jail.
    user: Uid,
}

impl Child {
    /// Forks a child that runs `work`; the result is its exit status. ps(1) shows it as a helper,
    /// unless it sets another title.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn fork(user: Uid, work: impl FnOnce() -> i32) -> io::Result<Child> {
        let run = || {
            sys::title::set("helper");
            work()
        };
        let pid = sys::fork(run)?;
        match pidfd_open(raw(pid)?, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Child { pid, pidfd, user }),
            Err(error) => {
                // Its end could not be seen. Until it is reaped, the pid is its own.
                kill_as(user, || kill_process(raw(pid)?, Signal::KILL));
                let _ = waitpid(pid, None);
                Err(error.into())
            }
        }
    }

    /// A child of this process that an earlier program in it forked.
    pub(crate) fn adopted(pid: Pid, pidfd: OwnedFd, user: Uid) -> Child {
        Child { pid, pidfd, user }
    }

    /// The child with this pid, which is not reaped.
    ///
    /// # Errors
    /// It is gone, or no descriptors are left.
    pub(crate) fn of_pid(pid: Pid, user: Uid) -> io::Result<Child> {
        let pidfd = pidfd_open(raw(pid)?, PidfdFlags::empty())?;
        Ok(Child { pid, pidfd, user })
    }

    /// The pid.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor to poll for the end of the child: readable once it has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether the child has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Instant::now())
    }

    /// Whether the child has ended and was reaped (waitid(2): ECHILD).
    pub(crate) fn is_reaped(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(self.pidfd()), flags) == Err(nix::errno::Errno::ECHILD)
    }

    /// Waits until the child has ended, at most until `deadline`. Returns whether it has.
    pub(crate) fn ends_by(&self, deadline: Instant) -> bool {
        self.wait(deadline)
    }

    /// Kills the child.
    pub(crate) fn kill(&self) {
        kill_as(self.user, || pidfd_send_signal(&self.pidfd, Signal::KILL));
    }

    /// Kills and reaps the child, for the time when nobody else reaps children yet. A child that
    /// the kernel does not let end is left alone.
    pub(crate) fn end(self) {
        self.kill();
        if self.wait(Instant::now() + END_PATIENCE) {
            let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Waits for the end of the child, but not for ever. Returns whether it has ended.
    fn wait(&self, deadline: Instant) -> bool {
        poll(&mut [PollFd::new(self.pidfd(), PollFlags::POLLIN)], until(deadline)) == Ok(1)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The children of this process. None without the kernel's list (CONFIG_PROC_CHILDREN).
pub(crate) fn children() -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/self/task/{}/children", getpid()));
    let pids = list.unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn raw(pid: Pid) -> Result<rustix::process::Pid, Errno> {
    rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::SRCH)
}

/// Sends a signal to a child. Before the jail, the child has the user of the supervisor. Inside, it
/// never becomes that user again.
fn kill_as(user: Uid, kill: impl Fn() -> Result<(), Errno>) {
    if kill() == Err(Errno::PERM) {
        let _ = user::acting_as(user, getegid(), kill);
    }
}

/// Information of the kernel about a child that has not been reaped.
#[derive(Debug)]
pub(crate) struct Observed {
    pid: Pid,
    clock: Option<ClockId>,
    /// The processor time that it had used when somebody last asked. The kernel forgets it when the
    /// child is reaped.
    used: Cell<Duration>,
    /// Its /proc/PID/stat, opened while the child still has the supervisor's user: once it is in
    /// its jail, `hidepid` (proc(5)) hides the file.
    stat: Option<File>,
}

impl Observed {
    /// For a new child. Its clock needs no right and no /proc (clock_getcpuclockid(3)).
    pub(crate) fn new(child: &Child) -> Observed {
        let stat = stat_of(child.pid).ok().filter(are_plenty);
        let (pid, clock) = (child.pid, clock_getcpuclockid(child.pid).ok());
        Observed { pid, clock, used: Cell::default(), stat }
    }

    /// For a child that an earlier program forked, with its open /proc/PID/stat and the processor
    /// time that it had used by then.
    pub(crate) fn adopted(pid: Pid, stat: Option<OwnedFd>, used: Duration) -> Observed {
        let (clock, stat) = (clock_getcpuclockid(pid).ok(), stat.map(File::from));
        Observed { pid, clock, used: Cell::new(used), stat }
    }

    /// Its resident memory in bytes, if the kernel shows it.
    pub(crate) fn memory(&self) -> Option<u64> {
        let pages = resident(&self.read().ok()?, getpid())?;
        Some(pages.saturating_mul(page_size() as u64))
    }

    /// The open /proc/PID/stat.
    pub(crate) fn stat(&self) -> Option<BorrowedFd<'_>> {
        self.stat.as_ref().map(AsFd::as_fd)
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
        let now = self.clock.and_then(|clock| clock_gettime(clock).ok()).map(Duration::from);
        self.used.set(self.used.get().max(now.unwrap_or_default()));
        self.used.get()
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

/// The fields of /proc/PID/stat (proc_pid_stat(5)) from the third on; the second ends with the last
/// parenthesis. The fourth is the parent. Another parent means another process: /proc may show
/// another pid namespace, with other numbers.
fn fields(stat: &str, parent: Pid) -> Option<impl Iterator<Item = &str>> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields = fields.split_whitespace();
    let of = fields.clone().nth(1).and_then(|of| of.parse().ok());
    (of == Some(parent.as_raw())).then_some(fields)
}

/// The 24th field: the resident memory in pages. It is 0 when the process has ended.
fn resident(stat: &str, parent: Pid) -> Option<u64> {
    fields(stat, parent)?.nth(21)?.parse().ok().filter(|pages| *pages > 0)
}

/// The third field.
fn state(stat: &str, parent: Pid) -> ProcessState {
    match fields(stat, parent).and_then(|mut fields| fields.next()) {
        Some("R") => ProcessState::Runnable,
        Some("T" | "t") => ProcessState::Stopped,
        Some("D") => ProcessState::Blocked,
        Some(_) => ProcessState::Waiting,
        None => ProcessState::Unknown,
    }
}

/// How long a killed child may take to end. It needs no time unless a file system holds it.
const END_PATIENCE: Duration = Duration::from_millis(200);

/// The bytes that are read: far more than the first fields need.
const MOST_OF_STAT: usize = 512;

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::WaitStatus;

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
        let stat = "1 (a) b) S 7 1 1 0 -1 64 9 0 0 0 3 2 0 0 20 0 1 0 99 4096 23 184 1";
        assert_eq!(resident(stat, Pid::from_raw(7)), Some(23));
        assert_eq!(resident(stat, Pid::from_raw(1)), None);
        assert_eq!(resident(&stat.replace(" 23 ", " 0 "), Pid::from_raw(7)), None);
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
        let observed = Observed::new(&child);
        while observed.used() < short {
            assert_eq!(observed.state(), ProcessState::Runnable);
        }
        kill(child.pid, Signal::SIGSTOP).unwrap();
        waitpid(child.pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(observed.state(), ProcessState::Stopped);
        assert_eq!(observed.used(), observed.used());
        assert!(observed.memory().is_some_and(|bytes| bytes > 4096));
        let fresh = Observed::new(&child);
        child.kill();
        let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(child.pid), end).unwrap();
        // Until it is reaped, the kernel tells how much it used.
        assert!(fresh.used() >= short && observed.memory().is_none());
        waitpid(child.pid, None).unwrap();
        assert!(fresh.used() >= short);
        assert_eq!(observed.state(), ProcessState::Unknown);
        assert!(child.has_ended());
        // There is nobody to kill any more, and no error.
        child.kill();
    }

    #[test]
    fn a_child_that_is_dropped_or_ended_is_killed() {
        let idle = || {
            Child::fork(Uid::current(), || {
                loop {
                    nix::unistd::pause();
                }
            })
        };
        let (dropped, ended) = (idle().unwrap(), idle().unwrap());
        assert!(!dropped.has_ended() && !ended.has_ended());
        let (pid, reaped) = (dropped.pid(), ended.pid());
        drop(dropped);
        ended.end();
        let status = WaitStatus::Signaled(pid, Signal::SIGKILL, false);
        assert_eq!(waitpid(pid, None), Ok(status));
        assert_eq!(waitpid(reaped, None), Err(nix::errno::Errno::ECHILD));
    }
}
