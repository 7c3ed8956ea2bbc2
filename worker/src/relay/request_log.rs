//! The request log (`-l`): one line for the first data of a connection, and one for the first data
//! after each answer.
//!
//! For a file, lines gather in a buffer. One write(2) puts whole lines to a descriptor opened for
//! appending, so that lines of different workers never mix. It happens at most `FLUSH_AFTER` after
//! the first line. For penlogd, each line is one datagram. Nothing here blocks: what cannot be
//! written is lost and counted.

use std::io::Write;
use std::os::fd::OwnedFd;

use pen_config::ids::ClientKey;
use pen_ipc::start::RequestLog;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Longest datagram to penlogd, in bytes.
const DATAGRAM: usize = 1024;

/// Longest part of a request that is logged to a file, in bytes.
const REQUEST: usize = 100;

/// Most milliseconds that a line waits in the buffer.
const FLUSH_AFTER: u64 = 100;

/// The buffer is written out at once when it has this many bytes.
const FLUSH_FROM: usize = 16 * 1024;

/// Most bytes kept while the log takes none.
const KEEP: usize = 64 * 1024;

/// Writes the request log of one worker.
#[derive(Debug)]
pub struct LogWriter {
    target: RequestLog,
    buffer: Vec<u8>,
    /// When the buffer must be written.
    due: Option<u64>,
    /// The last write ended within a line; the buffer begins with the rest of it.
    mid_line: bool,
    /// The rest of a line was lost: the next write begins a new line.
    torn: bool,
    /// Most bytes of one write.
    piece: usize,
    lines: u64,
    lost: u64,
    errno: i32,
}

impl LogWriter {
    /// A writer to an open log.
    pub fn new(target: RequestLog) -> LogWriter {
        let piece = piece(&target);
        LogWriter {
            target,
            buffer: Vec::new(),
            due: None,
            mid_line: false,
            torn: false,
            piece,
            lines: 0,
            lost: 0,
            errno: 0,
        }
    }

    /// Adds a line for the first bytes of a request.
    pub fn line(&mut self, now: u64, unix_time: u64, client: ClientKey, server: &str, data: &[u8]) {
        let start = self.buffer.len();
        // Writing to a Vec does not fail.
        let _ = match self.target {
            RequestLog::File(_) => write!(self.buffer, "{client} {unix_time} {server} "),
            RequestLog::Network(_) => write!(self.buffer, "+ {client} {server} "),
        };
        let most = match self.target {
            RequestLog::File(_) => REQUEST,
            RequestLog::Network(_) => DATAGRAM.saturating_sub(self.buffer.len() - start + 1),
        };
        self.buffer.extend(first_line(data, most));
        self.buffer.push(b'\n');
        self.lines += 1;
        match &self.target {
            RequestLog::File(_) => {
                self.due.get_or_insert(now + FLUSH_AFTER);
                if self.buffer.len() >= FLUSH_FROM {
                    self.flush(now);
                }
            }
            RequestLog::Network(socket) => {
                // penlogd may not be running: a lost datagram is no error.
                let _ = rustix::net::send(
                    socket,
                    &self.buffer[start..],
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                );
                self.buffer.clear();
            }
        }
    }

    /// When [`LogWriter::flush`] must be called, in monotonic milliseconds.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// Writes the buffer.
    pub fn flush(&mut self, now: u64) {
        self.flush_by(now, |file, bytes| rustix::io::write(file, bytes));
    }

    fn flush_by(&mut self, now: u64, write: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<usize>) {
        self.due = None;
        let RequestLog::File(file) = &self.target else { return };
        if self.torn && !self.buffer.is_empty() {
            self.buffer.insert(0, b'\n');
            self.torn = false;
        }
        while !self.buffer.is_empty() {
            // After a failure, the write is not repeated at once.
            let written = match write(file, whole_lines(&self.buffer, self.piece)) {
                Ok(0) => Err(Errno::AGAIN),
                other => other,
            };
            match written {
                Ok(written) => {
                    self.mid_line = written > 0 && self.buffer[written - 1] != b'\n';
                    self.buffer.drain(..written);
                }
                Err(Errno::INTR) => continue,
                // A full pipe may take it later.
                Err(Errno::AGAIN) if self.buffer.len() < KEEP => {
                    self.due = Some(now + FLUSH_AFTER);
                    return;
                }
                Err(errno) => return self.lose(errno),
            }
        }
    }

    /// Replaces the log between two lines: earlier lines go to the old log.
    pub fn reopen(&mut self, now: u64, target: RequestLog) {
        self.close(now);
        self.mid_line = false;
        self.torn = false;
        self.piece = piece(&target);
        self.target = target;
    }

    /// Writes the buffer. What the log does not take now is lost.
    pub fn close(&mut self, now: u64) {
        self.flush(now);
        self.due = None;
        if !self.buffer.is_empty() {
            self.lose(Errno::AGAIN);
        }
    }

    /// Number of lines since the last call.
    pub fn take_lines(&mut self) -> u64 {
        std::mem::take(&mut self.lines)
    }

    /// Whether lines were lost since the last [`LogWriter::take_lost`].
    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Makes [`LogWriter::flush`] due at a time, even with an empty buffer: lost lines must still
    /// be reported.
    pub fn remind(&mut self, at: u64) {
        self.due.get_or_insert(at);
    }

    /// Number of lines lost since the last call, and the errno of the last failure.
    pub fn take_lost(&mut self) -> Option<(u64, i32)> {
        (self.lost > 0).then(|| (std::mem::take(&mut self.lost), self.errno))
    }

