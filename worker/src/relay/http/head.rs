//! The head of an HTTP/1.x message: where it ends, what it says about the rest of the connection, and where a request takes
//! the lines that are added to it.
//!
//! Pure. The grammar is httparse's, which takes no folded lines, no space before a colon and no control bytes; what else two parsers are known
//! to read differently is refused here.

use std::mem::MaybeUninit;

use super::Why;
use super::body::Body;

/// Most bytes of a head, empty lines before it not counted.
pub const LIMIT: usize = 64 * 1024;

/// Most field lines of a head.
const FIELDS: usize = 256;

/// The beginning of an HTTP/2 connection that was not negotiated (RFC 9113, 3.4), as far as it looks like a head.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// The field of the client's address.
pub const FORWARDED_FOR: &str = "X-Forwarded-For";

/// The field of the client's protocol.
pub const FORWARDED_PROTO: &str = "X-Forwarded-Proto";

/// What begins a connection, or follows a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Too little is there to tell.
    Open,
    /// A line with a version of HTTP in it.
    Http,
    /// No HTTP/1.x, which includes HTTP/0.9.
    Other,
}

/// Tells what the first bytes are, by no more than their first line.
///
/// A line is HTTP if some server could read it as a request line of HTTP/1.x: if white space and `HTTP/` are in it. Only lines of which no
/// server does so may pass as something else: else a slip in its request line would free a client from being named.
pub fn kind(bytes: &[u8]) -> Kind {
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let word = line.iter().take_while(|byte| !is_space(**byte));
    if word.clone().any(|byte| !matches!(byte, b' '..=b'~')) {
        return Kind::Other;
    }
    let names_version = |window: &[u8]| is_space(window[0]) && window[1..].eq_ignore_ascii_case(b"HTTP/");
    match line_end {
        None => Kind::Open,
        Some(_) if line.windows(6).any(names_version) => Kind::Http,
        Some(_) => Kind::Other,
    }
}

/// White space as the most generous parser knows it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// The length of the head at the start of `bytes`, its empty line included; `seen` bytes were looked at before.
pub fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut at = seen.saturating_sub(2);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// Whether a head is the beginning of HTTP/2.
pub fn is_http2(head: &[u8]) -> bool {
    head == HTTP2
}

/// What a request's head says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// Its body.
    pub body: Body,
    /// What it asks for, as far as that changes what follows.
    pub asks: Asks,
    /// Its lines end with CR LF, and not with LF.
    pub crlf: bool,
    /// The end of the value of the last [`FORWARDED_FOR`], and whether that value is empty.
    pub forwarded: Option<(usize, bool)>,
    /// There is a [`FORWARDED_PROTO`].
    pub has_proto: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asks {
    /// An answer.
    Answer,
    /// An answer without a body (HEAD).
    Head,
    /// Another protocol, if the answer is 101 (`Upgrade`).
    Upgrade,
    /// A tunnel, if the answer is 2xx (CONNECT).
    Tunnel,
    /// An answer that only some servers give a body (`head`, which is not HEAD, and is to others).
    Unclear,
}

