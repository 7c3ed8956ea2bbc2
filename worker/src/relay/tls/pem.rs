//! PEM files of many tools: the labels that OpenSSL accepts beyond RFC 7468, and the byte order
//! marks of editors.

use zeroize::Zeroizing;

/// The text with the labels of RFC 7468 instead of OpenSSL's others, and without byte order marks.
/// UTF-16 text, as Windows writes it, becomes ASCII. The new buffer never grows, which would leave
/// copies of a key behind.
pub fn usual(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let bytes = match bytes.get(..2) {
        Some([0xff, 0xfe]) => narrow(&bytes[2..], 0),
        Some([0xfe, 0xff]) => narrow(&bytes[2..], 1),
        _ => bytes,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // Each of several concatenated files has a mark.
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        let boundary = [&b"-----BEGIN "[..], b"-----END "]
            .into_iter()
            .find(|boundary| line.starts_with(boundary));
        match boundary.map(|boundary| line.split_at(boundary.len())) {
            Some((boundary, label)) => {
                text.extend_from_slice(boundary);
                let other = OTHERS.iter().find_map(|other| label.strip_prefix(*other));
                match other {
                    Some(rest) => [&b"CERTIFICATE"[..], rest]
                        .iter()
                        .for_each(|part| text.extend_from_slice(part)),
                    None => text.extend_from_slice(label),
                }
            }
            None => text.extend_from_slice(line),
        }
    }
    text
}

/// Every second byte, from this one on.
fn narrow(bytes: &[u8], from: usize) -> Zeroizing<Vec<u8>> {
    let mut narrow = Zeroizing::new(Vec::with_capacity(bytes.len() / 2 + 1));
    narrow.extend(bytes.iter().skip(from).step_by(2));
    narrow
}

/// Other labels that OpenSSL accepts for certificates (PEM_STRING_X509_OLD,
/// PEM_STRING_X509_TRUSTED).
const OTHERS: [&[u8]; 2] = [b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"];

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &[u8]) -> Vec<u8> {
        usual(Zeroizing::new(text.to_vec())).to_vec()
    }

    #[test]
    fn labels_become_the_usual_ones_and_marks_vanish() {
        let usual =
            b"-----BEGIN CERTIFICATE-----\r\nMA==\r\n-----END CERTIFICATE-----\r\n".to_vec();
        for label in ["X509 CERTIFICATE", "TRUSTED CERTIFICATE", "CERTIFICATE"] {
            let text =
                format!("\u{feff}-----BEGIN {label}-----\r\nMA==\r\n-----END {label}-----\r\n");
            assert_eq!(made(text.as_bytes()), usual, "{label}");
            let wide = |bytes: fn(u16) -> [u8; 2]| {
                text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
            };
            assert_eq!(made(&wide(u16::to_le_bytes)), usual, "{label}");
            assert_eq!(made(&wide(u16::to_be_bytes)), usual, "{label}");
        }
        let key = b"-----BEGIN EC PRIVATE KEY-----\nx\n-----END EC PRIVATE KEY-----".to_vec();
        assert_eq!(made(&key), key);
        for length in 0..4 {
            made(&b"\xef\xbb\xbf\xff"[..length]);
            made(&b"\xff\xfe\x2d\x00"[..length]);
        }
    }
}
