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

use std::os::fd::OwnedFd;

use pen_ipc::start::{ConnectionLog, RequestLog};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Most milliseconds that a line waits in the buffer.
const FLUSH_AFTER: u64 = 100;

/// The buffer is written out at once when it has this many bytes.
const FLUSH_FROM: usize = 16 * 1024;

/// Most bytes kept while the log takes none.
const KEEP: usize = 64 * 1024;

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
}

impl LogWriter {
    /// A writer to an open log.
    pub fn new(sink: impl Into<Sink>) -> LogWriter {
        let sink = sink.into();
        let piece = piece(&sink);
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

    /// When [`LogWriter::flush`] must be called, in monotonic milliseconds.
    pub fn due(&self) -> Option<u64> {
        self.due
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
            match send_line(&self.sink, &self.buffer[start..=start + length]) {
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
                    self.lost += 1;
                    self.errno = errno.raw_os_error();
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
            false => self.lose(now, self.obstacle()),
        }
    }

    /// Replaces the log between two lines: earlier lines go to the old log.
    pub fn reopen(&mut self, now: u64, sink: impl Into<Sink>) {
        self.close(now);
        self.mid_line = false;
        self.end = FileEnd::Whole;
        self.sink = sink.into();
        self.piece = piece(&self.sink);
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
            self.lose(now, self.obstacle());
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

    /// Makes [`LogWriter::flush`] due at a time, even with an empty buffer: lost lines must still
    /// be reported.
    pub fn remind(&mut self, at: u64) {
        self.due.get_or_insert(at);
    }

    /// Number of lines lost since the last call, and the errno of the last failure.
    pub fn take_lost(&mut self) -> Option<(u64, i32)> {
        (self.lost > 0).then(|| (std::mem::take(&mut self.lost), self.errno))
    }

    /// Why lines still wait.
    fn obstacle(&self) -> Errno {
        match self.sink {
            Sink::Daemon(None) => Errno::NOTCONN,
            Sink::File(_) | Sink::Penlogd(_) | Sink::Receiver(_) | Sink::Daemon(Some(_)) => {
                Errno::AGAIN
            }
        }
    }

    /// Gives the buffer up.
    fn lose(&mut self, now: u64, errno: Errno) {
        self.lost += lines_in(&self.buffer);
        if !self.buffer.is_empty() {
            self.errno = errno.raw_os_error();
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

/// Sends a line, which has its line end.
///
/// # Errors
/// EAGAIN: there is no room now. ENOTCONN: there is no daemon now. Else the line is lost.
fn send_line(sink: &Sink, line: &[u8]) -> Result<(), Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let text = &line[..line.len() - 1];
    match sink {
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

/// Most bytes of one write. A pipe takes at most PIPE_BUF bytes in one piece (pipe(7)); more could
/// mix with the lines of other workers. A file opened for appending takes any write in one piece.
fn piece(sink: &Sink) -> usize {
    const PIPE_BUF: usize = 4096;
    let Sink::File(log) = sink else { return usize::MAX };
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        (read, write.into())
    }

    fn say(log: &mut LogWriter, now: u64, text: &str) {
        log.line(now, |buffer| buffer.extend(text.as_bytes()));
    }

    fn daemon(path: &std::path::Path) -> (std::os::unix::net::UnixDatagram, OwnedFd) {
        let daemon = std::os::unix::net::UnixDatagram::bind(path).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        socket.connect(path).unwrap();
        (daemon, socket.into())
    }

    fn received(daemon: &std::os::unix::net::UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let length = daemon.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn lines_gather_for_a_while() {
        let (mut read, write) = pipe();
        let mut log = LogWriter::new(Sink::File(write));
        say(&mut log, 5, "one");
        say(&mut log, 6, "two");
        assert_eq!(log.due(), Some(105));
        log.flush(0);
        assert_eq!((log.due(), log.take_lines()), (None, 2));
        drop(log);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn reopening_loses_nothing() {
        let ((mut old, old_write), (mut new, new_write)) = (pipe(), pipe());
        let mut log = LogWriter::new(Sink::File(old_write));
        say(&mut log, 0, "before");
        log.reopen(0, Sink::File(new_write));
        say(&mut log, 0, "after");
        log.flush(0);
        drop(log);
        let (mut before, mut after) = (String::new(), String::new());
        old.read_to_string(&mut before).unwrap();
        new.read_to_string(&mut after).unwrap();
        assert_eq!((before.as_str(), after.as_str()), ("before\n", "after\n"));
    }

    #[test]
    fn a_log_that_takes_nothing_loses_lines_and_counts_them() {
        let (read, write) = pipe();
        drop(read);
        let mut log = LogWriter::new(Sink::File(write));
        say(&mut log, 0, "x");
        say(&mut log, 0, "y");
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
        let mut log = LogWriter::new(Sink::File(write));
        say(&mut log, 0, "x");
        log.flush_by(5, |_, _| Ok(0));
        assert_eq!((log.has_lost(), log.due()), (false, Some(5 + FLUSH_AFTER)));
        while log.buffer.len() < KEEP {
            log.buffer.extend(b"a line\n");
        }
        log.flush_by(6, |_, _| Ok(0));
        assert!(log.has_lost() && log.buffer.is_empty(), "and not kept without bound");
    }

    #[test]
    fn a_line_whose_rest_is_lost_is_ended_before_the_next_one_however_long_that_takes() {
        let (mut read, end) = pipe();
        let mut log = LogWriter::new(Sink::File(end));
        let room = std::cell::Cell::new(3);
        let write = |file: &OwnedFd, bytes: &[u8]| match room.get().min(bytes.len()) {
            0 => Err(Errno::NOSPC),
            length => {
                room.set(room.get() - length);
                rustix::io::write(file, &bytes[..length])
            }
        };
        for (text, more) in [("whole", 0), ("lost", 0), ("lost too", 1), ("after", 99)] {
            say(&mut log, 0, text);
            log.flush_by(0, write);
            room.set(room.get() + more);
        }
        assert_eq!(log.take_lost(), Some((4, Errno::NOSPC.raw_os_error())));
        say(&mut log, 0, "last");
        log.flush_by(0, write);
        drop(log);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "who\nlast\n");
    }

    /// A log file, and what writes to it while it has room.
    fn small_disk(
        room: &std::cell::Cell<usize>,
    ) -> (tempfile::NamedTempFile, impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<usize>) {
        let write = |file: &OwnedFd, bytes: &[u8]| match room.get().min(bytes.len()) {
            0 => Err(Errno::NOSPC),
            length => {
                room.set(room.get() - length);
                rustix::io::write(file, &bytes[..length])
            }
        };
        (tempfile::NamedTempFile::new().unwrap(), write)
    }

    fn appending(file: &tempfile::NamedTempFile) -> LogWriter {
        let open = std::fs::OpenOptions::new().append(true).open(file.path());
        LogWriter::new(Sink::File(open.unwrap().into()))
    }

    #[test]
    fn a_worker_without_further_lines_ends_its_torn_one_as_soon_as_there_is_room() {
        let room = std::cell::Cell::new(3);
        let (file, write) = small_disk(&room);
        let mut log = appending(&file);
        say(&mut log, 0, "torn");
        log.due = None;
        log.flush_by(5, &write);
        for now in [105, 205] {
            assert_eq!(log.due(), Some(now));
            log.due = None;
            log.flush_by(now, &write);
        }
        room.set(1);
        log.due = None;
        log.flush_by(305, &write);
        assert_eq!(log.due(), None);
        assert_eq!(log.take_lost(), Some((1, Errno::NOSPC.raw_os_error())));
        assert_eq!(log.take_lines(), 0);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "tor\n");
    }

    #[test]
    fn no_worker_whose_write_failed_adds_a_line_to_the_torn_one_of_another() {
        let room = std::cell::Cell::new(3);
        let (file, write) = small_disk(&room);
        let (mut torn, mut other) = (appending(&file), appending(&file));
        for log in [&mut torn, &mut other] {
            say(log, 0, "first");
            log.flush_by(0, &write);
        }
        assert_eq!(torn.take_lost().zip(other.take_lost()).map(|(a, b)| a.0 + b.0), Some(2));
        room.set(99);
        for n in 0..3 {
            let log = if n == 1 { &mut torn } else { &mut other };
            say(log, 0, "later");
            log.flush_by(0, &write);
        }
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, "fir\nlater\n\nlater\nlater\n");
        assert_eq!((torn.take_lines(), other.take_lines()), (1, 2), "written whole");
    }

    #[test]
    fn lines_wait_for_a_daemon_that_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = LogWriter::new(Sink::Daemon(None));
        for _ in 0..2 {
            say(&mut log, 5, "one");
            say(&mut log, 6, "two");
            assert!(log.needs_daemon() && !log.has_lost());
            assert_eq!(log.due(), Some(5 + FLUSH_AFTER));
            let (there, socket) = daemon(&path);
            log.connect(7, socket);
            say(&mut log, 8, "three");
            assert!(!log.needs_daemon());
            assert_eq!(log.due(), None);
            for text in ["one", "two", "three"] {
                assert_eq!(received(&there), text);
            }
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn lines_that_wait_when_the_target_changes_are_lost_and_counted() {
        let (mut read, write) = pipe();
        let mut log = LogWriter::new(Sink::Daemon(None));
        for text in ["one", "two"] {
            say(&mut log, 0, text);
        }
        log.reopen(5, Sink::File(write));
        assert_eq!(log.take_lost(), Some((2, Errno::NOTCONN.raw_os_error())));
        say(&mut log, 6, "three");
        log.close(7);
        assert_eq!((log.take_lines(), log.take_lost()), (1, None));
        drop(log);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "three\n");
    }

    #[test]
    fn a_slow_daemon_gets_all_lines_up_to_a_bound_and_the_rest_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (there, socket) = daemon(&directory.path().join("log"));
        let mut log = LogWriter::new(Sink::Daemon(Some(socket)));
        let text = "x".repeat(99);
        for _ in 0..5000 {
            say(&mut log, 0, &text);
        }
        there.set_nonblocking(true).unwrap();
        let mut got = 0;
        loop {
            while there.recv(&mut [0; 200]).is_ok_and(|length| length == 99) {
                got += 1;
            }
            match log.due() {
                Some(at) => log.flush(at),
                None => break,
            }
        }
        let (lost, errno) = log.take_lost().unwrap();
        assert_eq!((got + lost, errno), (5000, Errno::AGAIN.raw_os_error()));
        assert_eq!(log.take_lines(), got);
    }

    #[test]
    fn a_receiver_that_is_not_there_costs_lines() {
        let port = {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap()
        };
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(port).unwrap();
        let mut log = LogWriter::new(Sink::Receiver(sender.into()));
        while !log.has_lost() {
            say(&mut log, 0, "x");
        }
        assert_eq!(log.take_lost(), Some((1, Errno::CONNREFUSED.raw_os_error())));
    }
}
