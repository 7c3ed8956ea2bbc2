//! Tests of what the supervisor may execute: the running program, a successor beside it, and
//! nothing else, whoever runs code in the supervisor.
//!
//! A copy of this program in a directory of its own is started for each trial.

use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{geteuid, getppid};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::jail::Jail;
use crate::jail::sandbox::tests::inside::identity;
use crate::jail::sandbox::*;
use crate::sys::program::{self, EMPTY_PATH, Program};

/// A trial; its argument is the path of the running program.
type Trial = (&'static str, fn(&Path) -> io::Error, Outcome);

/// The outcome of a trial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// A program is executed.
    Executed,
    /// The system call filter refuses it.
    Filtered,
    /// Landlock refuses it.
    Confined,
}

use Outcome::{Confined, Executed, Filtered};

const FLAGS: libc::c_int = libc::AT_EMPTY_PATH;
const RUNNING: RawFd = Program::Running.descriptor();
/// A name that no other path of these tests has.
const SELF: &str = "/proc/self/exe";

const TRIALS: &[Trial] = &[
    ("another program", |_| Command::new("/bin/true").exec(), Filtered),
    ("its path", |running| Command::new(running).arg("--list").exec(), Filtered),
    ("its link", |_| Command::new(SELF).arg("--list").exec(), Filtered),
    (
        "another descriptor",
        |_| program::attempt(File::open(SELF).unwrap().as_raw_fd(), EMPTY_PATH, FLAGS),
        Filtered,
    ),
    ("no descriptor", |_| program::attempt(libc::AT_FDCWD, EMPTY_PATH, FLAGS), Filtered),
    ("another empty path", |_| program::attempt(RUNNING, c"".as_ptr().addr(), FLAGS), Filtered),
    (
        "an address that differs in its upper half",
        |_| program::attempt(RUNNING, EMPTY_PATH | 1 << 32, FLAGS),
        Filtered,
    ),
    ("no flag", |_| program::attempt(RUNNING, EMPTY_PATH, 0), Filtered),
    (
        "a further flag",
        |_| program::attempt(RUNNING, EMPTY_PATH, FLAGS | libc::AT_SYMLINK_NOFOLLOW),
        Filtered,
    ),
    (
        "memory that can be executed",
        |_| match memfd_create(c"stranger", MemfdFlags::empty()) {
            Ok(_) if !filter::knows_memory_without_execution() => refusal(),
            made => made.unwrap_err().into(),
        },
        Filtered,
    ),
    (
        "other memory",
        |running| {
            if !filter::knows_memory_without_execution() {
                return io::Error::from_raw_os_error(libc::EACCES);
            }
            let mut memory =
                File::from(memfd_create(c"stranger", MemfdFlags::NOEXEC_SEAL).unwrap());
            io::copy(&mut File::open(running).unwrap(), &mut memory).unwrap();
            successor(format!("/proc/self/fd/{}", memory.as_raw_fd()))
        },
        Confined,
    ),
    ("a program elsewhere", |_| successor("/bin/true"), Confined),
    (
        "a path in the place of the empty one",
        |_| {
            program::replace_empty_path(c"/bin/true");
            program::attempt(RUNNING, EMPTY_PATH, FLAGS)
        },
        Confined,
    ),
    (
        "a program that moved away",
        |running| {
            // A move to another directory is not forbidden.
            fs::rename(running, parent(parent(running)).join("pen")).unwrap();
            execute(Program::Running)
        },
        Confined,
    ),
    (
        "a successor in a directory that was made again",
        |running| {
            let directory = parent(running);
            fs::rename(directory, parent(directory).join("before")).unwrap();
            fs::create_dir(directory).unwrap();
            fs::copy(SELF, running).unwrap();
            successor(running)
        },
        Confined,
    ),
    ("the running program", |_| execute(Program::Running), Executed),
    (
        "the running program without its name",
        |running| {
            fs::remove_file(running).unwrap();
            execute(Program::Running)
        },
        Executed,
    ),
    (
        "the running program after its file was replaced",
        |running| {
            let new = running.with_file_name("new");
            fs::write(&new, "another").unwrap();
            fs::rename(&new, running).unwrap();
            execute(Program::Running)
        },
        Executed,
    ),
    (
        "a successor in its place",
        |running| {
            let new = running.with_file_name("new");
            fs::copy(SELF, &new).unwrap();
            fs::rename(&new, running).unwrap();
            successor(running)
        },
        Executed,
    ),
];

