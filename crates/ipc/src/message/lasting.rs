//! The lasting messages: a protocol between processes of different releases.
//!
//! After an upgrade, workers of the earlier release serve the connections that they have. Their
//! supervisor is of the new release. If it took over from a newer release, they are of a later one.
//! So every release encodes these messages alike, and the tests pin each byte:
//!
//! - They are the first variant of [`ToWorker`] and [`FromWorker`].
//! - A message never changes and never goes. A message to workers can only be added with a new
//!   [`LASTING_VERSION`]: an earlier worker leaves when it gets a message that it does not know.
//! - A message from workers, or an [`Event`] with what it contains, can be added at the end of its
//!   enum. A supervisor of an earlier release skips it ([`FromOldWorker::Unknown`]).
//! - Counters are lists, to which counters are added at the end.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Incoming};
use crate::handshakes::{HandshakeFailures, Handshakes};
use crate::message::event::Event;
use crate::refusal::Refusals;
use crate::server_tls::TlsFaults;
use crate::stats::Counters;
use pen_config::checks::Admission;
use pen_config::per_client::{ClientNet, ClientRate, PerClient};
use pen_config::settings::ConnectionLogFormat;

#[cfg(doc)]
use crate::message::{FromWorker, ToControl, ToPage, ToWorker};
#[cfg(doc)]
use pen_config::settings::Server;

/// The version of [`LastingToWorker`]. Only a worker that started with at least the version of a
/// message may get it.
pub const LASTING_VERSION: u16 = 5;

/// The version of the messages about the connection log.
pub const WITH_CONNECTION_LOG: u16 = 2;

/// The version of the messages about servers.
pub const WITH_SERVER_ORDERS: u16 = 3;

/// The version of the message about connections that are to be had elsewhere.
pub const WITH_REBALANCE: u16 = 4;

/// The version of the message about limits per client.
pub const WITH_CLIENT_LIMITS: u16 = 5;

/// From the supervisor to a worker of any release, within [`ToWorker::Lasting`]. Append only, with
/// the version in which a message came.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LastingToWorker {
    /// Version 1. Accept no more clients, keep the open connections, and exit with status 0 when
    /// the last one has ended. There is no answer. All other messages are still obeyed.
    Drain,
    /// Version 1. Accept no more clients, close all connections, write out the log, send the last
    /// counters, exit with status 0.
    Stop,
    /// Version 1. Asks whether the worker's event loop runs; the worker answers at once with
    /// [`LastingFromWorker::Pong`]. The supervisor kills a worker that does not answer.
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// Version 1. The request log was opened again. The descriptor of this message replaces the old
    /// one, at a line end.
    Log {
        /// The descriptor is a UDP socket to penlogd, not a file.
        network: bool,
    },
    /// Version 1. There is no request log from now on.
    NoLog,
    /// Version 1. End the connection with this number at once, if this worker has it and it began
    /// before the command was given. Numbers are used again, so the time matters.
    Close {
        /// Its program-wide number.
        number: u32,
        /// When the command was given, in nanoseconds of CLOCK_MONOTONIC, which all processes
        /// share.
        before: u64,
    },
    /// Version 1. Slots of a dead worker are free again. This is the same news as an event of the
    /// shared eventfd when a worker frees a slot. The supervisor does not write to the eventfd,
    /// because a hostile worker could make it block there.
    Freed,
    /// Version 1. A sibling died and may have overwritten any part of the table. The worker must
    /// write again what only it knows about itself.
    Republish,
    /// Version 2. The connection log was opened, or opened again. The descriptor of this message
    /// replaces the old one, between two lines. Without one, there is no syslog daemon.
    ConnectionLog {
        /// What the descriptor is.
        to: ConnectionLogKind,
        /// The form of the lines.
        format: ConnectionLogFormat,
    },
    /// Version 2. There is no connection log from now on.
    NoConnectionLog,
    /// Version 3. End the connections to a server at once that began before the order was given.
    /// Those that are being connected to it go to other servers.
    CloseServer {
        /// The server's code.
        server: i32,
        /// [`Server::mark`]: the number may belong to another server in the worker's settings, and
        /// then nothing is closed.
        mark: u64,
        /// When the order was given, in nanoseconds of CLOCK_MONOTONIC.
        before: u64,
        /// Why.
        why: ClosedServer,
    },
    /// Version 3. A pause begins or ends: whether clients that wait are served.
    Admit(Admission),
    /// Version 4. End some silent connections to a server, and record another one for their
    /// clients. The worker answers with [`LastingFromWorker::Rebalanced`].
    Rebalance(Rebalance),
    /// Version 5. The limits per client are these from now on: the worker counts its connections by
    /// them, so that others see them in the table.
    LimitClients(ClientLimits),
}

