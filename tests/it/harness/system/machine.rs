//! The properties of the machine that runs the tests.

use std::fs;
use std::io;
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

/// Whether a test that needs root can run; if not, it prints a message on standard error. (Only
/// root can examine workers, not even their own user can.)
pub fn needs_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("{test}: skipped, it needs root");
    }
    is_root()
}

/// A copy of the program in `directory` that every user can execute. The mode of the directory is
/// changed for that.
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

/// Runs a test again, alone, in its own network namespace. The loopback interface is up there, and
/// `setup` (shell commands) has run; its mounts are visible only there. The test called `name`
/// calls it first. It returns true inside, and false in the outer run, which then ends.
#[track_caller]
pub fn in_own_network(name: &str, setup: &[String]) -> bool {
    const INSIDE: &str = "PEN_TEST_IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !needs_root(name) {
        return false;
    }
    let script = format!(
        "set -e; ip link set lo up; {}; exec \"$0\" ::{name} --nocapture",
        setup.join("; ")
    );
    let test = std::env::current_exe().unwrap();
    let inner = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", &script])
        .arg(test)
        .env(INSIDE, "1")
        .output();
    let inner = inner.unwrap();
    // The output is shown only if it has more than the outer run prints itself.
    let said = [inner.stdout, inner.stderr]
        .map(|said| String::from_utf8_lossy(&said).into_owned())
        .concat();
    said.lines().filter(|line| line.contains(": skipped, ")).for_each(|line| eprintln!("{line}"));
    assert!(said.contains("running 1 test"), "{name} is the name of one test:\n{said}");
    assert!(inner.status.success(), "{name} failed in its own network:\n{said}");
    false
}

/// A control group of this test that gives its processes together a share of one processor
/// (cgroups(7)).
#[derive(Debug)]
pub struct Share {
    group: PathBuf,
}

impl Share {
    /// `percent` of one processor. `None`, with a message on standard error, if such a group cannot
    /// be made.
    pub fn of_processor(percent: u32, test: &str) -> Option<Share> {
        let name = format!("pen-test-{}-{test}", std::process::id());
        let quota = (PERIOD * u64::from(percent) / 100).to_string();
        let first =
            ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"].into_iter().find_map(|root| {
                Share::make(
                    Path::new(root),
                    &name,
                    &[
                        ("cpu.cfs_period_us", PERIOD.to_string()),
                        ("cpu.cfs_quota_us", quota.clone()),
                    ],
                )
                .ok()
            });
        let second = || {
            let root = Path::new("/sys/fs/cgroup");
            // Needed if no other group has the controller yet.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+cpu");
            Share::make(root, &name, &[("cpu.max", format!("{quota} {PERIOD}"))]).ok()
        };
        let share = first.or_else(second);
        if share.is_none() {
            eprintln!("{test}: skipped, it needs a control group for processor time");
        }
        share
    }

    fn make(root: &Path, name: &str, settings: &[(&str, String)]) -> io::Result<Share> {
        if !root.join("cgroup.procs").exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let share = Share { group: root.join(name) };
        fs::create_dir(&share.group)?;
        for (file, value) in settings {
            // Opened without creating it: a missing file is not a setting.
            io::Write::write_all(
                &mut fs::File::options().write(true).open(share.group.join(file))?,
                value.as_bytes(),
            )?;
        }
        Ok(share)
    }

    /// The beginning of a command line that enters the group and then runs the rest.
    pub fn wrapper(&self) -> [String; 4] {
        let enter =
            format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.group.display());
        ["sh", "-c", &enter, "env"].map(String::from)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // This is possible once its processes have been reaped. A group that remains without
        // processes does no harm.
        let removed = super::super::wait::within(super::super::wait::PATIENCE, || {
            fs::remove_dir(&self.group).is_ok()
        });
        assert!(removed || std::thread::panicking(), "{} is removed", self.group.display());
    }
}

/// The period of a [`Share`] in microseconds.
const PERIOD: u64 = 100_000;
