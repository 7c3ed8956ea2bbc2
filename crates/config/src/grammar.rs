//! The grammar of numbers, local addresses and servers.
//!
//! The parser guesses nothing: malformed text is an error that names the broken rule. It resolves
//! nothing either: names stay names, and a process that may use a resolver resolves them later.
//! `Display` can write everything that is read.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::address::{Host, Local, MAX_UNIX_PATH, Service};

/// The range of a limit, a weight, a prio or a time in seconds: a C `int`, as in the original.
pub const COUNT: RangeInclusive<u32> = 0..=i32::MAX as u32;

/// The range of a TCP port. With port 0 the system would choose a port, which no client could find.
pub const PORT: RangeInclusive<u32> = 1..=65535;

/// A server as an operator writes it: `host[:port[:soft[:hard[:weight[:prio]]]]]`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Its host.
    pub host: Host,
    /// Its port; none = the listen port. A Unix socket has none.
    pub port: Option<Service>,
    /// Soft limit, 0 = unlimited.
    pub soft: u32,
    /// Hard limit.
    pub hard: u32,
    /// Weight, 1 if not given.
    pub weight: u32,
    /// Prio, 0 if not given.
    pub prio: u32,
}

/// Why a text is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

/// Reads a number: decimal digits only, within `range`.
///
/// # Errors
/// The text is anything else; the error names the range.
pub fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, GrammarError> {
    // The parser of the standard library accepts a sign, so digits are checked first.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => Err(error(format!(
            "{} is not a number from {} to {}",
            quoted(text),
            range.start(),
            range.end()
        ))),
    }
}

/// Reads `[host:]port`, `[IPv6]:port` or a path.
///
/// The last colon separates the port, so an IPv6 address needs no brackets here: `::1:80`, and
/// `:::80` for all addresses.
///
/// # Errors
/// The text is none of these; the error says why.
pub fn local(text: &str) -> Result<Local, GrammarError> {
    if text.is_empty() {
        return Err(error("it is empty; give [host:]port or a path"));
    }
    if text.contains('/') {
        return Ok(Local::Unix(unix_path(text)?));
    }
    if text.starts_with('[') && text.ends_with(']') {
        return Err(error("the port is missing; write [address]:port"));
    }
    match text.rsplit_once(':') {
        None => Ok(Local::Inet { host: None, port: service(text)? }),
        Some(("", _)) => {
            Err(error("the host before ':' is empty; for all addresses give the port alone"))
        }
        Some((host, port)) => {
            Ok(Local::Inet { host: Some(local_host(host)?), port: service(port)? })
        }
    }
}

/// Reads a server.
///
/// # Errors
/// The text is not a server; the error says why.
pub fn server(text: &str) -> Result<ServerSpec, GrammarError> {
    if text.is_empty() {
        return Err(error("it is empty; give host:port or a path"));
    }
    let (host, rest) = server_host(text)?;
    let mut spec = ServerSpec { host, port: None, soft: 0, hard: 0, weight: 1, prio: 0 };
    let Some(rest) = rest else { return Ok(spec) };
    let mut fields = rest.split(':');
    let port = service(fields.next().unwrap_or_default())?;
    // After a path, the port only marks the position of the fields that follow.
    spec.port = (!matches!(spec.host, Host::Unix(_))).then_some(port);
    let counts: Vec<&str> = fields.collect();
    let places = [
        ("soft limit", &mut spec.soft),
        ("hard limit", &mut spec.hard),
        ("weight", &mut spec.weight),
        ("prio", &mut spec.prio),
    ];
    if counts.len() > places.len() {
        return Err(error("more than six fields; a server is host:port:soft:hard:weight:prio"));
    }
    for ((name, place), text) in places.into_iter().zip(counts) {
        if text.is_empty() {
            return Err(error(format!(
                "the {name} after ':' is empty; leave out the colon or give a number"
            )));
        }
        *place = number(text, COUNT).map_err(|why| error(format!("{name}: {why}")))?;
    }
    Ok(spec)
}

