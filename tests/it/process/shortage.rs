//! Shortages of the machine: no descriptors, and a full disk under the log.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;

use crate::harness::backend::Blackhole;
use crate::harness::machine;
use crate::harness::{Backend, Client, Pen, Port, eventually, needs_root};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 15, 0, number)
}

#[test]
fn a_low_descriptor_limit_at_the_start_is_said_and_excess_clients_wait() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder()
        .workers(1)
        .through(["prlimit", "--nofile=128:128"])
        .options(["-x", "1000"])
        .servers(&farm)
        .start();
    pen.hears("-x");
    assert!(
        pen.said().contains("1000") && pen.said().contains("128"),
        "the warning says the numbers: {}",
        pen.said()
    );
    let crowd: Vec<Client> = (0..200).map(|n| pen.connect(client(n))).collect();
    eventually("many are served", || crowd.iter().filter(|client| client.has_news()).count() >= 15);
    let (inside, outside): (Vec<Client>, Vec<Client>) =
        crowd.into_iter().partition(Client::has_news);
    for client in &inside {
        client.echoes_after_greeting("unaffected");
    }
    drop(inside);
    for client in outside {
        assert_eq!(client.line().as_deref(), Some("a"), "whoever waits is served in the end");
    }
    assert!(!pen.said().contains("blacklisting"));
    pen.settle();
}

#[test]
fn with_sixty_four_descriptors_and_four_workers_a_dozen_clients_each_are_served_at_once() {
    for (limit, each) in [("64:64", 12), ("24:24", 1)] {
        let farm = Backend::farm(["a"]);
        let limit = format!("--nofile={limit}");
        let pen = Pen::builder()
            .workers(4)
            .through(["prlimit", &limit])
            .options(["-x", "100"])
            .servers(&farm)
            .start();
        let mut held = Vec::new();
        for worker in 0..4 {
            pen.only(worker, || {
                held.extend((0..each).map(|n| pen.hold(client(n)).expect("served at once")))
            });
        }
        for (client, _) in &held {
            client.echoes("unaffected");
        }
        let said = pen.said();
        let low: Vec<&str> = said.lines().filter(|line| !line.ends_with("add -u USER")).collect();
        assert!(
            matches!(low[..], [line] if line.contains("-x 100 can need")),
            "what is too low is told: {said}"
        );
        drop(held);
        pen.settle();
    }
}

#[test]
fn a_start_for_which_there_are_too_few_descriptors_names_the_limit() {
    for limit in [12, 18] {
        let farm = Backend::farm(["a"]);
        let through = format!("--nofile={limit}:{limit}");
        let failed =
            Pen::builder().workers(4).through(["prlimit", &through]).servers(&farm).fails();
        let said = String::from_utf8(failed.stderr).unwrap();
        assert!(
            said.contains("worker") && said.contains(&format!("the limit is {limit}: raise it")),
            "{said}"
        );
    }
}

#[test]
fn running_out_of_descriptors_pauses_accepting_harms_no_connection_and_ends_by_itself() {
    if !needs_root() {
        return;
    }
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().workers(1).servers(&farm).start();
    let held: Vec<(Client, String)> = (0..10).map(|n| pen.hold(client(n)).unwrap()).collect();
    let worker = pen.workers().remove(0);
    let highest = worker.descriptors().last().unwrap().0 as u64;
    // With room for no socket, clients wait. With room for one, a client is accepted but cannot be
    // given a server.
    for room in [1, 2] {
        let usual = worker.limit_descriptors(highest + room);
        let waiting: Vec<Client> = (100..110).map(|n| pen.connect(client(n))).collect();
        for (client, _) in &held {
            client.echoes("unaffected");
        }
        pen.report();
        let before = worker.ticks();
        for (client, _) in held.iter().cycle().take(200) {
            client.echoes("unaffected");
        }
        let used = worker.ticks() - before;
        assert!(used < 100, "{used} hundredths of a second: it spins");
        worker.limit_descriptors(usual);
        if room == 1 {
            for client in waiting {
                assert!(client.line().is_some(), "whoever waited is served");
            }
        }
        let newcomer = pen.hold(client(200)).expect("served again");
        drop(newcomer);
    }
    assert!(!pen.said().contains("blacklisting"), "no server is to blame: {}", pen.said());
    assert!(pen.said().lines().count() < 20, "said at a limited rate: {}", pen.said());
    drop(held);
    pen.settle();
}

#[test]
fn a_worker_without_descriptors_leaves_the_clients_to_the_others() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().workers(2).servers(&farm).start();
    pen.ask(client(1)).unwrap();
    let workers = pen.workers();
    let usual = workers[0].limit_descriptors(0);
    for n in 0..60 {
        assert_eq!(pen.ask(client(n)).as_deref(), Some("a"));
    }
    workers[0].limit_descriptors(usual);
    assert_eq!(pen.only(0, || pen.ask(client(1))).as_deref(), Some("a"), "and takes them again");
}

