//! The log of requests, to a file and by network (pen(8), Reports).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{Backend, Client, PATIENCE, Pen, SetOnDrop, eventually, until};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 10, 1, 5);

/// A server that echoes without a greeting, and a pen that logs in front of it.
fn logging(options: &[&str]) -> (Backend, Pen, PathBuf) {
    let server =
        Backend::with_on(Ipv4Addr::new(127, 0, 0, 2).into(), crate::harness::backend::echo);
    let builder = Pen::builder();
    let log = builder.directory().join("pen.log");
    let pen =
        builder.options(["-l", log.to_str().unwrap()]).options(options).server(&server).start();
    (server, pen, log)
}

/// Sends a request and reads the answer, so that the request has certainly passed.
fn request(client: &Client, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    client.send(bytes);
    assert_eq!(client.read_exactly(bytes.len()), bytes);
}

/// The lines of the log, once there are `count`.
fn lines(log: &PathBuf, count: usize) -> Vec<String> {
    until("the lines are in the log", || {
        let text = fs::read(log).ok()?;
        let whole = text.is_empty() || text.ends_with(b"\n");
        let lines: Vec<String> = text
            .split(|byte| *byte == b'\n')
            .map(|line| String::from_utf8_lossy(line).into())
            .collect();
        (whole && lines.len() > count).then(|| lines[..lines.len() - 1].to_vec())
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_line_has_client_time_server_and_the_first_line_of_the_request() {
    let (_server, pen, log) = logging(&[]);
    let before = now();
    request(&pen.connect(ME), "GET /hello?x=1 HTTP/1.0\r\nHost: x\r\n\r\n");
    let lines = lines(&log, 1);
    let words: Vec<&str> = lines[0].splitn(4, ' ').collect();
    assert_eq!(
        (words[0], words[2], words[3]),
        ("127.10.1.5", "127.0.0.2", "GET /hello?x=1 HTTP/1.0")
    );
    let time: u64 = words[1].parse().unwrap();
    assert!((before..=now()).contains(&time), "{time} is the time");
    assert_eq!(lines.len(), 1);
}

#[test]
fn the_request_is_cut_at_a_line_end_or_100_bytes_and_made_printable() {
    let (_server, pen, log) = logging(&[]);
    let long = "x".repeat(250);
    let cases: [(&[u8], &str); 8] = [
        (b"one\ntwo", "one"),
        (b"one\rtwo", "one"),
        (b"no end", "no end"),
        (long.as_bytes(), &long[..100]),
        (b"\x01\x7f\xe9\xff tab\there\x1b[2J", ".... tab.here.[2J"),
        (b"\r\nleft out", ""),
        (b"  spaces  kept ", "  spaces  kept "),
        (b"%s%n 100% {}", "%s%n 100% {}"),
    ];
    for (count, (bytes, expected)) in cases.iter().enumerate() {
        request(&pen.connect(ME), bytes);
        let line = lines(&log, count + 1).pop().unwrap();
        assert_eq!(line.splitn(4, ' ').nth(3), Some(*expected), "{line:?}");
    }
}

#[test]
fn there_is_one_line_per_request_on_a_connection_that_is_kept() {
    let (_server, pen, log) = logging(&[]);
    let client = pen.connect(ME);
    for n in 0..3 {
        request(&client, format!("GET /{n} HTTP/1.1\n\n"));
    }
    let requests: Vec<String> =
        lines(&log, 3).iter().map(|line| line.splitn(4, ' ').nth(3).unwrap().to_string()).collect();
    assert_eq!(requests, ["GET /0 HTTP/1.1", "GET /1 HTTP/1.1", "GET /2 HTTP/1.1"]);
}

#[test]
fn an_upload_is_one_line() {
    let server = Backend::with(|mut connection| {
        connection.read_to_end(&mut Vec::new())?;
        connection.write_all(b"thanks")
    });
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    let mut pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
    let client = pen.connect(ME);
    client.send("PUT /large HTTP/1.1\n");
    client.send(vec![b'z'; 5_000_000]);
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"thanks");
    pen.end_by(Signal::TERM);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1);
}

#[test]
fn a_connection_without_data_leaves_no_line() {
    let (_server, mut pen, log) = logging(&[]);
    let client = pen.connect(ME);
    client.finish();
    assert!(client.read_to_end().unwrap().is_empty());
    pen.end_by(Signal::TERM);
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
}

#[test]
fn a_client_of_a_unix_listener_is_called_unix() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let (log, front) = (builder.directory().join("log"), builder.directory().join("front"));
    let _pen =
        builder.listen(&front).options(["-l", log.to_str().unwrap()]).server(&server).start();
    request(&Client::connect_unix(&front).unwrap(), "hello\n");
    let line = lines(&log, 1).remove(0);
    assert!(line.starts_with("unix ") && line.ends_with(" 127.0.0.1 hello"), "{line}");
}

#[test]
fn lines_are_in_the_file_while_connections_stay_open_and_the_file_is_appended_to() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    fs::write(&log, "127.0.0.1 1 127.0.0.1 old\n").unwrap();
    let pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
    let client = pen.connect(ME);
    request(&client, "new");
    let lines = lines(&log, 2);
    assert!(lines[0].ends_with(" old") && lines[1].ends_with(" new"));
    client.reset();
}

