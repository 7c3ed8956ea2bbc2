//! Servers whose names get other addresses, or no answer.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use super::name_server::{self, Manner, NameServer};
use crate::harness::events::{event, events, has};
use crate::harness::machine::in_own_network;
use crate::harness::{Backend, Builder, Gate, Pen, Port, ask, eventually};

/// An address of this machine.
pub fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Servers at one port of these addresses, each named by the last byte of its own.
pub fn servers(addresses: &[u8]) -> (u16, Vec<Backend>) {
    let first = Port::reserve_on(IpAddr::from(at(addresses[0])));
    let port = first.address().port();
    let others = addresses[1..].iter().map(|last| first.share(IpAddr::from(at(*last)))).collect();
    let ports: Vec<Port> = std::iter::once(first).chain::<Vec<Port>>(others).collect();
    let named = addresses.iter().zip(ports);
    (port, named.map(|(last, port)| Backend::named_at(port, &last.to_string())).collect())
}

/// A pen whose first server has this name, and that looks names up each second.
pub fn follower(name: &str, port: u16) -> Builder {
    Pen::builder().server_as(format!("{name}:{port}")).options(["-O", "resolve 1"]).control()
}

fn ask_pen(pen: &Pen) -> Option<String> {
    pen.ask(Ipv4Addr::LOCALHOST)
}

/// What pen says of its first server.
pub fn first(pen: &Pen) -> Value {
    let servers: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
    servers[0].clone()
}

pub fn uses(pen: &Pen, last: u8) -> bool {
    first(pen)["address"] == at(last).to_string()
}

/// How many lookups ended well, and how many did not.
pub fn lookups(pen: &Pen) -> (u64, u64) {
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    let count = |name: &str| status["counts"][name].as_u64().unwrap();
    (count("lookups"), count("lookups_failed"))
}

/// How many events of a kind there were.
pub fn told(pen: &Pen, kind: &str) -> usize {
    events(pen).iter().filter(|event| event["kind"] == kind).count()
}

/// Waits until so many further rounds of lookups that began from now on have ended.
#[track_caller]
pub fn rounds(pen: &Pen, more: u64) {
    let all = |pen: &Pen| lookups(pen).0 + lookups(pen).1;
    // One may be under way.
    let before = all(pen);
    eventually("names are looked up", || all(pen) > before + more);
}

#[test]
fn answers_in_turns_change_nothing_and_another_one_moves_new_connections() {
    let this = "answers_in_turns_change_nothing_and_another_one_moves_new_connections";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2, 3, 4]);
    names.addresses("www.test", [at(1), at(2), at(3)]);
    names.answers("www.test", Manner::InTurns);
    let pen = follower("www.test", port).start();
    let used = ask_pen(&pen).unwrap();
    rounds(&pen, 3);
    assert_eq!(ask_pen(&pen), Some(used.clone()));
    assert_eq!(first(&pen)["addresses"].as_array().unwrap().len(), 3);
    let (open, greeting) = pen.hold(Ipv4Addr::LOCALHOST).unwrap();
    assert_eq!(greeting, used);
    let received = first(&pen)["received"].as_u64().unwrap();
    assert!(received > 0);
    names.addresses("www.test", [at(4)]);
    eventually("the server moves", || uses(&pen, 4));
    assert_eq!(ask_pen(&pen).as_deref(), Some("4"));
    // The client that is connected stays, and counts for the server.
    open.echoes("still");
    eventually("it counts", || {
        first(&pen)["received"].as_u64().unwrap() >= received + "4\nstill\n".len() as u64
    });
    let moved = event(&pen, "server_address", |_| true);
    let address = format!("127.0.0.{used}:{port}");
    let to = format!("127.0.0.4:{port}");
    has(&pen, &moved, &[("server", 0.into()), ("from", address.into()), ("address", to.into())]);
    assert_eq!(told(&pen, "server_address"), 1, "{}", pen.said());
    let server = first(&pen);
    assert_eq!(server["name"], "www.test");
    assert_eq!(server["addresses"], serde_json::json!(["127.0.0.4"]));
    assert_eq!(server["lookup"]["failing_since"], Value::Null);
}

