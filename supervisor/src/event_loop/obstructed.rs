//! Servers that are passed over although they have not failed: each is told of once when that
//! begins, and once when it is over.
//!
//! Workers say every few seconds that it is so. Whether a limit or pending connects are still in
//! the way, the shared table says; of all else a worker says when a connect has succeeded.
//! Beginning and end always come in pairs: what was too much to be told when it began is not
//! told when it ends.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pen_ipc::message::{Event, Obstacle};

use crate::processes::flood::{Admission, Flood};

/// The servers that are passed over, by their codes.
#[derive(Debug)]
pub(in crate::event_loop) struct Obstructed {
    servers: HashMap<i32, Episode>,
    /// A bound on what is told: there may be thousands of servers.
    flood: Flood,
}

/// A time in which a server is passed over.
#[derive(Debug)]
struct Episode {
    /// What was last said of it.
    event: Event,
    obstacle: Obstacle,
    /// When a worker last said so.
    heard: Instant,
    /// Whether a worker has connected since.
    reached: bool,
    told: bool,
}

/// What is known of a server without its workers' word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::event_loop) enum RuntimeState {
    /// It has room by its limit, and by its pending connects.
    Room {
        /// Fewer connections than its limit.
        connections: bool,
        /// Fewer pending connects than there may be.
        pending: bool,
    },
    /// It has failed, is taken out, or is no more: other lines say so.
    Gone,
}

impl Obstructed {
    pub(in crate::event_loop) fn new(now: Instant) -> Obstructed {
        Obstructed { servers: HashMap::new(), flood: Flood::new(MOST, QUIET, now) }
    }

    /// A worker passes a server over. Whether that is to be told now.
    pub(in crate::event_loop) fn hear(
        &mut self,
        server: i32,
        obstacle: Obstacle,
        event: Event,
        now: Instant,
    ) -> bool {
        let new = Episode { event, obstacle, heard: now, reached: false, told: false };
        let episode = match self.servers.remove(&server) {
            Some(Episode { told, .. }) => Episode { told, ..new },
            None => new,
        };
        let tells = !episode.told && matches!(self.flood.admit(now), Admission::Admitted { .. });
        self.servers.insert(server, Episode { told: episode.told || tells, ..episode });
        tells
    }

    /// A worker has connected to a server that it had passed over.
    pub(in crate::event_loop) fn reached(&mut self, server: i32) {
        if let Some(episode) = self.servers.get_mut(&server) {
            episode.reached = true;
        }
    }

    /// Another server has this number now.
    pub(in crate::event_loop) fn forget(&mut self, server: i32) {
        self.servers.remove(&server);
    }

    /// What is to be told now: what waited for that, and what is over.
    pub(in crate::event_loop) fn settle(
        &mut self,
        state: impl Fn(i32) -> RuntimeState,
        now: Instant,
    ) -> Vec<Event> {
        let Obstructed { servers, flood } = self;
        let mut due = Vec::new();
        servers.retain(|server, episode| {
            let RuntimeState::Room { connections, pending } = state(*server) else { return false };
            let is_free = match episode.obstacle {
                Obstacle::Limit => connections,
                Obstacle::Pending => pending,
                Obstacle::Ports | Obstacle::Source | Obstacle::Backlog => episode.reached,
            };
            if is_free && now.saturating_duration_since(episode.heard) >= QUIET {
                due.extend(episode.told.then_some(Event::Reached { server: *server }));
                return false;
            }
            if !is_free && !episode.told && matches!(flood.admit(now), Admission::Admitted { .. }) {
                episode.told = true;
                due.push(episode.event.clone());
            }
            true
        });
        due
    }
}

/// A server that is passed over now and then is passed over all the time.
const QUIET: Duration = Duration::from_secs(10);

/// Most servers that are told of in that time.
const MOST: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: RuntimeState = RuntimeState::Room { connections: false, pending: true };
    const FREE: RuntimeState = RuntimeState::Room { connections: true, pending: true };

    fn passed_over(server: i32, obstacle: Obstacle) -> Event {
        Event::PassedOver { server, obstacle, errno: 0 }
    }

    fn hear(obstructed: &mut Obstructed, server: i32, obstacle: Obstacle, now: Instant) -> bool {
        obstructed.hear(server, obstacle, passed_over(server, obstacle), now)
    }

    #[test]
    fn a_limit_is_told_once_and_its_end_when_there_is_room_though_no_client_comes() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        assert!(hear(&mut obstructed, 1, Obstacle::Limit, start));
        assert!(!hear(&mut obstructed, 1, Obstacle::Limit, start + QUIET / 2));
        assert_eq!(
            obstructed.settle(|_| FULL, start + 9 * QUIET),
            [],
            "nobody comes, and it is full"
        );
        assert_eq!(obstructed.settle(|_| FREE, start + 9 * QUIET), [Event::Reached { server: 1 }]);
        assert_eq!(obstructed.settle(|_| FREE, start + 9 * QUIET), []);
        // It is full now and then: that is one time.
        assert!(hear(&mut obstructed, 1, Obstacle::Limit, start));
        assert_eq!(obstructed.settle(|_| FREE, start + QUIET / 2), []);
        assert!(!hear(&mut obstructed, 1, Obstacle::Limit, start + QUIET));
        assert_eq!(obstructed.settle(|_| FREE, start + QUIET + QUIET / 2), []);
        assert_eq!(obstructed.settle(|_| FREE, start + 2 * QUIET), [Event::Reached { server: 1 }]);
    }

    #[test]
    fn pending_connects_and_what_only_a_connect_tells_have_an_end_of_their_own() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        assert!(
            hear(&mut obstructed, 1, Obstacle::Pending, start)
                && hear(&mut obstructed, 2, Obstacle::Ports, start)
        );
        let shut = RuntimeState::Room { connections: true, pending: false };
        assert_eq!(obstructed.settle(|_| shut, start + QUIET), []);
        assert_eq!(obstructed.settle(|_| FREE, start + QUIET), [Event::Reached { server: 1 }]);
        obstructed.reached(2);
        assert!(!hear(&mut obstructed, 2, Obstacle::Ports, start + QUIET));
        assert_eq!(
            obstructed.settle(|_| FREE, start + 3 * QUIET),
            [],
            "it was passed over once more"
        );
        obstructed.reached(2);
        obstructed.reached(3);
        assert_eq!(obstructed.settle(|_| FREE, start + 3 * QUIET), [Event::Reached { server: 2 }]);
        assert!(hear(&mut obstructed, 2, Obstacle::Ports, start + 3 * QUIET));
        assert_eq!(obstructed.settle(|_| RuntimeState::Gone, start + 9 * QUIET), []);
        assert!(hear(&mut obstructed, 2, Obstacle::Ports, start + 9 * QUIET));
        obstructed.forget(2);
        assert!(hear(&mut obstructed, 2, Obstacle::Ports, start + 9 * QUIET));
    }

    #[test]
    fn of_thousands_all_are_told_by_and_by_and_every_end_has_its_beginning() {
        let start = Instant::now();
        let mut obstructed = Obstructed::new(start);
        let at_once = (0..250)
            .filter(|server| hear(&mut obstructed, *server, Obstacle::Limit, start))
            .count();
        assert_eq!(at_once, 100);
        let later = obstructed.settle(|_| FULL, start + QUIET);
        assert!(
            later.len() == 100
                && later.iter().all(|event| matches!(event, Event::PassedOver { .. }))
        );
        let ends = obstructed.settle(|_| FREE, start + QUIET);
        assert_eq!(ends.len(), 200, "those that were told");
    }
}
