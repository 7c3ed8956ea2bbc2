//! Commands about servers and their access lists: each is in force in all workers before its reply
//! arrives.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::harness::steering::{all_give, all_refuse, client, each_worker_for, steered};
use crate::harness::{Backend, Client, Pen, eventually};

#[test]
fn servers_are_listed_in_words_that_scripts_split() {
    let farm = Backend::farm(["a", "b"]);
    let ports = [0, 1].map(|n| farm[n].address().port());
    let pen = Pen::builder()
        .server_as(format!("{}:10", farm[0].operand()))
        .server_as(format!("{}:20:30:2:1", farm[1].operand()))
        .options(["-e", &farm[0].operand()])
        .control()
        .start();
    let (held, name) = pen.hold(client(1)).unwrap();
    held.echoes("four");
    assert_eq!(name, "b");
    let expected = format!(
        "0 addr 127.0.0.1 port {} conn 0 max 10 hard 0 weight 1 prio 0 sx 0 rx 0\n\
         1 addr 127.0.0.1 port {} conn 1 max 20 hard 30 weight 2 prio 1 sx 5 rx 7\n",
        ports[0], ports[1]
    );
    eventually("the bytes are counted", || pen.tell("servers") == expected);
    pen.tells(&format!("server 3 address 127.0.0.1 port {}", ports[0]), "");
    let listed = pen.tell("servers");
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert!(
        lines[2].starts_with("2 addr - port 0 conn 0 max 0 hard 0 ")
            && lines[2].ends_with(" sx 0 rx 0"),
        "{listed}"
    );
    assert_eq!(
        lines[3],
        format!("3 addr 127.0.0.1 port {} conn 0 max 0 hard 0 weight 1 prio 0 sx 0 rx 0", ports[0])
    );
}

#[test]
fn round_robin_is_in_force_in_all_workers() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.ask(client(1)).unwrap();
    pen.tells("roundrobin", "");
    for worker in 0..3 {
        let names: BTreeSet<String> =
            pen.only(worker, || (0..2).map(|_| pen.ask(client(1)).unwrap()).collect());
        assert_eq!(names.len(), 2, "worker {worker} does not track");
    }
    pen.tells("no roundrobin", "");
    let mine = pen.ask(client(1)).unwrap();
    assert_eq!(each_worker_for(&pen, 1), [mine.as_str(); 3]);
}

#[test]
fn prio_weight_and_hash_choose_in_all_workers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = steered(&farm).start();
    pen.tells("server 0 prio 5 weight 1", "");
    pen.tells("server 1 prio 1 weight 1", "");
    pen.tells("server 2 prio 9 weight 0", "");
    pen.tells("prio", "");
    all_give(&pen, 10, "b");
    pen.tells("server 2 prio 0", "");
    all_give(&pen, 20, "c");
    pen.tells("no prio", "");
    pen.tells("server 1 weight 0", "");
    pen.tells("weight", "");
    all_give(&pen, 30, "a");
    pen.tells("no weight", "");
    pen.tells("hash", "");
    let hashed = pen.ask(client(40)).unwrap();
    pen.tells("roundrobin", "");
    pen.tells("no roundrobin", "");
    assert_eq!(each_worker_for(&pen, 40), [hashed.as_str(); 3]);
}

#[test]
fn a_server_is_blacklisted_and_put_back_in_all_workers() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tells("server 1 blacklist 1000", "");
    all_give(&pen, 10, "a");
    pen.tells("server 1 blacklist 0", "");
    pen.tells("server 0 blacklist 1000", "");
    all_give(&pen, 20, "b");
}

#[test]
fn limits_hold_in_all_workers_as_soon_as_they_are_set() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    pen.tells("server 0 max 1", "");
    pen.tells("server 1 max 1 hard 2", "");
    let held: Vec<(Client, String)> = (1..=2).map(|n| pen.hold(client(n)).unwrap()).collect();
    assert_eq!(
        held.iter().map(|(_, name)| name.as_str()).collect::<BTreeSet<_>>(),
        BTreeSet::from(["a", "b"])
    );
    all_refuse(&pen, 10);
    let of_b = held.iter().position(|(_, name)| name == "b").unwrap() as u8 + 1;
    let known = pen.hold(client(of_b)).unwrap();
    assert_eq!(known.1, "b", "a known client has room up to the hard limit");
    pen.tells("server 0 max 0", "");
    all_give(&pen, 20, "a");
}

