//! Checks of real servers of Debian: each runs in the foreground, by an unprivileged user, in its
//! own directory, at a port of the loopback interface.

mod directory;
mod mail;
mod mariadb;
mod names;
mod nginx;
mod postgresql;
mod redis;

use std::path::Path;
use std::process::Command;

use super::{checks_pass, says};
use crate::harness::Builder;
use crate::harness::machine::{NOBODY, is_root};
use crate::harness::program::installed;

/// A pen whose checks come every second. They may take long: a check that is late ends in the
/// middle, and a server says so in its log.
fn pen(check: &str) -> Builder {
    super::pen(check).options(["-O", "check_timeout 20"])
}

/// A command that an unprivileged user runs in this directory: several servers refuse root.
fn unprivileged(program: impl AsRef<Path>, directory: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    if is_root() {
        std::os::unix::fs::chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
        command = Command::new("setpriv");
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        command.args(user).arg("--clear-groups").arg(program.as_ref());
    }
    command.current_dir(directory);
    command
}

/// Runs a command that prepares a server.
#[track_caller]
fn runs(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
