//! The messages between the supervisor and the control process.

use std::fmt;

use pen_config::command::Command;
use pen_config::ids::ClientKey;
use serde::{Deserialize, Serialize};

/// From the control process to the supervisor. Authority belongs to this channel: a message on it
/// has the rights of an operator at the control port, and no more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromControl {
    /// An operator's command, parsed and checked. The supervisor answers with [`ToControl::Reply`]
    /// with the same ticket.
    Command {
        /// Identifies the operator's connection; returned in the reply.
        ticket: u64,
        /// The command.
        command: Command,
        /// The operator.
        by: Operator,
        /// The command names a file. The control process opened it with its own rights, and its
        /// descriptor comes with this message.
        with_file: bool,
    },
    /// An event for the administrator: the access list refused an operator.
    Refused {
        /// The operator's address ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
    },
    /// The settings of this generation are in force (the control process uses the access lists).
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// The same as [`crate::message::LastingFromWorker::Pong`].
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
    /// Which events are wanted from now on. Sent when the last operator who watched has left, and
    /// after [`ToControl::Begin`], because another program may have run meanwhile.
    Watching {
        /// Those from this number on; `None`: nobody watches.
        from: Option<u64>,
    },
}

/// The sender of a command at the control port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Operator {
    /// A client at this address ([`pen_config::ids::ClientKey::bytes`]).
    Remote([u8; 16]),
    /// A user of this machine at a Unix socket, by user id; `None`: the kernel does not say which.
    Local(Option<u32>),
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operator::Remote(address) => ClientKey::from_bytes(*address).fmt(f),
            Operator::Local(Some(uid)) => write!(f, "uid {uid}"),
            Operator::Local(None) => f.write_str("a user of this machine"),
        }
    }
}

/// From the supervisor to the control process. The first three variants and [`Outcome`] never
/// change: after an upgrade, a control process of another release gets its last reply and leaves.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToControl {
    /// The whole reply to a command. A short reply is in the message. A long one is the descriptor
    /// of a memfd, to be sent from its beginning.
    Reply {
        /// The command that this answers.
        ticket: u64,
        /// How the command ended.
        outcome: Outcome,
        /// The text if it is short; empty if a descriptor comes with the message, or if the reply
        /// is empty.
        text: String,
    },
    /// Stop: close all connections, exit with status 0.
    Stop,
    /// Another control process serves operators from now on. Accept nobody, tell those who wait for
    /// a reply that there is none, and exit with status 0.
    Leave,
    /// New settings, the same as [`crate::message::ToWorker::Settings`].
    Settings,
    /// Accept operators from now on ([`crate::start::Begins::OnOrder`], or after a pause).
    Begin,
    /// Accept no operators for now. They wait in the queue of the listener.
    Pause,
    /// The same as [`crate::message::LastingToWorker::Ping`].
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// An event, for all operators who watch. The reply to the command `watch` is the number of the
    /// first event that follows it. A gap in the numbers means that events are missing.
    Event {
        /// Its number.
        id: u64,
        /// The event as a line, without its line end.
        line: String,
        /// The same as a JSON object.
        json: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The command was carried out; the reply is its answer, or empty.
    Done,
    /// The command was not carried out, or only in part; the reply says why.
    Refused,
}

impl Outcome {
    /// The prefix of a line whose sender wants to know the outcome. An ordinary command follows it.
    /// An older pen replies that it ignores the line, and does nothing.
    pub const ASKED: &str = "outcome ";

    /// The first line of the reply to a line that began with [`Outcome::ASKED`], with its line end.
    /// The reply to the command follows it.
    pub fn line(self) -> &'static str {
        match self {
            Outcome::Done => "outcome: ok\n",
            Outcome::Refused => "outcome: error\n",
        }
    }
}

/// Longest reply inside a [`ToControl::Reply`], in bytes.
pub const SHORT_REPLY: usize = 4096;
