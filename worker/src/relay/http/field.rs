//! Header fields, by name and by value, that decide where a message ends, who sent it, or what
//! follows it.
//!
//! Pure. Servers fold names. CGI and WSGI make one variable of `X-Forwarded-For` and
//! `X_Forwarded_For`. Others map every byte that is not a letter or digit to `_`, or remove it.
//! Names that are equal without such bytes are *twins*.

use crate::relay::http::body::is_token;

/// The field of the client's address.
pub const FORWARDED_FOR: &str = "X-Forwarded-For";

/// The field of the client's protocol.
pub const FORWARDED_PROTO: &str = "X-Forwarded-Proto";

/// What a field is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// The client's address, with exactly this name.
    ForwardedFor,
    /// A field that must not pass: the client's protocol, twins of the two added fields, and
    /// `HTTP2-Settings`.
    Removed,
    /// `Content-Length`.
    Length,
    /// A twin of `Content-Length`.
    LengthTwin,
    /// `Transfer-Encoding`.
    Coding,
    /// A twin of `Transfer-Encoding`.
    CodingTwin,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `Host`.
    Host,
    /// `Content-Type`.
    Type,
    /// `Sec-WebSocket-Key1` of a draft of 2010. Eight bytes follow such a head, whatever the length
    /// says.
    OldKey,
    /// Any other field.
    Other,
}

impl Field {
    /// The kind of a field with this name, which is a token.
    pub fn of(name: &str) -> Field {
        match name.as_bytes().first().map(u8::to_ascii_lowercase) {
            // The first byte already excludes most fields.
            Some(b'a' | b'b' | b'd' | b'f' | b'g' | b'i'..=b'r' | b'v' | b'w' | b'y' | b'z')
            | None => Field::Other,
            Some(_) => Field::among_all(name),
        }
    }

    fn among_all(name: &str) -> Field {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            15 if is(FORWARDED_FOR) => Field::ForwardedFor,
            14 if is("Content-Length") => Field::Length,
            17 if is("Transfer-Encoding") => Field::Coding,
            10 if is("Connection") => Field::Connection,
            7 if is("Upgrade") => Field::Upgrade,
            6 if is("Expect") => Field::Expect,
            4 if is("Host") => Field::Host,
            12 if is("Content-Type") => Field::Type,
            14 if is("HTTP2-Settings") => Field::Removed,
            18 if is("Sec-WebSocket-Key1") => Field::OldKey,
            _ if is_added(name) => Field::Removed,
            _ if is_twin(name, b"contentlength") => Field::LengthTwin,
            _ if is_twin(name, b"transferencoding") => Field::CodingTwin,
            _ => Field::Other,
        }
    }
}

/// Whether a name is one of the two added fields, or a twin of one.
fn is_added(name: &str) -> bool {
    is_twin(name, b"xforwardedfor") || is_twin(name, b"xforwardedproto")
}

/// Whether a name equals `letters` without its bytes that are not letters or digits.
fn is_twin(name: &str, letters: &[u8]) -> bool {
    let squeezed =
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase());
    name.len() >= letters.len() && squeezed.eq(letters.iter().copied())
}

/// The options in a Connection field. None for a malformed one.
pub fn options(value: &[u8]) -> impl Iterator<Item = Option<&str>> {
    members(value)
        .map(|option| Some(option).filter(|option| option.iter().all(|byte| is_token(*byte))))
        .map(text)
}

/// The protocols in an Upgrade field, in order of preference. None for a malformed one.
pub fn protocols(value: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let is_good = |name: &&[u8]| name.iter().all(|byte| is_token(*byte) || *byte == b'/');
    members(value).map(move |name| Some(name).filter(is_good)).map(text)
}

fn text(member: Option<&[u8]>) -> Option<&str> {
    member.and_then(|member| std::str::from_utf8(member).ok())
}

