//! PEM files of many tools: the labels that OpenSSL accepts beyond RFC 7468, the byte order marks
//! of editors, and what is wrong with other files.

use rustls::pki_types::pem as rfc7468;
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

/// Why a file has no `what`, and the openssl(1) command that corrects it.
pub fn not_pem(path: &str, bytes: &[u8], what: &str, word: &str) -> String {
    // A PFX (RFC 7292) begins with a version and the type of its content, data
    // (1.2.840.113549.1.7.1).
    const DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    let head = &bytes[..bytes.len().min(64)];
    match bytes.first() {
        Some(0x30) if head.windows(DATA.len()).any(|window| window == DATA) => format!(
            "{path}: this is PKCS#12, not PEM; make PEM of it, certificates and key in one: \
             openssl pkcs12 -in {path} -nodes -out {path}.pem"
        ),
        Some(0x30) => format!(
            "{path}: there is no {what} (PEM) in it, but DER; make PEM of it: \
             openssl {word} -inform DER -in {path} -out {path}.pem"
        ),
        Some(_) | None => format!("{path}: there is no {what} (PEM) in it"),
    }
}

/// What is wrong with a PEM file. It shows no byte of the file: that may be a byte of a key.
pub fn pem_reason(error: &rfc7468::Error) -> &'static str {
    match error {
        rfc7468::Error::MissingSectionEnd { .. } => "a section (PEM) has no end",
        rfc7468::Error::IllegalSectionStart { .. } => {
            "a section (PEM) begins with a line that is broken"
        }
        rfc7468::Error::Base64Decode(_) => "a section (PEM) is not in base 64",
        _ => "it is not in order (PEM)",
    }
}

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
