//! Reads a header of either version, complete or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::relay::proxy::{FIXED, LOCAL, Origin, PROXY, SIGNATURE, TCP4, TCP6, WORD};

/// Most bytes of a version 1 header, including its CR LF.
const LINE: usize = 107;

/// Most bytes of any header. Version 2 allows 64 KiB of extensions; this has room for the names in
/// a certificate and more.
pub const MOST: usize = 4096;

/// Why the bytes are not a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bad {
    /// They begin with other bytes.
    Beginning,
    /// A malformed version 1 line.
    Line,
    /// A version, command or family that does not exist.
    Unknown,
    /// Shorter than its addresses, or longer than [`MOST`].
    Length,
}

/// Reads the header at the start of `bytes`. Returns its length in bytes, and its addresses. They
/// are none for UNKNOWN, LOCAL, or a family without IP addresses; then the connection's own
/// addresses stay. None: the header is not complete yet. Extensions are skipped.
///
/// # Errors
/// The bytes are not a header, and more bytes will not make them one.
pub fn read(bytes: &[u8]) -> Result<Option<(usize, Option<Origin>)>, Bad> {
    let begins_with =
        |beginning: &[u8]| bytes.iter().zip(beginning).all(|(found, wanted)| found == wanted);
    if begins_with(WORD) {
        line(bytes)
    } else if begins_with(&SIGNATURE) {
        binary(bytes)
    } else {
        Err(Bad::Beginning)
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Option<(usize, Option<Origin>)>, Bad> {
    let head = &bytes[..bytes.len().min(LINE)];
    let Some(line_feed) = head.iter().position(|byte| *byte == b'\n') else {
        return if head.len() < LINE { Ok(None) } else { Err(Bad::Line) };
    };
    let line = head[..line_feed].strip_suffix(b"\r").ok_or(Bad::Line)?;
    let end = line.len();
    let text =
        line.get(WORD.len()..).and_then(|text| std::str::from_utf8(text).ok()).ok_or(Bad::Line)?;
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some((end + 2, None)));
    }
    let mut word = || words.next().ok_or(Bad::Line);
    let [client, local] =
        [word()?, word()?].map(|text| text.parse::<IpAddr>().ok().filter(|ip| is_of(family, ip)));
    let [client_port, local_port] = [word()?, word()?].map(port);
    if words.next().is_some() {
        return Err(Bad::Line);
    }
    match (client, local, client_port, local_port) {
        (Some(client), Some(local), Some(client_port), Some(local_port)) => {
            let (client, local) =
                (SocketAddr::new(client, client_port), SocketAddr::new(local, local_port));
            Ok(Some((end + 2, Some(Origin { client, local }))))
        }
        _ => Err(Bad::Line),
    }
}

fn is_of(family: &str, ip: &IpAddr) -> bool {
    match family {
        "TCP4" => ip.is_ipv4(),
        "TCP6" => ip.is_ipv6(),
        _ => false,
    }
}

/// A port: digits without a leading zero.
fn port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<(usize, Option<Origin>)>, Bad> {
    // An error is found before the rest has come.
    let command = bytes.get(SIGNATURE.len());
    if command.is_some_and(|command| ![LOCAL, PROXY].contains(command)) {
        return Err(Bad::Unknown);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    // There are four families and three transports, each including `unspecified`.
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Bad::Unknown);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let addresses = match (command, family) {
        (LOCAL, _) => 0,
        (_, TCP4) => 12,
        (_, TCP6) => 36,
        _ => 0,
    };
    if length < addresses || FIXED + length > MOST {
        return Err(Bad::Length);
    }
    let Some(body) = bytes.get(FIXED..FIXED + length) else { return Ok(None) };
    let origin = match addresses {
        12 => body.first_chunk().map(v4),
        36 => body.first_chunk().map(v6),
        _ => None,
    };
    Ok(Some((FIXED + length, origin)))
}

fn v4(bytes: &[u8; 12]) -> Origin {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
    let ips = [Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h)];
    origin(ips.map(IpAddr::V4), rest)
}

fn v6(bytes: &[u8; 36]) -> Origin {
    let at = |from: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|n| bytes[from + n]));
    origin([at(0), at(16)].map(IpAddr::V6), std::array::from_fn(|n| bytes[32 + n]))
}

