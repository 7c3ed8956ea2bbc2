//! The connects that must begin, and a bound on the work of one turn of the event loop.
//!
//! Thousands of servers may fail at once, each with many clients. So each turn has a bound on the
//! work for selection and failed attempts. The rest of that work is done in the next turns, one
//! step for each client in turn, and all other connections are served in between.

use std::collections::VecDeque;

use crate::relay::connection::ConnectionId;

/// Bound for the work of selection and failed attempts in one turn, in servers examined (some 20 ns
/// each). This is one or two milliseconds.
pub const TURN: u32 = 50_000;

/// The cost of an attempt that fails at once, in servers examined.
pub const DIAL: u32 = 500;

/// The connects that must begin.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Clients accepted in this round. Their servers are connected to in the next round.
    pub newcomers: Vec<ConnectionId>,
    /// Connections whose last attempt failed. The next target is tried in this turn or a later one.
    retries: VecDeque<ConnectionId>,
    /// Connections whose target is tried in the next turn.
    next_turn: Vec<ConnectionId>,
    /// The work of this turn so far.
    effort: u32,
}

impl Attempts {
    /// Begins a turn of the event loop.
    pub fn begin_turn(&mut self) {
        self.effort = 0;
    }

    /// Adds to the work of this turn, in servers examined.
    pub fn spend(&mut self, servers: u32) {
        self.effort += servers;
    }

    /// Whether this turn has used up its bound: work that can wait is done in the next turn.
    pub fn is_exhausted(&self) -> bool {
        self.effort >= TURN
    }

    /// Whether connects must begin in the next turn.
    pub fn has_some(&self) -> bool {
        !self.newcomers.is_empty() || !self.retries.is_empty() || !self.next_turn.is_empty()
    }

    /// Makes the reserved target of a connection be tried later in this turn, or in the next.
    pub fn try_later(&mut self, id: ConnectionId) {
        self.retries.push_back(id);
    }

    /// Makes the reserved target of a connection be tried in the next turn.
    pub fn try_next_turn(&mut self, id: ConnectionId) {
        self.next_turn.push(id);
    }

    /// Adds the connections that waited for this turn to those that are tried now.
    pub fn begin_retries(&mut self) {
        if !self.next_turn.is_empty() {
            self.retries.extend(self.next_turn.drain(..));
        }
    }

    /// The connection whose target is tried next.
    pub fn next_retry(&mut self) -> Option<ConnectionId> {
        self.retries.pop_front()
    }
}
