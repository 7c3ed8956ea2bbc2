//! Limits for what one source may cause in a period of time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Counts events in a period and withholds those above the limit.
#[derive(Debug)]
pub(crate) struct Flood {
    most: u32,
    period: Duration,
    since: Instant,
    admitted: u32,
    withheld: u64,
}

/// Whether one more event is within the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// It is. The first one of a new period also says how many were withheld before.
    Admitted {
        /// The number of withheld events to report now.
        withheld_before: u64,
    },
    /// It is above the limit.
    Withheld,
}

impl Flood {
    pub(crate) fn new(most: u32, period: Duration, now: Instant) -> Flood {
        Flood { most, period, since: now, admitted: 0, withheld: 0 }
    }

    /// Changes the limit.
    pub(crate) fn set_most(&mut self, most: u32) {
        self.most = most;
    }

    /// Counts one more event.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        let mut withheld_before = 0;
        if now.saturating_duration_since(self.since) >= self.period {
            withheld_before = std::mem::take(&mut self.withheld);
            (self.since, self.admitted) = (now, 0);
        }
        if self.admitted < self.most {
            self.admitted += 1;
            return Admission::Admitted { withheld_before };
        }
        self.withheld = self.withheld.saturating_add(1);
        Admission::Withheld
    }

    /// The number of withheld events, once their period is over, unless [`Flood::admit`] has
    /// reported them.
    pub(crate) fn take_withheld(&mut self, now: Instant) -> u64 {
        match now.saturating_duration_since(self.since) >= self.period {
            true => std::mem::take(&mut self.withheld),
            false => 0,
        }
    }
}

/// Spreads events over time without refusing any: so many in each period, and the others wait where
/// they are.
#[derive(Debug)]
pub(crate) struct Pace {
    most: u32,
    period: Duration,
    since: Instant,
    taken: u32,
}

impl Pace {
    pub(crate) fn new(most: u32, period: Duration, now: Instant) -> Pace {
        Pace { most, period, since: now, taken: 0 }
    }

    /// Counts one event.
    pub(crate) fn count(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= self.period {
            (self.since, self.taken) = (now, 0);
        }
        self.taken += 1;
    }

    /// When one more may be taken, if not now.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        let end = self.since + self.period;
        (self.taken >= self.most && now < end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_withheld_and_accounted_for() {
        let (start, period) = (Instant::now(), Duration::from_secs(10));
        let mut flood = Flood::new(2, period, start);
        assert_eq!(flood.admit(start), Admission::Admitted { withheld_before: 0 });
        assert_eq!(flood.admit(start), Admission::Admitted { withheld_before: 0 });
        assert_eq!(flood.admit(start), Admission::Withheld);
        assert_eq!(flood.admit(start + period / 2), Admission::Withheld);
        assert_eq!(flood.admit(start + period), Admission::Admitted { withheld_before: 2 });
        assert_eq!(flood.admit(start + period), Admission::Admitted { withheld_before: 0 });
    }

    #[test]
    fn what_nothing_follows_is_accounted_for_when_its_period_is_over() {
        let (start, period) = (Instant::now(), Duration::from_secs(10));
        let mut flood = Flood::new(0, period, start);
        (0..3).for_each(|_| assert_eq!(flood.admit(start), Admission::Withheld));
        assert_eq!(flood.take_withheld(start + period / 2), 0);
        assert_eq!(
            (flood.take_withheld(start + period), flood.take_withheld(start + period)),
            (3, 0)
        );
    }

    #[test]
    fn what_is_beyond_the_pace_waits_for_the_next_period() {
        let (start, period) = (Instant::now(), Duration::from_millis(100));
        let mut pace = Pace::new(2, period, start);
        pace.count(start);
        assert_eq!(pace.paused_until(start), None);
        pace.count(start);
        assert_eq!(pace.paused_until(start), Some(start + period));
        assert_eq!(pace.paused_until(start + period), None);
        pace.count(start + period);
        assert_eq!(pace.paused_until(start + period), None);
    }
}
