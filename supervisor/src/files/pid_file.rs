//! The pid file: the pid for signals, and a lock so that two pens cannot share one file.
//!
//! The supervisor writes it with the rights of the user who started pen, outside the jail. If an
//! unprivileged process could rewrite the pid, `kill $(cat file)` would be dangerous.
//!
//! Everybody may read the file, and every reader may take a flock(2) or a read lock on it. Neither
//! keeps pen from starting. Only a write lock of the open file description counts (F_OFD_SETLK,
//! fcntl(2)). It needs the right to write the file, and it lasts over execve(2). Releases before
//! 0.1.0 used flock(2): such a lock is respected if the pid in the file is that of a pen.

#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{geteuid, getuid};
use pen_ipc::text::error_text;
use pen_walk::Entry;
use rustix::fs::{FileType, FlockOperation, OFlags, Stat, flock, fstat};

/// A locked pid file. After the pid was written, the file is removed when the process that made
/// this drops it.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// None: its directory is gone, and the file with it.
    entry: Option<Entry>,
    file: File,
    remove: bool,
    maker: u32,
}

/// The reason why the pid file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    /// A system call failed.
    #[error("pid file {path}: {reason}", path = .0.display(), reason = error_text(.1))]
    Io(PathBuf, io::Error),
    /// It is a link, which could lead anywhere.
    #[error("pid file {0}: a symbolic link is not followed; name the file itself")]
    Link(PathBuf),
    /// It is no regular file, or has several names. Only a regular file with one name is safe to
    /// overwrite.
    #[error("pid file {0}: not a regular file with a single name; remove it, or choose another")]
    NotPlain(PathBuf),
    /// It belongs to a running pen.
    #[error("pid file {path}: a running pen{which} holds it; stop that one, or choose another \
        file", path = .0.display(), which = pid(.1))]
    Held(PathBuf, Option<u32>),
    /// Another process has a read lock, and the file system cannot exchange two files to get rid of
    /// it.
    #[error("pid file {0}: another process, which is no pen, holds a lock on it; remove the file")]
    Locked(PathBuf),
    /// The file kept changing during the attempts.
    #[error("pid file {0}: it is being replaced all the time by somebody else")]
    Replaced(PathBuf),
}

impl PidFile {
    /// Opens and locks the file. Its old content stays until [`PidFile::write`].
    ///
    /// # Errors
    /// It cannot be written, is no plain file, or a running pen holds it.
    pub(crate) fn lock(path: &Path) -> Result<PidFile, PidFileError> {
        for _ in 0..ATTEMPTS {
            if let Some(locked) = PidFile::try_lock(path)? {
                return Ok(locked);
            }
        }
        Err(PidFileError::Replaced(path.into()))
    }

