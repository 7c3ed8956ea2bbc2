//! `-H`: says in every HTTP request of a connection who the client is.
//!
//! Pure: takes what the client sent and gives what the server gets; sees what the server answered. No I/O, no clock.
//!
//! A request's head is held until it is whole (at most 64 KiB), then goes on with `X-Forwarded-Proto` and `X-Forwarded-For` behind
//! its lines; a client that sent an `X-Forwarded-For` itself gets its address appended to the last. Bodies are followed to know where the next
//! request begins, and pass at once and unaltered.
//!
//! **Who is not named.** Whatever cannot be a request of HTTP/1.x to any server passes unchanged, and so does all that follows on that connection: other
//! protocols, HTTP/0.9, HTTP/2. What could be one but is not quite, or says its length in a way that two servers may read differently, is
//! *refused*: nothing of it, or nothing from the first bad byte of its body on, reaches the server, which sees the client's side end. Passing
//! it on would let the next request, of which this side has lost track, go out under the name that its sender chose. For the same reason the
//! unfinished head of a client that ends its side is not passed on: there are servers that take it for a request.
//!
//! **Other protocols within.** After `Upgrade` and CONNECT the client's bytes may be anything, but only if the server agreed (101, or 2xx that says no length). A server that did not
//! goes on with requests. So what a client sends behind such a request waits for the answer, and answers are followed from the first one on, to know
//! which is which. If they cannot be followed (a server that speaks unasked, an answer that ends with the connection), no switch is
//! recognised any more, and the client's bytes are taken for what they look like.

mod asked;
pub mod body;
mod head;
#[cfg(test)]
mod tests;
mod turn;

pub use turn::Turn;

use asked::Asked;
use body::Body;
use head::{Asks, FORWARDED_FOR, FORWARDED_PROTO, Kind};
use pen_contract::ids::ClientKey;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Its head is malformed.
    Head,
    /// Some of its lines end with CR LF and some with LF.
    LineEnds,
    /// Its head is longer than 64 KiB.
    TooLong,
    /// It has too many fields.
    Fields,
    /// A length that is no number.
    Length,
    /// More than one length.
    TwoLengths,
    /// A transfer coding other than chunked, or one in HTTP/1.0.
    TransferCoding,
    /// CONNECT with a body.
    TunnelBody,
    /// A chunk without a size.
    ChunkSize,
    /// A malformed line of a chunk.
    ChunkLine,
    /// A chunk does not end where it says.
    ChunkEnd,
    /// A malformed or endless trailer.
    Trailer,
}

/// In words, for debug output.
impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Head => "malformed head",
            Why::LineEnds => "head with line ends of two kinds",
            Why::TooLong => "head too long",
            Why::Fields => "too many fields",
            Why::Length => "malformed Content-Length",
            Why::TwoLengths => "more than one length",
            Why::TransferCoding => "transfer coding that cannot be followed",
            Why::TunnelBody => "CONNECT with a body",
            Why::ChunkSize => "chunk without a size",
            Why::ChunkLine => "malformed line of a chunk",
            Why::ChunkEnd => "chunk that does not end where it says",
            Why::Trailer => "malformed trailer",
        })
    }
}

/// The two directions of a connection that `-H` is on for.
#[derive(Debug)]
pub struct Exchange {
    stage: Stage,
    /// The beginning of a head that is not whole yet; while a server is asked for a switch, what came behind the asking request.
    held: Vec<u8>,
    /// How much of `held` was looked at for the head's end.
    seen: usize,
    /// The line that `held` begins with is known to be HTTP.
    is_http: bool,
    /// The answer that was awaited has come: what is held can go on.
    resumed: bool,
    /// The next head is the first.
    first: bool,
    asked: Asked,
    /// The client's address as a field shows it.
    address: Box<str>,
    https: bool,
}

/// Where in what the client sends the next byte is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// In a head, or before one.
    Head,
    /// In a body. The flag: the request asks for a switch, so behind it the answer is awaited.
    Body(Body, bool),
    /// Behind a request that asks for a switch, which the server has not answered.
    Asking,
    /// In something else than HTTP/1.x.
    Passing,
    /// Behind something that was refused.
    Refused(Why),
}

impl Exchange {
    /// A connection at its beginning. `https`: the client's side is TLS. A client behind a Unix socket has no address; it is
    /// called `unknown`, so that it cannot choose a name either.
    pub fn new(client: ClientKey, https: bool) -> Exchange {
        let address = client.ip().map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        Exchange {
            stage: Stage::Head,
            held: Vec::new(),
            seen: 0,
            is_http: false,
            resumed: false,
            first: true,
            asked: Asked::default(),
            address: address.into(),
            https,
        }
    }

