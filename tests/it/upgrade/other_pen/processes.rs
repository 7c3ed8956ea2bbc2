//! The jailed processes: the real ones, except for the faults of worker 0 and the control process.

use std::time::Duration;

use pen_ipc::message::FromStartingWorker;
use pen_ipc::start::{Begins, ControlStart, WorkerStart};
use pen_table::Table;
use rustix::event::poll;

use crate::fault;

/// A worker.
pub fn relay(start: WorkerStart, table: &Table) -> i32 {
    match *fault() {
        ["worker", how] if start.id.0 == 0 => match how {
            "dies" => 3,
            // Once the program has taken over, workers accept at once. All before are the first.
            "dies-if-replaced" => match start.begins {
                Begins::AtOnce if table.connections_open() > 0 => 3,
                Begins::AtOnce | Begins::OnOrder => pen_worker::entry(start, table),
            },
            "fails" => {
                let reason = "worker cannot start".into();
                start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
                1
            }
            "never-ready" => sleep(),
            "panics" => {
                // Other panics are failures of the test, which reads standard error.
                std::panic::set_hook(Box::new(|_| {}));
                panic!("on purpose")
            }
            "waits" => {
                wait(table);
                pen_worker::entry(start, table)
            }
            "waits-and-dies" => {
                wait(table);
                3
            }
            unknown => panic!("no such fault: {unknown:?}"),
        },
        _ => pen_worker::entry(start, table),
    }
}

/// The control process.
pub fn control(start: ControlStart) -> i32 {
    match *fault() {
        ["control", how] => match how {
            "dies" => 3,
            "fails" => {
                let reason = "control process cannot start".into();
                start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
                1
            }
            "never-ready" => sleep(),
            unknown => panic!("no such fault: {unknown:?}"),
        },
        _ => pen_worker::control_entry(start),
    }
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

/// Waits until no connection is open: a jailed process sees no file of the test.
fn wait(table: &Table) {
    let time = Duration::from_millis(5).try_into().unwrap();
    while table.connections_open() > 0 {
        let _ = poll(&mut [], Some(&time));
    }
}
