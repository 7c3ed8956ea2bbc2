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
pub mod head;
pub mod line;
mod request;
mod requests;
pub(crate) mod responses;
#[cfg(test)]
mod tests;

use crate::relay::http::body::Body;
use crate::relay::http::line::RequestLine;
use crate::relay::http::request::{Asks, Sender};
use crate::relay::http::responses::OpenRequests;
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
    is_taken: bool,
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
            is_taken: false,
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
            ExchangeStage::Head | ExchangeStage::Trailers(_) if self.held.is_empty() => None,
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
    pub fn refuse_late(&mut self) {
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
        self.apply_answer();
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
        self.refused().filter(|_| !std::mem::replace(&mut self.is_taken, true))
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

    /// Whether no request is under way: nothing of one has come that was not answered.
    pub fn is_quiet(&self) -> bool {
        match self.stage {
            ExchangeStage::Head => self.held.is_empty() && self.asked.is_answered(),
            ExchangeStage::Passing => self.held.is_empty(),
            ExchangeStage::Body(..)
            | ExchangeStage::Trailers(_)
            | ExchangeStage::Asking
            | ExchangeStage::Ended
            | ExchangeStage::Refused { .. } => false,
        }
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
}
