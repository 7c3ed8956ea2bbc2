//! `servers_from`: servers follow the addresses of a name, or its SRV records.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use super::name_server::{self, Manner, NameServer, Srv};
use crate::harness::backend::echo;
use crate::harness::events::event;
use crate::harness::machine::{example, in_own_network};
use crate::harness::{Backend, Builder, Pen, Port, SetOnDrop, eventually};
use crate::upgrade::Installed;

pub const NAME: &str = "web.test";

/// An address of this machine.
pub fn at(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, last)
}

/// A server at a port of all addresses of this machine. It greets with the one that was asked.
pub fn everywhere() -> Backend {
    Backend::with_on(Ipv4Addr::UNSPECIFIED.into(), |mut connection| {
        let address = connection.local_addr()?.as_socket().unwrap();
        connection.write_all(format!("{}\n", address.ip()).as_bytes())?;
        echo(connection)
    })
}

/// A pen whose servers 0 to 3 follow the name; it is looked up each second.
pub fn follower(servers: &Backend) -> Builder {
    let port = servers.address().port();
    Pen::builder()
        .workers(2)
        .control()
        .file(&format!("resolve 1\nservers_from {NAME} {port} 0-3\n"))
}

/// The slots of a pen that have a server: the last byte of each address, with `-` if its record is
/// gone.
pub fn slots(pen: &Pen) -> Vec<String> {
    let reply = pen.tell("servers");
    let slot = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let last = words[2].rsplit('.').next().unwrap_or_default();
        let gone = if line.ends_with("record gone") { "-" } else { "" };
        format!("{last}{gone}")
    };
    reply.lines().map(slot).map(|slot| if slot == "-" { "_".into() } else { slot }).collect()
}

#[track_caller]
pub fn become_slots(pen: &Pen, wanted: &[&str]) {
    let mut seen = Vec::new();
    let found = crate::harness::wait::within(crate::harness::PATIENCE, || {
        seen = slots(pen);
        seen == wanted
    });
    assert!(found, "slots are {seen:?} and not {wanted:?}\n{}", pen.said());
}

/// Waits until the name was looked up again, and that has taken effect.
#[track_caller]
fn looked_up(names: &NameServer, name: &str) {
    // Two questions for each lookup; the second lookup begins when the first has taken effect.
    let before = names.asked(name);
    eventually("the name is looked up", || names.asked(name) >= before + 5);
}

/// A client's address.
pub fn client(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 2, 0, last).into()
}

/// The servers that so many new clients get.
pub fn got(pen: &Pen, clients: std::ops::Range<u8>) -> BTreeSet<String> {
    clients.map(|last| pen.ask(client(last)).expect("a server")).collect()
}

pub fn set(lasts: &[u8]) -> BTreeSet<String> {
    lasts.iter().map(|last| at(*last).to_string()).collect()
}

#[test]
fn the_servers_of_a_name_are_there_from_the_start_and_answers_in_turns_move_none() {
    let this = "the_servers_of_a_name_are_there_from_the_start_and_answers_in_turns_move_none";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [3, 1, 2].map(at));
    names.answers(NAME, Manner::InTurns);
    let pen = follower(&servers).start();
    assert_eq!(slots(&pen), ["1", "2", "3"]);
    assert_eq!(got(&pen, 1..30), set(&[1, 2, 3]));
    looked_up(&names, NAME);
    assert_eq!(slots(&pen), ["1", "2", "3"]);
    assert_eq!(pen.tell("events").matches(NAME).count(), 0);
    assert!(!pen.said().contains(NAME), "{}", pen.said());
    let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
    assert_eq!(status["servers"][1]["follows"]["name"], NAME);
    assert_eq!(status["servers"][1]["follows"]["record"], "present");
}

