//! Limits per client in a whole worker.

use pen_config::per_client::{ClientRate, PerClient};
use pen_config::settings::Settings;

use crate::relay::tests::*;

fn limited(per_client: PerClient, backend: &Backend) -> Rig {
    Rig::start_among(2, Settings { per_client, ..settings([backend.definition()]) })
}

/// A client that is served.
fn served(rig: &mut Rig, backend: &Backend) -> (TcpStream, TcpStream) {
    let mut client = rig.client();
    let mut server = backend.accept();
    server.write_all(b"!").unwrap();
    assert_eq!(read(&mut client, 1), b"!");
    (client, server)
}

#[test]
fn a_connection_beyond_the_limit_is_reset_and_one_that_ends_makes_room() {
    let backend = Backend::new();
    let mut rig = limited(PerClient { max: 1, ..PerClient::default() }, &backend);
    for _ in 0..3 {
        let (client, server) = served(&mut rig, &backend);
        assert_eq!(end_of(&mut rig.client()), (vec![], true));
        drop((client, server));
        rig.report_until(|report| report.is_empty());
    }
}

#[test]
fn the_tarpit_has_a_time_and_is_no_server_of_anybody() {
    let backend = Backend::new();
    let rate = Some(ClientRate { connections: 1, seconds: 3600 });
    let limits = PerClient { rate, tarpit: 1, ..PerClient::default() };
    let mut rig = limited(limits, &backend);
    let _served = served(&mut rig, &backend);
    let mut caught = rig.client();
    rig.report_until(|report| report.len() == 2);
    assert_eq!(end_of(&mut caught), (vec![], true));
    rig.report_until(|report| report.len() == 1);
    assert_eq!(rig.table.worker_table(1).tarpitted(), 0);
}

/// How many connections are counted for the clients of the tests.
fn counted(rig: &Rig) -> u32 {
    let net = PerClient::default().net;
    let key = net.key(ClientKey::from_ip([127, 0, 0, 1].into()));
    rig.table.worker_table(1).net_use(key, 1, 0).open
}

/// Waits until so many are counted. The worker counts one in a turn of its event loop.
#[track_caller]
fn wait_counted(rig: &Rig, wanted: u32) {
    let deadline = Instant::now() + PATIENCE;
    while counted(rig) != wanted {
        assert!(Instant::now() < deadline, "{} of {wanted}", counted(rig));
        std::thread::yield_now();
    }
}

#[test]
fn what_is_open_when_a_limit_is_set_is_counted_in_pieces() {
    let backend = Backend::new();
    let mut rig = limited(PerClient::default(), &backend);
    let mut open: Vec<_> = (0..10).map(|_| served(&mut rig, &backend)).collect();
    assert_eq!(counted(&rig), 0);
    rig.apply(|settings| settings.per_client.max = 10);
    // One comes and one goes meanwhile, whether they are counted already or not.
    open.remove(7);
    wait_counted(&rig, 9);
    open.push(served(&mut rig, &backend));
    wait_counted(&rig, 10);
    assert_eq!(end_of(&mut rig.client()), (vec![], true));
    // Other settings begin the count again.
    rig.apply(|settings| settings.per_client.net.v4 = 31);
    rig.apply(|settings| settings.per_client.net.v4 = 32);
    wait_counted(&rig, 10);
    drop(open);
    wait_counted(&rig, 0);
    let _open: Vec<_> = (0..5).map(|_| served(&mut rig, &backend)).collect();
    wait_counted(&rig, 5);
    rig.apply(|settings| settings.per_client.max = 0);
    wait_counted(&rig, 0);
}

#[test]
fn what_a_sibling_that_died_wrote_over_is_counted_again() {
    let backend = Backend::new();
    let mut rig = limited(PerClient { max: 8, ..PerClient::default() }, &backend);
    let _open: Vec<_> = (0..8).map(|_| served(&mut rig, &backend)).collect();
    assert_eq!(counted(&rig), 8);
    let sibling = rig.table.worker_table(1);
    for number in [0, 3, 4, 7] {
        sibling.release_net(number);
    }
    assert_eq!(counted(&rig), 4);
    rig.send(&LastingToWorker::Republish.into(), None);
    wait_counted(&rig, 8);
    assert_eq!(end_of(&mut rig.client()), (vec![], true));
}

#[test]
fn more_caught_connections_than_a_turn_ends_are_ended_in_several() {
    let backend = Backend::new();
    let rate = Some(ClientRate { connections: 1, seconds: 3600 });
    let limits = PerClient { rate, tarpit: 3600, ..PerClient::default() };
    let mut rig = limited(limits, &backend);
    let _served = served(&mut rig, &backend);
    let mut caught: Vec<TcpStream> = (0..8).map(|_| rig.client()).collect();
    rig.report_until(|report| report.len() == 9);
    rig.apply(|settings| settings.per_client.tarpit = 0);
    for one in &mut caught {
        assert_eq!(end_of(one), (vec![], true));
    }
    rig.report_until(|report| report.len() == 1);
    assert_eq!(rig.table.worker_table(1).tarpitted(), 0);
}
