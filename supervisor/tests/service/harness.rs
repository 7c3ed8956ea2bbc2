//! The harness: runs a supervisor with a small test worker in a process of its own, and observes it
//! from outside.
//!
//! The process is this program again; its environment says what to run. It has one thread, because
//! a supervisor forks.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use pen_config::address::{Host, Local};
use pen_config::command::{Command as Setting, LogTarget, Number};
use pen_config::configuration::{Configuration, SourcedCommand};
use pen_config::parse::grammar::ServerSpec;
use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Received};
use pen_ipc::codec;
use pen_ipc::message::{Event, FromStartingWorker, FromWorker, ReportPage, ToWorker};
use pen_ipc::start::{RequestLog, WorkerStart};
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_supervisor::{Entries, Launch};
use pen_table::Table;
use serde::Serialize;

use crate::{control, hostile, sandbox};

const LAUNCH: &str = "PEN_TEST_LAUNCH";
const WORKER: &str = "PEN_TEST_WORKER";

/// The pen that a test wants to run.
pub struct Pen {
    pub directory: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
    worker: &'static str,
    ordinary: bool,
}

impl Pen {
    /// A pen with two workers behind a Unix socket. The name selects the behaviour of the worker in
    /// `serve`.
    pub fn new(worker: &'static str) -> Pen {
        let directory = tempfile::tempdir().unwrap();
        let mut pen = Pen { directory, settings: Vec::new(), worker, ordinary: false };
        for (key, file) in [
            ("local", "front.sock"),
            ("pid", "pen.pid"),
            ("log", "pen.log"),
            ("status", "status.html"),
        ] {
            pen.settings.push((key, pen.path(file).display().to_string()));
        }
        pen
    }

    pub fn with(mut self, key: &'static str, value: impl ToString) -> Pen {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value.to_string()));
        self
    }

    pub fn without(mut self, key: &'static str) -> Pen {
        self.settings.retain(|(known, _)| *known != key);
        self
    }

