//! Upgrades between releases whose shared tables have another layout: the new one copies the
//! content, and limits count the old workers' connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use rustix::process::Signal;

use super::{Installed, OLD, remembered};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Client, Pen, SetOnDrop, eventually};

/// A client address of its own for each number.
fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 79, high, low)
}

/// Upgrades in a row: the earlier version, the next one, and its layout; none: the real one.
const WAYS: [(&str, &str, Option<u32>); 4] = [
    (OLD, "0.2.0", Some(3)),
    ("0.2.0", "0.3.0", Some(3)),
    ("0.3.0", "0.4.0", Some(7)),
    ("0.4.0", "0.5.0", None),
];

impl Installed {
    /// Upgrades to another release with this layout; returns how many connections stay.
    #[track_caller]
    fn relaid(&self, (before, next, layout): (&str, &str, Option<u32>)) -> u32 {
        self.install(&match layout {
            Some(layout) => format!("{next} layout {layout}"),
            None => next.to_string(),
        });
        self.goes_on_as(before, next)
    }

    /// The bytes sent to and received from the first server.
    #[track_caller]
    fn bytes(&self) -> (u64, u64) {
        let server = &self.status()["servers"][0];
        let number = |name: &str| server[name].as_u64().unwrap();
        (number("sent"), number("received"))
    }

    /// The connections that reached the first server, those whose connect was measured, and those
    /// that ended.
    #[track_caller]
    fn counted(&self) -> (u64, u64, u64) {
        let server = &self.status()["servers"][0];
        let all = |histogram: &str| {
            let buckets = server[histogram]["buckets"].as_array().unwrap();
            buckets.iter().map(|count| count.as_u64().unwrap()).sum()
        };
        (server["connections_total"].as_u64().unwrap(), all("connect"), all("length"))
    }
}

#[test]
fn clients_are_known_and_count_on() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Installed::start(Pen::builder().servers(&farm));
    let homes: Vec<String> = (0..300).map(|n| pen.ask(client(n)).unwrap()).collect();
    pen.settle();
    let before = pen.report();
    for way in WAYS {
        assert_eq!(pen.relaid(way), 0);
        let report = pen.report();
        assert_eq!(report.clients.len(), 300);
        for n in [0, 150, 299] {
            assert_eq!(remembered(&report, client(n)), remembered(&before, client(n)));
        }
    }
    let again: Vec<String> = (0..300).map(|n| pen.ask(client(n)).unwrap()).collect();
    assert!(again == homes);
    pen.settle();
    assert_eq!(pen.report().client(&client(7).to_string()).unwrap()["connects"], "2");
}

#[test]
fn servers_are_blacklisted_and_taken_in_turn_as_before() {
    let farm = [Backend::named("a"), Backend::named("b"), Backend::down("c"), Backend::named("d")];
    let options = ["-r", "-b", "3600"];
    let pen = Installed::start(Pen::builder().options(options).servers(&farm).control());
    // The second goes to server 3 because server 2 is down, and the third because it is its turn.
    assert_eq!([1, 1, 1].map(|n| pen.ask(client(n)).unwrap()), ["b", "d", "d"]);
    pen.hears("blacklisting server 2");
    pen.tells("server 1 blacklist 3600", "");
    let until = |pen: &Installed| {
        let report = pen.report();
        [0, 1, 2, 3].map(|n| report.server(n, "status"))
    };
    let before = until(&pen);
    assert!(before[1] > 0 && before[2] > 0, "{before:?}");
    farm[2].start();
    for way in WAYS {
        pen.relaid(way);
        assert_eq!(until(&pen), before);
        assert_eq!([1, 1].map(|n| pen.ask(client(n)).unwrap()), ["a", "d"]);
    }
    pen.tells("server 1 blacklist 0", "");
    assert_eq!([1, 1, 1].map(|n| pen.ask(client(n)).unwrap()), ["a", "b", "d"]);
    assert_eq!(farm[2].accepted(), 0);
}

#[test]
fn bytes_of_servers_never_fall_while_old_workers_relay_and_end() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server).control());
    let mut held: Vec<Client> = Vec::new();
    let mut sent = 0;
    let mut check = |more: usize, what: &str| {
        sent += more as u64;
        // A line and its end each, and the greeting of each connection.
        eventually(what, || pen.bytes().0 == sent);
    };
    for (round, way) in WAYS.into_iter().enumerate() {
        held.push(pen.hold(client(round as u16)).unwrap().0);
        held.last().unwrap().echoes("0123456");
        check(8, "what a worker relays is counted");
        pen.relaid(way);
        check(0, "nothing is lost at the upgrade");
        for client in &held {
            client.echoes("0123456");
        }
        check(8 * held.len(), "what old workers relay is counted");
        if held.len() > 1 {
            drop(held.remove(0));
            eventually("it has ended", || server.open() == held.len());
            check(0, "what it relayed stays counted");
        }
    }
    drop(held);
    eventually("all old workers have ended", || pen.old_workers().is_empty());
    check(0, "and what they relayed stays counted");
}

