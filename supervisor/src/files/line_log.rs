//! The request log and the connection log: opened by the supervisor outside the jail, and passed to
//! the workers as descriptors.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use pen_config::command::LogTarget;
use pen_ipc::start::RequestLog;
use pen_ipc::text::error_text;
use pen_walk::{self as walk, Entry, PathEnd};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::files::made::MadeFile;

/// One of the logs to which workers write lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LineLog {
    /// The request log.
    Requests,
    /// The connection log.
    Connections,
}

impl LineLog {
    /// The word of the command that sets it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            LineLog::Requests => "log",
            LineLog::Connections => "connection_log",
        }
    }
}

impl fmt::Display for LineLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LineLog::Requests => "request log",
            LineLog::Connections => "connection log",
        })
    }
}

/// The reason why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A system call failed, or the path has a link of an untrusted user.
    #[error("{0} {path}: {reason}", path = .1.display(), reason = error_text(.2))]
    Io(LineLog, PathBuf, io::Error),
    /// The file is of a type to which lines cannot be appended.
    #[error("{0} {path}: {what} cannot be a log", path = .1.display(), what = .2)]
    Kind(LineLog, PathBuf, &'static str),
    /// The UDP socket cannot be made.
    #[error("{0} {1}: {reason}", reason = error_text(.2))]
    Network(LineLog, SocketAddr, io::Error),
    /// The address of a log in the network is not known.
    #[error("{word}: the log host has no address", word = .0.word())]
    NoAddress(LineLog),
}

/// An open log.
#[derive(Debug)]
pub(crate) struct OpenLog {
    pub(crate) log: RequestLog,
    /// The file, if it was not there before.
    pub(crate) made: Option<MadeFile>,
}

/// Opens the log that was asked for. `address` is the address of a target in the network.
///
/// # Errors
/// It cannot be opened, or must not be.
pub(crate) fn open(
    which: LineLog,
    target: &LogTarget,
    address: Option<SocketAddr>,
) -> Result<OpenLog, LogError> {
    match (target, address) {
        (LogTarget::File(path), _) => open_file(which, path),
        (LogTarget::Network(_, _), Some(address)) => {
            connect(which, address).map(|log| OpenLog { log, made: None })
        }
        (LogTarget::Network(_, _), None) => Err(LogError::NoAddress(which)),
    }
}

/// Opens a file for appending, or makes it. A fifo or a terminal does not block, and a fifo without
/// a reader is no error.
///
/// # Errors
/// It cannot be opened, or must not be.
pub(crate) fn open_file(which: LineLog, path: &Path) -> Result<OpenLog, LogError> {
    let failed = |error| LogError::Io(which, path.into(), error);
    for _ in 0..ATTEMPTS {
        let opened = match walk::follow(path).map_err(failed)? {
            PathEnd::Entry(entry) => open_entry(entry),
            // /dev/stdout and similar links lead here.
            PathEnd::OpenFile(entry) => {
                entry.open_followed(OFlags::WRONLY | OFlags::APPEND).map(|file| (file, None))
            }
        };
        match opened {
            // The file was made, removed, or replaced by a link between the two system calls.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EEXIST | libc::ENOENT | libc::ELOOP)
                ) => {}
            opened => {
                let (file, made) = opened.map_err(failed)?;
                let log = check(which, path, file).map(|file| RequestLog::File(file.into()))?;
                return Ok(OpenLog { log, made });
            }
        }
    }
    Err(failed(io::Error::other("it is being replaced all the time by somebody else")))
}