#[test]
fn a_server_gets_another_address_for_new_connections_only() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered([&farm[0]]).start();
    let (held, _) = pen.hold(client(1)).unwrap();
    held.echoes("to the old server");
    pen.tells(&format!("server 0 port {}", farm[1].address().port()), "");
    all_give(&pen, 10, "b");
    eventually("the counters begin anew", || pen.tell("servers").ends_with(" sx 0 rx 6\n"));
    held.echoes("still there");
    drop(held);
    pen.tells(&format!("server 0 address localhost port {}", farm[0].address().port()), "");
    all_give(&pen, 20, "a");
}

#[test]
fn all_pairs_of_a_server_are_checked_before_any_is_applied() {
    let server = Backend::named("a");
    let pen = steered([&server]).start();
    let before = pen.tell("servers");
    for line in [
        "server 0 max 5 hard x",
        "server 0 max 5 address no.such.host.invalid",
        "server 0 weight 7 acl 10",
        "server 0 max 5 prio",
    ] {
        pen.refuses(line);
    }
    assert_eq!(pen.tell("servers"), before);
    let reply = pen.refuses("server 16 address 127.0.0.1");
    assert_eq!(reply, "server: number 16 too large, this program was started for 16 servers (-S)");
}

#[test]
fn access_lists_govern_clients_in_all_workers() {
    let farm = Backend::farm(["a", "abuse"]);
    let pen = steered([&farm[0]]).start();
    pen.tells("acl 3 deny 127.20.0.0 255.255.255.0", "");
    all_give(&pen, 1, "a");
    pen.tells("client_acl 3", "3");
    all_refuse(&pen, 10);
    assert_eq!(pen.ask(Ipv4Addr::new(127, 21, 0, 1)).as_deref(), Some("a"));
    pen.tells("no acl 3", "");
    all_give(&pen, 20, "a");
    // A list that ends with permit refuses every client that it does not permit.
    pen.tells("acl 3 permit ::1", "");
    all_refuse(&pen, 30);
    pen.tells("acl 3 permit 127.20.0.0/16", "");
    all_give(&pen, 40, "a");
    pen.tells("client_acl 0", "0");
    pen.tells("server 0 acl 4", "");
    pen.tells("acl 4 deny 127.20.0.0/16", "");
    all_refuse(&pen, 50);
}

#[test]
fn refused_clients_go_to_the_abuse_server_and_never_to_the_emergency_server() {
    let farm = Backend::farm(["a", "abuse", "emergency"]);
    let options = ["-B", &farm[1].operand(), "-e", &farm[2].operand()].map(str::to_owned);
    let pen = steered([&farm[0]]).options(options).start();
    pen.tells("acl 1 deny 127.20.0.0/16", "");
    pen.tells("client_acl 1", "1");
    all_give(&pen, 10, "abuse");
    farm[1].stop();
    all_refuse(&pen, 20);
    assert_eq!(farm[2].accepted(), 0);
    let recent = pen.tell("recent");
    assert!(recent.contains("127.20.0.10 connects 1 "), "{recent}");
}

#[test]
fn explain_says_which_server_and_why_and_changes_nothing() {
    let farm = Backend::farm(["a", "b"]);
    let pen = steered(&farm).start();
    let name = pen.ask(client(1)).unwrap();
    let number = if name == "a" { 0 } else { 1 };
    let before = (pen.tell("servers"), pen.tell("recent").lines().count());
    let known = pen.tell("explain 127.20.0.1");
    assert!(known.contains(&format!("server {number}")), "{known}");
    pen.tells(&format!("server {number} blacklist 100"), "");
    let moved = pen.tell("explain 127.20.0.1");
    assert!(
        moved.contains("blacklist") && moved.contains(&format!("server {}", 1 - number)),
        "{moved}"
    );
    assert_ne!(moved, known);
    let stranger = pen.tell("explain 192.0.2.1");
    assert!(stranger.contains(&format!("server {}", 1 - number)), "{stranger}");
    pen.tells("client_acl 1", "1");
    pen.tells("acl 1 deny 192.0.2.0/24", "");
    let refused = pen.tell("explain 192.0.2.1");
    assert!(refused.contains("acl"), "{refused}");
    assert!(pen.tell("explain ::1").ends_with('\n'));
    assert_eq!((pen.tell("servers"), pen.tell("recent").lines().count()), before);
    assert_eq!(
        pen.ask(client(1)).as_deref(),
        Some(if number == 0 { "b" } else { "a" }),
        "and so it happens"
    );
}
