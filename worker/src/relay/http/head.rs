//! The head of an HTTP/1.x message: where it ends, the length of the body, and the content of an
//! answer's head.
//!
//! Pure. The grammar is httparse's, which accepts no folded lines, no space before a colon and no
//! control bytes. What else parsers are known to read differently is refused here.

use std::mem::MaybeUninit;

use pen_ipc::refusal::Refusal;

use crate::relay::http::body::Body;
use crate::relay::http::field;
use crate::relay::http::field::Field;

/// Most bytes of a head, without the empty lines before it.
pub const LIMIT: usize = 64 * 1024;

/// Most field lines of a head.
pub const FIELDS: usize = 256;

/// The length of the head at the start of `bytes`, with its empty line. `seen` bytes were searched
/// before.
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

/// The content of an answer's head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnswerHead {
    /// Its status.
    pub status: u16,
    /// Its body, unless the request or the status exclude one; none: it ends with the connection.
    pub body: Option<Body>,
    /// For a 101: its protocols, joined by commas.
    pub protocols: String,
}

/// Parses the complete head of an answer. None: the answer cannot be followed.
pub fn answer(head: &[u8]) -> Option<AnswerHead> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(false);
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) | Err(_) => return None,
    }
    let status = parsed.code?;
    let (mut framing, mut protocols) = (Framing::default(), String::new());
    for header in parsed.headers.iter() {
        if header.name.eq_ignore_ascii_case("Content-Length") {
            framing.add_length(header.value).ok()?;
        } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            framing.add_coding(header.value).ok()?;
        } else if status == 101 && Field::of(header.name) == Field::Upgrade {
            for protocol in field::protocols(header.value) {
                protocols.push_str(protocol?);
                protocols.push(',');
            }
        }
    }
    let body = match framing {
        Framing { chunked: true, length: None } => Some(Body::chunked_answer()),
        Framing { chunked: false, length } => length.map(Body::Length),
        Framing { chunked: true, length: Some(_) } => return None,
    };
    Some(AnswerHead { status, body, protocols })
}

/// What the fields say about the length of the body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    chunked: bool,
    length: Option<u64>,
}

impl Framing {
    /// Notes a Content-Length.
    ///
    /// # Errors
    /// It is not the only one, or not a plain number.
    pub fn add_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::Length);
        }
        self.length = Some(length(value)?);
        Ok(())
    }

    /// Notes a Transfer-Encoding.
    ///
    /// # Errors
    /// It is not the only one, or not `chunked`.
    pub fn add_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        // Codings before the last (`gzip, chunked`) would not change the framing. But hardly any
        // server reads them, and some then see no coding at all.
        if self.chunked || value.is_empty() {
            return Err(Refusal::Coding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::UnknownCoding);
        }
        self.chunked = true;
        Ok(())
    }

    /// A request's body, if there is one. HTTP/1.0 has no chunks (RFC 9112, 6.1).
    ///
    /// # Errors
    /// There are two lengths.
    pub fn request(self, is_1_1: bool) -> Result<Option<Body>, Refusal> {
        match self {
            Framing { chunked: true, length: Some(_) } => Err(Refusal::Length),
            Framing { chunked: true, length: None } if is_1_1 => Ok(Some(Body::chunked())),
            Framing { chunked: true, length: None } => Err(Refusal::Coding),
            Framing { chunked: false, length } => Ok(length.map(Body::Length)),
        }
    }
}

/// Parses a length: only digits, without leading zeros, which some parsers read as octal, and few
/// enough for every parser.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty()
        || !value.iter().all(u8::is_ascii_digit)
        || (value.len() > 1 && value[0] == b'0')
    {
        return Err(Refusal::Length);
    }
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.filter(|number| *number <= i64::MAX as u64).ok_or(Refusal::TooLarge)
}

/// Whether the lines of a head end with CR LF.
///
/// # Errors
/// Only some do: a server that does not accept LF alone as a line end would see other lines.
pub fn line_ends(head: &[u8]) -> Result<bool, Refusal> {
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
        (false, false) => Err(Refusal::LineEnds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn answers_say_what_follows_them() {
        let read = |text: &str| answer(text.as_bytes());
        let plain = |status, body| Some(AnswerHead { status, body, protocols: String::new() });
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n"), plain(200, None));
        assert_eq!(read("HTTP/1.0 200\nContent-Length: 5\n\n"), plain(200, Some(Body::Length(5))));
        assert_eq!(
            read("HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n"),
            plain(404, Some(Body::chunked_answer()))
        );
        let switch = read("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nupgrade: x/1\r\n\r\n");
        assert_eq!(switch.map(|answer| answer.protocols).as_deref(), Some("websocket,x/1,"));
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 101 X\r\nUpgrade: web socket\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "\r\n",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_plain_numbers() {
        for (value, expected) in [
            ("0", Ok(0)),
            ("12", Ok(12)),
            ("9223372036854775807", Ok(i64::MAX as u64)),
            ("9223372036854775808", Err(Refusal::TooLarge)),
            ("99999999999999999999", Err(Refusal::TooLarge)),
            ("", Err(Refusal::Length)),
            ("007", Err(Refusal::Length)),
            ("+5", Err(Refusal::Length)),
            ("5, 5", Err(Refusal::Length)),
            ("0x5", Err(Refusal::Length)),
        ] {
            assert_eq!(length(value.as_bytes()), expected, "{value:?}");
        }
    }
}