/// Checks whether [`open_file`] could work, as far as possible without opening or making anything.
///
/// # Errors
/// As [`open_file`].
pub(crate) fn examine(which: LineLog, path: &Path) -> Result<(), LogError> {
    let failed = |error| LogError::Io(which, path.into(), error);
    let PathEnd::Entry(entry) = walk::follow(path).map_err(failed)? else {
        return Ok(());
    };
    match entry.stat() {
        Ok(there) => {
            check_kind(which, path, FileType::from_raw_mode(there.st_mode), there.st_nlink > 1)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Connects a UDP socket to a log host, where nobody need be listening.
///
/// # Errors
/// There is no route or no socket.
fn connect(which: LineLog, address: SocketAddr) -> Result<RequestLog, LogError> {
    let connect = || -> io::Result<OwnedFd> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    };
    connect().map(RequestLog::Network).map_err(|error| LogError::Network(which, address, error))
}

/// The open file, and the same if it was made.
fn open_entry(entry: Entry) -> io::Result<(File, Option<MadeFile>)> {
    match entry.stat() {
        // If a fifo is opened for writing only, a missing reader is an error, and a reader that
        // leaves breaks the pipe.
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Fifo => {
            Ok((entry.open(OFlags::RDWR | OFlags::APPEND, 0)?, None))
        }
        Ok(_) => Ok((entry.open(OFlags::WRONLY | OFlags::APPEND, 0)?, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = entry
                .open(OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL, MODE)?;
            let made = MadeFile::new(entry, &fstat(&file)?);
            // The umask of a service takes away the group's right to read, and an odd one pen's own
            // to open the file again.
            file.set_permissions(Permissions::from_mode(MODE))?;
            Ok((file, Some(made)))
        }
        Err(error) => Err(error),
    }
}

fn check(which: LineLog, path: &Path, file: File) -> Result<File, LogError> {
    let there = file.metadata().map_err(|error| LogError::Io(which, path.into(), error))?;
    check_kind(which, path, FileType::from_raw_mode(there.mode()), there.nlink() > 1).map(|()| file)
}

fn check_kind(
    which: LineLog,
    path: &Path,
    kind: FileType,
    has_several_names: bool,
) -> Result<(), LogError> {
    match kind {
        FileType::RegularFile if has_several_names && geteuid().is_root() => Err(LogError::Kind(
            which,
            path.into(),
            "a file with several names, of which one may be meant for root's eyes only,",
        )),
        FileType::RegularFile | FileType::Fifo | FileType::CharacterDevice => Ok(()),
        FileType::Directory => Err(LogError::Io(which, path.into(), Errno::ISDIR.into())),
        FileType::Symlink | FileType::Socket | FileType::BlockDevice | FileType::Unknown => {
            Err(LogError::Kind(
                which,
                path.into(),
                "what is neither a file, a fifo nor a character device",
            ))
        }
    }
}

/// The mode of a new log, with any umask. Logs have addresses of clients, which are for
/// administrators only. They are a group: that of a directory with the set-group-ID bit.
const MODE: u32 = 0o640;

/// An attempt fails only if another process changes the file at just that moment.
const ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &Path) -> Result<OpenLog, LogError> {
        open_file(LineLog::Requests, path)
    }

    fn file(open: OpenLog) -> File {
        open.made.map(MadeFile::keep);
        match open.log {
            RequestLog::File(file) => file.into(),
            RequestLog::Network(_) => panic!(),
        }
    }

    #[test]
    fn lines_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pen.log");
        fs::write(&path, "old\n").unwrap();
        file(open(&path).unwrap()).write_all(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
        let made = directory.path().join("made.log");
        let log = open(&made).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o640);
        drop(log);
        assert!(!made.exists(), "nobody needs it");
    }

    #[test]
    fn a_fifo_needs_no_reader_and_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut log = file(open(&path).unwrap());
        log.write_all(b"line\n").unwrap();
        let mut line = [0; 5];
        File::open(&path).unwrap().read_exact(&mut line).unwrap();
        let blocked = (0..10_000).find_map(|_| log.write(&[b'x'; 4096]).err());
        assert_eq!(blocked.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn links_of_the_starter_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        symlink("second", at("first")).unwrap();
        symlink(at("target"), at("second")).unwrap();
        file(open(&at("first")).unwrap()).write_all(b"line\n").unwrap();
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "line\n");
        symlink("loop", at("loop")).unwrap();
        assert!(matches!(open(&at("loop")), Err(LogError::Io(_, _, _))));
    }

    #[test]
    fn devices_can_be_logs_and_directories_cannot() {
        open(Path::new("/dev/null")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        assert!(open(directory.path()).is_err());
        let error = open(&directory.path().join("no/such")).unwrap_err().to_string();
        assert!(
            error.starts_with("request log ") && error.ends_with("no such file or directory"),
            "{error}"
        );
    }

    #[test]
    fn a_log_host_needs_no_daemon() {
        assert!(matches!(
            connect(LineLog::Requests, "127.0.0.1:9".parse().unwrap()),
            Ok(RequestLog::Network(_))
        ));
    }
}
