//! Converts TLS errors to the handshake failures that are reported to the administrator.

use pen_ipc::message::{CertificateFault, HandshakeFailure};
use rustls::{CertificateError, Error, InvalidMessage};

/// The kind of an error.
pub fn failure(error: &Error) -> HandshakeFailure {
    match error {
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => HandshakeFailure::NotTls,
        Error::PeerIncompatible(_) => HandshakeFailure::NothingInCommon,
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => HandshakeFailure::CertificateTime,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            HandshakeFailure::UnknownAuthority
        }
        Error::InvalidCertificate(_) => {
            HandshakeFailure::BadCertificate(CertificateFault::Unreadable)
        }
        Error::AlertReceived(alert) => HandshakeFailure::Alert(u8::from(*alert)),
        _ => HandshakeFailure::Protocol,
    }
}
