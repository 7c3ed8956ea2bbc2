//! The settings of checks, and of what checks decide: what a check asks a server, what happens to a
//! server that is down, and in which state an operator put a server.

use serde::{Deserialize, Serialize};

use crate::address::Service;
use crate::proxy::ProxyOut;

pub use crate::checks::text::CheckText;

mod print;
pub mod records;
mod text;

/// What a check asks a server, and how it reaches it. The names of the variants and fields stand in
/// the state of an upgrade, so they never change.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The question.
    pub kind: CheckKind,
    /// The Host line of HTTP, and the server name of TLS. `None` = the server's own name.
    pub host: Option<String>,
    /// Another port of the server's address; `None` = the port of the service.
    pub port: Option<u16>,
    /// Whether the check begins with a PROXY header.
    pub proxy: ProxyOut,
}

impl Check {
    /// A check without further words.
    pub fn of(kind: CheckKind) -> Check {
        Check { kind, host: None, port: None, proxy: ProxyOut::Off }
    }

    /// The most bytes of a check as text. So a server with the longest check and all other keys is
    /// one line.
    pub const LONGEST: usize = 3200;
}

/// The name of a host line that TLS asks for: without a port, and without brackets.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        Some(_) | None => host.trim_start_matches('[').trim_end_matches(']'),
    }
}

/// The question of a check, and so what a good answer is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum CheckKind {
    /// A connect; nothing is asked.
    Tcp,
    /// A TLS handshake.
    Tls,
    /// An HTTP request.
    Http(HttpQuestion),
    /// An HTTP request over TLS.
    Https(HttpQuestion),
    /// SMTP: greeting, EHLO, QUIT.
    Smtp,
    /// PostgreSQL: SSLRequest and its answer of one byte.
    Pgsql,
    /// MySQL or MariaDB: the handshake, ended properly.
    Mysql {
        /// The user, who has no password.
        user: String,
    },
    /// Redis: PING.
    Redis(RedisRole),
    /// LDAP: an anonymous bind.
    Ldap,
    /// DNS: a question for an A record.
    Dns {
        /// The name that is asked for.
        name: String,
    },
    /// Any other protocol.
    Exchange {
        /// What is sent.
        send: CheckText,
        /// What a good answer holds.
        expect: CheckText,
    },
}

impl CheckKind {
    /// The word of each kind in a command, with the words behind it.
    pub const FORMS: [&str; 11] = [
        "tcp",
        "tls",
        "http PATH",
        "https PATH",
        "smtp",
        "pgsql",
        "mysql USER",
        "redis [master]",
        "ldap",
        "dns NAME",
        "send TEXT expect TEXT",
    ];

    /// Its word in a command.
    pub fn word(&self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::Tls => "tls",
            CheckKind::Http(_) => "http",
            CheckKind::Https(_) => "https",
            CheckKind::Smtp => "smtp",
            CheckKind::Pgsql => "pgsql",
            CheckKind::Mysql { .. } => "mysql",
            CheckKind::Redis(_) => "redis",
            CheckKind::Ldap => "ldap",
            CheckKind::Dns { .. } => "dns",
            CheckKind::Exchange { .. } => "send",
        }
    }

    /// Whether the check has a use for a host: a Host line, or a server name of TLS.
    pub fn takes_host(&self) -> bool {
        match self {
            CheckKind::Tls | CheckKind::Http(_) | CheckKind::Https(_) => true,
            CheckKind::Tcp
            | CheckKind::Smtp
            | CheckKind::Pgsql
            | CheckKind::Mysql { .. }
            | CheckKind::Redis(_)
            | CheckKind::Ldap
            | CheckKind::Dns { .. }
            | CheckKind::Exchange { .. } => false,
        }
    }
}

/// What an HTTP check asks for, and which answers are good.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HttpQuestion {
    /// The path of the request, which begins with a slash.
    pub path: String,
    /// The good statuses.
    pub status: StatusRange,
    /// What the body of a good answer holds; `None` = anything.
    pub body: Option<CheckText>,
}