#[test]
fn a_relative_name_means_the_directory_where_pen_was_started() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder().background();
    let directory = builder.directory().to_path_buf();
    let go = ["env".into(), "-C".into(), directory.clone().into_os_string()];
    let pen = builder.through(go).options(["-l", "relative.log"]).server(&server).start();
    request(&pen.connect(ME), "hello\n");
    lines(&directory.join("relative.log"), 1);
    assert_eq!(fs::read_link(pen.supervisor().proc("cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn hup_reopens_the_log_and_no_line_is_lost_or_torn_under_load() {
    let (_server, mut pen, log) = logging(&[]);
    let over = AtomicBool::new(false);
    let address = pen.address();
    let mut expected: Vec<String> = thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        let crowd: Vec<_> = (0..6)
            .map(|n| {
                let over = &over;
                scope.spawn(move || {
                    let mut sent = Vec::new();
                    while !over.load(SeqCst) {
                        let client = Client::connect(ME.into(), address).unwrap();
                        for _ in 0..5 {
                            let line = format!("client {n} request {}", sent.len());
                            request(&client, format!("{line}\n"));
                            sent.push(line);
                        }
                    }
                    sent
                })
            })
            .collect();
        for n in 1..=20 {
            fs::rename(&log, log.with_extension(n.to_string())).unwrap();
            pen.supervisor().signal(Signal::HUP);
            eventually("the log is there again", || log.exists());
            let lines = || fs::metadata(&log).is_ok_and(|file| file.len() > 2000);
            eventually("and used", lines);
        }
        drop(ends);
        crowd.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    pen.end_by(Signal::TERM);
    let mut found = Vec::new();
    let mut files = HashMap::new();
    for n in 0..=20 {
        let path = if n == 0 { log.clone() } else { log.with_extension(n.to_string()) };
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "{} ends with a whole line",
            path.display()
        );
        files.insert(n, text.lines().count());
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            assert_eq!((words[0], words[2]), ("127.10.1.5", "127.0.0.2"), "a whole line: {line:?}");
            found.push(words[3].to_string());
        }
    }
    expected.sort_unstable();
    found.sort_unstable();
    assert!(found == expected, "{} sent, {} logged, {files:?}", expected.len(), found.len());
}

#[test]
fn a_log_that_cannot_be_reopened_is_said_and_the_old_one_is_used_on() {
    let (_server, pen, log) = logging(&[]);
    let moved = log.with_extension("old");
    fs::rename(&log, &moved).unwrap();
    fs::create_dir(&log).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("pen.log");
    request(&pen.connect(ME), "still logged\n");
    assert!(lines(&moved, 1)[0].ends_with("still logged"));
}

#[test]
fn a_replaced_worker_writes_to_the_reopened_log() {
    let (_server, pen, log) = logging(&[]);
    fs::rename(&log, log.with_extension("old")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the log is there again", || log.exists());
    let before = pen.workers();
    before.iter().for_each(crate::harness::Process::kill);
    request(&pen.connect(ME), "after\n");
    assert!(lines(&log, 1)[0].ends_with("after"));
    assert_eq!(fs::read_to_string(log.with_extension("old")).unwrap(), "");
}

#[test]
fn the_log_is_never_writable_by_others_whatever_the_umask() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder().through(["sh", "-c", "umask 0; exec \"$0\" \"$@\""]);
    let log = builder.directory().join("log");
    let _pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o022, 0);
}

/// A fifo in a directory, opened for reading, so that a writer can open it without waiting.
fn fifo(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .unwrap()
        .into()
}

#[test]
fn a_fifo_that_nobody_empties_stops_no_traffic() {
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let path = builder.directory().join("fifo");
    let reader = fifo(&path);
    let pen = builder.options(["-l", path.to_str().unwrap()]).server(&server).start();
    let client = pen.connect(ME);
    // Far more than a pipe holds.
    for n in 0..3000 {
        request(&client, format!("{n} {}\n", "x".repeat(90)));
    }
    drop(reader);
    request(&client, "and when the reader is gone\n");
}

#[test]
fn a_slow_reader_of_a_fifo_gets_every_line_whole() {
    const LINES: usize = 700;
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder().workers(1);
    let path = builder.directory().join("fifo");
    let mut reader = fifo(&path);
    let pen = builder.options(["-l", path.to_str().unwrap()]).server(&server).start();
    let client = pen.connect(ME);
    // More than a pipe holds, but less than a pipe and a worker hold together.
    for n in 0..LINES {
        request(&client, format!("{n} {}\n", "x".repeat(90)));
    }
    let mut text = Vec::new();
    eventually("all lines have come", || {
        let _ = reader.read_to_end(&mut text);
        text.iter().filter(|byte| **byte == b'\n').count() >= LINES
    });
    let text = String::from_utf8(text).unwrap();
    for (n, line) in text.lines().enumerate() {
        assert!(
            line.starts_with("127.10.1.5 ") && line.contains(&format!(" {n} xxx")),
            "line {n} is not whole: {line:?}"
        );
    }
    assert!(!pen.said().contains("lost"), "{}", pen.said());
}

#[test]
fn by_network_each_line_is_a_datagram_without_the_time() {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = Backend::with(crate::harness::backend::echo);
    let to = receiver.local_addr().unwrap().to_string();
    let pen = Pen::builder().options(["-l", &to]).server(&server).start();
    let next = || {
        let mut buffer = [0; 2048];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    request(&pen.connect(ME), "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(next(), "+ 127.10.1.5 127.0.0.1 GET /1 HTTP/1.1\n");
    let long = "y".repeat(3000);
    request(&pen.connect(ME), &long);
    let line = next();
    assert_eq!(line.len(), 1024, "at most 1024 bytes in all");
    assert!(line.starts_with("+ 127.10.1.5 127.0.0.1 yyy") && line.ends_with("y\n"));
    drop(receiver);
    for _ in 0..10 {
        request(&pen.connect(ME), "nobody listens\n");
    }
}
