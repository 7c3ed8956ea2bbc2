//! The request: 64 bytes that tell the server what to do. `K....` and decimal numbers, padded with
//! dots.

/// Bytes of a request.
pub const LENGTH: usize = 64;

/// The server's treatment of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Answers and closes.
    Close,
    /// Answers and waits for the next request.
    Keep,
    /// Sends for ever.
    Stream,
    /// Reads for ever.
    Discard,
}

/// A request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// The treatment of the connection.
    pub kind: Kind,
    /// Bytes of the answer.
    pub bytes: usize,
    /// The number of writes for the answer.
    pub pieces: u8,
}

const KINDS: [(u8, Kind); 4] =
    [(b'C', Kind::Close), (b'K', Kind::Keep), (b'S', Kind::Stream), (b'D', Kind::Discard)];

impl Request {
    /// The request as bytes.
    pub fn encode(self) -> [u8; LENGTH] {
        let letter = KINDS
            .iter()
            .find(|(_, kind)| *kind == self.kind)
            .map_or('C', |(letter, _)| char::from(*letter));
        let text = format!("{letter} {} {} ", self.bytes, self.pieces);
        let mut request = [b'.'; LENGTH];
        request[..text.len()].copy_from_slice(text.as_bytes());
        request
    }

    /// The request of these bytes; `None` if they are something else.
    pub fn decode(request: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(request).ok()?;
        let mut words = text.split(' ');
        let letter = *words.next()?.as_bytes().first()?;
        let kind = KINDS.iter().find(|(known, _)| *known == letter)?.1;
        Some(Request {
            kind,
            bytes: words.next()?.parse().ok()?,
            pieces: words.next()?.parse::<u8>().ok()?.max(1),
        })
    }
}
