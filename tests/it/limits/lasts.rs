//! Counts stay exact over deaths of workers, reloads and upgrades.

use std::fs;

use rustix::process::Signal;

use super::{client, fill, open, overview};
use crate::harness::{Backend, Client, Pen, Process, eventually};
use crate::upgrade::Installed;

#[test]
fn a_worker_that_dies_takes_its_connections_from_the_count_and_no_others() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(3)
        .options(["-x", "200", "-O", "per_client_max 30"])
        .control()
        .server(&server)
        .start();
    for _ in 0..3 {
        let _held = [fill(&pen, client(1), 20), fill(&pen, client(2), 20)];
        let status = overview(&pen);
        let workers = status["worker_list"].as_array().unwrap();
        let most = workers.iter().max_by_key(|one| one["connections"].as_u64()).unwrap();
        let lost = most["connections"].as_u64().unwrap() as u32;
        assert!(lost > 0);
        Process::open(most["pid"].as_i64().unwrap() as i32).unwrap().kill();
        // The next client of a net has the count made anew.
        eventually("the count is right", || {
            let (one, two) = (pen.hold(client(1)), pen.hold(client(2)));
            let counted = open(&pen, client(1)) + open(&pen, client(2));
            one.is_some() && two.is_some() && counted == 42 - lost
        });
        drop(_held);
        eventually("all are gone", || open(&pen, client(1)) + open(&pen, client(2)) == 0);
    }
    pen.settle();
}

#[test]
fn after_the_death_of_all_workers_explain_counts_what_an_arrival_would() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .workers(2)
        .options(["-O", "per_client_max 2"])
        .control()
        .server(&server)
        .start();
    let _held = fill(&pen, client(1), 2);
    assert_eq!(open(&pen, client(1)), 2);
    let status = overview(&pen);
    for worker in status["worker_list"].as_array().unwrap() {
        Process::open(worker["pid"].as_i64().unwrap() as i32).unwrap().kill();
    }
    eventually("nobody has a connection", || {
        let said = pen.tell("explain 127.84.0.1");
        said.contains("0 of 2 open") && said.contains("would be used")
    });
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    pen.settle();
}

#[test]
fn limits_that_a_reload_changes_count_what_is_open() {
    let server = Backend::named("a");
    let pen = Pen::builder().workers(2).control().file("").server(&server).start();
    let reload = |text: &str| {
        fs::write(pen.directory().join("pen.cfg"), text).unwrap();
        pen.supervisor().signal(Signal::HUP);
        eventually("the file is in force", || {
            let shown = pen.tell("show");
            text.lines().all(|line| shown.lines().any(|shown| shown == line))
        });
    };
    let held = fill(&pen, client(1), 6);
    let other = fill(&pen, client(2), 2);
    reload("per_client_max 4\n");
    assert_eq!((open(&pen, client(1)), open(&pen, client(2))), (6, 2));
    assert_eq!(pen.ask(client(1)), None);
    assert!(held.iter().all(|one| !one.has_news()), "what is open stays");
    reload("per_client_max 9\n");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    reload("per_client_max 9\nper_client_net 24 64\n");
    assert_eq!(open(&pen, client(77)), 8, "both addresses are one client");
    drop(held);
    eventually("they are counted no more", || open(&pen, client(77)) == 2);
    reload("per_client_max 0\n");
    fill(&pen, client(1), 20);
    reload("per_client_max 3\n");
    eventually("two are left", || open(&pen, client(2)) == 2);
    drop(other);
    eventually("none is left", || open(&pen, client(2)) == 0);
}

#[test]
fn old_workers_and_new_ones_count_together_after_an_upgrade() {
    let server = Backend::named("a");
    let pen = Installed::start(
        Pen::builder().workers(2).options(["-O", "per_client_max 5"]).control().server(&server),
    );
    let mut held = fill(&pen, client(1), 5);
    assert_eq!(pen.upgrade("9.0.0"), 5);
    assert_eq!((pen.ask(client(1)), open(&pen, client(1))), (None, 5));
    drop(held.pop());
    eventually("one is gone", || open(&pen, client(1)) == 4);
    let more: Client = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.ask(client(1)), None);
    drop((held, more));
    eventually("all are gone", || open(&pen, client(1)) == 0);
}

