//! Signals that come late: the second one of a process that has its answer already, and the alarm
//! of a program that has given back.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::process::Signal;

use super::super::{Installed, OLD};
use crate::harness::{Backend, PATIENCE, Pen, eventually};

/// This process as one that asks for an upgrade.
struct Asker<'a> {
    pen: &'a Pen,
    socket: UnixDatagram,
}

impl<'a> Asker<'a> {
    fn of(pen: &'a Pen) -> Asker<'a> {
        let path = pen.directory().join(format!("pid.upgrade.{}", std::process::id()));
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Asker { pen, socket }
    }

    fn asks(&self) {
        self.pen.supervisor().signal(Signal::USR2);
    }

    #[track_caller]
    fn is_answered(&self, begin: &str) {
        let mut answer = [0; 4096];
        let length = self.socket.recv(&mut answer).expect("there is an answer");
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with(begin), "{answer}");
    }

    #[track_caller]
    fn has_no_more_answers(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let error = self.socket.recv(&mut [0; 9]).expect_err("there is one answer");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).unwrap();
    }
}

/// How many upgrades have come to an end.
fn outcomes(pen: &Pen) -> usize {
    let said = pen.said();
    said.lines().filter(|line| line.contains(" is now pen ") || line.contains("failed: ")).count()
}

#[track_caller]
fn await_signals_read(pen: &Pen) {
    eventually("the supervisor has read its signals", || {
        pen.supervisor().status("ShdPnd").trim_matches('0').is_empty()
    });
}

/// What becomes of an upgrade, the begin of its answer, and the version after it.
const WAYS: [(&str, &str, &str); 4] = [
    ("", "0", "0.2.0"),
    ("rehearsal exits", "1upgrade failed: ", OLD),
    ("adoption crashes", "1upgrade failed: ", OLD),
    ("worker dies", "1upgrade failed: ", OLD),
];

#[test]
fn a_second_signal_of_who_has_its_answer_begins_no_upgrade() {
    for (how, begin, version) in WAYS {
        let server = Backend::named("a");
        let pen = Installed::start(Pen::builder().workers(2).server(&server));
        let asker = Asker::of(&pen);
        pen.install(format!("0.2.0 {how}").trim_end());
        asker.asks();
        asker.is_answered(begin);
        // What would take over now.
        pen.install("0.3.0");
        asker.asks();
        await_signals_read(&pen);
        // Upgrades are carried out one after the other.
        pen.goes_on_as(version, "0.3.0");
        assert_eq!(outcomes(&pen), 2, "{how}: {}", pen.said());
        asker.has_no_more_answers();
        // This one is no repetition.
        pen.install("0.4.0");
        asker.asks();
        asker.is_answered("0pen 0.3.0 is now pen 0.4.0, ");
    }
}

#[test]
fn a_signal_that_passes_from_program_to_program_begins_no_upgrade_after_the_answer() {
    for (how, begin, version) in [("", "0", "0.2.0"), ("crashes", "1upgrade failed: ", OLD)] {
        let server = Backend::named("a");
        let pen = Installed::start(Pen::builder().workers(2).server(&server));
        let go = pen.directory().join("go");
        let asker = Asker::of(&pen);
        pen.install(format!("0.2.0 adoption waits {} {how}", go.display()).trim_end());
        asker.asks();
        eventually("it takes over", || go.with_extension("waiting").exists());
        pen.install("0.3.0");
        // Nobody reads signals now.
        asker.asks();
        fs::write(&go, "").unwrap();
        asker.is_answered(begin);
        await_signals_read(&pen);
        pen.goes_on_as(version, "0.3.0");
        assert_eq!(outcomes(&pen), 2, "{how}: {}", pen.said());
        asker.has_no_more_answers();
    }
}

/// A pen of which an upgrade fails, and which waits when it gets the process back. Returns the file
/// for which it waits.
fn gives_back_to_one_that_waits(pen: &Installed) -> PathBuf {
    let go = pen.directory().join("go");
    pen.install(&format!("0.2.0 return waits {}", go.display()));
    pen.becomes("0.2.0");
    pen.install("0.3.0 adoption crashes");
    go
}

#[test]
fn an_alarm_at_any_time_after_a_program_has_given_back_has_no_effect() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server).control());
    let held = pen.hold([127, 80, 1, 1]).unwrap().0;
    let go = gives_back_to_one_that_waits(&pen);
    let asked = pen.begin_to_ask();
    eventually("it gives back", || go.with_extension("waiting").exists());
    // The timer of the program that failed may end when its handler runs already.
    pen.supervisor().signal(Signal::ALARM);
    fs::write(&go, "").unwrap();
    let output = asked.wait_with_output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(line.ends_with("it crashed (signal 11); pen 0.2.0 goes on\n"), "{output:?}");
    pen.supervisor().signal(Signal::ALARM);
    await_signals_read(&pen);
    pen.tells("pid", &pen.supervisor().pid().to_string());
    held.echoes("untouched");
    pen.install("0.4.0");
    pen.goes_on_as("0.2.0", "0.4.0");
    pen.supervisor().signal(Signal::ALARM);
    pen.tells("pid", &pen.supervisor().pid().to_string());
}
