//! The commands of the control port, the configuration file and `-O`. They have one grammar, are
//! parsed once, and are typed values afterwards.
//!
//! Words are separated by spaces or tabs. There is no quoting. A word that begins with `#` begins a
//! comment. The parser guesses nothing, ignores nothing and looks nothing up. A malformed or
//! surplus word is an error, and the text of the error is the reply.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::acl::{AclVerdict, LISTS, Net};
use crate::address::{Host, Local, Service};
use crate::ids::{MAX_SERVERS, MAX_WORKERS};
use crate::parse::grammar::{COUNT, ServerSpec, quoted};
use crate::proxy::{ProxyOut, Senders};
use crate::settings::{BufferSizes, Http};
use crate::tls::SuiteList;

pub use crate::command::help::help;
pub use crate::command::nature::Nature;
pub use crate::command::read::{
    COMMANDS, Entry, SERVER_KEYS, SETTINGS, before_comment, is_well_formed, log_target, parse,
    parse_configuration,
};

mod help;
mod line;
mod nature;
mod read;

/// Longest line, in bytes, without its line end.
pub const MAX_LINE: usize = 4095;

/// The smallest listen backlog; the original raises smaller values to it.
pub const MIN_BACKLOG: u32 = 50;

/// One command, checked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// An empty line, a comment, or a switch of the original that has no effect here.
    Nothing,
    /// Adds an entry to an access list.
    Acl {
        /// The list, 0 to 9.
        list: u8,
        /// The entry's verdict.
        verdict: AclVerdict,
        /// The addresses.
        net: Net,
    },
    /// Empties an access list.
    NoAcl(u8),
    /// Sets a switch on (`true`) or off.
    Switch(Switch, bool),
    /// The mode of X-Forwarded-For in HTTP requests.
    Http(Http),
    /// Asks for a number (`None`), or sets it.
    Number(Number, Option<u32>),
    /// Lists the TLS certificates.
    Certificates(Form),
    /// Ends a connection.
    Close(u32),
    /// Shows the facts about a connection.
    Connection(u32),
    /// Shows the connection that a descriptor belongs to.
    Socket(u32),
    /// Shows the control address.
    Control,
    /// Sets the emergency server; `None` removes it.
    Emergency(Option<ServerSpec>),
    /// Sets the abuse server, which gets refused clients; `None` removes it.
    Abuse(Option<ServerSpec>),
    /// The TLS certificate, and its key if that is in another file; `None` turns TLS off.
    Certificate(Option<(PathBuf, Option<PathBuf>)>),
    /// The trusted authorities of client certificates: files or directories, at most two; empty =
    /// the system's authorities.
    ClientCa(Vec<PathBuf>),
    /// A setting that only a start can change.
    Startup(Startup),
    /// Shows all settings in force, or one setting by its word. The word can have a number after
    /// it, if there are several settings of that kind.
    Show(Option<String>),
    /// Ends the program.
    Exit,
    /// Shows which server an address would get, and why.
    Explain(IpAddr),
    /// Shows the list of commands, or the help of one command by its word.
    Help(Option<String>),
    /// Runs the commands of a file.
    Include(PathBuf),
    /// Asks for the listen address (`None`), or moves the listener.
    Listen(Option<Local>),
    /// Asks for the request log (`None`), or sets it.
    Log(Option<LogTarget>),
    /// Stops the request log.
    NoLog,
    /// Shows the selection modes.
    Mode(Form),
    /// Shows the program, its limits and all its servers.
    Overview,
    /// Shows the pid.
    Pid,
    /// Removes a server.
    NoServer(u32),
    /// The senders of PROXY headers that pen accepts (`proxy_protocol in`).
    ProxyIn(Senders),
    /// Whether pen sends a PROXY header to servers (`proxy_protocol out`).
    ProxyOut(ProxyOut),
    /// Shows the sandbox of every process.
    Sandbox,
    /// Lists the clients seen within the given number of seconds.
    Recent(u32, Form),
    /// Changes a server.
    Server {
        /// Its number, which can be beyond the end of the server table.
        number: u32,
        /// The changes, in order.
        changes: Vec<ServerChange>,
    },
    /// Lists the servers.
    Servers(Form),
    /// Sets the sizes of the socket buffers of one side.
    SocketBuffers(BufferSide, BufferSizes),
    /// The local address for connections to servers; `None` = the kernel chooses.
    Source(Option<IpAddr>),
    /// Cipher suites of TLS 1.2; `None` = the default.
    SslCiphers(Option<SuiteList>),
    /// A TLS setting of the original that is always on in pen, whether it is given or not.
    SslAlways,
    /// The TLS renegotiation interval of the original, in seconds; pen never renegotiates.
    SslRenegotiation(u32),
    /// Allows TLS 1.3 only.
    SslNoTls12,
    /// Allows TLS 1.2 and 1.3, which is the default.
    SslTls12,
    /// The file of the OCSP response, or a request to read it again; `None` = no response.
    SslOcsp(Option<PathBuf>),
    /// The directory of certificates by server name, or a request to read it again; `None` = no
    /// directory.
    SslNames(Option<PathBuf>),
    /// Shows the status page.
    Status(Form),
    /// Sets whether an end of file closes both sides.
    Fastclose(Fastclose),
    /// Asks for the status file (`None`), or sets it.
    WebStats(Option<PathBuf>),
    /// Stops the status file.
    NoWebStats,
    /// Writes the settings to a file; `None` = the file of `-F`.
    Write(Option<PathBuf>),
    /// Shows the text that `write` would write.
    WriteHere,
}

