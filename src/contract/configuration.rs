//! What the operator asked for, still with names in it, and how it becomes [`Settings`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::{Address, Host, Local, Service};
use crate::grammar::{ServerSpec, quoted};
use crate::ids::MAX_SERVERS;
use crate::settings::{Selection, Server, Settings};

/// Everything that the command line says about balancing, checked but not resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Configuration {
    /// Where pen listens.
    pub local: Local,
    /// The servers in the order of the command line.
    pub servers: Vec<ServerSpec>,
    /// `-e`.
    pub emergency: Option<ServerSpec>,
    /// `-B`.
    pub abuse: Option<ServerSpec>,
    /// `-S`: exactly so many slots; none = the larger of 16 and what is needed.
    pub server_slots: Option<u32>,
    /// The modes.
    pub selection: Selection,
    /// `-b`, seconds.
    pub blacklist: u32,
    /// `-t`, seconds.
    pub connect_timeout: u32,
    /// `-T`, seconds.
    pub tracking: u32,
    /// `-x`.
    pub connections_max: u32,
    /// `-c`.
    pub clients_max: u32,
    /// `-m`.
    pub accept_batch: u32,
    /// `-d`.
    pub debug: u8,
    /// `-a`.
    pub ascii: bool,
}

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

/// A configuration that cannot be put in force.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub String);

impl Configuration {
    /// The names that have to be resolved first; empty if all addresses are numeric.
    pub fn lookups(&self) -> BTreeSet<Lookup> {
        let (local_host, local_port) = match &self.local {
            Local::Inet { host, port } => (host.as_ref(), Some(port)),
            Local::Unix(_) => (None, None),
        };
        let specs = || self.servers.iter().chain(&self.emergency).chain(&self.abuse);
        let hosts = specs().map(|spec| &spec.host).chain(local_host).filter_map(|host| match host {
            Host::Name(name) => Some(Lookup::Host(name.clone())),
            Host::Ip(_) | Host::Unix(_) => None,
        });
        let services = specs().filter_map(|spec| spec.port.as_ref()).chain(local_port).filter_map(|port| match port {
            Service::Name(name) => Some(Lookup::Service(name.clone())),
            Service::Port(_) => None,
        });
        hosts.chain(services).collect()
    }

    /// Puts the answers in and checks the whole: the listen address and the settings.
    ///
    /// # Errors
    /// No server, more servers than slots, a server without a port behind a Unix listener, a name without an answer.
    pub fn settle(&self, names: &Names) -> Result<(Address, Settings), ConfigurationError> {
        let listen = self.listen(names)?;
        if self.servers.is_empty() && self.emergency.is_none() {
            return Err(error("no server".to_owned()));
        }
        let slots = self.server_slots.unwrap_or(MIN_SLOTS.max(self.servers.len() as u32).min(MAX_SERVERS));
        if self.servers.len() > slots as usize {
            let count = self.servers.len();
            let hint = if slots < MAX_SERVERS { format!("; -S {count} makes room") } else { String::new() };
            return Err(error(format!("{count} servers, but the server table has {slots} slots{hint}")));
        }
        let port = match &listen {
            Address::Inet(address) => Some(address.port()),
            Address::Unix(_) => None,
        };
        let mut servers =
            self.servers.iter().map(|spec| server(spec, port, names).map(Some)).collect::<Result<Vec<_>, _>>()?;
        servers.resize(slots as usize, None);
        let settings = Settings {
            servers,
            emergency: self.emergency.as_ref().map(|spec| server(spec, port, names)).transpose()?,
            abuse: self.abuse.as_ref().map(|spec| server(spec, port, names)).transpose()?,
            selection: self.selection,
            blacklist: self.blacklist,
            connect_timeout: self.connect_timeout,
            tracking: self.tracking,
            connections_max: self.connections_max,
            clients_max: self.clients_max,
            pending_max: PENDING_MAX,
            accept_batch: self.accept_batch,
            debug: self.debug,
            ascii: self.ascii,
        };
        Ok((listen, settings))
    }

