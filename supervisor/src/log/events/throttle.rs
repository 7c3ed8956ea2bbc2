//! The rate limit for log lines about events that clients can cause: one line in a period for each
//! topic, for all workers together.
//!
//! Events in between are merged into one, which is logged when the period is over, with all numbers
//! added up. So a flood of one topic loses nothing and delays no other topic. State changes of
//! servers are not limited here.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pen_ipc::message::{Event, LimitsFault, ShortageDuring};

use crate::flood::{Admission, Flood};

/// A topic that is logged at most once in a period.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Topic {
    /// This server failed but is still used (`-b 0`).
    Failed(i32),
    /// A resource was missing when a client was accepted.
    ShortAtAccept,
    /// A resource was missing when a server was connected to.
    ShortAtConnect,
    /// A resource was missing when a socket was registered.
    ShortAtWatch,
    /// Lines of the request log were lost.
    LogLost,
    /// Lines of the connection log were lost.
    ConnectionLogLost,
    /// A worker could not get the client table's lock.
    LockStuck,
    /// TLS handshakes failed.
    Handshake,
    /// Listed senders violated the PROXY protocol.
    BadSender,
    /// Too many handshakes or requests were unfinished.
    Crowded,
    /// Requests were refused.
    Request,
    /// There was no usable server for clients.
    Unserved,
    /// Clients reached a limit per client.
    BeyondLimit,
    /// Connections could not be checked against the limits per client.
    LimitsUnchecked(LimitsFault),
}

impl Topic {
    /// The topic of an event; none for events that are logged one by one.
    pub(crate) fn of(event: &Event) -> Option<Topic> {
        match event {
            Event::Blacklisted { server, seconds: 0, .. } => Some(Topic::Failed(*server)),
            Event::Blacklisted { .. }
            | Event::BackInUse { .. }
            | Event::AddressChanged { .. }
            | Event::TableRebuilt { .. } => None,
            Event::Shortage { during, .. } => Some(match during {
                ShortageDuring::Accept => Topic::ShortAtAccept,
                ShortageDuring::Connect => Topic::ShortAtConnect,
                ShortageDuring::Watch => Topic::ShortAtWatch,
            }),
            Event::LogLost { .. } => Some(Topic::LogLost),
            Event::ConnectionLogLost { .. } => Some(Topic::ConnectionLogLost),
            Event::LockStuck => Some(Topic::LockStuck),
            Event::HandshakeFailed { .. } => Some(Topic::Handshake),
            Event::BadSender { .. } => Some(Topic::BadSender),
            Event::Crowded { .. } => Some(Topic::Crowded),
            Event::RequestRefused { .. } => Some(Topic::Request),
            Event::Unserved { .. } => Some(Topic::Unserved),
            Event::BeyondLimit { .. } => Some(Topic::BeyondLimit),
            Event::LimitsUnchecked { why, .. } => Some(Topic::LimitsUnchecked(*why)),
            // These are periods with a begin and an end (`event_loop::full`,
            // `event_loop::obstructed`).
            Event::ConnectionsFull | Event::PassedOver { .. } | Event::Reached { .. } => None,
        }
    }

    fn period(self) -> Duration {
        match self {
            // There may be thousands of servers.
            Topic::Failed(_) | Topic::Unserved | Topic::LimitsUnchecked(_) => {
                Duration::from_secs(10)
            }
            Topic::ShortAtAccept
            | Topic::ShortAtConnect
            | Topic::ShortAtWatch
            | Topic::LogLost
            | Topic::ConnectionLogLost
            | Topic::LockStuck
            | Topic::Handshake
            | Topic::BadSender
            | Topic::Crowded
            | Topic::BeyondLimit
            | Topic::Request => Duration::from_secs(1),
        }
    }
}

/// An event that stands for several: the last one, with the numbers of all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MergedEvent {
    pub(crate) event: Event,
    /// The number of further events, if the event itself has no number for that.
    pub(crate) more: u64,
}

