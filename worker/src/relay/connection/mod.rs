//! One connection's state, and its name in events.
//!
//! The state is small on purpose: thousands of connections are idle. Data that only some
//! connections need is in a box that exists only while it is needed.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::Token;
use pen_config::checks::Admission;
use pen_config::ids::{ClientKey, NO_SERVER, Target};
use pen_ipc::stats::ConnectionInfo;
use pen_table::{ClientRef, Exceeded};

use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, RecvState, SendState};
use crate::relay::connection::timings::Timings;
use crate::relay::http::{Exchange, Wait};
use crate::relay::proxy::Origin;
use crate::relay::select::Placement;
use crate::relay::select::route::Route;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Towards the client.
    Down,
    /// Towards the server.
    Up,
}

impl Side {
    /// The opposite end.
    pub fn other(self) -> Side {
        match self {
            Side::Down => Side::Up,
            Side::Up => Side::Down,
        }
    }
}

/// The step that a connection is at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionState {
    /// The slot is free.
    #[default]
    Free,
    /// Waits for the client's first bytes, before a server is chosen (see
    /// `relay::preface`).
    Preface,
    /// A connect is under way or about to begin, and the client waits.
    Connecting,
    /// The server is connected, and the TLS handshake with it is under way (see
    /// `relay::upstream::secure`). The client waits.
    Securing,
    /// Waits for a server that has the maximum of pending connects (see `relay::upstream`).
    Waiting {
        /// The server's row of the table, in whose list the connection is.
        row: u32,
    },
    /// Waits until a server can be used, or until a pause is over (see `relay::accept::hold`).
    Held(HoldReason),
    /// Relays in both directions.
    Relaying,
    /// One end is closed. The other still gets the data that was read for it, and its own data is
    /// discarded (see `relay::closing`).
    Lingering,
    /// Is beyond a limit per client, and kept open and silent (see `relay::limits`).
    Tarpit,
    /// Waits for the client's first bytes, which are answered without a server (see
    /// `relay::accept::dummy`).
    Dummy,
    /// A connection to a server without a client (see `relay::upstream::idlers`).
    Idler,
}

/// Why a client is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HoldReason {
    /// No server can be used for it.
    NoServer,
    /// An operator paused.
    Paused,
}

/// Whether a connection's client is known, and what it is under the limits per client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Judged {
    /// A listed sender must still send the PROXY protocol header, which names the client.
    HeaderDue,
    /// Nothing is counted for it: there is no such limit, or it was let in unchecked.
    #[default]
    Within,
    /// It is counted as an open connection of its client.
    Counted,
    /// It is beyond a limit: kept open and silent, or for the abuse server.
    Beyond(Exceeded),
}

impl Judged {
    /// Whether it is beyond a limit.
    pub fn is_beyond(self) -> bool {
        matches!(self, Judged::Beyond(_))
    }
}

/// What a new client gets first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FirstStep {
    /// A server.
    Server,
    /// A preface (`relay::preface`).
    Preface,
    /// The end of a pause.
    Hold,
}

impl FirstStep {
    /// The first step of all clients; that of a listed sender is a preface at least.
    pub fn new(admission: Admission, has_tls: bool) -> FirstStep {
        match (admission, has_tls) {
            (Admission::Paused, _) => FirstStep::Hold,
            (Admission::Open, true) => FirstStep::Preface,
            (Admission::Open, false) => FirstStep::Server,
        }
    }
}

/// When the next line of the request log is due, unless `-H` finds where requests begin.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogDue {
    /// With the next bytes from the client.
    #[default]
    Due,
    /// With the client's first bytes after some from the server.
    Later,
    /// Never: the connection is a tunnel.
    Never,
}

/// What a connection waits for since its `since`; each has its own time limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Timer {
    /// The client's first bytes (`relay::preface`).
    Preface,
    /// A connect that is under way.
    Connect,
    /// The end of file of the one remaining end (`relay::closing`).
    Linger,
    /// Something of HTTP (`relay::xff`).
    Http(Wait),
}

impl Timer {
    /// Every time limit, in the order in which those that are due are handled.
    pub const ALL: [Timer; 6] = [
        Timer::Preface,
        Timer::Connect,
        Timer::Linger,
        Timer::Http(Wait::Head),
        Timer::Http(Wait::Protocol),
        Timer::Http(Wait::Answers),
    ];

