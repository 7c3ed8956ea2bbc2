//! Makes certificates and configurations from the TLS files.
//!
//! Each reason for a failure begins with the file's name.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use pen_ipc::tls_files::{Fact, Index, Part, Purpose, Role};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self as rfc7468, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore, ServerConfig, SignatureAlgorithm};
use zeroize::Zeroize;

use crate::tls::material::Material;
use crate::tls::tickets::{Secrets, Tickets};
use crate::tls::verifier::{ClientVerifier, Use};
use crate::tls::x509::certificate;
use crate::tls::x509::certificate::Certificate;
use crate::tls::x509::chain::{complete, in_order, matches, wrong_issuer};
use crate::tls::x509::der;
use crate::tls::x509::der::Ocsp;
use crate::tls::x509::name::name;
use crate::tls::x509::pem;
use crate::tls::x509::pem::{not_pem, pem_reason};
use crate::tls::x509::signing::Key;

/// What the administrator should know about files that are nevertheless valid.
pub type Notices = Vec<String>;

/// The files of one certificate: certificate, key and so on.
#[derive(Debug, Default)]
pub struct Stack {
    /// The certificate, with its chain.
    pub certificate: Option<Part>,
    /// The key, unless it is in the file of the certificate.
    pub key: Option<Part>,
    /// The authorities that verify clients.
    pub authorities: Vec<Part>,
    /// The OCSP response.
    pub ocsp: Option<Part>,
}

impl Stack {
    /// The path of one of them.
    pub fn path(&self) -> &str {
        let files =
            self.certificate.iter().chain(&self.key).chain(&self.authorities).chain(&self.ocsp);
        files.map(|part| part.path.as_str()).next().unwrap_or_default()
    }
}

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
    /// The certificates with the facts for the administrator, without those of the system.
    pub fn facts(&self, name: Option<&str>) -> Vec<Fact> {
        let certificates = self.certificates.iter().zip(&self.paths).filter(|_| !self.system);
        certificates
            .map(|(one, path)| fact(one, path, Purpose::Authority(name.map(str::to_owned))))
            .collect()
    }
}

/// What certificates and configurations are made from.
#[derive(Debug)]
pub struct KeySource {
    /// The files.
    pub material: Material,
    /// The cipher suites.
    pub provider: Arc<CryptoProvider>,
    /// Encrypt the tickets.
    pub secrets: Arc<Secrets>,
    /// The authorities that verify clients and complete chains, unless a name has its own.
    pub authorities: Authorities,
}

impl KeySource {
    fn index(&self) -> &Index {
        &self.material.index
    }

