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
/// not known of one now, there is no answer, because it would look as if it were gone. Nothing is
/// looked up or kept beyond the most records: each of some thousand records could name a host with
/// as many addresses.
fn records(
    services: Services,
    addresses: impl Fn(&str) -> Result<Vec<HostAddress>, ResolveFailure>,
) -> Result<Vec<NameRecord>, ResolveFailure> {
    let of_answer = |ips: Vec<std::net::IpAddr>| ips.into_iter().map(HostAddress::from).collect();
    let mut hosts: BTreeMap<String, Vec<HostAddress>> =
        services.addresses.into_iter().map(|(host, ips)| (host, of_answer(ips))).collect();
    let mut records = Vec::new();
    for (fields, host) in services.records {
        if records.len() >= MOST_RECORDS {
            break;
        }
        if !hosts.contains_key(&host) {
            // The name is complete: no domain is to be searched for it.
            let found = match addresses(&format!("{host}.")) {
                Err(ResolveFailure::Unknown) => Vec::new(),
                found => found?,
            };
            hosts.insert(host.clone(), found);
        }
        let found = hosts.get(&host).map_or(&[][..], Vec::as_slice);
        let room = MOST_RECORDS - records.len();
        let of_host =
            |address: &HostAddress| NameRecord { address: *address, service: Some(fields) };
        records.extend(found.iter().take(room).map(of_host));
    }
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
                match by(Transport::Tcp, edns) {
                    Some(whole @ Answer::Services(_)) => Some(whole),
                    // The records are all there. A name server that refuses TCP takes none away.
                    Some(
                        Answer::NotOurs
                        | Answer::Truncated
                        | Answer::NoEdns
                        | Answer::Failed
                        | Answer::None,
                    )
                    | None => Some(Answer::Services(services)),
                }
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
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpListener, UdpSocket};
    use std::thread;

    use pen_config::followed::SrvFields;
    use simple_dns::rdata::{A, RData, SRV};
    use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord};

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

    #[test]
    fn beyond_the_most_records_nothing_is_kept_or_looked_up() {
        let found = |host: &str| match host {
            "many." => Ok(vec![IpAddr::from([10, 0, 0, 2]).into(); MOST_RECORDS]),
            _ => Err(ResolveFailure::Unavailable),
        };
        let all = records(services(&["known", "many", "many", "late"]), found).unwrap();
        let last = |record: &NameRecord| record.address.ip.to_string();
        assert_eq!(all.len(), MOST_RECORDS);
        assert_eq!((last(&all[0]), last(&all[1])), ("10.0.0.1".into(), "10.0.0.2".into()));
        let one_less = records(services(&["known", "late"]), found);
        assert_eq!(one_less, Err(ResolveFailure::Unavailable));
    }

    /// What a name server sends for a query; none: it closes the connection.
    type Reply = fn(&Packet) -> Option<Vec<u8>>;

    /// A name server for one name: it answers a query over UDP with two records of which one has
    /// its address, and one over TCP with what `by_tcp` makes of the query.
    fn name_server(by_tcp: Reply) -> (SocketAddr, thread::JoinHandle<()>) {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let server = tcp.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut bytes = [0; 512];
            let (length, client) = udp.recv_from(&mut bytes).unwrap();
            let query = Packet::parse(&bytes[..length]).unwrap();
            udp.send_to(&reply(&query, &[1]), client).unwrap();
            let (mut stream, _) = tcp.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            if let Some(reply) = by_tcp(&Packet::parse(&bytes).unwrap()) {
                let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &reply].concat()).unwrap();
            }
        });
        (server, thread)
    }

    /// Two records, for hosts 1 and 2, and the addresses of these hosts.
    fn reply(query: &Packet, hosts: &[u8]) -> Vec<u8> {
        let mut packet = Packet::new_reply(query.id());
        packet.questions.clone_from(&query.questions);
        let name = |text: String| Name::new(&text).unwrap().into_owned();
        let record = |owner, data| ResourceRecord::new(owner, CLASS::IN, 1, data);
        for host in 1..=2u16 {
            let target = name(format!("host{host}.example"));
            let srv = SRV { priority: 0, weight: 1, port: host, target };
            packet.answers.push(record(query.questions[0].qname.clone(), RData::SRV(srv)));
        }
        for host in hosts {
            let a = A { address: 0x0a00_0000 + u32::from(*host) };
            packet
                .additional_records
                .push(record(name(format!("host{host}.example")), RData::A(a)));
        }
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn an_answer_that_lacks_addresses_is_used_unless_tcp_gives_a_better_one() {
        let refused = |query: &Packet| {
            let mut packet = Packet::new_reply(query.id());
            packet.questions.clone_from(&query.questions);
            *packet.rcode_mut() = RCODE::Refused;
            Some(packet.build_bytes_vec().unwrap())
        };
        let none = |query: &Packet| {
            let mut packet = Packet::new_reply(query.id());
            packet.questions.clone_from(&query.questions);
            Some(packet.build_bytes_vec().unwrap())
        };
        let rows: [(Reply, usize); 4] =
            [(|query| Some(reply(query, &[1, 2])), 2), (refused, 1), (none, 1), (|_| None, 1)];
        for (row, (by_tcp, addresses)) in rows.into_iter().enumerate() {
            let (server, thread) = name_server(by_tcp);
            let patience = Duration::from_secs(20);
            let servers = NameServers { patience, ..NameServers::of(b"") };
            let answer = servers.of_server(server, "_a._tcp.example");
            let Some(Answer::Services(found)) = answer else { panic!("{row}: {answer:?}") };
            assert_eq!((found.records.len(), found.addresses.len()), (2, addresses), "{row}");
            thread.join().unwrap();
        }
    }
}