/// A command that only a start can carry out.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Startup {
    /// The control port.
    Control(Option<Local>),
    /// Whether the command `exit` is allowed.
    ExitCommand(bool),
    /// The root directory of jailed processes.
    Jail(Option<PathBuf>),
    /// The pid file.
    PidFile(Option<PathBuf>),
    /// Whether an incomplete sandbox is an error.
    RequireSandbox(bool),
    /// The user of jailed processes: a name or a number.
    User(Option<String>),
}

impl Startup {
    /// The command's word.
    pub fn word(&self) -> &'static str {
        match self {
            Startup::Control(_) => "control",
            Startup::ExitCommand(_) => "exit_command",
            Startup::Jail(_) => "jail",
            Startup::PidFile(_) => "pid_file",
            Startup::RequireSandbox(_) => "require_sandbox",
            Startup::User(_) => "user",
        }
    }

    /// Whether the setting has a value, or is on.
    pub fn is_set(&self) -> bool {
        match self {
            Startup::Control(local) => local.is_some(),
            Startup::ExitCommand(on) | Startup::RequireSandbox(on) => *on,
            Startup::Jail(path) | Startup::PidFile(path) => path.is_some(),
            Startup::User(user) => user.is_some(),
        }
    }
}

/// The format of a report.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// Text, as in the original.
    #[default]
    Plain,
    /// JSON (RFC 8259).
    Json,
}

/// A switch, which is on or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Switch {
    /// Dumps are in ASCII.
    Ascii,
    /// Pen answers clients itself and uses no server.
    Dummy,
    /// Hash mode.
    Hash,
    /// Hash mode for every connection, even if a server is recorded for the client.
    HashAlways,
    /// Keepalive towards servers.
    Keepalive,
    /// Prio mode.
    Prio,
    /// Clients must present a valid certificate.
    RequireClientCert,
    /// Round-robin mode.
    Roundrobin,
    /// The configuration file names all servers; a reload removes the others.
    ServersOnly,
    /// Stubborn mode.
    Stubborn,
    /// TCP_NODELAY on both sides from the start.
    TcpNodelay,
    /// Weight mode.
    Weight,
}

/// A setting that is a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Number {
    /// Most connections accepted per wake-up.
    AcceptBatch,
    /// Listen backlog, in connections.
    Backlog,
    /// Blacklist time, seconds.
    Blacklist,
    /// Access list for clients.
    ClientAcl,
    /// Slots of the client table.
    ClientsMax,
    /// Most connections.
    ConnMax,
    /// Access list for the control port.
    ControlAcl,
    /// Debug level.
    Debug,
    /// Idle timeout, seconds.
    IdleTimeout,
    /// Idle connections to servers that have no client yet.
    Idlers,
    /// Slots of the server table.
    MaxServers,
    /// Most pending connects per worker.
    PendingMax,
    /// Connect timeout, seconds.
    Timeout,
    /// Tracking time, seconds.
    Tracking,
    /// Worker processes.
    Workers,
}

