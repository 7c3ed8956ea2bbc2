//! Orders of the supervisor to end all connections of a server.
//!
//! A server may have thousands of connections, so only some are ended in one turn of the event
//! loop. All other connections are served in between.

use std::collections::VecDeque;

use pen_config::ids::{NO_SERVER, Target};
use pen_config::settings::Server;
use pen_ipc::message::ClosedServer;

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, reset_on_close};
use crate::relay::connection::{Connection, ConnectionState, ServerSince, Timer};

/// Most connections that are ended in a turn of the event loop.
const MOST: u32 = if cfg!(test) { 3 } else { 512 };

/// An order to end the connections of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServerClose {
    /// The server.
    pub target: Target,
    /// Its mark ([`Server::mark`]): the number may belong to another server by now.
    pub mark: u64,
    /// Only connections that began before this time, in monotonic nanoseconds.
    pub before: u64,
    /// Why.
    pub why: ClosedServer,
}

impl ServerClose {
    /// Whether a connection is to be ended.
    fn is_meant(&self, connection: &Connection) -> bool {
        connection.state != ConnectionState::Free
            && connection.target == Some(self.target)
            && connection.since_then != ServerSince::Replaced
            && connection.began < self.before
    }

    fn end(&self) -> ConnectionEnd {
        match self.why {
            ClosedServer::Down => ConnectionEnd::ServerDown,
            ClosedServer::Drained => ConnectionEnd::ClosedByOperator,
        }
    }
}

/// The orders that are not carried out yet.
#[derive(Debug, Default)]
pub struct ServerCloses {
    orders: VecDeque<ServerClose>,
    /// The slot from which the first order goes on.
    next: u32,
}

impl ServerCloses {
    /// Whether there is something to do.
    pub fn has_some(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Notes an order.
    pub fn add(&mut self, order: ServerClose) {
        self.orders.push_back(order);
    }
}

impl Relay<'_> {
    /// Carries out the orders to end the connections of servers, as far as a turn allows.
    pub(in crate::relay) fn close_ordered(&mut self) {
        let Some(order) = self.closes.orders.front().copied() else { return };
        let is_same = self
            .settings
            .target(order.target)
            .map(Server::mark)
            .is_some_and(|mark| mark == order.mark);
        let slots = if is_same { self.connections.pool.slots() } else { 0 };
        let mut ended = 0;
        while self.closes.next < slots {
            if ended == MOST {
                return;
            }
            let slot = self.closes.next;
            self.closes.next += 1;
            if order.is_meant(&self.connections[slot]) {
                self.close_for_order(slot, order.end());
                ended += 1;
            }
        }
        self.closes.orders.pop_front();
        self.closes.next = 0;
    }

    /// Ends a connection, of which both sides see a failure. One that has no server yet goes to
    /// another.
    fn close_for_order(&mut self, slot: u32, end: ConnectionEnd) {
        match self.connections[slot].state {
            ConnectionState::Connecting | ConnectionState::Securing => {
                return self.leave_server(slot);
            }
            ConnectionState::Free
            | ConnectionState::Preface
            | ConnectionState::Waiting { .. }
            | ConnectionState::Held(_)
            | ConnectionState::Relaying
            | ConnectionState::Lingering
            | ConnectionState::Dummy
            | ConnectionState::Tarpit
            | ConnectionState::Idler => {}
        }
        // The client is placed anew when it comes back.
        self.record_server(slot, NO_SERVER);
        let connection = &self.connections[slot];
        connection.up.socket.iter().chain(&connection.down.socket).for_each(reset_on_close);
        self.finish(slot, Some(end));
    }

    /// Gives a connection that is about to be connected, or being connected, another server.
    fn leave_server(&mut self, slot: u32) {
        if self.connections[slot].timer == Some(Timer::Connect) {
            self.end_connect(slot);
            self.connections[slot].up = Endpoint::default();
            self.connections[slot].state = ConnectionState::Connecting;
            return self.fail_over(slot);
        }
        // It is in the list of attempts already.
        if self.reserve_next(slot).is_none() {
            self.unserved(slot);
        }
    }
}
