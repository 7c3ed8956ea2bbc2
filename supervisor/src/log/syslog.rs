//! The syslog daemon, with messages in the form of RFC 3164 like the original pen: `<15>Nov 24
//! 04:18:59 pen: text`.
//!
//! Daemons listen at a datagram socket, except for some with a stream socket, as syslog(3) knows.
//! Over a stream, messages end with a zero byte.

#![forbid(unsafe_code)]

use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use pen_ipc::text::syslog_time;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use syslog::{Facility, LogFormat, Logger, LoggerBackend};

use crate::clock;
use crate::log::{HURRIED, PATIENT, Severity};
use crate::poll::until;

/// The socket of the daemon.
pub(crate) const DAEMON: &str = "/dev/log";

/// A connection to the daemon. It is made again when the daemon was restarted.
pub(crate) struct Syslog {
    path: PathBuf,
    logger: Option<Logger<LoggerBackend, Format>>,
    /// How long to wait for room in the daemon's queue.
    patience: Duration,
    /// When the daemon's queue was last full for the whole wait.
    stuck: Option<Instant>,
}

/// `<priority>time pen: text`
struct Format;

impl LogFormat<&str> for Format {
    fn format<W: Write>(
        &self,
        to: &mut W,
        severity: syslog::Severity,
        text: &str,
    ) -> syslog::Result<()> {
        let priority = Facility::LOG_USER as u32 | severity as u32;
        write!(to, "<{priority}>{} pen: {text}", syslog_time(clock::now()))
            .map_err(syslog::Error::Write)
    }
}

impl Syslog {
    pub(crate) fn new(path: impl AsRef<Path>) -> Syslog {
        Syslog { path: path.as_ref().into(), logger: None, patience: HURRIED, stuck: None }
    }

    pub(crate) fn wait_longer(&mut self) {
        self.patience = PATIENT;
    }

    /// Sends a message. A daemon that was restarted or started late is found. Returns false if
    /// there is none or it is too slow. Later, the number of lost messages is sent first.
    pub(crate) fn send(&mut self, severity: Severity, text: &str) -> bool {
        let text = shortened(text.trim_end());
        for _ in 0..ATTEMPTS {
            if self.logger.is_none() {
                self.logger = reach(&self.path).map(|daemon| Logger::new(daemon, Format)).ok();
            }
            let Some(logger) = &mut self.logger else { return false };
            let sent = match severity {
                Severity::Error => logger.err(text),
                Severity::Warning => logger.warning(text),
                Severity::Notice => logger.notice(text),
                Severity::Debug => logger.debug(text),
            };
            match sent {
                Ok(()) => {
                    self.stuck = None;
                    return true;
                }
                Err(syslog::Error::Write(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait() {
                        self.abandon();
                        return false;
                    }
                    if self.finish() {
                        return true;
                    }
                }
                Err(_) => self.logger = None,
            }
        }
        false
    }

    /// Waits a little for room in the daemon's queue, but not again soon after a failure.
    fn wait(&mut self) -> bool {
        if self.stuck.is_some_and(|since| since.elapsed() < RELIEF) {
            return false;
        }
        let socket = match &self.logger {
            Some(Logger { backend: LoggerBackend::Unix(socket), .. }) => socket.as_fd(),
            Some(Logger { backend: LoggerBackend::UnixStream(stream), .. }) => {
                stream.get_ref().as_fd()
            }
            _ => return false,
        };
        let timeout = until(Instant::now() + self.patience);
        let ready = poll(&mut [PollFd::new(socket, PollFlags::POLLOUT)], timeout)
            .is_ok_and(|ready| ready > 0);
        self.stuck = (!ready).then(Instant::now);
        ready
    }

    /// Sends the rest of a message that a stream took in part. Returns false if nothing was taken
    /// yet.
    fn finish(&mut self) -> bool {
        let Some(Logger { backend: LoggerBackend::UnixStream(stream), .. }) = &mut self.logger
        else {
            return false;
        };
        let finished = stream.flush().is_ok();
        if !finished {
            self.abandon();
        }
        finished
    }

    /// Closes a stream that may have taken a message in part: the next message would be read as its
    /// end.
    fn abandon(&mut self) {
        self.logger.take_if(|logger| matches!(logger.backend, LoggerBackend::UnixStream(_)));
    }
}

impl std::fmt::Debug for Syslog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syslog")
            .field("path", &self.path)
            .field("connected", &self.logger.is_some())
            .finish()
    }
}

/// Whether workers reach the daemon, as far as was said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Reach {
    /// They do, or do not need it.
    #[default]
    Reached,
    /// They do not.
    Missed,
}