/// Reads the whole head of a request.
///
/// # Errors
/// It is none, or one whose body or fields two servers may take differently.
pub fn request(head: &[u8]) -> Result<Request, Why> {
    let crlf = line_ends(head)?;
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Why::Head),
        Err(httparse::Error::TooManyHeaders) => return Err(Why::Fields),
        Err(_) => return Err(Why::Head),
    }
    let is_tunnel = parsed.method == Some("CONNECT");
    let mut framing = Framing::default();
    let (mut forwarded, mut has_proto, mut upgrades) = (None, false, false);
    for field in parsed.headers.iter() {
        framing.add(field)?;
        if field.name.eq_ignore_ascii_case(FORWARDED_FOR) {
            forwarded = Some(value_end(head, field.name));
        }
        has_proto |= field.name.eq_ignore_ascii_case(FORWARDED_PROTO);
        upgrades |= field.name.eq_ignore_ascii_case("Upgrade");
    }
    let body = framing.request(parsed.version == Some(1))?;
    if is_tunnel && body.is_some() {
        return Err(Why::TunnelBody);
    }
    let asks = match parsed.method {
        Some("CONNECT") => Asks::Tunnel,
        _ if upgrades => Asks::Upgrade,
        Some("HEAD") => Asks::Head,
        Some(method) if method.eq_ignore_ascii_case("HEAD") => Asks::Unclear,
        _ => Asks::Answer,
    };
    Ok(Request { body: body.unwrap_or(Body::Length(0)), asks, crlf, forwarded, has_proto })
}

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, unless the request or the status say that there is none; none: it ends with the connection.
    pub body: Option<Body>,
}

/// Reads the whole head of an answer. None: it cannot be followed.
pub fn answer(head: &[u8]) -> Option<Answer> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(false);
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) | Err(_) => return None,
    }
    let mut framing = Framing::default();
    for field in parsed.headers.iter() {
        framing.add(field).ok()?;
    }
    let body = match framing {
        Framing { chunked: true, length: None } => Some(Body::chunked()),
        Framing { chunked: false, length } => length.map(Body::Length),
        Framing { chunked: true, length: Some(_) } => return None,
    };
    Some(Answer { status: parsed.code?, body })
}

/// What the fields say about the body's length.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    chunked: bool,
    length: Option<u64>,
}

impl Framing {
    fn add(&mut self, field: &httparse::Header<'_>) -> Result<(), Why> {
        if field.name.eq_ignore_ascii_case("Content-Length") {
            if self.length.is_some() {
                return Err(Why::TwoLengths);
            }
            self.length = Some(length(field.value)?);
        }
        if field.name.eq_ignore_ascii_case("Transfer-Encoding") {
            // Codings before the last (`gzip, chunked`) would leave the framing as it is; hardly a server reads them, and some see none at all.
            if self.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Why::TransferCoding);
            }
            self.chunked = true;
        }
        Ok(())
    }

    /// A request's body, if it says that there is one. HTTP/1.0 has no chunks (RFC 9112, 6.1).
    fn request(self, is_1_1: bool) -> Result<Option<Body>, Why> {
        match self {
            Framing { chunked: true, length: Some(_) } => Err(Why::TwoLengths),
            Framing { chunked: true, length: None } if is_1_1 => Ok(Some(Body::chunked())),
            Framing { chunked: true, length: None } => Err(Why::TransferCoding),
            Framing { chunked: false, length } => Ok(length.map(Body::Length)),
        }
    }
}

/// Reads a length: digits alone, and so few that everybody can hold it.
fn length(value: &[u8]) -> Result<u64, Why> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = text.and_then(|text| text.parse().ok()).filter(|number| *number <= i64::MAX as u64);
    number.ok_or(Why::Length)
}

/// Whether the lines of a head end with CR LF.
///
/// # Errors
/// Some do and some do not: a server that takes LF alone for no line's end would see other lines.
fn line_ends(head: &[u8]) -> Result<bool, Why> {
    let mut all = (true, true);
    let mut before = 0;
    for byte in head {
        if *byte == b'\n' {
            let crlf = before == b'\r';
            all = (all.0 && crlf, all.1 && !crlf);
        }
        before = *byte;
    }
    match all {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        (false, false) => Err(Why::LineEnds),
    }
}