#[test]
fn a_server_that_is_gone_keeps_the_clients_that_it_knows_and_then_leaves_its_slot() {
    let this = "a_server_that_is_gone_keeps_the_clients_that_it_knows_and_then_leaves_its_slot";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [1, 2].map(at));
    let pen = follower(&servers).start();
    let (open, known) = (1..20)
        .find_map(|last| {
            let (open, server) = pen.hold(client(last))?;
            (server == at(2).to_string()).then_some((open, last))
        })
        .unwrap();
    names.addresses(NAME, [1].map(at));
    become_slots(&pen, &["1", "2-"]);
    pen.hears(&format!("is no longer an address of {NAME}: it gets no new clients"));
    assert_eq!(got(&pen, 30..60), set(&[1]));
    assert_eq!(pen.ask(client(known)), Some(at(2).to_string()), "it knows this client");
    open.echoes("still here");
    let explained = pen.tell("explain 127.2.0.99");
    assert!(
        !explained.contains("server 1 (")
            || explained.contains(&format!("no longer an address of {NAME}, no new clients")),
        "{explained}"
    );
    let gone = event(&pen, "server_state", |event| event["fields"]["record"] == "gone");
    assert_eq!(
        (&gone["fields"]["server"], &gone["fields"]["name"]),
        (&Value::from(1), &Value::from(NAME))
    );
    // It is back.
    names.addresses(NAME, [1, 2].map(at));
    become_slots(&pen, &["1", "2"]);
    assert_eq!(got(&pen, 60..90), set(&[1, 2]));
    // It is gone for good.
    names.addresses(NAME, [1].map(at));
    become_slots(&pen, &["1", "2-"]);
    looked_up(&names, NAME);
    become_slots(&pen, &["1", "2-"]);
    open.finish();
    become_slots(&pen, &["1"]);
    names.addresses(NAME, [1, 7].map(at));
    become_slots(&pen, &["1", "7"]);
    assert_eq!(got(&pen, 90..120), set(&[1, 7]));
}

#[test]
fn a_name_without_an_answer_keeps_its_servers_and_is_told_once() {
    let this = "a_name_without_an_answer_keeps_its_servers_and_is_told_once";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [1, 2].map(at));
    let pen = follower(&servers).start();
    for (manner, reason) in [
        (Manner::NoSuchName, "no such host"),
        (Manner::Failure, "the name server does not answer"),
        (Manner::Silence, "the name server does not answer"),
        (Manner::Garbage, "the name server does not answer"),
    ] {
        let before = pen.said().matches(reason).count();
        names.answers(NAME, manner);
        eventually("the outage is told", || pen.said().matches(reason).count() > before);
        looked_up(&names, NAME);
        assert_eq!(pen.said().matches(reason).count(), before + 1, "{}", pen.said());
        assert_eq!(slots(&pen), ["1", "2"]);
        assert_eq!(got(&pen, 1..20), set(&[1, 2]));
        names.answers(NAME, Manner::InOrder);
        names.addresses(NAME, [1, 2].map(at));
        looked_up(&names, NAME);
    }
    assert!(!pen.said().contains("no longer an address"), "{}", pen.said());
}

#[test]
fn without_a_name_server_a_start_warns_and_goes_on_without_servers() {
    let this = "without_a_name_server_a_start_warns_and_goes_on_without_servers";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let servers = everywhere();
    let port = servers.address().port();
    let never = Pen::builder().file(&format!("resolve 0\nservers_from {NAME} {port} 0-3\n"));
    let said = String::from_utf8(never.fails().stderr).unwrap();
    assert!(said.contains(&format!("pen.cfg:2: servers_from: cannot resolve {NAME}: ")), "{said}");
    let warning = format!(
        "pen.cfg:2: servers_from: cannot resolve {NAME}: the name server does not \
                           answer; it is asked for again"
    );
    let checked = follower(&servers).options(["--check"]).runs();
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stderr).contains(&warning), "{checked:?}");
    let pen = follower(&servers).start();
    pen.hears(&warning);
    assert_eq!((slots(&pen), pen.ask(client(1))), (vec![], None));
    let names = NameServer::start();
    names.addresses(NAME, [1, 2].map(at));
    become_slots(&pen, &["1", "2"]);
    assert_eq!(got(&pen, 1..20), set(&[1, 2]));
}