#[test]
fn counts_of_servers_go_on_while_old_workers_count_too() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server).control());
    let mut held: Vec<Client> = Vec::new();
    let (mut reached, mut ended) = (0, 0);
    let counted = |reached: u64, ended: u64| {
        eventually("all is counted", || pen.counted() == (reached, reached, ended));
    };
    for (round, way) in WAYS.into_iter().enumerate() {
        held.push(pen.hold(client(round as u16)).unwrap().0);
        assert_eq!(pen.ask(client(100)).as_deref(), Some("a"));
        (reached, ended) = (reached + 2, ended + 1);
        counted(reached, ended);
        pen.relaid(way);
        assert_eq!(pen.counted(), (reached, reached, ended), "nothing is lost at the upgrade");
        if held.len() > 1 {
            drop(held.remove(0));
            ended += 1;
            counted(reached, ended);
        }
    }
    drop(held);
    eventually("all old workers have ended", || pen.old_workers().is_empty());
    assert_eq!(pen.counted(), (reached, reached, reached), "what they counted stays");
}

/// A server that counts the connections to it. Each lasts until its client sends a byte. It is no
/// longer counted when pen learns of its end.
struct Counting {
    server: Backend,
    most: Arc<AtomicUsize>,
}

impl Counting {
    fn new() -> Counting {
        let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let record = most.clone();
        let server = Backend::with(move |mut connection| {
            record.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let served =
                connection.write_all(b"a\n").and_then(|()| connection.read_exact(&mut [0; 1]));
            now.fetch_sub(1, SeqCst);
            served
        });
        Counting { server, most }
    }
}

/// Served connections, and upgrades.
#[derive(Default)]
struct Crowd {
    over: AtomicBool,
    served: AtomicUsize,
    upgrades: AtomicUsize,
}

impl Crowd {
    /// Connects again and again. Each connection lasts for so many upgrades.
    fn come_and_go(&self, to: SocketAddr, from: u16, upgrades: usize) {
        while !self.over.load(SeqCst) {
            let since = self.upgrades.load(SeqCst);
            let Ok(client) = Client::connect(client(from).into(), to) else { continue };
            if client.line().as_deref() != Some("a") {
                continue;
            }
            eventually("the upgrades are done", || {
                self.over.load(SeqCst) || self.upgrades.load(SeqCst) >= since + upgrades
            });
            client.send("x");
            assert_eq!(client.read_to_end().expect("an orderly end"), b"");
            self.served.fetch_add(1, SeqCst);
        }
    }
}

/// Upgrades ten times between two layouts under a crowd. Returns the most connections at a time.
#[track_caller]
fn most_at_saturation(how: impl FnOnce(&Backend) -> Builder) -> usize {
    let counting = Counting::new();
    let pen = Installed::start(how(&counting.server));
    let crowd = Crowd::default();
    thread::scope(|scope| {
        let ends = SetOnDrop(&crowd.over);
        for from in 0..30 {
            // Some connections last through an upgrade.
            let upgrades = usize::from(from % 5 == 0);
            let (crowd, to) = (&crowd, pen.address());
            scope.spawn(move || crowd.come_and_go(to, from, upgrades));
        }
        let mut before = OLD.to_string();
        for round in 1..=10 {
            let seen = crowd.served.load(SeqCst);
            eventually("clients are served", || crowd.served.load(SeqCst) >= seen + 60);
            let next = format!("0.2.{round}");
            pen.relaid((&before, &next, (round % 2 == 1).then_some(2)));
            crowd.upgrades.store(round, SeqCst);
            before = next;
        }
        drop(ends);
    });
    counting.most.load(SeqCst)
}

#[test]
fn the_limit_of_a_server_is_never_exceeded_and_always_reached() {
    let most = most_at_saturation(|server| {
        Pen::builder().options(["-x", "500"]).servers_with_limits([server], "10")
    });
    assert_eq!(most, 10);
}

#[test]
fn the_limit_of_all_connections_is_never_exceeded_and_always_reached() {
    let most = most_at_saturation(|server| Pen::builder().options(["-x", "10"]).server(server));
    assert_eq!(most, 10);
}

