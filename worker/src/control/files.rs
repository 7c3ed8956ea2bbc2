//! Files that operators name. They are opened here, in the jail and with the rights of the `-u`
//! user, and passed to the supervisor as descriptors.
//!
//! Opening a file never blocks, even on a fifo or a device. In the last component of a written path
//! no symbolic link is followed. Elsewhere only links of root and of pen's own user are
//! ([`pen_walk`]). A file with a second hard link is not written. A new file is not writable for
//! others.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pen_config::command::{Action, Command, NamedFile};
use pen_ipc::text::error_text;
use pen_walk::{self as walk, Entry};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};

/// The mode of new files.
const MODE: u32 = 0o644;

/// The opened file of a command.
#[derive(Debug, Default)]
pub struct NamedFiles {
    /// The descriptor to send with the command; none if the command names no file.
    pub file: Option<OwnedFd>,
    /// Present if the written file must then be put in place of another.
    pub replacement: Option<Replacement>,
}

/// Why a file cannot be opened: a part of the reply.
type Why = String;

/// Opens the file that a command names, if it names one. `word` is the operator's word for the
/// command. `ticket` keeps the temporary files of several operators apart.
///
/// # Errors
/// The reply: which command, which file, and why.
pub fn open(command: &Command, word: &str, ticket: u64) -> Result<NamedFiles, String> {
    let plain = |file| NamedFiles { file: Some(file), replacement: None };
    let (path, opened) = match command {
        Command::Query(_) => return Ok(NamedFiles::default()),
        Command::Setting(setting) => match setting.file() {
            None => return Ok(NamedFiles::default()),
            Some((NamedFile::Log | NamedFile::ConnectionLog, path)) => {
                (path, to_append(path).map(plain))
            }
            Some((NamedFile::WebStats, path)) => (path, to_overwrite(path).map(plain)),
            // If the file is not there, the supervisor may know it: it reads the files that the
            // administrator configured.
            Some((NamedFile::Ocsp, path)) => {
                return Ok(to_read(path).map(plain).unwrap_or_default());
            }
        },
        Command::Action(action) => match action {
            Action::Write(Some(path)) => (path.as_path(), to_replace(path, ticket)),
            // The supervisor has the file of an `include` read in a child.
            Action::Close(_)
            | Action::Drain { .. }
            | Action::Exit
            | Action::Include(_)
            | Action::Pause
            | Action::Resume
            | Action::Upgrade
            | Action::Write(None)
            | Action::WriteHere => return Ok(NamedFiles::default()),
        },
    };
    opened.map_err(|why| format!("{word}: {}: {why}", path.display()))
}

/// Opens a file for reading.
fn to_read(path: &Path) -> Result<OwnedFd, Why> {
    walk::read(path).map(OwnedFd::from).map_err(in_words)
}

/// Opens a log for appending.
fn to_append(path: &Path) -> Result<OwnedFd, Why> {
    let entry = Entry::find(path).map_err(in_words)?;
    // For an O_WRONLY open, a fifo without a reader is an error. A fifo whose reader leaves is a
    // broken pipe.
    let is_fifo = entry.stat().is_ok_and(|there| kind(&there) == FileType::Fifo);
    let access = if is_fifo { OFlags::RDWR } else { OFlags::WRONLY };
    let file = open_or_make(&entry, access | OFlags::APPEND)?;
    let there = stat(&file)?;
    match kind(&there) {
        FileType::Fifo | FileType::CharacterDevice => Ok(file),
        FileType::RegularFile => single(&there).map(|()| file),
        _ => Err("neither a file, a fifo nor a character device".to_owned()),
    }
}

/// Opens a file that is overwritten again and again. It is created if missing, and not changed
/// otherwise.
fn to_overwrite(path: &Path) -> Result<OwnedFd, Why> {
    let file = open_or_make(&Entry::find(path).map_err(in_words)?, OFlags::WRONLY)?;
    regular(&stat(&file)?).map(|()| file)
}