/// The text as a message can show it: quoted, on one line, and of limited length.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 120;
    let (shown, dots) = match text.char_indices().nth(SHOWN) {
        None => (text, ""),
        Some((end, _)) => (&text[..end], "..."),
    };
    format!("'{}{dots}'", shown.escape_debug())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(std::net::IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Ip(ip) => ip.fmt(f),
            Host::Zoned(ip, zone) => write!(f, "[{ip}%{zone}]"),
            Host::Name(name) => f.write_str(name),
            Host::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Port(port) => port.fmt(f),
            Service::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Inet { host: None, port } => port.fmt(f),
            // Without brackets: this is the original's form, which scripts and files use.
            Local::Inet { host: Some(Host::Ip(std::net::IpAddr::V6(ip))), port } => {
                write!(f, "{ip}:{port}")
            }
            Local::Inet { host: Some(Host::Zoned(ip, zone)), port } => {
                write!(f, "{ip}%{zone}:{port}")
            }
            Local::Inet { host: Some(host), port } => write!(f, "{host}:{port}"),
            Local::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The shortest form that reads as the same server.
impl fmt::Display for ServerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match (&self.host, &self.port) {
            (Host::Unix(_), _) => Some("1".to_owned()),
            (_, Some(port)) => Some(port.to_string()),
            (_, None) => None,
        };
        let counts = [(self.soft, 0), (self.hard, 0), (self.weight, 1), (self.prio, 0)];
        let given =
            counts.iter().rposition(|(count, default)| count != default).map_or(0, |last| last + 1);
        self.host.fmt(f)?;
        if given > 0 || (self.port.is_some() && !matches!(self.host, Host::Unix(_))) {
            write!(f, ":{}", port.unwrap_or_default())?;
        }
        counts[..given].iter().try_for_each(|(count, _)| write!(f, ":{count}"))
    }
}

