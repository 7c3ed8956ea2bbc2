//! SRV records (RFC 2782), which getaddrinfo(3) cannot look up: the name servers of resolv.conf(5)
//! are asked directly. The hosts that the records name come from the same answer, or else from
//! getaddrinfo(3).

#![forbid(unsafe_code)]

mod message;
mod transport;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use pen_config::address::HostAddress;
use pen_config::followed::{MOST_RECORDS, NameRecord};

use crate::helpers::resolve::question::ResolveFailure;
use crate::helpers::resolve::srv::message::{Answer, Edns, Services};
use crate::helpers::resolve::srv::transport::{Transport, ask};

/// Where the C library reads about name servers.
const FILE: &str = "/etc/resolv.conf";

/// Most name servers that are asked, and the most seconds for each, as in the C library.
const MOST_SERVERS: usize = 3;
const MOST_SECONDS: u32 = 30;
const MOST_ATTEMPTS: u32 = 5;

/// The SRV records of a name, each with one address of its host. `addresses` looks a host up.
///
/// # Errors
/// The name has no usable record, or it cannot be known now which ones it has.
pub(super) fn look_up(
    name: &str,
    addresses: impl Fn(&str) -> Result<Vec<HostAddress>, ResolveFailure>,
) -> Result<Vec<NameRecord>, ResolveFailure> {
    let servers = NameServers::read();
    let mut failure = ResolveFailure::Unknown;
    for candidate in servers.candidates(name) {
        match servers.services(&candidate) {
            Ok(services) => return records(services, addresses),
            Err(ResolveFailure::Unknown) => {}
            Err(other) => failure = other,
        }
    }
    Err(failure)
}

/// The records with the addresses of their hosts. Hosts that do not exist are left out; if that is
/// not known of one now, there is no answer, because it would look as if it were gone.
fn records(
    services: Services,
    addresses: impl Fn(&str) -> Result<Vec<HostAddress>, ResolveFailure>,
) -> Result<Vec<NameRecord>, ResolveFailure> {
    let of_answer = |ips: Vec<std::net::IpAddr>| ips.into_iter().map(HostAddress::from).collect();
    let mut hosts: BTreeMap<String, Vec<HostAddress>> =
        services.addresses.into_iter().map(|(host, ips)| (host, of_answer(ips))).collect();
    let mut records = Vec::new();
    for (fields, host) in services.records {
        if !hosts.contains_key(&host) {
            // The name is complete: no domain is to be searched for it.
            let found = match addresses(&format!("{host}.")) {
                Err(ResolveFailure::Unknown) => Vec::new(),
                found => found?,
            };
            hosts.insert(host.clone(), found);
        }
        let found = hosts.get(&host).map_or(&[][..], Vec::as_slice);
        records.extend(
            found.iter().map(|address| NameRecord { address: *address, service: Some(fields) }),
        );
    }
    records.truncate(MOST_RECORDS);
    if records.is_empty() { Err(ResolveFailure::Unknown) } else { Ok(records) }
}

/// What resolv.conf(5) says.
#[derive(Debug)]
struct NameServers {
    addresses: Vec<SocketAddr>,
    domains: Vec<String>,
    /// A name with so many dots is taken for complete first.
    dots: u32,
    patience: Duration,
    attempts: u32,
    transport: Transport,
}

impl NameServers {
    /// Without the file, a name server of this machine is asked, as by the C library.
    fn read() -> NameServers {
        NameServers::of(&fs::read(FILE).unwrap_or_default())
    }

    fn of(text: &[u8]) -> NameServers {
        let (found, _) = resolv_conf::Config::parse_with_errors(text);
        // A link-local address has a zone, which the C library knows.
        let address = |ip: &resolv_conf::ScopedIp| {
            (ip.to_string().as_str(), PORT).to_socket_addrs().ok()?.next()
        };
        let addresses = found.get_nameservers_or_local();
        NameServers {
            addresses: addresses.iter().take(MOST_SERVERS).filter_map(address).collect(),
            domains: found.get_last_search_or_domain().cloned().collect(),
            dots: found.ndots,
            patience: Duration::from_secs(found.timeout.clamp(1, MOST_SECONDS).into()),
            attempts: found.attempts.clamp(1, MOST_ATTEMPTS),
            transport: if found.use_vc { Transport::Tcp } else { Transport::Udp },
        }
    }