    /// A pid file that an earlier program in this process locked and wrote. The lock belongs to the
    /// open file.
    pub(crate) fn adopted(path: PathBuf, entry: Option<Entry>, file: OwnedFd) -> PidFile {
        PidFile { path, entry, file: file.into(), remove: true, maker: std::process::id() }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, which holds the lock.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Replaces the content by the pid.
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

    /// Makes one attempt. None: the file was replaced between two steps.
    fn try_lock(path: &Path) -> Result<Option<PidFile>, PidFileError> {
        let failed = |error| PidFileError::Io(path.into(), error);
        let entry = Entry::find(path).map_err(failed)?;
        let Some((file, made)) = open(path, &entry)? else { return Ok(None) };
        let opened = fstat(&file).map_err(|errno| failed(errno.into()))?;
        check_kind(path, &opened)?;
        if geteuid().is_root() && opened.st_uid != 0 {
            // The owner of the file could rewrite and lock it.
            if entry.is(&opened) {
                entry.remove().map_err(failed)?;
            }
            return Ok(None);
        }
        let held = || Err(PidFileError::Held(path.into(), pid_in(&file)));
        let (file, made) = match lock(&file).map_err(failed)? {
            PidLock::Ours if is_flocked_by_a_pen(&file, &opened) => return held(),
            PidLock::Ours => (file, made),
            PidLock::Writers => return held(),
            PidLock::Readers if is_flocked_by_a_pen(&file, &opened) => return held(),
            PidLock::Readers => match replaced(path, &entry, &opened)? {
                Some(file) => (file, true),
                None => return Ok(None),
            },
            PidLock::Free => return Ok(None),
        };
        // A pen that just ended may have removed the file that was locked here.
        let there = fstat(&file).map_err(|errno| failed(errno.into()))?;
        Ok(entry.is(&there).then_some(entry).map(|entry| PidFile {
            path: path.into(),
            entry: Some(entry),
            file,
            remove: made,
            maker: std::process::id(),
        }))
    }
}

/// Checks whether [`PidFile::lock`] could work, as far as possible without making or locking
/// anything. A running pen is no error here: the question is about its next start.
///
/// # Errors
/// As [`PidFile::lock`].
pub(crate) fn examine(path: &Path) -> Result<(), PidFileError> {
    let failed = |error| PidFileError::Io(path.into(), error);
    match Entry::find(path).and_then(|entry| entry.stat()) {
        Ok(there) => check_kind(path, &there),
        // The file may be missing, but not the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Entry::find(path).map(drop).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The pid of the running pen that uses this file, as far as it can be determined.
pub(crate) fn running(path: &Path) -> Option<u32> {
    let entry = Entry::find(path).ok()?;
    check_kind(path, &entry.stat().ok()?).ok()?;
    let file = entry.open(OFlags::RDONLY, 0).ok()?;
    pid_in(&file).filter(|pid| fstat(&file).is_ok_and(|opened| is_pen_with(*pid, &opened)))
}

pub(in crate::files) fn check_kind(path: &Path, there: &Stat) -> Result<(), PidFileError> {
    match FileType::from_raw_mode(there.st_mode) {
        FileType::Symlink => Err(PidFileError::Link(path.into())),
        FileType::RegularFile if there.st_nlink <= 1 => Ok(()),
        _ => Err(PidFileError::NotPlain(path.into())),
    }
}

/// Opens or makes the file. The second value says whether it was made. None: the file vanished.
fn open(path: &Path, entry: &Entry) -> Result<Option<(File, bool)>, PidFileError> {
    match entry.open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, PRIVATE) {
        Ok(file) => return Ok(Some((file, true))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(PidFileError::Io(path.into(), error)),
    }
    match entry.open(OFlags::RDWR, 0) {
        Ok(file) => Ok(Some((file, false))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            Err(PidFileError::Link(path.into()))
        }
        Err(error) => Err(PidFileError::Io(path.into(), error)),
    }
}

/// The holder of a lock on the whole file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PidLock {
    /// This process, which has just taken it.
    Ours,
    /// A process that may write the file: another pen.
    Writers,
    /// A process that may read the file.
    Readers,
    /// Nobody any more.
    Free,
}

fn lock(file: &File) -> io::Result<PidLock> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
        Ok(_) => return Ok(PidLock::Ours),
        Err(Errno::EAGAIN | Errno::EACCES) => {}
        Err(errno) => return Err(errno.into()),
    }
    other_lock(file)
}

/// The lock of another open file description, which excludes a write lock on the whole file. A read
/// lock anywhere in the file is such a lock.
fn other_lock(file: &File) -> io::Result<PidLock> {
    let mut other = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut other))?;
    Ok(match i32::from(other.l_type) {
        libc::F_WRLCK => PidLock::Writers,
        libc::F_RDLCK => PidLock::Readers,
        _ => PidLock::Free,
    })
}

/// Whether a running pen has its lock on this file.
///
/// # Errors
/// The file system has no such locks.
pub(in crate::files) fn is_locked(file: &File) -> io::Result<bool> {
    Ok(other_lock(file)? == PidLock::Writers)
}

