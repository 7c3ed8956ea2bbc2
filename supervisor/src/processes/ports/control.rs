//! The control process as the supervisor sees it: commands come from it, and replies go to it.
//!
//! The rights belong to the channel: every message has the rights of an operator at the control
//! port, and no more.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;
use pen_config::command::{self, Command};
use pen_ipc::channel::Sent;
use pen_ipc::message::{FromControl, Operator, Outcome, SHORT_REPLY, ToControl};
use pen_ipc::start::ControlStart;
use pen_status::event::EventRecord;

use crate::files::memory;
use crate::jail::sandbox::ProcessKind;
use crate::log::recent::{self, Recent};
use crate::processes::peer::Peer;
use crate::processes::ports::kind::{AcceptOrder, Heard, Order, PortKind, PortStart};
use crate::processes::ports::port::Port;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;

/// The slot of the control process.
pub(crate) type Control = Slot<ControlKind>;

/// The control process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ControlKind {}

/// A reply to an operator.
#[derive(Debug)]
pub(crate) struct ControlReply {
    pub(crate) outcome: Outcome,
    pub(crate) body: ReplyBody,
}

/// The content of a reply.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// A text of any length.
    Text(String),
    /// The content of a memfd.
    Memory(OwnedFd),
}

impl ControlReply {
    /// An empty reply.
    pub(crate) fn none() -> ControlReply {
        ControlReply::text(String::new())
    }

    /// A reply of one line.
    pub(crate) fn line(text: impl std::fmt::Display) -> ControlReply {
        ControlReply::text(format!("{text}\n"))
    }

    /// A reply of several lines, each with its line end.
    pub(crate) fn text(text: String) -> ControlReply {
        ControlReply { outcome: Outcome::Done, body: ReplyBody::Text(text) }
    }

    /// A refusal with the reason in one line.
    pub(crate) fn refusal(why: impl std::fmt::Display) -> ControlReply {
        ControlReply { outcome: Outcome::Refused, body: ReplyBody::Text(format!("{why}\n")) }
    }
}

/// What the control process asks for.
#[derive(Debug)]
pub(crate) enum ControlRequest {
    /// An operator's command.
    Command {
        /// The number of the operator.
        ticket: u64,
        /// The identity of the operator.
        by: Operator,
        command: Command,
        /// The file that the command names, if it was sent along.
        file: Option<OwnedFd>,
    },
    /// Events from this number on; none: no more events.
    Watching(Option<u64>),
}

/// What waits for room in the channel.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// There is at most one reply, because no further command begins while it waits.
    reply: Option<(u64, ControlReply)>,
    /// The number of the next event for operators who watch; none if nobody does.
    watch: Option<u64>,
    /// Events before that one, at most [`MOST_EVENTS`].
    events: VecDeque<EventRecord>,
}

impl PortKind for ControlKind {
    type Port = Port;
    type To = ToControl;
    type From = FromControl;
    type Request = ControlRequest;
    type Queued = Pending;
    /// The path of its root directory outside the jail is in the context.
    type Outside = ();

    const NAME: &'static str = "the control process";
    const PORT: &'static str = "control port";
    const ACL: &'static str = "control_acl";
    const PROCESS: ProcessKind = ProcessKind::Control;
    const TITLE: &'static str = "control";

    fn before_jail(_: &str) {}

    fn live(start: PortStart<ControlKind>, (): (), context: &SpawnContext) -> i32 {
        let PortStart { channel, listener, begins } = start;
        let settings = context.settings.clone();
        let jail = context.jail.root.clone();
        (context.entries.control)(ControlStart { channel, listener, begins, settings, jail })
    }

    fn order(order: Order) -> ToControl {
        match order {
            Order::Settings => ToControl::Settings,
            Order::Accept(AcceptOrder::Begin) => ToControl::Begin,
            Order::Accept(AcceptOrder::Pause) => ToControl::Pause,
            Order::Stop => ToControl::Stop,
            Order::Ping(serial) => ToControl::Ping { serial },
        }
    }

    fn heard(message: FromControl, file: Option<OwnedFd>) -> Heard<ControlRequest> {
        match message {
            // An honest control process sends only commands that the parser produced.
            FromControl::Command { command, .. } if !command::is_well_formed(&command) => {
                Heard::Dishonest("it passes on what is no command")
            }
            FromControl::Command { ticket, command, by, with_file } => {
                let file = file.filter(|_| with_file);
                Heard::Request(ControlRequest::Command { ticket, by, command, file })
            }
            FromControl::Watching { from } => Heard::Request(ControlRequest::Watching(from)),
            FromControl::Refused { client } => Heard::Refused(client),
            FromControl::Pong { serial } => Heard::Pong(serial),
            FromControl::Applied { generation } => Heard::Applied(generation),
        }
    }

