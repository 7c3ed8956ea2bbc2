//! TLS of checks: a handshake is finished, and the certificate is not judged.

use std::net::IpAddr;
use std::sync::Arc;

use pen_config::address::Address;
use pen_config::checks::{Check, CheckKind, without_port};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

/// The client of all checks. It is made when the first check needs it.
#[derive(Debug, Default)]
pub(super) struct Tls {
    config: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// A client for a handshake with this server.
    ///
    /// # Errors
    /// The library has no client for it.
    pub(super) fn client(
        &mut self,
        check: &Check,
        address: &Address,
    ) -> Result<ClientConnection, Error> {
        let config = match &self.config {
            Some(config) => config.clone(),
            None => self.config.insert(unjudging()?).clone(),
        };
        ClientConnection::new(config, name(check, address)?)
    }
}

/// Whether a check talks over TLS.
pub(super) fn is_over_tls(check: &Check) -> bool {
    match check.kind {
        CheckKind::Tls | CheckKind::Https(_) => true,
        CheckKind::Tcp
        | CheckKind::Http(_)
        | CheckKind::Smtp
        | CheckKind::Pgsql
        | CheckKind::Mysql { .. }
        | CheckKind::Redis(_)
        | CheckKind::Ldap
        | CheckKind::Dns { .. }
        | CheckKind::Exchange { .. } => false,
    }
}

/// A client that takes every certificate. Each handshake is a whole one: a resumed one would not
/// show that the server still has its key.
fn unjudging() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(provider::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unjudging(provider)))
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

/// Takes every certificate and every signature.
#[derive(Debug)]
struct Unjudging(Arc<CryptoProvider>);

impl ServerCertVerifier for Unjudging {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
