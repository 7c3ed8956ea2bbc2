//! As much of DER (X.690) as it takes to read a name out of a certificate (RFC 5280, 4.1) and a time out of an OCSP response (RFC 6960, 4.2.1).
//!
//! The bytes come from the administrator's files; none that are malformed do harm, they are just not found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A value: its tag, its contents, and all of it.
#[derive(Clone, Copy)]
struct Value<'d> {
    tag: u8,
    contents: &'d [u8],
    whole: &'d [u8],
}

/// Values one behind the other.
#[derive(Clone, Copy)]
struct Values<'d>(&'d [u8]);

impl<'d> Iterator for Values<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Value<'d>> {
        let (tag, first) = (*self.0.first()?, *self.0.get(1)?);
        let (length, head) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x84 => {
                let bytes = self.0.get(2..2 + usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes.len())
            }
            _ => return None,
        };
        let whole = self.0.get(..head.checked_add(length)?)?;
        self.0 = &self.0[whole.len()..];
        Some(Value { tag, contents: &whole[head..], whole })
    }
}

impl<'d> Values<'d> {
    /// What is inside the next value, which must have this tag.
    fn inside(&mut self, tag: u8) -> Option<Values<'d>> {
        self.next().filter(|value| value.tag == tag).map(|value| Values(value.contents))
    }
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;

/// Whose a certificate is and who gave it, as encoded names: subject and issuer.
pub fn names(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Values(certificate).inside(SEQUENCE)?.inside(SEQUENCE)?;
    let mut ahead = fields;
    if ahead.next()?.tag == CONTEXT_0 {
        // The version, which is there unless it is 1.
        fields = ahead;
    }
    fields.next().filter(|serial| serial.tag == INTEGER)?;
    let _algorithm = fields.next()?;
    let issuer = fields.next()?.whole;
    let _validity = fields.next()?;
    Some((fields.next()?.whole, issuer))
}

/// What is in an OCSP response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ocsp {
    /// It is none, or says that there is none.
    Unusable,
    /// Until when it is good; none = it does not say.
    Until(Option<SystemTime>),
}

/// Looks into an OCSP response.
pub fn ocsp(response: &[u8]) -> Ocsp {
    next_update(response).map_or(Ocsp::Unusable, Ocsp::Until)
}

fn next_update(response: &[u8]) -> Option<Option<SystemTime>> {
    let mut response = Values(response).inside(SEQUENCE)?;
    let successful = response.next().is_some_and(|status| status.tag == ENUMERATED && status.contents == [0]);
    let mut bytes = response.inside(CONTEXT_0).filter(|_| successful)?.inside(SEQUENCE)?;
    let _kind = bytes.next()?;
    let basic = bytes.next().filter(|basic| basic.tag == OCTETS)?;
    let data = Values(basic.contents).inside(SEQUENCE)?.inside(SEQUENCE)?;
    // Version and responder are tagged, the time of the whole is no sequence: the first sequence holds the single responses.
    let mut single = Values(data.into_iter().find(|value| value.tag == SEQUENCE)?.contents).inside(SEQUENCE)?;
    let (_certificate, _status) = (single.next()?, single.next()?);
    let _this_update = single.next().filter(|time| time.tag == GENERALIZED_TIME)?;
    let next = single.next().filter(|value| value.tag == CONTEXT_0);
    let Some(next) = next.and_then(|next| Values(next.contents).next()) else { return Some(None) };
    time(next.contents).map(Some)
}

/// `YYYYMMDDHHMMSSZ`.
fn time(text: &[u8]) -> Option<SystemTime> {
    let digits =
        text.strip_suffix(b"Z").filter(|digits| digits.len() == 14 && digits.iter().all(u8::is_ascii_digit))?;
    let number =
        |from: usize, to: usize| digits[from..to].iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970 with years that begin in March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    let seconds = days.checked_sub(719_469)? * 86_400 + number(8, 10) * 3600 + number(10, 12) * 60 + number(12, 14);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_as_everybody_does() {
        for (text, seconds) in [
            ("19700101000000Z", 0),
            ("20000229235959Z", 951_868_799),
            ("20261124041055Z", 1_795_493_455),
            ("21000301000000Z", 4_107_542_400),
        ] {
            assert_eq!(time(text.as_bytes()), Some(UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "Z", "20261124041055", "2026112404105xZ", "20261324041055Z", "19691231235959Z"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_says_whose_it_is() {
        let authority = rcgen::CertificateParams::new(vec![]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = authority.self_signed(&key).unwrap();
        let (subject, issuer) = names(certificate.der()).unwrap();
        assert!(subject == issuer && subject[0] == SEQUENCE);
    }

    #[test]
    fn no_bytes_do_harm() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let whole = certificate.der().to_vec();
        for end in 0..whole.len() {
            names(&whole[..end]);
            ocsp(&whole[..end]);
            let mut bent = whole.clone();
            bent[end] = bent[end].wrapping_add(0x7f);
            names(&bent);
            assert_eq!(ocsp(&bent), Ocsp::Unusable);
        }
        assert_eq!(ocsp(b""), Ocsp::Unusable);
    }
}
