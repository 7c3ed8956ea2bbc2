//! Processes that die or hang at any moment, under load.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::harness::{
    Backend, Client, Pen, Port, Process, SetOnDrop, eventually, needs_root, until,
};

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 14, high, low)
}

/// A client that tries once and accepts a closed connection. Returns whether it was served.
fn try_once(pen: &Pen, from: Ipv4Addr) -> bool {
    let Ok(client) = Client::connect(from.into(), pen.address()) else {
        panic!("the listener closed")
    };
    use std::io::Write;
    let Some(_) = client.line() else { return false };
    client.socket().write_all(b"ping\n").is_ok() && client.line().as_deref() == Some("ping")
}

/// Keeps clients coming and going while `act` runs.
fn under_load<T>(pen: &Pen, served: &AtomicUsize, act: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for n in 0..6 {
            let over = &over;
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(SeqCst) {
                        break;
                    }
                    if try_once(pen, client(100 + n * 50 + round % 50)) {
                        served.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let result = act();
        drop(ends);
        result
    })
}

/// Kills workers again and again while clients come and go. After each kill, the service continues
/// before the next.
fn storm(pen: &Pen, deaths: usize) {
    let served = AtomicUsize::new(0);
    under_load(pen, &served, || {
        for n in 0..deaths {
            let workers = pen.workers();
            let victim = &workers[n % workers.len()];
            victim.kill();
            eventually("the dead worker is replaced", || {
                let now = pen.workers();
                now.iter().all(|worker| worker.pid() != victim.pid())
            });
            let before = served.load(SeqCst);
            eventually("clients are served", || served.load(SeqCst) >= before + 20);
        }
    });
}

#[test]
fn killing_workers_loses_no_client_entry_no_count_and_no_descriptor() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    let homes: Vec<String> = (0..30).map(|n| pen.ask(client(n)).unwrap()).collect();
    pen.settle();
    let idle = pen.workers()[0].descriptors().len();
    let supervisor = pen.supervisor().descriptors().len();
    storm(&pen, 12);
    pen.settle();
    for (n, home) in homes.iter().enumerate() {
        assert_eq!(
            pen.only(n % 3, || pen.ask(client(n))).as_ref(),
            Some(home),
            "client {n} is still known"
        );
    }
    pen.settle();
    let report = pen.report();
    assert!((0..3).all(|n| report.server(n, "connections") == 0));
    eventually("the supervisor holds no more than before", || {
        pen.supervisor().descriptors().len() <= supervisor
    });
    eventually("no worker holds more than an idle one", || {
        pen.workers().iter().all(|worker| worker.descriptors().len() == idle)
    });
}

#[test]
fn limits_are_exact_after_many_deaths() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-x", "50"]).servers_with_limits(&farm, "4:6").start();
    storm(&pen, 8);
    pen.settle();
    let held: Vec<(Client, String)> =
        (0..20).filter_map(|n| pen.only(n % 3, || pen.hold(client(60000 + n)))).collect();
    assert_eq!(held.len(), 8, "soft limits 4 and 4");
    assert_eq!(farm.iter().map(Backend::open).collect::<Vec<_>>(), [4, 4]);
}

#[test]
fn what_a_worker_held_is_given_back_when_it_dies() {
    let farm = Backend::farm(["a"]);
    let pen =
        Pen::builder().workers(2).options(["-x", "6"]).servers_with_limits(&farm, "6").start();
    for round in 0..4 {
        let held: Vec<(Client, String)> = (0..6)
            .map(|n| pen.only(n / 3, || pen.hold(client(round * 100 + n)).unwrap()))
            .collect();
        let waiting = pen.connect(client(50));
        assert!(!waiting.has_news(), "all places are taken");
        pen.workers()[0].kill();
        assert_eq!(waiting.line().as_deref(), Some("a"), "the places of the dead worker are free");
        let alive = held.iter().filter(|(client, _)| !client.has_news()).count();
        assert_eq!(alive, 3, "the connections of the other worker go on");
        drop((held, waiting));
        pen.settle();
    }
}

#[test]
fn all_workers_at_once_may_die() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().servers(&farm).start();
    let home = pen.ask(client(1)).unwrap();
    for _ in 0..3 {
        let workers = pen.workers();
        workers.iter().for_each(|worker| worker.signal(rustix::process::Signal::KILL));
        // The listener stays open: clients wait for the new workers.
        assert_eq!(pen.ask(client(1)).as_ref(), Some(&home));
        eventually("all are replaced", || {
            let now = pen.workers();
            now.iter().all(|worker| workers.iter().all(|old| old.pid() != worker.pid()))
        });
    }
    pen.settle();
}

