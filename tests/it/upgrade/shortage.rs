//! Upgrades while the machine lacks something: each step fails at some time, and none does harm.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

use rustix::process::{Resource, Signal};

use super::{Installed, OLD};
use crate::harness::{Backend, Pen, eventually, needs_root, until};

/// A client address of its own for each number.
fn client(number: u64) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 73, high, low)
}

/// The reason of a failed upgrade of a pen that goes on; none: it is upgraded. Both are read in the
/// log: without descriptors, pen cannot answer to `pen --upgrade`.
#[track_caller]
fn attempt(pen: &Installed) -> Option<String> {
    let said = pen.said().len();
    pen.supervisor().signal(Signal::USR2);
    let line = until("the outcome is logged", || {
        assert!(!pen.supervisor().gone(), "pen has ended");
        let said = pen.said()[said..].to_string();
        let mut lines = said.lines().filter(|line| line.contains("upgrade failed: "));
        let failed = lines.next().map(String::from);
        assert_eq!(lines.next(), None, "one message");
        failed.or_else(|| said.lines().find(|line| line.contains(" is now pen ")).map(String::from))
    });
    let (_, reason) = line.split_once("upgrade failed: ")?;
    let end = format!("; pen {OLD} goes on");
    Some(reason.strip_suffix(&end).unwrap_or_else(|| panic!("{line:?}")).to_string())
}

/// Tries an upgrade under a limit that becomes wider with each number, until one succeeds.
#[track_caller]
fn with_ever_more(resource: Resource, limit: impl Fn(&Pen, u64) -> u64) {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().workers(2).server(&server));
    let held = pen.hold(client(1)).unwrap().0;
    let (staff, descriptors) = (pen.pids(), pen.supervisor().descriptors().len());
    pen.install("0.2.0");
    let mut reasons = BTreeSet::new();
    for number in 0.. {
        assert!(number < 200, "it never succeeds: {reasons:?}");
        let usual = pen.supervisor().limit(resource, Some(limit(&pen, number)));
        let failed = attempt(&pen);
        pen.supervisor().limit(resource, usual);
        held.echoes("untouched");
        assert_eq!(pen.ask(client(2 + number)).as_deref(), Some("a"));
        let Some(reason) = failed else { break };
        reasons.insert(reason);
        pen.has_children(&staff);
        eventually("there are as many descriptors as before", || {
            pen.supervisor().descriptors().len() == descriptors
        });
    }
    assert!(!reasons.is_empty(), "the first limit is too low for an upgrade");
    assert!(pen.staff().iter().any(|worker| !staff.contains(&worker.pid())));
}

#[test]
fn descriptors_may_run_out_at_any_step() {
    if !needs_root() {
        return;
    }
    with_ever_more(Resource::Nofile, |pen, number| {
        pen.supervisor().descriptors().last().unwrap().0 as u64 + 1 + number
    });
}

#[test]
fn memory_may_run_out_at_any_step() {
    if !needs_root() {
        return;
    }
    // The program itself takes some mebibytes, and the table hundreds of them.
    with_ever_more(Resource::As, |pen, number| {
        let used = pen.supervisor().status("VmSize");
        let used = used.trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        if number < 24 { (number + 1) << 19 } else { used + ((number - 24) << 18) - (8 << 20) }
    });
}

#[test]
fn a_state_that_finds_no_room_is_not_passed_on() {
    let server = Backend::named("a");
    // The state has the acl, and is larger than what pen says here.
    let lines: String = (0..400).map(|n| format!("acl 1 deny 192.0.2.{}\n", n % 256)).collect();
    let pen = Installed::start(Pen::builder().server(&server).file(&lines));
    let held = pen.hold(client(1)).unwrap().0;
    let staff = pen.pids();
    pen.install("0.2.0");
    let log = fs::metadata(pen.directory().join("stderr")).unwrap().len();
    let usual = pen.supervisor().limit(Resource::Fsize, Some(log + 2000));
    let why = pen.fails_to_upgrade();
    assert!(why.contains("the state cannot be written"), "{why}");
    pen.supervisor().limit(Resource::Fsize, usual);
    assert_eq!(pen.pids(), staff);
    held.echoes("untouched");
    assert_eq!(pen.becomes("0.2.0"), 1);
}

#[test]
fn no_process_can_be_forked_for_the_rehearsal_or_the_workers() {
    use std::process::Command;
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    // Root is not bound by this limit, so an ordinary user starts it.
    let builder = Pen::builder().workers(2).server(&server);
    let pen = Installed::start_by_nobody(builder, &[]);
    let held = pen.hold(client(1)).unwrap().0;
    let staff = pen.pids();
    pen.install("0.2.0");
    let limit = |most: &str| {
        let pid = pen.supervisor().pid().to_string();
        let status = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"])
            .args(["--pid", &pid, &format!("--nproc={most}:")])
            .status();
        assert!(status.unwrap().success());
    };
    limit("1");
    let why = pen.fails_to_upgrade();
    assert!(why.contains("no rehearsal is possible"), "{why}");
    limit("10000");
    assert_eq!(pen.pids(), staff);
    held.echoes("untouched");
    assert_eq!(pen.becomes("0.2.0"), 1);
}
