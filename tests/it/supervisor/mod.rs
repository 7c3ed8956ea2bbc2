//! The supervisor with fake workers (a program in `fake_workers`), which do what a test asks for.

mod checker;
mod commands;
mod hostile;
mod jail;
mod rebalance;
mod reload;
mod reports;
mod sandbox;
mod start;
mod workers;

use std::fs;

use crate::harness::machine::example;
use crate::harness::process::Process;
use crate::harness::{Builder, Pen, eventually};
use rustix::process::Signal;

/// A pen with two fake workers, behind a Unix socket and with a request log. They write into the
/// log what they do.
fn fake(behaviour: &str) -> Builder {
    let builder =
        Pen::builder().binary(&example("fake_workers")).env("PEN_TEST_BEHAVIOUR", behaviour);
    let [front, log] = ["front.sock", "log"].map(|name| builder.directory().join(name));
    let log = log.to_str().unwrap();
    let builder = builder.workers(2).options(["-c", "64", "-l", log]).listen(&front);
    builder.server_as("127.0.0.1:1")
}

/// [`fake`] with a control port, whose process has no rights of root.
fn steered(behaviour: &str) -> Builder {
    let builder = fake(behaviour);
    let socket = builder.directory().join("control.sock");
    builder.control_unix(&socket)
}

/// The request log so far.
fn log(pen: &Pen) -> String {
    fs::read_to_string(pen.directory().join("log")).unwrap_or_default()
}

/// Waits until the request log has this line so many times.
#[track_caller]
fn logs(pen: &Pen, line: &str, times: usize) {
    let count = || log(pen).lines().filter(|logged| *logged == line).count();
    eventually(&format!("{line:?} is logged {times} times"), || count() == times);
}

/// Waits until the supervisor has so many children, without this one.
#[track_caller]
fn replaced(pen: &Pen, victim: &Process, children: usize) {
    eventually("a process is replaced", || {
        let now = pen.supervisor().children();
        now.len() == children && now.iter().all(|child| child.pid() != victim.pid())
    });
}

/// Ends pen in order. Its sockets are gone then.
#[track_caller]
fn end(mut pen: Pen) {
    pen.end_by(Signal::TERM);
    for socket in ["front.sock", "control.sock"] {
        assert!(!pen.directory().join(socket).exists(), "{socket} is left");
    }
}

/// Whether all user or group numbers of a process (`Uid`, `Gid`) are this one.
fn has_ids(process: &Process, field: &str, id: u32) -> bool {
    process.status(field) == [id; 4].map(|id| id.to_string()).join(" ")
}
