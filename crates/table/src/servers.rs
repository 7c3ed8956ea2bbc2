//! The state of the servers that all workers share: blacklist, probe, counts and limits.
//!
//! **Blacklist word**: 0 = in use. Bit 63 clear: blacklisted until this monotonic millisecond. Bit
//! 63 set: the time is over, one connection probes the server, and the other bits are the end of
//! its lease. If a lease ends without a result (its worker died), the server is as before the
//! probe: the next worker may try it. Bit 62 means that an operator blacklisted it, and stays until
//! it is in use again or fails.
//!
//! **Last failure**: Unix time in bits 0–47, and a code for the reason in bits 48–63. Only the
//! callers know the codes; 0 = none yet.
//!
//! **Counts**: there is one row per worker and server, with one writer; the total is the sum over
//! the workers. The rows of a dead worker are set to 0, and nothing else has to be undone.
//!
//! **Bytes**: rows only grow. When a number is given to another server, their content at that time
//! is stored beside the blacklist word and subtracted.
//!
//! **Address**: which of a server's addresses is in use. Any value is valid: readers take it modulo
//! the number of addresses.
//!
//! **Limits**: raise the own row, then compute the sum, and lower the row again if the sum is too
//! large. A SeqCst fence is between the two steps. So of two workers that raise at the same time,
//! at least one sees both: never one too many. The lock also prevents one too few, because no other
//! worker raises and sums meanwhile. If the lock is not available, the limit still holds.

use crate::layout::{Row, ServerState};
use crate::lock::{LockId, StuckLocks};
use crate::sync::{Ordering::*, fence};
use crate::view::View;
use crate::{Blacklist, Failure, ServerTotals};

impl ServerState {
    pub fn blacklist(&self, now: u64) -> Blacklist {
        classify(self.blacklisted.load(Acquire), now)
    }

    /// Returns whether the server was in use, or blacklisted by an operator.
    pub fn set_blacklist(&self, until: u64, failed_at: u64) -> bool {
        if until == 0 {
            self.clear_blacklist();
            return false;
        }
        self.failed_at.store(failed_at, Relaxed);
        let before = self.blacklisted.swap(until & TIME, AcqRel);
        before == 0 || before & OPERATOR != 0
    }

    /// Blacklists the server for an operator. A time of 0 would mean "in use".
    pub fn take_out(&self, until: u64, at: u64) {
        self.failed_at.store(at, Relaxed);
        self.blacklisted.store((until & TIME).max(1) | OPERATOR, Release);
    }

    /// Whether an operator blacklisted it.
    pub fn is_taken_out(&self) -> bool {
        self.blacklisted.load(Acquire) & OPERATOR != 0
    }

    pub fn note_failure(&self, at: u64, cause: u16) {
        self.last_failure
            .store(at & FAILURE_TIME | u64::from(cause) << FAILURE_TIME.count_ones(), Relaxed);
    }

    pub fn last_failure(&self) -> Option<Failure> {
        let word = self.last_failure.load(Relaxed);
        (word != 0).then_some(Failure {
            at: word & FAILURE_TIME,
            cause: (word >> FAILURE_TIME.count_ones()) as u16,
        })
    }

    /// Returns whether this caller may probe the server.
    pub fn begin_probe(&self, now: u64, until: u64) -> bool {
        let seen = self.blacklisted.load(Acquire);
        classify(seen, now) == Blacklist::Expired
            && self
                .blacklisted
                .compare_exchange(seen, until & TIME | seen & OPERATOR | PROBE, AcqRel, Relaxed)
                .is_ok()
    }

    /// Ends a probe that had no result: the server is as before the probe.
    pub fn abandon_probe(&self, now: u64) {
        let seen = self.blacklisted.load(Acquire);
        if classify(seen, now) == Blacklist::Probed {
            // If another worker changed it meanwhile, that value is newer.
            let _ = self.blacklisted.compare_exchange(
                seen,
                now.max(1) & TIME | seen & OPERATOR,
                AcqRel,
                Relaxed,
            );
        }
    }

