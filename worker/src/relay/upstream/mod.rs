//! A worker's own state of each server: how many of its connects are pending there, and whether an
//! obstacle is in the way.
//!
//! A worker has at most `pending_max` connects to one server under way. A server with that many is
//! passed over, like a full one. Connects that began in this same turn of the event loop say
//! nothing of the server yet. So a burst of connects that a server accepts at once is no reason to
//! pass it over. Pure: turn and time are arguments.

use crate::relay::connection::ConnectionState;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Step};
use crate::relay::select::farm::Hindrance;

/// Milliseconds for which a server is passed over after no local port was free towards it: the
/// kernel's search for a port costs milliseconds.
const WITHOUT_PORT: u64 = 100;

/// Milliseconds between two reports that a server is passed over. The supervisor takes the state
/// for over after twice that time without a report.
const QUIET: u64 = 5_000;

/// Whether a connect may begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// It may.
    Open,
    /// Too many have begun in this turn; their results are known in the next one.
    NextTurn,
    /// The maximum of connects is pending.
    Shut,
}

/// A worker's state of one server.
#[derive(Debug, Default)]
struct Upstream {
    /// Connects that are under way.
    pending: u32,
    /// The turn in which the last of them began.
    begun: u64,
    /// No local port is searched for before this monotonic millisecond.
    ports_from: u64,
    /// When an obstacle was last reported.
    reported_at: Option<u64>,
    /// Whether the next successful connect must be reported.
    is_awaited: bool,
    /// Whether a client was sent to another server because too many connects were pending, and they
    /// still are.
    is_shut: bool,
    /// Connections that wait for one of its connects to end, first in, first out.
    waiting: Queue<Step>,
}

/// All servers, by row of the table.
#[derive(Debug, Default)]
pub struct Upstreams {
    rows: Vec<Upstream>,
    /// Rows with waiting connections.
    waited_for: Vec<u32>,
    /// Rows whose waiting connections may continue.
    due: Vec<u32>,
    /// The number of this turn of the event loop.
    turn: u64,
}

impl Upstreams {
    /// The state for `rows` rows of the table.
    pub fn new(rows: u32) -> Upstreams {
        let rows = std::iter::repeat_with(Upstream::default).take(rows as usize).collect();
        Upstreams { rows, waited_for: Vec::new(), due: Vec::new(), turn: 1 }
    }

    /// Begins a turn of the event loop: the results of the last turn's connects are known.
    pub fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// Whether one more connect to a server may begin, if `most` may be pending.
    pub fn gate(&self, row: u32, most: u32) -> Gate {
        match self.rows.get(row as usize) {
            Some(server) if server.pending < most.max(1) => Gate::Open,
            Some(server) if server.begun == self.turn => Gate::NextTurn,
            Some(_) => Gate::Shut,
            None => Gate::Open,
        }
    }

    /// Why a server must be passed over.
    pub fn hindrance(&self, row: u32, most: u32, now: u64) -> Option<Hindrance> {
        match self.gate(row, most) {
            Gate::Shut => Some(Hindrance::Pending),
            Gate::Open | Gate::NextTurn => self
                .rows
                .get(row as usize)
                .filter(|server| server.ports_from > now)
                .map(|_| Hindrance::Ports),
        }
    }

    /// Notes that a connect has begun.
    pub fn begin(&mut self, row: u32) {
        if let Some(server) = self.rows.get_mut(row as usize) {
            server.pending += 1;
            server.begun = self.turn;
        }
    }

    /// Notes that a connect is no longer under way.
    pub fn end(&mut self, row: u32) {
        if let Some(server) = self.rows.get_mut(row as usize) {
            server.pending = server.pending.saturating_sub(1);
            if server.waiting.first().is_some() {
                self.is_due(row);
            }
        }
    }

    /// Lets the connections that wait for a server continue.
    pub fn is_due(&mut self, row: u32) {
        if !self.due.contains(&row) {
            self.due.push(row);
        }
    }

    /// Notes that no local port was free towards a server.
    pub fn lacks_port(&mut self, row: u32, now: u64) {
        if let Some(server) = self.rows.get_mut(row as usize) {
            server.ports_from = now + WITHOUT_PORT;
        }
    }

    /// Resets the state of a row: it has another server now.
    pub fn replace(&mut self, row: u32) {
        if let Some(server) = self.rows.get_mut(row as usize) {
            (server.ports_from, server.reported_at, server.is_awaited) = (0, None, false);
        }
    }

