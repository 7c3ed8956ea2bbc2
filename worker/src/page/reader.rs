//! One reader's connection: reads requests, writes responses one after the other, or streams
//! events.
//!
//! Epoll is edge-triggered: every step goes on until the socket has no more, or asks for another
//! turn. Nothing is read while a response is written: pipelined requests wait in the kernel.
//! A connection that ends with bytes unread reads and drops them for a while: closing a socket with
//! unread bytes resets it, and a reset overtakes the response (tcp(7)).

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pen_config::ids::ClientKey;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::page::request::{self, LIMIT, Parsed, Request, Stays};
use crate::page::response::{Code, Response, sent};
use crate::page::stream::Stream;
use crate::port::reset;

/// Time limit for a request, from its first byte or from the arrival of the reader.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a connection stays without a request: longer than scrapes are usually apart.
const IDLE_TIME: Duration = Duration::from_secs(90);

/// Time limit for the supervisor's answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long a reader may take for [`PROGRESS`] bytes.
const SEND_TIME: Duration = Duration::from_secs(30);

/// A reader that takes nothing for so long may lose its place to another one.
const STALL_TIME: Duration = Duration::from_secs(2);

/// A reader that takes so many bytes gets new time.
const PROGRESS: usize = 64 * 1024;

/// Time limit for a reader's end of file after the last response.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Most bytes that are dropped after the last response.
const DROPPED: usize = 1 << 20;

/// Bytes read or dropped at a time.
const CHUNK: usize = LIMIT + 1;

/// Steps in one turn. Then the other readers are served.
const TURN: usize = 16;

/// A reader.
#[derive(Debug)]
pub struct Reader<Wanted> {
    socket: OwnedFd,
    peer: ClientKey,
    stage: Stage<Wanted>,
    /// Bytes of requests.
    input: Vec<u8>,
    /// How many of them were searched for the end of a head.
    seen: usize,
    /// Since when nothing is asked, since the beginning of the request, or since the last byte of
    /// the response that was sent.
    since: Instant,
    /// When this stage ends at the latest.
    deadline: Instant,
}

#[derive(Debug)]
enum Stage<Wanted> {
    /// Reads a request.
    Reading,
    /// Waits for what it wants.
    Waiting(Wanted),
    /// Writes a response.
    Sending(Sending),
    /// Streams events.
    Streaming(Stream),
    /// Waits for the reader's end of file; so many bytes were dropped.
    Lingering(usize),
    /// Nothing is left to do.
    Over,
}

/// A response on its way.
#[derive(Debug)]
struct Sending {
    head: Vec<u8>,
    body: Rc<[u8]>,
    /// Bytes sent, of head and body together.
    sent: usize,
    /// At how many bytes the reader gets new time.
    next: usize,
    connection: Stays,
}

/// What to do next about a reader.
#[derive(Debug)]
pub enum Next {
    /// Nothing until an event at its socket or an answer of the supervisor.
    Wait,
    /// Serve it again soon.
    Again,
    /// A whole request: respond.
    Request(Request),
}

/// How well a reader can be spared: the first is let go first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Idleness {
    /// It has all that it asked for, and the connection ends.
    Ending,
    /// It asks for nothing.
    Idle,
    /// It takes nothing of its response.
    Stalled,
    /// Its request is not whole yet.
    Asking,
}

impl<Wanted> Reader<Wanted> {
    /// A new reader with this address.
    pub fn new(socket: OwnedFd, peer: ClientKey, now: Instant) -> Reader<Wanted> {
        Reader {
            socket,
            peer,
            stage: Stage::Reading,
            input: Vec::new(),
            seen: 0,
            since: now,
            deadline: now + REQUEST_TIME,
        }
    }

    /// Its address.
    pub fn peer(&self) -> ClientKey {
        self.peer
    }

    /// When its time is up, unless something happens before.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the connection is finished.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Whether it gets events.
    pub fn is_streaming(&self) -> bool {
        matches!(self.stage, Stage::Streaming(_))
    }

    /// Whether it has one of the places for readers. One that gets events has a place of another
    /// kind, and one that ends needs none.
    pub fn has_place(&self) -> bool {
        match self.stage {
            Stage::Reading | Stage::Waiting(_) | Stage::Sending(_) => true,
            Stage::Streaming(_) | Stage::Lingering(_) | Stage::Over => false,
        }
    }

