//! What happens while an upgrade waits until nothing else is under way: signals, deaths, and the
//! end of its patience.
//!
//! A report to a file system that hangs holds the upgrade in this phase until the test lets it go.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Output};

use rustix::process::Signal;

use super::super::deaths::assert_no_zombies;
use super::super::{Installed, OLD};
use super::watched;
use crate::harness::hanging::Hanging;
use crate::harness::machine::{self, in_own_network};
use crate::harness::{Backend, Client, Pen, Process, eventually, until};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 80, 0, number)
}

/// An upgrade that waits.
struct Quiet {
    /// It is dropped first: pen's directory could not be removed.
    hanging: Hanging,
    pen: Installed,
    _server: Backend,
    held: Client,
    /// Workers and the control process.
    staff: BTreeSet<i32>,
    asked: Child,
    /// The file of reports. Its directory hangs.
    page: PathBuf,
}

impl Quiet {
    /// `None`, and the test says so, if this machine has no file systems in user space.
    #[track_caller]
    fn reach() -> Option<Quiet> {
        let server = Backend::with(crate::harness::backend::echo);
        let builder = Pen::builder().workers(2).without_status_file().server(&server).control();
        let builder = builder.file("blacklist 7\n");
        let reports = machine::directory(builder.directory(), "reports", 0o755, 0);
        let (page, log) = (reports.join("page.html"), builder.directory().join("requests"));
        let options = ["-w".as_ref(), page.as_os_str(), "-l".as_ref(), log.as_os_str()];
        let pen = Installed::start(builder.options(options));
        let held = pen.connect(client(1));
        held.echoes("first");
        let (staff, control) = (pen.pids(), pen.control_process());
        pen.install("0.2.0");
        let hanging = Hanging::over(&reports)?;
        pen.supervisor().signal(Signal::USR1);
        eventually("a report is written", || !strangers(&pen, &staff).is_empty());
        let asked = pen.begin_to_ask();
        eventually("no further operator is accepted", || watched(&control) == 1);
        Some(Quiet { pen, _server: server, held, staff, asked, page, hanging })
    }

    /// The report fails, and so the upgrade goes on. Returns the rest.
    #[track_caller]
    fn goes_on(self) -> Gone {
        let Quiet { pen, _server, held, asked, page, hanging, .. } = self;
        drop(hanging);
        let output = asked.wait_with_output().unwrap();
        Gone { pen, _server, held, page, output }
    }

    /// [`Quiet::goes_on`] as the next program.
    #[track_caller]
    fn becomes(self) -> Gone {
        let gone = self.goes_on();
        let line = String::from_utf8_lossy(&gone.output.stdout);
        assert!(line.starts_with(&format!("pen {OLD} is now pen 0.2.0, ")), "{:?}", gone.output);
        gone.serves();
        gone
    }
}

/// After the wait.
struct Gone {
    pen: Installed,
    _server: Backend,
    held: Client,
    page: PathBuf,
    output: Output,
}

impl Gone {
    #[track_caller]
    fn serves(&self) {
        self.held.echoes("untouched");
        for n in 2..6 {
            self.pen.connect(client(n)).echoes("new");
        }
        // Another upgrade may begin meanwhile: then it tells the operator to ask again.
        let pid = format!("{}\n", self.pen.supervisor().pid());
        eventually("an operator has an answer", || self.pen.tell("pid") == pid);
    }

    /// The upgrade failed for this reason, with one message, and the next one succeeds.
    #[track_caller]
    fn failed(&self, reason: &str) {
        let line = String::from_utf8_lossy(&self.output.stderr);
        let expected = format!("pen: upgrade failed: {reason}; pen {OLD} goes on\n");
        assert_eq!(line, expected, "{:?}", self.output);
        self.pen.hears(&expected["pen: ".len()..]);
        assert_eq!(self.pen.said().matches("upgrade failed").count(), 1, "{}", self.pen.said());
        self.serves();
        self.pen.becomes("0.2.0");
        self.serves();
    }
}

/// The children that are neither workers nor the control process.
fn strangers(pen: &Pen, staff: &BTreeSet<i32>) -> Vec<Process> {
    let mut children = pen.supervisor().children();
    children.retain(|child| !staff.contains(&child.pid()));
    children
}

#[test]
fn a_stop_while_an_upgrade_waits_is_a_stop() {
    if !in_own_network("a_stop_while_an_upgrade_waits_is_a_stop", &["true".into()]) {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let Some(mut quiet) = Quiet::reach() else { return };
        quiet.pen.end_by(signal);
        assert!(quiet.held.read_to_end().is_ok_and(|rest| rest.is_empty()), "{signal:?}");
        let said = String::from_utf8(quiet.asked.wait_with_output().unwrap().stderr).unwrap();
        assert!(said.ends_with(" ended before it answered; its log may say why\n"), "{said}");
        assert!(!quiet.pen.said().contains(" is now pen "), "{}", quiet.pen.said());
    }
}

