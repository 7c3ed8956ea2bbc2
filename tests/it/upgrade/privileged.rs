//! A program file that gives rights to who starts it (AT_SECURE, getauxval(3)): capabilities of the
//! file, or its set-user-ID bit. An upgrade keeps the rights of the process, and gives no others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::{Installed, OLD};
use crate::harness::machine::{self, NOBODY, copy_program, not_checked};
use crate::harness::{BINARY, Backend, Pen, needs_root};

/// The change to an ordinary user.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// A right that a file gives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Right {
    /// `cap_net_bind_service`
    Capability,
    /// The set-user-ID bit, of root.
    User,
}

const RIGHTS: [Right; 2] = [Right::Capability, Right::User];

impl Right {
    fn give_to(self, file: &Path) {
        match self {
            Right::Capability => {
                let mut setcap = Command::new("setcap");
                let status = setcap.arg("cap_net_bind_service=ep").arg(file).status();
                assert!(status.unwrap().success());
            }
            Right::User => {
                fs::set_permissions(file, fs::Permissions::from_mode(0o4755)).unwrap();
            }
        }
    }
}

/// Whether files of this machine can give rights; if not, the test says so.
fn files_give_rights() -> bool {
    if !needs_root() {
        return false;
    }
    let directory = tempfile::tempdir().unwrap();
    machine::open_to_all(directory.path());
    let copy = directory.path().join("id");
    copy_program(Path::new("/usr/bin/id"), "", &copy);
    Right::User.give_to(&copy);
    let output = as_nobody(&copy, &["-u"], None);
    let has_setcap = Command::new("setcap").arg("-h").output().is_ok();
    let is_possible = output.stdout == b"0\n" && has_setcap;
    if !is_possible {
        not_checked("it needs setcap, and files that give rights (no nosuid)");
    }
    is_possible
}

/// Runs a program as an ordinary user.
fn as_nobody(program: &Path, words: &[&str], handover: Option<&str>) -> Output {
    let mut command = Command::new(AS_NOBODY[0]);
    command
        .args(&AS_NOBODY[1..])
        .arg(program)
        .args(words)
        .envs(handover.map(|to| ("PEN_HANDOVER", to)));
    command.output().unwrap()
}

/// A pen that an ordinary user started from a file with this right.
fn started(right: Right, server: &Backend) -> Installed {
    let builder = Pen::builder().workers(2).server(server);
    let builder = match right {
        Right::Capability => builder,
        Right::User => builder.options(["-u", "nobody"]),
    };
    Installed::start_as(builder, |builder| {
        right.give_to(&builder.directory().join("bin/pen"));
        std::os::unix::fs::chown(builder.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
        machine::open_to_all(builder.directory());
        builder.through(AS_NOBODY)
    })
}

#[test]
fn the_process_keeps_its_rights_whatever_the_next_file_gives() {
    if !files_give_rights() {
        return;
    }
    for right in RIGHTS {
        let server = Backend::named("a");
        let pen = started(right, &server);
        let held = pen.hold([127, 81, 0, 1]).unwrap().0;
        let rights = || {
            ["Uid", "CapPrm", "CapEff", "CapInh", "CapAmb"]
                .map(|name| pen.supervisor().status(name))
        };
        let before = rights();
        assert_ne!(before[1], "0000000000000000", "{right:?}");
        // A file without the right.
        pen.upgrade("0.2.0");
        assert_eq!(rights(), before, "{right:?}");
        // One that has it, and fails.
        pen.install("0.3.0 adoption crashes");
        right.give_to(&pen.place);
        let asked = pen.ask_for_upgrade();
        assert!(asked.stderr.ends_with(b"; pen 0.2.0 goes on\n"), "{asked:?}");
        assert_eq!(rights(), before, "{right:?}");
        // One that gives another right: of the rights of root, capabilities of a file leave only
        // their own. A user gets none by the set-user-ID bit.
        pen.install("0.4.0");
        match right {
            Right::User => {
                Right::Capability.give_to(&pen.place);
                let asked = pen.ask_for_upgrade();
                let said = String::from_utf8_lossy(&asked.stderr);
                let is_told = said.contains("operation not permitted; pen 0.2.0 goes on");
                assert!(is_told && said.lines().count() == 1, "{asked:?}");
            }
            Right::Capability => {
                Right::User.give_to(&pen.place);
                pen.goes_on_as("0.2.0", "0.4.0");
            }
        }
        assert_eq!(rights(), before, "{right:?}");
        held.echoes("untouched");
        assert_eq!(pen.ask([127, 81, 0, 2]).as_deref(), Some("a"));
    }
}

#[test]
fn who_started_it_may_ask_and_gets_one_upgrade_and_its_answer() {
    if !files_give_rights() {
        return;
    }
    for right in RIGHTS {
        let server = Backend::named("a");
        let pen = started(right, &server);
        pen.install("0.2.0");
        let pid_file = pen.directory().join("pid");
        // A process of the same name: it cannot see the descriptors of one with more rights.
        let copy = machine::directory(pen.directory(), "asker", 0o755, 0).join("pen");
        copy_program(Path::new(BINARY), "", &copy);
        let asked = as_nobody(&copy, &["--upgrade", pid_file.to_str().unwrap()], None);
        let line = String::from_utf8_lossy(&asked.stdout);
        assert!(line.contains(" is now pen 0.2.0, "), "{right:?}: {asked:?}");
        assert_eq!(pen.said().matches(" is now pen ").count(), 1, "{}", pen.said());
    }
}

#[test]
fn a_stranger_cannot_have_it_take_over() {
    if !files_give_rights() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let copy = machine::readable_copy(Path::new(BINARY), directory.path());
    let executed = |words: &[&str], handover| {
        let output = as_nobody(&copy, words, handover);
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let roles = ["to 20 21", "back 20 21"];
    // What a pen with no more rights than its starter does.
    for role in roles {
        let said = executed(&["--version"], Some(role));
        assert!(said.ends_with("; pen ends\n"), "{said}");
    }
    assert!(executed(&["--rehearse", "0", "1"], None).contains("is for pen itself"));
    for right in RIGHTS {
        copy_program(Path::new(BINARY), "", &copy);
        right.give_to(&copy);
        for role in roles {
            let said = executed(&["--version"], Some(role));
            assert_eq!(said, format!("pen {OLD}\n"), "{right:?}");
        }
        let said = executed(&["--rehearse", "0", "1"], None);
        assert!(said.starts_with("pen: --rehearse: unknown option"), "{right:?}: {said}");
    }
}
