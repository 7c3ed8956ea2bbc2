//! The running pen that holds a pid file, for a process that means to signal it.
//!
//! A pid file can be left over, and its pid can belong to another process meanwhile. So the process
//! is held by a descriptor first, and everything is checked after that. A signal through the
//! descriptor reaches this process or none (pidfd_send_signal(2)).

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use pen_ipc::text::error_text;
use pen_walk::Entry;
use rustix::fs::{OFlags, fstat};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};

use crate::files::pid_file::{PidFileError, check_kind, has_open, is_locked, pid_in};

/// A running pen.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
    process: OwnedFd,
    user: Option<u32>,
}

/// The reason why there is no pen to signal. Each is a line for the administrator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HolderError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PidFileError),
    /// No process holds the lock: pen has ended, or the file is no pid file.
    #[error("pid file {0}: no running pen holds it")]
    Free(PathBuf),
    /// The file holds no pid.
    #[error("pid file {0}: there is no pid in it")]
    Empty(PathBuf),
    /// The pid is that of another process.
    #[error("pid file {0}: process {1} is not the pen that holds it")]
    Stranger(PathBuf, Pid),
    /// The process belongs to another user.
    #[error("pid {0}: only root and the user who started it may do that")]
    Forbidden(Pid),
    /// The pen is too old: it ignores the signal.
    #[error("pid {0} ignores signal USR2: it is an early release, which can only be restarted")]
    Ignored(Pid),
    /// A system call failed.
    #[error("pid {0}: {reason}", reason = error_text(.1))]
    System(Pid, io::Error),
}

impl Holder {
    /// Finds the pen that holds a pid file, and that waits for signal USR2.
    ///
    /// # Errors
    /// There is none, or this process may not signal it.
    pub(crate) fn find(path: &Path) -> Result<Holder, HolderError> {
        let failed = |error| PidFileError::Io(path.into(), error);
        let entry = Entry::find(path).map_err(failed)?;
        check_kind(path, &entry.stat().map_err(failed)?)?;
        let file = entry.open(OFlags::RDONLY, 0).map_err(failed)?;
        let opened = fstat(&file).map_err(|errno| failed(errno.into()))?;
        check_kind(path, &opened)?;
        let text = pid_in(&file).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let pid = text.and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Err(HolderError::Empty(path.into())) };
        let shown = Pid::from_raw(pid.as_raw_nonzero().get());
        let free = || HolderError::Free(path.into());
        let system = |errno: rustix::io::Errno| match errno {
            // The process has ended.
            rustix::io::Errno::SRCH => free(),
            rustix::io::Errno::PERM => HolderError::Forbidden(shown),
            errno => HolderError::System(shown, errno.into()),
        };
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(system)?;
        if !is_locked(&file).map_err(failed)? {
            return Err(free());
        }
        let stranger = || HolderError::Stranger(path.into(), shown);
        test_kill_process(pid).map_err(system)?;
        let pid = shown.as_raw().unsigned_abs();
        let status = Status::of(pid);
        let user = status.as_ref().and_then(|status| status.user);
        // A user's file must not make root signal a process of root.
        if user == Some(0) && opened.st_uid != 0 || !has_open(pid, &opened) {
            return Err(stranger());
        }
        match status {
            Some(Status { ignored, .. }) if has_usr2(ignored) => Err(HolderError::Ignored(shown)),
            // The signal would end it.
            Some(Status { blocked, .. }) if !has_usr2(blocked) => Err(stranger()),
            Some(_) | None => Ok(Holder { pid: shown, process, user }),
        }
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its user, if this can be read.
    pub(crate) fn user(&self) -> Option<u32> {
        self.user
    }

    /// Sends signal USR2.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn signal(&self) -> Result<(), HolderError> {
        pidfd_send_signal(&self.process, Signal::USR2)
            .map_err(|errno| HolderError::System(self.pid, errno.into()))
    }
}

/// The descriptor is readable when the process has ended.
impl AsFd for Holder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// What /proc says of a process (proc_pid_status(5)).
struct Status {
    user: Option<u32>,
    /// The signals that the process ignores, as bits.
    ignored: u64,
    /// The signals that the process has blocked, as bits.
    blocked: u64,
}

impl Status {
    /// The status of a process; none without /proc.
    fn of(pid: u32) -> Option<Status> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        };
        let signals = |name| field(name).and_then(|bits| u64::from_str_radix(bits, 16).ok());
        Some(Status {
            user: field("Uid:").and_then(|user| user.parse().ok()),
            ignored: signals("SigIgn:")?,
            blocked: signals("SigBlk:")?,
        })
    }
}

fn has_usr2(signals: u64) -> bool {
    signals & (1 << (libc::SIGUSR2 - 1)) != 0
}
