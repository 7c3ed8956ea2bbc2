//! Time limits of connections, and the lists that keep them in order.
//!
//! All connections with the same time limit wait equally long, so the first one of a list is due
//! first. A list is doubly linked through the pool: joining and leaving are a few stores, for any
//! number of connections. A connection is in at most one list of each [kind](Kind), because it has
//! one pair of links for each. For [`Step`] that is the list of its time limit
//! ([`Connection::timer`]) or of the server that it waits for ([`ConnectionState::Waiting`]).
//! `Connections::start` and `Upstreams::wait` refuse a connection that is in a list of the other
//! sort.
//!
//! [`ConnectionState::Waiting`]: crate::relay::connection::ConnectionState::Waiting

use std::marker::PhantomData;

use crate::relay::connection::pool::Pool;
use crate::relay::connection::{Connection, QueueLinks};

/// Which links of a connection a list uses.
pub trait Kind {
    /// Those links.
    fn links(connection: &mut Connection) -> &mut QueueLinks;
}

/// Connections at a step, in the order of their `since`.
#[derive(Debug)]
pub struct Step;

/// Connections in the order of their last traffic (`relay::connection::idle_timeout`).
#[derive(Debug)]
pub struct Silence;

impl Kind for Step {
    fn links(connection: &mut Connection) -> &mut QueueLinks {
        &mut connection.at_step
    }
}

impl Kind for Silence {
    fn links(connection: &mut Connection) -> &mut QueueLinks {
        &mut connection.in_silence
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

/// A list of connections, linked by their links of one kind.
#[derive(Debug)]
pub struct Queue<K> {
    first: u32,
    last: u32,
    kind: PhantomData<K>,
}

impl<K> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue { first: NONE, last: NONE, kind: PhantomData }
    }
}

impl<K: Kind> Queue<K> {
    /// Puts a connection at the end.
    pub fn join(&mut self, pool: &mut Pool, slot: u32) {
        let links = K::links(&mut pool[slot]);
        debug_assert!(!links.is_queued());
        *links = QueueLinks { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = slot,
            last => K::links(&mut pool[last]).after = slot,
        }
        self.last = slot;
    }

    /// Puts a connection at the front.
    pub fn join_first(&mut self, pool: &mut Pool, slot: u32) {
        let links = K::links(&mut pool[slot]);
        debug_assert!(!links.is_queued());
        *links = QueueLinks { before: NONE, after: self.first };
        match self.first {
            NONE => self.last = slot,
            first => K::links(&mut pool[first]).before = slot,
        }
        self.first = slot;
    }

    /// Takes a connection out.
    pub fn leave(&mut self, pool: &mut Pool, slot: u32) {
        let links = K::links(&mut pool[slot]);
        debug_assert!(links.is_queued());
        let QueueLinks { before, after } = std::mem::take(links);
        match before {
            NONE => self.first = after,
            before => K::links(&mut pool[before]).after = after,
        }
        match after {
            NONE => self.last = before,
            after => K::links(&mut pool[after]).before = before,
        }
    }

    /// The connection that came first.
    pub fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }
}

impl Queue<Step> {
    /// The connection after one that is in a list.
    pub fn after(pool: &Pool, slot: u32) -> Option<u32> {
        let after = pool[slot].at_step.after;
        (after != NONE).then_some(after)
    }

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
        let (mut pool, mut queue) = (Pool::default(), Queue::<Step>::default());
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
    fn lists_of_two_kinds_do_not_know_each_other() {
        let (mut pool, mut step, mut silence) =
            (Pool::default(), Queue::<Step>::default(), Queue::<Silence>::default());
        let (one, two) = (pool.take(), pool.take());
        step.wait(&mut pool, one, 1);
        step.wait(&mut pool, two, 1);
        silence.join(&mut pool, two);
        silence.join(&mut pool, one);
        step.leave(&mut pool, one);
        assert_eq!((step.first(), silence.first()), (Some(two), Some(two)));
        silence.leave(&mut pool, two);
        assert_eq!((step.first(), silence.first()), (Some(two), Some(one)));
        assert!(pool[two].at_step.is_queued() && !pool[two].in_silence.is_queued());
    }
}
