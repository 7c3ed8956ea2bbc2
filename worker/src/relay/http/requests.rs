//! The client's half of an [`Exchange`]: follows requests through heads, bodies and trailers, and
//! rebuilds each head.

use pen_ipc::refusal::Refusal;

use crate::relay::http::line::RequestLine;
use crate::relay::http::request::Asks;
use crate::relay::http::responses::AnswerVerdict;
use crate::relay::http::{Exchange, ExchangeStage, Others, head, request};

/// Most bytes of a request line that are kept for the log: as many as a datagram to penlogd may
/// have.
const LOGGED: usize = 1024;

impl Exchange {
    /// Takes `rest` outside a body that had begun before.
    pub(super) fn go_on(&mut self, mut rest: &[u8], out: &mut Vec<u8>) {
        while !rest.is_empty() {
            match &self.stage {
                ExchangeStage::Passing => {
                    out.extend(rest);
                    return;
                }
                ExchangeStage::Ended | ExchangeStage::Refused { .. } => return,
                ExchangeStage::Asking => {
                    self.held.extend(rest);
                    return;
                }
                ExchangeStage::Head => rest = self.head(rest, out),
                ExchangeStage::Trailers(asks) => rest = self.trailers(rest, *asks, out),
                ExchangeStage::Body(..) => {
                    let taken = self.follow(rest);
                    out.extend(&rest[..taken]);
                    rest = &rest[taken..];
                }
            }
        }
    }

    /// Follows a body through `input`. Returns how many of its bytes belong to the body.
    pub(super) fn follow(&mut self, input: &[u8]) -> usize {
        let ExchangeStage::Body(body, _) = &mut self.stage else { return 0 };
        match body.follow(input) {
            Ok(taken) => {
                self.after_body();
                taken
            }
            Err((taken, why)) => {
                self.refuse(why);
                taken
            }
        }
    }

    pub(super) fn after_body(&mut self) {
        let ExchangeStage::Body(body, asks) = self.stage else { return };
        if body.is_before_trailers() {
            self.stage = ExchangeStage::Trailers(asks);
        } else if body.is_over() {
            self.after_message(asks);
        }
    }

    fn after_message(&mut self, asks: Asks) {
        self.stage = match asks.is_switch() {
            _ if self.ends => ExchangeStage::Ended,
            true => ExchangeStage::Asking,
            false => ExchangeStage::Head,
        };
        self.apply_answer();
    }

    /// Continues if the awaited answer has come.
    pub(super) fn apply_answer(&mut self) {
        if self.stage != ExchangeStage::Asking {
            return;
        }
        match self.asked.verdict() {
            None => {}
            Some(AnswerVerdict::Stays) => self.stage = ExchangeStage::Head,
            Some(AnswerVerdict::Switched) => self.stage = ExchangeStage::Passing,
            Some(AnswerVerdict::Unclear) => {
                self.asked.break_off();
                self.refuse(Refusal::Switch);
            }
        }
    }

