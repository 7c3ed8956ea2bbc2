//! Connections that wait for a time to pass, all of one queue for the same time: who came first is due first.
//!
//! Doubly linked lists through the pool: joining and leaving are a few stores, whatever the number of connections. A connection can
//! be in one queue of each [kind](STEP) at once.

use crate::relay::connection::Pool;

/// The queue of the step that a connection is at: waiting for a connect, connecting, or lingering. It waits since `since` of the connection.
pub const STEP: usize = 0;

/// The queue of those that are closed when they are silent for too long (`relay::idle`).
pub const IDLE: usize = 1;

/// No place.
const NONE: u32 = u32::MAX;

/// In no queue.
const UNQUEUED: u32 = u32::MAX - 1;

/// A connection's neighbours in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    before: u32,
    after: u32,
}

impl Default for Links {
    fn default() -> Links {
        Links { before: UNQUEUED, after: UNQUEUED }
    }
}

impl Links {
    /// Whether the connection is in a queue of this kind.
    pub fn is_queued(&self) -> bool {
        self.before != UNQUEUED
    }
}

/// A queue of connections, linked by their links of one kind.
#[derive(Debug)]
pub struct Queue<const KIND: usize> {
    first: u32,
    last: u32,
}

impl<const KIND: usize> Default for Queue<KIND> {
    fn default() -> Queue<KIND> {
        Queue { first: NONE, last: NONE }
    }
}

impl<const KIND: usize> Queue<KIND> {
    /// Puts a connection at the end.
    pub fn join(&mut self, pool: &mut Pool, place: u32) {
        debug_assert!(!pool[place].links[KIND].is_queued());
        pool[place].links[KIND] = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = place,
            last => pool[last].links[KIND].after = place,
        }
        self.last = place;
    }

    /// Takes a connection out.
    pub fn leave(&mut self, pool: &mut Pool, place: u32) {
        let Links { before, after } = std::mem::take(&mut pool[place].links[KIND]);
        debug_assert!(before != UNQUEUED);
        match before {
            NONE => self.first = after,
            before => pool[before].links[KIND].after = after,
        }
        match after {
            NONE => self.last = before,
            after => pool[after].links[KIND].before = before,
        }
    }

    /// The connection that came first.
    pub fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

impl Queue<STEP> {
    /// Puts a connection at the end, where it waits from now on.
    pub fn wait(&mut self, pool: &mut Pool, place: u32, now: u64) {
        pool[place].since = now;
        self.join(pool, place);
    }

    /// The first connection, if it has waited for `time` milliseconds.
    pub fn due(&self, pool: &Pool, time: u64, now: u64) -> Option<u32> {
        (self.next_deadline(pool, time)? <= now).then_some(self.first)
    }

    /// When the first connection will have waited for `time` milliseconds.
    pub fn next_deadline(&self, pool: &Pool, time: u64) -> Option<u64> {
        self.first().map(|place| pool[place].since + time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_due_and_anyone_may_leave() {
        let (mut pool, mut queue) = (Pool::default(), Queue::<STEP>::default());
        let places: Vec<u32> = (0..5).map(|_| pool.take()).collect();
        for (n, place) in places.iter().enumerate() {
            queue.wait(&mut pool, *place, 10 * n as u64);
        }
        queue.leave(&mut pool, places[2]);
        queue.leave(&mut pool, places[0]);
        queue.leave(&mut pool, places[4]);
        assert_eq!(queue.next_deadline(&pool, 5), Some(15));
        assert_eq!(queue.due(&pool, 5, 14), None);
        assert_eq!(queue.due(&pool, 5, 30), Some(places[1]));
        // The time may change at any moment.
        assert_eq!((queue.due(&pool, 21, 30), queue.due(&pool, 20, 30)), (None, Some(places[1])));
        queue.leave(&mut pool, places[1]);
        assert_eq!(queue.due(&pool, 0, 30), Some(places[3]));
        queue.leave(&mut pool, places[3]);
        assert_eq!((queue.due(&pool, 0, 99), queue.first()), (None, None));
        queue.wait(&mut pool, places[4], 7);
        assert_eq!(queue.due(&pool, 0, 7), Some(places[4]));
    }

    #[test]
    fn queues_of_two_kinds_do_not_know_each_other() {
        let (mut pool, mut step, mut idle) = (Pool::default(), Queue::<STEP>::default(), Queue::<IDLE>::default());
        let (one, two) = (pool.take(), pool.take());
        step.wait(&mut pool, one, 1);
        step.wait(&mut pool, two, 1);
        idle.join(&mut pool, two);
        idle.join(&mut pool, one);
        step.leave(&mut pool, one);
        assert_eq!((step.first(), idle.first()), (Some(two), Some(two)));
        idle.leave(&mut pool, two);
        assert_eq!((step.first(), idle.first()), (Some(two), Some(one)));
        assert!(pool[two].links[STEP].is_queued() && !pool[two].links[IDLE].is_queued());
    }
}
