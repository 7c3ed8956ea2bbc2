//! The port of a jailed process: a listening socket, and its file if it is a Unix socket.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pen_config::address::{Address, Local};

use crate::files::listener::{ListenError, Listener};
use crate::files::made::MadeFile;
use crate::jail::Jail;

/// A port, bound. A socket file is removed while the socket is still open.
#[derive(Debug)]
pub(crate) struct Port {
    path: Option<MadeFile>,
    socket: OwnedFd,
    /// The address as its command shows it.
    pub(crate) name: String,
}

impl Port {
    /// Binds a port. A socket file belongs to the user of the jailed processes only.
    ///
    /// # Errors
    /// The address is in use, not on this machine, or not permitted.
    pub(crate) fn bind(name: &Local, address: &Address, jail: &Jail) -> Result<Port, ListenError> {
        let listener = match address {
            Address::Inet(_) => Listener::bind(address, BACKLOG)?,
            Address::Unix(_) => {
                Listener::bind_private(address, BACKLOG, jail.identity.uid, jail.identity.gid)?
            }
        };
        let (socket, path) = listener.into_parts();
        Ok(Port { path, socket, name: name.to_string() })
    }

    /// A port that an earlier program in this process bound or was passed.
    pub(crate) fn adopted(name: String, socket: OwnedFd, path: Option<MadeFile>) -> Port {
        Port { path, socket, name }
    }

    /// A port from a socket that was passed to pen, bound and listening.
    pub(crate) fn passed(name: &Local, socket: OwnedFd) -> Port {
        Port { path: None, socket, name: name.to_string() }
    }

    /// Its file, if pen made one.
    pub(crate) fn file(&self) -> Option<&MadeFile> {
        self.path.as_ref()
    }

    /// Gives it the file that an earlier pen made for it.
    pub(crate) fn own(&mut self, file: MadeFile) {
        self.path = Some(file);
    }

    /// Leaves its file for the next start.
    pub(crate) fn keep_file(&mut self) {
        self.path.take().map(MadeFile::keep);
    }

    /// The socket.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for the process that serves it.
    ///
    /// # Errors
    /// No descriptors left.
    pub(in crate::processes::ports) fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

/// Most clients that wait to be accepted.
pub(crate) const BACKLOG: u32 = 64;