impl Reach {
    /// Looks for the daemon that a worker misses. Some: that is news.
    pub(crate) fn news(&mut self) -> Option<Reach> {
        self.change(if for_worker().is_some() { Reach::Reached } else { Reach::Missed })
    }

    fn change(&mut self, now: Reach) -> Option<Reach> {
        (std::mem::replace(self, now) != now).then_some(now)
    }
}

/// A socket for a worker, which cannot reach the daemon from its jail. None if there is no daemon,
/// or if its socket is a stream, which would mix the lines of several processes.
pub(crate) fn for_worker() -> Option<OwnedFd> {
    socket(Path::new(DAEMON), SocketType::DGRAM).ok()
}

fn reach(path: &Path) -> rustix::io::Result<LoggerBackend> {
    match socket(path, SocketType::DGRAM) {
        Ok(socket) => Ok(LoggerBackend::Unix(UnixDatagram::from(socket))),
        Err(Errno::PROTOTYPE) => {
            let stream = UnixStream::from(socket(path, SocketType::STREAM)?);
            Ok(LoggerBackend::UnixStream(BufWriter::new(stream)))
        }
        Err(error) => Err(error),
    }
}

fn socket(path: &Path, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    // Non-blocking from the start: a reporter may make a socket, but may not change it afterwards
    // (ioctl).
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Cuts a text at the limit of the daemons, at a character boundary.
fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// The maximum length of a text in bytes: rsyslogd and journald cut near here.
const LONGEST: usize = 8000;

/// One attempt for a connection that was lost, one for a new one, one after a wait.
const ATTEMPTS: usize = 3;

/// The time without a new wait after a failed one.
const RELIEF: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn receive(daemon: &UnixDatagram) -> String {
        daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 65536];
        let length = daemon.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_have_the_originals_form_and_priorities() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        for (severity, priority) in
            [(Severity::Debug, "<15>"), (Severity::Warning, "<12>"), (Severity::Error, "<11>")]
        {
            assert!(syslog.send(severity, "text"));
            let message = receive(&daemon);
            assert!(message.starts_with(priority) && message.ends_with(" pen: text"), "{message}");
            // `<15>Nov 24 04:18:59`
            assert_eq!(message.find(" pen: "), Some(4 + 15), "{message}");
        }
    }

    #[test]
    fn a_daemon_that_was_restarted_or_appears_late_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new(&path);
        assert!(!syslog.send(Severity::Warning, "nobody"));
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.send(Severity::Warning, "first"));
        assert!(receive(&daemon).ends_with("first"));
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.send(Severity::Warning, "second"));
        assert!(receive(&daemon).ends_with("second"));
    }

    #[test]
    fn a_missing_daemon_is_news_once() {
        let mut reach = Reach::default();
        let seen = [Reach::Reached, Reach::Missed, Reach::Missed, Reach::Reached, Reach::Reached];
        let news = seen.map(|now| reach.change(now));
        assert_eq!(news, [None, Some(Reach::Missed), None, Some(Reach::Reached), None]);
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_messages_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let _daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        assert!((0..100_000).any(|_| !syslog.send(Severity::Warning, "text")));
    }

    #[test]
    fn a_daemon_that_listens_at_a_stream_is_found_too_and_waited_for_no_longer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixListener::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        assert!(
            syslog.send(Severity::Warning, "first") && syslog.send(Severity::Warning, "second")
        );
        let (mut stream, _) = daemon.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut heard = Vec::new();
        while heard.iter().filter(|byte| **byte == 0).count() < 2 {
            let mut some = [0; 100];
            let length = stream.read(&mut some).unwrap();
            heard.extend_from_slice(&some[..length]);
        }
        let text = String::from_utf8(heard).unwrap();
        let messages: Vec<&str> = text.split_terminator('\0').collect();
        assert!(
            messages[0].starts_with("<12>") && messages[0].ends_with(" pen: first"),
            "{text:?}"
        );
        assert!(
            messages[1].starts_with("<12>") && messages[1].ends_with(" pen: second"),
            "{text:?}"
        );
        // The daemon stops reading; its successor must only get whole messages.
        let long = "x".repeat(LONGEST);
        assert!((0..100_000).any(|_| !syslog.send(Severity::Warning, &long)));
        drop(stream);
        assert!(syslog.send(Severity::Warning, "third"));
        let (mut stream, _) = daemon.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut some = [0; 4];
        stream.read_exact(&mut some).unwrap();
        assert_eq!(&some, b"<12>");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(shortened("text"), "text");
        let long = "é".repeat(LONGEST);
        assert_eq!(shortened(&long).len(), LONGEST);
    }
}
