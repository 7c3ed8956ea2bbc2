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
pub enum Line {
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

impl Line {
    /// Follows these bytes. Bytes after the line's end are ignored.
    pub fn follow(mut self, bytes: &[u8]) -> Line {
        for byte in bytes {
            if matches!(self, Line::Whole | Line::Not(_)) {
                break;
            }
            self = self.next(*byte);
        }
        self
    }

    fn next(self, byte: u8) -> Line {
        match (self, byte) {
            (Line::Start | Line::Method, byte) if is_token(byte) => Line::Method,
            (Line::Method, b' ') => Line::Space,
            (Line::Space | Line::Target, b'!'..=b'~') => Line::Target,
            (Line::Target, b' ') => Line::Version(0),
            (Line::Version(at), byte) => version(at, byte),
            (Line::Return, b'\n') => Line::Whole,
            _ => Line::Not(Refusal::NotHttp),
        }
    }
}

fn version(at: u8, byte: u8) -> Line {
    let position = usize::from(at);
    match (VERSION.get(position), byte) {
        (Some(wanted), byte) if *wanted == byte => Line::Version(at + 1),
        (None, b'0' | b'1') if position == VERSION.len() => Line::Version(at + 1),
        (None, b'\r') if position > VERSION.len() => Line::Return,
        (None, b'\n') if position > VERSION.len() => Line::Whole,
        // The version has another number.
        (Some(b'1') | None, b'0'..=b'9') if position <= VERSION.len() => {
            Line::Not(Refusal::Version)
        }
        _ => Line::Not(Refusal::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strict_line_is_one() {
        let not = Line::Not(Refusal::NotHttp);
        for (bytes, expected) in [
            (&b""[..], Line::Start),
            (b"GET", Line::Method),
            (b"0", Line::Method),
            (b"GET /", Line::Target),
            (b"GET / HTTP/1", Line::Version(6)),
            (b"GET / HTTP/1.1", Line::Version(8)),
            (b"GET / HTTP/1.1\r", Line::Return),
            (b"GET / HTTP/1.1\r\nwhatever", Line::Whole),
            (b"x!y * HTTP/1.0\n", Line::Whole),
            (b"GET / HTTP/2", Line::Not(Refusal::Version)),
            (b"PRI * HTTP/2.0\r\n", Line::Not(Refusal::Version)),
            (b"GET / HTTP/1.2\r\n", Line::Not(Refusal::Version)),
            (b"GET / HTTP/0.9\r\n", Line::Not(Refusal::Version)),
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
            assert_eq!(Line::Start.follow(bytes), expected, "{}", bytes.escape_ascii());
            let by_one = bytes.iter().fold(Line::Start, |line, byte| line.follow(&[*byte]));
            assert_eq!(by_one, expected, "{}", bytes.escape_ascii());
        }
    }
}
