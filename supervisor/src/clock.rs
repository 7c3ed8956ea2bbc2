//! The time of day for messages and reports, and the monotonic clock of the shared table.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use pen_status::event::EventTime;
use rustix::time::{ClockId, clock_gettime};
use time::{OffsetDateTime, UtcOffset};

/// The present time in the administrator's time zone.
pub(crate) fn now() -> OffsetDateTime {
    local(OffsetDateTime::now_utc())
}

/// A moment in the administrator's time zone.
pub(crate) fn local(utc: OffsetDateTime) -> OffsetDateTime {
    utc.to_offset(offset_at(utc))
}

/// The present moment for the time of an event.
pub(crate) fn event_time() -> EventTime {
    let milliseconds = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    EventTime(u64::try_from(milliseconds).unwrap_or(0))
}

/// `+01:00`
pub(crate) fn zone(time: OffsetDateTime) -> String {
    let minutes = i32::from(time.offset().whole_minutes());
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// Milliseconds of the clock that the shared table uses.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanoseconds.unwrap_or(0) / 1_000_000
}

/// Nanoseconds of the same clock, for comparison with times of a worker.
pub(crate) fn precise() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanoseconds.unwrap_or(0)
}

/// A moment in nanoseconds of that clock, which goes on when another program is executed.
pub(crate) fn to_precise(moment: Instant) -> u64 {
    let (now, here) = (precise(), Instant::now());
    let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    match moment.checked_duration_since(here) {
        Some(ahead) => now.saturating_add(ns(ahead)),
        None => now.saturating_sub(ns(here.saturating_duration_since(moment))),
    }
}

/// The moment at these nanoseconds of that clock. One that [`Instant`] cannot hold is now.
pub(crate) fn from_precise(nanoseconds: u64) -> Instant {
    let (now, here) = (precise(), Instant::now());
    let moment = match nanoseconds.checked_sub(now) {
        Some(ahead) => here.checked_add(Duration::from_nanos(ahead)),
        None => here.checked_sub(Duration::from_nanos(now - nanoseconds)),
    };
    moment.unwrap_or(here)
}

/// Seconds east of UTC at a Unix time.
///
/// The C library reads the zone file at the first call and keeps it. So a worker that is forked
/// later knows the zone, though its jail has no such file.
pub(crate) fn utc_offset(unix: i64) -> i32 {
    OffsetDateTime::from_unix_timestamp(unix).map_or(0, |utc| offset_at(utc).whole_seconds())
}

fn offset_at(utc: OffsetDateTime) -> UtcOffset {
    UtcOffset::local_offset_at(utc).unwrap_or(UtcOffset::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_the_form_of_the_manual() {
        let time = OffsetDateTime::UNIX_EPOCH;
        let zones = [0, -210, 345].map(|minutes| {
            zone(time.to_offset(UtcOffset::from_whole_seconds(minutes * 60).unwrap()))
        });
        assert_eq!(zones, ["+00:00", "-03:30", "+05:45"]);
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let before = monotonic();
        assert!(before > 0 && monotonic() >= before);
    }
}