fn whole(kind: i32) -> libc::flock {
    let small = |number: i32| i16::try_from(number).unwrap_or_default();
    // The kernel requires pid 0.
    libc::flock {
        l_type: small(kind),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Replaces a file that has a read lock by a new, locked one. Two pens may do so at once, but
/// neither removes the other's file. Each checks the file that it got, and exchanges it back if it
/// is the wrong one. None: the file was replaced meanwhile.
fn replaced(path: &Path, entry: &Entry, opened: &Stat) -> Result<Option<File>, PidFileError> {
    let failed = |error| PidFileError::Io(path.into(), error);
    let own = entry.beside(format!(".pen-pid-{}", std::process::id())).map_err(failed)?;
    // A killed pen with the same pid may have left it.
    let _ = own.remove();
    let file = own.open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, PRIVATE).map_err(failed)?;
    let exchanged = match lock(&file).map_err(failed)? {
        PidLock::Ours => entry.exchange_with(&own),
        PidLock::Writers | PidLock::Readers | PidLock::Free => Err(Errno::EAGAIN.into()),
    };
    let is_ours = exchanged.is_ok() && own.is(opened);
    if exchanged.is_ok() && !is_ours {
        let _ = entry.exchange_with(&own);
    }
    let _ = own.remove();
    match exchanged {
        Ok(()) => Ok(is_ours.then_some(file)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(PidFileError::Locked(path.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Takes the flock(2) of earlier releases too. Returns whether such a release runs with this file;
/// the lock of any other process does not count.
fn is_flocked_by_a_pen(file: &File, opened: &Stat) -> bool {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => false,
        Err(_) => {
            pid_in(file).is_some_and(|pid| pid != std::process::id() && is_pen_with(pid, opened))
        }
    }
}

/// Whether a process is a pen that has this file open and runs as root or as the user who started
/// this one. What cannot be determined counts as yes, except for the user: another user's process
/// may have the pid of a killed pen, and any name.
fn is_pen_with(pid: u32, file: &Stat) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return !Path::new("/proc/self/status").exists();
    };
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
    };
    let user = field("Uid:").and_then(|user| user.parse().ok());
    if user.is_none_or(|user| ![0, geteuid().as_raw(), getuid().as_raw()].contains(&user)) {
        return false;
    }
    has_open(pid, file)
}

/// Whether a process has this file open. If that cannot be determined, whether it has the name of
/// this process.
pub(in crate::files) fn has_open(pid: u32, file: &Stat) -> bool {
    let has_it = |descriptor: io::Result<fs::DirEntry>| {
        let open = fs::metadata(descriptor?.path())?;
        Ok::<bool, io::Error>((open.dev(), open.ino()) == (file.st_dev, file.st_ino))
    };
    match fs::read_dir(format!("/proc/{pid}/fd"))
        .and_then(|descriptors| descriptors.map(has_it).collect::<io::Result<Vec<_>>>())
    {
        Ok(descriptors) => descriptors.contains(&true),
        // That process has more capabilities than this one has left, or this one is restricted by
        // Landlock, so its descriptors cannot be read.
        Err(_) => {
            let name = |of: &str| fs::read_to_string(format!("/proc/{of}/comm")).ok();
            name(&pid.to_string()).is_none_or(|other| Some(other) == name("self"))
        }
    }
}

/// The pid in a file, if there is one yet.
pub(in crate::files) fn pid_in(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim_end().parse().ok()
}

fn pid(holder: &Option<u32>) -> String {
    holder.map_or(String::new(), |pid| format!(" (pid {pid})"))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Some(entry) = &self.entry else { return };
        let ours = || fstat(&self.file).is_ok_and(|file| entry.is(&file));
        if self.remove && self.maker == std::process::id() && ours() {
            let _ = entry.remove();
        }
    }
}

const MODE: u32 = 0o644;

/// The mode until the file is locked, so that no other user can lock it first.
const PRIVATE: u32 = 0o600;

/// An attempt fails only if another pen ends, or an attacker acts, at just that moment.
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
        // A child that another test forks meanwhile holds the lock for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut pid_file = loop {
            match PidFile::lock(&path) {
                Ok(locked) => break locked,
                Err(error) if std::time::Instant::now() >= deadline => panic!("{error}"),
                Err(_) => std::thread::yield_now(),
            }
        };
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
        assert!(matches!(PidFile::lock(&hard), Err(PidFileError::NotPlain(_))));
        assert!(PidFile::lock(directory.path()).is_err());
        assert!(PidFile::lock(Path::new("/dev/null")).is_err());
        assert!(PidFile::lock(&directory.path().join("no/such")).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_lock_that_takes_no_right_to_write_keeps_nobody_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.pid");
        let read_lock =
            |file: &File| fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK))).unwrap();
        let flocked = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).unwrap();
        // A process that is no pen may have the pid of the dead pen: this one's parent is no pen.
        for left in ["", "2147483647\n", &format!("{}\n", std::os::unix::process::parent_id())] {
            fs::write(&path, left).unwrap();
            let (reader, other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
            read_lock(&reader);
            flocked(&other);
            let mut pid_file = PidFile::lock(&path).unwrap();
            pid_file.write().unwrap();
            assert!(matches!(PidFile::lock(&path), Err(PidFileError::Held(_, _))));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
            drop(pid_file);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn of_several_that_start_at_once_against_a_read_lock_one_starts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.pid");
        for _ in 0..50 {
            fs::write(&path, "1\n").unwrap();
            let reader = File::open(&path).unwrap();
            fcntl(&reader, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK))).unwrap();
            // Forked, because the temporary name contains the pid; each child holds its lock until
            // all have tried.
            let (read, write) = nix::unistd::pipe().unwrap();
            let children = [(); 4].map(|()| {
                crate::sys::fork(|| {
                    let held = PidFile::lock(&path)
                        .map_err(|error| matches!(error, PidFileError::Held(_, _)));
                    let _ = nix::unistd::write(&write, &[b'0' + u8::from(held.is_ok())]);
                    nix::unistd::pause();
                    0
                })
                .unwrap()
            });
            let mut started = 0;
            for _ in &children {
                let mut one = [0];
                assert_eq!(nix::unistd::read(&read, &mut one).unwrap(), 1);
                started += usize::from(one[0] == b'1');
            }
            for child in children {
                nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
                nix::sys::wait::waitpid(child, None).unwrap();
            }
            assert_eq!(started, 1);
        }
    }

    #[test]
    fn what_a_start_would_refuse_is_known_before() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link, _) = ("target", "link", "").map_path(directory.path());
        examine(&target).unwrap();
        fs::write(&target, "1").unwrap();
        symlink(&target, &link).unwrap();
        examine(&target).unwrap();
        assert!(matches!(examine(&link), Err(PidFileError::Link(_))));
        assert!(examine(Path::new("/dev/null")).is_err() && examine(&target.join("x")).is_err());
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
