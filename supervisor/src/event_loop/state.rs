//! The state of pen that is not part of the settings.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use pen_config::address::{Address, Local};
use pen_config::command::{Command, LogTarget, Startup};
use pen_config::configuration::SourcedCommand;
use pen_config::settings::Settings;

use crate::files::listener::SocketPath;
use crate::files::status_file::StatusFile;
use crate::helpers::open::JailedPath;
use crate::launch::paths::Base;

/// The present state.
#[derive(Debug)]
pub(crate) struct RuntimeState {
    /// The listen address as it was written.
    pub(crate) local: Local,
    /// The listen address.
    pub(crate) listen: Address,
    /// The listener.
    pub(crate) guard: ListenerGuard,
    /// Listeners that workers may still use.
    pub(crate) retired: Vec<ListenerGuard>,
    /// The target of the request log.
    pub(crate) log: Option<LogTarget>,
    /// Whether that is a file which the control process opened. Its name means nothing to the
    /// supervisor then.
    pub(crate) log_is_held: bool,
    /// An OCSP response that the control process opened. Its name means nothing to the supervisor.
    pub(crate) ocsp: Option<OwnedFd>,
    /// The file for status pages.
    pub(crate) status: Option<StatusFile>,
    /// Options that only a start can set: one of each kind.
    pub(crate) startup: Vec<Startup>,
    /// The commands that set such options: the last of each kind.
    pub(crate) commanded: Vec<Command>,
    /// Whether the configuration file names all servers.
    pub(crate) servers_only: bool,
    /// `-F`.
    pub(crate) config: Option<PathBuf>,
    /// The command line, as commands.
    pub(crate) options: Vec<SourcedCommand>,
    /// The settings from the command line alone.
    pub(crate) given: Settings,
    /// The base directory of relative paths.
    pub(crate) base: Base,
    /// `-X`.
    pub(crate) allow_exit: bool,
    /// The longest backlog that this machine allows.
    pub(crate) longest_backlog: Option<u32>,
    /// The number of workers that was asked for.
    pub(crate) workers: Option<u32>,
    /// The command line.
    pub(crate) command_line: String,
    /// When pen started.
    pub(crate) started: Instant,
}

impl RuntimeState {
    /// The default port of a server.
    pub(crate) fn port(&self) -> Option<u16> {
        self.listen.inet_port()
    }
}

/// Keeps a listener open. The file of a Unix listener is removed while the socket is still open,
/// because until then no other file can have its inode number.
#[derive(Debug)]
pub(crate) struct ListenerGuard {
    path: Option<SocketGuard>,
    socket: OwnedFd,
}

/// The file of a Unix listener, removed on drop.
#[derive(Debug)]
pub(crate) enum SocketGuard {
    /// Made by the supervisor.
    Own(#[expect(dead_code, reason = "kept for its end")] SocketPath),
    /// Made in the jail.
    Jailed(#[expect(dead_code, reason = "kept for its end")] JailedPath),
}

impl ListenerGuard {
    /// Keeps the listener open.
    ///
    /// # Errors
    /// No descriptors left.
    pub(crate) fn new(listener: &OwnedFd, path: Option<SocketGuard>) -> io::Result<ListenerGuard> {
        Ok(ListenerGuard { path, socket: listener.try_clone()? })
    }

    /// Whether its file was made in the jail.
    pub(crate) fn is_jailed(&self) -> bool {
        matches!(self.path, Some(SocketGuard::Jailed(_)))
    }
}

impl AsFd for ListenerGuard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