    /// What it waits for.
    pub fn wanted(&self) -> Option<&Wanted> {
        if let Stage::Waiting(wanted) = &self.stage { Some(wanted) } else { None }
    }

    /// Whether no response for it is being made or sent.
    pub fn is_without_response(&self) -> bool {
        match self.stage {
            Stage::Reading | Stage::Lingering(_) | Stage::Over => true,
            Stage::Waiting(_) | Stage::Sending(_) | Stage::Streaming(_) => false,
        }
    }

    /// How well it can be spared, and since when nothing came from it; none if it cannot.
    pub fn idleness(&self, now: Instant) -> Option<(Idleness, Instant)> {
        let idleness = match self.stage {
            Stage::Lingering(_) | Stage::Over => Idleness::Ending,
            Stage::Reading if self.input.is_empty() => Idleness::Idle,
            Stage::Reading => Idleness::Asking,
            Stage::Sending(_) if self.since + STALL_TIME <= now => Idleness::Stalled,
            Stage::Waiting(_) | Stage::Sending(_) | Stage::Streaming(_) => return None,
        };
        Some((idleness, self.since))
    }

    /// The stream of events, if it gets events.
    pub fn stream(&mut self) -> Option<&mut Stream> {
        if let Stage::Streaming(stream) = &mut self.stage { Some(stream) } else { None }
    }

    /// Does what the socket allows now.
    pub fn go_on(&mut self, unix: i64) -> Next {
        for _ in 0..TURN {
            let next = match &self.stage {
                Stage::Reading => self.read(unix),
                Stage::Waiting(_) | Stage::Over => Some(Next::Wait),
                Stage::Sending(_) => self.send(),
                Stage::Streaming(_) => self.send_events(),
                Stage::Lingering(_) => self.drop_rest(),
            };
            if let Some(next) = next {
                return next;
            }
        }
        Next::Again
    }

    /// Notes that it waits for an answer of the supervisor.
    pub fn wait(&mut self, wanted: Wanted) {
        self.enter(Stage::Waiting(wanted), ANSWER_TIME);
    }

    /// Sends a response; [`Reader::go_on`] goes on with it.
    pub fn respond(&mut self, response: &Response, to: &Request, unix: i64) {
        let head = response.head(to.connection, unix);
        let body = sent(response.body(), to.method);
        let (sent, next, connection) = (0, PROGRESS, to.connection);
        self.enter(Stage::Sending(Sending { head, body, sent, next, connection }), SEND_TIME);
    }

    /// Begins to stream events.
    pub fn begin_stream(&mut self, stream: Stream) {
        self.enter(Stage::Streaming(stream), SEND_TIME);
    }

    /// Ends a reader whose time is up.
    pub fn expire(&mut self, unix: i64) {
        match &self.stage {
            Stage::Reading if self.input.is_empty() => self.stage = Stage::Over,
            Stage::Reading => {
                let late = Response::line(Code::RequestTimeout, "the request took too long");
                self.refuse(&late, unix);
            }
            Stage::Sending(_) => {
                // The end of file in the middle of a response would look like its end.
                reset(&self.socket);
                self.stage = Stage::Over;
            }
            Stage::Waiting(_) | Stage::Lingering(_) | Stage::Streaming(_) | Stage::Over => {
                self.stage = Stage::Over;
            }
        }
    }

    /// Ends the connection as soon as its present response is sent.
    pub fn end(&mut self) {
        match &mut self.stage {
            Stage::Sending(sending) => sending.connection = Stays::Closes,
            Stage::Streaming(_) => self.stage = Stage::Over,
            Stage::Reading | Stage::Waiting(_) | Stage::Lingering(_) | Stage::Over => {}
        }
    }

    /// Makes the close a reset. Call this before a reader is dropped that may read no more.
    pub fn turn_away(&self) {
        reset(&self.socket);
    }

    /// Call this before a reader is dropped early.
    pub fn cut_off(&self) {
        if let Stage::Sending(_) = self.stage {
            reset(&self.socket);
        }
    }

