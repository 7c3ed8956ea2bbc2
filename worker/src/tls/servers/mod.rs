//! TLS with servers: how sessions with them begin, by the files of the supervisor.
//!
//! - `verifier` verifies servers' certificates.
//! - `fault` says why a handshake failed.
//!
//! Which servers speak TLS stands in the settings. If the files are not there, no session begins,
//! and so nothing goes out in clear text.

mod fault;
mod verifier;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pen_config::tls::servers::TlsName;
use pen_ipc::server_tls::TlsFault;
use pen_ipc::tls_files::{Examined, Fact, Part, Purpose, Role, ServerIndex};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};

use crate::tls::material::Material;
use crate::tls::read::{Authorities, Notices, fact};
use crate::tls::resumption::Sessions;
use crate::tls::servers::verifier::{Noting, ServerVerifier};
use crate::tls::session::Session;
use crate::tls::suites;
use crate::tls::x509::chain::{in_order, matches, wrong_issuer};

pub use crate::tls::servers::fault::fault;
pub use crate::tls::servers::verifier::Anyone;

/// What a process needs for TLS with servers.
#[derive(Debug)]
pub struct ServersTls {
    /// Whether servers are verified.
    verify: bool,
    /// For every server, without its sessions.
    common: ClientConfig,
    /// Verifies servers.
    verifier: Arc<dyn ServerCertVerifier>,
    /// What each server has for itself, by row of the table.
    own: Vec<Option<Own>>,
    /// For handshakes that resume nothing.
    whole: Arc<ClientConfig>,
}

/// What a server has for itself: made at its first connection.
#[derive(Debug)]
struct Own {
    /// Its name. Under another one, nothing is resumed.
    name: Option<TlsName>,
    /// The same for the library.
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
}

impl ServersTls {
    /// Reads the files.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn new(files: OwnedFd) -> Result<ServersTls, String> {
        let (tls, _) = build(&Material::new(files)?, &mut Vec::new())?;
        Ok(tls)
    }

    /// A session with the server of this row, before the connection's first byte. The name is asked
    /// for only if it is not known yet.
    ///
    /// # Errors
    /// None can begin.
    pub fn session(
        &mut self,
        row: u32,
        name: impl FnOnce() -> Option<TlsName>,
    ) -> Result<Session, TlsFault> {
        let row = row as usize;
        if row >= self.own.len() {
            self.own.resize_with(row + 1, || None);
        }
        // Without a time nobody knows how old the sessions are.
        let now = self.common.time_provider.current_time();
        let own = match self.own[row].take() {
            Some(own) if now.is_some_and(|now| !own.sessions.are_over(now)) => own,
            Some(own) => self.own(own.name)?,
            None => self.own(name())?,
        };
        let Own { server_name, config, sessions, .. } = self.own[row].insert(own);
        Session::with_server(config.clone(), server_name.clone(), sessions.clone())
            .map_err(|error| fault(&error))
    }

    /// For a server of this name, without sessions.
    fn own(&self, name: Option<TlsName>) -> Result<Own, TlsFault> {
        let server_name = self.server_name(name.as_ref())?;
        let sessions = Arc::new(Sessions::default());
        let mut config = self.common.clone();
        config.resumption = Resumption::store(sessions.clone());
        let verifier = Noting { verifier: self.verifier.clone(), sessions: sessions.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Ok(Own { name, server_name, config: Arc::new(config), sessions })
    }

    /// A connection that resumes nothing.
    ///
    /// # Errors
    /// None can begin.
    pub fn connection(&self, name: Option<&TlsName>) -> Result<ClientConnection, TlsFault> {
        let name = self.server_name(name)?;
        ClientConnection::new(self.whole.clone(), name).map_err(|error| fault(&error))
    }

    /// Forgets the sessions with the server of this row.
    pub fn forget(&mut self, row: u32) {
        if let Some(own) = self.own.get_mut(row as usize) {
            *own = None;
        }
    }

    /// Forgets the sessions with the server of this row, unless it has this name.
    pub fn keep_under(&mut self, row: u32, name: Option<&TlsName>) {
        if let Some(own) = self.own.get_mut(row as usize) {
            own.take_if(|own| own.name.as_ref() != name);
        }
    }

    /// The name of a server for the library. An address is verified and not sent.
    fn server_name(&self, name: Option<&TlsName>) -> Result<ServerName<'static>, TlsFault> {
        match name {
            Some(TlsName::Ip(ip)) => Ok(ServerName::from(*ip)),
            Some(TlsName::Dns(name)) => {
                ServerName::try_from(name.clone()).map_err(|_| TlsFault::NoName)
            }
            None if self.verify => Err(TlsFault::NoName),
            // Not sent, and not looked at.
            None => Ok(ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        }
    }
}

