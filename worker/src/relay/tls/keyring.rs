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
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => match misplaced(&certified) {
                Some(n) => format!(
                    "{path}: the key belongs to certificate {n} in it, which has to be the first; {}",
                    in_order(&part.path),
                    path = part.path
                ),
                None => format!("{}: the key does not match the certificate in {}", key_part.path, part.path),
            },
            error => format!("{}: the certificate cannot be used: {error}", part.path),
        })?;
        if let Some(n) = stranger(&certified.cert) {
            notices.push(format!(
                "{}: certificate {n} did not issue the one before it, and some clients want that; {}",
                part.path,
                in_order(&part.path)
            ));
        }
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
            true => Err(not_pem(&part.path, &bytes, "certificate", "x509")),
        }
    }

    fn key(&self, part: &Part) -> Result<Key, String> {
        let bytes = self.material.bytes(part)?;
        let has = |words: &[u8]| bytes.windows(words.len()).any(|window| window == words);
        if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
            return Err(format!(
                "{path}: the private key is encrypted, and nobody can be asked for its passphrase; decrypt it: \
                 openssl pkey -in {path} -out key.pem",
                path = part.path
            ));
        }
        let mut key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => not_pem(&part.path, &bytes, "private key", "pkey"),
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

/// The number of the certificate that the key belongs to, if it is none but the first.
fn misplaced(certified: &CertifiedKey) -> Option<usize> {
    let alone = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], certified.key.clone()).keys_match().is_ok()
    };
    certified.cert.iter().position(alone).map(|place| place + 1)
}

/// The number of the first certificate that is not its predecessor's issuer (RFC 5246, section 7.4.2).
fn stranger(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let pairs = chain.iter().zip(chain.iter().skip(1));
    let is_stranger =
        |(one, next): (&CertificateDer<'_>, &CertificateDer<'_>)| match (der::names(one), der::names(next)) {
            (Some((_, issuer)), Some((subject, _))) => issuer != subject,
            _ => false,
        };
    pairs.into_iter().position(is_stranger).map(|place| place + 2)
}

/// How to see the order of the certificates in a file.
fn in_order(path: &str) -> String {
    format!(
        "the order is: the server's own, its issuer, that one's issuer. See it with: \
         openssl crl2pkcs7 -nocrl -certfile {path} | openssl pkcs7 -print_certs -noout"
    )
}

/// Why there is no `what` in a file, and the words to openssl(1) that mend it.
fn not_pem(path: &str, bytes: &[u8], what: &str, word: &str) -> String {
    // A PFX (RFC 7292) begins with a version and its content's type, data (1.2.840.113549.1.7.1).
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

/// What is wrong with a PEM file, without a byte of it: it may be a key's.
fn pem_reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section (PEM) has no end",
        pem::Error::IllegalSectionStart { .. } => "a section (PEM) begins with a line that is broken",
        pem::Error::Base64Decode(_) => "a section (PEM) is not in base 64",
        _ => "it is not in order (PEM)",
    }
}
