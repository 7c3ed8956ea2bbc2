//! Tests of the sandbox in running processes: forbidden actions before a process is ready, and a
//! system that cannot confine processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Uid, getppid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::harness::{Pen, field, is_root, wait_for};

pub const TESTS: &[(&str, fn())] = crate::tests![
    what_jailed_processes_try_fails_or_kills_them,
    every_process_is_filtered,
    a_system_that_cannot_confine_is_told_once_or_is_an_error,
    what_is_in_force_is_told,
];

/// The forbidden action, and the error of the start.
const TRIALS: &[(&str, &str)] = &[
    ("open", "permission denied"),
    ("execute", KILLED),
    ("kill", KILLED),
    ("kill the crew", KILLED),
    ("packets", KILLED),
    ("root", KILLED),
];

const KILLED: &str =
    "was killed by signal 31: its sandbox has no such system call before it was ready";

fn what_jailed_processes_try_fails_or_kills_them() {
    for (trial, expected) in TRIALS {
        for process in ["worker", "control"] {
            // The control process opens files that operators name, with the rights of its user.
            if (*trial, process) == ("open", "control") {
                continue;
            }
            let pen = Pen::new("works")
                .with("foreground", "yes")
                .with("try", format!("{process} {trial}"));
            let path = pen.path("control.sock").display().to_string();
            let pen = pen.with("control", path);
            let pen = if is_root() { pen.with("user", "nobody") } else { pen };
            let output = pen.background();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{process} {trial}: {errors}");
            assert!(errors.to_lowercase().contains(expected), "{process} {trial}: {errors}");
        }
    }
}

fn every_process_is_filtered() {
    let pen = Pen::new("works");
    let path = pen.path("control.sock").display().to_string();
    let pen = pen.with("control", path).with("require", "yes");
    let mut pen = if is_root() { pen.with("user", "nobody") } else { pen }.foreground();
    let children = pen.workers();
    assert_eq!(children.len(), 3);
    let filters = |pid| field(pid, "Seccomp_filters").unwrap().parse::<u32>().unwrap();
    for child in children {
        assert_eq!(field(child, "Seccomp").unwrap(), "2");
        assert!(filters(child) > filters(pen.pid()), "its own beside those of the supervisor");
        assert_eq!(field(child, "NoNewPrivs").unwrap(), "1");
    }
    for worker in pen.workers().into_iter().take(2).filter(|_| is_root()) {
        let root = fs::read_link(format!("/proc/{worker}/root")).unwrap();
        assert!(
            root.to_str().unwrap().ends_with(" (deleted)"),
            "an empty directory that is no file: {root:?}"
        );
    }
    assert_eq!(field(pen.pid(), "NoNewPrivs").unwrap(), "1");
    if is_root() {
        // At most chown, dac_override, fowner, setgid, setuid, setpcap, net_bind_service and
        // sys_chroot (capability.h).
        let most = [0, 1, 3, 6, 7, 8, 10, 18].iter().fold(0_u64, |set, bit| set | 1 << bit);
        for set in ["CapBnd", "CapPrm", "CapEff"] {
            let held = u64::from_str_radix(&field(pen.pid(), set).unwrap(), 16).unwrap();
            assert_eq!(held & !most, 0, "{set}: {held:x}");
        }
    }
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_system_that_cannot_confine_is_told_once_or_is_an_error() {
    for (lack, name) in [("landlock", "Landlock"), ("seccomp", "filter for system calls")] {
        let mut pen = Pen::new("works").with("lack", lack).foreground();
        let warning = format!("the sandbox is not whole: this system has no {name} (");
        wait_for("the warning", || pen.errors().contains(&warning));
        assert_eq!(
            pen.errors().matches("sandbox").count(),
            2,
            "one line, and the option in it: {}",
            pen.errors()
        );
        pen.signal(Signal::SIGTERM);
        assert_eq!(pen.wait(), Some(0));
        let output = Pen::new("works").with("lack", lack).with("require", "yes").background();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let expected = format!("pen: --require-sandbox: there is no {name} (");
        assert!(errors.starts_with(&expected) && errors.lines().count() == 1, "{errors}");
    }
}

fn what_is_in_force_is_told() {
    let pen = Pen::new("works");
    let path = pen.path("control.sock").display().to_string();
    let pen = pen.with("control", path);
    let mut pen = if is_root() { pen.with("user", "nobody") } else { pen }.foreground();
    let told = crate::steering::ask(&pen, "sandbox");
    let names: Vec<&str> = told.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let all = [
        "supervisor",
        "worker",
        "examiner",
        "control",
        "resolver",
        "opener",
        "writer",
        "reader",
        "reporter",
    ];
    assert_eq!(names, all);
    let worker = told.lines().find(|line| line.starts_with("worker: ")).unwrap();
    assert!(worker.contains("allowed, others end it; landlock"), "{worker}");
    assert!(
        crate::steering::ask(&pen, "status json")
            .contains("\"sandbox\":{\"seccomp\":true,\"landlock\":")
    );
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

// The code from here on runs in the process under test.

/// Removes a kernel feature for this process that the sandbox needs, like an old kernel or a
/// container.
pub fn lack(what: &str) {
    let (call, errno) = match what {
        "landlock" => (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
        _ => (libc::SYS_seccomp, libc::EINVAL),
    };
    let rules = BTreeMap::from([(call, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Tries the action in the worker or the control process; none if it is for another process. The
/// result is the error of the start.
pub fn attempt(process: &str) -> Option<String> {
    let wanted = crate::harness::setting("try")?;
    let tried: std::io::Result<()> = match wanted.strip_prefix(process)?.strip_prefix(' ')? {
        "open" => fs::File::open("/etc/passwd").map(drop),
        "execute" => Err(Command::new("/bin/true").exec()),
        "kill" => kill(getppid(), None).map_err(Into::into),
        // The process group, which contains the sibling workers.
        "kill the crew" => kill(nix::unistd::Pid::from_raw(0), None).map_err(Into::into),
        "packets" => {
            socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None).map(drop)
        }
        "root" => {
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(Into::into)
        }
        other => panic!("{other}"),
    };
    Some(tried.map_or_else(|error| error.to_string(), |()| "it worked".into()))
}