/// What decides which connections count for the limits per client, and how many a client may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientLimits {
    /// Most open connections of a client; 0: there is no such limit, and none is counted.
    pub max: u32,
    /// Most new connections, and within how many seconds.
    pub rate: Option<(u32, u32)>,
    /// How many leading bits of an IPv4 address and of an IPv6 address make one client.
    pub net: (u8, u8),
    /// The access list of the clients that have no limits, as the worker has it: it gets no other
    /// lists.
    pub unlimited: Option<u8>,
}

impl From<PerClient> for ClientLimits {
    fn from(PerClient { max, rate, net, unlimited, .. }: PerClient) -> ClientLimits {
        let rate = rate.map(|rate| (rate.connections, rate.seconds));
        ClientLimits { max, rate, net: (net.v4, net.v6), unlimited }
    }
}

impl ClientLimits {
    /// The limits in the form of the settings. What becomes of connections beyond them stays as it
    /// was. None: the lengths are not those of addresses.
    pub fn over(self, before: PerClient) -> Option<PerClient> {
        let ClientLimits { max, rate, net: (v4, v6), unlimited } = self;
        let rate = rate.map(|(connections, seconds)| ClientRate { connections, seconds });
        let net = ClientNet { v4, v6 };
        (v4 <= 32 && v6 <= 128).then_some(PerClient { max, rate, net, unlimited, ..before })
    }
}

/// An order to end silent connections of a server that has more than its share (`rebalance`).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Rebalance {
    /// Returned in the answer.
    pub serial: u32,
    /// The server's code.
    pub from: i32,
    /// [`Server::mark`]: the number may belong to another server in the worker's settings, and then
    /// nothing is closed.
    pub from_mark: u64,
    /// The code of the server that their clients are to get next.
    pub to: i32,
    /// [`Server::mark`] of that one: if it is another in the worker's settings, nothing is closed.
    pub to_mark: u64,
    /// Most connections to end.
    pub most: u32,
    /// How many seconds they must have been silent.
    pub silent: u32,
    /// After this time, in nanoseconds of CLOCK_MONOTONIC, none may be ended any more.
    pub until: u64,
}

/// Why all connections to a server are ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ClosedServer {
    /// It is down by its check (`on_down close`).
    Down,
    /// It has drained for as long as an operator said (`drain N close`).
    Drained,
}

/// What the connection log is written to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ConnectionLogKind {
    /// A file, opened for appending.
    File,
    /// A connected UDP socket to a syslog receiver.
    Network,
    /// A datagram socket connected to the syslog daemon.
    Syslog,
}

/// From a worker of any release to the supervisor, within [`FromWorker::Lasting`]. Append only.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LastingFromWorker {
    /// The worker's counters; sent at most once a second, and only if they changed.
    Counters(Box<LastingCounters>),
    /// An event for the administrator. The supervisor logs it.
    Event(Event),
    /// The answer to [`LastingToWorker::Ping`]: the worker's event loop runs.
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
    /// The answer to [`LastingToWorker::Rebalance`]: no more are ended for that order.
    Rebalanced {
        /// The order that this answers.
        serial: u32,
        /// How many connections were ended.
        closed: u32,
    },
}

impl From<Counters> for LastingFromWorker {
    fn from(counters: Counters) -> LastingFromWorker {
        LastingFromWorker::Counters(Box::new(LastingCounters(counters)))
    }
}

/// Counters of a worker of any release. A counter that its sender does not have is 0. A counter
/// that its receiver does not have is ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(from = "CounterLists", into = "CounterLists")]
pub struct LastingCounters(pub Counters);

/// [`LastingCounters`] as they are encoded. Each list is append-only.
#[derive(Serialize, Deserialize)]
struct CounterLists {
    counters: Vec<u64>,
    /// Refused requests, by the number of the reason.
    refusals: Vec<u64>,
}

