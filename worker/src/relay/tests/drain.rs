//! A worker that takes no more clients, and one that takes none yet.

use std::io::Cursor;
use std::net::Shutdown;

use pen_ipc::start::{RequestLog, TlsStart};
use pen_ipc::stats::Counters;
use pen_ipc::tls_files::TICKET_SECRET;

use crate::clock;
use crate::relay::tests::*;
use crate::tls::session_tests;

const DRAIN: ToWorker = ToWorker::Lasting(LastingToWorker::Drain);

/// A worker whose listener the test has too, as the supervisor and the new workers do.
fn start(workers: u32, settings: Settings, begins: Begins) -> (Rig, TcpListener) {
    let mut shared = None;
    let rig = Rig::start_with(workers, settings, |start| {
        start.begins = begins;
        shared = Some(start.listener.try_clone().unwrap());
    });
    (rig, shared.unwrap().into())
}

/// Takes the client that waits longest.
fn take(listener: &TcpListener) -> TcpStream {
    wait_readable(listener);
    listener.accept().unwrap().0
}

fn passes(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").unwrap();
    assert_eq!(read(to, 1), b"x");
}

/// The exit status, and the last counters.
fn end(rig: &mut Rig) -> (i32, Counters) {
    let (status, mut last) = (rig.wait_for_end(), Counters::default());
    loop {
        match rig.channel.receive().unwrap() {
            Received::Message(FromWorker::Lasting(LastingFromWorker::Counters(counters)), _) => {
                last = counters.0;
            }
            Received::Message(_, _) => {}
            Received::Closed | Received::Empty => return (status, last),
        }
    }
}

fn is_written(eventfd: &OwnedFd) -> bool {
    wait_readable(eventfd);
    rustix::io::read(eventfd, &mut [0; 8]) == Ok(8)
}

#[test]
fn a_drained_worker_serves_whom_it_has_takes_nobody_and_ends_with_the_last() {
    let backend = Backend::new();
    let (mut rig, listener) = start(2, settings([backend.definition()]), Begins::AtOnce);
    let (mut whole, mut whole_server) = connected(&rig, &backend);
    let (half, mut half_server) = connected(&rig, &backend);
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut half_server), (vec![], false));
    let sibling = rig.table.worker_table(1);
    rig.report();
    assert_eq!(sibling.fewest_open(), Some(2));
    rig.send(&DRAIN, None);
    assert_eq!(rig.report().len(), 2);
    assert_eq!(sibling.fewest_open(), None, "it takes no clients");
    let mut waits = rig.client();
    waits.write_all(b"?").unwrap();
    // Not even when another worker says that clients wait.
    rustix::io::write(&rig.freed, &1u64.to_ne_bytes()).unwrap();
    rig.send(&LastingToWorker::Freed.into(), None);
    rig.send(&LastingToWorker::Republish.into(), None);
    passes(&mut whole, &mut whole_server);
    passes(&mut whole_server, &mut whole);
    assert_eq!(rig.report().len(), 2);
    assert_eq!(read(&mut patient(take(&listener)), 1), b"?");
    drop((half, half_server));
    rig.report_until(|report| report.len() == 1);
    passes(&mut whole, &mut whole_server);
    drop(whole);
    assert_eq!(end_of(&mut whole_server), (vec![], false));
    drop(whole_server);
    let (status, counters) = end(&mut rig);
    assert_eq!((status, counters.accepted, counters.closed), (0, 2, 2));
    assert_eq!((rig.table.connections_open(), rig.table.server_totals(0).connections), (0, 0));
}

#[test]
fn a_drained_worker_is_not_woken_for_clients_in_place_of_the_others() {
    let backend = Backend::new();
    let (mut rig, listener) = start(2, settings([backend.definition()]), Begins::AtOnce);
    let _pair = connected(&rig, &backend);
    rig.send(&DRAIN, None);
    assert_eq!(rig.report().len(), 1);
    assert!(is_written(&rig.freed), "the others look for the clients that wait now");
    // The kernel wakes one watcher of the listener: the first of those that sleep.
    let sibling = sleeping(watching(&listener));
    let _client = rig.client();
    assert_eq!(sibling.join().unwrap(), 1);
    assert_eq!(rig.report().len(), 1);
}

