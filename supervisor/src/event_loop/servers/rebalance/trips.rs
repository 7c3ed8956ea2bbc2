//! Clients whose connections were ended a short time ago, and who may not be back yet.
//!
//! While they are away, there are fewer connections, and so each share seems smaller. Without
//! counting them, a server would lose connection after connection while nobody comes back.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pen_config::ids::ServerId;

/// How long a client is waited for. Who comes later is a new client.
const AWAY: Duration = Duration::from_secs(300);

/// The clients that were sent elsewhere.
#[derive(Debug, Default)]
pub(super) struct Trips {
    /// The oldest first.
    trips: VecDeque<Trip>,
}

/// Clients that were sent to one server.
#[derive(Clone, Copy, Debug)]
struct Trip {
    serial: u32,
    at: Instant,
    to: ServerId,
    clients: u32,
    /// The connections of all servers before, with those of clients that were away.
    total: u64,
}

/// The clients that are missing.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// All of them.
    pub(super) all: u64,
    /// How many were sent to each server, whether they are back or not.
    sent: BTreeMap<ServerId, u64>,
}

impl Missing {
    /// How many of them may be on their way to a server.
    pub(super) fn of(&self, server: ServerId) -> u64 {
        self.sent.get(&server).copied().unwrap_or(0).min(self.all)
    }
}

impl Trips {
    /// Forgets clients that are not waited for any more.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_past = |trip: &Trip| now.saturating_duration_since(trip.at) > AWAY;
        while self.trips.front().is_some_and(is_past) {
            self.trips.pop_front();
        }
    }

    /// Forgets all: other servers take part now, so counts from before cannot be compared.
    pub(super) fn clear(&mut self) {
        self.trips.clear();
    }

    /// The clients that are missing, if there are so many connections now.
    pub(super) fn missing(&self, connections: u64) -> Missing {
        let Some(first) = self.trips.front() else { return Missing::default() };
        let mut sent = BTreeMap::new();
        for trip in &self.trips {
            *sent.entry(trip.to).or_insert(0) += u64::from(trip.clients);
        }
        let all = first.total.saturating_sub(connections).min(sent.values().sum());
        Missing { all, sent }
    }

    /// Notes clients that are sent to a server.
    pub(super) fn book(
        &mut self,
        serial: u32,
        to: ServerId,
        clients: u32,
        total: u64,
        at: Instant,
    ) {
        self.trips.push_back(Trip { serial, at, to, clients, total });
    }

    /// Notes that so many of them stayed where they were.
    pub(super) fn give_back(&mut self, serial: u32, clients: u32) {
        let trip = self.trips.iter().position(|trip| trip.serial == serial);
        if let Some(index) = trip {
            let trip = &mut self.trips[index];
            trip.clients = trip.clients.saturating_sub(clients);
            if trip.clients == 0 {
                self.trips.remove(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_missing_until_as_many_connections_are_there_as_before() {
        let (start, mut trips) = (Instant::now(), Trips::default());
        let [one, two] = [ServerId(1), ServerId(2)];
        assert_eq!(trips.missing(0).all, 0);
        trips.book(1, one, 6, 100, start);
        trips.book(2, two, 3, 100, start + AWAY / 2);
        let missing = trips.missing(91);
        assert_eq!((missing.all, missing.of(one), missing.of(two)), (9, 6, 3));
        let missing = trips.missing(95);
        assert_eq!((missing.all, missing.of(one), missing.of(two)), (5, 5, 3));
        assert_eq!(missing.of(ServerId(3)), 0);
        assert_eq!((trips.missing(100).all, trips.missing(120).all), (0, 0));
        // Others have left too.
        assert_eq!(trips.missing(10).all, 9);
        trips.give_back(1, 6);
        trips.give_back(7, 6);
        assert_eq!((trips.missing(10).all, trips.missing(10).of(one)), (3, 0));
        trips.forget(start + AWAY + AWAY / 2);
        assert_eq!(trips.missing(10).all, 3);
        trips.forget(start + AWAY * 2);
        assert_eq!(trips.missing(10).all, 0);
    }
}
