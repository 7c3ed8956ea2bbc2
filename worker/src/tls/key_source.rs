//! Makes certificates and configurations from the TLS files.
//!
//! Each reason for a failure begins with the file's name.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use pen_ipc::tls_files::{Fact, Index, Part, Purpose};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig, SignatureAlgorithm};

use crate::tls::material::Material;
use crate::tls::read::{Authorities, Notices, fact};
use crate::tls::tickets::{Secrets, Tickets};
use crate::tls::verifier::ClientVerifier;
use crate::tls::x509::chain::{complete, in_order, matches, wrong_issuer};
use crate::tls::x509::der;
use crate::tls::x509::der::Ocsp;

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

/// What certificates and configurations are made from.
#[derive(Debug)]
pub struct KeySource {
    /// The files.
    pub material: Material<Index>,
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
        let mut chain = self.material.certificates(part)?;
        let key_part = files.key.as_ref().unwrap_or(part);
        let key = self.material.key(key_part)?;
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
            complete(&mut chain, issuers.certificates());
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
            false => Some(self.material.authorities(&files.authorities, notices)?),
        };
        let certified =
            self.certified(files, own.as_ref().unwrap_or(&self.authorities), notices)?;
        Ok((certified, own))
    }

    /// The certificates of a valid file, with the facts for the administrator.
    pub fn facts(&self, files: &Stack, name: Option<&str>) -> Vec<Fact> {
        let Some(part) = &files.certificate else { return Vec::new() };
        let chain = self.material.certificates(part).unwrap_or_default();
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
            authorities.certificates(),
            provider.signature_verification_algorithms,
        );
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).map_err(failed)?;
        let builder = match self.index().required {
            false => builder.with_no_client_auth(),
            true => {
                let verifier =
                    if authorities.is_system() { verifier.without_hints() } else { verifier };
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
            for certificate in authorities.certificates() {
                digest.update(&(certificate.len() as u64).to_le_bytes());
                digest.update(certificate);
            }
        }
        digest.finish().as_ref().try_into().unwrap_or_default()
    }
}
