//! An empty root directory without a name: made, opened, and removed at once.
//!
//! A removed directory stays usable for processes that have it open. Nobody can make anything in it
//! any more, not even root.

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

/// Makes an empty directory, and checks that chroot(2) to it works. A child tries it, because a
/// service manager's filter may refuse the call or kill the caller.
///
/// # Errors
/// No directory can be made in any of the usual places (the error is that of the last one), or
/// chroot(2) fails.
pub(crate) fn make() -> io::Result<OwnedFd> {
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
    // A killed pen left it, or another user guessed the name. rmdir(2) only removes it if it is
    // empty.
    let _ = std::fs::remove_dir(&path);
    // The users of children have to enter it, with any umask. There is one thread.
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
    // If others may write the parent, they may have replaced it. The removed one has no name left.
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
