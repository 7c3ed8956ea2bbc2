//! The whole page process against real sockets. The test plays the supervisor.

mod crowds;
mod ends;
mod http;
mod streams;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Received, Sent};
use pen_ipc::codec;
use pen_ipc::message::{FromPage, FromStartingWorker, ToPage};
use pen_ipc::start::{Begins, Hosts, PageStart};
use pen_status::{Status, WorkerStatus};
use rustix::fs::MemfdFlags;

use crate::page::run;
use crate::waiting::{PATIENCE, message};

/// A page process in a thread, with the supervisor's end of its channel.
struct Process {
    channel: Channel<ToPage, FromPage>,
    address: SocketAddr,
    thread: Option<JoinHandle<i32>>,
}

impl Process {
    fn start(settings: Settings) -> Process {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (theirs, ours) = Channel::<FromStartingWorker, ToPage>::pair().unwrap();
        let start = PageStart {
            channel: theirs,
            listener: listener.into(),
            begins: Begins::AtOnce,
            settings,
            hosts: Hosts::These(vec!["lb1.example.com".into()]),
        };
        let thread = thread::spawn(move || run(start));
        let FromStartingWorker::Ready = message(&ours) else {
            panic!("the first message is Ready")
        };
        Process { channel: ours.into_phase(), address, thread: Some(thread) }
    }

    fn plain() -> Process {
        Process::start(Settings::default())
    }

    fn connect(&self) -> TcpStream {
        let reader = TcpStream::connect(self.address).unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        reader.set_write_timeout(Some(PATIENCE)).unwrap();
        reader.set_nodelay(true).unwrap();
        reader
    }

    fn sends(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut reader = self.connect();
        reader.write_all(bytes.as_ref()).unwrap();
        reader
    }

    /// A request for a path, on a new connection that stays.
    fn gets(&self, path: &str) -> TcpStream {
        self.sends(format!("GET {path} HTTP/1.1\r\nHost: pen\r\n\r\n"))
    }

    /// The next question, by its serial number.
    #[track_caller]
    fn asked(&self) -> u32 {
        match message(&self.channel) {
            FromPage::Ask { serial } => serial,
            other => panic!("{other:?}"),
        }
    }

    /// Whether it asks nothing now.
    fn asks_nothing(&self) -> bool {
        matches!(self.channel.receive().unwrap(), Received::Empty)
    }

    fn answers(&self, serial: u32, status: &Status) {
        let memory = memory(&codec::encode_large(status).unwrap());
        self.tells(&ToPage::Status { serial }, Some(&memory));
    }

    fn tells(&self, message: &ToPage, memory: Option<&OwnedFd>) {
        let sent = self.channel.send(message, memory.map(AsFd::as_fd)).unwrap();
        assert_eq!(sent, Sent::Queued);
    }

    /// Waits for the end of the process; returns its exit status.
    fn ends(mut self) -> i32 {
        let status = self.thread.take().unwrap().join().unwrap();
        std::mem::forget(self);
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.channel.send(&ToPage::Stop, None);
        let status = self.thread.take().unwrap().join();
        if !thread::panicking() {
            assert_eq!(status.unwrap(), 0);
        }
    }
}

fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    std::fs::File::from(memory.try_clone().unwrap()).write_all(bytes).unwrap();
    memory
}

/// A status of a pen that serves clients.
fn well() -> Status {
    let (busy_ms, memory, restarts) = (0, None, 0);
    let worker =
        WorkerStatus { number: 0, pid: Some(7), connections: 0, busy_ms, memory, restarts };
    Status { worker_list: vec![worker], connections_max: 9, dummy: true, ..Status::default() }
}

/// A response: the status, the head and the body.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn has(&self, field: &str) -> bool {
        self.head.contains(&format!("\r\n{field}\r\n"))
    }
}

/// The next response of a connection. `has_body` is false for the answer to HEAD.
#[track_caller]
fn response(reader: &mut TcpStream, has_body: bool) -> Got {
    let head = head(reader);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.unwrap_or("0").parse().unwrap();
    let mut body = vec![0; if has_body { length } else { 0 }];
    reader.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head, body: String::from_utf8(body).unwrap() }
}

/// The next head of a connection.
#[track_caller]
fn head(reader: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("no whole head: {error}: {:?}", String::from_utf8_lossy(&head))
        });
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Everything until the end of the connection, which is no reset.
#[track_caller]
fn rest(reader: &mut TcpStream) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}
