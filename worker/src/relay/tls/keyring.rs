//! From the files of TLS to the configurations that handshakes go by: all of them, or the reason why not.
//!
//! A pure function of the files, so that what one process found to be good is good for all. Each reason begins with the file's name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use pen_contract::tls::{Index, NamedRole, Part, Role, Suite};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use zeroize::Zeroize;

use super::der::{self, Ocsp};
use super::material::Material;
use super::names::Resolver;
use super::signing::Key;
use super::tickets::{Secrets, Tickets};

/// What handshakes go by.
#[derive(Debug)]
pub struct Keyring {
    source: Arc<Source>,
    resolver: Arc<Resolver>,
    /// For every client, unless its name is in `own`.
    config: Arc<ServerConfig>,
    /// For names whose clients are verified by authorities of their own; made when a client first asks for one.
    own: HashMap<String, OnceLock<Option<Arc<ServerConfig>>>>,
}

impl Keyring {
    /// Whether the name that a client asks for has a say in how it is verified.
    pub fn chooses(&self) -> bool {
        !self.own.is_empty()
    }

    /// The configuration for clients that asked for no name, or for this one.
    pub fn config(&self, name: Option<&str>) -> &Arc<ServerConfig> {
        name.and_then(|name| self.own(name)).unwrap_or(&self.config)
    }

    fn own(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        let (name, ready) = self.resolver.find(name)?;
        let authorities = ready.authorities.as_ref()?;
        let make = || self.source.config(authorities, &self.resolver).ok();
        self.own.get(name)?.get_or_init(make).as_ref()
    }

    /// Reads what is otherwise read when a client first asks for it.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn examine(&self, notices: &mut Notices) -> Result<(), String> {
        let named = self.resolver.examine(notices);
        let mut own = named.iter().filter_map(|ready| ready.authorities.as_ref()).filter(|_| self.chooses());
        own.try_for_each(|own| self.source.config(own, &self.resolver).map(|_| ()))
    }
}

/// What the administrator should know about files that are good all the same.
pub type Notices = Vec<String>;

/// Builds the configurations, except for what is read when a client first asks for it.
///
/// # Errors
/// The file and what is wrong with it.
pub fn build(mut material: Material, secrets: &Arc<Secrets>) -> Result<(Keyring, Notices), String> {
    let mut notices = Vec::new();
    let mut files = Stack::default();
    let mut named: HashMap<String, Stack> = HashMap::new();
    for part in std::mem::take(&mut material.index.files) {
        match part.role.clone() {
            Role::Certificate => files.certificate = Some(part),
            Role::Key => files.key = Some(part),
            Role::Authorities | Role::SystemAuthorities => files.authorities.push(part),
            Role::Ocsp => files.ocsp = Some(part),
            Role::Named(name, role) => {
                let files = named.entry(name).or_default();
                match role {
                    NamedRole::Certificate => files.certificate = Some(part),
                    NamedRole::Key => files.key = Some(part),
                    NamedRole::Authorities => files.authorities.push(part),
                    NamedRole::Ocsp => files.ocsp = Some(part),
                }
            }
        }
    }
    let with_own = named.iter().filter(|(_, files)| material.index.required && !files.authorities.is_empty());
    let own = with_own.map(|(name, _)| (name.clone(), OnceLock::new())).collect();
    let provider = Arc::new(cipher_suites(&material.index.suites));
    let mut source = Source { material, provider, secrets: secrets.clone(), authorities: Authorities::default() };
    source.authorities = source.authorities(&files.authorities, &mut notices)?;
    let source = Arc::new(source);
    let default = Arc::new(source.certified(&files, &source.authorities, &mut notices)?);
    let resolver = Arc::new(Resolver::new(source.clone(), default, named));
    let config = source.config(&source.authorities, &resolver)?;
    Ok((Keyring { source, resolver, config, own }, notices))
}

