//! Parses a request's head and rebuilds it for the server, with X-Forwarded-For and
//! X-Forwarded-Proto.
//!
//! Pure. Every line that passes was parsed and is well-formed; any other head is refused. What
//! servers are known to read differently is also refused, or made the same for all: see the rules
//! at [`rebuild`].

use std::mem::MaybeUninit;

use pen_ipc::refusal::Refusal;

use crate::relay::http::body::Body;
use crate::relay::http::field;
use crate::relay::http::field::{FORWARDED_FOR, FORWARDED_PROTO, Field, NamedField};
use crate::relay::http::head::{FIELDS, Framing, LIMIT, line_ends};

/// The client as the added fields show it.
#[derive(Debug)]
pub struct Sender {
    /// Its address, as X-Forwarded-For shows it.
    pub address: Box<str>,
    /// Its side is TLS.
    pub https: bool,
}

/// What a request's head says about the data after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Its body.
    pub body: Body,
    /// What it asks for.
    pub asks: Asks,
    /// The protocols of its Upgrade fields, joined by commas, if it asks for one.
    pub protocols: Box<str>,
    /// The server is told to end the connection with its answer, and gets no data after this
    /// request.
    pub ends: bool,
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
}

impl Asks {
    /// Whether what follows the request depends on the answer.
    pub fn is_switch(self) -> bool {
        match self {
            Asks::Upgrade | Asks::Tunnel => true,
            Asks::Answer | Asks::Head => false,
        }
    }
}

/// What was found in the fields.
#[derive(Debug, Default)]
struct Found {
    framing: Framing,
    hosts: u32,
    /// A field does not pass unchanged.
    alters: bool,
    /// Another protocol is asked for, and that is allowed.
    upgrades: bool,
    /// The body has a multipart type, from which some servers take its length.
    is_multipart: bool,
    /// See [`Field::OldKey`].
    has_old_key: bool,
}

/// Appends the head to `out` as the server gets it. If it is refused, `out` is unchanged.
///
/// The lines pass unchanged, with these exceptions:
///
/// - The last field is the only `X-Forwarded-For`: the client's own values, then the client's
///   address. One `X-Forwarded-Proto` stands before it.
/// - Twins of the two fields are removed, and their names in `Connection` too.
/// - Protocols that carry HTTP are removed from `Upgrade`, with `HTTP2-Settings`. HEAD loses all of
///   `Upgrade`.
/// - A head with LF line ends gets CR LF if there is a body or if another protocol is asked for.
///   Otherwise a server that does not accept LF would look for the head's end in the data after it.
/// - `Connection: close` is set where some servers leave a body unread and take it for the next
///   request (a body with GET and similar methods). It is also set for a `multipart` type, whose
///   parts some servers follow.
///
/// # Errors
/// Why the head is refused.
pub fn rebuild(head: &[u8], sender: &Sender, out: &mut Vec<u8>) -> Result<Request, Refusal> {
    let crlf = line_ends(head)?;
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLong),
        Ok(_) | Err(_) => return Err(Refusal::Fields),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::NotHttp);
    };
    let end = if crlf { 2 } else { 1 };
    let first_line =
        parsed.headers.first().map_or(head.len() - end, |field| offset(head, field.name));
    // The line has only the three parts and two spaces.
    if first_line != method.len() + target.len() + "  HTTP/1.1".len() + end {
        return Err(Refusal::NotHttp);
    }
    check_line(method, target)?;
    let found = find(parsed.headers)?;
    let body = found.framing.request(minor == 1)?;
    let has_body = body.is_some_and(|body| !body.is_over());
    if has_body && (method == "CONNECT" || method == "TRACE")
        || body.is_some() && method == "CONNECT"
    {
        return Err(Refusal::Body);
    }
    if has_body && found.has_old_key {
        return Err(Refusal::Length);
    }
    let ends = has_body && matches!(method, "GET" | "HEAD" | "DELETE" | "OPTIONS")
        || !has_body && found.is_multipart;
    // HEAD and an upgrade both decide whether the answer has a body, so they are not allowed
    // together.
    let upgrades = found.upgrades && !ends && method != "HEAD";
    let asks = match method {
        "CONNECT" => Asks::Tunnel,
        _ if upgrades => Asks::Upgrade,
        "HEAD" => Asks::Head,
        _ => Asks::Answer,
    };
    let build = Build {
        head,
        fields: parsed.headers,
        end,
        crlf: crlf || has_body || asks.is_switch(),
        ends,
        upgrades,
    };
    let last = head.len() - end;
    if found.alters || ends || upgrades != found.upgrades || build.crlf != crlf {
        build.lines(first_line, last, out);
    } else {
        out.extend(&head[..last]);
    }
    build.added(sender, found.alters, out);
    let protocols = if asks == Asks::Upgrade { asked(parsed.headers) } else { Box::default() };
    Ok(Request { body: body.unwrap_or(Body::Length(0)), asks, protocols, ends })
}

