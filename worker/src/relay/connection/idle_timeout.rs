//! `idle_timeout`: established connections in the order of their last traffic, to the second.
//!
//! A connection moves to the end at most once a second, however busy it is. While the timeout is
//! off, nothing is kept and there is no cost. Half-closed and lingering connections are included;
//! idlers (`relay::upstream::idlers`) are not.

use crate::relay::connection::ConnectionState;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Silence};

/// The ordered queue, and the timeout.
#[derive(Debug, Default)]
pub struct Idle {
    queue: Queue<Silence>,
    /// In seconds; 0 = never.
    timeout: u32,
}

impl Idle {
    /// An empty queue.
    pub fn new(timeout: u32) -> Idle {
        Idle { queue: Queue::default(), timeout }
    }

    /// Whether silent connections are closed.
    pub fn is_on(&self) -> bool {
        self.timeout != 0
    }

    /// Adds a connection that was just established.
    pub fn join(&mut self, pool: &mut Pool, slot: u32, now: u64) {
        if self.is_on() {
            pool[slot].active = second(now);
            self.queue.join(pool, slot);
        }
    }

    /// Notes traffic on a connection.
    pub fn touch(&mut self, pool: &mut Pool, slot: u32, now: u64) {
        let connection = &mut pool[slot];
        if connection.in_silence.is_queued() && connection.active != second(now) {
            self.queue.leave(pool, slot);
            self.join(pool, slot, now);
        }
    }

    /// Removes a connection that ends.
    pub fn leave(&mut self, pool: &mut Pool, slot: u32) {
        if pool[slot].in_silence.is_queued() {
            self.queue.leave(pool, slot);
        }
    }

    /// Changes the timeout, for open connections too. Connections that had no timeout before count
    /// as active now.
    pub fn set_timeout(&mut self, pool: &mut Pool, timeout: u32, now: u64) {
        let was_on = self.is_on();
        self.timeout = timeout;
        match (was_on, self.is_on()) {
            (true, false) => {
                while let Some(slot) = self.queue.first() {
                    self.queue.leave(pool, slot);
                }
            }
            (false, true) => {
                for slot in 0..pool.slots() {
                    match pool[slot].state {
                        ConnectionState::Relaying
                        | ConnectionState::Lingering
                        | ConnectionState::Dummy => self.join(pool, slot, now),
                        ConnectionState::Free
                        | ConnectionState::Preface
                        | ConnectionState::Connecting
                        | ConnectionState::Waiting { .. }
                        | ConnectionState::Held(_)
                        | ConnectionState::Idler => {}
                    }
                }
            }
            (true, true) | (false, false) => {}
        }
    }

    /// When the first connection reaches the timeout, in monotonic milliseconds.
    pub fn next_deadline(&self, pool: &Pool) -> Option<u64> {
        // The traffic may have been at the end of its second.
        self.queue
            .first()
            .map(|slot| (u64::from(pool[slot].active) + 1 + u64::from(self.timeout)) * 1000)
    }

    /// A connection that has reached the timeout.
    pub fn due(&self, pool: &Pool, now: u64) -> Option<u32> {
        self.queue
            .first()
            .filter(|_| self.next_deadline(pool).is_some_and(|deadline| deadline <= now))
    }
}

/// The second of a monotonic millisecond. 32 bits hold 136 years without a restart of the machine.
fn second(now: u64) -> u32 {
    (now / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn established(pool: &mut Pool) -> u32 {
        let slot = pool.take();
        pool[slot].state = ConnectionState::Relaying;
        slot
    }

    #[test]
    fn who_was_silent_longest_is_due_first_and_never_early() {
        let (mut pool, mut idle) = (Pool::default(), Idle::new(2));
        let (one, two) = (established(&mut pool), established(&mut pool));
        idle.join(&mut pool, one, 1_000);
        idle.join(&mut pool, two, 1_999);
        assert_eq!((idle.due(&pool, 3_999), idle.due(&pool, 4_000)), (None, Some(one)));
        // In the same second nothing moves, in the next it does.
        idle.touch(&mut pool, one, 1_500);
        assert_eq!(idle.due(&pool, 4_000), Some(one));
        idle.touch(&mut pool, one, 2_000);
        assert_eq!(idle.due(&pool, 4_000), Some(two));
        idle.leave(&mut pool, two);
        idle.leave(&mut pool, two);
        assert_eq!((idle.due(&pool, 4_999), idle.due(&pool, 5_000)), (None, Some(one)));
    }

    #[test]
    fn a_change_holds_for_open_connections() {
        let (mut pool, mut idle) = (Pool::default(), Idle::new(0));
        let (one, two) = (established(&mut pool), established(&mut pool));
        pool[two].state = ConnectionState::Connecting;
        idle.join(&mut pool, one, 0);
        idle.touch(&mut pool, one, 5_000);
        assert_eq!(idle.next_deadline(&pool), None);
        idle.set_timeout(&mut pool, 10, 7_000);
        assert_eq!(idle.next_deadline(&pool), Some(18_000));
        assert!(!pool[two].in_silence.is_queued());
        idle.set_timeout(&mut pool, 1, 8_000);
        assert_eq!((idle.next_deadline(&pool), idle.due(&pool, 9_000)), (Some(9_000), Some(one)));
        idle.set_timeout(&mut pool, 0, 9_000);
        assert_eq!((idle.due(&pool, u64::MAX), pool[one].in_silence.is_queued()), (None, false));
        idle.leave(&mut pool, one);
    }
}
