//! Messages of the DNS: a query for SRV records, and what an answer says (RFC 1035, RFC 2782). It
//! is pure, and nothing that a name server sends makes it panic.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_config::followed::SrvFields;
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// The size of answers over UDP that is asked for: one that no path fragments (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;

/// Most CNAME records from the name to its records.
const MOST_ALIASES: usize = 16;

/// Bytes of a header, and fewest bytes of a question and of a record.
const HEADER: usize = 12;
const SMALLEST_QUESTION: usize = 5;
const SMALLEST_RECORD: usize = 11;

/// Whether a query says that it understands EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Edns {
    Used,
    /// For a name server that does not know it.
    Unused,
}

/// A query for the SRV records of a name; none if it is no name.
pub(super) fn query(id: u16, name: &str, edns: Edns) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(question(name)?);
    match edns {
        Edns::Used => {
            let opt = OPT { opt_codes: Vec::new(), udp_packet_size: UDP_SIZE, version: 0 };
            *packet.opt_mut() = Some(opt);
        }
        Edns::Unused => {}
    }
    packet.build_bytes_vec().ok()
}

fn question(name: &str) -> Option<Question<'_>> {
    let name = Name::new(name.trim_end_matches('.')).ok()?;
    Some(Question::new(name, QTYPE::TYPE(TYPE::SRV), QCLASS::CLASS(CLASS::IN), false))
}

/// What an answer says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// It is none to this query.
    NotOurs,
    /// It does not fit into a datagram.
    Truncated,
    /// The name server does not know EDNS.
    NoEdns,
    /// The name server cannot answer now.
    Failed,
    /// The name does not exist, or has no SRV record.
    None,
    /// The records, and addresses of their targets.
    Services(Services),
}

/// SRV records with what else the answer has of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Services {
    /// The records with the names of their hosts, in lower case and without the last dot.
    pub(super) records: Vec<(SrvFields, String)>,
    /// Addresses of hosts.
    pub(super) addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Services {
    /// Whether some hosts have addresses, but not all.
    pub(super) fn is_partial(&self) -> bool {
        let has = |(_, host): &(SrvFields, String)| self.addresses.contains_key(host);
        !self.addresses.is_empty() && !self.records.iter().all(has)
    }
}

/// Reads an answer to [`query`].
pub(super) fn read(bytes: &[u8], id: u16, name: &str) -> Answer {
    if !is_plausible(bytes) || bytes.get(..2) != Some(&id.to_be_bytes()[..]) {
        return Answer::NotOurs;
    }
    let Ok(packet) = Packet::parse(bytes) else { return Answer::NotOurs };
    let is_ours = match packet.questions.as_slice() {
        [theirs] => question(name).is_some_and(|ours| {
            theirs.qname == ours.qname && theirs.qtype == ours.qtype && theirs.qclass == ours.qclass
        }),
        // Some name servers do not repeat a question that they refuse.
        [] => packet.rcode() != RCODE::NoError,
        [_, _, ..] => false,
    };
    if !packet.has_flags(PacketFlag::RESPONSE) || !is_ours {
        return Answer::NotOurs;
    }
    match packet.rcode() {
        RCODE::NoError if packet.has_flags(PacketFlag::TRUNCATION) => Answer::Truncated,
        RCODE::NoError => services(&packet),
        RCODE::NameError => Answer::None,
        RCODE::FormatError | RCODE::NotImplemented | RCODE::BADVERS => Answer::NoEdns,
        _ => Answer::Failed,
    }
}

/// The records of an answer without an error.
fn services(packet: &Packet) -> Answer {
    let Some(owner) = packet.questions.first().and_then(|asked| canonical(packet, &asked.qname))
    else {
        return Answer::None;
    };
    let mut services = Services::default();
    for record in packet.answers.iter().filter(|record| record.name == owner) {
        let RData::SRV(srv) = &record.rdata else { continue };
        let Some(host) = host(&srv.target) else { continue };
        let fields = SrvFields { port: srv.port, weight: srv.weight, priority: srv.priority };
        services.records.push((fields, host));
    }
    for record in &packet.additional_records {
        let ip: IpAddr = match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).into(),
            RData::AAAA(aaaa) => Ipv6Addr::from(aaaa.address).into(),
            _ => continue,
        };
        let Some(host) = host(&record.name) else { continue };
        if services.records.iter().any(|(_, target)| *target == host) {
            services.addresses.entry(host).or_default().push(ip);
        }
    }
    match services.records.is_empty() {
        true => Answer::None,
        false => Answer::Services(services),
    }
}

