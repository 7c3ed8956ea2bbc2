//! Servers' certificates: verified by authorities and for a name, or not at all.

use std::sync::Arc;

use pen_ipc::message::{CertificateFault, HandshakeFailure};
use pen_ipc::server_tls::TlsFault;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
// From the crate rustls-webpki.
use webpki::EndEntityCert;

use crate::tls::resumption::Sessions;
use crate::tls::servers::fault::error;
use crate::tls::trust::{Trust, plain};
use crate::tls::x509::certificate::{Certificate, Owner};

/// Verifies servers by a set of authorities.
#[derive(Debug)]
pub struct ServerVerifier(Trust);

impl ServerVerifier {
    /// A verifier with these authorities.
    pub fn new(
        certificates: &[CertificateDer<'static>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> ServerVerifier {
        ServerVerifier(Trust::new(certificates, algorithms))
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), TlsFault> {
        self.0
            .verify(Owner::Server, leaf, above, now)
            .map_err(|failure| because(&failure, leaf, now))?;
        let certificate = plain(Owner::Server, leaf).map_err(|_| TlsFault::BadCertificate)?;
        let entity = EndEntityCert::try_from(&certificate).map_err(|_| TlsFault::BadCertificate)?;
        entity.verify_is_valid_for_subject_name(name).map_err(|_| TlsFault::WrongName)
    }
}

/// Why a certificate is refused.
fn because(failure: &HandshakeFailure, leaf: &CertificateDer<'_>, now: UnixTime) -> TlsFault {
    let read = Certificate::read(leaf);
    match failure {
        HandshakeFailure::CertificateTime => {
            let begin = read.and_then(|read| read.validity()).map(|(begin, _)| begin);
            let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            match begin.is_some_and(|begin| begin > now) {
                true => TlsFault::NotYetValid,
                false => TlsFault::Expired,
            }
        }
        // Also if an authority of the same name has another key.
        HandshakeFailure::UnknownAuthority
        | HandshakeFailure::BadCertificate(CertificateFault::Signature) => match read {
            Some(read) if read.is_its_own_issuer() => TlsFault::SelfSigned,
            Some(_) | None => TlsFault::UnknownAuthority,
        },
        HandshakeFailure::BadCertificate(
            CertificateFault::Purpose | CertificateFault::NetscapeType | CertificateFault::KeyUsage,
        ) => TlsFault::WrongPurpose,
        HandshakeFailure::BadCertificate(_)
        | HandshakeFailure::NotTls
        | HandshakeFailure::Timeout
        | HandshakeFailure::NothingInCommon
        | HandshakeFailure::NoCertificate
        | HandshakeFailure::Alert(_)
        | HandshakeFailure::Protocol => TlsFault::BadCertificate,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, above, name, now).map(|()| ServerCertVerified::assertion()).map_err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signature12(Owner::Server, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signature13(Owner::Server, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes()
    }
}

/// Verifies by another verifier, and notes what it has verified for the sessions with one server.
/// The library calls it in full handshakes only.
#[derive(Debug)]
pub struct Noting {
    /// The verifier.
    pub verifier: Arc<dyn ServerCertVerifier>,
    /// The sessions with the server.
    pub sessions: Arc<Sessions>,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(leaf, above, name, ocsp, now)?;
        self.sessions.note_verified([leaf].into_iter().chain(above), now);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Takes every certificate and every signature: whoever owns the certificate, it proves nothing.
#[derive(Debug)]
pub struct Anyone(pub WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
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
        self.0.supported_schemes()
    }
}