    /// What the server is to get for what the client sent: `input` itself where nothing is altered, else what is put into `out`.
    pub fn request<'b>(&mut self, input: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        let mut rest = input;
        // What passes whole is not copied.
        match &mut self.stage {
            Stage::Passing => return input,
            Stage::Body(body, asks) => {
                let (taken, result) = match body.follow(input) {
                    Ok(taken) => (taken, Ok(())),
                    Err((taken, why)) => (taken, Err(why)),
                };
                let is_over = body.is_over();
                let asks = *asks;
                self.after_body(is_over, asks, result);
                if taken == input.len() || result.is_err() {
                    return &input[..taken];
                }
                out.extend(&input[..taken]);
                rest = &input[taken..];
            }
            Stage::Head | Stage::Asking | Stage::Refused(_) => {}
        }
        self.go_on(rest, out);
        out
    }

    /// What the server is to get at the client's end of file.
    pub fn end<'b>(&mut self, out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        if self.stage == Stage::Head && !self.held.is_empty() {
            // A line that is not whole is judged as if it was.
            let mut line = std::mem::take(&mut self.held);
            let length = line.len();
            line.push(b'\n');
            if head::kind(&line) == Kind::Other {
                out.extend(&line[..length]);
            }
        }
        out
    }

    /// Whether the client's bytes have to wait for the server's answer.
    pub fn is_asking(&self) -> bool {
        self.stage == Stage::Asking
    }

    /// Bytes of memory that are held until more comes: of an unfinished head, or behind a request for another protocol.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Whether so many of them wait that no more may be taken from the client.
    pub fn is_full(&self) -> bool {
        self.is_asking() && self.held.len() >= head::LIMIT
    }

    /// What the server is to get of what waited for its answer, if that has come.
    pub fn resume<'b>(&mut self, out: &'b mut Vec<u8>) -> &'b [u8] {
        out.clear();
        if std::mem::take(&mut self.resumed) {
            let held = std::mem::take(&mut self.held);
            self.go_on(&held, out);
        }
        out
    }

    /// Sees what the server answered. True: bytes of the client that had to wait for it can go on.
    pub fn answer(&mut self, bytes: &[u8]) -> bool {
        self.asked.answer(bytes);
        self.answered()
    }

    /// The server answers no more. True: as for [`Exchange::answer`].
    pub fn answers_end(&mut self) -> bool {
        self.asked.lose();
        self.answered()
    }

    fn answered(&mut self) -> bool {
        let was_asking = self.is_asking();
        self.heed_answer();
        let can_go_on = was_asking && !self.is_asking();
        self.resumed |= can_go_on;
        can_go_on
    }

    /// Whether an answer that was awaited has come, so that [`Exchange::resume`] has something to say.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Whether the server is known to owe nothing: each request was answered, to the last byte.
    pub fn is_answered(&self) -> bool {
        self.asked.is_answered()
    }

    /// Why a request was refused, if one was: nothing more of this client goes to the server.
    pub fn refused(&self) -> Option<Why> {
        match self.stage {
            Stage::Refused(why) => Some(why),
            Stage::Head | Stage::Body(..) | Stage::Asking | Stage::Passing => None,
        }
    }

    /// Whether nothing is to be done any more, whatever comes.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Passing && self.held.is_empty()
    }

    /// How many bytes of the client may pass unseen from here; [`Exchange::skip_request`] says how many did.
    pub fn unseen_request(&self) -> u64 {
        match &self.stage {
            Stage::Body(body, _) => body.certain(),
            Stage::Passing => u64::MAX,
            Stage::Head | Stage::Asking | Stage::Refused(_) => 0,
        }
    }

    /// So many bytes of the client have passed unseen.
    pub fn skip_request(&mut self, bytes: u64) {
        if let Stage::Body(body, asks) = &mut self.stage {
            body.skip(bytes);
            let (is_over, asks) = (body.is_over(), *asks);
            self.after_body(is_over, asks, Ok(()));
        }
    }

    /// How many bytes of the server may pass unseen from here; [`Exchange::skip_answer`] says how many did.
    pub fn unseen_answer(&self) -> u64 {
        self.asked.unseen()
    }

    /// So many bytes of the server have passed unseen.
    pub fn skip_answer(&mut self, bytes: u64) {
        self.asked.skip(bytes);
    }

    /// Takes `rest` where no body was begun before.
    fn go_on(&mut self, mut rest: &[u8], out: &mut Vec<u8>) {
        while !rest.is_empty() {
            match &mut self.stage {
                Stage::Passing => {
                    out.extend(rest);
                    return;
                }
                Stage::Refused(_) => return,
                Stage::Asking => {
                    self.held.extend(rest);
                    return;
                }
                Stage::Head => rest = self.head(rest, out),
                Stage::Body(body, asks) => {
                    let (taken, result) = match body.follow(rest) {
                        Ok(taken) => (taken, Ok(())),
                        Err((taken, why)) => (taken, Err(why)),
                    };
                    out.extend(&rest[..taken]);
                    rest = &rest[taken..];
                    let (is_over, asks) = (body.is_over(), *asks);
                    self.after_body(is_over, asks, result);
                }
            }
        }
    }

    fn after_body(&mut self, is_over: bool, asks: bool, result: Result<(), Why>) {
        match result {
            Err(why) => self.stage = Stage::Refused(why),
            Ok(()) if is_over && asks => {
                self.stage = Stage::Asking;
                self.heed_answer();
            }
            Ok(()) if is_over => self.stage = Stage::Head,
            Ok(()) => {}
        }
    }

    /// Goes on if the answer that is awaited is there.
    fn heed_answer(&mut self) {
        if self.stage == Stage::Asking
            && let Some(switched) = self.asked.verdict()
        {
            self.stage = if switched { Stage::Passing } else { Stage::Head };
        }
    }

    /// Takes what belongs to a head, and returns what is left.
    fn head<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> &'i [u8] {
        if self.held.is_empty()
            && let Some(empty) = empty_line(input)
        {
            // Empty lines before a request are no part of it (RFC 9112, 2.2).
            out.extend(&input[..empty]);
            return &input[empty..];
        }
        if self.held.is_empty()
            && let Some(length) = head::end(input, 0)
        {
            self.whole_head(&input[..length], out);
            return self.left(&input[length..], &input[..length], out);
        }
        let before = self.held.len();
        let taken = input.len().min(head::LIMIT + 1 - before);
        self.held.extend(&input[..taken]);
        if let Some(empty) = empty_line(&self.held) {
            // Its CR came alone before.
            out.extend(&self.take_held()[..empty]);
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
        self.left(&input[length - before..], &held, out)
    }

    fn take_held(&mut self) -> Vec<u8> {
        (self.seen, self.is_http) = (0, false);
        std::mem::take(&mut self.held)
    }

    /// What is left behind a head: a head that turned out to be none passes with the rest.
    fn left<'i>(&mut self, rest: &'i [u8], head: &[u8], out: &mut Vec<u8>) -> &'i [u8] {
        if self.stage == Stage::Passing {
            out.extend(head);
        }
        rest
    }

    /// What is held is no whole head; tells early if it will be none. The bytes before `new` were judged before, and only some can
    /// change that.
    fn unfinished(&mut self, new: usize, out: &mut Vec<u8>) {
        if !self.is_http && self.held[new..].iter().any(|byte| !matches!(byte, b' '..=b'~')) {
            match head::kind(&self.held) {
                Kind::Other => {
                    self.stage = Stage::Passing;
                    return out.extend(self.take_held());
                }
                Kind::Http => self.is_http = true,
                Kind::Open => {}
            }
        }
        if self.held.len() > head::LIMIT {
            self.refuse(Why::TooLong);
        }
    }

    /// Sends a head on with what is to be added.
    fn whole_head(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let first = std::mem::replace(&mut self.first, false);
        let read = if bytes.len() > head::LIMIT { Err(Why::TooLong) } else { head::request(bytes) };
        let request = match read {
            Ok(request) => request,
            Err(why) => {
                let judged = &bytes[..bytes.len().min(head::LIMIT + 1)];
                if head::kind(judged) == Kind::Other || (first && head::is_http2(bytes)) {
                    self.stage = Stage::Passing;
                } else {
                    self.refuse(why);
                }
                return;
            }
        };
        self.add_lines(bytes, &request, out);
        self.asked.request(request.asks);
        let asks_switch = matches!(request.asks, Asks::Upgrade | Asks::Tunnel);
        self.stage = Stage::Body(request.body, asks_switch);
        self.after_body(request.body.is_over(), asks_switch, Ok(()));
    }

    fn add_lines(&self, bytes: &[u8], request: &head::Request, out: &mut Vec<u8>) {
        let line_end: &[u8] = if request.crlf { b"\r\n" } else { b"\n" };
        let last = bytes.len() - line_end.len();
        let mut from = 0;
        if let Some((end, is_empty)) = request.forwarded {
            out.extend(&bytes[..end]);
            out.extend(if is_empty { &b" "[..] } else { &b", "[..] });
            out.extend(self.address.as_bytes());
            from = end;
        }
        out.extend(&bytes[from..last]);
        let proto = if self.https { "https" } else { "http" };
        let lines =
            [(FORWARDED_PROTO, proto, request.has_proto), (FORWARDED_FOR, &*self.address, request.forwarded.is_some())];
        for (name, value, _) in lines.into_iter().filter(|(_, _, is_there)| !is_there) {
            for part in [name.as_bytes(), b": ", value.as_bytes(), line_end] {
                out.extend(part);
            }
        }
        out.extend(line_end);
    }

    fn refuse(&mut self, why: Why) {
        self.stage = Stage::Refused(why);
        self.held = Vec::new();
    }
}

/// The length of an empty line at the start.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}