    /// Notes that a server is passed over. Returns whether to report that now.
    pub fn note_passed_over(&mut self, row: u32, now: u64) -> bool {
        let Some(server) = self.rows.get_mut(row as usize) else { return false };
        let may = server.reported_at.is_none_or(|at| now >= at + QUIET);
        if may {
            server.reported_at = Some(now);
        }
        may
    }

    /// Makes the next successful connect to a server be reported.
    pub fn await_connect(&mut self, row: u32) {
        if let Some(server) = self.rows.get_mut(row as usize) {
            server.is_awaited = true;
        }
    }

    /// Notes a successful connect to a server. Returns whether to report it.
    pub fn is_reached(&mut self, row: u32, now: u64) -> bool {
        let reached = self
            .rows
            .get_mut(row as usize)
            .filter(|server| server.is_awaited && server.ports_from <= now);
        reached.is_some_and(|server| std::mem::take(&mut server.is_awaited))
    }

    /// Notes that a client was sent to another server because of too many pending connects. Returns
    /// whether that is new.
    pub fn shut(&mut self, row: u32) -> bool {
        self.rows
            .get_mut(row as usize)
            .is_some_and(|server| !std::mem::replace(&mut server.is_shut, true))
    }

    /// Whether a client was sent to another server for that, and too many connects are still
    /// pending.
    pub fn is_shut(&self, row: u32) -> bool {
        self.rows.get(row as usize).is_some_and(|server| server.is_shut)
    }

    /// Notes that a connect has ended or the limit was raised. Returns whether that opens the
    /// server again.
    pub fn reopens(&mut self, row: u32, most: u32) -> bool {
        let opens = self.is_shut(row) && self.gate(row, most) != Gate::Shut;
        if let (true, Some(server)) = (opens, self.rows.get_mut(row as usize)) {
            server.is_shut = false;
        }
        opens
    }

    /// The servers that are shut by pending connects.
    pub fn shut_rows(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.rows).filter(|(_, server)| server.is_shut).map(|(row, _)| row)
    }

    /// Whether a report is due that a server is passed over.
    pub fn is_report_due(&self, row: u32, now: u64) -> bool {
        self.rows
            .get(row as usize)
            .is_some_and(|server| server.reported_at.is_none_or(|at| now >= at + QUIET))
    }

    /// Makes a connection wait until a connect to a server ends. False: there is no such server, or
    /// a time limit of the connection runs.
    pub fn wait(&mut self, pool: &mut Pool, slot: u32, row: u32, now: u64) -> bool {
        let Some(server) = self.rows.get_mut(row as usize) else { return false };
        if pool[slot].at_step.is_queued() {
            return false;
        }
        if server.waiting.first().is_none() {
            self.waited_for.push(row);
        }
        server.waiting.wait(pool, slot, now);
        pool[slot].state = ConnectionState::Waiting { row };
        true
    }

    /// Lets a connection wait no longer, if it waits for a server.
    pub fn leave(&mut self, pool: &mut Pool, slot: u32) {
        let ConnectionState::Waiting { row } = pool[slot].state else { return };
        let Some(server) = self.rows.get_mut(row as usize) else { return };
        server.waiting.leave(pool, slot);
        pool[slot].state = ConnectionState::Connecting;
        if server.waiting.first().is_none() {
            self.waited_for.retain(|other| *other != row);
        }
    }

    /// The connection that has waited longest for a server.
    pub fn first_waiting(&self, row: u32) -> Option<u32> {
        self.rows.get(row as usize)?.waiting.first()
    }

    /// The settings have changed: all waiting connections may continue.
    pub fn all_due(&mut self) {
        self.due.clone_from(&self.waited_for);
    }

    /// A server whose waiting connections may continue.
    pub fn next_due(&mut self) -> Option<u32> {
        self.due.pop()
    }

    /// Whether there is such a server.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// When the first of all waiting connections will have waited for `time` milliseconds.
    pub fn next_deadline(&self, pool: &Pool, time: u64) -> Option<u64> {
        let queues = self.waited_for.iter().filter_map(|row| self.rows.get(*row as usize));
        queues.filter_map(|server| server.waiting.next_deadline(pool, time)).min()
    }

    /// A connection that has waited for `time` milliseconds.
    pub fn overdue(&self, pool: &Pool, time: u64, now: u64) -> Option<u32> {
        let queues = self.waited_for.iter().filter_map(|row| self.rows.get(*row as usize));
        queues.filter_map(|server| server.waiting.due(pool, time, now)).next()
    }
}

