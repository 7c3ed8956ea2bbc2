//! Builds the configurations of handshakes from the TLS files: all of them, or the reason why not.
//!
//! A pure function of the files: files that one process found valid are valid for all. Each reason
//! begins with the file's name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use pen_config::tls::Suite;
use pen_ipc::tls_files::{Fact, Index, MOST_CERTIFICATES, NamedRole, Purpose, Role};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;

use crate::tls::key_source::{KeySource, Stack};
use crate::tls::material::Material;
use crate::tls::names::NameResolver;
use crate::tls::read::{Authorities, Notices};
use crate::tls::suites;
use crate::tls::tickets::Secrets;
use crate::tls::transcript;
use crate::tls::verifier::ClientVerifier;

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
                self.resolver.clone(),
                ClientVerifier::of_hidden_names,
            );
            // It differs from the other in nothing that could fail.
            made.unwrap_or_else(|_| self.config.clone())
        })
    }

    fn own(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        let (name, ready) = self.resolver.find(name)?;
        let authorities = ready.authorities.as_ref()?;
        let make = || self.source.config(authorities, self.resolver.clone()).ok();
        self.own.get(name)?.get_or_init(make).as_ref()
    }

    /// Reads the files that are otherwise read when a client first asks for them, and lists the
    /// certificates.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn examine(&self, notices: &mut Notices) -> Result<Vec<Fact>, String> {
        let mut facts = self.source.facts(&self.files, None);
        facts.extend(self.source.authorities.facts(&Purpose::Authority(None)));
        for (name, files, ready) in self.resolver.examine(notices) {
            facts.extend(self.source.facts(files, Some(name)));
            if let Some(own) = &ready.authorities {
                facts.extend(own.facts(&Purpose::Authority(Some(name.to_owned()))));
                if !self.own.is_empty() {
                    self.source.config(own, self.resolver.clone())?;
                }
            }
        }
        facts.truncate(MOST_CERTIFICATES);
        Ok(facts)
    }
}

/// Builds the configurations, except for files that are read when a client first asks for them.
///
/// # Errors
/// The file and what is wrong with it.
pub fn build(
    mut material: Material<Index>,
    secrets: &Arc<Secrets>,
) -> Result<(Keyring, Notices), String> {
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
    source.authorities = source.material.authorities(&files.authorities, &mut notices)?;
    let source = Arc::new(source);
    let default = Arc::new(source.certified(&files, &source.authorities, &mut notices)?);
    let resolver = Arc::new(NameResolver::new(source.clone(), default, named));
    let config = source.config(&source.authorities, resolver.clone())?;
    Ok((Keyring { source, files, resolver, config, nameless: OnceLock::new(), own }, notices))
}

/// All suites of TLS 1.3, and the chosen ones of TLS 1.2 in their order.
fn cipher_suites(chosen: &[Suite]) -> CryptoProvider {
    let mut provider = suites::provider();
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
