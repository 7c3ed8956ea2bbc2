//! Special connections: refused, silent, closed fast, answered without a server, without a client.

use pen_config::acl::{Acl, AclVerdict, Net};
use pen_config::settings::Fastclose;

use crate::relay::tests::*;

/// A list that refuses all IPv4 clients.
fn none() -> Acl {
    let mut acl = Acl::default();
    assert!(acl.push(AclVerdict::Deny, Net::v4_prefix("127.0.0.0".parse().unwrap(), 8).unwrap()));
    acl
}

fn recorded(rig: &Rig) -> Vec<i32> {
    rig.table.clients().map(|client| client.server).collect()
}

#[test]
fn a_refused_client_is_closed_but_entered() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings {
        emergency: backend.definition(),
        ..settings([backend.definition()])
    });
    rig.apply(|settings| {
        settings.acls[3] = none();
        settings.client_acl = 3;
    });
    assert_eq!(end_of(&mut rig.client()), (vec![], false));
    assert_eq!(recorded(&rig), [-3]);
    let text = rig.explain("127.0.0.1");
    assert_eq!(
        text,
        "client 127.0.0.1: refused by acl 3, and there is no abuse server\nno server: the client \
         would be closed\n"
    );
    rig.send(&ToWorker::Report { serial: 1 }, None);
    let FromWorker::Report(page) = rig.answer() else { panic!() };
    assert_eq!((page.counters.refused, page.counters.unserved, page.counters.closed), (1, 0, 1));
    backend.listener.set_nonblocking(true).unwrap();
    assert_eq!(backend.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_refused_client_goes_to_the_abuse_server_and_nowhere_else() {
    let (backend, abuse, deaf) = (Backend::new(), Backend::new(), Deaf::new());
    // All servers use this list too.
    let mut rig = Rig::start(Settings {
        abuse: abuse.definition(),
        connect_timeout: 1,
        acls: std::array::from_fn(|n| if n == 0 { none() } else { Acl::default() }),
        ..settings([backend.definition()])
    });
    let (_client, _server) = connected(&rig, &abuse);
    assert_eq!((recorded(&rig), rig.table.server_totals(5).connections), (vec![-2], 1));
    rig.apply(|settings| settings.abuse = deaf.definition());
    assert_eq!(end_of(&mut rig.client()), (vec![], false));
    backend.listener.set_nonblocking(true).unwrap();
    assert_eq!(backend.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // Permitted again, it gets a server like a new client.
    rig.apply(|settings| settings.acls[0] = Acl::default());
    let (_client, _server) = connected(&rig, &backend);
}

#[test]
fn a_server_whose_list_refuses_the_client_is_passed_over() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([one.definition(), two.definition()]));
    let (_client, _server) = connected(&rig, &two);
    rig.apply(|settings| {
        settings.acls[4] = none();
        settings.servers[1].as_mut().unwrap().acl = 4;
    });
    // This includes its recorded server.
    assert!(rig.explain("127.0.0.1").contains(": refused by acl 4\n"));
    let (_client, _server) = connected(&rig, &one);
    assert_eq!(recorded(&rig), [0]);
}

#[test]
fn silent_connections_are_closed_whatever_their_state() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let (mut open, mut open_server) = connected(&rig, &backend);
    let (half, mut half_server) = connected(&rig, &backend);
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut half_server), (vec![], false));
    // Connections from before are included.
    rig.apply(|settings| settings.idle_timeout = 1);
    assert_eq!((end_of(&mut open), end_of(&mut open_server)), ((vec![], false), (vec![], false)));
    rig.report_until(|report| report.is_empty());
    assert_eq!(rig.table.server_totals(0).connections, 0);
    let (mut client, _server) = connected(&rig, &backend);
    assert_eq!(end_of(&mut client), (vec![], false));
}

/// A client that does not read an endless stream, until the buffers are full; and its server.
fn stalled(rig: &mut Rig, backend: &Backend) -> (TcpStream, TcpStream) {
    let (client, mut server) = connected(rig, backend);
    server.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut full = 0;
    // Until no more bytes could be sent in many turns of the worker, each of which could have moved
    // some. Each report takes a turn.
    while full < 50 {
        assert!(Instant::now() < deadline);
        match server.write(&[b'x'; 1 << 16]) {
            Ok(written) => full = i32::from(written == 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                rig.report();
            }
        }
    }
    server.set_nonblocking(false).unwrap();
    (client, server)
}

