//! The bytes that an exchange sends and expects, and their text in a command: one word without a
//! space, with escapes.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::grammar::{GrammarError, quoted};

/// From 1 to [`CheckText::MOST`] bytes, any bytes. State and messages have them as their word.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckText(Vec<u8>);

impl CheckText {
    /// Most bytes.
    pub const MOST: usize = 512;

    /// The text of these bytes; `None` if there are none or too many.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<CheckText> {
        let bytes = bytes.into();
        (1..=CheckText::MOST).contains(&bytes.len()).then_some(CheckText(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a word. `\s \r \n \t \\ \xHH` stand for bytes; all other characters stand for themselves,
/// in UTF-8.
impl FromStr for CheckText {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<CheckText, GrammarError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((plain, escape)) = rest.split_once('\\') {
            bytes.extend_from_slice(plain.as_bytes());
            let (byte, length) = escaped(escape).ok_or_else(|| {
                let shown: String = escape.chars().take(3).collect();
                GrammarError(format!(
                    "{} is no escape; there are \\s \\r \\n \\t \\\\ \\xHH",
                    quoted(&format!("\\{shown}"))
                ))
            })?;
            bytes.push(byte);
            rest = &escape[length..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        let length = bytes.len();
        CheckText::new(bytes).ok_or_else(|| {
            GrammarError(format!("a text of {length} bytes; 1 to {} are allowed", CheckText::MOST))
        })
    }
}

/// The byte of an escape, and how many bytes follow its backslash.
fn escaped(escape: &str) -> Option<(u8, usize)> {
    let byte = match escape.bytes().next()? {
        b's' => b' ',
        b'r' => b'\r',
        b'n' => b'\n',
        b't' => b'\t',
        b'\\' => b'\\',
        b'x' => {
            // The parser of the standard library accepts a sign.
            let digits =
                escape.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
            return Some((u8::from_str_radix(digits, 16).ok()?, 3));
        }
        _ => return None,
    };
    Some((byte, 1))
}

/// The word that reads as these bytes. A `#` at the beginning would begin a comment.
impl fmt::Display for CheckText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            match byte {
                b' ' => f.write_str("\\s")?,
                b'\r' => f.write_str("\\r")?,
                b'\n' => f.write_str("\\n")?,
                b'\t' => f.write_str("\\t")?,
                b'\\' => f.write_str("\\\\")?,
                b'#' if place == 0 => f.write_str("\\x23")?,
                byte if byte.is_ascii_graphic() => f.write_char(char::from(*byte))?,
                byte => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for CheckText {
    type Error = GrammarError;

    fn try_from(text: String) -> Result<CheckText, GrammarError> {
        text.parse()
    }
}

impl From<CheckText> for String {
    fn from(text: CheckText) -> String {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_stand_for_bytes() {
        for (text, bytes) in [
            ("PING", b"PING".as_slice()),
            ("a\\sb", b"a b"),
            ("\\r\\n\\t\\\\", b"\r\n\t\\"),
            ("\\x00\\xfF\\x41", b"\0\xffA"),
            ("\\x23a#", b"#a#"),
            ("\u{e9}", b"\xc3\xa9"),
            ("\\\\x41", b"\\x41"),
        ] {
            assert_eq!(text.parse::<CheckText>().unwrap().bytes(), bytes, "{text}");
        }
        for text in ["\\", "a\\", "\\q", "\\x", "\\x4", "\\x+1", "\\xg0", "\\x\u{e9}", "\\\u{e9}"] {
            let why = text.parse::<CheckText>().unwrap_err().to_string();
            assert!(why.contains("is no escape; there are \\s"), "{text}: {why}");
        }
        for (length, good) in [(0, false), (1, true), (512, true), (513, false)] {
            assert_eq!("a".repeat(length).parse::<CheckText>().is_ok(), good, "{length}");
            assert_eq!("\\x00".repeat(length).parse::<CheckText>().is_ok(), good, "{length}");
            assert_eq!(CheckText::new(vec![0; length]).is_some(), good, "{length}");
        }
    }

    #[test]
    fn a_state_holds_the_word_and_refuses_one_that_is_wrong() {
        let text = CheckText::new(*b"# \xff").unwrap();
        let json = serde_json::to_string(&text).unwrap();
        assert_eq!(json, r#""\\x23\\s\\xff""#);
        assert_eq!(serde_json::from_str::<CheckText>(&json).unwrap(), text);
        for wrong in [r#""""#, r#""\\q""#, "[1]"] {
            assert!(serde_json::from_str::<CheckText>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_text_is_printed_as_one_word_that_reads_as_the_same_bytes(
            bytes in vec(any::<u8>(), 1..=CheckText::MOST),
        ) {
            let text = CheckText::new(bytes).unwrap();
            let word = text.to_string();
            prop_assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word}");
            prop_assert!(!word.starts_with('#'), "{word}");
            prop_assert_eq!(word.parse::<CheckText>(), Ok(text));
        }

        #[test]
        fn no_word_panics(word in "(\\\\x?|[0-9a-f]|\\PC){0,20}") {
            if let Ok(text) = word.parse::<CheckText>() {
                prop_assert_eq!(text.to_string().parse::<CheckText>(), Ok(text));
            }
        }
    }
}
