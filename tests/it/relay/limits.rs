//! Limits that hold exactly, whatever happens at the same time (pen(8), Limits and times).

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::harness::{Backend, Client, Gate, Pen, eventually};

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 5, high, low)
}

#[test]
fn known_clients_may_use_the_hard_limit_and_new_ones_the_soft_limit() {
    // Two servers with limits 2 and 3.
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().servers_with_limits(&farm, "2:3").start();
    let x: Vec<(Client, String)> =
        (0..5).map(|n| pen.only(n % 3, || pen.hold(client(1)).unwrap())).collect();
    let names: String = x.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, "bbbaa", "three on its server, then two on the other, where it is new");
    assert!(pen.hold(client(2)).is_none(), "another new client is refused");
    let report = pen.report();
    assert_eq!((report.server(0, "connections"), report.server(1, "connections")), (2, 3));
    drop(x);
    pen.settle();
}

#[test]
fn a_hard_limit_below_the_soft_limit_changes_nothing() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers_with_limits(&farm, "2:1").start();
    let held: Vec<_> = (0..2).map(|_| pen.hold(client(1)).unwrap()).collect();
    assert!(pen.hold(client(1)).is_none());
    drop(held);
    pen.settle();
}

#[test]
fn a_hard_limit_without_a_soft_limit_is_no_limit_and_warned_of() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers_with_limits(&farm, "0:1").start();
    let held: Vec<_> = (0..4).map(|_| pen.hold(client(1)).unwrap()).collect();
    assert_eq!(held.len(), 4);
    pen.hears("hard limit");
}

#[test]
fn a_full_server_is_passed_over_but_not_blacklisted() {
    let farm = Backend::farm(["a", "b"]);
    let operands = [0, 1].map(|n| farm[n].operand());
    let pen =
        Pen::builder().server_as(&operands[0]).server_as(format!("{}:1", operands[1])).start();
    let (held, name) = pen.hold(client(1)).unwrap();
    assert_eq!(name, "b");
    for n in 2..8 {
        assert_eq!(pen.only(n % 3, || pen.ask(client(n))).as_deref(), Some("a"));
    }
    drop(held);
    pen.settle();
    let mut newcomers = 20..;
    eventually("it is used again", || {
        pen.ask(client(newcomers.next().unwrap())).as_deref() == Some("b")
    });
    assert!(!pen.said().contains("blacklisting"));
}

#[test]
fn when_all_are_full_the_emergency_server_helps_up_to_its_own_limit() {
    let (farm, emergency) = (Backend::farm(["a"]), Backend::named("e"));
    let limited = format!("{}:2", emergency.operand());
    let pen = Pen::builder().options(["-e", &limited]).servers_with_limits(&farm, "1").start();
    let held: Vec<_> = (1..=3).map(|n| pen.hold(client(n)).unwrap()).collect();
    assert_eq!(held.iter().map(|(_, name)| name.as_str()).collect::<String>(), "aee");
    assert!(pen.hold(client(4)).is_none());
    drop(held);
}

#[test]
fn a_refused_client_does_not_make_room_for_another() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers_with_limits(&farm, "2").start();
    let held: Vec<_> = (1..=2).map(|n| pen.hold(client(n)).unwrap()).collect();
    for n in 3..30 {
        assert!(pen.only(n % 3, || pen.hold(client(n))).is_none(), "client {n} was let in");
    }
    drop(held);
    pen.settle();
}

#[test]
fn hundreds_at_once_get_exactly_the_places_there_are() {
    let farm = Backend::farm(["a", "b"]);
    let pen =
        Pen::builder().workers(4).options(["-x", "2000"]).servers_with_limits(&farm, "5:8").start();
    for round in 0..3 {
        let gate = Gate::closed();
        let held: Vec<_> = thread::scope(|scope| {
            let crowd: Vec<_> = (0..300)
                .map(|n| {
                    let (pen, gate) = (&pen, gate.clone());
                    scope.spawn(move || {
                        gate.pass();
                        // No client is known: every client is new in every round.
                        pen.hold(client(1000 * round + n))
                    })
                })
                .collect();
            gate.open();
            crowd.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 10, "round {round}: soft limits 5 and 5");
        assert_eq!(farm.iter().map(Backend::open).collect::<Vec<_>>(), [5, 5]);
        let report = pen.report();
        assert_eq!((report.server(0, "connections"), report.server(1, "connections")), (5, 5));
        drop(held);
        pen.settle();
    }
}

#[test]
fn known_clients_in_a_rush_get_exactly_the_hard_limit() {
    let farm = Backend::farm(["a"]);
    let pen =
        Pen::builder().workers(4).options(["-x", "2000"]).servers_with_limits(&farm, "3:7").start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    pen.settle();
    let held: Vec<_> = thread::scope(|scope| {
        let crowd: Vec<_> = (0..100).map(|_| scope.spawn(|| pen.hold(client(1)))).collect();
        crowd.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(held.len(), 7);
    assert_eq!(farm[0].open(), 7);
}

#[test]
fn a_server_never_sees_more_than_its_limit_while_clients_come_and_go() {
    const LIMIT: usize = 4;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counter, record) = (now.clone(), most.clone());
    let server = Backend::with(move |mut connection| {
        // The count covers the time from the accept to just before the answer, for which the client
        // waits. So it never exceeds pen's count.
        record.fetch_max(counter.fetch_add(1, SeqCst) + 1, SeqCst);
        thread::yield_now();
        counter.fetch_sub(1, SeqCst);
        connection.write_all(b"served\n")
    });
    let pen = Pen::builder().workers(4).server_as(format!("{}:{LIMIT}", server.operand())).start();
    const EACH: usize = 25;
    const CLIENTS: usize = 24;
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let pen = &pen;
            scope.spawn(move || {
                let mut served = 0;
                let mut asked = 0;
                eventually("everybody is served often enough", || {
                    asked += 1;
                    let client = pen.connect(client(n * 1000 + asked % 1000));
                    served +=
                        usize::from(client.read_to_end().is_ok_and(|answer| answer == b"served\n"));
                    served == EACH
                });
            });
        }
    });
    assert!(most.load(SeqCst) <= LIMIT, "{} at once", most.load(SeqCst));
    assert_eq!(server.accepted(), CLIENTS * EACH, "nobody who reached the server was sent away");
    pen.settle();
}

