//! Where an HTTP/1.1 message body ends (RFC 9112, 6 and 7.1): a length is counted down, or chunks
//! are followed byte by byte.
//!
//! Pure, and strict on purpose. If a parser reads a body more generously than the server behind it,
//! one of them takes data for a request. So everything that parsers are known to read differently
//! is an error here: line ends without CR, chunk sizes with signs, prefixes or too many digits, and
//! malformed trailer lines.

use pen_ipc::refusal::Refusal;

/// Most bytes of a chunk's line after its size.
const EXTENSION: u16 = 8 * 1024;

/// Most bytes of all trailer lines of a message.
const TRAILERS: u32 = 64 * 1024;

/// Most digits of a chunk size: as many as 60 bits hold.
const DIGITS: u8 = 15;

/// A body, and how much of it is still to come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks (`Transfer-Encoding: chunked`).
    Chunked(Chunked),
}

/// The position of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chunked {
    at: BodyPosition,
    whose: Whose,
    /// Bytes of trailer lines so far.
    trailers: u32,
}

/// Who sends the body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Whose {
    /// The client, in a request: it is read strictly. Its trailers are not followed here but
    /// rebuilt.
    Client,
    /// The server, in an answer.
    Server,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BodyPosition {
    /// In a chunk's size.
    Size { size: u64, digits: u8 },
    /// After the size, where white space may stand before a `;`.
    Behind { size: u64, left: u16 },
    /// In the extensions.
    Extension { size: u64, left: u16 },
    /// Before the LF of a chunk's line.
    LineFeed { size: u64 },
    /// In the data.
    Data { left: u64 },
    /// Before the CR after the data.
    DataReturn,
    /// Before the LF after the data.
    DataLineFeed,
    /// Before a trailer line, or the empty line that ends the body.
    Trailer,
    /// In a trailer's name.
    Name,
    /// In a trailer's value.
    Value,
    /// Before the LF of a trailer line.
    TrailerLineFeed,
    /// Before the last LF of all.
    LastLineFeed,
    /// After the end.
    Over,
}

impl Body {
    /// A request's chunked body at its start.
    pub fn chunked() -> Body {
        Body::from_start(Whose::Client)
    }

    /// An answer's chunked body at its start.
    pub fn chunked_answer() -> Body {
        Body::from_start(Whose::Server)
    }

    fn from_start(whose: Whose) -> Body {
        Body::Chunked(Chunked { at: BodyPosition::Size { size: 0, digits: 0 }, whose, trailers: 0 })
    }

    /// Whether only the trailer section of a request's body is missing, and that section is not
    /// empty.
    pub fn is_before_trailers(&self) -> bool {
        matches!(
            self,
            Body::Chunked(Chunked { at: BodyPosition::Trailer, whose: Whose::Client, .. })
        )
    }

    /// Follows the body through `input`. Returns how many bytes from the start of `input` belong to
    /// it.
    ///
    /// # Errors
    /// The body cannot be followed: how many bytes of `input` were valid, and why the next is not.
    pub fn follow(&mut self, input: &[u8]) -> Result<usize, (usize, Refusal)> {
        match self {
            Body::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Body::Chunked(chunked) => chunked.follow(input),
        }
    }

    /// Whether the whole body has come.
    pub fn is_over(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunked) => chunked.at == BodyPosition::Over,
        }
    }

    /// The number of bytes that certainly come next in it, whatever their values.
    pub fn certain(&self) -> u64 {
        match self {
            Body::Length(left) | Body::Chunked(Chunked { at: BodyPosition::Data { left }, .. }) => {
                *left
            }
            Body::Chunked(_) => 0,
        }
    }

    /// Skips this many of the [certain](Body::certain) bytes unseen.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Body::Length(left) => *left = left.saturating_sub(bytes),
            Body::Chunked(chunked) => {
                if let BodyPosition::Data { left } = chunked.at {
                    chunked.at = after_data(left.saturating_sub(bytes));
                }
            }
        }
    }
}

