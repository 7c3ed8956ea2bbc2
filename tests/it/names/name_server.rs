//! A name server whose records a test sets and changes (RFC 1035, RFC 2782), over UDP and TCP. It
//! is made for [`in_own_network`], where port 53 is free and the test has its own process.
//!
//! [`in_own_network`]: crate::harness::machine::in_own_network

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use simple_dns::rdata::{RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use crate::harness::machine::in_etc;
use crate::harness::{Gate, PATIENCE, eventually};

/// Where the name server listens.
const PLACE: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 53), 53);

/// The largest answer over UDP to a question without EDNS (RFC 1035, 4.2.1).
const SMALL: usize = 512;

/// How a name is answered.
#[derive(Clone, Default)]
pub enum Manner {
    /// With its records in their order.
    #[default]
    InOrder,
    /// With its records, which each answer turns by one.
    InTurns,
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Not at all.
    Silence,
    /// With bytes that are no message, behind the id of the question.
    Garbage,
    /// With its records, once the gate is open.
    Late(Gate),
    /// With its records, over TCP only: UDP says that the answer is truncated.
    Truncated,
}

/// An SRV record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Srv<'a> {
    /// The priority; lower ones are used first.
    pub priority: u16,
    /// The share of clients among records of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The name of the host.
    pub target: &'a str,
}

/// A name server, which answers until the process ends.
#[derive(Clone)]
pub struct NameServer {
    zone: Arc<Mutex<HashMap<String, Entry>>>,
}

#[derive(Default)]
struct Entry {
    manner: Manner,
    addresses: Vec<IpAddr>,
    services: Vec<(u16, u16, u16, String)>,
    /// The number of questions so far.
    asked: usize,
}

/// Shell commands for [`in_own_network`]: the C library asks this name server, once and for two
/// seconds.
///
/// [`in_own_network`]: crate::harness::machine::in_own_network
pub fn setup() -> Vec<String> {
    let text = format!("nameserver {}\noptions timeout:2 attempts:1\n", PLACE.0);
    vec![in_etc("resolv.conf", &text), in_etc("nsswitch.conf", "hosts: files dns\n")]
}

impl NameServer {
    /// Starts to listen. No name exists yet.
    pub fn start() -> NameServer {
        let server = NameServer { zone: Arc::default() };
        let (datagrams, listener) =
            (UdpSocket::bind(PLACE).unwrap(), TcpListener::bind(PLACE).unwrap());
        let zone = server.zone.clone();
        thread::spawn(move || serve_datagrams(&zone, &datagrams));
        let zone = server.zone.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let zone = zone.clone();
                thread::spawn(move || serve_stream(&zone, stream));
            }
        });
        server
    }

    /// Gives a name exactly these addresses.
    pub fn addresses<A: Into<IpAddr>>(&self, name: &str, addresses: impl IntoIterator<Item = A>) {
        let addresses = addresses.into_iter().map(Into::into).collect();
        self.change(name, |entry| entry.addresses = addresses);
    }

    /// Gives a name exactly these SRV records.
    pub fn services(&self, name: &str, records: &[Srv]) {
        let owned = |one: &Srv| (one.priority, one.weight, one.port, one.target.to_owned());
        let records = records.iter().map(owned).collect();
        self.change(name, |entry| entry.services = records);
    }

    /// Says how a name is answered from now on.
    pub fn answers(&self, name: &str, manner: Manner) {
        self.change(name, |entry| entry.manner = manner);
    }

    /// How many questions for a name came so far. The C library asks two for each lookup.
    pub fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().get(name).map_or(0, |entry| entry.asked)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        change(self.zone.lock().unwrap().entry(name.to_owned()).or_default());
    }
}

