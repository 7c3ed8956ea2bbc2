//! TLS towards clients.
//!
//! - `session` is one client's session. `hello` reads the requested server name, and `transcript`
//!   serves a client whose name is not valid.
//! - `keyring` builds the configurations from the files of the supervisor (`material`, `pem`).
//!   Those of server names are built when first requested (`names`).
//! - `certificate` reads certificates (`der`), and `verifier` verifies clients' certificates.
//! - `signing` holds the private key.
//! - `tickets` lets a session be resumed at any worker.
//! - `failure` converts errors to reports.

mod certificate;
mod der;
mod failure;
mod hello;
mod keyring;
mod material;
mod names;
mod pem;
mod session;
mod signing;
mod tickets;
mod transcript;
mod verifier;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pen_ipc::start::TlsStart;
use pen_ipc::tls_files::{Examined, TICKET_SECRET};

use crate::relay::tls::keyring::Keyring;
use crate::relay::tls::material::Material;
use crate::relay::tls::tickets::Secrets;

pub use crate::relay::tls::failure::failure;
pub use crate::relay::tls::session::{Cipher, Session};
pub use crate::relay::transfer::pump::BUFFER as PLAIN;

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
