//! The head of a reader's request: bytes become a [`Request`] or the reason why not.
//!
//! Pure. The grammar is httparse's, which accepts no folded lines, no space before a colon and no
//! control bytes. A body, another line end than CR LF, a second Host and whatever else parsers are
//! known to read differently is refused, and the connection ends with the answer.

use std::mem::MaybeUninit;

use crate::relay::http::head::{Framing, end, line_ends};

/// Most bytes of a head.
pub const LIMIT: usize = 8192;

/// Most field lines of a head.
const FIELDS: usize = 64;

/// What the bytes of a reader are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A request, and the number of its bytes.
    Whole(Request, usize),
    /// No request.
    Invalid(Invalid),
}

/// A request without a body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// GET or HEAD.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// Host, or the host of the target; none in HTTP/1.0 only.
    pub host: Option<String>,
    /// Whether the connection stays.
    pub connection: Stays,
    /// The fields Accept, joined by commas.
    pub accept: String,
    /// Last-Event-ID.
    pub last_event: Option<u64>,
}

/// The method.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: a response without its body.
    Head,
}

/// Whether the connection stays after the response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stays {
    /// For the next request.
    Open,
    /// It ends.
    Closes,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Invalid {
    /// They are not HTTP, or parsers could read them differently.
    Malformed,
    /// A head of more than [`LIMIT`] bytes, or with too many fields.
    TooLong,
    /// Another method.
    Method,
    /// A body follows.
    Body,
    /// Another version than HTTP/1.0 and 1.1.
    Version,
}

/// Parses the beginning of `bytes`, of which `seen` were there at the last call.
pub fn parse(bytes: &[u8], seen: usize) -> Parsed {
    // An empty line before a request is skipped (RFC 9112, 2.2).
    let empty = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    // A reader that begins with TLS waits for an answer to it, and sends no end of a head.
    if bytes.get(empty).is_some_and(|first| !first.is_ascii_graphic() && *first != b'\r') {
        return Parsed::Invalid(Invalid::Malformed);
    }
    let Some(length) = end(&bytes[empty..], seen.saturating_sub(empty)) else {
        return match bytes.len() {
            ..=LIMIT => Parsed::Partial,
            _ => Parsed::Invalid(Invalid::TooLong),
        };
    };
    if empty + length > LIMIT {
        return Parsed::Invalid(Invalid::TooLong);
    }
    match read(&bytes[empty..empty + length]) {
        Ok(request) => Parsed::Whole(request, empty + length),
        Err(invalid) => Parsed::Invalid(invalid),
    }
}

/// Reads a whole head.
fn read(head: &[u8]) -> Result<Request, Invalid> {
    if line_ends(head) != Ok(true) {
        return Err(Invalid::Malformed);
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Invalid::TooLong),
        Err(httparse::Error::Version) if names_version(head) => return Err(Invalid::Version),
        Ok(_) | Err(_) => return Err(Invalid::Malformed),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Invalid::Malformed);
    };
    let is_1_1 = version == 1;
    // Before the fields: whoever wants to write here is told that the page is only read.
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(Invalid::Method),
    };
    let said = Said::of(parsed.headers)?;
    if said.has_body {
        return Err(Invalid::Body);
    }
    if said.host.is_none() && is_1_1 {
        return Err(Invalid::Malformed);
    }
    let (authority, path) = parts(target)?;
    let connection = match (said.close, is_1_1 || said.keep_alive) {
        (false, true) => Stays::Open,
        (true, _) | (_, false) => Stays::Closes,
    };
    Ok(Request {
        method,
        path: path.to_owned(),
        // That of the target wins (RFC 9112, 3.2.2).
        host: authority.map(str::to_owned).or(said.host),
        connection,
        accept: said.accept,
        last_event: said.last_event,
    })
}

/// Whether the first line has three words, of which the last is a version of HTTP.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let last = words.nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    let is_version = match last {
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some(_) | None => false,
    };
    is_version && words.next().is_none()
}

/// What the fields say.
#[derive(Debug, Default)]
struct Said {
    host: Option<String>,
    close: bool,
    keep_alive: bool,
    accept: String,
    last_event: Option<u64>,
    has_body: bool,
}

