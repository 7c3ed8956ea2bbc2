//! Signals and commands while an upgrade is under way: nothing is lost at any phase.
//!
//! The other release stops at a phase until the test lets it go on: in its rehearsal, at the begin
//! of its takeover, or in its first worker.

mod answered;
mod quiet;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Child;

use rustix::process::Signal;

use super::deaths::assert_no_zombies;
use super::{Installed, OLD};
use crate::harness::{Backend, Client, Pen, Process, eventually, needs_root, until};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 74, 0, number)
}

/// Where the other release waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// In the child that rehearses.
    Rehearsal,
    /// After the execution, before it has read the state.
    Adoption,
    /// Its first worker is not ready.
    Workers,
}

pub(super) const PHASES: [Phase; 3] = [Phase::Rehearsal, Phase::Adoption, Phase::Workers];

/// An upgrade that has come to a phase and waits there.
pub(super) struct Waiting {
    pub(super) pen: Installed,
    server: Backend,
    /// Served by a worker of the first program.
    pub(super) held: Option<Client>,
    /// The workers and the control process of the first program.
    pub(super) staff: Vec<Process>,
    asked: Child,
    go: PathBuf,
    phase: Phase,
}

impl Waiting {
    #[track_caller]
    pub(super) fn at(phase: Phase) -> Waiting {
        Waiting::failing_at(phase, "")
    }

    /// It fails in this way as soon as it may go on.
    #[track_caller]
    pub(super) fn failing_at(phase: Phase, how: &str) -> Waiting {
        Waiting::prepared(phase, how, |_| ()).0
    }

    /// The same, after a preparation at the first program. Returns what that returns too.
    #[track_caller]
    fn prepared<T>(phase: Phase, how: &str, prepare: impl FnOnce(&Installed) -> T) -> (Waiting, T) {
        let server = Backend::with(crate::harness::backend::echo);
        let builder = Pen::builder().workers(2).server(&server).file("blacklist 7\n").control();
        let log = builder.directory().join("requests");
        let pen = Installed::start(builder.options(["-l", log.to_str().unwrap()]));
        let held = pen.connect(client(1));
        held.echoes("first");
        let staff = pen.staff();
        let go = pen.directory().join("go");
        let words = match phase {
            Phase::Rehearsal => format!("rehearsal waits {} {how}", go.display()),
            Phase::Adoption => format!("adoption waits {} {how}", go.display()),
            Phase::Workers if how.is_empty() => "worker waits".into(),
            Phase::Workers => "worker waits-and-dies".into(),
        };
        let prepared = prepare(&pen);
        pen.install(format!("0.2.0 {words}").trim_end());
        let asked = pen.begin_to_ask();
        let waiting = Waiting { pen, server, held: Some(held), staff, asked, go, phase };
        eventually("it has come to its phase", || match phase {
            Phase::Rehearsal | Phase::Adoption => waiting.go.with_extension("waiting").exists(),
            Phase::Workers => waiting.newcomers().len() >= 2,
        });
        (waiting, prepared)
    }

    /// The processes of the next program.
    pub(super) fn newcomers(&self) -> Vec<Process> {
        let before: BTreeSet<i32> = self.staff.iter().map(Process::pid).collect();
        let mut staff = self.pen.staff();
        staff.retain(|process| !before.contains(&process.pid()));
        staff
    }

    /// Lets the upgrade go on. Returns what `pen --upgrade` says then.
    #[track_caller]
    pub(super) fn goes_on(&mut self) -> Result<String, String> {
        match self.phase {
            Phase::Rehearsal | Phase::Adoption => fs::write(&self.go, "").unwrap(),
            // The worker waits until no connection is open.
            Phase::Workers => drop(self.held.take()),
        }
        self.outcome()
    }

    #[track_caller]
    pub(super) fn outcome(&mut self) -> Result<String, String> {
        use std::io::Read;
        let status = until("pen --upgrade ends", || self.asked.try_wait().unwrap());
        let (mut out, mut line) = (String::new(), String::new());
        self.asked.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.asked.stderr.take().unwrap().read_to_string(&mut line).unwrap();
        if status.success() { Ok(out) } else { Err(line) }
    }

    #[track_caller]
    pub(super) fn becomes(&mut self, version: &str) {
        let phase = self.phase;
        let line = self.goes_on().unwrap_or_else(|why| panic!("{phase:?}: {why}"));
        assert!(line.starts_with(&format!("pen {OLD} is now pen {version}, ")), "{line}");
    }

    /// Clients are served, and the connection from before is, if it is open.
    #[track_caller]
    pub(super) fn serves(&self) {
        if let Some(held) = &self.held {
            held.echoes("untouched");
        }
        for n in 2..6 {
            self.pen.connect(client(n)).echoes("new");
        }
    }
}

