//! Liveness: whether the event loop of a jailed process still runs, and when the supervisor asks.
//!
//! Time is counted in beats of the supervisor's own loop, not by the clock. If the supervisor could
//! not run (it was stopped, or its machine or container was suspended), that time counts as one
//! beat for every process. A beat counts only as far as the process could have answered in it. A
//! process that waits for a processor is not charged ([`charge`]).

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The interval for asking all processes together, so that an idle pen wakes up only about once a
/// second.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    /// The time of the next beat; none before the first.
    next: Option<Instant>,
}

impl Beat {
    /// When to call [`Beat::take_due`].
    pub(crate) fn due(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    /// Whether a beat is due now. Missed beats are not repeated.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.next.is_none_or(|next| next <= now);
        if is_due {
            self.next = Some(now + INTERVAL);
        }
        is_due
    }
}

/// The state of a process at a beat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProcessState {
    /// It runs, or waits only for a processor.
    Runnable,
    /// It waits for something else. A message would wake it, if it waited for messages.
    Waiting,
    /// It waits for memory or a disk (uninterruptible sleep).
    Blocked,
    /// It was stopped by a signal.
    Stopped,
    /// The kernel does not show it.
    Unknown,
}

/// A process as the kernel sees it. Neither answer comes from the process itself.
pub(crate) trait Subject {
    /// The processor time that it has used since its start.
    fn used(&self) -> Duration;
    /// Its present state.
    fn state(&self) -> ProcessState;
}

/// The liveness of one process.
#[derive(Debug, Default)]
pub(crate) struct LivenessWatch {
    /// The serial number of the last ping.
    serial: u32,
    ping: Ping,
    /// The time in which it could have answered and did not.
    silence: Duration,
    /// No beat has passed since the ping was due.
    fresh: bool,
    /// The processor time that it had used at the last beat.
    used: Duration,
    /// How long it may take to become ready.
    grace: Grace,
}

/// The beats that a process may take to become ready, counted as [`charge`] does. The first process
/// has as long as the start. A replacement takes milliseconds, so it has no longer than a process
/// may hang. After one that was not ready in time, the next has twice as long, because the machine
/// may be slow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grace(u32);

impl Default for Grace {
    fn default() -> Grace {
        Grace(MOST_OF_START)
    }
}

impl Grace {
    /// The grace of the replacement for a process that was ready, or was not.
    pub(crate) fn after(self, was_ready: bool) -> Grace {
        Grace(if was_ready { MOST_OF_REPLACEMENT } else { (self.0 * 2).min(MOST_OF_START) })
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Ping {
    /// No ping is open.
    #[default]
    Answered,
    /// A ping is to be sent as soon as the channel has room.
    Due,
    Asked,
}

impl LivenessWatch {
    /// For a new process.
    pub(crate) fn new(grace: Grace) -> LivenessWatch {
        LivenessWatch { grace, fresh: true, ..LivenessWatch::default() }
    }

    /// Handles a beat of a ready process: sends a ping unless one is open. `ask` sends the ping and
    /// returns whether it could be sent. Returns false if the process hangs.
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

    /// Handles a beat of a process that is not ready yet. Returns false if its time is over.
    pub(crate) fn beat_while_starting(&mut self, subject: &impl Subject) -> bool {
        self.count(subject);
        self.silence <= INTERVAL * self.grace.0
    }

    /// Notes an answer. An answer to an older ping, or to none, does not count.
    pub(crate) fn answered(&mut self, serial: u32) {
        if (self.ping, serial) == (Ping::Asked, self.serial) {
            self.ping = Ping::Answered;
        }
    }

    /// Whether the last ping is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.ping == Ping::Answered
    }

    /// Forgets the silence so far: the process may have answered without being read, or has become
    /// ready.
    pub(crate) fn reset(&mut self) {
        (self.silence, self.fresh) = (Duration::ZERO, true);
    }

    fn count(&mut self, subject: &impl Subject) {
        let used = subject.used();
        let ran = used.saturating_sub(self.used);
        self.silence += charge(subject.state(), ran, self.fresh);
        (self.used, self.fresh) = (used, false);
    }
}

/// The part of a beat in which a process could have answered. It depends on the state at the end of
/// the beat, and on the processor time that it used.
///
/// A process that waits for a processor is charged with the time that it used. That is none if the
/// machine, a container's quota or a frozen control group gives none.
///
/// A process that waits for something else, or is stopped, did not need a processor. It is charged
/// with the whole beat, even if it ran meanwhile: it could have answered instead, as in a loop with
/// a short sleep.
///
/// A process that waits for memory or a disk and also ran is only slow. It is swapped out, or the
/// disk of its log is slow. It is charged with a quarter of the beat. In the first beat, the time
/// before the wait does not count as running.
fn charge(state: ProcessState, ran: Duration, first: bool) -> Duration {
    let moves = !ran.is_zero() && !first;
    match state {
        ProcessState::Runnable => ran.min(INTERVAL),
        ProcessState::Blocked if moves => INTERVAL / 4,
        ProcessState::Stopped | ProcessState::Waiting | ProcessState::Blocked => INTERVAL,
        ProcessState::Unknown => ran.clamp(INTERVAL / 4, INTERVAL),
    }
}

/// The time between two beats. A process can hang for five of them at most. That is less than the
/// five seconds that are promised, even if each is a little late.
const INTERVAL: Duration = Duration::from_millis(900);

/// A process hangs when it has left a ping unanswered for this time, as [`charge`] counts. That is
/// four beats, even for a process that runs all the time and sometimes shares its processor. A
/// working process answers within the time of sixteen steps of its loop. It waits at most 200 ms of
/// each second for locks of the table.
const MOST_SILENCE: Duration = Duration::from_millis(2750);

/// Beats that a replacement may take to become ready.
const MOST_OF_REPLACEMENT: u32 = 4;

/// Beats that the first process may take to become ready, as long as a start may take. No other
/// process gets more.
const MOST_OF_START: u32 = 30;

/// The log text for a process that hangs.
pub(crate) const HUNG: &str =
    "it hung: no sign of life for 3 s and more in which it was not short of processor time";

/// The log text for a replacement that does not become ready.
pub(crate) const NEVER_READY: &str = "it was not ready in time";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A process with this state and this used processor time.
    struct Seen(ProcessState, Duration);

