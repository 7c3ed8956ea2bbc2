//! TLS towards clients.
//!
//! - `session` is one client's session. `hello` reads the requested server name, and `transcript`
//!   serves a client whose name is not valid.
//! - `keyring` holds the configurations. `key_source` makes them from the files of the supervisor
//!   (`material`). Those of server names are made when first requested (`names`).
//! - `resumption` keeps the sessions with a server that a later connection resumes.
//! - `suites` are those of the library, with another limit of records.
//! - `x509` reads certificates and keys, and `verifier` verifies clients' certificates.
//! - `tickets` lets a session be resumed at any worker.

mod hello;
mod key_source;
mod keyring;
mod material;
mod names;
mod read;
mod resumption;
pub mod servers;
mod session;
mod suites;
mod tickets;
mod transcript;
mod trust;
mod verifier;
mod x509;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pen_ipc::message::{CertificateFault, HandshakeFailure};
use pen_ipc::start::TlsStart;
use pen_ipc::tls_files::{Examined, TICKET_SECRET};
use rustls::{CertificateError, Error, InvalidMessage};

use crate::tls::keyring::Keyring;
use crate::tls::material::Material;
use crate::tls::tickets::Secrets;

#[cfg(test)]
pub(crate) use crate::tls::session::tests as session_tests;
pub use crate::tls::session::{Cipher, PLAIN, Session, TlsFacts};

/// The TLS state of a worker.
#[derive(Debug)]
pub struct TlsContext {
    keyring: Arc<Keyring>,
    secrets: Arc<Secrets>,
}

impl TlsContext {
    /// Reads the files that a worker starts with.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn new(start: TlsStart) -> Result<TlsContext, String> {
        let (current, previous) = start.secrets;
        let none = || "the ticket secrets did not arrive whole".to_owned();
        let current = material::secret(&current).ok_or_else(none)?;
        let previous =
            previous.map(|previous| material::secret(&previous).ok_or_else(none)).transpose()?;
        let secrets = Secrets::new(&current, previous.as_ref().map(|bytes| bytes.as_slice()))
            .ok_or_else(none)?;
        let (keyring, _) = keyring::build(Material::new(start.files)?, &secrets)?;
        Ok(TlsContext { keyring: Arc::new(keyring), secrets })
    }

    /// Uses other files from now on. Open sessions are unchanged.
    ///
    /// # Errors
    /// The file and what is wrong with it; nothing has changed.
    pub fn replace(&mut self, files: OwnedFd) -> Result<(), String> {
        let (keyring, _) = keyring::build(Material::new(files)?, &self.secrets)?;
        self.keyring = Arc::new(keyring);
        Ok(())
    }

    /// Takes a new ticket secret. False: the memory holds none.
    pub fn renew_secret(&self, secret: &OwnedFd) -> bool {
        material::secret(secret).is_some_and(|bytes| self.secrets.renew(&bytes))
    }

    /// A new session, before the client's first bytes.
    pub fn session(&self) -> Session {
        Session::new(self.keyring.clone())
    }
}

/// Checks whether these files are valid, and returns what the administrator should know about them.
///
/// # Errors
/// The file and what is wrong with it.
pub fn examine(files: OwnedFd) -> Result<Examined, String> {
    let secrets = Secrets::new(&[0; TICKET_SECRET], None).ok_or("no ticket secret can be made")?;
    let (keyring, mut notices) = keyring::build(Material::new(files)?, &secrets)?;
    let certificates = keyring.examine(&mut notices)?;
    Ok(Examined { notices, certificates })
}

/// The handshake failure that an error is reported as.
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
