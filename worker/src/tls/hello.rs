//! The client's first message (ClientHello, RFC 8446, 4.1.2): the requested server name (RFC 6066,
//! 3), and its position.
//!
//! The bytes are untrusted. rustls reads them again and reports what is wrong with them.

use std::ops::Range;

use rustls::pki_types::ServerName;

/// The content of the first records.
#[derive(Debug, Eq, PartialEq)]
pub enum Hello {
    /// The hello is not complete yet.
    Incomplete,
    /// It is not a hello, or rustls will find an error in it.
    Other,
    /// It requests no name, or an address.
    Nameless,
    /// It requests this name.
    For(String),
    /// It requests a name that is not valid. The offsets, in the records, of the two bytes that
    /// give the type of the server name extension.
    Illegal([usize; 2]),
}

/// Reads the first records of a client, or the first after a HelloRetryRequest.
pub fn look(records: &[u8]) -> Hello {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    let mut length = 0;
    loop {
        let Some(head) = records.get(at..at + RECORD_HEAD) else {
            let begun = records.get(at..).unwrap_or_default();
            return if fits(begun) { Hello::Incomplete } else { Hello::Other };
        };
        if !fits(head) {
            return Hello::Other;
        }
        let size = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let piece = at + RECORD_HEAD..at + RECORD_HEAD + size;
        at = piece.end;
        match (head[0], pieces.is_empty()) {
            // Sent for the sake of middleboxes (RFC 8446, D.4).
            (CHANGE_CIPHER_SPEC, true) if size == 1 => continue,
            (HANDSHAKE, _) if (1..=LONGEST_RECORD).contains(&size) => {}
            _ => return Hello::Other,
        }
        if records.len() < piece.end {
            return Hello::Incomplete;
        }
        length += size;
        pieces.push(piece);
        if let [piece] = &pieces[..]
            && let Some(found) = whole(&records[piece.clone()])
        {
            return found
                .map_or(Hello::Other, |message| name(message, |offset| piece.start + offset));
        }
        if pieces.len() > 1 {
            let joined: Vec<u8> =
                pieces.iter().flat_map(|piece| &records[piece.clone()]).copied().collect();
            if let Some(found) = whole(&joined) {
                return found.map_or(Hello::Other, |message| {
                    name(message, |offset| record_offset(&pieces, offset))
                });
            }
        }
        if length > LONGEST {
            return Hello::Other;
        }
    }
}

/// Whether this can be the start of a handshake record.
fn fits(head: &[u8]) -> bool {
    head.first().is_none_or(|kind| matches!(*kind, HANDSHAKE | CHANGE_CIPHER_SPEC))
        && head.get(1).is_none_or(|major| *major == 3)
}

/// The message if it is complete; none if it is not, and Some(None) if it is not a hello.
fn whole(bytes: &[u8]) -> Option<Option<&[u8]>> {
    let [kind, rest @ ..] = bytes else { return None };
    if *kind != CLIENT_HELLO {
        return Some(None);
    }
    let [high, middle, low, ..] = *rest else { return None };
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    match (length > LONGEST, bytes.get(..MESSAGE_HEAD + length)) {
        (true, _) => Some(None),
        (false, message) => message.map(Some),
    }
}

/// The offset in the records of a byte of the message.
fn record_offset(pieces: &[Range<usize>], mut offset: usize) -> usize {
    for piece in pieces {
        if offset < piece.len() {
            return piece.start + offset;
        }
        offset -= piece.len();
    }
    0
}

/// What a complete hello requests. `record_offset` converts an offset of the message to one in the
/// records.
fn name(message: &[u8], record_offset: impl Fn(usize) -> usize) -> Hello {
    let mut found = Hello::Nameless;
    let Some(extensions) = Extensions::of(message) else { return Hello::Other };
    for (kind, at, contents) in extensions {
        match kind {
            // It could not be told from the type that `transcript` writes instead.
            STAND_IN => return Hello::Other,
            SERVER_NAME => {
                // One name of the only kind: rustls judges any other list.
                let Some((list, [])) = long(contents) else { return Hello::Other };
                let Some((0, rest)) = list.split_first().map(|(kind, rest)| (*kind, rest)) else {
                    return Hello::Other;
                };
                let Some((text, [])) = long(rest) else { return Hello::Other };
                if text.is_empty() {
                    return Hello::Other;
                }
                found = match ServerName::try_from(text) {
                    Ok(ServerName::DnsName(name)) => Hello::For(name.as_ref().to_owned()),
                    Ok(_) => Hello::Nameless,
                    Err(_) => Hello::Illegal([record_offset(at), record_offset(at + 1)]),
                };
            }
            _ => {}
        }
    }
    found
}

