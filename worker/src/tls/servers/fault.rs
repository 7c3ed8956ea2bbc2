//! What an error of the library means in a handshake with a server.

use std::fmt;
use std::sync::Arc;

use pen_ipc::server_tls::TlsFault;
use rustls::{CertificateError, Error, InvalidMessage, OtherError};

/// The fault that an error is reported as.
pub fn fault(error: &Error) -> TlsFault {
    match error {
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => TlsFault::NotTls,
        Error::PeerIncompatible(_) => TlsFault::NothingInCommon,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::NoCertificatesPresented => TlsFault::BadCertificate,
        Error::AlertReceived(alert) => TlsFault::Alert(u8::from(*alert)),
        _ => TlsFault::Protocol,
    }
}

fn of_certificate(error: &CertificateError) -> TlsFault {
    match error {
        CertificateError::Expired => TlsFault::Expired,
        CertificateError::NotValidYet => TlsFault::NotYetValid,
        CertificateError::UnknownIssuer => TlsFault::UnknownAuthority,
        CertificateError::NotValidForName => TlsFault::WrongName,
        CertificateError::InvalidPurpose => TlsFault::WrongPurpose,
        CertificateError::Other(OtherError(other)) if other.is::<SelfSigned>() => {
            TlsFault::SelfSigned
        }
        _ => TlsFault::BadCertificate,
    }
}

/// The error for a fault of a certificate: with it, the server gets the right alert.
pub fn error(fault: TlsFault) -> Error {
    Error::InvalidCertificate(match fault {
        TlsFault::Expired => CertificateError::Expired,
        TlsFault::NotYetValid => CertificateError::NotValidYet,
        TlsFault::UnknownAuthority => CertificateError::UnknownIssuer,
        TlsFault::WrongName => CertificateError::NotValidForName,
        TlsFault::WrongPurpose => CertificateError::InvalidPurpose,
        TlsFault::SelfSigned => CertificateError::Other(OtherError(Arc::new(SelfSigned))),
        TlsFault::Timeout
        | TlsFault::NotTls
        | TlsFault::Closed
        | TlsFault::NothingInCommon
        | TlsFault::BadCertificate
        | TlsFault::Alert(_)
        | TlsFault::Protocol
        | TlsFault::NoName
        | TlsFault::NoFiles => CertificateError::BadEncoding,
    })
}

/// The library has no error for a certificate that signed itself.
#[derive(Debug)]
struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed")
    }
}

impl std::error::Error for SelfSigned {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_certificates_come_back_from_the_library() {
        for known in [
            TlsFault::Expired,
            TlsFault::NotYetValid,
            TlsFault::UnknownAuthority,
            TlsFault::SelfSigned,
            TlsFault::WrongName,
            TlsFault::WrongPurpose,
            TlsFault::BadCertificate,
        ] {
            assert_eq!(fault(&error(known)), known);
        }
        let alert = rustls::AlertDescription::CertificateRequired;
        assert_eq!(fault(&Error::AlertReceived(alert)), TlsFault::Alert(116));
        assert_eq!(fault(&Error::DecryptError), TlsFault::Protocol);
    }
}
