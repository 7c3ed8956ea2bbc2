//! When names are looked up again. Pure: times are arguments, and chance comes from a random word.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// When the next round of lookups begins. One round at a time is under way.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct Schedule {
    /// The time from the beginning of a round to that of the next; none: there are no rounds.
    every: Option<Duration>,
    /// When the next round begins; none while one is under way.
    due: Option<Instant>,
    first: First,
}

/// When the first round begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::event_loop) enum First {
    /// After the usual time: the names have just been looked up.
    #[default]
    InTurn,
    /// Soon: an earlier program had begun none for some time.
    Soon,
}

impl Schedule {
    /// A schedule of which nothing is known yet.
    pub(in crate::event_loop) fn new(first: First) -> Schedule {
        Schedule { first, ..Schedule::default() }
    }

    /// Goes on with this time between rounds; none: there are no more. The same time as before
    /// changes nothing.
    pub(in crate::event_loop) fn follow(
        &mut self,
        every: Option<Duration>,
        now: Instant,
        random: u64,
    ) {
        if every == self.every {
            return;
        }
        self.every = every;
        self.due = every.map(|every| match std::mem::take(&mut self.first) {
            First::InTurn => now + varied(every, random),
            First::Soon => now + varied(every.min(SOON), random),
        });
    }

    /// When the next round begins; none while one is under way.
    pub(in crate::event_loop) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that a round has begun.
    pub(in crate::event_loop) fn begin(&mut self) {
        self.due = None;
    }

    /// Notes that the round that began at this time is over. A round that took longer than the time
    /// between rounds is followed at once by the next.
    pub(in crate::event_loop) fn end(&mut self, began: Instant, now: Instant, random: u64) {
        self.due = self.every.map(|every| (began + varied(every, random)).max(now));
    }

    /// Notes that the round under way was given up: the next one begins soon, however long the time
    /// between rounds is.
    pub(in crate::event_loop) fn soon(&mut self, now: Instant, random: u64) {
        self.due = self.every.map(|every| now + varied(every.min(SOON), random));
    }
}

/// A time that differs from the given one by up to a tenth, so that many pens do not ask together.
fn varied(time: Duration, random: u64) -> Duration {
    let tenth = u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX);
    time - Duration::from_millis(tenth) + Duration::from_millis(random % (2 * tenth + 1))
}

/// The longest time until a round of a program that has taken over, and until the next one after
/// one that was given up.
const SOON: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(count))
    }

    #[test]
    fn rounds_do_not_overlap_and_follow_each_other_in_time() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        // In the middle of what chance allows.
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None);
        schedule.follow(seconds(60), start, 6000);
        assert_eq!(schedule.due(), Some(at(60)));
        schedule.begin();
        assert_eq!(schedule.due(), None);
        schedule.end(at(60), at(63), 6000);
        assert_eq!(schedule.due(), Some(at(120)));
        schedule.begin();
        schedule.end(at(120), at(200), 6000);
        assert_eq!(schedule.due(), Some(at(200)));
    }

    #[test]
    fn only_another_time_between_rounds_begins_anew() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.follow(seconds(60), start, 6000);
        schedule.follow(seconds(60), at(30), 6000);
        assert_eq!(schedule.due(), Some(at(60)));
        schedule.follow(seconds(10), at(30), 1000);
        assert_eq!(schedule.due(), Some(at(40)));
        schedule.begin();
        schedule.follow(None, at(41), 0);
        schedule.end(at(40), at(42), 0);
        assert_eq!(schedule.due(), None, "there are no more");
        schedule.follow(seconds(10), at(50), 1000);
        assert_eq!(schedule.due(), Some(at(60)));
    }

    #[test]
    fn a_program_that_has_taken_over_looks_names_up_soon_and_then_in_turn() {
        let start = Instant::now();
        let mut schedule = Schedule::new(First::Soon);
        schedule.follow(seconds(3600), start, 200);
        assert_eq!(schedule.due(), Some(start + SOON));
        schedule.follow(seconds(60), start, 6000);
        assert_eq!(schedule.due(), Some(start + Duration::from_secs(60)));
    }

    #[test]
    fn a_round_that_was_given_up_is_followed_by_the_next_soon() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.follow(seconds(3600), start, 360_000);
        schedule.begin();
        schedule.soon(start + SOON, 200);
        assert_eq!(schedule.due(), Some(start + 2 * SOON));
        schedule.begin();
        schedule.follow(seconds(1), start, 100);
        schedule.soon(start, 100);
        assert_eq!(schedule.due(), Some(start + Duration::from_secs(1)));
        schedule.follow(None, start, 0);
        schedule.soon(start, 0);
        assert_eq!(schedule.due(), None, "there are no more");
    }

    #[test]
    fn times_vary_by_a_tenth() {
        let minute = Duration::from_secs(60);
        let (least, most) = (Duration::from_secs(54), Duration::from_secs(66));
        assert_eq!((varied(minute, 0), varied(minute, 12_000)), (least, most));
        for random in (0..u64::MAX - 1_000_000_007).step_by(usize::MAX / 97) {
            assert!((least..=most).contains(&varied(minute, random)));
        }
        assert_eq!(varied(Duration::ZERO, 7), Duration::ZERO);
    }
}
