//! The types through which a change passes, in their order, and what a change waits for.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use pen_config::address::{Address, Local};
use pen_config::command::{ConnectionLogTarget, LogTarget, SourcedCommand};
use pen_config::ids::ServerId;
use pen_config::settings::Settings;
use pen_ipc::start::RequestLog;
use pen_ipc::tls_files::Fact;

use crate::event_loop::moves::Moves;
use crate::event_loop::reload::configuration::Configuration;
use crate::event_loop::state::FileGuard;
use crate::files::line_log::LineLog;
use crate::files::listener::Reserved;
use crate::files::status_file::StatusFile;
use crate::helpers::examine::Examining;
use crate::helpers::names::Inquiry;
use crate::helpers::open::{Fetching, JailedFile};
use crate::helpers::resolve::Asking;
use crate::log::recent::Incident;
use crate::processes::ports::control::ControlReply;
use crate::processes::spawn::OpenConnectionLog;

/// A change that is allowed and possible, as far as that is known without an open file.
#[derive(Debug)]
pub(in crate::event_loop) struct Resolved {
    pub(in crate::event_loop::reload) configuration: Configuration,
    /// The settings after the change.
    pub(in crate::event_loop::reload) settings: Settings,
    /// The files and sockets to open, in this order.
    pub(in crate::event_loop::reload) unopened: Vec<Unopened>,
    pub(in crate::event_loop::reload) notices: Vec<String>,
}

/// A file or socket to open.
#[derive(Debug)]
pub(in crate::event_loop) struct Unopened {
    pub(in crate::event_loop::reload) target: OpenTarget,
    /// The beginning of an error message: the source line of the command.
    pub(in crate::event_loop::reload) at: String,
}

/// What to open.
#[derive(Debug)]
pub(in crate::event_loop) enum OpenTarget {
    /// The listener: as it is written, and its addresses, of which the first one of this machine
    /// is used.
    Listener(Local, Vec<Address>),
    /// A log, with its address if it is in the network.
    Log(LineLog, LogTarget, Option<SocketAddr>),
    /// The syslog daemon, for the connection log.
    Syslog,
    /// A file for status pages.
    StatusFile(PathBuf),
    /// A file or socket that an operator named.
    Jailed(JailedTarget),
}

/// A path that an operator named, to be opened with the operator's rights.
#[derive(Debug)]
pub(in crate::event_loop) enum JailedTarget {
    Log(LineLog, PathBuf),
    StatusFile(PathBuf),
    Listener(PathBuf),
}

/// A change with TLS files that are read, and that the examiner has still to accept.
#[derive(Debug)]
pub(in crate::event_loop) struct Unexamined {
    pub(in crate::event_loop::reload) resolved: Resolved,
    pub(in crate::event_loop::reload) ocsp: Change<OwnedFd>,
    pub(in crate::event_loop::reload) files: OwnedFd,
    pub(in crate::event_loop::reload) notices: Vec<String>,
    pub(in crate::event_loop::reload) side: TlsSide,
}

/// Whose TLS files are read.
#[derive(Debug)]
pub(in crate::event_loop) enum TlsSide {
    /// Those of TLS towards clients, which come first.
    Clients,
    /// Those of TLS towards servers. The others are accepted, if they were read.
    Servers(Option<NewTls>),
}

/// A change whose files and sockets are being opened.
#[derive(Debug)]
pub(in crate::event_loop) struct Opening {
    pub(in crate::event_loop::reload) accepted: Accepted,
    /// What is open by now.
    pub(in crate::event_loop::reload) opened: Opened,
    /// What is still to be opened, in this order.
    pub(in crate::event_loop::reload) unopened: VecDeque<Unopened>,
}

/// A change of which everything is checked, and everything is open. One step can still fail: a new
/// listener that is only reserved does not listen yet.
#[derive(Debug)]
pub(in crate::event_loop) struct Plan {
    pub(in crate::event_loop::reload) accepted: Accepted,
    pub(in crate::event_loop::reload) opened: Opened,
}