/// The members of a list (RFC 9110, 5.6.1), without empty ones.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let trimmed = |member: &'_ [u8]| -> usize {
        member.iter().rev().take_while(|byte| is_blank(**byte)).count()
    };
    value.split(|byte| *byte == b',').filter_map(move |member| {
        let from = member.iter().take_while(|byte| is_blank(**byte)).count();
        let member = &member[from..];
        Some(&member[..member.len() - trimmed(member)]).filter(|member| !member.is_empty())
    })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What to do with an option in a Connection field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamedField {
    /// It passes.
    Kept,
    /// It is removed: a server that obeys it would remove an added field.
    Removed,
    /// The Upgrade field: the option stays if the field stays.
    Upgrade,
    /// It is a field without which the message cannot be parsed.
    Vital,
}

impl NamedField {
    /// What to do with the option of this name.
    pub fn of(option: &str) -> NamedField {
        match Field::of(option) {
            Field::ForwardedFor | Field::Removed => NamedField::Removed,
            Field::Upgrade => NamedField::Upgrade,
            Field::Length | Field::LengthTwin | Field::Coding | Field::CodingTwin | Field::Host => {
                NamedField::Vital
            }
            Field::Connection | Field::Expect | Field::Type | Field::OldKey | Field::Other => {
                NamedField::Kept
            }
        }
    }
}

/// Whether a protocol in an Upgrade field can carry HTTP requests: every version of HTTP, the
/// predecessors of HTTP/2, and TLS, in which HTTP continues (RFC 2817).
pub fn carries_http(protocol: &str) -> bool {
    let name = base(protocol);
    ["h2c", "tls", "ssl"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || ["http", "h1", "h2", "h3", "spdy"].iter().any(|start| {
            name.get(..start.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(start))
        })
}

/// A protocol's name without its version.
pub fn base(protocol: &str) -> &str {
    protocol.split('/').next().unwrap_or(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_told_from_others() {
        for (name, expected) in [
            ("X-Forwarded-For", Field::ForwardedFor),
            ("x-forwarded-FOR", Field::ForwardedFor),
            ("X_Forwarded_For", Field::Removed),
            ("x.forwarded!for", Field::Removed),
            ("XForwardedFor", Field::Removed),
            ("_X-Forwarded-For'", Field::Removed),
            ("~~x--forwarded__for", Field::Removed),
            ("X-Forwarded-Proto", Field::Removed),
            ("x_forwarded_proto", Field::Removed),
            ("HTTP2-Settings", Field::Removed),
            ("X-Forwarded-Fo", Field::Other),
            ("X-Forwarded-For2", Field::Other),
            ("X-Forwarded-Host", Field::Other),
            ("Forwarded", Field::Other),
            ("content-length", Field::Length),
            ("Content_Length", Field::LengthTwin),
            ("*Content-Length", Field::LengthTwin),
            ("transfer-encoding", Field::Coding),
            ("Transfer.Encoding", Field::CodingTwin),
            ("CONNECTION", Field::Connection),
            ("Host", Field::Host),
            ("Hosts", Field::Other),
            ("Accept", Field::Other),
            ("Cookie", Field::Other),
        ] {
            assert_eq!(Field::of(name), expected, "{name}");
        }
    }

    #[test]
    fn lists_are_read_member_by_member() {
        let all = |value: &'static str| options(value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all("close,\tX-A ,, upgrade"), [Some("close"), Some("X-A"), Some("upgrade")]);
        assert_eq!(all(""), []);
        assert_eq!(all("a b"), [None]);
        assert_eq!(all("a;b, c"), [None, Some("c")]);
        let all = |value: &'static str| protocols(value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all("websocket, foo/2"), [Some("websocket"), Some("foo/2")]);
        assert_eq!(all("web socket"), [None]);
    }

    #[test]
    fn protocols_that_carry_requests_are_known() {
        for protocol in
            ["h2c", "H2C", "h2", "h2c-14", "HTTP/2.0", "http/1.1", "TLS/1.0", "h3", "SPDY/3.1"]
        {
            assert!(carries_http(protocol), "{protocol}");
        }
        for protocol in ["websocket", "WebSocket", "tcp", "irc/6.9", "tls-tunnel", "x"] {
            assert!(!carries_http(protocol), "{protocol}");
        }
    }
}
