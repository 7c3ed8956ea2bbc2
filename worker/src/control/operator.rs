//! One operator's connection: reads a line, writes a reply, closes. One that watches stays.
//!
//! Epoll is edge-triggered: every step goes on until the socket has no more, or asks for another
//! turn. The reply is followed by an end of file. Then the operator's bytes are read and dropped
//! for a while: closing a socket with unread bytes resets the connection, and a reset overtakes the
//! reply (tcp(7)).

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pen_config::command::{Action, Command, CommandError, Form, MAX_LINE};
use pen_config::ids::ClientKey;
use pen_ipc::message::{self, Outcome};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::control::files::Replacement;
use crate::control::watch::{self, Watch};
use crate::port::reset;

/// Time limit for the operator's line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// Time limit for the supervisor's answer. The supervisor has deadlines of its own; this one is for
/// a supervisor that has ended.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Time limit for the supervisor's answer to a command.
pub fn answer_time(command: &Command) -> Duration {
    match command {
        Command::Action(Action::Drain { wait, .. }) => {
            ANSWER_TIME + Duration::from_secs((*wait).into())
        }
        Command::Action(_) | Command::Query(_) | Command::Setting(_) => ANSWER_TIME,
    }
}

/// Time limit for an operator that reads none of its reply.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// Time limit for an operator that watched to take the last line.
const LAST_LINE_TIME: Duration = Duration::from_secs(5);

/// Time limit for the operator's end of file after the reply.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Why an operator gets no more events, whom the access list permits no longer.
const EXCLUDED: &str = "control_acl no longer permits this address";

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
    /// When this stage ends at the latest; none: it has no limit.
    deadline: Option<Instant>,
    /// The operator has sent its end of file.
    finished: bool,
    over: bool,
}

#[derive(Debug)]
enum OperatorStage {
    /// Reads the line.
    Reading(Vec<u8>),
    /// Waits for the supervisor.
    Asked(Awaited),
    /// Gets each event.
    Watching(Watch),
    /// Writes the reply.
    Replying(OperatorReply),
    /// Waits for the operator's end of file.
    Lingering,
}

/// What follows from the supervisor's answer.
#[derive(Debug)]
pub enum Awaited {
    /// The answer is the reply.
    Reply,
    /// The file is put in place if the answer is empty, which means success.
    Replacement(Replacement),
    /// The operator gets each event, beginning with the number in the answer.
    Watch(Form),
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

