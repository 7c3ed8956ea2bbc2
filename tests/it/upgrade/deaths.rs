//! Processes that die or hang while an upgrade is under way.

use std::fs;
use std::net::Ipv4Addr;

use super::Installed;
use super::phases::{PHASES, Phase, Waiting};
use crate::harness::wait::within;
use crate::harness::{Backend, Client, PATIENCE, Pen, Process, eventually, needs_root, until};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, 0, number)
}

/// The process with this title among those of the next program.
fn newcomer(waiting: &Waiting, title: &str) -> Option<Process> {
    waiting.newcomers().into_iter().find(|new| new.title() == title)
}

/// Whether a worker has started and waits for events. Needs root.
fn is_ready(worker: &Process) -> bool {
    let descriptors = worker.descriptors();
    let has_epoll = descriptors.iter().any(|(_, target)| target == "anon_inode:[eventpoll]");
    has_epoll && worker.state() == Some('S')
}

#[test]
fn a_worker_that_dies_at_any_phase_is_noticed() {
    for phase in PHASES {
        let mut waiting = Waiting::at(phase);
        let held = waiting.held.take();
        let (victim, other) = (&waiting.staff[0], &waiting.staff[1]);
        victim.kill();
        if phase == Phase::Rehearsal {
            eventually("it is replaced", || !waiting.newcomers().is_empty());
        }
        let pids = [victim.pid(), other.pid()];
        drop(held);
        waiting.becomes("0.2.0");
        waiting.pen.hears(&format!("(pid {})", pids[0]));
        eventually("only new workers are left", || {
            let staff = waiting.pen.pids();
            staff.len() == 3 && pids.iter().all(|pid| !staff.contains(pid))
        });
        assert_no_zombies(&waiting.pen);
        waiting.serves();
    }
}

#[test]
fn a_worker_that_dies_before_a_takeover_fails_is_replaced_by_the_program_before() {
    let mut waiting = Waiting::failing_at(Phase::Adoption, "panics");
    let held = waiting.held.take();
    let victim = waiting.staff[0].pid();
    waiting.staff[0].kill();
    let said = waiting.goes_on().unwrap_err();
    assert!(said.contains("on purpose"), "{said}");
    waiting.pen.hears(&format!("(pid {victim})"));
    eventually("it is replaced", || {
        let staff = waiting.pen.pids();
        staff.len() == 3 && !staff.contains(&victim)
    });
    assert_no_zombies(&waiting.pen);
    waiting.serves();
    drop(held);
}

#[test]
fn a_new_worker_that_dies_before_all_are_ready_is_replaced() {
    let mut waiting = Waiting::at(Phase::Workers);
    let is_second = |process: &Process| process.title() == "pen: worker 1";
    let victim =
        until("the second worker is there", || waiting.newcomers().into_iter().find(is_second));
    victim.kill();
    eventually("it is replaced", || {
        waiting.newcomers().iter().any(|new| is_second(new) && new.pid() != victim.pid())
    });
    waiting.becomes("0.2.0");
    waiting.serves();
}

#[test]
fn a_worker_that_is_replaced_before_the_commit_accepts_nobody() {
    if !needs_root() {
        return;
    }
    let mut waiting = Waiting::at(Phase::Workers);
    let ready = |other: i32| {
        let second = || newcomer(&waiting, "pen: worker 1");
        until("the second worker is ready", || {
            second().filter(|second| second.pid() != other && is_ready(second))
        })
    };
    let victim = ready(0);
    victim.kill();
    ready(victim.pid());
    // Only workers of the next program could take these clients.
    waiting.staff.iter().for_each(Process::stop);
    let clients: Vec<Client> = (1..20).map(|n| waiting.pen.connect(client(n))).collect();
    clients.iter().for_each(|client| client.send("x\n"));
    // The takeover fails.
    newcomer(&waiting, "pen: worker 0").expect("it waits").kill();
    waiting.staff.iter().for_each(Process::resume);
    let said = waiting.outcome().unwrap_err();
    assert!(said.contains("worker 0"), "{said}");
    for client in clients {
        assert_eq!(client.line().as_deref(), Some("x"), "a worker of the first program serves");
    }
    waiting.serves();
}

#[test]
fn a_slot_whose_worker_dies_while_earlier_workers_begin_to_drain_is_filled() {
    if !needs_root() {
        return;
    }
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Installed::start(Pen::builder().workers(2).server(&server));
    let workers = pen.workers();
    let held = pen.only(0, || {
        let held = pen.connect(client(1));
        held.echoes("in the first worker");
        held
    });
    // The next program waits a little until this one drains.
    workers[0].stop();
    pen.install("0.2.0 worker dies-if-replaced");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| pen.becomes("0.2.0"));
        eventually("the other worker was told to drain", || workers[1].gone());
        let new = pen
            .staff()
            .into_iter()
            .find(|one| one.title() == "pen: worker 0" && one.pid() != workers[0].pid());
        new.expect("all new workers are there").kill();
        assert_eq!(asked.join().unwrap(), 1);
    });
    pen.hears("worker 0 ");
    workers[0].resume();
    held.echoes("untouched");
    // Replacements die while a connection is open.
    drop(held);
    eventually("two new workers are left, and no old one", || {
        let staff = pen.staff();
        staff.len() == 2 && staff.iter().all(is_ready) && workers[0].gone()
    });
    assert_no_zombies(&pen);
    pen.connect(client(2)).echoes("new");
}

#[test]
fn a_rehearsal_does_not_outlive_the_supervisor() {
    let mut waiting = Waiting::at(Phase::Rehearsal);
    let children = waiting.pen.supervisor().children();
    assert!(children.iter().any(|child| child.title().contains("--rehearse")));
    waiting.pen.kill_supervisor();
    let ended = within(PATIENCE, || children.iter().all(Process::gone));
    children.iter().for_each(Process::kill);
    assert!(ended, "no process is left");
    let said = waiting.outcome().unwrap_err();
    assert!(said.contains("ended before it answered"), "{said}");
}

#[test]
fn a_second_upgrade_waits_for_the_end_of_the_control_process_before() {
    let mut waiting = Waiting::at(Phase::Workers);
    let is_control = |process: &Process| process.title() == "pen: control";
    let place = waiting.staff.iter().position(is_control).expect("there is a control process");
    let control = waiting.staff.remove(place);
    control.stop();
    waiting.becomes("0.2.0");
    assert!(!control.gone());
    waiting.pen.install("0.3.0");
    waiting.pen.goes_on_as("0.2.0", "0.3.0");
    assert!(control.gone(), "it was ended before the program that knows it");
    assert_no_zombies(&waiting.pen);
}

#[track_caller]
pub(super) fn assert_no_zombies(pen: &Pen) {
    let parent = format!("{}", pen.supervisor().pid());
    eventually("all dead children have been reaped", || {
        let zombies = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            let rest = stat.rsplit_once(") ")?.1.to_string();
            let mut fields = rest.split(' ');
            (fields.next() == Some("Z") && fields.next() == Some(&parent)).then_some(())
        });
        zombies.count() == 0
    });
}
