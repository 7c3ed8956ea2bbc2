//! The messages between the supervisor and its children: one enum per direction and phase.
//!
//! The messages of a worker cannot express a command. So a worker under an attacker's control can
//! only report false data about itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::stats::{ConnectionInfo, Counters};
use pen_config::command::Command;
use pen_config::ids::ClientKey;

/// The version of the messages. Both ends are the same program, so a difference means a broken
/// peer.
pub const PROTOCOL_VERSION: u32 = 5;

/// From a worker to the supervisor, before the worker is ready.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromStartingWorker {
    /// The first message. The supervisor kills a worker with other versions than its own.
    Hello {
        /// [`PROTOCOL_VERSION`].
        protocol: u32,
        /// The layout version of the shared table.
        layout: u32,
    },
    /// The worker is jailed and accepts clients. The channel changes to [`FromWorker`], and the
    /// supervisor counts the worker as running.
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
    /// The worker's counters; sent at most once a second, and only if they changed.
    Counters(Counters),
    /// A page of the answer to [`ToWorker::Report`].
    Report(ReportPage),
    /// An event for the administrator. The supervisor logs it.
    Event(Event),
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
    /// The answer to [`ToWorker::Ping`]: the worker's event loop runs.
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
}

/// Part of a worker's report, small enough for one message.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReportPage {
    /// The request that this answers.
    pub serial: u32,
    /// Whether this is the last page.
    pub last: bool,
    /// The worker's counters.
    pub counters: Counters,
    /// Some of its open connections, at most [`CONNECTIONS_PER_PAGE`].
    pub connections: Vec<ConnectionInfo>,
}

/// Most connections in one [`ReportPage`]. With every field at its largest size, a page is below
/// the codec's limit.
pub const CONNECTIONS_PER_PAGE: usize = 1024;

/// Most bytes of an explanation; a longer one is cut at a line end.
pub const EXPLANATION: usize = 32 * 1024;

/// An event in a worker, for the administrator. The worker limits the rate of events that a client
/// can cause. Servers are codes ([`pen_config::ids::Target::code`]).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A server failed. Sent once when it becomes blacklisted. If it is not blacklisted, sent now
    /// and then.
    Blacklisted {
        /// The server's code.
        server: i32,
        /// The blacklist time in seconds; 0: the server stays in use.
        seconds: u32,
        /// Why.
        reason: ConnectFailure,
    },
    /// The worker connected to a server by another of its addresses, after the address in use had
    /// failed. Sent once per change.
    AddressChanged {
        /// The server's code.
        server: i32,
        /// The address that failed, by its position among the server's.
        from: u32,
        /// The address that is used now.
        to: u32,
        /// Why the connect to the first address failed.
        reason: ConnectFailure,
    },
    /// The worker connected to a server that had been blacklisted.
    BackInUse {
        /// The server's code.
        server: i32,
    },
    /// The worker connected to a server that it had skipped. Only a connect shows the end of this
    /// state: ports, source, backlog.
    Reached {
        /// The server's code.
        server: i32,
    },
    /// A server was skipped although it has not failed. Sent every few seconds while this lasts.
    PassedOver {
        /// The server's code.
        server: i32,
        /// The obstacle.
        obstacle: Obstacle,
        /// The errno, if there was one; else 0.
        errno: i32,
    },
    /// All connections under `-x` are in use, and clients wait. Sent once a second while this
    /// lasts.
    ConnectionsFull,
    /// Clients were closed because no server was usable for them.
    Unserved {
        /// How many since the last such event.
        clients: u64,
    },
    /// A resource of this machine ran short; clients wait or were closed. This is not a server's
    /// fault.
    Shortage {
        /// The operation.
        during: ShortageDuring,
        /// The errno.
        errno: i32,
    },
    /// Lines of the request log could not be written.
    LogLost {
        /// How many since the last such event.
        lines: u64,
        /// The errno of the last failed write.
        errno: i32,
    },
    /// A client's TLS handshake failed.
    HandshakeFailed {
        /// The client ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
        /// Why.
        reason: HandshakeFailure,
        /// The refused certificate.
        certificate: Option<PeerCertificate>,
        /// How many more failed since the last such event.
        others: u64,
    },
    /// The client table's lock was not available in time; clients were placed without being
    /// remembered.
    LockStuck,
    /// A trusted sender (`proxy_protocol in`) did not send a valid header, and was closed.
    BadSender {
        /// Its address ([`pen_config::ids::ClientKey::bytes`]).
        sender: [u8; 16],
        /// The fault.
        fault: SenderFault,
        /// How many more were closed for this since the last such event.
        others: u64,
    },
    /// The unfinished input of clients (TLS records, HTTP heads) exceeded the memory limit of a
    /// worker. The oldest clients were closed.
    Crowded {
        /// How many since the last such event.
        clients: u64,
        /// The bytes of unfinished input that remain.
        kept: u64,
    },
    /// A client's request was refused (`-H`).
    RequestRefused {
        /// The client ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
        /// Why.
        reason: Refusal,
        /// How many more were refused since the last such event.
        others: u64,
    },
    /// The worker rebuilt the client table, which a dead worker had left half-changed.
    TableRebuilt {
        /// Clients kept.
        kept: u32,
    },
}