    /// The position in [`Timer::ALL`].
    pub fn index(self) -> usize {
        match self {
            Timer::Preface => 0,
            Timer::Connect => 1,
            Timer::Linger => 2,
            Timer::Http(Wait::Head) => 3,
            Timer::Http(Wait::Protocol) => 4,
            Timer::Http(Wait::Answers) => 5,
        }
    }
}

/// In no list.
const UNQUEUED: u32 = u32::MAX - 1;

/// A connection's neighbours in a list.
#[derive(Clone, Copy, Debug)]
pub struct QueueLinks {
    /// The slot of the one before.
    pub before: u32,
    /// The slot of the one after.
    pub after: u32,
}

impl Default for QueueLinks {
    fn default() -> QueueLinks {
        QueueLinks { before: UNQUEUED, after: UNQUEUED }
    }
}

impl QueueLinks {
    /// Whether the connection is in a list of this kind.
    pub fn is_queued(&self) -> bool {
        self.before != UNQUEUED
    }
}

/// The unfinished data of a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    /// Bytes of memory that it uses.
    pub bytes: u32,
    /// When it began, in monotonic milliseconds without the upper half.
    pub since: u32,
}

/// What the settings have made of a connection's server since its connect began.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum ServerSince {
    /// It has the same addresses.
    #[default]
    Same,
    /// It is the same server with other addresses: the result of the connect says nothing about
    /// them.
    Rerouted,
    /// Its number belongs to another server, or to none. Nothing of the connection counts for that
    /// one but the connection itself, for its limits.
    Replaced,
}

/// A connection: a client's socket and, most of its life, a server's.
#[derive(Debug, Default)]
pub struct Connection {
    /// Towards the client.
    pub down: Endpoint,
    /// Towards the server.
    pub up: Endpoint,
    /// The step that it is at.
    pub state: ConnectionState,
    /// Whether the next bytes from the client begin a request log line.
    pub line: LogDue,
    /// How often its lingering was prolonged.
    pub prolonged: u8,
    /// One number for two steps of which the second follows the first. Until it is connected: since
    /// when no server can be used for it, in monotonic milliseconds without the upper half, or 0.
    /// While it lingers: the bytes discarded.
    pub held_or_discarded: u32,
    /// What the settings have made of its server since its connect began.
    pub since_then: ServerSince,
    /// The addresses of its server that were tried.
    pub route: Route,
    /// Incremented with each new connection in this slot, so that events of the former connection
    /// are recognised.
    pub generation: u32,
    /// Its number among all connections of all workers.
    pub number: u32,
    /// When it got its number, in monotonic nanoseconds: a command that names the number may be
    /// older.
    pub began: u64,
    /// When its connect began, in monotonic microseconds without the upper half.
    pub dialled: u32,
    /// Its server, while a connection there is reserved.
    pub target: Option<Target>,
    /// The client's entry in the table; no entry if the table could not be used.
    pub client: ClientRef,
    /// The client's key; none for an idler.
    pub key: Option<ClientKey>,
    /// The client's port; 0 for a Unix socket.
    pub port: u16,
    /// Whether its client is known, and what it is under the limits per client.
    pub judged: Judged,
    /// The addresses in the PROXY protocol header of a listed sender.
    pub origin: Option<Box<Origin>>,
    /// Follows requests and answers while `-H` is on.
    pub http: Option<Box<Exchange>>,
    /// What its line will say, while the connection log is on.
    pub timings: Option<Box<Timings>>,
    /// Unfinished data of its client.
    pub unfinished: Piece,
    /// Bytes kept until its ends take them (`relay::transfer::undelivered`).
    pub undelivered: u32,
    /// The order of servers to try, until one is connected.
    pub placement: Option<Placement>,
    /// The time limit that runs, since `since`.
    pub timer: Option<Timer>,
    /// Its neighbours among the connections at the same step: in the list of `timer`, or of the
    /// server that it waits for, or of those that are held.
    pub at_step: QueueLinks,
    /// Its neighbours in the order of the last traffic.
    pub in_silence: QueueLinks,
    /// Since when it is at its step, in monotonic milliseconds. It is kept only where a list needs
    /// it, and for idlers.
    pub since: u64,
    /// The monotonic second of its last traffic. It is kept only while `idle_timeout` is on.
    pub active: u32,
}

impl Connection {
    /// The server for which its bytes and its end count.
    pub fn counted_target(&self) -> Option<Target> {
        self.target.filter(|_| self.since_then != ServerSince::Replaced)
    }