fn serve_datagrams(zone: &Mutex<HashMap<String, Entry>>, socket: &UdpSocket) {
    let mut question = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut question) {
        let Some(answer) = answer(zone, &question[..length], Transport::Udp) else { continue };
        match answer.after {
            None => drop(socket.send_to(&answer.bytes, client)),
            Some(gate) => {
                let socket = socket.try_clone().unwrap();
                thread::spawn(move || {
                    gate.pass();
                    drop(socket.send_to(&answer.bytes, client));
                });
            }
        }
    }
}

fn serve_stream(zone: &Mutex<HashMap<String, Entry>>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let Some(answer) = answer(zone, &question, Transport::Tcp) else { continue };
        if let Some(gate) = answer.after {
            gate.pass();
        }
        stream.write_all(&(answer.bytes.len() as u16).to_be_bytes())?;
        stream.write_all(&answer.bytes)?;
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Transport {
    Udp,
    Tcp,
}

struct Answer {
    bytes: Vec<u8>,
    after: Option<Gate>,
}

/// The answer to a question; none = silence.
fn answer(
    zone: &Mutex<HashMap<String, Entry>>,
    bytes: &[u8],
    transport: Transport,
) -> Option<Answer> {
    let question = Packet::parse(bytes).ok()?;
    let asked = question.questions.first()?;
    let name = asked.qname.to_string().to_ascii_lowercase();
    let mut zone = zone.lock().unwrap();
    let is_known = zone.contains_key(&name);
    let turn = zone.get_mut(&name).map_or(0, |entry| {
        entry.asked += 1;
        entry.asked
    });
    let entry = zone.get(&name);
    let manner = entry.map_or(Manner::NoSuchName, |entry| entry.manner.clone());

    let room = match transport {
        Transport::Udp => question.opt().map_or(SMALL, |opt| usize::from(opt.udp_packet_size)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let mut reply = Packet::new_reply(question.id());
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    reply.questions.push(asked.clone());
    *reply.rcode_mut() = match manner {
        Manner::NoSuchName => RCODE::NameError,
        Manner::Failure => RCODE::ServerFailure,
        Manner::Silence => return None,
        Manner::Garbage => {
            let mut noise = bytes[..2].to_vec();
            noise.extend([0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xc0, 0x0c, 0xc0]);
            return Some(Answer { bytes: noise, after: None });
        }
        Manner::InOrder | Manner::InTurns | Manner::Late(_) | Manner::Truncated => RCODE::NoError,
    };
    if reply.rcode() == RCODE::NoError && is_known {
        reply.answers = records(&zone, &name, asked.qtype);
        if matches!(manner, Manner::InTurns) && !reply.answers.is_empty() {
            let by = turn % reply.answers.len();
            reply.answers.rotate_left(by);
        }
        reply.additional_records = targets(&zone, &reply.answers);
    }
    let mut bytes = reply.build_bytes_vec_compressed().unwrap();
    let is_short = matches!(manner, Manner::Truncated) && transport == Transport::Udp;
    if is_short || bytes.len() > room {
        reply.set_flags(PacketFlag::TRUNCATION);
        reply.answers.clear();
        reply.additional_records.clear();
        bytes = reply.build_bytes_vec_compressed().unwrap();
    }
    let after = match manner {
        Manner::Late(gate) => Some(gate),
        _ => None,
    };
    Some(Answer { bytes, after })
}

/// The records of a name of the asked type.
fn records(
    zone: &HashMap<String, Entry>,
    name: &str,
    asked: QTYPE,
) -> Vec<ResourceRecord<'static>> {
    let Some(entry) = zone.get(name) else { return Vec::new() };
    let record = |data| ResourceRecord::new(owned(name), CLASS::IN, 1, data);
    match asked {
        QTYPE::TYPE(TYPE::SRV) => {
            let services = entry.services.iter();
            services
                .map(|(priority, weight, port, target)| {
                    record(RData::SRV(SRV {
                        priority: *priority,
                        weight: *weight,
                        port: *port,
                        target: owned(target),
                    }))
                })
                .collect()
        }
        QTYPE::TYPE(wanted @ (TYPE::A | TYPE::AAAA)) => entry
            .addresses
            .iter()
            .filter(|ip| ip.is_ipv4() == (wanted == TYPE::A))
            .map(|ip| record(address(*ip)))
            .collect(),
        _ => Vec::new(),
    }
}

/// The addresses of the targets of SRV records, for the additional section. Names that are not
/// answered with records now are left out.
fn targets(
    zone: &HashMap<String, Entry>,
    services: &[ResourceRecord],
) -> Vec<ResourceRecord<'static>> {
    let mut additional = Vec::new();
    for service in services {
        let RData::SRV(service) = &service.rdata else { continue };
        let target = service.target.to_string();
        let Some(entry) = zone.get(&target) else { continue };
        if !matches!(entry.manner, Manner::InOrder) {
            continue;
        }
        for ip in &entry.addresses {
            let record = ResourceRecord::new(owned(&target), CLASS::IN, 1, address(*ip));
            if !additional.contains(&record) {
                additional.push(record);
            }
        }
    }
    additional
}

fn address(ip: IpAddr) -> RData<'static> {
    match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

fn owned(name: &str) -> Name<'static> {
    Name::new(name).unwrap().into_owned()
}