/// A change that is checked, with its TLS files.
#[derive(Debug)]
pub(in crate::event_loop) struct Accepted {
    pub(in crate::event_loop::reload) configuration: Configuration,
    pub(in crate::event_loop::reload) settings: Settings,
    /// The settings in sealed memory.
    pub(in crate::event_loop::reload) encoded: OwnedFd,
    pub(in crate::event_loop::reload) ocsp: Change<OwnedFd>,
    /// The TLS files, if they were read.
    pub(in crate::event_loop::reload) tls: Option<NewTls>,
    /// The files of TLS towards servers.
    pub(in crate::event_loop::reload) server_tls: Change<NewTls>,
    pub(in crate::event_loop::reload) notices: Vec<String>,
}

/// The files and sockets of a change that are open. Files that were made for it are removed if it
/// is dropped.
#[derive(Debug)]
pub(in crate::event_loop) struct Opened {
    pub(in crate::event_loop::reload) listener: Option<NewListener>,
    pub(in crate::event_loop::reload) log: Change<NewLog>,
    pub(in crate::event_loop::reload) connection_log: Change<NewConnectionLog>,
    pub(in crate::event_loop::reload) status_file: Change<NewStatusFile>,
}

/// TLS files that the examiner accepted.
#[derive(Debug)]
pub(in crate::event_loop) struct NewTls {
    pub(in crate::event_loop::reload) files: OwnedFd,
    pub(in crate::event_loop::reload) certificates: Vec<Fact>,
    pub(in crate::event_loop::reload) notices: Vec<String>,
}

/// A new listen address.
#[derive(Debug)]
pub(in crate::event_loop) struct NewListener {
    pub(in crate::event_loop::reload) local: Local,
    pub(in crate::event_loop::reload) address: Address,
    pub(in crate::event_loop::reload) socket: NewSocket,
}

/// The socket of a new listen address.
#[derive(Debug)]
pub(in crate::event_loop) enum NewSocket {
    /// The present one: only the spelling of the address differs.
    Present,
    /// It does not listen yet. The text is the beginning of an error message.
    Reserved(Reserved, String),
    /// It was made in the jail, and listens.
    Jailed(JailedFile, OwnedFd),
}

/// A request log that is open.
#[derive(Debug)]
pub(in crate::event_loop) struct NewLog {
    /// The file, if it was made. It is dropped while it is open.
    pub(in crate::event_loop::reload) made: Option<FileGuard>,
    pub(in crate::event_loop::reload) target: LogTarget,
    pub(in crate::event_loop::reload) log: RequestLog,
    /// Whether an operator named it.
    pub(in crate::event_loop::reload) is_held: bool,
}

/// A connection log that is open.
#[derive(Debug)]
pub(in crate::event_loop) struct NewConnectionLog {
    /// The file, if it was made. It is dropped while it is open.
    pub(in crate::event_loop::reload) made: Option<FileGuard>,
    pub(in crate::event_loop::reload) target: ConnectionLogTarget,
    pub(in crate::event_loop::reload) log: OpenConnectionLog,
    /// Whether an operator named it.
    pub(in crate::event_loop::reload) is_held: bool,
}

impl NewConnectionLog {
    /// The syslog daemon.
    pub(in crate::event_loop::reload) fn syslog() -> NewConnectionLog {
        let (target, log) = (ConnectionLogTarget::Syslog, OpenConnectionLog::Syslog);
        NewConnectionLog { made: None, target, log, is_held: false }
    }
}

impl From<NewLog> for NewConnectionLog {
    fn from(NewLog { made, target, log, is_held }: NewLog) -> NewConnectionLog {
        let (target, log) = (ConnectionLogTarget::Log(target), OpenConnectionLog::Log(log));
        NewConnectionLog { made, target, log, is_held }
    }
}

impl Opened {
    /// Notes a log that is open.
    pub(in crate::event_loop::reload) fn set_log(&mut self, which: LineLog, new: NewLog) {
        match which {
            LineLog::Requests => self.log = Change::Set(new),
            LineLog::Connections => self.connection_log = Change::Set(new.into()),
        }
    }
}