#[test]
fn a_worker_without_connections_ends_at_once_however_often_it_is_told() {
    for orders in [&[DRAIN][..], &[DRAIN, DRAIN], &[DRAIN, ToWorker::Begin]] {
        let (mut rig, listener) = start(1, settings([]), Begins::AtOnce);
        // It may have left by the second.
        orders.iter().for_each(|order| drop(rig.channel.send(order, None)));
        assert_eq!(end(&mut rig), (0, Counters::default()));
        let _client = rig.client();
        take(&listener);
    }
}

#[test]
fn a_drained_worker_can_still_be_stopped() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let (mut client, _server) = connected(&rig, &backend);
    rig.send(&DRAIN, None);
    rig.send(&DRAIN, None);
    rig.send(&LastingToWorker::Stop.into(), None);
    assert_eq!(end_of(&mut client), (vec![], false));
    let (status, counters) = end(&mut rig);
    assert_eq!((status, counters.accepted, counters.closed), (0, 1, 1));
    assert_eq!(rig.table.connections_open(), 0);
}

#[test]
fn a_worker_that_waits_for_a_place_leaves_it_to_the_others() {
    let backend = Backend::new();
    let only = Settings { connections_max: 1, ..settings([backend.definition()]) };
    let (mut rig, listener) = start(2, only, Begins::AtOnce);
    let (other, number) = rig.sibling_with_the_only_place();
    let _client = rig.client();
    rig.wait_until_it_waits(&other);
    rig.send(&DRAIN, None);
    // The kernel may have woken it alone for a free place.
    assert!(is_written(&rig.vacancy));
    assert_eq!(end(&mut rig).0, 0);
    assert!(!other.release_connection(number), "it waits no longer");
    take(&listener);
}

#[test]
fn a_place_that_becomes_free_in_a_drained_worker_wakes_one_that_waits() {
    let backend = Backend::new();
    let only = Settings { connections_max: 1, ..settings([backend.definition()]) };
    for stops in [false, true] {
        let mut rig = Rig::start_among(2, only.clone());
        let pair = connected(&rig, &backend);
        rig.table.worker_table(1).await_connection();
        rig.send(&DRAIN, None);
        assert_eq!(rig.report().len(), 1);
        match stops {
            false => drop(pair),
            true => rig.send(&LastingToWorker::Stop.into(), None),
        }
        assert!(is_written(&rig.vacancy));
        assert_eq!(end(&mut rig).0, 0);
    }
}

#[test]
fn a_listener_that_moved_before_is_closed_too_and_one_that_comes_later_is_not_used() {
    let backend = Backend::new();
    let (mut rig, _shared) = start(1, settings([backend.definition()]), Begins::AtOnce);
    let new = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, copy) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
        (OwnedFd::from(listener), address, copy)
    };
    let pair = connected(&rig, &backend);
    let (before, address, copy) = new();
    rig.send(&ToWorker::Listen, Some(&before));
    rig.send(&DRAIN, None);
    assert_eq!(rig.answer(), FromWorker::Listening);
    let (after, later_address, later_copy) = new();
    rig.send(&ToWorker::Listen, Some(&after));
    assert_eq!(rig.answer(), FromWorker::Listening);
    let _clients =
        [TcpStream::connect(address).unwrap(), TcpStream::connect(later_address).unwrap()];
    assert_eq!(rig.report().len(), 1);
    drop((take(&copy), take(&later_copy)));
    drop((before, copy, after, later_copy));
    // The worker has neither.
    assert!(TcpStream::connect(address).is_err() && TcpStream::connect(later_address).is_err());
    drop(pair);
    assert_eq!(end(&mut rig).0, 0);
}

