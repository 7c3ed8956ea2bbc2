//! The messages between the supervisor and the checker.

use serde::{Deserialize, Serialize};

use crate::checks::CheckResult;

/// Most results in one [`FromChecker::Results`]. With every field at its largest size, the message
/// is below the codec's limit.
pub const RESULTS_PER_MESSAGE: usize = 200;

/// From the checker to the supervisor. It can express no command: whoever takes the process over
/// can lie about servers, and nothing else.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum FromChecker {
    /// The latest results, at most one of each server and at most [`RESULTS_PER_MESSAGE`]. They
    /// come at once if a verdict changed, and otherwise a few times a second.
    Results(Vec<CheckResult>),
    /// The settings of this generation are in force. All results from now on are of its questions.
    Applied {
        /// [`pen_config::settings::Settings::generation`].
        generation: u64,
    },
    /// The same as [`crate::message::LastingFromWorker::Pong`].
    Pong {
        /// The ping that this answers.
        serial: u32,
    },
}

/// From the supervisor to the checker. The first two variants never change: after an upgrade, a
/// checker of another release is told to leave.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ToChecker {
    /// Stop: end the checks under way, exit with status 0.
    Stop,
    /// Another checker works from now on: the same as `Stop`.
    Leave,
    /// New settings, the same as [`crate::message::ToWorker::Settings`].
    Settings,
    /// Check from now on ([`crate::start::Begins::OnOrder`], or after a pause).
    Begin,
    /// Begin no checks for now.
    Pause,
    /// The same as [`crate::message::LastingToWorker::Ping`].
    Ping {
        /// Returned in the answer.
        serial: u32,
    },
    /// Traffic found out that a server fails: check it at once.
    Suspect {
        /// The server's code ([`pen_config::ids::Target::code`]).
        server: i32,
    },
    /// Another address of a server is in use.
    Address {
        /// The server's code.
        server: i32,
        /// The position among the server's addresses.
        position: u32,
    },
    /// The files of TLS towards servers, the same as [`crate::message::ToWorker::ServerTls`].
    ServerTls,
    /// The same as [`crate::message::ToWorker::NoServerTls`].
    NoServerTls,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{CheckFault, CheckState, FaultClass, LONGEST_FAULT, Verdict};
    use crate::codec;

    #[test]
    fn the_longest_results_fit_into_a_message() {
        let text = "x".repeat(LONGEST_FAULT);
        let result = CheckResult {
            server: i32::MIN,
            generation: u64::MAX,
            began: u64::MAX,
            micros: u32::MAX,
            verdict: Verdict { state: CheckState::Down, streak: i16::MIN },
            fault: Some(CheckFault { class: FaultClass::Other, number: u16::MAX, text }),
        };
        let sent = FromChecker::Results(vec![result; RESULTS_PER_MESSAGE]);
        assert_eq!(codec::decode::<FromChecker>(&encoded(&sent)).unwrap(), sent);
    }

    #[test]
    fn the_orders_that_every_release_understands_keep_their_bytes() {
        for (message, bytes) in [(ToChecker::Stop, [0]), (ToChecker::Leave, [1])] {
            assert_eq!(encoded(&message), bytes);
        }
    }

    fn encoded(message: &impl Serialize) -> Vec<u8> {
        let mut buffer = vec![0; codec::LIMIT];
        let length = codec::encode(message, &mut buffer).unwrap();
        buffer[..length].to_vec()
    }
}
