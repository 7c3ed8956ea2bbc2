//! The order to end silent connections of a server that has more than its share.

use pen_ipc::message::Rebalance;

use crate::relay::clock;
use crate::relay::tests::*;

/// An order to end at most so many connections of server 1, whose clients are to go to server 0.
fn order(serial: u32, from: &Backend, to: &Backend, most: u32) -> Rebalance {
    let mark = |backend: &Backend| backend.definition().as_ref().map_or(0, Server::mark);
    Rebalance {
        serial,
        from: 1,
        from_mark: mark(from),
        to: 0,
        to_mark: mark(to),
        most,
        silent: 0,
        until: u64::MAX,
    }
}

impl Rig {
    /// How many connections an order ends.
    fn rebalance(&mut self, order: Rebalance) -> u32 {
        self.send(&LastingToWorker::Rebalance(order).into(), None);
        match self.answer() {
            FromWorker::Lasting(LastingFromWorker::Rebalanced { serial, closed }) => {
                assert_eq!(serial, order.serial);
                closed
            }
            other => panic!("{other:?}"),
        }
    }

    /// Repeats an order until it has ended so many connections, because a connection is silent only
    /// when the second of its last byte is over.
    fn rebalance_until(&mut self, order: Rebalance, wanted: u32) {
        let (deadline, mut closed) = (Instant::now() + PATIENCE, 0);
        while closed < wanted {
            closed += self.rebalance(Rebalance { most: order.most.min(wanted - closed), ..order });
            assert!(Instant::now() < deadline, "{closed} of {wanted}");
        }
        assert_eq!(closed, wanted);
    }
}

fn rebalancing(servers: [&Backend; 2]) -> Rig {
    Rig::start(Settings { rebalance: 5, ..settings(servers.map(Backend::definition)) })
}

#[test]
fn both_ends_of_silent_connections_see_the_end_and_their_client_goes_to_the_other_server() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    let mut pairs: Vec<_> = (0..8).map(|_| connected(&rig, &one)).collect();
    rig.rebalance_until(order(7, &one, &two, 2), 5);
    assert_eq!(rig.report().len(), 3);
    let (open, ended): (Vec<_>, Vec<_>) = pairs.iter_mut().partition(|(client, _)| {
        client.set_nonblocking(true).unwrap();
        let is_open = client.peek(&mut [0]).is_err();
        client.set_nonblocking(false).unwrap();
        is_open
    });
    assert_eq!((open.len(), ended.len()), (3, 5));
    for (client, server) in ended {
        assert_eq!((end_of(client), end_of(server)), ((vec![], false), (vec![], false)));
    }
    connected(&rig, &two);
    assert_eq!(rig.table.server_totals(1).connections, 3);
}

#[test]
fn each_order_goes_on_behind_the_last_connection_that_was_ended() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    let pairs: Vec<_> = (0..7).map(|_| connected(&rig, &one)).collect();
    let (made, deadline) = (clock::now(), Instant::now() + PATIENCE);
    // All are silent once the second is over.
    while clock::now() / 1000 <= made / 1000 {
        rig.report();
        assert!(Instant::now() < deadline);
    }
    let is_ended = |(client, _): &(TcpStream, TcpStream)| {
        client.set_nonblocking(true).unwrap();
        client.peek(&mut [0]).is_ok()
    };
    for ended in 1..=7 {
        // The clock of the worker may be some milliseconds behind.
        rig.rebalance_until(order(ended, &one, &two, 1), 1);
        rig.report();
        let (first, rest) = pairs.split_at(ended as usize);
        let ends =
            |pairs: &[(TcpStream, TcpStream)]| pairs.iter().filter(|pair| is_ended(pair)).count();
        assert_eq!((ends(first), ends(rest)), (first.len(), 0), "{ended}");
    }
}

