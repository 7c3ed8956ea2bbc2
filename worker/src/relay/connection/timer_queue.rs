//! Queues of connections that wait for a time. All connections of one queue wait equally long, so
//! the first one is due first.
//!
//! They are doubly linked lists through the pool: joining and leaving are a few stores, for any
//! number of connections. A connection can be in one queue of each [kind](STEP) at once.

use crate::relay::connection::Pool;

/// The queue of the step that a connection is at: waiting for a connect, connecting, or lingering.
/// It waits since the connection's `since`.
pub const STEP: usize = 0;

/// The queue of connections with an idle timeout (`relay::connection::idle_timeout`).
pub const IDLE: usize = 1;

/// No slot.
const NONE: u32 = u32::MAX;

/// In no queue.
const UNQUEUED: u32 = u32::MAX - 1;

/// A connection's neighbours in a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLinks {
    before: u32,
    after: u32,
}

impl Default for QueueLinks {
    fn default() -> QueueLinks {
        QueueLinks { before: UNQUEUED, after: UNQUEUED }
    }
}

impl QueueLinks {
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
    pub fn join(&mut self, pool: &mut Pool, slot: u32) {
        debug_assert!(!pool[slot].links[KIND].is_queued());
        pool[slot].links[KIND] = QueueLinks { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = slot,
            last => pool[last].links[KIND].after = slot,
        }
        self.last = slot;
    }

    /// Takes a connection out.
    pub fn leave(&mut self, pool: &mut Pool, slot: u32) {
        let QueueLinks { before, after } = std::mem::take(&mut pool[slot].links[KIND]);
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
    pub fn wait(&mut self, pool: &mut Pool, slot: u32, now: u64) {
        pool[slot].since = now;
        self.join(pool, slot);
    }

    /// The first connection, if it has waited for `time` milliseconds.
    pub fn due(&self, pool: &Pool, time: u64, now: u64) -> Option<u32> {
        (self.next_deadline(pool, time)? <= now).then_some(self.first)
    }

    /// When the first connection will have waited for `time` milliseconds.
    pub fn next_deadline(&self, pool: &Pool, time: u64) -> Option<u64> {
        self.first().map(|slot| pool[slot].since + time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_due_and_anyone_may_leave() {
        let (mut pool, mut queue) = (Pool::default(), Queue::<STEP>::default());
        let slots: Vec<u32> = (0..5).map(|_| pool.take()).collect();
        for (n, slot) in slots.iter().enumerate() {
            queue.wait(&mut pool, *slot, 10 * n as u64);
        }
        queue.leave(&mut pool, slots[2]);
        queue.leave(&mut pool, slots[0]);
        queue.leave(&mut pool, slots[4]);
        assert_eq!(queue.next_deadline(&pool, 5), Some(15));
        assert_eq!(queue.due(&pool, 5, 14), None);
        assert_eq!(queue.due(&pool, 5, 30), Some(slots[1]));
        // The time may change at any moment.
        assert_eq!((queue.due(&pool, 21, 30), queue.due(&pool, 20, 30)), (None, Some(slots[1])));
        queue.leave(&mut pool, slots[1]);
        assert_eq!(queue.due(&pool, 0, 30), Some(slots[3]));
        queue.leave(&mut pool, slots[3]);
        assert_eq!((queue.due(&pool, 0, 99), queue.first()), (None, None));
        queue.wait(&mut pool, slots[4], 7);
        assert_eq!(queue.due(&pool, 0, 7), Some(slots[4]));
    }

    #[test]
    fn queues_of_two_kinds_do_not_know_each_other() {
        let (mut pool, mut step, mut idle) =
            (Pool::default(), Queue::<STEP>::default(), Queue::<IDLE>::default());
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