    impl Subject for Seen {
        fn used(&self) -> Duration {
            self.1
        }

        fn state(&self) -> ProcessState {
            self.0
        }
    }

    const STOPPED: Seen = Seen(ProcessState::Stopped, Duration::ZERO);

    fn ask_of(watch: &mut LivenessWatch, subject: &Seen) -> (bool, Option<u32>) {
        let mut asked = None;
        let lives = watch.beat(subject, |serial| {
            asked = Some(serial);
            true
        });
        (lives, asked)
    }

    fn ask(watch: &mut LivenessWatch) -> (bool, Option<u32>) {
        ask_of(watch, &STOPPED)
    }

    /// The beat at which a process that never answers after the first ping is killed. `beat`
    /// returns its state and its processor time in each beat.
    fn condemned(beats: u32, beat: impl Fn(u32) -> (ProcessState, Duration)) -> Option<u32> {
        let (mut watch, mut used) = (LivenessWatch::default(), Duration::from_secs(1000));
        ask_of(&mut watch, &Seen(ProcessState::Waiting, used));
        (1..=beats).find(|n| {
            let (state, ran) = beat(*n);
            used += ran;
            !ask_of(&mut watch, &Seen(state, used)).0
        })
    }

    #[test]
    fn the_longest_hang_is_shorter_than_five_seconds() {
        // The beat before it stops, the missed beats, and half a second of delay.
        assert!(INTERVAL * (4 + 1) + Duration::from_millis(500) <= Duration::from_secs(5));
        let tick = Duration::from_micros(1);
        assert_eq!(condemned(9, |_| (ProcessState::Stopped, Duration::ZERO)), Some(4));
        assert_eq!(
            condemned(9, |_| (ProcessState::Stopped, tick)),
            Some(4),
            "who is stopped may have run before"
        );
        assert_eq!(
            condemned(9, |_| (ProcessState::Waiting, Duration::ZERO)),
            Some(4),
            "in a system call, or a lock"
        );
        let blocks =
            |n: u32| (ProcessState::Waiting, if n == 1 { INTERVAL / 2 } else { Duration::ZERO });
        assert_eq!(condemned(9, blocks), Some(4), "after it had worked for a while");
        assert_eq!(
            condemned(9, |_| (ProcessState::Blocked, Duration::ZERO)),
            Some(4),
            "for a disk that never answers"
        );
        assert_eq!(
            condemned(9, |_| (ProcessState::Waiting, tick)),
            Some(4),
            "an endless loop with a short sleep in it"
        );
        assert_eq!(
            condemned(9, |_| (ProcessState::Runnable, INTERVAL)),
            Some(4),
            "an endless loop"
        );
        assert_eq!(
            condemned(9, |_| (ProcessState::Runnable, INTERVAL * 4 / 5)),
            Some(4),
            "an endless loop among others"
        );
    }