/// Where in `head` the value of the field ends whose name lies there, and whether the value is empty.
fn value_end(head: &[u8], name: &str) -> (usize, bool) {
    let from = name.as_ptr().addr().saturating_sub(head.as_ptr().addr()) + name.len() + 1;
    let line = head.get(from..).unwrap_or_default();
    let line = &line[..line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len())];
    let length = line.trim_ascii_end().len();
    let is_empty = line[..length].trim_ascii_start().is_empty();
    // White space alone is left before the address, which stands after it.
    if is_empty { (from + line.len() - usize::from(line.ends_with(b"\r")), true) } else { (from + length, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], Kind::Open),
            (b"GET", Kind::Open),
            (b"GET / HTTP/1.1\r", Kind::Open),
            (b"EHLO there", Kind::Open),
            (b"GET / HTTP/1.1\r\n", Kind::Http),
            (b"GET / HTTP/1.1\n", Kind::Http),
            (b"GET /\x01 http/9\n", Kind::Http),
            (b"GET\t/\x0bHTTP/1.1\n", Kind::Http),
            (b" HTTP/1.1\n", Kind::Http),
            (b"PRI * HTTP/2.0\r\n", Kind::Http),
            (b"GET /\r\n", Kind::Other),
            (b"GET /HTTP/1.1\r\n", Kind::Other),
            (b"EHLO there\r\n HTTP/1.1\r\n", Kind::Other),
            (b"\x16\x03\x01", Kind::Other),
            (b"GET\0", Kind::Other),
            (b"\xff", Kind::Other),
        ] {
            assert_eq!(kind(bytes), expected, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn heads_end_with_an_empty_line_wherever_reading_stopped() {
        for (bytes, expected) in [
            ("GET / HTTP/1.1\r\n\r\nGET", Some(18)),
            ("GET / HTTP/1.1\n\n\n", Some(16)),
            ("GET / HTTP/1.1\r\n\n", Some(17)),
            ("GET / HTTP/1.1\n\r\n", Some(17)),
            ("GET / HTTP/1.1\n\r", None),
            ("GET / HTTP/1.1\r\n\r\r\n", None),
        ] {
            for seen in 0..=expected.map_or(bytes.len(), |end| end - 1) {
                assert_eq!(end(bytes.as_bytes(), seen), expected, "{bytes:?} from {seen}");
            }
        }
    }

    fn read(head: &str) -> Result<Request, Why> {
        request(head.as_bytes())
    }

    #[test]
    fn requests_say_what_follows_them() {
        let plain =
            Request { body: Body::Length(0), asks: Asks::Answer, crlf: true, forwarded: None, has_proto: false };
        assert_eq!(read("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Ok(plain));
        assert_eq!(read("x-odd!method * HTTP/1.0\n\n"), Ok(Request { crlf: false, ..plain }));
        assert_eq!(read("HEAD / HTTP/1.1\r\n\r\n"), Ok(Request { asks: Asks::Head, ..plain }));
        assert_eq!(read("Head / HTTP/1.1\r\n\r\n"), Ok(Request { asks: Asks::Unclear, ..plain }));
        assert_eq!(read("CONNECT a:1 HTTP/1.1\r\n\r\n"), Ok(Request { asks: Asks::Tunnel, ..plain }));
        assert_eq!(read("GET / HTTP/1.1\r\nupgrade: x\r\n\r\n"), Ok(Request { asks: Asks::Upgrade, ..plain }));
        let long = "PUT / HTTP/1.1\r\ncontent-length: 0012 \r\nX-FORWARDED-proto: x\r\n\r\n";
        assert_eq!(read(long), Ok(Request { body: Body::Length(12), has_proto: true, ..plain }));
        let chunked = "PUT / HTTP/1.1\r\nTRANSFER-ENCODING:\tChunked\r\n\r\n";
        assert_eq!(read(chunked), Ok(Request { body: Body::chunked(), ..plain }));
    }

    #[test]
    fn the_last_forwarded_line_counts() {
        for (lines, before, is_empty) in [
            ("X-Forwarded-For: 6.6.6.6\r\n", "X-Forwarded-For: 6.6.6.6", false),
            ("x-forwarded-for:a, b \t\r\n", "x-forwarded-for:a, b", false),
            (
                "X-Forwarded-For: a\r\nX: y\r\nX-Forwarded-For: b\r\n",
                "X-Forwarded-For: a\r\nX: y\r\nX-Forwarded-For: b",
                false,
            ),
            ("X-Forwarded-For:\r\n", "X-Forwarded-For:", true),
            ("X-Forwarded-For: \t\r\nX: y\r\n", "X-Forwarded-For: \t", true),
        ] {
            let start = "GET / HTTP/1.1\r\n";
            let found = read(&format!("{start}{lines}\r\n")).unwrap().forwarded;
            assert_eq!(found, Some((start.len() + before.len(), is_empty)), "{lines:?}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        for (lines, why) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Why::TwoLengths),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Why::TwoLengths),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Why::TwoLengths),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", Why::TwoLengths),
            ("Content-Length: 5, 5\r\n", Why::Length),
            ("Content-Length: +5\r\n", Why::Length),
            ("Content-Length: -5\r\n", Why::Length),
            ("Content-Length: 5 5\r\n", Why::Length),
            ("Content-Length: 0x5\r\n", Why::Length),
            ("Content-Length:\r\n", Why::Length),
            ("Content-Length: 9223372036854775808\r\n", Why::Length),
            ("Content-Length: 99999999999999999999\r\n", Why::Length),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Why::TransferCoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Why::TransferCoding),
            ("Transfer-Encoding: xchunked\r\n", Why::TransferCoding),
            ("Transfer-Encoding: identity\r\n", Why::TransferCoding),
            ("Transfer-Encoding:\r\n", Why::TransferCoding),
            ("Transfer-Encoding : chunked\r\n", Why::Head),
            ("Transfer-Encoding: \x0bchunked\r\n", Why::Head),
            ("Transfer-Encoding\t: chunked\r\n", Why::Head),
            ("X: y\r\n Transfer-Encoding: chunked\r\n", Why::Head),
            ("X: y\rTransfer-Encoding: chunked\r\n", Why::Head),
            ("X: y\nTransfer-Encoding: chunked\r\n", Why::LineEnds),
            ("X: \0\r\n", Why::Head),
            (": y\r\n", Why::Head),
            ("no field\r\n", Why::Head),
        ] {
            assert_eq!(read(&format!("POST / HTTP/1.1\r\n{lines}\r\n")), Err(why), "{lines:?}");
        }
        for (head, why) in [
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Why::TransferCoding),
            ("CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Why::TunnelBody),
            ("GET  / HTTP/1.1\r\n\r\n", Why::Head),
            ("GET / HTTP/1.1 \r\n\r\n", Why::Head),
            ("GET / HTTP/1.2\r\n\r\n", Why::Head),
            ("GET / HTTP/2.0\r\n\r\n", Why::Head),
            ("GET / http/1.1\r\n\r\n", Why::Head),
            ("G@T / HTTP/1.1\r\n\r\n", Why::Head),
            ("GET /\t HTTP/1.1\r\n\r\n", Why::Head),
            ("GET / HTTP/1.1\r\n\n", Why::LineEnds),
        ] {
            assert_eq!(read(head), Err(why), "{head:?}");
        }
        let many = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a:\r\n".repeat(count));
        assert!(read(&many(FIELDS)).is_ok());
        assert_eq!(read(&many(FIELDS + 1)), Err(Why::Fields));
    }

    #[test]
    fn answers_say_how_long_they_are() {
        let read = |head: &str| answer(head.as_bytes()).map(|answer| (answer.status, answer.body));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"), Some((200, Some(Body::Length(7)))));
        assert_eq!(read("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n"), Some((200, Some(Body::chunked()))));
        assert_eq!(read("HTTP/1.0 404 Not Found\n\n"), Some((404, None)));
        assert_eq!(read("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"), Some((101, None)));
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "220 ready\r\n\r\n",
        ] {
            assert_eq!(read(head), None, "{head:?}");
        }
    }
}
