//! One operator's connection: a line in, a reply out, closed.
//!
//! Edge-triggered: every step goes on until the socket has no more, or says that it wants another
//! turn. The reply is followed by an end of file, and what the operator still sends is read and
//! dropped for a while: closing a socket with unread bytes resets the connection, and a
//! reset overtakes the reply (tcp(7)).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pen_config::command::{CommandError, MAX_LINE};
use pen_ipc::message::{self, Outcome};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::control::files::Replacement;

/// How long an operator may take for its line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// How long the supervisor may take to answer. It has a deadline of its own for everything; this is
/// for its end.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long an operator may take none of its reply.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// How long the end of the operator's side is waited for after the reply.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

/// Chunks in one turn; then the other operators have theirs.
const TURN: usize = 8;

/// An operator.
#[derive(Debug)]
pub struct Operator {
    socket: OwnedFd,
    by: message::Operator,
    stage: OperatorStage,
    wants: Wants,
    /// When this stage ends at the latest.
    deadline: Instant,
    /// The operator has ended its side.
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
    Replying(Reply),
    /// Waits for the operator's end.
    Lingering,
}

/// What an operator is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wants {
    /// The reply.
    Reply,
    /// A line with the outcome, and then the reply: [`Outcome::ASKED`].
    Outcome,
}

/// What is to be done next about an operator.
#[derive(Debug, Eq, PartialEq)]
pub enum Next {
    /// Nothing until its socket, or the supervisor, says something.
    Wait,
    /// Give it another turn soon.
    Again,
    /// Its line is whole, without its end: answer, or ask the supervisor.
    Line(Vec<u8>),
}

/// A reply, and how much of it has been sent.
#[derive(Debug)]
pub struct Reply {
    outcome: Outcome,
    /// What goes before the text.
    head: &'static str,
    source: Source,
    /// Of both.
    sent: usize,
}

#[derive(Debug)]
enum Source {
    Text(Vec<u8>),
    Memory(OwnedFd),
}

impl Reply {
    /// A short reply, with its line ends; may be empty.
    pub fn text(outcome: Outcome, text: String) -> Reply {
        Reply { outcome, head: "", source: Source::Text(text.into_bytes()), sent: 0 }
    }

    /// A reply that is the content of a memfd.
    pub fn memory(outcome: Outcome, memory: OwnedFd) -> Reply {
        Reply { outcome, head: "", source: Source::Memory(memory), sent: 0 }
    }

    /// Why a command is not carried out: one line, without its end.
    pub fn refusal(why: String) -> Reply {
        Reply::text(Outcome::Refused, why + "\n")
    }

    /// Whether there is nothing to say.
    fn is_empty(&self) -> bool {
        matches!(&self.source, Source::Text(text) if text.is_empty())
    }

    /// Sends the next piece. `Ok(0)`: all is sent.
    fn send_some(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let mut buffer = [0; CHUNK];
        let piece = match (&self.source, self.sent.checked_sub(self.head.len())) {
            (_, None) => &self.head.as_bytes()[self.sent..],
            (Source::Text(text), Some(sent)) => &text[sent..],
            (Source::Memory(memory), Some(sent)) => {
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
            // Not to be taken for the end of the reply.
            return Err(Errno::IO);
        }
        self.sent += sent;
        Ok(sent)
    }
}

impl Operator {
    /// An operator that has just come.
    pub fn new(socket: OwnedFd, by: message::Operator, now: Instant) -> Operator {
        let stage = OperatorStage::Reading(Vec::new());
        Operator {
            socket,
            by,
            stage,
            wants: Wants::Reply,
            deadline: now + LINE_TIME,
            finished: false,
            over: false,
        }
    }

    /// Who it is.
    pub fn by(&self) -> message::Operator {
        self.by
    }

    /// When its time is up, unless something happens.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it has its whole reply.
    pub fn is_answered(&self) -> bool {
        matches!(self.stage, OperatorStage::Lingering)
    }

    /// To be called before it is let go before its time. One that waits for the rest of a reply is
    /// reset: an end of file would look like the end of the reply.
    pub fn cut_off(&self) {
        if matches!(self.stage, OperatorStage::Asked(_) | OperatorStage::Replying(_)) {
            reset(&self.socket);
        }
    }

    /// Does what its socket allows now.
    pub fn go_on(&mut self) -> Next {
        match &mut self.stage {
            OperatorStage::Reading(_) => self.read_line(),
            OperatorStage::Asked(_) => Next::Wait,
            OperatorStage::Replying(_) => self.reply(),
            OperatorStage::Lingering => self.linger(),
        }
    }

    /// The supervisor has been asked. What `replacement` holds is put in its place if the answer is
    /// silence, which is success.
    pub fn asked(&mut self, replacement: Option<Replacement>) {
        self.enter(OperatorStage::Asked(replacement), ANSWER_TIME);
    }

    /// The reply is there; [`Operator::go_on`] sends it.
    pub fn answered(&mut self, reply: Reply) {
        let replacement = match &mut self.stage {
            OperatorStage::Asked(replacement) => replacement.take(),
            OperatorStage::Reading(_) => None,
            // One command, one reply.
            OperatorStage::Replying(_) | OperatorStage::Lingering => return,
        };
        let failed = replacement
            .filter(|_| reply.is_empty())
            .and_then(|replacement| replacement.commit().err());
        let mut reply = failed.map_or(reply, Reply::refusal);
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

    fn read_line(&mut self) -> Next {
        let OperatorStage::Reading(line) = &mut self.stage else { return Next::Wait };
        // One byte more than the longest line and CR LF shows that a line is too long.
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
                Err(Errno::AGAIN) => return Next::Wait,
                Err(_) => return self.end(),
            }
        }
    }

    /// The line that has been read, or that it is too long.
    fn take_line(&mut self) -> Next {
        let OperatorStage::Reading(line) = &mut self.stage else { return Next::Wait };
        let mut line = std::mem::take(line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if let Some(command) = line.strip_prefix(Outcome::ASKED.as_bytes()) {
            self.wants = Wants::Outcome;
            line = command.to_vec();
        }
        if line.len() > MAX_LINE {
            self.answered(Reply::refusal(CommandError::TooLong.to_string()));
            return Next::Again;
        }
        Next::Line(line)
    }

    fn reply(&mut self) -> Next {
        let OperatorStage::Replying(reply) = &mut self.stage else { return Next::Wait };
        for _ in 0..TURN {
            match reply.send_some(&self.socket) {
                Ok(0) => {
                    // Fails if the operator is gone, which the next read says.
                    let _ = shutdown(&self.socket, Shutdown::Write);
                    self.enter(OperatorStage::Lingering, LINGER_TIME);
                    return self.linger();
                }
                Ok(_) => self.deadline = Instant::now() + REPLY_TIME,
                Err(Errno::AGAIN) => return Next::Wait,
                Err(_) => return self.end(),
            }
        }
        Next::Again
    }

    /// Reads and drops what comes after the line.
    fn linger(&mut self) -> Next {
        let mut buffer = [0; CHUNK];
        for _ in 0..TURN {
            if self.finished {
                return self.end();
            }
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => self.finished = true,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Next::Wait,
                Err(_) => return self.end(),
            }
        }
        Next::Again
    }

    fn end(&mut self) -> Next {
        self.over = true;
        Next::Wait
    }
}

/// Has the close of a TCP connection be a reset. To an operator, an end of file without a byte is a
/// command that has been carried out in silence; who is turned away must not believe that.
pub fn reset(socket: &OwnedFd) {
    // Without it, the close is an ordinary one.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}