    /// What an administrator should hear about but that does not stop the start, one line each.
    pub fn warnings(&self, listen: &Address, settings: &Settings) -> Vec<String> {
        let regular = settings.configured().map(|(id, server)| (format!("server {id}"), server));
        let others = [("emergency server", &settings.emergency), ("abuse server", &settings.abuse)];
        let others = others.into_iter().filter_map(|(what, server)| Some((what.to_owned(), server.as_ref()?)));
        let mut warnings = Vec::new();
        for (what, server) in regular.chain(others) {
            let address = &server.address;
            if server.hard > 0 && server.soft == 0 {
                let hard = server.hard;
                warnings.push(format!(
                    "{what} ({address}): hard limit {hard} without a soft limit has no effect: soft limit 0 means unlimited"
                ));
            }
            if reaches(listen, address) {
                warnings.push(format!(
                    "{what} ({address}): pen itself listens there ({listen}); its connections would come back to it until all are in use"
                ));
            }
        }
        warnings
    }

    fn listen(&self, names: &Names) -> Result<Address, ConfigurationError> {
        let (host, port) = match &self.local {
            Local::Unix(path) => return Ok(Address::Unix(path.clone())),
            Local::Inet { host, port } => (host, port),
        };
        let what = || format!("listen address {}", quoted(&self.local.to_string()));
        let ip = match host {
            None => Ipv4Addr::UNSPECIFIED.into(),
            Some(Host::Ip(ip)) => *ip,
            Some(Host::Name(name)) => *names.hosts.get(name).ok_or_else(|| unknown_host(what(), name))?,
            Some(Host::Unix(path)) => return Ok(Address::Unix(path.clone())),
        };
        Ok(inet(ip, resolve_port(port, names, what)?))
    }
}

/// A server with its names replaced by the answers. `listen_port` is for one that has no port.
fn server(spec: &ServerSpec, listen_port: Option<u16>, names: &Names) -> Result<Server, ConfigurationError> {
    let what = || format!("server {}", quoted(&spec.to_string()));
    let port = || match &spec.port {
        Some(port) => resolve_port(port, names, what),
        None => listen_port.ok_or_else(|| {
            error(format!("{}: the port is missing, and a listener on a Unix socket has none to use", what()))
        }),
    };
    let address = match &spec.host {
        Host::Unix(path) => Address::Unix(path.clone()),
        Host::Ip(ip) => inet(*ip, port()?),
        Host::Name(name) => inet(*names.hosts.get(name).ok_or_else(|| unknown_host(what(), name))?, port()?),
    };
    Ok(Server { address, soft: spec.soft, hard: spec.hard, weight: spec.weight, prio: spec.prio })
}

fn resolve_port(port: &Service, names: &Names, what: impl Fn() -> String) -> Result<u16, ConfigurationError> {
    match port {
        Service::Port(port) => Ok(*port),
        Service::Name(name) => match names.services.get(name) {
            Some(port) if *port != 0 => Ok(*port),
            _ => Err(error(format!("{}: {} is neither a port nor a known TCP service", what(), quoted(name)))),
        },
    }
}

/// IPv4 written as IPv6 (`::ffff:1.2.3.4`) is IPv4.
fn inet(ip: IpAddr, port: u16) -> Address {
    Address::Inet(SocketAddr::new(ip.to_canonical(), port))
}

/// Whether a connect to `server` certainly ends at the listener itself. Which other addresses are this machine's is not known here.
fn reaches(listen: &Address, server: &Address) -> bool {
    match (listen, server) {
        (Address::Unix(listen), Address::Unix(server)) => listen == server,
        (Address::Inet(listen), Address::Inet(server)) if listen.port() == server.port() => {
            // Linux takes a connect to the unspecified address as one to loopback.
            let target = match server.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let wildcard = match listen.ip() {
                IpAddr::V4(ip) => ip.is_unspecified() && target.is_ipv4(),
                // Dual stack: IPv4 arrives here too.
                IpAddr::V6(ip) => ip.is_unspecified(),
            };
            target == listen.ip() || (wildcard && target.is_loopback())
        }
        _ => false,
    }
}

