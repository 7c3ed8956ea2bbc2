//! Reports and the request log: where they go, and what a HUP does.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::Signal;

use super::{fake, log, logs};
use crate::harness::process::Process;
use crate::harness::wait::within;
use crate::harness::{Pen, eventually, until};

#[test]
fn reports_go_to_the_file_or_to_standard_error() {
    let mut pen = fake("works").start();
    assert!(pen.report().html.ends_with("</html>\n"));
    let page = fs::metadata(pen.directory().join("status.html")).unwrap();
    assert_eq!(page.mode() & 0o7777, 0o644);
    pen.end_by(Signal::TERM);
    assert!(!pen.said().contains("Active clients"));

    let pen = fake("works").without_status_file().start();
    pen.supervisor().signal(Signal::USR1);
    pen.hears("Active connections:\n");
    assert!(pen.said().contains("Server 0 status:\naddress 127.0.0.1\n0\nport 1\n"));
}

#[test]
fn a_child_that_reports_holds_nothing_of_the_supervisors() {
    let (_reader, _pen, reporter) = slow_report();
    let held = || {
        let mut held = reporter.descriptors();
        held.retain(|(number, _)| *number > 2);
        held
    };
    // Its own descriptors lead to standard error and to the memory of its reply. Above all, it must
    // not keep a listener open after a move.
    let is_own = |target: &str| target.starts_with("pipe:") || target.starts_with("/memfd:pen ");
    eventually("the others are closed", || held().len() <= 2);
    assert!(!reporter.gone(), "it still writes");
    assert!(held().iter().all(|(_, target)| is_own(target)), "{:?}", held());
}

#[test]
fn requests_during_a_report_give_one_more() {
    let (mut reader, pen, _reporter) = slow_report();
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    for _ in 0..3 {
        pen.supervisor().signal(Signal::USR1);
        let taken = || pen.supervisor().status("ShdPnd") == "0000000000000000";
        eventually("the supervisor has taken the signal", taken);
    }
    let mut said = Vec::new();
    let mut reports = || {
        let _ = reader.read_to_end(&mut said);
        String::from_utf8_lossy(&said).matches("Sandbox of the workers: ").count()
    };
    eventually("there is a second report", || reports() == 2);
    assert!(!within(Duration::from_millis(300), || reports() > 2), "and no third");
}

#[test]
fn a_report_that_ends_while_pen_stops_costs_no_time_and_its_failure_is_logged() {
    let (mut reader, mut pen, reporter) = slow_report();
    reporter.stop();
    let [held, other] = workers_of(&pen, &reporter).try_into().unwrap();
    held.stop();
    let mut used = 0;
    pen.ends_when(|pen| {
        let supervisor = pen.supervisor();
        let before = supervisor.ticks();
        supervisor.signal(Signal::TERM);
        eventually("the other worker stops", || other.gone());
        let _ = reader.read(&mut [0; 1 << 16]).unwrap();
        reporter.kill();
        eventually("it waits for the worker no longer", || supervisor.gone());
        used = supervisor.ticks() - before;
    });
    assert!(used < 50, "it waits asleep, and used {used} ticks");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.contains("the report was not finished: killed by signal 9\n"), "{said}");
}

#[test]
fn pen_does_not_log_that_it_ends_a_report_itself() {
    let (mut reader, mut pen, reporter) = slow_report();
    reporter.stop();
    let _ = reader.read(&mut [0; 1 << 16]).unwrap();
    pen.end_by(Signal::TERM);
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(!said.contains("not finished"), "{said}");
}

/// A pen that writes a report, the process that writes it, and the reader of standard error: a full
/// pipe, so that the report takes its time.
fn slow_report() -> (PipeReader, Pen, Process) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    let to_pipe = "exec 2>&3 3>&-; exec \"$0\" \"$@\"";
    let builder = fake("works").without_status_file();
    let pen = builder.socket(writer).through(["sh", "-c", to_pipe]).start();
    let workers: Vec<i32> = pen.supervisor().children().iter().map(Process::pid).collect();
    pen.supervisor().signal(Signal::USR1);
    let reporter = until("the report is written", || {
        pen.supervisor().children().into_iter().find(|child| !workers.contains(&child.pid()))
    });
    (reader, pen, reporter)
}

/// The workers of [`slow_report`].
fn workers_of(pen: &Pen, reporter: &Process) -> Vec<Process> {
    let mut workers = pen.supervisor().children();
    workers.retain(|child| child.pid() != reporter.pid());
    workers
}

#[test]
fn a_hangup_reopens_the_log_in_every_worker() {
    let pen = fake("works").start();
    let [current, old] = ["log", "old.log"].map(|name| pen.directory().join(name));
    logs(&pen, "started", 2);
    fs::rename(&current, &old).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("both workers have the new log", || log(&pen) == "reopened\nreopened\n");
    // A replacement gets the new log too.
    pen.supervisor().children()[0].kill();
    logs(&pen, "started", 1);
    // A log that cannot be reopened is kept.
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("lines still go to the file that was opened before");
    assert_eq!(fs::read_to_string(old).unwrap(), "started\nstarted\n");
}
