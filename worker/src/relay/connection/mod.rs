//! One connection's state, and the pool of a worker's connections.
//!
//! The state is small on purpose: thousands of connections are idle. Data that only some
//! connections need is in a box that exists only while it is needed.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::Token;
use pen_config::ids::{ClientKey, NO_SERVER, Target};
use pen_ipc::stats::ConnectionInfo;
use pen_table::ClientRef;

use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::timer_queue::QueueLinks;
use crate::relay::http::{Exchange, Wait};
use crate::relay::preface::incomplete::Piece;
use crate::relay::preface::proxy::Origin;
use crate::relay::upstream::addresses::Route;
use crate::relay::upstream::select::Placement;

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
    /// `relay::preface::greeting`).
    Greeting,
    /// A connect is under way or about to begin, and the client waits.
    Connecting,
    /// Waits for a server that has the maximum of pending connects (see `relay::upstream`).
    Waiting,
    /// Relays in both directions.
    Relaying,
    /// One end is closed. The other still gets the data that was read for it, and its own data is
    /// discarded (see `relay::connection::closing`).
    Lingering,
    /// Waits for the client's first bytes, which are answered without a server (see
    /// `relay::accept::dummy`).
    Dummy,
    /// A connection to a server without a client (see `relay::upstream::idlers`).
    Idler,
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
    /// Bytes discarded while it lingers.
    pub discarded: u32,
    /// The address of its server has changed since the connect began: the result says nothing about
    /// the new address.
    pub outdated: bool,
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
    /// Its server, while a connection there is reserved.
    pub target: Option<Target>,
    /// The client's entry in the table; no entry if the table could not be used.
    pub client: ClientRef,
    /// The client's key; none for an idler.
    pub key: Option<ClientKey>,
    /// The client's port; 0 for a Unix socket.
    pub port: u16,
    /// A listed sender must still send the PROXY protocol header.
    pub header_due: bool,
    /// The addresses in the PROXY protocol header of a listed sender.
    pub origin: Option<Box<Origin>>,
    /// Follows requests and answers while `-H` is on.
    pub http: Option<Box<Exchange>>,
    /// Unfinished data of its client.
    pub unfinished: Piece,
    /// What the connection waits for since `since` (see `relay::http::xff`).
    pub head: Option<Wait>,
    /// Bytes kept until its ends take them (`relay::transfer::undelivered`).
    pub untaken: u32,
    /// The order of servers to try, until one is connected.
    pub placement: Option<Placement>,
    /// Its links in queues, one for each kind of queue.
    pub links: [QueueLinks; 2],
    /// Since when it is at its step, in monotonic milliseconds. It is kept only where a queue needs
    /// it.
    pub since: u64,
    /// The monotonic second of its last traffic. It is kept only while `idle_timeout` is on.
    pub active: u32,
}

impl Connection {
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

    /// The connection as reports show it.
    pub fn info(&self) -> ConnectionInfo {
        let descriptor = |socket: &Option<OwnedFd>| socket.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let state = match self.state {
            ConnectionState::Free => 0,
            ConnectionState::Greeting | ConnectionState::Connecting | ConnectionState::Waiting => 1,
            ConnectionState::Relaying
            | ConnectionState::Lingering
            | ConnectionState::Dummy
            | ConnectionState::Idler => 2,
        };
        ConnectionInfo {
            number: self.number,
            state: state + 4 * u8::from(self.up.ended) + 8 * u8::from(self.down.ended),
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

/// A slot fits 31 bits. The tokens above are those of the event loop.
const SLOTS: usize = (1 << 31) - 8;

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

/// All connections of a worker. The slot that was freed last is used again first. Memory grows with
/// the highest number of open connections.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Connection>,
    free: Vec<u32>,
}

impl Pool {
    /// Takes a slot for a new connection.
    pub fn take(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        debug_assert!(self.slots.len() < SLOTS);
        self.slots.push(Connection::default());
        self.slots.len() as u32 - 1
    }

    /// Frees a slot: its sockets close, and its generation increases.
    pub fn free(&mut self, slot: u32) {
        let generation = self.slots[slot as usize].generation.wrapping_add(1);
        self.slots[slot as usize] = Connection { generation, ..Connection::default() };
        self.free.push(slot);
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of slots, used or not.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of the connection with a number.
    pub fn numbered(&self, number: u32) -> Option<u32> {
        let at = |connection: &Connection| {
            connection.state != ConnectionState::Free && connection.number == number
        };
        self.slots.iter().position(at).map(|slot| slot as u32)
    }

    /// The open connections.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().filter(|connection| connection.state != ConnectionState::Free)
    }

    /// The connection of a name, if that is still open.
    pub fn named(&mut self, name: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(name.slot as usize).filter(|connection| {
            connection.generation == name.generation && connection.state != ConnectionState::Free
        })
    }
}

impl std::ops::Index<u32> for Pool {
    type Output = Connection;

    fn index(&self, slot: u32) -> &Connection {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Pool {
    fn index_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.slots[slot as usize]
    }
}

pub(crate) mod closing;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod idle_timeout;
pub mod timer_queue;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        assert!(size_of::<Connection>() <= 240, "{}", size_of::<Connection>());
    }

    #[test]
    fn names_survive_the_token() {
        for side in [Side::Down, Side::Up] {
            let name = ConnectionId { slot: SLOTS as u32 - 1, generation: u32::MAX, side };
            assert_eq!(ConnectionId::of(name.token()), name);
            let name = ConnectionId { slot: 0, generation: 7, side };
            assert_eq!(ConnectionId::of(name.token()), name);
        }
    }

    #[test]
    fn a_former_owner_names_nothing() {
        let mut pool = Pool::default();
        let slot = pool.take();
        pool[slot].state = ConnectionState::Relaying;
        let name = ConnectionId { slot, generation: pool[slot].generation, side: Side::Up };
        assert!(pool.named(name).is_some());
        pool.free(slot);
        assert!(pool.named(name).is_none());
        assert_eq!(pool.take(), slot);
        pool[slot].state = ConnectionState::Connecting;
        assert!(pool.named(name).is_none());
        assert_eq!(pool.open(), 1);
    }
}