#[test]
fn more_servers_than_slots_are_told_of() {
    let this = "more_servers_than_slots_are_told_of";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, (1..=6).map(at));
    let pen = follower(&servers).start();
    pen.hears(&format!("2 of 6 addresses of {NAME} have no slot"));
    assert_eq!(slots(&pen), ["1", "2", "3", "4"]);
    names.addresses(NAME, (3..=7).map(at));
    become_slots(&pen, &["5", "6", "3", "4"]);
    pen.hears(&format!("1 of 5 addresses of {NAME} have no slot"));
    looked_up(&names, NAME);
    assert_eq!(pen.said().matches("have no slot").count(), 2, "{}", pen.said());
    names.addresses(NAME, (4..=7).map(at));
    become_slots(&pen, &["5", "6", "7", "4"]);
    pen.hears(&format!("all addresses of {NAME} have a slot again"));
}

#[test]
fn commands_and_files_look_names_up_at_once_and_slots_keep_what_operators_set() {
    let this = "commands_and_files_look_names_up_at_once_and_slots_keep_what_operators_set";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers, own) = (NameServer::start(), everywhere(), Backend::named("own"));
    names.addresses(NAME, [1, 2].map(at));
    let port = servers.address().port();
    let text = format!(
        "resolve 3600\nservers_only\nserver 9 address {} port {}\n",
        own.address().ip(),
        own.address().port()
    );
    let pen = Pen::builder().control().file(&text).start();
    pen.tells(&format!("servers_from {NAME} {port} 0-3"), "");
    assert_eq!(slots(&pen)[..4], ["1", "2", "_", "_"]);
    for (line, why) in [
        ("server 1 address 127.0.0.1", "number 1 follows web.test, which gives its address"),
        ("server 1 port 80", "number 1 follows web.test, which gives its port"),
        (
            "no server 1",
            "number 1 follows web.test; say no servers_from web.test, or server 1 state",
        ),
        ("servers_from web.test 80 8-10", "server 9 has an address of its own"),
        ("servers_from none.test 80 4-5", "cannot resolve none.test: no such host"),
        (
            "servers_from _a._tcp.test 80 4-5 srv",
            "cannot resolve _a._tcp.test: no such service (srv)",
        ),
        ("no servers_from none.test", "no server follows none.test"),
    ] {
        let reply = pen.refuses(line);
        assert!(reply.contains(why), "{line}: {reply}");
    }
    pen.tells("server 0 state maint", "");
    pen.tells("server 3 max 7 hard 9", "");
    assert_eq!(got(&pen, 1..20), [at(2).to_string(), "own".into()].into());
    let written = pen.tell("write -");
    let lines: Vec<&str> = written.lines().filter(|line| line.starts_with("server")).collect();
    let ours = format!("servers_from {NAME} {port} 0-3");
    assert_eq!(
        lines[..3],
        [ours.as_str(), "server 0 state maint", "server 3 max 7 hard 9"],
        "{written}"
    );
    // What was written is read again, by a start and by HUP.
    let file = pen.directory().join("pen.cfg");
    let of_servers = |line: &&str| line.starts_with("server") || line.starts_with("resolve");
    let kept: Vec<&str> = written.lines().filter(of_servers).collect();
    let kept = kept.join("\n") + "\n";
    fs::write(&file, &kept).unwrap();
    names.addresses(NAME, [1, 2, 5, 6].map(at));
    pen.supervisor().signal(Signal::HUP);
    become_slots(&pen, &["1", "2", "5", "6", "_", "_", "_", "_", "_", &last_of(&own)]);
    assert!(pen.tell("show server 3").starts_with("server 3 acl 0 max 7 hard 9 "));
    assert!(pen.tell("servers").lines().next().unwrap().contains(" state maint from web.test "));
    drop(pen);
    let pen = Pen::builder().control().file(&kept).start();
    become_slots(&pen, &["1", "2", "5", "6", "_", "_", "_", "_", "_", &last_of(&own)]);
    assert!(pen.tell("show server 3").starts_with("server 3 acl 0 max 7 hard 9 "));
    let file = pen.directory().join("pen.cfg");
    // A file that names all servers, and not these.
    fs::write(&file, &text).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("only one is left", || pen.tell("servers").matches(" addr 127").count() == 1);
    pen.tells("show servers_from", "");
}

/// The last byte of a server's address.
fn last_of(server: &Backend) -> String {
    server.address().ip().to_string().rsplit('.').next().unwrap().to_owned()
}