impl Said {
    fn of(fields: &[httparse::Header<'_>]) -> Result<Said, Invalid> {
        let (mut said, mut framing) = (Said::default(), Framing::default());
        for httparse::Header { name, value } in fields {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            let text = std::str::from_utf8(value).ok();
            if is("Host") {
                if said.host.is_some() {
                    return Err(Invalid::Malformed);
                }
                said.host = Some(text.ok_or(Invalid::Malformed)?.to_owned());
            } else if is("Content-Length") {
                framing.add_length(value).map_err(|_| Invalid::Malformed)?;
                said.has_body = *value != b"0";
            } else if is("Transfer-Encoding") {
                return Err(Invalid::Malformed);
            } else if is("Connection") {
                for token in text.unwrap_or_default().split(',').map(str::trim) {
                    said.close |= token.eq_ignore_ascii_case("close");
                    said.keep_alive |= token.eq_ignore_ascii_case("keep-alive");
                }
            } else if is("Accept") {
                said.accept.push(',');
                said.accept.push_str(text.unwrap_or_default());
            } else if is("Last-Event-ID") {
                said.last_event = text.and_then(|text| text.trim().parse().ok());
            }
        }
        Ok(said)
    }
}

/// The host of a target, if it names one, and the path without the query.
fn parts(target: &str) -> Result<(Option<&str>, &str), Invalid> {
    let absolute = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let (authority, path) = match absolute {
        None => (None, target),
        Some(_) => {
            let rest = &target[7..];
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..at]), &rest[at..])
        }
    };
    let path = path.split('?').next().unwrap_or_default();
    match (authority, path) {
        (Some(_), "") => Ok((authority, "/")),
        (_, path) if path.starts_with('/') && !path.contains('#') => Ok((authority, path)),
        _ => Err(Invalid::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Request {
        match parse(text.as_bytes(), 0) {
            Parsed::Whole(request, length) if length == text.len() => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn invalid(text: &str) -> Invalid {
        match parse(text.as_bytes(), 0) {
            Parsed::Invalid(invalid) => invalid,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn what_readers_send_is_understood() {
        let request = whole(
            "GET /metrics?x=1 HTTP/1.1\r\nHost: a:81\r\naccept: text/plain;q=0.5\r\n\
             Accept: */*\r\nLast-Event-ID: 7\r\n\r\n",
        );
        assert_eq!(
            request,
            Request {
                method: Method::Get,
                path: "/metrics".into(),
                host: Some("a:81".into()),
                connection: Stays::Open,
                accept: ",text/plain;q=0.5,*/*".into(),
                last_event: Some(7),
            }
        );
        let head = whole("\r\nHEAD / HTTP/1.0\r\n\r\n");
        assert_eq!((head.method, head.host), (Method::Head, None));
        for (text, connection) in [
            ("GET / HTTP/1.0\r\n\r\n", Stays::Closes),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Stays::Open),
            ("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, CLOSE\r\n\r\n", Stays::Closes),
            ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", Stays::Open),
            ("GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", Stays::Open),
        ] {
            assert_eq!(whole(text).connection, connection, "{text:?}");
        }
        for (target, host, path) in [
            ("/", "x", "/"),
            ("/?", "x", "/"),
            ("http://pen:9/a?b", "pen:9", "/a"),
            ("HTTP://pen", "pen", "/"),
            ("http://pen?a", "pen", "/"),
            ("//evil/metrics", "x", "//evil/metrics"),
        ] {
            let request = whole(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!((request.host.as_deref(), &request.path[..]), (Some(host), path));
        }
    }

    #[test]
    fn what_parsers_could_read_differently_is_no_request() {
        let get = "GET / HTTP/1.1\r\nHost: x\r\n";
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /#a HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /\r\n\r\n",
            "\0\0\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "GET /health x HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health x\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.x\r\nHost: x\r\n\r\n",
            "GET / HTTP/2.0 \r\nHost: x\r\n\r\n",
            // A greeting of TLS is answered at its first byte.
            "\x16",
            "\r\n\x16\x03",
        ] {
            assert_eq!(invalid(bad), Invalid::Malformed, "{bad:?}");
        }
        for more in [
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: 00\r\n",
            "A: b\r\n c\r\n",
            "A\r\n",
            ": b\r\n",
            "A: \0\r\n",
        ] {
            let text = format!("{get}{more}\r\n");
            assert_eq!(invalid(&text), Invalid::Malformed, "{text:?}");
        }
        assert_eq!(invalid(&format!("{get}Content-Length: 5\r\n\r\n")), Invalid::Body);
        assert_eq!(invalid("POST / HTTP/1.1\r\nHost: x\r\n\r\n"), Invalid::Method);
        assert_eq!(invalid("get / HTTP/1.1\r\nHost: x\r\n\r\n"), Invalid::Method);
        assert_eq!(invalid("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), Invalid::Method);
        for body in
            ["Content-Length: 5\r\n", "Content-Length: x\r\n", "Transfer-Encoding: chunked\r\n"]
        {
            let text = format!("PUT / HTTP/1.1\r\nHost: x\r\n{body}\r\n");
            assert_eq!(invalid(&text), Invalid::Method, "{text:?}");
        }
        assert_eq!(invalid("PRI * HTTP/2.0\r\n\r\n"), Invalid::Version);
        assert_eq!(invalid("\r\nGET / HTTP/1.2\r\n\r\n"), Invalid::Version);
    }

    #[test]
    fn a_head_has_a_most_length_whether_it_ends_or_not() {
        let of = |length: usize| {
            let rest = "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(length - rest))
        };
        whole(&of(LIMIT));
        assert_eq!(invalid(&of(LIMIT + 1)), Invalid::TooLong);
        let endless = "GET /".to_owned() + &"a".repeat(LIMIT);
        assert_eq!(parse(&endless.as_bytes()[..LIMIT], 0), Parsed::Partial);
        assert_eq!(invalid(&endless), Invalid::TooLong);
        let many =
            |count| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
        whole(&many(FIELDS));
        assert_eq!(invalid(&many(FIELDS + 1)), Invalid::TooLong);
        // Empty lines for ever are no request.
        assert_eq!(invalid("\r\n\r\n\r\n"), Invalid::Malformed);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_come(
            bytes in prop::collection::vec(
                prop_oneof![
                    any::<u8>(),
                    prop::sample::select(&b"GET / HTTP/1.1\r\n: x"[..]),
                ],
                0..200,
            ),
            with_request in any::<bool>(),
        ) {
            let start: &[u8] =
                if with_request { b"GET /a HTTP/1.1\r\nHost: x\r\n" } else { b"" };
            let bytes = [start, &bytes, b"\r\n\r\n"].concat();
            let all = parse(&bytes, 0);
            for at in 0..bytes.len() {
                match parse(&bytes[..at], 0) {
                    Parsed::Partial => prop_assert_eq!(parse(&bytes, at), all.clone()),
                    early => {
                        prop_assert_eq!(early, all);
                        return Ok(());
                    }
                }
            }
        }
    }
}