impl Chunked {
    fn follow(&mut self, input: &[u8]) -> Result<usize, (usize, Refusal)> {
        let mut taken = 0;
        while taken < input.len() && self.at != BodyPosition::Over {
            if self.at == BodyPosition::Trailer && self.whose == Whose::Client {
                if input[taken..].starts_with(b"\r\n") {
                    (self.at, taken) = (BodyPosition::Over, taken + 2);
                }
                break;
            }
            if let BodyPosition::Data { left } = self.at {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - taken);
                self.at = after_data(left - step as u64);
                taken += step;
            } else {
                self.at = self.next(input[taken]).map_err(|why| (taken, why))?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    /// The state after a byte outside the data.
    fn next(&mut self, byte: u8) -> Result<BodyPosition, Refusal> {
        if let BodyPosition::Trailer
        | BodyPosition::Name
        | BodyPosition::Value
        | BodyPosition::TrailerLineFeed
        | BodyPosition::LastLineFeed = self.at
        {
            return self.trailer(byte);
        }
        Ok(match (self.at, byte) {
            (BodyPosition::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < DIGITS =>
            {
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                BodyPosition::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (
                BodyPosition::Size { digits: DIGITS.., .. },
                b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F',
            ) => {
                return Err(Refusal::TooLarge);
            }
            (BodyPosition::Size { digits: 0, .. }, _) => return Err(Refusal::Chunk),
            (BodyPosition::Size { size, .. } | BodyPosition::Extension { size, .. }, b'\r') => {
                BodyPosition::LineFeed { size }
            }
            // Some servers fill the line up with spaces, so an answer may have them.
            (BodyPosition::Behind { size, .. }, b'\r') if self.whose == Whose::Server => {
                BodyPosition::LineFeed { size }
            }
            (BodyPosition::Size { size, .. }, b' ' | b'\t') => {
                BodyPosition::Behind { size, left: EXTENSION }
            }
            (BodyPosition::Size { size, .. }, b';') => {
                BodyPosition::Extension { size, left: EXTENSION }
            }
            (BodyPosition::Behind { size, left: left @ 1.. }, b' ' | b'\t') => {
                BodyPosition::Behind { size, left: left - 1 }
            }
            (BodyPosition::Behind { size, left }, b';') => BodyPosition::Extension { size, left },
            (BodyPosition::Extension { size, left: left @ 1.. }, b'\t' | b' '..=b'~') => {
                BodyPosition::Extension { size, left: left - 1 }
            }
            (
                BodyPosition::Size { .. }
                | BodyPosition::Behind { .. }
                | BodyPosition::Extension { .. },
                _,
            ) => {
                return Err(Refusal::Chunk);
            }
            (BodyPosition::LineFeed { size: 0 }, b'\n') => BodyPosition::Trailer,
            (BodyPosition::LineFeed { size }, b'\n') => BodyPosition::Data { left: size },
            (BodyPosition::LineFeed { .. }, _) => return Err(Refusal::Chunk),
            (BodyPosition::DataReturn, b'\r') => BodyPosition::DataLineFeed,
            (BodyPosition::DataLineFeed, b'\n') => BodyPosition::Size { size: 0, digits: 0 },
            (_, _) => return Err(Refusal::Chunk),
        })
    }

    /// The state after a byte behind the last chunk. A trailer line must be a valid field:
    /// otherwise the server could read a request there.
    fn trailer(&mut self, byte: u8) -> Result<BodyPosition, Refusal> {
        self.trailers += 1;
        if self.trailers > TRAILERS {
            return Err(Refusal::Trailer);
        }
        Ok(match (self.at, byte) {
            (BodyPosition::Trailer, b'\r') => BodyPosition::LastLineFeed,
            (BodyPosition::Trailer | BodyPosition::Name, byte) if is_token(byte) => {
                BodyPosition::Name
            }
            (BodyPosition::Name, b':') => BodyPosition::Value,
            (BodyPosition::Value, b'\r') => BodyPosition::TrailerLineFeed,
            (BodyPosition::Value, byte) if is_text(byte) => BodyPosition::Value,
            (BodyPosition::TrailerLineFeed, b'\n') => BodyPosition::Trailer,
            (BodyPosition::LastLineFeed, b'\n') => BodyPosition::Over,
            (_, _) => return Err(Refusal::Trailer),
        })
    }
}

fn after_data(left: u64) -> BodyPosition {
    if left == 0 { BodyPosition::DataReturn } else { BodyPosition::Data { left } }
}

/// A byte of a token (RFC 9110, 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field's value: visible, white space, or beyond ASCII (RFC 9110, 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many bytes of the input the body has, or where and why it cannot be followed; none if it
    /// is not complete.
    fn whole(input: &[u8]) -> Result<Option<usize>, (usize, Refusal)> {
        let mut body = Body::chunked_answer();
        body.follow(input).map(|taken| body.is_over().then_some(taken))
    }

    #[test]
    fn chunks_end_where_they_say() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5\r\n0\r\n\r\n\r\n0\r\n\r\n",
            "A;name=value;other=\"x y\"\r\n0123456789\r\n000\r\n\r\n",
            "a \t ;x\r\n0123456789\r\n0\r\n\r\n",
            "1\r\n\n\r\n00;\r\n\r\n",
        ] {
            let mut input = body.as_bytes().to_vec();
            input.extend(b"GET / HTTP/1.1\r\n");
            assert_eq!(whole(&input), Ok(Some(body.len())), "{body:?}");
            for cut in 0..body.len() {
                assert_eq!(whole(&body.as_bytes()[..cut]), Ok(None), "{body:?} up to {cut}");
            }
        }
    }

    #[test]
    fn what_parsers_read_differently_is_an_error() {
        for (body, good, why) in [
            ("\r\n", 0, Refusal::Chunk),
            ("g\r\n", 0, Refusal::Chunk),
            ("-1\r\n", 0, Refusal::Chunk),
            ("+1\r\n", 0, Refusal::Chunk),
            (" 1\r\n", 0, Refusal::Chunk),
            (";x\r\n", 0, Refusal::Chunk),
            ("0x5\r\n", 1, Refusal::Chunk),
            ("5\nhello", 1, Refusal::Chunk),
            ("5 5\r\n", 2, Refusal::Chunk),
            ("5;x\ny\r\n", 3, Refusal::Chunk),
            ("5;x\ry\r\n", 4, Refusal::Chunk),
            ("5;\0\r\n", 2, Refusal::Chunk),
            ("5\r\r\n", 2, Refusal::Chunk),
            ("0000000000000000\r\n", 15, Refusal::TooLarge),
            ("fffffffffffffffff\r\n", 15, Refusal::TooLarge),
            ("1\r\nxx\r\n", 4, Refusal::Chunk),
            ("1\r\nx\n", 4, Refusal::Chunk),
            ("1\r\nx\rx", 5, Refusal::Chunk),
            ("0\r\n\n", 3, Refusal::Trailer),
            ("0\r\n\r\r", 4, Refusal::Trailer),
            ("0\r\nGET /x:y HTTP/1.1\r\n\r\n", 6, Refusal::Trailer),
            ("0\r\nX: a\r\n y\r\n\r\n", 9, Refusal::Trailer),
            ("0\r\nX: a\n\r\n", 7, Refusal::Trailer),
            ("0\r\nX : a\r\n", 4, Refusal::Trailer),
        ] {
            assert_eq!(whole(body.as_bytes()), Err((good, why)), "{body:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(EXTENSION.into()));
        assert_eq!(whole(long.as_bytes()), Ok(None));
        let long = format!("1;{}\r\n", "x".repeat(usize::from(EXTENSION) + 1));
        assert!(whole(long.as_bytes()).is_err());
        let endless = format!("0\r\nX: {}", "x".repeat(TRAILERS as usize));
        assert_eq!(whole(endless.as_bytes()), Err((3 + TRAILERS as usize, Refusal::Trailer)));
    }

    #[test]
    fn a_request_is_read_more_strictly_and_its_trailers_are_left() {
        let mut body = Body::chunked();
        assert_eq!(body.follow(b"5 \r\n"), Err((2, Refusal::Chunk)));
        let mut body = Body::chunked();
        assert_eq!(body.follow(b"1;x=\x85\r\n"), Err((4, Refusal::Chunk)));
        let mut body = Body::chunked();
        assert_eq!(
            (body.follow(b"1\r\nx\r\n0\r\nX: y\r\n\r\n"), body.is_before_trailers()),
            (Ok(9), true)
        );
        let mut body = Body::chunked();
        assert_eq!((body.follow(b"0\r\n\r"), body.is_before_trailers()), (Ok(3), true));
        let mut body = Body::chunked();
        assert_eq!((body.follow(b"0\r\n\r\nGET"), body.is_over()), (Ok(5), true));
    }

    #[test]
    fn bytes_that_are_certain_need_not_be_seen() {
        let mut body = Body::chunked_answer();
        assert_eq!((body.follow(b"10\r\nab"), body.certain()), (Ok(6), 14));
        body.skip(13);
        assert_eq!((body.certain(), body.follow(b"x\r\n0\r\n\r\n")), (1, Ok(8)));
        assert!(body.is_over() && body.certain() == 0);
        let mut body = Body::chunked_answer();
        assert_eq!(body.follow(b"2\r\n"), Ok(3));
        body.skip(2);
        assert_eq!((body.certain(), body.follow(b"\r\n")), (0, Ok(2)));
        let mut body = Body::Length(7);
        body.skip(5);
        assert_eq!((body.certain(), body.follow(b"xxx"), body.is_over()), (2, Ok(2), true));
    }

    proptest! {
        #[test]
        fn every_split_says_the_same(input in "([0-9a-fA-F]{1,2}|\r\n|\r|\n|;x=1|[ \
            -~]{0,9}|0\r\n|X: y\r\n){0,12}", cuts in prop::collection::vec(0usize..64, 0..6)) {
            let input = input.as_bytes();
            let mut whole = Body::chunked_answer();
            let expected = whole.follow(input);
            let cuts = cuts.into_iter().map(|cut| cut.min(input.len()));
            let mut cuts: Vec<usize> = cuts.chain([0, input.len()]).collect();
            cuts.sort_unstable();
            let (mut body, mut taken, mut found) = (Body::chunked_answer(), 0, None);
            for piece in cuts.windows(2) {
                match body.follow(&input[piece[0]..piece[1]]) {
                    Ok(n) => {
                        taken += n;
                        if body.is_over() { break }
                    }
                    Err((good, why)) => {
                        found = Some((taken + good, why));
                        break;
                    }
                }
            }
            prop_assert_eq!(found.map_or(Ok(taken), Err), expected);
        }

        #[test]
        fn encoded_chunks_decode(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend(format!("{:x}\r\n", chunk.len()).bytes());
                input.extend(chunk);
                input.extend(b"\r\n");
            }
            input.extend(b"0\r\n\r\n");
            let length = input.len();
            input.extend(rest);
            prop_assert_eq!(whole(&input), Ok(Some(length)));
        }
    }
}
