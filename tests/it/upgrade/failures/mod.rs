//! A failed upgrade changes nothing: the program before goes on with all its workers, and the next
//! upgrade is possible.

mod downgrade;
mod rollback;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::{Installed, OLD};
use crate::harness::events::{has, watch};
use crate::harness::machine::{NOBODY, copy_program, is_root};
use crate::harness::{BINARY, Backend, Builder, Client, Pen, eventually};

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 72, high, low)
}

/// A pen whose upgrades fail, under a client that must not notice.
struct Failing {
    pen: Installed,
    _server: Backend,
    held: Client,
    staff: BTreeSet<i32>,
    descriptors: usize,
    failures: usize,
}

impl Failing {
    #[track_caller]
    fn start() -> Failing {
        Failing::started(|builder| builder)
    }

    /// The same, with more options.
    #[track_caller]
    fn started(how: impl FnOnce(Builder) -> Builder) -> Failing {
        let server = Backend::named("a");
        let pen = Installed::start(how(Pen::builder().server(&server).control()));
        let held = pen.hold(client(1)).unwrap().0;
        let (staff, descriptors) = (pen.pids(), pen.supervisor().descriptors().len());
        Failing { pen, _server: server, held, staff, descriptors, failures: 0 }
    }

    /// An upgrade fails for this reason, and nothing changes.
    #[track_caller]
    fn fails(&mut self, name: &str, reason: &str) {
        let why = self.pen.fails_to_upgrade();
        assert!(why.contains(reason), "{name}: expected {reason:?} in {why:?}");
        self.failures += 1;
        self.is_as_before(name);
    }

    #[track_caller]
    fn is_as_before(&self, name: &str) {
        let pen = &self.pen;
        let said = pen.said();
        let lines = said.lines().filter(|line| line.contains("upgrade failed: ")).count();
        assert_eq!(lines, self.failures, "{name}: one message for each failure: {said}");
        pen.has_children(&self.staff);
        // Numbers may change, and the anonymous files behind them, but not how many there are.
        eventually("there are as many descriptors as before", || {
            pen.supervisor().descriptors().len() == self.descriptors
        });
        self.held.echoes("untouched");
        for n in 0..6 {
            assert_eq!(pen.ask(client(10 + n)).as_deref(), Some("a"), "{name}");
        }
        pen.tells("pid", &pen.supervisor().pid().to_string());
    }

    /// After all these failures, an upgrade succeeds.
    #[track_caller]
    fn succeeds(self) {
        assert_eq!(self.pen.upgrade("0.2.0"), 1);
        self.held.echoes("served by an old worker");
        assert_eq!(self.pen.ask(client(2)).as_deref(), Some("a"));
        self.pen.has_old_workers(&[(OLD, 1)]);
    }
}

#[test]
fn a_file_that_must_not_take_over_is_not_executed() {
    let mut failing = Failing::start();
    let place = failing.pen.place.clone();
    let aside = place.with_extension("aside");
    fs::rename(&place, &aside).unwrap();
    failing.fails("missing", "no such file or directory");
    fs::create_dir(&place).unwrap();
    failing.fails("a directory", "it is no file");
    fs::remove_dir(&place).unwrap();
    symlink(&aside, &place).unwrap();
    failing.fails("a link within the directory", "a symbolic link");
    fs::remove_file(&place).unwrap();
    symlink("/bin/true", &place).unwrap();
    failing.fails("a link out of the directory", "a symbolic link");
    fs::remove_file(&place).unwrap();
    failing.pen.install("0.2.0");
    let set_mode = |mode| {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o644);
    failing.fails("not executable", "chmod +x");
    set_mode(0o775);
    failing.fails("writable by its group", "chmod go-w");
    set_mode(0o757);
    failing.fails("writable by all", "chmod go-w");
    set_mode(0o755);
    if is_root() {
        chown(&place, Some(NOBODY), None).unwrap();
        failing.fails("owned by another user", "it belongs to user 65534");
        chown(&place, Some(0), None).unwrap();
    }
    failing.succeeds();
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let mut failing = Failing::start();
    failing.pen.install("0.2.0");
    let bin = failing.pen.place.parent().unwrap().to_owned();
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o777)).unwrap();
    failing.fails("writable by all", bin.to_str().unwrap());
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
    failing.succeeds();
}