/// Opens a file, or creates one with mode 0644 whatever the umask.
fn open_or_make(entry: &Entry, access: OFlags) -> Result<OwnedFd, Why> {
    match entry.open(access | OFlags::CREATE | OFlags::EXCL, MODE) {
        Ok(file) => rustix::fs::fchmod(&file, Mode::from_raw_mode(MODE))
            .map(|()| file.into())
            .map_err(errno_in_words),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            entry.open(access, 0).map(OwnedFd::from).map_err(in_words)
        }
        Err(error) => Err(in_words(error)),
    }
}

/// Opens a file that is replaced as a whole. This needs a directory where this user may create
/// files, and the present file, if any, must be its own. Otherwise the file is overwritten.
fn to_replace(path: &Path, ticket: u64) -> Result<NamedFiles, Why> {
    let entry = Entry::find(path).map_err(in_words)?;
    let mode = match entry.stat() {
        Ok(there) => {
            regular(&there)?;
            if there.st_uid != geteuid().as_raw() {
                return to_rewrite(&entry);
            }
            Some(there.st_mode & 0o755 | 0o600)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(in_words(error)),
    };
    if path.file_name().is_none() {
        return Err("names no file".to_owned());
    }
    let temporary =
        entry.beside(format!(".pen-write-{}-{ticket}", getpid().as_raw_pid())).map_err(in_words)?;
    let file = match make(&temporary) {
        Ok(file) => OwnedFd::from(file),
        Err(error) if mode.is_some() && may_not_make(&error) => return to_rewrite(&entry),
        Err(error) => return Err(in_words(error)),
    };
    let twin = rustix::io::fcntl_dupfd_cloexec(&file, 0).map_err(errno_in_words);
    let replacement =
        Replacement { path: path.to_path_buf(), entry, temporary, file, in_place: false };
    let mode = Mode::from_raw_mode(mode.unwrap_or(MODE));
    rustix::fs::fchmod(&replacement.file, mode).map_err(errno_in_words)?;
    Ok(NamedFiles { file: Some(twin?), replacement: Some(replacement) })
}

fn may_not_make(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn make(temporary: &Entry) -> io::Result<File> {
    let open = || temporary.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, MODE);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // An earlier control process that was killed may have left it.
            temporary.remove()?;
            open()
        }
        opened => opened,
    }
}

/// Opens an existing file and empties it.
fn to_rewrite(entry: &Entry) -> Result<NamedFiles, Why> {
    let file = OwnedFd::from(entry.open(OFlags::WRONLY, 0).map_err(in_words)?);
    regular(&stat(&file)?)?;
    rustix::fs::ftruncate(&file, 0).map_err(errno_in_words)?;
    Ok(NamedFiles { file: Some(file), replacement: None })
}

/// A temporary file beside the file that it will replace. Dropping it removes the file.
#[derive(Debug)]
pub struct Replacement {
    /// The path in the operator's words.
    path: PathBuf,
    entry: Entry,
    temporary: Entry,
    file: OwnedFd,
    in_place: bool,
}

impl Replacement {
    /// Renames the file into place after it is safely on the disk: a power failure must not leave
    /// an empty configuration.
    ///
    /// # Errors
    /// The reply: the file cannot be put in place, and the old file is unchanged.
    pub fn commit(mut self) -> Result<(), String> {
        let synced = rustix::fs::fsync(&self.file).map_err(io::Error::from);
        let moved = synced.and_then(|()| self.entry.replace_by(&self.temporary));
        self.in_place = moved.is_ok();
        moved.map_err(|error| format!("write: {}: {}", self.path.display(), in_words(error)))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.in_place {
            // If it cannot be removed it stays, with a name that shows its origin.
            let _ = self.temporary.remove();
        }
    }
}

fn stat(file: &OwnedFd) -> Result<Stat, Why> {
    rustix::fs::fstat(file).map_err(errno_in_words)
}

fn kind(there: &Stat) -> FileType {
    FileType::from_raw_mode(there.st_mode)
}