#[test]
fn a_client_that_has_another_server_by_now_keeps_it() {
    let (one, two, three) = (Backend::new(), Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    let pair = connected(&rig, &one);
    rig.apply(|settings| settings.servers[2] = three.definition());
    let entry = rig.table.clients().next().unwrap();
    assert_eq!(entry.server, 1);
    let sibling = rig.table.worker_table(0);
    // A failover of another connection has recorded it.
    let mut locked = sibling.lock(entry.key).unwrap();
    let arrival = locked.arrive(clock::now(), 0);
    locked.record(arrival.client, 2);
    drop(locked);
    rig.rebalance_until(order(1, &one, &two, 1), 1);
    drop(pair);
    connected(&rig, &three);
}

#[test]
fn only_what_the_order_means_is_ended() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    let mut pair = connected(&rig, &one);
    let good = order(1, &one, &two, 5);
    // The same connection is ended below, so each of these orders had something to look at.
    for wrong in [
        Rebalance { from: 0, ..good },
        Rebalance { from: 3, ..good },
        Rebalance { from: 77, ..good },
        Rebalance { from_mark: 1, ..good },
        Rebalance { to: 2, ..good },
        Rebalance { to_mark: 1, ..good },
        Rebalance { most: 0, ..good },
        Rebalance { until: clock::precise(), ..good },
        Rebalance { silent: 3600, ..good },
    ] {
        assert_eq!(rig.rebalance(wrong), 0, "{wrong:?}");
    }
    pair.0.write_all(b"?").unwrap();
    assert_eq!(read(&mut pair.1, 1), b"?");
    rig.rebalance_until(good, 1);
    assert_eq!(end_of(&mut pair.0), (vec![], false));
    assert_eq!(rig.rebalance(good), 0, "there is no other");
}

#[test]
fn half_closed_connections_and_those_with_data_under_way_stay() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    let by_client = connected(&rig, &one);
    by_client.0.shutdown(std::net::Shutdown::Write).unwrap();
    let by_server = connected(&rig, &one);
    by_server.1.shutdown(std::net::Shutdown::Write).unwrap();
    // A client that takes nothing.
    let (mut client, mut server) = connected(&rig, &one);
    server.set_nonblocking(true).unwrap();
    let chunk = [b'x'; 1 << 16];
    let mut written = 0;
    let deadline = Instant::now() + PATIENCE;
    while rig.report().iter().all(|open| open.pending_down == 0) {
        written += server.write(&chunk).unwrap_or(0);
        assert!(Instant::now() < deadline);
    }
    let silent = connected(&rig, &one);
    rig.rebalance_until(order(1, &one, &two, 9), 1);
    assert_eq!(rig.report().len(), 3);
    drop((by_client, by_server, silent));
    // The rest arrives, and then the connection is silent too.
    server.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), written);
}

#[test]
fn without_the_setting_nothing_is_known_of_silence() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([two.definition(), one.definition()]));
    let pair = connected(&rig, &one);
    assert_eq!(rig.rebalance(order(1, &one, &two, 5)), 0);
    rig.apply(|settings| settings.rebalance = 1);
    rig.rebalance_until(order(1, &one, &two, 5), 1);
    drop(pair);
}

#[test]
fn a_request_under_way_is_not_silence() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = rebalancing([&two, &one]);
    rig.apply(|settings| settings.http = pen_config::settings::Http::On);
    let asked = |request: &[u8]| {
        let mut client = rig.client();
        client.write_all(request).unwrap();
        let mut server = one.accept();
        assert!(server.read(&mut [0; 512]).unwrap() > 0);
        (client, server)
    };
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (mut busy, mut slow_server) = asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let unfinished = asked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    let (mut quiet, mut server) = asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.write_all(answer).unwrap();
    assert_eq!(read(&mut quiet, answer.len()), answer);
    rig.rebalance_until(order(1, &one, &two, 9), 1);
    assert_eq!(end_of(&mut quiet), (vec![], false));
    slow_server.write_all(answer).unwrap();
    assert_eq!(read(&mut busy, answer.len()), answer);
    rig.rebalance_until(order(2, &one, &two, 9), 1);
    assert_eq!(rig.report().len(), 1);
    drop(unfinished);
}
