//! The state of pen that is not part of the settings.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use pen_config::address::{Address, Local};
use pen_config::command::{ConnectionLogTarget, LogTarget, Setting, SourcedCommand, Startup};
use pen_config::settings::Settings;
use pen_table::Table;

use crate::clock;
use crate::files::line_log::LineLog;
use crate::files::made::MadeFile;
use crate::files::program::ProgramFile;
use crate::files::status_file::StatusFile;
use crate::helpers::open::JailedFile;
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
    /// The target of the connection log.
    pub(crate) connection_log: Option<ConnectionLogTarget>,
    /// As `log_is_held`, for the connection log.
    pub(crate) connection_log_is_held: bool,
    /// An OCSP response that the control process opened. Its name means nothing to the supervisor.
    pub(crate) ocsp: Option<OwnedFd>,
    /// The file for status pages.
    pub(crate) status: Option<StatusFile>,
    /// Options that only a start can set: one of each kind.
    pub(crate) startup: Vec<Startup>,
    /// The commands that set such options: the last of each kind.
    pub(crate) commanded: Vec<Setting>,
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
    /// The words of the command line, as the process was started with them.
    pub(crate) argv: Vec<Vec<u8>>,
    /// How many programs had this process before.
    pub(crate) generation: u32,
    /// The file of the program that was started; none if it is not known.
    pub(crate) program: Option<ProgramFile>,
    /// When pen started.
    pub(crate) started: Instant,
}

impl RuntimeState {
    /// The target of a log, unless that is the syslog daemon, and whether it is a file which the
    /// control process opened.
    pub(crate) fn line_log(&self, which: LineLog) -> (Option<&LogTarget>, bool) {
        match which {
            LineLog::Requests => (self.log.as_ref(), self.log_is_held),
            LineLog::Connections => {
                let target = self.connection_log.as_ref().and_then(ConnectionLogTarget::log);
                (target, self.connection_log_is_held)
            }
        }
    }

    /// The default port of a server.
    pub(crate) fn port(&self) -> Option<u16> {
        self.listen.inet_port()
    }

    /// The pid file, if there is one.
    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.startup.iter().find_map(|startup| match startup {
            Startup::PidFile(path) => path.as_deref(),
            Startup::Control(_)
            | Startup::ExitCommand(_)
            | Startup::Jail(_)
            | Startup::Page(_)
            | Startup::RequireSandbox(_)
            | Startup::User(_) => None,
        })
    }
}

/// Keeps a listener open. The file of a Unix listener is removed while the socket is still open,
/// because until then no other file can have its inode number.
#[derive(Debug)]
pub(crate) struct ListenerGuard {
    path: Option<FileGuard>,
    socket: Rc<OwnedFd>,
}

/// A file that was made for pen, removed on drop.
#[derive(Debug)]
pub(crate) enum FileGuard {
    /// Made by the supervisor.
    Own(MadeFile),
    /// Made in the jail.
    Jailed(JailedFile),
}

impl FileGuard {
    /// Leaves the file for good.
    pub(crate) fn keep(self) {
        match self {
            FileGuard::Own(file) => drop(file.keep()),
            FileGuard::Jailed(file) => file.keep(),
        }
    }
}

impl ListenerGuard {
    /// Keeps the listener open.
    pub(crate) fn new(socket: Rc<OwnedFd>, path: Option<FileGuard>) -> ListenerGuard {
        ListenerGuard { path, socket }
    }

    /// Its file, if pen made one.
    pub(crate) fn file(&self) -> Option<&FileGuard> {
        self.path.as_ref()
    }

    /// Gives it the file that an earlier pen made for it.
    pub(crate) fn own(&mut self, file: MadeFile) {
        self.path = Some(FileGuard::Own(file));
    }

    /// Leaves its file, unless that is in the jail: nobody can use the socket from there later.
    pub(crate) fn keep_file(&mut self) {
        if let Some(FileGuard::Own(file)) =
            self.path.take_if(|path| matches!(path, FileGuard::Own(_)))
        {
            file.keep();
        }
    }

    /// Whether its file was made in the jail.
    pub(crate) fn is_jailed(&self) -> bool {
        matches!(self.path, Some(FileGuard::Jailed(_)))
    }
}

impl AsFd for ListenerGuard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Blacklists a server from now on; 0 seconds ends the blacklisting.
pub(crate) fn leave_out(table: &Table, row: u32, seconds: u32) {
    match seconds {
        0 => table.return_to_service(row, clock::monotonic()),
        seconds => {
            let unix = time::OffsetDateTime::now_utc().unix_timestamp();
            let until = clock::monotonic() + u64::from(seconds) * 1000;
            table.take_out(row, until, u64::try_from(unix).unwrap_or(0));
        }
    }
}