/// HTTP statuses from `low` to `high`, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatusRange {
    /// The lowest, at least [`StatusRange::LOWEST`].
    pub low: u16,
    /// The highest, at most [`StatusRange::HIGHEST`] and not below `low`.
    pub high: u16,
}

impl StatusRange {
    /// The lowest status that there is.
    pub const LOWEST: u16 = 100;
    /// The highest status that there is.
    pub const HIGHEST: u16 = 599;

    /// Whether a status is in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.low..=self.high).contains(&status)
    }
}

/// The statuses of success and of redirection.
impl Default for StatusRange {
    fn default() -> StatusRange {
        StatusRange { low: 200, high: 399 }
    }
}

/// The role that a Redis server must have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum RedisRole {
    /// Any role; it is not asked for.
    Any,
    /// The master.
    Master,
}

/// Which check a server has (`server N check`).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerCheck {
    /// The check of all servers.
    #[default]
    Default,
    /// None.
    Off,
    /// One of its own.
    Own(Box<Check>),
}

/// What happens to the connections of a server that goes down.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnDown {
    /// They stay.
    #[default]
    Keep,
    /// They are closed.
    Close,
}

/// In which state an operator put a server (`server N state`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerMode {
    /// It serves all clients.
    #[default]
    Ready,
    /// It gets no new clients; clients for which it is recorded stay with it.
    Drain,
    /// It gets no clients at all.
    Maint,
}

impl ServerMode {
    /// The word of each state.
    pub const WORDS: [(&str, ServerMode); 3] =
        [("ready", ServerMode::Ready), ("drain", ServerMode::Drain), ("maint", ServerMode::Maint)];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            ServerMode::Ready => "ready",
            ServerMode::Drain => "drain",
            ServerMode::Maint => "maint",
        }
    }
}

/// Whether new clients are served (`pause`, `resume`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Admission {
    /// At once.
    #[default]
    Open,
    /// They wait until `resume`.
    Paused,
}

/// Servers that follow the records of a name (`servers_from`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ServersFrom {
    /// The name.
    pub name: String,
    /// The port of each address. An SRV record has its own; this is the one of a record with
    /// port 0.
    pub port: Service,
    /// The first slot of the server table.
    pub first: u16,
    /// The last slot, not below `first`.
    pub last: u16,
    /// The records that are asked for.
    pub records: Records,
}

impl ServersFrom {
    /// The domain that the name is of: with SRV records without the labels of service and protocol
    /// (`_http._tcp`). The certificates of its servers are for this one, and not for the hosts that
    /// an answer of a name server says (RFC 9525, 6.1).
    pub fn domain(&self) -> &str {
        let mut domain = self.name.as_str();
        while let (Records::Srv, Some((label, rest))) = (self.records, domain.split_once('.'))
            && label.starts_with('_')
        {
            domain = rest;
        }
        domain
    }

    /// Whether a slot is one of its own.
    pub fn contains(&self, slot: u16) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

/// The records of a name that servers follow.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Records {
    /// Its addresses.
    Addresses,
    /// Its SRV records, with their ports, weights and priorities.
    Srv,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_has_no_port_and_no_brackets() {
        for (host, name) in [
            ("www.example.com", "www.example.com"),
            ("www.example.com:8443", "www.example.com"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn the_domain_of_srv_records_is_without_service_and_protocol() {
        let domain = |name: &str, records| {
            let port = Service::Port(80);
            ServersFrom { name: name.into(), port, first: 0, last: 3, records }.domain().to_owned()
        };
        assert_eq!(domain("_http._tcp.web.internal", Records::Srv), "web.internal");
        assert_eq!(domain("web.service.consul", Records::Srv), "web.service.consul");
        assert_eq!(
            domain("_http._tcp.web.internal", Records::Addresses),
            "_http._tcp.web.internal"
        );
        assert_eq!(domain("_http", Records::Srv), "_http");
    }
}
