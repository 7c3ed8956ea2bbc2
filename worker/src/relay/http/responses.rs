//! Assigns answers to requests: which requests have no answer yet, and where the server is in its
//! answers.
//!
//! This tells whether the server agreed to a change of protocol, and whether answers are missing.
//! No answer is altered or delayed. If the answers cannot be followed, they are *lost*: from then
//! on no change of protocol is possible.

use std::collections::VecDeque;

use crate::relay::http::body::Body;
use crate::relay::http::field;
use crate::relay::http::head;
use crate::relay::http::request::Asks;

/// Most runs of equal requests that are kept. More come only from a hostile client that does not
/// wait for answers.
const RUNS: usize = 1024;

/// The open requests, and the position in the answers.
#[derive(Debug, Default)]
pub struct OpenRequests {
    /// Requests without an answer, the oldest first, as runs of equal ones.
    open: VecDeque<(Asks, u32)>,
    at: AnswerPosition,
    /// The start of an incomplete head.
    held: Vec<u8>,
    /// How many of its bytes were examined.
    seen: usize,
    /// The protocols of the last request for a switch, joined by commas.
    protocols: Box<str>,
    /// The server's answer to the last request for a switch.
    verdict: Option<AnswerVerdict>,
    /// A part of an answer to the oldest request has come.
    begun: bool,
}

/// The server's answer to a request for another protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnswerVerdict {
    /// It continues with HTTP.
    Stays,
    /// It switches to the other protocol.
    Switched,
    /// The answer cannot be understood, so the connection ends.
    Unclear,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum AnswerPosition {
    /// In a head, or before one.
    #[default]
    Head,
    /// In a body.
    Body(Body),
    /// In a body that ends with the connection.
    UntilEnd,
    /// Unknown: the answers cannot be followed.
    Lost,
    /// After a change of protocol.
    Switched,
    /// After a change of protocol that was not asked for or is not understood: no data passes.
    Broken,
}

impl OpenRequests {
    /// Whether an answer to a request of this kind could be told from others.
    pub fn has_room(&self, asks: Asks) -> bool {
        self.open.len() < RUNS
            || self.open.back().is_some_and(|(kind, count)| *kind == asks && *count < u32::MAX)
    }

    /// Whether a change of protocol would be noticed.
    pub fn is_followed(&self) -> bool {
        matches!(self.at, AnswerPosition::Head | AnswerPosition::Body(_))
    }

    /// Notes a request to the server, and the protocols that it asks for, if any.
    pub fn request(&mut self, asks: Asks, protocols: Box<str>) {
        (self.verdict, self.protocols) = (None, protocols);
        if !self.is_followed() {
            return;
        }
        match self.open.back_mut() {
            Some((kind, count)) if *kind == asks && *count < u32::MAX => *count += 1,
            _ => self.open.push_back((asks, 1)),
        }
    }

    /// The server's answer to the last request for a switch; none: it has not come yet.
    pub fn verdict(&self) -> Option<AnswerVerdict> {
        self.verdict.or(match self.at {
            AnswerPosition::Head | AnswerPosition::Body(_) => None,
            AnswerPosition::UntilEnd => Some(AnswerVerdict::Stays),
            AnswerPosition::Lost | AnswerPosition::Switched | AnswerPosition::Broken => {
                Some(AnswerVerdict::Unclear)
            }
        })
    }

