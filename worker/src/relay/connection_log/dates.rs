//! The dates in lines of the connection log. Each form is made once for a second.

use pen_ipc::text::{MONTHS, syslog_time};
use time::OffsetDateTime;

/// The dates of a worker's lines.
#[derive(Debug)]
pub struct Dates {
    utc_offset: fn(i64) -> i32,
    utc: Cached,
    local: Cached,
    syslog: Cached,
}

/// The text of the second for which it was made.
#[derive(Debug, Default)]
struct Cached {
    second: Option<u64>,
    text: String,
}

impl Cached {
    fn of(&mut self, second: u64, make: impl FnOnce(u64) -> String) -> &str {
        if self.second != Some(second) {
            self.text = make(second);
            self.second = Some(second);
        }
        &self.text
    }
}

impl Dates {
    /// Dates in the time zone of a function that returns the UTC offset at a Unix time, in seconds.
    pub fn new(utc_offset: fn(i64) -> i32) -> Dates {
        let [utc, local, syslog] = Default::default();
        Dates { utc_offset, utc, local, syslog }
    }

    /// `2026-11-24T04:10:21.123Z` (RFC 3339), of milliseconds of Unix time.
    pub fn utc(&mut self, time: u64) -> Utc {
        let text = self.utc.of(time / 1000, |second| {
            let at = moment(second as i64);
            let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
            let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
        });
        let mut bytes = *b"0000-00-00T00:00:00.000Z";
        // Unless the clock is wrong by thousands of years.
        if let (Some(date), 19) = (bytes.get_mut(..19), text.len()) {
            date.copy_from_slice(text.as_bytes());
        }
        bytes[20..23].copy_from_slice(&milliseconds(time));
        Utc(bytes)
    }

    /// Appends `24/Nov/2026:04:10:21.123`, in the local zone, of milliseconds of Unix time.
    pub fn haproxy(&mut self, time: u64, to: &mut Vec<u8>) {
        let offset = self.utc_offset;
        let text = self.local.of(time / 1000, |second| {
            let at = local(second, offset);
            let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
            let month = MONTHS[usize::from(u8::from(date.month())) - 1];
            let (day, year) = (date.day(), date.year());
            format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02}")
        });
        to.extend(text.as_bytes());
        to.push(b'.');
        to.extend(milliseconds(time));
    }

    /// `Nov 24 04:10:21` (RFC 3164), in the local zone, of seconds of Unix time.
    pub fn syslog(&mut self, second: u64) -> &str {
        let offset = self.utc_offset;
        self.syslog.of(second, |second| syslog_time(local(second, offset)))
    }
}

/// A date of [`Dates::utc`].
#[derive(Clone, Copy, Debug)]
pub struct Utc([u8; 24]);

impl Utc {
    /// Its text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The three digits of the milliseconds in a time.
fn milliseconds(time: u64) -> [u8; 3] {
    [time / 100, time / 10, time].map(|digit| b'0' + (digit % 10) as u8)
}

fn local(second: u64, utc_offset: fn(i64) -> i32) -> OffsetDateTime {
    let second = second as i64;
    moment(second.saturating_add(utc_offset(second).into()))
}

/// Only a clock that is wrong by thousands of years has no date.
fn moment(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_forms_of_their_logs() {
        let mut dates = Dates::new(|_| 3600);
        for _ in 0..2 {
            for (time, utc, haproxy, syslog) in [
                (
                    1_793_592_621_007,
                    "2026-11-02T04:10:21.007Z",
                    "02/Nov/2026:05:10:21.007",
                    "Nov  2 05:10:21",
                ),
                (
                    1_793_592_621_123,
                    "2026-11-02T04:10:21.123Z",
                    "02/Nov/2026:05:10:21.123",
                    "Nov  2 05:10:21",
                ),
                (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:01:00:00.000", "Jan  1 01:00:00"),
            ] {
                let mut out = Vec::new();
                dates.haproxy(time, &mut out);
                assert_eq!(dates.utc(time).text(), utc);
                assert_eq!(String::from_utf8(out).unwrap(), haproxy);
                assert_eq!(dates.syslog(time / 1000), syslog);
            }
        }
        let beyond = dates.utc(u64::MAX);
        assert_eq!(beyond.text().len(), 24, "{beyond:?}");
    }
}
