//! Whether a jailed process still goes round its event loop, and when the supervisor asks.
//!
//! Time is counted in beats of the supervisor's own loop, not by the clock: if the supervisor itself could not run (it was stopped, its
//! machine or its container was suspended), one beat has passed for everybody, however long that took, and nobody is judged by it.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The rhythm in which all processes are asked, together, so that an idle pen wakes up about once a second and no more.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    /// When the next one is; none before the first.
    next: Option<Instant>,
}

impl Beat {
    /// When [`Beat::falls`] has to be called.
    pub(crate) fn due(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    /// Whether a beat falls now. Those that were missed are not made up for.
    pub(crate) fn falls(&mut self, now: Instant) -> bool {
        let falls = self.next.is_none_or(|next| next <= now);
        if falls {
            self.next = Some(now + EVERY);
        }
        falls
    }
}

/// What is known of one process.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Of the last ping.
    serial: u32,
    ping: Ping,
    /// Beats that have passed since the ping was due.
    missed: u32,
    /// How long it may take to become ready.
    grace: Grace,
}

/// Beats that a process may take to become ready. The first of a pen has as long as the start; a replacement, which takes milliseconds, no
/// longer than others may hang; but one that follows another that was not ready in time has twice as long, for the machine may be slow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grace(u32);

impl Default for Grace {
    fn default() -> Grace {
        Grace(MOST_OF_START)
    }
}

impl Grace {
    /// With a replacement of a process that was ready, or was not.
    pub(crate) fn after(self, was_ready: bool) -> Grace {
        Grace(if was_ready { MOST_MISSED } else { (self.0 * 2).min(MOST_OF_START) })
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Ping {
    /// Nothing is asked.
    #[default]
    Answered,
    /// To be asked as soon as the channel has room.
    Due,
    Asked,
}

impl Watch {
    /// Of a process that is born.
    pub(crate) fn of_birth(grace: Grace) -> Watch {
        Watch { grace, ..Watch::default() }
    }

    /// A beat of a process that serves: asks it unless it is asked already. `ask` sends a ping and says whether it could be sent. False if
    /// the process hangs.
    pub(crate) fn beat(&mut self, ask: impl FnOnce(u32) -> bool) -> bool {
        match self.ping {
            Ping::Answered => {
                (self.ping, self.missed) = (Ping::Due, 0);
                self.serial = self.serial.wrapping_add(1);
            }
            Ping::Due | Ping::Asked => self.missed += 1,
        }
        if self.ping == Ping::Due && ask(self.serial) {
            self.ping = Ping::Asked;
        }
        self.missed < MOST_MISSED
    }

    /// A beat of a process that is not ready yet. False if it never will be.
    pub(crate) fn beat_of_start(&mut self) -> bool {
        self.missed += 1;
        self.missed <= self.grace.0
    }

    /// An answer came; one to an older ping, or to none, says nothing.
    pub(crate) fn answered(&mut self, serial: u32) {
        if (self.ping, serial) == (Ping::Asked, self.serial) {
            self.ping = Ping::Answered;
        }
    }

    /// Judges by nothing that was before: the process may have answered without being heard, or has become ready.
    pub(crate) fn begin_anew(&mut self) {
        self.missed = 0;
    }
}

/// Time between two beats. Five of them, which is the longest that a process can hang, are less than the five seconds that are promised, however
/// late each is.
const EVERY: Duration = Duration::from_millis(900);

/// Beats without an answer after which a process hangs.
const MOST_MISSED: u32 = 4;

/// Beats that the first process may take to become ready, and any other at most: as long as a start may take.
const MOST_OF_START: u32 = 30;

/// What is said of a process that hangs.
pub(crate) const HUNG: &str = "it hung, without a sign of life for 4 s";

/// What is said of a replacement that does not become ready.
pub(crate) const NEVER_READY: &str = "it was not ready in time";

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(watch: &mut Watch) -> (bool, Option<u32>) {
        let mut asked = None;
        let lives = watch.beat(|serial| {
            asked = Some(serial);
            true
        });
        (lives, asked)
    }

    #[test]
    fn the_longest_hang_is_shorter_than_five_seconds() {
        // The beat before it stops, those that it misses, and half a second for being late.
        assert!(EVERY * (MOST_MISSED + 1) + Duration::from_millis(500) <= Duration::from_secs(5));
    }

    #[test]
    fn who_answers_lives_and_who_does_not_has_five_beats() {
        let mut watch = Watch::default();
        for round in 1..100 {
            assert_eq!(ask(&mut watch), (true, Some(round)));
            watch.answered(round);
        }
        assert_eq!(ask(&mut watch), (true, Some(100)));
        // Neither an old answer nor one to a question that was never asked.
        watch.answered(99);
        watch.answered(101);
        for _ in 1..MOST_MISSED {
            assert_eq!(ask(&mut watch), (true, None));
        }
        assert_eq!(ask(&mut watch), (false, None));
    }

    #[test]
    fn a_replacement_has_as_long_as_others_may_hang_and_longer_where_that_was_too_short() {
        let first = Grace::default();
        let replacement = first.after(true);
        let mut grace = replacement;
        let mut beats = Vec::new();
        for _ in 0..5 {
            let mut watch = Watch::of_birth(grace);
            beats.push((1..100).find(|_| !watch.beat_of_start()).unwrap());
            grace = grace.after(false);
        }
        assert_eq!(beats, [MOST_MISSED + 1, 9, 17, MOST_OF_START + 1, MOST_OF_START + 1]);
        assert_eq!(grace.after(true), replacement);
    }

    #[test]
    fn a_late_answer_is_as_good() {
        let mut watch = Watch::default();
        for _ in 0..MOST_MISSED {
            assert!(ask(&mut watch).0);
        }
        watch.answered(1);
        for _ in 0..MOST_MISSED {
            assert!(ask(&mut watch).0);
        }
    }

    #[test]
    fn a_channel_without_room_is_no_answer_and_the_question_is_tried_again() {
        let mut watch = Watch::default();
        assert!(watch.beat(|_| false));
        watch.answered(1);
        assert!(watch.beat(|_| false));
        assert_eq!(ask(&mut watch), (true, Some(1)));
        assert!(ask(&mut watch).0);
        assert!(!ask(&mut watch).0);
    }

    #[test]
    fn who_could_not_be_heard_is_not_judged() {
        let mut watch = Watch::default();
        for _ in 0..20 {
            assert!(ask(&mut watch).0);
            watch.begin_anew();
        }
    }

    #[test]
    fn a_start_may_take_its_time_and_is_forgotten_once_it_is_over() {
        let mut watch = Watch::default();
        assert!((1..MOST_OF_START).all(|_| watch.beat_of_start()));
        watch.begin_anew();
        assert!((1..=MOST_MISSED).all(|_| ask(&mut watch).0));
        assert!(!(0..MOST_OF_START).all(|_| Watch::default().beat_of_start() && watch.beat_of_start()));
    }

    #[test]
    fn a_long_pause_of_the_supervisor_is_one_beat() {
        let (mut beat, start) = (Beat::default(), Instant::now());
        assert!(beat.falls(start) && !beat.falls(start + EVERY / 2));
        assert!(beat.falls(start + EVERY));
        let later = start + 1000 * EVERY;
        assert!(beat.falls(later) && !beat.falls(later));
        assert_eq!(beat.due(), later + EVERY);
    }
}
