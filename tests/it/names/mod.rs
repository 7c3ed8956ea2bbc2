//! Names over time: a name server that the tests change, and what pen makes of its answers.

mod faults;
mod follows;
pub mod name_server;
mod servers;
mod slots;

use std::net::Ipv4Addr;

use crate::harness::machine::in_own_network;
use crate::harness::{Backend, Pen};
use name_server::{Manner, NameServer};

#[test]
fn a_name_with_a_hundred_addresses_is_asked_for_over_tcp() {
    let this = "a_name_with_a_hundred_addresses_is_asked_for_over_tcp";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let backend = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    names.addresses("many.test", (1..=100).map(|last| Ipv4Addr::new(127, 0, 0, last)));
    names.addresses("one.test", [Ipv4Addr::LOCALHOST]);
    names.answers("one.test", Manner::Truncated);
    names.addresses("none.test", [Ipv4Addr::LOCALHOST]);
    names.answers("none.test", Manner::Failure);
    let port = backend.address().port();
    let pen = Pen::builder().server_as(format!("many.test:{port}")).control().start();
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
    pen.tells("server 1 address one.test port 80", "");
    assert!(pen.tell("servers").contains("1 addr 127.0.0.1 port 80"));
    assert!(pen.refuses("server 2 address none.test").contains("does not answer"));
    assert!(pen.refuses("server 2 address never.test").contains("no such host"));
    assert!(names.asked("one.test") >= 2);
}
