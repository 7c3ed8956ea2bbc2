//! The file of `-w` and `web_stats`. It is replaced as a whole, so that a reader never sees half a
//! page.
//!
//! A file that was named at the control port is overwritten through the descriptor that came from
//! there. Its name means nothing outside the jail, and the supervisor must not write to its
//! directory. After such a file is removed or renamed, it has to be named again.

#![forbid(unsafe_code)]

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pen_ipc::text::error_text;
use pen_walk::{self as walk, Entry, FileKind};
use rustix::fs::{FileType, OFlags, fstat};

use crate::files::made::MadeFile;

/// The target of status pages.
#[derive(Debug)]
pub(crate) enum StatusFile {
    /// A path as the supervisor sees it.
    Path(PathBuf),
    /// A file that the control process opened.
    Held {
        /// The name that the operator used.
        name: PathBuf,
        /// The file.
        file: File,
    },
}

impl StatusFile {
    /// Takes a file that the control process opened.
    ///
    /// # Errors
    /// The file cannot be written repeatedly.
    pub(crate) fn held(name: &Path, file: File) -> io::Result<StatusFile> {
        writable(&file)?;
        Ok(StatusFile::Held { name: name.into(), file })
    }

    /// The name that the operator used.
    pub(crate) fn name(&self) -> &Path {
        match self {
            StatusFile::Path(name) | StatusFile::Held { name, .. } => name,
        }
    }

    /// Writes a page. `writer` gives the temporary file a unique name: several pens, or two
    /// children of one pen, may write at the same time.
    ///
    /// # Errors
    /// The disk is full, or the file cannot be written.
    pub(crate) fn put(
        &self,
        writer: Writer,
        render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StatusFileError> {
        match self {
            StatusFile::Path(path) => replace(path, writer, render)
                .map_err(|source| StatusFileError { path: path.clone(), source }),
            StatusFile::Held { name, file } => {
                fill(file, render).map_err(|source| StatusFileError { path: name.clone(), source })
            }
        }
    }
}

impl StatusFile {
    /// The descriptor that a child has to keep open for writing.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            StatusFile::Path(_) => None,
            StatusFile::Held { file, .. } => Some(file.as_fd()),
        }
    }

    /// Removes the temporary file of a killed writer.
    pub(crate) fn forget(&self, writer: Writer) {
        if let StatusFile::Path(path) = self {
            let _ = Entry::find(path).and_then(|entry| temporary(&entry, writer)?.remove());
        }
    }
}

/// The writer of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writer {
    /// The report by signal, of the supervisor with this pid.
    Report(u32),
    /// A command, of the supervisor with this pid.
    Command(u32),
}

/// Opens a file that is to be written repeatedly. If it is missing, it is made, and also returned
/// as such.
///
/// # Errors
/// It cannot be opened, or cannot be written repeatedly.
pub(crate) fn open(path: &Path) -> Result<(File, Option<MadeFile>), StatusFileError> {
    let opened = Entry::find(path).and_then(|entry| {
        let (file, made) = match entry.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, MODE) {
            Ok(file) => {
                let made = MadeFile::new(entry, &fstat(&file)?);
                file.set_permissions(Permissions::from_mode(MODE))?;
                (file, Some(made))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (entry.open(OFlags::WRONLY, 0)?, None)
            }
            Err(error) => return Err(error),
        };
        writable(&file).map(|()| (file, made))
    });
    opened.map_err(|source| StatusFileError { path: path.into(), source })
}

/// Replaces the content of an open file by a text.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn fill(
    file: &File,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    writable(file)?;
    // The report by signal and a command's report may write at the same time through this same
    // descriptor. So the lock belongs to the process.
    rustix::fs::fcntl_lock(file, rustix::fs::FlockOperation::LockExclusive)?;
    file.set_len(0)?;
    io::Seek::rewind(&mut &*file)?;
    render_to(file, render)
}

/// Checks a file that came from elsewhere: only a regular file can be written without blocking.
fn writable(file: &File) -> io::Result<()> {
    let there = file.metadata()?;
    if !there.is_file() || there.nlink() > 1 {
        return Err(io::Error::other("not a regular file with a single name"));
    }
    Ok(())
}

/// The reason why the page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("status file {path}: {reason}", path = .path.display(), reason = error_text(.source))]
pub(crate) struct StatusFileError {
    path: PathBuf,
    source: io::Error,
}

/// Checks whether a page can be written there, as far as possible without writing one. The start
/// calls this, so that a mistyped path is reported at once.
///
/// # Errors
/// The directory is missing, another kind of file is there, or an untrusted user's link leads
/// there.
pub(crate) fn check(path: &Path) -> Result<(), StatusFileError> {
    let checked = Entry::find(path).and_then(|entry| in_the_way(path, &entry));
    checked.map_err(|source| StatusFileError { path: path.into(), source })
}

