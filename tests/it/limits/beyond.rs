//! What becomes of connections beyond a limit: a reset, the tarpit, the abuse server.

use std::io::ErrorKind;

use super::{beyond, client, fill, open, overview};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Pen, Process, eventually};

fn tarpitted(pen: &Pen) -> u64 {
    overview(pen)["tarpitted"].as_u64().unwrap()
}

#[test]
fn connections_are_kept_open_and_silent_in_a_quarter_of_all() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(2)
        .options(["-x", "17", "-O", "per_client_max 2", "-O", "tarpit 600"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 2);
    let caught: Vec<Client> = (0..4).map(|_| pen.connect(client(1))).collect();
    eventually("four are kept", || tarpitted(&pen) == 4);
    assert_eq!(pen.connect(client(1)).line(), None, "a fifth is reset");
    caught.iter().for_each(|one| one.send("hello"));
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"), "another client");
    assert!(caught.iter().all(|one| !one.has_news()));
    assert_eq!(overview(&pen)["connections"], 6, "they count under -x");
    assert_eq!(open(&pen, client(1)), 2);
    eventually("all are counted", || beyond(&pen) == [5, 0]);
    let said = pen.tell("explain 127.84.0.1");
    assert!(said.ends_with("beyond per_client_max: the connection would be reset\n"), "{said}");
    // One that leaves makes room.
    let mut caught = caught.into_iter();
    caught.next().unwrap().reset();
    eventually("three are kept", || tarpitted(&pen) == 3);
    let said = pen.tell("explain 127.84.0.1");
    assert!(said.contains("would be kept open and silent for 600 s (tarpit)"), "{said}");
    let again = pen.connect(client(1));
    eventually("four are kept", || tarpitted(&pen) == 4);
    // A shorter time ends them.
    pen.tells("tarpit 0", "0");
    for one in caught.chain([again]) {
        assert_eq!(one.line(), None);
    }
    eventually("none is kept", || tarpitted(&pen) == 0);
}

#[test]
fn a_dead_workers_tarpit_has_room_again() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(2)
        .options(["-x", "40", "-O", "per_client_max 1", "-O", "tarpit 600"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 1);
    let _caught: Vec<Client> = (0..10).map(|_| pen.connect(client(1))).collect();
    eventually("ten are kept", || tarpitted(&pen) == 10);
    let status = overview(&pen);
    let workers = status["worker_list"].as_array().unwrap();
    let most = workers.iter().max_by_key(|one| one["connections"].as_u64()).unwrap();
    Process::open(most["pid"].as_i64().unwrap() as i32).unwrap().kill();
    eventually("its connections are counted no more", || tarpitted(&pen) < 10);
    let more: Vec<Client> = (0..10).map(|_| pen.connect(client(1))).collect();
    eventually("ten are kept again", || tarpitted(&pen) >= 9);
    drop(more);
}

#[test]
fn the_abuse_server_gets_them_and_they_are_not_counted() {
    let [server, abuse] = [Backend::named("a"), Backend::named("abuse")];
    let operand = abuse.operand();
    let pen = Pen::builder()
        .options(["-B", &operand, "-O", "per_client_max 2", "-O", "abuse_over on"])
        // The abuse server comes first.
        .options(["-O", "tarpit 600"])
        .control()
        .server(&server)
        .start();
    let held = fill(&pen, client(1), 2);
    let diverted: Vec<(Client, String)> =
        (0..3).map(|_| pen.hold(client(1)).expect("the abuse server has room")).collect();
    assert!(diverted.iter().all(|(_, name)| name == "abuse"));
    assert_eq!(open(&pen, client(1)), 2);
    eventually("all are counted", || beyond(&pen) == [3, 0]);
    let said = pen.tell("explain 127.84.0.1");
    assert!(said.ends_with("the connection would go to the abuse server (abuse_over)\n"), "{said}");
    drop(held);
    eventually("those within the limit are gone", || open(&pen, client(1)) == 0);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    abuse.stop();
    pen.tells("tarpit 0", "0");
    let _held = fill(&pen, client(1), 2);
    assert_eq!(pen.ask(client(1)), None, "there is no abuse server");
    let status = overview(&pen);
    let refused = status["counts"]["refused"].as_array().unwrap();
    assert!(refused.iter().all(|one| one["count"] == 0), "no access list refused: {refused:?}");
}

/// What `explain` says last of a client.
fn fate(pen: &Pen, n: u8) -> String {
    pen.tell(&format!("explain {}", client(n))).lines().last().unwrap().to_owned()
}

