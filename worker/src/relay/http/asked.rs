//! Which answer belongs to which request: what was asked and not answered yet, and where in its answers the server is.
//!
//! Only to know whether the server agreed to a switch of protocols; nothing here alters or delays an answer. Where the answers cannot be followed
//! they are *lost*: from then on no switch is recognised.

use std::collections::VecDeque;

use super::body::Body;
use super::head::{self, Asks};

/// Most runs of like requests that are remembered; more only come of a client that does not wait for answers and means no good.
const RUNS: usize = 1024;

/// What was asked, and where the answers are.
#[derive(Debug, Default)]
pub struct Asked {
    /// Requests without an answer, the oldest first, as runs of like ones.
    open: VecDeque<(Asks, u32)>,
    at: At,
    /// The beginning of a head that is not whole yet.
    held: Vec<u8>,
    /// How much of it was looked at.
    seen: usize,
    /// The server's word on the switch that was asked for last.
    verdict: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    /// In a head, or before one.
    #[default]
    Head,
    /// In a body.
    Body(Body),
    /// Nobody knows.
    Lost,
}

impl Asked {
    /// A request goes to the server.
    pub fn request(&mut self, asks: Asks) {
        self.verdict = None;
        if self.at == At::Lost {
            return;
        }
        if asks == Asks::Unclear {
            return self.lose();
        }
        let runs = self.open.len();
        match self.open.back_mut() {
            Some((kind, count)) if *kind == asks && *count < u32::MAX => *count += 1,
            _ if runs < RUNS => self.open.push_back((asks, 1)),
            _ => self.lose(),
        }
    }

    /// Whether the server switched, for the request that was made last; none: it has not said so yet. No: or it cannot be known.
    pub fn verdict(&self) -> Option<bool> {
        if self.at == At::Lost { Some(self.verdict == Some(true)) } else { self.verdict }
    }

    /// The server's next bytes.
    pub fn answer(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Lost => return,
                At::Head => bytes = self.head(bytes),
                At::Body(body) => match body.follow(bytes) {
                    Ok(taken) => {
                        bytes = &bytes[taken..];
                        self.after_body();
                    }
                    Err(_) => self.lose(),
                },
            }
        }
    }

    /// How many of the server's bytes may pass unseen.
    pub fn unseen(&self) -> u64 {
        match &self.at {
            At::Lost => u64::MAX,
            At::Body(body) => body.certain(),
            At::Head => 0,
        }
    }

    /// So many of them did.
    pub fn skip(&mut self, bytes: u64) {
        if let At::Body(body) = &mut self.at {
            body.skip(bytes);
            self.after_body();
        }
    }

    fn after_body(&mut self) {
        if matches!(&self.at, At::Body(body) if body.is_over()) {
            self.at = At::Head;
        }
    }

    /// Takes what belongs to a head, and returns what is left.
    fn head<'i>(&mut self, input: &'i [u8]) -> &'i [u8] {
        if self.open.is_empty() {
            self.lose();
            return &[];
        }
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
            // Word in between; the answer follows.
            return;
        }
        let Some(asks) = self.answered() else { return self.lose() };
        let switched = match asks {
            Asks::Upgrade => answer.status == 101,
            // The answer that begins a tunnel has no length (RFC 9110, 9.3.6). Servers to which CONNECT is a method like any other say one,
            // or that there is no content, and go on with requests.
            Asks::Tunnel => matches!(answer.status, 200..=203 | 206..=299) && answer.body.is_none(),
            Asks::Answer | Asks::Head | Asks::Unclear => false,
        };
        if self.open.is_empty() {
            self.verdict = Some(switched);
        }
        if switched || answer.status == 101 {
            return self.lose();
        }
        let is_bare = asks == Asks::Head || matches!(answer.status, 204 | 304);
        match answer.body {
            _ if is_bare => {}
            Some(body) => {
                self.at = At::Body(body);
                self.after_body();
            }
            // It ends with the connection, and so there are no more answers.
            None => self.lose(),
        }
    }

    /// Takes out the oldest request.
    fn answered(&mut self) -> Option<Asks> {
        let (asks, count) = self.open.front_mut()?;
        let asks = *asks;
        *count -= 1;
        if *count == 0 {
            self.open.pop_front();
        }
        Some(asks)
    }

    /// Whether the server is known to owe nothing.
    pub fn is_answered(&self) -> bool {
        self.at == At::Head && self.open.is_empty() && self.held.is_empty()
    }

    /// The answers cannot be followed any more.
    pub fn lose(&mut self) {
        self.at = At::Lost;
        self.open = VecDeque::new();
        self.held = Vec::new();
    }
}
