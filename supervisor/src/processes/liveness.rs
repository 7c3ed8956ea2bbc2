//! Whether a jailed process still goes round its event loop, and when the supervisor asks.
//!
//! Time is counted in beats of the supervisor's own loop, not by the clock: if the supervisor
//! itself could not run (it was stopped, its machine or its container was suspended), one beat has
//! passed for everybody, however long that took, and nobody is judged by it. And a beat counts only
//! as far as the process could have answered in it: one that waits for a processor is not to blame
//! ([`charge`]).

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The rhythm in which all processes are asked, together, so that an idle pen wakes up about once a
/// second and no more.
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

/// What a process does at a beat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It runs, or waits for a processor and nothing else.
    Runnable,
    /// It waits for something else. A message would wake it, if it waited for messages.
    Waiting,
    /// It waits for memory or a disk (uninterruptible sleep).
    Blocked,
    /// Somebody has stopped it.
    Stopped,
    /// The kernel does not say.
    Unknown,
}

/// A process as the kernel sees it. Neither answer is the process's own word.
pub(crate) trait Subject {
    /// Processor time that it has used since its birth.
    fn used(&self) -> Duration;
    /// What it does now.
    fn state(&self) -> State;
}

/// What is known of one process.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Of the last ping.
    serial: u32,
    ping: Ping,
    /// For how long it could have answered, and did not.
    silence: Duration,
    /// No beat has passed since the ping was due.
    fresh: bool,
    /// Processor time that it had used at the last beat.
    used: Duration,
    /// How long it may take to become ready.
    grace: Grace,
}

/// Beats that a process may take to become ready, counted as [`charge`] does. The first of a pen
/// has as long as the start; a replacement, which takes milliseconds, no longer than others may
/// hang; but one that follows another that was not ready in time has twice as long, for the machine
/// may be slow.
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
        Grace(if was_ready { MOST_OF_REPLACEMENT } else { (self.0 * 2).min(MOST_OF_START) })
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
        Watch { grace, fresh: true, ..Watch::default() }
    }

    /// A beat of a process that serves: asks it unless it is asked already. `ask` sends a ping and
    /// says whether it could be sent. False if the process hangs.
    pub(crate) fn beat(&mut self, subject: &impl Subject, ask: impl FnOnce(u32) -> bool) -> bool {
        match self.ping {
            Ping::Answered => {
                (self.ping, self.silence, self.fresh) = (Ping::Due, Duration::ZERO, true);
                self.serial = self.serial.wrapping_add(1);
                self.used = subject.used();
            }
            Ping::Due | Ping::Asked => self.count(subject),
        }
        if self.ping == Ping::Due && ask(self.serial) {
            self.ping = Ping::Asked;
        }
        self.silence < MOST_SILENCE
    }

    /// A beat of a process that is not ready yet. False if it never will be.
    pub(crate) fn beat_of_start(&mut self, subject: &impl Subject) -> bool {
        self.count(subject);
        self.silence <= EVERY * self.grace.0
    }

    /// An answer came; one to an older ping, or to none, says nothing.
    pub(crate) fn answered(&mut self, serial: u32) {
        if (self.ping, serial) == (Ping::Asked, self.serial) {
            self.ping = Ping::Answered;
        }
    }

    /// Judges by nothing that was before: the process may have answered without being heard, or has
    /// become ready.
    pub(crate) fn begin_anew(&mut self) {
        (self.silence, self.fresh) = (Duration::ZERO, true);
    }

    fn count(&mut self, subject: &impl Subject) {
        let used = subject.used();
        let ran = used.saturating_sub(self.used);
        self.silence += charge(subject.state(), ran, self.fresh);
        (self.used, self.fresh) = (used, false);
    }
}

/// How much of a beat a process could have used for an answer, from what it does at the end of the
/// beat and from the processor time that it had in it.
///
/// A process that waits for a processor is charged with the time that it had, which is none where
/// the machine, a container's quota or a frozen control group gives none. One that waits for
/// something else, or is stopped, did not want a processor and is charged with the whole beat: also
/// one that ran meanwhile, for it could have answered instead (a loop with a short sleep in it).
/// Only if it waits for memory or a disk, and ran, it moves, though slowly (it is swapped out, or
/// its log's disk is slow). In the first beat the time before it began to wait says nothing.
fn charge(state: State, ran: Duration, first: bool) -> Duration {
    let moves = !ran.is_zero() && !first;
    match state {
        State::Runnable => ran.min(EVERY),
        State::Blocked if moves => EVERY / 4,
        State::Stopped | State::Waiting | State::Blocked => EVERY,
        State::Unknown => ran.clamp(EVERY / 4, EVERY),
    }
}