/// The name that has the records, behind all CNAME records.
fn canonical<'p>(packet: &'p Packet<'p>, name: &'p Name<'p>) -> Option<Name<'p>> {
    let mut name = name;
    for _ in 0..MOST_ALIASES {
        let alias = packet.answers.iter().find_map(|record| match &record.rdata {
            RData::CNAME(target) if record.name == *name => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(target) => name = target,
            None => return Some(name.clone()),
        }
    }
    None
}

/// The name of a host as text. None for the root, with which a name says that the service does not
/// exist, and for names that no host has.
fn host(name: &Name) -> Option<String> {
    let labels = name.get_labels();
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_host = labels.iter().all(|label| label.as_ref().iter().all(is_usual));
    (is_host && !labels.is_empty()).then(|| name.to_string().to_ascii_lowercase())
}

/// Whether so many records can be in so few bytes: the parser makes room for all of them first.
fn is_plausible(message: &[u8]) -> bool {
    let count = |at: usize| match message.get(at..at + 2) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        Some(_) | None => 0,
    };
    let records = count(6) + count(8) + count(10);
    HEADER + count(4) * SMALLEST_QUESTION + records * SMALLEST_RECORD <= message.len()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME, SRV};

    use super::*;

    const NAME: &str = "_http._tcp.example";

    fn name(text: &str) -> Name<'static> {
        Name::new(text).unwrap().into_owned()
    }

    fn record(owner: &str, data: RData<'static>) -> ResourceRecord<'static> {
        ResourceRecord::new(name(owner), CLASS::IN, 1, data)
    }

    fn srv(owner: &str, port: u16, target: &str) -> ResourceRecord<'static> {
        let target = name(target);
        record(owner, RData::SRV(SRV { priority: 1, weight: 2, port, target }))
    }

    fn reply(change: impl FnOnce(&mut Packet<'static>)) -> Vec<u8> {
        let mut packet = Packet::new_reply(7);
        packet.questions.push(question(NAME).unwrap().into_owned());
        change(&mut packet);
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn said(change: impl FnOnce(&mut Packet<'static>)) -> Answer {
        read(&reply(change), 7, NAME)
    }

    #[test]
    fn a_query_asks_for_srv_records_by_a_name_and_with_edns() {
        let bytes = query(7, "_http._tcp.Example.", Edns::Used).unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.questions[0].qname, name(NAME));
        assert_eq!(packet.opt().map(|opt| opt.udp_packet_size), Some(UDP_SIZE));
        let plain = query(7, NAME, Edns::Unused).unwrap();
        assert!(Packet::parse(&plain).unwrap().opt().is_none());
        assert_eq!(query(7, &"a".repeat(64), Edns::Used), None);
    }

    #[test]
    fn records_come_with_the_addresses_of_their_hosts() {
        let answer = said(|packet| {
            packet.answers.push(record(NAME, RData::CNAME(CNAME(name("real.example")))));
            packet.answers.push(srv("REAL.example", 80, "One.Example"));
            packet.answers.push(srv("real.example", 81, "two.example"));
            packet.answers.push(srv("other.example", 82, "one.example"));
            packet.answers.push(srv("real.example", 83, ""));
            packet.answers.push(srv("real.example", 84, "no host.example"));
            let add = |owner: &str, data| record(owner, data);
            packet.additional_records.extend([
                add("one.example", RData::A(A { address: 0x0a00_0001 })),
                add("ONE.example", RData::AAAA(AAAA { address: 1 })),
                add("three.example", RData::A(A { address: 0x0a00_0003 })),
            ]);
        });
        let Answer::Services(services) = answer else { panic!("{answer:?}") };
        let fields = |port| SrvFields { port, weight: 2, priority: 1 };
        assert_eq!(
            services.records,
            [(fields(80), "one.example".into()), (fields(81), "two.example".into())]
        );
        let one = ["10.0.0.1", "::1"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(services.addresses, BTreeMap::from([("one.example".into(), one)]));
        assert!(services.is_partial());
        assert!(!Services { addresses: BTreeMap::new(), ..services }.is_partial());
    }

    #[test]
    fn whatever_else_is_answered_is_told_apart() {
        assert_eq!(said(|_| {}), Answer::None);
        assert_eq!(said(|packet| packet.answers.push(srv(NAME, 80, ""))), Answer::None);
        for (code, answer) in [
            (RCODE::NameError, Answer::None),
            (RCODE::ServerFailure, Answer::Failed),
            (RCODE::Refused, Answer::Failed),
            (RCODE::FormatError, Answer::NoEdns),
            (RCODE::NotImplemented, Answer::NoEdns),
        ] {
            assert_eq!(said(|packet| *packet.rcode_mut() = code), answer);
        }
        assert_eq!(said(|packet| packet.set_flags(PacketFlag::TRUNCATION)), Answer::Truncated);
        let refused = |packet: &mut Packet| {
            packet.questions.clear();
            *packet.rcode_mut() = RCODE::Refused;
        };
        assert_eq!(said(refused), Answer::Failed);
        for not_ours in [
            said(|packet| packet.set_id(8)),
            said(|packet| packet.questions.clear()),
            said(|packet| packet.questions[0].qname = name("other.example")),
            said(|packet| packet.questions[0].qtype = QTYPE::TYPE(TYPE::A)),
            said(|packet| packet.questions.push(question(NAME).unwrap().into_owned())),
            read(&query(7, NAME, Edns::Used).unwrap(), 7, NAME),
        ] {
            assert_eq!(not_ours, Answer::NotOurs);
        }
        let circle = said(|packet| {
            packet.answers.push(record(NAME, RData::CNAME(CNAME(name("b.example")))));
            packet.answers.push(record("b.example", RData::CNAME(CNAME(name(NAME)))));
        });
        assert_eq!(circle, Answer::None);
    }

    /// A valid answer with records of all kinds.
    fn valid() -> Vec<u8> {
        reply(|packet| {
            packet.answers.push(record(NAME, RData::CNAME(CNAME(name("real.example")))));
            packet.answers.push(srv("real.example", 80, "one.example"));
            let a = RData::A(A { address: 0x0a00_0001 });
            packet.additional_records.push(record("one.example", a));
        })
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(mut bytes in vec(any::<u8>(), 0..600)) {
            read(&bytes, 7, NAME);
            if let Some(id) = bytes.get_mut(..2) {
                id.copy_from_slice(&[0, 7]);
            }
            read(&bytes, 7, NAME);
        }

        #[test]
        fn no_damaged_answer_makes_it_panic(
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = valid();
            for (place, byte) in damage {
                let place = 2 + place.index(bytes.len() - 2);
                bytes[place] = byte;
            }
            read(&bytes, 7, NAME);
            bytes.truncate(cut.index(bytes.len()));
            read(&bytes, 7, NAME);
        }
    }
}
