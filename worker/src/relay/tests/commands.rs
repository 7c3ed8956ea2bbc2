//! The supervisor's messages.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering::Relaxed;

use crate::clock;
use crate::relay::tests::*;

#[test]
fn new_connections_use_new_settings_and_open_ones_go_on() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([one.definition()]));
    let (mut client, mut server) = connected(&rig, &one);
    rig.apply(|settings| settings.servers[0] = two.definition());
    let (_client, _server) = connected(&rig, &two);
    client.write_all(b"on").unwrap();
    assert_eq!(read(&mut server, 2), b"on");
    drop(client);
    assert_eq!(end_of(&mut server), (vec![], false));
}

#[test]
fn settings_that_make_no_sense_end_the_worker() {
    for nonsense in [b"nonsense".to_vec(), encode_settings(&Settings::default()).unwrap()] {
        // The second one is for a table of another size.
        let rig = Rig::start(settings([]));
        rig.send(&ToWorker::Settings, Some(&memory(&nonsense)));
        assert_eq!(rig.status(), 1);
    }
    let rig = Rig::start(settings([]));
    rig.send(&ToWorker::Listen, None);
    assert_eq!(rig.status(), 1);
}

#[test]
fn a_raised_limit_lets_waiting_clients_in_and_a_lowered_one_closes_nobody() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { connections_max: 1, ..settings([backend.definition()]) });
    let (mut first, mut first_server) = connected(&rig, &backend);
    let mut second = rig.client();
    second.write_all(b"?").unwrap();
    assert_eq!(rig.report().len(), 1);
    rig.apply(|settings| settings.connections_max = 2);
    let mut second_server = backend.accept();
    assert_eq!(read(&mut second_server, 1), b"?");
    rig.apply(|settings| settings.connections_max = 1);
    assert_eq!(rig.report().len(), 2);
    first.write_all(b"x").unwrap();
    assert_eq!(read(&mut first_server, 1), b"x");
}

#[test]
fn a_place_that_another_worker_leaves_is_taken_when_the_supervisor_or_the_eventfd_says_so() {
    let backend = Backend::new();
    let mut rig =
        Rig::start_among(2, Settings { connections_max: 1, ..settings([backend.definition()]) });
    for wake in ["order", "all", "one"] {
        let (other, number) = rig.sibling_with_the_only_place();
        let mut client = rig.client();
        client.write_all(b"?").unwrap();
        rig.wait_until_it_waits(&other);
        assert!(other.release_connection(number), "the worker is to be told");
        match wake {
            "order" => rig.send(&LastingToWorker::Freed.into(), None),
            "all" => assert_eq!(rustix::io::write(&rig.freed, &1u64.to_ne_bytes()), Ok(8)),
            _ => assert_eq!(rustix::io::write(&rig.vacancy, &1u64.to_ne_bytes()), Ok(8)),
        }
        assert_eq!(read(&mut backend.accept(), 1), b"?");
        drop(client);
        rig.report_until(|report| report.is_empty());
    }
}

#[test]
fn what_a_stranger_wrote_over_the_table_is_put_right_when_he_is_gone() {
    let backend = Backend::new();
    let limited = backend.definition().map(|server| Server { hard: 2, soft: 2, ..server });
    // As counts, owner bytes and locks: this worker's, the dead worker's, and those of impossible
    // workers. None is so large that the table grows to its maximum.
    for word in [1, 2, 0x0101, 0x4141] {
        let mut rig = Rig::start_among(2, settings([limited.clone()]));
        let (mut client, mut server) = connected(&rig, &backend);
        let number = rig.report()[0].number;
        // More words than this small table uses.
        rig.table.words().iter().take(1 << 21).for_each(|each| each.store(word, Relaxed));
        assert_ne!(rig.table.connections_open(), 1);
        rig.table.reclaim(1);
        // Workers cannot restore the servers' blacklist; operators clear it.
        rig.table.clear_blacklist(0);
        rig.send(&LastingToWorker::Republish.into(), None);
        assert_eq!(rig.report().len(), 1);
        assert_eq!(rig.table.server_totals(0).connections, 1, "{word:x}");
        assert_eq!(
            (rig.table.connection_owner(number), rig.table.connections_open()),
            (Some(0), 1),
            "{word:x}"
        );
        client.write_all(b"x").unwrap();
        assert_eq!(read(&mut server, 1), b"x");
        // There is room for one more connection, and its server is recorded.
        let second = connected(&rig, &backend);
        assert_eq!(
            (rig.table.server_totals(0).connections, rig.table.connections_open()),
            (2, 2),
            "{word:x}"
        );
        drop((client, server, second));
        rig.report_until(|report| report.is_empty());
        assert_eq!(
            (rig.table.server_totals(0).connections, rig.table.connections_open()),
            (0, 0),
            "{word:x}"
        );
    }
}

