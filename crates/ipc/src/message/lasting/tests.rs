//! The bytes of the lasting messages, and what becomes of those of another release.

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::*;
use crate::message::*;
use crate::refusal::Refusal;
use crate::server_tls::TlsFault;

const CLIENT: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1];

fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = vec![0; codec::LIMIT];
    let length = codec::encode(message, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

fn hex<T: Serialize>(message: &T) -> String {
    encoded(message).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Each message has the bytes of its line, and the bytes mean that message.
fn are<T: Serialize + DeserializeOwned + Debug + PartialEq>(lines: &[(&str, T)]) {
    for (bytes, message) in lines {
        assert_eq!(hex(message), *bytes, "{message:?}");
        assert_eq!(&codec::decode::<T>(&bytes_of(bytes)).unwrap(), message);
    }
}

/// An enum has this many variants.
fn count<T: DeserializeOwned + Debug>(count: usize) {
    let why = codec::decode::<T>(&[250]).unwrap_err().to_string();
    assert!(why.contains(&format!("0 <= i < {count}")), "{why}: its last ones are not pinned");
}

fn close_server(server: i32, why: ClosedServer) -> LastingToWorker {
    LastingToWorker::CloseServer { server, mark: 300, before: 1 << 40, why }
}

fn limits(max: u32, rate: Option<(u32, u32)>, unlimited: Option<u8>) -> ToWorker {
    LastingToWorker::LimitClients(ClientLimits { max, rate, net: (32, 64), unlimited }).into()
}

fn event(event: Event) -> FromWorker {
    LastingFromWorker::Event(event).into()
}

// A line of the following tables never changes and never goes. What is added gets lines at the end.
// Another release has the same lines: a change here is an upgrade that loses clients.

#[test]
fn the_bytes_of_each_message_to_a_worker_stay() {
    use ConnectionLogFormat::{Haproxy, HaproxyHttp, Json, Text};
    use ConnectionLogKind::{File, Network, Syslog};
    let log = |to, format| LastingToWorker::ConnectionLog { to, format }.into();
    count::<LastingToWorker>(14);
    count::<Admission>(2);
    count::<ClosedServer>(2);
    count::<ConnectionLogKind>(3);
    count::<ConnectionLogFormat>(4);
    are::<ToWorker>(&[
        ("0000", LastingToWorker::Drain.into()),
        ("0001", LastingToWorker::Stop.into()),
        ("0002fb2c01", LastingToWorker::Ping { serial: 300 }.into()),
        ("000300", LastingToWorker::Log { network: false }.into()),
        ("000301", LastingToWorker::Log { network: true }.into()),
        ("0004", LastingToWorker::NoLog.into()),
        ("000507fd0000000000010000", LastingToWorker::Close { number: 7, before: 1 << 40 }.into()),
        ("0006", LastingToWorker::Freed.into()),
        ("0007", LastingToWorker::Republish.into()),
        ("00080000", log(File, Text)),
        ("00080101", log(Network, Json)),
        ("00080202", log(Syslog, Haproxy)),
        ("00080003", log(File, HaproxyHttp)),
        ("0009", LastingToWorker::NoConnectionLog.into()),
        ("000a04fb2c01fd000000000001000000", close_server(2, ClosedServer::Down).into()),
        ("000a01fb2c01fd000000000001000001", close_server(-1, ClosedServer::Drained).into()),
        ("000b00", LastingToWorker::Admit(Admission::Open).into()),
        ("000b01", LastingToWorker::Admit(Admission::Paused).into()),
        (
            "000cfb2c0104fb2c0106fb2d01050afd0000000000010000",
            LastingToWorker::Rebalance(Rebalance {
                serial: 300,
                from: 2,
                from_mark: 300,
                to: 3,
                to_mark: 301,
                most: 5,
                silent: 10,
                until: 1 << 40,
            })
            .into(),
        ),
        ("000d0000204000", limits(0, None, None)),
        ("000dfb2c0101fb2d010a20400103", limits(300, Some((301, 10)), Some(3))),
    ]);
}

#[test]
fn the_bytes_of_each_message_of_a_worker_stay() {
    count::<LastingFromWorker>(4);
    are::<FromWorker>(&[
        ("00010a", event(Event::LockStuck)),
        ("0002fb2c01", LastingFromWorker::Pong { serial: 300 }.into()),
        ("0003fb2c0107", LastingFromWorker::Rebalanced { serial: 300, closed: 7 }.into()),
    ]);
}

#[test]
fn the_bytes_of_each_event_stay() {
    count::<Event>(18);
    let (refused, timeout) = (ConnectFailure::Errno(111), ConnectFailure::Timeout);
    let certificate = PeerCertificate { subject: "CN=x".into(), serial: "0a".into() };
    are::<FromWorker>(&[
        ("000100041e00de", event(Event::Blacklisted { server: 2, seconds: 30, reason: refused })),
        ("000100010001", event(Event::Blacklisted { server: -1, seconds: 0, reason: timeout })),
        (
            "00010104000100de",
            event(Event::AddressChanged { server: 2, from: 0, to: 1, reason: refused }),
        ),
        ("000102fb5802", event(Event::BackInUse { server: 300 })),
        ("00010304", event(Event::Reached { server: 2 })),
        (
            "000104040216",
            event(Event::PassedOver { server: 2, obstacle: Obstacle::Backlog, errno: 11 }),
        ),
        ("000105", event(Event::ConnectionsFull)),
        ("000106fb2c01", event(Event::Unserved { clients: 300 })),
        ("0001070130", event(Event::Shortage { during: ShortageDuring::Connect, errno: 24 })),
        ("0001080538", event(Event::LogLost { lines: 5, errno: 28 })),
        (
            "00010900000000000000000000ffffc0000201010003",
            event(Event::HandshakeFailed {
                client: CLIENT,
                reason: HandshakeFailure::Timeout,
                certificate: None,
                others: 3,
            }),
        ),
        (
            "00010900000000000000000000ffffc000020104050104434e3d7802306100",
            event(Event::HandshakeFailed {
                client: CLIENT,
                reason: HandshakeFailure::BadCertificate(CertificateFault::Purpose),
                certificate: Some(certificate),
                others: 0,
            }),
        ),
        ("00010a", event(Event::LockStuck)),
        (
            "00010b00000000000000000000ffffc00002010201",
            event(Event::BadSender { sender: CLIENT, fault: SenderFault::Late, others: 1 }),
        ),
        ("00010c02fc70110100", event(Event::Crowded { clients: 2, kept: 70_000 })),
        (
            "00010d00000000000000000000ffffc00002011301",
            event(Event::RequestRefused { client: CLIENT, reason: Refusal::Late, others: 1 }),
        ),
        ("00010efb2c01", event(Event::TableRebuilt { kept: 300 })),
        ("00010f0538", event(Event::ConnectionLogLost { lines: 5, errno: 28 })),
        (
            "00011000000000000000000000ffffc000020140001401",
            event(Event::BeyondLimit {
                client: CLIENT,
                length: 64,
                limit: PerClientLimit::Connections { most: 20 },
                others: 1,
            }),
        ),
        ("0001110500", event(Event::LimitsUnchecked { clients: 5, why: LimitsFault::NoPlace })),
    ]);
}

#[test]
fn the_bytes_of_each_cause_stay() {
    count::<ConnectFailure>(3);
    are(&[
        ("00de", ConnectFailure::Errno(111)),
        ("01", ConnectFailure::Timeout),
        ("0208", ConnectFailure::Tls(TlsFault::WrongName)),
        ("020b74", ConnectFailure::Tls(TlsFault::Alert(116))),
    ]);
    count::<TlsFault>(15);
    count::<PerClientLimit>(2);
    are(&[
        ("0014", PerClientLimit::Connections { most: 20 }),
        ("01640a", PerClientLimit::Rate { connections: 100, seconds: 10 }),
    ]);
    count::<SenderFault>(3);
    are(&[
        ("00", SenderFault::Malformed),
        ("01", SenderFault::Unfinished),
        ("02", SenderFault::Late),
    ]);
    count::<Obstacle>(5);
    are(&[
        ("00", Obstacle::Ports),
        ("01", Obstacle::Source),
        ("02", Obstacle::Backlog),
        ("03", Obstacle::Pending),
        ("04", Obstacle::Limit),
    ]);
    count::<ShortageDuring>(3);
    are(&[
        ("00", ShortageDuring::Accept),
        ("01", ShortageDuring::Connect),
        ("02", ShortageDuring::Watch),
    ]);
    count::<HandshakeFailure>(9);
    are(&[
        ("00", HandshakeFailure::NotTls),
        ("01", HandshakeFailure::Timeout),
        ("02", HandshakeFailure::NothingInCommon),
        ("03", HandshakeFailure::NoCertificate),
        ("0400", HandshakeFailure::BadCertificate(CertificateFault::Unreadable)),
        ("05", HandshakeFailure::CertificateTime),
        ("06", HandshakeFailure::UnknownAuthority),
        ("0730", HandshakeFailure::Alert(48)),
        ("08", HandshakeFailure::Protocol),
    ]);
    count::<CertificateFault>(11);
    are(&[
        ("00", CertificateFault::Unreadable),
        ("0103322e35", CertificateFault::CriticalExtension("2.5".into())),
        ("02", CertificateFault::NetscapeType),
        ("03", CertificateFault::KeyUsage),
        ("04", CertificateFault::Authority),
        ("05", CertificateFault::Purpose),
        ("06", CertificateFault::Signature),
        ("07", CertificateFault::Algorithm),
        ("08", CertificateFault::Issuer),
        ("0901", CertificateFault::IssuerVersion(1)),
        ("0a", CertificateFault::Constraint),
    ]);
    count::<Refusal>(20);
    are(&[
        ("00", Refusal::NotHttp),
        ("01", Refusal::Version),
        ("02", Refusal::Method),
        ("03", Refusal::Target),
        ("04", Refusal::Fields),
        ("05", Refusal::LineEnds),
        ("06", Refusal::TooLong),
        ("07", Refusal::Host),
        ("08", Refusal::Length),
        ("09", Refusal::TooLarge),
        ("0a", Refusal::Coding),
        ("0b", Refusal::UnknownCoding),
        ("0c", Refusal::Expect),
        ("0d", Refusal::Connection),
        ("0e", Refusal::Body),
        ("0f", Refusal::Chunk),
        ("10", Refusal::Trailer),
        ("11", Refusal::Switch),
        ("12", Refusal::TooMany),
        ("13", Refusal::Late),
    ]);
}

#[test]
fn the_bytes_of_the_last_messages_to_a_control_process_stay() {
    let reply = |outcome| ToControl::Reply { ticket: 300, outcome, text: "ok".into() };
    count::<Outcome>(2);
    are(&[
        ("00fb2c0100026f6b", reply(Outcome::Done)),
        ("00fb2c0101026f6b", reply(Outcome::Refused)),
        ("01", ToControl::Stop),
        ("02", ToControl::Leave),
    ]);
}

#[test]
fn the_bytes_of_the_last_messages_to_a_page_process_stay() {
    are(&[("00", ToPage::Stop), ("01", ToPage::Leave)]);
}

#[test]
fn the_bytes_of_counters_stay() {
    // A counter that is added later is 0 in the earlier lines.
    let first = Counters {
        accepted: 1,
        closed: 2,
        unserved: 3,
        refused: 4,
        failed_connects: 5,
        failovers: 6,
        pauses: 7,
        shortages: 8,
        log_lines: 9,
        log_lost: 10,
        lock_timeouts: 11,
        events_dropped: 12,
        handshakes: 13,
        resumed: 14,
        failed_handshakes: 15,
        crowded: 16,
        requests_refused: (1..=20).collect(),
        ..Counters::default()
    };
    let second = Counters { connection_log_lines: 17, connection_log_lost: 18, ..first };
    let third = Counters {
        evictions: 19,
        bad_senders: 20,
        over_limit: 21,
        handshakes_by_kind: Handshakes([22, 23, 24, 25]),
        handshake_failures: HandshakeFailures([26, 27, 28, 29, 30, 31, 32, 33, 34]),
        ..second
    };
    let fourth = Counters { held: 35, held_ended: 36, ..third };
    let fifth = Counters {
        beyond_max: 37,
        beyond_rate: 38,
        tarpitted: 39,
        tarpit_ended: 40,
        limits_unchecked: 41,
        ..fourth
    };
    let sixth = Counters {
        server_handshakes: Handshakes([42, 43, 44, 45]),
        server_tls_faults: TlsFaults(std::array::from_fn(|place| 46 + place as u64)),
        ..fifth
    };
    let lines = [
        ("0000100102030405060708090a0b0c0d0e0f10140102030405060708090a0b0c0d0e0f1011121314", first),
        (
            "0000120102030405060708090a0b0c0d0e0f101112140102030405060708090a0b0c0d0e0f1011121314",
            second,
        ),
        (
            "0000220102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122\
             140102030405060708090a0b0c0d0e0f1011121314",
            third,
        ),
        (
            "0000240102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324\
             140102030405060708090a0b0c0d0e0f1011121314",
            fourth,
        ),
        (
            "0000290102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829\
             140102030405060708090a0b0c0d0e0f1011121314",
            fifth,
        ),
        (
            "00003c0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829\
             2a2b2c2d2e2f303132333435363738393a3b3c\
             140102030405060708090a0b0c0d0e0f1011121314",
            sixth,
        ),
    ];
    for (bytes, counters) in lines {
        let message = LastingFromWorker::from(counters);
        assert_eq!(
            FromOldWorker::from_bytes(&bytes_of(bytes)).unwrap(),
            FromOldWorker::Lasting(message.into())
        );
    }
}

// Up to here.

#[test]
fn counters_of_another_release_are_taken_as_far_as_they_are_known() {
    let read = |counters: &[u64], refusals: &[u64]| {
        let lists = CounterLists { counters: counters.into(), refusals: refusals.into() };
        codec::decode::<LastingCounters>(&encoded(&lists)).unwrap().0
    };
    assert_eq!(read(&[], &[]), Counters::default());
    let earlier = read(&[9, 8], &[7]);
    assert_eq!(earlier.requests_refused.of(Refusal::NotHttp), 7);
    let requests_refused = earlier.requests_refused;
    assert_eq!(
        earlier,
        Counters { accepted: 9, closed: 8, requests_refused, ..Counters::default() }
    );
    let later: Vec<u64> = (1..100).collect();
    let all = CounterLists::from(LastingCounters(read(&later, &later)));
    assert!(later.starts_with(&all.counters) && later.starts_with(&all.refusals));
    assert!(all.counters.len() >= 34 && all.refusals.len() == Refusal::ALL.len());
}

#[test]
fn both_ends_of_another_release_mean_the_same_as_those_of_one() {
    let message = LastingToWorker::Close { number: 7, before: 9 };
    assert_eq!(encoded(&ToOldWorker::Lasting(message)), encoded(&ToWorker::Lasting(message)));
    let message = LastingFromWorker::from(Counters { closed: 3, ..Counters::default() });
    assert_eq!(
        FromOldWorker::from_bytes(&encoded(&FromWorker::Lasting(message.clone()))).unwrap(),
        FromOldWorker::Lasting(message.into())
    );
}

#[test]
fn a_message_of_another_release_is_skipped() {
    let page =
        ReportPage { serial: 1, last: true, counters: Box::default(), connections: Vec::new() };
    let later_event = [0, 1, 200, 1];
    let later_message = [0, 200, 9, 9];
    let longer = [&encoded(&event(Event::LockStuck))[..], b"x"].concat();
    for bytes in [
        &encoded(&FromWorker::Report(page))[..],
        &encoded(&FromWorker::NoSyslog),
        &later_event,
        &later_message,
        &longer,
        &[255; 100],
        &[0],
        &[],
    ] {
        assert_eq!(FromOldWorker::from_bytes(bytes).unwrap(), FromOldWorker::Unknown, "{bytes:?}");
        assert_eq!(FromOldPort::from_bytes(bytes).unwrap(), FromOldPort);
    }
}
