//! Standard error that the journal reads (systemd.exec(5), `JOURNAL_STREAM`).
//!
//! The journal adds the time itself, and takes the priority of a line from the `<N>` before it
//! (sd-daemon(3)).

#![forbid(unsafe_code)]

use std::ffi::OsStr;

use crate::log::Severity;

/// Whether standard error goes to the journal. It does not if it was redirected after the variable
/// was set.
pub(crate) fn reads_stderr() -> bool {
    let Ok(there) = rustix::fs::fstat(std::io::stderr()) else { return false };
    std::env::var_os("JOURNAL_STREAM")
        .is_some_and(|stream| names(&stream, there.st_dev, there.st_ino))
}

/// Whether the variable `device:inode` names this file.
fn names(stream: &OsStr, device: u64, inode: u64) -> bool {
    let numbers = stream.to_str().and_then(|stream| stream.split_once(':'));
    numbers.is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

/// A message in the form for the journal: each line with its priority (syslog(3)).
pub(crate) fn lines(severity: Severity, text: &str) -> String {
    let priority = match severity {
        Severity::Error => 3,
        Severity::Warning => 4,
        Severity::Notice => 5,
        Severity::Debug => 7,
    };
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(names(OsStr::new("9:12345"), 9, 12345));
        for other in ["9:12346", "8:12345", "9", "", "9:x", ":", "9:12345:1"] {
            assert!(!names(OsStr::new(other), 9, 12345), "{other}");
        }
    }

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(lines(Severity::Debug, "a\nb\n"), "<7>a\n<7>b\n");
        assert_eq!(lines(Severity::Error, "c"), "<3>c\n");
        assert_eq!(lines(Severity::Notice, "d"), "<5>d\n");
        assert_eq!(lines(Severity::Warning, "<3>d"), "<4><3>d\n");
    }
}