#[test]
fn a_client_for_whom_the_kernel_woke_a_sibling_that_died_is_served_when_its_death_is_known() {
    let backend = Backend::new();
    let mut rig = Rig::start_among(2, settings([backend.definition()]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    rig.address = listener.local_addr().unwrap();
    // The sibling watches before the worker does, so that the kernel wakes only the sibling.
    let sibling = watching(&listener);
    rig.send(&ToWorker::Listen, Some(&listener.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    let sibling = sleeping(sibling);
    let _client = rig.client();
    assert_eq!(sibling.join().unwrap(), 1, "the sibling is woken");
    assert_eq!(rig.report().len(), 0, "and nobody else");
    rig.table.reclaim(1);
    rig.send(&LastingToWorker::Republish.into(), None);
    backend.accept();
}

#[test]
fn an_eventfd_that_was_filled_is_emptied_so_that_it_wakes_again() {
    let backend = Backend::new();
    let mut rig = Rig::start_among(2, settings([backend.definition()]));
    let first = connected(&rig, &backend);
    rig.table.worker_table(1).await_connection();
    rustix::io::write(&rig.vacancy, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(rig.report().len(), 1);
    // The worker finds no client for the connection number, and wakes a worker that waits.
    drop(first);
    let mut writable = [PollFd::new(&rig.vacancy, PollFlags::OUT)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut writable, Some(&patience)), Ok(1));
    let mut counter = [0; 8];
    while rustix::io::read(&rig.vacancy, &mut counter).is_err() {}
    assert_eq!(u64::from_ne_bytes(counter), 1);
}

#[test]
fn a_raised_pending_max_lets_waiting_clients_in() {
    let deaf = Deaf::new();
    let mut rig = Rig::start(Settings { pending_max: 1, ..settings([deaf.definition()]) });
    let _clients = [rig.client(), rig.client()];
    let under_way =
        |report: &[ConnectionInfo]| report.iter().filter(|connection| connection.upfd >= 0).count();
    // The other one waits for a connect to end.
    rig.report_until(|report| report.len() == 2 && under_way(report) == 1);
    assert_eq!(rig.table.server_totals(0).connections, 1);
    rig.apply(|settings| settings.pending_max = 2);
    rig.report_until(|report| under_way(report) == 2);
}

#[test]
fn whoever_waits_for_a_pending_connect_is_next_when_it_ends_and_may_leave() {
    let deaf = Deaf::new();
    let mut rig =
        Rig::start(Settings { pending_max: 1, blacklist: 0, ..settings([deaf.definition()]) });
    let under_way = |report: &[ConnectionInfo]| -> Vec<u32> {
        report
            .iter()
            .filter(|connection| connection.upfd >= 0)
            .map(|connection| connection.number)
            .collect()
    };
    let first = rig.client();
    rig.report_until(|report| report.len() == 1);
    let second = rig.client();
    rig.report_until(|report| report.len() == 2);
    let _third = rig.client();
    rig.report_until(|report| report.len() == 3 && under_way(report) == [0]);
    rustix::net::sockopt::set_socket_linger(&second, Some(Duration::ZERO)).unwrap();
    drop(second);
    rig.report_until(|report| report.len() == 2);
    rustix::net::sockopt::set_socket_linger(&first, Some(Duration::ZERO)).unwrap();
    drop(first);
    rig.report_until(|report| report.len() == 1 && under_way(report) == [2]);
    assert_eq!(rig.table.server_totals(0).connections, 1);
    rig.apply(|settings| settings.connect_timeout = 1);
    rig.report_until(|report| report.is_empty());
}

#[test]
fn servers_may_vanish_while_they_are_tried() {
    let deaf = Deaf::new();
    let all = Settings {
        emergency: deaf.definition(),
        abuse: deaf.definition(),
        connect_timeout: 1,
        ..settings([deaf.definition(), deaf.definition()])
    };
    let mut rig = Rig::start(all);
    let mut clients = [rig.client(), rig.client(), rig.client()];
    rig.report_until(|report| report.len() == 3);
    rig.apply(|settings| {
        settings.servers = vec![None; 4];
        (settings.emergency, settings.abuse) = (None, None);
    });
    for client in &mut clients {
        assert_eq!(end_of(client), (vec![], false));
    }
    assert!(rig.report().is_empty());
    // Their results say nothing about the servers that get these numbers next.
    let blacklisted: Vec<u64> =
        (0..6).map(|row| rig.table.server_totals(row).blacklisted_until).collect();
    assert_eq!(blacklisted, [0; 6]);
    assert!(
        rig.events.iter().all(|event| matches!(event, Event::Unserved { .. })),
        "{:?}",
        rig.events
    );
}

#[test]
fn a_client_follows_a_server_that_moves_while_it_is_connected_to() {
    let (deaf, backend) = (Deaf::new(), Backend::new());
    let mut rig = Rig::start(settings([deaf.definition()]));
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    rig.report_until(|report| report.len() == 1);
    // Another answer of the resolver, which leaves the epoch as it is. There is no other server.
    rig.apply(|settings| {
        settings.servers[0] = backend.definition();
        settings.connect_timeout = 1;
    });
    assert_eq!(read(&mut backend.accept(), 1), b"?");
    assert_eq!(rig.table.server_totals(0).blacklisted_until, 0);
}

#[test]
fn the_connections_of_a_server_that_moves_stay_and_count_for_it() {
    let (before, after) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([before.definition()]));
    let (mut client, mut server) = connected(&rig, &before);
    let moved = |settings: &mut Settings| settings.servers[0] = after.definition();
    rig.apply(moved);
    let sent = rig.table.server_totals(0).sent;
    client.write_all(b"more").unwrap();
    assert_eq!(read(&mut server, 4), b"more");
    rig.report();
    let totals = rig.table.server_totals(0);
    assert_eq!((totals.sent, totals.connections), (sent + 4, 1));
    let _new = connected(&rig, &after);
    // A command that puts it elsewhere makes it another server.
    rig.apply(|settings| settings.servers[0].as_mut().unwrap().epoch = 1);
    client.write_all(b"last").unwrap();
    assert_eq!(read(&mut server, 4), b"last");
    rig.report();
    assert_eq!(rig.table.server_totals(0).sent, totals.sent + 1, "of the new connection");
}

#[test]
fn another_server_is_not_blamed_for_the_one_before() {
    let (deaf, backend) = (Deaf::new(), Backend::new());
    let mut rig = Rig::start(settings([deaf.definition()]));
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    rig.report_until(|report| report.len() == 1);
    rig.apply(|settings| {
        settings.servers[1] = settings.servers[0].clone();
        settings.servers[0] = backend.definition().map(|server| Server { epoch: 1, ..server });
        settings.emergency = backend.definition();
        // Of open connections too.
        settings.connect_timeout = 1;
    });
    // From the first server, where the connect was under way, through the second, whose backlog is
    // full, to the last.
    assert_eq!(read(&mut backend.accept(), 1), b"?");
    assert_eq!(rig.table.server_totals(0).blacklisted_until, 0);
    assert_ne!(rig.table.server_totals(1).blacklisted_until, 0);
}

#[test]
fn a_listener_moves_and_takes_its_queue_along() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { pending_max: 1, ..settings([backend.definition()]) });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("front.sock");
    let unix = UnixListener::bind(&path).unwrap();
    unix.set_nonblocking(true).unwrap();
    let (_client, _server) = connected(&rig, &backend);
    let old = rig.address;
    rig.send(&ToWorker::Listen, Some(&unix.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    assert!(TcpStream::connect(old).is_err());
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"?").unwrap();
    assert_eq!(read(&mut backend.accept(), 1), b"?");
    assert_eq!(
        rig.table.clients().filter(|client| client.key == ClientKey::UNIX.bytes()).count(),
        1
    );
    // Back to TCP.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    rig.address = tcp.local_addr().unwrap();
    rig.send(&ToWorker::Listen, Some(&tcp.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    let (_client, _server) = connected(&rig, &backend);
    assert_eq!(rig.report().len(), 3);
}

#[test]
fn a_queue_that_must_be_left_is_served_as_far_as_there_is_room_and_else_reset() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { connections_max: 1, ..settings([backend.definition()]) });
    let first = connected(&rig, &backend);
    let mut waiting = [rig.client(), rig.client()];
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    rig.address = tcp.local_addr().unwrap();
    rig.send(&ToWorker::Listen, Some(&tcp.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    for client in &mut waiting {
        assert_eq!(end_of(client), (vec![], true));
    }
    // The pause continues with the new listener, and ends as usual.
    let mut next = rig.client();
    next.write_all(b"?").unwrap();
    assert_eq!(rig.report().len(), 1);
    drop(first);
    assert_eq!(read(&mut backend.accept(), 1), b"?");
}

#[test]
fn a_queue_is_served_while_connects_are_pending() {
    let (deaf, backend) = (Deaf::new(), Backend::new());
    let mut rig = Rig::start(Settings { pending_max: 1, ..settings([deaf.definition()]) });
    let _pending = rig.client();
    rig.report_until(|report| report.len() == 1);
    let mut waiting = rig.client();
    waiting.write_all(b"?").unwrap();
    rig.report_until(|report| report.len() == 2);
    // Connects pending at the old address do not count at the new one.
    rig.apply(|settings| settings.servers[0] = backend.definition());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    rig.send(&ToWorker::Listen, Some(&tcp.into()));
    assert_eq!(rig.answer(), FromWorker::Listening);
    assert_eq!(read(&mut backend.accept(), 1), b"?");
}

#[test]
fn a_connection_is_closed_by_its_number() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let (mut other, mut other_server) = connected(&rig, &backend);
    let (mut client, mut server) = connected(&rig, &backend);
    let old = clock::precise();
    let close = |number, before| LastingToWorker::Close { number, before }.into();
    rig.send(&close(63, u64::MAX), None);
    rig.send(&close(1, clock::precise()), None);
    assert_eq!((end_of(&mut client), end_of(&mut server)), ((vec![], true), (vec![], true)));
    rig.send(&close(1, clock::precise()), None);
    let numbers: Vec<u32> = rig.report().iter().map(|connection| connection.number).collect();
    assert_eq!((numbers, rig.table.server_totals(0).connections), (vec![0], 1));
    other.write_all(b"x").unwrap();
    assert_eq!(read(&mut other_server, 1), b"x");
    // A command from before the number got its next connection.
    let (mut next, mut next_server) = connected(&rig, &backend);
    rig.send(&close(1, old), None);
    assert_eq!(rig.report().len(), 2);
    next.write_all(b"y").unwrap();
    assert_eq!(read(&mut next_server, 1), b"y");
    rig.send(&close(1, clock::precise()), None);
    assert_eq!(end_of(&mut next), (vec![], true));
}

#[test]
fn the_log_comes_goes_and_changes_its_kind() {
    let backend = Backend::new();
    let rig = Rig::start(settings([backend.definition()]));
    let request = |rig: &Rig, line: &str| {
        let mut client = rig.client();
        client.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let mut server = backend.accept();
        read(&mut server, line.len());
    };
    let (mut file, write) = std::io::pipe().unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(datagrams.local_addr().unwrap()).unwrap();
    request(&rig, "unlogged");
    rig.send(&LastingToWorker::Log { network: false }.into(), Some(&write.into()));
    let mut rig = rig;
    rig.report();
    request(&rig, "to the file");
    rig.send(&LastingToWorker::Log { network: true }.into(), Some(&sender.into()));
    rig.report();
    request(&rig, "to penlogd");
    let mut datagram = [0; 200];
    let length = datagrams.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..length], b"+ 127.0.0.1 127.0.0.1 to penlogd\n");
    rig.send(&LastingToWorker::NoLog.into(), None);
    rig.report();
    request(&rig, "unlogged");
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert!(text.ends_with(" 127.0.0.1 to the file\n") && text.lines().count() == 1, "{text}");
    datagrams.set_nonblocking(true).unwrap();
    assert_eq!(datagrams.recv(&mut datagram).unwrap_err().kind(), ErrorKind::WouldBlock);
    rig.send(&ToWorker::Report { serial: 9 }, None);
    let FromWorker::Report(page) = rig.answer() else { panic!() };
    assert_eq!((page.counters.log_lines, page.counters.log_lost), (2, 0));
}

#[test]
fn an_explanation_is_what_happens_and_changes_nothing() {
    let backends = [Backend::new(), Backend::new(), Backend::new()];
    let [one, two, three] = &backends;
    let mut rig = Rig::start(settings([one.definition(), two.definition(), three.definition()]));
    rig.table.worker_table(0).set_blacklist(1, u64::MAX >> 2, 0);
    let address = three.listener.local_addr().unwrap();
    for _ in 0..3 {
        let text = rig.explain("127.0.0.1");
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "client 127.0.0.1: not tracked; by round robin");
        let (blacklisted, used) = rest.split_once('\n').unwrap();
        assert!(
            blacklisted.starts_with("server 1 (") && blacklisted.ends_with(" s more"),
            "{blacklisted}"
        );
        assert_eq!(used, format!("server 2 ({address}): would be used\n"));
    }
    assert_eq!((rig.table.clients().count(), rig.table.server_totals(2).connections), (0, 0));
    let (_client, _server) = connected(&rig, three);
    let text = rig.explain("127.0.0.1");
    assert_eq!(
        text,
        format!("client 127.0.0.1: tracked on server 2\nserver 2 ({address}): would be used\n")
    );
    assert_eq!(rig.table.clients().map(|client| client.connects).collect::<Vec<_>>(), [1]);
    // Until the client is no longer tracked.
    rig.apply(|settings| settings.tracking = 1);
    let deadline = Instant::now() + PATIENCE;
    while !rig.explain("127.0.0.1").contains("not tracked") {
        assert!(Instant::now() < deadline);
    }
    rig.apply(|settings| settings.dummy = true);
    assert!(rig.explain("::1").ends_with("and no server is used\n"));
}
