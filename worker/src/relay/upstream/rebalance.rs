//! Orders of the supervisor to end silent connections of a server that has more than its share.
//!
//! The supervisor alone decides how many (`rebalance`), because the bound holds for all workers
//! together. A worker knows which connections are silent. It looks at some of its connections in
//! each turn of the event loop, so that all others are served in between, and ends those that
//! qualify. The client's entry in the table then has the server that the order names: without that,
//! the client would be sent back to the server that has too many.

use pen_config::ids::Target;
use pen_ipc::message::{LastingFromWorker, Rebalance};

use crate::relay::Relay;
use crate::relay::clock;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, RecvState, SendState};
use crate::relay::connection::idle_timeout::is_silent;
use crate::relay::connection::{Connection, ConnectionState, ServerSince};
use crate::relay::http::Exchange;
use crate::relay::transfer::pump;
use crate::sys;

/// Most connections that are looked at in a turn of the event loop.
const LOOKS: u32 = if cfg!(test) { 3 } else { 1024 };

/// An order that is being carried out.
#[derive(Clone, Copy, Debug)]
struct Order {
    order: Rebalance,
    /// The server whose connections are ended.
    from: Target,
    closed: u32,
    /// How many connections have been looked at when this order is over.
    end: u64,
}

impl Order {
    /// Whether no more is to be ended for it. `looks`: how many connections have been looked at.
    fn is_over(&self, looks: u64) -> bool {
        self.closed >= self.order.most || looks >= self.end || clock::precise() >= self.order.until
    }
}

/// The orders that are being carried out.
#[derive(Debug, Default)]
pub struct Rebalancing {
    orders: Vec<Order>,
    /// The slot that is looked at next. It goes on from order to order, so that no connection is
    /// ended more often because of its slot.
    next: u32,
    /// How many connections have been looked at.
    looks: u64,
}

impl Rebalancing {
    /// Whether there is something to do.
    pub fn has_some(&self) -> bool {
        !self.orders.is_empty()
    }
}

impl Relay<'_> {
    /// Begins to carry out an order. The supervisor waits for the answer to each.
    pub(in crate::relay) fn begin_rebalance(&mut self, order: Rebalance) {
        let marked = |code: i32, mark: u64| {
            let target = Target::from_code(code)?;
            let server = self.settings.target(target)?;
            (server.mark() == mark).then_some(target)
        };
        let (from, to) = (marked(order.from, order.from_mark), marked(order.to, order.to_mark));
        let pool = &self.connections.pool;
        let is_any_silent = self.connections.idle.has_silent(pool, order.silent, self.now);
        let (Some(from), Some(_), true) = (from, to, is_any_silent) else {
            return self.answer_rebalance(order.serial, 0);
        };
        let end = self.rebalancing.looks + u64::from(pool.slots());
        self.rebalancing.orders.push(Order { order, from, closed: 0, end });
    }

    /// Looks at the connections that are next, and ends those that an order means.
    pub(in crate::relay) fn rebalance(&mut self) {
        if !self.rebalancing.has_some() {
            return;
        }
        for _ in 0..LOOKS {
            let Rebalancing { orders, next, looks } = &mut self.rebalancing;
            // The next order goes on where this one ended: no connection is passed over.
            if orders.iter().all(|order| order.is_over(*looks)) {
                break;
            }
            let slot = if *next < self.connections.pool.slots() { *next } else { 0 };
            let connection = &self.connections[slot];
            let looked = *looks;
            (*next, *looks) = (slot + 1, looked + 1);
            let mut orders = orders.iter_mut();
            let order = orders
                .find(|order| !order.is_over(looked) && is_meant(connection, order, self.now));
            if let Some(order) = order {
                order.closed += 1;
                let order = order.order;
                self.close_to_rebalance(slot, order);
            }
        }
        self.end_rebalances();
    }

    /// Answers the orders that are over.
    fn end_rebalances(&mut self) {
        let Rebalancing { orders, looks, .. } = &mut self.rebalancing;
        let mut over = Vec::new();
        orders.retain(|order| {
            let is_over = order.is_over(*looks);
            if is_over {
                over.push(*order);
            }
            !is_over
        });
        for order in over {
            self.answer_rebalance(order.order.serial, order.closed);
        }
    }

    fn answer_rebalance(&mut self, serial: u32, closed: u32) {
        self.link.answer(LastingFromWorker::Rebalanced { serial, closed }.into());
    }

    /// Ends a silent connection in order: both sides see an end of file.
    fn close_to_rebalance(&mut self, slot: u32, Rebalance { from, to, silent, .. }: Rebalance) {
        if self.debug.on(2) {
            let number = self.connections[slot].number;
            self.debug.log(
                2,
                format_args!(
                    "connection {number} was silent for {silent} s; server {from} has more than \
                     its share, so its client goes to server {to}"
                ),
            );
        }
        let connection = &mut self.connections[slot];
        self.worker_table.transfer(connection.client, from, to);
        // The close replaces the end of file, but not close_notify.
        pump::shut(&mut connection.down, &mut self.io.tools);
        self.note_end(slot, ConnectionEnd::Rebalanced);
        self.cut(slot);
    }
}

/// Whether a connection is to be ended: it is at the server, has been silent, and nothing is under
/// way on it.
fn is_meant(connection: &Connection, Order { order, from, .. }: &Order, now: u64) -> bool {
    connection.target == Some(*from)
        && connection.state == ConnectionState::Relaying
        && connection.since_then != ServerSince::Replaced
        && is_silent(connection, order.silent, now)
        && connection.http.as_deref().is_none_or(Exchange::is_quiet)
        && is_quiet(&connection.down)
        && is_quiet(&connection.up)
}

/// Whether neither direction of an end has begun to close, and no byte waits for it or from it.
fn is_quiet(end: &Endpoint) -> bool {
    end.recv == RecvState::Empty
        && end.send_state() == SendState::Open
        && !end.hung_up
        && end.held.is_none()
        && end.socket.as_ref().is_some_and(|socket| {
            // The kernel may have taken a byte whose event has not been handled yet.
            sys::unsent(socket) == Ok(0) && rustix::io::ioctl_fionread(socket) == Ok(0)
        })
}
