//! A name in a directory that is held open: open, rename, remove, look.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, renameat, statat, unlinkat};

/// A name in a directory that is held open; a file of that name may exist or not.
#[derive(Debug)]
pub struct Entry {
    pub(crate) directory: OwnedFd,
    pub(crate) name: OsString,
    /// Whether only trusted users can replace this directory by another.
    pub(crate) is_fixed: bool,
    /// The required owner of the file, because a link of that untrusted user led here.
    pub(crate) owner: Option<u32>,
}

impl Entry {
    /// The status of the file of this name; a link is not followed.
    ///
    /// # Errors
    /// There is no file of that name, or its status cannot be read.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens the file. A link is refused with ELOOP. Opening does not wait for a fifo or terminal.
    ///
    /// # Errors
    /// As openat(2); or the file does not belong to the user whose link led here.
    pub fn open(&self, flags: OFlags, mode: u32) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.directory, &self.name, flags, Mode::from_raw_mode(mode))?;
        match self.owner {
            Some(owner) if fstat(&file)?.st_uid != owner => Err(foreign_target()),
            _ => Ok(file.into()),
        }
    }

    /// Opens the file that a link of /proc stands for ([`crate::PathEnd::OpenFile`]).
    ///
    /// # Errors
    /// As openat(2).
    pub fn open_followed(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat(&self.directory, &self.name, flags, Mode::empty())?.into())
    }

    /// Whether the name refers to this file now.
    pub fn is(&self, file: &Stat) -> bool {
        self.stat().is_ok_and(|now| (now.st_dev, now.st_ino) == (file.st_dev, file.st_ino))
    }

    /// Removes the name.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.directory, &self.name, AtFlags::empty())?)
    }

    /// Another name in the same directory.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn beside(&self, name: String) -> io::Result<Entry> {
        let directory = self.directory.try_clone()?;
        Ok(Entry { directory, name: name.into(), is_fixed: self.is_fixed, owner: None })
    }

    /// Replaces this file by the file of another name in the same directory.
    ///
    /// # Errors
    /// As rename(2).
    pub fn replace_by(&self, other: &Entry) -> io::Result<()> {
        Ok(renameat(&other.directory, &other.name, &self.directory, &self.name)?)
    }

    /// Exchanges the files of two names in the same directory atomically (renameat2(2)).
    ///
    /// # Errors
    /// The file system does not support it (EINVAL), or one of the files is gone.
    pub fn exchange_with(&self, other: &Entry) -> io::Result<()> {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(
            &other.directory,
            &other.name,
            &self.directory,
            &self.name,
            flags,
        )?)
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The name in the directory.
    pub fn name(&self) -> &Path {
        Path::new(&self.name)
    }

    /// Whether only trusted users can replace this directory by another. Then its path may be used
    /// again as it was given.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }
}

pub(crate) fn foreign_target() -> io::Error {
    io::Error::other("a symbolic link of another user leads to a file that is not that user's")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_reached_stays_reached_when_the_path_changes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("www")).unwrap();
        fs::create_dir(at("precious")).unwrap();
        let entry = Entry::find(&at("www/file")).unwrap();
        fs::rename(at("www"), at("moved")).unwrap();
        symlink("precious", at("www")).unwrap();
        entry.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600).unwrap();
        let other = entry.beside("other".into()).unwrap();
        other.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600).unwrap();
        entry.exchange_with(&other).unwrap();
        entry.replace_by(&other).unwrap();
        assert!(at("moved/file").exists() && fs::read_dir(at("precious")).unwrap().count() == 0);
        entry.remove().unwrap();
        assert_eq!(fs::read_dir(at("moved")).unwrap().count(), 0);
    }
}
