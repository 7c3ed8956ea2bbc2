//! The messages between the supervisor and a worker: one enum per direction and phase.
//!
//! A worker's messages express no command: a worker in a stranger's hands can report nonsense about
//! itself and no more.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::stats::{ConnectionInfo, Counters};
use pen_config::command::Command;
use pen_config::ids::ClientKey;

/// The version of the messages. Both ends are one binary, so a difference means a broken peer.
pub const PROTOCOL_VERSION: u32 = 5;

/// From a worker to the supervisor, until it is ready.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromStartingWorker {
    /// The first message of all. The supervisor kills a worker whose versions are not its own.
    Hello {
        /// [`PROTOCOL_VERSION`].
        protocol: u32,
        /// The layout version of the shared table.
        layout: u32,
    },
    /// The worker is jailed and accepts clients; the channel changes to [`FromWorker`]. The
    /// supervisor counts it in.
    Ready,
    /// A step of the start failed; the worker exits. At the first start, this ends the program with
    /// this reason.
    Failed {
        /// One clear line: what failed, on which object, why.
        reason: String,
    },
}

/// From a ready worker to the supervisor.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// What the worker has counted; sent at most once a second, and only if something changed.
    Counters(Counters),
    /// A page of the answer to [`ToWorker::Report`].
    Report(ReportPage),
    /// Something that an administrator must know. The supervisor logs it.
    Event(Event),
    /// The settings of this generation are in force for all connections that begin from now on.
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// The listener that came with [`ToWorker::Listen`] is watched, and the old one is closed.
    Listening,
    /// The answer to [`ToWorker::Explain`]: one line a step, each ended with LF, at most
    /// [`EXPLANATION`] bytes.
    Explained {
        /// The request that this answers.
        serial: u32,
        /// The explanation.
        text: String,
    },
    /// Debug output finds no syslog daemon. Said at most once a second; answered with
    /// [`ToWorker::Syslog`] once there is one.
    NoSyslog,
    /// The answer to [`ToWorker::Ping`]: the worker goes round its event loop.
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

/// Most connections in one [`ReportPage`]: with every field at its widest, a page stays below the
/// codec's limit.
pub const CONNECTIONS_PER_PAGE: usize = 1024;

/// Most bytes of an explanation; what is longer is cut at a line.
pub const EXPLANATION: usize = 32 * 1024;

/// Something that happened in a worker and that an administrator must know. Rate-limited by the
/// worker where a client can bring it about. Servers are codes ([`pen_config::ids::Target::code`]).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A server failed and is left out for a time. Sent once per transition, or, if it is not left
    /// out, now and then.
    Blacklisted {
        /// The server's code.
        server: i32,
        /// For how many seconds; 0: it is used all the same.
        seconds: u32,
        /// Why.
        reason: ConnectFailure,
    },
    /// A server was connected to by another of its addresses, after the one in use had failed. Sent
    /// once per change.
    AddressChanged {
        /// The server's code.
        server: i32,
        /// The address that failed, by its position among the server's.
        from: u32,
        /// The address that is used now.
        to: u32,
        /// Why the first one failed.
        reason: ConnectFailure,
    },
    /// A server that had been blacklisted was connected to again.
    BackInUse {
        /// The server's code.
        server: i32,
    },
    /// A server was connected to again that had been passed over for what only a connect can tell:
    /// ports, source, backlog.
    Reached {
        /// The server's code.
        server: i32,
    },
    /// A server was passed over that has not failed. Sent every few seconds for as long as that is
    /// so.
    PassedOver {
        /// The server's code.
        server: i32,
        /// What is in the way to it.
        obstacle: Obstacle,
        /// The errno, if there was one; else 0.
        errno: i32,
    },
    /// Every connection under `-x` is in use, and clients wait. Sent once a second for as long as
    /// that is so.
    ConnectionsFull,
    /// Clients were closed because no server could be used for them.
    Unserved {
        /// How many since the last such event.
        clients: u64,
    },
    /// Something on this machine ran short; clients wait or were closed, no server is to blame.
    Shortage {
        /// What was being done.
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
        /// Whose certificate was refused.
        certificate: Option<PeerCertificate>,
        /// How many more failed since the last such event.
        others: u64,
    },
    /// The client table's lock could not be had in time; clients were placed without being
    /// remembered.
    LockStuck,
    /// A listed sender (`proxy_protocol in`) did not say whom its connection comes from, and was
    /// closed.
    BadSender {
        /// Its address ([`pen_config::ids::ClientKey::bytes`]).
        sender: [u8; 16],
        /// What it did instead.
        fault: SenderFault,
        /// How many more were closed for this since the last such event.
        others: u64,
    },
    /// What clients had begun and not finished (TLS records, HTTP heads) was more than a worker
    /// keeps: the oldest were closed.
    Crowded {
        /// How many since the last such event.
        clients: u64,
        /// How many bytes are kept after it.
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
    /// The worker found the client table left half-changed by a worker that died, and rebuilt it.
    TableRebuilt {
        /// Clients kept.
        kept: u32,
    },
}

