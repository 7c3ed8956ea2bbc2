//! `-H`: HTTP/1.x on a connection, followed so that every request tells the server who the client
//! is.
//!
//! Pure: bytes in, bytes out. The guarantee: a server never sees a request unless its only
//! X-Forwarded-For ends with the client's address. It holds by construction, because only three
//! things reach a server: a head rebuilt from the parsed parts (`request`), the body that belongs
//! to it (`body`), and data after a change of protocol that the server agreed to (`responses`).
//! Everything else is refused. With `http mixed`, data that is not HTTP/1.x passes unchanged, and
//! there is no guarantee.

pub mod body;
pub(crate) mod direction;
mod field;
mod head;
pub mod line;
mod request;
pub(crate) mod responses;
#[cfg(test)]
mod tests;
pub(crate) mod xff;

pub use crate::relay::http::direction::Turn;

use crate::relay::http::body::Body;
use crate::relay::http::line::RequestLine;
use crate::relay::http::request::{Asks, Sender};
use crate::relay::http::responses::{AnswerVerdict, OpenRequests};
use pen_config::ids::ClientKey;
use pen_ipc::refusal::Refusal;

/// Both directions of a connection with `-H`.
#[derive(Debug)]
pub struct Exchange {
    stage: ExchangeStage,
    others: Others,
    /// The start of an incomplete head or trailer section. While the server has not answered a
    /// request for a switch, the data after that request.
    held: Vec<u8>,
    /// How many bytes of `held` were searched for the end of the head.
    seen: usize,
    /// The state of the request line at the start of `held`.
    line: RequestLine,
    /// The awaited answer has come: the held data can go on.
    resumed: bool,
    asked: OpenRequests,
    sender: Sender,
    /// First lines of requests for the request log; none if there is no log.
    log: Option<Vec<u8>>,
    /// The held data has begun since the last [`Exchange::take_begun`].
    begun: bool,
    /// The present request is the last one.
    ends: bool,
    /// [`Exchange::take_refusal`] has returned the refusal.
    told: bool,
}

/// What to do with data that is not HTTP/1.x.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Others {
    /// Refuse it.
    Refused,
    /// Pass it, and all further data (`http mixed`).
    Pass,
}

/// What a connection waits for; each kind has its own time limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The end of a head or of a trailer section.
    Head,
    /// More bytes, to tell whether they are a request. At the time limit they pass.
    Protocol,
    /// The answers to the requests before a refused one.
    Answers,
}

/// How a connection ends after a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Later: answers are still to come.
    Later,
    /// With an answer that gives the reason.
    Status(Refusal),
    /// Without an answer.
    Silent,
}

/// The position of the client's next byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ExchangeStage {
    /// In a head, or before one.
    Head,
    /// In a body.
    Body(Body, Asks),
    /// In the trailer section of a body.
    Trailers(Asks),
    /// After a request for a switch that the server has not answered.
    Asking,
    /// In data that is not HTTP/1.x.
    Passing,
    /// After the last request that the server accepts.
    Ended,
    /// After a refusal.
    Refused {
        why: Refusal,
        /// A part of the request has reached the server.
        partly: bool,
        /// Answers to earlier requests were missing, so the client gets no other answer.
        owed: bool,
    },
}

impl Exchange {
    /// A new connection. `https`: the client's side is TLS. A client of a Unix socket has no
    /// address; its address is `unknown`, so that it cannot set an address itself.
    pub fn new(client: ClientKey, https: bool, others: Others) -> Exchange {
        let address = client.ip().map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        Exchange {
            stage: ExchangeStage::Head,
            others,
            held: Vec::new(),
            seen: 0,
            line: RequestLine::Start,
            resumed: false,
            asked: OpenRequests::default(),
            sender: Sender { address: address.into(), https },
            log: None,
            begun: false,
            ends: false,
            told: false,
        }
    }

    /// Sets whether the first lines of requests are kept for [`Exchange::logged`].
    pub fn keep_lines(&mut self, is_kept: bool) {
        if is_kept != self.log.is_some() {
            self.log = is_kept.then(Vec::new);
        }
    }

    /// The first lines of the requests since the last call, each followed by LF. The caller clears
    /// them.
    pub fn logged(&mut self) -> Option<&mut Vec<u8>> {
        self.log.as_mut().filter(|lines| !lines.is_empty())
    }

