//! Starts that must fail: every malformed form of the command line, of addresses and of servers,
//! and refusals of the system.
//!
//! Each ends with one line on standard error and status 1, in the foreground and in the background.
//! Afterwards no process is left, and the port is free.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::wait::within;
use crate::harness::{BINARY, PATIENCE, Port, Process, eventually, machine};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// The output and remains of a refused start.
struct Refusal {
    status: Option<i32>,
    said: String,
    printed: String,
}

/// Runs pen with these arguments until it ends, and checks that no process is left.
#[track_caller]
fn run(arguments: &[OsString]) -> Refusal {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    // Forks inherit the environment. So it identifies them even if they left their session.
    let mark =
        format!("PEN_TEST_RUN={}.{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let (variable, value) = mark.split_once('=').unwrap();
    let directory = TempDir::new().unwrap();
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let mut child = Command::new(BINARY)
        .args(arguments)
        .env(variable, value)
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let mut status = None;
    within(PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let clean = within(PATIENCE, || marked(&mark).is_empty());
    marked(&mark).iter().for_each(|process| process.signal(rustix::process::Signal::KILL));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let refusal = Refusal {
        status: status.and_then(|status| status.code()),
        said: read(&err),
        printed: read(&out),
    };
    if status.is_none() {
        child.wait().unwrap();
    }
    assert!(status.is_some(), "{arguments:?}: still runs, and said {:?}", refusal.said);
    assert!(clean, "{arguments:?}: left a process, and said {:?}", refusal.said);
    refusal
}

/// The processes that have `mark` in their environment.
fn marked(mark: &str) -> Vec<Process> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .filter_map(Process::open)
    .collect()
}

/// Checks that pen refuses these arguments, with `-f` and without, by one line that contains `why`.
#[track_caller]
fn refused_raw(arguments: &[OsString], why: &str) {
    for mode in [None, Some(OsString::from("-f"))] {
        let arguments: Vec<OsString> = mode.into_iter().chain(arguments.iter().cloned()).collect();
        let Refusal { status, said, printed } = run(&arguments);
        assert_eq!(status, Some(1), "{arguments:?}: status; it said {said:?}");
        assert!(said.starts_with("pen: ") && said.ends_with('\n'), "{arguments:?}: {said:?}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: more than one line: {said}");
        assert!(said.contains(why), "{arguments:?}: {said:?} does not say {why:?}");
        assert_eq!(printed, "", "{arguments:?}: standard output");
    }
}

#[track_caller]
fn refused<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, why: &str) {
    let arguments: Vec<OsString> =
        arguments.into_iter().map(|argument| argument.as_ref().to_os_string()).collect();
    refused_raw(&arguments, why);
}

/// Checks that no process listens at a reserved port.
#[track_caller]
fn free(port: &Port) {
    let socket = Socket::new(Domain::for_address(port.address()), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&port.address().into()).unwrap();
    socket.listen(1).expect("nobody else listens at the port");
}

/// Checks every row. `PORT` stands for `127.0.0.1:` and a reserved port that must be free
/// afterwards.
#[track_caller]
fn rows(rows: &[(&str, &str)]) {
    let port = Port::reserve();
    for (line, why) in rows {
        refused(line.split(' ').map(|word| word.replace("PORT", &port.address().to_string())), why);
        free(&port);
    }
}

#[test]
fn options() {
    rows(&[
        ("--nonsense PORT 127.0.0.1:1", "--nonsense: unknown option"),
        ("-k PORT 127.0.0.1:1", "-k: unknown option"),
        ("-rk PORT 127.0.0.1:1", "-k: unknown option"),
        ("PORT 127.0.0.1:1 -4", "-4: unknown option"),
        ("--round-robin=yes PORT 127.0.0.1:1", "-r: takes no value"),
        ("PORT 127.0.0.1:1 -b", "-b: its value is missing (sec)"),
        ("PORT 127.0.0.1:1 --log", "-l: its value is missing"),
        ("-i service PORT 127.0.0.1:1", "-i: Windows only"),
        ("-l logs/a:1 PORT 127.0.0.1:1", "must begin with '/'"),
        ("-l host: PORT 127.0.0.1:1", "-l 'host:': the port after ':' is empty"),
        ("-e 127.0.0.1:0 PORT", "-e '127.0.0.1:0': port: '0'"),
        ("-B ::1:80 PORT 127.0.0.1:1", "-B '::1:80': an IPv6 address needs brackets"),
        // An empty word: two spaces.
        ("-b  PORT 127.0.0.1:1", "-b: '' is not a number from 0 to 2147483647"),
        ("-u  PORT 127.0.0.1:1", "-u: its value is empty"),
        ("-p  PORT 127.0.0.1:1", "-p: its value is empty"),
        ("-e  PORT 127.0.0.1:1", "-e: its value is empty"),
    ]);
}

