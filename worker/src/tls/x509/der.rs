//! As much of DER (X.690) as is needed to read certificates (`certificate`) and the time in an OCSP
//! response (RFC 6960, 4.2.1).
//!
//! Malformed bytes do no harm, whoever sent them: their values are just not found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A value: its tag, its contents, and all its bytes.
#[derive(Clone, Copy, Debug)]
pub struct DerValue<'d> {
    /// The first byte.
    pub tag: u8,
    /// The bytes after tag and length.
    pub contents: &'d [u8],
    /// All bytes.
    pub whole: &'d [u8],
}

/// A sequence of values.
#[derive(Clone, Copy, Debug)]
pub struct Values<'d>(pub &'d [u8]);

impl<'d> Iterator for Values<'d> {
    type Item = DerValue<'d>;

    fn next(&mut self) -> Option<DerValue<'d>> {
        let (tag, first) = (*self.0.first()?, *self.0.get(1)?);
        let (length, head) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x84 => {
                let bytes = self.0.get(2..2 + usize::from(first & 0x7f))?;
                (
                    bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
                    2 + bytes.len(),
                )
            }
            _ => return None,
        };
        let whole = self.0.get(..head.checked_add(length)?)?;
        self.0 = &self.0[whole.len()..];
        Some(DerValue { tag, contents: &whole[head..], whole })
    }
}

impl<'d> Values<'d> {
    /// The contents of the next value, which must have this tag.
    pub fn inside(&mut self, tag: u8) -> Option<Values<'d>> {
        self.next().filter(|value| value.tag == tag).map(|value| Values(value.contents))
    }
}

/// Tags (X.690, 8).
pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BITS: u8 = 0x03;
pub const OCTETS: u8 = 0x04;
pub const OBJECT: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
pub const CONTEXT_0: u8 = 0xa0;
pub const CONTEXT_3: u8 = 0xa3;

/// A value with this tag and these contents.
pub fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let mut value = vec![tag];
    if length >= 0x80 {
        value.push(0x80 | significant.len() as u8);
    }
    value.extend_from_slice(significant);
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}

/// The content of an OCSP response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ocsp {
    /// It is not an OCSP response, or it reports an error.
    Unusable,
    /// It is valid until this time; none = it gives no time.
    Until(Option<SystemTime>),
}

/// Reads an OCSP response.
pub fn ocsp(response: &[u8]) -> Ocsp {
    next_update(response).map_or(Ocsp::Unusable, Ocsp::Until)
}

fn next_update(response: &[u8]) -> Option<Option<SystemTime>> {
    let mut response = Values(response).inside(SEQUENCE)?;
    let successful =
        response.next().is_some_and(|status| status.tag == ENUMERATED && status.contents == [0]);
    let mut bytes = response.inside(CONTEXT_0).filter(|_| successful)?.inside(SEQUENCE)?;
    let _kind = bytes.next()?;
    let basic = bytes.next().filter(|basic| basic.tag == OCTETS)?;
    let data = Values(basic.contents).inside(SEQUENCE)?.inside(SEQUENCE)?;
    // Version and responder are tagged, and the time of the whole is not a sequence. So the first
    // sequence holds the single responses.
    let mut single =
        Values(data.into_iter().find(|value| value.tag == SEQUENCE)?.contents).inside(SEQUENCE)?;
    let (_certificate, _status) = (single.next()?, single.next()?);
    let _this_update = single.next().filter(|time| time.tag == GENERALIZED_TIME)?;
    let next = single.next().filter(|value| value.tag == CONTEXT_0);
    let Some(next) = next.and_then(|next| Values(next.contents).next()) else { return Some(None) };
    time(next).map(Some)
}

/// A time that is not before 1970.
fn time(value: DerValue<'_>) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds(value)?).ok()?))
}

/// Seconds since 1970 of a time in a certificate (RFC 5280, 4.1.2.5): `YYYYMMDDHHMMSSZ`, or
/// `YYMMDDHHMMSSZ`.
pub fn seconds(value: DerValue<'_>) -> Option<i64> {
    let digits =
        value.contents.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number =
        |digits: &[u8]| digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (value.tag, digits.len()) {
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 50.. => (1900 + year, &digits[2..]),
            year => (2000 + year, &digits[2..]),
        },
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970. Years begin in March, so that a leap day is the last day of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leaps + (month * 153 + 2) / 5 + day - 719_469;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_as_everybody_does() {
        let read =
            |tag, text: &str| seconds(DerValue { tag, contents: text.as_bytes(), whole: &[] });
        for (text, seconds) in [
            ("19700101000000Z", 0),
            ("20000229235959Z", 951_868_799),
            ("20261124041055Z", 1_795_493_455),
            ("21000301000000Z", 4_107_542_400),
            ("19691231235959Z", -1),
        ] {
            assert_eq!(read(GENERALIZED_TIME, text), Some(seconds), "{text}");
        }
        assert_eq!(read(UTC_TIME, "261124041055Z"), Some(1_795_493_455));
        assert_eq!(read(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        for text in
            ["", "Z", "20261124041055", "2026112404105xZ", "20261324041055Z", "261124041055Z"]
        {
            assert_eq!(read(GENERALIZED_TIME, text), None, "{text}");
        }
    }

    #[test]
    fn what_is_wrapped_is_read_again() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x12345] {
            let contents = vec![7; length];
            let value = wrap(SEQUENCE, &[&contents[..length / 2], &contents[length / 2..]]);
            let read = Values(&value).next().unwrap();
            assert!(read.tag == SEQUENCE && read.contents == contents && read.whole == value);
        }
    }

    #[test]
    fn no_bytes_do_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let whole = certificate.der().to_vec();
        for end in 0..whole.len() {
            ocsp(&whole[..end]);
            let mut bent = whole.clone();
            bent[end] = bent[end].wrapping_add(0x7f);
            assert_eq!(ocsp(&bent), Ocsp::Unusable);
        }
        assert_eq!(ocsp(b""), Ocsp::Unusable);
    }
}
