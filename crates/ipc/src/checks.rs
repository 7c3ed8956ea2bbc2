//! What the checker and the supervisor say about servers: results of checks, verdicts, and why a
//! check failed. The class and number of a fault are also a code for the shared table, so that a
//! worker can tell why a server is down.
//!
//! Pure. The checker is less trusted than the supervisor, which asks [`CheckFault::is_proper`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most checks under way at a time.
pub const MOST_UNDER_WAY: usize = 200;

/// Most bytes of the text of a fault.
pub const LONGEST_FAULT: usize = 200;

/// The kind of a fault. The table has it as a number, and old workers read it: new ones are added
/// at the end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum FaultClass {
    /// The connect was refused.
    Refused,
    /// The address cannot be reached.
    Unreachable,
    /// The server reset the connection.
    Reset,
    /// The check was not over in time.
    Timeout,
    /// The server closed the connection before its answer was whole.
    Closed,
    /// The TLS handshake failed.
    Tls,
    /// The HTTP status is not within the range; the number is the status.
    Status,
    /// The server answered with an error; the number is its code.
    Code,
    /// The answer is not the expected one.
    Unexpected,
    /// The answer is too long.
    TooLong,
    /// The server does not have the role.
    Role,
    /// Anything else.
    Other,
}

impl FaultClass {
    /// All classes; the position of each plus one is its number.
    const ALL: [FaultClass; 12] = [
        FaultClass::Refused,
        FaultClass::Unreachable,
        FaultClass::Reset,
        FaultClass::Timeout,
        FaultClass::Closed,
        FaultClass::Tls,
        FaultClass::Status,
        FaultClass::Code,
        FaultClass::Unexpected,
        FaultClass::TooLong,
        FaultClass::Role,
        FaultClass::Other,
    ];

    /// Its number; never 0.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// The class of a number. An unknown number, as another release may have written it, is
    /// [`FaultClass::Other`].
    pub fn from_number(number: u8) -> FaultClass {
        let position = usize::from(number).checked_sub(1);
        position
            .and_then(|position| FaultClass::ALL.get(position))
            .copied()
            .unwrap_or(FaultClass::Other)
    }

    /// What a fault of this class with this number is called.
    fn words(self, number: u16) -> String {
        match self {
            FaultClass::Refused => "refused".into(),
            FaultClass::Unreachable => "unreachable".into(),
            FaultClass::Reset => "reset".into(),
            FaultClass::Timeout => "timeout".into(),
            FaultClass::Closed => "closed".into(),
            FaultClass::Tls => "TLS handshake".into(),
            FaultClass::Status => format!("status {number}"),
            FaultClass::Code => format!("error {number}"),
            FaultClass::Unexpected => "unexpected answer".into(),
            FaultClass::TooLong => "answer too long".into(),
            FaultClass::Role => "wrong role".into(),
            FaultClass::Other => "failed".into(),
        }
    }
}

/// Why a check failed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CheckFault {
    /// Its kind.
    pub class: FaultClass,
    /// The number that belongs to the kind, or 0.
    pub number: u16,
    /// The reason as reports show it; at most [`LONGEST_FAULT`] printable ASCII characters.
    pub text: String,
}

impl CheckFault {
    /// A fault whose words follow from its class.
    pub fn of(class: FaultClass) -> CheckFault {
        CheckFault::numbered(class, 0)
    }

    /// A fault whose words follow from its class and number.
    pub fn numbered(class: FaultClass, number: u16) -> CheckFault {
        CheckFault { class, number, text: class.words(number) }
    }

    /// A fault with words of its own. What is not printable in them becomes a question mark, and
    /// the end of a long text is left out.
    pub fn told(class: FaultClass, number: u16, text: &str) -> CheckFault {
        let printable = |letter| if is_printable(letter) { letter } else { '?' };
        CheckFault {
            class,
            number,
            text: text.chars().take(LONGEST_FAULT).map(printable).collect(),
        }
    }

    /// Whether the text is one that may be shown. Ask it of a fault from a less trusted process.
    pub fn is_proper(&self) -> bool {
        !self.text.is_empty()
            && self.text.len() <= LONGEST_FAULT
            && self.text.chars().all(is_printable)
    }

    /// Class and number in 24 bits, for the shared table; never 0.
    pub fn code(&self) -> u32 {
        u32::from(self.class.number()) << 16 | u32::from(self.number)
    }
}

impl fmt::Display for CheckFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The words for a code of the shared table ([`CheckFault::code`]). Every number has some.
pub fn words_of(code: u32) -> String {
    let [_, class, high, low] = code.to_be_bytes();
    FaultClass::from_number(class).words(u16::from_be_bytes([high, low]))
}

/// Whether reports may show a letter.
fn is_printable(letter: char) -> bool {
    letter == ' ' || letter.is_ascii_graphic()
}

/// What checks say of a server.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum CheckState {
    /// Too few checks yet.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// What checks say of a server, and what speaks against it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The state.
    pub state: CheckState,
    /// The latest results in a row that speak against the state: successes if above 0, failures if
    /// below. A state that is unknown has both kinds against it, so the sign is needed.
    pub streak: i16,
}

/// The result of a check of a server.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The server's code ([`pen_config::ids::Target::code`]).
    pub server: i32,
    /// The generation of the settings that asked for the check.
    pub generation: u64,
    /// When it began, in milliseconds of the monotonic clock.
    pub began: u64,
    /// How long it took, in microseconds.
    pub micros: u32,
    /// The verdict, with this result.
    pub verdict: Verdict,
    /// Why the check failed; `None`: it succeeded.
    pub fault: Option<CheckFault>,
}

/// What a new checker is told of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Seed {
    /// The server's code.
    pub server: i32,
    /// The position of the address in use among the server's addresses.
    pub position: u32,
    /// The verdict so far.
    pub verdict: Verdict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_their_numbers() {
        for (position, class) in FaultClass::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(class.number()), position + 1);
            assert_eq!(FaultClass::from_number(class.number()), class);
        }
        // Written by programs of other releases.
        for (class, number) in
            [(FaultClass::Refused, 1), (FaultClass::Status, 7), (FaultClass::Other, 12)]
        {
            assert_eq!(class.number(), number);
        }
        for unknown in [0, 13, 255] {
            assert_eq!(FaultClass::from_number(unknown), FaultClass::Other);
        }
    }

    #[test]
    fn a_code_has_the_words_of_its_fault() {
        for (fault, words) in [
            (CheckFault::numbered(FaultClass::Status, 503), "status 503"),
            (CheckFault::numbered(FaultClass::Code, 1045), "error 1045"),
            (CheckFault::of(FaultClass::Timeout), "timeout"),
            (CheckFault::told(FaultClass::Role, 0, "role slave, not master"), "wrong role"),
        ] {
            assert_eq!(words_of(fault.code()), words);
            assert!(fault.code() != 0 && fault.code() < 1 << 24);
        }
        assert_eq!(words_of(0), "failed");
        assert_eq!(words_of(u32::MAX), "failed");
    }

    #[test]
    fn a_text_is_short_and_printable() {
        let fault = CheckFault::told(FaultClass::Unexpected, 0, &"\u{1b}\n\u{e9}x".repeat(100));
        assert_eq!(fault.text.len(), LONGEST_FAULT);
        assert!(fault.text.starts_with("???x") && fault.is_proper());
        for text in [String::new(), "a\nb".into(), "\u{e9}".into(), "x".repeat(201)] {
            assert!(!CheckFault { class: FaultClass::Other, number: 0, text }.is_proper());
        }
    }
}
