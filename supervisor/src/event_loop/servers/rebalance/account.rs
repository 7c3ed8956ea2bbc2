//! How many connections of one server may be ended now: at most so many percent per minute.
//!
//! Two rules hold together. Credit grows with time, so that the closes are spread over the minute,
//! and a server with few connections loses one now and then instead of none. And all that may have
//! been ended in the last minute counts, so that no minute has more than the percentage.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// In how much time at most so many percent are ended.
const PERIOD: Duration = Duration::from_secs(60);

/// How long an order stays valid. A worker that hangs may carry it out so much later.
pub(super) const VALID: Duration = Duration::from_secs(2);

/// The credit for one connection, in percent of a connection times milliseconds.
const ONE: u64 = 100 * PERIOD.as_millis() as u64;

/// Credit of at most so many milliseconds is kept beside one connection. So a server whose
/// connections were busy for long loses no more at once when they are silent.
const KEPT: u64 = 1000;

/// What may be ended of a server, and what was.
#[derive(Debug)]
pub(super) struct Account {
    credit: u64,
    /// Until when the credit was counted.
    counted: Instant,
    /// The orders of the last period, the oldest first.
    orders: VecDeque<Booked>,
}

/// An order that counts.
#[derive(Clone, Copy, Debug)]
struct Booked {
    serial: u32,
    at: Instant,
    connections: u32,
}

impl Account {
    /// How long an order counts: as late as a worker may carry it out, and then for a minute.
    pub(super) const MEMORY: Duration = Duration::from_secs(PERIOD.as_secs() + VALID.as_secs());

    /// An account without credit.
    pub(super) fn new(now: Instant) -> Account {
        Account { credit: 0, counted: now, orders: VecDeque::new() }
    }

    /// Forgets orders that no minute from now on has in common with another order.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_past = |order: &Booked| now.saturating_duration_since(order.at) > Account::MEMORY;
        while self.orders.front().is_some_and(is_past) {
            self.orders.pop_front();
        }
    }

    /// Whether orders still count.
    pub(super) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Begins to count credit now.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.credit, self.counted) = (0, now);
    }

    /// How many connections of so many may be ended now.
    pub(super) fn allowed(&mut self, percent: u32, connections: u32, now: Instant) -> u32 {
        let rate = u64::from(percent) * u64::from(connections);
        let passed = now.saturating_duration_since(self.counted).as_millis();
        let earned = rate.saturating_mul(u64::try_from(passed).unwrap_or(u64::MAX));
        self.credit = self.credit.saturating_add(earned).min(ONE + rate * KEPT);
        self.counted = now;
        let most = rate.div_ceil(100);
        let spent: u64 = self.orders.iter().map(|order| u64::from(order.connections)).sum();
        let allowed = (self.credit / ONE).min(most.saturating_sub(spent));
        u32::try_from(allowed).unwrap_or(u32::MAX)
    }

    /// Notes an order to end so many.
    pub(super) fn book(&mut self, serial: u32, connections: u32, now: Instant) {
        self.credit = self.credit.saturating_sub(u64::from(connections) * ONE);
        self.orders.push_back(Booked { serial, at: now, connections });
    }

    /// Notes that so many of an order will not be ended.
    pub(super) fn give_back(&mut self, serial: u32, connections: u32) {
        if let Some(order) = self.orders.iter_mut().find(|order| order.serial == serial) {
            let back = connections.min(order.connections);
            order.connections -= back;
            self.credit = self.credit.saturating_add(u64::from(back) * ONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_server_with_few_connections_loses_one_now_and_then() {
        let start = Instant::now();
        let mut account = Account::new(start);
        let mut ended = Vec::new();
        for second in 0..=700 {
            let now = start + seconds(second);
            account.forget(now);
            if account.allowed(1, 30, now) > 0 {
                account.book(second as u32, 1, now);
                ended.push(second);
            }
        }
        assert_eq!(ended, [200, 400, 600]);
    }

    #[test]
    fn what_was_not_ended_is_given_back_and_not_kept_for_long() {
        let start = Instant::now();
        let mut account = Account::new(start);
        assert_eq!(account.allowed(10, 1000, start + seconds(3)), 2, "one and those of a second");
        account.book(1, 2, start + seconds(3));
        assert_eq!(account.allowed(10, 1000, start + seconds(3)), 0);
        account.give_back(1, 2);
        account.give_back(1, 9);
        account.give_back(2, 9);
        assert_eq!(account.allowed(10, 1000, start + seconds(3)), 2);
        assert_eq!(account.allowed(10, 1000, start + seconds(3600)), 2);
        assert_eq!(account.allowed(0, 1000, start + seconds(3600)), 0);
        assert_eq!(account.allowed(100, u32::MAX, start + seconds(3601)), u32::MAX / 60 + 1);
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_the_percentage(
            percent in 1u32..=100,
            connections in 0u32..3000,
            steps in prop::collection::vec((1u64..9000, 0u64..=2000, 0u32..=100), 1..300),
        ) {
            let start = Instant::now();
            let (mut account, mut now) = (Account::new(start), start);
            let mut ended: Vec<(Instant, u32)> = Vec::new();
            for (serial, (millis, late, back)) in (0..).zip(steps) {
                now += Duration::from_millis(millis);
                account.forget(now);
                let allowed = account.allowed(percent, connections, now);
                if allowed > 0 {
                    account.book(serial, allowed, now);
                    let given_back = allowed * back / 100;
                    account.give_back(serial, given_back);
                    // A slow worker ends them as late as the order allows.
                    ended.push((now + Duration::from_millis(late), allowed - given_back));
                }
            }
            let most = (u64::from(percent) * u64::from(connections)).div_ceil(100);
            for (from, _) in &ended {
                let within = ended.iter().filter(|(at, _)| from <= at && *at < *from + PERIOD);
                let sum: u64 = within.map(|(_, count)| u64::from(*count)).sum();
                prop_assert!(sum <= most, "{sum} of {most}: {ended:?}");
            }
            // Over a longer time, not even the fraction is rounded up more than once.
            let all: u64 = ended.iter().map(|(_, count)| u64::from(*count)).sum();
            let earned = u64::from(percent) * u64::from(connections)
                * (now - start).as_millis() as u64;
            prop_assert!(all * ONE <= earned, "{all}");
        }
    }
}
