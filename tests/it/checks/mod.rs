//! Checks of servers: what they find out, and what follows for clients (pen(8), `check`).

mod hostile;
mod lasts;
mod questions;
mod real;
mod verdicts;

use serde_json::Value;

use crate::harness::process::Process;
use crate::harness::{Builder, Pen, eventually, until};

/// A pen whose checks come every second.
fn pen(check: &str) -> Builder {
    let checks = ["-O", check, "-O", "check_interval 1"];
    Pen::builder().options(checks).control()
}

/// The checker, if there is one.
pub(crate) fn checker(pen: &Pen) -> Option<Process> {
    pen.supervisor().children().into_iter().find(|child| child.title() == "pen: checker")
}

/// What `servers` says of the check of a server: the words behind the last one.
fn said(pen: &Pen, server: usize) -> String {
    let list = pen.tell("servers");
    let line = list.lines().find(|line| line.starts_with(&format!("{server} addr ")));
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    words.get(19..).unwrap_or_default().join(" ")
}

/// Waits until `servers` says this of the check of a server, perhaps with more behind it.
#[track_caller]
fn says(pen: &Pen, server: usize, words: &str) {
    let mut last = String::new();
    let what = format!("server {server} is {words:?}");
    let found = crate::harness::wait::within(crate::harness::PATIENCE, || {
        last = said(pen, server);
        last.starts_with(words)
    });
    assert!(found, "{what}, but it is {last:?}: {}", pen.said());
}

/// A server in JSON.
fn server(pen: &Pen, number: usize) -> Value {
    let servers: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
    servers[number].clone()
}

/// Waits until so many more checks of a server have ended, of which the last one began after this
/// call.
#[track_caller]
fn checks_pass(pen: &Pen, number: usize, checks: usize) {
    let last = || server(pen, number)["check"]["last"].as_i64();
    for _ in 0..checks {
        let before = last();
        eventually("a check ends", || last() > before);
    }
}

/// The events about servers that went down or came back by their checks.
fn transitions(pen: &Pen) -> Vec<(String, u64)> {
    let all = crate::harness::events::events(pen);
    let ours = all.iter().filter(|event| event["fields"]["by"] == "check");
    ours.map(|event| {
        let kind = event["kind"].as_str().unwrap().to_owned();
        (kind, event["fields"]["server"].as_u64().unwrap())
    })
    .collect()
}

/// The checker; waits until it runs.
#[track_caller]
fn running(pen: &Pen) -> Process {
    until("the checker runs", || checker(pen))
}
