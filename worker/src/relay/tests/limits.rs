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
