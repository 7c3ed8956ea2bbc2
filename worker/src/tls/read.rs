//! Reads certificates and keys from the TLS files.
//!
//! Each reason for a failure begins with the file's name.

use pen_ipc::tls_files::{Fact, FileIndex, Part, Purpose, Role};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self as rfc7468, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use crate::tls::material::Material;
use crate::tls::trust::Use;
use crate::tls::x509::certificate;
use crate::tls::x509::certificate::Certificate;
use crate::tls::x509::name::name;
use crate::tls::x509::pem;
use crate::tls::x509::pem::{not_pem, pem_reason};
use crate::tls::x509::signing::Key;

/// What the administrator should know about files that are nevertheless valid.
pub type Notices = Vec<String>;

/// Certification authorities, and their files.
#[derive(Debug, Default)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    /// The file of each.
    paths: Vec<String>,
    /// They are the system's: no option chose them.
    system: bool,
}

impl Authorities {
    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether they are the system's.
    pub fn is_system(&self) -> bool {
        self.system
    }

    /// The certificates with the facts for the administrator, without those of the system.
    pub fn facts(&self, purpose: &Purpose) -> Vec<Fact> {
        let certificates = self.certificates.iter().zip(&self.paths).filter(|_| !self.system);
        certificates.map(|(one, path)| fact(one, path, purpose.clone())).collect()
    }
}

impl<I: FileIndex> Material<I> {
    /// The certificates of a file: at least one.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn certificates(&self, part: &Part) -> Result<Vec<CertificateDer<'static>>, String> {
        let bytes = pem::usual(self.bytes(part)?);
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let mut certificates =
            certificates.map_err(|error| format!("{}: {}", part.path, pem_reason(&error)))?;
        for certificate in &mut certificates {
            if let Some(first) =
                certificate::first(certificate).filter(|first| first.len() < certificate.len())
            {
                *certificate = first.to_vec().into();
            }
        }
        match certificates.is_empty() {
            false => Ok(certificates),
            true => Err(not_pem(&part.path, &bytes, "certificate", "x509")),
        }
    }

    /// The private key of a file.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn key(&self, part: &Part) -> Result<Key, String> {
        let bytes = pem::usual(self.bytes(part)?);
        let has = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
        if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
            return Err(format!(
                "{path}: the private key is encrypted, and nobody can be asked for its passphrase; \
                 decrypt it: \
                 openssl pkey -in {path} -out key.pem",
                path = part.path
            ));
        }
        let mut key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            rfc7468::Error::NoItemsFound => not_pem(&part.path, &bytes, "private key", "pkey"),
            error => format!("{}: {}", part.path, pem_reason(&error)),
        })?;
        let made = Key::new(&key);
        key.zeroize();
        made.map_err(|_| {
            format!(
                "{}: the private key cannot be used; pen takes RSA of 2048 to 8192 bits, ECDSA \
                on P-256, P-384 or P-521, and Ed25519",
                part.path
            )
        })
    }

    /// The certificates of authorities. Unusable ones are reported and left out, except that the
    /// system's are not reported.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn authorities(
        &self,
        parts: &[Part],
        notices: &mut Notices,
    ) -> Result<Authorities, String> {
        let mut all = Authorities { system: true, ..Authorities::default() };
        for part in parts {
            let system = part.role == Role::SystemAuthorities;
            all.system &= system;
            let usable = |certificate: &CertificateDer<'_>| match Use::of(certificate) {
                Use::Nothing => {
                    Err("it says that it is no authority (CA:FALSE), and did not sign itself"
                        .to_owned())
                }
                Use::Authority | Use::Itself => RootCertStore::empty()
                    .add(certificate.clone())
                    .map_err(|error| error.to_string()),
            };
            for (n, certificate) in (1..).zip(self.certificates(part)?) {
                match usable(&certificate) {
                    Ok(()) => {
                        all.certificates.push(certificate);
                        all.paths.push(part.path.clone());
                    }
                    Err(_) if system => {}
                    Err(error) => {
                        notices.push(format!("{}: certificate {n} is left out: {error}", part.path))
                    }
                }
            }
        }
        match parts.is_empty() || !all.certificates.is_empty() {
            true => Ok(all),
            false => Err(format!(
                "{}: there is no certificate in it that can be used",
                parts.last().map_or("", |part| &part.path)
            )),
        }
    }
}

/// The facts about a certificate for its administrator.
pub fn fact(der: &CertificateDer<'_>, path: &str, purpose: Purpose) -> Fact {
    let read = Certificate::read(der);
    let text = |of: fn(&Certificate<'_>) -> String| read.as_ref().map_or(String::new(), of);
    let (not_before, not_after) = read.as_ref().and_then(Certificate::validity).unzip();
    Fact {
        file: path.to_owned(),
        purpose,
        name: text(|read| read.name()),
        issuer: text(|read| name(read.issuer)),
        serial: text(|read| read.serial()),
        not_before,
        not_after,
        key: text(|read| read.key_kind()),
    }
}
