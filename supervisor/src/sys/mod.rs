//! The supervisor's only room for unsafe code: fork(2), close_range(2) and signal dispositions, behind safe functions.
//!
//! What nix or rustix wrap safely does not belong here.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

/// Exit status of a child that panicked, as Rust's own.
const PANICKED: i32 = 101;

/// Forks. The child runs `child` and exits with what that returns: it never comes back into the frames of its parent, so
/// that nothing which the parent owns (files to be removed, processes to be waited for) is dropped twice, not even by a panic.
///
/// # Errors
/// fork(2) failed: too many processes, or no memory.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: fork(2) cannot be had from safe code because a child of a threaded process may only call async-signal-safe
    // functions. The supervisor and all that call this start no threads, so the child has a whole heap and no lock is held
    // by a thread that it lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            std::process::exit(status)
        }
    }
}

/// Closes every descriptor of this process above standard error but those in `keep`.
///
/// For a child that [`fork`] runs, whose inherited descriptors belong to objects that it never uses or drops, and for the
/// start of the supervisor, where what is above standard error was inherited from whoever started it.
///
/// # Errors
/// close_range(2) is refused: Linux before 5.9, or a system call filter.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    const NO_FLAGS: u32 = 0;
    // SAFETY: the call takes three numbers and touches no memory. That no descriptor in the range is used afterwards by its
    // Rust owner is the contract of `close_all_but`, which cannot be said in types: the owners are in the parent's frames.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, NO_FLAGS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a signal does to this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disposition {
    /// The kernel's default action.
    Default,
    /// Nothing.
    Ignore,
}

/// Sets what a signal does, whatever was inherited. A signal that cannot be changed (KILL, STOP) stays as it is.
pub(crate) fn dispose(signal: Signal, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignore => SigHandler::SigIgn,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: sigaction(2) is unsafe for the sake of handlers, which must be async-signal-safe; neither SIG_DFL nor SIG_IGN
    // runs any code of ours. The previous action is not called or kept.
    let _ = unsafe { sigaction(signal, &action) };
}