#[test]
fn a_name_without_an_answer_leaves_its_server_where_it_is() {
    let this = "a_name_without_an_answer_leaves_its_server_where_it_is";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port).start();
    let told = |kind: &str| told(&pen, kind);
    let metric = |line: &str| pen.tell("metrics").contains(&format!("\n{line}\n"));
    assert!(metric("pen_names_failing 0"));
    let manners = [
        (Manner::NoSuchName, Some("no such host")),
        (Manner::Failure, Some("the name server does not answer")),
        (Manner::Silence, Some("the name server does not answer")),
        // What the C library makes of it is its own matter.
        (Manner::Garbage, None),
    ];
    for (outages, (manner, why)) in (1..).zip(manners) {
        names.answers("www.test", manner);
        eventually("the outage is told", || told("lookup_failed") == outages);
        let failed = event(&pen, "lookup_failed", |_| true);
        has(&pen, &failed, &[("name", "www.test".into())]);
        assert!(why.is_none_or(|why| failed["fields"]["reason"] == why), "{failed}");
        assert!(metric("pen_names_failing 1"));
        let lookup = &first(&pen)["lookup"];
        assert_eq!(lookup["reason"], failed["fields"]["reason"]);
        let words = format!(" lookup failed {}\n", lookup["reason"].as_str().unwrap());
        assert!(pen.tell("servers").ends_with(&words), "{words}");
        assert!(lookup["failing_since"].as_i64() <= lookup["last"].as_i64());
        let failed = lookups(&pen).1;
        eventually("it is tried again", || lookups(&pen).1 > failed);
        assert_eq!(ask_pen(&pen).as_deref(), Some("1"));
        assert_eq!(told("lookup_failed"), outages, "{}", pen.said());
        names.answers("www.test", Manner::InOrder);
        eventually("its end is told", || told("lookup_works") == outages);
        let works = event(&pen, "lookup_works", |_| true);
        has(&pen, &works, &[("name", "www.test".into())]);
        assert!(!pen.tell("servers").contains("lookup"));
    }
    assert_eq!(told("server_address"), 0);
    // It is followed as before.
    names.addresses("www.test", [at(2)]);
    eventually("the server moves", || uses(&pen, 2));
}

#[test]
fn one_address_of_a_hundred_stays_in_use_in_any_order() {
    let this = "one_address_of_a_hundred_stays_in_use_in_any_order";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 101]);
    names.addresses("www.test", [at(101)]);
    let pen = follower("www.test", port).start();
    assert_eq!(ask_pen(&pen).as_deref(), Some("101"));
    names.addresses("www.test", (2..=101).map(at));
    names.answers("www.test", Manner::InTurns);
    let addresses = || first(&pen)["addresses"].as_array().unwrap().len();
    eventually("the first sixteen are known", || addresses() == 16);
    rounds(&pen, 3);
    assert!(uses(&pen, 101));
    assert_eq!(ask_pen(&pen).as_deref(), Some("101"));
    assert_eq!(told(&pen, "server_address"), 0, "{}", pen.said());
    names.addresses("www.test", (1..=100).map(at));
    event(&pen, "server_address", |_| true);
}

