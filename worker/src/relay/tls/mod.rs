//! TLS towards clients.
//!
//! `session` is one client's session; `hello` reads the name that it asks for, and `transcript`
//! serves a client whose name is none. `keyring` makes the configurations that all of them go by
//! out of the files that came from the supervisor (`material`, as `pem` takes them), those of
//! server names when they are first asked for (`names`). `certificate` reads certificates
//! (`der`), and `verifier` verifies those of clients; `signing` holds the private key; `tickets`
//! lets a session go on at any worker. `failure` finds the words for what went wrong.

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

/// What a worker's handshakes go by.
#[derive(Debug)]
pub struct Tls {
    keyring: Arc<Keyring>,
    secrets: Arc<Secrets>,
}

impl Tls {
    /// Reads what a worker is born with.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn new(start: TlsStart) -> Result<Tls, String> {
        let (current, previous) = start.secrets;
        let none = || "the ticket secrets did not arrive whole".to_owned();
        let current = material::secret(&current).ok_or_else(none)?;
        let previous =
            previous.map(|previous| material::secret(&previous).ok_or_else(none)).transpose()?;
        let secrets = Secrets::new(&current, previous.as_ref().map(|bytes| bytes.as_slice()))
            .ok_or_else(none)?;
        let (keyring, _) = keyring::build(Material::new(start.files)?, &secrets)?;
        Ok(Tls { keyring: Arc::new(keyring), secrets })
    }

    /// Goes by other files from now on; sessions that are there stay as they are.
    ///
    /// # Errors
    /// The file and what is wrong with it; nothing has changed.
    pub fn replace(&mut self, files: OwnedFd) -> Result<(), String> {
        let (keyring, _) = keyring::build(Material::new(files)?, &self.secrets)?;
        self.keyring = Arc::new(keyring);
        Ok(())
    }

    /// Takes a new ticket secret. False: it is none.
    pub fn renew_secret(&self, secret: &OwnedFd) -> bool {
        material::secret(secret).is_some_and(|bytes| self.secrets.renew(&bytes))
    }

    /// A session with a client that has said nothing yet.
    pub fn session(&self) -> Session {
        Session::new(self.keyring.clone())
    }
}

/// Says whether these files are good, and what the administrator should know about them.
///
/// # Errors
/// The file and what is wrong with it.
pub fn examine(files: OwnedFd) -> Result<Examined, String> {
    let secrets = Secrets::new(&[0; TICKET_SECRET], None).ok_or("no ticket secret can be made")?;
    let (keyring, mut notices) = keyring::build(Material::new(files)?, &secrets)?;
    let certificates = keyring.examine(&mut notices)?;
    Ok(Examined { notices, certificates })
}