#[test]
fn clients_are_served_at_every_phase() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        waiting.serves();
        let other = (phase == Phase::Workers).then(|| {
            // A connection that lasts would keep the worker waiting.
            waiting.pen.connect(client(9))
        });
        drop(other);
        waiting.becomes("0.2.0");
        waiting.serves();
        assert!(waiting.server.accepted() >= 9, "{phase:?}");
    }
}

#[test]
fn a_stop_at_any_phase_is_a_stop() {
    for phase in PHASES {
        for signal in [Signal::TERM, Signal::INT] {
            let mut waiting = Waiting::at(phase);
            let mut held = waiting.held.take();
            waiting.pen.supervisor().signal(signal);
            match phase {
                // The upgrade is given up.
                Phase::Rehearsal => {}
                Phase::Adoption => fs::write(&waiting.go, "").unwrap(),
                Phase::Workers => drop(held.take()),
            }
            waiting.pen.ends_when(|_| {});
            if let Some(held) = held {
                assert!(held.read_to_end().is_ok_and(|rest| rest.is_empty()), "{phase:?}");
            }
            let _ = waiting.outcome();
        }
    }
}

#[test]
fn a_stop_during_a_takeover_that_hangs_is_a_stop_of_the_program_before() {
    let mut waiting = Waiting::at(Phase::Adoption);
    waiting.pen.supervisor().signal(Signal::TERM);
    // Nobody lets it go on: it is given up after some seconds.
    eventually("pen has ended", || waiting.pen.supervisor().gone());
    waiting.pen.ends_when(|_| {});
    let _ = waiting.outcome();
}

#[test]
fn a_reload_at_any_phase_is_carried_out() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        let log = waiting.pen.directory().join("requests");
        fs::write(waiting.pen.directory().join("pen.cfg"), "blacklist 8\n").unwrap();
        fs::rename(&log, log.with_extension("1")).unwrap();
        waiting.pen.supervisor().signal(Signal::HUP);
        waiting.becomes("0.2.0");
        eventually("the file is in force", || waiting.pen.tell("blacklist") == "8\n");
        eventually("the log was opened anew", || log.exists());
        waiting.serves();
        eventually("all workers write into it", || {
            waiting.serves();
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.contains("new") && (waiting.held.is_none() || text.contains("untouched"))
        });
    }
}

#[test]
fn a_report_that_is_asked_for_at_any_phase_is_written() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        let page = waiting.pen.directory().join("status.html");
        let _ = fs::remove_file(&page);
        waiting.pen.supervisor().signal(Signal::USR1);
        waiting.becomes("0.2.0");
        eventually("the report is there", || page.exists());
        waiting.serves();
    }
}

#[test]
fn another_upgrade_that_is_asked_for_at_any_phase_follows() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        waiting.pen.install("0.3.0");
        let pen = &waiting.pen;
        let second = pen.begin_to_ask();
        // It has sent its signal when its socket for the answer is there and it sleeps.
        let mailbox = pen.directory().join(format!("pid.upgrade.{}", second.id()));
        let asks = Process::open(second.id() as i32).unwrap();
        eventually("it waits for the answer", || mailbox.exists() && asks.state() == Some('S'));
        waiting.becomes("0.2.0");
        let output = second.wait_with_output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.starts_with("pen 0.2.0 is now pen 0.3.0, "), "{phase:?}: {line:?}");
        waiting.serves();
    }
}

#[test]
fn commands_at_any_phase_get_a_reply() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        let operators: Vec<Client> = (0..4)
            .map(|n| {
                let operator = waiting.pen.control().connect().unwrap();
                operator.send(format!("server 0 weight {}\n", n + 2));
                operator
            })
            .collect();
        waiting.becomes("0.2.0");
        for operator in operators {
            let reply = String::from_utf8(operator.read_to_end().unwrap()).unwrap();
            assert!(
                reply.is_empty() || reply.ends_with("give the command again\n"),
                "{phase:?}: {reply:?}"
            );
        }
        waiting.pen.tells("pid", &waiting.pen.supervisor().pid().to_string());
        waiting.serves();
    }
}

#[test]
fn an_exit_command_for_which_an_upgrade_waits_ends_pen() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().workers(2).options(["-X"]).server(&server).control();
    let mut pen = Installed::start(builder);
    let go = pen.directory().join("go");
    pen.install(&format!("0.2.0 rehearsal waits {}", go.display()));
    pen.supervisor().signal(Signal::USR2);
    eventually("it rehearses", || go.with_extension("waiting").exists());
    // The first command waits for a worker, and the other one for the first.
    let (worker, control) = (pen.workers().remove(0), pen.control_process());
    worker.stop();
    let operators = ["timeout 7\n", "exit\n"].map(|line| {
        let operator = pen.control().connect().unwrap();
        operator.send(line);
        operator
    });
    eventually("both operators are served", || watched(&control) == 4);
    fs::write(&go, "").unwrap();
    eventually("no further operator is accepted", || watched(&control) == 3);
    pen.ends_when(|_| worker.resume());
    let replies = operators.map(|operator| operator.read_to_end().unwrap());
    assert_eq!(replies, [&b"7\n"[..], b""]);
    assert!(!pen.said().contains(" is now pen "), "{}", pen.said());
}

