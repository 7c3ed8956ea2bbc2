//! Names and object identifiers in certificates, as text.

use crate::tls::x509::der::{DerValue, SEQUENCE, SET, Values};

/// A name as text (RFC 4514, in the certificate's order), safe for a terminal: unprintable
/// characters are escaped, and a long name is cut.
pub fn name(encoded: &[u8]) -> String {
    let sets = Values(encoded).inside(SEQUENCE).into_iter().flatten().filter(|set| set.tag == SET);
    let mut text = String::new();
    for pair in sets.flat_map(|set| Values(set.contents)) {
        let mut parts = Values(pair.contents);
        let (Some(id), Some(value)) = (parts.next(), parts.next()) else { continue };
        if !text.is_empty() {
            text.push_str(", ");
        }
        let known = ATTRIBUTES.iter().find(|(known, _)| *known == id.contents);
        text.push_str(&known.map_or_else(|| object(id.contents), |(_, word)| (*word).to_owned()));
        text.push('=');
        for letter in letters(value).chars() {
            match letter {
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => text.extend(['\\', letter]),
                letter if letter == '\'' || letter.escape_debug().count() == 1 => text.push(letter),
                letter => text.extend(letter.escape_debug()),
            }
        }
        if text.len() > LONGEST_NAME {
            let end = (0..=LONGEST_NAME).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            return text + "...";
        }
    }
    text
}

fn letters(value: DerValue<'_>) -> String {
    match value.tag {
        // BMPString: two bytes for each letter.
        0x1e => {
            let pairs: Vec<u16> = value
                .contents
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                .collect();
            String::from_utf16_lossy(&pairs)
        }
        // TeletexString: Latin 1 in practice.
        0x14 => value.contents.iter().map(|byte| char::from(*byte)).collect(),
        _ => String::from_utf8_lossy(value.contents).into_owned(),
    }
}

/// An object identifier in numbers, of at most `LONGEST_OBJECT` bytes.
pub fn object(id: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0_u64;
    for byte in id.iter().take(LONGEST_OBJECT) {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            match numbers.is_empty() {
                true => {
                    let first = (number / 40).min(2);
                    numbers.extend([first, number - first * 40]);
                }
                false => numbers.push(number),
            }
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Most bytes of an object identifier that are shown.
const LONGEST_OBJECT: usize = 24;

/// Most bytes of a name that are shown.
pub const LONGEST_NAME: usize = 200;

/// Attributes of names, and their short names (RFC 4519; RFC 2985 for emailAddress).
const ATTRIBUTES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];