/// Time between two beats. Five of them, which is the longest that a process can hang, are less
/// than the five seconds that are promised, however late each is.
const EVERY: Duration = Duration::from_millis(900);

/// For how long a process can leave a ping without an answer until it hangs, as [`charge`] counts:
/// four beats, also for one that runs all the time and now and then shares its processor with
/// others. One that works answers within 50 ms and the time of sixteen steps of its loop.
const MOST_SILENCE: Duration = Duration::from_millis(2750);

/// Beats that a replacement may take to become ready.
const MOST_OF_REPLACEMENT: u32 = 4;

/// Beats that the first process may take to become ready, and any other at most: as long as a start
/// may take.
const MOST_OF_START: u32 = 30;

/// What is said of a process that hangs.
pub(crate) const HUNG: &str =
    "it hung: no sign of life for 3 s and more in which it was not short of processor time";

/// What is said of a replacement that does not become ready.
pub(crate) const NEVER_READY: &str = "it was not ready in time";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A process of which the kernel says this.
    struct Seen(State, Duration);

    impl Subject for Seen {
        fn used(&self) -> Duration {
            self.1
        }

        fn state(&self) -> State {
            self.0
        }
    }

    const STOPPED: Seen = Seen(State::Stopped, Duration::ZERO);

    fn ask_of(watch: &mut Watch, subject: &Seen) -> (bool, Option<u32>) {
        let mut asked = None;
        let lives = watch.beat(subject, |serial| {
            asked = Some(serial);
            true
        });
        (lives, asked)
    }

    fn ask(watch: &mut Watch) -> (bool, Option<u32>) {
        ask_of(watch, &STOPPED)
    }

    /// The beat at which a process is condemned that answers no more after the first ping; `beat`
    /// says what it does in each.
    fn condemned(beats: u32, beat: impl Fn(u32) -> (State, Duration)) -> Option<u32> {
        let (mut watch, mut used) = (Watch::default(), Duration::from_secs(1000));
        ask_of(&mut watch, &Seen(State::Waiting, used));
        (1..=beats).find(|n| {
            let (state, ran) = beat(*n);
            used += ran;
            !ask_of(&mut watch, &Seen(state, used)).0
        })
    }

    #[test]
    fn the_longest_hang_is_shorter_than_five_seconds() {
        // The beat before it stops, those that it misses, and half a second for being late.
        assert!(EVERY * (4 + 1) + Duration::from_millis(500) <= Duration::from_secs(5));
        let tick = Duration::from_micros(1);
        assert_eq!(condemned(9, |_| (State::Stopped, Duration::ZERO)), Some(4));
        assert_eq!(
            condemned(9, |_| (State::Stopped, tick)),
            Some(4),
            "who is stopped may have run before"
        );
        assert_eq!(
            condemned(9, |_| (State::Waiting, Duration::ZERO)),
            Some(4),
            "in a system call, or a lock"
        );
        let blocks = |n: u32| (State::Waiting, if n == 1 { EVERY / 2 } else { Duration::ZERO });
        assert_eq!(condemned(9, blocks), Some(4), "after it had worked for a while");
        assert_eq!(
            condemned(9, |_| (State::Blocked, Duration::ZERO)),
            Some(4),
            "for a disk that never answers"
        );
        assert_eq!(
            condemned(9, |_| (State::Waiting, tick)),
            Some(4),
            "an endless loop with a short sleep in it"
        );
        assert_eq!(condemned(9, |_| (State::Runnable, EVERY)), Some(4), "an endless loop");
        assert_eq!(
            condemned(9, |_| (State::Runnable, EVERY * 4 / 5)),
            Some(4),
            "an endless loop among others"
        );
    }

    #[test]
    fn who_gets_no_processor_is_not_judged_and_who_gets_little_has_longer() {
        assert_eq!(
            condemned(100_000, |_| (State::Runnable, Duration::ZERO)),
            None,
            "a quota, or a frozen group"
        );
        // A sixty-fourth of a tenth of a processor.
        let share = EVERY / 640;
        let beats = condemned(100_000, |_| (State::Runnable, share)).unwrap();
        assert_eq!(beats, (MOST_SILENCE.as_nanos().div_ceil(share.as_nanos())) as u32);
        // Swapped out, or a slow disk: it waits at each beat, and ran before.
        let slow = |_| (State::Blocked, Duration::from_millis(1));
        assert_eq!(condemned(100, slow), Some(10));
        assert_eq!(condemned(100, |_| (State::Unknown, Duration::ZERO)), Some(13), "without /proc");
        assert_eq!(condemned(100, |_| (State::Unknown, EVERY)), Some(4), "without /proc");
    }

    #[test]
    fn a_pause_of_the_supervisor_is_one_beat_however_long_the_process_ran_in_it() {
        let pause = |n: u32| (State::Runnable, if n == 1 { EVERY * 1000 } else { Duration::ZERO });
        assert_eq!(condemned(1000, pause), None);
    }

    proptest! {
        #[test]
        fn who_works_is_never_condemned_however_the_machine_shares_its_time(
            needs in 1..2_000_u64,
            shares in prop::collection::vec(0..=900_u64, 1..400),
        ) {
            // Each answer takes `needs` ms of processor time, and the machine gives a share of each beat.
            let (mut watch, mut used, mut owed) = (Watch::default(), Duration::ZERO, 0);
            for share in shares {
                let (lives, asked) = ask_of(&mut watch, &Seen(State::Runnable, used));
                prop_assert!(lives);
                owed = if asked.is_some() { needs } else { owed };
                used += Duration::from_millis(share);
                if owed > 0 && owed <= share {
                    watch.answered(watch.serial);
                }
                owed = owed.saturating_sub(share);
            }
        }

        #[test]
        fn who_is_silent_is_condemned_by_what_it_used_or_by_the_beats_in_which_it_wanted_nothing(
            trace in prop::collection::vec((0..5_u8, 0..=900_u64), 1..400),
        ) {
            let states = [State::Runnable, State::Waiting, State::Blocked, State::Stopped, State::Unknown];
            let state = |n| states[usize::from(n)];
            let end = condemned(trace.len() as u32, |n| {
                let (state_of, ran) = trace[n as usize - 1];
                (state(state_of), Duration::from_millis(ran))
            });
            let lived = &trace[..end.map_or(trace.len(), |end| end as usize - 1)];
            let looped: u64 = lived.iter().filter(|(state, _)| *state == 0).map(|(_, ran)| ran).sum();
            let idle = lived.iter().filter(|(state, _)| *state != 0).count() as u64;
            prop_assert!(Duration::from_millis(looped + 225 * idle) < MOST_SILENCE, "{end:?} of \
                {lived:?}");
        }
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
        for _ in 1..4 {
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
            beats.push((1..100).find(|_| !watch.beat_of_start(&STOPPED)).unwrap());
            grace = grace.after(false);
        }
        assert_eq!(beats, [5, 9, 17, MOST_OF_START + 1, MOST_OF_START + 1]);
        assert_eq!(grace.after(true), replacement);
    }

    #[test]
    fn a_late_answer_is_as_good() {
        let mut watch = Watch::default();
        for _ in 0..4 {
            assert!(ask(&mut watch).0);
        }
        watch.answered(1);
        for _ in 0..4 {
            assert!(ask(&mut watch).0);
        }
    }

    #[test]
    fn a_channel_without_room_is_no_answer_and_the_question_is_tried_again() {
        let mut watch = Watch::default();
        assert!(watch.beat(&STOPPED, |_| false));
        watch.answered(1);
        assert!(watch.beat(&STOPPED, |_| false));
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
        assert!((1..MOST_OF_START).all(|_| watch.beat_of_start(&STOPPED)));
        watch.begin_anew();
        assert!((1..=4).all(|_| ask(&mut watch).0));
        assert!(
            !(0..MOST_OF_START)
                .all(|_| Watch::default().beat_of_start(&STOPPED) && watch.beat_of_start(&STOPPED))
        );
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