pub(crate) mod addresses;
pub mod attempts;
pub(crate) mod closes;
pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod failover;
pub(crate) mod fault;
pub(crate) mod idlers;
pub(crate) mod rebalance;
pub(crate) mod secure;
pub mod servers;
pub mod statistics;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_as_many_pending_connects_as_may_be_is_passed_over_from_the_next_turn_on() {
        let mut servers = Upstreams::new(2);
        servers.begin(0);
        assert_eq!((servers.gate(0, 2), servers.gate(0, 1)), (Gate::Open, Gate::NextTurn));
        servers.begin(0);
        assert_eq!((servers.gate(0, 2), servers.hindrance(0, 2, 0)), (Gate::NextTurn, None));
        servers.next_turn();
        assert_eq!(
            (servers.gate(0, 2), servers.hindrance(0, 2, 0)),
            (Gate::Shut, Some(Hindrance::Pending))
        );
        assert_eq!((servers.gate(1, 2), servers.gate(9, 2)), (Gate::Open, Gate::Open));
        servers.end(0);
        assert_eq!(
            (servers.gate(0, 2), servers.gate(0, 0)),
            (Gate::Open, Gate::Shut),
            "1 at least"
        );
        servers.end(0);
        servers.end(0);
        assert_eq!(servers.gate(0, 0), Gate::Open);
    }

    #[test]
    fn a_server_without_a_local_port_is_passed_over_for_a_moment() {
        let mut servers = Upstreams::new(1);
        servers.lacks_port(0, 1000);
        assert_eq!(servers.hindrance(0, 1, 1000 + WITHOUT_PORT - 1), Some(Hindrance::Ports));
        assert_eq!(servers.hindrance(0, 1, 1000 + WITHOUT_PORT), None);
        servers.lacks_port(0, 1000);
        servers.replace(0);
        assert_eq!(servers.hindrance(0, 1, 1000), None);
    }

    #[test]
    fn what_is_in_the_way_is_told_now_and_then_and_that_a_server_was_reached_once() {
        let mut servers = Upstreams::new(1);
        assert!(servers.is_report_due(0, 5) && !servers.is_reached(0, 5));
        assert!(servers.note_passed_over(0, 5) && !servers.note_passed_over(0, QUIET));
        assert!(
            !servers.is_report_due(0, QUIET)
                && servers.is_report_due(0, QUIET + 5)
                && servers.note_passed_over(0, QUIET + 5)
        );
        servers.lacks_port(0, 5);
        servers.await_connect(0);
        assert!(!servers.is_reached(0, 5), "a connect that was under way before");
        assert!(
            servers.is_reached(0, 5 + WITHOUT_PORT) && !servers.is_reached(0, 5 + WITHOUT_PORT)
        );
    }

    #[test]
    fn a_server_is_shut_once_and_open_again_when_a_connect_ends() {
        let mut servers = Upstreams::new(2);
        servers.begin(1);
        servers.next_turn();
        assert!(servers.shut(1) && !servers.shut(1) && servers.is_shut(1) && !servers.shut(2));
        assert_eq!(servers.shut_rows().collect::<Vec<_>>(), [1]);
        assert!(!servers.reopens(1, 1), "it is still pending");
        servers.end(1);
        assert!(servers.reopens(1, 1) && !servers.reopens(1, 1) && !servers.is_shut(1));
    }

    #[test]
    fn whoever_waits_may_go_on_when_a_connect_ends() {
        let (mut servers, mut pool) = (Upstreams::new(2), Pool::default());
        let slots = [pool.take(), pool.take(), pool.take()];
        for (n, slot) in slots.into_iter().enumerate() {
            assert!(servers.wait(&mut pool, slot, n as u32 % 2, 10 * n as u64));
        }
        assert!(!servers.wait(&mut pool, 0, 2, 0));
        assert_eq!(
            (servers.next_deadline(&pool, 5), servers.overdue(&pool, 5, 14)),
            (Some(5), Some(slots[0]))
        );
        servers.begin(1);
        servers.end(1);
        assert!(servers.has_due());
        assert_eq!((servers.next_due(), servers.next_due()), (Some(1), None));
        assert_eq!(servers.first_waiting(1), Some(slots[1]));
        servers.leave(&mut pool, slots[1]);
        assert_eq!(servers.first_waiting(1), None);
        servers.end(1);
        assert!(!servers.has_due());
        servers.leave(&mut pool, slots[0]);
        assert_eq!(servers.next_deadline(&pool, 5), Some(25));
        servers.all_due();
        assert_eq!(servers.next_due(), Some(0));
    }
}