#[test]
fn an_address_that_is_an_alternative_stays_in_use() {
    let this = "an_address_that_is_an_alternative_stays_in_use";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[2, 3]);
    names.addresses("www.test", [at(2)]);
    let pen = follower("www.test", port).start();
    assert_eq!(ask_pen(&pen).as_deref(), Some("2"));
    // Nobody listens at 127.0.0.1, so 127.0.0.3 is used, which is behind it.
    names.addresses("www.test", [at(1), at(3)]);
    eventually("the server moves", || !uses(&pen, 2));
    assert_eq!(ask_pen(&pen).as_deref(), Some("3"));
    names.addresses("www.test", [at(4), at(3)]);
    eventually("the addresses are known", || first(&pen)["addresses"].to_string().contains(".4"));
    assert!(uses(&pen, 3));
    assert_eq!(ask_pen(&pen).as_deref(), Some("3"));
    assert_eq!(first(&pen)["connect_failures"].to_string().matches(r#""count":1"#).count(), 1);
    names.addresses("www.test", [at(3)]);
    eventually("one is left", || first(&pen)["addresses"].as_array().unwrap().len() == 1);
    assert!(uses(&pen, 3));
    assert_eq!(told(&pen, "server_address"), 2, "the move, and the failover: {}", pen.said());
}

#[test]
fn a_move_ends_a_blacklisting_by_traffic_and_not_one_by_command() {
    let this = "a_move_ends_a_blacklisting_by_traffic_and_not_one_by_command";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, servers) = servers(&[1, 2]);
    names.addresses("one.test", [at(1)]);
    names.addresses("two.test", [at(1)]);
    names.addresses("last.test", [at(1)]);
    let pen = follower("one.test", port)
        .server_as(format!("two.test:{port}"))
        .options(["-b", "3600", "-e", &format!("last.test:{port}")])
        .start();
    pen.tells("server 1 blacklist 3600", "");
    servers[0].stop();
    assert_eq!(ask_pen(&pen), None);
    assert!(first(&pen)["blacklisted"].as_u64().unwrap() > 0);
    for name in ["one.test", "two.test", "last.test"] {
        names.addresses(name, [at(2)]);
    }
    eventually("the servers move", || told(&pen, "server_address") == 3);
    let servers: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
    assert_eq!(servers[0]["blacklisted"], 0);
    assert_eq!(servers[1]["state"], "out");
    assert_eq!(ask_pen(&pen).as_deref(), Some("2"));
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    assert_eq!(status["emergency"]["address"], "127.0.0.2");
}

#[test]
fn a_reload_that_finds_another_address_finds_the_same_server() {
    let this = "a_reload_that_finds_another_address_finds_the_same_server";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    names.addresses("other.test", [at(1)]);
    let text = format!("server 0 address www.test port {port}\n");
    let pen = Pen::builder().file(&(text.clone() + "resolve 0\n")).control().start();
    assert_eq!(ask_pen(&pen).as_deref(), Some("1"));
    eventually("it counts", || first(&pen)["received"] == 2);
    let wait = thread::scope(|scope| {
        let (open, _) = pen.hold(Ipv4Addr::LOCALHOST).unwrap();
        let wait = scope.spawn(|| pen.tell("drain 0 wait 60"));
        eventually("it drains", || first(&pen)["mode"] == "drain");
        names.addresses("www.test", [at(2)]);
        pen.supervisor().signal(Signal::HUP);
        event(&pen, "server_address", |_| true);
        assert!(!wait.is_finished());
        drop(open);
        wait.join().unwrap()
    });
    assert_eq!(wait, "drained\n");
    pen.tells("server 0 state ready", "");
    assert_eq!(ask_pen(&pen).as_deref(), Some("2"));
    eventually("the counts go on", || first(&pen)["received"] == 6);
    // With resolve 0 only a command or a reload asks.
    assert_eq!(lookups(&pen), (0, 0));
    let asked = names.asked("www.test");
    // Another name is another server, also at the same address.
    names.addresses("other.test", [at(2)]);
    fs::write(pen.directory().join("pen.cfg"), text.replace("www", "other")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || first(&pen)["name"] == "other.test");
    assert_eq!(ask_pen(&pen).as_deref(), Some("2"));
    pen.tells(&format!("server 0 address 127.0.0.1 port {port}"), "");
    assert_eq!(first(&pen)["received"], 0);
    assert_eq!(names.asked("www.test"), asked);
    pen.tells("resolve", "0");
    pen.tells("resolve 1", "1");
    pen.tells(&format!("server 0 address www.test port {port}"), "");
    rounds(&pen, 1);
}

