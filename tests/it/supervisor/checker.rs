//! A checker under an attacker's control: it can lie about servers, and do nothing else.

use super::{replaced, steered};
use crate::harness::process::Process;
use crate::harness::{Pen, eventually, until};

fn pen(behaviour: &str) -> Pen {
    steered(&format!("checker {behaviour}")).options(["-O", "check tcp"]).start()
}

/// Workers, control process, checker.
const CHILDREN: usize = 4;

fn checker(pen: &Pen) -> Process {
    let found = || pen.supervisor().children().into_iter().find(|c| c.title() == "pen: checker");
    until("the checker runs", found)
}

fn says(pen: &Pen, words: &str) {
    eventually(words, || pen.tell("servers").trim_end().ends_with(words));
}

#[test]
fn what_it_says_of_a_server_that_it_was_asked_about_counts_until_it_is_too_old() {
    let pen = pen("says-down");
    says(&pen, " check down a lie");
    // It lives, and says nothing more.
    says(&pen, " check unknown");
    pen.hears(") has had no check for too long; it is used as if unchecked\n");
}

#[test]
fn what_it_says_of_others_or_of_earlier_questions_does_not() {
    let invented = pen("invents");
    // The last one is of a server that there is.
    says(&invented, " check down a lie");
    let early = pen("is-early");
    early.tells("pid", &early.supervisor().pid().to_string());
    says(&early, " check unknown");
}

#[test]
fn one_that_sends_what_no_checker_sends_or_hangs_is_replaced() {
    for behaviour in ["shouts", "sends-nothing", "hangs"] {
        let pen = pen(behaviour);
        let bad = checker(&pen);
        replaced(&pen, &bad, CHILDREN);
        pen.hears("the checker (pid ");
        says(&pen, " check unknown");
    }
}

#[test]
fn one_that_floods_the_supervisor_keeps_nobody_from_its_work() {
    let pen = pen("floods");
    says(&pen, " check down x");
    for _ in 0..20 {
        pen.tells("pid", &pen.supervisor().pid().to_string());
    }
    let bad = checker(&pen);
    pen.tells("check off", "");
    eventually("it has ended", || bad.gone());
}