#[test]
fn whoever_is_cut_off_from_what_was_to_come_is_reset() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let (mut client, mut server) = stalled(&mut rig, &backend);
    rig.apply(|settings| settings.idle_timeout = 1);
    // Clients that read meanwhile get the rest.
    rig.report_until(|report| report.is_empty());
    assert!(end_of(&mut client).1, "an end of file would be a lie");
    assert!(end_of(&mut server).1, "and so to the server, which was not read to the end");
    // Everything was sent: an ordinary end does no harm, even if the other side is reset.
    let (mut client, mut server) = connected(&rig, &backend);
    assert_eq!((end_of(&mut client), end_of(&mut server)), ((vec![], false), (vec![], false)));
    rig.apply(|settings| settings.idle_timeout = 0);
    let ((mut client, _server), (mut quiet, _quiet_server)) =
        (stalled(&mut rig, &backend), connected(&rig, &backend));
    rig.send(&LastingToWorker::Stop.into(), None);
    assert_eq!(rig.status(), 0);
    assert!(end_of(&mut client).1 && !end_of(&mut quiet).1, "the end of pen cuts off as well");
}

#[test]
fn traffic_keeps_a_connection_alive() {
    let backend = Backend::new();
    let rig = Rig::start(Settings { idle_timeout: 2, ..settings([backend.definition()]) });
    let (mut busy, mut busy_server) = connected(&rig, &backend);
    let (mut silent, _silent_server) = connected(&rig, &backend);
    silent.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // The end of the silent connection is the clock.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = silent.read(&mut [0]) {
        assert!(error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline, "{error}");
        busy.write_all(b"x").unwrap();
        assert_eq!(read(&mut busy_server, 1), b"x");
    }
    busy.write_all(b"x").unwrap();
    assert_eq!(read(&mut busy_server, 1), b"x");
}

#[test]
fn fastclose_closes_both_sides_at_the_end_of_file_of_one() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    for (fastclose, ends) in [
        (Fastclose::Up, [true, false]),
        (Fastclose::Down, [false, true]),
        (Fastclose::Both, [true, true]),
    ] {
        rig.apply(|settings| settings.fastclose = fastclose);
        for (side, closes) in ["up", "down"].into_iter().zip(ends) {
            let (client, server) = connected(&rig, &backend);
            let (mut ender, mut other) =
                if side == "up" { (server, client) } else { (client, server) };
            ender.write_all(b"last").unwrap();
            ender.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(end_of(&mut other), (b"last".to_vec(), false), "{fastclose:?} {side}");
            if closes {
                // Although the other has not ended.
                assert_eq!(end_of(&mut ender), (vec![], false), "{fastclose:?} {side}");
            } else {
                other.write_all(b"answer").unwrap();
                drop(other);
                assert_eq!(end_of(&mut ender), (b"answer".to_vec(), false), "{fastclose:?} {side}");
            }
            rig.report_until(|report| report.is_empty());
        }
    }
}

#[test]
fn fastclose_does_not_take_a_doubt_for_something_unread() {
    const LARGE: usize = 20_000;
    let backend = Backend::new();
    let mut rig =
        Rig::start(Settings { fastclose: Fastclose::Down, ..settings([backend.definition()]) });
    for _ in 0..10 {
        let (mut client, mut server) = connected(&rig, &backend);
        // In quick succession, so that splice(2) moves the data and a recheck is due.
        for _ in 0..6 {
            server.write_all(&[0; LARGE]).unwrap();
            read(&mut client, LARGE);
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut client), (vec![], false));
        assert_eq!(rig.report().len(), 0, "nothing lingers");
        drop(server);
    }
}

#[test]
fn a_dummy_answers_whatever_comes_and_closes() {
    let backend = Backend::new();
    let mut rig = Rig::start(Settings { dummy: true, ..settings([]) });
    let mut client = rig.client();
    let silent = rig.client();
    rig.report_until(|report| report.len() == 2);
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let (answer, was_reset) = end_of(&mut client);
    assert_eq!(
        (String::from_utf8(answer).unwrap().as_str(), was_reset),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 15\r\nContent-Type: text/html\r\n\r\nUlric was \
             here.",
            false
        )
    );
    drop((client, silent));
    rig.report_until(|report| report.is_empty());
    let clients: Vec<_> =
        rig.table.clients().map(|client| (client.connects, client.received)).collect();
    assert_eq!(clients, [(2, 18)]);
    rig.apply(|settings| {
        settings.dummy = false;
        settings.servers[0] = backend.definition();
    });
    let (_client, _server) = connected(&rig, &backend);
}

