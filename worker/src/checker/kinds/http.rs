//! `http PATH`, and `https PATH` within TLS: a GET request. The status decides, or the status and a
//! text in the body.

use pen_config::checks::{HttpQuestion, StatusRange};
use pen_ipc::checks::{CheckFault, FaultClass};

use super::dialogue::{Dialogue, Farewell, Reading, Step, escaped, find, unexpected};

/// Most field lines of a head that are read; more of them change nothing.
const FIELDS: usize = 64;

/// With what an answer begins.
const VERSION: &[u8] = b"HTTP/1.";

/// The dialogue.
pub(super) struct Http {
    request: Vec<u8>,
    status: StatusRange,
    body: Option<Vec<u8>>,
    reads: Reads,
    /// How many bytes have been looked at and are not taken.
    seen: usize,
}

/// What is read.
#[derive(Clone, Copy)]
enum Reads {
    Head,
    Body,
}

impl Http {
    /// A question with this Host line.
    pub(super) fn new(question: &HttpQuestion, host: &str) -> Http {
        let HttpQuestion { path, status, body } = question;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pen\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        let body = body.as_ref().map(|text| text.bytes().to_vec());
        Http { request: request.into_bytes(), status: *status, body, reads: Reads::Head, seen: 0 }
    }

    /// A head, whole or not.
    fn head(&mut self, input: &[u8]) -> Reading {
        let beginning = input.len().min(VERSION.len());
        if input[..beginning] != VERSION[..beginning] {
            return Reading::Fail(unexpected("an HTTP answer", input));
        }
        let Some(length) = head_end(input, self.seen) else {
            self.seen = input.len();
            return Reading::More;
        };
        self.seen = 0;
        let Some(status) = status(&input[..length]) else {
            return Reading::Fail(unexpected("an HTTP answer", input));
        };
        match status {
            // Answers before the answer, such as 103 Early Hints.
            100 | 102..=199 => Reading::Take(length),
            _ if !self.status.contains(status) => {
                Reading::Fail(CheckFault::numbered(FaultClass::Status, status))
            }
            _ if self.body.is_none() => Reading::Done(Farewell::Close(Vec::new())),
            _ => {
                self.reads = Reads::Body;
                Reading::Take(length)
            }
        }
    }

    /// The body as it is sent: chunks and codings are not undone.
    fn body(&mut self, input: &[u8]) -> Reading {
        let text = self.body.as_deref().unwrap_or_default();
        if find(input, text, self.seen).is_some() {
            return Reading::Done(Farewell::Close(Vec::new()));
        }
        self.seen = input.len();
        Reading::More
    }
}

impl Dialogue for Http {
    fn begin(&mut self) -> Step {
        Step::Send(self.request.clone())
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        match self.reads {
            Reads::Head => self.head(input),
            Reads::Body => self.body(input),
        }
    }

    fn missing(&self, _: &[u8]) -> Option<CheckFault> {
        match (self.reads, &self.body) {
            (Reads::Body, Some(text)) => {
                let text = format!("no \"{}\" in the body", escaped(text));
                Some(CheckFault::told(FaultClass::Unexpected, 0, &text))
            }
            (Reads::Head | Reads::Body, _) => None,
        }
    }
}

/// The length of a head: an empty line ends it. The first `seen` bytes do not contain the end.
fn head_end(input: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(2);
    (from..input.len()).find_map(|at| match input[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// The status of a whole head.
fn status(head: &[u8]) -> Option<u16> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => response.code,
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}
