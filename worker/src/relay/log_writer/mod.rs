//! Writes the lines of a log: the request log and the connection log.
//!
//! For a file, lines gather in a buffer. One write(2) puts whole lines to a descriptor opened for
//! appending, so that lines of different workers never mix. It happens at most `FLUSH_AFTER` after
//! the first line. Otherwise each line is one datagram. Nothing here blocks: what cannot be written
//! is lost and counted.
//!
//! A disk that becomes full may take a part of a line. Until there is room again, every write to
//! that file fails. The worker with the torn line tries every `FLUSH_AFTER` to end it, also if it
//! has no further line. A worker whose write failed cannot see whether the end of the file is
//! torn: its next write begins with a line end too. That may make an empty line, but no line is
//! added to a torn one. Only a worker that wrote nothing while the disk was full does not know: it
//! may add a line to a torn one within `FLUSH_AFTER`. So does one after all that could end it died.

pub mod sink;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::relay::log_writer::sink::Sink;

/// Most milliseconds that a line waits in the buffer.
const FLUSH_AFTER: u64 = 100;

/// The buffer is written out at once when it has this many bytes.
const FLUSH_FROM: usize = 16 * 1024;

/// Most bytes kept while the log takes none.
const KEEP: usize = 64 * 1024;

/// What the file ends with, as far as this worker knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FileEnd {
    /// A whole line.
    Whole,
    /// A part of a line of another worker perhaps: writes failed.
    Unknown,
    /// A part of a line of this worker, whose rest was lost.
    Torn,
}

/// Writes the lines of one log of one worker.
#[derive(Debug)]
pub struct LogWriter {
    sink: Sink,
    buffer: Vec<u8>,
    /// When the buffer must be written.
    due: Option<u64>,
    /// The last write ended within a line; the buffer begins with the rest of it.
    mid_line: bool,
    end: FileEnd,
    /// Most bytes of one write.
    piece: usize,
    /// Lines written whole, or sent.
    lines: u64,
    lost: u64,
    errno: i32,
    /// When lost lines must be reported. Not the same as `due`, which each further line moves while
    /// the log takes none.
    report_due: Option<u64>,
}

impl LogWriter {
    /// A writer to an open log.
    pub fn new(sink: impl Into<Sink>) -> LogWriter {
        let sink = sink.into();
        let piece = sink.piece();
        LogWriter {
            sink,
            buffer: Vec::new(),
            due: None,
            mid_line: false,
            end: FileEnd::Whole,
            piece,
            lines: 0,
            lost: 0,
            errno: 0,
            report_due: None,
        }
    }

