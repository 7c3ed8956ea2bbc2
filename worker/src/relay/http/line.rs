//! Tells byte by byte whether data is, or can still become, a request line of HTTP/1.0 or 1.1 (RFC
//! 9112, 3).
//!
//! Pure. One space separates the parts, all bytes are printable ASCII, and the line ends with CR LF
//! or LF. Every server finds the same parts in such a line. Other lines that lenient servers accept
//! are refused here.

use pen_ipc::refusal::Refusal;

use crate::relay::http::body::is_token;

/// The state of a line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RequestLine {
    /// No byte has come.
    #[default]
    Start,
    /// In the method.
    Method,
    /// After the space before the target.
    Space,
    /// In the target.
    Target,
    /// In the version, of which this many bytes have come.
    Version(u8),
    /// After the CR.
    Return,
    /// The line is complete.
    Whole,
    /// The bytes are not a request line.
    Not(Refusal),
}

/// The version, without its last digit.
const VERSION: &[u8] = b"HTTP/1.";

impl RequestLine {
    /// Follows these bytes. Bytes after the line's end are ignored.
    pub fn follow(mut self, bytes: &[u8]) -> RequestLine {
        for byte in bytes {
            if matches!(self, RequestLine::Whole | RequestLine::Not(_)) {
                break;
            }
            self = self.next(*byte);
        }
        self
    }

    fn next(self, byte: u8) -> RequestLine {
        match (self, byte) {
            (RequestLine::Start | RequestLine::Method, byte) if is_token(byte) => {
                RequestLine::Method
            }
            (RequestLine::Method, b' ') => RequestLine::Space,
            (RequestLine::Space | RequestLine::Target, b'!'..=b'~') => RequestLine::Target,
            (RequestLine::Target, b' ') => RequestLine::Version(0),
            (RequestLine::Version(at), byte) => version(at, byte),
            (RequestLine::Return, b'\n') => RequestLine::Whole,
            (
                RequestLine::Start
                | RequestLine::Method
                | RequestLine::Space
                | RequestLine::Target
                | RequestLine::Return
                | RequestLine::Whole
                | RequestLine::Not(_),
                _,
            ) => RequestLine::Not(Refusal::NotHttp),
        }
    }
}

fn version(at: u8, byte: u8) -> RequestLine {
    let position = usize::from(at);
    match (VERSION.get(position), byte) {
        (Some(wanted), byte) if *wanted == byte => RequestLine::Version(at + 1),
        (None, b'0' | b'1') if position == VERSION.len() => RequestLine::Version(at + 1),
        (None, b'\r') if position > VERSION.len() => RequestLine::Return,
        (None, b'\n') if position > VERSION.len() => RequestLine::Whole,
        // The version has another number.
        (Some(b'1') | None, b'0'..=b'9') if position <= VERSION.len() => {
            RequestLine::Not(Refusal::Version)
        }
        _ => RequestLine::Not(Refusal::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strict_line_is_one() {
        let not = RequestLine::Not(Refusal::NotHttp);
        for (bytes, expected) in [
            (&b""[..], RequestLine::Start),
            (b"GET", RequestLine::Method),
            (b"0", RequestLine::Method),
            (b"GET /", RequestLine::Target),
            (b"GET / HTTP/1", RequestLine::Version(6)),
            (b"GET / HTTP/1.1", RequestLine::Version(8)),
            (b"GET / HTTP/1.1\r", RequestLine::Return),
            (b"GET / HTTP/1.1\r\nwhatever", RequestLine::Whole),
            (b"x!y * HTTP/1.0\n", RequestLine::Whole),
            (b"GET / HTTP/2", RequestLine::Not(Refusal::Version)),
            (b"PRI * HTTP/2.0\r\n", RequestLine::Not(Refusal::Version)),
            (b"GET / HTTP/1.2\r\n", RequestLine::Not(Refusal::Version)),
            (b"GET / HTTP/0.9\r\n", RequestLine::Not(Refusal::Version)),
            (b"GET / http/1.1\r\n", not),
            (b"GET / HTTP/1.1 \r\n", not),
            (b"GET / HTTP/1.11\r\n", not),
            (b"GET / HTTP/1.1\r\r\n", not),
            (b"GET /\r\n", not),
            (b"GET\n", not),
            (b"GET  / HTTP/1.1\r\n", not),
            (b"GET\t/ HTTP/1.1\r\n", not),
            (b"GET /  HTTP/1.1\r\n", not),
            (b"GET /\x1c HTTP/1.1\r\n", not),
            (b"GET /\x85 HTTP/1.1\r\n", not),
            (b"GET\x0b/ HTTP/1.1\r\n", not),
            (b" GET / HTTP/1.1\r\n", not),
            (b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\n", not),
            // Other protocols: MySQL's request for TLS, LDAP's bind, JSON, TLS.
            (b"\x20\0\0\x01", not),
            (b"0\x0c\x02\x01", not),
            (b"{\"a\"", not),
            (b"\x16\x03\x01", not),
        ] {
            assert_eq!(RequestLine::Start.follow(bytes), expected, "{}", bytes.escape_ascii());
            let by_one = bytes.iter().fold(RequestLine::Start, |line, byte| line.follow(&[*byte]));
            assert_eq!(by_one, expected, "{}", bytes.escape_ascii());
        }
    }
}