/// Bytes after their length of two bytes, and the rest.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Bytes after their length of one byte, and the rest.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// The extensions of a hello, as far as they are present: the type, its offset in the message, and
/// the contents.
pub struct Extensions<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Extensions<'m> {
    /// The extensions of a message that begins as a hello. A transcript hash may cut the message
    /// after the last extension but one.
    pub fn of(message: &'m [u8]) -> Option<Extensions<'m>> {
        let rest = message.strip_prefix(&[CLIENT_HELLO])?;
        let rest = rest.get(MESSAGE_HEAD - 1 + VERSION_AND_RANDOM..)?;
        let (_session, rest) = short(rest)?;
        let (_suites, rest) = long(rest)?;
        let (_compressions, rest) = short(rest)?;
        // After the length of all extensions, if there are any.
        let at = message.len() - rest.len() + 2;
        Some(Extensions { message, at })
    }
}

impl<'m> Iterator for Extensions<'m> {
    type Item = (u16, usize, &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let (kind, rest) = self.message.get(at..)?.split_first_chunk()?;
        let (contents, _) = long(rest)?;
        self.at = at + 4 + contents.len();
        Some((u16::from_be_bytes(*kind), at, contents))
    }
}

const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;
const VERSION_AND_RANDOM: usize = 34;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// The extension that holds a server name.
pub const SERVER_NAME: u16 = 0;

/// An extension type for private use (RFC 8446, 11) that rustls does not know.
pub const STAND_IN: u16 = 0xff7e;

/// Longest plain text of a record, in bytes (RFC 8446, 5.1).
const LONGEST_RECORD: usize = 1 << 14;

/// Longest hello, in bytes, that rustls accepts.
const LONGEST: usize = 0xffff;

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello that requests this name, in records of at most `most` bytes.
    pub fn records(name: &[u8], most: usize) -> Vec<u8> {
        let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let list = long(&[&[0][..], &long(name)].concat());
        let extensions =
            [&[0, 10][..], &long(&[0, 2, 0, 29]), &[0, 0], &long(&list), &[0, 23], &long(&[])]
                .concat();
        let body =
            [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
        let message = [&[1, 0][..], &long(&body)].concat();
        message.chunks(most).flat_map(|piece| [&[22, 3, 1][..], &long(piece)].concat()).collect()
    }

    #[test]
    fn names_are_found_and_what_is_no_name_is_found_where_it_is() {
        for most in [1, 2, 3, 7, 50, 16384] {
            assert_eq!(look(&records(b"www.example", most)), Hello::For("www.example".into()));
            assert_eq!(look(&records(b"192.0.2.1", most)), Hello::Nameless);
            for text in [
                "web01-",
                "1.2.3",
                "a.test:443",
                "b\u{fc}cher.example",
                "a..b",
                "-",
                " ",
                "*.example",
            ] {
                let records = records(text.as_bytes(), most);
                let Hello::Illegal([high, low]) = look(&records) else {
                    panic!("{text}: {:?}", look(&records))
                };
                assert_eq!((records[high], records[low]), (0, 0));
                let mut stood_in = records.clone();
                [stood_in[high], stood_in[low]] = STAND_IN.to_be_bytes();
                assert_eq!(look(&stood_in), Hello::Other);
            }
        }
    }

    #[test]
    fn a_part_is_waited_for_and_what_is_no_hello_is_not() {
        let whole = records(b"web01-", 40);
        for end in 0..whole.len() {
            assert_eq!(look(&whole[..end]), Hello::Incomplete, "{end}");
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[end] ^= 1 << bit;
                look(&bent);
            }
        }
        for text in [
            b"GET / HTTP/1.0\r\n" as &[u8],
            b"\x16\x02",
            b"\x16\x03\x01\x00\x05\x02\x00\x00\x00\x00",
        ] {
            assert_eq!(look(text), Hello::Other);
        }
        assert_eq!(look(&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Hello::Incomplete);
        assert_eq!(look(&[0x16, 3, 1, 0x40, 1, 1]), Hello::Other);
        // Such a record has only one byte; a longer one is not waited for.
        assert_eq!(look(&[0x14, 3, 0x79, 0x80, 0xd6, 0xf9]), Hello::Other);
        assert!(matches!(look(&[&[20, 3, 3, 0, 1, 1][..], &whole].concat()), Hello::Illegal(_)));
    }
}