/// The header of a program for another architecture (elf(5)): 64 bits, little-endian, aarch64; or
/// for x86-64, if that is the other one.
fn foreign_program() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let mut header = vec![0; 120];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16..18].copy_from_slice(&2_u16.to_le_bytes());
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    header[20] = 1;
    header[24..32].copy_from_slice(&0x40_0078_u64.to_le_bytes());
    header[32] = 64;
    (header[52], header[54], header[56]) = (64, 56, 1);
    // One segment with all of it.
    (header[64], header[68]) = (1, 5);
    header[80..88].copy_from_slice(&0x40_0000_u64.to_le_bytes());
    (header[96], header[104]) = (120, 120);
    header[112..120].copy_from_slice(&0x1000_u64.to_le_bytes());
    header
}

#[test]
fn a_file_that_is_no_pen_is_found_out_in_the_rehearsal() {
    let mut failing = Failing::start();
    let place = failing.pen.place.clone();
    let source = failing.pen.directory().join("source");
    let program = fs::read(BINARY).unwrap();
    let no_format = "the new program cannot be executed: exec format error";
    for (name, bytes, reason) in [
        ("empty", &b""[..], no_format),
        ("text", b"no program\n", no_format),
        ("a script", b"#!/bin/sh\nexit 0\n", "the new program "),
        ("a script without an interpreter", b"#!/no/such/interpreter\n", "the new program "),
        ("another architecture", &foreign_program(), no_format),
        ("its first 1000 bytes", &program[..1000], "the new program "),
        // What is behind its end cannot be mapped.
        ("its first mebibyte", &program[..1 << 20], "the new program "),
    ] {
        fs::write(&source, bytes).unwrap();
        copy_program(&source, "", &place);
        failing.fails(name, reason);
    }
    for name in ["/bin/true", "/bin/false", "/bin/cat"] {
        copy_program(Path::new(name), "", &place);
        failing.fails(name, "it needs a restart");
    }
    failing.succeeds();
}

#[test]
fn a_pen_of_another_format_needs_a_restart() {
    let mut failing = Failing::start();
    failing.pen.install("0.9.0 format 99");
    failing.fails("another format", "it needs a restart");
    failing.succeeds();
}

/// What may happen to a program at any time.
const ACCIDENTS: [&str; 5] = ["panics", "crashes", "overflows", "aborts", "exits"];

#[test]
fn a_program_that_fails_in_its_rehearsal_changes_nothing() {
    let mut failing = Failing::start();
    for how in ACCIDENTS {
        failing.pen.install(&format!("0.2.0 rehearsal {how}"));
        failing.fails(how, "in its rehearsal");
    }
    failing.succeeds();
}

#[test]
fn a_program_that_fails_while_it_takes_over_gives_back() {
    let mut failing = Failing::start();
    for (how, reason) in ACCIDENTS.into_iter().zip([
        "on purpose",
        "it crashed (signal 11)",
        "it crashed (signal 11)",
        "it crashed (signal 06)",
        "it ended",
    ]) {
        failing.pen.install(&format!("0.2.0 adoption {how}"));
        failing.fails(how, reason);
    }
    failing.succeeds();
}

#[test]
fn a_program_that_hangs_in_its_rehearsal_is_given_up() {
    let mut failing = Failing::start();
    failing.pen.install("0.2.0 rehearsal hangs");
    failing.fails("hangs", "no answer in its rehearsal");
    failing.succeeds();
}

#[test]
fn a_program_that_hangs_while_it_takes_over_is_given_up() {
    let mut failing = Failing::start();
    failing.pen.install("0.2.0 adoption hangs");
    failing.fails("hangs", "it was not ready in time");
    failing.succeeds();
}

#[test]
fn a_program_whose_processes_cannot_start_gives_back() {
    let mut failing = Failing::start();
    for (fault, reason) in [
        ("worker dies", "worker 0"),
        ("worker fails", "worker cannot start"),
        ("worker panics", "worker 0"),
        ("control dies", "control process"),
        ("control fails", "control process cannot start"),
    ] {
        failing.pen.install(&format!("0.2.0 {fault}"));
        failing.fails(fault, reason);
    }
    failing.succeeds();
}

#[test]
fn a_program_whose_worker_is_never_ready_gives_back() {
    let mut failing = Failing::start();
    failing.pen.install("0.2.0 worker never-ready");
    failing.fails("a worker", "ready");
    failing.succeeds();
}

#[test]
fn a_program_whose_control_process_is_never_ready_gives_back() {
    let mut failing = Failing::start();
    failing.pen.install("0.2.0 control never-ready");
    failing.fails("the control process", "ready");
    failing.succeeds();
}

