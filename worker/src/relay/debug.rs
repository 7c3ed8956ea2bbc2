//! Debug output of a worker (`-d`). It goes directly to standard error or to the syslog daemon and
//! never through the supervisor, since it contains untrusted bytes.
//!
//! Nothing here blocks: a line that cannot be written at once is dropped and counted.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pen_config::settings::Settings;
use pen_ipc::start::DebugOutput;
use pen_ipc::text::{date_time, syslog_time};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SendFlags;
use time::OffsetDateTime;

/// Most bytes of a line: a pipe takes that much in one piece (PIPE_BUF), and a syslog datagram
/// holds it.
const LINE: usize = 4000;

/// The debug output.
#[derive(Debug)]
pub struct Debug {
    level: u8,
    ascii: bool,
    output: DebugOutput,
    utc_offset: fn(i64) -> i32,
    /// Lines dropped.
    dropped: u64,
}

impl Debug {
    /// Output as the settings ask for.
    pub fn new(settings: &Settings, output: DebugOutput, utc_offset: fn(i64) -> i32) -> Debug {
        Debug { level: settings.debug, ascii: settings.ascii, output, utc_offset, dropped: 0 }
    }

    /// Applies new settings.
    pub fn set(&mut self, settings: &Settings) {
        self.level = settings.debug;
        self.ascii = settings.ascii;
    }

    /// Whether a level is on: 1 decisions, 2 also connections and dumps.
    pub fn on(&self, level: u8) -> bool {
        self.level >= level
    }

    /// Whether the data of clients and servers is dumped.
    pub fn dumps(&self) -> bool {
        self.on(2)
    }

    /// Writes a line, if the level is on.
    pub fn log(&mut self, level: u8, text: fmt::Arguments<'_>) {
        if self.on(level) {
            self.line(&text.to_string());
        }
    }

    /// Whether output is on and there is no connection to the daemon.
    pub fn needs_daemon(&self) -> bool {
        self.dropped > 0 && matches!(self.output, DebugOutput::Syslog(None))
    }

    /// Takes a connection to the daemon. A worker in the foreground keeps its standard error.
    pub fn connect(&mut self, daemon: OwnedFd) {
        if let DebugOutput::Syslog(socket) = &mut self.output {
            *socket = Some(daemon);
        }
    }

    /// Dumps data: `18: 47 45 54`, or as text with dots.
    pub fn dump(&mut self, data: &[u8]) {
        let mut text = format!("{}: ", data.len());
        for byte in data {
            // Writing to a String does not fail.
            let _ = match (self.ascii, byte) {
                (true, b' '..=b'~') => write!(text, "{}", char::from(*byte)),
                (true, _) => write!(text, "."),
                (false, _) => write!(text, "{byte:02x} "),
            };
            if text.len() >= LINE - 80 {
                self.line(&text);
                text.clear();
            }
        }
        if !text.is_empty() {
            self.line(&text);
        }
    }

    fn line(&mut self, text: &str) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0
            && !self.write(&format!(
                "{dropped} lines of debug output were dropped: no reader, or too slow a one"
            ))
        {
            self.dropped = dropped + 1;
        } else if !self.write(text) {
            self.dropped = 1;
        }
    }

    /// Writes one line. False if that would block, or if there is no daemon. A daemon that has gone
    /// is asked for again.
    fn write(&mut self, text: &str) -> bool {
        let (seconds, _) = crate::clock::unix_time();
        let local = seconds as i64 + i64::from((self.utc_offset)(seconds as i64));
        // Only a clock that is wrong by thousands of years has no date.
        let local =
            OffsetDateTime::from_unix_timestamp(local).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        match &self.output {
            DebugOutput::Stderr => {
                write_now(std::io::stderr().as_fd(), &format!("{}: {text}\n", date_time(local)))
            }
            DebugOutput::Journal => write_now(std::io::stderr().as_fd(), &format!("<7>{text}\n")),
            DebugOutput::Syslog(Some(socket)) => {
                let sent = send_now(socket, &format!("<15>{} pen: {text}", syslog_time(local)));
                if let Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN) = sent {
                    self.output = DebugOutput::Syslog(None);
                }
                sent.is_ok()
            }
            DebugOutput::Syslog(None) => false,
        }
    }
}

/// Writes a line unless that would block. The supervisor made standard error non-blocking if it is
/// a pipe or a terminal. A socket (of the journal) gets a flag with each write. Standard error is
/// also polled first, in case neither was possible.
fn write_now(stderr: BorrowedFd<'_>, line: &str) -> bool {
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut ready, Some(&at_once)), Ok(1..))
        && ready[0].revents().contains(PollFlags::OUT)
        && match send_now(stderr, line) {
            Err(Errno::NOTSOCK) => rustix::io::write(stderr, line.as_bytes()),
            sent => sent,
        } == Ok(line.len())
}

fn send_now(socket: impl AsFd, line: &str) -> Result<usize, Errno> {
    rustix::net::send(socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(path: &std::path::Path) -> (std::os::unix::net::UnixDatagram, OwnedFd) {
        let daemon = std::os::unix::net::UnixDatagram::bind(path).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        socket.connect(path).unwrap();
        (daemon, socket.into())
    }

    #[test]
    fn a_daemon_that_is_gone_is_missed_until_there_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let settings = Settings { debug: 1, ..Settings::default() };
        let mut debug = Debug::new(&settings, DebugOutput::Syslog(None), |_| 0);
        assert!(!debug.needs_daemon(), "nothing to say");
        for _ in 0..2 {
            debug.log(1, format_args!("unheard"));
            debug.log(1, format_args!("unheard"));
            assert!(debug.needs_daemon());
            let (daemon, socket) = daemon(&path);
            debug.connect(socket);
            debug.log(1, format_args!("heard"));
            assert!(!debug.needs_daemon());
            for said in [" pen: 2 lines of debug output were dropped", " pen: heard"] {
                let mut buffer = [0; 200];
                let length = daemon.recv(&mut buffer).unwrap();
                assert!(String::from_utf8_lossy(&buffer[..length]).contains(said));
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
}