fn regular(there: &Stat) -> Result<(), Why> {
    match kind(there) {
        FileType::RegularFile => single(there),
        FileType::Symlink => Err(LINK.to_owned()),
        _ => Err("not a regular file".to_owned()),
    }
}

/// Refuses a file with several hard links: another name may be in a private directory of another
/// user.
fn single(there: &Stat) -> Result<(), Why> {
    match there.st_nlink {
        0 | 1 => Ok(()),
        _ => Err("a file with several names is not written".to_owned()),
    }
}

const LINK: &str = "a symbolic link is not followed";

fn errno_in_words(errno: Errno) -> Why {
    in_words(errno.into())
}

/// The error as part of a sentence.
fn in_words(error: io::Error) -> Why {
    match error.raw_os_error() {
        Some(number) if number == Errno::LOOP.raw_os_error() => LINK.to_owned(),
        _ => error_text(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use pen_config::command::{LogTarget, Query, Setting};

    use super::*;

    fn rewrite(path: &Path) -> Result<NamedFiles, Why> {
        Entry::find(path).map_err(in_words).and_then(|entry| to_rewrite(&entry))
    }

    fn write_named(named: &mut NamedFiles, text: &str) {
        File::from(named.file.take().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_command_without_a_file_opens_none() {
        for command in [
            Command::Query(Query::Log),
            Command::Action(Action::Write(None)),
            Command::Query(Query::WebStats),
            Command::Query(Query::Pid),
        ] {
            assert!(open(&command, "", 0).unwrap().file.is_none());
        }
    }

    #[test]
    fn failures_name_command_file_and_reason() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no/such");
        let shown = missing.display();
        let log = Command::Setting(Setting::Log(Some(LogTarget::File(missing.clone()))));
        assert_eq!(
            open(&log, "log", 0).unwrap_err(),
            format!("log: {shown}: no such file or directory")
        );
        let status = Command::Setting(Setting::WebStats(Some(missing.clone())));
        for (command, word) in [
            (Command::Action(Action::Write(Some(missing.clone()))), "write"),
            (status.clone(), "web_stats"),
            (status, "status_file"),
        ] {
            assert_eq!(
                open(&command, word, 0).unwrap_err(),
                format!("{word}: {shown}: no such file or directory")
            );
        }
    }

    #[test]
    fn what_is_no_file_is_not_written_and_nothing_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::write(at("target"), "precious").unwrap();
        symlink(at("target"), at("link")).unwrap();
        fs::write(at("one"), "precious").unwrap();
        fs::hard_link(at("one"), at("two")).unwrap();
        to_append(&at("fifo")).unwrap();
        to_append(Path::new("/dev/null")).unwrap();
        for name in ["link", "one", "."] {
            assert!(to_append(&at(name)).is_err(), "{name}");
        }
        for name in ["fifo", "link", "one", "."] {
            assert!(to_overwrite(&at(name)).is_err(), "{name}");
            assert!(to_replace(&at(name), 0).is_err(), "{name}");
            assert!(rewrite(&at(name)).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(at("one")).unwrap(), "precious");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.cfg");
        let mut named = to_replace(&path, 1).unwrap();
        write_named(&mut named, "first");
        assert!(!path.exists());
        named.replacement.take().unwrap().commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let mut failed = to_replace(&path, 2).unwrap();
        write_named(&mut failed, "half");
        drop(failed);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        let mut named = to_replace(&path, 3).unwrap();
        write_named(&mut named, "second");
        named.replacement.take().unwrap().commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o777,
            0o644,
            "others may not write it any more"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_replacement_that_cannot_be_put_in_place_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.cfg");
        let named = to_replace(&path, 1).unwrap();
        fs::create_dir(&path).unwrap();
        let why = named.replacement.unwrap().commit().unwrap_err();
        assert_eq!(why, format!("write: {}: is a directory", path.display()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_is_emptied_only_where_it_is_rewritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        to_overwrite(&path).unwrap();
        drop(to_replace(&path, 1).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut named = rewrite(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        write_named(&mut named, "new");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
