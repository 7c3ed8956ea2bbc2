//! Names: which have to be asked for, what was answered, and the addresses that come of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{ConfigurationError, error};
use crate::address::{Address, Host, Local, Service};
use crate::grammar::quoted;

/// One question for the resolver.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Lookup {
    /// The address of a host name.
    Host(String),
    /// The TCP port of a service name.
    Service(String),
}

/// The resolver's answers.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Names {
    /// The first address of each host name.
    pub hosts: BTreeMap<String, IpAddr>,
    /// The port of each service name.
    pub services: BTreeMap<String, u16>,
}

/// The address that a local address stands for.
///
/// # Errors
/// `names` has no answer for one of its names.
pub fn resolve_local(local: &Local, names: &Names) -> Result<Address, ConfigurationError> {
    let (host, port) = match local {
        Local::Unix(path) => return Ok(Address::Unix(path.clone())),
        Local::Inet { host, port } => (host, port),
    };
    let what = || format!("listen address {}", quoted(&local.to_string()));
    let ip = match host {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(Host::Ip(ip)) => *ip,
        Some(Host::Name(name)) => *names.hosts.get(name).ok_or_else(|| unknown_host(what(), name))?,
        Some(Host::Unix(path)) => return Ok(Address::Unix(path.clone())),
    };
    Ok(inet(ip, resolve_port(port, names, what)?))
}

pub(crate) fn resolve_port(
    port: &Service,
    names: &Names,
    what: impl Fn() -> String,
) -> Result<u16, ConfigurationError> {
    match port {
        Service::Port(port) => Ok(*port),
        Service::Name(name) => match names.services.get(name) {
            Some(port) if *port != 0 => Ok(*port),
            _ => Err(error(format!("{}: {} is neither a port nor a known TCP service", what(), quoted(name)))),
        },
    }
}

/// IPv4 written as IPv6 (`::ffff:1.2.3.4`) is IPv4.
pub(crate) fn inet(ip: IpAddr, port: u16) -> Address {
    Address::Inet(SocketAddr::new(ip.to_canonical(), port))
}

pub(crate) fn unknown_host(what: String, name: &str) -> ConfigurationError {
    error(format!("{what}: no address found for host {}", quoted(name)))
}