#[test]
fn attempts_are_remembered_over_deaths_reloads_and_an_upgrade() {
    let server = Backend::named("a");
    let pen = Installed::start(
        Pen::builder().workers(2).control().file("per_client_rate 5 3600\n").server(&server),
    );
    let mut attempts = (0..5).filter(|_| pen.ask(client(1)).is_some()).count();
    assert_eq!(attempts, 5);
    let mut refused = |when: &str| {
        assert_eq!(pen.ask(client(1)), None, "{when}");
        attempts += 1;
        let said = pen.tell("explain 127.84.0.1");
        assert!(said.contains(&format!("{attempts} of 5 connections")), "{when}: {said}");
        assert_eq!(pen.ask(client(2 + attempts as u8)).as_deref(), Some("a"), "{when}: another");
    };
    refused("at first");
    for worker in pen.workers() {
        worker.kill();
        eventually("it is replaced", || {
            pen.workers().len() == 2 && pen.workers().iter().all(|one| one.pid() != worker.pid())
        });
    }
    refused("after the death of all workers");
    fs::write(pen.directory().join("pen.cfg"), "per_client_rate 5 3600\ntarpit 0\nblacklist 7\n")
        .unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is in force", || pen.tell("show").contains("blacklist 7"));
    refused("after a reload");
    assert_eq!(pen.upgrade("9.0.0"), 0);
    refused("after an upgrade");
}

#[test]
fn the_tarpit_keeps_its_clients_and_its_bound_over_an_upgrade() {
    let server = Backend::named("a");
    let pen = Installed::start(
        Pen::builder()
            .workers(2)
            .options(["-x", "17", "-O", "per_client_max 1", "-O", "tarpit 600"])
            .control()
            .server(&server),
    );
    let tarpitted = || overview(&pen)["tarpitted"].as_u64();
    let _held = fill(&pen, client(1), 1);
    let mut caught: Vec<Client> = (0..3).map(|_| pen.connect(client(1))).collect();
    eventually("three are kept", || tarpitted() == Some(3));
    assert_eq!(pen.upgrade("9.0.0"), 4);
    caught.push(pen.connect(client(1)));
    eventually("four are kept", || tarpitted() == Some(4));
    assert_eq!(pen.connect(client(1)).line(), None, "a fifth is reset");
    assert!(caught.iter().all(|one| !one.has_news()));
    // One that an old worker kept makes room.
    caught.remove(0).reset();
    eventually("three are kept", || tarpitted() == Some(3));
    caught.push(pen.connect(client(1)));
    eventually("four are kept", || tarpitted() == Some(4));
}

#[test]
fn a_limit_that_is_set_after_an_upgrade_counts_what_old_workers_serve() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).control().server(&server));
    let mut held = fill(&pen, client(1), 5);
    let other = fill(&pen, client(2), 1);
    assert_eq!(pen.upgrade("9.0.0"), 6);
    pen.tells("per_client_max 4", "4");
    eventually("they are counted", || (open(&pen, client(1)), open(&pen, client(2))) == (5, 1));
    assert_eq!(pen.ask(client(1)), None);
    pen.tells("per_client_net 24 64", "");
    eventually("they are one client", || open(&pen, client(77)) == 6);
    drop((held.pop(), other));
    eventually("two are gone", || open(&pen, client(77)) == 4);
    pen.tells("per_client_max 0", "0");
    pen.tells("per_client_max 5", "5");
    eventually("they are counted again", || open(&pen, client(77)) == 4);
    assert!(held.iter().all(|one| !one.has_news()), "what is open stays");
    drop(held);
    eventually("all are gone", || open(&pen, client(77)) == 0);
}
