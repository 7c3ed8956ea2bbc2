//! The control process: the only process that reads operators' bytes. It is jailed like a worker.
//!
//! It reads one line from each connection, parses it, and opens the file that it names, with its
//! own rights. It passes the typed command to the supervisor, which decides. Then it writes the
//! reply and closes. It has no power of its own: an attacker who takes it over can send only the
//! commands that any operator at the control port can send.
//!
//! It has one thread and one event loop, and it never blocks. `operator` is the life of one
//! connection, `watch` what one that stays is sent, `watchers` all of those, `link` the channel to
//! the supervisor, `files` opens files.

mod files;
mod link;
mod operator;
#[cfg(test)]
mod tests;
mod watch;
mod watchers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pen_config::acl::Acl;
use pen_config::command::{Command, Query, before_comment, parse};
use pen_config::ids::ClientKey;
use pen_config::settings::Settings;
use pen_ipc::channel::Received;
use pen_ipc::memory;
use pen_ipc::message::{self, Outcome, ToControl};
use pen_ipc::start::ControlStart;
use rustix::net::sockopt::socket_peercred;

use crate::control::files::Replacement;
use crate::control::link::SupervisorLink;
use crate::control::operator::{
    Awaited, NextAction, OperatorConnection, OperatorReply, answer_time,
};
use crate::control::watchers::{STOPS, UPGRADED_WATCH, WATCHERS};
use crate::port::{Arrival, Port, Stop, reset};
use crate::ready::begin;

/// The channel to the supervisor is readable or writable.
const CHANNEL: Token = Token(usize::MAX);
/// An operator waits to be accepted.
const LISTENER: Token = Token(usize::MAX - 1);

/// Most operators at once. For one more, an earlier one is closed.
const OPERATORS: usize = 64;

/// Operators accepted in a row, before the open connections are served.
const ACCEPT_BATCH: usize = 16;

/// How long to wait before a message is sent again that the supervisor's queue had no room for. An
/// event also tells of room; this is for a queue that is full for another reason than its length.
const RETRY: Duration = Duration::from_millis(100);

/// How long a control process that leaves serves operators who have not sent their line yet.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// The reply to a command that came too late for the program before an upgrade.
const UPGRADED: &str = "pen was upgraded meanwhile; give the command again";

/// The control process and its state.
struct Control {
    poll: Poll,
    port: Port,
    link: SupervisorLink,
    /// The access list in force.
    acl: Acl,
    /// The path of its root directory outside the jail.
    jail: Option<PathBuf>,
    /// By ticket, that is, in order of arrival.
    operators: BTreeMap<u64, OperatorConnection>,
    next_ticket: u64,
    /// Operators that can go on although no event will report it.
    ready: Vec<u64>,
    /// Another control process serves operators, and this one leaves: when at the latest.
    leaving: Option<Instant>,
    /// Whether the supervisor sends events.
    is_told: bool,
}

/// Runs the control process until the supervisor tells it to stop or has gone. Returns the exit
/// status.
pub fn run(start: ControlStart) -> i32 {
    let ControlStart { channel, listener, begins, settings, jail } = start;
    let listen = |poll: &Poll| Port::new(listener, LISTENER, begins, poll);
    let Some((poll, port)) = begin(&channel, "control port", CHANNEL, listen) else { return 1 };
    let mut control = Control {
        poll,
        port,
        link: SupervisorLink::new(channel.into_phase()),
        acl: governing(settings),
        jail,
        operators: BTreeMap::new(),
        next_ticket: 0,
        ready: Vec::new(),
        leaving: None,
        is_told: false,
    };
    control.serve()
}

/// The access list for the control port.
fn governing(mut settings: Settings) -> Acl {
    settings.acls.get_mut(usize::from(settings.control_acl)).map(std::mem::take).unwrap_or_default()
}