/// How many descriptors a process watches with epoll(7): the control process watches its channel,
/// its listener if it accepts, and its operators.
fn watched(process: &Process) -> usize {
    let descriptors = process.descriptors();
    let epoll = descriptors.iter().find(|(_, target)| target == "anon_inode:[eventpoll]");
    let Some((number, _)) = epoll else { return 0 };
    let text = fs::read_to_string(process.proc(&format!("fdinfo/{number}"))).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("tfd:")).count()
}

#[test]
fn commands_of_operators_from_before_are_carried_out_when_a_takeover_fails() {
    let connect = |pen: &Installed| {
        let operators = [0, 1].map(|_| pen.control().connect().unwrap());
        // Operators are accepted in the order in which they come.
        pen.tells("pid", &pen.supervisor().pid().to_string());
        operators
    };
    let (mut waiting, operators) = Waiting::prepared(Phase::Workers, "dies", connect);
    let [operator, other] = operators;
    operator.send("tracking 77\n");
    // The control process refuses this one itself: so it has passed on the other.
    other.send("nonsense\n");
    assert_ne!(other.read_to_end().unwrap(), b"");
    let said = waiting.goes_on().unwrap_err();
    assert!(said.ends_with(&format!("; pen {OLD} goes on\n")), "{said}");
    assert_eq!(operator.read_to_end().unwrap(), b"77\n");
    waiting.serves();
}

#[test]
fn what_happens_while_new_workers_start_is_not_lost_when_they_fail() {
    let mut waiting = Waiting::failing_at(Phase::Workers, "dies");
    let (page, log) =
        ["status.html", "requests"].map(|name| waiting.pen.directory().join(name)).into();
    let _ = fs::remove_file(&page);
    fs::rename(&log, log.with_extension("1")).unwrap();
    fs::write(waiting.pen.directory().join("pen.cfg"), "blacklist 9\n").unwrap();
    let operators = [0, 1].map(|_| waiting.pen.control().connect().unwrap());
    operators.iter().for_each(|operator| operator.send("tracking 77\n"));
    let victim = waiting.staff.iter().find(|one| one.title() == "pen: worker 1").unwrap();
    let victim_pid = victim.pid();
    victim.kill();
    for signal in [Signal::HUP, Signal::USR1] {
        waiting.pen.supervisor().signal(signal);
    }
    // The program that takes over sees and serves its channels meanwhile.
    for n in 2..6 {
        waiting.pen.connect(client(n)).echoes("new");
    }
    let said = waiting.goes_on().unwrap_err();
    assert!(said.ends_with(&format!("; pen {OLD} goes on\n")), "{said}");
    for operator in operators {
        let reply = String::from_utf8(operator.read_to_end().unwrap()).unwrap();
        assert!(!reply.is_empty(), "each operator gets a reply");
    }
    eventually("the report is there", || page.exists());
    eventually("the log was opened anew", || log.exists());
    eventually("the file is in force", || waiting.pen.tell("blacklist") == "9\n");
    waiting.pen.hears(&format!("(pid {victim_pid})"));
    eventually("the dead worker is replaced", || {
        let staff = waiting.pen.pids();
        staff.len() == 3 && !staff.contains(&victim_pid)
    });
    assert_no_zombies(&waiting.pen);
    waiting.serves();
    waiting.pen.install("0.3.0");
    waiting.pen.becomes("0.3.0");
}

#[test]
fn signals_before_a_takeover_fails_reach_the_program_before() {
    let mut waiting = Waiting::failing_at(Phase::Adoption, "crashes");
    let (page, log) =
        ["status.html", "requests"].map(|name| waiting.pen.directory().join(name)).into();
    let _ = fs::remove_file(&page);
    fs::rename(&log, log.with_extension("1")).unwrap();
    fs::write(waiting.pen.directory().join("pen.cfg"), "blacklist 9\n").unwrap();
    for signal in [Signal::HUP, Signal::USR1] {
        waiting.pen.supervisor().signal(signal);
    }
    let said = waiting.goes_on().unwrap_err();
    assert!(said.contains("it crashed (signal 11)"), "{said}");
    eventually("the report is there", || page.exists());
    eventually("the log was opened anew", || log.exists());
    eventually("the file is in force", || waiting.pen.tell("blacklist") == "9\n");
    waiting.serves();
}

#[test]
fn an_asker_that_does_not_wait_changes_nothing() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        waiting.asked.kill().unwrap();
        waiting.asked.wait().unwrap();
        match phase {
            Phase::Rehearsal | Phase::Adoption => fs::write(&waiting.go, "").unwrap(),
            Phase::Workers => drop(waiting.held.take()),
        }
        waiting.pen.hears(&format!("pen {OLD} is now pen 0.2.0, "));
        waiting.serves();
    }
}