#[test]
fn a_handshake_under_way_is_finished_and_served() {
    let backend = Backend::new();
    let mut rig = Rig::start_with(1, settings([backend.definition()]), |start| {
        let secrets = (memory(&[1; TICKET_SECRET]), None);
        start.tls = Some(TlsStart { files: session_tests::files(), secrets });
    });
    let (mut tls, mut client) = (session_tests::client(&rustls::version::TLS13), rig.client());
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let (first, rest) = hello.split_at(100);
    client.write_all(first).unwrap();
    rig.report_until(|report| report.len() == 1);
    rig.send(&DRAIN, None);
    assert_eq!(rig.report().len(), 1);
    client.write_all(rest).unwrap();
    while tls.is_handshaking() {
        let mut bytes = [0; 4096];
        let length = client.read(&mut bytes).unwrap();
        assert_ne!(length, 0);
        tls.read_tls(&mut Cursor::new(&bytes[..length])).unwrap();
        tls.process_new_packets().unwrap();
    }
    tls.writer().write_all(b"?").unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut client).unwrap();
    }
    let server = &mut backend.accept();
    assert_eq!(read(server, 1), b"?");
    drop(client);
    assert_eq!(end_of(server), (vec![], true), "the client sent no close_notify");
    let (status, counters) = end(&mut rig);
    assert_eq!((status, counters.handshakes, counters.closed), (0, 1, 1));
}

#[test]
fn a_client_without_a_server_gets_one_the_second_if_the_first_does_not_answer() {
    let (deaf, backend) = (Deaf::new(), Backend::new());
    let both =
        Settings { connect_timeout: 1, ..settings([backend.definition(), deaf.definition()]) };
    let mut rig = Rig::start(both);
    // Round robin begins with server 1.
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    rig.report_until(|report| report.len() == 1);
    rig.send(&DRAIN, None);
    let mut server = backend.accept();
    assert_eq!(read(&mut server, 1), b"?");
    passes(&mut server, &mut client);
    drop((client, server));
    let (status, counters) = end(&mut rig);
    assert_eq!((status, counters.failovers, counters.closed), (0, 1, 1));
}

#[test]
fn a_drained_worker_obeys_and_writes_its_log_to_the_end() {
    let backend = Backend::new();
    let (mut first_log, first) = std::io::pipe().unwrap();
    let mut rig = Rig::start_with(1, settings([backend.definition()]), |start| {
        start.log = Some(RequestLog::File(first.into()));
    });
    let (_closed, mut closed_server) = connected(&rig, &backend);
    let number = rig.report()[0].number;
    let mut last = rig.client();
    rig.report_until(|report| report.len() == 2);
    rig.send(&DRAIN, None);
    rig.send(&LastingToWorker::Ping { serial: 300 }.into(), None);
    assert_eq!(rig.answer(), LastingFromWorker::Pong { serial: 300 }.into());
    rig.send(&LastingToWorker::NoLog.into(), None);
    rig.report();
    let mut text = String::new();
    first_log.read_to_string(&mut text).unwrap();
    assert!(text.ends_with(" ?\n"), "{text}");
    let (mut second_log, second) = std::io::pipe().unwrap();
    rig.send(&LastingToWorker::Log { network: false }.into(), Some(&second.into()));
    let close = LastingToWorker::Close { number, before: clock::precise() };
    rig.send(&close.into(), None);
    assert_eq!(end_of(&mut closed_server), (vec![], true));
    last.write_all(b"the last line\r\n").unwrap();
    drop(last);
    assert_eq!(end_of(&mut backend.accept()).0, b"the last line\r\n");
    let (status, counters) = end(&mut rig);
    assert_eq!((status, counters.log_lines, counters.log_lost), (0, 2, 0));
    text.clear();
    second_log.read_to_string(&mut text).unwrap();
    assert!(text.ends_with(" the last line\n"), "{text}");
}

#[test]
fn a_drained_worker_keeps_its_last_counters_until_the_supervisor_has_room_for_them() {
    let backend = Backend::new();
    let rig = Rig::start(settings([backend.definition()]));
    let (client, server) = connected(&rig, &backend);
    // More answers than the channel holds. The supervisor reads none.
    let queue = |order: ToWorker| while rig.channel.send(&order, None).unwrap() == Sent::Full {};
    (0..1000).for_each(|serial| queue(LastingToWorker::Ping { serial }.into()));
    queue(DRAIN);
    drop((client, server));
    let deadline = Instant::now() + PATIENCE;
    while rig.table.connections_open() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let (mut answers, mut last) = (0, Counters::default());
    loop {
        wait_readable(&rig.channel);
        match rig.channel.receive().unwrap() {
            Received::Message(FromWorker::Lasting(message), _) => match message {
                LastingFromWorker::Pong { serial } => {
                    assert_eq!(serial, answers);
                    answers += 1;
                }
                LastingFromWorker::Counters(counters) => last = counters.0,
                other @ (LastingFromWorker::Event(_) | LastingFromWorker::Rebalanced { .. }) => {
                    panic!("{other:?}")
                }
            },
            Received::Closed => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((answers, last.accepted, last.closed), (1000, 1, 1));
    assert_eq!(rig.status(), 0);
}

#[test]
fn idlers_end_with_the_draining() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { idlers: 2, ..settings([backend.definition()]) });
    let mut idlers = [backend.accept(), backend.accept()];
    let (client, server) = connected(&rig, &backend);
    rig.send(&DRAIN, None);
    for idler in &mut idlers {
        assert_eq!(end_of(idler), (vec![], false));
    }
    rig.apply(|settings| settings.idlers = 3);
    assert_eq!(rig.report().len(), 1);
    drop((client, server));
    assert_eq!(end(&mut rig).0, 0);
}

