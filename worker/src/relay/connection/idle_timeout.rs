//! Established connections in the order of their last traffic, to the second: `idle_timeout` closes
//! those that are silent for too long, and `rebalance` some of those that are silent now.
//!
//! A connection moves to the end at most once a second, however busy it is. While both settings are
//! off, nothing is kept and there is no cost. Half-closed and lingering connections are included;
//! idlers (`relay::upstream::idlers`) are not.

use pen_config::settings::Settings;

use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Silence};
use crate::relay::connection::{Connection, ConnectionState};

/// The settings that need to know the last traffic.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SilenceLimits {
    /// After how many seconds of silence a connection is closed; 0 = never.
    pub timeout: u32,
    /// How many percent of the silent connections of a server may be closed per minute; 0 = none.
    pub rebalance: u32,
}

impl SilenceLimits {
    /// Those of the settings in force.
    pub fn of(settings: &Settings) -> SilenceLimits {
        SilenceLimits { timeout: settings.idle_timeout, rebalance: settings.rebalance }
    }

    fn are_on(self) -> bool {
        self.timeout | self.rebalance != 0
    }
}

/// The ordered queue, and what it is kept for.
#[derive(Debug, Default)]
pub struct Idle {
    queue: Queue<Silence>,
    limits: SilenceLimits,
}

impl Idle {
    /// An empty queue.
    pub fn new(limits: SilenceLimits) -> Idle {
        Idle { queue: Queue::default(), limits }
    }

    /// Whether the last traffic must be known.
    pub fn is_on(&self) -> bool {
        self.limits.are_on()
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

    /// Changes the limits, for open connections too. Connections of which the last traffic was not
    /// known count as active now.
    pub fn set(&mut self, pool: &mut Pool, limits: SilenceLimits, now: u64) {
        let was_on = self.is_on();
        self.limits = limits;
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
                        | ConnectionState::Securing
                        | ConnectionState::Waiting { .. }
                        | ConnectionState::Held(_)
                        | ConnectionState::Tarpit
                        | ConnectionState::Idler => {}
                    }
                }
            }
            (true, true) | (false, false) => {}
        }
    }

    /// When the first connection reaches the timeout, in monotonic milliseconds.
    pub fn next_deadline(&self, pool: &Pool) -> Option<u64> {
        let first = self.queue.first().filter(|_| self.limits.timeout != 0)?;
        Some(silent_from(pool[first].active, self.limits.timeout))
    }

    /// A connection that has reached the timeout.
    pub fn due(&self, pool: &Pool, now: u64) -> Option<u32> {
        self.queue
            .first()
            .filter(|_| self.next_deadline(pool).is_some_and(|deadline| deadline <= now))
    }

    /// Whether any connection has been silent for so many seconds.
    pub fn has_silent(&self, pool: &Pool, seconds: u32, now: u64) -> bool {
        self.queue.first().is_some_and(|slot| is_silent(&pool[slot], seconds, now))
    }
}

/// Whether a connection is known to have been silent for so many seconds.
pub fn is_silent(connection: &Connection, seconds: u32, now: u64) -> bool {
    connection.in_silence.is_queued() && silent_from(connection.active, seconds) <= now
}

/// From which monotonic millisecond on a connection has been silent for so many seconds, if its
/// last traffic was in the second `active`. It may have been at the end of that second.
fn silent_from(active: u32, seconds: u32) -> u64 {
    (u64::from(active) + 1 + u64::from(seconds)) * 1000
}

/// The second of a monotonic millisecond. 32 bits hold 136 years without a restart of the machine.
fn second(now: u64) -> u32 {
    (now / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(timeout: u32) -> SilenceLimits {
        SilenceLimits { timeout, ..SilenceLimits::default() }
    }

    fn established(pool: &mut Pool) -> u32 {
        let slot = pool.take();
        pool[slot].state = ConnectionState::Relaying;
        slot
    }

    #[test]
    fn who_was_silent_longest_is_due_first_and_never_early() {
        let (mut pool, mut idle) = (Pool::default(), Idle::new(after(2)));
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
        let (mut pool, mut idle) = (Pool::default(), Idle::new(after(0)));
        let (one, two) = (established(&mut pool), established(&mut pool));
        pool[two].state = ConnectionState::Connecting;
        idle.join(&mut pool, one, 0);
        idle.touch(&mut pool, one, 5_000);
        assert_eq!(idle.next_deadline(&pool), None);
        idle.set(&mut pool, after(10), 7_000);
        assert_eq!(idle.next_deadline(&pool), Some(18_000));
        assert!(!pool[two].in_silence.is_queued());
        idle.set(&mut pool, after(1), 8_000);
        assert_eq!((idle.next_deadline(&pool), idle.due(&pool, 9_000)), (Some(9_000), Some(one)));
        idle.set(&mut pool, after(0), 9_000);
        assert_eq!((idle.due(&pool, u64::MAX), pool[one].in_silence.is_queued()), (None, false));
        idle.leave(&mut pool, one);
    }

    #[test]
    fn what_is_silent_is_known_for_rebalance_too_and_nothing_is_due_for_it() {
        let limits = |timeout, rebalance| SilenceLimits { timeout, rebalance };
        let (mut pool, mut idle) = (Pool::default(), Idle::new(limits(0, 5)));
        let one = established(&mut pool);
        assert!(!idle.has_silent(&pool, 0, u64::MAX) && !is_silent(&pool[one], 0, u64::MAX));
        idle.join(&mut pool, one, 1_999);
        assert_eq!((idle.next_deadline(&pool), idle.due(&pool, u64::MAX)), (None, None));
        for (seconds, now, expected) in [(10, 11_999, false), (10, 12_000, true), (0, 2_000, true)]
        {
            assert_eq!(idle.has_silent(&pool, seconds, now), expected, "{now}");
            assert_eq!(is_silent(&pool[one], seconds, now), expected, "{now}");
        }
        idle.set(&mut pool, limits(3, 0), 20_000);
        assert_eq!(idle.next_deadline(&pool), Some(5_000), "its last traffic was known");
        idle.set(&mut pool, limits(0, 0), 20_000);
        assert!(!idle.has_silent(&pool, 0, u64::MAX));
        idle.set(&mut pool, limits(0, 1), 30_000);
        assert!(!is_silent(&pool[one], 1, 31_999) && is_silent(&pool[one], 1, 32_000));
    }
}
