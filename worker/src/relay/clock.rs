//! The two clocks: monotonic milliseconds for durations and deadlines, Unix time for output.

use rustix::time::{ClockId, clock_gettime};

/// Monotonic milliseconds (CLOCK_MONOTONIC), the same in all processes of this machine; never 0.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000).max(1)
}

/// Monotonic nanoseconds, to order events of different processes.
pub fn precise() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Unix time: seconds, nanoseconds.
pub fn unix_time() -> (u64, u32) {
    let time = clock_gettime(ClockId::Realtime);
    (time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}