    /// The certificate with its chain, its key and its OCSP response. The content of the
    /// certificate is not checked: it must only be a certificate and match this key.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn certified(
        &self,
        files: &Stack,
        issuers: &Authorities,
        notices: &mut Notices,
    ) -> Result<CertifiedKey, String> {
        let part = files.certificate.as_ref().ok_or("no certificate was given")?;
        let mut chain = self.certificates(part)?;
        let key_part = files.key.as_ref().unwrap_or(part);
        let key = self.key(key_part)?;
        matches(&chain, &key, part, key_part)?;
        if let Some(n) = wrong_issuer(&chain) {
            notices.push(format!(
                "{}: certificate {n} did not issue the one before it, and some clients want that; \
                 {}",
                part.path,
                in_order(&part.path)
            ));
        }
        notices.extend(self.without_suite(&part.path, key.algorithm()));
        if chain.len() == 1 {
            complete(&mut chain, &issuers.certificates);
        }
        let mut certified = CertifiedKey::new(chain, Arc::new(key));
        certified.ocsp = match &files.ocsp {
            Some(ocsp) => self.ocsp(ocsp, notices)?,
            None => None,
        };
        Ok(certified)
    }

    /// A notice, if clients of TLS 1.2 cannot be served with a key because none of the chosen
    /// suites is for such a key.
    fn without_suite(&self, path: &str, key: SignatureAlgorithm) -> Option<String> {
        let Index { tls12, suites, .. } = self.index();
        let is_rsa = key == SignatureAlgorithm::RSA;
        if !tls12 || suites.is_empty() || suites.iter().any(|suite| suite.is_rsa() == is_rsa) {
            return None;
        }
        let kind = match key {
            SignatureAlgorithm::RSA => "RSA",
            SignatureAlgorithm::ECDSA => "ECDSA",
            _ => "Ed25519",
        };
        let suites = if is_rsa { "ECDHE-RSA" } else { "ECDHE-ECDSA" };
        Some(format!(
            "{path}: ssl_ciphers has no suite for its {kind} key, so that clients without TLS 1.3 \
             are refused; add one that \
             begins with {suites}"
        ))
    }

    /// The certificate of a server name, with the name's own authorities if it has any.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn named(
        &self,
        files: &Stack,
        notices: &mut Notices,
    ) -> Result<(CertifiedKey, Option<Authorities>), String> {
        match (&files.certificate, &files.key) {
            (Some(_), Some(_)) => {}
            (Some(certificate), None) => {
                return Err(format!("{}: there is no .key for it", certificate.path));
            }
            (None, Some(key)) => return Err(format!("{}: there is no .crt for it", key.path)),
            (None, None) => {
                return Err(format!("{}: there is no .crt for it", files.path()));
            }
        }
        let own = match files.authorities.is_empty() {
            true => None,
            false => Some(self.authorities(&files.authorities, notices)?),
        };
        let certified =
            self.certified(files, own.as_ref().unwrap_or(&self.authorities), notices)?;
        Ok((certified, own))
    }

    /// The certificates of a valid file, with the facts for the administrator.
    pub fn facts(&self, files: &Stack, name: Option<&str>) -> Vec<Fact> {
        let Some(part) = &files.certificate else { return Vec::new() };
        let chain = self.certificates(part).unwrap_or_default();
        let purpose = |position| match position {
            0 => Purpose::Server(name.map(str::to_owned)),
            _ => Purpose::Chain(name.map(str::to_owned)),
        };
        chain
            .iter()
            .enumerate()
            .map(|(position, one)| fact(one, &part.path, purpose(position)))
            .collect()
    }

    fn certificates(&self, part: &Part) -> Result<Vec<CertificateDer<'static>>, String> {
        let bytes = pem::usual(self.material.bytes(part)?);
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

    fn key(&self, part: &Part) -> Result<Key, String> {
        let bytes = pem::usual(self.material.bytes(part)?);
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

    fn ocsp(&self, part: &Part, notices: &mut Notices) -> Result<Option<Vec<u8>>, String> {
        let bytes = self.material.bytes(part)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match der::ocsp(&bytes) {
            Ocsp::Until(Some(until)) if until < SystemTime::now() => {
                notices
                    .push(format!("{}: the OCSP response has expired, it is not used", part.path));
                Ok(None)
            }
            Ocsp::Until(_) => Ok(Some(bytes.to_vec())),
            Ocsp::Unusable => {
                notices.push(format!(
                    "{}: there is no OCSP response (DER) in it that says anything, it is not used",
                    part.path
                ));
                Ok(None)
            }
        }
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

    /// The configuration of handshakes whose clients these authorities verify.
    ///
    /// # Errors
    /// rustls refuses it.
    pub fn config(
        &self,
        authorities: &Authorities,
        resolver: Arc<dyn ResolvesServerCert>,
    ) -> Result<Arc<ServerConfig>, String> {
        self.config_with(self.provider.clone(), authorities, resolver, |verifier| verifier)
    }

    /// The same with another provider, and with a verifier that `adapt` changes.
    ///
    /// # Errors
    /// rustls refuses it.
    pub fn config_with(
        &self,
        provider: Arc<CryptoProvider>,
        authorities: &Authorities,
        resolver: Arc<dyn ResolvesServerCert>,
        adapt: impl FnOnce(ClientVerifier) -> ClientVerifier,
    ) -> Result<Arc<ServerConfig>, String> {
        let versions: &[_] = if self.index().tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let failed = |error: Error| format!("TLS: {error}");
        let verifier = ClientVerifier::new(
            &authorities.certificates,
            provider.signature_verification_algorithms,
        );
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).map_err(failed)?;
        let builder = match self.index().required {
            false => builder.with_no_client_auth(),
            true => {
                let verifier = if authorities.system { verifier.without_hints() } else { verifier };
                builder.with_client_cert_verifier(Arc::new(adapt(verifier)))
            }
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let tickets: Arc<dyn ProducesTickets> =
            Arc::new(Tickets::new(self.secrets.clone(), self.rules(authorities)));
        config.ticketer = tickets;
        Ok(Arc::new(config))
    }

    /// A digest of the rules that verify clients.
    fn rules(&self, authorities: &Authorities) -> [u8; 32] {
        let mut digest = Context::new(&SHA256);
        if self.index().required {
            for certificate in &authorities.certificates {
                digest.update(&(certificate.len() as u64).to_le_bytes());
                digest.update(certificate);
            }
        }
        digest.finish().as_ref().try_into().unwrap_or_default()
    }
}

/// The facts about a certificate for its administrator.
fn fact(der: &CertificateDer<'_>, path: &str, purpose: Purpose) -> Fact {
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
