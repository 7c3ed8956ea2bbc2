//! The servers as all workers share them: counts, limits and addresses.
//!
//! **Counts**: there are figures per row and server, with one writer, the worker that has the row.
//! The total is the sum over the rows. The counts of a dead worker are set to 0, and nothing else
//! has to be undone.
//!
//! **Bytes**: they only grow. When a number is given to another server, their sum at that time is
//! stored beside the blacklist word and subtracted. The counts of [`statistics`] are like them.
//!
//! **Address**: which of a server's addresses is in use. Any value is valid: readers take it modulo
//! the number of addresses.
//!
//! **Standing**: what the supervisor says of a server, which is the only writer of it. See
//! [`standing`].
//!
//! **Limits**: raise the own count, then compute the sum, and lower it again if the sum is too
//! large. A SeqCst fence is between the two steps. So of two workers that raise at the same time,
//! at least one sees both: never one too many. The lock also prevents one too few, because no other
//! worker raises and sums meanwhile. If the lock is not available, the limit still holds. It holds
//! for a worker that gets a row while others sum: the row is part of the sums before its fence.

pub(crate) mod blacklist;
pub(crate) mod standing;
pub(crate) mod statistics;

use crate::lock::{LockId, StuckLocks};
use crate::parts::{Figures, ServerState};
use crate::servers::blacklist::Failure;
use crate::servers::standing::Standing;
use crate::sync::{Ordering::*, fence};
use crate::view::View;

/// The figures of all workers together for one server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerTotals {
    /// Open and pending connections.
    pub connections: u32,
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Monotonic milliseconds until which it is blacklisted; 0 = it is not. The time may have
    /// passed, if no worker has tried the server since. While one connection probes the server: the
    /// end of that probe's lease.
    pub blacklisted_until: u64,
    /// Whether an operator blacklisted it. Meaningless while it is not blacklisted.
    pub is_taken_out: bool,
    /// Unix time, in seconds, at which it was last blacklisted.
    pub failed_at: u64,
    /// Which of its addresses is in use. The value may be out of range.
    pub address: u32,
    /// The last failed connect to it.
    pub last_failure: Option<Failure>,
    /// Whether a worker has the maximum of pending connects to it, so that clients are passed on.
    pub is_pending: bool,
    /// What the supervisor says of it.
    pub standing: Standing,
}

impl Figures {
    /// Counts one connection more; false if the count is at its maximum, which only a hostile
    /// worker can cause.
    fn raise(&self) -> bool {
        let raised = self.connections.load(Relaxed).checked_add(1);
        if let Some(raised) = raised {
            // There is one writer, so this needs no read-modify-write.
            self.connections.store(raised, Relaxed);
        }
        raised.is_some()
    }

    pub fn lower(&self) {
        self.connections.store(self.connections.load(Relaxed).saturating_sub(1), Release);
    }

    /// Sets the count to what its worker knows. A correct value is not written, because other
    /// workers read the line.
    pub fn republish(&self, connections: u32) {
        if self.connections.load(Relaxed) != connections {
            self.connections.store(connections, Release);
        }
    }

    /// Sets whether the maximum of connects is pending. A correct value is not written.
    pub fn set_pending(&self, pending: bool) {
        let pending = u32::from(pending);
        if self.pending.load(Relaxed) != pending {
            self.pending.store(pending, Relaxed);
        }
    }

    /// Sets the bytes to those of other rows. A correct value is not written.
    pub fn set_bytes(&self, sent: u64, received: u64) {
        for (bytes, right) in [(&self.sent, sent), (&self.received, received)] {
            if bytes.load(Relaxed) != right {
                bytes.store(right, Relaxed);
            }
        }
    }

    pub fn add_bytes(&self, sent: u64, received: u64) {
        self.sent.store(self.sent.load(Relaxed).wrapping_add(sent), Relaxed);
        self.received.store(self.received.load(Relaxed).wrapping_add(received), Relaxed);
    }
}

impl ServerState {
    /// The bytes of the server, without those of the servers that had its number before.
    fn bytes_without_former(&self, (sent, received): (u64, u64)) -> (u64, u64) {
        (
            sent.wrapping_sub(self.sent_before.load(Relaxed)),
            received.wrapping_sub(self.received_before.load(Relaxed)),
        )
    }
}

