//! Client certificates: webpki verifies them, after the parts that OpenSSL ignores were removed
//! (`tls::x509::certificate`).
//!
//! A signature is verified over the original certificate. webpki makes all its other checks: the
//! chain, the times, the purpose of the key, the name constraints.

use std::cell::RefCell;

use pen_ipc::message::{CertificateFault, HandshakeFailure, PeerCertificate};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
// From the crate rustls-webpki.
use webpki::{EndEntityCert, KeyUsage};

use crate::tls::transcript;
use crate::tls::x509::certificate::{Certificate, Plain, Position};
use crate::tls::x509::name::name;

/// Verifies clients by a set of authorities.
#[derive(Debug)]
pub struct ClientVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    /// Self-signed certificates that deny being authorities: each is valid only for itself.
    single: Vec<(CertificateDer<'static>, [TrustAnchor<'static>; 1])>,
    /// The authorities' names that are sent to clients.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The name in every hello was hidden from rustls ([`transcript::hide`]).
    hidden: bool,
}

/// What a certificate of `-G` can be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// It is an authority.
    Authority,
    /// It denies being an authority: it lets in only the owner of its key.
    Itself,
    /// It denies being an authority, and another certificate signed it.
    Nothing,
}

impl Use {
    /// The use of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Use {
        match Certificate::read(certificate) {
            Some(read) if read.denies_authority() && read.is_its_own_issuer() => Use::Itself,
            Some(read) if read.denies_authority() => Use::Nothing,
            Some(_) | None => Use::Authority,
        }
    }
}

impl ClientVerifier {
    /// A verifier with these certificates.
    pub fn new(
        certificates: &[CertificateDer<'static>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> ClientVerifier {
        let mut verifier = ClientVerifier {
            anchors: Vec::new(),
            single: Vec::new(),
            hints: Vec::new(),
            algorithms,
            hidden: false,
        };
        for certificate in certificates {
            let mut store = RootCertStore::empty();
            if store.add(certificate.clone()).is_err() {
                continue;
            }
            verifier.hints.extend(store.subjects());
            for anchor in store.roots {
                match Use::of(certificate) {
                    Use::Authority => verifier.anchors.push(anchor),
                    Use::Itself => verifier.single.push((certificate.clone(), [anchor])),
                    Use::Nothing => {}
                }
            }
        }
        verifier
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

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let fault = HandshakeFailure::BadCertificate;
        let read = Certificate::read(leaf).ok_or(fault(CertificateFault::Unreadable))?;
        let own = read.plain(leaf, Position::End).map_err(fault)?;
        // Issuers that are not used do no harm, whatever is wrong with them.
        let mut wrong = None;
        let mut issuers = Vec::new();
        for certificate in above {
            match Certificate::read(certificate)
                .map(|read| read.plain(certificate, Position::Above))
            {
                Some(Ok(plain)) => issuers.push(plain),
                Some(Err(why)) => wrong = wrong.or(Some(why)),
                None => wrong = wrong.or(Some(CertificateFault::Unreadable)),
            }
        }
        let (issuers, rewritten): (Vec<_>, Vec<_>) =
            issuers.into_iter().map(|Plain { certificate, signed }| (certificate, signed)).unzip();
        let signed: Vec<_> = own.signed.iter().chain(rewritten.iter().flatten()).collect();
        let original: Vec<Original<'_>> = self
            .algorithms
            .all
            .iter()
            .map(|inner| Original { inner: *inner, signed: &signed })
            .collect();
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> = original
            .iter()
            .map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm)
            .collect();
        let itself = self.single.iter().find(|(certificate, _)| certificate == leaf);
        let anchors = itself.map_or(&self.anchors[..], |(_, anchor)| anchor);
        let entity = EndEntityCert::try_from(&own.certificate).map_err(|error| failure(&error))?;
        let verified = entity.verify_for_usage(
            &algorithms,
            anchors,
            &issuers,
            now,
            KeyUsage::client_auth(),
            None,
            None,
        );
        verified.map(|_| ()).map_err(|error| match (failure(&error), wrong) {
            (HandshakeFailure::UnknownAuthority, Some(wrong)) => fault(wrong),
            (failure, _) => failure,
        })
    }

    /// The certificate as rustls accepts it.
    fn plain<'c>(certificate: &'c CertificateDer<'_>) -> Result<CertificateDer<'c>, Error> {
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let read = Certificate::read(certificate).ok_or_else(bad)?;
        read.plain(certificate, Position::End).map(|plain| plain.certificate).map_err(|_| bad())
    }
}

/// An algorithm that verifies the signature over the original bytes instead of those that webpki
/// was given.
#[derive(Debug)]
struct Original<'s> {
    inner: &'static dyn SignatureVerificationAlgorithm,
    signed: &'s [&'s (Vec<u8>, &'s [u8])],
}

impl SignatureVerificationAlgorithm for Original<'_> {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let original = self
            .signed
            .iter()
            .find(|(shown, _)| shown == message)
            .map_or(message, |(_, original)| original);
        self.inner.verify_signature(key, original, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
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
        self.verify(leaf, above, now).map(|()| ClientCertVerified::assertion()).map_err(|failure| {
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
        verify_tls12_signature(
            &message,
            &ClientVerifier::plain(certificate)?,
            signed,
            &self.algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            &ClientVerifier::plain(certificate)?,
            signed,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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

/// Converts webpki's error for the report to the administrator.
fn failure(error: &webpki::Error) -> HandshakeFailure {
    use webpki::Error as E;
    HandshakeFailure::BadCertificate(match error {
        E::CertExpired { .. } | E::CertNotValidYet { .. } | E::InvalidCertValidity => {
            return HandshakeFailure::CertificateTime;
        }
        E::UnknownIssuer => return HandshakeFailure::UnknownAuthority,
        E::InvalidSignatureForPublicKey => CertificateFault::Signature,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => CertificateFault::Algorithm,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => CertificateFault::Purpose,
        E::EndEntityUsedAsCa => CertificateFault::Issuer,
        E::PathLenConstraintViolated | E::NameConstraintViolation => CertificateFault::Constraint,
        _ => CertificateFault::Unreadable,
    })
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
