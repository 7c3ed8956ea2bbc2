//! The properties of the machine that runs the tests.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::process::Process;

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_pen");

/// The unprivileged user that every system has.
pub const NOBODY: u32 = 65534;

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run; if not, it says so. (Only root can examine workers, not
/// even their own user can.)
pub fn needs_root() -> bool {
    if !is_root() {
        not_checked("it needs root");
    }
    is_root()
}

/// Says that this machine lacks what the running test needs. Not by `eprintln!`, whose text is
/// shown only if a test fails.
pub fn not_checked(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(io::stderr(), "NOT CHECKED: {test}: {reason}");
}

/// A copy of a program in `directory` that every user can execute. The mode of the directory is
/// changed for that.
pub fn readable_copy(program: &Path, directory: &Path) -> PathBuf {
    open_to_all(directory);
    let copy = directory.join("pen-copy");
    copy_program(program, "", &copy);
    copy
}

/// Puts a copy of a program, with an addition at its end, in a place. It is whole from the first
/// moment, and every user can execute it.
///
/// Another process writes it. A program that any process holds open for writing cannot be executed
/// (ETXTBSY), and each child that a test forks has the descriptors of all tests for a moment.
#[track_caller]
pub fn copy_program(program: &Path, addition: &str, place: &Path) {
    let new = place.with_extension("new");
    let script = "set -e; cp \"$0\" \"$1\"; printf %s \"$3\" >> \"$1\"; chmod 755 \"$1\"; \
                  mv -fT \"$1\" \"$2\"";
    let status =
        Command::new("sh").args(["-c", script]).args([program, &new, place]).arg(addition).status();
    assert!(status.unwrap().success());
}

/// Lets all users enter a directory.
pub fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Lets pen's user connect to the socket of a server.
pub fn open_socket(path: &Path) {
    open_to_all(path.parent().unwrap());
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// A program of the tests that is not pen itself (`[[example]]` in Cargo.toml).
///
/// # Panics
/// It is older than its sources: cargo builds it for `cargo test`, but not for `--test it`.
pub fn example(name: &str) -> PathBuf {
    let program = Path::new(BINARY).with_file_name("examples").join(name);
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let built = changed(&program).expect("cargo build --examples makes it");
    // What changes while the tests run is of no matter.
    let test = Process::open(std::process::id() as i32).unwrap();
    let begun = SystemTime::now() - test.age();
    let sources = fs::read_to_string(program.with_extension("d")).unwrap();
    for source in sources.split_whitespace().skip(1) {
        let stale = changed(Path::new(source)).is_ok_and(|time| built < time && time < begun);
        assert!(!stale, "{source} has changed: cargo build --examples");
    }
    program
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

/// Shell commands that put this text into a file of /etc, visible only to this test.
pub fn in_etc(file: &str, text: &str) -> String {
    let text = text.replace('\n', "\\n");
    format!("t=$(mktemp); printf '{text}' > $t; chmod 644 $t; mount --bind $t /etc/{file}; rm $t")
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
    if !needs_root() {
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
    for line in said.lines().filter(|line| line.starts_with("NOT CHECKED: ")) {
        let _ = writeln!(io::stderr(), "{line}");
    }
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
    /// `percent` of one processor. `None`, and the test says so, if such a group cannot be made.
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
            not_checked("it needs a control group for processor time");
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
            fs::File::options()
                .write(true)
                .open(share.group.join(file))?
                .write_all(value.as_bytes())?;
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