/// What a listed sender did instead of saying whom its connection comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum SenderFault {
    /// It sent something else than a header of the PROXY protocol.
    Malformed,
    /// It ended within the header.
    Unfinished,
    /// It sent no whole header in time.
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

/// A client's certificate, as it calls itself: in a few hundred bytes, and without anything that
/// does not print.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PeerCertificate {
    /// Its subject.
    pub subject: String,
    /// Its number among those of its issuer, in hexadecimal digits.
    pub serial: String,
}

/// What is wrong with a client's certificate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum CertificateFault {
    /// It is none, or not in order.
    Unreadable,
    /// It has a critical extension that is not known here: its object identifier, in numbers.
    CriticalExtension(String),
    /// Its `nsCertType` is critical, and is not that of a client.
    NetscapeType,
    /// It is that of an authority, whose key is to sign nothing but certificates.
    Authority,
    /// It is not for clients, by its extKeyUsage.
    Purpose,
    /// It was not signed by who is said to have.
    Signature,
    /// It is signed in a way that is not taken here.
    Algorithm,
    /// A certificate between it and the authority is that of no authority.
    Issuer,
    /// A certificate between it and the authority is of this old version of X.509, in which
    /// authorities cannot be told from others.
    IssuerVersion(u8),
    /// An authority may give no certificate for such a name, or none so far below it.
    Constraint,
}

impl ConnectFailure {
    /// A number for it, as the shared table keeps it; never 0.
    pub fn code(self) -> u16 {
        match self {
            ConnectFailure::Errno(errno) => {
                u16::try_from(errno).unwrap_or(0).clamp(1, TIMED_OUT - 1)
            }
            ConnectFailure::Timeout => TIMED_OUT,
        }
    }

    /// What a number stands for, whoever wrote it there.
    pub fn from_code(code: u16) -> ConnectFailure {
        match code {
            TIMED_OUT.. => ConnectFailure::Timeout,
            errno => ConnectFailure::Errno(errno.into()),
        }
    }
}

/// The code of [`ConnectFailure::Timeout`]. Linux has no errno above 4095.
const TIMED_OUT: u16 = 4096;

/// What is in the way to a server that has not failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Obstacle {
    /// Every local port that could be used towards it is in use.
    Ports,
    /// It cannot be connected to from the address that `source` sets.
    Source,
    /// The backlog of its Unix socket is full.
    Backlog,
    /// As many connects to it are pending in a worker as there may be.
    Pending,
    /// It has as many connections as its limit allows.
    Limit,
}

/// Why a TLS handshake failed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum HandshakeFailure {
    /// What came is no TLS.
    NotTls,
    /// It was not finished in time.
    Timeout,
    /// The two have no protocol, cipher suite or signature scheme in common.
    NothingInCommon,
    /// A certificate is required, and the client has none.
    NoCertificate,
    /// The client's certificate cannot be taken.
    BadCertificate(CertificateFault),
    /// The client's certificate is not valid at this time.
    CertificateTime,
    /// The client's certificate comes from an authority that is not known.
    UnknownAuthority,
    /// The client gave up, with this alert (RFC 8446, 6).
    Alert(u8),
    /// The client broke the protocol.
    Protocol,
}