    /// Whether its server has other addresses than when its connect began.
    pub fn is_outdated(&self) -> bool {
        self.since_then != ServerSince::Same
    }

    /// The end on one side.
    pub fn end(&mut self, side: Side) -> &mut Endpoint {
        match side {
            Side::Down => &mut self.down,
            Side::Up => &mut self.up,
        }
    }

    /// Both ends, the one on `side` first.
    pub fn ends(&mut self, side: Side) -> (&mut Endpoint, &mut Endpoint) {
        match side {
            Side::Down => (&mut self.down, &mut self.up),
            Side::Up => (&mut self.up, &mut self.down),
        }
    }

    /// How the loss of an end is named, if it was no end of file.
    pub fn loss(&self, side: Side) -> Option<ConnectionEnd> {
        let (end, reset) = match side {
            Side::Down => (&self.down, ConnectionEnd::ClientReset),
            Side::Up => (&self.up, ConnectionEnd::ServerReset),
        };
        match (end.recv, end.send_state()) {
            (_, SendState::Reset) => Some(reset),
            (RecvState::Failed, _) => {
                let is_broken = end.session.as_ref().is_some_and(|tls| tls.error().is_some());
                Some(if is_broken { ConnectionEnd::TlsBroken } else { reset })
            }
            (
                RecvState::Empty
                | RecvState::AssumedEmpty
                | RecvState::CheckDue
                | RecvState::Checking
                | RecvState::Readable
                | RecvState::Ended,
                SendState::Open | SendState::Shut | SendState::Broken,
            ) => None,
        }
    }

    /// The connection as reports show it.
    pub fn info(&self) -> ConnectionInfo {
        let descriptor = |socket: &Option<OwnedFd>| socket.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let state = match self.state {
            ConnectionState::Free => 0,
            ConnectionState::Preface
            | ConnectionState::Connecting
            | ConnectionState::Securing
            | ConnectionState::Waiting { .. }
            | ConnectionState::Held(_)
            | ConnectionState::Tarpit => 1,
            ConnectionState::Relaying
            | ConnectionState::Lingering
            | ConnectionState::Dummy
            | ConnectionState::Idler => 2,
        };
        let ended = |end: &Endpoint| end.recv == RecvState::Ended;
        ConnectionInfo {
            number: self.number,
            state: state + 4 * u8::from(ended(&self.up)) + 8 * u8::from(ended(&self.down)),
            downfd: descriptor(&self.down.socket),
            upfd: descriptor(&self.up.socket),
            pending_down: self.down.held_bytes() as u32,
            pending_up: self.up.held_bytes() as u32,
            client: i32::try_from(self.client.slot).unwrap_or(-1),
            server: self.target.map_or(NO_SERVER, Target::code),
        }
    }
}

/// Identifies a connection's socket in events: slot, generation and side in one number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectionId {
    /// Its slot in the pool.
    pub slot: u32,
    /// The generation of that slot.
    pub generation: u32,
    /// Which socket.
    pub side: Side,
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "pen needs a 64-bit target: mio's tokens are as wide as a pointer, and with 32 bits the \
     generation in them would be \
     lost, so that events of a closed connection would reach the next one in its place"
);

impl ConnectionId {
    /// The token for the poll.
    pub fn token(self) -> Token {
        let side = u64::from(self.side == Side::Up);
        Token((u64::from(self.generation) << 32 | u64::from(self.slot) << 1 | side) as usize)
    }

    /// The name in a token of [`ConnectionId::token`].
    pub fn of(token: Token) -> ConnectionId {
        let bits = token.0 as u64;
        ConnectionId {
            slot: (bits as u32) >> 1,
            generation: (bits >> 32) as u32,
            side: if bits & 1 == 1 { Side::Up } else { Side::Down },
        }
    }
}

pub mod connections;
pub mod end;
pub(crate) mod endpoint;
pub mod idle_timeout;
pub mod pipes;
pub mod pool;
pub(crate) mod receiving;
pub mod timers;
pub mod timings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        assert!(size_of::<Connection>() <= 256, "{}", size_of::<Connection>());
    }

    #[test]
    fn names_survive_the_token() {
        for side in [Side::Down, Side::Up] {
            let name = ConnectionId { slot: pool::SLOTS as u32 - 1, generation: u32::MAX, side };
            assert_eq!(ConnectionId::of(name.token()), name);
            let name = ConnectionId { slot: 0, generation: 7, side };
            assert_eq!(ConnectionId::of(name.token()), name);
        }
    }
}
