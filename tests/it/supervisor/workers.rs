//! Workers that die, hang, lie or say nothing: they are replaced, and the supervisor goes on.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{fake, log, logs, replaced};
use crate::harness::machine::example;
use crate::harness::{Backend, Manager, Pen, Process, eventually};

#[test]
fn a_killed_worker_is_replaced_and_nothing_leaks() {
    let mut pen = fake("works").start();
    let before = pen.supervisor().descriptors().len();
    for round in 1..=6 {
        let victim = pen.supervisor().children().remove(0);
        victim.kill();
        replaced(&pen, &victim, 2);
        pen.hears(&format!("(pid {}) was killed by signal 9", victim.pid()));
        logs(&pen, "started", 2 + round);
    }
    eventually("the number of descriptors is as before", || {
        pen.supervisor().descriptors().len() == before
    });
    pen.end_by(Signal::INT);
}

#[test]
fn a_worker_that_lived_is_replaced_at_once() {
    let pen = fake("works").start();
    let victim = pen.supervisor().children().remove(0);
    let seen = Instant::now();
    eventually("it is no longer a death of the start", || {
        seen.elapsed() > Duration::from_millis(1100)
    });
    victim.kill();
    pen.hears(&format!("(pid {}) was killed by signal 9; replaced\n", victim.pid()));
}

#[test]
fn a_broken_worker_is_killed_and_the_supervisor_lives() {
    let cases = [
        ("nonsense", "cannot decode a message"),
        ("panics", "ended with status 101"),
        ("floods", "it floods its channel"),
    ];
    for (behaviour, expected) in cases {
        let pen = fake(behaviour).start();
        // The worker waits for a report before it misbehaves.
        pen.supervisor().signal(Signal::USR1);
        pen.hears(expected);
        // Only some events of a flood are logged.
        assert!(pen.said().matches("the client table is locked").count() < 500);
    }
}

#[test]
fn a_worker_that_reports_too_much_is_killed() {
    let pen = fake("overreports").start();
    pen.supervisor().signal(Signal::USR1);
    pen.hears("more connections than there can be");
    let page = pen.directory().join("status.html");
    eventually("the page is written", || page.exists());
}

#[test]
fn workers_that_boast_make_large_sums_and_no_panic() {
    let manager = Manager::at_path();
    let mut pen = fake("boasts").env("NOTIFY_SOCKET", manager.name()).start();
    let expected = format!("2 workers, {0} connections, {0} clients accepted", u64::MAX);
    while !manager.next().iter().any(|line| line.contains(&expected)) {}
    pen.end_by(Signal::TERM);
}

#[test]
fn a_worker_that_jams_the_shared_eventfd_holds_up_no_supervisor() {
    let mut pen = fake("jams").start();
    // The sibling still learns of the dead worker's free slots, and is asked to republish its own.
    for line in ["freed", "republished"] {
        eventually(line, || log(&pen).lines().any(|logged| logged == line));
    }
    pen.hears("worker 0 (pid ");
    logs(&pen, "started", 2);
    eventually("there are two workers", || pen.supervisor().children().len() == 2);
    pen.end_by(Signal::TERM);
    logs(&pen, "stopped", 2);
}

#[test]
fn a_worker_that_spins_is_killed_and_the_other_is_not() {
    let pen = fake("spins").start();
    let [spinning, other] = pen.supervisor().children().try_into().unwrap();
    pen.hears(&format!("(pid {}) was killed by signal 9: it hung", spinning.pid()));
    replaced(&pen, &spinning, 2);
    assert!(!other.gone(), "{}", pen.said());
}

#[test]
fn a_replacement_that_is_not_ready_in_time_is_replaced() {
    let pen = fake("oversleeps").start();
    // A worker is ready before it logs that it started.
    logs(&pen, "started", 2);
    let [victim, other] = pen.supervisor().children().try_into().unwrap();
    victim.kill();
    pen.hears("was killed by signal 9: it was not ready in time; replaced");
    logs(&pen, "started", 3);
    assert!(!other.gone(), "{}", pen.said());
}

#[test]
fn a_stopped_worker_delays_neither_a_report_nor_the_end() {
    let mut pen = fake("works").start();
    let [stopped, other] = pen.supervisor().children().try_into().unwrap();
    stopped.stop();
    assert!(pen.report().html.contains("did not answer"));
    other.kill();
    replaced(&pen, &other, 2);
    pen.end_by(Signal::TERM);
    assert!(pen.said().contains("did not stop in time"));
}

#[test]
fn workers_do_not_outlive_their_supervisor() {
    let mut pen = fake("works").start();
    let workers = pen.supervisor().children();
    assert_eq!(workers.len(), 2);
    pen.kill_supervisor();
    eventually("the workers end", || workers.iter().all(Process::gone));
}

/// A worker stops while it holds the lock of the client table. The other workers continue to serve;
/// after the worker is killed and replaced, the table is as before. The other workers are real.
#[test]
fn a_worker_that_stops_with_the_lock_of_the_table_stops_nobody_else() {
    let farm = Backend::farm(["a", "b"]);
    let builder =
        Pen::builder().binary(&example("fake_workers")).env("PEN_TEST_BEHAVIOUR", "hostage");
    let mut pen = builder.servers(&farm).start();
    // The first worker is the first child.
    let mut workers = pen.supervisor().children();
    let hostage = workers.remove(0);
    pen.hears("the table is locked now");
    hostage.stop();
    let mut served = 0_u32;
    eventually("it is replaced", || {
        assert!(
            pen.ask(client((served % 250) as u8)).is_some(),
            "clients are served without being remembered"
        );
        served += 1;
        hostage.gone()
    });
    let locked = "the client table was locked for too long";
    assert!(pen.said().contains(locked), "{}", pen.said());
    pen.hears("it hung");
    // From now on all workers remember clients again.
    let homes: Vec<String> = (0..10).map(|n| pen.ask(client(n)).unwrap()).collect();
    for (n, home) in homes.iter().enumerate() {
        for worker in 0..3 {
            assert_eq!(pen.only(worker, || pen.ask(client(n as u8))).as_ref(), Some(home));
        }
    }
    assert!(workers.iter().all(|worker| !worker.gone()), "{}", pen.said());
    assert!(pen.said().contains("the client table was rebuilt"), "{}", pen.said());
    pen.settle();
    pen.end_by(Signal::TERM);
}

fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 33, 0, n)
}
