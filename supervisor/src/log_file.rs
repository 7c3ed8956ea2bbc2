//! Where the request log goes: opened by the supervisor, outside the jail, and handed to the workers as a descriptor.

#![forbid(unsafe_code)]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid, getuid};
use pen_contract::start::RequestLog;
use rustix::fs::{OFlags, fstatfs, readlinkat};
use socket2::{Domain, Protocol, Socket, Type};

use crate::why::why;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// A system call failed.
    #[error("request log {path}: {reason}", path = .0.display(), reason = why(.1))]
    Io(PathBuf, io::Error),
    /// A symbolic link by which its owner could choose what root writes to.
    #[error("request log {path}: a symbolic link that belongs to neither root nor whoever started pen is not followed", path = .0.display())]
    Link(PathBuf),
    /// Something that lines cannot be appended to.
    #[error("request log {path}: {what} cannot be a log", path = .0.display(), what = .1)]
    Kind(PathBuf, &'static str),
    /// The UDP socket cannot be had.
    #[error("request log {0}: {reason}", reason = why(.1))]
    Network(SocketAddr, io::Error),
}

/// Opens a file for appending, or makes it. A fifo or a terminal neither blocks nor fails for want of a reader.
///
/// # Errors
/// It cannot be opened, or must not be.
pub(crate) fn open(path: &Path) -> Result<RequestLog, LogError> {
    let trusted = [Uid::from_raw(0), geteuid(), getuid()];
    follow(path, &|link| trusted.contains(&Uid::from_raw(link.uid()))).map(|file| RequestLog::File(file.into()))
}

/// Connects a UDP socket towards penlogd. Nobody needs to answer there.
///
/// # Errors
/// There is no route or no socket.
pub(crate) fn connect(address: SocketAddr) -> Result<RequestLog, LogError> {
    let connect = || -> io::Result<OwnedFd> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    };
    connect().map(RequestLog::Network).map_err(|error| LogError::Network(address, error))
}

/// Opens what a path leads to over symbolic links that `trusted` accepts, one link at a time: the kernel would follow
/// whichever link is there at the moment.
fn follow(path: &Path, trusted: &dyn Fn(&Metadata) -> bool) -> Result<File, LogError> {
    let failed = |error| LogError::Io(path.into(), error);
    let mut place = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match open_here(&place, OFlags::NOFOLLOW) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {}
            opened => return check(path, opened.map_err(failed)?),
        }
        let hold = flags(OFlags::PATH | OFlags::NOFOLLOW);
        let link = OpenOptions::new().read(true).custom_flags(hold).open(&place).map_err(failed)?;
        let metadata = link.metadata().map_err(failed)?;
        if !metadata.file_type().is_symlink() {
            continue;
        }
        if !trusted(&metadata) {
            return Err(LogError::Link(path.into()));
        }
        if fstatfs(&link).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC) {
            // /dev/stdout and its like lead here. These links are no texts that can be followed by hand, and only the
            // kernel can change them.
            return check(path, open_here(&place, OFlags::empty()).map_err(failed)?);
        }
        let target = readlinkat(&link, "", Vec::new()).map_err(|errno| failed(errno.into()))?;
        let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(target.as_bytes());
        place = place.parent().unwrap_or(Path::new("/")).join(target);
    }
    Err(failed(io::Error::from_raw_os_error(libc::ELOOP)))
}

fn open_here(path: &Path, extra: OFlags) -> io::Result<File> {
    // Opened for writing only, a fifo without a reader is an error, and one whose reader leaves is a broken pipe.
    let is_fifo = fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
    OpenOptions::new()
        .read(is_fifo)
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY | extra))
        .open(path)
}

fn check(path: &Path, file: File) -> Result<File, LogError> {
    let metadata = file.metadata().map_err(|error| LogError::Io(path.into(), error))?;
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() && metadata.nlink() > 1 && geteuid().is_root() => Err(LogError::Kind(
            path.into(),
            "a file with several names, of which one may be meant for root's eyes only,",
        )),
        () if kind.is_file() || kind.is_fifo() || kind.is_char_device() => Ok(file),
        () => Err(LogError::Kind(path.into(), "what is neither a file, a fifo nor a character device")),
    }
}

fn flags(flags: OFlags) -> i32 {
    // The bits of open(2), whose highest is far below the sign.
    flags.bits().cast_signed()
}

/// Not writable by others, whatever the umask.
const MODE: u32 = 0o644;

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The file system of /proc (statfs(2)).
const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(log: RequestLog) -> File {
        match log {
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
        open(&made).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o133, 0);
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
    fn links_are_followed_if_their_owner_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        symlink("second", at("first")).unwrap();
        symlink(at("target"), at("second")).unwrap();
        file(open(&at("first")).unwrap()).write_all(b"line\n").unwrap();
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "line\n");
        assert!(matches!(follow(&at("first"), &|_| false), Err(LogError::Link(_))));
        symlink("loop", at("loop")).unwrap();
        assert!(matches!(open(&at("loop")), Err(LogError::Io(_, _))));
    }

    #[test]
    fn devices_can_be_logs_and_directories_cannot() {
        open(Path::new("/dev/null")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        assert!(open(directory.path()).is_err());
        let error = open(&directory.path().join("no/such")).unwrap_err().to_string();
        assert!(error.starts_with("request log ") && error.ends_with("no such file or directory"), "{error}");
    }

    #[test]
    fn a_log_host_needs_no_daemon() {
        assert!(matches!(connect("127.0.0.1:9".parse().unwrap()), Ok(RequestLog::Network(_))));
    }
}
