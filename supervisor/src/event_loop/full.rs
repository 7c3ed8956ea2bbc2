//! Whether clients wait because every connection under `-x` is in use: told once when that begins,
//! and once when it is over.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// A time in which clients wait. Workers say so every second.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct Crowd {
    /// When a worker last said so; none while nobody waits.
    heard: Option<Instant>,
}

impl Crowd {
    /// A worker said that clients wait. Whether that is new.
    pub(in crate::event_loop) fn hear(&mut self, now: Instant) -> bool {
        self.heard.replace(now).is_none()
    }

    /// Whether it is over, as none has said so for a while.
    pub(in crate::event_loop) fn is_over(&mut self, now: Instant) -> bool {
        self.heard.take_if(|heard| now.saturating_duration_since(*heard) >= QUIET).is_some()
    }
}

/// Where clients wait now and then, that is one time.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_and_ends_once() {
        let start = Instant::now();
        let mut crowd = Crowd::default();
        assert!(!crowd.is_over(start + QUIET));
        assert!(crowd.hear(start));
        assert!(
            !crowd.hear(start + QUIET / 2) && !crowd.is_over(start + QUIET),
            "the last word counts"
        );
        assert!(crowd.is_over(start + QUIET / 2 + QUIET));
        assert!(!crowd.is_over(start + 3 * QUIET) && crowd.hear(start + 3 * QUIET));
    }
}
