//! The programs that this process may execute: the one that runs, and its successor.
//!
//! Both are held open, at fixed descriptor numbers, because a system call filter cannot look at
//! paths. The supervisor's filter allows execveat(2) with one of these numbers, the flag
//! AT_EMPTY_PATH, and the address [`EMPTY_PATH`] for the path. There is an empty string, in memory
//! that is read-only. Filters outlive the execution, so the numbers and the address may never
//! change.
//!
//! Children close the descriptors, and their filters allow no execution.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use caps::{CapSet, CapsHashSet};
use nix::unistd::geteuid;
use pen_ipc::text::error_text;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, open};

/// A program that can be executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Program {
    /// The one that runs. While a successor is not in charge yet, the one before it.
    Running,
    /// The one that takes over.
    Successor,
}

impl Program {
    /// The number of its descriptor.
    pub(crate) const fn descriptor(self) -> RawFd {
        match self {
            Program::Running => 18,
            Program::Successor => 19,
        }
    }

    fn is_open(self) -> bool {
        // SAFETY: fcntl(2) with F_GETFD only looks up the number; one that is not open gives EBADF.
        unsafe { libc::fcntl(self.descriptor(), libc::F_GETFD) != -1 }
    }
}

/// The address of the empty path.
pub(crate) const EMPTY_PATH: usize = 0x2000_0000;

/// Whether both numbers are reserved.
static RESERVED: AtomicBool = AtomicBool::new(false);

/// Reserves the two numbers, and opens the program that runs. Call this once, after the inherited
/// descriptors with a meaning were taken, and before anything else is opened: what is open at the
/// two numbers is closed.
///
/// # Errors
/// This process cannot execute anything later: there is no /proc, no descriptor is left, or the
/// address of the empty path is in use.
pub(crate) fn hold_running() -> io::Result<()> {
    put(eventfd(0, EventfdFlags::CLOEXEC)?, Program::Running)?;
    copy(Program::Running, Program::Successor)?;
    RESERVED.store(true, Relaxed);
    map_empty_path()?;
    // The kernel's link leads to the file even if the file has lost its name (proc_pid_exe(5)).
    let running = open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let running = running.map_err(|errno| {
        io::Error::other(format!("/proc/self/exe: {}", error_text(&errno.into())))
    })?;
    put(running, Program::Running)
}

/// Prepares a program that [`execute`] started for the execution of the previous one.
///
/// # Errors
/// The descriptors are not open, or the address of the empty path is in use.
pub(crate) fn inherit() -> io::Result<()> {
    for program in [Program::Running, Program::Successor] {
        if !program.is_open() {
            let number = program.descriptor();
            return Err(io::Error::other(format!("descriptor {number} is not open")));
        }
    }
    RESERVED.store(true, Relaxed);
    map_empty_path()
}

/// The two descriptors, if they are reserved. The start keeps them when it closes what it
/// inherited by mistake.
pub(crate) fn descriptors() -> Vec<BorrowedFd<'static>> {
    [Program::Running, Program::Successor]
        .into_iter()
        .filter(|program| RESERVED.load(Relaxed) && program.is_open())
        .map(|program| {
            // SAFETY: it is open. This module only puts other descriptors in its place, and
            // only children close it, by `close_all_but`.
            unsafe { BorrowedFd::borrow_raw(program.descriptor()) }
        })
        .collect()
}

/// Sets the file of the successor. It may have been opened with O_PATH.
///
/// # Errors
/// The number is not reserved.
pub(crate) fn set_successor(file: OwnedFd) -> io::Result<()> {
    put(file, reserved(Program::Successor)?)
}

/// Closes the successor's file, and takes the capabilities back that were passed to it.
///
/// # Errors
/// The number is not reserved, or the capabilities cannot be changed.
pub(crate) fn drop_successor() -> io::Result<()> {
    // First, and whatever becomes of the file: the rights were for that program.
    let lowered = lower_capabilities();
    // The number stays reserved, and no new descriptor is needed.
    let closed =
        reserved(Program::Successor).and_then(|successor| copy(Program::Running, successor));
    lowered.and(closed)
}

