//! Servers that are passed over although they have not failed. Each is logged once at the beginning
//! and once at the end.
//!
//! Workers repeat every few seconds that they pass a server over. The shared table says when a
//! limit or pending connects are no longer in the way. All other obstacles end when a worker
//! reports a successful connect. The two log lines come in pairs: a beginning that was withheld has
//! no line for its end.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pen_ipc::message::{Event, Obstacle};

use crate::flood::{Admission, Flood};

/// The servers that are passed over, by code.
#[derive(Debug)]
pub(in crate::event_loop) struct Obstructed {
    servers: HashMap<i32, Episode>,
    /// A limit for the log: there may be thousands of servers.
    flood: Flood,
}

/// A period in which a server is passed over.
#[derive(Debug)]
struct Episode {
    /// The last event.
    event: Event,
    obstacle: Obstacle,
    /// The time of the last report by a worker.
    last_report: Instant,
    /// Whether a worker has connected since then.
    reached: bool,
    logged: bool,
}

/// The state of a server by the shared table, without reports of workers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::event_loop) enum Capacity {
    /// The server is usable.
    Room {
        /// It has fewer connections than its limit.
        connections: bool,
        /// It has fewer pending connects than allowed.
        pending: bool,
    },
    /// It has failed, was taken out, or no longer exists. Other log lines report that.
    Gone,
}

impl Obstructed {
    pub(in crate::event_loop) fn new(now: Instant) -> Obstructed {
        Obstructed { servers: HashMap::new(), flood: Flood::new(MOST, QUIET, now) }
    }

    /// Notes that a worker passes a server over. Returns whether to log it now.
    pub(in crate::event_loop) fn note(
        &mut self,
        server: i32,
        obstacle: Obstacle,
        event: Event,
        now: Instant,
    ) -> bool {
        let new = Episode { event, obstacle, last_report: now, reached: false, logged: false };
        let episode = match self.servers.remove(&server) {
            Some(Episode { logged, .. }) => Episode { logged, ..new },
            None => new,
        };
        let logs = !episode.logged && matches!(self.flood.admit(now), Admission::Admitted { .. });
        self.servers.insert(server, Episode { logged: episode.logged || logs, ..episode });
        logs
    }

    /// Notes that a worker has connected to a server that it had passed over.
    pub(in crate::event_loop) fn reached(&mut self, server: i32) {
        if let Some(episode) = self.servers.get_mut(&server) {
            episode.reached = true;
        }
    }

    /// Forgets a server: its number belongs to another one now.
    pub(in crate::event_loop) fn forget(&mut self, server: i32) {
        self.servers.remove(&server);
    }

    /// The events to log now: beginnings that were withheld, and ends.
    pub(in crate::event_loop) fn due(
        &mut self,
        state: impl Fn(i32) -> Capacity,
        now: Instant,
    ) -> Vec<Event> {
        let Obstructed { servers, flood } = self;
        let mut events = Vec::new();
        servers.retain(|server, episode| {
            let Capacity::Room { connections, pending } = state(*server) else { return false };
            let is_free = match episode.obstacle {
                Obstacle::Limit => connections,
                Obstacle::Pending => pending,
                Obstacle::Ports | Obstacle::Source | Obstacle::Backlog => episode.reached,
            };
            if is_free && now.saturating_duration_since(episode.last_report) >= QUIET {
                events.extend(episode.logged.then_some(Event::Reached { server: *server }));
                return false;
            }
            if !is_free && !episode.logged && matches!(flood.admit(now), Admission::Admitted { .. })
            {
                episode.logged = true;
                events.push(episode.event.clone());
            }
            true
        });
        events
    }
}

/// Time without a report until a period ends. Short pauses do not end it.
const QUIET: Duration = Duration::from_secs(10);

/// Most servers that are logged in that time.
const MOST: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Capacity = Capacity::Room { connections: false, pending: true };
    const FREE: Capacity = Capacity::Room { connections: true, pending: true };

    fn passed_over(server: i32, obstacle: Obstacle) -> Event {
        Event::PassedOver { server, obstacle, errno: 0 }
    }

    fn note(obstructed: &mut Obstructed, server: i32, obstacle: Obstacle, now: Instant) -> bool {
        obstructed.note(server, obstacle, passed_over(server, obstacle), now)
    }

    #[test]
    fn a_limit_is_told_once_and_its_end_when_there_is_room_though_no_client_comes() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        assert!(note(&mut obstructed, 1, Obstacle::Limit, start));
        assert!(!note(&mut obstructed, 1, Obstacle::Limit, start + QUIET / 2));
        assert_eq!(obstructed.due(|_| FULL, start + 9 * QUIET), [], "nobody comes, and it is full");
        assert_eq!(obstructed.due(|_| FREE, start + 9 * QUIET), [Event::Reached { server: 1 }]);
        assert_eq!(obstructed.due(|_| FREE, start + 9 * QUIET), []);
        // Short pauses do not end a period.
        assert!(note(&mut obstructed, 1, Obstacle::Limit, start));
        assert_eq!(obstructed.due(|_| FREE, start + QUIET / 2), []);
        assert!(!note(&mut obstructed, 1, Obstacle::Limit, start + QUIET));
        assert_eq!(obstructed.due(|_| FREE, start + QUIET + QUIET / 2), []);
        assert_eq!(obstructed.due(|_| FREE, start + 2 * QUIET), [Event::Reached { server: 1 }]);
    }

    #[test]
    fn pending_connects_and_what_only_a_connect_tells_have_an_end_of_their_own() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        assert!(
            note(&mut obstructed, 1, Obstacle::Pending, start)
                && note(&mut obstructed, 2, Obstacle::Ports, start)
        );
        let shut = Capacity::Room { connections: true, pending: false };
        assert_eq!(obstructed.due(|_| shut, start + QUIET), []);
        assert_eq!(obstructed.due(|_| FREE, start + QUIET), [Event::Reached { server: 1 }]);
        obstructed.reached(2);
        assert!(!note(&mut obstructed, 2, Obstacle::Ports, start + QUIET));
        assert_eq!(obstructed.due(|_| FREE, start + 3 * QUIET), [], "it was passed over once more");
        obstructed.reached(2);
        obstructed.reached(3);
        assert_eq!(obstructed.due(|_| FREE, start + 3 * QUIET), [Event::Reached { server: 2 }]);
        assert!(note(&mut obstructed, 2, Obstacle::Ports, start + 3 * QUIET));
        assert_eq!(obstructed.due(|_| Capacity::Gone, start + 9 * QUIET), []);
        assert!(note(&mut obstructed, 2, Obstacle::Ports, start + 9 * QUIET));
        obstructed.forget(2);
        assert!(note(&mut obstructed, 2, Obstacle::Ports, start + 9 * QUIET));
    }

    #[test]
    fn of_thousands_all_are_told_by_and_by_and_every_end_has_its_beginning() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        let at_once = (0..250)
            .filter(|server| note(&mut obstructed, *server, Obstacle::Limit, start))
            .count();
        assert_eq!(at_once, 100);
        let later = obstructed.due(|_| FULL, start + QUIET);
        assert!(
            later.len() == 100
                && later.iter().all(|event| matches!(event, Event::PassedOver { .. }))
        );
        let ends = obstructed.due(|_| FREE, start + QUIET);
        assert_eq!(ends.len(), 200, "those that were told");
    }
}
