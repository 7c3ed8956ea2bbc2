//! Certificates of others: webpki verifies them, after the parts that OpenSSL ignores were removed
//! (`tls::x509::certificate`).
//!
//! A signature is verified over the original certificate. webpki makes all its other checks: the
//! chain, the times, the purpose of the key, the name constraints.

use pen_ipc::message::{CertificateFault, HandshakeFailure};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
// From the crate rustls-webpki.
use webpki::{EndEntityCert, KeyUsage};

use crate::tls::x509::certificate::{Certificate, Owner, Plain, Position};

/// A set of authorities.
#[derive(Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    /// Self-signed certificates that deny being authorities: each is valid only for itself.
    single: Vec<(CertificateDer<'static>, [TrustAnchor<'static>; 1])>,
    /// The authorities' names.
    pub subjects: Vec<DistinguishedName>,
    /// The algorithms of signatures.
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a certificate of an operator's authorities can be used for.
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

impl Trust {
    /// Trust in these certificates.
    pub fn new(
        certificates: &[CertificateDer<'static>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Trust {
        let mut trust =
            Trust { anchors: Vec::new(), single: Vec::new(), subjects: Vec::new(), algorithms };
        for certificate in certificates {
            let mut store = RootCertStore::empty();
            if store.add(certificate.clone()).is_err() {
                continue;
            }
            trust.subjects.extend(store.subjects());
            for anchor in store.roots {
                match Use::of(certificate) {
                    Use::Authority => trust.anchors.push(anchor),
                    Use::Itself => trust.single.push((certificate.clone(), [anchor])),
                    Use::Nothing => {}
                }
            }
        }
        trust
    }

    /// Verifies the certificate of a peer with the chain that came with it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(
        &self,
        owner: Owner,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let fault = HandshakeFailure::BadCertificate;
        let read = Certificate::read(leaf).ok_or(fault(CertificateFault::Unreadable))?;
        let own = read.plain(leaf, Position::End(owner)).map_err(fault)?;
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
        let usage = match owner {
            Owner::Client => KeyUsage::client_auth(),
            Owner::Server => KeyUsage::server_auth(),
        };
        let verified =
            entity.verify_for_usage(&algorithms, anchors, &issuers, now, usage, None, None);
        verified.map(|_| ()).map_err(|error| match (failure(&error), wrong) {
            (HandshakeFailure::UnknownAuthority, Some(wrong)) => fault(wrong),
            (failure, _) => failure,
        })
    }

    /// Verifies the signature of a handshake of TLS 1.2 by the key of a peer's certificate.
    ///
    /// # Errors
    /// It is not good, or the certificate cannot be read.
    pub fn signature12(
        &self,
        owner: Owner,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, &plain(owner, certificate)?, signed, &self.algorithms)
    }

    /// The same of TLS 1.3.
    ///
    /// # Errors
    /// It is not good, or the certificate cannot be read.
    pub fn signature13(
        &self,
        owner: Owner,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, &plain(owner, certificate)?, signed, &self.algorithms)
    }

    /// The schemes of signatures that are understood.
    pub fn schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate of a peer as webpki and rustls accept it.
///
/// # Errors
/// It has a part that must not be ignored.
pub fn plain<'c>(
    owner: Owner,
    certificate: &'c CertificateDer<'_>,
) -> Result<CertificateDer<'c>, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let read = Certificate::read(certificate).ok_or_else(bad)?;
    let plain = read.plain(certificate, Position::End(owner));
    plain.map(|plain| plain.certificate).map_err(|_| bad())
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
