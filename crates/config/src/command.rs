//! The commands of the control port, the configuration file and `-O`: one grammar, read once, typed
//! from here on.
//!
//! Words are separated by spaces or tabs; there is no quoting; a word that begins with `#` begins a
//! comment. Nothing is guessed, nothing is passed over and nothing is looked up: what is malformed,
//! or left over, is an error whose text is the reply.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::acl::{LISTS, Net, Verdict};
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

/// Longest line, in bytes, without its end.
pub const MAX_LINE: usize = 4095;

/// The smallest listen backlog; the original raises less to it.
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
        verdict: Verdict,
        /// The addresses.
        net: Net,
    },
    /// Empties an access list.
    NoAcl(u8),
    /// Sets a switch.
    Switch(Switch, bool),
    /// X-Forwarded-For in HTTP requests.
    Http(Http),
    /// Asks for a number, or sets it.
    Number(Number, Option<u32>),
    /// The certificates of TLS.
    Certificates(Form),
    /// Ends a connection.
    Close(u32),
    /// Facts about a connection.
    Connection(u32),
    /// To which connection a descriptor belongs.
    Socket(u32),
    /// The control address.
    Control,
    /// The server of last resort; none = there is none.
    Emergency(Option<ServerSpec>),
    /// Where refused clients go; none = nowhere.
    Abuse(Option<ServerSpec>),
    /// The certificate of TLS, and its key if that is in another file; none = no TLS.
    Certificate(Option<(PathBuf, Option<PathBuf>)>),
    /// Whose client certificates are good: files or directories, two at most; none = whom the
    /// system trusts.
    ClientCa(Vec<PathBuf>),
    /// What only a start can give.
    Startup(Startup),
    /// All that is in force, or one setting by its word, with a number if there are several of its
    /// kind.
    Show(Option<String>),
    /// Ends the program.
    Exit,
    /// Which server an address would get, and why.
    Explain(IpAddr),
    /// The list of commands, or what one does; its word is a command's.
    Help(Option<String>),
    /// Runs the commands of a file.
    Include(PathBuf),
    /// Asks for the listen address, or moves the listener.
    Listen(Option<Local>),
    /// Asks for the request log, or sets it.
    Log(Option<LogTarget>),
    /// Stops the request log.
    NoLog,
    /// The modes.
    Mode(Form),
    /// The program, its limits and all its servers.
    Overview,
    /// The pid.
    Pid,
    /// Takes a server away.
    NoServer(u32),
    /// Who says whom its connections come from.
    ProxyIn(Senders),
    /// Whether servers are told whom a connection comes from.
    ProxyOut(ProxyOut),
    /// What every process is confined by.
    Sandbox,
    /// Clients seen within so many seconds.
    Recent(u32, Form),
    /// Changes a server.
    Server {
        /// Its number, which need not be one that the server table has room for.
        number: u32,
        /// What changes, in order.
        changes: Vec<ServerChange>,
    },
    /// The servers.
    Servers(Form),
    /// Sizes of the socket buffers of a side.
    SocketBuffers(BufferSide, BufferSizes),
    /// The local address towards servers; none = the system's choice.
    Source(Option<IpAddr>),
    /// Cipher suites of TLS 1.2; none = the default.
    SslCiphers(Option<SuiteList>),
    /// What of TLS is always so, whether it is asked for or not.
    SslAlways,
    /// How often TLS may be negotiated anew, in seconds: it cannot be at all.
    SslRenegotiation(u32),
    /// TLS 1.3 only.
    SslNoTls12,
    /// TLS 1.2 beside 1.3, which is the default.
    SslTls12,
    /// The OCSP response for the certificate, or that it is to be read again; none = there is none.
    SslOcsp(Option<PathBuf>),
    /// The directory of certificates by server name, or that it is to be read again; none = there
    /// is none.
    SslNames(Option<PathBuf>),
    /// The status page.
    Status(Form),
    /// When an end of file closes both sides.
    Fastclose(Fastclose),
    /// Asks for the status file, or sets it.
    WebStats(Option<PathBuf>),
    /// No status file.
    NoWebStats,
    /// Writes the settings to a file; none = that of `-F`.
    Write(Option<PathBuf>),
    /// The text that would be written is the reply.
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
    /// Whether a sandbox that is not whole is an error.
    RequireSandbox(bool),
    /// As whom jailed processes run: a name or a number.
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

    /// Whether it is there, or on.
    pub fn is_set(&self) -> bool {
        match self {
            Startup::Control(local) => local.is_some(),
            Startup::ExitCommand(on) | Startup::RequireSandbox(on) => *on,
            Startup::Jail(path) | Startup::PidFile(path) => path.is_some(),
            Startup::User(user) => user.is_some(),
        }
    }
}

/// How a report is wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// As ever.
    #[default]
    Plain,
    /// JSON (RFC 8259).
    Json,
}

/// What is on or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Switch {
    /// Dumps in ASCII.
    Ascii,
    /// No server is used.
    Dummy,
    /// Hash mode.
    Hash,
    /// Hash mode for every connection, whatever is recorded.
    HashAlways,
    /// Keepalive towards servers.
    Keepalive,
    /// Prio mode.
    Prio,
    /// Clients must present a valid certificate.
    RequireClientCert,
    /// Round-robin mode.
    Roundrobin,
    /// The configuration file names all servers: others go when it is read.
    ServersOnly,
    /// Stubborn mode.
    Stubborn,
    /// TCP_NODELAY on both sides from the start.
    TcpNodelay,
    /// Weight mode.
    Weight,
}

/// What is a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Number {
    /// Most connections accepted per wake-up.
    AcceptBatch,
    /// Connections that wait to be accepted.
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
    /// Connections to servers without a client.
    Idlers,
    /// Slots of the server table.
    MaxServers,
    /// Most connects under way per worker.
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

    /// What it may be.
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

/// Whose socket buffers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum BufferSide {
    /// Clients'.
    Client,
    /// Servers'.
    Server,
}

/// Which side's end of file closes both.
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

/// One key and value of `server N`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerChange {
    /// Its access list.
    Acl(u8),
    /// Its address; the port is kept.
    Address(Host),
    /// Leaves it out for so many seconds; 0 = puts it back.
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

/// Where the request log goes (`-l`, `log`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LogTarget {
    /// A file.
    File(PathBuf),
    /// penlogd at host:port, by UDP.
    Network(Host, Service),
}

/// Why a line is no command. The text is the reply.
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
    /// A command that is known and not offered.
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
    /// `source` with anything but an IP address, in the original's words.
    #[error("unable to set source address to {}", quoted(.0))]
    Source(String),
    /// `tcp_fastclose` alone, in the original's words.
    #[error("do_cmd: ignoring tcp_fastclose without argument")]
    FastcloseAlone,
}

impl CommandError {
    /// The error of a line in a file or an option, which is not ignored as the control port's
    /// replies to it say for the sake of scripts.
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
