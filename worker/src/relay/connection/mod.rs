//! One connection's state, and the pool that connections live in.
//!
//! Small on purpose: thousands of them are idle. What only some connections need is behind a box
//! that exists while it is needed.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::Token;
use pen_config::ids::{ClientKey, NO_SERVER, Target};
use pen_ipc::stats::ConnectionInfo;
use pen_table::ClientRef;

use crate::relay::connection::endpoint::End;
use crate::relay::connection::timer_queue::Links;
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

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// The place is free.
    #[default]
    Free,
    /// What the client says first is awaited, before a server is chosen (see `relay::greeting`).
    Greeting,
    /// A connect is under way or about to begin; the client waits.
    Connecting,
    /// The server that it is to have has as many connects pending as there may be (see
    /// `relay::upstreams`).
    Waiting,
    /// Bytes go both ways.
    Relaying,
    /// One end is gone; the other is still given what was read for it, and what it sends is
    /// discarded (see `relay::ending`).
    Lingering,
    /// What the client says first is awaited, to be answered without a server (see `relay::dummy`).
    Dummy,
    /// It leads to a server and belongs to no client (see `relay::idlers`).
    Idler,
}

/// When the next line of the request log is due, where `-H` does not say which bytes are a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogDue {
    /// With the next bytes from the client.
    #[default]
    Due,
    /// With the first bytes from the client after some from the server.
    Later,
    /// Never: it is a tunnel.
    Never,
}

/// A connection: a client's socket and, most of its life, a server's.
#[derive(Debug, Default)]
pub struct Connection {
    /// Towards the client.
    pub down: End,
    /// Towards the server.
    pub up: End,
    /// Where it is in its life.
    pub state: State,
    /// Whether the next bytes from the client begin a request log line.
    pub line: LogDue,
    /// Times that its lingering was prolonged.
    pub prolonged: u8,
    /// Bytes thrown away while it lingers.
    pub discarded: u32,
    /// The address of its server has changed since the connect began: the outcome says nothing
    /// about the new one.
    pub outdated: bool,
    /// Which of its server's addresses were tried.
    pub route: Route,
    /// Raised with every new owner of this place, so that events of the former owner are known.
    pub generation: u32,
    /// Its number among all connections of all workers.
    pub number: u32,
    /// When it got its number, in monotonic nanoseconds: an order that names the number may be
    /// older.
    pub began: u64,
    /// Where it goes, while a place there is taken.
    pub target: Option<Target>,
    /// The client's entry in the table; nobody's if the table could not be used.
    pub client: ClientRef,
    /// Who the client is; none for an idler.
    pub key: Option<ClientKey>,
    /// The client's port; 0 behind a Unix socket.
    pub port: u16,
    /// A listed sender has yet to say whom the connection comes from (PROXY protocol).
    pub header_due: bool,
    /// Whom the connection comes from by the word of a listed sender.
    pub origin: Option<Box<Origin>>,
    /// Follows requests and answers while `-H` is on.
    pub http: Option<Box<Exchange>>,
    /// What its client has begun and not finished.
    pub unfinished: Piece,
    /// What is waited for on it, since `since` (see `relay::forwarded`).
    pub head: Option<Wait>,
    /// Bytes that are kept for it until its ends take them (`relay::untaken`).
    pub untaken: u32,
    /// The choice of servers, until one is connected.
    pub placement: Option<Placement>,
    /// Its places in queues, one of each kind.
    pub links: [Links; 2],
    /// Since when it is at its step, in monotonic milliseconds; kept where a queue needs it.
    pub since: u64,
    /// The monotonic second of its last traffic; kept while silent connections are closed.
    pub active: u32,
}

impl Connection {
    /// The end on a side.
    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Down => &mut self.down,
            Side::Up => &mut self.up,
        }
    }

    /// Both ends: that on `side` first.
    pub fn ends(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Down => (&mut self.down, &mut self.up),
            Side::Up => (&mut self.up, &mut self.down),
        }
    }

    /// What reports say of it.
    pub fn info(&self) -> ConnectionInfo {
        let descriptor = |socket: &Option<OwnedFd>| socket.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let state = match self.state {
            State::Free => 0,
            State::Greeting | State::Connecting | State::Waiting => 1,
            State::Relaying | State::Lingering | State::Dummy | State::Idler => 2,
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

/// Names a connection's socket in events: place, generation and side in one number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name {
    /// Its place in the pool.
    pub slot: u32,
    /// The generation of that place.
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

/// Places fit 31 bits; the tokens above are the event loop's own.
const SLOTS: usize = (1 << 31) - 8;

impl Name {
    /// The token for the poll.
    pub fn token(self) -> Token {
        let side = u64::from(self.side == Side::Up);
        Token((u64::from(self.generation) << 32 | u64::from(self.slot) << 1 | side) as usize)
    }

    /// The name in a token that [`Name::token`] made.
    pub fn of(token: Token) -> Name {
        let bits = token.0 as u64;
        Name {
            slot: (bits as u32) >> 1,
            generation: (bits >> 32) as u32,
            side: if bits & 1 == 1 { Side::Up } else { Side::Down },
        }
    }
}

/// All connections of a worker. Places are used again, lowest last freed first; memory grows with
/// the most ever open.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Connection>,
    free: Vec<u32>,
}

impl Pool {
    /// Takes a place for a new connection.
    pub fn take(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        debug_assert!(self.slots.len() < SLOTS);
        self.slots.push(Connection::default());
        self.slots.len() as u32 - 1
    }

    /// Frees a place: its sockets close, its generation moves on.
    pub fn free(&mut self, slot: u32) {
        let generation = self.slots[slot as usize].generation.wrapping_add(1);
        self.slots[slot as usize] = Connection { generation, ..Connection::default() };
        self.free.push(slot);
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of places there are, used or not.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The place of the connection with a number.
    pub fn numbered(&self, number: u32) -> Option<u32> {
        let at = |connection: &Connection| {
            connection.state != State::Free && connection.number == number
        };
        self.slots.iter().position(at).map(|slot| slot as u32)
    }

    /// The connections that are open.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().filter(|connection| connection.state != State::Free)
    }

    /// The connection that a name still names.
    pub fn named(&mut self, name: Name) -> Option<&mut Connection> {
        self.slots.get_mut(name.slot as usize).filter(|connection| {
            connection.generation == name.generation && connection.state != State::Free
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
            let name = Name { slot: SLOTS as u32 - 1, generation: u32::MAX, side };
            assert_eq!(Name::of(name.token()), name);
            let name = Name { slot: 0, generation: 7, side };
            assert_eq!(Name::of(name.token()), name);
        }
    }

    #[test]
    fn a_former_owner_names_nothing() {
        let mut pool = Pool::default();
        let slot = pool.take();
        pool[slot].state = State::Relaying;
        let name = Name { slot, generation: pool[slot].generation, side: Side::Up };
        assert!(pool.named(name).is_some());
        pool.free(slot);
        assert!(pool.named(name).is_none());
        assert_eq!(pool.take(), slot);
        pool[slot].state = State::Connecting;
        assert!(pool.named(name).is_none());
        assert_eq!(pool.open(), 1);
    }
}
