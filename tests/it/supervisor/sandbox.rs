//! Tests of the sandbox in running processes: forbidden actions before a process is ready, and a
//! system that cannot confine processes.

use std::fs;

use super::{fake, steered};
use crate::harness::{Process, needs_root};

/// The forbidden action, and the error of the start.
const TRIALS: &[(&str, &str)] = &[
    ("open", "permission denied"),
    ("execute", KILLED),
    ("kill", KILLED),
    ("kill-group", KILLED),
    ("packets", KILLED),
    ("root", KILLED),
];

const KILLED: &str =
    "was killed by signal 31: its sandbox has no such system call before it was ready";

#[test]
fn what_jailed_processes_try_fails_or_kills_them() {
    for (trial, expected) in TRIALS {
        for process in ["worker", "control"] {
            // The control process opens files that operators name, with the rights of its user.
            if (*trial, process) == ("open", "control") {
                continue;
            }
            let output = steered(&format!("try {process} {trial}")).runs();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{process} {trial}: {said}");
            assert!(said.to_lowercase().contains(expected), "{process} {trial}: {said}");
        }
    }
}

#[test]
fn every_process_is_filtered() {
    let pen = steered("works").options(["--require-sandbox"]).start();
    let supervisor = pen.supervisor();
    let children = supervisor.children();
    assert_eq!(children.len(), 3);
    let filters = |process: &Process| process.status("Seccomp_filters").parse::<u32>().unwrap();
    for child in &children {
        assert_eq!(child.status("Seccomp"), "2");
        assert!(filters(child) > filters(supervisor), "its own beside those of the supervisor");
        assert_eq!(child.status("NoNewPrivs"), "1");
    }
    assert_eq!(supervisor.status("NoNewPrivs"), "1");
    if !needs_root() {
        return;
    }
    for worker in &children[..2] {
        let root = fs::read_link(worker.proc("root")).unwrap();
        assert!(
            root.to_str().unwrap().ends_with(" (deleted)"),
            "an empty directory that is no file: {root:?}"
        );
    }
    // At most chown, dac_override, fowner, setgid, setuid, setpcap, net_bind_service and
    // sys_chroot (capability.h).
    let most = [0, 1, 3, 6, 7, 8, 10, 18].iter().fold(0_u64, |set, bit| set | 1 << bit);
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        let held = u64::from_str_radix(&supervisor.status(set), 16).unwrap();
        assert_eq!(held & !most, 0, "{set}: {held:x}");
    }
}

#[test]
fn a_system_that_cannot_confine_is_told_once_or_is_an_error() {
    for (lack, name) in [("landlock", "Landlock"), ("seccomp", "filter for system calls")] {
        let behaviour = format!("lack {lack}");
        let pen = fake(&behaviour).start();
        pen.hears(&format!("the sandbox is not whole: this system has no {name} ("));
        // One line, and the option in it.
        assert_eq!(pen.said().matches("sandbox").count(), 2, "{}", pen.said());
        let output = fake(&behaviour).background().options(["--require-sandbox"]).fails();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with(&format!("pen: --require-sandbox: there is no {name} (")),
            "{said}"
        );
    }
}

#[test]
fn what_is_in_force_is_told() {
    let pen = steered("works").start();
    let told = pen.tell("sandbox");
    let names: Vec<&str> = told.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let all = [
        "supervisor",
        "worker",
        "examiner",
        "control",
        "page",
        "checker",
        "resolver",
        "opener",
        "writer",
        "reader",
        "reporter",
    ];
    assert_eq!(names, all);
    let supervisor = told.lines().find(|line| line.starts_with("supervisor: ")).unwrap();
    assert!(supervisor.contains("executes a successor beneath /"), "{supervisor}");
    let worker = told.lines().find(|line| line.starts_with("worker: ")).unwrap();
    assert!(worker.contains("allowed, others end it; landlock"), "{worker}");
    let status = pen.tell("status json");
    assert!(status.contains("\"sandbox\":{\"seccomp\":true,\"landlock\":"), "{status}");
}

#[test]
fn without_proc_the_sandbox_is_whole_and_nothing_is_executed() {
    if !needs_root() {
        return;
    }
    let script = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let pen = steered("works")
        .options(["--require-sandbox"])
        .through(["unshare", "--mount", "sh", "-c", script])
        .start();
    let told = pen.tell("sandbox");
    assert!(told.lines().next().unwrap().ends_with("executes nothing"), "{told}");
}
