//! Which server gets which slot when all addresses of a name change, or its range does.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use super::follows::{NAME, at, become_slots, client, everywhere, follower, got, set, slots};
use super::name_server::{self, NameServer};
use crate::harness::Pen;
use crate::harness::machine::in_own_network;

#[test]
fn a_service_whose_addresses_all_changed_has_servers_at_once_and_keeps_connections() {
    let this = "a_service_whose_addresses_all_changed_has_servers_at_once_and_keeps_connections";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [1, 2, 3, 4].map(at));
    let pen = follower(&servers).start();
    let open: Vec<_> = (1..60).map(|last| pen.hold(client(last)).unwrap()).collect();
    let busy: BTreeSet<String> = open.iter().map(|(_, greeting)| greeting.clone()).collect();
    assert_eq!(busy, set(&[1, 2, 3, 4]), "each slot has connections");
    names.addresses(NAME, [5, 6].map(at));
    become_slots(&pen, &["5", "6", "3-", "4-"]);
    assert_eq!(got(&pen, 100..130), set(&[5, 6]));
    open.iter().for_each(|(client, _)| client.echoes("still"));
    drop(open);
    become_slots(&pen, &["5", "6"]);
}

#[test]
fn a_reload_may_swap_the_slots_of_two_names() {
    let this = "a_reload_may_swap_the_slots_of_two_names";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [1, 2].map(at));
    names.addresses("api.test", [5, 6].map(at));
    let port = servers.address().port();
    let file = |web: &str, api: &str| {
        format!("servers_from {NAME} {port} {web}\nservers_from api.test {port} {api}\n")
    };
    let pen = Pen::builder().workers(2).control().file(&file("0-2", "3-4")).start();
    assert_eq!(slots(&pen), ["1", "2", "_", "5", "6"]);
    let path = pen.directory().join("pen.cfg");
    fs::write(&path, file("3-4", "0-2")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    become_slots(&pen, &["5", "6", "_", "1", "2"]);
    assert_eq!(got(&pen, 1..30), set(&[1, 2, 5, 6]));
}
