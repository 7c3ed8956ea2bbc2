//! What a worker counts of the connections to each server, and of clients that it refuses or
//! forgets.

use std::net::Shutdown;

use pen_config::proxy::Senders;
use pen_ipc::stats::Counters;
use pen_table::{Durations, FailureClass, ServerStatistics};

use crate::relay::connection::endpoint::reset_on_close;
use crate::relay::tests::*;

/// The row of the emergency server.
const EMERGENCY: u32 = 4;

fn counters(rig: &mut Rig) -> Counters {
    rig.send(&ToWorker::Report { serial: 1 }, None);
    match rig.answer() {
        FromWorker::Report(page) => *page.counters,
        other => panic!("{other:?}"),
    }
}

/// Waits until the counters meet a condition.
fn counters_until(rig: &mut Rig, wanted: impl Fn(&Counters) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(&counters(rig)) {
        assert!(Instant::now() < deadline, "{:?}", counters(rig));
        std::thread::yield_now();
    }
}

/// Waits until no connection is open.
fn all_ended(rig: &mut Rig) {
    rig.report_until(|report| report.is_empty());
}

fn count(durations: &Durations) -> u64 {
    durations.buckets.iter().sum()
}

/// Waits until the worker has counted what it did: it passes bytes on before it counts them, and
/// answers after both.
fn all_counted(rig: &mut Rig) {
    rig.report();
}

/// Connections that reached a server, connects that succeeded, connections that ended.
fn counts(rig: &Rig, row: u32) -> (u64, u64, u64) {
    let ServerStatistics { reached, connect, length, .. } = rig.table.server_statistics(row);
    (reached, count(&connect), count(&length))
}

/// A server that refuses.
fn closed() -> Option<Server> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Some(at(listener.local_addr().unwrap()))
}

#[test]
fn times_are_between_those_that_the_client_and_the_server_see() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let [mut least, mut most_connect, mut most] = [Duration::ZERO; 3];
    for _ in 0..3 {
        let begin = Instant::now();
        let mut client = rig.client();
        client.write_all(b"?").unwrap();
        let mut server = backend.accept();
        assert_eq!(read(&mut server, 1), b"?");
        most_connect += begin.elapsed();
        server.write_all(b"!").unwrap();
        assert_eq!(read(&mut client, 1), b"!");
        let lives = Instant::now();
        all_counted(&mut rig);
        assert_eq!(counts(&rig, 0).0, counts(&rig, 0).2 + 1, "it has not ended");
        least += lives.elapsed();
        drop((client, server));
        all_ended(&mut rig);
        most += begin.elapsed();
    }
    let ServerStatistics { reached, connect, length, failovers, failures } =
        rig.table.server_statistics(0);
    assert_eq!((reached, count(&connect), count(&length)), (3, 3, 3));
    let (connects, lengths) =
        (Duration::from_micros(connect.sum), Duration::from_micros(length.sum));
    assert!(!connects.is_zero() && connects <= most_connect, "{connects:?} of {most_connect:?}");
    // Each is rounded down to a microsecond.
    let least = least.saturating_sub(Duration::from_micros(3));
    assert!((least..=most).contains(&lengths), "{lengths:?}, and not {least:?} to {most:?}");
    assert_eq!((failovers, failures), (0, [0; 4]));
    assert_eq!(rig.table.server_statistics(1), ServerStatistics::default());
}

