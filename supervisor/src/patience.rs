//! How long poll(2) may wait for a deadline.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The time from now to a deadline, rounded up: rounded down, the last millisecond would be spent
/// spinning.
pub(crate) fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let rounded = left.saturating_add(Duration::from_nanos(999_999));
    PollTimeout::try_from(rounded.as_millis()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_met_early() {
        assert_eq!(until(Instant::now()), PollTimeout::ZERO);
        assert_eq!(until(Instant::now() + Duration::from_secs(1 << 40)), PollTimeout::MAX);
        let left = until(Instant::now() + Duration::from_secs(100)).as_millis().unwrap();
        assert!((50_000..=100_000).contains(&left));
    }
}