impl MergedEvent {
    /// Merges both into one.
    fn merge(self, later: Event) -> MergedEvent {
        let MergedEvent { event: earlier, more } = self;
        match (earlier, later) {
            (Event::LogLost { lines, .. }, Event::LogLost { lines: later, errno }) => MergedEvent {
                event: Event::LogLost { lines: lines.saturating_add(later), errno },
                more,
            },
            (
                Event::ConnectionLogLost { lines, .. },
                Event::ConnectionLogLost { lines: later, errno },
            ) => {
                let lines = lines.saturating_add(later);
                MergedEvent { event: Event::ConnectionLogLost { lines, errno }, more }
            }
            (
                Event::HandshakeFailed { others, .. },
                Event::HandshakeFailed { client, reason, certificate, others: later },
            ) => {
                let others = others.saturating_add(later).saturating_add(1);
                MergedEvent {
                    event: Event::HandshakeFailed { client, reason, certificate, others },
                    more,
                }
            }
            (
                Event::RequestRefused { others, .. },
                Event::RequestRefused { client, reason, others: later },
            ) => {
                let others = others.saturating_add(later).saturating_add(1);
                MergedEvent { event: Event::RequestRefused { client, reason, others }, more }
            }
            (
                Event::BadSender { others, .. },
                Event::BadSender { sender, fault, others: later },
            ) => {
                let others = others.saturating_add(later).saturating_add(1);
                MergedEvent { event: Event::BadSender { sender, fault, others }, more }
            }
            (Event::Crowded { clients, .. }, Event::Crowded { clients: later, kept }) => {
                MergedEvent {
                    event: Event::Crowded { clients: clients.saturating_add(later), kept },
                    more,
                }
            }
            (Event::Unserved { clients }, Event::Unserved { clients: later }) => MergedEvent {
                event: Event::Unserved { clients: clients.saturating_add(later) },
                more,
            },
            (
                Event::BeyondLimit { others, .. },
                Event::BeyondLimit { client, length, limit, others: later },
            ) => {
                let others = others.saturating_add(later).saturating_add(1);
                MergedEvent { event: Event::BeyondLimit { client, length, limit, others }, more }
            }
            (
                Event::LimitsUnchecked { clients, .. },
                Event::LimitsUnchecked { clients: later, why },
            ) => {
                let clients = clients.saturating_add(later);
                MergedEvent { event: Event::LimitsUnchecked { clients, why }, more }
            }
            (
                _,
                event @ (Event::Blacklisted { .. }
                | Event::AddressChanged { .. }
                | Event::BackInUse { .. }
                | Event::PassedOver { .. }
                | Event::Reached { .. }
                | Event::ConnectionsFull
                | Event::Unserved { .. }
                | Event::Shortage { .. }
                | Event::LogLost { .. }
                | Event::ConnectionLogLost { .. }
                | Event::LockStuck
                | Event::HandshakeFailed { .. }
                | Event::RequestRefused { .. }
                | Event::BadSender { .. }
                | Event::Crowded { .. }
                | Event::BeyondLimit { .. }
                | Event::LimitsUnchecked { .. }
                | Event::TableRebuilt { .. }),
            ) => MergedEvent { event, more: more.saturating_add(1) },
        }
    }
}

/// The time of each topic's last line, and the events that wait for a line.
#[derive(Debug)]
pub(crate) struct Throttle {
    topics: HashMap<Topic, ThrottledTopic>,
    /// A limit for all failed servers together; further ones wait.
    failed: Flood,
}

#[derive(Debug)]
struct ThrottledTopic {
    last_line: Instant,
    pending: Option<MergedEvent>,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Throttle {
        Throttle {
            topics: HashMap::new(),
            failed: Flood::new(MOST_FAILED, Duration::from_secs(10), now),
        }
    }

    /// Takes an event; some: to be logged now.
    pub(crate) fn take(&mut self, topic: Topic, event: Event, now: Instant) -> Option<MergedEvent> {
        let new = MergedEvent { event, more: 0 };
        match self.topics.get_mut(&topic) {
            None => {
                let waits = matches!(topic, Topic::Failed(_))
                    && self.failed.admit(now) == Admission::Withheld;
                let (now_logged, pending) =
                    if waits { (None, Some(new)) } else { (Some(new), None) };
                self.topics.insert(topic, ThrottledTopic { last_line: now, pending });
                now_logged
            }
            Some(entry) => {
                entry.pending = Some(match entry.pending.take() {
                    Some(pending) => pending.merge(new.event),
                    None => new,
                });
                None
            }
        }
    }