    /// Where the lines go.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Adds a line, which `write` appends to the buffer without its line end.
    pub fn line(&mut self, now: u64, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.buffer);
        self.buffer.push(b'\n');
        let at_once = match self.sink {
            Sink::File(_) => self.buffer.len() >= FLUSH_FROM,
            // Earlier lines wait until there is room for them.
            Sink::Penlogd(_) | Sink::Receiver(_) | Sink::Daemon(_) => {
                self.due.is_none() || self.buffer.len() >= KEEP
            }
        };
        if at_once {
            self.flush(now);
        } else {
            self.due.get_or_insert(now + FLUSH_AFTER);
        }
    }

    /// When [`LogWriter::flush`] must be called and lost lines be reported, in monotonic
    /// milliseconds.
    pub fn due(&self) -> Option<u64> {
        match (self.due, self.report_due) {
            (Some(due), Some(report)) => Some(due.min(report)),
            (due, report) => due.or(report),
        }
    }

    /// Writes the buffer.
    pub fn flush(&mut self, now: u64) {
        self.due = None;
        match &self.sink {
            Sink::File(_) => self.flush_by(now, |file, bytes| rustix::io::write(file, bytes)),
            Sink::Penlogd(_) | Sink::Receiver(_) | Sink::Daemon(_) => self.send(now),
        }
    }

    fn flush_by(&mut self, now: u64, write: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<usize>) {
        let Sink::File(file) = &self.sink else { return };
        let is_new_line_due = match self.end {
            FileEnd::Whole => false,
            FileEnd::Unknown => !self.buffer.is_empty(),
            FileEnd::Torn => true,
        };
        if is_new_line_due {
            // Alone, so that it is known whether the line is ended.
            match write(file, b"\n") {
                Ok(1..) => self.end = FileEnd::Whole,
                Ok(0) | Err(Errno::AGAIN | Errno::INTR) => return self.keep(now),
                Err(errno) => return self.lose(now, errno),
            }
        }
        while !self.buffer.is_empty() {
            // After a failure, the write is not repeated at once.
            let written = match write(file, whole_lines(&self.buffer, self.piece)) {
                Ok(0) => Err(Errno::AGAIN),
                other => other,
            };
            match written {
                Ok(written) => {
                    self.lines += lines_in(&self.buffer[..written]);
                    self.mid_line = written > 0 && self.buffer[written - 1] != b'\n';
                    self.buffer.drain(..written);
                }
                Err(Errno::INTR) => continue,
                // A full pipe may take it later.
                Err(Errno::AGAIN) => return self.keep(now),
                Err(errno) => return self.lose(now, errno),
            }
        }
    }

    /// Sends each line of the buffer as a datagram.
    fn send(&mut self, now: u64) {
        let (mut start, mut tried) = (0, None);
        while let Some(length) = self.buffer[start..].iter().position(|byte| *byte == b'\n') {
            match self.sink.send_line(&self.buffer[start..=start + length]) {
                Ok(()) => self.lines += 1,
                // The receiver is slow, or there is none at the moment.
                Err(errno @ (Errno::AGAIN | Errno::NOTCONN)) => {
                    self.buffer.drain(..start);
                    if let (Sink::Daemon(socket), Errno::NOTCONN) = (&mut self.sink, errno) {
                        *socket = None;
                    }
                    return self.keep(now);
                }
                Err(errno) => {
                    self.count_lost(1, now, errno);
                    // That is about an earlier line, and this one was not sent.
                    if errno == Errno::CONNREFUSED && tried.replace(start) != Some(start) {
                        continue;
                    }
                }
            }
            start += length + 1;
        }
        self.buffer.clear();
    }

    /// Keeps the buffer for a later try, unless it is too large.
    fn keep(&mut self, now: u64) {
        match self.buffer.len() < KEEP {
            true => self.due = Some(now + FLUSH_AFTER),
            false => self.lose(now, self.sink.obstacle()),
        }
    }

    /// Replaces the log between two lines: earlier lines go to the old log.
    pub fn reopen(&mut self, now: u64, sink: impl Into<Sink>) {
        self.close(now);
        self.mid_line = false;
        self.end = FileEnd::Whole;
        self.sink = sink.into();
        self.piece = self.sink.piece();
    }

    /// Whether lines wait for a connection to the syslog daemon.
    pub fn needs_daemon(&self) -> bool {
        matches!(self.sink, Sink::Daemon(None)) && !self.buffer.is_empty()
    }

    /// Takes a connection to the syslog daemon, if lines go there.
    pub fn connect(&mut self, now: u64, daemon: OwnedFd) {
        if let Sink::Daemon(socket) = &mut self.sink {
            *socket = Some(daemon);
            self.flush(now);
        }
    }

    /// Writes the buffer. What the log does not take now is lost.
    pub fn close(&mut self, now: u64) {
        self.flush(now);
        if !self.buffer.is_empty() {
            self.lose(now, self.sink.obstacle());
        }
        self.due = None;
    }

    /// Number of lines written since the last call. Those to penlogd are all counted.
    pub fn take_lines(&mut self) -> u64 {
        std::mem::take(&mut self.lines)
    }

    /// Whether lines were lost since the last [`LogWriter::take_lost`].
    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Puts the report of lost lines off until a time.
    pub fn remind(&mut self, at: u64) {
        self.report_due = Some(at);
    }

    /// Number of lines lost since the last call, and the errno of the last failure.
    pub fn take_lost(&mut self) -> Option<(u64, i32)> {
        self.report_due = None;
        (self.lost > 0).then(|| (std::mem::take(&mut self.lost), self.errno))
    }

    fn count_lost(&mut self, lines: u64, now: u64, errno: Errno) {
        self.lost += lines;
        self.errno = errno.raw_os_error();
        self.report_due.get_or_insert(now);
    }

    /// Gives the buffer up.
    fn lose(&mut self, now: u64, errno: Errno) {
        if !self.buffer.is_empty() {
            self.count_lost(lines_in(&self.buffer), now, errno);
        }
        self.buffer.clear();
        // A write to a pipe is never torn, and the end of a socket is no file's.
        let may_be_torn = matches!(self.sink, Sink::File(_)) && self.piece == usize::MAX;
        self.end = match (self.end, std::mem::take(&mut self.mid_line)) {
            (FileEnd::Torn, _) | (_, true) => FileEnd::Torn,
            (FileEnd::Whole, false) if !may_be_torn => FileEnd::Whole,
            (FileEnd::Whole | FileEnd::Unknown, false) => FileEnd::Unknown,
        };
        if self.end == FileEnd::Torn {
            self.due = Some(now + FLUSH_AFTER);
        }
    }
}

/// Number of line ends in a text.
fn lines_in(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The whole lines at the start of a text that fit into `most` bytes. Every line is shorter than
/// that.
fn whole_lines(text: &[u8], most: usize) -> &[u8] {
    let fits = &text[..text.len().min(most)];
    let end = fits.iter().rposition(|byte| *byte == b'\n').map_or(fits.len(), |last| last + 1);
    &fits[..end]
}
