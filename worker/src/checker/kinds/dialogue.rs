//! The one who leads a dialogue with a server: keeps what the server has sent, bounds it, and asks
//! the dialogue of the kind what follows. Bytes may come in any pieces.

use pen_ipc::checks::{CheckFault, FaultClass};

/// Most bytes that a check reads. A server that sends more without a decision has failed.
pub const MOST_READ: usize = 64 << 10;

/// What the prober does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send these bytes, then wait for more.
    Send(Vec<u8>),
    /// Wait for more.
    Await,
    /// The server is well; part from it.
    Done(Farewell),
    /// It is not; close.
    Fail(CheckFault),
}

/// How to part from a server that is well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Farewell {
    /// Reset the connection. If the last ACK of its beginning was delayed (TCP_QUICKACK off before
    /// the connect), the server's kernel drops it, and the server never sees it.
    Reset,
    /// Send these bytes, then close.
    Close(Vec<u8>),
    /// Finish a TLS handshake, then close it and await the end. What comes of it does not count.
    /// The server waits for a handshake, and would log that there was none, or a reset.
    Handshake,
}

/// What a dialogue makes of the bytes that it has not taken yet.
pub(super) enum Reading {
    /// They are not enough.
    More,
    /// Take so many of them.
    Take(usize),
    /// Take so many of them and send these.
    Send(usize, Vec<u8>),
    /// The server is well.
    Done(Farewell),
    /// It is not.
    Fail(CheckFault),
}

/// The dialogue of a kind.
pub(super) trait Dialogue {
    /// The connection, with TLS if the kind has it, is there.
    fn begin(&mut self) -> Step;

    /// Looks at all bytes that are not taken yet. It is called again after some were taken.
    fn read(&mut self, input: &[u8]) -> Reading;

    /// Why the server fails if no more comes than this input; `None`: because no more comes.
    fn missing(&self, _input: &[u8]) -> Option<CheckFault> {
        None
    }
}

/// A check of a server as a machine without a socket and without a clock. After `Done` and `Fail`
/// it is over, and is asked no more.
pub struct Machine {
    dialogue: Box<dyn Dialogue>,
    /// All that came.
    input: Vec<u8>,
    /// How much of it is taken.
    taken: usize,
}

impl Machine {
    pub(super) fn new(dialogue: impl Dialogue + 'static) -> Machine {
        Machine { dialogue: Box::new(dialogue), input: Vec::new(), taken: 0 }
    }

    /// The connection is there; with kinds over TLS, the handshake is finished.
    pub fn connected(&mut self) -> Step {
        self.dialogue.begin()
    }

    /// The server has sent bytes.
    pub fn received(&mut self, bytes: &[u8]) -> Step {
        let room = MOST_READ - self.input.len();
        let (kept, surplus) = bytes.split_at(room.min(bytes.len()));
        self.input.extend_from_slice(kept);
        let mut out = Vec::new();
        loop {
            match self.dialogue.read(&self.input[self.taken..]) {
                Reading::More => break,
                Reading::Take(bytes) => self.take(bytes),
                Reading::Send(bytes, reply) => {
                    self.take(bytes);
                    out.extend(reply);
                }
                Reading::Done(Farewell::Close(last)) => {
                    out.extend(last);
                    return Step::Done(Farewell::Close(out));
                }
                Reading::Done(farewell) => return Step::Done(farewell),
                Reading::Fail(fault) => return Step::Fail(fault),
            }
        }
        if !surplus.is_empty() {
            return Step::Fail(CheckFault::of(FaultClass::TooLong));
        }
        if out.is_empty() { Step::Await } else { Step::Send(out) }
    }

    fn take(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.input.len());
    }

    /// The server has closed its direction, so the check has failed.
    pub fn ended(&self) -> CheckFault {
        self.missing(FaultClass::Closed)
    }

    /// The time is over, so the check has failed.
    pub fn late(&self) -> CheckFault {
        self.missing(FaultClass::Timeout)
    }

    fn missing(&self, class: FaultClass) -> CheckFault {
        let missing = self.dialogue.missing(&self.input[self.taken..]);
        missing.unwrap_or_else(|| CheckFault::of(class))
    }
}

/// Most bytes of an answer that a fault shows.
const SHOWN: usize = 60;

/// The fault of an answer that is not the expected one. It shows the beginning of its first line.
pub(super) fn unexpected(expected: &str, got: &[u8]) -> CheckFault {
    CheckFault::told(FaultClass::Unexpected, 0, &format!("expected {expected}, got {}", shown(got)))
}

/// The beginning of the first line, quoted.
pub(super) fn shown(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    match line.get(..SHOWN) {
        Some(beginning) if beginning.len() < line.len() => {
            format!("\"{}...\"", escaped(beginning))
        }
        _ => format!("\"{}\"", escaped(line)),
    }
}

/// Bytes as a reader can see them.
pub(super) fn escaped(bytes: &[u8]) -> String {
    // An apostrophe needs no escape within quotation marks.
    bytes.escape_ascii().to_string().replace("\\'", "'")
}

/// The first line without its end (LF, or CR LF), and the number of bytes with it.
pub(super) fn line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let line = &input[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// Most bytes of a line.
const LONGEST_LINE: usize = 4096;

/// What to do while a line has no end.
pub(super) fn unfinished(input: &[u8]) -> Reading {
    match input.len() {
        ..=LONGEST_LINE => Reading::More,
        _ => Reading::Fail(CheckFault::of(FaultClass::TooLong)),
    }
}

/// Where a text is found in bytes of which the first `seen` have been looked at before.
pub(super) fn find(bytes: &[u8], text: &[u8], seen: usize) -> Option<usize> {
    let from = (seen + 1).saturating_sub(text.len()).min(bytes.len());
    let found = bytes[from..].windows(text.len().max(1)).position(|window| window == text);
    found.map(|position| from + position)
}
