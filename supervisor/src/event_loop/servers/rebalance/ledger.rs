//! Which servers have more than their share, and how many of their connections may be ended now.
//!
//! Pure: the counts and the time are arguments. The orders that follow are carried out elsewhere;
//! what they ended comes back as [`Ledger::settle`].

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pen_config::ids::ServerId;

use crate::event_loop::servers::rebalance::account::{Account, VALID};
use crate::event_loop::servers::rebalance::shares::{Seat, shares};
use crate::event_loop::servers::rebalance::trips::Trips;

/// A server is left alone until it has so many percent more than its share, because the numbers of
/// connections change all the time.
const TOLERANCE: u64 = 5;

/// Most orders for one server at a time: its clients go to so many others at most.
const GOALS: u32 = 8;

/// Most orders at a time. The servers that have most beyond their share come first.
const ORDERS: usize = 64;

/// Connections of a server are to be ended, so that their clients come back at another one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Move {
    pub(super) serial: u32,
    pub(super) from: ServerId,
    pub(super) to: ServerId,
    pub(super) most: u32,
    /// Until when it is valid.
    pub(super) until: Instant,
}

/// What an administrator must know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// The first connections of a server with more than its share were ended.
    Began { server: ServerId, connections: u32, share: u32 },
    /// It has its share again, or does not take part any more. So many connections were ended.
    Ended { server: ServerId, closed: u64 },
}

/// All servers, and what was ended of each.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    serial: u32,
    /// The servers that have had more than their share a short time ago.
    sources: BTreeMap<ServerId, Source>,
    trips: Trips,
    /// The servers that took part the last time.
    seats: Vec<ServerId>,
    /// Nothing is ended before: an earlier program may have ended connections in this minute.
    from: Option<Instant>,
}

/// A server that has, or had, more than its share.
#[derive(Debug)]
struct Source {
    account: Account,
    state: SourceState,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SourceState {
    /// It has its share.
    Even,
    /// It has more than that: connections and share when that was found, and how many connections
    /// were ended since.
    Over { connections: u32, share: u32, closed: u64 },
}

impl Ledger {
    /// The ledger of a program that took over.
    pub(super) fn adopted(now: Instant) -> Ledger {
        Ledger { from: Some(now + Account::MEMORY), ..Ledger::default() }
    }

    /// Whether something must be done, or forgotten, as time passes.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Ends all that is under way, because no server is to lose connections now.
    pub(super) fn stop(&mut self, now: Instant) -> Vec<News> {
        self.trips.clear();
        self.seats.clear();
        self.keep_over(|_| false, now)
    }

    /// The orders that are due. `is_busy`: an order for the server is still under way.
    pub(super) fn plan(
        &mut self,
        percent: u32,
        seats: &[Seat],
        is_busy: impl Fn(ServerId) -> bool,
        now: Instant,
    ) -> (Vec<Move>, Vec<News>) {
        let ids: Vec<ServerId> = seats.iter().map(|seat| seat.server).collect();
        if ids != self.seats {
            self.trips.clear();
            self.seats = ids;
        }
        self.trips.forget(now);
        let connections = seats.iter().map(|seat| u64::from(seat.connections)).sum();
        let missing = self.trips.missing(connections);
        let total = connections + missing.all;
        let shares = shares(seats, total);
        let mut needs = Needs::default();
        let mut over: Vec<(u32, Seat)> = Vec::new();
        let mut still_over = BTreeSet::new();
        for (seat, share) in seats.iter().zip(&shares) {
            let has = u64::from(seat.connections) + missing.of(seat.server);
            needs.add(seat.server, u64::from(share.below).saturating_sub(has));
            if seat.connections > share.above {
                still_over.insert(seat.server);
                if self.is_over(seat, share.above, now) {
                    over.push((seat.connections - share.above, *seat));
                }
            }
        }
        let news = self.keep_over(|server| still_over.contains(&server), now);
        over.sort_by_key(|(surplus, seat)| (std::cmp::Reverse(*surplus), seat.server));
        let mut moves = Vec::new();
        if self.from.is_some_and(|from| now < from) {
            return (moves, news);
        }
        self.from = None;
        for (surplus, seat) in over.into_iter().filter(|(_, seat)| !is_busy(seat.server)) {
            let Some(source) = self.sources.get_mut(&seat.server) else { continue };
            let mut left = source.account.allowed(percent, seat.connections, now).min(surplus);
            let part = left.div_ceil(needs.servers().clamp(1, GOALS));
            while moves.len() < ORDERS
                && let Some((to, most)) = needs.take(left.min(part))
            {
                left -= most;
                self.serial = self.serial.wrapping_add(1);
                let serial = self.serial;
                source.account.book(serial, most, now);
                self.trips.book(serial, to, most, total, now);
                moves.push(Move { serial, from: seat.server, to, most, until: now + VALID });
            }
        }
        (moves, news)
    }

    /// Notes what became of an order: so many connections were ended, and so many of it will not
    /// be. What is in neither may still be ended.
    pub(super) fn settle(&mut self, order: Move, closed: u32, unused: u32) -> Option<News> {
        self.trips.give_back(order.serial, unused);
        let source = self.sources.get_mut(&order.from)?;
        source.account.give_back(order.serial, unused);
        let SourceState::Over { connections, share, closed: before } = &mut source.state else {
            return None;
        };
        let is_first = *before == 0 && closed > 0;
        *before += u64::from(closed);
        let (server, connections, share) = (order.from, *connections, *share);
        is_first.then_some(News::Began { server, connections, share })
    }

    /// Whether a server that is above its share is to lose connections.
    fn is_over(&mut self, seat: &Seat, share: u32, now: Instant) -> bool {
        let exceeds = u64::from(seat.connections) * 100 > u64::from(share) * (100 + TOLERANCE);
        let source = match self.sources.get_mut(&seat.server) {
            Some(source) => source,
            None if exceeds => {
                let source = Source { account: Account::new(now), state: SourceState::Even };
                self.sources.entry(seat.server).or_insert(source)
            }
            None => return false,
        };
        if source.state == SourceState::Even && exceeds {
            source.account.begin(now);
            let connections = seat.connections;
            source.state = SourceState::Over { connections, share, closed: 0 };
        }
        source.state != SourceState::Even
    }

    /// Ends the state of servers that are not over their share any more, and forgets those of which
    /// nothing was ended a short time ago.
    fn keep_over(&mut self, is_over: impl Fn(ServerId) -> bool, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        self.sources.retain(|server, source| {
            source.account.forget(now);
            if let SourceState::Over { closed, .. } = source.state
                && !is_over(*server)
            {
                source.state = SourceState::Even;
                if closed > 0 {
                    news.push(News::Ended { server: *server, closed });
                }
            }
            source.state != SourceState::Even || source.account.has_orders()
        });
        news
    }
}

/// How many connections the servers lack, the one that lacks most first.
#[derive(Debug, Default)]
struct Needs(BTreeSet<(u64, ServerId)>);

impl Needs {
    fn add(&mut self, server: ServerId, lacks: u64) {
        if lacks > 0 {
            self.0.insert((lacks, server));
        }
    }

    /// How many servers lack some.
    fn servers(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Takes at most so many of what the neediest server lacks.
    fn take(&mut self, most: u32) -> Option<(ServerId, u32)> {
        if most == 0 {
            return None;
        }
        let (lacks, server) = self.0.pop_last()?;
        let taken = u32::try_from(lacks).unwrap_or(u32::MAX).min(most);
        self.add(server, lacks - u64::from(taken));
        Some((server, taken))
    }
}

#[cfg(test)]
mod tests;