    /// Takes the bytes that belong to a head, and returns the rest.
    fn head<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> &'i [u8] {
        if self.held.is_empty() {
            // Empty lines before a request are not part of it (RFC 9112, 2.2), so the server gets
            // none.
            if let Some(empty) = empty_line(input) {
                return &input[empty..];
            }
            if let Some(length) = head::end(input, 0) {
                self.whole_head(&input[..length], out);
                return &input[length..];
            }
        }
        let before = self.held.len();
        let taken = input.len().min(head::LIMIT + 1 - before);
        self.hold(&input[..taken]);
        if let Some(empty) = empty_line(&self.held) {
            // Its CR came alone before.
            self.take_held();
            return &input[empty - before..];
        }
        let Some(length) = head::end(&self.held, self.seen) else {
            self.seen = self.held.len();
            self.unfinished(before, out);
            return &input[taken..];
        };
        let mut held = self.take_held();
        held.truncate(length);
        self.whole_head(&held, out);
        &input[length - before..]
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.begun |= self.held.is_empty();
        self.held.extend(bytes);
    }

    pub(super) fn take_held(&mut self) -> Vec<u8> {
        (self.seen, self.line) = (0, RequestLine::Start);
        std::mem::take(&mut self.held)
    }

    /// Examines an incomplete head, and refuses it as soon as it cannot become valid. The bytes
    /// before `new` were examined before.
    fn unfinished(&mut self, new: usize, out: &mut Vec<u8>) {
        // A CR alone may begin an empty line.
        if self.held == b"\r" {
            return;
        }
        let from = if self.line == RequestLine::Start { 0 } else { new };
        self.line = self.line.follow(&self.held[from..]);
        if let RequestLine::Not(why) = self.line {
            match self.others {
                Others::Pass => self.pass(out),
                Others::Refused => self.refuse(why),
            }
        } else if self.held.len() > head::LIMIT {
            self.refuse(Refusal::TooLong);
        }
    }

    /// Passes the held data and all further data as another protocol.
    pub(super) fn pass(&mut self, out: &mut Vec<u8>) {
        let held = self.take_held();
        self.note_line(&held);
        self.stage = ExchangeStage::Passing;
        out.extend(held);
    }

    /// Rebuilds a complete head and sends it.
    fn whole_head(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let length = out.len();
        let built = match bytes.len() {
            0..=head::LIMIT => request::rebuild(bytes, &self.sender, out),
            _ => Err(Refusal::TooLong),
        };
        match built {
            Ok(request) if request.asks.is_switch() && !self.asked.is_followed() => {
                self.unsend(length, Refusal::Switch, out)
            }
            Ok(request) if !self.asked.has_room(request.asks) => {
                self.unsend(length, Refusal::TooMany, out)
            }
            Ok(request) => {
                self.note_line(bytes);
                self.asked.request(request.asks, request.protocols);
                self.ends = request.ends;
                self.stage = ExchangeStage::Body(request.body, request.asks);
                self.after_body();
            }
            Err(why) => {
                let RequestLine::Not(not_http) = RequestLine::Start.follow(bytes) else {
                    return self.refuse(why);
                };
                match self.others {
                    Others::Pass => {
                        self.note_line(bytes);
                        self.stage = ExchangeStage::Passing;
                        out.extend(bytes);
                    }
                    Others::Refused => self.refuse(not_http),
                }
            }
        }
    }

    fn unsend(&mut self, length: usize, why: Refusal, out: &mut Vec<u8>) {
        out.truncate(length);
        self.refuse(why);
    }

    /// Takes the bytes that belong to a non-empty trailer section, and returns the rest.
    fn trailers<'i>(&mut self, input: &'i [u8], asks: Asks, out: &mut Vec<u8>) -> &'i [u8] {
        let before = self.held.len();
        let taken = input.len().min(head::LIMIT + 1 - before);
        self.hold(&input[..taken]);
        let is_empty = self.held.starts_with(b"\r\n");
        let length = if is_empty { Some(2) } else { head::end(&self.held, self.seen) };
        let Some(length) = length else {
            self.seen = self.held.len();
            if self.held.len() > head::LIMIT {
                self.refuse(Refusal::TooLong);
            }
            return &input[taken..];
        };
        let mut held = self.take_held();
        held.truncate(length);
        match request::rebuild_trailers(&held, out) {
            Ok(()) => self.after_message(asks),
            Err(why) => self.refuse(why),
        }
        &input[length - before..]
    }

    fn note_line(&mut self, bytes: &[u8]) {
        if let Some(lines) = &mut self.log {
            lines.extend(
                bytes.iter().take(LOGGED).take_while(|byte| !matches!(byte, b'\r' | b'\n')),
            );
            lines.push(b'\n');
        }
    }

    pub(super) fn refuse(&mut self, why: Refusal) {
        let partly = matches!(self.stage, ExchangeStage::Body(..) | ExchangeStage::Trailers(_));
        let owed = if partly { !self.asked.owes_last_only() } else { !self.asked.is_answered() };
        self.stage = ExchangeStage::Refused { why, partly, owed };
        self.take_held();
    }
}

/// The length of an empty line at the start of the bytes.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}
