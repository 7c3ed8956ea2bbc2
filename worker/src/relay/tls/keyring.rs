//! Builds the configurations of handshakes from the TLS files: all of them, or the reason why not.
//!
//! A pure function of the files: files that one process found valid are valid for all. Each reason
//! begins with the file's name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use pen_config::tls::Suite;
use pen_ipc::tls_files::{Fact, Index, MOST_CERTIFICATES, NamedRole, Part, Purpose, Role};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::{self as rfc7468, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore, ServerConfig, SignatureAlgorithm};
use zeroize::Zeroize;

use crate::relay::tls::certificate;
use crate::relay::tls::certificate::Certificate;
use crate::relay::tls::der;
use crate::relay::tls::der::Ocsp;
use crate::relay::tls::material::Material;
use crate::relay::tls::names::NameResolver;
use crate::relay::tls::pem;
use crate::relay::tls::signing::Key;
use crate::relay::tls::tickets::{Secrets, Tickets};
use crate::relay::tls::transcript;
use crate::relay::tls::verifier::{ClientVerifier, Use};

/// The configurations of handshakes.
#[derive(Debug)]
pub struct Keyring {
    source: Arc<KeySource>,
    /// The files for clients without a known server name.
    files: Stack,
    resolver: Arc<NameResolver>,
    /// For every client, unless its name is in `own`.
    config: Arc<ServerConfig>,
    /// The same for clients whose server name was hidden; created at the first such client.
    nameless: OnceLock<Arc<ServerConfig>>,
    /// For names with their own certification authorities; created when a client first asks for
    /// one.
    own: HashMap<String, OnceLock<Option<Arc<ServerConfig>>>>,
}

impl Keyring {
    /// The configuration for clients without a server name, or with this one.
    pub fn config(&self, name: Option<&str>) -> &Arc<ServerConfig> {
        name.filter(|_| !self.own.is_empty())
            .and_then(|name| self.own(name))
            .unwrap_or(&self.config)
    }

    /// The configuration for clients whose server name is not valid ([`transcript`]).
    pub fn nameless(&self) -> &Arc<ServerConfig> {
        self.nameless.get_or_init(|| {
            let KeySource { provider, authorities, .. } = &*self.source;
            let provider = Arc::new(transcript::hashing_what_came(provider));
            let made = self.source.config_with(
                provider,
                authorities,
                &self.resolver,
                ClientVerifier::of_hidden_names,
            );
            // It differs from the other in nothing that could fail.
            made.unwrap_or_else(|_| self.config.clone())
        })
    }

    fn own(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        let (name, ready) = self.resolver.find(name)?;
        let authorities = ready.authorities.as_ref()?;
        let make = || self.source.config(authorities, &self.resolver).ok();
        self.own.get(name)?.get_or_init(make).as_ref()
    }

    /// Reads the files that are otherwise read when a client first asks for them, and lists the
    /// certificates.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn examine(&self, notices: &mut KeyringNotices) -> Result<Vec<Fact>, String> {
        let mut facts = self.source.facts(&self.files, None);
        facts.extend(self.source.authorities.facts(None));
        for (name, files, ready) in self.resolver.examine(notices) {
            facts.extend(self.source.facts(files, Some(name)));
            if let Some(own) = &ready.authorities {
                facts.extend(own.facts(Some(name)));
                if !self.own.is_empty() {
                    self.source.config(own, &self.resolver)?;
                }
            }
        }
        facts.truncate(MOST_CERTIFICATES);
        Ok(facts)
    }
}

/// What the administrator should know about files that are nevertheless valid.
pub type KeyringNotices = Vec<String>;

/// Builds the configurations, except for files that are read when a client first asks for them.
///
/// # Errors
/// The file and what is wrong with it.
pub fn build(
    mut material: Material,
    secrets: &Arc<Secrets>,
) -> Result<(Keyring, KeyringNotices), String> {
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
    let with_own =
        named.iter().filter(|(_, files)| material.index.required && !files.authorities.is_empty());
    let own = with_own.map(|(name, _)| (name.clone(), OnceLock::new())).collect();
    let provider = Arc::new(cipher_suites(&material.index.suites));
    let mut source = KeySource {
        material,
        provider,
        secrets: secrets.clone(),
        authorities: Authorities::default(),
    };
    source.authorities = source.authorities(&files.authorities, &mut notices)?;
    let source = Arc::new(source);
    let default = Arc::new(source.certified(&files, &source.authorities, &mut notices)?);
    let resolver = Arc::new(NameResolver::new(source.clone(), default, named));
    let config = source.config(&source.authorities, &resolver)?;
    Ok((Keyring { source, files, resolver, config, nameless: OnceLock::new(), own }, notices))
}

