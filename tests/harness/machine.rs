//! What the machine that runs the tests offers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_pen");

/// The unprivileged user that every system has.
pub const NOBODY: u32 = 65534;

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run (workers cannot be looked into by anybody else, not even by their own user); says on standard error when it cannot.
pub fn needs_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("{test}: skipped, it needs root");
    }
    is_root()
}

/// A copy of the program that every user can execute, below `directory`, whose own mode is opened for that.
pub fn readable_binary(directory: &Path) -> PathBuf {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("pen-copy");
    fs::copy(BINARY, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

/// A directory of a given mode below `parent`, owned by `owner` (if the tests run as root).
pub fn directory(parent: &Path, name: &str, mode: u32, owner: u32) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    }
    path
}

/// Runs a test once more, alone, in a network namespace of its own whose loopback interface is up and in which `setup`
/// (commands of a shell) has run; what that mounts is seen in there only. Call it first in the test called `name`: it says
/// true inside, and false to the outer run, which is over then.
#[track_caller]
pub fn in_own_network(name: &str, setup: &[String]) -> bool {
    const INSIDE: &str = "PEN_TEST_IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !needs_root(name) {
        return false;
    }
    let script = format!("set -e; ip link set lo up; {}; exec \"$0\" --exact {name} --nocapture", setup.join("; "));
    let test = std::env::current_exe().unwrap();
    let status =
        Command::new("unshare").args(["--net", "--mount", "sh", "-c", &script]).arg(test).env(INSIDE, "1").status();
    assert!(status.unwrap().success(), "{name} failed in its own network");
    false
}