    /// Returns whether the server was blacklisted.
    pub fn clear_blacklist(&self) -> bool {
        // A successful connect is the common case and must not write to a cache line that all
        // workers read.
        self.blacklisted.load(Acquire) != 0 && self.blacklisted.swap(0, AcqRel) != 0
    }
}

fn classify(word: u64, now: u64) -> Blacklist {
    let until = word & TIME;
    match word {
        0 => Blacklist::Clear,
        _ if until <= now => Blacklist::Expired,
        _ if word & PROBE != 0 => Blacklist::Probed,
        _ => Blacklist::Until(until),
    }
}

const PROBE: u64 = 1 << 63;

const OPERATOR: u64 = 1 << 62;

/// The bits of the blacklist word that hold the time.
const TIME: u64 = OPERATOR - 1;

/// The bits of the last failure that hold the time.
const FAILURE_TIME: u64 = (1 << 48) - 1;

impl Row {
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

    pub fn add_bytes(&self, sent: u64, received: u64) {
        self.sent.store(self.sent.load(Relaxed).wrapping_add(sent), Relaxed);
        self.received.store(self.received.load(Relaxed).wrapping_add(received), Relaxed);
    }
}

impl View<'_> {
    /// Connections to a server, of all workers.
    pub fn connections(self, server: u32) -> u32 {
        let sum =
            self.column(server).map(|row| u64::from(row.connections.load(Acquire))).sum::<u64>();
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    /// Counts a connection of a worker to a server, if fewer than `limit` are counted.
    pub fn reserve(
        self,
        worker: u32,
        server: u32,
        limit: Option<u32>,
        stuck: &mut StuckLocks,
    ) -> bool {
        let (Some(row), Some(state)) =
            (self.rows(worker).get(server as usize), self.servers.get(server as usize))
        else {
            return false;
        };
        let Some(limit) = limit else { return row.raise() };
        let lock = &state.limits.0;
        let locked = lock.take(worker, LockId::Limit(server), stuck).is_ok();
        let reserved = self.raise_below(row, server, limit);
        if locked {
            lock.give_back(worker);
        }
        reserved
    }

    /// What `reserve` does if it cannot take the lock.
    #[cfg(loom)]
    pub fn reserve_unlocked(self, worker: u32, server: u32, limit: u32) -> bool {
        self.raise_below(&self.rows(worker)[server as usize], server, limit)
    }

    fn raise_below(self, row: &Row, server: u32, limit: u32) -> bool {
        // This check keeps the sum that others see from exceeding the limit, even for a moment.
        if self.connections(server) >= limit || !row.raise() {
            return false;
        }
        fence(SeqCst);
        let within = self.connections(server) <= limit;
        if !within {
            row.lower();
        }
        within
    }

    /// Whether any worker has the maximum of pending connects to a server.
    pub fn is_pending(self, server: u32) -> bool {
        self.servers.get(server as usize).is_some()
            && self.column(server).any(|row| row.pending.load(Relaxed) != 0)
    }

    /// The figures of a server.
    pub fn totals(self, server: u32) -> ServerTotals {
        let Some(state) = self.servers.get(server as usize) else { return ServerTotals::default() };
        let (sent, received) = self.bytes(server);
        ServerTotals {
            connections: self.connections(server),
            sent: sent.wrapping_sub(state.sent_before.load(Relaxed)),
            received: received.wrapping_sub(state.received_before.load(Relaxed)),
            blacklisted_until: state.blacklisted.load(Acquire) & TIME,
            is_taken_out: state.is_taken_out(),
            failed_at: state.failed_at.load(Relaxed),
            address: state.address.load(Relaxed),
            last_failure: state.last_failure(),
            is_pending: self.is_pending(server),
        }
    }

    /// Counts the bytes of a server from 0 again. Only one process calls it.
    pub fn reset(self, server: u32) {
        if let Some(state) = self.servers.get(server as usize) {
            let (sent, received) = self.bytes(server);
            state.sent_before.store(sent, Relaxed);
            state.received_before.store(received, Relaxed);
            state.last_failure.store(0, Relaxed);
        }
    }

    /// All bytes that the rows of a server hold: sent, received.
    fn bytes(self, server: u32) -> (u64, u64) {
        let sum = |bytes: fn(&Row) -> u64| {
            self.column(server).fold(0u64, |sum, row| sum.wrapping_add(bytes(row)))
        };
        (sum(|row| row.sent.load(Relaxed)), sum(|row| row.received.load(Relaxed)))
    }

    /// Takes back the server counts of a dead worker.
    pub fn bury_counts(self, worker: u32) {
        self.rows(worker).iter().for_each(|row| {
            row.republish(0);
            row.set_pending(false);
        });
    }

    /// Makes all locks orphaned that a worker owns, or that have an owner that does not exist.
    pub fn bury_locks(self, worker: u32) {
        let shards = self.shards().map(|shard| &shard.state.lock.0.lock);
        for lock in shards.chain(self.servers.iter().map(|server| &server.limits.0)) {
            lock.reclaim(worker);
            lock.bury_impossible(self.layout.shape.workers);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::sync::Ordering::Relaxed;
    use crate::{Blacklist, Failure, ServerTotals, Shape, Table};

    fn table() -> Table {
        Table::create(Shape { clients: 1, servers: 3, workers: 3, connections: 8 })
            .expect("memory for a table")
    }

    #[test]
    fn a_server_is_left_out_for_its_time_and_then_tried_by_one() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        assert_eq!(first.blacklist(1, 0), Blacklist::Clear);
        assert!(first.set_blacklist(1, 1000, 77));
        assert_eq!(second.blacklist(1, 999), Blacklist::Until(1000));
        assert!(!second.begin_probe(1, 999, 5000));
        assert_eq!(second.blacklist(1, 1000), Blacklist::Expired);
        assert!(first.begin_probe(1, 1000, 5000));
        assert!(!second.begin_probe(1, 1000, 5000));
        assert_eq!(second.blacklist(1, 4999), Blacklist::Probed);
        let totals = table.server_totals(1);
        assert_eq!((totals.blacklisted_until, totals.failed_at), (5000, 77));
        assert!(first.clear_blacklist(1));
        assert!(!second.clear_blacklist(1));
        assert_eq!(second.blacklist(1, 1001), Blacklist::Clear);
        assert_eq!(table.server_totals(1).blacklisted_until, 0);
    }

    #[test]
    fn a_transition_is_reported_once() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        assert!(first.set_blacklist(0, 1000, 1));
        assert!(!second.set_blacklist(0, 1100, 1));
        assert_eq!(first.blacklist(0, 1050), Blacklist::Until(1100));
        // A failed probe: the server was not in use.
        assert!(first.begin_probe(0, 1100, 2000));
        assert!(!first.set_blacklist(0, 3000, 2));
        assert_eq!(second.blacklist(0, 1500), Blacklist::Until(3000));
        assert!(!first.set_blacklist(0, 0, 3));
        assert_eq!(second.blacklist(0, 1500), Blacklist::Clear);
        assert!(second.set_blacklist(0, 4000, 4));
    }

    #[test]
    fn an_operators_word_is_told_from_a_failure_until_the_server_is_in_use_again_or_fails() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        table.take_out(1, 1000, 77);
        assert!(first.is_taken_out(1) && !first.is_taken_out(0) && !first.is_taken_out(3));
        assert_eq!(first.blacklist(1, 999), Blacklist::Until(1000));
        let totals = table.server_totals(1);
        assert!(totals.is_taken_out);
        assert_eq!(
            (totals.blacklisted_until, totals.failed_at, totals.last_failure),
            (1000, 77, None)
        );
        // Its time is over, and its probe fails: this is a new event.
        assert!(first.begin_probe(1, 1000, 2000) && second.is_taken_out(1));
        assert_eq!(second.blacklist(1, 1500), Blacklist::Probed);
        first.note_failure(1, 88, 111);
        assert!(first.set_blacklist(1, 3000, 88) && !second.is_taken_out(1));
        assert!(!second.set_blacklist(1, 3000, 88));
        assert_eq!(table.server_totals(1).last_failure, Some(Failure { at: 88, cause: 111 }));
        table.take_out(1, 5000, 99);
        table.clear_blacklist(1);
        assert!(!first.is_taken_out(1));
        assert_eq!(
            table.server_totals(1).last_failure,
            Some(Failure { at: 88, cause: 111 }),
            "it is history"
        );
        table.reset_server(1);
        assert_eq!(table.server_totals(1).last_failure, None, "it was another server's");
        first.note_failure(3, 1, 1);
        table.take_out(3, 1, 1);
        first.note_failure(0, u64::MAX, u16::MAX);
        assert_eq!(
            table.server_totals(0).last_failure.map(|failure| failure.cause),
            Some(u16::MAX)
        );
        table.take_out(0, u64::MAX, 1);
        assert_eq!(first.blacklist(0, 1), Blacklist::Until(super::TIME));
    }

    #[test]
    fn a_probe_without_outcome_ends_with_its_lease() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        first.set_blacklist(0, 1000, 1);
        assert!(first.begin_probe(0, 1000, 2000));
        table.reclaim(0);
        assert_eq!(second.blacklist(0, 1999), Blacklist::Probed);
        assert_eq!(second.blacklist(0, 2000), Blacklist::Expired);
        assert!(second.begin_probe(0, 2000, 3000));
        second.abandon_probe(0, 2100);
        assert_eq!(first.blacklist(0, 2100), Blacklist::Expired);
        assert!(second.set_blacklist(1, 2500, 1));
        second.abandon_probe(1, 2100);
        assert_eq!(first.blacklist(1, 2100), Blacklist::Until(2500));
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
        assert!(!table.server_totals(1).is_pending, "whoever restates says it anew");
    }

    #[test]
    fn another_server_under_a_number_begins_at_0() {
        let table = table();
        let seats = [table.worker_table(0), table.worker_table(1)];
        seats.iter().for_each(|worker_table| worker_table.add_server_bytes(1, 10, 200));
        table.take_out(1, 1000, 77);
        assert!(seats[0].reserve(1, None));
        table.reset_server(1);
        assert_eq!(
            table.server_totals(1),
            ServerTotals { connections: 1, failed_at: 77, ..ServerTotals::default() }
        );
        seats[1].add_server_bytes(1, 1, 2);
        assert_eq!((table.server_totals(1).sent, table.server_totals(1).received), (1, 2));
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
    fn what_a_stranger_wrote_over_everything_is_put_right_by_the_living() {
        for word in [1, 2, 3, 4, 0x0101, 0x0102, 0x4141] {
            let table = table();
            let seats = [table.worker_table(0), table.worker_table(1)];
            let numbers =
                seats.each_ref().map(|worker_table| worker_table.claim_connection(8).unwrap());
            assert!(seats[0].reserve(1, None));
            table.memory.words().iter().take(1 << 21).for_each(|each| each.store(word, Relaxed));
            table.reclaim(2);
            let _ = seats[0].republish(8, [(numbers[0], Some(1))].into_iter());
            let _ = seats[1].republish(8, [(numbers[1], None)].into_iter());
            let counts = [0, 1, 2].map(|server| table.server_totals(server).connections);
            assert_eq!(counts, [0, 1, 0], "{word:x}");
            assert_eq!(
                numbers.map(|number| table.connection_owner(number)),
                [Some(0), Some(1)],
                "{word:x}"
            );
            assert_eq!(table.connections_open(), 2, "{word:x}");
            assert_eq!(seats[0].claim_connection(8), Some(2), "{word:x}");
            assert!(!table.reclaim(2), "{word:x}: nobody waits");
            assert!(seats[1].reserve(1, Some(2)) && !seats[1].reserve(1, Some(2)), "{word:x}");
            assert!(seats[1].lock([1; 16]).is_ok(), "{word:x}");
        }
    }

    #[test]
    fn a_number_has_its_worker() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(2));
        assert_eq!((first.claim_connection(8), second.claim_connection(8)), (Some(0), Some(1)));
        let owners: Vec<_> =
            [0, 1, 2, u32::MAX].into_iter().map(|number| table.connection_owner(number)).collect();
        assert_eq!(owners, [Some(0), Some(2), None, None]);
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
                && !worker_table.clear_blacklist(3)
        );
        assert_eq!(
            (worker_table.connections(3), worker_table.blacklist(3, 1)),
            (0, Blacklist::Clear)
        );
        assert_eq!(table.server_totals(3), ServerTotals::default());
    }
}
