//! Clients that wait because every connection under `-x` is in use: logged once at the beginning of
//! such a period, and once at its end.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// A period in which clients wait. Workers report it every second.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct FullPeriod {
    /// The time of the last report; none while no client waits.
    last_report: Option<Instant>,
}

impl FullPeriod {
    /// Notes a report that clients wait. Returns whether a new period begins.
    pub(in crate::event_loop) fn note(&mut self, now: Instant) -> bool {
        self.last_report.replace(now).is_none()
    }

    /// Whether the period is over, because there was no report for a while.
    pub(in crate::event_loop) fn is_over(&mut self, now: Instant) -> bool {
        self.last_report
            .take_if(|last_report| now.saturating_duration_since(*last_report) >= QUIET)
            .is_some()
    }
}

/// Time without a report until a period ends. Short pauses do not end it.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_and_ends_once() {
        let start = Instant::now();
        let mut full = FullPeriod::default();
        assert!(!full.is_over(start + QUIET));
        assert!(full.note(start));
        assert!(
            !full.note(start + QUIET / 2) && !full.is_over(start + QUIET),
            "the last word counts"
        );
        assert!(full.is_over(start + QUIET / 2 + QUIET));
        assert!(!full.is_over(start + 3 * QUIET) && full.note(start + 3 * QUIET));
    }
}