#[test]
fn a_connection_is_counted_once_however_it_ends() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    // The client first, the server first, a reset of either.
    for end in 0..4 {
        let (client, server) = connected(&rig, &backend);
        let reset = |stream: TcpStream| reset_on_close(&OwnedFd::from(stream));
        match end {
            0 => {
                drop(client);
                assert_eq!(end_of(&mut { server }), (vec![], false));
            }
            1 => {
                drop(server);
                assert_eq!(end_of(&mut { client }), (vec![], false));
            }
            2 => {
                reset(client);
                assert_eq!(end_of(&mut { server }), (vec![], true));
            }
            _ => {
                reset(server);
                assert_eq!(end_of(&mut { client }), (vec![], true));
            }
        }
        all_ended(&mut rig);
        assert_eq!(counts(&rig, 0), (end + 1, end + 1, end + 1));
    }
    // An operator, and the end of the worker.
    let (_client, _server) = connected(&rig, &backend);
    rig.send(&LastingToWorker::Close { number: 0, before: u64::MAX }.into(), None);
    all_ended(&mut rig);
    assert_eq!(counts(&rig, 0), (5, 5, 5));
    let (_client, _server) = connected(&rig, &backend);
    rig.send(&LastingToWorker::Stop.into(), None);
    assert_eq!(rig.wait_for_end(), 0);
    assert_eq!(counts(&rig, 0), (6, 6, 6));
}

#[test]
fn what_a_server_did_does_not_count_for_the_next_one_under_its_number() {
    let (before, after) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([before.definition()]));
    let (mut client, mut server) = connected(&rig, &before);
    rig.apply(|settings| {
        settings.servers[0] = after.definition().map(|server| Server { epoch: 1, ..server });
    });
    rig.table.reset_server(0);
    server.write_all(b"more").unwrap();
    assert_eq!(read(&mut client, 4), b"more");
    client.write_all(b"yes").unwrap();
    assert_eq!(read(&mut server, 3), b"yes");
    all_counted(&mut rig);
    let none = pen_table::Traffic::default();
    assert_eq!((rig.table.server_traffic(0), rig.table.server_totals(0).connections), (none, 1));
    let others = connected(&rig, &after);
    assert_eq!(rig.table.server_totals(0).connections, 2, "limits count both");
    drop((client, server));
    rig.report_until(|report| report.len() == 1);
    assert_eq!((counts(&rig, 0), rig.table.server_totals(0).connections), ((1, 1, 0), 1));
    drop(others);
    all_ended(&mut rig);
    assert_eq!(counts(&rig, 0), (1, 1, 1));
    // Another limit or another alternative is no other server.
    let (mut client, mut server) = connected(&rig, &after);
    rig.apply(|settings| {
        let server = settings.servers[0].as_mut().unwrap();
        (server.soft, server.alternatives) = (9, vec![before.definition().unwrap().address]);
    });
    // What `connected` passed on is counted: the settings were applied after it.
    let received = rig.table.server_traffic(0).received;
    server.write_all(b"more").unwrap();
    assert_eq!(read(&mut client, 4), b"more");
    all_counted(&mut rig);
    assert_eq!(rig.table.server_traffic(0).received, received + 4);
}

#[test]
fn failures_count_by_class_and_the_client_is_passed_on() {
    let backend = Backend::new();
    let nowhere = |path: &str| {
        let address = Address::Unix(path.into());
        Some(Server { address, ..backend.definition().unwrap() })
    };
    let (file, mut deaf) = (tempfile::NamedTempFile::new().unwrap(), None);
    let failing = [
        (closed(), FailureClass::Refused),
        (nowhere("/nonexistent/pen"), FailureClass::Refused),
        // It is no directory.
        (nowhere(&format!("{}/pen", file.path().display())), FailureClass::Other),
        (deaf.insert(Deaf::new()).definition(), FailureClass::Timeout),
    ];
    for (server, class) in failing {
        let emergency = backend.definition();
        let mut rig = Rig::start(Settings { emergency, connect_timeout: 1, ..settings([server]) });
        let (client, server) = connected(&rig, &backend);
        let ServerStatistics { reached, failovers, failures, connect, length } =
            rig.table.server_statistics(0);
        assert_eq!((reached, count(&connect)), (0, 0));
        let expected = FailureClass::ALL.map(|each| u64::from(each == class));
        assert_eq!((failovers, failures), (1, expected), "{class:?}");
        let counters = counters(&mut rig);
        assert_eq!((counters.failovers, counters.failed_connects), (1, 1));
        drop((client, server));
        all_ended(&mut rig);
        assert_eq!((count(&length), counts(&rig, EMERGENCY)), (0, (1, 1, 1)));
    }
}

