//! Lookups of names that cannot be made, resolvers that die or hang, and upgrades meanwhile.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::name_server::{self, Manner, NameServer};
use super::servers::{at, first, follower, lookups, rounds, servers, told, uses};
use crate::harness::events::{event, has};
use crate::harness::machine::in_own_network;
use crate::harness::{Gate, Pen, Process, eventually, until};
use crate::upgrade::Installed;

/// The resolver under way, if there is one.
fn resolver(pen: &Pen) -> Option<Process> {
    let mut children = pen.supervisor().children().into_iter();
    children.find(|child| child.title().starts_with("pen: helper"))
}

#[test]
fn a_resolver_that_dies_is_an_outage_and_the_next_round_ends_it() {
    let this = "a_resolver_that_dies_is_an_outage_and_the_next_round_ends_it";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port).start();
    names.answers("www.test", Manner::Silence);
    until("a resolver waits for the name server", || resolver(&pen)).kill_with(34);
    let failed = event(&pen, "lookup_failed", |_| true);
    has(&pen, &failed, &[("reason", "the resolver ended without an answer".into())]);
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("1"));
    names.addresses("www.test", [at(2)]);
    names.answers("www.test", Manner::InOrder);
    event(&pen, "lookup_works", |_| true);
    eventually("the server moves", || uses(&pen, 2));
}

#[test]
fn a_resolver_that_hangs_holds_up_nobody_and_is_killed() {
    let this = "a_resolver_that_hangs_holds_up_nobody_and_is_killed";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port).start();
    names.answers("www.test", Manner::Silence);
    let hangs = until("a resolver waits for the name server", || resolver(&pen));
    hangs.stop();
    names.addresses("www.test", [at(2)]);
    names.answers("www.test", Manner::InOrder);
    // Another time between rounds begins no round either.
    pen.tells("resolve 2", "2");
    // Commands have resolvers of their own.
    names.addresses("other.test", [at(2)]);
    pen.tells(&format!("emergency other.test:{port}"), "");
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("1"));
    let others = || {
        let children = pen.supervisor().children().into_iter();
        children.filter(|child| child.title().starts_with("pen: helper")).count()
    };
    assert_eq!((others(), lookups(&pen).1), (1, 0), "no second round begins");
    eventually("it is killed", || hangs.gone());
    let failed = event(&pen, "lookup_failed", |_| true);
    has(&pen, &failed, &[("reason", "no answer within 20 s".into())]);
    eventually("the server moves", || uses(&pen, 2));
    event(&pen, "lookup_works", |_| true);
}

#[test]
fn a_supervisor_without_descriptors_keeps_its_servers_and_looks_names_up_later() {
    let this = "a_supervisor_without_descriptors_keeps_its_servers_and_looks_names_up_later";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port).start();
    rounds(&pen, 1);
    let most = pen.supervisor().limit_descriptors(1);
    names.addresses("www.test", [at(2)]);
    pen.hears("cannot resolve www.test: too many open files");
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("1"));
    pen.supervisor().limit_descriptors(most);
    pen.hears("www.test is resolved again");
    eventually("the server moves", || uses(&pen, 2));
    assert_eq!((told(&pen, "lookup_failed"), told(&pen, "lookup_works")), (1, 1));
}

#[test]
fn after_an_upgrade_that_failed_names_are_looked_up_soon() {
    let this = "after_an_upgrade_that_failed_names_are_looked_up_soon";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = Installed::start(follower("www.test", port));
    let gate = Gate::closed();
    names.answers("www.test", Manner::Late(gate.clone()));
    until("a resolver waits for the name server", || resolver(&pen));
    pen.tells("resolve 3600", "3600");
    pen.install("0.2.0 rehearsal exits");
    pen.fails_to_upgrade();
    gate.open();
    names.addresses("www.test", [at(2)]);
    names.answers("www.test", Manner::InOrder);
    eventually("the server moves", || uses(&pen, 2));
}

#[test]
fn the_next_program_knows_the_outage_and_looks_names_up_soon() {
    let this = "the_next_program_knows_the_outage_and_looks_names_up_soon";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = Installed::start(follower("www.test", port));
    let (open, _) = pen.hold(Ipv4Addr::LOCALHOST).unwrap();
    eventually("it counts", || first(&pen)["received"] == 2);
    names.answers("www.test", Manner::NoSuchName);
    event(&pen, "lookup_failed", |_| true);
    // A round whose answer does not come: an upgrade does not wait for it.
    let gate = Gate::closed();
    names.answers("www.test", Manner::Late(gate.clone()));
    until("a resolver waits for the name server", || resolver(&pen));
    let processes = pen.pids();
    assert_eq!(pen.upgrade("0.2.0"), 1);
    gate.open();
    // Its rounds are as far apart as before, and the first one comes soon.
    names.answers("www.test", Manner::NoSuchName);
    let failed = lookups(&pen).1;
    eventually("it looks the name up", || lookups(&pen).1 > failed);
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    assert_eq!(status["names_failing"], 1);
    assert_eq!(told(&pen, "lookup_failed"), 1, "{}", pen.said());
    names.addresses("www.test", [at(2)]);
    names.answers("www.test", Manner::InOrder);
    eventually("the server moves", || uses(&pen, 2));
    assert_eq!((told(&pen, "lookup_failed"), told(&pen, "lookup_works")), (1, 1));
    assert!(first(&pen)["received"].as_u64() >= Some(2));
    open.echoes("served by an old worker");
    // It knows the server by the address before.
    assert!(pen.tell("drain 0 wait 1 close").starts_with("drain: 1 connection left"));
    assert!(open.read_to_end().is_ok_and(|rest| rest.is_empty()) || open.line().is_none());
    pen.has_only_new(&processes, 4);
}
