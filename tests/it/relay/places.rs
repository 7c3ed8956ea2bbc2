//! Connection numbers under `-x` that become free: which worker takes the next client, and which is
//! woken for it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::harness::{Backend, Pen, Process, SetOnDrop, eventually, needs_root};

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 22, 0, number as u8)
}

/// How often these workers have slept.
fn sleeps(workers: &[Process]) -> u64 {
    let sleeps =
        |worker: &Process| worker.status("voluntary_ctxt_switches").parse::<u64>().unwrap();
    workers.iter().map(sleeps).sum()
}

#[test]
fn a_freed_place_wakes_one_worker_and_not_the_herd() {
    if !needs_root() {
        return;
    }
    const EACH: usize = 50;
    const CLIENTS: usize = 8;
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(32).options(["-x", "4"]).servers(&farm).start();
    let ask = |clients: usize, each: usize| {
        thread::scope(|scope| {
            for n in 0..clients {
                let pen = &pen;
                scope.spawn(move || {
                    (0..each).for_each(|_| assert_eq!(pen.ask(client(n)).as_deref(), Some("a")))
                });
            }
        });
    };
    // Twice as many clients as slots: a client always waits, and each worker has noticed that once.
    ask(CLIENTS, 5);
    let workers = pen.workers();
    let before = sleeps(&workers);
    ask(CLIENTS, EACH);
    let slept = sleeps(&workers) - before;
    // A worker that serves a client sleeps several times meanwhile. With a thundering herd, each
    // freed slot wakes all waiting workers, about 30.
    let per_place = slept as f64 / (CLIENTS * EACH) as f64;
    eprintln!("{per_place} wake-ups of workers per client");
    assert!(per_place < 12.0, "{per_place} wake-ups of workers per client");
}

#[test]
fn nobody_waits_for_ever_at_the_limit_while_workers_hang_and_die() {
    const CLIENTS: usize = 6;
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(6).options(["-x", "3"]).servers(&farm).start();
    let (served, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = SetOnDrop(&over);
        for n in 0..CLIENTS {
            let (pen, served, ended, over) = (&pen, &served, &ended, &over);
            scope.spawn(move || {
                // A worker that dies closes its clients. A client that waits longer than the bound
                // fails here.
                while served.load(SeqCst) < 1500 && !over.load(SeqCst) {
                    served.fetch_add(usize::from(pen.connect(client(n)).line().is_some()), SeqCst);
                }
                ended.fetch_add(1, SeqCst);
            });
        }
        for round in 0.. {
            if ended.load(SeqCst) > 0 {
                break;
            }
            let workers = pen.supervisor().children();
            let Some(victim) = workers.get(round * 7 % workers.len().max(1)) else { continue };
            match round % 3 {
                0 => victim.signal(rustix::process::Signal::KILL),
                _ => {
                    victim.signal(rustix::process::Signal::STOP);
                    let seen = served.load(SeqCst);
                    // The others go on without it.
                    eventually("others are served", || {
                        served.load(SeqCst) > seen + 10 || ended.load(SeqCst) > 0
                    });
                    victim.resume();
                }
            }
            let seen = served.load(SeqCst);
            eventually("clients are served", || {
                served.load(SeqCst) > seen + 20 || ended.load(SeqCst) > 0
            });
        }
    });
    pen.settle();
    assert_eq!(pen.ask(client(99)).as_deref(), Some("a"));
}
