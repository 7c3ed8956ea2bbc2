//! Events that clients cause: limits, servers that are passed over, shortages, refusals.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use crate::harness::backend::{Blackhole, echo};
use crate::harness::control::Control;
use crate::harness::events::{event, events, has};
use crate::harness::machine::{in_etc, in_own_network, needs_root};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Pen, Port, eventually, until};

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 1, number)
}

#[test]
fn limits_are_reached() {
    let server = Backend::named("a");
    let pen = Pen::builder().options(["-x", "2"]).server(&server).control().start();
    let mut held: Vec<_> = (0..2).map(|n| pen.hold(client(n)).unwrap()).collect();
    let waiting = pen.connect(client(9));
    let full = event(&pen, "connections_limit", |_| true);
    has(&pen, &full, &[("connections", 2.into()), ("limit", 2.into())]);
    held.clear();
    drop(waiting);
    let over = event(&pen, "connections_limit", |event| event["id"] != full["id"]);
    has(&pen, &over, &[("limit", 2.into())]);
    assert!(over["fields"]["connections"].as_i64() < Some(2), "{over}");
}

#[test]
fn a_client_reaches_its_limits() {
    let server = Backend::named("a");
    let limits = ["-O", "per_client_max 1", "-O", "per_client_rate 3 600"];
    let pen = Pen::builder().options(limits).server(&server).control().start();
    let _held = pen.hold(client(1)).unwrap();
    assert_eq!(pen.ask(client(1)), None);
    let max = event(&pen, "client_limit", |_| true);
    let fields = [("client", "127.9.1.1".into()), ("limit", "per_client_max".into())];
    has(&pen, &max, &fields);
    has(&pen, &max, &[("connections", 1.into()), ("others", 0.into())]);
    // A client is told of once a minute, whatever its limit is.
    pen.tells("per_client_max 0", "0");
    (0..4).for_each(|_| drop(pen.ask(client(2))));
    let rate = event(&pen, "client_limit", |event| event["id"] != max["id"]);
    has(&pen, &rate, &[("client", "127.9.1.2".into()), ("limit", "per_client_rate".into())]);
    has(&pen, &rate, &[("connections", 3.into()), ("seconds", 600.into())]);
}

#[test]
fn a_server_is_full_and_clients_get_none() {
    let server = Backend::named("a");
    let pen = Pen::builder().servers_with_limits([&server], "1").control().start();
    let held = pen.hold(client(1)).unwrap();
    assert_eq!(pen.ask(client(2)), None);
    let about = [("server", 0.into()), ("address", server.operand().into())];
    let full = event(&pen, "server_limit", |_| true);
    has(&pen, &full, &about);
    has(&pen, &full, &[("limit", 1.into())]);
    has(&pen, &event(&pen, "unserved", |_| true), &[("clients", 1.into())]);
    drop(held);
    has(&pen, &event(&pen, "server_up", |_| true), &about);
}

#[test]
fn a_server_is_passed_over() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(1)
        .options(["-r", "-b", "0", "-t", "3600"])
        .control()
        .file("pending_max 1\n")
        .server(&server)
        .server_as(port.address().to_string())
        .start();
    let crowd: Vec<Client> = (0..6).map(|n| pen.connect(client(n))).collect();
    let passed = event(&pen, "server_passed_over", |_| true);
    let address = port.address().to_string();
    has(&pen, &passed, &[("server", 1.into()), ("address", address.into())]);
    assert!(passed["fields"]["reason"].as_str().unwrap().contains("pending_max"), "{passed}");
    crowd.into_iter().for_each(Client::reset);
}