impl Control {
    /// The event loop.
    fn serve(&mut self) -> i32 {
        let mut events = Events::with_capacity(2 * (OPERATORS + WATCHERS));
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            let mut arrivals = false;
            for event in &events {
                match event.token() {
                    CHANNEL => {
                        if let Some(status) = self.handle_messages() {
                            self.close_watches(STOPS);
                            self.refuse_waiting(STOPS);
                            // The operator who stopped pen must get the reply.
                            self.go_on_with_ready();
                            // The end of file in the middle of a reply would look like its end.
                            self.operators.values().for_each(OperatorConnection::cut_off);
                            return status;
                        }
                    }
                    LISTENER => arrivals = true,
                    Token(ticket) => self.on_operator(ticket as u64),
                }
            }
            self.go_on_with_ready();
            let now = Instant::now();
            if arrivals || self.port.due().is_some_and(|at| at <= now) {
                self.accept(now);
            }
            self.operators.retain(|_, operator| {
                let late = operator.deadline().is_some_and(|deadline| deadline <= now);
                if late {
                    operator.cut_off();
                }
                !late && !operator.is_over()
            });
            self.unwatch();
            if self.leaving.is_some() {
                self.refuse_waiting(UPGRADED);
                self.go_on_with_ready();
            }
            if self.has_left(now) {
                self.operators.values().for_each(OperatorConnection::cut_off);
                return 0;
            }
            if self.link.send_queued(|ticket| self.operators.contains_key(&ticket)).is_err() {
                return 1;
            }
        }
    }

    /// Serves the operators in `ready`.
    fn go_on_with_ready(&mut self) {
        for ticket in std::mem::take(&mut self.ready) {
            self.on_operator(ticket);
        }
    }

    /// How long the next wait may be.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let operators = self.operators.values().filter_map(OperatorConnection::deadline);
        let retry = self.link.has_queued().then(|| now + RETRY);
        let next = operators
            .chain(self.port.due())
            .chain(self.leaving.filter(|until| *until > now))
            .chain(retry)
            .min()?;
        // mio counts whole milliseconds. One more avoids repeated wake-ups that are too early.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    /// Reads the supervisor's messages. Some: leave with this exit status.
    fn handle_messages(&mut self) -> Option<i32> {
        loop {
            match self.link.receive() {
                Ok(Received::Message(ToControl::Reply { ticket, outcome, text }, descriptor)) => {
                    let reply = match descriptor {
                        Some(memory) => OperatorReply::memory(outcome, memory),
                        None => OperatorReply::text(outcome, text),
                    };
                    self.answer(ticket, reply);
                }
                Ok(Received::Message(ToControl::Settings, Some(memory))) => {
                    match memory::settings(memory) {
                        Some(settings) => {
                            self.link.applied(settings.generation);
                            self.acl = governing(settings);
                            self.close_excluded();
                        }
                        None => return Some(1),
                    }
                }
                Ok(Received::Message(ToControl::Begin, _)) => {
                    self.resume_watches();
                    if self.port.begin(&self.poll).is_err() {
                        return Some(1);
                    }
                }
                Ok(Received::Message(ToControl::Pause, _)) => self.port.pause(&self.poll),
                Ok(Received::Message(ToControl::Leave, _)) => {
                    self.port.pause(&self.poll);
                    self.leaving = Some(Instant::now() + LEAVE_TIME);
                    self.refuse_waiting(UPGRADED);
                    self.close_watches(UPGRADED_WATCH);
                }
                Ok(Received::Message(ToControl::Ping { serial }, _)) => self.link.pong(serial),
                Ok(Received::Message(ToControl::Event { id, line, json }, _)) => {
                    self.tell_watchers(|watch| watch.add(id, &line, &json));
                    // Without a watcher, the supervisor is told that nobody watches.
                    self.is_told = true;
                }
                // The supervisor has gone: commands cannot be carried out without it.
                Ok(Received::Message(ToControl::Stop, _) | Received::Closed) => return Some(0),
                Ok(Received::Empty) => return None,
                Ok(Received::Message(ToControl::Settings, None)) | Err(_) => return Some(1),
            }
        }
    }

    /// Refuses the operators who are there and whom the access list permits no longer.
    fn close_excluded(&mut self) {
        for (ticket, operator) in &mut self.operators {
            if !self.acl.permits(operator.address()) {
                operator.exclude();
                self.ready.push(*ticket);
            }
        }
    }

    /// Refuses the commands that no supervisor will answer any more.
    fn refuse_waiting(&mut self, why: &str) {
        let waiting = self.operators.iter().filter(|(_, operator)| operator.is_asked());
        let waiting: Vec<u64> = waiting.map(|(ticket, _)| *ticket).collect();
        for ticket in waiting {
            self.answer(ticket, OperatorReply::refusal(why.to_owned()));
        }
    }

    /// Whether the process leaves and has nobody to answer. Who gets a reply gets all of it; who
    /// has not sent a line yet has little time left.
    fn has_left(&self, now: Instant) -> bool {
        self.leaving.is_some_and(|until| {
            let mut operators = self.operators.values();
            operators
                .all(|operator| operator.is_answered() || (now >= until && !operator.is_replying()))
        })
    }

    /// Accepts the operators that wait.
    fn accept(&mut self, now: Instant) {
        let (arrivals, stop) = self.port.accept(ACCEPT_BATCH, now);
        for arrival in arrivals {
            self.on_arrival(arrival, now);
        }
        match stop {
            Stop::Short => self.make_room(),
            Stop::Empty | Stop::Enough => {}
        }
    }

    /// Adds an operator. One of a Unix socket has no address.
    fn on_arrival(&mut self, Arrival { socket, address }: Arrival, now: Instant) {
        let peer = address.unwrap_or(ClientKey::UNIX);
        if !self.acl.permits(peer) {
            self.link.refused(peer, now);
            reset(&socket);
            return;
        }
        let others = self.operators.values().filter(|operator| !operator.watches());
        if others.count() >= OPERATORS {
            self.make_room();
        }
        let ticket = self.next_ticket;
        let both = Interest::READABLE | Interest::WRITABLE;
        if self
            .poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), Token(ticket as usize), both)
            .is_ok()
        {
            self.next_ticket += 1;
            let by = match address {
                Some(address) => message::Operator::Remote(address.bytes()),
                None => message::Operator::Local(
                    socket_peercred(&socket).ok().map(|peer| peer.uid.as_raw()),
                ),
            };
            self.operators.insert(ticket, OperatorConnection::new(socket, by, now));
        }
    }

    /// Closes one operator: one that has its answer if there is one, else the oldest that waits for
    /// none. One that waits may do so for hours (`drain`), and must not go for each newcomer.
    fn make_room(&mut self) {
        let find = |fits: fn(&OperatorConnection) -> bool| {
            self.operators.iter().find(|(_, operator)| fits(operator)).map(|(ticket, _)| *ticket)
        };
        let ticket = find(OperatorConnection::is_answered)
            .or_else(|| find(|operator| !operator.watches() && !operator.is_asked()))
            .or_else(|| find(|operator| !operator.watches()))
            .or_else(|| find(|_| true));
        if let Some(mut operator) = ticket.and_then(|ticket| self.operators.remove(&ticket)) {
            if let Some(watch) = operator.watch() {
                watch.close("too few descriptors for all operators");
                operator.go_on();
            }
            operator.cut_off();
        }
    }

    /// Serves an operator after an event at its socket, or when it has more to do. An operator that
    /// has left is ignored.
    fn on_operator(&mut self, ticket: u64) {
        let Some(operator) = self.operators.get_mut(&ticket) else { return };
        match operator.go_on() {
            NextAction::Wait => {}
            NextAction::Again => self.ready.push(ticket),
            NextAction::Line(line) => self.on_line(ticket, &line),
        }
    }

    /// Handles an operator's command.
    fn on_line(&mut self, ticket: u64, line: &[u8]) {
        let open = |command: Command| {
            files::open(&command, word(line), ticket)
                .map(|named| (command, named))
                .map_err(|why| why + &self.in_the_jail())
        };
        let asked = read(line).and_then(|command| command.map(open).transpose());
        match asked {
            Ok(None) => self.answer(ticket, OperatorReply::text(Outcome::Done, String::new())),
            Ok(Some((command, named))) => {
                let awaited = match self.awaited(ticket, &command, named.replacement) {
                    Ok(awaited) => awaited,
                    Err(why) => return self.answer(ticket, OperatorReply::refusal(why)),
                };
                let Some(operator) = self.operators.get_mut(&ticket) else { return };
                operator.asked(awaited, answer_time(&command));
                self.link.queue(ticket, operator.by(), command, named.file);
            }
            Err(why) => self.answer(ticket, OperatorReply::refusal(why)),
        }
    }

    /// What follows from the answer to a command. The error is the reply.
    fn awaited(
        &self,
        ticket: u64,
        command: &Command,
        replacement: Option<Replacement>,
    ) -> Result<Awaited, String> {
        match command {
            Command::Query(Query::Watch(form)) => {
                self.may_watch(ticket).map(|()| Awaited::Watch(*form))
            }
            Command::Query(_) | Command::Setting(_) | Command::Action(_) => {
                Ok(replacement.map_or(Awaited::Reply, Awaited::Replacement))
            }
        }
    }

    /// Where the operators' files are, for a message about one of them.
    fn in_the_jail(&self) -> String {
        self.jail
            .as_ref()
            .map_or(String::new(), |jail| format!(" (in the jail {})", jail.display()))
    }

    /// Starts to send a reply to an operator.
    fn answer(&mut self, ticket: u64, reply: OperatorReply) {
        if let Some(operator) = self.operators.get_mut(&ticket) {
            operator.answered(reply);
            self.is_told |= operator.watch().is_some();
            self.ready.push(ticket);
        }
    }
}

/// The word of a command, as the operator wrote it: some commands have two words.
fn word(line: &[u8]) -> &str {
    let first =
        line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
    std::str::from_utf8(first).unwrap_or_default()
}

/// Parses a command; `None` if there is nothing to do. The error is the reply.
fn read(line: &[u8]) -> Result<Option<Command>, String> {
    // A line that is not UTF-8 may still be an unknown command; that reply has the wording that
    // scripts look for. A comment may be in any encoding.
    let text = String::from_utf8_lossy(&line[..before_comment(line)]);
    let command = parse(&text).map_err(|why| why.to_string())?;
    match text {
        Cow::Owned(_) if command.is_some() => Err("line: not UTF-8".to_owned()),
        Cow::Owned(_) | Cow::Borrowed(_) => Ok(command),
    }
}
