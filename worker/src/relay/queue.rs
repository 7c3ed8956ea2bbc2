//! Deadlines of connections, all of one length: who came first is due first.
//!
//! A doubly linked list through the pool: joining and leaving are a few stores, whatever the number of connections, and the
//! next deadline is the first one's.

use super::connection::Pool;

/// No place.
const NONE: u32 = u32::MAX;

/// A connection's neighbours in its queue.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    before: u32,
    after: u32,
    queued: bool,
}

impl Default for Links {
    fn default() -> Links {
        Links { before: NONE, after: NONE, queued: false }
    }
}

impl Links {
    /// Whether the connection is in a queue.
    pub fn is_queued(&self) -> bool {
        self.queued
    }
}

/// A queue of connections in order of their deadlines. A connection is in one queue at most.
#[derive(Debug)]
pub struct Queue {
    first: u32,
    last: u32,
    length: u32,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { first: NONE, last: NONE, length: 0 }
    }
}

impl Queue {
    /// Puts a connection at the end.
    pub fn join(&mut self, pool: &mut Pool, place: u32, deadline: u64) {
        debug_assert!(!pool[place].links.queued);
        pool[place].deadline = deadline;
        pool[place].links = Links { before: self.last, after: NONE, queued: true };
        match self.last {
            NONE => self.first = place,
            last => pool[last].links.after = place,
        }
        self.last = place;
        self.length += 1;
    }

    /// Takes a connection out.
    pub fn leave(&mut self, pool: &mut Pool, place: u32) {
        let Links { before, after, queued } = std::mem::take(&mut pool[place].links);
        debug_assert!(queued);
        match before {
            NONE => self.first = after,
            before => pool[before].links.after = after,
        }
        match after {
            NONE => self.last = before,
            after => pool[after].links.before = before,
        }
        self.length -= 1;
    }

    /// The first connection whose deadline has come.
    pub fn due(&self, pool: &Pool, now: u64) -> Option<u32> {
        (self.next_deadline(pool)? <= now).then_some(self.first)
    }

    /// The deadline of the first connection.
    pub fn next_deadline(&self, pool: &Pool) -> Option<u64> {
        (self.first != NONE).then(|| pool[self.first].deadline)
    }

    /// Connections in the queue.
    pub fn len(&self) -> u32 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_due_and_anyone_may_leave() {
        let (mut pool, mut queue) = (Pool::default(), Queue::default());
        let places: Vec<u32> = (0..5).map(|_| pool.take()).collect();
        for (n, place) in places.iter().enumerate() {
            queue.join(&mut pool, *place, 10 * n as u64);
        }
        queue.leave(&mut pool, places[2]);
        queue.leave(&mut pool, places[0]);
        queue.leave(&mut pool, places[4]);
        assert_eq!((queue.len(), queue.next_deadline(&pool)), (2, Some(10)));
        assert_eq!(queue.due(&pool, 9), None);
        assert_eq!(queue.due(&pool, 30), Some(places[1]));
        queue.leave(&mut pool, places[1]);
        assert_eq!(queue.due(&pool, 30), Some(places[3]));
        queue.leave(&mut pool, places[3]);
        assert_eq!((queue.due(&pool, 99), queue.len()), (None, 0));
        queue.join(&mut pool, places[4], 7);
        assert_eq!(queue.due(&pool, 7), Some(places[4]));
    }
}