#[test]
fn another_address_of_a_server_is_used() {
    let hosts = [in_etc("hosts", "127.0.0.1 both\n::1 both\n")];
    if !in_own_network("another_address_of_a_server_is_used", &hosts) {
        return;
    }
    let server = Backend::named_on(Ipv4Addr::LOCALHOST.into(), "a");
    let port = server.address().port();
    let pen = Pen::builder().server_as(format!("both:{port}")).control().start();
    assert_eq!(pen.ask(Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
    let moved = event(&pen, "server_address", |_| true);
    let from = SocketAddr::from((Ipv6Addr::LOCALHOST, port)).to_string();
    has(
        &pen,
        &moved,
        &[
            ("server", 0.into()),
            ("from", from.into()),
            ("address", server.operand().into()),
            ("reason", "connection refused".into()),
        ],
    );
}

/// Only a worker of the same user can be limited.
#[test]
fn this_machine_runs_short() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let control = Port::reserve();
    let address = control.address().to_string();
    let pen =
        Pen::builder().workers(1).options(["-C", &address, "-u", "root"]).server(&server).start();
    // They fill all gaps between descriptors.
    let _held: Vec<_> = (10..20).map(|n| pen.hold(client(n)).unwrap()).collect();
    let worker = pen.workers().remove(0);
    let highest = worker.descriptors().last().unwrap().0 as u64;
    let usual = worker.limit_descriptors(highest + 1);
    let waiting = pen.connect(client(1));
    let control = Control::Tcp(control);
    let short = until("shortage", || {
        let events: Vec<Value> = serde_json::from_str(&control.tell("events json")).unwrap();
        events.into_iter().find(|event| event["kind"] == "shortage")
    });
    has(&pen, &short, &[("during", "accept".into())]);
    assert!(short["fields"]["reason"].as_str().unwrap().starts_with("too many open files"));
    worker.limit_descriptors(usual);
    assert!(waiting.line().is_some());
}

#[test]
fn lines_of_the_log_are_lost() {
    let server = Backend::with(echo);
    let pen = Pen::builder().control().options(["-l", "/dev/full"]).server(&server).start();
    let held = pen.connect(client(1));
    held.echoes("a line");
    let lost = event(&pen, "log_lost", |_| true);
    has(&pen, &lost, &[("lines", 1.into()), ("reason", "no space left on device".into())]);
}

#[test]
fn clients_and_operators_are_refused() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server);
    let identity = Authority::root("root").issue(&["a.test"]);
    let text = format!("{}{}", identity.key, identity.chain);
    let path = write(builder.directory(), "www.pem", text);
    let pen = builder.control().options(["-E", path.to_str().unwrap()]).start();
    pen.connect(client(1)).send("this is not TLS\n");
    let refused = event(&pen, "client_refused", |_| true);
    let address = client(1).to_string();
    has(&pen, &refused, &[("client", address.into()), ("reason", "what it sent is no TLS".into())]);
    // An operator from an address that is not the test's own.
    for entry in ["acl 4 deny 127.9.1.0/24", "acl 4 permit 0.0.0.0/0", "control_acl 4"] {
        pen.tell(entry);
    }
    let Control::Tcp(port) = pen.control() else { panic!() };
    let stranger = Client::connect(client(2).into(), port.address()).unwrap();
    assert_eq!(stranger.line(), None);
    let refused = event(&pen, "client_refused", |event| event["fields"]["reason"] == "control_acl");
    has(&pen, &refused, &[("client", client(2).to_string().into())]);
}

#[test]
fn a_flood_of_refusals_pushes_nothing_else_out() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().options(["-H"]).server(&server).start();
    pen.tells("prio", "");
    let flood = || (0..40).for_each(|n| pen.connect(client(n)).send("no HTTP\r\n\r\n"));
    flood();
    let told = |pen: &Pen| -> i64 {
        let refused = |event: &Value| match event["kind"] == "client_refused" {
            true => event["fields"]["others"].as_i64().unwrap() + 1,
            false => 0,
        };
        events(pen).iter().map(refused).sum()
    };
    eventually("all are accounted for", || told(&pen) == 40);
    assert!(events(&pen).len() < 10, "few events stand for all");
    assert!(events(&pen).iter().any(|event| event["kind"] == "setting"));
}
