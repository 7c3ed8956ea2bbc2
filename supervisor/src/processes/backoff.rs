//! The delay before a dead worker is replaced. It is zero if the worker had lived for a while, and
//! grows with each worker that dies soon after its start.

#![forbid(unsafe_code)]

use std::time::Duration;

/// The delays of one worker slot.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    delay: Duration,
}

impl Backoff {
    /// The delay before replacing a worker that lived for this time.
    pub(crate) fn after(&mut self, lived: Duration) -> Duration {
        self.delay = match lived {
            lived if lived >= STABLE_AFTER => Duration::ZERO,
            _ if self.delay.is_zero() => SHORTEST,
            _ => (self.delay * 2).min(LONGEST),
        };
        self.delay
    }
}

/// A worker that lived for this time did not die because of its start.
const STABLE_AFTER: Duration = Duration::from_secs(1);

const SHORTEST: Duration = Duration::from_millis(10);

const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_deaths_back_off_and_a_life_resets() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(STABLE_AFTER), Duration::ZERO);
        let delays: Vec<u128> =
            (0..11).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000]);
        assert_eq!(backoff.after(STABLE_AFTER), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), SHORTEST);
    }
}