    /// Follows the server's next bytes. Returns how many of them are for the client: all, unless a
    /// change of protocol is not understood.
    pub fn answer(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = bytes.len() - rest.len();
            match &mut self.at {
                AnswerPosition::UntilEnd | AnswerPosition::Lost | AnswerPosition::Switched => break,
                AnswerPosition::Broken => return before,
                AnswerPosition::Head => {
                    rest = self.head(rest);
                    if self.at == AnswerPosition::Broken {
                        return before;
                    }
                }
                AnswerPosition::Body(body) => match body.follow(rest) {
                    Ok(taken) => {
                        rest = &rest[taken..];
                        self.after_body();
                    }
                    Err(_) => self.lose(),
                },
            }
        }
        bytes.len()
    }

    /// Whether a change of protocol is not understood: the connection must end.
    pub fn is_broken(&self) -> bool {
        self.at == AnswerPosition::Broken
    }

    /// How many of the server's bytes may pass unseen.
    pub fn unseen(&self) -> u64 {
        match &self.at {
            AnswerPosition::UntilEnd | AnswerPosition::Lost | AnswerPosition::Switched => u64::MAX,
            AnswerPosition::Body(body) => body.certain(),
            AnswerPosition::Head | AnswerPosition::Broken => 0,
        }
    }

    /// Notes that this many bytes passed unseen.
    pub fn skip(&mut self, bytes: u64) {
        if let AnswerPosition::Body(body) = &mut self.at {
            body.skip(bytes);
            self.after_body();
        }
    }

    fn after_body(&mut self) {
        if matches!(&self.at, AnswerPosition::Body(body) if body.is_over()) {
            self.at = AnswerPosition::Head;
        }
    }

    /// Takes the bytes that belong to a head, and returns the rest.
    fn head<'i>(&mut self, input: &'i [u8]) -> &'i [u8] {
        if self.open.is_empty() {
            self.lose();
            return &[];
        }
        self.begun = true;
        if self.held.is_empty()
            && let Some(length) = head::end(input, 0)
        {
            self.whole_head(&input[..length]);
            return &input[length..];
        }
        let before = self.held.len();
        let taken = input.len().min(head::LIMIT + 1 - before);
        self.held.extend(&input[..taken]);
        let Some(length) = head::end(&self.held, self.seen) else {
            self.seen = self.held.len();
            let is_answer = self.held.iter().zip(b"HTTP/1.").all(|(found, wanted)| found == wanted);
            if !is_answer || self.held.len() > head::LIMIT {
                self.lose();
            }
            return &input[taken..];
        };
        let held = std::mem::take(&mut self.held);
        self.seen = 0;
        self.whole_head(&held[..length]);
        &input[length - before..]
    }

    fn whole_head(&mut self, bytes: &[u8]) {
        let Some(answer) = head::answer(bytes) else { return self.lose() };
        if matches!(answer.status, 100 | 102..=199) {
            // An interim answer; the final one follows.
            self.begun = false;
            return;
        }
        let Some(asks) = self.answered() else { return self.lose() };
        self.begun = false;
        if answer.status == 101 {
            return self.switched(
                asks == Asks::Upgrade && self.open.is_empty() && self.was_asked(&answer.protocols),
            );
        }
        // The answer that begins a tunnel has no length (RFC 9110, 9.3.6). A server that treats
        // CONNECT as any other method sends a length, or says that there is no content, and
        // continues with requests.
        let is_tunnel = matches!(answer.status, 200..=203 | 206..=299) && answer.body.is_none();
        if asks == Asks::Tunnel && is_tunnel {
            return self.switched(self.open.is_empty());
        }
        if self.open.is_empty() {
            self.verdict = Some(AnswerVerdict::Stays);
        }
        let is_bare = asks == Asks::Head || matches!(answer.status, 204 | 304);
        match answer.body {
            _ if is_bare => {}
            Some(body) => {
                self.at = AnswerPosition::Body(body);
                self.after_body();
            }
            // The body ends with the connection, so no more answers come.
            None => self.leave(AnswerPosition::UntilEnd),
        }
    }

    /// Notes that the server has changed the protocol, to a requested one or to an unknown one.
    fn switched(&mut self, is_understood: bool) {
        self.verdict =
            Some(if is_understood { AnswerVerdict::Switched } else { AnswerVerdict::Unclear });
        self.leave(if is_understood { AnswerPosition::Switched } else { AnswerPosition::Broken });
    }

    /// Whether these protocols, joined by commas, are among those of the last request. An answer
    /// that names none means the requested ones: a protocol that carries HTTP is never requested.
    fn was_asked(&self, protocols: &str) -> bool {
        protocols.split(',').filter(|name| !name.is_empty()).all(|name| {
            !field::carries_http(name)
                && self
                    .protocols
                    .split(',')
                    .any(|asked| field::base(asked).eq_ignore_ascii_case(field::base(name)))
        })
    }

    /// Removes the oldest request.
    fn answered(&mut self) -> Option<Asks> {
        let (asks, count) = self.open.front_mut()?;
        let asks = *asks;
        *count -= 1;
        if *count == 0 {
            self.open.pop_front();
        }
        Some(asks)
    }

    /// Whether it is certain that no answer is missing.
    pub fn is_answered(&self) -> bool {
        self.at == AnswerPosition::Head && self.open.is_empty() && self.held.is_empty()
    }

    /// Whether no part of an answer to the last request has come, and all others are answered.
    pub fn owes_last_only(&self) -> bool {
        let is_last =
            self.open.len() == 1 && self.open.front().is_some_and(|(_, count)| *count == 1);
        self.at == AnswerPosition::Head && is_last && !self.begun
    }

    /// Notes that no more answers come.
    pub fn end(&mut self) {
        if self.is_followed() {
            self.leave(AnswerPosition::UntilEnd);
        }
    }

    /// Notes that the answers cannot be followed any more.
    fn lose(&mut self) {
        if self.is_followed() {
            self.leave(AnswerPosition::Lost);
        }
    }

    /// Makes the connection end.
    pub fn break_off(&mut self) {
        self.leave(AnswerPosition::Broken);
    }

    fn leave(&mut self, at: AnswerPosition) {
        self.at = at;
        self.open = VecDeque::new();
        self.held = Vec::new();
    }
}