/// The files of one certificate: certificate, key and so on.
#[derive(Debug, Default)]
pub struct Stack {
    certificate: Option<Part>,
    key: Option<Part>,
    authorities: Vec<Part>,
    ocsp: Option<Part>,
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
    fn facts(&self, name: Option<&str>) -> Vec<Fact> {
        let certificates = self.certificates.iter().zip(&self.paths).filter(|_| !self.system);
        certificates
            .map(|(one, path)| fact(one, path, Purpose::Authority(name.map(str::to_owned))))
            .collect()
    }
}

/// What certificates and configurations are made from.
#[derive(Debug)]
pub struct KeySource {
    material: Material,
    provider: Arc<CryptoProvider>,
    secrets: Arc<Secrets>,
    /// The authorities that verify clients and complete chains, unless a name has its own.
    authorities: Authorities,
}

impl KeySource {
    fn index(&self) -> &Index {
        &self.material.index
    }

    /// The certificate with its chain, its key and its OCSP response. The content of the
    /// certificate is not checked: it must only be a certificate and match this key.
    fn certified(
        &self,
        files: &Stack,
        issuers: &Authorities,
        notices: &mut KeyringNotices,
    ) -> Result<CertifiedKey, String> {
        let part = files.certificate.as_ref().ok_or("no certificate was given")?;
        let mut chain = self.certificates(part)?;
        let key_part = files.key.as_ref().unwrap_or(part);
        let key = self.key(key_part)?;
        matches(&chain, &key, part, key_part)?;
        if let Some(n) = stranger(&chain) {
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
        notices: &mut KeyringNotices,
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
    fn facts(&self, files: &Stack, name: Option<&str>) -> Vec<Fact> {
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

    fn ocsp(&self, part: &Part, notices: &mut KeyringNotices) -> Result<Option<Vec<u8>>, String> {
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
    fn authorities(
        &self,
        parts: &[Part],
        notices: &mut KeyringNotices,
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

    fn config(
        &self,
        authorities: &Authorities,
        resolver: &Arc<NameResolver>,
    ) -> Result<Arc<ServerConfig>, String> {
        self.config_with(self.provider.clone(), authorities, resolver, |verifier| verifier)
    }

    fn config_with(
        &self,
        provider: Arc<CryptoProvider>,
        authorities: &Authorities,
        resolver: &Arc<NameResolver>,
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
        let mut config = builder.with_cert_resolver(resolver.clone());
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
        issuer: text(|read| certificate::name(read.issuer)),
        serial: text(|read| read.serial()),
        not_before,
        not_after,
        key: text(|read| read.key_kind()),
    }
}

/// Checks that the first certificate, which is the server's own, matches this key.
fn matches(
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
fn stranger(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let is_stranger = |pair: &[CertificateDer<'_>]| {
        let [one, next] =
            [0, 1].map(|position| pair.get(position).and_then(|der| Certificate::read(der)));
        matches!((one, next), (Some(one), Some(next)) if one.issuer != next.subject)
    };
    chain.windows(2).position(is_stranger).map(|position| position + 2)
}

/// Adds the known issuers to a certificate without a chain. The self-signed root is left out: a
/// client has it, or does not trust it.
fn complete(chain: &mut Vec<CertificateDer<'static>>, issuers: &[CertificateDer<'static>]) {
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

/// All suites of TLS 1.3, and the chosen ones of TLS 1.2 in their order.
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

/// How to display the order of the certificates in a file.
fn in_order(path: &str) -> String {
    format!(
        "the order is: the server's own, its issuer, that one's issuer. See it with: \
         openssl crl2pkcs7 -nocrl -certfile {path} | openssl pkcs7 -print_certs -noout"
    )
}

/// Why a file has no `what`, and the openssl(1) command that corrects it.
fn not_pem(path: &str, bytes: &[u8], what: &str, word: &str) -> String {
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
fn pem_reason(error: &rfc7468::Error) -> &'static str {
    match error {
        rfc7468::Error::MissingSectionEnd { .. } => "a section (PEM) has no end",
        rfc7468::Error::IllegalSectionStart { .. } => {
            "a section (PEM) begins with a line that is broken"
        }
        rfc7468::Error::Base64Decode(_) => "a section (PEM) is not in base 64",
        _ => "it is not in order (PEM)",
    }
}
