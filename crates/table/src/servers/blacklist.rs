//! Whether a server is in use, why it last failed, and who probes it.
//!
//! **Blacklist word**: 0 = in use. Bit 63 clear: blacklisted until this monotonic millisecond. Bit
//! 63 set: the time is over, one connection probes the server, and the other bits are the end of
//! its lease. If a lease ends without a result (its worker died), the server is as before the
//! probe: the next worker may try it. Bit 62 means that an operator blacklisted it, and stays until
//! it is in use again or fails.
//!
//! **Last failure**: Unix time in bits 0–47, and a code for the reason in bits 48–63. Only the
//! callers know the codes; 0 = none yet.

use serde::{Deserialize, Serialize};

use crate::parts::ServerState;
use crate::sync::Ordering::*;

/// The state of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blacklist {
    /// In use.
    Clear,
    /// Blacklisted until this time, in monotonic milliseconds.
    Until(u64),
    /// The blacklist time is over, and no worker has tried the server yet.
    Expired,
    /// The blacklist time is over, and one connection probes the server.
    Probed,
}

/// When and why a connect to a server failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Unix time, in seconds.
    pub at: u64,
    /// The code that the caller gave.
    pub cause: u16,
}

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

    /// The time in the blacklist word; 0 = in use.
    pub fn blacklisted_until(&self) -> u64 {
        self.blacklisted.load(Acquire) & TIME
    }

    /// Whether an operator blacklisted it.
    pub fn is_taken_out(&self) -> bool {
        self.blacklisted.load(Acquire) & OPERATOR != 0
    }

    pub fn note_failure(&self, at: u64, cause: u16) {
        self.last_failure
            .store(at & FAILURE_TIME | u64::from(cause) << FAILURE_TIME.count_ones(), Relaxed);
    }

    /// Sets the Unix time at which the server was last blacklisted.
    pub fn set_failed_at(&self, at: u64) {
        self.failed_at.store(at, Relaxed);
    }

    pub fn last_failure(&self) -> Option<Failure> {
        let word = self.last_failure.load(Relaxed);
        (word != 0).then_some(Failure {
            at: word & FAILURE_TIME,
            cause: (word >> FAILURE_TIME.count_ones()) as u16,
        })
    }

    /// Ends a blacklisting that a failure caused, because the server was seen to work. An
    /// operator's stays. What a worker writes at the same time is newer and stays too. The return
    /// is noted before the server can be used. Returns whether the blacklisting ended.
    pub fn lift_blacklist(&self, now: u64) -> bool {
        let seen = self.blacklisted.load(Acquire);
        if seen == 0 || seen & OPERATOR != 0 {
            return false;
        }
        self.note_return(now);
        self.blacklisted.compare_exchange(seen, 0, AcqRel, Relaxed).is_ok()
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

pub(crate) fn classify(word: u64, now: u64) -> Blacklist {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::{Blacklist, Failure, Shape, Table};

    fn table() -> Table {
        Table::create(Shape { clients: 1, servers: 3, rows: 3, connections: 8 })
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
        assert!(first.return_to_service(1, 9));
        assert!(!second.return_to_service(1, 9));
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
    fn only_what_a_failure_caused_is_lifted() {
        let table = table();
        let worker_table = table.worker_table(0);
        assert!(!table.lift_blacklist(0, 9), "it is in use");
        worker_table.set_blacklist(0, 1000, 1);
        assert!(table.lift_blacklist(0, 9) && !table.lift_blacklist(0, 9));
        assert_eq!(worker_table.blacklist(0, 5), Blacklist::Clear);
        worker_table.set_blacklist(0, 1000, 1);
        assert!(worker_table.begin_probe(0, 1000, 2000) && table.lift_blacklist(0, 9));
        worker_table.abandon_probe(0, 1500);
        assert_eq!(worker_table.blacklist(0, 1500), Blacklist::Clear);
        table.take_out(0, 1000, 1);
        assert!(!table.lift_blacklist(0, 9) && worker_table.begin_probe(0, 1000, 2000));
        assert!(!table.lift_blacklist(0, 9) && !table.lift_blacklist(3, 9));
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
}