impl Number {
    /// The command's word.
    pub fn word(self) -> &'static str {
        match self {
            Number::AcceptBatch => "accept_batch",
            Number::Backlog => "backlog",
            Number::Blacklist => "blacklist",
            Number::ClientAcl => "client_acl",
            Number::ClientsMax => "clients_max",
            Number::ConnMax => "conn_max",
            Number::ControlAcl => "control_acl",
            Number::Debug => "debug",
            Number::IdleTimeout => "idle_timeout",
            Number::Idlers => "idlers",
            Number::MaxServers => "max_servers",
            Number::PendingMax => "pending_max",
            Number::Timeout => "timeout",
            Number::Tracking => "tracking",
            Number::Workers => "workers",
        }
    }

    /// The range of its values.
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Number::Blacklist | Number::IdleTimeout | Number::Tracking => COUNT,
            Number::ClientAcl | Number::ControlAcl => 0..=LISTS as u32 - 1,
            Number::ClientsMax => 1..=16_777_216,
            Number::ConnMax => 1..=1_048_576,
            Number::Debug => 0..=9,
            Number::Idlers => 0..=1_048_576,
            Number::AcceptBatch | Number::PendingMax | Number::Timeout => 1..=*COUNT.end(),
            Number::Backlog => MIN_BACKLOG..=*COUNT.end(),
            Number::MaxServers => 1..=MAX_SERVERS,
            Number::Workers => 1..=MAX_WORKERS,
        }
    }
}

/// The side whose socket buffers are set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum BufferSide {
    /// The clients' sockets.
    Client,
    /// The servers' sockets.
    Server,
}

/// The side whose end of file closes both sides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Fastclose {
    /// Neither: half-closes are kept.
    #[default]
    Off,
    /// The server's.
    Up,
    /// The client's.
    Down,
    /// Either.
    Both,
}

/// One key and its value in `server N`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerChange {
    /// Its access list.
    Acl(u8),
    /// Its address; the port is kept.
    Address(Host),
    /// Blacklists it for this number of seconds; 0 = uses it again.
    Blacklist(u32),
    /// Hard limit.
    Hard(u32),
    /// Soft limit.
    Max(u32),
    /// Port.
    Port(Service),
    /// Prio.
    Prio(u32),
    /// Weight.
    Weight(u32),
}

/// The destination of the request log (`-l`, `log`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LogTarget {
    /// A file.
    File(PathBuf),
    /// penlogd at host:port, by UDP.
    Network(Host, Service),
}

/// Why a line is not a command. The text is the reply.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// The first word names no command.
    #[error("do_cmd: ignoring command starting with \
        '{}'{}", .0.escape_debug(), help::suggestion(.0, |_| true))]
    Unknown(String),
    /// A required argument is missing.
    #[error("usage: {word} {arguments}")]
    Usage {
        /// The command's word.
        word: &'static str,
        /// Its arguments.
        arguments: &'static str,
    },
    /// An argument is wrong.
    #[error("{word}: {why}")]
    Argument {
        /// The command's word.
        word: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The command is known, but pen does not offer it.
    #[error("{word}: {why}")]
    Refused {
        /// The command's word.
        word: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The line is longer than [`MAX_LINE`].
    #[error("line: longer than {MAX_LINE} bytes")]
    TooLong,
    /// `source` with an argument that is not an IP address; the text is the original's.
    #[error("unable to set source address to {}", quoted(.0))]
    Source(String),
    /// `tcp_fastclose` without an argument; the text is the original's.
    #[error("do_cmd: ignoring tcp_fastclose without argument")]
    FastcloseAlone,
}

impl CommandError {
    /// The error of a line in a file or an option. The replies of the control port say that a line
    /// is ignored, for scripts; a file or an option is not ignored.
    pub fn of_configuration(&self) -> String {
        match self {
            CommandError::Unknown(word) => {
                format!("no such command: {}{}", quoted(word), help::suggestion(word, |_| true))
            }
            CommandError::FastcloseAlone => "usage: tcp_fastclose up|down|both|off".to_owned(),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
