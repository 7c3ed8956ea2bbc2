//! One operator's connection: reads a line, writes a reply, closes.
//!
//! Epoll is edge-triggered: every step goes on until the socket has no more, or asks for another
//! turn. The reply is followed by an end of file. Then the operator's bytes are read and dropped
//! for a while: closing a socket with unread bytes resets the connection, and a reset overtakes the
//! reply (tcp(7)).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pen_config::command::{CommandError, MAX_LINE};
use pen_ipc::message::{self, Outcome};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::control::files::Replacement;

/// Time limit for the operator's line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// Time limit for the supervisor's answer. The supervisor has deadlines of its own; this one is for
/// a supervisor that has ended.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Time limit for an operator that reads none of its reply.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// Time limit for the operator's end of file after the reply.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

/// Chunks moved in one turn. Then the other operators are served.
const TURN: usize = 8;

/// An operator.
#[derive(Debug)]
pub struct OperatorConnection {
    socket: OwnedFd,
    by: message::Operator,
    stage: OperatorStage,
    wants: Wants,
    /// When this stage ends at the latest.
    deadline: Instant,
    /// The operator has sent its end of file.
    finished: bool,
    over: bool,
}

#[derive(Debug)]
enum OperatorStage {
    /// Reads the line.
    Reading(Vec<u8>),
    /// Waits for the supervisor.
    Asked(Option<Replacement>),
    /// Writes the reply.
    Replying(OperatorReply),
    /// Waits for the operator's end of file.
    Lingering,
}

/// What an operator asked to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wants {
    /// The reply.
    Reply,
    /// A line with the outcome and then the reply: [`Outcome::ASKED`].
    Outcome,
}

/// What to do next about an operator.
#[derive(Debug, Eq, PartialEq)]
pub enum NextAction {
    /// Nothing until an event at its socket or an answer of the supervisor.
    Wait,
    /// Serve it again soon.
    Again,
    /// The whole line, without its line end: answer it, or ask the supervisor.
    Line(Vec<u8>),
}

/// A reply, and how much of it was sent.
#[derive(Debug)]
pub struct OperatorReply {
    outcome: Outcome,
    /// Sent before the text.
    head: &'static str,
    source: LineSource,
    /// Bytes sent, of `head` and text together.
    sent: usize,
}

#[derive(Debug)]
enum LineSource {
    Text(Vec<u8>),
    Memory(OwnedFd),
}

impl OperatorReply {
    /// A short reply, with its line ends. It may be empty.
    pub fn text(outcome: Outcome, text: String) -> OperatorReply {
        OperatorReply { outcome, head: "", source: LineSource::Text(text.into_bytes()), sent: 0 }
    }

    /// A reply whose text is the content of a memfd.
    pub fn memory(outcome: Outcome, memory: OwnedFd) -> OperatorReply {
        OperatorReply { outcome, head: "", source: LineSource::Memory(memory), sent: 0 }
    }

    /// The reason why a command is not carried out: one line, without its line end.
    pub fn refusal(why: String) -> OperatorReply {
        OperatorReply::text(Outcome::Refused, why + "\n")
    }

    /// Whether the reply has no bytes.
    fn is_empty(&self) -> bool {
        matches!(&self.source, LineSource::Text(text) if text.is_empty())
    }

    /// Sends the next piece. `Ok(0)`: everything was sent.
    fn send_some(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let mut buffer = [0; CHUNK];
        let piece = match (&self.source, self.sent.checked_sub(self.head.len())) {
            (_, None) => &self.head.as_bytes()[self.sent..],
            (LineSource::Text(text), Some(sent)) => &text[sent..],
            (LineSource::Memory(memory), Some(sent)) => {
                let read = rustix::io::retry_on_intr(|| {
                    rustix::io::pread(memory, &mut buffer[..], sent as u64)
                })?;
                &buffer[..read]
            }
        };
        if piece.is_empty() {
            return Ok(0);
        }
        let sent = rustix::io::retry_on_intr(|| send(socket, piece, SendFlags::NOSIGNAL))?;
        if sent == 0 {
            // The operator must not take this for the end of the reply.
            return Err(Errno::IO);
        }
        self.sent += sent;
        Ok(sent)
    }
}

impl OperatorConnection {
    /// A new operator.
    pub fn new(socket: OwnedFd, by: message::Operator, now: Instant) -> OperatorConnection {
        let stage = OperatorStage::Reading(Vec::new());
        OperatorConnection {
            socket,
            by,
            stage,
            wants: Wants::Reply,
            deadline: now + LINE_TIME,
            finished: false,
            over: false,
        }
    }

    /// Who the operator is.
    pub fn by(&self) -> message::Operator {
        self.by
    }

    /// When its time is up, unless something happens before.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the connection is finished.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the whole reply was sent.
    pub fn is_answered(&self) -> bool {
        matches!(self.stage, OperatorStage::Lingering)
    }

