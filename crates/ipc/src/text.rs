//! Texts that several processes print: errors of the system, and dates.

use std::io;

use nix::errno::Errno;
use time::OffsetDateTime;

/// The text for an error as part of a sentence: lower case, without Rust's "(os error 13)".
pub fn error_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => errno_text(number),
        None => error.to_string(),
    }
}

/// The text for an errno. An unknown number, which a worker may send, is shown as a number.
pub fn errno_text(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::EADDRINUSE => "address in use".into(),
        Errno::ENOENT => "no such file or directory".into(),
        Errno::UnknownErrno => format!("error {number}"),
        known => lower_first(known.desc()),
    }
}

/// Makes the first letter small. An abbreviation ("I/O error") stays as it is.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.into(),
    }
}

/// A number with its noun.
pub fn plural(count: impl Into<u64>, noun: &str) -> String {
    let count = count.into();
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `2026-11-24 04:10:21`, in the zone of the argument.
pub fn date_time(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    let (hour, minute, second) = clock.as_hms();
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The short names of the months.
pub const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Nov 24 04:10:21`, the day padded with a space (RFC 3164, 4.1.2), in the zone of the argument.
pub fn syslog_time(time: OffsetDateTime) -> String {
    let (hour, minute, second) = time.time().as_hms();
    let month = MONTHS[usize::from(u8::from(time.month())) - 1];
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02}", time.day())
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn system_errors_read_as_part_of_a_sentence() {
        let text = |errno: Errno| error_text(&errno.into());
        assert_eq!(text(Errno::ACCESS), "permission denied");
        assert_eq!(text(Errno::ADDRINUSE), "address in use");
        assert_eq!(text(Errno::IO), "I/O error");
        assert_eq!(error_text(&io::Error::other("odd")), "odd");
        assert_eq!(errno_text(-7), "error -7");
    }

    #[test]
    fn times_have_the_forms_of_the_manual() {
        let forms = |unix| {
            let time = OffsetDateTime::from_unix_timestamp(unix).unwrap();
            (date_time(time), syslog_time(time))
        };
        let pair = |full: &str, syslog: &str| (full.to_owned(), syslog.to_owned());
        assert_eq!(forms(1_793_592_621), pair("2026-11-02 04:10:21", "Nov  2 04:10:21"));
        assert_eq!(forms(951_782_400), pair("2000-02-29 00:00:00", "Feb 29 00:00:00"));
        assert_eq!(forms(-1), pair("1969-12-31 23:59:59", "Dec 31 23:59:59"));
    }
}
