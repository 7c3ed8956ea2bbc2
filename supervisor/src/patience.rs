//! The timeout of poll(2) for a deadline.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The time from now to a deadline, rounded up. Rounded down, the loop would spin during the last
/// millisecond.
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