    /// The complete names that a name may stand for, in the order in which they are asked for.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let domains = self.domains.iter().map(|domain| domain.trim_end_matches('.'));
        let domains = domains.filter(|domain| !domain.is_empty());
        let mut candidates: Vec<String> =
            domains.map(|domain| format!("{name}.{domain}")).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let own = if dots as u64 >= u64::from(self.dots) { 0 } else { candidates.len() };
        candidates.insert(own, name.to_owned());
        candidates
    }

    /// The SRV records of a complete name.
    fn services(&self, name: &str) -> Result<Services, ResolveFailure> {
        for _ in 0..self.attempts {
            for server in &self.addresses {
                match self.of_server(*server, name) {
                    Some(Answer::Services(services)) => return Ok(services),
                    Some(Answer::None) => return Err(ResolveFailure::Unknown),
                    Some(Answer::NotOurs | Answer::Truncated | Answer::NoEdns | Answer::Failed)
                    | None => {}
                }
            }
        }
        Err(ResolveFailure::Unavailable)
    }

    /// The answer of one name server; none if there is none in time.
    fn of_server(&self, server: SocketAddr, name: &str) -> Option<Answer> {
        let by = |transport, edns| ask(server, transport, name, edns, self.patience).ok();
        let mut edns = Edns::Used;
        let mut answer = by(self.transport, edns)?;
        if answer == Answer::NoEdns {
            edns = Edns::Unused;
            answer = by(self.transport, edns)?;
        }
        match answer {
            Answer::Truncated => by(Transport::Tcp, edns),
            // There was no room for all hosts. What is missing could be asked for, but then a
            // host could have fewer addresses now than at the next lookup.
            Answer::Services(services) if services.is_partial() => {
                by(Transport::Tcp, edns).or(Some(Answer::Services(services)))
            }
            answer => Some(answer),
        }
    }
}

/// The port of name servers.
const PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::IpAddr;

    use pen_config::followed::SrvFields;

    use super::*;

    #[test]
    fn the_file_says_whom_to_ask_and_for_which_names() {
        let text = b"nameserver 10.0.0.1\nnameserver ::1\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n\
                     strange words\nsearch a.example b.example.\noptions ndots:2 timeout:7 attempts:3\n";
        let found = NameServers::of(text);
        let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"]);
        assert_eq!((found.patience.as_secs(), found.attempts), (7, 3));
        assert_eq!(
            found.candidates("_a._tcp"),
            ["_a._tcp.a.example", "_a._tcp.b.example", "_a._tcp"]
        );
        assert_eq!(
            found.candidates("_a._tcp.c"),
            ["_a._tcp.c", "_a._tcp.c.a.example", "_a._tcp.c.b.example"]
        );
        assert_eq!(found.candidates("_a._tcp.c."), ["_a._tcp.c."]);
        let none = NameServers::of(b"");
        assert_eq!(none.addresses.first(), Some(&"127.0.0.1:53".parse().unwrap()));
        assert_eq!(none.candidates("_a._tcp.c"), ["_a._tcp.c"]);
        let tcp = NameServers::of(b"options use-vc timeout:0 attempts:0\n");
        assert_eq!((tcp.transport, tcp.patience.as_secs(), tcp.attempts), (Transport::Tcp, 1, 1));
    }

    fn services(hosts: &[&str]) -> Services {
        let fields = SrvFields { port: 80, weight: 1, priority: 0 };
        let known = BTreeMap::from([("known".to_owned(), vec![IpAddr::from([10, 0, 0, 1])])]);
        Services {
            records: hosts.iter().map(|host| (fields, (*host).to_owned())).collect(),
            addresses: known,
        }
    }

    #[test]
    fn hosts_that_the_answer_lacks_are_looked_up_once_each() {
        let asked = RefCell::new(Vec::new());
        let found = |host: &str| {
            asked.borrow_mut().push(host.to_owned());
            match host {
                "two." => Ok([2, 3].map(|last| IpAddr::from([10, 0, 0, last]).into()).to_vec()),
                "late." => Err(ResolveFailure::Unavailable),
                _ => Err(ResolveFailure::Unknown),
            }
        };
        let all = records(services(&["known", "two", "none", "two", "none"]), found).unwrap();
        let last = |record: &NameRecord| record.address.ip.to_string();
        assert_eq!(
            all.iter().map(last).collect::<Vec<_>>(),
            ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.2", "10.0.0.3"]
        );
        assert_eq!(asked.take(), ["two.", "none."]);
        // One that cannot be looked up now is not gone.
        assert_eq!(records(services(&["known", "late"]), found), Err(ResolveFailure::Unavailable));
        assert_eq!(records(services(&["none"]), found), Err(ResolveFailure::Unknown));
    }
}
