//! The supervisor's only room for unsafe code: fork(2), close_range(2), signal dispositions, and
//! what a process is started with (environment, descriptors), behind safe functions.
//!
//! What nix or rustix wrap safely does not belong here.

#![allow(unsafe_code)]

mod environment;
pub(crate) mod title;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, Pid};

pub(crate) use crate::sys::environment::Environment;

/// Exit status of a child that panicked, as Rust's own.
const PANICKED: i32 = 101;

/// Forks. The child runs `child` and ends with what that returns: it never comes back into the
/// frames of its parent, so that nothing which the parent owns (files to be removed, processes to
/// be waited for) is dropped twice, not even by a panic. Nor does it run what the parent's
/// libraries have registered for their exit (atexit(3)), or write out what they hold.
///
/// # Errors
/// fork(2) failed: too many processes, or no memory.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: fork(2) cannot be had from safe code because a child of a threaded process may only
    // call async-signal-safe functions. The supervisor and all that call this start no threads,
    // so the child has a whole heap and no lock is held by a thread that it lacks.
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

/// Closes every descriptor of this process above standard error but those in `keep`.
///
/// For a child that [`fork`] runs, whose inherited descriptors belong to objects that it never uses
/// or drops, and for the start of the supervisor, where what is above standard error was inherited
/// from whoever started it.
///
/// # Errors
/// close_range(2) is refused: Linux before 5.9, or a system call filter.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
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
    // SAFETY: the call takes three numbers and touches no memory. That no descriptor in the range
    // is used afterwards by its Rust owner is the contract of `close_all_but`, which cannot be
    // said in types: the owners are in the parent's frames.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, NO_FLAGS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The version of Landlock that the kernel offers, at least 1.
///
/// # Errors
/// It has none (ENOSYS), or it is not enabled (EOPNOTSUPP), or a container forbids it.
pub(crate) fn landlock_version() -> io::Result<i32> {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel wants a null pointer and a size of 0, reads no memory and
    // makes nothing (landlock_create_ruleset(2)).
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) } {
        -1 => Err(io::Error::last_os_error()),
        version => i32::try_from(version).map_err(io::Error::other),
    }
}

/// Installs a filter of system calls for this process, which has one thread, and all its later
/// children, for ever (seccomp(2)).
///
/// It asks for no protection against speculative stores: kernels before 5.16 otherwise make every
/// such process slower, later ones think of it as this does: what it protects is code run on a
/// stranger's behalf beside a secret in the same process.
///
/// # Errors
/// The kernel has no filters, or the program is none.
pub(crate) fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies `len` instructions from the pointer, which are those of the slice,
    // and writes nothing; it checks the program before it uses it. That later system calls fail
    // is the purpose, and no memory depends on it.
    match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    } {
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

/// Sets what a signal does, whatever was inherited. A signal that cannot be changed (KILL, STOP)
/// stays as it is.
pub(crate) fn dispose(signal: Signal, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignore => SigHandler::SigIgn,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: sigaction(2) is unsafe for the sake of handlers, which must be async-signal-safe;
    // neither SIG_DFL nor SIG_IGN runs any code of ours. The previous action is not called or
    // kept.
    let _ = unsafe { sigaction(signal, &action) };
}

/// Asks whether this process may signal the first thread of another one (tgkill(2) with signal 0).
#[cfg(test)]
pub(crate) fn ask_for_thread(of: Pid) -> io::Result<()> {
    // SAFETY: tgkill(2) takes three numbers and touches no memory; signal 0 only asks.
    match unsafe { libc::syscall(libc::SYS_tgkill, of.as_raw(), of.as_raw(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a variable out of the environment.
pub(crate) fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name);
    if value.is_some() {
        // SAFETY: the environment may not be changed while another thread looks at it. This process
        // has one thread; that is the first thing that `run` asks of its caller.
        unsafe { std::env::remove_var(name) };
    }
    value
}

/// Takes over the first `count` descriptors above standard error, which the process was started
/// with (sd_listen_fds(3)), and has them closed on exec.
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
            // SAFETY: fcntl(2) with F_SETFD only looks the number up; one that is not open gives
            // EBADF.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is open, and nobody owns it yet: whoever started the process
            // handed it over by saying so in the environment, and it is called before
            // the supervisor opens anything, as its only caller promises.
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

    /// Where the handler below writes; nowhere, but in the test's children.
    static HEARD: AtomicI32 = AtomicI32::new(-1);

    extern "C" fn at_exit() {
        let byte = *b"x";
        // SAFETY: write(2) reads one byte from an array of one; a number that is no descriptor
        // gives EBADF.
        unsafe { libc::write(HEARD.load(SeqCst), byte.as_ptr().cast(), 1) };
    }

    #[test]
    fn a_child_runs_no_handlers_of_its_parents_exit() {
        // SAFETY: the handler is a function of this program, which is there until its end.
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
