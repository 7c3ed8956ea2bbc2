//! The events that a worker reports for the administrator, and their causes.
//!
//! Workers of other releases report them too (`lasting`). So a variant of an enum here can be added
//! at its end only, and none changes. The tests of `lasting` pin their bytes.

use serde::{Deserialize, Serialize};

use crate::handshakes::FailedHandshake;
use crate::refusal::Refusal;
use crate::server_tls::TlsFault;

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
    /// Lines of the connection log could not be written.
    ConnectionLogLost {
        /// How many since the last such event.
        lines: u64,
        /// The errno of the last failed write.
        errno: i32,
    },
    /// A client has as many connections as a limit per client allows, and further ones are treated
    /// as `tarpit` and `abuse_over` say. At most once a minute for each client.
    BeyondLimit {
        /// The first address of the client's net ([`pen_config::ids::ClientKey::bytes`]).
        client: [u8; 16],
        /// The length of the net's prefix, as its family counts it.
        length: u8,
        /// The limit.
        limit: PerClientLimit,
        /// How many more clients were beyond a limit since the last such event.
        others: u64,
    },
    /// Connections were not checked against the limits per client, because the shared table had no
    /// place for their clients, or its lock was stuck. They were let in.
    LimitsUnchecked {
        /// How many since the last such event.
        clients: u64,
        /// Why.
        why: LimitsFault,
    },
}

/// Why connections were not checked against the limits per client.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum LimitsFault {
    /// Every place of the shared table that the client could have is in use.
    #[error("the table has no place for more clients")]
    NoPlace,
    /// The owner of a lock of the shared table did not go on.
    #[error("a worker that has locked a part of the table did not go on")]
    LockStuck,
}

/// A limit per client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum PerClientLimit {
    /// `per_client_max`.
    Connections {
        /// Most open connections.
        most: u32,
    },
    /// `per_client_rate`.
    Rate {
        /// Most new connections.
        connections: u32,
        /// Within so many seconds.
        seconds: u32,
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
    /// The TLS handshake after the connect failed.
    Tls(TlsFault),
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
            ConnectFailure::Tls(fault) => WITH_TLS + fault.code(),
        }
    }

    /// The failure of a number; every number from the table gives a valid result.
    pub fn from_code(code: u16) -> ConnectFailure {
        match code {
            WITH_TLS.. => ConnectFailure::Tls(TlsFault::from_code(code - WITH_TLS)),
            TIMED_OUT => ConnectFailure::Timeout,
            errno => ConnectFailure::Errno(errno.into()),
        }
    }
}

/// The code of [`ConnectFailure::Timeout`]. Linux has no errno above 4095.
const TIMED_OUT: u16 = 4096;

/// The first code of [`ConnectFailure::Tls`]. An earlier release takes them for timeouts.
const WITH_TLS: u16 = TIMED_OUT + 1;

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

impl HandshakeFailure {
    /// The reason without its details, for counters.
    pub fn kind(&self) -> FailedHandshake {
        match self {
            HandshakeFailure::NotTls => FailedHandshake::NotTls,
            HandshakeFailure::Timeout => FailedHandshake::Timeout,
            HandshakeFailure::NothingInCommon => FailedHandshake::NothingInCommon,
            HandshakeFailure::NoCertificate => FailedHandshake::NoCertificate,
            HandshakeFailure::BadCertificate(_) => FailedHandshake::BadCertificate,
            HandshakeFailure::CertificateTime => FailedHandshake::CertificateTime,
            HandshakeFailure::UnknownAuthority => FailedHandshake::UnknownAuthority,
            HandshakeFailure::Alert(_) => FailedHandshake::Alert,
            HandshakeFailure::Protocol => FailedHandshake::Protocol,
        }
    }
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
