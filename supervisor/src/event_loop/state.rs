//! What pen works by beside the settings, as it stands now.

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
use crate::startup::paths::Base;

/// The present state.
#[derive(Debug)]
pub(crate) struct RuntimeState {
    /// Where pen listens, as it was written.
    pub(crate) local: Local,
    /// Where pen listens.
    pub(crate) listen: Address,
    /// The listener.
    pub(crate) guard: ListenerGuard,
    /// Listeners that workers may still use.
    pub(crate) retired: Vec<ListenerGuard>,
    /// Where the request log goes.
    pub(crate) log: Option<LogTarget>,
    /// Whether that is a file which the control process opened: its name means nothing to the
    /// supervisor.
    pub(crate) log_is_held: bool,
    /// An OCSP response that the control process opened: its name means nothing to the supervisor.
    pub(crate) ocsp: Option<OwnedFd>,
    /// Where status pages go.
    pub(crate) status: Option<StatusFile>,
    /// What only a start can give: one of each kind.
    pub(crate) startup: Vec<Startup>,
    /// What of this commands said.
    pub(crate) commanded: Vec<Command>,
    /// Whether the configuration file names all servers.
    pub(crate) servers_only: bool,
    /// `-F`.
    pub(crate) config: Option<PathBuf>,
    /// What the command line said in commands.
    pub(crate) options: Vec<SourcedCommand>,
    /// The settings that the command line alone gives.
    pub(crate) given: Settings,
    /// Where relative paths begin.
    pub(crate) base: Base,
    /// `-X`.
    pub(crate) allow_exit: bool,
    /// The longest backlog that this machine gives.
    pub(crate) longest_backlog: Option<u32>,
    /// How many workers were asked for.
    pub(crate) workers: Option<u32>,
    /// The command line.
    pub(crate) command_line: String,
    /// When pen started.
    pub(crate) started: Instant,
}

impl RuntimeState {
    /// The port of a server that is given none.
    pub(crate) fn port(&self) -> Option<u16> {
        self.listen.inet_port()
    }
}

/// The supervisor's hold on a listener: its file, if it has one, goes while its socket is open,
/// because until then no other file can have its number.
#[derive(Debug)]
pub(crate) struct ListenerGuard {
    path: Option<SocketGuard>,
    socket: OwnedFd,
}

/// The file of a listener, removed when it is dropped.
#[derive(Debug)]
pub(crate) enum SocketGuard {
    /// Made by the supervisor.
    Own(#[expect(dead_code, reason = "kept for its end")] SocketPath),
    /// Made in the jail.
    Jailed(#[expect(dead_code, reason = "kept for its end")] JailedPath),
}

impl ListenerGuard {
    /// Takes hold.
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
