//! Tests of every kind of process from inside: the actions of an attacker who runs code in it.
//!
//! This program starts itself once more for each trial, because a sandbox cannot be left.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::kill;
use nix::sys::{prctl, ptrace};
use nix::unistd::{Gid, Uid, chroot, geteuid, getgroups, getppid, setresuid};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::jail::Jail;
use crate::jail::sandbox::tests::KINDS;
use crate::jail::sandbox::*;
use crate::jail::user::Identity;
use crate::sys;
use crate::sys::program::{Program, execute};

/// The outcome of a trial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// The process is killed.
    Killed,
    /// It fails.
    Fails,
    /// It works, because the process needs it.
    Works,
}

use Fate::{Fails, Killed, Works};

type Trial = (&'static str, fn() -> io::Result<()>, [Fate; 10]);

/// The trials, and their outcomes in a worker, the examiner, the control process, the page process,
/// the checker, the resolver, an opener, a writer, a reader and a reporter.
const TRIALS: &[Trial] = &[
    (
        "open",
        || File::open("/etc/passwd").map(drop),
        [Fails, Fails, Works, Fails, Fails, Works, Works, Works, Works, Works],
    ),
    (
        "make a file",
        || made(File::create("/tmp/pen-trial").map(drop)),
        [Fails, Fails, Works, Fails, Fails, Killed, Works, Works, Killed, Works],
    ),
    (
        "list a directory",
        || fs::read_dir("/").map(drop),
        [Fails, Fails, Fails, Fails, Fails, Works, Fails, Fails, Works, Fails],
    ),
    ("make a directory", || fs::create_dir("/tmp/pen-trial.d"), [Killed; 10]),
    ("make a link", || std::os::unix::fs::symlink("/etc/shadow", "/tmp/pen-trial.l"), [Killed; 10]),
    ("make a fifo", fifo, [Killed; 10]),
    ("execute", || Err(Command::new("/bin/true").exec()), [Killed; 10]),
    ("execute the running program", || Err(execute(Program::Running, &[], &[])), [Killed; 10]),
    ("execute the successor", || Err(execute(Program::Successor, &[], &[])), [Killed; 10]),
    (
        "have memory",
        || memory(MemfdFlags::NOEXEC_SEAL),
        [Killed, Killed, Killed, Killed, Killed, Works, Works, Killed, Works, Killed],
    ),
    (
        "have memory to execute",
        || memory(MemfdFlags::empty()),
        [Killed, Killed, Killed, Killed, Killed, Fails, Fails, Killed, Fails, Killed],
    ),
    ("fork", || Command::new("/bin/true").spawn().map(drop), [Killed; 10]),
    ("trace another process", || Ok(ptrace::attach(getppid())?), [Killed; 10]),
    ("be traced", || Ok(ptrace::traceme()?), [Killed; 10]),
    ("signal another process", || Ok(kill(getppid(), None)?), [Killed; 10]),
    ("signal another process by pidfd", pidfd, [Killed; 10]),
    ("signal a thread of another process", tgkill, [Killed; 10]),
    (
        "become root",
        || Ok(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?),
        [Killed; 10],
    ),
    ("change the root directory", || Ok(chroot("/")?), [Killed; 10]),
    ("have a user namespace", || Ok(unshare(CloneFlags::CLONE_NEWUSER)?), [Killed; 10]),
    ("leave a core", || Ok(prctl::set_dumpable(true)?), [Killed; 10]),
    (
        "raise a limit",
        || Ok(setrlimit(Resource::RLIMIT_CORE, 1, 1)?),
        [Fails, Fails, Killed, Fails, Fails, Killed, Killed, Killed, Killed, Killed],
    ),
    (
        "have UDP",
        || UdpSocket::bind("127.0.0.1:0").map(drop),
        [Works, Killed, Killed, Killed, Works, Works, Killed, Killed, Killed, Killed],
    ),
    (
        "have TCP",
        || socket(Domain::IPV4, Type::STREAM, None),
        [Works, Killed, Killed, Killed, Works, Works, Killed, Killed, Killed, Killed],
    ),
    (
        "have Multipath TCP",
        || socket(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)),
        [Killed; 10],
    ),
    ("have raw IP", || socket(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)), [Killed; 10]),
    ("have packets", || socket(Domain::PACKET, Type::RAW, None), [Killed; 10]),
    ("have vsock", || socket(Domain::VSOCK, Type::STREAM, None), [Killed; 10]),
    (
        "have a packet filter",
        || {
            socket(
                Domain::from(libc::AF_NETLINK),
                Type::RAW,
                Some(Protocol::from(libc::NETLINK_NETFILTER)),
            )
        },
        [Killed; 10],
    ),
    (
        "take a port",
        || bind(10_007),
        [Fails, Killed, Killed, Killed, Fails, Fails, Killed, Killed, Killed, Killed],
    ),
    (
        "take an address",
        || bind(0),
        [Works, Killed, Killed, Killed, Works, Fails, Killed, Killed, Killed, Killed],
    ),
    (
        "connect",
        connect,
        [Works, Killed, Killed, Killed, Works, Works, Killed, Killed, Killed, Killed],
    ),
    (
        "lock a file",
        lock,
        [Killed, Killed, Killed, Killed, Killed, Killed, Killed, Works, Killed, Works],
    ),
    (
        "have others wait",
        others_wait,
        [Killed, Killed, Works, Killed, Killed, Works, Killed, Killed, Killed, Killed],
    ),
    (
        "close a connection by a reset",
        || SockRef::from(&io::stdin()).set_linger(Some(Duration::ZERO)),
        [Works, Killed, Works, Works, Works, Works, Killed, Killed, Killed, Killed],
    ),
    (
        // Attaching one fails on some machines even without a sandbox. This needs the same right.
        "change the filter of a listener",
        || SockRef::from(&io::stdin()).detach_filter(),
        [Killed, Killed, Killed, Killed, Killed, Fails, Killed, Killed, Killed, Killed],
    ),
    (
        "have a time limit at a listener",
        || SockRef::from(&io::stdin()).set_read_timeout(Some(Duration::from_secs(1))),
        [Killed, Killed, Killed, Killed, Killed, Works, Killed, Killed, Killed, Killed],
    ),
    (
        "end a listener for all",
        || SockRef::from(&io::stdin()).shutdown(Shutdown::Both),
        [Works, Killed, Killed, Killed, Killed, Works, Killed, Killed, Killed, Killed],
    ),
    ("panic", || panic!("on purpose"), [Fails; 10]),
];

