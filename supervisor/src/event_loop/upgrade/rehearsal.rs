//! The rehearsal: a child that executes the new program, which then reads the state and says
//! whether it could go on from there. Its code in the new program is in `successor`.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getppid, getuid};
use pen_ipc::channel::Channel;
use pen_ipc::text::error_text;
use serde::{Deserialize, Serialize};

use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::handover::TableTransfer;
use crate::handover::descriptors::Number;
use crate::handover::memory;
#[cfg(doc)]
use crate::handover::state::CarriedExport;
use crate::helpers::helper::{Helper, HelperFailure, NoQuestion};
use crate::limits::why_within_limits;
use crate::log::printable::printable;
use crate::processes::child::Child;
use crate::sys::inherited::{Inheritance, set_inheritance};
use crate::sys::program::{self, Program};

/// The answer of a rehearsal. Other releases read it: variants are only appended, and none changes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum RehearsalAnswer {
    /// The program could go on.
    Able {
        /// Its version.
        version: String,
    },
    /// It could not.
    Unable {
        /// One line: why.
        reason: String,
    },
    /// The program could go on with a table of its own, because its tables have another layout. So
    /// the content of the present one must be written down for it ([`CarriedExport`]).
    AbleWithOwnTable {
        /// Its version.
        version: String,
    },
}

/// The option with which the new program is executed. A program that does not know it ends.
pub(crate) const REHEARSE: &str = "--rehearse";

/// A rehearsal that is under way or over.
#[derive(Debug)]
pub(in crate::event_loop) struct Rehearsal {
    helper: Helper<RehearsalAnswer>,
}

/// The result of a rehearsal.
#[derive(Debug)]
pub(in crate::event_loop) enum Verdict {
    /// The other program could go on.
    Able {
        /// Its version.
        version: String,
        /// What it does with the table.
        table: TableTransfer,
    },
    /// It could not: why.
    Unable(String),
}

impl Rehearsal {
    /// The verdict; none: not known yet.
    pub(in crate::event_loop) fn verdict(&self, now: Instant) -> Option<Verdict> {
        Some(match self.helper.read(now)? {
            Ok((RehearsalAnswer::Able { version }, _)) => {
                Verdict::Able { version: printable(&version), table: TableTransfer::Adopted }
            }
            Ok((RehearsalAnswer::AbleWithOwnTable { version }, _)) => {
                Verdict::Able { version: printable(&version), table: TableTransfer::Copied }
            }
            Ok((RehearsalAnswer::Unable { reason }, _)) => Verdict::Unable(printable(&reason)),
            Err(HelperFailure::Late) => Verdict::Unable(format!(
                "the new program gave no answer in its rehearsal for {} s",
                PATIENCE.as_secs()
            )),
            Err(HelperFailure::Ended) => Verdict::Unable(
                "the new program ended in its rehearsal without an answer: it is broken, no pen, \
                 or one that cannot take over; it needs a restart"
                    .into(),
            ),
        })
    }

    /// The descriptor to poll for reading.
    pub(in crate::event_loop) fn descriptor(&self) -> BorrowedFd<'_> {
        self.helper.descriptor()
    }

    /// When to ask for the verdict at the latest.
    pub(in crate::event_loop) fn deadline(&self) -> Instant {
        self.helper.deadline()
    }

    /// Whether its child has ended.
    pub(in crate::event_loop) fn has_ended(&self) -> bool {
        self.helper.has_ended()
    }

    /// Kills the child and returns it.
    pub(in crate::event_loop) fn kill(self) -> Child {
        self.helper.kill()
    }
}

impl Supervisor {
    /// Executes the new program in a child, with the present state.
    pub(in crate::event_loop::upgrade) fn rehearse(
        &self,
        by: Requester,
        now: Instant,
    ) -> Result<Rehearsal, String> {
        let state = self.save(by);
        let numbers = state.descriptors.clone();
        let state = memory::write(&state, self.build.format)
            .map_err(|error| format!("the state cannot be written: {}", error_text(&error)))?;
        let program = self.state.argv.first().cloned().unwrap_or_default();
        // The child keeps the user of the supervisor.
        let helper = Helper::begin(getuid(), now + PATIENCE, |channel, supervisor| {
            // It has the descriptors of the supervisor, and must not outlive it.
            if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != supervisor {
                return 1;
            }
            let error = execute(&program, &state, &numbers, channel);
            let reason = format!("the new program cannot be executed: {}", error_text(&error));
            let _ = channel.send(&RehearsalAnswer::Unable { reason }, None);
            1
        });
        helper
            .map(|helper| Rehearsal { helper })
            .map_err(|error| format!("no rehearsal is possible: {}", why_within_limits(&error)))
    }
}

/// Runs in the child; returns only if the program cannot be executed.
fn execute(
    program: &[u8],
    state: &OwnedFd,
    numbers: &[Number],
    channel: &Channel<RehearsalAnswer, NoQuestion>,
) -> io::Error {
    let prepare = || -> io::Result<Vec<CString>> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        // Its answer goes over the channel. A program that is no pen must not write anywhere.
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        let own = [state.as_raw_fd(), channel.as_fd().as_raw_fd()];
        for number in numbers.iter().map(|number| number.0).chain(own) {
            set_inheritance(number, Inheritance::Passes)?;
        }
        let words = [REHEARSE.to_owned(), own[0].to_string(), own[1].to_string()];
        let program = CString::new(program).unwrap_or_default();
        Ok([program]
            .into_iter()
            .chain(words.into_iter().filter_map(|word| CString::new(word).ok()))
            .collect())
    };
    match prepare() {
        Ok(arguments) => {
            program::execute(Program::Successor, &arguments, &super::execute::environment(None))
        }
        Err(error) => error,
    }
}

/// How long a rehearsal may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_keep_their_bytes() {
        let bytes = |answer: &RehearsalAnswer| {
            let mut buffer = [0; 64];
            let length = pen_ipc::codec::encode(answer, &mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        assert_eq!(bytes(&RehearsalAnswer::Able { version: "1.2".into() }), b"\x00\x031.2");
        assert_eq!(bytes(&RehearsalAnswer::Unable { reason: "no".into() }), b"\x01\x02no");
        let answer = RehearsalAnswer::AbleWithOwnTable { version: "1.2".into() };
        assert_eq!(bytes(&answer), b"\x02\x031.2");
    }
}
