//! The responses to readers: status, fields and body.
//!
//! Pure. Nothing is kept by caches, nothing may be shown inside a page of others, and nothing is
//! loaded from elsewhere.

use std::rc::Rc;

use pen_status::metrics::Exposition;
use time::{Month, OffsetDateTime, Weekday};

use crate::page::request::{Invalid, Method, Stays};

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    status: Code,
    content: Content,
    body: Rc<[u8]>,
}

/// The status of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// 200.
    Ok,
    /// 400.
    BadRequest,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 408.
    RequestTimeout,
    /// 413.
    ContentTooLarge,
    /// 421.
    MisdirectedRequest,
    /// 431.
    HeadTooLarge,
    /// 503.
    Unavailable,
    /// 505.
    VersionNotSupported,
}

impl Code {
    /// The number and the words after it.
    fn words(self) -> &'static str {
        match self {
            Code::Ok => "200 OK",
            Code::BadRequest => "400 Bad Request",
            Code::NotFound => "404 Not Found",
            Code::MethodNotAllowed => "405 Method Not Allowed",
            Code::RequestTimeout => "408 Request Timeout",
            Code::ContentTooLarge => "413 Content Too Large",
            Code::MisdirectedRequest => "421 Misdirected Request",
            Code::HeadTooLarge => "431 Request Header Fields Too Large",
            Code::Unavailable => "503 Service Unavailable",
            Code::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }

    /// A field that only this status has.
    fn field(self) -> &'static str {
        match self {
            Code::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            Code::Unavailable => "Retry-After: 1\r\n",
            Code::Ok
            | Code::BadRequest
            | Code::NotFound
            | Code::RequestTimeout
            | Code::ContentTooLarge
            | Code::MisdirectedRequest
            | Code::HeadTooLarge
            | Code::VersionNotSupported => "",
        }
    }
}

/// What a body is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// Words for people and scripts.
    Text,
    /// The page.
    Page,
    /// JSON.
    Json,
    /// Metrics.
    Metrics(Exposition),
    /// An event stream, which ends with the connection.
    Events,
}

impl Content {
    fn media_type(self) -> &'static str {
        match self {
            Content::Text => "text/plain; charset=utf-8",
            Content::Page => "text/html; charset=utf-8",
            Content::Json => "application/json",
            Content::Metrics(exposition) => exposition.content_type(),
            Content::Events => "text/event-stream",
        }
    }

    /// What a browser may load for it.
    fn policy(self) -> &'static str {
        match self {
            Content::Page => pen_status::page::CONTENT_SECURITY_POLICY,
            Content::Text | Content::Json | Content::Metrics(_) | Content::Events => NOTHING,
        }
    }
}

impl Response {
    /// A body that is there already.
    pub fn shown(content: Content, body: Rc<[u8]>) -> Response {
        Response { status: Code::Ok, content, body }
    }

    /// One line, without its line end.
    pub fn line(status: Code, line: &str) -> Response {
        let body = format!("{line}\n").into_bytes().into();
        Response { status, content: Content::Text, body }
    }

    /// The answer to what is no request.
    pub fn to_invalid(invalid: Invalid) -> Response {
        match invalid {
            Invalid::Malformed => Response::line(Code::BadRequest, "this is no request for a page"),
            Invalid::TooLong => {
                Response::line(Code::HeadTooLarge, "a request has at most 8 kB and 64 fields")
            }
            Invalid::Method => {
                Response::line(Code::MethodNotAllowed, "the page is only read: GET and HEAD")
            }
            Invalid::Body => Response::line(Code::ContentTooLarge, "a request here has no body"),
            Invalid::Version => {
                Response::line(Code::VersionNotSupported, "HTTP/1.0 and HTTP/1.1 are understood")
            }
        }
    }

    /// The body.
    pub fn body(&self) -> Rc<[u8]> {
        self.body.clone()
    }

    /// The bytes before the body. `unix` is the present time in seconds.
    pub fn head(&self, connection: Stays, unix: i64) -> Vec<u8> {
        let Response { status, content, body } = self;
        let length = format!("Content-Length: {}\r\n", body.len());
        let length = if *content == Content::Events { "" } else { &length };
        let connection = match connection {
            Stays::Open => "keep-alive",
            Stays::Closes => "close",
        };
        format!(
            "HTTP/1.1 {words}\r\nDate: {date}\r\nContent-Type: {media_type}\r\n{length}{field}\
             Connection: {connection}\r\nCache-Control: no-store\r\n\
             Content-Security-Policy: {policy}\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n\
             X-Frame-Options: DENY\r\n\r\n",
            words = status.words(),
            date = date(unix),
            media_type = content.media_type(),
            field = status.field(),
            policy = content.policy(),
        )
        .into_bytes()
    }
}

/// The part of a body that goes to the reader.
pub fn sent(body: Rc<[u8]>, method: Method) -> Rc<[u8]> {
    match method {
        Method::Get => body,
        Method::Head => Rc::default(),
    }
}

/// A policy for what has no parts and is in no frame.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; \
                       frame-ancestors 'none'";

/// A time as in the field Date (RFC 9110, 5.6.7).
fn date(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let day = match time.weekday() {
        Weekday::Monday => "Mon",
        Weekday::Tuesday => "Tue",
        Weekday::Wednesday => "Wed",
        Weekday::Thursday => "Thu",
        Weekday::Friday => "Fri",
        Weekday::Saturday => "Sat",
        Weekday::Sunday => "Sun",
    };
    let month = match time.month() {
        Month::January => "Jan",
        Month::February => "Feb",
        Month::March => "Mar",
        Month::April => "Apr",
        Month::May => "May",
        Month::June => "Jun",
        Month::July => "Jul",
        Month::August => "Aug",
        Month::September => "Sep",
        Month::October => "Oct",
        Month::November => "Nov",
        Month::December => "Dec",
    };
    let (hour, minute, second) = time.time().as_hms();
    format!(
        "{day}, {:02} {month} {:04} {hour:02}:{minute:02}:{second:02} GMT",
        time.day(),
        time.year()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_everything_that_a_reader_must_know() {
        let response = Response::shown(Content::Json, b"{}\n".as_slice().into());
        let head = String::from_utf8(response.head(Stays::Open, 784_111_777)).unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: application/json\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\
             Cache-Control: no-store\r\nContent-Security-Policy: default-src 'none'; base-uri \
             'none'; form-action 'none'; frame-ancestors 'none'\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\n\
             X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\r\n"
        );
        let refused = Response::to_invalid(Invalid::Method);
        let head = String::from_utf8(refused.head(Stays::Closes, 0)).unwrap();
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(head.contains("\r\nConnection: close\r\n"));
        let stream = Response::shown(Content::Events, Rc::default());
        assert!(!String::from_utf8(stream.head(Stays::Closes, 0)).unwrap().contains("Length"));
    }

    #[test]
    fn the_answer_to_head_has_no_body() {
        let body: Rc<[u8]> = b"x".as_slice().into();
        assert_eq!((sent(body.clone(), Method::Head).len(), sent(body, Method::Get).len()), (0, 1));
    }
}
