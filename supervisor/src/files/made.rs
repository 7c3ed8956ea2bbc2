//! Files that pen makes and removes again: the path of a Unix socket, and a log that is of no use
//! after all. Users who may write the directory may replace them, so each removal looks first.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use pen_walk::{self as walk, Entry, PathEnd};
use rustix::fs::{FileType, Stat};

/// Device and inode number, which identify a file as long as it exists.
pub(crate) type FileId = (u64, u64);

/// A file that this process made. When the process drops it, the file is removed, if it is still
/// the same file and has no content.
///
/// Drop it while the file is open: until then no other file can have its inode number.
#[derive(Debug)]
pub(crate) struct MadeFile {
    entry: Entry,
    id: FileId,
    maker: u32,
    is_kept: bool,
}

impl MadeFile {
    /// The file that was just made at this entry, with its status.
    pub(crate) fn new(entry: Entry, made: &Stat) -> MadeFile {
        MadeFile { entry, id: file_id(made), maker: std::process::id(), is_kept: false }
    }

    /// A file that an earlier program in this process made at this entry.
    pub(crate) fn adopted(entry: Entry, id: FileId) -> MadeFile {
        MadeFile { entry, id, maker: std::process::id(), is_kept: false }
    }

    /// Device and inode number.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// The directory entry.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Leaves the file for good. Returns its device and inode number.
    pub(crate) fn keep(mut self) -> FileId {
        self.is_kept = true;
        self.id
    }
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        if !self.is_kept && self.maker == std::process::id() {
            let _ = remove_from(&self.entry, self.id);
        }
    }
}

/// Removes a file if it is still this one and has no content. A link at the end of the path is
/// followed, because a log is made through one.
///
/// # Errors
/// It is gone, another file is there, or it has content.
pub(crate) fn remove(path: &Path, id: FileId) -> io::Result<()> {
    match walk::follow(path)? {
        PathEnd::Entry(entry) => remove_from(&entry, id),
        PathEnd::OpenFile(_) => Err(io::ErrorKind::NotFound.into()),
    }
}

fn remove_from(entry: &Entry, id: FileId) -> io::Result<()> {
    let present = entry.stat()?;
    let is_empty = match FileType::from_raw_mode(present.st_mode) {
        FileType::Socket => true,
        FileType::RegularFile => present.st_size == 0,
        FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => false,
    };
    match is_empty && file_id(&present) == id {
        true => entry.remove(),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Device and inode number of a file.
pub(crate) fn file_id(file: &Stat) -> FileId {
    (file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_same_empty_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let made = || {
            fs::write(&path, "").unwrap();
            let entry = Entry::find(&path).unwrap();
            let status = entry.stat().unwrap();
            MadeFile::new(entry, &status)
        };
        drop(made());
        assert!(!path.exists());
        made().keep();
        assert!(path.exists(), "it is kept");
        let file = made();
        fs::write(&path, "line\n").unwrap();
        drop(file);
        assert!(path.exists(), "it has content");
        fs::remove_file(&path).unwrap();
        let file = made();
        fs::rename(&path, directory.path().join("old")).unwrap();
        fs::write(&path, "").unwrap();
        drop(file);
        assert!(path.exists(), "it is another file");
    }
}