/// Called by the successor before it is in charge: the permitted capabilities pass to the program
/// before it, if that is executed again. [`execute`] has seen to that in the program before. But
/// the kernel takes it back if the file of the successor has capabilities (capabilities(7)).
///
/// # Errors
/// The capabilities cannot be changed.
pub(crate) fn prepare_return() -> io::Result<()> {
    raise_capabilities().map(drop)
}

/// Called by the successor when it is in charge: it becomes the running program, and the one before
/// it cannot be executed any more.
///
/// # Errors
/// As [`drop_successor`].
pub(crate) fn become_running() -> io::Result<()> {
    copy(Program::Successor, reserved(Program::Running)?)?;
    lower_capabilities()
}

/// Executes a program in place of this one, with these arguments (the first is its name) and this
/// environment. Returns only if that fails.
///
/// The new program has all descriptors without FD_CLOEXEC, the same blocked, ignored and pending
/// signals, the same interval timer, filters and Landlock restrictions, and the permitted
/// capabilities. Handlers of signals are gone. The kernel sets its name (comm) and makes it
/// dumpable.
pub(crate) fn execute(program: Program, argv: &[CString], environment: &[CString]) -> io::Error {
    let inheritable = match raise_capabilities() {
        Ok(inheritable) => inheritable,
        Err(error) => return error,
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    // SAFETY: both lists end with a null pointer. Their other pointers lead to strings that end
    // with a NUL and outlive the call.
    let error = unsafe { execute_raw(program, argv.as_ptr(), environment.as_ptr()) };
    // They were raised only for a program that did not start.
    match inheritable.map(|before| reset_capabilities(&before)) {
        Some(Err(other)) => other,
        Some(Ok(())) | None => error,
    }
}

/// The system call of [`execute`]. A handler of a signal may call this.
///
/// # Safety
/// Both pointers lead to lists of pointers to strings that end with a NUL. A null pointer ends each
/// list.
pub(super) unsafe fn execute_raw(
    program: Program,
    argv: *const *const c_char,
    environment: *const *const c_char,
) -> io::Error {
    let (number, flags) = (program.descriptor(), libc::AT_EMPTY_PATH);
    // SAFETY: the kernel only reads the lists, which are valid by the caller's promise. It only
    // reads the path; with nothing at its address, the call fails with EFAULT.
    unsafe { libc::syscall(libc::SYS_execveat, number, EMPTY_PATH, argv, environment, flags) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn reserved(program: Program) -> io::Result<Program> {
    match RESERVED.load(Relaxed) {
        true => Ok(program),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Moves a descriptor to the number of a program. It stays open over an execution.
fn put(file: OwnedFd, to: Program) -> io::Result<()> {
    if file.as_raw_fd() == to.descriptor() {
        // The kernel chose this number, because it was free.
        // SAFETY: fcntl(2) with F_SETFD changes a flag of a descriptor that is ours.
        return match unsafe { libc::fcntl(file.into_raw_fd(), libc::F_SETFD, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
    }
    duplicate(file.as_raw_fd(), to)
}

fn copy(from: Program, to: Program) -> io::Result<()> {
    duplicate(from.descriptor(), to)
}

fn duplicate(descriptor: RawFd, to: Program) -> io::Result<()> {
    // SAFETY: dup2(2) takes two numbers, and closes what is open at the second one. No Rust owner
    // has that: the contract of `hold_running` says so for its call, and from then on only this
    // module uses the number.
    match unsafe { libc::dup2(descriptor, to.descriptor()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Maps a page of zeroes, which is an empty string.
fn map_empty_path() -> io::Result<()> {
    let address = ptr::without_provenance_mut(EMPTY_PATH);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: with MAP_FIXED_NOREPLACE the call fails if something is mapped there, so no existing
    // memory is touched. Rust code never uses the page.
    let mapped = unsafe { libc::mmap(address, 1, libc::PROT_READ, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        let error = error_text(&io::Error::last_os_error());
        return Err(io::Error::other(format!("memory at {EMPTY_PATH:#x}: {error}")));
    }
    if mapped != address {
        // A kernel without this flag (before Linux 4.17) takes the address for a wish.
        // SAFETY: the page was mapped above, and nothing uses it.
        unsafe { libc::munmap(mapped, 1) };
        return Err(io::Error::other(format!("memory at {EMPTY_PATH:#x}: in use")));
    }
    Ok(())
}

/// Lets the permitted capabilities pass to the next program, unless this process is root's, whose
/// capabilities pass anyway. Returns the inheritable set to go back to.
fn raise_capabilities() -> io::Result<Option<CapsHashSet>> {
    if geteuid().is_root() {
        return Ok(None);
    }
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let before = caps::read(None, CapSet::Inheritable).map_err(io::Error::other)?;
    let raised = before.union(&permitted).copied().collect();
    // A capability is ambient only if it is permitted and inheritable (capabilities(7)).
    let set = caps::set(None, CapSet::Inheritable, &raised)
        .and_then(|()| caps::set(None, CapSet::Ambient, &permitted));
    match set {
        Ok(()) => Ok(Some(before)),
        Err(error) => {
            reset_capabilities(&before)?;
            Err(io::Error::other(error))
        }
    }
}

fn reset_capabilities(inheritable: &CapsHashSet) -> io::Result<()> {
    caps::clear(None, CapSet::Ambient)
        .and_then(|()| caps::set(None, CapSet::Inheritable, inheritable))
        .map_err(io::Error::other)
}

/// Takes back what [`raise_capabilities`] did in the program before this one.
fn lower_capabilities() -> io::Result<()> {
    match geteuid().is_root() {
        true => Ok(()),
        false => reset_capabilities(&CapsHashSet::new()),
    }
}

/// Tries to execute a descriptor in another way, as an attacker would.
#[cfg(test)]
pub(crate) fn attempt(descriptor: RawFd, path: usize, flags: libc::c_int) -> io::Error {
    let strings = [c"stranger".into(), c"--list".into()];
    let (argv, environment) = (pointers(&strings), pointers(&[]));
    let (argv, environment) = (argv.as_ptr(), environment.as_ptr());
    // SAFETY: as in `execute`; the kernel checks the address of the path.
    unsafe { libc::syscall(libc::SYS_execveat, descriptor, path, argv, environment, flags) };
    io::Error::last_os_error()
}

/// Puts a path in the place of the empty one, as an attacker would.
#[cfg(test)]
pub(crate) fn replace_empty_path(path: &std::ffi::CStr) {
    let page = ptr::with_exposed_provenance_mut::<c_char>(EMPTY_PATH);
    // SAFETY: only the kernel reads this page.
    let changed = unsafe { libc::mprotect(page.cast(), 1, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(changed, 0);
    // SAFETY: the page is writable by now, longer than the path, and no Rust reference leads there.
    unsafe { ptr::copy_nonoverlapping(path.as_ptr(), page, path.count_bytes() + 1) };
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;
    use std::{env, thread};

    use caps::Capability;
    use nix::sys::prctl;
    use nix::sys::signal::Signal;
    use nix::unistd::{Gid, Uid, getpid, getppid, setresgid, setresuid};

    use super::*;

    const ROLE: &str = "PEN_TEST_PROGRAM";

    /// The output of this program in a role.
    fn run(role: &str) -> String {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "sys::program::tests::role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{role}: {printed}");
        printed
    }

    #[test]
    fn a_successor_takes_over_even_if_its_file_was_replaced() {
        let printed = run("replaced");
        let line = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {printed}")).to_owned()
        };
        assert_eq!(line("before"), line("after"), "the same process");
        assert_eq!(line("argument"), "first");
        assert_eq!(line("variable"), "set");
    }

    #[test]
    fn a_program_that_cannot_be_executed_changes_nothing() {
        assert!(run("broken").contains("as before"));
    }

    /// An assumption of the upgrade: workers outlive it.
    #[test]
    fn children_that_die_with_their_parent_outlive_its_execution() {
        assert!(run("children").contains("the child is there"));
    }

    /// An assumption of the upgrade: the supervisor keeps its capabilities.
    #[test]
    fn capabilities_outlive_an_execution() {
        if !geteuid().is_root() {
            let test = "capabilities_outlive_an_execution";
            let _ = writeln!(io::stderr(), "NOT CHECKED: {test}: it needs root");
            return;
        }
        let kept = format!("{:016x}", 1 << 7 | 1 << 10);
        for (role, ambient) in [("root", "0000000000000000"), ("user", &*kept)] {
            let printed = run(role);
            for line in [
                format!("CapPrm:\t{kept}"),
                format!("CapEff:\t{kept}"),
                format!("CapAmb:\t{ambient}"),
                "NoNewPrivs:\t1".into(),
            ] {
                assert!(printed.contains(&line), "{role}: no {line} in {printed}");
            }
        }
    }

    /// Plays a role in the process that was started for it; does nothing in any other.
    #[test]
    fn role() {
        let Ok(role) = env::var(ROLE) else { return };
        hold_running().unwrap();
        assert!(is_same(Program::Running, &env::current_exe().unwrap()));
        assert_eq!(descriptors().len(), 2);
        match &*role {
            "replaced" => {
                let directory = tempfile::tempdir().unwrap();
                let path = shell(directory.path());
                set_successor(File::open(&path).unwrap().into()).unwrap();
                drop_successor().unwrap();
                assert!(is_same(Program::Successor, &env::current_exe().unwrap()));
                set_successor(File::open(&path).unwrap().into()).unwrap();
                fs::write(directory.path().join("new"), "not a program").unwrap();
                fs::rename(directory.path().join("new"), &path).unwrap();
                drop(directory);
                println!("\nbefore {}", getpid());
                sh("echo after $$; echo argument $1; echo variable $V");
            }
            "broken" => {
                let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
                let inheritable = caps::read(None, CapSet::Inheritable).unwrap();
                set_successor(File::open(&file).unwrap().into()).unwrap();
                let error = execute(Program::Successor, &[c"pen".into()], &[]);
                assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{error}");
                assert_eq!(caps::read(None, CapSet::Inheritable).unwrap(), inheritable);
                assert!(caps::read(None, CapSet::Ambient).unwrap().is_empty());
                become_running().unwrap();
                assert!(is_same(Program::Running, &file));
                println!("as before");
            }
            "children" => {
                let parent = getpid();
                let child = crate::sys::fork(|| {
                    prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                    assert_eq!(getppid(), parent);
                    loop {
                        thread::park();
                    }
                });
                // The child of a dead parent would be killed, and be another's child.
                let script = "{ read -r _ _ _ parent _ </proc/C/stat; } && [ $parent = $$ ] && \
                     echo the child is there; kill -9 C";
                successor();
                sh(&script.replace('C', &child.unwrap().to_string()));
            }
            "root" | "user" => {
                successor();
                if role == "user" {
                    prctl::set_keepcaps(true).unwrap();
                    let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
                    setresgid(gid, gid, gid).unwrap();
                    setresuid(uid, uid, uid).unwrap();
                }
                let kept = [Capability::CAP_SETUID, Capability::CAP_NET_BIND_SERVICE].into();
                caps::clear(None, CapSet::Effective).unwrap();
                caps::set(None, CapSet::Permitted, &kept).unwrap();
                caps::set(None, CapSet::Effective, &kept).unwrap();
                caps::clear(None, CapSet::Inheritable).unwrap();
                prctl::set_no_new_privs().unwrap();
                sh("grep -E 'Cap|NoNew' /proc/$$/status");
            }
            other => panic!("{other}"),
        }
    }

    /// Copies the shell into a directory.
    fn shell(directory: &std::path::Path) -> std::path::PathBuf {
        let path = directory.join("successor");
        fs::copy("/bin/sh", &path).unwrap();
        path
    }

    fn successor() {
        let directory = tempfile::tempdir().unwrap();
        set_successor(File::open(shell(directory.path())).unwrap().into()).unwrap();
    }

    /// Executes the successor, a shell.
    fn sh(script: &str) {
        let argv = ["sh", "-c", script, "sh", "first"].map(|word| CString::new(word).unwrap());
        let environment = [c"V=set".to_owned(), c"PATH=/usr/bin:/bin".to_owned()];
        panic!("{}", execute(Program::Successor, &argv, &environment));
    }

    fn is_same(program: Program, file: &std::path::Path) -> bool {
        let held = fs::metadata(format!("/proc/self/fd/{}", program.descriptor())).unwrap();
        let file = fs::metadata(file).unwrap();
        (held.dev(), held.ino()) == (file.dev(), file.ino())
    }
}