#[test]
fn a_reload_while_an_upgrade_waits_is_carried_out() {
    if !in_own_network("a_reload_while_an_upgrade_waits_is_carried_out", &["true".into()]) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    let log = quiet.pen.directory().join("requests");
    fs::rename(&log, log.with_extension("1")).unwrap();
    fs::write(quiet.pen.directory().join("pen.cfg"), "blacklist 8\n").unwrap();
    quiet.pen.supervisor().signal(Signal::HUP);
    eventually("the log was opened anew", || log.exists());
    let gone = quiet.becomes();
    eventually("the file is in force", || gone.pen.tell("blacklist") == "8\n");
}

#[test]
fn a_report_that_is_asked_for_while_an_upgrade_waits_is_written() {
    if !in_own_network(
        "a_report_that_is_asked_for_while_an_upgrade_waits_is_written",
        &["true".into()],
    ) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    quiet.pen.supervisor().signal(Signal::USR1);
    eventually("the signal is read", || has_read_signals(&quiet.pen));
    let gone = quiet.becomes();
    // The first one could not be written.
    eventually("the second report is there", || gone.page.exists());
}

#[test]
fn another_upgrade_that_is_asked_for_while_one_waits_follows() {
    if !in_own_network(
        "another_upgrade_that_is_asked_for_while_one_waits_follows",
        &["true".into()],
    ) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    let second = quiet.pen.begin_to_ask();
    let mailbox = quiet.pen.directory().join(format!("pid.upgrade.{}", second.id()));
    let asks = Process::open(second.id() as i32).unwrap();
    eventually("it waits for the answer", || mailbox.exists() && asks.state() == Some('S'));
    quiet.pen.install("0.3.0");
    let gone = quiet.becomes();
    let output = second.wait_with_output().unwrap();
    let line = String::from_utf8_lossy(&output.stdout);
    assert!(line.starts_with("pen 0.2.0 is now pen 0.3.0, "), "{output:?}");
    gone.serves();
}

#[test]
fn a_worker_that_dies_while_an_upgrade_waits_is_replaced() {
    if !in_own_network("a_worker_that_dies_while_an_upgrade_waits_is_replaced", &["true".into()]) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    // The one without the connection.
    let served = quiet.pen.workers().into_iter().find(|worker| {
        let sockets = worker.descriptors();
        sockets.iter().filter(|(_, target)| target.starts_with("socket:")).count() < 4
    });
    let victim = served.expect("a worker has no connection");
    let title = victim.title();
    victim.kill();
    let replacement = until("it is replaced", || {
        let mut staff = quiet.pen.staff();
        staff.retain(|one| !quiet.staff.contains(&one.pid()) && one.title() == title);
        staff.pop()
    });
    quiet.pen.hears(&format!("(pid {})", victim.pid()));
    let gone = quiet.becomes();
    eventually("it ended with the upgrade", || replacement.gone());
    assert_no_zombies(&gone.pen);
}

#[test]
fn an_upgrade_that_waits_for_too_long_is_given_up() {
    if !in_own_network("an_upgrade_that_waits_for_too_long_is_given_up", &["true".into()]) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    let control = quiet.pen.control_process();
    eventually("operators are accepted again", || watched(&control) == 2);
    quiet.held.echoes("untouched");
    assert_eq!(quiet.pen.pids(), quiet.staff);
    let gone = quiet.goes_on();
    gone.failed("a command or a report was under way for 10 s; try again");
}

#[test]
fn a_rehearsed_program_that_ends_while_its_upgrade_waits_does_not_take_over() {
    let name = "a_rehearsed_program_that_ends_while_its_upgrade_waits_does_not_take_over";
    if !in_own_network(name, &["true".into()]) {
        return;
    }
    let Some(quiet) = Quiet::reach() else { return };
    let children = strangers(&quiet.pen, &quiet.staff);
    let rehearsal = children.iter().find(|child| child.title().contains("--rehearse"));
    rehearsal.expect("it lives until the switch").kill();
    let gone = quiet.goes_on();
    gone.failed("the process that rehearsed it was killed");
}

/// Whether the supervisor has no pending signal.
fn has_read_signals(pen: &Pen) -> bool {
    pen.supervisor().status("ShdPnd").trim_matches('0').is_empty()
}
