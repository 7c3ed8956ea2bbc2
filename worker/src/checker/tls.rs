//! TLS of checks. With servers whose connections use TLS, it is the same as that of the
//! connections. Otherwise a handshake is finished, and the certificate is not judged.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pen_config::address::Address;
use pen_config::checks::{Check, without_port};
use pen_ipc::server_tls::TlsFault;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error};

use crate::checker::schedule::Transport;
use crate::tls::servers::{Anyone, ServersTls};

/// The client of all checks. Each handshake is a whole one: a resumed one would not show that the
/// server still has its key.
#[derive(Debug)]
pub(super) struct Tls {
    /// For servers whose connections use TLS.
    servers: Option<ServersTls>,
    /// For all others. It is made when the first check needs it.
    any: Option<Arc<ClientConfig>>,
}

/// The TLS of one check.
pub(super) enum CheckTls {
    /// None.
    Plain,
    /// A client for the handshake.
    Client(Box<ClientConnection>),
    /// The handshake cannot begin.
    Fault(TlsFault),
    /// Memory ran short.
    NotAsked,
}

impl Tls {
    /// By the files that a checker starts with.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub(super) fn new(files: Option<OwnedFd>) -> Result<Tls, String> {
        Ok(Tls { servers: files.map(ServersTls::new).transpose()?, any: None })
    }

    /// Uses other files from now on.
    ///
    /// # Errors
    /// The file and what is wrong with it; nothing has changed.
    pub(super) fn replace(&mut self, files: OwnedFd) -> Result<(), String> {
        self.servers = Some(ServersTls::new(files)?);
        Ok(())
    }

    /// Forgets the files, with the key: no server speaks TLS any more.
    pub(super) fn forget_servers(&mut self) {
        self.servers = None;
    }

    /// The TLS of a check.
    pub(super) fn of(
        &mut self,
        transport: &Transport,
        check: &Check,
        address: &Address,
    ) -> CheckTls {
        match (transport, &self.servers) {
            (Transport::Plain, _) => CheckTls::Plain,
            (Transport::AnyTls, _) => match self.client(check, address) {
                Ok(client) => CheckTls::Client(Box::new(client)),
                Err(_) => CheckTls::NotAsked,
            },
            (Transport::ServerTls(name), Some(tls)) => match tls.connection(name.as_ref()) {
                Ok(client) => CheckTls::Client(Box::new(client)),
                Err(fault) => CheckTls::Fault(fault),
            },
            (Transport::ServerTls(_), None) => CheckTls::Fault(TlsFault::NoFiles),
        }
    }

    /// A client that takes every certificate.
    ///
    /// # Errors
    /// The library has no client for it.
    pub(super) fn client(
        &mut self,
        check: &Check,
        address: &Address,
    ) -> Result<ClientConnection, Error> {
        let config = match &self.any {
            Some(config) => config.clone(),
            None => self.any.insert(unjudging()?).clone(),
        };
        ClientConnection::new(config, name(check, address)?)
    }
}

fn unjudging() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(provider::default_provider());
    let anyone = Anyone(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anyone))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the server is asked for: without a port, as it stands in the Host line. An address
/// is not sent (RFC 6066, section 3).
fn name(check: &Check, address: &Address) -> Result<ServerName<'static>, Error> {
    let named = check
        .host
        .as_deref()
        .map(without_port)
        .and_then(|host| ServerName::try_from(host.to_owned()).ok());
    let unnamed = || match address {
        Address::Inet(inet) => ServerName::from(inet.ip()),
        Address::Unix(_) => ServerName::from(IpAddr::from([127, 0, 0, 1])),
    };
    Ok(named.unwrap_or_else(unnamed))
}
