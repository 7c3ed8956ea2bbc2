//! Standard error that blocks its writer only for a short time.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use pen_ipc::text::date_time;

use crate::clock;
use crate::log::{HURRIED, PATIENT, Severity, journal};
use crate::poll::until;

/// Standard error.
#[derive(Debug)]
pub(crate) struct Stderr {
    /// A new open file description of the same pipe or terminal, if one can be had. The inherited
    /// one is shared with other processes, so it cannot be made non-blocking.
    own: Option<File>,
    /// Whether the journal reads it.
    journal: bool,
    /// How long to wait for the reader.
    patience: Duration,
    /// When a wait for the reader last failed.
    stuck: Option<Instant>,
}

impl Stderr {
    pub(crate) fn open() -> Stderr {
        Stderr { own: reopen(), journal: journal::reads_stderr(), patience: HURRIED, stuck: None }
    }

    pub(crate) fn wait_longer(&mut self) {
        self.patience = PATIENT;
    }

    /// Writes a message with its time, or in the form for the journal. Returns false if that
    /// failed.
    pub(crate) fn send(&mut self, severity: Severity, text: &str) -> bool {
        let message = match self.journal {
            true => journal::lines(severity, text),
            false => format!("{}: {text}\n", date_time(clock::now())),
        };
        // After one failed wait, do not wait again for each of many messages.
        let patience = match self.stuck {
            Some(since) if since.elapsed() < RELIEF => Duration::ZERO,
            _ => self.patience,
        };
        let written = match &self.own {
            Some(file) => write(file, file.as_fd(), message.as_bytes(), patience),
            None => write(io::stderr(), io::stderr().as_fd(), message.as_bytes(), patience),
        };
        match written {
            Ok(()) => self.stuck = None,
            Err(_) => self.stuck = Some(Instant::now()),
        }
        written.is_ok()
    }
}

/// Gives a child a non-blocking open file description of standard error, if one can be had. The
/// inherited one is shared with other processes.
pub(crate) fn make_nonblocking() {
    if let Some(own) = reopen() {
        // On failure, everything stays as it was.
        let _ = nix::unistd::dup2_stderr(own);
    }
}

/// Opens standard error again, if it is a fifo or a device. A regular file never blocks and must
/// keep its shared position; a socket cannot be opened again.
fn reopen() -> Option<File> {
    const ITSELF: &str = "/proc/self/fd/2";
    let kind = std::fs::metadata(ITSELF).ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return None;
    }
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().write(true).custom_flags(flags).open(ITSELF).ok()
}

/// Writes pieces that fit into a ready pipe, and waits before each one, for at most `patience` in
/// all.
fn write(
    mut file: impl Write,
    fd: BorrowedFd<'_>,
    mut bytes: &[u8],
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while !bytes.is_empty() {
        if poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], until(deadline))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match file.write(&bytes[..bytes.len().min(PIPE_BUF)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The size that a pipe takes without blocking once poll(2) reports it as ready (pipe(7)).
const PIPE_BUF: usize = nix::libc::PIPE_BUF;

/// The time without a new wait after a failed one.
const RELIEF: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_no_byte_is_not_asked_for_ever() {
        struct Nothing;
        impl Write for Nothing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Ok(0)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_reader, writer) = io::pipe().unwrap();
        let result = write(Nothing, writer.as_fd(), b"x", Duration::from_secs(3600));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_reader_that_does_not_read_is_not_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        let text = vec![b'x'; 1 << 20];
        let result = write(writer.try_clone().unwrap(), writer.as_fd(), &text, Duration::ZERO);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(reader);
        assert!(
            write(writer.try_clone().unwrap(), writer.as_fd(), b"gone", Duration::ZERO).is_err()
        );
    }
}