#[test]
fn what_an_old_worker_held_is_free_when_it_ends_or_dies() {
    let server = Backend::named("a");
    let builder = Pen::builder().workers(2).options(["-x", "4"]).server(&server);
    let pen = Installed::start(builder.control());
    let mut old = pen.workers();
    let held: Vec<Client> = (0..4).map(|n| pen.hold(client(n)).unwrap().0).collect();
    assert_eq!(pen.relaid(WAYS[0]), 4);
    assert_eq!(pen.status()["servers"][0]["connections"], 4);
    let waiting = pen.connect(client(9));
    held[0].echoes("served");
    assert!(!waiting.has_news(), "there is no place");
    // Operators see and close what old workers have.
    pen.relaid(WAYS[1]);
    let number = (0..4).find(|number| {
        let closed = pen.tell(&format!("close {number}"));
        closed.contains("Forcibly")
    });
    assert_eq!(number, Some(0));
    assert_eq!(waiting.line().as_deref(), Some("a"));
    let second = pen.connect(client(8));
    assert!(!second.has_news());
    for worker in &mut old {
        worker.signal(Signal::KILL);
    }
    assert_eq!(second.line().as_deref(), Some("a"));
    eventually("only the new connections count", || pen.status()["servers"][0]["connections"] == 2);
    pen.hears("was killed by signal 9");
    drop((waiting, second));
    pen.settle();
    eventually("all places are free", || {
        let held: Vec<_> = (0..4).filter_map(|n| pen.hold(client(n))).collect();
        held.len() == 4
    });
}

#[test]
fn a_failed_upgrade_to_another_layout_changes_nothing() {
    let server = Backend::named("a");
    let builder = Pen::builder().workers(2).options(["-x", "4"]).server(&server);
    let pen = Installed::start(builder.control());
    let staff = pen.pids();
    let held: Vec<Client> = (0..3).map(|n| pen.hold(client(n)).unwrap().0).collect();
    for fault in ["adoption crashes", "adoption overflows", "worker dies", "worker fails"] {
        pen.install(&format!("0.2.0 layout 3 {fault}"));
        pen.fails_to_upgrade();
        assert_eq!(pen.pids(), staff);
        assert_eq!(pen.status()["servers"][0]["connections"], 3);
    }
    let last = pen.hold(client(3)).unwrap().0;
    let waiting = pen.connect(client(4));
    last.echoes("served");
    assert!(!waiting.has_news());
    assert_eq!(pen.relaid(WAYS[0]), 4);
    drop(held);
    assert_eq!(waiting.line().as_deref(), Some("a"));
}

#[test]
fn a_failed_upgrade_changes_nothing_when_there_are_old_tables_already() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Installed::start(Pen::builder().servers(&farm).control());
    let homes: Vec<String> = (0..50).map(|n| pen.ask(client(n)).unwrap()).collect();
    let first = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.relaid(WAYS[0]), 1);
    let second = pen.hold(client(2)).unwrap().0;
    // The old worker of the first, three workers, and the control process.
    let staff = pen.pids_of(5);
    let descriptors = pen.supervisor().descriptors().len();
    for words in ["layout 7 adoption crashes", "layout 3 worker dies", "control fails"] {
        pen.install(&format!("0.3.0 {words}"));
        let asked = pen.ask_for_upgrade();
        let said = String::from_utf8(asked.stderr).unwrap();
        assert!(said.ends_with("; pen 0.2.0 goes on\n"), "{words}: {said}");
        pen.has_children(&staff);
        // Before, there may have been one of a worker that had just ended.
        eventually("there are no more descriptors than before", || {
            pen.supervisor().descriptors().len() <= descriptors
        });
        for held in [&first, &second] {
            held.echoes(words);
        }
        assert_eq!(pen.status()["connections_used"], 2);
    }
    assert_eq!(pen.relaid(("0.2.0", "0.3.0", Some(7))), 2);
    let again: Vec<String> = (0..50).map(|n| pen.ask(client(n)).unwrap()).collect();
    assert!(again == homes);
    first.echoes("through all of it");
}

#[test]
fn tickets_of_sessions_stay_good() {
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let builder = Pen::builder();
    let identity = root.issue(&["localhost"]);
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let builder = builder.options(["-E".as_ref(), path.as_os_str()]);
    let pen = Installed::start(builder.server(&server));
    let mut client = root.client();
    client.ask(pen.address(), "localhost").unwrap();
    for way in WAYS {
        pen.relaid(way);
        let kind = client.ask(pen.address(), "localhost").unwrap().1;
        assert_eq!(kind, rustls::HandshakeKind::Resumed);
    }
}