#[test]
fn numbers() {
    rows(&[
        ("-b 5x PORT 127.0.0.1:1", "-b: '5x' is not a number from 0 to 2147483647"),
        ("-b -1 PORT 127.0.0.1:1", "-b: '-1' is not a number"),
        ("-T 2147483648 PORT 127.0.0.1:1", "-T: '2147483648' is not a number from 0 to 2147483647"),
        ("-t 0 PORT 127.0.0.1:1", "-t: '0' is not a number from 1 to 2147483647"),
        ("-c 0 PORT 127.0.0.1:1", "-c: '0' is not a number from 1 to 16777216"),
        ("-c 16777217 PORT 127.0.0.1:1", "-c: '16777217' is not a number from 1 to 16777216"),
        ("-x -4 PORT 127.0.0.1:1", "-x: '-4' is not a number from 1 to 1048576"),
        ("-x 1048577 PORT 127.0.0.1:1", "-x: '1048577' is not a number from 1 to 1048576"),
        ("-x abc PORT 127.0.0.1:1", "-x: 'abc' is not a number from 1 to 1048576"),
        ("-S 0 PORT 127.0.0.1:1", "-S: '0' is not a number from 1 to 4096"),
        ("-S4097 PORT 127.0.0.1:1", "-S: '4097' is not a number from 1 to 4096"),
        ("-m 0 PORT 127.0.0.1:1", "-m: '0' is not a number from 1 to"),
        ("-q 1e3 PORT 127.0.0.1:1", "-q: '1e3' is not a number from 0 to"),
        ("--workers 0 PORT 127.0.0.1:1", "--workers: '0' is not a number from 1 to 64"),
        ("--workers=65 PORT 127.0.0.1:1", "--workers: '65' is not a number from 1 to 64"),
        ("-b 99999999999999999999999 PORT 127.0.0.1:1", "-b: "),
    ]);
}

#[test]
fn options_that_are_not_built_in_are_not_ignored() {
    rows(&[("PORT 127.0.0.1:1 -U", "pen: -U: not built in yet\n")]);
}