impl View<'_> {
    /// Connections to a server, of all workers.
    pub fn connections(self, server: u32) -> u32 {
        let sum =
            self.column(server).map(|each| u64::from(each.connections.load(Acquire))).sum::<u64>();
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    /// Counts a connection of a row to a server, if fewer than `limit` are counted.
    pub fn reserve(
        self,
        row: u32,
        server: u32,
        limit: Option<u32>,
        stuck: &mut StuckLocks,
    ) -> bool {
        let (Some(own), Some(state)) = (self.figures(row, server), self.server(server)) else {
            return false;
        };
        let Some(limit) = limit else { return own.raise() };
        let lock = &state.limits.0;
        let locked = lock.take(row, LockId::Limit(server), stuck).is_ok();
        let reserved = self.raise_below(own, server, limit);
        if locked {
            lock.give_back(row);
        }
        reserved
    }

    /// What `reserve` does if it cannot take the lock.
    #[cfg(all(loom, test))]
    pub fn reserve_unlocked(self, row: u32, server: u32, limit: u32) -> bool {
        self.raise_below(self.figures(row, server).unwrap(), server, limit)
    }

    fn raise_below(self, own: &Figures, server: u32, limit: u32) -> bool {
        // This check keeps the sum that others see from exceeding the limit, even for a moment.
        if self.connections(server) >= limit || !own.raise() {
            return false;
        }
        fence(SeqCst);
        let within = self.connections(server) <= limit;
        if !within {
            own.lower();
        }
        within
    }

    /// Whether any worker has the maximum of pending connects to a server.
    pub fn is_pending(self, server: u32) -> bool {
        self.server(server).is_some()
            && self.column(server).any(|each| each.pending.load(Relaxed) != 0)
    }

    /// The figures of a server.
    pub fn totals(self, server: u32) -> ServerTotals {
        let Some(state) = self.server(server) else { return ServerTotals::default() };
        let (sent, received) = state.bytes_without_former(self.bytes(server));
        ServerTotals {
            connections: self.connections(server),
            sent,
            received,
            blacklisted_until: state.blacklisted_until(),
            is_taken_out: state.is_taken_out(),
            failed_at: state.failed_at.load(Relaxed),
            address: state.address.load(Relaxed),
            last_failure: state.last_failure(),
            is_pending: self.is_pending(server),
            standing: state.standing(),
        }
    }

    /// Counts the bytes of a server from 0 again. Only one process calls it.
    pub fn reset(self, server: u32) {
        if let Some(state) = self.server(server) {
            let (sent, received) = self.bytes(server);
            state.sent_before.store(sent, Relaxed);
            state.received_before.store(received, Relaxed);
            state.last_failure.store(0, Relaxed);
            self.reset_statistics(server);
        }
    }

    /// Makes the byte totals of a server what they were in another table.
    pub fn import_bytes(self, server: u32, sent: u64, received: u64) {
        if let Some(state) = self.server(server) {
            let (now_sent, now_received) = self.bytes(server);
            state.sent_before.store(now_sent.wrapping_sub(sent), Relaxed);
            state.received_before.store(now_received.wrapping_sub(received), Relaxed);
        }
    }

    /// All bytes that the figures of a server hold: sent, received.
    fn bytes(self, server: u32) -> (u64, u64) {
        let sum = |bytes: fn(&Figures) -> u64| {
            self.column(server).fold(0u64, |sum, figures| sum.wrapping_add(bytes(figures)))
        };
        (sum(|figures| figures.sent.load(Relaxed)), sum(|figures| figures.received.load(Relaxed)))
    }

    /// Takes back the server counts of a row.
    pub fn reclaim_counts(self, row: u32) {
        self.row(row).iter().for_each(|figures| {
            figures.republish(0);
            figures.set_pending(false);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{Blacklist, ServerTotals, Shape, Table, Traffic};

    fn table() -> Table {
        Table::create(Shape { clients: 1, servers: 3, rows: 3, connections: 8 })
            .expect("memory for a table")
    }

    #[test]
    fn the_address_in_use_is_moved_by_one_and_seen_by_all() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        assert_eq!(first.address(1), 0);
        assert!(first.move_address(1, 0, 2) && !second.move_address(1, 0, 1));
        assert_eq!(
            (second.address(1), second.address(0), table.server_totals(1).address),
            (2, 0, 2)
        );
        table.reclaim(0);
        assert_eq!(second.address(1), 2);
        table.reset_server(1);
        assert_eq!(second.address(1), 2, "another number of bytes is not another address");
        table.reset_address(1);
        assert_eq!(second.address(1), 0);
        assert_eq!((first.address(3), first.move_address(3, 0, 1)), (0, false));
        table.reset_address(3);
        table.set_address(1, 3);
        table.set_address(3, 1);
        assert_eq!((second.address(1), second.address(3)), (3, 0));
    }

    #[test]
    fn totals_are_sums_over_the_workers_and_bytes_outlive_them() {
        let table = table();
        for worker in 0..3 {
            let worker_table = table.worker_table(worker);
            assert!(worker_table.reserve(2, None) && worker_table.reserve(2, Some(10)));
            worker_table.add_server_bytes(2, 10, 200);
        }
        table.worker_table(1).release(2);
        assert_eq!(table.worker_table(0).connections(2), 5);
        table.reclaim(2);
        let totals = table.server_totals(2);
        assert_eq!(
            totals,
            ServerTotals { connections: 3, sent: 30, received: 600, ..ServerTotals::default() }
        );
        assert_eq!(table.server_traffic(2), Traffic { sent: 30, received: 600, reached: 0 });
        assert_eq!(table.server_totals(1), ServerTotals::default());
    }

    #[test]
    fn one_worker_with_too_many_pending_connects_is_enough_and_its_death_ends_it() {
        let table = table();
        table.worker_table(0).set_pending(1, true);
        table.worker_table(2).set_pending(1, true);
        table.worker_table(2).set_pending(3, true);
        assert!(table.server_totals(1).is_pending && !table.server_totals(0).is_pending);
        assert!(table.worker_table(1).is_pending(1) && !table.worker_table(1).is_pending(3));
        table.worker_table(0).set_pending(1, false);
        assert!(table.server_totals(1).is_pending);
        table.reclaim(2);
        assert!(!table.server_totals(1).is_pending);
        table.worker_table(0).set_pending(1, true);
        let _ = table.worker_table(0).republish(8, std::iter::empty());
        assert!(!table.server_totals(1).is_pending, "the worker sets it again itself");
    }

    #[test]
    fn another_server_under_a_number_begins_at_0() {
        let table = table();
        let workers = [table.worker_table(0), table.worker_table(1)];
        workers.iter().for_each(|worker_table| worker_table.add_server_bytes(1, 10, 200));
        table.take_out(1, 1000, 77);
        assert!(workers[0].reserve(1, None));
        table.reset_server(1);
        assert_eq!(
            table.server_totals(1),
            ServerTotals { connections: 1, failed_at: 77, ..ServerTotals::default() }
        );
        workers[1].add_server_bytes(1, 1, 2);
        assert_eq!((table.server_totals(1).sent, table.server_totals(1).received), (1, 2));
        assert_eq!(table.server_traffic(1), Traffic { sent: 1, received: 2, reached: 0 });
        assert_eq!(table.server_traffic(3), Traffic::default());
        table.reset_server(3);
        table.take_out(3, 1, 1);
    }

    #[test]
    fn workers_compare_what_they_have_open() {
        let table = table();
        let (first, second, third) =
            (table.worker_table(0), table.worker_table(1), table.worker_table(2));
        assert_eq!(first.fewest_open(), None);
        first.set_open(Some(0));
        second.set_open(Some(7));
        third.set_open(Some(u32::MAX));
        assert_eq!((first.fewest_open(), second.fewest_open()), (Some(7), Some(0)));
        first.set_open(None);
        assert_eq!(second.fewest_open(), Some(u32::MAX - 1));
        table.reclaim(2);
        assert_eq!((first.fewest_open(), second.fewest_open()), (Some(7), None));
    }

    #[test]
    fn a_limit_counts_all_workers_and_limits_may_differ_by_client() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        assert!(first.reserve(0, Some(2)) && second.reserve(0, Some(2)));
        assert!(!first.reserve(0, Some(2)) && !second.reserve(0, Some(2)));
        // A known client may use the server up to the hard limit.
        assert!(first.reserve(0, Some(3)) && !first.reserve(0, Some(3)));
        assert!(second.reserve(0, None));
        assert_eq!(first.connections(0), 4);
        assert!(!second.reserve(0, Some(0)));
        (0..3).for_each(|_| first.release(0));
        assert_eq!(first.connections(0), 2);
    }

    #[test]
    fn a_server_that_does_not_exist_is_nothing() {
        let table = table();
        let worker_table = table.worker_table(0);
        assert!(!worker_table.reserve(3, None) && !worker_table.reserve(u32::MAX, Some(1)));
        assert!(
            !worker_table.set_blacklist(3, 1, 1)
                && !worker_table.begin_probe(3, 1, 1)
                && !worker_table.return_to_service(3, 1)
        );
        assert_eq!(
            (worker_table.connections(3), worker_table.blacklist(3, 1)),
            (0, Blacklist::Clear)
        );
        assert_eq!(table.server_totals(3), ServerTotals::default());
    }
}
