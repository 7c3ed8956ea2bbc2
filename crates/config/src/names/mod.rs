//! Names: those to resolve, the answers of the resolver, and the resulting addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ConfigurationError;
use crate::address::{Address, Host, HostAddress, Local, Service};
use crate::checks::Records;
use crate::checks::records::Answers;
use crate::grammar::{ServerSpec, quoted};
use crate::settings::Server;

pub mod places;

/// One question for the resolver.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Lookup {
    /// The addresses of a host name, or of an IPv6 address with a zone.
    Host(String),
    /// The TCP port of a service name.
    Service(String),
    /// All records of a name that servers follow.
    Records(String, Records),
}

/// The names in a listen address.
pub(crate) fn of_local(local: &Local) -> Vec<Lookup> {
    match local {
        Local::Inet { host, port } => {
            host.iter().filter_map(of_host).chain(of_service(port)).collect()
        }
        Local::Unix(_) => Vec::new(),
    }
}

/// The name of a host, unless it is a number or a path.
pub(crate) fn of_host(host: &Host) -> Option<Lookup> {
    match host {
        Host::Zoned(ip, zone) => Some(Lookup::Host(zoned(*ip, zone))),
        Host::Name(name) => Some(Lookup::Host(name.clone())),
        Host::Ip(_) | Host::Unix(_) => None,
    }
}

/// The name of a service, unless it is a number.
pub(crate) fn of_service(service: &Service) -> Option<Lookup> {
    match service {
        Service::Name(name) => Some(Lookup::Service(name.clone())),
        Service::Port(_) => None,
    }
}

/// The resolver's answers.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Names {
    /// The addresses of each host name, in the resolver's order: at least one. A server uses at
    /// most [`crate::address::MOST_ADDRESSES`] of them.
    pub hosts: BTreeMap<String, Vec<HostAddress>>,
    /// The port of each service name.
    pub services: BTreeMap<String, u16>,
    /// The records of the names that servers follow.
    pub records: Answers,
}

/// The addresses of a listen address, at least one. The caller uses the first one that it can bind.
///
/// # Errors
/// `names` has no answer for one of the names.
pub fn resolve_local(local: &Local, names: &Names) -> Result<Vec<Address>, ConfigurationError> {
    let (host, port) = match local {
        Local::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
        Local::Inet { host, port } => (host, port),
    };
    let what = || format!("listen address {}", quoted(&local.to_string()));
    let found = match host {
        None => vec![HostAddress::from(IpAddr::from(Ipv4Addr::UNSPECIFIED))],
        Some(host) => host_addresses(host, names, what)?,
    };
    let port = resolve_port(port, names, what)?;
    Ok(found.into_iter().map(|address| address.with_port(port)).collect())
}

/// The addresses of a host, at least one. A path has none.
fn host_addresses(
    host: &Host,
    names: &Names,
    what: impl Fn() -> String,
) -> Result<Vec<HostAddress>, ConfigurationError> {
    let answered = |name: &str| match names.hosts.get(name) {
        Some(found) if !found.is_empty() => Ok(found.clone()),
        _ => Err(unknown_host(what(), name)),
    };
    match host {
        Host::Ip(ip) => Ok(vec![HostAddress::from(*ip)]),
        Host::Zoned(ip, zone) => answered(&zoned(*ip, zone)),
        Host::Name(name) => answered(name),
        Host::Unix(path) => Err(ConfigurationError(format!(
            "{}: {} is a path",
            what(),
            quoted(&path.display().to_string())
        ))),
    }
}

/// The addresses of a server's host.
pub(crate) struct ServerAddresses {
    found: Vec<Address>,
    given: Option<Host>,
}

impl ServerAddresses {
    pub(crate) fn give_to(self, server: &mut Server) {
        server.relocate(self.found, self.given);
    }
}

/// The addresses of a server's host with its port. `port` is not called for a path.
pub(crate) fn server_addresses<E>(
    host: &Host,
    port: impl FnOnce() -> Result<u16, E>,
    names: &Names,
    what: impl Fn() -> String,
    failed: impl Fn(ConfigurationError) -> E,
) -> Result<ServerAddresses, E> {
    if let Host::Unix(path) = host {
        return Ok(ServerAddresses { found: vec![Address::Unix(path.clone())], given: None });
    }
    let found = host_addresses(host, names, what).map_err(failed)?;
    let port = port()?;
    let given = match host {
        Host::Zoned(_, _) | Host::Name(_) => Some(host.clone()),
        Host::Ip(_) | Host::Unix(_) => None,
    };
    Ok(ServerAddresses {
        found: found.into_iter().map(|address| address.with_port(port)).collect(),
        given,
    })
}

/// The text that the resolver gets for an address with a zone.
pub fn zoned(ip: std::net::Ipv6Addr, zone: &str) -> String {
    format!("{ip}%{zone}")
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
            _ => Err(ConfigurationError(format!(
                "{}: {} is neither a port nor a known TCP service",
                what(),
                quoted(name)
            ))),
        },
    }
}

/// A server with resolved names. `listen_port` is the port of a server that has none.
pub(crate) fn resolved(
    spec: &ServerSpec,
    listen_port: Option<u16>,
    names: &Names,
) -> Result<Server, ConfigurationError> {
    let what = || format!("server {}", quoted(&spec.to_string()));
    let port = || match &spec.port {
        Some(port) => resolve_port(port, names, what),
        None => listen_port.ok_or_else(|| {
            ConfigurationError(format!(
                "{}: the port is missing, and a listener on a Unix socket has none to use",
                what()
            ))
        }),
    };
    let ServerSpec { soft, hard, weight, prio, .. } = *spec;
    let placeholder = Address::Unix(PathBuf::new());
    let mut server = Server { soft, hard, weight, prio, ..Server::at(placeholder) };
    server.service = spec.port.as_ref().and_then(Service::name);
    server_addresses(&spec.host, port, names, what, |error| error)?.give_to(&mut server);
    Ok(server)
}

fn unknown_host(what: String, name: &str) -> ConfigurationError {
    ConfigurationError(format!("{what}: no address found for host {}", quoted(name)))
}