/// The offset of a part in `head`.
fn offset(head: &[u8], part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(head.as_ptr().addr())
}

/// Checks what the parser does not check in a request line.
fn check_line(method: &str, target: &str) -> Result<(), Refusal> {
    if !target.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        return Err(Refusal::NotHttp);
    }
    // Perl's HTTP::Daemon recognises a request by its first byte. Others accept these two methods
    // in any case.
    let is_word =
        method.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_other = |known: &str| method != known && method.eq_ignore_ascii_case(known);
    if !is_word || is_other("HEAD") || is_other("CONNECT") {
        return Err(Refusal::Method);
    }
    let is_good = match method {
        "CONNECT" => is_authority(target),
        "OPTIONS" if target == "*" => true,
        _ => target.starts_with('/') || is_absolute(target),
    };
    if is_good { Ok(()) } else { Err(Refusal::Target) }
}

/// `host:port` (RFC 9112, 3.2.3).
fn is_authority(target: &str) -> bool {
    target.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\']);
        is_host && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// `scheme:` and at least one byte (RFC 9112, 3.2.2).
fn is_absolute(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, rest)| {
        let is_scheme = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        is_scheme && !rest.is_empty()
    })
}

fn find(fields: &[httparse::Header<'_>]) -> Result<Found, Refusal> {
    let mut found = Found::default();
    for field in fields {
        match Field::of(field.name) {
            Field::Other => {}
            Field::ForwardedFor | Field::Removed => found.alters = true,
            Field::Length => found.framing.add_length(field.value)?,
            Field::Coding => found.framing.add_coding(field.value)?,
            Field::LengthTwin => return Err(Refusal::Length),
            Field::CodingTwin => return Err(Refusal::Coding),
            Field::Host if found.hosts > 0 => return Err(Refusal::Host),
            Field::Host => found.hosts += 1,
            Field::Expect if !field.value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::Expect);
            }
            Field::Expect => {}
            Field::Type => {
                let start = field.value.get(.."multipart".len());
                found.is_multipart |=
                    start.is_some_and(|start| start.eq_ignore_ascii_case(b"multipart"));
            }
            Field::OldKey => found.has_old_key = true,
            Field::Connection => {
                for option in field::options(field.value) {
                    match NamedField::of(option.ok_or(Refusal::Connection)?) {
                        NamedField::Vital => return Err(Refusal::Connection),
                        NamedField::Removed => found.alters = true,
                        NamedField::Kept | NamedField::Upgrade => {}
                    }
                }
            }
            Field::Upgrade => {
                for protocol in field::protocols(field.value) {
                    let carries_http = field::carries_http(protocol.ok_or(Refusal::Fields)?);
                    found.upgrades |= !carries_http;
                    found.alters |= carries_http;
                }
            }
        }
    }
    Ok(found)
}

/// The protocols that may be asked for.
fn asked(fields: &[httparse::Header<'_>]) -> Box<str> {
    let mut all = String::new();
    for field in fields.iter().filter(|field| Field::of(field.name) == Field::Upgrade) {
        for protocol in
            field::protocols(field.value).flatten().filter(|name| !field::carries_http(name))
        {
            if !all.is_empty() {
                all.push(',');
            }
            all.push_str(protocol);
        }
    }
    all.into()
}

/// A head that is being rebuilt.
struct Build<'h> {
    head: &'h [u8],
    fields: &'h [httparse::Header<'h>],
    /// Bytes of a line end in the client's head.
    end: usize,
    /// Lines end with CR LF, not with LF.
    crlf: bool,
    /// The connection ends with the answer.
    ends: bool,
    /// The Upgrade field stays.
    upgrades: bool,
}

