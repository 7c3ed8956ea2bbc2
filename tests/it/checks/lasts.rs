//! What verdicts outlive: a reload, the death of a worker, of the checker, and an upgrade.

use std::fs;
use std::net::Ipv4Addr;

use rustix::process::Signal;

use super::{checker, pen, running, said, says, server, transitions};
use crate::harness::events::events;
use crate::harness::{Backend, Pen, eventually};
use crate::upgrade::Installed;

const ME: Ipv4Addr = Ipv4Addr::new(127, 85, 0, 1);

/// A server that is up, and one that takes clients but is down by its check.
fn farm() -> [Backend; 2] {
    Backend::farm(["a", "b"])
}

const B_IS_DOWN: &str = "server 1 check send x expect never";

#[track_caller]
fn is_as_it_was(pen: &Pen) {
    assert!(said(pen, 0).starts_with("check up "), "{}", pen.said());
    assert!(said(pen, 1).starts_with("check down "), "{}", pen.said());
    for number in 1..7 {
        let name = pen.ask(Ipv4Addr::new(127, 85, 1, number));
        assert_eq!(name.as_deref(), Some("a"), "client {number}");
    }
}

/// pen with these servers, when both verdicts are there.
fn known(farm: &[Backend; 2]) -> Pen {
    let pen = pen("check tcp").servers(farm).options(["-r"]).workers(2).start();
    pen.tells(B_IS_DOWN, "");
    says(&pen, 0, "check up ");
    says(&pen, 1, "check down ");
    pen
}

#[test]
fn a_reload_and_the_death_of_a_worker_change_no_verdict() {
    let farm = farm();
    let pen = known(&farm);
    let (before, told) = (server(&pen, 1)["check"]["since"].clone(), transitions(&pen));
    for weight in 1..5 {
        pen.tells(&format!("server 1 weight {weight}"), "");
        is_as_it_was(&pen);
    }
    pen.workers()[0].kill();
    eventually("it is replaced", || pen.said().contains("; replaced"));
    is_as_it_was(&pen);
    assert_eq!((server(&pen, 1)["check"]["since"].clone(), transitions(&pen)), (before, told));
}

#[test]
fn a_hup_with_a_configuration_file_changes_no_verdict() {
    let farm = farm();
    let file = |weight: u32| format!("check tcp\n{B_IS_DOWN}\nserver 1 weight {weight}\n");
    let builder = pen("check tcp").servers(&farm).options(["-r"]).workers(2).file(&file(1));
    let pen = builder.start();
    says(&pen, 0, "check up ");
    says(&pen, 1, "check down ");
    let (since, told) = (server(&pen, 1)["check"]["since"].clone(), transitions(&pen));
    let path = pen.directory().join("pen.cfg");
    for (reloads, weight) in [(1, 1), (2, 5), (3, 5)] {
        fs::write(&path, file(weight)).unwrap();
        pen.supervisor().signal(Signal::HUP);
        let reloaded = || events(&pen).iter().filter(|event| event["kind"] == "reloaded").count();
        eventually("the file is in force", || reloaded() == reloads);
        assert_eq!(server(&pen, 1)["weight"], weight);
        is_as_it_was(&pen);
    }
    assert_eq!((server(&pen, 1)["check"]["since"].clone(), transitions(&pen)), (since, told));
    // Another question in the file is another verdict.
    fs::write(&path, "server 1 check tcp\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    says(&pen, 1, "check up ");
}

#[test]
fn a_checker_that_dies_or_hangs_is_replaced_and_verdicts_stay() {
    let farm = farm();
    let pen = known(&farm);
    // Nobody is unknown before the checker that hangs is replaced.
    pen.tells("check_interval 4", "4");
    let told = transitions(&pen);
    let died = running(&pen);
    died.kill();
    is_as_it_was(&pen);
    eventually("another one runs", || {
        checker(&pen).is_some_and(|checker| checker.pid() != died.pid())
    });
    let hung = running(&pen);
    hung.stop();
    eventually("another one runs", || {
        checker(&pen).is_some_and(|checker| checker.pid() != hung.pid())
    });
    assert!(hung.gone());
    super::checks_pass(&pen, 0, 1);
    is_as_it_was(&pen);
    assert_eq!(transitions(&pen), told);
    let line = pen.said();
    assert!(line.contains("the checker (pid "), "{line}");
    // It still finds out what is new.
    pen.tells("server 1 check default", "");
    says(&pen, 1, "check up ");
}

#[test]
fn an_upgrade_keeps_the_verdicts_and_has_a_checker_of_its_own() {
    let farm = farm();
    let pen = Installed::start(
        pen("check tcp").servers(&farm).options(["-r", "-O", B_IS_DOWN]).workers(2),
    );
    says(&pen, 0, "check up ");
    says(&pen, 1, "check down ");
    let (before, told) = (running(&pen), transitions(&pen));
    pen.upgrade("9.0.0");
    is_as_it_was(&pen);
    assert_eq!(transitions(&pen), told);
    eventually("the checker before has ended", || before.gone());
    super::checks_pass(&pen, 1, 2);
    is_as_it_was(&pen);
    assert_eq!(transitions(&pen), told);
    farm[0].stop();
    says(&pen, 0, "check down refused");
}

#[test]
fn pen_ends_with_its_checker() {
    let farm = farm();
    let mut pen = known(&farm);
    let checker = running(&pen);
    assert!(pen.ask(ME).is_some());
    pen.end_by(Signal::TERM);
    assert!(checker.gone());
}
