//! The writer of logs, with files, pipes and sockets that take little, nothing, or come back.

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
    assert_eq!((log.has_lost(), log.due()), (true, Some(0)), "reported at once");
    log.remind(7);
    assert_eq!(log.due(), Some(7));
    assert_eq!(log.take_lost(), Some((2, Errno::PIPE.raw_os_error())));
    assert_eq!((log.has_lost(), log.take_lost(), log.due()), (false, None, None));
}

#[test]
fn a_loss_is_due_for_its_report_however_fast_lines_come() {
    let (_read, write) = pipe();
    let mut log = LogWriter::new(Sink::File(write));
    let text = "x".repeat(199);
    let mut lost_at = None;
    // Ten lines in a millisecond, without a pause.
    for n in 0..9000 {
        say(&mut log, n / 10, &text);
        if log.has_lost() {
            let at = *lost_at.get_or_insert(n / 10);
            assert_eq!(log.due(), Some(at));
        }
    }
    assert!(lost_at.is_some());
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
        assert_eq!(log.due, Some(now));
        log.due = None;
        log.flush_by(now, &write);
    }
    room.set(1);
    log.due = None;
    log.flush_by(305, &write);
    assert_eq!(log.due, None);
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
        match log.due {
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
