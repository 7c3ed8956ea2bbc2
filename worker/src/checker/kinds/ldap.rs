//! `ldap`: an anonymous bind, then unbind (RFC 4511). The answer is BER; only its frame and its
//! result code are read.

use pen_ipc::checks::{CheckFault, FaultClass};

use super::dialogue::{Dialogue, Farewell, Reading, Step, unexpected};

/// Message 1: BindRequest of version 3 with no name and an empty simple password.
const BIND: [u8; 14] = [0x30, 0x0c, 2, 1, 1, 0x60, 7, 2, 1, 3, 4, 0, 0x80, 0];
/// Message 2: UnbindRequest.
const UNBIND: [u8; 7] = [0x30, 5, 2, 1, 2, 0x42, 0];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
const BIND_RESPONSE: u8 = 0x61;
/// Also the notice of disconnection, with which a server says why it closes.
const EXTENDED_RESPONSE: u8 = 0x78;

/// Most bytes of an answer.
const LONGEST: usize = 16 << 10;

/// The dialogue.
pub(super) struct Ldap;

impl Dialogue for Ldap {
    fn begin(&mut self) -> Step {
        Step::Send(BIND.to_vec())
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        let not_ldap = || Reading::Fail(unexpected("an LDAP answer", input));
        match element(input) {
            Element::Partial if input.first().is_none_or(|tag| *tag == SEQUENCE) => Reading::More,
            Element::Whole { tag: SEQUENCE, value, .. } => match result(value) {
                Some((BIND_RESPONSE, 0)) => Reading::Done(Farewell::Close(UNBIND.to_vec())),
                Some((_, code)) if code != 0 => {
                    Reading::Fail(CheckFault::numbered(FaultClass::Code, code))
                }
                Some(_) | None => not_ldap(),
            },
            Element::Partial | Element::Whole { .. } | Element::Invalid => not_ldap(),
        }
    }
}

/// The first element of BER.
enum Element<'i> {
    /// Its beginning.
    Partial,
    Whole {
        tag: u8,
        value: &'i [u8],
        rest: &'i [u8],
    },
    Invalid,
}

/// Reads the first element: a tag of one byte and a definite length (RFC 4511, 5.1).
fn element(input: &[u8]) -> Element<'_> {
    let [tag, first, after @ ..] = input else { return Element::Partial };
    let (length, after) = match first {
        ..0x80 => (usize::from(*first), after),
        // Active Directory writes every length in four bytes.
        0x81..=0x84 => {
            let count = usize::from(first - 0x80);
            let Some((bytes, after)) = after.split_at_checked(count) else {
                return Element::Partial;
            };
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), after)
        }
        0x80 | 0x85.. => return Element::Invalid,
    };
    if length > LONGEST {
        return Element::Invalid;
    }
    match after.split_at_checked(length) {
        Some((value, rest)) => Element::Whole { tag: *tag, value, rest },
        None => Element::Partial,
    }
}

/// The kind of the operation, and its result code: of message 1, or of message 0, which the server
/// sends without a request.
fn result(message: &[u8]) -> Option<(u8, u16)> {
    let Element::Whole { tag: INTEGER, value: [0 | 1], rest } = element(message) else {
        return None;
    };
    let Element::Whole { tag: tag @ (BIND_RESPONSE | EXTENDED_RESPONSE), value, .. } =
        element(rest)
    else {
        return None;
    };
    let Element::Whole { tag: ENUMERATED, value, .. } = element(value) else { return None };
    match value {
        [code] => Some((tag, u16::from(*code))),
        [high, low] => Some((tag, u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}
