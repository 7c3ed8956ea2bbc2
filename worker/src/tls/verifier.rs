//! Client certificates: verified by the authorities of `-G` and `-A`.

use std::cell::RefCell;

use pen_ipc::message::{CertificateFault, HandshakeFailure, PeerCertificate};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::tls::transcript;
use crate::tls::trust::Trust;
use crate::tls::x509::certificate::{Certificate, Owner};
use crate::tls::x509::name::name;

/// Verifies clients by a set of authorities.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: Trust,
    /// The authorities' names that are sent to clients.
    hints: Vec<DistinguishedName>,
    /// The name in every hello was hidden from rustls ([`transcript::hide`]).
    hidden: bool,
}

impl ClientVerifier {
    /// A verifier with these certificates.
    pub fn new(
        certificates: &[CertificateDer<'static>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> ClientVerifier {
        let trust = Trust::new(certificates, algorithms);
        ClientVerifier { hints: trust.subjects.clone(), trust, hidden: false }
    }

    /// Sends clients no names of authorities: the names of all public authorities would not help a
    /// client to choose.
    pub fn without_hints(self) -> ClientVerifier {
        ClientVerifier { hints: Vec::new(), ..self }
    }

    /// For clients whose server name was hidden from rustls.
    pub fn of_hidden_names(self) -> ClientVerifier {
        ClientVerifier { hidden: true, ..self }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.trust.verify(Owner::Client, leaf, above, now);
        verified.map(|()| ClientCertVerified::assertion()).map_err(|failure| {
            let error = Error::InvalidCertificate(error(&failure));
            let certificate = Certificate::read(leaf)
                .map(|read| PeerCertificate { subject: name(read.subject), serial: read.serial() });
            REFUSED.set(Some((failure, certificate)));
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // All messages from the first one on.
        let message = if self.hidden { transcript::as_it_came(message) } else { message.into() };
        self.trust.signature12(Owner::Client, &message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.signature13(Owner::Client, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.schemes()
    }
}

thread_local! {
    /// Why the last certificate was refused, and whose it was. rustls errors cannot carry that
    /// without changing the alert.
    static REFUSED: RefCell<Option<RefusedCertificate>> = const { RefCell::new(None) };
}

/// Why a certificate was refused, and whose it was, if that can be read.
pub type RefusedCertificate = (HandshakeFailure, Option<PeerCertificate>);

/// Why this thread refused a certificate, once.
pub fn refused() -> Option<RefusedCertificate> {
    REFUSED.take()
}

/// The error with the right alert.
fn error(failure: &HandshakeFailure) -> CertificateError {
    match failure {
        HandshakeFailure::CertificateTime => CertificateError::Expired,
        HandshakeFailure::UnknownAuthority => CertificateError::UnknownIssuer,
        HandshakeFailure::BadCertificate(fault) => match fault {
            CertificateFault::CriticalExtension(_) => CertificateError::UnhandledCriticalExtension,
            CertificateFault::NetscapeType
            | CertificateFault::KeyUsage
            | CertificateFault::Authority
            | CertificateFault::Purpose => CertificateError::InvalidPurpose,
            CertificateFault::Signature => CertificateError::BadSignature,
            CertificateFault::Algorithm
            | CertificateFault::Issuer
            | CertificateFault::IssuerVersion(_)
            | CertificateFault::Constraint
            | CertificateFault::Unreadable => CertificateError::BadEncoding,
        },
        HandshakeFailure::NotTls
        | HandshakeFailure::Timeout
        | HandshakeFailure::NothingInCommon
        | HandshakeFailure::NoCertificate
        | HandshakeFailure::Alert(_)
        | HandshakeFailure::Protocol => CertificateError::ApplicationVerificationFailure,
    }
}