fn unknown_host(what: String, name: &str) -> ConfigurationError {
    error(format!("{what}: no address found for host {}", quoted(name)))
}

fn error(why: String) -> ConfigurationError {
    ConfigurationError(why)
}

/// Slots of the server table when `-S` does not say it and fewer are needed.
const MIN_SLOTS: u32 = 16;

/// Most connects under way per worker.
const PENDING_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grammar;

    fn configuration(local: &str, servers: &[&str]) -> Configuration {
        Configuration {
            local: grammar::local(local).unwrap(),
            servers: servers.iter().map(|text| grammar::server(text).unwrap()).collect(),
            emergency: None,
            abuse: None,
            server_slots: None,
            selection: Selection::default(),
            blacklist: 30,
            connect_timeout: 5,
            tracking: 0,
            connections_max: 256,
            clients_max: 2048,
            accept_batch: 100,
            debug: 0,
            ascii: false,
        }
    }

    fn settled(local: &str, servers: &[&str]) -> (Address, Settings) {
        configuration(local, servers).settle(&Names::default()).unwrap()
    }

    fn failure(configuration: &Configuration) -> String {
        configuration.settle(&Names::default()).unwrap_err().to_string()
    }

    fn warnings(local: &str, servers: &[&str]) -> Vec<String> {
        let (listen, settings) = settled(local, servers);
        configuration(local, servers).warnings(&listen, &settings)
    }

    #[test]
    fn a_server_without_a_port_has_the_listen_port() {
        let (listen, settings) = settled("8080", &["10.0.0.1", "10.0.0.2:81:1:2:3:4", "[::1]", "/run/a.sock"]);
        assert_eq!(listen.to_string(), "0.0.0.0:8080");
        let shown: Vec<String> = settings.configured().map(|(id, s)| format!("{id} {}", s.address)).collect();
        assert_eq!(shown, ["0 10.0.0.1:8080", "1 10.0.0.2:81", "2 [::1]:8080", "3 /run/a.sock"]);
        let Some(Server { soft: 1, hard: 2, weight: 3, prio: 4, .. }) = settings.servers[1] else { panic!() };
        assert_eq!(settings.pending_max, 100);
    }

    #[test]
    fn a_unix_listener_has_no_port_to_lend() {
        assert!(failure(&configuration("/run/front.sock", &["10.0.0.1"])).contains("the port is missing"));
        let (listen, settings) = settled("/run/front.sock", &["10.0.0.1:80", "/run/back.sock"]);
        assert_eq!(listen, Address::Unix("/run/front.sock".into()));
        assert_eq!(settings.server_count(), 2);
    }

    #[test]
    fn the_table_has_16_slots_or_what_is_needed_or_exactly_what_is_asked_for() {
        assert_eq!(settled("80", &["10.0.0.1"]).1.table_size(), 16);
        assert_eq!(settled("80", &["10.0.0.1"; 17]).1.table_size(), 17);
        let exactly = Configuration { server_slots: Some(2), ..configuration("80", &["10.0.0.1"; 2]) };
        assert_eq!(exactly.settle(&Names::default()).unwrap().1.table_size(), 2);
        let over = Configuration { server_slots: Some(2), ..configuration("80", &["10.0.0.1"; 3]) };
        assert_eq!(failure(&over), "3 servers, but the server table has 2 slots; -S 3 makes room");
        let far_over = configuration("80", &["10.0.0.1"; 4097]);
        assert_eq!(failure(&far_over), "4097 servers, but the server table has 4096 slots");
    }

    #[test]
    fn an_emergency_server_is_a_server_but_an_abuse_server_is_not_enough() {
        let other = || Some(grammar::server("10.0.0.9").unwrap());
        let emergency = Configuration { emergency: other(), ..configuration("80", &[]) };
        let (_, settings) = emergency.settle(&Names::default()).unwrap();
        assert_eq!(settings.emergency.unwrap().address.to_string(), "10.0.0.9:80");
        assert_eq!(failure(&Configuration { abuse: other(), ..configuration("80", &[]) }), "no server");
    }

    #[test]
    fn names_are_asked_for_once_and_replaced() {
        let mut asked = configuration("front:http", &["back", "back:https", "10.0.0.1:http"]);
        asked.emergency = Some(grammar::server("last:8").unwrap());
        let host = |name: &str| Lookup::Host(name.to_owned());
        let service = |name: &str| Lookup::Service(name.to_owned());
        let expected = [host("front"), host("back"), host("last"), service("http"), service("https")];
        assert_eq!(asked.lookups(), BTreeSet::from(expected));
        let mut names = Names::default();
        for (name, ip) in [("front", "127.0.0.5"), ("back", "::ffff:10.0.0.7"), ("last", "::1")] {
            names.hosts.insert(name.to_owned(), ip.parse().unwrap());
        }
        names.services.insert("http".to_owned(), 80);
        assert!(asked.settle(&names).unwrap_err().to_string().contains("'https' is neither a port nor"));
        names.services.insert("https".to_owned(), 443);
        let (listen, settings) = asked.settle(&names).unwrap();
        assert_eq!(listen.to_string(), "127.0.0.5:80");
        assert_eq!(settings.servers[0].as_ref().unwrap().address.to_string(), "10.0.0.7:80");
        assert_eq!(settings.servers[1].as_ref().unwrap().address.to_string(), "10.0.0.7:443");
        names.hosts.remove("back");
        assert!(asked.settle(&names).unwrap_err().to_string().contains("no address found for host 'back'"));
    }

    #[test]
    fn nothing_is_asked_for_numeric_addresses() {
        assert!(configuration("[::1]:80", &["10.0.0.1:80", "[::2]", "/run/a.sock:1:5"]).lookups().is_empty());
    }

    #[test]
    fn words_that_are_no_ports_are_named() {
        for (local, server, word) in [("smpt", "10.0.0.1:80", "'smpt'"), ("80", "10.0.0.1:21000x", "'21000x'")] {
            let why = failure(&configuration(local, &[server]));
            assert!(why.contains(word) && why.contains("neither a port"), "{why}");
        }
    }

    #[test]
    fn a_hard_limit_needs_a_soft_limit() {
        assert_eq!(warnings("80", &["10.0.0.1:81:5:9", "10.0.0.1:81:5"]).len(), 0);
        let warned = warnings("80", &["10.0.0.1:81", "10.0.0.1:81:0:9"]);
        assert!(warned.len() == 1 && warned[0].starts_with("server 1 (10.0.0.1:81): hard limit 9"), "{warned:?}");
    }

    #[test]
    fn a_listener_among_its_own_servers_is_seen() {
        let rows = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("10.0.0.1:80", "10.0.0.1", true),
            ("80", "127.0.0.1:80", true),
            ("80", "127.9.9.9:80", true),
            ("80", "0.0.0.0:80", true),
            ("80", "[::1]:80", false),
            ("80", "10.0.0.1:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::ffff:127.0.0.1]:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("/run/a.sock", "/run/a.sock", true),
            ("/run/a.sock", "/run/b.sock", false),
        ];
        for (local, server, loops) in rows {
            assert_eq!(warnings(local, &[server]).len(), usize::from(loops), "{local} {server}");
        }
    }

    proptest! {
        #[test]
        fn every_server_that_reads_settles_with_its_fields(
            ip in any::<IpAddr>(),
            port in 1u16..,
            counts in any::<[u16; 4]>(),
        ) {
            let [soft, hard, weight, prio] = counts.map(u32::from);
            let spec = ServerSpec { host: Host::Ip(ip), port: Some(Service::Port(port)), soft, hard, weight, prio };
            let (listen, settings) = settled("80", &[&spec.to_string()]);
            let address = inet(ip, port);
            prop_assert_eq!(settings.servers[0].as_ref(), Some(&Server { address, soft, hard, weight, prio }));
            let _ = configuration("80", &[&spec.to_string()]).warnings(&listen, &settings);
        }
    }
}
