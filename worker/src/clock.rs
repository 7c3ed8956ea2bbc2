//! The two clocks: monotonic time for durations and deadlines, Unix time for output.

use rustix::time::{ClockId, clock_gettime};

/// Monotonic milliseconds (CLOCK_MONOTONIC), the same in all processes of this machine; never 0.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000).max(1)
}

/// A moment of the monotonic clock, read once.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// As [`now`].
    pub millis: u64,
    /// As [`precise`].
    pub nanos: u64,
}

impl Moment {
    /// This moment.
    pub fn read() -> Moment {
        let nanos = precise();
        Moment { millis: (nanos / 1_000_000).max(1), nanos }
    }
}

/// Monotonic nanoseconds, to order events of different processes and to measure durations.
pub fn precise() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Milliseconds of Unix time.
pub fn unix_milliseconds() -> u64 {
    let (seconds, nanoseconds) = unix_time();
    seconds * 1000 + u64::from(nanoseconds / 1_000_000)
}

/// Unix time: seconds, nanoseconds.
pub fn unix_time() -> (u64, u32) {
    let time = clock_gettime(ClockId::Realtime);
    (time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}
