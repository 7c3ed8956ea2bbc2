//! The start: in the background, failed, interrupted, with inherited states, beside another pen.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;

use super::{fake, logs, replaced};
use crate::harness::{Process, eventually};

#[test]
fn without_f_the_command_returns_when_the_service_is_ready() {
    let mut pen = fake("works").workers(3).background().start();
    let said = pen.said();
    // A pen that root starts without -u logs that.
    assert!(said.lines().all(|line| line.ends_with("add -u USER")), "{said}");
    let workers = pen.supervisor().children();
    assert_eq!(workers.len(), 3);
    let front = pen.directory().join("front.sock");
    UnixStream::connect(&front).unwrap();
    for process in workers.iter().chain([pen.supervisor()]) {
        let mut streams = process.descriptors();
        streams.retain(|(number, _)| *number < 3);
        assert!(streams.iter().all(|(_, target)| target == "/dev/null"), "{streams:?}");
    }
    let directory = fs::read_link(pen.supervisor().proc("cwd")).unwrap();
    assert_eq!(directory.to_str(), Some("/"));
    pen.end_by(Signal::TERM);
    assert!(!front.exists());
    logs(&pen, "stopped", 3);
}

#[test]
fn a_failed_start_is_one_line_and_leaves_nothing() {
    for (behaviour, expected) in [("dies", "pen: worker "), ("fails", "pen: worker cannot.start\n")]
    {
        for foreground in [false, true] {
            let builder = fake(behaviour);
            let builder = if foreground { builder } else { builder.background() };
            let output = builder.runs();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.starts_with(expected) && said.lines().count() == 1, "{said}");
            for left in ["pid", "front.sock"] {
                assert!(!builder.directory().join(left).exists(), "{left} is left");
            }
        }
    }
}

#[test]
fn a_start_can_be_interrupted() {
    let builder = fake("never-ready");
    let mut command = builder.command();
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let supervisor = Process::open(child.id() as i32).unwrap();
    eventually("there are workers", || supervisor.children().len() == 2);
    let workers = supervisor.children();
    // Signals that can wait do wait.
    for signal in [Signal::HUP, Signal::USR1, Signal::TERM] {
        supervisor.signal(signal);
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said, "pen: the start was ended by signal SIGTERM\n");
    assert!(workers.iter().all(Process::gone));
    assert!(!builder.directory().join("front.sock").exists());
}

#[test]
fn what_a_service_manager_says_is_for_the_supervisor_alone() {
    let variables = "export NOTIFY_SOCKET=@nobody WATCHDOG_USEC=9000000 WATCHDOG_PID=$$ \
        LISTEN_PID=$$ LISTEN_FDS=0 LISTEN_FDNAMES=; exec \"$0\" \"$@\"";
    let pen = fake("finds-manager").through(["sh", "-c", variables]).start();
    logs(&pen, "no manager", 2);
}

#[test]
fn inherited_signal_states_and_descriptors_change_nothing() {
    let inherited =
        "trap '' HUP INT QUIT USR1 TERM CHLD USR2; exec 7</dev/zero; exec \"$0\" \"$@\"";
    let pen = fake("works").through(["sh", "-c", inherited]).start();
    let supervisor = pen.supervisor();
    let workers = supervisor.children();
    for process in workers.iter().chain([supervisor]) {
        assert!(process.descriptors().iter().all(|(_, target)| target != "/dev/zero"));
    }
    for ignored in [Signal::ALARM, Signal::PIPE] {
        supervisor.signal(ignored);
    }
    // The terminal's signals reach the workers too, and have no effect on them.
    for worker in &workers {
        for signal in [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP, Signal::USR1] {
            worker.signal(signal);
        }
        assert_eq!(worker.status("SigBlk"), "0000000000000000");
    }
    workers[0].kill();
    replaced(&pen, &workers[0], 2);
    assert_eq!(pen.said().matches("was killed").count(), 1);
}

#[test]
fn one_pid_file_is_for_one_pen() {
    let first = fake("works").start();
    let pid_file = first.directory().join("pid");
    let output = fake("works").background().pid_file(&pid_file).fails();
    let said = String::from_utf8(output.stderr).unwrap();
    let pid = first.supervisor().pid();
    assert!(said.contains(&format!("a running pen (pid {pid}) holds it")), "{said}");
    assert_eq!(fs::read_to_string(pid_file).unwrap(), format!("{pid}\n"));
}