/// Splits a server into its host and the text after the host's colon, if there is one.
fn server_host(text: &str) -> Result<(Host, Option<&str>), GrammarError> {
    if let Some(text) = text.strip_prefix('[') {
        let Some((inside, after)) = text.split_once(']') else {
            return Err(error("'[' without ']'"));
        };
        let host = bracketed(inside)?;
        return match after.strip_prefix(':') {
            Some(rest) => Ok((host, Some(rest))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(error(format!("{} after ']'; only ':' may follow", quoted(after)))),
        };
    }
    if let Some(ipv6) = leading_ipv6(text) {
        return Err(error(format!("an IPv6 address needs brackets in a server: [{ipv6}]")));
    }
    let (host, rest) = match text.split_once(':') {
        None => (text, None),
        Some(("", _)) => return Err(error("the host before ':' is empty")),
        Some((host, rest)) => (host, Some(rest)),
    };
    if host.starts_with('/') {
        return Ok((Host::Unix(unix_path(host)?), rest));
    }
    if host.contains('/') {
        return Err(error(RELATIVE_PATH));
    }
    Ok((name_or_ipv4(host)?, rest))
}

const RELATIVE_PATH: &str = "the path of a Unix socket must begin with '/'";

/// The IPv6 address at the beginning of the text, up to a colon or the end; the longest if several
/// match.
fn leading_ipv6(text: &str) -> Option<Ipv6Addr> {
    let ends =
        std::iter::once(text.len()).chain(text.rmatch_indices([':', '%']).map(|(end, _)| end));
    ends.filter_map(|end| text[..end].parse().ok()).next()
}

fn local_host(text: &str) -> Result<Host, GrammarError> {
    if let Some(inside) = text.strip_prefix('[') {
        return match inside.strip_suffix(']') {
            Some(inside) => bracketed(inside),
            None => Err(error("'[' without ']' before the last ':'")),
        };
    }
    if text.contains(':') { ipv6(text) } else { name_or_ipv4(text) }
}

/// The address between brackets.
fn bracketed(text: &str) -> Result<Host, GrammarError> {
    match text {
        "" => Err(error("nothing between '[' and ']'")),
        _ if text.contains(':') => ipv6(text),
        _ => name_or_ipv4(text),
    }
}

fn ipv6(text: &str) -> Result<Host, GrammarError> {
    let (address, zone) = match text.split_once('%') {
        None => (text, None),
        Some((address, zone)) => (address, Some(zone)),
    };
    let ip: Ipv6Addr =
        address.parse().map_err(|_| error(format!("{} is no IPv6 address", quoted(text))))?;
    match zone {
        None => Ok(Host::Ip(ip.into())),
        Some(zone) => zoned(text, ip, zone),
    }
}

/// A zone is an interface name that Linux allows (`dev_valid_name`), or an interface index.
fn zoned(text: &str, ip: Ipv6Addr, zone: &str) -> Result<Host, GrammarError> {
    const LONGEST: usize = 15;
    let is_name = |byte: u8| byte.is_ascii_graphic() && !b"/:%[]".contains(&byte);
    if zone.is_empty() || zone.len() > LONGEST || !zone.bytes().all(is_name) {
        return Err(error(format!(
            "{}: what follows '%' is no interface, as in fe80::1%eth0",
            quoted(text)
        )));
    }
    if !ip.is_unicast_link_local() {
        return Err(error(format!(
            "{}: only a link-local address (fe80::...) has a zone",
            quoted(text)
        )));
    }
    Ok(Host::Zoned(ip, zone.to_owned()))
}

/// A host name follows RFC 1123, section 2.1: labels of letters, digits and hyphens, and also the
/// underscore, which is in use.
///
/// The last label is never a number. Resolvers would read such a name as an IPv4 address in a form
/// of inet_aton(3). Then `10.1` or a forgotten host (`pen 80 8080`) would be an address that the
/// operator did not mean.
fn name_or_ipv4(text: &str) -> Result<Host, GrammarError> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let wrong = |why: &str| Err(error(format!("{} is no host: {why}", quoted(text))));
    if !text.is_ascii() {
        return wrong("a name outside ASCII must be given in its xn-- form");
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return wrong("a name has letters, digits, '-', '_' and '.' only");
    }
    let labels = text.strip_suffix('.').unwrap_or(text);
    if labels.len() > 253 || labels.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return wrong("between the dots of a name are 1 to 63 characters, and 253 in all");
    }
    if labels.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        return wrong("no part of a name begins or ends with '-'");
    }
    let last = labels.rsplit('.').next().unwrap_or(labels);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    if last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return wrong("an IPv4 address has four numbers from 0 to 255, without leading zeros");
    }
    Ok(Host::Name(text.to_owned()))
}

/// Reads a server's address as a command gives it: a name, an IPv4 or IPv6 address with or without
/// brackets, or a path.
///
/// # Errors
/// The text is none of these; the error says why.
pub fn server_address(text: &str) -> Result<Host, GrammarError> {
    match text {
        "" => Err(error("it is empty")),
        _ if text.starts_with('/') => Ok(Host::Unix(unix_path(text)?)),
        _ if text.contains('/') => Err(error(RELATIVE_PATH)),
        _ => local_host(text),
    }
}