    /// Call this before an operator is dropped early. One that waits for the rest of a reply is
    /// reset: an end of file would look like the end of the reply.
    pub fn cut_off(&self) {
        if matches!(self.stage, OperatorStage::Asked(_) | OperatorStage::Replying(_)) {
            reset(&self.socket);
        }
    }

    /// Does what the socket allows now.
    pub fn go_on(&mut self) -> NextAction {
        match &mut self.stage {
            OperatorStage::Reading(_) => self.read_line(),
            OperatorStage::Asked(_) => NextAction::Wait,
            OperatorStage::Replying(_) => self.reply(),
            OperatorStage::Lingering => self.linger(),
        }
    }

    /// Notes that the supervisor was asked. `replacement` is put in place if the answer is empty,
    /// which means success.
    pub fn asked(&mut self, replacement: Option<Replacement>) {
        self.enter(OperatorStage::Asked(replacement), ANSWER_TIME);
    }

    /// Takes the reply; [`OperatorConnection::go_on`] sends it.
    pub fn answered(&mut self, reply: OperatorReply) {
        let replacement = match &mut self.stage {
            OperatorStage::Asked(replacement) => replacement.take(),
            OperatorStage::Reading(_) => None,
            // One command, one reply.
            OperatorStage::Replying(_) | OperatorStage::Lingering => return,
        };
        let failed = replacement
            .filter(|_| reply.is_empty())
            .and_then(|replacement| replacement.commit().err());
        let mut reply = failed.map_or(reply, OperatorReply::refusal);
        reply.head = match self.wants {
            Wants::Reply => "",
            Wants::Outcome => reply.outcome.line(),
        };
        self.enter(OperatorStage::Replying(reply), REPLY_TIME);
    }

    fn enter(&mut self, stage: OperatorStage, time: Duration) {
        self.stage = stage;
        self.deadline = Instant::now() + time;
    }

    fn read_line(&mut self) -> NextAction {
        let OperatorStage::Reading(line) = &mut self.stage else { return NextAction::Wait };
        // One byte more than the longest line and CR LF: it shows that a line is too long.
        let mut buffer = [0; Outcome::ASKED.len() + MAX_LINE + 3];
        loop {
            match recv(&self.socket, &mut buffer[line.len()..], RecvFlags::empty()) {
                Ok((0, _)) => {
                    self.finished = true;
                    return self.take_line();
                }
                Ok((read, _)) => {
                    let from = line.len();
                    line.extend_from_slice(&buffer[from..from + read]);
                    if let Some(end) = line[from..].iter().position(|byte| *byte == b'\n') {
                        line.truncate(from + end);
                        return self.take_line();
                    }
                    let asked = line.starts_with(Outcome::ASKED.as_bytes());
                    if line.len() > MAX_LINE + 1 + if asked { Outcome::ASKED.len() } else { 0 } {
                        return self.take_line();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return NextAction::Wait,
                Err(_) => return self.end(),
            }
        }
    }

    /// The line that was read, or a reply that it is too long.
    fn take_line(&mut self) -> NextAction {
        let OperatorStage::Reading(line) = &mut self.stage else { return NextAction::Wait };
        let mut line = std::mem::take(line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if let Some(command) = line.strip_prefix(Outcome::ASKED.as_bytes()) {
            self.wants = Wants::Outcome;
            line = command.to_vec();
        }
        if line.len() > MAX_LINE {
            self.answered(OperatorReply::refusal(CommandError::TooLong.to_string()));
            return NextAction::Again;
        }
        NextAction::Line(line)
    }

    fn reply(&mut self) -> NextAction {
        let OperatorStage::Replying(reply) = &mut self.stage else { return NextAction::Wait };
        for _ in 0..TURN {
            match reply.send_some(&self.socket) {
                Ok(0) => {
                    // Fails if the operator has gone; the next read then reports it.
                    let _ = shutdown(&self.socket, Shutdown::Write);
                    self.enter(OperatorStage::Lingering, LINGER_TIME);
                    return self.linger();
                }
                Ok(_) => self.deadline = Instant::now() + REPLY_TIME,
                Err(Errno::AGAIN) => return NextAction::Wait,
                Err(_) => return self.end(),
            }
        }
        NextAction::Again
    }

    /// Reads and drops bytes after the line.
    fn linger(&mut self) -> NextAction {
        let mut buffer = [0; CHUNK];
        for _ in 0..TURN {
            if self.finished {
                return self.end();
            }
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => self.finished = true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return NextAction::Wait,
                Err(_) => return self.end(),
            }
        }
        NextAction::Again
    }

    fn end(&mut self) -> NextAction {
        self.over = true;
        NextAction::Wait
    }
}

/// Makes the close of a TCP connection a reset. To an operator, an end of file without a byte means
/// success. A refused operator must not see that.
pub fn reset(socket: &OwnedFd) {
    // Without the option, the close is an ordinary one.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}