    /// The events to log because their period is over.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<MergedEvent> {
        let mut due = Vec::new();
        self.topics.retain(|topic, entry| {
            if now.saturating_duration_since(entry.last_line) < topic.period() {
                return true;
            }
            let Some(pending) = entry.pending.take() else { return false };
            if matches!(topic, Topic::Failed(_)) && self.failed.admit(now) == Admission::Withheld {
                entry.pending = Some(pending);
                return true;
            }
            entry.last_line = now;
            due.push(pending);
            true
        });
        due
    }

    /// All events that are not logged yet.
    pub(crate) fn finish(&mut self) -> Vec<MergedEvent> {
        self.topics.drain().filter_map(|(_, entry)| entry.pending).collect()
    }

    #[cfg(test)]
    fn is_pending(&self) -> bool {
        self.topics.values().any(|entry| entry.pending.is_some())
    }
}

/// Most lines in ten seconds about servers that failed but are still used.
const MOST_FAILED: u32 = 100;

#[cfg(test)]
mod tests {
    use pen_ipc::message::{ConnectFailure, HandshakeFailure, SenderFault};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn handshake(others: u64) -> Event {
        Event::HandshakeFailed {
            client: [0; 16],
            reason: HandshakeFailure::NotTls,
            certificate: None,
            others,
        }
    }

    fn failed(server: i32) -> Event {
        Event::Blacklisted { server, seconds: 0, reason: ConnectFailure::Timeout }
    }

    fn take(throttle: &mut Throttle, event: Event, now: Instant) -> Option<MergedEvent> {
        throttle.take(Topic::of(&event).unwrap(), event, now)
    }

    #[test]
    fn all_workers_together_are_told_once_in_a_period_and_nothing_is_lost() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let first = take(&mut throttle, handshake(0), start);
        assert_eq!(first, Some(MergedEvent { event: handshake(0), more: 0 }));
        (0..64).for_each(|_| assert_eq!(take(&mut throttle, handshake(2), start), None));
        assert!(throttle.due(start + SECOND / 2).is_empty() && throttle.is_pending());
        // 64 events of 3 failures each.
        assert_eq!(throttle.due(start + SECOND), [MergedEvent { event: handshake(191), more: 0 }]);
        assert!(throttle.due(start + 3 * SECOND).is_empty() && !throttle.is_pending());
        // After a quiet time, the next event is logged at once.
        assert!(take(&mut throttle, handshake(0), start + 3 * SECOND).is_some());
        let lost = |lines| Event::LogLost { lines, errno: 28 };
        assert!(take(&mut throttle, lost(5), start).is_some());
        assert_eq!(
            (take(&mut throttle, lost(6), start), take(&mut throttle, lost(7), start)),
            (None, None)
        );
        assert_eq!(throttle.finish(), [MergedEvent { event: lost(13), more: 0 }]);
    }

    #[test]
    fn one_topic_and_one_server_keep_no_other_from_being_told() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        for _ in 0..100 {
            take(&mut throttle, failed(1), start);
            take(&mut throttle, Event::LockStuck, start);
        }
        for event in [
            failed(2),
            handshake(0),
            Event::BadSender { sender: [0; 16], fault: SenderFault::Late, others: 0 },
        ] {
            assert!(take(&mut throttle, event, start).is_some());
        }
        assert_eq!(
            throttle.due(start + SECOND),
            [MergedEvent { event: Event::LockStuck, more: 98 }]
        );
        assert_eq!(throttle.due(start + 10 * SECOND), [MergedEvent { event: failed(1), more: 98 }]);
    }

    #[test]
    fn thousands_of_failed_servers_are_told_of_in_time_and_not_at_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let at_once =
            (0..250).filter(|server| take(&mut throttle, failed(*server), start).is_some()).count();
        assert_eq!(at_once, 100);
        assert!((0..250).all(|server| take(&mut throttle, failed(server), start).is_none()));
        let counts = (1..=5)
            .map(|period| throttle.due(start + 10 * period * SECOND).len())
            .collect::<Vec<_>>();
        assert_eq!(counts, [100, 100, 50, 0, 0]);
        assert!(!throttle.is_pending());
    }

    #[test]
    fn transitions_of_servers_are_always_told() {
        let blacklisted =
            Event::Blacklisted { server: 1, seconds: 30, reason: ConnectFailure::Timeout };
        for event in [blacklisted, Event::BackInUse { server: 1 }, Event::TableRebuilt { kept: 1 }]
        {
            assert_eq!(Topic::of(&event), None);
        }
    }
}
