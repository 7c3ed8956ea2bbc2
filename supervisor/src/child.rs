//! A descriptor that tells of a child's end.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

/// Opens a pidfd of a child that has not been waited for; it becomes readable when the child ends, or at once if it has.
///
/// # Errors
/// No descriptors left. The child, which could not be watched, is killed and reaped.
pub(crate) fn watch(child: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    // Nobody else waits for this process's children, so the pid still is this child's, dead or alive.
    Ok(pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
    })?)
}