    /// Runs it as `nobody`; only root can do that.
    pub fn run_by_nobody(mut self) -> Pen {
        std::os::unix::fs::chown(self.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        self.ordinary = true;
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut program = std::env::current_exe().unwrap();
        if self.ordinary {
            let copy = self.path("program");
            fs::copy(&program, &copy).unwrap();
            program = copy;
        }
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command
    }

    /// Runs it in a shell that first runs `preparation`.
    pub fn shell(&self, preparation: &str) -> Command {
        let program = std::env::current_exe().unwrap();
        let script = format!("{preparation}; exec \"$0\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        let settings: Vec<String> =
            self.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        command.env(LAUNCH, settings.join("\n")).env(WORKER, self.worker).stdin(Stdio::null());
        if self.ordinary {
            command.uid(NOBODY).gid(NOBODY);
        }
    }

    /// Runs it without `-f`; returns when the command does.
    pub fn background(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs it with `-f`; returns once the pid file is written.
    pub fn foreground(self) -> Running {
        let pen = self.with("foreground", "yes");
        let mut command = pen.command();
        Running::start(pen, &mut command)
    }
}

/// A pen in the foreground.
pub struct Running {
    pub pen: Pen,
    pub child: Child,
}

impl Running {
    pub fn start(pen: Pen, command: &mut Command) -> Running {
        let errors = fs::File::create(pen.path("stderr")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let running = Running { pen, child };
        wait_for("the pid file", || running.pen.read("pen.pid").ends_with('\n'));
        running
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn workers(&self) -> Vec<Pid> {
        children(self.pid())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn errors(&self) -> String {
        self.pen.read("stderr")
    }

    /// Waits for the end; returns the exit status.
    pub fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let mut status = None;
        wait_for("the end of pen", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("standard error of pen:\n{}", self.errors());
        }
    }
}

/// A pen in the background, which does not outlive its test.
pub struct Daemon(pub Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        if is_alive(self.0) {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

/// Waits for a condition; panics after a time that only a failure takes.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The children of a process, without those that are dead and not yet reaped.
pub fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .filter(|pid| is_alive(*pid))
        .collect()
}

pub fn is_alive(pid: Pid) -> bool {
    field(pid, "State").is_some_and(|state| !state.starts_with('Z') && !state.starts_with('X'))
}

/// A line of /proc/PID/status.
pub fn field(pid: Pid, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
    Some(line.split_once(':')?.1.trim().into())
}

/// The open descriptors of a process: number and target. A worker is not dumpable: only root sees
/// its descriptors.
pub fn descriptors(pid: Pid) -> Vec<(i32, String)> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error)
            if error.kind() == std::io::ErrorKind::PermissionDenied && !geteuid().is_root() =>
        {
            return Vec::new();
        }
        entries => entries.unwrap().flatten(),
    };
    let describe = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
    };
    let mut descriptors: Vec<_> = entries.filter_map(describe).collect();
    descriptors.sort();
    descriptors
}

/// Whether privileged behaviour can be tested; prints a line if not.
pub fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

pub const NOBODY: u32 = 65534;

// The code from here on runs in the process under test.

/// The settings of the test, and the name of the worker. Kept, because pen wipes its environment
/// before it forks.
static WANTED: OnceLock<Option<(String, String)>> = OnceLock::new();

fn wanted() -> Option<&'static (String, String)> {
    let read = || Some((std::env::var(LAUNCH).ok()?, std::env::var(WORKER).ok()?));
    WANTED.get_or_init(read).as_ref()
}

/// A setting of the test, by its key.
pub fn setting(key: &str) -> Option<String> {
    let (settings, _) = wanted()?;
    let of_key = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(String::from);
    settings.lines().find_map(of_key)
}

/// Runs what the environment requests; none if this is not the process under test.
pub fn host() -> Option<i32> {
    wanted()?;
    let get = setting;
    if let Some(what) = get("lack") {
        sandbox::lack(&what);
    }
    let launch = Launch {
        configuration: configuration(&get)?,
        show: false,
        foreground: get("foreground").is_some(),
        jail: get("jail").map(PathBuf::from),
        user: get("user"),
        pid_file: get("pid").map(PathBuf::from),
        control: get("control").map(|path| Local::Unix(path.into())),
        allow_exit: get("exit").is_some(),
        config: get("config").map(PathBuf::from),
        require_sandbox: get("require").is_some(),
        check: get("check").is_some(),
        command_line: "pen of the tests".into(),
    };
    // The same steps as in the program.
    Some(
        match pen_supervisor::run(
            launch,
            Entries {
                relay: serve,
                control: control::serve,
                examine_tls: |_| Ok(Default::default()),
            },
        ) {
            Ok(()) => 0,
            Err(why) => {
                why.to_string().lines().for_each(|line| eprintln!("pen: {line}"));
                1
            }
        },
    )
}

fn configuration(get: &dyn Fn(&str) -> Option<String>) -> Option<Configuration> {
    let server = ServerSpec {
        host: Host::Ip([127, 0, 0, 1].into()),
        port: Some(pen_config::address::Service::Port(1)),
        soft: 0,
        hard: 0,
        weight: 1,
        prio: 0,
    };
    let workers = get("workers").map_or(2, |count| count.parse().unwrap());
    let commands = [
        Some(Setting::Number(Number::Workers, Some(workers))),
        Some(Setting::Number(Number::ClientsMax, Some(64))),
        get("log").map(|path| Setting::Log(Some(LogTarget::File(path.into())))),
        get("status").map(|path| Setting::WebStats(Some(path.into()))),
    ];
    let placed = |command| SourcedCommand { source_line: "a test".into(), command };
    Some(Configuration {
        local: Some(Local::Unix(get("local")?.into())),
        servers: vec![server],
        commands: commands.into_iter().flatten().map(placed).collect(),
        emergency: None,
        abuse: None,
        server_slots: None,
        accept_batch: 100,
        hash_always: false,
        tls: Default::default(),
    })
}

/// A worker with the behaviour that the test selects.
fn serve(start: WorkerStart, table: &Table) -> i32 {
    let (_, kind) = wanted().unwrap();
    if let Some(reason) = sandbox::attempt("worker") {
        start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
        return 1;
    }
    match kind.as_str() {
        "dies at once" => return 3,
        "fails" => {
            let reason = "worker cannot\nstart".into();
            start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
            return 1;
        }
        "is never ready" => loop {
            std::thread::park();
        },
        // Only the second worker in this slot: the start waits for the first, and the third is a
        // normal one.
        "oversleeps"
            if start.id.0 == 0
                && hostile::marks(table).next().unwrap().fetch_add(1, Relaxed) == 1 =>
        {
            loop {
                std::thread::park();
            }
        }
        "is hostile" if start.id.0 == 0 && hostile::is_first(table) => {
            return hostile::live(start.channel, table);
        }
        _ => {}
    }
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let channel = start.channel.into_phase::<FromWorker, ToWorker>();
    if ["talks nonsense", "panics", "floods"].contains(&kind.as_str()) {
        // Not during the start, which might fail because of it.
        await_report(&channel);
    }
    match kind.as_str() {
        "talks nonsense" if start.id.0 == 0 => {
            rustix::net::send(&channel, b"\xff\xff\xff", rustix::net::SendFlags::empty()).unwrap();
        }
        "spins" if start.id.0 == 0 => loop {
            std::hint::spin_loop();
        },
        "looks for a service manager" => {
            let found = [
                "NOTIFY_SOCKET",
                "WATCHDOG_USEC",
                "WATCHDOG_PID",
                "LISTEN_PID",
                "LISTEN_FDS",
                "LISTEN_FDNAMES",
            ]
            .iter()
            .find(|name| std::env::var_os(name).is_some());
            if let Some(RequestLog::File(file)) = &start.log {
                let line = found.map_or("no manager\n".into(), |name| format!("{name}\n"));
                fs::File::from(file.try_clone().unwrap()).write_all(line.as_bytes()).unwrap();
            }
        }
        "panics" if start.id.0 == 0 => panic!("on purpose"),
        "floods" if start.id.0 == 0 => {
            let flood = FromWorker::Event(Event::LockStuck);
            // Until the supervisor kills it.
            while channel.send(&flood, None).is_ok() {}
        }
        "reports too much" if start.id.0 == 0 => {
            let info = ConnectionInfo {
                number: 0,
                state: 0,
                downfd: 0,
                upfd: 0,
                pending_down: 0,
                pending_up: 0,
                client: 0,
                server: 0,
            };
            let page = ReportPage {
                serial: 1,
                last: false,
                counters: Counters { accepted: u64::MAX, ..Counters::default() },
                connections: vec![info; 300],
            };
            return obey(&channel, None, Some(page));
        }
        "boasts" => {
            // Only the sum of the two counters overflows.
            let accepted = if start.id.0 == 0 { u64::MAX - 2 } else { 5 };
            let counters = Counters { accepted, ..Counters::default() };
            channel.send(&FromWorker::Counters(counters), None).unwrap();
        }
        // Fills the shared eventfd, so that nobody can write to it, and dies while its sibling
        // waits for a slot.
        "jams and dies" if start.id.0 == 0 => {
            let is_first_life =
                rustix::io::read(&start.freed, &mut [0; 8]) == Err(rustix::io::Errno::AGAIN);
            if is_first_life {
                table.worker_table(1).await_connection();
                rustix::io::write(&start.freed, &(u64::MAX - 1).to_ne_bytes()).unwrap();
                return 1;
            }
        }
        _ => {}
    }
    obey(&channel, start.log, None)
}

/// Waits until the test asks for a report.
pub fn await_report<Tx: Serialize>(channel: &Channel<Tx, ToWorker>) {
    while !matches!(channel.receive(), Ok(Received::Message(ToWorker::Report { .. }, _))) {
        let _ = poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    }
}

/// The settings in a memfd.
pub fn read_settings(memory: std::os::fd::OwnedFd) -> Settings {
    use std::os::unix::fs::FileExt;
    // Not by `File::metadata`: that call names a file, although by an empty name, and the sandbox
    // forbids names to a worker.
    let length = rustix::fs::fstat(&memory).unwrap().st_size;
    let memory = fs::File::from(memory);
    let mut bytes = vec![0; length as usize];
    memory.read_exact_at(&mut bytes, 0).unwrap();
    codec::decode_settings(&bytes).unwrap()
}

fn obey(
    channel: &pen_ipc::channel::Channel<FromWorker, ToWorker>,
    mut log: Option<RequestLog>,
    page: Option<ReportPage>,
) -> i32 {
    let say = |log: &mut Option<RequestLog>, line: &str| {
        if let Some(RequestLog::File(file)) = log {
            fs::File::from(file.try_clone().unwrap()).write_all(line.as_bytes()).unwrap();
        }
    };
    say(&mut log, "started\n");
    loop {
        match channel.receive() {
            Ok(Received::Message(ToWorker::Stop, _)) => {
                say(&mut log, "stopped\n");
                return 0;
            }
            Ok(Received::Message(ToWorker::Log { .. }, file)) => {
                log = file.map(RequestLog::File);
                say(&mut log, "reopened\n");
            }
            Ok(Received::Message(ToWorker::Report { serial }, _)) => {
                let empty = || ReportPage {
                    serial,
                    last: true,
                    counters: Counters::default(),
                    connections: Vec::new(),
                };
                channel
                    .send(&FromWorker::Report(page.clone().unwrap_or_else(empty)), None)
                    .unwrap();
            }
            Ok(Received::Message(ToWorker::NoLog, _)) => log = None,
            Ok(Received::Message(ToWorker::Tls | ToWorker::TicketSecret, _)) => {
                say(&mut log, "keys\n")
            }
            Ok(Received::Message(ToWorker::Settings, memory)) => {
                let Settings { generation, blacklist, .. } = read_settings(memory.unwrap());
                say(&mut log, &format!("settings {generation} {blacklist}\n"));
                channel.send(&FromWorker::Applied { generation }, None).unwrap();
            }
            Ok(Received::Message(ToWorker::Listen, listener)) => {
                assert!(listener.is_some());
                say(&mut log, "listening\n");
                channel.send(&FromWorker::Listening, None).unwrap();
            }
            Ok(Received::Message(ToWorker::Freed, _)) => say(&mut log, "freed\n"),
            Ok(Received::Message(ToWorker::Republish, _)) => say(&mut log, "restated\n"),
            Ok(Received::Message(ToWorker::Close { number, .. }, _)) => {
                say(&mut log, &format!("close {number}\n"))
            }
            Ok(Received::Message(ToWorker::Explain { serial, client }, _)) => {
                // A malicious worker would send more to the operator's terminal.
                let text =
                    format!("explained {}\x1b[2J", pen_config::ids::ClientKey::from_bytes(client));
                channel.send(&FromWorker::Explained { serial, text }, None).unwrap();
            }
            Ok(Received::Message(ToWorker::Syslog, daemon)) => assert!(daemon.is_some()),
            Ok(Received::Message(ToWorker::Ping { serial }, _)) => {
                channel.send(&FromWorker::Pong { serial }, None).unwrap();
            }
            Ok(Received::Empty) => {
                let mut polled =
                    [nix::poll::PollFd::new(channel.as_fd(), nix::poll::PollFlags::POLLIN)];
                let _ = nix::poll::poll(&mut polled, nix::poll::PollTimeout::NONE);
            }
            Ok(Received::Closed) | Err(_) => return 1,
        }
    }
}
