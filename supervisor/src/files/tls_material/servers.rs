//! The files of TLS towards servers: the authorities of their certificates, and the certificate
//! that they may ask for.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use pen_config::tls::servers::ServerTls;
use pen_ipc::tls_files::{AUTHORITIES_LIMIT, FILE_LIMIT, Fact, Role, ServerIndex};

use crate::files::certificates::Certificates;
use crate::files::tls_material::{READING, TlsGathering, system_authorities};

/// The files that an examiner last accepted.
#[derive(Debug)]
pub(crate) struct ServerKeys {
    /// The files. The checker gets them too.
    pub(crate) files: Rc<OwnedFd>,
    /// The certificates in the files.
    pub(crate) certificates: Certificates,
    /// When to look again which certificates expire.
    pub(crate) looking: Instant,
}

impl ServerKeys {
    /// Files that an examiner accepted now.
    pub(crate) fn new(files: Rc<OwnedFd>, facts: Vec<Fact>, now: Instant) -> ServerKeys {
        let certificates = Certificates::new(facts, now);
        ServerKeys { files, certificates, looking: now + READING }
    }
}

/// Reads the files into sealed memory. Also returns notices.
///
/// # Errors
/// The file that cannot be read, and the reason.
pub(crate) fn gather(tls: &ServerTls) -> Result<(OwnedFd, Vec<String>), String> {
    let mut gathering = TlsGathering::new()?;
    if tls.verify {
        match &tls.ca {
            Some(path) if path.is_dir() => gathering.hashed(path)?,
            Some(path) => gathering.add(path, Role::Authorities, AUTHORITIES_LIMIT)?,
            None => {
                let path: &Path = system_authorities().ok_or(
                    "server_tls_verify: this system has no file of certification authorities; say \
                     with server_tls_ca whose certificates are good",
                )?;
                gathering.add(path, Role::SystemAuthorities, AUTHORITIES_LIMIT)?;
            }
        }
    }
    if let Some(path) = &tls.certificate {
        gathering.add(path, Role::Certificate, FILE_LIMIT)?;
    }
    if let Some(path) = &tls.key {
        gathering.add(path, Role::Key, FILE_LIMIT)?;
    }
    gathering.finish(|files| ServerIndex { verify: tls.verify, files })
}