/// The files that belong together.
#[derive(Debug, Default)]
pub struct Stack {
    certificate: Option<Part>,
    key: Option<Part>,
    authorities: Vec<Part>,
    ocsp: Option<Part>,
}

/// Certification authorities, and from where they are.
#[derive(Debug, Default)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    path: String,
    /// Nobody chose them.
    system: bool,
}

/// What certificates and configurations are made of.
#[derive(Debug)]
pub struct Source {
    material: Material,
    provider: Arc<CryptoProvider>,
    secrets: Arc<Secrets>,
    /// Who verifies clients and completes chains, unless a name has its own.
    authorities: Authorities,
}

impl Source {
    fn index(&self) -> &Index {
        &self.material.index
    }

    /// The certificate with its chain, its key and its OCSP response.
    fn certified(&self, files: &Stack, issuers: &Authorities, notices: &mut Notices) -> Result<CertifiedKey, String> {
        let part = files.certificate.as_ref().ok_or("no certificate was given")?;
        let mut chain = self.certificates(part)?;
        complete(&mut chain, &issuers.certificates);
        let key_part = files.key.as_ref().unwrap_or(part);
        let key = self.key(key_part)?;
        let mut certified = CertifiedKey::new(chain, Arc::new(key));
        certified.keys_match().map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{}: the key does not match the certificate in {}", key_part.path, part.path)
            }
            error => format!("{}: the certificate cannot be used: {error}", part.path),
        })?;
        certified.ocsp = match &files.ocsp {
            Some(ocsp) => self.ocsp(ocsp, notices)?,
            None => None,
        };
        Ok(certified)
    }

    /// The same for a server name, with authorities of its own if it has any.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn named(&self, files: &Stack, notices: &mut Notices) -> Result<(CertifiedKey, Option<Authorities>), String> {
        match (&files.certificate, &files.key) {
            (Some(_), Some(_)) => {}
            (Some(certificate), None) => return Err(format!("{}: there is no .key for it", certificate.path)),
            (None, Some(key)) => return Err(format!("{}: there is no .crt for it", key.path)),
            (None, None) => {
                let any = files.authorities.first().or(files.ocsp.as_ref());
                return Err(format!("{}: there is no .crt for it", any.map_or("", |part| &part.path)));
            }
        }
        let own = match files.authorities.is_empty() {
            true => None,
            false => Some(self.authorities(&files.authorities, notices)?),
        };
        let certified = self.certified(files, own.as_ref().unwrap_or(&self.authorities), notices)?;
        Ok((certified, own))
    }

    fn certificates(&self, part: &Part) -> Result<Vec<CertificateDer<'static>>, String> {
        let bytes = self.material.bytes(part)?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| format!("{}: {}", part.path, pem_reason(&error)))?;
        match certificates.is_empty() {
            false => Ok(certificates),
            true => Err(format!("{}: there is no certificate (PEM) in it", part.path)),
        }
    }

    fn key(&self, part: &Part) -> Result<Key, String> {
        let bytes = self.material.bytes(part)?;
        let has = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
        if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
            return Err(format!(
                "{}: the private key is encrypted, and nobody can be asked for its passphrase",
                part.path
            ));
        }
        let mut key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => format!("{}: there is no private key (PEM) in it", part.path),
            error => format!("{}: {}", part.path, pem_reason(&error)),
        })?;
        let made = Key::new(&key);
        key.zeroize();
        made.map_err(|_| {
            format!("{}: the private key cannot be used; pen takes RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and Ed25519", part.path)
        })
    }

    fn ocsp(&self, part: &Part, notices: &mut Notices) -> Result<Option<Vec<u8>>, String> {
        let bytes = self.material.bytes(part)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match der::ocsp(&bytes) {
            Ocsp::Until(Some(until)) if until < SystemTime::now() => {
                notices.push(format!("{}: the OCSP response has expired, it is not used", part.path));
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

    /// The certificates of authorities; those that cannot be used are named and left out, but for the system's.
    fn authorities(&self, parts: &[Part], notices: &mut Notices) -> Result<Authorities, String> {
        let mut all = Authorities { system: true, ..Authorities::default() };
        for part in parts {
            let system = part.role == Role::SystemAuthorities;
            all.system &= system;
            all.path.clone_from(&part.path);
            let usable = |certificate: &CertificateDer<'_>| RootCertStore::empty().add(certificate.clone());
            for (n, certificate) in (1..).zip(self.certificates(part)?) {
                match usable(&certificate) {
                    Ok(()) => all.certificates.push(certificate),
                    Err(_) if system => {}
                    Err(error) => notices.push(format!("{}: certificate {n} is left out: {error}", part.path)),
                }
            }
        }
        match parts.is_empty() || !all.certificates.is_empty() {
            true => Ok(all),
            false => Err(format!("{}: there is no certificate in it that can be used", all.path)),
        }
    }

    fn config(&self, authorities: &Authorities, resolver: &Arc<Resolver>) -> Result<Arc<ServerConfig>, String> {
        let versions: &[_] = if self.index().tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let failed = |error: Error| format!("TLS: {error}");
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let builder = builder.with_protocol_versions(versions).map_err(failed)?;
        let builder = match self.index().required {
            false => builder.with_no_client_auth(),
            true => builder.with_client_cert_verifier(self.verifier(authorities)?),
        };
        let mut config = builder.with_cert_resolver(resolver.clone());
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let tickets: Arc<dyn ProducesTickets> = Arc::new(Tickets::new(self.secrets.clone(), self.rules(authorities)));
        config.ticketer = tickets;
        Ok(Arc::new(config))
    }

    fn verifier(
        &self,
        authorities: &Authorities,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.certificates.iter().cloned());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        // The names of all the world's authorities would help no client to choose.
        let builder = if authorities.system { builder.clear_root_hint_subjects() } else { builder };
        builder.build().map_err(|error| format!("client certificates cannot be verified: {error}"))
    }

    /// A digest of the rules by which clients are verified.
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

/// Puts the issuers behind a certificate that stands alone, as far as they are known. The last, which signed itself, every client has or
/// does not trust.
fn complete(chain: &mut Vec<CertificateDer<'static>>, issuers: &[CertificateDer<'static>]) {
    let [leaf] = chain.as_slice() else { return };
    let mut wanted = match der::names(leaf) {
        Some((subject, issuer)) if subject != issuer => issuer.to_vec(),
        _ => return,
    };
    while chain.len() < LONGEST_CHAIN {
        let is_it =
            |certificate: &&CertificateDer<'_>| der::names(certificate).is_some_and(|(subject, _)| subject == wanted);
        let Some(found) = issuers.iter().find(is_it) else { return };
        let Some((subject, issuer)) = der::names(found) else { return };
        if subject == issuer {
            return;
        }
        wanted = issuer.to_vec();
        chain.push(found.clone());
    }
}

/// Certificates of a chain that is completed here.
const LONGEST_CHAIN: usize = 8;

/// All suites of TLS 1.3, and of TLS 1.2 those that were chosen, in their order.
fn cipher_suites(chosen: &[Suite]) -> CryptoProvider {
    let mut provider = provider::default_provider();
    if !chosen.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        let of_tls13 = all.iter().filter(|suite| suite.tls13().is_some());
        let is = |suite: &Suite| {
            let name = suite.standard_name();
            all.iter().find(move |known| known.suite().as_str() == Some(name))
        };
        provider.cipher_suites = of_tls13.chain(chosen.iter().filter_map(is)).copied().collect();
    }
    provider
}

/// What is wrong with a PEM file, without a byte of it: it may be a key's.
fn pem_reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section (PEM) has no end",
        pem::Error::IllegalSectionStart { .. } => "a section (PEM) begins with a line that is broken",
        pem::Error::Base64Decode(_) => "a section (PEM) is not in base 64",
        _ => "it is not in order (PEM)",
    }
}