#[test]
fn clients_above_x_wait_and_are_served_when_places_become_free() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-x", "6"]).servers(&farm).start();
    let mut held: Vec<_> =
        (0..6).map(|n| pen.only(n % 3, || pen.hold(client(n)).unwrap())).collect();
    let waiting: Vec<Client> = (10..30).map(|n| pen.connect(client(n))).collect();
    let report = pen.report();
    assert_eq!((report.connections.len(), report.in_use()), (6, 6));
    for (client, _) in &held {
        client.echoes("those inside go on");
    }
    assert!(
        !waiting.iter().any(Client::has_news),
        "those outside wait, connected and neither answered nor closed"
    );
    // Each client that leaves lets in exactly one more, whichever worker had the slot.
    for served in 1..=waiting.len() {
        held.pop();
        eventually("the next one is let in", || {
            waiting.iter().filter(|client| client.has_news()).count() >= served
        });
        let inside: Vec<&Client> = waiting.iter().filter(|client| client.has_news()).collect();
        if held.is_empty() {
            // From now on the clients that waited leave.
            inside.iter().for_each(|client| client.finish());
            break;
        }
        assert_eq!(inside.len(), served);
    }
    for client in &waiting {
        assert!(client.line().is_some(), "everybody is served in the end");
        let _ = client.socket().shutdown(std::net::Shutdown::Both);
    }
    pen.settle();
}

#[test]
fn a_worker_without_a_connection_resumes_when_another_worker_frees_the_place() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(2).options(["-x", "1"]).servers(&farm).start();
    let workers = pen.workers();
    for holder in [0, 1, 0] {
        let (held, _) = pen.only(holder, || pen.hold(client(1)).unwrap());
        let waiting = pen.connect(client(2));
        assert!(!waiting.has_news());
        // The worker that frees the slot cannot take the next client itself, because it can open no
        // descriptor.
        let usual = workers[holder].limit_descriptors(0);
        drop(held);
        assert!(waiting.line().is_some(), "the other worker takes it");
        workers[holder].limit_descriptors(usual);
        drop(waiting);
        pen.settle();
    }
}

#[test]
fn a_full_pen_uses_no_processor_time() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().options(["-x", "2"]).servers(&farm).start();
    let _held: Vec<_> = (1..=2).map(|n| pen.hold(client(n)).unwrap()).collect();
    let _waiting: Vec<Client> = (3..20).map(|n| pen.connect(client(n))).collect();
    let ticks = || pen.workers().iter().map(crate::harness::Process::ticks).sum::<u64>();
    let before = ticks();
    eventually("two seconds have passed", || {
        pen.report().client(&client(1).to_string()).unwrap()["age(secs)"].parse::<u32>().unwrap()
            >= 2
    });
    let used = ticks() - before;
    assert!(used < 50, "{used} hundredths of a second while there was nothing to do but reports");
}

#[test]
fn a_hung_worker_that_waited_for_a_place_keeps_nobody_busy() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(2).options(["-x", "2"]).servers(&farm).start();
    let workers = pen.workers();
    let (held, _) = pen.only(1, || pen.hold(client(1)).unwrap());
    let (other, _) = pen.only(1, || pen.hold(client(2)).unwrap());
    // This worker finds no slot, and marks itself as waiting; the report shows that it has run its
    // loop.
    let waiting = pen.only(0, || {
        let waiting = pen.connect(client(3));
        pen.report();
        waiting
    });
    assert!(!waiting.has_news());
    workers[0].stop();
    drop((held, other));
    assert!(waiting.line().is_some(), "the other one goes on");
    waiting.finish();
    waiting.read_to_end().unwrap();
    for n in 0..20 {
        assert!(pen.ask(client(10 + n)).is_some());
    }
    let idle_from = workers[1].ticks();
    eventually("two seconds have passed", || {
        pen.report().client(&client(29).to_string()).unwrap()["age(secs)"].parse::<u32>().unwrap()
            >= 2
    });
    let used = workers[1].ticks() - idle_from;
    workers[0].resume();
    assert!(used < 50, "{used} hundredths of a second while there was nothing to do but reports");
}
