//! The connections of a worker and the lists that they are in: by time limit, by last traffic, and
//! those with an end that has more to read.

use crate::relay::connection::idle_timeout::{Idle, SilenceLimits};
use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Step};
use crate::relay::connection::{Connection, ConnectionId, Side, Timer};

/// All connections of a worker, with the lists that they are in.
#[derive(Debug)]
pub struct Connections {
    /// The connections.
    pub pool: Pool,
    /// Those with a time limit, for each in the order in which it began.
    timed: [Queue<Step>; Timer::ALL.len()],
    /// Connections by their last traffic.
    pub idle: Idle,
    /// Ends that have more to read although no event will report it, and a spare list for the next
    /// round.
    ready: Vec<ConnectionId>,
    next_ready: Vec<ConnectionId>,
}

impl Connections {
    /// No connections.
    pub fn new(limits: SilenceLimits) -> Connections {
        Connections {
            pool: Pool::default(),
            timed: Default::default(),
            idle: Idle::new(limits),
            ready: Vec::new(),
            next_ready: Vec::new(),
        }
    }

    /// Starts a time limit of a connection now. It replaces the one that runs. A connection in the
    /// list of a server is refused: that list has a time limit.
    pub fn start(&mut self, slot: u32, timer: Timer, now: u64) {
        self.stop(slot);
        if self.pool[slot].at_step.is_queued() {
            return;
        }
        self.pool[slot].timer = Some(timer);
        self.timed[timer.index()].wait(&mut self.pool, slot, now);
    }

    /// Stops the time limit of a connection that runs, if one does.
    pub fn stop(&mut self, slot: u32) {
        if let Some(timer) = self.pool[slot].timer.take() {
            self.timed[timer.index()].leave(&mut self.pool, slot);
        }
    }

    /// A connection that has waited for `time` milliseconds.
    pub fn due(&self, timer: Timer, time: u64, now: u64) -> Option<u32> {
        self.timed[timer.index()].due(&self.pool, time, now)
    }

    /// When the first connection will have waited for `time` milliseconds.
    pub fn next_deadline(&self, timer: Timer, time: u64) -> Option<u64> {
        self.timed[timer.index()].next_deadline(&self.pool, time)
    }

    /// Begins to watch an established connection for silence.
    pub fn watch_silence(&mut self, slot: u32, now: u64) {
        self.idle.join(&mut self.pool, slot, now);
    }

    /// Changes for what the last traffic is known, for open connections too.
    pub fn set_silence_limits(&mut self, limits: SilenceLimits, now: u64) {
        self.idle.set(&mut self.pool, limits, now);
    }

    /// Notes traffic on a connection.
    pub fn touch(&mut self, slot: u32, now: u64) {
        self.idle.touch(&mut self.pool, slot, now);
    }

    /// Serves an end again in the next round.
    pub fn come_back(&mut self, slot: u32, side: Side) {
        let id = self.pool.id(slot, side);
        let end = self.pool[slot].end(side);
        if !std::mem::replace(&mut end.queued, true) {
            self.ready.push(id);
        }
    }

    /// Whether ends have more to read.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the ends that have more to read. Those that come back meanwhile are served in the next
    /// round. Return the list with [`Connections::recycle`].
    pub fn take_ready(&mut self) -> Vec<ConnectionId> {
        std::mem::replace(&mut self.ready, std::mem::take(&mut self.next_ready))
    }

    /// Keeps the memory of a list of [`Connections::take_ready`].
    pub fn recycle(&mut self, mut ready: Vec<ConnectionId>) {
        ready.clear();
        self.next_ready = ready;
    }

    /// Frees the slot of a connection, which leaves all lists.
    pub fn free(&mut self, slot: u32) {
        self.stop(slot);
        self.idle.leave(&mut self.pool, slot);
        self.pool.free(slot);
    }
}

impl std::ops::Index<u32> for Connections {
    type Output = Connection;

    fn index(&self, slot: u32) -> &Connection {
        &self.pool[slot]
    }
}

impl std::ops::IndexMut<u32> for Connections {
    fn index_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.pool[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::upstream::Upstreams;

    #[test]
    fn a_time_limit_replaces_the_one_that_runs() {
        let mut connections = Connections::new(SilenceLimits::default());
        let slot = connections.pool.take();
        for (now, timer) in (1..).zip(Timer::ALL) {
            connections.start(slot, timer, now);
            let running: Vec<Timer> = Timer::ALL
                .into_iter()
                .filter(|timer| connections.due(*timer, 0, now).is_some())
                .collect();
            assert_eq!(running, [timer]);
        }
        connections.stop(slot);
        connections.stop(slot);
        let deadlines = Timer::ALL.map(|timer| connections.next_deadline(timer, 0));
        assert_eq!(deadlines, [None; Timer::ALL.len()]);
    }

    #[test]
    fn a_connection_is_in_the_list_of_a_server_or_of_a_time_limit() {
        let (mut connections, mut servers) =
            (Connections::new(SilenceLimits::default()), Upstreams::new(1));
        let slot = connections.pool.take();
        connections.start(slot, Timer::Connect, 1);
        assert!(!servers.wait(&mut connections.pool, slot, 0, 1));
        connections.stop(slot);
        assert!(servers.wait(&mut connections.pool, slot, 0, 1));
        connections.start(slot, Timer::Linger, 2);
        assert_eq!(connections.next_deadline(Timer::Linger, 0), None);
        servers.leave(&mut connections.pool, slot);
        connections.start(slot, Timer::Linger, 3);
        assert_eq!(connections.next_deadline(Timer::Linger, 0), Some(3));
    }
}
