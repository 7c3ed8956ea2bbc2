//! The end of a child: how it is reaped, how the log tells it, and how much is still read of it.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use crate::sys;

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// It ended itself, with this exit status.
    Exited(i32),
    /// A signal killed it. That may be a real-time signal, which has no name.
    Killed(i32),
    /// Another program reaped it.
    Unknown,
}

impl Ending {
    /// `was killed by signal 9`, or `ended with status 1`.
    pub(crate) fn how(self) -> String {
        match self {
            Ending::Killed(libc::SIGSYS) => {
                let signal = libc::SIGSYS;
                format!("was killed by signal {signal}: its sandbox has no such system call")
            }
            Ending::Killed(signal) => format!("was killed by signal {signal}"),
            Ending::Exited(status) => format!("ended with status {status}"),
            Ending::Unknown => "is gone".into(),
        }
    }
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Ending {
        let killed = status.terminating_signal().map(Ending::Killed);
        killed.or(status.exit_status().map(Ending::Exited)).unwrap_or(Ending::Unknown)
    }
}

/// A child that has ended and is not reaped, if there is one.
pub(crate) fn dead_child() -> Option<Pid> {
    loop {
        match sys::dead_child() {
            Err(Errno::EINTR) => {}
            Err(_) => return None,
            Ok(dead) => return dead,
        }
    }
}

/// Reaps a child that has ended.
pub(crate) fn reap(dead: Pid) -> Option<Ending> {
    let pid = rustix::process::Pid::from_raw(dead.as_raw())?;
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) | Ok(None) => return None,
            Ok(Some((_, status))) => return Some(status.into()),
        }
    }
}

/// Most messages of a dead worker that are still read; its channel holds fewer.
pub(in crate::processes) const MOST_LAST_MESSAGES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_that_a_real_time_signal_killed_is_reaped() {
        let pid = sys::fork(|| {
            let _ = Command::new("sh").args(["-c", "kill -34 $$"]).exec();
            1
        });
        let pid = pid.unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let ending = loop {
            if let Some(ending) = reap(pid) {
                break ending;
            }
            assert!(std::time::Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        };
        assert_eq!(
            (ending, ending.how().as_str()),
            (Ending::Killed(34), "was killed by signal 34")
        );
        assert_eq!(reap(pid), None);
    }

    #[test]
    fn each_end_is_told() {
        assert_eq!(Ending::Killed(9).how(), "was killed by signal 9");
        assert_eq!(Ending::Killed(64).how(), "was killed by signal 64");
        assert!(Ending::Killed(31).how().ends_with("31: its sandbox has no such system call"));
        assert_eq!(Ending::Exited(1).how(), "ended with status 1");
        assert_eq!(Ending::Unknown.how(), "is gone");
    }
}
