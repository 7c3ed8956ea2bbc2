//! The order to end all connections of a server.

use pen_ipc::message::ClosedServer;

use crate::clock;
use crate::relay::tests::*;

fn order(number: i32, server: &Option<Server>, before: u64) -> ToWorker {
    let mark = server.as_ref().map_or(0, Server::mark);
    LastingToWorker::CloseServer { server: number, mark, before, why: ClosedServer::Down }.into()
}

#[test]
fn both_sides_of_each_connection_of_the_server_see_a_reset_and_its_clients_are_placed_anew() {
    let (one, two) = (Backend::new(), Backend::new());
    let mut rig = Rig::start(settings([two.definition(), one.definition()]));
    // The first client gets server 1.
    let mut pairs = [connected(&rig, &one), connected(&rig, &one)];
    // Another server has the number, or the connections began later.
    rig.send(&order(1, &two.definition(), u64::MAX), None);
    rig.send(&order(1, &one.definition(), 1), None);
    assert_eq!(rig.report().len(), 2);
    rig.send(&order(1, &one.definition(), clock::precise()), None);
    for (client, server) in &mut pairs {
        assert_eq!((end_of(client), end_of(server)), ((vec![], true), (vec![], true)));
    }
    rig.report_until(|report| report.is_empty());
    assert_eq!(rig.table.server_totals(1).connections, 0);
    connected(&rig, &two);
}

#[test]
fn whoever_is_being_connected_to_the_server_goes_to_another() {
    let (deaf, two) = (Deaf::new(), Backend::new());
    let mut rig = Rig::start(settings([two.definition(), deaf.definition()]));
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    rig.report_until(|report| report.len() == 1 && report[0].server == 1 && report[0].upfd >= 0);
    rig.send(&order(1, &deaf.definition(), clock::precise()), None);
    let mut server = two.accept();
    assert_eq!(read(&mut server, 1), b"?");
    assert_eq!(rig.table.server_totals(1).connections, 0);
}

#[test]
fn more_connections_than_a_turn_ends_are_ended_in_several() {
    let backend = Backend::new();
    let mut rig = Rig::start(settings([backend.definition()]));
    let pairs: Vec<_> = (0..8).map(|_| connected(&rig, &backend)).collect();
    rig.send(&order(0, &backend.definition(), clock::precise()), None);
    rig.report_until(|report| report.is_empty());
    drop(pairs);
    connected(&rig, &backend);
}