#[test]
fn a_client_that_no_server_can_take_is_not_passed_on() {
    let mut rig = Rig::start(settings([closed()]));
    assert_eq!(end_of(&mut rig.client()).0, b"");
    all_ended(&mut rig);
    let statistics = rig.table.server_statistics(0);
    assert_eq!((statistics.failovers, statistics.failures(FailureClass::Refused)), (0, 1));
    assert_eq!(counts(&rig, 0), (0, 0, 0));
}

#[test]
fn each_address_that_fails_counts() {
    let backend = Backend::new();
    let addresses = [closed(), closed(), backend.definition()].map(|server| server.unwrap());
    let [first, others @ ..] = addresses.map(|server| server.address);
    let server = Server { address: first, ..backend.definition().unwrap() };
    let server = Server { alternatives: others.into(), ..server };
    let mut rig = Rig::start(settings([Some(server)]));
    let (_client, _server) = connected(&rig, &backend);
    all_counted(&mut rig);
    let statistics = rig.table.server_statistics(0);
    assert_eq!((statistics.failovers, statistics.failures(FailureClass::Refused)), (0, 2));
    assert_eq!(counts(&rig, 0), (1, 1, 0));
}

#[test]
fn an_idler_tells_of_the_server_and_is_no_client() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { idlers: 1, ..settings([backend.definition()]) });
    let _idler = backend.accept();
    rig.report_until(|report| report.iter().any(|connection| connection.state == 2));
    assert_eq!(counts(&rig, 0), (0, 1, 0));
    rig.apply(|settings| settings.idlers = 0);
    all_ended(&mut rig);
    assert_eq!(counts(&rig, 0), (0, 1, 0));
}

/// A client that a trusted sender names by its last number.
fn named_client(rig: &Rig, last: u32) -> TcpStream {
    let mut sender = rig.client();
    let header = format!("PROXY TCP4 192.0.2.{last} 192.0.2.200 1000 80\r\n");
    sender.write_all(header.as_bytes()).unwrap();
    sender
}

#[test]
fn clients_that_give_their_slots_to_others_are_counted() {
    let proxy_in = Senders::read("127.0.0.0/8").unwrap();
    let mut rig = Rig::start(Settings { dummy: true, proxy_in, ..settings([]) });
    let mut accepted = 0;
    let mut come = |rig: &mut Rig, clients: std::ops::Range<u32>| {
        for last in clients {
            drop(named_client(rig, last));
            accepted += 1;
            counters_until(rig, |counters| counters.accepted == accepted && counters.open() == 0);
        }
        (counters(rig).evictions, rig.table.clients().count())
    };
    assert_eq!(come(&mut rig, 0..64), (0, 64), "the table is full");
    assert_eq!(come(&mut rig, 32..64), (0, 64), "they are known");
    assert_eq!(come(&mut rig, 64..67), (3, 64));
}

#[test]
fn senders_without_a_valid_header_are_counted() {
    let proxy_in = Senders::read("127.0.0.1").unwrap();
    let mut rig = Rig::start(Settings { dummy: true, proxy_in, ..settings([]) });
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4"] {
        let mut sender = rig.client();
        sender.write_all(bytes).unwrap();
        // The worker may have closed it by then.
        let _ = sender.shutdown(Shutdown::Write);
        let _ = end_of(&mut sender);
    }
    // A monitor that only looks whether pen is there.
    drop(rig.client());
    counters_until(&mut rig, |counters| counters.accepted == 3 && counters.open() == 0);
    assert_eq!(counters(&mut rig).bad_senders, 2);
}

#[test]
fn clients_without_a_place_are_counted_when_the_listener_moves() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { connections_max: 1, ..settings([backend.definition()]) });
    let (_client, _server) = connected(&rig, &backend);
    let mut waiting = [rig.client(), rig.client()];
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    assert_eq!(counters(&mut rig).over_limit, 0, "they wait");
    rig.send(&ToWorker::Listen, Some(&tcp.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    assert!(waiting.iter_mut().all(|client| end_of(client).1));
    assert_eq!(counters(&mut rig).over_limit, 2);
}
