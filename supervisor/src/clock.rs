//! The time of day for messages and reports, and the monotonic clock of the shared table.

#![forbid(unsafe_code)]

use rustix::time::{ClockId, clock_gettime};
use time::{OffsetDateTime, UtcOffset};

/// The present time in the administrator's time zone.
pub(crate) fn now() -> OffsetDateTime {
    let utc = OffsetDateTime::now_utc();
    utc.to_offset(offset_at(utc))
}

/// `2026-11-24 04:10:21`
pub(crate) fn full(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    let (hour, minute, second) = clock.as_hms();
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `+01:00`
pub(crate) fn zone(time: OffsetDateTime) -> String {
    let minutes = i32::from(time.offset().whole_minutes());
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// `Nov 24 04:10:21`, the day padded with a space (RFC 3164, 4.1.2).
pub(crate) fn syslog(time: OffsetDateTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (hour, minute, second) = time.time().as_hms();
    let month = MONTHS[usize::from(u8::from(time.month())) - 1];
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02}", time.day())
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
    fn times_have_the_forms_of_the_manual() {
        let time = OffsetDateTime::from_unix_timestamp(1_793_592_621).unwrap();
        assert_eq!(full(time), "2026-11-02 04:10:21");
        assert_eq!(syslog(time), "Nov  2 04:10:21");
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