/// The counters in their order as a message, without the refusals, which have a list of their own.
/// Append only.
fn ordered(counters: &mut Counters) -> (impl Iterator<Item = &mut u64>, &mut Refusals) {
    let Counters {
        accepted,
        closed,
        unserved,
        refused,
        failed_connects,
        failovers,
        pauses,
        shortages,
        log_lines,
        log_lost,
        lock_timeouts,
        events_dropped,
        handshakes,
        resumed,
        failed_handshakes,
        crowded,
        connection_log_lines,
        connection_log_lost,
        requests_refused,
        evictions,
        bad_senders,
        over_limit,
        held,
        held_ended,
        handshakes_by_kind: Handshakes([full12, resumed12, full13, resumed13]),
        handshake_failures: HandshakeFailures(failures),
        beyond_max,
        beyond_rate,
        tarpitted,
        tarpit_ended,
        limits_unchecked,
        server_handshakes:
            Handshakes([server_full12, server_resumed12, server_full13, server_resumed13]),
        server_tls_faults: TlsFaults(faults),
    } = counters;
    // A reason that is added later comes behind all counters before it.
    let [not_tls, timeout, nothing, no_certificate, certificate, time, authority, alert, protocol] =
        failures;
    let list = [
        accepted,
        closed,
        unserved,
        refused,
        failed_connects,
        failovers,
        pauses,
        shortages,
        log_lines,
        log_lost,
        lock_timeouts,
        events_dropped,
        handshakes,
        resumed,
        failed_handshakes,
        crowded,
        connection_log_lines,
        connection_log_lost,
        evictions,
        bad_senders,
        over_limit,
        full12,
        resumed12,
        full13,
        resumed13,
        not_tls,
        timeout,
        nothing,
        no_certificate,
        certificate,
        time,
        authority,
        alert,
        protocol,
        held,
        held_ended,
        beyond_max,
        beyond_rate,
        tarpitted,
        tarpit_ended,
        limits_unchecked,
        server_full12,
        server_resumed12,
        server_full13,
        server_resumed13,
    ];
    // A reason that is added later comes behind all counters before it.
    (list.into_iter().chain(faults), requests_refused)
}

impl From<LastingCounters> for CounterLists {
    fn from(LastingCounters(mut counters): LastingCounters) -> CounterLists {
        let (list, refusals) = ordered(&mut counters);
        CounterLists {
            counters: list.map(|counter| *counter).collect(),
            refusals: refusals.iter().map(|(_, count)| count).collect(),
        }
    }
}

impl From<CounterLists> for LastingCounters {
    fn from(lists: CounterLists) -> LastingCounters {
        let mut counters = Counters::default();
        let (list, refusals) = ordered(&mut counters);
        for (counter, value) in list.zip(lists.counters) {
            *counter = value;
        }
        *refusals = lists.refusals.into_iter().collect();
        LastingCounters(counters)
    }
}

/// From the supervisor to a worker that a supervisor of perhaps another release started: all that
/// such a worker understands for certain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToOldWorker {
    /// Encoded as [`ToWorker::Lasting`].
    Lasting(LastingToWorker),
}

/// From a worker that a supervisor of perhaps another release started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FromOldWorker {
    /// What this release understands.
    Lasting(Box<LastingFromWorker>),
    /// A message of the worker's own release, such as a page of a report that was asked for before
    /// the upgrade; or a lasting message of a later release. To be skipped.
    Unknown,
}

impl Incoming for FromOldWorker {
    /// Decodes a message. No bytes are an error.
    fn from_bytes(bytes: &[u8]) -> Result<FromOldWorker, CodecError> {
        #[derive(Deserialize)]
        enum Known {
            Lasting(Box<LastingFromWorker>),
        }
        Ok(match codec::decode(bytes) {
            Ok(Known::Lasting(message)) => FromOldWorker::Lasting(message),
            Err(_) => FromOldWorker::Unknown,
        })
    }
}

/// From a control or page process that a supervisor of perhaps another release started. Whatever it
/// sends is skipped: it gets its last messages, which begin [`ToControl`] and [`ToPage`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FromOldPort;

impl Incoming for FromOldPort {
    fn from_bytes(_: &[u8]) -> Result<FromOldPort, CodecError> {
        Ok(FromOldPort)
    }
}

#[cfg(test)]
mod tests;
