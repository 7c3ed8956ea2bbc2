//! The messages between the supervisor and a worker.

use serde::{Deserialize, Serialize};

use crate::message::lasting::{LastingFromWorker, LastingToWorker};
use crate::stats::{ConnectionInfo, Counters};

/// From a worker to the supervisor, before the worker is ready.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromStartingWorker {
    /// The worker is jailed. It accepts clients, or waits for [`ToWorker::Begin`]. The channel
    /// changes to [`FromWorker`], and the supervisor counts the worker as running.
    Ready,
    /// A step of the start failed; the worker exits. At the first start, the whole program ends
    /// with this reason.
    Failed {
        /// One line: what failed, on which object, why.
        reason: String,
    },
}

/// From a ready worker to the supervisor.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// A message that every release understands. It stays the first variant.
    Lasting(LastingFromWorker),
    /// A page of the answer to [`ToWorker::Report`].
    Report(ReportPage),
    /// The settings of this generation apply to all new connections.
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// The worker watches the listener that came with [`ToWorker::Listen`], and closed the old one.
    Listening,
    /// The answer to [`ToWorker::Explain`]: one line for each step, each ended with LF, at most
    /// [`EXPLANATION`] bytes.
    Explained {
        /// The request that this answers.
        serial: u32,
        /// The explanation.
        text: String,
    },
    /// There is no syslog daemon for debug output. Sent at most once a second; the supervisor
    /// answers with [`ToWorker::Syslog`] when a daemon is there.
    NoSyslog,
}

/// Part of a worker's report, small enough for one message.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReportPage {
    /// The request that this answers.
    pub serial: u32,
    /// Whether this is the last page.
    pub last: bool,
    /// The worker's counters.
    pub counters: Box<Counters>,
    /// Some of its open connections, at most [`CONNECTIONS_PER_PAGE`].
    pub connections: Vec<ConnectionInfo>,
}

/// Most connections in one [`ReportPage`]. With every field at its largest size, a page is below
/// the codec's limit.
pub const CONNECTIONS_PER_PAGE: usize = 1024;

/// Most bytes of an explanation; a longer one is cut at a line end.
pub const EXPLANATION: usize = 32 * 1024;

/// From the supervisor to a worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// A message that every release understands. It stays the first variant.
    Lasting(LastingToWorker),
    /// Accept clients from now on: for a worker that waits for this order
    /// ([`crate::start::Begins::OnOrder`]). There is no answer.
    Begin,
    /// Asks for a report; the worker answers with [`FromWorker::Report`] pages.
    Report {
        /// Returned in each page.
        serial: u32,
    },
    /// The TLS files, in the sealed memory that comes with this message ([`crate::tls_files`]).
    /// They were examined and are valid; they apply to all new handshakes.
    Tls,
    /// A ticket secret, in the sealed memory that comes with this message. New tickets use it; the
    /// worker accepts tickets of this secret and of the one before.
    TicketSecret,
    /// New settings. The descriptor of this message is a sealed memfd with their encoding
    /// ([`crate::codec::decode_settings`]). The worker answers with [`FromWorker::Applied`].
    Settings,
    /// A new listener: the descriptor of this message. The worker accepts the clients that wait at
    /// the old one, closes it, and answers with [`FromWorker::Listening`].
    Listen,
    /// Asks which server a client would get now, and why; the worker answers with
    /// [`FromWorker::Explained`].
    Explain {
        /// Returned in the answer.
        serial: u32,
        /// The client ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
    },
    /// The descriptor that comes with this message is a datagram socket connected to the syslog
    /// daemon, for debug output.
    Syslog,
    /// The files of TLS towards servers, as [`ToWorker::Tls`] the others: they apply to all new
    /// connections to servers.
    ServerTls,
    /// No server speaks TLS any more: forget the files of [`ToWorker::ServerTls`], with the key. It
    /// comes after the settings that say so.
    NoServerTls,
}

impl From<LastingToWorker> for ToWorker {
    fn from(message: LastingToWorker) -> ToWorker {
        ToWorker::Lasting(message)
    }
}

impl From<LastingFromWorker> for FromWorker {
    fn from(message: LastingFromWorker) -> FromWorker {
        FromWorker::Lasting(message)
    }
}