    fn enter(&mut self, stage: Stage<Wanted>, time: Duration) {
        self.stage = stage;
        self.since = Instant::now();
        self.deadline = self.since + time;
    }

    /// Answers what is no request, or a reader without a place, and ends the connection after it.
    pub fn refuse(&mut self, response: &Response, unix: i64) {
        let (head, body) = (response.head(Stays::Closes, unix), response.body());
        let sending = Sending { head, body, sent: 0, next: PROGRESS, connection: Stays::Closes };
        self.enter(Stage::Sending(sending), SEND_TIME);
    }

    /// Reads until a request is whole.
    fn read(&mut self, unix: i64) -> Option<Next> {
        match request::parse(&self.input, self.seen) {
            Parsed::Whole(request, length) => {
                self.input.drain(..length);
                self.seen = 0;
                return Some(Next::Request(request));
            }
            Parsed::Invalid(invalid) => {
                self.refuse(&Response::to_invalid(invalid), unix);
                return None;
            }
            Parsed::Partial => self.seen = self.input.len(),
        }
        let mut buffer = [0; CHUNK];
        match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.stage = Stage::Over,
            Ok((read, _)) => {
                if self.input.is_empty() {
                    self.since = Instant::now();
                    self.deadline = self.since + REQUEST_TIME;
                }
                self.input.extend_from_slice(&buffer[..read]);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(Next::Wait),
            Err(_) => self.stage = Stage::Over,
        }
        None
    }

    fn send(&mut self) -> Option<Next> {
        let Stage::Sending(sending) = &mut self.stage else { return None };
        let piece = match sending.sent.checked_sub(sending.head.len()) {
            None => &sending.head[sending.sent..],
            Some(sent) => &sending.body[sent..],
        };
        if piece.is_empty() {
            self.finish();
            return None;
        }
        match send(&self.socket, piece, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                sending.sent += sent;
                self.since = Instant::now();
                if sending.sent >= sending.next {
                    sending.next = sending.sent + PROGRESS;
                    self.deadline = self.since + SEND_TIME;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(Next::Wait),
            Err(_) => self.stage = Stage::Over,
        }
        None
    }

    /// Goes on after a response.
    fn finish(&mut self) {
        let Stage::Sending(sending) = &self.stage else { return };
        match sending.connection {
            Stays::Open => {
                let time = if self.input.is_empty() { IDLE_TIME } else { REQUEST_TIME };
                self.enter(Stage::Reading, time);
            }
            Stays::Closes => {
                // Fails if the reader has gone; the next read then reports it.
                let _ = shutdown(&self.socket, Shutdown::Write);
                self.enter(Stage::Lingering(0), LINGER_TIME);
            }
        }
    }

    fn send_events(&mut self) -> Option<Next> {
        let Stage::Streaming(stream) = &mut self.stage else { return None };
        if !stream.pending().is_empty() {
            match send(&self.socket, stream.pending(), SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    stream.sent(sent);
                    self.deadline = Instant::now() + SEND_TIME;
                    return None;
                }
                Err(Errno::INTR) => return None,
                Err(Errno::AGAIN) => {}
                Err(_) => {
                    self.stage = Stage::Over;
                    return None;
                }
            }
        }
        // What such a reader sends means nothing. Its end of file does.
        let mut buffer = [0; CHUNK];
        match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.stage = Stage::Over,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(Next::Wait),
            Err(_) => self.stage = Stage::Over,
        }
        None
    }

    /// Reads and drops bytes after the last response.
    fn drop_rest(&mut self) -> Option<Next> {
        let Stage::Lingering(dropped) = &mut self.stage else { return None };
        let mut buffer = [0; CHUNK];
        match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => self.stage = Stage::Over,
            Ok((read, _)) => {
                *dropped += read;
                if *dropped > DROPPED {
                    self.stage = Stage::Over;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Some(Next::Wait),
            Err(_) => self.stage = Stage::Over,
        }
        None
    }

    /// The time of a stream that has nothing to send does not run out.
    pub fn keep_stream(&mut self, now: Instant) {
        if let Stage::Streaming(stream) = &self.stage
            && stream.pending().is_empty()
        {
            self.deadline = now + SEND_TIME;
        }
    }
}
