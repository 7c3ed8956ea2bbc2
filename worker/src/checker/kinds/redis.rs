//! `redis`: PING, and for `redis master` also ROLE.

use pen_ipc::checks::{CheckFault, FaultClass};

use super::dialogue::{Dialogue, Farewell, Reading, Step, line, shown, unexpected, unfinished};

/// PING as an array: proxies in front of Redis do not know commands in one line.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";

/// The dialogue.
pub(super) struct Redis {
    wants: Wants,
    awaits: Awaits,
}

/// Which servers are well.
#[derive(Clone, Copy)]
pub(super) enum Wants {
    /// Those that answer.
    Answer,
    /// Masters.
    Master,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Awaits {
    Pong,
    /// The beginning of the answer to ROLE: an array.
    Array,
    /// The length of its first word.
    Length,
    Role,
}

impl Redis {
    pub(super) fn new(wants: Wants) -> Redis {
        Redis { wants, awaits: Awaits::Pong }
    }

    fn pong(&mut self, line: &[u8], length: usize) -> Reading {
        // A server that wants a password answers.
        if line != b"+PONG" && !line.starts_with(b"-NOAUTH") {
            return Reading::Fail(unexpected("\"PONG\"", line));
        }
        match self.wants {
            Wants::Answer => Reading::Done(Farewell::Close(Vec::new())),
            Wants::Master => {
                self.awaits = Awaits::Array;
                Reading::Send(length, ROLE.to_vec())
            }
        }
    }
}

impl Dialogue for Redis {
    fn begin(&mut self) -> Step {
        Step::Send(PING.to_vec())
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        if input.first().is_some_and(|first| !first.is_ascii_graphic()) {
            return Reading::Fail(unexpected("a Redis reply", input));
        }
        let Some((line, length)) = line(input) else { return unfinished(input) };
        match self.awaits {
            Awaits::Pong => self.pong(line, length),
            Awaits::Array if line.starts_with(b"*") => {
                self.awaits = Awaits::Length;
                Reading::Take(length)
            }
            Awaits::Length if line.starts_with(b"$") => {
                self.awaits = Awaits::Role;
                Reading::Take(length)
            }
            Awaits::Array | Awaits::Length => Reading::Fail(unexpected("a role", line)),
            Awaits::Role if line == b"master" => Reading::Done(Farewell::Close(Vec::new())),
            Awaits::Role => {
                let text = format!("expected role \"master\", got {}", shown(line));
                Reading::Fail(CheckFault::told(FaultClass::Role, 0, &text))
            }
        }
    }
}