/// Checks whether these files are valid, and returns what the administrator should know about them.
///
/// # Errors
/// The file and what is wrong with it.
pub fn examine(files: OwnedFd) -> Result<Examined, String> {
    let mut notices = Vec::new();
    let (_, certificates) = build(&Material::new(files)?, &mut notices)?;
    Ok(Examined { notices, certificates })
}

fn build(
    material: &Material<ServerIndex>,
    notices: &mut Notices,
) -> Result<(ServersTls, Vec<Fact>), String> {
    let ServerIndex { verify, files } = &material.index;
    let (mut authorities, mut certificate, mut key) = (Vec::new(), None, None);
    for part in files {
        match part.role {
            Role::Authorities | Role::SystemAuthorities => authorities.push(part.clone()),
            Role::Certificate => certificate = Some(part),
            Role::Key => key = Some(part),
            Role::Ocsp | Role::Named(_, _) => {
                return Err(format!("{}: no file for TLS towards servers", part.path));
            }
        }
    }
    let authorities = material.authorities(&authorities, notices)?;
    let mut facts = authorities.facts(&Purpose::ServerAuthority);
    let client = match certificate {
        Some(part) => Some(client(material, part, key.unwrap_or(part), notices, &mut facts)?),
        None => None,
    };
    let (common, verifier) = config(*verify, &authorities, client)?;
    let mut whole = common.clone();
    whole.resumption = Resumption::disabled();
    let (verify, whole) = (*verify, Arc::new(whole));
    let tls = ServersTls { verify, common, verifier, own: Vec::new(), whole };
    Ok((tls, facts))
}

/// The certificate for servers that ask for one.
fn client(
    material: &Material<ServerIndex>,
    part: &Part,
    key_part: &Part,
    notices: &mut Notices,
    facts: &mut Vec<Fact>,
) -> Result<CertifiedKey, String> {
    let chain = material.certificates(part)?;
    let key = material.key(key_part)?;
    matches(&chain, &key, part, key_part)?;
    if let Some(n) = wrong_issuer(&chain) {
        notices.push(format!(
            "{}: certificate {n} did not issue the one before it, and some servers want that; {}",
            part.path,
            in_order(&part.path)
        ));
    }
    let purpose = |place| if place == 0 { Purpose::Client } else { Purpose::ClientChain };
    let of_chain =
        |(place, one): (usize, &CertificateDer<'_>)| fact(one, &part.path, purpose(place));
    facts.extend(chain.iter().enumerate().map(of_chain));
    Ok(CertifiedKey::new(chain, Arc::new(key)))
}

fn config(
    verify: bool,
    authorities: &Authorities,
    client: Option<CertifiedKey>,
) -> Result<(ClientConfig, Arc<dyn ServerCertVerifier>), String> {
    let provider = Arc::new(suites::provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        true => Arc::new(ServerVerifier::new(authorities.certificates(), algorithms)),
        false => Arc::new(Anyone(algorithms)),
    };
    let builder = builder.with_custom_certificate_verifier(verifier.clone());
    let config = match client {
        Some(client) => {
            builder.with_client_cert_resolver(Arc::new(OneCertificate(Arc::new(client))))
        }
        None => builder.with_no_client_auth(),
    };
    Ok((config, verifier))
}

/// Shows each server that asks the same certificate.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A server that takes no signature of this key gets no certificate, and says what it wants.
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