/// A device, a fifo or a link to one must not be replaced by a file: /dev/stdout belongs to the
/// machine.
fn in_the_way(path: &Path, entry: &Entry) -> io::Result<()> {
    let kind = match entry.stat() {
        Ok(there) => FileType::from_raw_mode(there.st_mode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Symlink if walk::kind(path)? == FileKind::Regular => Ok(()),
        FileType::Symlink => {
            Err(io::Error::other("it is a symbolic link to what is no regular file"))
        }
        FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(io::Error::other("something is there that is no file")),
    }
}

/// Writes the page that `render` produces to a temporary file, and renames it. A symbolic link at
/// the path is replaced, not followed. If the directory is not writable but the file is, the file
/// is overwritten.
///
/// # Errors
/// The disk is full, or the file cannot be written.
fn replace(
    path: &Path,
    writer: Writer,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    put_in_place(path, writer, render, |_| MODE, |_| Ok(()))
}

/// Replaces a file by a text with the rights of this process. If a file can be made beside it, that
/// file replaces it and keeps its permissions; if not, the file is overwritten. The text is synced
/// to the disk before the rename.
///
/// # Errors
/// Neither is possible.
pub(crate) fn rewrite(
    path: &Path,
    writer: Writer,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mode = |entry: &Entry| entry.stat().map_or(MODE, |there| there.st_mode & 0o644 | 0o600);
    put_in_place(path, writer, render, mode, File::sync_all)
}

fn put_in_place(
    path: &Path,
    writer: Writer,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    mode: impl FnOnce(&Entry) -> u32,
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let entry = Entry::find(path)?;
    in_the_way(path, &entry)?;
    let temporary = temporary(&entry, writer)?;
    let file = match make(&temporary) {
        Ok(file) => file,
        Err(error) if cannot_create(&error) => {
            return overwrite(&entry, render).and_then(|file| settle(&file));
        }
        Err(error) => return Err(error),
    };
    let written = file
        .set_permissions(Permissions::from_mode(mode(&entry)))
        .and_then(|()| render_to(&file, render));
    let replaced = written.and_then(|()| settle(&file)).and_then(|()| entry.replace_by(&temporary));
    replaced.inspect_err(|_| {
        let _ = temporary.remove();
    })
}

/// The temporary name before the rename.
fn temporary(entry: &Entry, writer: Writer) -> io::Result<Entry> {
    entry.beside(match writer {
        Writer::Report(supervisor) => format!(".pen-status-{supervisor}"),
        Writer::Command(supervisor) => format!(".pen-command-{supervisor}"),
    })
}

fn make(temporary: &Entry) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    match temporary.open(flags, MODE) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A killed report left it, or the owner of the directory put it there.
            temporary.remove()?;
            temporary.open(flags, MODE)
        }
        opened => opened,
    }
}

fn cannot_create(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn overwrite(
    entry: &Entry,
    render: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<File> {
    let file = entry.open(OFlags::WRONLY, 0)?;
    fill(&file, render)?;
    Ok(file)
}

fn render_to(file: &File, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = BufWriter::with_capacity(1 << 16, file);
    render(&mut buffered)?;
    buffered.flush()
}

const MODE: u32 = 0o644;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn page(text: &str) -> impl FnOnce(&mut dyn Write) -> io::Result<()> {
        move |to| to.write_all(text.as_bytes())
    }

    fn put(path: &Path, text: &str) -> Result<(), StatusFileError> {
        StatusFile::Path(path.into()).put(Writer::Report(1), page(text))
    }

    #[test]
    fn the_page_is_replaced_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.html");
        put(&path, "first page, a long one").unwrap();
        put(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_replaced_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) =
            (directory.path().join("status.html"), directory.path().join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        symlink(&target, directory.path().join(".pen-status-1")).unwrap();
        put(&path, "page").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_device_or_a_directory_is_not_replaced() {
        assert!(put(Path::new("/dev/null"), "page").is_err());
        let directory = tempfile::tempdir().unwrap();
        assert!(put(directory.path(), "page").is_err());
    }

    #[test]
    fn a_link_to_what_is_no_regular_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link");
        let file = File::create(directory.path().join("open")).unwrap();
        let open = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        for target in ["/dev/null", "/", "nowhere", "link", "/dev/stdout", &open] {
            symlink(target, &path).unwrap();
            check(&path).unwrap_err();
            put(&path, "page").unwrap_err();
            assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "{target}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_failure_leaves_the_old_page_and_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.html");
        put(&path, "old").unwrap();
        let full = |_: &mut dyn Write| Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let error =
            StatusFile::Path(path.clone()).put(Writer::Report(1), full).unwrap_err().to_string();
        assert!(error.ends_with("no space left on device"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_that_write_at_once_both_write_whole_pages() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.html");
        let file = StatusFile::Path(path.clone());
        let slow = |to: &mut dyn Write| {
            to.write_all(b"whole ")?;
            file.put(Writer::Command(1), page("other page")).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "other page");
            to.write_all(b"page")
        };
        file.put(Writer::Report(1), slow).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole page");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_writable_file_in_another_directory_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.html");
        fs::write(&path, "something longer").unwrap();
        let overwrite =
            |path: &Path, text| Entry::find(path).and_then(|entry| overwrite(&entry, page(text)));
        overwrite(&path, "page").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "page");
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(overwrite(&link, "no").is_err());
        fs::hard_link(&path, directory.path().join("hard")).unwrap();
        assert!(overwrite(&path, "no").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "page");
    }
}