/// Whether a connection ends with a reset, and nothing before it.
fn is_reset(one: &Client) -> bool {
    one.read_to_end().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn what_the_abuse_server_cannot_take_is_reset_or_goes_to_the_tarpit() {
    let [server, abuse] = [Backend::named("a"), Backend::named("abuse")];
    let operand = abuse.operand() + ":1";
    let pen = Pen::builder()
        .options(["-x", "8", "-B", &operand, "-O", "per_client_max 1", "-O", "abuse_over on"])
        // Who is beyond a limit does not wait for a server.
        .options(["-O", "hold 3600"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 1);
    let (diverted, name) = pen.hold(client(1)).expect("the abuse server has room");
    assert_eq!(name, "abuse");
    let said = pen.tell("explain 127.84.0.1");
    assert!(said.contains("): full (1 of 1)\nbeyond per_client_max: the connection"), "{said}");
    assert_eq!(fate(&pen, 1), "beyond per_client_max: the connection would be reset");
    assert!(is_reset(&pen.connect(client(1))));
    eventually("it is told of", || pen.said().contains("further ones are not passed on to it"));
    assert!(!pen.said().contains("raise its max"), "{}", pen.said());
    // The tarpit gets two of eight.
    pen.tells("tarpit 600", "600");
    let silent = "beyond per_client_max: the connection would be kept open and silent for 600 s \
                  (tarpit)";
    let mut caught = Vec::new();
    for kept in 1..=2 {
        assert_eq!(fate(&pen, 1), silent);
        caught.push(pen.connect(client(1)));
        eventually("it is kept", || tarpitted(&pen) == kept);
    }
    assert_eq!(fate(&pen, 1), "beyond per_client_max: the connection would be reset");
    assert!(is_reset(&pen.connect(client(1))));
    drop(diverted);
    eventually("the abuse server has room", || fate(&pen, 1).contains("the abuse server"));
    assert_eq!(pen.hold(client(1)).expect("it has room").1, "abuse");
}

#[test]
fn an_abuse_server_that_is_gone_leaves_them_to_the_tarpit() {
    let [server, abuse] = [Backend::named("a"), Backend::named("abuse")];
    let operand = abuse.operand();
    let pen = Pen::builder()
        .options(["-B", &operand, "-O", "per_client_max 1", "-O", "abuse_over on"])
        .options(["-O", "hold 3600", "-O", "tarpit 600"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 1);
    abuse.stop();
    // The first one finds out, and those after it know: both are kept.
    let first = pen.connect(client(1));
    eventually("it is kept", || tarpitted(&pen) == 1);
    let said = pen.tell("explain 127.84.0.1");
    assert!(said.contains("abuse server") && said.contains(": blacklisted for"), "{said}");
    assert!(said.contains("would be kept open and silent for 600 s (tarpit)"), "{said}");
    let second = pen.connect(client(1));
    eventually("it is kept", || tarpitted(&pen) == 2);
    assert!(!first.has_news() && !second.has_news());
    pen.tells("tarpit 0", "0");
    assert!(is_reset(&first) && is_reset(&second));
    assert!(is_reset(&pen.connect(client(1))));
    assert_eq!(overview(&pen)["held"], 0);
    assert_eq!(overview(&pen)["counts"]["unserved"], 0, "they are limited");
}

#[test]
fn in_a_pause_none_waits_and_the_abuse_server_gets_none() {
    let [server, abuse] = [Backend::named("a"), Backend::named("abuse")];
    let operand = abuse.operand();
    let pen = Pen::builder()
        .options(["-B", &operand, "-O", "per_client_max 2", "-O", "abuse_over on"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 2);
    pen.tells("pause", "");
    assert_eq!(fate(&pen, 1), "beyond per_client_max: the connection would be reset");
    assert!(is_reset(&pen.connect(client(1))));
    let other = pen.connect(client(2));
    eventually("another client waits", || overview(&pen)["held"] == 1);
    pen.tells("resume", "");
    assert_eq!(other.line().as_deref(), Some("a"));
    let (_diverted, name) = pen.hold(client(1)).expect("the abuse server has room");
    assert_eq!(name, "abuse");
}

#[test]
fn a_client_whose_connections_went_to_the_abuse_server_keeps_its_own_server() {
    let [one, two, abuse] = [Backend::named("a"), Backend::named("b"), Backend::named("abuse")];
    let operand = abuse.operand();
    let pen = Pen::builder()
        .options(["-B", &operand, "-O", "per_client_max 1", "-O", "abuse_over on"])
        .control()
        .servers([&one, &two])
        .start();
    let (held, own) = pen.hold(client(1)).unwrap();
    for _ in 0..3 {
        assert_eq!(pen.ask(client(1)).as_deref(), Some("abuse"));
    }
    drop(held);
    eventually("it is within its limit", || open(&pen, client(1)) == 0);
    assert_eq!(pen.ask(client(1)), Some(own));
}

#[test]
fn a_reset_comes_before_tls() {
    let server = Backend::named("a");
    let identity = Authority::root("root").issue(&["pen"]);
    let builder = Pen::builder();
    let certificate = write(builder.directory(), "cert.pem", &identity.chain);
    let key = write(builder.directory(), "key.pem", &identity.key);
    let log = builder.directory().join("log");
    let pen = builder
        .options(["-E", certificate.to_str().unwrap(), "-K", key.to_str().unwrap()])
        .options(["-O", "per_client_max 1", "-O", &format!("connection_log {}", log.display())])
        .control()
        .server(&server)
        .start();
    let _held = pen.connect(client(1));
    eventually("it is counted", || open(&pen, client(1)) == 1);
    assert_eq!(pen.connect(client(1)).line(), None);
    eventually("its line has the reason", || {
        std::fs::read_to_string(&log).unwrap().contains("refused_limit")
    });
    pen.tells("per_client_max 0", "0");
    pen.tells("per_client_rate 1 600", "");
    let _first = pen.connect(client(2));
    eventually("it is counted", || {
        pen.tell("explain 127.84.0.2").contains("1 of 1 connection within 600 s")
    });
    assert_eq!(pen.connect(client(2)).line(), None);
    eventually("its line has the reason", || {
        std::fs::read_to_string(&log).unwrap().contains("refused_rate")
    });
    eventually("both are counted", || beyond(&pen) == [1, 1]);
    assert_eq!(server.accepted(), 0);
}