#[test]
fn srv_records_say_where_servers_are_and_how_much_they_take() {
    let this = "srv_records_say_where_servers_are_and_how_much_they_take";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, low, high) = (NameServer::start(), everywhere(), everywhere());
    let (low, high) = (low.address().port(), high.address().port());
    let record = |priority, weight, port, target| Srv { priority, weight, port, target };
    let service = "_http._tcp.test";
    names.services(
        service,
        &[
            record(0, 3, low, "a.test"),
            record(0, 0, high, "a.test"),
            record(5, 1, 0, "b.test"),
            record(0, 1, low, "nobody.test"),
        ],
    );
    names.addresses("a.test", [at(1)]);
    names.addresses("b.test", [at(2)]);
    let text = format!("resolve 1\nservers_from {service} {low} 0-3 srv\nprio\n");
    let pen = Pen::builder().control().file(&text).start();
    let rows = |pen: &Pen| -> Vec<String> {
        let reply = pen.tell("servers");
        let row = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            [words[2], words[4], words[12], words[14]].join(" ")
        };
        reply.lines().map(row).collect()
    };
    let row = |last, port, weight, prio| format!("{} {port} {weight} {prio}", at(last));
    let mut expected = [row(1, low, 3, 0), row(1, high, 1, 0), row(2, low, 1, 5)];
    expected[..2].sort_by_key(|row| row.split(' ').nth(1).unwrap().parse::<u16>().unwrap());
    assert_eq!(rows(&pen), expected);
    assert_eq!(got(&pen, 1..20), set(&[1]), "the one with the higher prio is for later");
    // A weight changes, and a host of which the answer says no address.
    names.answers("b.test", Manner::Truncated);
    names.services(service, &[record(0, 9, low, "a.test"), record(0, 2, low, "b.test")]);
    eventually("the weights are those of the records", || {
        let now = rows(&pen);
        now.contains(&row(1, low, 9, 0)) && now.contains(&row(2, low, 2, 0))
    });
    pen.hears(&format!("the SRV record of {service} says weight 9, prio 0"));
    pen.tells("no prio", "");
    eventually("new clients come to both", || got(&pen, 20..60) == set(&[1, 2]));
    for manner in [Manner::Truncated, Manner::InTurns] {
        names.answers(service, manner);
        looked_up_srv(&names, service);
    }
    // No host can be found now: that is no reason to leave them.
    names.answers("a.test", Manner::Failure);
    names.answers("b.test", Manner::Failure);
    pen.hears(&format!("cannot resolve {service}: the name server does not answer"));
    names.answers("a.test", Manner::InOrder);
    names.answers("b.test", Manner::InOrder);
    names.answers(service, Manner::NoSuchName);
    looked_up_srv(&names, service);
    eventually("both stay", || got(&pen, 60..90) == set(&[1, 2]));
    assert!(
        !pen.tell("servers").contains("weight 9 prio 0 sx 0 rx 0 from _http._tcp.test record gone")
    );
}

/// The same as [`looked_up`] for SRV records, of which a lookup asks one question or more.
#[track_caller]
fn looked_up_srv(names: &NameServer, name: &str) {
    let before = names.asked(name);
    eventually("the name is looked up", || names.asked(name) >= before + 6);
}

#[test]
fn a_thousand_servers_come_over_tcp() {
    let this = "a_thousand_servers_come_over_tcp";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    let all = (0..1500u16).map(|n| Ipv4Addr::new(127, 3, (n >> 8) as u8, n as u8));
    names.addresses(NAME, all.clone());
    let port = servers.address().port();
    let text = format!("resolve 1\nservers_from {NAME} {port} 0-1599\n");
    let pen = Pen::builder().control().file(&text).start();
    assert_eq!(pen.tell("servers").matches("record present").count(), 1500);
    assert!(pen.ask(client(1)).unwrap().starts_with("127.3."));
    // Half of them go: one line says so.
    names.addresses(NAME, all.take(750));
    pen.hears(&format!("servers of {NAME}: 750 gone"));
    eventually("they leave", || !pen.tell("servers").contains("record gone"));
    assert_eq!(pen.tell("servers").matches("record present").count(), 750);
    assert!(pen.said().lines().count() < 20, "{}", pen.said());
}