fn origin([client, local]: [IpAddr; 2], [a, b, c, d]: [u8; 4]) -> Origin {
    Origin {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        local: SocketAddr::new(local, u16::from_be_bytes([c, d])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::relay::proxy::UNSPECIFIED;

    fn origin(client: &str, local: &str) -> Option<Origin> {
        Some(Origin { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    #[test]
    fn lines_are_read() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
        assert_eq!(longest.len(), LINE);
        for (line, expected) in [
            ("PROXY TCP4 1.2.3.4 5.6.7.8 9 65535\r\n", origin("1.2.3.4:9", "5.6.7.8:65535")),
            ("PROXY TCP6 ::1 2001:db8::2 0 80\r\n", origin("[::1]:0", "[2001:db8::2]:80")),
            (
                "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"
                    .replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff")
                    .as_str(),
                origin(
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                    "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                ),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN what ever  it is\r\n", None),
            ("PROXY UNKNOWN \0\r!\r\n", None),
            (&longest, None),
        ] {
            let bytes = [line.as_bytes(), b"GET"].concat();
            assert_eq!(read(&bytes), Ok(Some((line.len(), expected))), "{line:?}");
            for cut in 0..line.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{line:?} up to {cut}");
            }
        }
    }

    #[test]
    fn malformed_lines_are_not() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 09 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +9 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 1 \r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 9 1\r\n",
            "PROXY TCP4 01.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP4 ::1 ::2 9 1\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP6 ::1%lo ::2 9 1\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY \r\n",
            "PROXY\tTCP4 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 1\n\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9\r1\r\n",
        ] {
            assert!(read(line.as_bytes()).is_err(), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "f".repeat(93));
        assert_eq!(read(&long.as_bytes()[..LINE - 1]), Ok(None));
        assert_eq!(read(&long.as_bytes()[..LINE]), Err(Bad::Line));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"P ",
            b"PROXZ",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\n",
            b"\x16\x03\x01",
        ] {
            assert_eq!(read(bytes), Err(Bad::Beginning));
        }
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn binary_headers_are_read() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0xff, 0xff];
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        let extension = [4, 0, 2, 7, 7];
        let most = vec![0; MOST - FIXED];
        for (bytes, expected) in [
            (header(PROXY, TCP4, &v4), origin("1.2.3.4:9", "5.6.7.8:65535")),
            (
                header(PROXY, TCP4, &[&v4[..], &extension].concat()),
                origin("1.2.3.4:9", "5.6.7.8:65535"),
            ),
            (header(PROXY, TCP6, &v6), origin("[::1]:3", "[::2]:4")),
            // A health check. Its addresses, if any, have no meaning.
            (header(LOCAL, UNSPECIFIED, b""), None),
            (header(LOCAL, TCP4, &v4), None),
            (header(LOCAL, TCP4, b""), None),
            // Unix sockets, UDP, and unspecified addresses.
            (header(PROXY, 0x31, &[0; 216]), None),
            (header(PROXY, 0x12, &v4), None),
            (header(PROXY, UNSPECIFIED, &extension), None),
            (header(PROXY, UNSPECIFIED, &most), None),
        ] {
            let length = bytes.len();
            let with_more = [&bytes[..], b"GET"].concat();
            assert_eq!(read(&with_more), Ok(Some((length, expected))), "{bytes:?}");
            for cut in 0..length {
                assert_eq!(read(&bytes[..cut]), Ok(None));
            }
        }
        for (bytes, why) in [
            (header(PROXY, TCP4, &v4[..11]), Bad::Length),
            (header(PROXY, TCP6, &v6[..35]), Bad::Length),
            (header(PROXY, UNSPECIFIED, &vec![0; MOST - FIXED + 1]), Bad::Length),
            (header(0x22, TCP4, &v4), Bad::Unknown),
            (header(0x11, TCP4, &v4), Bad::Unknown),
            (header(PROXY, 0x41, &v4), Bad::Unknown),
            (header(PROXY, 0x13, &v4), Bad::Unknown),
        ] {
            assert_eq!(read(&bytes), Err(why));
            // The error is found as early as possible.
            assert_eq!(read(&bytes[..FIXED]), Err(why));
        }
    }

    proptest! {
        #[test]
        fn more_bytes_change_nothing_that_was_said(
            start in prop_oneof![
                Just(WORD.to_vec()),
                Just(b"PROXY UNKNOWN ".to_vec()),
                Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
                Just(SIGNATURE.to_vec()),
                Just([&SIGNATURE[..], &[PROXY]].concat()),
                Just(Vec::new()),
            ],
            rest in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(b' '), Just(b'\r'), Just(b'\n'), Just(0)],
                0..120,
            ),
        ) {
            let bytes = [start, rest].concat();
            let whole = read(&bytes);
            if let Ok(Some((length, _))) = whole {
                prop_assert!(length <= bytes.len() && length <= MOST);
            }
            for cut in 0..bytes.len() {
                match read(&bytes[..cut]) {
                    Ok(None) => {}
                    said => prop_assert_eq!(said, whole),
                }
            }
        }
    }
}
