//! `smtp`: the greeting, EHLO, QUIT (RFC 5321).

use pen_ipc::checks::{CheckFault, FaultClass};

use super::dialogue::{Dialogue, Farewell, Reading, Step, line, unexpected, unfinished};

/// The dialogue.
pub(super) struct Smtp {
    /// Our name in EHLO.
    name: String,
    awaits: Awaits,
}

/// The reply that comes next.
#[derive(Clone, Copy)]
enum Awaits {
    Greeting,
    Capabilities,
}

impl Awaits {
    /// The code of the reply, and its name.
    fn expected(self) -> (u16, &'static str) {
        match self {
            Awaits::Greeting => (220, "an SMTP greeting"),
            Awaits::Capabilities => (250, "a reply to EHLO"),
        }
    }
}

impl Smtp {
    pub(super) fn new(name: &str) -> Smtp {
        Smtp { name: name.into(), awaits: Awaits::Greeting }
    }
}

impl Dialogue for Smtp {
    fn begin(&mut self) -> Step {
        Step::Await
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        let (expected, name) = self.awaits.expected();
        // Not at the end of the line only: what is no SMTP may never end one.
        let code = input.get(..3).unwrap_or(input);
        if !code.iter().all(u8::is_ascii_digit) {
            return Reading::Fail(unexpected(name, input));
        }
        let Some((line, length)) = line(input) else { return unfinished(input) };
        let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let (Some(code), None | Some(b' ' | b'-')) = (code, line.get(3)) else {
            return Reading::Fail(unexpected(name, line));
        };
        if line.get(3) == Some(&b'-') {
            return Reading::Take(length);
        }
        if code != expected {
            return Reading::Fail(CheckFault::numbered(FaultClass::Code, code));
        }
        match self.awaits {
            Awaits::Greeting => {
                self.awaits = Awaits::Capabilities;
                Reading::Send(length, format!("EHLO {}\r\n", self.name).into_bytes())
            }
            Awaits::Capabilities => Reading::Done(Farewell::Close(b"QUIT\r\n".to_vec())),
        }
    }
}