    /// The bytes for the server that replace the client's `input`: `input` itself if it is
    /// unchanged, otherwise the content of `out`.
    pub fn request<'b>(&mut self, input: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        let mut rest = input;
        // Data that passes whole is not copied.
        match &mut self.stage {
            ExchangeStage::Passing => return input,
            ExchangeStage::Body(..) => {
                let taken = self.follow(input);
                if taken == input.len() || self.refused().is_some() {
                    return &input[..taken];
                }
                out.extend(&input[..taken]);
                rest = &input[taken..];
            }
            ExchangeStage::Head
            | ExchangeStage::Trailers(_)
            | ExchangeStage::Asking
            | ExchangeStage::Ended
            | ExchangeStage::Refused { .. } => {}
        }
        self.go_on(rest, out);
        out
    }

    /// The bytes for the server at the client's end of file. An unfinished head is dropped.
    pub fn end<'b>(&mut self, out: &'b mut Vec<u8>) -> &'b [u8] {
        self.decide(out)
    }

    /// The bytes for the server that could not be told to be a request, because no more came in
    /// time.
    pub fn decide<'b>(&mut self, out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        if self.waits() == Some(Wait::Protocol) {
            self.pass(out);
        }
        out
    }

    /// What the connection waits for: the rest of a head or trailer section, or answers before a
    /// refusal.
    pub fn waits(&self) -> Option<Wait> {
        match self.stage {
            ExchangeStage::Refused { .. } => Some(Wait::Answers),
            _ if self.held.is_empty() => None,
            ExchangeStage::Head
                if self.others == Others::Pass && self.line != RequestLine::Whole =>
            {
                Some(Wait::Protocol)
            }
            ExchangeStage::Head | ExchangeStage::Trailers(_) => Some(Wait::Head),
            ExchangeStage::Body(..)
            | ExchangeStage::Asking
            | ExchangeStage::Passing
            | ExchangeStage::Ended => None,
        }
    }

    /// Whether the held data has begun since the last call.
    pub fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// Bytes of memory held until more comes: an unfinished head, or data after a request for
    /// another protocol.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Refuses the request, because the awaited data did not come in time.
    pub fn give_up(&mut self) {
        self.refuse(Refusal::Late);
    }

    /// Whether the client's data must wait for the server's answer.
    pub fn is_asking(&self) -> bool {
        self.stage == ExchangeStage::Asking
    }

    /// Whether so much data waits for the answer that no more may be read from the client.
    pub fn is_full(&self) -> bool {
        self.is_asking() && self.held.len() >= head::LIMIT
    }

    /// The waiting bytes for the server, if its answer has come.
    pub fn resume<'b>(&mut self, out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        if std::mem::take(&mut self.resumed) {
            let held = std::mem::take(&mut self.held);
            self.go_on(&held, out);
        }
        out
    }

    /// Follows the server's answer. Returns how many of the bytes are for the client.
    pub fn answer(&mut self, bytes: &[u8]) -> usize {
        let good = self.asked.answer(bytes);
        self.answered();
        good
    }

    /// Notes that no more answers come.
    pub fn answers_end(&mut self) {
        self.asked.end();
        self.answered();
    }

    fn answered(&mut self) {
        let was_asking = self.is_asking();
        self.heed_answer();
        if self.is_broken() && self.refused().is_none() {
            self.refuse(Refusal::Switch);
        }
        self.resumed |= was_asking && !self.is_asking();
    }

    /// Whether an awaited answer has come, so that [`Exchange::resume`] has data.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Why a request was refused, if one was: no more data of this client reaches the server.
    pub fn refused(&self) -> Option<Refusal> {
        match self.stage {
            ExchangeStage::Refused { why, .. } => Some(why),
            ExchangeStage::Head
            | ExchangeStage::Body(..)
            | ExchangeStage::Trailers(_)
            | ExchangeStage::Asking
            | ExchangeStage::Passing
            | ExchangeStage::Ended => None,
        }
    }

    /// Why a request was refused, once.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refused().filter(|_| !std::mem::replace(&mut self.told, true))
    }

    /// How the connection ends, if no more data of the client passes. `is_over`: the server sends
    /// no more.
    pub fn ending(&self, is_over: bool) -> Option<Ending> {
        if self.stage == ExchangeStage::Ended {
            let is_done = is_over || self.asked.is_answered();
            return Some(if is_done { Ending::Silent } else { Ending::Later });
        }
        let ExchangeStage::Refused { why, partly, owed } = self.stage else { return None };
        Some(match (partly, self.asked.is_answered(), is_over) {
            _ if self.asked.is_broken() => Ending::Silent,
            (false, true, _) if !owed => Ending::Status(why),
            (true, _, false) if self.asked.owes_last_only() && !owed => Ending::Status(why),
            // The server will not answer a request of which it has only a part.
            (true, ..) if self.asked.owes_last_only() || !self.asked.is_followed() => {
                Ending::Silent
            }
            (_, true, _) | (_, _, true) => Ending::Silent,
            (_, false, false) => Ending::Later,
        })
    }

    /// Whether no more data of the server passes: it changed the protocol in a way that is not
    /// understood.
    pub fn is_broken(&self) -> bool {
        self.asked.is_broken()
    }

    /// Whether data that is not HTTP is refused (no `http mixed`). If so, a connection that is over
    /// has become a tunnel.
    pub fn is_strict(&self) -> bool {
        self.others == Others::Refused
    }

    /// Whether the connection need not be followed any more.
    pub fn is_over(&self) -> bool {
        self.stage == ExchangeStage::Passing && self.held.is_empty()
    }

    /// How many bytes of the client may pass unseen from here. [`Exchange::skip_request`] notes how
    /// many did.
    pub fn unseen_request(&self) -> u64 {
        match &self.stage {
            ExchangeStage::Body(body, _) => body.certain(),
            ExchangeStage::Passing => u64::MAX,
            ExchangeStage::Head
            | ExchangeStage::Trailers(_)
            | ExchangeStage::Asking
            | ExchangeStage::Ended
            | ExchangeStage::Refused { .. } => 0,
        }
    }

    /// Notes that this many bytes of the client passed unseen.
    pub fn skip_request(&mut self, bytes: u64) {
        if let ExchangeStage::Body(body, _) = &mut self.stage {
            body.skip(bytes);
            self.after_body();
        }
    }

    /// How many bytes of the server may pass unseen from here. [`Exchange::skip_answer`] notes how
    /// many did.
    pub fn unseen_answer(&self) -> u64 {
        self.asked.unseen()
    }

    /// Notes that this many bytes of the server passed unseen.
    pub fn skip_answer(&mut self, bytes: u64) {
        self.asked.skip(bytes);
    }

    /// Takes `rest` outside a body that had begun before.
    fn go_on(&mut self, mut rest: &[u8], out: &mut Vec<u8>) {
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
    fn follow(&mut self, input: &[u8]) -> usize {
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

    fn after_body(&mut self) {
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
        self.heed_answer();
    }

    /// Continues if the awaited answer has come.
    fn heed_answer(&mut self) {
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

    fn take_held(&mut self) -> Vec<u8> {
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
        match (self.line, self.others) {
            (RequestLine::Not(_), Others::Pass) => self.pass(out),
            (RequestLine::Not(why), Others::Refused) => self.refuse(why),
            _ if self.held.len() > head::LIMIT => self.refuse(Refusal::TooLong),
            _ => {}
        }
    }

    /// Passes the held data and all further data as another protocol.
    fn pass(&mut self, out: &mut Vec<u8>) {
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
            Err(why) => match (RequestLine::Start.follow(bytes), self.others) {
                (RequestLine::Not(_), Others::Pass) => {
                    self.note_line(bytes);
                    self.stage = ExchangeStage::Passing;
                    out.extend(bytes);
                }
                (RequestLine::Not(why), Others::Refused) => self.refuse(why),
                _ => self.refuse(why),
            },
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

    fn refuse(&mut self, why: Refusal) {
        let partly = matches!(self.stage, ExchangeStage::Body(..) | ExchangeStage::Trailers(_));
        let owed = if partly { !self.asked.owes_last_only() } else { !self.asked.is_answered() };
        self.stage = ExchangeStage::Refused { why, partly, owed };
        self.take_held();
    }
}

/// Most bytes of a request line that are kept for the log: as many as a datagram to penlogd may
/// have.
const LOGGED: usize = 1024;

/// The length of an empty line at the start of the bytes.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}
