//! The commands that set something.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::acl::{AclVerdict, LISTS, Net};
use crate::address::{Host, Local, Service};
use crate::checks::{Check, OnDown, ServerCheck, ServerMode, ServersFrom};
use crate::grammar::{COUNT, ServerSpec};
use crate::ids::{MAX_SERVERS, MAX_WORKERS};
use crate::per_client::{ClientNet, ClientRate};
use crate::proxy::{ProxyOut, Senders};
use crate::settings::{BufferSizes, ConnectionLogFormat, Fastclose, Http, Maglev, Settings};
use crate::tls::SuiteList;
use crate::tls::servers::{ServerTransport, TlsName};

/// The smallest listen backlog; the original raises smaller values to it.
pub const MIN_BACKLOG: u32 = 50;

/// A day, in seconds.
const DAY: u32 = 86_400;

/// The range of the bound of `maglev bounded`, in percent of the mean.
pub(crate) const BOUND: RangeInclusive<u32> = 100..=1000;

/// The range of the time that `drain` waits, in seconds.
pub(crate) const DRAIN_TIME: RangeInclusive<u32> = 0..=DAY;

/// A command that sets something. Where a value is optional, `None` removes the setting.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Setting {
    /// The abuse server, which gets refused clients.
    Abuse(Option<ServerSpec>),
    /// Adds an entry to an access list.
    Acl {
        /// The list, 0 to 9.
        list: u8,
        /// The entry's verdict.
        verdict: AclVerdict,
        /// The addresses.
        net: Net,
    },
    /// The TLS certificate, and its key if that is in another file; `None` turns TLS off.
    Certificate(#[serde(with = "crate::paths")] Option<(PathBuf, Option<PathBuf>)>),
    /// The check of all servers that have none of their own; `None` = no check.
    Check(Option<Check>),
    /// The trusted authorities of client certificates: files or directories, at most two; empty =
    /// the system's authorities.
    ClientCa(#[serde(with = "crate::paths")] Vec<PathBuf>),
    /// The connection log.
    ConnectionLog(Option<ConnectionLogTarget>),
    /// The form of a line of the connection log.
    ConnectionLogFormat(ConnectionLogFormat),
    /// The emergency server.
    Emergency(Option<ServerSpec>),
    /// Whether an end of file closes both sides.
    Fastclose(Fastclose),
    /// The mode of X-Forwarded-For in HTTP requests.
    Http(Http),
    /// The listen address.
    Listen(Local),
    /// The request log.
    Log(Option<LogTarget>),
    /// Maglev mode.
    Maglev(Maglev),
    /// Empties an access list.
    NoAcl(u8),
    /// Removes a server.
    NoServer(u32),
    /// Ends that servers follow a name.
    NoServersFrom(String),
    /// A number.
    Number(Number, u32),
    /// What happens to the connections of a server that goes down.
    OnDown(OnDown),
    /// What one client is, for the limits per client.
    PerClientNet(ClientNet),
    /// Most new connections of a client within a time; `None` = no limit.
    PerClientRate(Option<ClientRate>),
    /// The senders of PROXY headers that pen accepts (`proxy_protocol in`).
    ProxyIn(Senders),
    /// Whether pen sends a PROXY header to servers (`proxy_protocol out`).
    ProxyOut(ProxyOut),
    /// Changes a server.
    Server {
        /// Its number, which can be beyond the end of the server table.
        number: u32,
        /// The changes, in order.
        changes: Vec<ServerChange>,
    },
    /// The authorities of servers' certificates: a file or a directory; `None` = the system's.
    ServerTlsCa(#[serde(with = "crate::paths")] Option<PathBuf>),
    /// The certificate that servers may ask for, and its key if that is in another file.
    ServerTlsCert(#[serde(with = "crate::paths")] Option<(PathBuf, Option<PathBuf>)>),
    /// The name of all servers in TLS; `None` = each has that in its address.
    ServerTlsName(Option<TlsName>),
    /// Servers that follow the records of a name.
    ServersFrom(ServersFrom),
    /// The sizes of the socket buffers of one side.
    SocketBuffers(BufferSide, BufferSizes),
    /// The local address for connections to servers; `None` = the kernel chooses.
    Source(Option<IpAddr>),
    /// A TLS setting of the original that is always on in pen, whether it is given or not.
    SslAlways,
    /// Cipher suites of TLS 1.2; `None` = the default.
    SslCiphers(Option<SuiteList>),
    /// The directory of certificates by server name, or a request to read it again.
    SslNames(#[serde(with = "crate::paths")] Option<PathBuf>),
    /// Allows TLS 1.3 only.
    SslNoTls12,
    /// The file of the OCSP response, or a request to read it again.
    SslOcsp(#[serde(with = "crate::paths")] Option<PathBuf>),
    /// The TLS renegotiation interval of the original, in seconds; pen never renegotiates.
    SslRenegotiation(u32),
    /// Allows TLS 1.2 and 1.3, which is the default.
    SslTls12,
    /// A setting that only a start can change.
    Startup(Startup),
    /// A switch: on (`true`) or off.
    Switch(Switch, bool),
    /// The access list of the clients that have no limits; `None` = all have them.
    UnlimitedAcl(Option<u8>),
    /// The status file.
    WebStats(#[serde(with = "crate::paths")] Option<PathBuf>),
}

impl Setting {
    /// The command's word.
    pub fn word(&self) -> &'static str {
        match self {
            Setting::Abuse(_) => "abuse",
            Setting::Acl { .. } | Setting::NoAcl(_) => "acl",
            Setting::Certificate(_) => "certificate",
            Setting::Check(_) => "check",
            Setting::ClientCa(_) => "client_ca",
            Setting::ConnectionLog(_) => "connection_log",
            Setting::ConnectionLogFormat(_) => "connection_log_format",
            Setting::Emergency(_) => "emergency",
            Setting::Fastclose(_) => "tcp_fastclose",
            Setting::Http(_) => "http",
            Setting::Listen(_) => "listen",
            Setting::Log(_) => "log",
            Setting::Maglev(_) => "maglev",
            Setting::Number(number, _) => number.word(),
            Setting::OnDown(_) => "on_down",
            Setting::PerClientNet(_) => "per_client_net",
            Setting::PerClientRate(_) => "per_client_rate",
            Setting::ProxyIn(_) | Setting::ProxyOut(_) => "proxy_protocol",
            Setting::Server { .. } | Setting::NoServer(_) => "server",
            Setting::ServerTlsCa(_) => "server_tls_ca",
            Setting::ServerTlsCert(_) => "server_tls_cert",
            Setting::ServerTlsName(_) => "server_tls_name",
            Setting::ServersFrom(_) | Setting::NoServersFrom(_) => "servers_from",
            Setting::SocketBuffers(_, _) => "socket_buffers",
            Setting::Source(_) => "source",
            Setting::SslAlways | Setting::SslNoTls12 | Setting::SslTls12 => "ssl_option",
            Setting::SslCiphers(_) => "ssl_ciphers",
            Setting::SslNames(_) => "ssl_sni_path",
            Setting::SslOcsp(_) => "ssl_ocsp_response",
            Setting::SslRenegotiation(_) => "ssl_client_renegotiation_interval",
            Setting::Startup(startup) => startup.word(),
            Setting::Switch(switch, _) => switch.word(),
            Setting::UnlimitedAcl(_) => "unlimited_acl",
            Setting::WebStats(_) => "web_stats",
        }
    }
}

impl Setting {
    /// The file that an operator's setting names. The control process opens it, and passes it to
    /// the supervisor.
    pub fn file(&self) -> Option<(NamedFile, &Path)> {
        let (file, path) = match self {
            Setting::ConnectionLog(target) => (
                NamedFile::ConnectionLog,
                target.as_ref().and_then(ConnectionLogTarget::log).and_then(LogTarget::file),
            ),
            Setting::Log(target) => (NamedFile::Log, target.as_ref().and_then(LogTarget::file)),
            Setting::SslOcsp(path) => (NamedFile::Ocsp, path.as_deref()),
            Setting::WebStats(path) => (NamedFile::WebStats, path.as_deref()),
            // Operators cannot change these paths.
            Setting::Certificate(_)
            | Setting::ClientCa(_)
            | Setting::ServerTlsCa(_)
            | Setting::ServerTlsCert(_)
            | Setting::SslNames(_)
            | Setting::Startup(_) => return None,
            Setting::Abuse(_)
            | Setting::Acl { .. }
            | Setting::Check(_)
            | Setting::ConnectionLogFormat(_)
            | Setting::Emergency(_)
            | Setting::Fastclose(_)
            | Setting::Http(_)
            | Setting::Listen(_)
            | Setting::Maglev(_)
            | Setting::NoAcl(_)
            | Setting::NoServer(_)
            | Setting::NoServersFrom(_)
            | Setting::Number(_, _)
            | Setting::OnDown(_)
            | Setting::PerClientNet(_)
            | Setting::PerClientRate(_)
            | Setting::ProxyIn(_)
            | Setting::ProxyOut(_)
            | Setting::Server { .. }
            | Setting::ServerTlsName(_)
            | Setting::ServersFrom(_)
            | Setting::SocketBuffers(_, _)
            | Setting::Source(_)
            | Setting::SslAlways
            | Setting::SslCiphers(_)
            | Setting::SslNoTls12
            | Setting::SslRenegotiation(_)
            | Setting::SslTls12
            | Setting::Switch(_, _)
            | Setting::UnlimitedAcl(_) => return None,
        };
        Some((file, path?))
    }
}

/// What a setting sets, for [`crate::command::last`]. The outer `None` means that it sets something
/// else.
impl Setting {
    /// The connection log.
    pub fn connection_log(&self) -> Option<Option<&ConnectionLogTarget>> {
        if let Setting::ConnectionLog(target) = self { Some(target.as_ref()) } else { None }
    }

    /// The listen address.
    pub fn listen(&self) -> Option<&Local> {
        if let Setting::Listen(local) = self { Some(local) } else { None }
    }

    /// The request log.
    pub fn log(&self) -> Option<Option<&LogTarget>> {
        if let Setting::Log(target) = self { Some(target.as_ref()) } else { None }
    }

    /// The value of a number.
    pub fn number(&self, which: Number) -> Option<u32> {
        if let Setting::Number(number, value) = self
            && *number == which
        {
            Some(*value)
        } else {
            None
        }
    }

    /// The file of the OCSP response.
    pub fn ocsp(&self) -> Option<Option<&Path>> {
        if let Setting::SslOcsp(path) = self { Some(path.as_deref()) } else { None }
    }

    /// The status file.
    pub fn web_stats(&self) -> Option<Option<&Path>> {
        if let Setting::WebStats(path) = self { Some(path.as_deref()) } else { None }
    }
}

/// A file that the control process opens for a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NamedFile {
    /// The connection log.
    ConnectionLog,
    /// The request log.
    Log,
    /// The OCSP response.
    Ocsp,
    /// The status file.
    WebStats,
}

/// A setting that only a start can change.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Startup {
    /// The control port.
    Control(Option<Local>),
    /// Whether the command `exit` is allowed.
    ExitCommand(bool),
    /// The root directory of jailed processes.
    Jail(#[serde(with = "crate::paths")] Option<PathBuf>),
    /// Where the status page is served.
    Page(Option<Local>),
    /// The pid file.
    PidFile(#[serde(with = "crate::paths")] Option<PathBuf>),
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
            Startup::Page(_) => "page",
            Startup::PidFile(_) => "pid_file",
            Startup::RequireSandbox(_) => "require_sandbox",
            Startup::User(_) => "user",
        }
    }

    /// Whether the setting has a value, or is on.
    pub fn is_set(&self) -> bool {
        match self {
            Startup::Control(local) | Startup::Page(local) => local.is_some(),
            Startup::ExitCommand(on) | Startup::RequireSandbox(on) => *on,
            Startup::Jail(path) | Startup::PidFile(path) => path.is_some(),
            Startup::User(user) => user.is_some(),
        }
    }
}

/// A switch, which is on or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Switch {
    /// The abuse server gets connections beyond the limits per client.
    AbuseOver,
    /// Dumps are in ASCII.
    Ascii,
    /// Pen answers clients itself and uses no server.
    Dummy,
    /// Checks are disregarded while all servers are down.
    FailOpen,
    /// Hash mode.
    Hash,
    /// Hash mode for every connection, even if a server is recorded for the client.
    HashAlways,
    /// Keepalive towards servers.
    Keepalive,
    /// Leastconn mode.
    Leastconn,
    /// P2c mode.
    P2c,
    /// Prio mode.
    Prio,
    /// Clients must present a valid certificate.
    RequireClientCert,
    /// Round-robin mode.
    Roundrobin,
    /// Servers speak TLS, unless they have a word of their own.
    ServerTls,
    /// The certificates of servers must be valid.
    ServerTlsVerify,
    /// The configuration file names all servers; a reload removes the others.
    ServersOnly,
    /// Stubborn mode.
    Stubborn,
    /// TCP_NODELAY on both sides from the start.
    TcpNodelay,
    /// Weight mode.
    Weight,
}

impl Switch {
    /// The command's word.
    pub fn word(self) -> &'static str {
        match self {
            Switch::AbuseOver => "abuse_over",
            Switch::Ascii => "ascii",
            Switch::Dummy => "dummy",
            Switch::FailOpen => "fail_open",
            Switch::Hash => "hash",
            Switch::HashAlways => "hash_always",
            Switch::Keepalive => "keepalive",
            Switch::Leastconn => "leastconn",
            Switch::P2c => "p2c",
            Switch::Prio => "prio",
            Switch::RequireClientCert => "require_client_cert",
            Switch::Roundrobin => "roundrobin",
            Switch::ServerTls => "server_tls",
            Switch::ServerTlsVerify => "server_tls_verify",
            Switch::ServersOnly => "servers_only",
            Switch::Stubborn => "stubborn",
            Switch::TcpNodelay => "tcp_nodelay",
            Switch::Weight => "weight",
        }
    }
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
    /// How many failures in a row make a server down.
    CheckFall,
    /// Seconds from one check to the next.
    CheckInterval,
    /// How many successes in a row make a server up.
    CheckRise,
    /// Seconds until a check has failed.
    CheckTimeout,
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
    /// Seconds after an upgrade until old workers close their connections; 0 = never.
    DrainTimeout,
    /// Seconds that a client waits for a server; 0 = it does not wait.
    Hold,
    /// Idle timeout, seconds.
    IdleTimeout,
    /// Idle connections to servers that have no client yet.
    Idlers,
    /// Slots of the server table.
    MaxServers,
    /// Access list for the status page.
    PageAcl,
    /// Most pending connects per worker.
    PendingMax,
    /// Most open connections of a client; 0 = no limit.
    PerClientMax,
    /// Percent of a server's connections that are closed per minute; 0 = none.
    Rebalance,
    /// Seconds until names are looked up again; 0 = never.
    Resolve,
    /// Seconds in which the share of a server grows that is new or was out of service; 0 = none.
    SlowStart,
    /// Seconds for which a connection beyond a limit is kept open; 0 = it is reset.
    Tarpit,
    /// Connect timeout, seconds.
    Timeout,
    /// Tracking time, seconds.
    Tracking,
    /// Worker processes.
    Workers,
}

impl Number {
    /// The sizes of tables, which only grow while pen runs. At the start they can be smaller than
    /// the defaults.
    pub const GROWING: [Number; 2] = [Number::ClientsMax, Number::ConnMax];

    /// The command's word.
    pub fn word(self) -> &'static str {
        match self {
            Number::AcceptBatch => "accept_batch",
            Number::Backlog => "backlog",
            Number::Blacklist => "blacklist",
            Number::CheckFall => "check_fall",
            Number::CheckInterval => "check_interval",
            Number::CheckRise => "check_rise",
            Number::CheckTimeout => "check_timeout",
            Number::ClientAcl => "client_acl",
            Number::ClientsMax => "clients_max",
            Number::ConnMax => "conn_max",
            Number::ControlAcl => "control_acl",
            Number::Debug => "debug",
            Number::DrainTimeout => "drain_timeout",
            Number::Hold => "hold",
            Number::IdleTimeout => "idle_timeout",
            Number::Idlers => "idlers",
            Number::MaxServers => "max_servers",
            Number::PageAcl => "page_acl",
            Number::PendingMax => "pending_max",
            Number::PerClientMax => "per_client_max",
            Number::Rebalance => "rebalance",
            Number::Resolve => "resolve",
            Number::SlowStart => "slow_start",
            Number::Tarpit => "tarpit",
            Number::Timeout => "timeout",
            Number::Tracking => "tracking",
            Number::Workers => "workers",
        }
    }

    /// Its value in `settings`; `None` for the workers, of which no process but the supervisor
    /// knows the number.
    pub fn value(self, settings: &Settings) -> Option<u32> {
        Some(match self {
            Number::AcceptBatch => settings.accept_batch,
            Number::Backlog => settings.backlog,
            Number::Blacklist => settings.blacklist,
            Number::CheckFall => settings.check_fall,
            Number::CheckInterval => settings.check_interval,
            Number::CheckRise => settings.check_rise,
            Number::CheckTimeout => settings.check_timeout,
            Number::ClientAcl => settings.client_acl.into(),
            Number::ClientsMax => settings.clients_max,
            Number::ConnMax => settings.connections_max,
            Number::ControlAcl => settings.control_acl.into(),
            Number::Debug => settings.debug.into(),
            Number::DrainTimeout => settings.drain_timeout,
            Number::Hold => settings.hold,
            Number::IdleTimeout => settings.idle_timeout,
            Number::Idlers => settings.idlers,
            Number::MaxServers => settings.table_size(),
            Number::PageAcl => settings.page_acl.into(),
            Number::PendingMax => settings.pending_max,
            Number::PerClientMax => settings.per_client.max,
            Number::Rebalance => settings.rebalance,
            Number::Resolve => settings.resolve,
            Number::SlowStart => settings.slow_start,
            Number::Tarpit => settings.per_client.tarpit,
            Number::Timeout => settings.connect_timeout,
            Number::Tracking => settings.tracking,
            Number::Workers => return None,
        })
    }

    /// The range of its values.
    pub fn range(self) -> RangeInclusive<u32> {
        match self {
            Number::Blacklist | Number::DrainTimeout | Number::IdleTimeout | Number::Tracking => {
                COUNT
            }
            Number::CheckInterval => 1..=3600,
            Number::CheckTimeout => 1..=60,
            Number::CheckRise | Number::CheckFall => 1..=100,
            Number::Hold | Number::Resolve | Number::SlowStart => 0..=DAY,
            Number::Rebalance => 0..=100,
            Number::ClientAcl | Number::ControlAcl | Number::PageAcl => 0..=LISTS as u32 - 1,
            Number::ClientsMax => 1..=16_777_216,
            Number::ConnMax => 1..=1_048_576,
            Number::Debug => 0..=9,
            Number::Idlers | Number::PerClientMax => 0..=1_048_576,
            Number::Tarpit => 0..=3600,
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

/// One key and its value in `server N`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerChange {
    /// Its access list.
    Acl(u8),
    /// Its address; the port is kept.
    Address(Host),
    /// Blacklists it for this number of seconds; 0 = uses it again.
    Blacklist(u32),
    /// Its check. In a line it is the last key, because it takes the rest of the line.
    Check(ServerCheck),
    /// Hard limit.
    Hard(u32),
    /// Soft limit.
    Max(u32),
    /// Port.
    Port(Service),
    /// Prio.
    Prio(u32),
    /// The state in which an operator puts it.
    State(ServerMode),
    /// Whether it speaks TLS.
    Tls(ServerTransport),
    /// Weight.
    Weight(u32),
}

impl ServerChange {
    /// The key.
    pub fn key(&self) -> &'static str {
        match self {
            ServerChange::Acl(_) => "acl",
            ServerChange::Address(_) => "address",
            ServerChange::Blacklist(_) => "blacklist",
            ServerChange::Check(_) => "check",
            ServerChange::Hard(_) => "hard",
            ServerChange::Max(_) => "max",
            ServerChange::Port(_) => "port",
            ServerChange::Prio(_) => "prio",
            ServerChange::State(_) => "state",
            ServerChange::Tls(_) => "tls",
            ServerChange::Weight(_) => "weight",
        }
    }
}

/// The destination of the request log (`-l`, `log`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LogTarget {
    /// A file.
    File(#[serde(with = "crate::paths")] PathBuf),
    /// penlogd at host:port, by UDP.
    Network(Host, Service),
}

impl LogTarget {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            LogTarget::File(path) => Some(path),
            LogTarget::Network(_, _) => None,
        }
    }

    /// The host and port, if it is in the network.
    pub fn network(&self) -> Option<(&Host, &Service)> {
        match self {
            LogTarget::File(_) => None,
            LogTarget::Network(host, service) => Some((host, service)),
        }
    }
}

/// The destination of the connection log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ConnectionLogTarget {
    /// A destination that the request log can have too. One at host:port gets syslog messages by
    /// UDP.
    Log(LogTarget),
    /// The syslog daemon of this machine.
    Syslog,
}

impl ConnectionLogTarget {
    /// The destination, unless it is the syslog daemon.
    pub fn log(&self) -> Option<&LogTarget> {
        match self {
            ConnectionLogTarget::Log(target) => Some(target),
            ConnectionLogTarget::Syslog => None,
        }
    }
}