#[test]
fn a_worker_that_waits_for_the_order_to_begin_does_everything_else() {
    let (one, two) = (Backend::new(), Backend::new());
    let begin = Settings { idlers: 1, ..settings([one.definition()]) };
    let (mut rig, listener) = start(2, begin, Begins::OnOrder);
    let mut clients = [rig.client(), rig.client()];
    clients[1].write_all(b"?").unwrap();
    rustix::io::write(&rig.freed, &1u64.to_ne_bytes()).unwrap();
    rig.send(&LastingToWorker::Freed.into(), None);
    rig.send(&LastingToWorker::Republish.into(), None);
    rig.send(&LastingToWorker::Ping { serial: 1 }.into(), None);
    assert_eq!(rig.answer(), LastingFromWorker::Pong { serial: 1 }.into());
    rig.apply(|settings| settings.servers[0] = two.definition());
    assert!(rig.report().is_empty());
    assert_eq!(rig.table.worker_table(1).fewest_open(), None);
    // An earlier worker takes the first client.
    take(&listener);
    rig.send(&ToWorker::Begin, None);
    let mut servers = [two.accept(), two.accept()];
    let report = rig.report_until(|report| report.len() == 2);
    assert_eq!(report.iter().filter(|connection| connection.client == -1).count(), 1);
    // The client and the idler are connected in any order.
    let mut ready = servers.each_ref().map(|server| PollFd::new(server, PollFlags::IN));
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut ready, Some(&patience)).unwrap();
    let its = ready.iter().position(|server| !server.revents().is_empty()).unwrap();
    assert_eq!(read(&mut servers[its], 1), b"?");
    rig.send(&ToWorker::Begin, None);
    passes(&mut servers[its], &mut clients[1]);
    assert_eq!(rig.table.worker_table(1).fewest_open(), Some(2));
}

#[test]
fn a_listener_that_moves_before_the_beginning_leaves_its_clients_to_the_others() {
    let backend = Backend::new();
    let (mut rig, listener) = start(1, settings([backend.definition()]), Begins::OnOrder);
    let _client = rig.client();
    let moved = TcpListener::bind("127.0.0.1:0").unwrap();
    moved.set_nonblocking(true).unwrap();
    rig.address = moved.local_addr().unwrap();
    rig.send(&ToWorker::Listen, Some(&moved.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    let mut next = rig.client();
    next.write_all(b"?").unwrap();
    assert!(rig.report().is_empty());
    take(&listener);
    rig.send(&ToWorker::Begin, None);
    assert_eq!(read(&mut backend.accept(), 1), b"?");
}

#[test]
fn a_worker_that_never_began_ends_when_it_is_drained() {
    let (mut rig, listener) = start(1, settings([]), Begins::OnOrder);
    let _client = rig.client();
    rig.send(&DRAIN, None);
    assert_eq!(end(&mut rig), (0, Counters::default()));
    take(&listener);
}

#[test]
fn a_worker_uses_its_row_of_the_table_whatever_its_number() {
    let backend = Backend::new();
    let mut rig = Rig::start_with(3, settings([backend.definition()]), |start| start.row = 2);
    let _pair = connected(&rig, &backend);
    let number = rig.report()[0].number;
    assert_eq!(rig.table.connection_owner(number), Some(2));
    assert_eq!(rig.table.worker_table(0).fewest_open(), Some(1));
    assert_eq!(rig.table.worker_table(2).fewest_open(), None);
}