#[test]
fn slots_last_over_the_death_of_a_worker_and_an_upgrade() {
    let this = "slots_last_over_the_death_of_a_worker_and_an_upgrade";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let (names, servers) = (NameServer::start(), everywhere());
    names.addresses(NAME, [5, 6].map(at));
    let pen = Installed::start(follower(&servers));
    names.addresses(NAME, [1, 5, 6].map(at));
    become_slots(&pen, &["5", "6", "1"]);
    let hold = |last| pen.hold(client(last)).filter(|(_, at)| *at == self::at(6).to_string());
    let (open, _) = pen.only(0, || (1..20).find_map(hold)).unwrap();
    names.addresses(NAME, [1, 5].map(at));
    become_slots(&pen, &["5", "6-", "1"]);
    let killed = pen.workers().remove(1);
    killed.kill();
    pen.hears(&format!("(pid {}) was killed by signal 9; ", killed.pid()));
    eventually("it is replaced", || pen.workers().iter().all(|now| now.pid() != killed.pid()));
    assert_eq!(slots(&pen), ["5", "6-", "1"]);
    assert_eq!(got(&pen, 30..60), set(&[1, 5]));
    assert_eq!(pen.upgrade("9.9.1"), 1);
    assert_eq!(slots(&pen), ["5", "6-", "1"]);
    assert_eq!(got(&pen, 60..90), set(&[1, 5]));
    // The connection of the old worker counts.
    looked_up(&names, NAME);
    open.echoes("still here");
    assert_eq!(slots(&pen), ["5", "6-", "1"]);
    open.finish();
    become_slots(&pen, &["5", "_", "1"]);
}

#[test]
fn no_client_fails_while_servers_come_and_go() {
    let this = "no_client_fails_while_servers_come_and_go";
    if !in_own_network(this, &name_server::setup()) {
        return;
    }
    let names = NameServer::start();
    let port = Port::reserve_on(Ipv4Addr::UNSPECIFIED.into());
    let number = port.address().port();
    let mut servers = Command::new(example("generator"))
        .args(["serve", &format!("0.0.0.0:{number}"), "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(servers.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    // 100 of 200 addresses at a time; each round takes all of them away and brings the others.
    let addresses = |round: u8| (1..=100).map(move |last| Ipv4Addr::new(127, 4, round % 2, last));
    names.addresses(NAME, addresses(0));
    let text = format!("resolve 1\nservers_from {NAME} {number} 0-255\n");
    let pen =
        Pen::builder().workers(2).control().options(["-r", "-x", "20000"]).file(&text).start();
    let over = AtomicBool::new(false);
    // The load goes on as long as the changes do.
    let load = || {
        let (mut errors, mut units) = (0, 0);
        while !over.load(SeqCst) || units == 0 {
            let clients = Command::new(example("generator"))
                .args(["short", &pen.address().to_string(), "rate=500", "clients=100"])
                .args(["milliseconds=2000", "bytes=64"])
                .output()
                .unwrap();
            let result: Value = serde_json::from_slice(&clients.stdout).unwrap();
            errors += result["errors"].as_u64().unwrap();
            units += result["units"].as_u64().unwrap();
        }
        (errors, units)
    };
    let changes = || pen.said().matches(&format!("servers of {NAME}: ")).count();
    let (errors, units) = thread::scope(|scope| {
        let clients = scope.spawn(load);
        {
            let _ends = SetOnDrop(&over);
            for round in 1..=4 {
                names.addresses(NAME, addresses(round));
                eventually("the others are there", || {
                    let reply = pen.tell("servers");
                    let wanted = format!(" addr 127.4.{}.", round % 2);
                    let there =
                        |line: &&str| line.contains(&wanted) && line.ends_with("record present");
                    reply.lines().filter(there).count() == 100
                });
            }
            assert!(changes() >= 4, "{}", pen.said());
        }
        clients.join().unwrap()
    });
    servers.kill().unwrap();
    servers.wait().unwrap();
    assert_eq!(errors, 0, "of {units} clients; {}", pen.said());
    assert!(units > 500, "{units}");
}