impl Build<'_> {
    fn line_end(&self) -> &'static [u8] {
        if self.crlf { b"\r\n" } else { b"\n" }
    }

    /// Appends the unchanged lines: the request line up to `first`, and the fields up to `last`.
    fn lines(&self, first: usize, last: usize, out: &mut Vec<u8>) {
        out.extend(&self.head[..first - self.end]);
        out.extend(self.line_end());
        for (slot, field) in self.fields.iter().enumerate() {
            let from = offset(self.head, field.name);
            let to = self.fields.get(slot + 1).map_or(last, |next| offset(self.head, next.name))
                - self.end;
            match Field::of(field.name) {
                Field::ForwardedFor | Field::Removed => {}
                Field::Connection if !self.ends => {
                    self.members(field, field::options(field.value), out)
                }
                Field::Upgrade if !self.ends => {
                    self.members(field, field::protocols(field.value), out)
                }
                Field::Connection | Field::Upgrade => {}
                Field::Length
                | Field::LengthTwin
                | Field::Coding
                | Field::CodingTwin
                | Field::Expect
                | Field::Host
                | Field::Type
                | Field::OldKey
                | Field::Other => {
                    out.extend(&self.head[from..to]);
                    out.extend(self.line_end());
                }
            }
        }
        if self.ends {
            out.extend(b"Connection: close");
            out.extend(self.line_end());
        }
    }

    /// Appends a Connection or Upgrade field with the allowed members, unless there are none.
    fn members<'m>(
        &self,
        field: &httparse::Header<'_>,
        members: impl Iterator<Item = Option<&'m str>>,
        out: &mut Vec<u8>,
    ) {
        let is_upgrade = Field::of(field.name) == Field::Upgrade;
        let mut before = ": ";
        for member in members.flatten() {
            let stays = match NamedField::of(member) {
                _ if is_upgrade => self.upgrades && !field::carries_http(member),
                NamedField::Removed | NamedField::Vital => false,
                NamedField::Upgrade => self.upgrades,
                NamedField::Kept => true,
            };
            if stays {
                if before == ": " {
                    out.extend(field.name.as_bytes());
                }
                out.extend(before.as_bytes());
                out.extend(member.as_bytes());
                before = ", ";
            }
        }
        if before == ", " {
            out.extend(self.line_end());
        }
    }

    /// Appends the two added fields and the empty line.
    fn added(&self, sender: &Sender, may_have_list: bool, out: &mut Vec<u8>) {
        let proto = if sender.https { "https" } else { "http" };
        for part in [FORWARDED_PROTO, ": ", proto] {
            out.extend(part.as_bytes());
        }
        out.extend(self.line_end());
        out.extend(FORWARDED_FOR.as_bytes());
        out.extend(b": ");
        if may_have_list {
            let lists =
                self.fields.iter().filter(|field| Field::of(field.name) == Field::ForwardedFor);
            for list in lists.map(|field| field.value).filter(|list| !list.is_empty()) {
                out.extend(list);
                out.extend(b", ");
            }
        }
        out.extend(sender.address.as_bytes());
        out.extend(self.line_end());
        out.extend(self.line_end());
    }
}

/// Appends a trailer section, complete with its empty line, as the server gets it: without the
/// fields that must not pass. If it is refused, `out` is unchanged.
///
/// # Errors
/// The section is malformed, or has a field that is not allowed in trailers.
pub fn rebuild_trailers(section: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if section.len() > LIMIT {
        return Err(Refusal::TooLong);
    }
    if !line_ends(section)? {
        return Err(Refusal::Trailer);
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let fields = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLong),
        Ok(_) | Err(_) => return Err(Refusal::Trailer),
    };
    let is_framing = |kind: Field| {
        matches!(
            kind,
            Field::Length
                | Field::LengthTwin
                | Field::Coding
                | Field::CodingTwin
                | Field::Host
                | Field::Connection
        )
    };
    if fields.iter().any(|field| is_framing(Field::of(field.name))) {
        return Err(Refusal::Trailer);
    }
    let last = section.len() - 2;
    for (slot, field) in fields.iter().enumerate() {
        let from = offset(section, field.name);
        let to = fields.get(slot + 1).map_or(last, |next| offset(section, next.name));
        if !matches!(Field::of(field.name), Field::ForwardedFor | Field::Removed) {
            out.extend(&section[from..to]);
        }
    }
    out.extend(b"\r\n");
    Ok(())
}

#[cfg(test)]
mod tests;
