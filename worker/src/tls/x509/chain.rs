//! The chain of a server's certificate: whether key and order are right, and what completes it.

use pen_ipc::tls_files::Part;
use rustls::pki_types::CertificateDer;
use rustls::sign::SigningKey;

use crate::tls::x509::certificate::Certificate;
use crate::tls::x509::signing::Key;

/// Checks that the first certificate, which is the server's own, matches this key.
///
/// # Errors
/// The file and what is wrong with it.
pub fn matches(
    chain: &[CertificateDer<'_>],
    key: &Key,
    part: &Part,
    key_part: &Part,
) -> Result<(), String> {
    let public = key
        .public_key()
        .ok_or_else(|| format!("{}: the private key cannot be used", key_part.path))?;
    let has = |certificate: &CertificateDer<'_>| {
        Certificate::read(certificate).map(|read| read.has_key(&public))
    };
    match chain.first().map(has) {
        Some(Some(true)) => Ok(()),
        None | Some(None) => {
            Err(format!("{}: the first certificate in it is not in order (X.509)", part.path))
        }
        Some(Some(false)) => {
            Err(match chain.iter().position(|certificate| has(certificate) == Some(true)) {
                Some(position) => format!(
                    "{path}: the key belongs to certificate {} in it, which has to be the first; \
                     {}",
                    position + 1,
                    in_order(&part.path),
                    path = part.path
                ),
                None => format!(
                    "{}: the key does not match the certificate in {}",
                    key_part.path, part.path
                ),
            })
        }
    }
}

/// The number of the first certificate that did not issue the one before it (RFC 5246, section
/// 7.4.2).
pub fn wrong_issuer(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let is_stranger = |pair: &[CertificateDer<'_>]| {
        let [one, next] =
            [0, 1].map(|position| pair.get(position).and_then(|der| Certificate::read(der)));
        matches!((one, next), (Some(one), Some(next)) if one.issuer != next.subject)
    };
    chain.windows(2).position(is_stranger).map(|position| position + 2)
}

/// Adds the known issuers to a certificate without a chain. The self-signed root is left out: a
/// client has it, or does not trust it.
pub fn complete(chain: &mut Vec<CertificateDer<'static>>, issuers: &[CertificateDer<'static>]) {
    while let [.., last] = chain.as_slice()
        && chain.len() < LONGEST_CHAIN
    {
        let Some(below) = Certificate::read(last).filter(|read| !read.is_its_own_issuer()) else {
            return;
        };
        let gave = |certificate: &&CertificateDer<'_>| {
            Certificate::read(certificate)
                .is_some_and(|above| above.subject == below.issuer && !above.is_its_own_issuer())
        };
        let Some(found) = issuers.iter().find(gave).cloned() else { return };
        chain.push(found);
    }
}

/// Most certificates of a chain that is completed here.
const LONGEST_CHAIN: usize = 8;

/// How to display the order of the certificates in a file.
pub fn in_order(path: &str) -> String {
    format!(
        "the order is: the server's own, its issuer, that one's issuer. See it with: \
         openssl crl2pkcs7 -nocrl -certfile {path} | openssl pkcs7 -print_certs -noout"
    )
}