/// A file for status pages that can be written.
#[derive(Debug)]
pub(in crate::event_loop) struct NewStatusFile {
    /// The file, if it was made. It is dropped while it is open.
    pub(in crate::event_loop::reload) made: Option<FileGuard>,
    pub(in crate::event_loop::reload) file: StatusFile,
}

/// What becomes of something that need not be there.
#[derive(Debug)]
pub(in crate::event_loop) enum Change<T> {
    /// It stays as it is.
    Keep,
    /// It goes.
    Clear,
    /// This takes its place.
    Set(T),
}

impl<T> Change<T> {
    /// The change by the last command about something: a command that sets nothing clears it.
    pub(in crate::event_loop::reload) fn clear_if_none<U>(
        last: Option<(Option<U>, &SourcedCommand)>,
    ) -> Change<T> {
        match last {
            Some((None, _)) => Change::Clear,
            Some((Some(_), _)) | None => Change::Keep,
        }
    }
}

/// A change that is in force and was sent, and that not all processes have applied yet.
#[derive(Debug)]
pub(in crate::event_loop) struct Applied {
    pub(in crate::event_loop::reload) generation: u64,
    pub(in crate::event_loop::reload) deadline: Instant,
    /// Work for the time after that: servers that are elsewhere, and servers to blacklist.
    pub(in crate::event_loop::reload) moves: Moves,
    pub(in crate::event_loop::reload) blacklist: Vec<(ServerId, u32)>,
    pub(in crate::event_loop::reload) reply: ControlReply,
    /// What to log afterwards.
    pub(in crate::event_loop) success: Success,
}

/// The log text for the time when all processes work by new settings.
#[derive(Debug)]
pub(in crate::event_loop) enum Success {
    /// The configuration file or the TLS files were read again: one phrase for each change.
    Reload(Vec<String>),
    /// An operator changed something: the text, and what it means for programs.
    Operator(String, Incident),
    /// Nothing: an operator set what was set already.
    Nothing,
}

/// What a change waits for.
#[derive(Debug)]
pub(in crate::event_loop) enum ReloadStage {
    /// Resolvers, the names that they look up, and the commands that need them.
    Asking(Asking, Inquiry, Box<Configuration>),
    /// An opener, and its purpose.
    Fetching(Fetching, OpenPurpose),
    /// An examiner of TLS files.
    Examining(Examining, Box<Unexamined>),
    /// The acknowledgements of new settings.
    Applied(Applied),
}

/// The purpose of an opener.
#[derive(Debug)]
pub(in crate::event_loop) enum OpenPurpose {
    /// A log that an operator had named, to be opened again by HUP.
    Reopen(LineLog),
    /// The commands of the file in an operator's `include`.
    Include(PathBuf),
    /// The commands of the configuration file, for HUP.
    Reload,
    /// The OCSP response that an operator named: its path, and the beginning of an error message.
    Ocsp(PathBuf, String, Box<Resolved>),
    /// The TLS files.
    Tls(Box<(Resolved, Change<OwnedFd>)>, TlsSide),
    /// A file or socket of the plan, with the beginning of an error message.
    Plan(JailedTarget, String, Box<Opening>),
}

impl ReloadStage {
    /// Descriptors to poll for reading.
    pub(in crate::event_loop) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            ReloadStage::Asking(asking, _, _) => asking.descriptors().collect(),
            ReloadStage::Fetching(fetching, _) => vec![fetching.descriptor()],
            ReloadStage::Examining(examining, _) => vec![examining.descriptor()],
            ReloadStage::Applied(_) => Vec::new(),
        }
    }

    /// When to continue even if nothing happens.
    pub(in crate::event_loop) fn deadline(&self) -> Instant {
        match self {
            ReloadStage::Asking(asking, _, _) => asking.deadline(),
            ReloadStage::Fetching(fetching, _) => fetching.deadline(),
            ReloadStage::Examining(examining, _) => examining.deadline(),
            ReloadStage::Applied(applied) => applied.deadline,
        }
    }
}
