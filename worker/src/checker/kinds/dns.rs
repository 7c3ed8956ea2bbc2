//! `dns`: an A query over TCP (RFC 1035, RFC 7766). A server that answers without an error is well,
//! whether or not the name has an address.

use pen_ipc::checks::{CheckFault, FaultClass};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

use super::dialogue::{Dialogue, Farewell, Reading, Step, unexpected};

/// Nobody else can answer in our connection, so the id need not be a secret.
const ID: u16 = 0x7065;

/// Bytes of a header, and fewest bytes of a question and of a record.
const HEADER: usize = 12;
const SMALLEST_QUESTION: usize = 5;
const SMALLEST_RECORD: usize = 11;

/// The dialogue.
pub(super) struct Dns {
    name: String,
}

impl Dns {
    pub(super) fn new(name: &str) -> Dns {
        Dns { name: name.trim_end_matches('.').into() }
    }

    /// The query, with the length before it.
    fn query(&self) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(ID);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(self.question()?);
        let message = packet.build_bytes_vec().ok()?;
        let length = u16::try_from(message.len()).ok()?;
        Some([&length.to_be_bytes()[..], &message].concat())
    }

    fn question(&self) -> Option<Question<'_>> {
        let name = Name::new(&self.name).ok()?;
        Some(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false))
    }

    /// Whether the answer repeats our question. Some errors are told without it.
    fn is_ours(&self, packet: &Packet) -> bool {
        match packet.questions.as_slice() {
            [] => packet.rcode() != simple_dns::RCODE::NoError,
            [theirs] => self.question().is_some_and(|ours| {
                let same = ours.qname.to_string().eq_ignore_ascii_case(&theirs.qname.to_string());
                same && theirs.qtype == ours.qtype && theirs.qclass == ours.qclass
            }),
            [_, _, ..] => false,
        }
    }
}

impl Dialogue for Dns {
    fn begin(&mut self) -> Step {
        match self.query() {
            Some(query) => Step::Send(query),
            // The settings have valid names only.
            None => Step::Fail(CheckFault::told(FaultClass::Other, 0, "name cannot be asked for")),
        }
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        let Some(([high, low], rest)) = input.split_first_chunk() else { return Reading::More };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // The id shows early that the bytes are no answer.
        let id = ID.to_be_bytes();
        let seen = rest.len().min(id.len());
        if length < HEADER || rest[..seen] != id[..seen] {
            return Reading::Fail(unexpected("a DNS answer", input));
        }
        let Some(message) = rest.get(..length) else { return Reading::More };
        let packet = Some(message).filter(|message| is_plausible(message));
        let packet = packet.and_then(|message| Packet::parse(message).ok());
        let answer = packet.filter(|p| p.has_flags(PacketFlag::RESPONSE) && self.is_ours(p));
        match answer.map(|_| u16::from(message[3] & 15)) {
            Some(0) => Reading::Done(Farewell::Close(Vec::new())),
            Some(code) => Reading::Fail(rcode(code)),
            None => Reading::Fail(unexpected("a DNS answer", input)),
        }
    }
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

/// The fault of an error, by its name (RFC 6895).
fn rcode(code: u16) -> CheckFault {
    let name = match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => return CheckFault::numbered(FaultClass::Code, code),
    };
    CheckFault::told(FaultClass::Code, code, name)
}