#[test]
fn the_name_server_of_the_tests_answers_as_it_is_told() {
    use crate::harness::machine::in_own_network;
    if !in_own_network("the_name_server_of_the_tests_answers_as_it_is_told", &setup()) {
        return;
    }
    let names = NameServer::start();
    let ask = |name: &str, wanted: TYPE| {
        let mut packet = Packet::new_query(7);
        let wanted = QTYPE::TYPE(wanted);
        packet.questions.push(Question::new(owned(name), wanted, CLASS::IN.into(), false));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&packet.build_bytes_vec().unwrap(), PLACE).unwrap();
        socket
    };
    let heard = |socket: &UdpSocket| {
        let mut bytes = vec![0; SMALL];
        let length = socket.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    };
    let one = |name: &str| {
        let bytes = heard(&ask(name, TYPE::A));
        let packet = Packet::parse(&bytes).unwrap();
        let first = packet.answers.first().map(|record| match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address),
            other => panic!("{other:?}"),
        });
        (packet.rcode(), first)
    };
    let both = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    names.addresses("a.test", both);
    assert_eq!([one("a.test"), one("a.test")], [(RCODE::NoError, Some(both[0])); 2]);
    names.answers("a.test", Manner::InTurns);
    assert_ne!(one("a.test").1, one("a.test").1);
    names.answers("a.test", Manner::NoSuchName);
    assert_eq!(one("a.test"), (RCODE::NameError, None));
    names.answers("a.test", Manner::Failure);
    assert_eq!(one("a.test"), (RCODE::ServerFailure, None));
    names.answers("a.test", Manner::Garbage);
    assert!(Packet::parse(&heard(&ask("a.test", TYPE::A))).is_err());

    let gate = Gate::closed();
    names.answers("a.test", Manner::Late(gate.clone()));
    let before = names.asked("a.test");
    let late = ask("a.test", TYPE::A);
    eventually("it was asked", || names.asked("a.test") > before);
    names.answers("a.test", Manner::Silence);
    late.set_nonblocking(true).unwrap();
    assert!(late.recv(&mut [0; SMALL]).is_err());
    gate.open();
    late.set_nonblocking(false).unwrap();
    assert!(Packet::parse(&heard(&late)).is_ok_and(|packet| packet.answers.len() == 2));

    names.answers("a.test", Manner::InOrder);
    let service = Srv { priority: 1, weight: 2, port: 3, target: "a.test" };
    names.services("_s._tcp.test", &[service]);
    let bytes = heard(&ask("_s._tcp.test", TYPE::SRV));
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.answers.len(), packet.additional_records.len()), (1, 2));
}
