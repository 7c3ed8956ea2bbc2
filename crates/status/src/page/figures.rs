//! Figures for people: counts, bytes, durations and moments.

use std::fmt::{self, Display};

use time::{OffsetDateTime, UtcOffset};

/// A count with its digits in groups of three: `12 345 678`.
pub(super) struct Count(pub(super) u64);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        if digits.len() <= 4 {
            return f.write_str(&digits);
        }
        let (first, mut rest) = digits.split_at((digits.len() - 1) % 3 + 1);
        f.write_str(first)?;
        while !rest.is_empty() {
            let (group, more) = rest.split_at(3);
            // A narrow space that does not break.
            write!(f, "\u{202f}{group}")?;
            rest = more;
        }
        Ok(())
    }
}

/// A count and what is counted: `1 server`, `3 servers`.
pub(super) struct Of(pub(super) u64, pub(super) &'static str);

impl Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Of(count, what) = self;
        write!(f, "{} {what}{}", Count(*count), if *count == 1 { "" } else { "s" })
    }
}

/// Bytes in decimal units: `999 B`, `1.2 kB`, `34 MB`.
pub(super) struct Bytes(pub(super) f64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
        // What would round up to 1000 is already one of the next unit.
        let power = (0..units.len() - 1)
            .take_while(|power| self.0 / 1000f64.powi(*power as i32) >= 999.5)
            .count();
        let value = self.0 / 1000f64.powi(power as i32);
        let decimals = if power > 0 && value < 9.95 { 1 } else { 0 };
        write!(f, "{value:.decimals$}\u{a0}{}", units[power])
    }
}

/// How often a second: `0`, `0.4`, `12`.
pub(super) struct Rate(pub(super) f64);

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate <= 0.0 => f.write_str("0"),
            rate if rate < 9.95 => write!(f, "{rate:.1}"),
            rate => Count(rate.round() as u64).fmt(f),
        }
    }
}

/// A short duration, from microseconds: `180 µs`, `1.2 ms`, `3.4 s`.
pub(super) struct Micros(pub(super) u64);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            ..1000 => return write!(f, "{}\u{a0}µs", self.0),
            1000..999_500 => (self.0 as f64 / 1e3, "ms"),
            _ => (self.0 as f64 / 1e6, "s"),
        };
        let decimals = if value < 9.95 { 1 } else { 0 };
        write!(f, "{value:.decimals$}\u{a0}{unit}")
    }
}

/// A duration in seconds, in its two largest units: `12 s`, `4 min 10 s`, `3 d 4 h`.
pub(super) struct Duration(pub(super) u64);

impl Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        let ((large, unit), (small, lesser)) = match seconds {
            ..60 => return write!(f, "{seconds}\u{a0}s"),
            60..3600 => ((seconds / 60, "min"), (seconds % 60, "s")),
            3600..86_400 => ((seconds / 3600, "h"), (seconds / 60 % 60, "min")),
            _ => ((seconds / 86_400, "d"), (seconds / 3600 % 24, "h")),
        };
        write!(f, "{large}\u{a0}{unit}")?;
        if small > 0 {
            write!(f, " {small}\u{a0}{lesser}")?;
        }
        Ok(())
    }
}

/// The moment of a status, and local time where pen runs.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    /// Seconds since 1970.
    pub(super) now: i64,
    offset: UtcOffset,
}

impl Clock {
    /// From a moment in seconds since 1970, and as local time: `2026-11-24 04:10:21`. What is no
    /// such text means UTC.
    pub(super) fn new(now: i64, local: &str) -> Clock {
        let offset = local_seconds(local)
            .and_then(|seconds| i32::try_from(seconds.checked_sub(now)?).ok())
            .and_then(|seconds| UtcOffset::from_whole_seconds(seconds).ok());
        Clock { now, offset: offset.unwrap_or(UtcOffset::UTC) }
    }

    /// Seconds from a moment until now; 0 for one that is to come.
    pub(super) fn since(self, moment: i64) -> u64 {
        u64::try_from(self.now.saturating_sub(moment)).unwrap_or(0)
    }

