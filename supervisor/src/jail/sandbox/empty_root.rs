//! An empty root directory that is no file of anybody's: made, opened, and removed at once.
//!
//! A directory that has been removed stays what it was for whoever has it open, and nothing can be
//! made in it any more, not even by root.

#![forbid(unsafe_code)]

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::sys::stat::umask;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{chroot, fchdir};
use rustix::fs::{Mode, OFlags, fstat, open};

use crate::sys;

/// Makes one that can be entered. A child tries, because a service manager's filter may refuse
/// chroot(2), or end who calls it.
///
/// # Errors
/// No directory can be made in any of the usual places (the error is that of the last one), or it
/// cannot be entered.
pub(in crate::jail::sandbox) fn make() -> io::Result<OwnedFd> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for parent in PARENTS {
        match make_in(Path::new(parent)) {
            Ok(directory) => {
                let child = sys::fork(|| {
                    i32::from(fchdir(&directory).and_then(|()| chroot(".")).is_err())
                })?;
                return match waitpid(child, None)? {
                    WaitStatus::Exited(_, 0) => Ok(directory),
                    _ => Err(io::Error::other("chroot(2) is refused here")),
                };
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn make_in(parent: &Path) -> io::Result<OwnedFd> {
    let path = parent.join(format!("pen-empty-{}", std::process::id()));
    // One that a killed pen left, or somebody's who guessed the name: it can only be removed if it
    // is empty.
    let _ = std::fs::remove_dir(&path);
    // Whatever the umask, the users of children have to enter it. There is one thread.
    let before = umask(nix::sys::stat::Mode::empty());
    let made = DirBuilder::new().mode(0o711).create(&path);
    umask(before);
    made?;
    let opened = open(
        &path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH,
        Mode::empty(),
    );
    std::fs::remove_dir(&path)?;
    let opened = opened?;
    // In a parent that others may write, it may have been replaced. The one that was removed has no
    // name left.
    match fstat(&opened)?.st_nlink {
        0 => Ok(opened),
        _ => Err(io::Error::other("somebody else has put a directory there")),
    }
}

const PARENTS: [&str; 4] = ["/run", "/tmp", "/var/tmp", "/dev/shm"];

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, openat};
    use rustix::io::Errno;

    #[test]
    fn nothing_is_left_and_nothing_can_be_made_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = make_in(parent.path()).unwrap();
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        let made = openat(&directory, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR);
        assert_eq!(made.unwrap_err(), Errno::NOENT);
        assert_eq!(mkdirat(&directory, "directory", Mode::RWXU), Err(Errno::NOENT));
    }
}