#[test]
fn a_rehearsal_that_is_killed_changes_nothing() {
    let mut failing = Failing::start();
    let go = failing.pen.directory().join("go");
    failing.pen.install(&format!("0.2.0 rehearsal waits {}", go.display()));
    std::thread::scope(|scope| {
        let pen = &failing.pen;
        let asked = scope.spawn(|| pen.fails_to_upgrade());
        eventually("it rehearses", || go.with_extension("waiting").exists());
        let helper = pen
            .supervisor()
            .children()
            .into_iter()
            .find(|child| !failing.staff.contains(&child.pid()))
            .expect("the rehearsal is a child");
        helper.kill();
        let why = asked.join().unwrap();
        assert!(why.contains("in its rehearsal"), "{why}");
    });
    failing.failures += 1;
    failing.is_as_before("killed");
    failing.succeeds();
}

#[test]
fn the_file_that_was_rehearsed_is_the_one_that_takes_over() {
    let mut failing = Failing::start();
    let pen = &failing.pen;
    let go = pen.directory().join("go");
    pen.install(&format!("0.2.0 rehearsal waits {}", go.display()));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| pen.becomes("0.2.0"));
        eventually("it rehearses", || go.with_extension("waiting").exists());
        // Nobody can write into it now.
        let written = fs::OpenOptions::new().write(true).open(&pen.place);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::ExecutableFileBusy);
        pen.install("0.6.6 adoption panics");
        fs::write(&go, "").unwrap();
        assert_eq!(asked.join().unwrap(), 1);
    });
    // The next upgrade uses the file that is there now, and fails; it is 0.2.0 that goes on.
    let asked = pen.ask_for_upgrade();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.ends_with("; pen 0.2.0 goes on\n"), "{said}");
    failing.held.echoes("through all of it");
    failing.failures += 1;
}

#[test]
fn an_upgraded_pen_gives_back_to_the_one_before_and_not_to_an_older_one() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server).control());
    let first = pen.hold(client(1)).unwrap().0;
    assert_eq!(pen.upgrade("0.2.0"), 1);
    let second = pen.hold(client(2)).unwrap().0;
    pen.has_old_workers(&[(OLD, 1)]);
    let staff = pen.pids_of(5);
    for how in ["adoption crashes", "worker dies", "rehearsal exits"] {
        pen.install(&format!("0.3.0 {how}"));
        let asked = pen.ask_for_upgrade();
        let said = String::from_utf8(asked.stderr).unwrap();
        assert!(said.ends_with("; pen 0.2.0 goes on\n"), "{how}: {said}");
        pen.has_old_workers(&[(OLD, 1)]);
        eventually("its workers are the same", || pen.pids() == staff);
        for held in [&first, &second] {
            held.echoes("untouched");
        }
    }
    pen.install("0.4.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.4.0"), 2);
    pen.has_old_workers(&[(OLD, 1), ("0.2.0", 1)]);
}

#[test]
fn going_back_to_the_version_before_is_an_upgrade_too() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server));
    assert_eq!(pen.upgrade("0.2.0"), 0);
    copy_program(Path::new(BINARY), "", &pen.place);
    assert_eq!(pen.goes_on_as("0.2.0", OLD), 0);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn the_same_file_takes_over_again() {
    let server = Backend::named("a");
    let pen = Installed::start(Pen::builder().server(&server));
    let mut staff = pen.pids();
    for _ in 0..3 {
        assert_eq!(pen.goes_on_as(OLD, OLD), 0);
        let new = pen.has_only_new(&staff, 3);
        staff = new.iter().map(|worker| worker.pid()).collect();
    }
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn who_watches_goes_on_watching() {
    let mut failing = Failing::start();
    let operator = watch(&failing.pen);
    for how in ["rehearsal panics", "adoption panics", "adoption crashes"] {
        failing.pen.install(&format!("0.2.0 {how}"));
        failing.fails(how, "");
        let failed = operator.next();
        assert_eq!(failed["kind"], "upgrade_failed", "{how}");
        has(&failing.pen, &failed, &[("version", OLD.into())]);
        failing.pen.tells("prio", "");
        let next = operator.next();
        assert_eq!(next["kind"], "setting");
        assert_eq!(next["id"].as_u64(), failed["id"].as_u64().map(|id| id + 1));
        failing.pen.tells("no prio", "");
        assert_eq!(operator.next()["kind"], "setting");
    }
}