#[test]
fn a_server_with_too_many_connects_pending_keeps_no_worker_from_accepting() {
    const PENDING_MAX: i64 = 100;
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let pen = Pen::builder()
        .workers(2)
        .options(["-t", "3600", "-m", "1"])
        .server_as(port.address().to_string())
        .start();
    let mut waiting: Vec<Client> = pen.only(0, || {
        let crowd = (0..PENDING_MAX).map(|_| pen.connect(client(1))).collect();
        eventually("one worker has all that it may have", || pen.report().in_use() == PENDING_MAX);
        crowd
    });
    for more in 1..=20 {
        waiting.push(pen.connect(client(2)));
        eventually("a worker takes the next one", || {
            pen.report().connections.len() as i64 == PENDING_MAX + more
        });
    }
    waiting.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn a_full_disk_under_the_log_costs_lines_and_nothing_else() {
    if !needs_root() {
        return;
    }
    let server = Backend::with(crate::harness::backend::echo);
    let builder = Pen::builder();
    let disk = machine::directory(builder.directory(), "disk", 0o755, 0);
    let script = "set -e; mount -t tmpfs -o size=16k none $DISK; exec \"$0\" \"$@\"";
    let setting = format!("DISK={}", disk.display());
    let log = disk.join("log");
    let pen = builder
        .through(["env", &setting, "unshare", "--mount", "sh", "-c", script])
        .options(["-l", log.to_str().unwrap()])
        .server(&server)
        .start();
    // The disk is mounted only for pen; the test reaches it through pen's process.
    let seen = pen.supervisor().proc("root").join(log.strip_prefix("/").unwrap());
    let held = pen.connect(client(1));
    held.echoes("while there is room");
    eventually("a line is written", || {
        fs::read_to_string(&seen).is_ok_and(|text| text.ends_with("room\n"))
    });
    for n in 0..600 {
        held.echoes(&format!("{n} {}", "x".repeat(80)));
    }
    pen.hears("log");
    assert!(!log.exists(), "the disk is private");
    let full = fs::read_to_string(&seen).unwrap();
    assert!(full.lines().count() >= 100 && full.lines().count() < 600);
    assert!(pen.said().lines().count() < 20, "not said for every line: {}", pen.said());
    // There is room again: whole lines are written again.
    File::options().write(true).open(&seen).unwrap().set_len(0).unwrap();
    let mut number = 1000;
    eventually("new lines are in the log", || {
        number += 1;
        held.echoes(&format!("{number} again"));
        fs::read_to_string(&seen).is_ok_and(|text| text.contains(" again\n"))
    });
    let text = fs::read_to_string(&seen).unwrap();
    for line in text.lines().filter(|line| line.ends_with("again")) {
        assert!(line.starts_with("127.15.0.1 "), "a whole line: {line:?}");
    }
}

#[test]
fn clients_that_do_not_read_leave_descriptors_for_the_others() {
    // 2 x 80 and the worker's own descriptors are fewer than 256, so -x 80 must work.
    let server =
        Backend::with(|mut connection| io::copy(&mut io::repeat(7), &mut connection).map(drop));
    let pen = Pen::builder()
        .workers(1)
        .through(["prlimit", "--nofile=256:256"])
        .options(["-x", "80"])
        .server(&server)
        .start();
    let mut crowd: Vec<Client> = Vec::new();
    for n in 0..80 {
        let newcomer = pen.connect(client(n));
        // A large transfer, so that splice(2) is in use when the client stops reading.
        newcomer.read_exactly(8_000_000);
        crowd.push(newcomer);
    }
    assert_eq!(pen.report().in_use(), 80);
    assert!(!pen.said().contains("too many open files"), "{}", pen.said());
    crowd.into_iter().for_each(Client::reset);
    pen.settle();
}

#[test]
fn every_lost_line_of_the_log_is_told_of_in_the_end() {
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Pen::builder().workers(1).options(["-l", "/dev/full"]).server(&server).start();
    let held = pen.connect(client(1));
    let told = || -> u32 {
        let said = pen.said();
        let lines = said.lines().filter(|line| line.contains("log lines were lost"));
        lines.map(|line| line.split(' ').nth(2).unwrap().parse::<u32>().unwrap()).sum()
    };
    for n in 1..=5 {
        held.echoes("a line");
        // The first loss is reported at once; the others follow too soon after it to be reported at
        // once.
        eventually("the first one is told", || n > 1 || told() > 0);
    }
    eventually("all are told", || told() == 5);
}