fn made(result: io::Result<()>) -> io::Result<()> {
    result.and_then(|()| fs::remove_file("/tmp/pen-trial"))
}

/// On an old kernel, which does not distinguish them, all memory is of the first kind.
fn memory(flags: MemfdFlags) -> io::Result<()> {
    match memfd_create(c"trial", flags) {
        Err(Errno::INVAL) => memfd_create(c"trial", MemfdFlags::empty())?,
        Ok(_) if flags.is_empty() && !filter::knows_memory_without_execution() => {
            return Err(io::ErrorKind::Unsupported.into());
        }
        made => made?,
    };
    Ok(())
}

fn pidfd() -> io::Result<()> {
    let parent = rustix::process::getppid().ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).map(drop)?)
}

fn tgkill() -> io::Result<()> {
    sys::ask_for_thread(getppid())
}

fn fifo() -> io::Result<()> {
    Ok(nix::unistd::mkfifo("/tmp/pen-trial.f", nix::sys::stat::Mode::S_IRWXU)?)
}

fn socket(domain: Domain, of: Type, protocol: Option<Protocol>) -> io::Result<()> {
    Socket::new(domain, of, protocol).map(drop)
}

fn bind(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())
}

/// Makes a descriptor blocking that other processes share.
fn others_wait() -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(io::stdin(), false)?)
}

fn lock() -> io::Result<()> {
    Ok(rustix::fs::fcntl_lock(io::stdin(), rustix::fs::FlockOperation::LockShared)?)
}

/// A connection that nobody accepts is a success too.
fn connect() -> io::Result<()> {
    match TcpStream::connect("127.0.0.1:1") {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other.map(drop),
    }
}

#[test]
fn what_a_stranger_tries_fails_in_every_process() {
    let mut wrong = Vec::new();
    let trials = TRIALS.iter().flat_map(|trial| {
        KINDS.iter().zip(trial.2).map(move |(kind, fate)| (trial.0, *kind, fate))
    });
    for (name, kind, expected) in trials {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "jail::sandbox::tests::inside::trial",
                "--nocapture",
                "--test-threads=1",
                "--quiet",
            ])
            .env(TRIAL, format!("{name}/{kind:?}"))
            .stdin(standard_input(name))
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        if printed.contains(INCOMPLETE) {
            let test = "what_a_stranger_tries_fails_in_every_process";
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {test}: {INCOMPLETE}");
            return;
        }
        let fate = match (output.status.signal(), output.status.success()) {
            (Some(libc::SIGSYS), _) => Killed,
            (None, true) => Works,
            (None, false) => Fails,
            other => panic!("{name} in {kind:?}: {other:?} {printed}"),
        };
        if fate != expected || !printed.contains(ENTERED) {
            wrong.push(format!("{name} in {kind:?}: {fate:?} and not {expected:?}: {printed}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Standard input of a trial: what it tries on a descriptor, it tries there.
fn standard_input(name: &str) -> Stdio {
    match name {
        "lock a file" => Stdio::null(),
        _ => OwnedFd::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).into(),
    }
}

/// Runs a trial in the process that was started for it; does nothing in any other.
#[test]
fn trial() {
    let Ok(wanted) = std::env::var(TRIAL) else { return };
    let (name, kind) = wanted.split_once('/').unwrap();
    let kind = KINDS.into_iter().find(|known| format!("{known:?}") == kind).unwrap();
    let (_, attempt, _) = TRIALS.iter().find(|(known, _, _)| *known == name).unwrap();
    let held = sys::program::hold_running().map_err(|error| error.to_string());
    let sandbox = match confine(false, true, &held) {
        Ok((sandbox, _)) => sandbox,
        Err(why) => {
            eprintln!("{INCOMPLETE}: {why}");
            return;
        }
    };
    let entered = match kind {
        ProcessKind::Reader => sandbox.enter_reader().map_err(|error| error.to_string()),
        ProcessKind::Reporter => sandbox.enter_reporter().map_err(|error| error.to_string()),
        kind => {
            // The sandbox closes its descriptors; they must not be closed again.
            let jail = Box::leak(Box::new(Jail { root: None, identity: identity(), sandbox }));
            jail.enter(kind, getppid(), &[]).map_err(|error| error.to_string())
        }
    };
    eprintln!("{}", entered.map_or_else(|why| why, |()| ENTERED.to_owned()));
    let status = match attempt() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    };
    std::process::exit(status);
}

pub(crate) fn identity() -> Identity {
    match geteuid().is_root() {
        true => {
            Identity { uid: Uid::from_raw(65534), gid: Gid::from_raw(65534), groups: Vec::new() }
        }
        false => {
            Identity { uid: geteuid(), gid: nix::unistd::getegid(), groups: getgroups().unwrap() }
        }
    }
}

const TRIAL: &str = "PEN_TEST_TRIAL";
const ENTERED: &str = "in the sandbox now";
const INCOMPLETE: &str = "no whole sandbox here";
