//! Where the lines of a log go, and what such a place takes at once: a file or a pipe several
//! lines, a socket one datagram for each line.
//!
//! The supervisor opens each for the worker. Nothing here blocks.

use std::os::fd::OwnedFd;

use pen_ipc::start::{ConnectionLog, RequestLog};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Where lines go.
#[derive(Debug)]
pub enum Sink {
    /// A file, a pipe or a terminal.
    File(OwnedFd),
    /// A connected UDP socket to penlogd, which gets each line with its line end. It may not be
    /// running: a lost datagram is no error.
    Penlogd(OwnedFd),
    /// A connected UDP socket to a syslog receiver.
    Receiver(OwnedFd),
    /// A socket connected to the syslog daemon; none if there is no daemon now.
    Daemon(Option<OwnedFd>),
}

impl From<RequestLog> for Sink {
    fn from(log: RequestLog) -> Sink {
        match log {
            RequestLog::File(file) => Sink::File(file),
            RequestLog::Network(socket) => Sink::Penlogd(socket),
        }
    }
}

impl From<ConnectionLog> for Sink {
    fn from(log: ConnectionLog) -> Sink {
        match log {
            ConnectionLog::File(file) => Sink::File(file),
            ConnectionLog::Network(socket) => Sink::Receiver(socket),
            ConnectionLog::Syslog(socket) => Sink::Daemon(socket),
        }
    }
}

impl Sink {
    /// Sends a line, which has its line end.
    ///
    /// # Errors
    /// EAGAIN: there is no room now. ENOTCONN: there is no daemon now. Else the line is lost.
    pub(super) fn send_line(&self, line: &[u8]) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let text = &line[..line.len() - 1];
        match self {
            Sink::File(_) => Ok(()),
            Sink::Penlogd(socket) => {
                let _ = rustix::net::send(socket, line, flags);
                Ok(())
            }
            Sink::Receiver(socket) => rustix::net::send(socket, text, flags).map(drop),
            Sink::Daemon(None) => Err(Errno::NOTCONN),
            Sink::Daemon(Some(socket)) => match rustix::net::send(socket, text, flags) {
                Ok(_) => Ok(()),
                Err(Errno::CONNREFUSED | Errno::CONNRESET) => Err(Errno::NOTCONN),
                Err(errno) => Err(errno),
            },
        }
    }

    /// Most bytes of one write. A pipe takes at most PIPE_BUF bytes in one piece (pipe(7)); more
    /// could mix with the lines of other workers. A file opened for appending takes any write in
    /// one piece.
    pub(super) fn piece(&self) -> usize {
        const PIPE_BUF: usize = 4096;
        let Sink::File(log) = self else { return usize::MAX };
        let is_pipe = rustix::fs::fstat(log)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if is_pipe { PIPE_BUF } else { usize::MAX }
    }

    /// Why lines still wait.
    pub(super) fn obstacle(&self) -> Errno {
        match self {
            Sink::Daemon(None) => Errno::NOTCONN,
            Sink::File(_) | Sink::Penlogd(_) | Sink::Receiver(_) | Sink::Daemon(Some(_)) => {
                Errno::AGAIN
            }
        }
    }
}