/// What was being done when something ran short.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ShortageDuring {
    /// Accepting a client.
    Accept,
    /// Making a socket towards a server, or connecting it.
    Connect,
    /// Watching a socket.
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
    /// The request log was opened anew: the descriptor that comes with this message replaces the
    /// old one, at a line's end.
    Log {
        /// It is a UDP socket towards penlogd, not a file.
        network: bool,
    },
    /// No request log from now on.
    NoLog,
    /// The files of TLS, in the sealed memory that comes with this message ([`pen_config::tls`]):
    /// for all handshakes from now on. They were found to be good.
    Tls,
    /// A ticket secret, in the sealed memory that comes with this message: tickets are given out
    /// with it from now on, and taken with it and the one before.
    TicketSecret,
    /// New settings: the descriptor that comes with this message is a sealed memfd with their
    /// encoding ([`crate::codec::decode_settings`]). The worker answers with
    /// [`FromWorker::Applied`].
    Settings,
    /// A new listener: the descriptor that comes with this message. The worker serves who waits at
    /// the old one, closes it, and answers with [`FromWorker::Listening`].
    Listen,
    /// End the connection with this number at once, if it is this worker's and began before the
    /// order was given: numbers are used again.
    Close {
        /// Its program-wide number.
        number: u32,
        /// When the order was given, in nanoseconds of CLOCK_MONOTONIC, which all processes share.
        before: u64,
    },
    /// Say which server a client would get now, and why; the worker answers with
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
    /// Asks whether the worker goes round its event loop; it answers at once with
    /// [`FromWorker::Pong`]. One that does not is killed.
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// End: stop accepting, close all connections, write out the log, send the last counters, exit
    /// with status 0.
    Stop,
    /// Places of a dead worker are free again: what the shared eventfd says when a worker frees
    /// one. The supervisor does not write there, where a worker that was taken over could have
    /// it wait.
    Freed,
    /// A sibling has died, and may have written anything over the table before: say anew there what
    /// only this worker knows about itself.
    Republish,
}

/// From the control process to the supervisor, until it is ready: as a worker.
pub type FromStartingControl = FromStartingWorker;

/// From the control process to the supervisor. Authority belongs to this channel: whatever comes
/// over it has the rights of an operator at the control port and no more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromControl {
    /// An operator's command, read and checked. Answered by [`ToControl::Reply`] with the same
    /// ticket.
    Command {
        /// Names the operator's connection; returned in the reply.
        ticket: u64,
        /// The command.
        command: Command,
        /// Whose command it is.
        by: Operator,
        /// For a command that names a file: the file, opened by the control process with its own
        /// rights, comes with this message.
        with_file: bool,
    },
    /// Something that an administrator must know: an operator was refused by the access list.
    Refused {
        /// The operator's address ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
    },
    /// The settings of this generation are in force (the control process needs the access lists).
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// As [`FromWorker::Pong`].
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
}

/// Who says a command at the control port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Operator {
    /// Somebody at this address ([`pen_config::ids::ClientKey::bytes`]).
    Remote([u8; 16]),
    /// A user of this machine, by a Unix socket; none: the kernel does not say which.
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
    /// The whole reply to a command. A short one is in the message; a long one comes as the
    /// descriptor of a memfd, to be sent from its beginning.
    Reply {
        /// The command that this answers.
        ticket: u64,
        /// How the command ended.
        outcome: Outcome,
        /// The text if it is short; empty if a descriptor comes with the message, or if there is
        /// nothing to say.
        text: String,
    },
    /// New settings, as [`ToWorker::Settings`].
    Settings,
    /// As [`ToWorker::Ping`].
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// End: close all connections, exit with status 0.
    Stop,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out; the reply is its answer, or empty.
    Done,
    /// It was not, or not wholly; the reply says why.
    Refused,
}

impl Outcome {
    /// What an operator begins a line with that wants to be told the outcome. What follows it is a
    /// command as ever. A pen that does not know the word answers that it ignores the command,
    /// and does nothing.
    pub const ASKED: &str = "outcome ";

    /// The first line of the reply to a line that began with [`Outcome::ASKED`], with its end; the
    /// reply to the command follows.
    pub fn line(self) -> &'static str {
        match self {
            Outcome::Done => "outcome: ok\n",
            Outcome::Refused => "outcome: error\n",
        }
    }
}

/// Longest reply inside a [`ToControl::Reply`], in bytes.
pub const SHORT_REPLY: usize = 4096;
