//! The pid file: who takes the signals, and a lock by which two pens do not share one file.
//!
//! Written by the supervisor with the rights of whoever started pen, outside the jail: a pid that an unprivileged process can
//! rewrite makes `kill $(cat file)` dangerous.

#![forbid(unsafe_code)]

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::why::why;

/// A locked pid file. Once something was written it is removed when this is dropped, by the process that made it.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
    remove: bool,
    maker: u32,
}

/// Why the pid file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    /// A system call failed.
    #[error("pid file {path}: {reason}", path = .0.display(), reason = why(.1))]
    Io(PathBuf, io::Error),
    /// A link could lead anywhere.
    #[error("pid file {0}: a symbolic link is not followed; name the file itself")]
    Link(PathBuf),
    /// Only a regular file of one name can be overwritten safely.
    #[error("pid file {0}: not a regular file with a single name; remove it, or choose another")]
    Odd(PathBuf),
    /// It belongs to a running pen.
    #[error("pid file {path}: a running pen{which} holds it; stop that one, or choose another file", path = .0.display(), which = pid(.1))]
    Held(PathBuf, Option<u32>),
    /// It changed under our hands.
    #[error("pid file {0}: it is being replaced all the time by somebody else")]
    Restless(PathBuf),
}

impl PidFile {
    /// Opens and locks the file. What a dead process left in it stays until [`PidFile::write`].
    ///
    /// # Errors
    /// It cannot be written, is no plain file, or a running pen holds it.
    pub(crate) fn lock(path: &Path) -> Result<PidFile, PidFileError> {
        for _ in 0..ATTEMPTS {
            if let Some(locked) = PidFile::try_lock(path)? {
                return Ok(locked);
            }
        }
        Err(PidFileError::Restless(path.into()))
    }

    /// Puts the pid in, in place of whatever was there.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(crate) fn write(&mut self) -> Result<(), PidFileError> {
        self.remove = true;
        let write = |mut file: &File| {
            file.set_permissions(Permissions::from_mode(MODE))?;
            file.set_len(0)?;
            file.write_all(format!("{}\n", self.maker).as_bytes())
        };
        write(&self.file).map_err(|error| PidFileError::Io(self.path.clone(), error))
    }

    /// None: the file was replaced between two steps.
    fn try_lock(path: &Path) -> Result<Option<PidFile>, PidFileError> {
        let failed = |error| PidFileError::Io(path.into(), error);
        let Some((file, made)) = open(path)? else { return Ok(None) };
        let opened = file.metadata().map_err(failed)?;
        if !opened.is_file() || opened.nlink() > 1 {
            return Err(PidFileError::Odd(path.into()));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(PidFileError::Held(path.into(), holder(&file))),
            Err(errno) => return Err(failed(errno.into())),
        }
        // A pen that just ended may have removed the file that was locked here.
        if !is_at(path, &opened) {
            return Ok(None);
        }
        if geteuid().is_root() && opened.uid() != 0 {
            // Its owner could rewrite it.
            fs::remove_file(path).map_err(failed)?;
            return Ok(None);
        }
        Ok(Some(PidFile { path: path.into(), file, remove: made, maker: std::process::id() }))
    }
}

/// Opens the file, or makes it; says which. None: it vanished.
fn open(path: &Path) -> Result<Option<(File, bool)>, PidFileError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE).custom_flags(flags);
    match options.clone().create_new(true).open(path) {
        Ok(file) => return Ok(Some((file, true))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(PidFileError::Io(path.into(), error)),
    }
    match options.open(path) {
        Ok(file) => Ok(Some((file, false))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Err(PidFileError::Link(path.into())),
        Err(error) => Err(PidFileError::Io(path.into(), error)),
    }
}

fn is_at(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (file.dev(), file.ino()))
}

/// The pid in a file that somebody holds, if there is one already.
fn holder(mut file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read(&mut text).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim_end().parse().ok()
}

fn pid(holder: &Option<u32>) -> String {
    holder.map_or(String::new(), |pid| format!(" (pid {pid})"))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = || self.file.metadata().is_ok_and(|file| is_at(&self.path, &file));
        if self.remove && self.maker == std::process::id() && ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

const MODE: u32 = 0o644;

/// Each attempt fails only if another pen ends, or an attacker acts, at just that moment.
const ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_file_holds_the_pid_while_pen_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.pid");
        let mut pid_file = PidFile::lock(&path).unwrap();
        pid_file.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        match PidFile::lock(&path) {
            Err(PidFileError::Held(_, Some(pid))) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_only_by_a_start_that_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.pid");
        fs::write(&path, "something longer than a pid").unwrap();
        drop(PidFile::lock(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "something longer than a pid");
        let mut pid_file = PidFile::lock(&path).unwrap();
        pid_file.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn links_and_other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link, hard) = ("target", "link", "hard").map_path(directory.path());
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        assert!(matches!(PidFile::lock(&link), Err(PidFileError::Link(_))));
        fs::hard_link(&target, &hard).unwrap();
        assert!(matches!(PidFile::lock(&hard), Err(PidFileError::Odd(_))));
        assert!(PidFile::lock(directory.path()).is_err());
        assert!(PidFile::lock(Path::new("/dev/null")).is_err());
        assert!(PidFile::lock(&directory.path().join("no/such")).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.pid");
        let mut pid_file = PidFile::lock(&path).unwrap();
        pid_file.write().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "4711\n").unwrap();
        drop(pid_file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
    }

    trait MapPath {
        fn map_path(self, directory: &Path) -> (PathBuf, PathBuf, PathBuf);
    }

    impl MapPath for (&str, &str, &str) {
        fn map_path(self, directory: &Path) -> (PathBuf, PathBuf, PathBuf) {
            (directory.join(self.0), directory.join(self.1), directory.join(self.2))
        }
    }
}