    #[test]
    fn who_gets_no_processor_is_not_judged_and_who_gets_little_has_longer() {
        assert_eq!(
            condemned(100_000, |_| (ProcessState::Runnable, Duration::ZERO)),
            None,
            "a quota, or a frozen group"
        );
        // A sixty-fourth of a tenth of a processor.
        let share = INTERVAL / 640;
        let beats = condemned(100_000, |_| (ProcessState::Runnable, share)).unwrap();
        assert_eq!(beats, (MOST_SILENCE.as_nanos().div_ceil(share.as_nanos())) as u32);
        // A process that is swapped out or has a slow disk: it waits at each beat, but ran before.
        let slow = |_| (ProcessState::Blocked, Duration::from_millis(1));
        assert_eq!(condemned(100, slow), Some(10));
        assert_eq!(
            condemned(100, |_| (ProcessState::Unknown, Duration::ZERO)),
            Some(13),
            "without /proc"
        );
        assert_eq!(condemned(100, |_| (ProcessState::Unknown, INTERVAL)), Some(4), "without /proc");
    }

    #[test]
    fn a_pause_of_the_supervisor_is_one_beat_however_long_the_process_ran_in_it() {
        let pause = |n: u32| {
            (ProcessState::Runnable, if n == 1 { INTERVAL * 1000 } else { Duration::ZERO })
        };
        assert_eq!(condemned(1000, pause), None);
    }

    proptest! {
        #[test]
        fn who_works_is_never_condemned_however_the_machine_shares_its_time(
            needs in 1..2_000_u64,
            shares in prop::collection::vec(0..=900_u64, 1..400),
        ) {
            // Each answer takes `needs` ms of processor time, and the machine gives a share of each
            // beat.
            let (mut watch, mut used, mut owed) = (LivenessWatch::default(), Duration::ZERO, 0);
            for share in shares {
                let (lives, asked) = ask_of(&mut watch, &Seen(ProcessState::Runnable, used));
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
            let states = [
                ProcessState::Runnable,
                ProcessState::Waiting,
                ProcessState::Blocked,
                ProcessState::Stopped,
                ProcessState::Unknown,
            ];
            let state = |n| states[usize::from(n)];
            let end = condemned(trace.len() as u32, |n| {
                let (state_of, ran) = trace[n as usize - 1];
                (state(state_of), Duration::from_millis(ran))
            });
            let lived = &trace[..end.map_or(trace.len(), |end| end as usize - 1)];
            let runnable = lived.iter().filter(|(state, _)| *state == 0);
            let looped: u64 = runnable.map(|(_, ran)| ran).sum();
            let idle = lived.iter().filter(|(state, _)| *state != 0).count() as u64;
            prop_assert!(Duration::from_millis(looped + 225 * idle) < MOST_SILENCE, "{end:?} of \
                {lived:?}");
        }
    }

    #[test]
    fn who_answers_lives_and_who_does_not_has_five_beats() {
        let mut watch = LivenessWatch::default();
        for round in 1..100 {
            assert_eq!(ask(&mut watch), (true, Some(round)));
            watch.answered(round);
        }
        assert_eq!(ask(&mut watch), (true, Some(100)));
        // An answer to an old ping, or to one that was never sent.
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
            let mut watch = LivenessWatch::new(grace);
            beats.push((1..100).find(|_| !watch.beat_while_starting(&STOPPED)).unwrap());
            grace = grace.after(false);
        }
        assert_eq!(beats, [5, 9, 17, MOST_OF_START + 1, MOST_OF_START + 1]);
        assert_eq!(grace.after(true), replacement);
    }

    #[test]
    fn a_late_answer_is_as_good() {
        let mut watch = LivenessWatch::default();
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
        let mut watch = LivenessWatch::default();
        assert!(watch.beat(&STOPPED, |_| false));
        watch.answered(1);
        assert!(watch.beat(&STOPPED, |_| false));
        assert_eq!(ask(&mut watch), (true, Some(1)));
        assert!(ask(&mut watch).0);
        assert!(!ask(&mut watch).0);
    }

    #[test]
    fn who_could_not_be_heard_is_not_judged() {
        let mut watch = LivenessWatch::default();
        for _ in 0..20 {
            assert!(ask(&mut watch).0);
            watch.reset();
        }
    }

    #[test]
    fn a_start_may_take_its_time_and_is_forgotten_once_it_is_over() {
        let mut watch = LivenessWatch::default();
        assert!((1..MOST_OF_START).all(|_| watch.beat_while_starting(&STOPPED)));
        watch.reset();
        assert!((1..=4).all(|_| ask(&mut watch).0));
        assert!(
            !(0..MOST_OF_START).all(|_| LivenessWatch::default().beat_while_starting(&STOPPED)
                && watch.beat_while_starting(&STOPPED))
        );
    }

    #[test]
    fn a_long_pause_of_the_supervisor_is_one_beat() {
        let (mut beat, start) = (Beat::default(), Instant::now());
        assert!(beat.take_due(start) && !beat.take_due(start + INTERVAL / 2));
        assert!(beat.take_due(start + INTERVAL));
        let later = start + 1000 * INTERVAL;
        assert!(beat.take_due(later) && !beat.take_due(later));
        assert_eq!(beat.due(), later + INTERVAL);
    }
}