#[test]
fn a_rehearsal_that_no_pen_began_is_refused_and_does_not_wait() {
    // Standard input is /dev/null and standard output a file; 77 is not open.
    for (state, channel, why) in
        [("0", "1", "socket operation on non-socket"), ("0", "77", "bad file"), ("77", "1", "bad")]
    {
        let Refusal { status, said, printed } =
            run(&["--rehearse", state, channel].map(OsString::from));
        assert_eq!((status, printed.as_str()), (Some(1), ""), "{said:?}");
        let begin = "pen: --rehearse is for pen itself: ";
        assert!(said.starts_with(begin) && said.contains(why), "{said:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn missing_operands() {
    refused_raw(&[], "no listen address: give pen [options] [host:]port|/path server [server ...]");
    rows(&[
        ("-r", "no listen address: give pen [options] [host:]port|/path server [server ...]"),
        ("PORT", "no server: give pen [options] [host:]port|/path server [server ...]"),
        ("-B 127.0.0.1:1 PORT", "no server: give"),
    ]);
}

#[test]
fn listen_addresses() {
    rows(&[
        (" 127.0.0.1:1", "listen address '': it is empty"),
        ("0 127.0.0.1:1", "listen address '0': port: '0' is not a number from 1 to 65535"),
        ("65536 127.0.0.1:1", "'65536' is not a number from 1 to 65535"),
        ("127.0.0.1:-1 127.0.0.1:1", "'-1' is not a number from 1 to 65535"),
        ("PORTx 127.0.0.1:1", "no such service"),
        ("no-such-service 127.0.0.1:1", "cannot resolve no-such-service: no such service"),
        ("127.0.0.1 127.0.0.1:1", "'127.0.0.1' is not a number"),
        ("127.0.0.1: 127.0.0.1:1", "the port after ':' is empty"),
        (":8080 127.0.0.1:1", "the host before ':' is empty"),
        ("[::1] 127.0.0.1:1", "the port is missing"),
        ("[::1 127.0.0.1:1", "'[' without ']'"),
        ("[::g]:8080 127.0.0.1:1", "no IPv6 address"),
        ("[fe80::1%lo]:8080 127.0.0.1:1", "this machine has no such address"),
        ("127.1:8080 127.0.0.1:1", "four numbers"),
        ("- 127.0.0.1:1", "listen address '-'"),
    ]);
    refused(
        [format!("/{}", "x".repeat(107)), "127.0.0.1:1".into()],
        "107 bytes at most, this one has 108",
    );
}

#[test]
fn servers() {
    rows(&[
        ("PORT ", "server '': it is empty"),
        ("PORT :80", "the host before ':' is empty"),
        ("PORT 127.0.0.1:", "the port after ':' is empty"),
        ("PORT 127.0.0.1:0", "'0' is not a number from 1 to 65535"),
        ("PORT 127.0.0.1:99999", "'99999' is not a number from 1 to 65535"),
        ("PORT 127.0.0.1:21000x", "cannot resolve 21000x: no such service"),
        ("PORT 127.0.0.1 -e 127.0.0.1:no-such-service", "cannot resolve no-such-service"),
        ("PORT 127.0.0.1:no-such-service", "cannot resolve no-such-service: no such service"),
        ("PORT 127.0.0.1:80:abc", "soft limit: 'abc' is not a number from 0 to 2147483647"),
        ("PORT 127.0.0.1:80:-1", "soft limit: '-1'"),
        ("PORT 127.0.0.1:80::5", "the soft limit after ':' is empty"),
        ("PORT 127.0.0.1:80:5:x", "hard limit: 'x'"),
        ("PORT 127.0.0.1:80:5:5:x", "weight: 'x'"),
        ("PORT 127.0.0.1:80:5:5:1:x", "prio: 'x'"),
        ("PORT 127.0.0.1:80:5:5:1:", "the prio after ':' is empty"),
        ("PORT 127.0.0.1:80:1:2:3:4:5", "more than six fields"),
        ("PORT ::1:80", "an IPv6 address needs brackets in a server: [::1"),
        ("PORT 2001:db8::1", "an IPv6 address needs brackets in a server: [2001:db8::1]"),
        ("PORT [::1", "'[' without ']'"),
        ("PORT [::1]80", "only ':' may follow"),
        ("PORT []:80", "nothing between"),
        ("PORT 256.0.0.1:80", "four numbers"),
        ("PORT 8080", "four numbers"),
        ("PORT run/a.sock", "must begin with '/'"),
        ("PORT /run/a.sock:", "the port after ':' is empty"),
        ("PORT 127.0.0.1:1 127.0.0.1:2 127.0.0.1:0", "server '127.0.0.1:0'"),
        (
            "-S 1 PORT 127.0.0.1:1 127.0.0.1:2",
            "2 servers, but the server table has 1 slots; -S 2 makes room",
        ),
    ]);
    let port = Port::reserve();
    refused(
        [port.address().to_string(), format!("/{}", "x".repeat(107))],
        "107 bytes at most, this one has 108",
    );
    refused(
        ["PORT", "a\nb:80"].map(|word| word.replace("PORT", &port.address().to_string())),
        r"server 'a\nb:80'",
    );
    free(&port);
}

#[test]
fn bytes_that_are_no_text() {
    let port = Port::reserve();
    let broken = || OsString::from_vec(b"a\xffb".to_vec());
    let listen = || OsString::from(port.address().to_string());
    refused_raw(&[broken(), "127.0.0.1:1".into()], "not valid UTF-8");
    refused_raw(&[listen(), broken()], "not valid UTF-8");
    refused_raw(&["-u".into(), broken(), listen(), "127.0.0.1:1".into()], "-u: not valid UTF-8");
    refused_raw(&["-b".into(), broken(), listen(), "127.0.0.1:1".into()], "-b: ");
    refused_raw(
        &[OsStr::from_bytes(b"-\xff").into(), listen(), "127.0.0.1:1".into()],
        "unknown option",
    );
    refused_raw(
        &[OsStr::from_bytes(b"--\xff\n").into(), listen(), "127.0.0.1:1".into()],
        "unknown option",
    );
    free(&port);
}

#[test]
fn a_unix_listener_needs_ports_at_its_servers_and_leaves_no_socket() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("front.sock");
    refused([path.as_os_str(), "127.0.0.1".as_ref()], "the port is missing");
    assert!(!path.exists());
}

#[test]
fn a_unix_listener_spares_what_is_not_its_own() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    refused([file.as_os_str(), "127.0.0.1:1".as_ref()], &file.display().to_string());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let path = directory.path().join("taken.sock");
    let taken = UnixListener::bind(&path).unwrap();
    refused([path.as_os_str(), "127.0.0.1:1".as_ref()], &path.display().to_string());
    taken.set_nonblocking(true).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "its listener is still there");
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_the_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused([&*address, "127.0.0.1:1"], &address);
    // No host has an address of TEST-NET-1 (RFC 5737).
    refused(["192.0.2.1:8080", "127.0.0.1:1"], "192.0.2.1:8080");
}

