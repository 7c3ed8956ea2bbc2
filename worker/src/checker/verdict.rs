//! How results of checks become a verdict: so many failures in a row, or successes. Pure.

use pen_ipc::checks::{CheckState, Verdict};

/// What a result did to the verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// The state stays.
    None,
    /// The server is up now.
    Up,
    /// The server is down now.
    Down,
}

/// The outcome of a check that counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The server answered as it should.
    Success,
    /// It did not.
    Failure,
}

/// How many results in a row change a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Successes until a server is up.
    pub rise: u16,
    /// Failures until it is down.
    pub fall: u16,
}

/// The verdict after a result. A server of which nothing is known needs as many results in a row as
/// any other.
pub fn judge(verdict: Verdict, outcome: Outcome, limits: Limits) -> (Verdict, Change) {
    let agrees = match (verdict.state, outcome) {
        (CheckState::Up, Outcome::Success) | (CheckState::Down, Outcome::Failure) => true,
        (CheckState::Up, Outcome::Failure) | (CheckState::Down, Outcome::Success) => false,
        (CheckState::Unknown, Outcome::Success | Outcome::Failure) => false,
    };
    if agrees {
        return (Verdict { streak: 0, ..verdict }, Change::None);
    }
    // The sign is the outcome; the other outcome begins a streak anew.
    let streak = match outcome {
        Outcome::Success => verdict.streak.max(0).saturating_add(1),
        Outcome::Failure => verdict.streak.min(0).saturating_sub(1),
    };
    let (state, needed, change) = match outcome {
        Outcome::Success => (CheckState::Up, limits.rise, Change::Up),
        Outcome::Failure => (CheckState::Down, limits.fall, Change::Down),
    };
    if streak.unsigned_abs() >= needed {
        (Verdict { state, streak: 0 }, change)
    } else {
        (Verdict { streak, ..verdict }, Change::None)
    }
}

/// Whether the next result may decide: then checks come twice as often.
pub fn is_in_question(verdict: Verdict) -> bool {
    match verdict.state {
        CheckState::Unknown => true,
        CheckState::Up | CheckState::Down => verdict.streak != 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { rise: 2, fall: 3 };

    /// The state after each of the results: + is a success, - a failure.
    fn states(from: CheckState, results: &str) -> String {
        let mut verdict = Verdict { state: from, streak: 0 };
        let mut states = String::new();
        for result in results.chars() {
            let outcome = if result == '+' { Outcome::Success } else { Outcome::Failure };
            let (after, change) = judge(verdict, outcome, LIMITS);
            let changed = match change {
                Change::None => verdict.state,
                Change::Up => CheckState::Up,
                Change::Down => CheckState::Down,
            };
            assert_eq!(after.state, changed);
            assert!(change == Change::None || (after.streak == 0 && after.state != verdict.state));
            verdict = after;
            states.push(match verdict.state {
                CheckState::Unknown => '?',
                CheckState::Up => 'u',
                CheckState::Down => 'd',
            });
        }
        states
    }

    #[test]
    fn only_results_in_a_row_change_the_state() {
        for (from, results, expected) in [
            (CheckState::Unknown, "++", "?u"),
            (CheckState::Unknown, "---", "??d"),
            (CheckState::Unknown, "+-+--+--+-+", "???????????"),
            (CheckState::Unknown, "--++", "???u"),
            (CheckState::Up, "--+--+---", "uuuuuuuud"),
            (CheckState::Down, "+-+-++", "dddddu"),
            (CheckState::Down, "---++---", "dddduuud"),
        ] {
            assert_eq!(states(from, results), expected, "{results}");
        }
    }

    proptest! {
        #[test]
        fn a_state_is_what_the_last_results_in_a_row_say(
            results in prop::collection::vec(any::<bool>(), 1..60),
            rise in 1_u16..=100, fall in 1_u16..=100,
            state in prop::sample::select(vec![
                CheckState::Unknown, CheckState::Up, CheckState::Down,
            ]),
        ) {
            let mut verdict = Verdict { state, streak: 0 };
            // The plain rule: the last time that enough of a kind came in a row.
            let (mut plain, mut run, mut last) = (state, 0_u16, None);
            for success in results {
                let outcome = if success { Outcome::Success } else { Outcome::Failure };
                verdict = judge(verdict, outcome, Limits { rise, fall }).0;
                run = if last == Some(success) { run + 1 } else { 1 };
                last = Some(success);
                match success {
                    true if run >= rise => plain = CheckState::Up,
                    false if run >= fall => plain = CheckState::Down,
                    true | false => {}
                }
                prop_assert_eq!(verdict.state, plain);
                let limit = if verdict.streak > 0 { rise } else { fall };
                prop_assert!(verdict.streak.unsigned_abs() < limit);
            }
        }

        #[test]
        fn any_verdict_is_judged(streak in any::<i16>(), rise in any::<u16>(), ok in any::<bool>()) {
            for state in [CheckState::Unknown, CheckState::Up, CheckState::Down] {
                let outcome = if ok { Outcome::Success } else { Outcome::Failure };
                judge(Verdict { state, streak }, outcome, Limits { rise, fall: rise });
            }
        }
    }
}
