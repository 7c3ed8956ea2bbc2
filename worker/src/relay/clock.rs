//! The two clocks: monotonic milliseconds for all that has to pass, Unix time for what people read.

use rustix::time::{ClockId, clock_gettime};

/// Monotonic milliseconds (CLOCK_MONOTONIC), the same in all processes of this machine; never 0.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    (time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000).max(1)
}

/// Monotonic nanoseconds, for what has to be in order with what another process says.
pub fn precise() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Unix time: seconds, nanoseconds.
pub fn unix_time() -> (u64, u32) {
    let time = clock_gettime(ClockId::Realtime);
    (time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}