    /// A moment: the time of day, and the date unless it is today.
    pub(super) fn moment(self, unix: i64) -> String {
        let (moment, now) = (self.local(unix), self.local(self.now));
        let (hour, minute, second) = moment.to_hms();
        if moment.date() == now.date() {
            return format!("{hour:02}:{minute:02}:{second:02}");
        }
        format!("{} {hour:02}:{minute:02}", self.date(unix))
    }

    /// A day: `24 Nov`, with its year unless that is the present one.
    pub(super) fn date(self, unix: i64) -> String {
        let (moment, now) = (self.local(unix), self.local(self.now));
        let month = &moment.month().to_string()[..3];
        let day = format!("{}\u{a0}{month}", moment.day());
        if moment.year() == now.year() { day } else { format!("{day}\u{a0}{}", moment.year()) }
    }

    /// The time zone: `UTC`, `UTC+1`, `UTC-3:30`.
    pub(super) fn zone(self) -> String {
        let (hours, minutes, _) = self.offset.as_hms();
        match (hours, minutes) {
            (0, 0) => "UTC".into(),
            (hours, 0) => format!("UTC{hours:+}"),
            (hours, minutes) => {
                let sign = if self.offset.is_negative() { '-' } else { '+' };
                format!("UTC{sign}{}:{:02}", hours.unsigned_abs(), minutes.unsigned_abs())
            }
        }
    }

    fn local(self, unix: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(unix)
            .ok()
            .and_then(|time| time.checked_to_offset(self.offset))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// A moment in RFC 3339, for programs.
pub(super) fn rfc3339(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
}

/// A local time as seconds since 1970, as if it were UTC.
fn local_seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let part = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let month = time::Month::try_from(part(5)?).ok()?;
    let date = time::Date::from_calendar_date(number(0, 4)?.into(), month, part(8)?).ok()?;
    let clock = time::Time::from_hms(part(11)?, part(14)?, part(17)?).ok()?;
    Some(date.with_time(clock).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<T: Display, const N: usize>(values: [T; N]) -> [String; N] {
        values.map(|value| value.to_string().replace(['\u{a0}', '\u{202f}'], " "))
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            texts([0, 9999, 10_000, 123_456, 1_234_567].map(Count)),
            ["0", "9999", "10 000", "123 456", "1 234 567"]
        );
        assert_eq!(texts([Of(1, "server"), Of(0, "server")]), ["1 server", "0 servers"]);
        assert_eq!(
            texts([0.0, 999.0, 999.7, 1234.0, 99_949.0, 2.5e9, 1.8e19].map(Bytes)),
            ["0 B", "999 B", "1.0 kB", "1.2 kB", "100 kB", "2.5 GB", "18 EB"]
        );
        assert_eq!(texts([0.0, 0.2, 9.96, 12_345.4].map(Rate)), ["0", "0.2", "10", "12 345"]);
        assert_eq!(
            texts([7, 999, 1200, 45_000, 999_400, 999_600, 61_000_000].map(Micros)),
            ["7 µs", "999 µs", "1.2 ms", "45 ms", "999 ms", "1.0 s", "61 s"]
        );
        assert_eq!(
            texts([0, 59, 60, 250, 3600, 90_000, 172_800].map(Duration)),
            ["0 s", "59 s", "1 min", "4 min 10 s", "1 h", "1 d 1 h", "2 d"]
        );
    }

    #[test]
    fn moments_are_local_where_pen_runs() {
        let now = 1_795_493_421;
        let clock = Clock::new(now, "2026-11-24 05:10:21");
        assert_eq!((clock.zone(), clock.moment(now)), ("UTC+1".into(), "05:10:21".into()));
        assert_eq!(clock.moment(now - 86_400), "23\u{a0}Nov 05:10");
        assert_eq!((clock.since(now - 7), clock.since(now + 7)), (7, 0));
        assert_eq!(Clock::new(now, "2026-11-24 00:40:21").zone(), "UTC-3:30");
        for unusable in ["", "2026-11-24", "2026-11-24 99:10:21", "1970-01-01 00:00:00"] {
            assert_eq!(Clock::new(now, unusable).zone(), "UTC", "{unusable}");
        }
        assert_eq!(clock.moment(i64::MAX), "1\u{a0}Jan\u{a0}1970 00:00");
        assert_eq!(rfc3339(now), "2026-11-24T04:10:21Z");
    }
}
