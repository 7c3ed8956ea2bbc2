//! The only unsafe code of the supervisor, behind safe functions: fork(2), close_range(2), signal
//! dispositions, the execution of a successor, and the inherited environment and descriptors.
//!
//! Calls that nix or rustix wrap safely do not belong here.

#![allow(unsafe_code)]

mod environment;
pub(crate) mod guard;
pub(crate) mod inherited;
pub(crate) mod program;
pub(crate) mod title;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

pub(crate) use crate::sys::environment::Environment;

/// The exit status of a child that panicked, the same as Rust's own.
const PANICKED: i32 = 101;

/// Forks. The child runs `child` and ends with its result as exit status. It never returns into the
/// frames of its parent. So objects of the parent (files to remove, processes to wait for) are
/// never dropped twice, not even after a panic. The child also runs no atexit(3) functions of the
/// parent's libraries, and does not write out their buffers.
///
/// # Errors
/// fork(2) failed: too many processes, or no memory.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: fork(2) is unsafe because a child of a threaded process may only call
    // async-signal-safe functions. The supervisor and all callers of this function start no
    // threads. So the child has an intact heap, and no missing thread holds a lock.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            // SAFETY: _exit(2) takes a number and ends the process; no memory is touched
            // afterwards.
            unsafe { libc::_exit(status) }
        }
    }
}

/// The pid of a child that has ended and is not reaped, if there is one. nix tells no pid of a
/// child that a real-time signal has killed: its signals are an enum without those.
///
/// # Errors
/// There is no child (ECHILD), or a signal came first (EINTR).
pub(crate) fn dead_child() -> Result<Option<Pid>, Errno> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a siginfo_t is plain numbers, for which 0 is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into this siginfo_t, and keeps no pointer to it (waitid(2)).
    Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) })?;
    // SAFETY: waitid(2) sets this field, to 0 if no child has ended.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Closes every descriptor of this process above standard error, except those in `keep`.
///
/// It is for a child that [`fork`] runs: its inherited descriptors belong to objects that it never
/// uses or drops. It is also for the start of the supervisor, where the descriptors above standard
/// error were inherited from the starting process.
///
/// # Errors
/// close_range(2) is refused: Linux before 5.9, or a system call filter.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    close_all_but_numbers(keep.iter().map(AsRawFd::as_raw_fd).collect())
}

fn close_all_but_numbers(keep: Vec<RawFd>) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()).collect();
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
    // SAFETY: the call takes three numbers and touches no memory. No Rust owner may use a
    // descriptor in the range afterwards. That is the contract of `close_all_but`; types cannot
    // express it, because the owners are in the parent's frames.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, NO_FLAGS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The version of Landlock that the kernel offers, at least 1.
///
/// # Errors
/// The kernel has no Landlock (ENOSYS), it is not enabled (EOPNOTSUPP), or a container forbids it.
pub(crate) fn landlock_version() -> io::Result<i32> {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel requires a null pointer and a size of 0, reads no memory
    // and makes nothing (landlock_create_ruleset(2)).
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) } {
        -1 => Err(io::Error::last_os_error()),
        version => i32::try_from(version).map_err(io::Error::other),
    }
}

/// Installs a seccomp(2) filter of system calls for this process, which has one thread, and all its
/// later children, for ever.
///
/// It does not request protection against speculative stores. Kernels before 5.16 would otherwise
/// make every such process slower; later ones do not request it either. It would only protect a
/// secret from untrusted code in the same process.
///
/// # Errors
/// The kernel has no filters, or the program is invalid.
pub(crate) fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies `len` instructions from the pointer, which are those of the slice,
    // and writes nothing. It checks the program before using it. Later system calls fail on
    // purpose, and no memory depends on them.
    match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The effect of a signal on this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disposition {
    /// The kernel's default action.
    Default,
    /// No effect.
    Ignore,
}

/// Sets the effect of a signal, whatever was inherited. A signal whose effect cannot be changed
/// (KILL, STOP) stays as it is.
pub(crate) fn set_disposition(signal: Signal, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignore => SigHandler::SigIgn,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: sigaction(2) is unsafe because handlers must be async-signal-safe. Neither SIG_DFL
    // nor SIG_IGN runs code of this program. The previous action is not called or kept.
    let _ = unsafe { sigaction(signal, &action) };
}

/// Checks whether this process may signal the first thread of another one (tgkill(2) with signal
/// 0).
#[cfg(test)]
pub(crate) fn ask_for_thread(of: Pid) -> io::Result<()> {
    // SAFETY: tgkill(2) takes three numbers and touches no memory; signal 0 only checks.
    match unsafe { libc::syscall(libc::SYS_tgkill, of.as_raw(), of.as_raw(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel gave this process more rights than its starter has, because of the file of
/// the program (AT_SECURE, getauxval(3)): a set-user-ID bit or file capabilities.
pub(crate) fn is_privileged_by_file() -> bool {
    // SAFETY: getauxval(3) reads the vector that the kernel passed to the process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Removes a variable from the environment, and returns it.
pub(crate) fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name);
    if value.is_some() {
        // SAFETY: the environment may not be changed while another thread reads it. This process
        // has one thread, which `run` requires of its caller.
        unsafe { std::env::remove_var(name) };
    }
    value
}

/// Takes over the first `count` descriptors above standard error, with which the process was
/// started (sd_listen_fds(3)), and makes them close on exec.
///
/// # Errors
/// One of them is not open.
pub(crate) fn adopt(count: u32) -> io::Result<Vec<OwnedFd>> {
    const FIRST: RawFd = 3;
    let last = RawFd::try_from(count)
        .ok()
        .and_then(|count| FIRST.checked_add(count))
        .ok_or(io::ErrorKind::InvalidInput)?;
    (FIRST..last)
        .map(|number| {
            // SAFETY: fcntl(2) with F_SETFD only looks up the number; one that is not open gives
            // EBADF.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is open, and nothing owns it yet. The starting process passed
            // it and said so in the environment. The only caller promises to call this before the
            // supervisor opens anything.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    /// The descriptor to which the handler below writes; -1 except in the test's children.
    static HEARD: AtomicI32 = AtomicI32::new(-1);

    extern "C" fn at_exit() {
        let byte = *b"x";
        // SAFETY: write(2) reads one byte from an array of one; a number that is no descriptor
        // gives EBADF.
        unsafe { libc::write(HEARD.load(SeqCst), byte.as_ptr().cast(), 1) };
    }

    #[test]
    fn a_child_runs_no_handlers_of_its_parents_exit() {
        // SAFETY: the handler is a function of this program, which exists until its end.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        let (mut heard, write) = io::pipe().unwrap();
        let child = fork(|| {
            HEARD.store(write.as_raw_fd(), SeqCst);
            7
        });
        let child = child.unwrap();
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
        drop(write);
        assert_eq!(heard.read(&mut [0]).unwrap(), 0, "the handler was not run");
    }

    #[test]
    fn a_child_that_panics_ends_with_a_status_of_its_own() {
        let child = fork(|| panic!("as wanted")).unwrap();
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, PANICKED));
    }
}