    fn lose(&mut self, errno: Errno) {
        self.lost += self.buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.errno = errno.raw_os_error();
        self.torn = std::mem::take(&mut self.mid_line);
        self.buffer.clear();
    }
}

/// Most bytes of one write. A pipe takes at most PIPE_BUF bytes in one piece (pipe(7)); more could
/// mix with the lines of other workers. A file opened for appending takes any write in one piece.
fn piece(target: &RequestLog) -> usize {
    const PIPE_BUF: usize = 4096;
    let (RequestLog::File(log) | RequestLog::Network(log)) = target;
    let is_pipe = rustix::fs::fstat(log)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_pipe { PIPE_BUF } else { usize::MAX }
}

/// The whole lines at the start of a text that fit into `most` bytes. Every line is shorter than
/// that.
fn whole_lines(text: &[u8], most: usize) -> &[u8] {
    let fits = &text[..text.len().min(most)];
    let end = fits.iter().rposition(|byte| *byte == b'\n').map_or(fits.len(), |last| last + 1);
    &fits[..end]
}

/// The first line of the client's data, at most `most` bytes, with a dot for each byte that is not
/// printable ASCII.
fn first_line(data: &[u8], most: usize) -> impl Iterator<Item = u8> + '_ {
    data.iter()
        .take(most)
        .take_while(|byte| !matches!(byte, b'\r' | b'\n'))
        .map(|byte| if matches!(byte, b' '..=b'~') { *byte } else { b'.' })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn client() -> ClientKey {
        ClientKey::from_ip("127.0.1.5".parse().unwrap())
    }

    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        (read, write.into())
    }

    #[test]
    fn a_line_is_client_time_server_request() {
        let (mut read, write) = pipe();
        let mut log = LogWriter::new(RequestLog::File(write));
        log.line(
            5,
            1_795_493_747,
            client(),
            "127.0.0.2",
            b"GET /hello?x=1 HTTP/1.0\r\nHost: x\r\n\r\n",
        );
        log.line(6, 1_795_493_748, client(), "127.0.0.2", b"\r\n");
        log.line(7, 1_795_493_748, client(), "127.0.0.2", &[b'a'; 300]);
        log.line(8, 1_795_493_748, client(), "127.0.0.2", b"caf\xc3\xa9\x1b[31m\t!");
        assert_eq!(log.due(), Some(105));
        log.flush(0);
        assert_eq!(log.due(), None);
        drop(log);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let long = "a".repeat(100);
        assert_eq!(
            text,
            format!(
                "127.0.1.5 1795493747 127.0.0.2 GET /hello?x=1 HTTP/1.0\n127.0.1.5 1795493748 \
                 127.0.0.2 \n\
                 127.0.1.5 1795493748 127.0.0.2 {long}\n127.0.1.5 1795493748 127.0.0.2 \
                 caf...[31m.!\n"
            )
        );
    }

    #[test]
    fn reopening_loses_nothing() {
        let ((mut old, old_write), (mut new, new_write)) = (pipe(), pipe());
        let mut log = LogWriter::new(RequestLog::File(old_write));
        log.line(0, 1, client(), "s", b"before");
        log.reopen(0, RequestLog::File(new_write));
        log.line(0, 1, client(), "s", b"after");
        log.flush(0);
        drop(log);
        let (mut before, mut after) = (String::new(), String::new());
        old.read_to_string(&mut before).unwrap();
        new.read_to_string(&mut after).unwrap();
        assert_eq!(
            (before.as_str(), after.as_str()),
            ("127.0.1.5 1 s before\n", "127.0.1.5 1 s after\n")
        );
    }

    #[test]
    fn a_log_that_takes_nothing_loses_lines_and_counts_them() {
        let (read, write) = pipe();
        drop(read);
        let mut log = LogWriter::new(RequestLog::File(write));
        log.line(0, 1, client(), "s", b"x");
        log.line(0, 1, client(), "s", b"y");
        log.flush(0);
        assert_eq!((log.has_lost(), log.due()), (true, None));
        log.remind(7);
        assert_eq!(log.due(), Some(7));
        assert_eq!(log.take_lost(), Some((2, Errno::PIPE.raw_os_error())));
        assert_eq!((log.has_lost(), log.take_lost()), (false, None));
    }

    #[test]
    fn a_log_that_takes_no_byte_and_says_no_error_is_tried_again_later() {
        let (_read, write) = pipe();
        let mut log = LogWriter::new(RequestLog::File(write));
        log.line(0, 1, client(), "s", b"x");
        log.flush_by(5, |_, _| Ok(0));
        assert_eq!((log.has_lost(), log.due()), (false, Some(5 + FLUSH_AFTER)));
        while log.buffer.len() < KEEP {
            log.buffer.extend(b"a line\n");
        }
        log.flush_by(6, |_, _| Ok(0));
        assert!(log.has_lost() && log.buffer.is_empty(), "and not kept without bound");
    }

    #[test]
    fn penlogd_gets_one_datagram_a_line_without_time() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut log = LogWriter::new(RequestLog::Network(sender.into()));
        log.line(0, 1, client(), "127.0.0.1", b"GET /1 HTTP/1.1\r\n");
        let mut datagram = [0; 200];
        let length = receiver.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"+ 127.0.1.5 127.0.0.1 GET /1 HTTP/1.1\n");
        assert_eq!(log.due(), None);
    }
}