    /// The number that the reply is, if the command was carried out.
    fn number(&self) -> Option<u64> {
        match (&self.source, self.outcome) {
            (LineSource::Text(text), Outcome::Done) => {
                std::str::from_utf8(text).ok()?.trim_end().parse().ok()
            }
            (LineSource::Text(_), Outcome::Refused) | (LineSource::Memory(_), _) => None,
        }
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
            deadline: Some(now + LINE_TIME),
            finished: false,
            over: false,
        }
    }

    /// Who the operator is.
    pub fn by(&self) -> message::Operator {
        self.by
    }

    /// Its address for the access list.
    pub fn address(&self) -> ClientKey {
        match self.by {
            message::Operator::Remote(address) => ClientKey::from_bytes(address),
            message::Operator::Local(_) => ClientKey::UNIX,
        }
    }

    /// Refuses an operator whom new settings exclude. One whose command is under way gets the
    /// reply, because that command may have excluded it; it gets no events.
    pub fn exclude(&mut self) {
        match &mut self.stage {
            OperatorStage::Reading(_) => {
                reset(&self.socket);
                self.over = true;
            }
            OperatorStage::Watching(watch) => watch.close(EXCLUDED),
            OperatorStage::Asked(Awaited::Watch(_)) => {
                self.answered(OperatorReply::refusal(format!("watch: {EXCLUDED}")));
            }
            OperatorStage::Asked(Awaited::Reply | Awaited::Replacement(_))
            | OperatorStage::Replying(_)
            | OperatorStage::Lingering => {}
        }
    }

    /// When its time is up, unless something happens before; none while it watches.
    pub fn deadline(&self) -> Option<Instant> {
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

    /// Whether a reply is being sent.
    pub fn is_replying(&self) -> bool {
        matches!(self.stage, OperatorStage::Replying(_))
    }

    /// Whether it waits for the supervisor.
    pub fn is_asked(&self) -> bool {
        matches!(self.stage, OperatorStage::Asked(_))
    }

    /// Whether it ended its side with the line.
    pub fn has_finished(&self) -> bool {
        self.finished
    }

    /// Whether it gets events, or asked for them.
    pub fn watches(&self) -> bool {
        match &self.stage {
            OperatorStage::Asked(Awaited::Watch(_)) => true,
            OperatorStage::Watching(watch) => !watch.is_closed(),
            OperatorStage::Asked(Awaited::Reply | Awaited::Replacement(_))
            | OperatorStage::Reading(_)
            | OperatorStage::Replying(_)
            | OperatorStage::Lingering => false,
        }
    }

    /// What it is sent, if it gets events.
    pub fn watch(&mut self) -> Option<&mut Watch> {
        match &mut self.stage {
            OperatorStage::Watching(watch) if !watch.is_closed() => Some(watch),
            OperatorStage::Watching(_)
            | OperatorStage::Reading(_)
            | OperatorStage::Asked(_)
            | OperatorStage::Replying(_)
            | OperatorStage::Lingering => None,
        }
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
            OperatorStage::Watching(_) => self.go_on_watching(),
            OperatorStage::Replying(_) => self.reply(),
            OperatorStage::Lingering => self.linger(),
        }
    }

    /// Notes that the supervisor was asked, whose answer may take this long.
    pub fn asked(&mut self, awaited: Awaited, time: Duration) {
        self.enter(OperatorStage::Asked(awaited), time);
    }

    /// Takes the reply; [`OperatorConnection::go_on`] sends it.
    pub fn answered(&mut self, reply: OperatorReply) {
        let awaited = match &mut self.stage {
            OperatorStage::Asked(awaited) => std::mem::replace(awaited, Awaited::Reply),
            OperatorStage::Reading(_) => Awaited::Reply,
            // One command, one reply.
            OperatorStage::Watching(_) | OperatorStage::Replying(_) | OperatorStage::Lingering => {
                return;
            }
        };
        let head = |outcome: Outcome| match self.wants {
            Wants::Reply => "",
            Wants::Outcome => outcome.line(),
        };
        let mut reply = match awaited {
            Awaited::Reply => reply,
            Awaited::Replacement(replacement) => {
                let failed = reply.is_empty().then(|| replacement.commit().err()).flatten();
                failed.map_or(reply, OperatorReply::refusal)
            }
            Awaited::Watch(form) => match reply.number() {
                Some(next) => {
                    watch::keep_alive(&self.socket);
                    let watch = Watch::new(form, next, head(Outcome::Done));
                    (self.stage, self.deadline) = (OperatorStage::Watching(watch), None);
                    return;
                }
                None => reply,
            },
        };
        reply.head = head(reply.outcome);
        self.enter(OperatorStage::Replying(reply), REPLY_TIME);
    }

    fn enter(&mut self, stage: OperatorStage, time: Duration) {
        self.stage = stage;
        self.deadline = Some(Instant::now() + time);
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
                Ok(_) => self.deadline = Some(Instant::now() + REPLY_TIME),
                Err(Errno::AGAIN) => return NextAction::Wait,
                Err(_) => return self.end(),
            }
        }
        NextAction::Again
    }

    /// Sends events. What the operator sends meanwhile is dropped; its end of file means that it
    /// has left.
    fn go_on_watching(&mut self) -> NextAction {
        let OperatorStage::Watching(watch) = &mut self.stage else { return NextAction::Wait };
        if watch.is_closed() && self.deadline.is_none() {
            self.deadline = Some(Instant::now() + LAST_LINE_TIME);
        }
        let mut buffer = [0; CHUNK];
        for _ in 0..TURN {
            match watch.send_some(&self.socket) {
                Ok(0) if watch.is_closed() => {
                    let _ = shutdown(&self.socket, Shutdown::Write);
                    self.enter(OperatorStage::Lingering, LINGER_TIME);
                    return self.linger();
                }
                Ok(0) | Err(Errno::AGAIN) => {}
                Ok(_) => continue,
                Err(_) => return self.end(),
            }
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => return self.end(),
                Ok(_) | Err(Errno::INTR) => {}
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