#[test]
fn idlers_are_kept_and_counted() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig =
        Rig::start(Settings { idlers: 3, ..settings([one.definition(), two.definition()]) });
    // Round robin begins with server 1.
    let mut sockets = [two.accept(), one.accept(), two.accept()];
    let report = rig.report_until(|report| {
        report.iter().filter(|connection| connection.state == 2).count() == 3
    });
    assert!(report.iter().all(|connection| connection.downfd == -1 && connection.client == -1));
    assert_eq!([0, 1].map(|row| rig.table.server_totals(row).connections), [1, 2]);
    // Data that a server sends to an idler is read. When the idler ends, another is opened.
    sockets[0].write_all(b"hello").unwrap();
    sockets[0].shutdown(std::net::Shutdown::Both).unwrap();
    let again = one.accept();
    assert_eq!(rig.table.server_totals(1).received, 5);
    rig.report_until(|report| report.len() == 3);
    let number = rig.report()[0].number;
    rig.send(&LastingToWorker::Close { number, before: u64::MAX }.into(), None);
    rig.report_until(|report| report.len() == 3);
    rig.apply(|settings| settings.idlers = 1);
    rig.report_until(|report| report.len() == 1);
    rig.apply(|settings| settings.idlers = 0);
    assert!(rig.report().is_empty());
    drop(again);
    assert_eq!([0, 1].map(|row| rig.table.server_totals(row).connections), [0, 0]);
    assert_eq!(rig.table.connections_open(), 0);
}

#[test]
fn an_idler_that_takes_a_place_leaves_a_client_waiting_for_the_next() {
    let backend = Backend::new();
    let mut rig =
        Rig::start_among(2, Settings { connections_max: 1, ..settings([backend.definition()]) });
    let (other, number) = rig.sibling_with_the_only_place();
    rig.apply(|settings| settings.idlers = 1);
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    rig.wait_until_it_waits(&other);
    // Released without a wake-up, as if the sibling died just then.
    assert!(other.release_connection(number), "a word is due");
    let idler = backend.accept();
    assert_eq!(rig.report().len(), 1);
    drop(idler);
    assert_eq!(read(&mut backend.accept(), 1), b"?");
}

#[test]
fn idlers_that_cannot_be_are_tried_again() {
    let backend = Backend::new();
    // No server yet, and room for only one connection.
    let mut rig =
        Rig::start(Settings { idlers: 2, connections_max: 1, blacklist: 0, ..settings([]) });
    assert!(rig.report().is_empty());
    rig.apply(|settings| settings.servers[0] = backend.definition());
    let first = backend.accept();
    rig.apply(|settings| settings.connections_max = 2);
    let _second = backend.accept();
    drop(first);
    let _third = backend.accept();
    rig.report_until(|report| report.len() == 2);
}

#[test]
fn a_stream_to_a_client_that_has_gone_is_not_read_for_long() {
    let backend = Backend::new();
    let rig = Rig::start(settings([backend.definition()]));
    let (mut client, mut server) = connected(&rig, &backend);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    server.write_all(&[b's'; 100_000]).unwrap();
    client.read_exact(&mut [0]).unwrap();
    // It has unread bytes: a reset, after its end of file was passed on.
    drop(client);
    let most = 256 << 20;
    let mut sent = 0;
    while sent < most {
        match server.write(&[b's'; 65536]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    assert!(sent < most, "the worker reads for nobody");
}

#[test]
fn as_many_clients_as_may_wait_for_a_connect_can_fail_at_once() {
    // There is no listener. The kernel reports that at once for a Unix socket.
    let nowhere = Server {
        address: Address::Unix("/nonexistent/pen".into()),
        ..Backend::new().definition().unwrap()
    };
    let mut rig =
        Rig::start(Settings { pending_max: 1, blacklist: 0, ..settings([Some(nowhere)]) });
    for _ in 0..5 {
        let mut clients: Vec<TcpStream> = (0..16).map(|_| rig.client()).collect();
        assert!(clients.iter_mut().all(|client| end_of(client).0.is_empty()));
    }
    rig.report_until(|connections| connections.is_empty());
}
