//! The messages between the supervisor and the page process.

use serde::{Deserialize, Serialize};

/// From the page process to the supervisor. It can express no command: whoever takes the process
/// over sees what the page shows, and nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromPage {
    /// Asks what pen is doing; at most once a second, and only if a reader waits for it. The
    /// supervisor answers with [`ToPage::Status`] or [`ToPage::NoStatus`].
    Ask {
        /// Returned in the answer.
        serial: u32,
    },
    /// An event for the administrator: the access list refused a client.
    Refused {
        /// The client's address ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
    },
    /// The settings of this generation are in force (the page process uses the access lists).
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// The same as [`crate::message::LastingFromWorker::Pong`].
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
}

/// From the supervisor to the page process. The first two variants never change: after an upgrade,
/// a page process of another release is told to leave.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToPage {
    /// Stop: close all connections, exit with status 0.
    Stop,
    /// Another page process serves readers from now on. Accept nobody, finish the responses under
    /// way, close all other connections, and exit with status 0.
    Leave,
    /// What pen is doing: the descriptor of this message is sealed memory with a
    /// `pen_status::Status` ([`crate::codec::encode_large`]).
    Status {
        /// The question that this answers.
        serial: u32,
    },
    /// Nobody can say now what pen is doing.
    NoStatus {
        /// The question that this answers.
        serial: u32,
        /// Why, in a few words.
        why: String,
    },
    /// New settings, the same as [`crate::message::ToWorker::Settings`].
    Settings,
    /// Accept readers from now on ([`crate::start::Begins::OnOrder`], or after a pause).
    Begin,
    /// Accept no readers for now. They wait in the queue of the listener.
    Pause,
    /// The same as [`crate::message::LastingToWorker::Ping`].
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
}
