//! Descriptors that pass to another program in this process (execve(2)), by number.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::sys::program::Program;

/// A duplicate of an open descriptor, which closes on exec.
///
/// # Errors
/// The number is not open, or no descriptors are left.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    const ABOVE_STANDARD_STREAMS: RawFd = 3;
    // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes numbers; one that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, ABOVE_STANDARD_STREAMS) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor, so nothing else owns it.
        new => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
    }
}

/// Takes over a descriptor that the earlier program left open for this one. It stays inheritable.
///
/// # Errors
/// The number is not open.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_GETFD only looks up the number; one that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_GETFD) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it is open, and by the contract above nothing else in this program owns it.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

/// Whether a descriptor passes to the next program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Inheritance {
    /// It stays open.
    Passes,
    /// It closes (FD_CLOEXEC).
    Ends,
}

/// Decides what happens to a descriptor when another program is executed.
///
/// # Errors
/// The number is not open.
pub(crate) fn set_inheritance(number: RawFd, inheritance: Inheritance) -> io::Result<()> {
    let flags = match inheritance {
        Inheritance::Passes => 0,
        Inheritance::Ends => libc::FD_CLOEXEC,
    };
    // SAFETY: fcntl(2) with F_SETFD takes numbers; one that is not open gives EBADF.
    match unsafe { libc::fcntl(number, libc::F_SETFD, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Closes descriptors that an earlier program left open for itself. Nothing in this program owns
/// them: it works with duplicates.
pub(crate) fn close(numbers: &[RawFd]) {
    for number in numbers {
        // SAFETY: close(2) takes a number. By the contract above no owner of it exists here.
        unsafe { libc::close(*number) };
    }
}

/// Closes every descriptor above standard error, except these and those of the two programs. For a
/// program that was just executed, before it has descriptors of its own.
///
/// # Errors
/// close_range(2) is refused.
pub(crate) fn close_others(mut keep: Vec<RawFd>) -> io::Result<()> {
    keep.extend([Program::Running, Program::Successor].map(Program::descriptor));
    super::close_all_but_numbers(keep)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_open_and_what_is_not_open_is_an_error() {
        let (read, _write) = io::pipe().unwrap();
        let copy = duplicate(read.as_raw_fd()).unwrap();
        assert_ne!(copy.as_raw_fd(), read.as_raw_fd());
        assert_eq!(duplicate(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(set_inheritance(-1, Inheritance::Passes).is_err());
        set_inheritance(copy.as_raw_fd(), Inheritance::Passes).unwrap();
    }
}