/// Reads a port, or the name of a service: at least one letter, and otherwise the characters that
/// services(5) files use.
///
/// # Errors
/// The text is neither; the error says why.
pub fn service(text: &str) -> Result<Service, GrammarError> {
    if text.is_empty() {
        return Err(error("the port after ':' is empty"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+*".contains(&byte);
    if text.len() <= 255
        && text.bytes().all(allowed)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
    {
        return Ok(Service::Name(text.to_owned()));
    }
    let port = number(text, PORT)
        .map_err(|why| error(format!("port: {why}, nor the name of a service")))?;
    // The range is that of u16.
    Ok(Service::Port(port as u16))
}

fn unix_path(text: &str) -> Result<PathBuf, GrammarError> {
    if text.len() > MAX_UNIX_PATH {
        return Err(error(format!(
            "the path of a Unix socket may have {MAX_UNIX_PATH} bytes at most, this one has {}",
            text.len()
        )));
    }
    if text.contains('\0') {
        return Err(error("a zero byte in a path"));
    }
    Ok(PathBuf::from(text))
}

fn error(why: impl Into<String>) -> GrammarError {
    GrammarError(why.into())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Host {
        Host::Ip(text.parse::<IpAddr>().unwrap())
    }

    fn zoned(ip: &str, zone: &str) -> Host {
        Host::Zoned(ip.parse().unwrap(), zone.to_owned())
    }

    fn name(text: &str) -> Host {
        Host::Name(text.to_owned())
    }

    fn inet(host: Option<Host>, port: Service) -> Local {
        Local::Inet { host, port }
    }

    fn spec(host: Host, port: Option<Service>) -> ServerSpec {
        ServerSpec { host, port, soft: 0, hard: 0, weight: 1, prio: 0 }
    }

    #[test]
    fn numbers_are_digits_within_the_range() {
        for (text, value) in [("0", 0), ("7", 7), ("007", 7), ("10", 10)] {
            assert_eq!(number(text, 0..=10), Ok(value));
        }
        for text in [
            "",
            "11",
            "-1",
            "+1",
            "5x",
            "abc",
            " 5",
            "5 ",
            "1e1",
            "0x5",
            "99999999999999999999",
            "٣",
            "5\n",
        ] {
            let why = number(text, 0..=10).unwrap_err().to_string();
            assert!(why.ends_with("is not a number from 0 to 10"), "{why}");
            assert!(!why.contains('\n'));
        }
    }

    #[test]
    fn local_addresses() {
        let port80 = || Service::Port(80);
        let rows = [
            ("80", inet(None, port80())),
            ("65535", inet(None, Service::Port(65535))),
            ("smtp", inet(None, Service::Name("smtp".into()))),
            ("3com-tsmux", inet(None, Service::Name("3com-tsmux".into()))),
            ("lbhost:http", inet(Some(name("lbhost")), Service::Name("http".into()))),
            ("127.0.0.1:80", inet(Some(ip("127.0.0.1")), port80())),
            ("::1:80", inet(Some(ip("::1")), port80())),
            (":::80", inet(Some(ip("::")), port80())),
            ("2001:db8::1:80", inet(Some(ip("2001:db8::1")), port80())),
            ("[::1]:80", inet(Some(ip("::1")), port80())),
            ("[::]:80", inet(Some(ip("::")), port80())),
            ("fe80::1%eth0:80", inet(Some(zoned("fe80::1", "eth0")), port80())),
            ("[fe80::1%eth0]:80", inet(Some(zoned("fe80::1", "eth0")), port80())),
            ("/run/pen/front.sock", Local::Unix("/run/pen/front.sock".into())),
            ("./front:1.sock", Local::Unix("./front:1.sock".into())),
        ];
        for (text, expected) in rows {
            assert_eq!(local(text), Ok(expected.clone()), "{text}");
            assert_eq!(local(&expected.to_string()), Ok(expected), "{text} again");
        }
    }

    #[test]
    fn malformed_local_addresses_say_the_rule() {
        let rows = [
            ("", "empty"),
            ("0", "1 to 65535"),
            ("65536", "1 to 65535"),
            ("-1", "1 to 65535"),
            ("+80", "1 to 65535"),
            ("127.0.0.1", "1 to 65535"),
            ("127.0.0.1:0", "1 to 65535"),
            ("127.0.0.1:99999", "1 to 65535"),
            ("80 ", "1 to 65535"),
            (":80", "host before ':' is empty"),
            ("host:", "port after ':' is empty"),
            ("[::1]", "port is missing"),
            ("[::1", "'[' without ']'"),
            ("[::1:80", "'[' without ']'"),
            ("[]:80", "nothing between"),
            ("[:::]:80", "no IPv6 address"),
            ("[2001:db8::1%eth0]:80", "only a link-local address"),
            ("fe80::1%:80", "no interface"),
            ("fe80::1%sixteen-letters!:80", "no interface"),
            ("fe80::1%a%b:80", "no interface"),
            ("[fe80::g%eth0]:80", "no IPv6 address"),
            ("::1", "no IPv6 address"),
            ("1:2:80", "no IPv6 address"),
            ("300.1.1.1:80", "IPv4"),
            ("127.1:80", "IPv4"),
            ("0x7f.1:80", "IPv4"),
            ("a..b:80", "between the dots"),
            ("a b:80", "letters"),
            ("bücher.example:80", "xn--"),
        ];
        for (text, rule) in rows {
            let why = local(text).unwrap_err().to_string();
            assert!(why.contains(rule), "{text}: {why}");
        }
        let long = format!("/{}", "x".repeat(MAX_UNIX_PATH));
        assert!(local(&long).unwrap_err().to_string().contains("107 bytes"));
        assert!(local(&long[..MAX_UNIX_PATH]).is_ok());
        assert!(local("/a\0b").unwrap_err().to_string().contains("zero byte"));
    }

    #[test]
    fn servers() {
        let port = |port| Some(Service::Port(port));
        let rows = [
            ("10.0.0.1", spec(ip("10.0.0.1"), None)),
            ("host", spec(name("host"), None)),
            ("host.example.:8080", spec(name("host.example."), port(8080))),
            ("host:http", spec(name("host"), Some(Service::Name("http".into())))),
            ("[::1]", spec(ip("::1"), None)),
            ("[::1]:80", spec(ip("::1"), port(80))),
            ("[fe80::1%eth0.7]:80", spec(zoned("fe80::1", "eth0.7"), port(80))),
            ("[fe80::1%3]", spec(zoned("fe80::1", "3"), None)),
            ("[10.0.0.1]:80", spec(ip("10.0.0.1"), port(80))),
            ("[host]:80", spec(name("host"), port(80))),
            ("host:80:10", ServerSpec { soft: 10, ..spec(name("host"), port(80)) }),
            ("host:80:10:20", ServerSpec { soft: 10, hard: 20, ..spec(name("host"), port(80)) }),
            ("host:80:0:0:5", ServerSpec { weight: 5, ..spec(name("host"), port(80)) }),
            (
                "[::1]:80:1:2:3:4",
                ServerSpec { soft: 1, hard: 2, weight: 3, prio: 4, ..spec(ip("::1"), port(80)) },
            ),
            ("host:80:0:0:0:0", ServerSpec { weight: 0, ..spec(name("host"), port(80)) }),
            ("/run/a.sock", spec(Host::Unix("/run/a.sock".into()), None)),
            ("/run/a.sock:1", spec(Host::Unix("/run/a.sock".into()), None)),
            (
                "/run/a.sock:1:10",
                ServerSpec { soft: 10, ..spec(Host::Unix("/run/a.sock".into()), None) },
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(server(text), Ok(expected.clone()), "{text}");
            assert_eq!(server(&expected.to_string()), Ok(expected), "{text} again");
        }
    }

    #[test]
    fn malformed_servers_say_the_rule() {
        let rows = [
            ("", "empty"),
            (":80", "host before ':' is empty"),
            (":", "host before ':' is empty"),
            ("host:", "port after ':' is empty"),
            ("host::10", "port after ':' is empty"),
            ("host:0", "1 to 65535"),
            ("host:99999", "1 to 65535"),
            ("host:-1", "1 to 65535"),
            ("host:80 ", "1 to 65535"),
            ("host:80:abc", "soft limit: 'abc' is not a number from 0 to 2147483647"),
            ("host:80:-1", "soft limit"),
            ("host:80:2147483648", "soft limit"),
            ("host:80:", "soft limit after ':' is empty"),
            ("host:80::5", "soft limit after ':' is empty"),
            ("host:80:1:x", "hard limit"),
            ("host:80:1:", "hard limit after ':' is empty"),
            ("host:80:1:2:x", "weight"),
            ("host:80:1:2:3:x", "prio"),
            ("host:80:1:2:3:", "prio after ':' is empty"),
            ("host:80:1:2:3:4:5", "six fields"),
            ("host:80:1:2:3:4:", "six fields"),
            ("::1", "needs brackets in a server: [::1]"),
            ("::1:80", "needs brackets"),
            ("::1:http", "needs brackets in a server: [::1]"),
            ("2001:db8::1", "needs brackets in a server: [2001:db8::1]"),
            ("1:2:3:4:5:6:7:8", "needs brackets"),
            ("fe80::1:80:10:0:1:1:9:9:9", "needs brackets"),
            ("[::1", "'[' without ']'"),
            ("[::1]80", "after ']'"),
            ("[]:80", "nothing between"),
            ("[::g]:80", "no IPv6 address"),
            ("[fe80::1%a b]:80", "no interface"),
            ("[::1%lo]:80", "only a link-local address"),
            ("fe80::1%eth0:80", "needs brackets in a server: [fe80::1]"),
            ("8080", "IPv4"),
            ("256.0.0.1:80", "IPv4"),
            ("010.0.0.1:80", "IPv4"),
            ("run/a.sock:1", "begin with '/'"),
            ("/run/a.sock:", "port after ':' is empty"),
            ("/run/a.sock::10", "port after ':' is empty"),
            ("-f", "begins or ends with '-'"),
            ("a.b-.c:80", "begins or ends with '-'"),
            ("ho st:80", "letters"),
            ("host\n:80", "letters"),
        ];
        for (text, rule) in rows {
            let why = server(text).unwrap_err().to_string();
            assert!(why.contains(rule), "{text}: {why}");
            assert!(!why.contains('\n'), "{text}: {why}");
        }
        let long = format!("/{}", "x".repeat(MAX_UNIX_PATH));
        assert!(server(&long).unwrap_err().to_string().contains("107 bytes"));
        assert!(server(&format!("{}:1:5", &long[..MAX_UNIX_PATH])).is_ok());
    }

    #[test]
    fn the_path_of_a_server_is_absolute_and_the_error_says_so() {
        for text in ["run/a.sock", "./a.sock", "a/b:80", "../a"] {
            let rule = "the path of a Unix socket must begin with '/'";
            assert_eq!(server_address(text).unwrap_err().to_string(), rule, "{text}");
            assert_eq!(server(text).unwrap_err().to_string(), rule, "{text}");
        }
        let path = Host::Unix("/run/a.sock".into());
        assert_eq!(server_address("/run/a.sock"), Ok(path));
    }

    #[test]
    fn quoting_keeps_to_one_short_line() {
        assert_eq!(quoted("a\n'b"), r"'a\n\'b'");
        assert_eq!(quoted("\u{202e}\u{85}\u{1b}[2J"), r"'\u{202e}\u{85}\u{1b}[2J'");
        assert!(quoted(&"ä".repeat(10_000)).ends_with("...'"));
        assert!(quoted(&"ä".repeat(10_000)).len() < 300);
    }

    /// Arbitrary text, and text of the characters that have a meaning here.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            r"[]\[:/.%0-9a-fx \-]{0,40}",
            r"(\[?[0-9a-f:.]{1,20}\]?|/?[a-z0-9.]{1,9})(:[0-9a-z]{0,6}){0,7}",
        ]
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_again(text in texts()) {
            match local(&text) {
                Ok(read) => prop_assert_eq!(local(&read.to_string()), Ok(read)),
                Err(why) => prop_assert!(!why.0.is_empty() && !why.0.contains('\n')),
            }
            match server(&text) {
                Ok(read) => prop_assert_eq!(server(&read.to_string()), Ok(read)),
                Err(why) => prop_assert!(!why.0.is_empty() && !why.0.contains('\n')),
            }
        }

        #[test]
        fn a_number_is_its_digits(
            value in any::<u32>(),
            low in any::<u32>(),
            high in any::<u32>(),
        ) {
            let expected = (low..=high).contains(&value).then_some(value);
            prop_assert_eq!(number(&value.to_string(), low..=high).ok(), expected);
        }
    }
}