#[test]
fn a_failed_start_leaves_no_new_log_and_keeps_one_that_was_there() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (new, empty, full) = (path("new"), path("empty"), path("full"));
    fs::write(&empty, "").unwrap();
    fs::write(&full, "line\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for log in [&new, &full] {
        refused(["-l", log, &address, "127.0.0.1:1"], &address);
    }
    assert!(!Path::new(&new).exists());
    assert_eq!(fs::read_to_string(&full).unwrap(), "line\n");
    refused(["-l", &empty, &address, "127.0.0.1:1"], &address);
    assert!(Path::new(&empty).exists());
}

#[test]
fn check_finds_an_address_towards_servers_that_this_machine_lacks() {
    let port = Port::reserve();
    let listen = port.address().to_string();
    let start = ["-O", "source 192.0.2.7", &listen, "127.0.0.1:1"];
    let why = "unable to set source address to '192.0.2.7'";
    refused(start, why);
    refused(["--check"].into_iter().chain(start), why);
}

#[test]
fn files_users_and_jails_that_cannot_be_had_are_named() {
    let directory = TempDir::new().unwrap();
    let port = Port::reserve();
    let listen = port.address().to_string();
    let missing = directory.path().join("none/file");
    let missing = missing.to_str().unwrap();
    for option in ["-p", "-l", "-w", "-j"] {
        refused([option, missing, &listen, "127.0.0.1:1"], missing);
        free(&port);
    }
    refused(["-u", "no-such-user", &listen, "127.0.0.1:1"], "no-such-user");
    free(&port);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn names_without_an_address_are_named() {
    // In its own network, so that no query reaches a name server.
    if machine::in_own_network("names_without_an_address_are_named", &["true".to_owned()]) {
        let port = Port::reserve();
        let listen = port.address().to_string();
        refused([&*listen, "no-such-host.invalid:80"], "no-such-host.invalid");
        refused(["no-such-host.invalid:8080", "127.0.0.1:1"], "no-such-host.invalid");
        refused(["-e", "no-such-host.invalid:8080", &listen], "no-such-host.invalid");
        free(&port);
    }
}

#[test]
fn a_closed_standard_error_changes_nothing_else() {
    let port = Port::reserve();
    let script = "exec \"$@\" >&- 2>&-";
    for mode in ["-r", "-f"] {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            script,
            "sh",
            BINARY,
            mode,
            &port.address().to_string(),
            "127.0.0.1:0",
        ]);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        eventually("pen has ended", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
    free(&port);
}

#[test]
fn help_and_version_are_no_errors() {
    for (option, start) in
        [("--help", "pen "), ("--version", concat!("pen ", env!("CARGO_PKG_VERSION"), "\n"))]
    {
        let Refusal { status, said, printed } = run(&[OsString::from(option)]);
        assert_eq!((status, &*said), (Some(0), ""), "{option}");
        assert!(printed.starts_with(start), "{option}: {printed}");
    }
}