/// The fault of a trusted sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum SenderFault {
    /// It sent something other than a PROXY header.
    Malformed,
    /// It closed the connection within the header.
    Unfinished,
    /// It did not send the whole header in time.
    Late,
}

/// Why a server counts as failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ConnectFailure {
    /// connect(2) failed with this errno.
    Errno(i32),
    /// No answer within the connect timeout.
    Timeout,
}

/// The identity in a client's certificate. The texts have at most a few hundred bytes and only
/// printable characters.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerCertificate {
    /// Its subject.
    pub subject: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

/// Why a client's certificate is refused.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum CertificateFault {
    /// It is not a valid certificate.
    Unreadable,
    /// It has an unknown critical extension; the object identifier, in numbers.
    CriticalExtension(String),
    /// Its `nsCertType` is not of the client type.
    NetscapeType,
    /// Its keyUsage allows its key neither to sign nor to agree on keys.
    KeyUsage,
    /// It is the certificate of an authority, whose key may only sign certificates.
    Authority,
    /// Its extKeyUsage does not include client authentication.
    Purpose,
    /// The signature is not by the issuer that the certificate names.
    Signature,
    /// Its signature algorithm is not supported.
    Algorithm,
    /// A certificate between it and the authority is not that of an authority.
    Issuer,
    /// A certificate between it and the authority has this old version of X.509, which does not
    /// mark authorities.
    IssuerVersion(u8),
    /// A name constraint or path length constraint of an authority forbids it.
    Constraint,
}

impl ConnectFailure {
    /// The failure as a number, for the shared table; never 0.
    pub fn code(self) -> u16 {
        match self {
            ConnectFailure::Errno(errno) => {
                u16::try_from(errno).unwrap_or(0).clamp(1, TIMED_OUT - 1)
            }
            ConnectFailure::Timeout => TIMED_OUT,
        }
    }

    /// The failure of a number; every number from the table gives a valid result.
    pub fn from_code(code: u16) -> ConnectFailure {
        match code {
            TIMED_OUT.. => ConnectFailure::Timeout,
            errno => ConnectFailure::Errno(errno.into()),
        }
    }
}

/// The code of [`ConnectFailure::Timeout`]. Linux has no errno above 4095.
const TIMED_OUT: u16 = 4096;

/// Why a server is skipped although it has not failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Obstacle {
    /// All local ports for connects to it are in use.
    Ports,
    /// It cannot be reached from the address that `source` sets.
    Source,
    /// The backlog of its Unix socket is full.
    Backlog,
    /// A worker has the maximum of pending connects to it.
    Pending,
    /// It has as many connections as its limit allows.
    Limit,
}

/// Why a TLS handshake failed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum HandshakeFailure {
    /// The client's data is not TLS.
    NotTls,
    /// The handshake did not finish in time.
    Timeout,
    /// The client and pen have no common protocol, cipher suite or signature scheme.
    NothingInCommon,
    /// A certificate is required, and the client has none.
    NoCertificate,
    /// The client's certificate is not acceptable.
    BadCertificate(CertificateFault),
    /// The client's certificate is not valid at this time.
    CertificateTime,
    /// The client's certificate comes from an unknown authority.
    UnknownAuthority,
    /// The client ended the handshake with this alert (RFC 8446, 6).
    Alert(u8),
    /// The client broke the protocol.
    Protocol,
}

/// The operation that failed for lack of a resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ShortageDuring {
    /// Accepting a client.
    Accept,
    /// Making a socket for a server, or connecting it.
    Connect,
    /// Adding a socket to epoll.
    Watch,
}

/// From the supervisor to a worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Asks for a report; the worker answers with [`FromWorker::Report`] pages.
    Report {
        /// Returned in each page.
        serial: u32,
    },
    /// The request log was opened again. The descriptor of this message replaces the old one, at a
    /// line end.
    Log {
        /// The descriptor is a UDP socket to penlogd, not a file.
        network: bool,
    },
    /// There is no request log from now on.
    NoLog,
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
    /// End the connection with this number at once, if this worker has it and it began before the
    /// command was given. Numbers are used again, so the time matters.
    Close {
        /// Its program-wide number.
        number: u32,
        /// When the command was given, in nanoseconds of CLOCK_MONOTONIC, which all processes
        /// share.
        before: u64,
    },
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
    /// Asks whether the worker's event loop runs; the worker answers at once with
    /// [`FromWorker::Pong`]. The supervisor kills a worker that does not answer.
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// Stop: accept no more clients, close all connections, write out the log, send the last
    /// counters, exit with status 0.
    Stop,
    /// Slots of a dead worker are free again. This is the same news as an event of the shared
    /// eventfd when a worker frees a slot. The supervisor does not write to the eventfd, because a
    /// hostile worker could make it block there.
    Freed,
    /// A sibling died and may have overwritten any part of the table. The worker must write again
    /// what only it knows about itself.
    Republish,
}

/// From the control process to the supervisor, before it is ready: the same as for a worker.
pub type FromStartingControl = FromStartingWorker;

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
    /// The same as [`FromWorker::Pong`].
    Pong {
        /// The ping that this answers.
        serial: u32,
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

/// From the supervisor to the control process.
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
    /// New settings, the same as [`ToWorker::Settings`].
    Settings,
    /// The same as [`ToWorker::Ping`].
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// Stop: close all connections, exit with status 0.
    Stop,
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