#[test]
fn a_dead_worker_is_said_with_its_signal() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).start();
    let worker = pen.workers().remove(1);
    worker.kill();
    pen.hears(&worker.pid().to_string());
    let said = pen.said();
    let line = said.lines().find(|line| line.contains(&worker.pid().to_string())).unwrap();
    assert!(line.contains("worker") && (line.contains('9') || line.contains("KILL")), "{line}");
}

#[test]
fn a_process_that_a_real_time_signal_kills_is_replaced_and_no_other_is_affected() {
    if !needs_root() {
        return;
    }
    let (server, page) = (Backend::named("a"), Port::reserve());
    let builder = Pen::builder().workers(2).server(&server).control();
    let pen = builder.file(&format!("page {}\n", page.address())).start();
    let running = |title: &str| {
        let processes = pen.supervisor().children();
        processes.into_iter().find(|process| process.title() == title)
    };
    let (held, _) = pen.only(1, || pen.hold(client(1)).unwrap());
    for title in ["pen: control", "pen: page", "pen: worker 0"] {
        let process = until(title, || running(title));
        process.kill_with(34);
        pen.hears(&format!("(pid {}) was killed by signal 34", process.pid()));
        eventually("it is replaced", || {
            running(title).is_some_and(|now| now.pid() != process.pid())
        });
        held.echoes("goes on");
        assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
        eventually("operators are answered", || {
            pen.control().try_tell("pid").is_ok_and(|reply| !reply.is_empty())
        });
    }
}

#[test]
fn when_the_supervisor_is_killed_the_workers_leave_and_the_port_is_free() {
    for background in [false, true] {
        let farm = Backend::farm(["a"]);
        let builder = Pen::builder().servers(&farm);
        let mut pen = if background { builder.background() } else { builder }.start();
        let workers = pen.workers();
        let held = pen.hold(client(1)).unwrap();
        pen.kill_supervisor();
        eventually("the workers are gone", || workers.iter().all(Process::gone));
        let _port = TcpListener::bind(pen.address()).expect("the port is free");
        assert!(held.0.read(1).map_or(true, |bytes| bytes.is_empty()), "the connection is closed");
    }
}

#[test]
fn after_a_killed_supervisor_pen_starts_again_with_the_same_files() {
    let farm = Backend::farm(["a"]);
    let builder = Pen::builder();
    let front = builder.directory().join("front");
    let mut dead = builder.listen(&front).servers(&farm).start();
    let workers = dead.workers();
    dead.kill_supervisor();
    eventually("the workers are gone", || workers.iter().all(Process::gone));
    let pid_file = dead.directory().join("pid");
    assert!(pid_file.exists() && front.exists(), "nobody was there to remove them");
    let again = Pen::builder();
    std::fs::copy(&pid_file, again.directory().join("pid")).unwrap();
    let _pen = again.listen(&front).servers(&farm).start();
    let client = Client::connect_unix(&front).unwrap();
    assert_eq!(client.line().as_deref(), Some("a"));
}

#[test]
fn a_hung_worker_delays_nobody_else_and_the_report_is_made_without_it() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().workers(2).servers(&farm).start();
    let workers = pen.workers();
    let (of_hung, _) = pen.only(0, || pen.hold(client(1)).unwrap());
    let (of_other, _) = pen.only(1, || pen.hold(client(2)).unwrap());
    workers[0].stop();
    for n in 0..50 {
        assert!(pen.ask(client(10 + n)).is_some());
        of_other.echoes("not delayed");
    }
    let report = pen.report();
    assert_eq!(report.in_use(), 2, "what is counted in the shared table is reported");
    assert!(report.html.contains("did not answer"), "it says who is missing: {}", report.html);
    assert!(!of_hung.has_news(), "its own client waits");
    // Whether it recovers or is killed, its connections are given back.
    workers[0].kill();
    assert!(of_hung.read(1).map_or(true, |bytes| bytes.is_empty()));
    of_other.echoes("still not delayed");
    drop(of_other);
    pen.workers();
    pen.settle();
}

#[test]
fn a_worker_that_hangs_for_a_moment_goes_on_where_it_was() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).start();
    let workers = pen.workers();
    let (held, _) = pen.only(2, || pen.hold(client(1)).unwrap());
    for _ in 0..5 {
        workers[2].stop();
        held.send("late\n");
        workers[2].resume();
        assert_eq!(held.line().as_deref(), Some("late"));
    }
    assert!(!workers[2].gone());
}
