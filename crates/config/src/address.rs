//! Addresses, as an operator writes them ([`Host`], [`Service`]) and resolved ([`Address`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest path of a Unix socket, in bytes: the size of `sun_path` minus its terminator (unix(7)).
pub const MAX_UNIX_PATH: usize = 107;

/// Most addresses that pen uses of one name.
pub const MOST_ADDRESSES: usize = 16;

/// A host as an operator writes it. Only a name and an address with a zone need the resolver.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Host {
    /// A numeric address.
    Ip(IpAddr),
    /// A link-local IPv6 address with its zone (RFC 4007, section 11): the name or index of an
    /// interface.
    Zoned(Ipv6Addr, String),
    /// A name; a resolver outside the supervisor looks it up.
    Name(String),
    /// The path of a Unix stream socket.
    Unix(#[serde(with = "crate::paths")] PathBuf),
}

/// A port as an operator writes it: a number from 1 to 65535, or the name of a service.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Service {
    /// A port number, never 0.
    Port(u16),
    /// A name of the services database.
    Name(String),
}

/// The listen address, as an operator writes it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Local {
    /// `[host:]port`; without a host, all IPv4 addresses.
    Inet {
        /// The host; `None` means all IPv4 addresses. Never [`Host::Unix`].
        host: Option<Host>,
        /// The port.
        port: Service,
    },
    /// A path.
    Unix(#[serde(with = "crate::paths")] PathBuf),
}

impl Local {
    /// The address of the control port, for which a port without a host is one of 127.0.0.1.
    pub fn or_loopback(self) -> Local {
        match self {
            Local::Inet { host, port } => {
                let host = host.unwrap_or(Host::Ip(Ipv4Addr::LOCALHOST.into()));
                Local::Inet { host: Some(host), port }
            }
            Local::Unix(_) => self,
        }
    }
}

/// An address of a host, as the resolver returns it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub struct HostAddress {
    /// The address.
    pub ip: IpAddr,
    /// The index of the interface of a link-local IPv6 address (`sin6_scope_id`, ipv6(7)); else 0.
    pub scope: u32,
}

impl From<IpAddr> for HostAddress {
    fn from(ip: IpAddr) -> HostAddress {
        HostAddress { ip, scope: 0 }
    }
}

impl From<SocketAddr> for HostAddress {
    fn from(address: SocketAddr) -> HostAddress {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        HostAddress { ip: address.ip(), scope }
    }
}

impl HostAddress {
    /// The address with a port. An IPv4-mapped IPv6 address (`::ffff:1.2.3.4`) becomes IPv4.
    pub fn with_port(self, port: u16) -> Address {
        Address::Inet(match self.ip.to_canonical() {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
            ip => SocketAddr::new(ip, port),
        })
    }
}

/// A resolved address that a socket can be bound or connected to.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Address {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix stream socket.
    Unix(#[serde(with = "crate::paths")] PathBuf),
}

impl Service {
    /// The name, if the host is a name.
    pub fn name(&self) -> Option<String> {
        match self {
            Service::Port(_) => None,
            Service::Name(name) => Some(name.clone()),
        }
    }
}

impl Address {
    /// The port that reports show; for a Unix socket it is 1.
    pub fn port(&self) -> u16 {
        match self {
            Address::Inet(address) => address.port(),
            Address::Unix(_) => 1,
        }
    }

    /// The TCP port, if there is one. A server without a port takes the port of the listen address.
    pub fn inet_port(&self) -> Option<u16> {
        match self {
            Address::Inet(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }

    /// The address without its port, as logs and reports show it: IPv6 without brackets, or the
    /// path.
    pub fn host(&self) -> AddressHost<'_> {
        match self {
            Address::Inet(address) => AddressHost::Ip(address.ip().to_canonical()),
            Address::Unix(path) => AddressHost::Path(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The host part of an [`Address`], for display.
#[derive(Clone, Copy, Debug)]
pub enum AddressHost<'a> {
    /// A numeric address.
    Ip(IpAddr),
    /// A path.
    Path(&'a Path),
}

impl fmt::Display for AddressHost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressHost::Ip(ip) => ip.fmt(f),
            AddressHost::Path(path) => path.display().fmt(f),
        }
    }
}