#[test]
fn a_stranger_executes_the_program_and_its_successor_and_nothing_else() {
    let mut wrong = Vec::new();
    for ordinary in [false, true] {
        for (name, _, expected) in TRIALS {
            let Some(printed) = run(name, ordinary) else { return };
            let outcome = [Executed, Filtered, Confined]
                .into_iter()
                .find(|outcome| printed.contains(&format!("outcome: {outcome:?}")));
            if outcome != Some(*expected) {
                wrong.push(format!("{name}: {outcome:?} and not {expected:?}: {printed}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The successor finds the sandbox, its children are confined as before, and nothing is there
/// twice.
#[test]
fn a_successor_adopts_the_sandbox() {
    for ordinary in [false, true] {
        let Some(printed) = run(HAND_OVER, ordinary) else { return };
        assert!(printed.contains("a worker is confined"), "{printed}");
    }
}

/// Runs a trial as an ordinary user, or as the user who runs the tests. Returns what it printed, or
/// nothing if this kernel lacks a part of the sandbox.
fn run(trial: &str, ordinary: bool) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let (outer, inner) = (directory.path(), directory.path().join("lib"));
    fs::create_dir(&inner).unwrap();
    for path in [outer, &inner] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let program = inner.join("pen");
    let this = env::current_exe().unwrap();
    fs::hard_link(&this, &program).or_else(|_| fs::copy(&this, &program).map(drop)).unwrap();
    let mut command = Command::new(program);
    if ordinary && geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.args(ARGUMENTS).env(TRIAL, trial);
    // Another test may fork while the copy is open for writing, and its child has it until it
    // executes its own program.
    let deadline = Instant::now() + Duration::from_secs(20);
    let output = loop {
        match command.output() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                thread::yield_now();
            }
            output => break output.unwrap(),
        }
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if printed.contains(INCOMPLETE) {
        let _ = writeln!(io::stderr(), "NOT CHECKED: execution in the sandbox: {INCOMPLETE}");
        return None;
    }
    Some(printed)
}

/// Runs a trial in the process that was started for it; does nothing in any other.
#[test]
fn role() {
    let Ok(trial) = env::var(TRIAL) else { return };
    match &*trial {
        EXECUTED => return println!("outcome: {Executed:?}"),
        TAKE_OVER => return take_over(),
        _ => {}
    }
    let running = env::current_exe().unwrap();
    program::hold_running().unwrap();
    let sandbox = match confine(false, true, &Ok(())) {
        Ok((sandbox, _)) => sandbox,
        Err(why) => return eprintln!("{INCOMPLETE}: {why}"),
    };
    let Execution::Beneath(directories) = &sandbox.execution else { panic!("{sandbox:?}") };
    assert_eq!(directories[0], parent(&running));
    if trial == HAND_OVER {
        panic!("{}", hand_over(&sandbox));
    }
    let (_, attempt, _) = TRIALS.iter().find(|(known, _, _)| *known == trial).unwrap();
    let error = attempt(&running);
    let outcome = match error.raw_os_error() {
        Some(libc::EPERM) => Filtered,
        Some(libc::EACCES) => Confined,
        _ => panic!("{error}"),
    };
    println!("outcome: {outcome:?}");
}

/// Executes the next program with what it needs to know about the sandbox.
fn hand_over(sandbox: &Sandbox) -> io::Error {
    if let Some(root) = &sandbox.empty_root {
        fcntl_setfd(root, FdFlags::empty()).unwrap();
    }
    let root = sandbox.empty_root.as_ref().map_or(-1, |root| root.as_raw_fd());
    let carried = serde_json::to_string(&sandbox.carried()).unwrap();
    let variables = [(TRIAL, TAKE_OVER.into()), (CARRIED, carried), (ROOT, root.to_string())];
    execute_with(Program::Running, &variables)
}

fn take_over() {
    program::inherit().unwrap();
    let carried: CarriedSandbox = serde_json::from_str(&env::var(CARRIED).unwrap()).unwrap();
    let root: RawFd = env::var(ROOT).unwrap().parse().unwrap();
    let root = (root >= 0).then(|| {
        open(format!("/proc/self/fd/{root}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .unwrap()
    });
    let another = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert!(adopted(&carried, Some(another)).unwrap_err().contains("another file"));
    let mut sandbox = adopted(&carried, root).unwrap();
    assert_eq!(sandbox.carried(), carried);
    sandbox.complete().unwrap();
    assert_eq!(sandbox.carried(), carried, "nothing is new");
    sandbox.list = 0;
    sandbox.complete().unwrap();
    let Filters::Inherited(Some(before)) = carried.filters() else { panic!("{carried:?}") };
    assert!(matches!(sandbox.filters, Filters::Inherited(Some(now)) if now == before + 2));
    // The rights are as before.
    let (name, attempt, _) = TRIALS[0];
    assert_eq!(attempt(Path::new("")).raw_os_error(), Some(libc::EPERM), "{name}");
    assert_eq!(successor("/bin/true").raw_os_error(), Some(libc::EACCES));
    let jail = Box::leak(Box::new(Jail { root: None, identity: identity(), sandbox }));
    jail.enter(ProcessKind::Relay, getppid(), &[]).unwrap();
    assert!(File::open("/etc/passwd").is_err());
    println!("a worker is confined");
    std::process::exit(0);
}

fn successor(path: impl AsRef<Path>) -> io::Error {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    program::set_successor(open(path.as_ref(), flags, Mode::empty()).unwrap()).unwrap();
    execute(Program::Successor)
}

fn execute(program: Program) -> io::Error {
    execute_with(program, &[(TRIAL, EXECUTED.into())])
}

fn execute_with(program: Program, variables: &[(&str, String)]) -> io::Error {
    let text = |text: &str| CString::new(text).unwrap();
    let argv: Vec<_> = ["pen"].iter().chain(ARGUMENTS).map(|word| text(word)).collect();
    let environment: Vec<_> =
        variables.iter().map(|(name, value)| text(&format!("{name}={value}"))).collect();
    program::execute(program, &argv, &environment)
}

fn refusal() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}

const ARGUMENTS: &[&str] =
    &["--exact", "jail::sandbox::tests::executing::role", "--nocapture", "--test-threads=1"];
const TRIAL: &str = "PEN_TEST_EXECUTION";
const CARRIED: &str = "PEN_TEST_CARRIED";
const ROOT: &str = "PEN_TEST_ROOT";
const EXECUTED: &str = "executed";
const HAND_OVER: &str = "hand over";
const TAKE_OVER: &str = "take over";
const INCOMPLETE: &str = "no whole sandbox here";