#[test]
fn a_late_answer_holds_up_neither_clients_nor_commands() {
    let this = "a_late_answer_holds_up_neither_clients_nor_commands";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, _servers) = servers(&[1, 2, 3]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port).start();
    let gate = Gate::closed();
    names.addresses("www.test", [at(2)]);
    names.answers("www.test", Manner::Late(gate.clone()));
    let asked = names.asked("www.test");
    eventually("it is asked", || names.asked("www.test") > asked);
    assert_eq!(ask_pen(&pen).as_deref(), Some("1"));
    // A command that looks the name up meanwhile has the newer answer.
    names.addresses("www.test", [at(3)]);
    names.answers("www.test", Manner::InOrder);
    pen.tells(&format!("server 0 address www.test port {port}"), "");
    assert!(uses(&pen, 3));
    gate.open();
    rounds(&pen, 2);
    assert!(uses(&pen, 3));
    assert_eq!(told(&pen, "server_address"), 1, "{}", pen.said());
}

#[test]
fn a_check_goes_where_its_server_goes() {
    let this = "a_check_goes_where_its_server_goes";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, servers) = servers(&[1, 2]);
    names.addresses("www.test", [at(1)]);
    let pen = follower("www.test", port)
        .options(["-O", "check tcp", "-O", "check_interval 1", "-O", "check_fall 1"])
        .options(["-O", "no fail_open"])
        .start();
    let verdict = |wanted: &str| first(&pen)["check"]["state"] == wanted;
    eventually("it is up", || verdict("up"));
    servers[0].stop();
    eventually("it is down", || verdict("down"));
    assert_eq!(ask_pen(&pen), None);
    names.addresses("www.test", [at(2)]);
    eventually("it is up elsewhere", || verdict("up"));
    assert_eq!(ask_pen(&pen).as_deref(), Some("2"));
    servers[1].stop();
    eventually("it is down there", || verdict("down"));
}

#[test]
fn no_client_fails_while_a_hundred_servers_move_ten_times() {
    const NAMES: usize = 100;
    const ROUNDS: usize = 10;
    let this = "no_client_fails_while_a_hundred_servers_move_ten_times";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let (port, backends) = servers(&[1, 2]);
    let name = |number: usize| format!("www{number}.test");
    (0..NAMES).for_each(|number| names.addresses(&name(number), [at(1)]));
    let mut builder = Pen::builder().options(["-r", "-S", "100", "-O", "resolve 1"]);
    for number in 0..NAMES {
        builder = builder.server_as(format!("{}:{port}", name(number)));
    }
    let pen = builder.control().start();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (1..=4)
            .map(|client| {
                let (done, asked, to) = (&done, &asked, pen.address());
                scope.spawn(move || {
                    let mut answers = BTreeSet::new();
                    while !done.load(SeqCst) {
                        answers.insert(ask(to, Ipv4Addr::new(127, 1, 0, client).into()));
                        asked.fetch_add(1, SeqCst);
                    }
                    answers
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let there = 2 - round as u8 % 2;
            (0..NAMES).for_each(|number| names.addresses(&name(number), [at(there)]));
            let address = format!(r#""address":"{}""#, at(there));
            eventually("all have moved", || {
                pen.tell("servers json").matches(&address).count() == NAMES
            });
        }
        done.store(true, SeqCst);
        let both = ["1", "2"].map(|name| Some(name.to_owned()));
        for client in clients {
            assert_eq!(client.join().unwrap(), both.clone().into(), "every client is served");
        }
    });
    let moved = pen.said().matches(" is no longer its address; using ").count();
    assert_eq!(moved, NAMES * ROUNDS);
    eprintln!("{} clients during {moved} changes", asked.load(SeqCst));
    assert!(backends.iter().all(|backend| backend.accepted() > 100));
}