    fn is_due(queued: &Pending) -> bool {
        queued.reply.is_some() || !queued.events.is_empty()
    }

    fn send(queued: &mut Pending, peer: &Peer<ToControl, FromControl>) {
        queued.send_reply(peer);
        queued.send_events(peer);
    }
}

impl Pending {
    fn send_reply(&mut self, peer: &Peer<ToControl, FromControl>) {
        let Some((ticket, reply)) = self.reply.take() else { return };
        let ControlReply { outcome, body } = reply;
        let body = match body {
            ReplyBody::Text(text) if text.len() > SHORT_REPLY => in_memory(&text),
            ReplyBody::Text(_) | ReplyBody::Memory(_) => body,
        };
        let sent = match &body {
            ReplyBody::Text(text) => {
                peer.send(&ToControl::Reply { ticket, outcome, text: text.clone() }, None)
            }
            ReplyBody::Memory(memory) => {
                let reply = ToControl::Reply { ticket, outcome, text: String::new() };
                peer.send(&reply, Some(memory.as_fd()))
            }
        };
        if sent == Some(Sent::Full) {
            self.reply = Some((ticket, ControlReply { outcome, body }));
        }
    }

    fn send_events(&mut self, peer: &Peer<ToControl, FromControl>) {
        while self.reply.is_none()
            && let Some(record) = self.events.front()
        {
            // What cannot be written as JSON is no event.
            let json = serde_json::to_string(record).unwrap_or_default();
            let event = ToControl::Event { id: record.id, line: recent::line(record), json };
            if peer.send(&event, None) == Some(Sent::Full) {
                return;
            }
            self.events.pop_front();
        }
    }

    /// Takes the next events. Returns whether there were any.
    fn feed(&mut self, recent: &Recent) -> bool {
        let Some(next) = self.watch.filter(|_| self.events.is_empty()) else { return false };
        self.events.extend(recent.since(next).take(MOST_EVENTS).cloned());
        self.watch = self.events.back().map(|last| last.id + 1).or(self.watch);
        !self.events.is_empty()
    }
}

impl Control {
    /// Sends or queues the reply to a command of the process with this pid. If that process is
    /// gone, its operators are gone too.
    pub(crate) fn reply(&mut self, pid: Pid, ticket: u64, reply: ControlReply) {
        if let Some(queued) = self.queued_for(pid) {
            queued.reply = Some((ticket, reply));
            self.send_queued();
        }
    }

    /// Sends events from this number on. If some are sent already, they go on.
    pub(crate) fn begin_watch(&mut self, from: u64) {
        if let Some(queued) = self.queued_mut() {
            queued.watch = queued.watch.or(Some(from));
        }
    }

    /// Sends events from another number on; none: no more events.
    pub(crate) fn watch(&mut self, from: Option<u64>) {
        if let Some(queued) = self.queued_mut() {
            (queued.watch, queued.events) = (from, VecDeque::new());
        }
    }

    /// Sends new events to a process with operators who watch, as far as the channel has room.
    /// Those that stay in `recent` are sent later.
    pub(crate) fn send_events(&mut self, recent: &Recent) {
        while self.queued_mut().is_some_and(|queued| queued.feed(recent)) {
            self.send_queued();
        }
    }

    /// Whether a reply waits for room.
    pub(crate) fn has_pending_reply(&self) -> bool {
        self.queued().is_some_and(|queued| queued.reply.is_some())
    }
}

/// Most events that wait for room in the channel; the others wait in [`Recent`].
const MOST_EVENTS: usize = 16;

/// A long text as a descriptor. Without a descriptor, the text is cut.
fn in_memory(text: &str) -> ReplyBody {
    let write = || -> io::Result<OwnedFd> {
        let mut memory = memory::new()?;
        io::Write::write_all(&mut memory, text.as_bytes())?;
        memory::seal(memory)
    };
    write().map_or_else(
        |_| {
            ReplyBody::Text(
                text.chars()
                    .scan(0, |length, letter| {
                        *length += letter.len_utf8();
                        (*length <= SHORT_REPLY).then_some(letter)
                    })
                    .collect(),
            )
        },
        ReplyBody::Memory,
    )
}
