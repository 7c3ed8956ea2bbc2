//! Starts and ends the program under test.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Signal;
use tempfile::TempDir;

use super::backend::Backend;
use super::client::{self, Client};
use super::control::Control;
use super::machine::{self, BINARY, NOBODY, is_root};
use super::port::Port;
use super::process::Process;
use super::report::Report;
use super::wait::{eventually, until, within};

/// The parameters of a start.
pub struct Builder {
    binary: PathBuf,
    wrapper: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    sockets: Vec<OwnedFd>,
    workers: u32,
    options: Vec<OsString>,
    listen: Option<OsString>,
    servers: Vec<OsString>,
    foreground: bool,
    status_file: bool,
    pid_file: Option<PathBuf>,
    /// The command line has only the options of the test.
    alone: bool,
    port: Port,
    control: Option<Control>,
    directory: TempDir,
}

impl Builder {
    /// Adds options.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Builder {
        self.options.extend(options.into_iter().map(|option| option.as_ref().to_os_string()));
        self
    }

    /// Sets the number of workers, which is 3 otherwise.
    pub fn workers(mut self, workers: u32) -> Builder {
        self.workers = workers;
        self
    }

    /// Adds a backend as a server.
    pub fn server(self, backend: &Backend) -> Builder {
        let operand = backend.operand();
        self.server_as(operand)
    }

    /// Adds a server as written on the command line.
    pub fn server_as(mut self, operand: impl AsRef<OsStr>) -> Builder {
        self.servers.push(operand.as_ref().to_os_string());
        self
    }

    /// Adds servers.
    pub fn servers<'b>(self, backends: impl IntoIterator<Item = &'b Backend>) -> Builder {
        backends.into_iter().fold(self, Builder::server)
    }

    /// Adds servers with the same limits, in the form of an operand: `soft` or `soft:hard`.
    pub fn servers_with_limits<'b>(
        self,
        backends: impl IntoIterator<Item = &'b Backend>,
        limits: &str,
    ) -> Builder {
        backends.into_iter().fold(self, |builder, backend| {
            builder.server_as(format!("{}:{limits}", backend.operand()))
        })
    }

    /// Listens at another address than a free port of 127.0.0.1.
    pub fn listen(mut self, local: impl AsRef<OsStr>) -> Builder {
        self.listen = Some(local.as_ref().to_os_string());
        self
    }

    /// Adds a control port, at a free port of 127.0.0.1. As root it also adds `-u nobody`, which
    /// pen requires.
    pub fn control(self) -> Builder {
        self.control_at(Control::Tcp(Port::reserve()))
    }

    /// As [`Builder::control`], at a Unix socket.
    pub fn control_unix(self, path: &Path) -> Builder {
        self.control_at(Control::Unix(path.to_path_buf()))
    }

    fn control_at(mut self, control: Control) -> Builder {
        self.options.extend(["-C".into(), control.to_string().into()]);
        self.control = Some(control);
        if is_root() { self.options(["-u", "nobody"]) } else { self }
    }

    /// Adds a page with this setting (`page 127.0.0.1:1`), and the user that pen requires of root.
    pub fn page(self, setting: &str) -> Builder {
        let builder = self.options(["-O", setting]);
        if is_root() { builder.options(["-u", "nobody"]) } else { builder }
    }

    /// Adds a configuration file (`-F`) with these lines, called `pen.cfg` in pen's directory.
    pub fn file(self, text: &str) -> Builder {
        let path = self.directory.path().join("pen.cfg");
        fs::write(&path, text).unwrap();
        self.options([OsStr::new("-F"), path.as_os_str()])
    }

    /// Uses this configuration file, and otherwise only the options of the test.
    pub fn alone(mut self, path: &Path) -> Builder {
        self.alone = true;
        self.options([OsStr::new("-F"), path.as_os_str()])
    }

    /// Uses a complete configuration file. A control socket, the user, the pid file and three
    /// workers are added at its end.
    pub fn one_file(mut self, text: &str) -> Builder {
        let socket = self.directory.path().join("ctl");
        let (control, pid) = (socket.display(), self.directory.path().join("pid"));
        let user = if is_root() { "user nobody\n" } else { "" };
        let rest = format!("control {control}\n{user}pid_file {}\nworkers 3\n", pid.display());
        self.alone = true;
        self.control = Some(Control::Unix(socket));
        self.file(&format!("{text}\n{rest}"))
    }

    /// Starts in the background (without `-f`).
    pub fn background(mut self) -> Builder {
        self.foreground = false;
        self
    }

    /// Omits `-w`: reports are text. [`Pen::report`] needs `-w`.
    pub fn without_status_file(mut self) -> Builder {
        self.status_file = false;
        self
    }

    /// Puts the pid file in another place than pen's directory. For starts that fail.
    pub fn pid_file(mut self, path: impl AsRef<Path>) -> Builder {
        self.pid_file = Some(path.as_ref().to_path_buf());
        self
    }

    /// Starts this copy of the program.
    pub fn binary(mut self, binary: &Path) -> Builder {
        self.binary = binary.to_path_buf();
        self
    }

    /// Starts pen through a program that sets something up and then executes the rest of its
    /// command line.
    pub fn through<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Builder {
        self.wrapper = wrapper.into_iter().map(|word| word.as_ref().to_os_string()).collect();
        self
    }

    /// Pen is run by an ordinary user, even if the tests run as root.
    pub fn by_nobody(mut self) -> Builder {
        if !is_root() {
            return self;
        }
        self.binary = machine::readable_copy(&self.binary, self.directory());
        std::os::unix::fs::chown(self.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
        self.through(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Builder {
        self.environment.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Passes one more descriptor, the first of which is number 3, as a service manager passes
    /// sockets.
    pub fn socket(mut self, socket: impl Into<OwnedFd>) -> Builder {
        self.sockets.push(socket.into());
        self
    }

    /// The default listen address of pen.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The directory of pen's files, with mode 0700.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The whole command, for a start that the test observes itself.
    pub fn command(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.binary.clone().into());
        if self.foreground {
            words.push("-f".into());
        }
        if self.alone {
            words.extend(self.options.iter().cloned());
            return self.of(&words);
        }
        words.extend(["--workers".into(), self.workers.to_string().into()]);
        let pid_file = self.pid_file.clone().unwrap_or_else(|| self.directory.path().join("pid"));
        words.extend(["-p".into(), pid_file.into()]);
        if self.status_file {
            words.extend(["-w".into(), self.directory.path().join("status.html").into()]);
        }
        words.extend(self.options.iter().cloned());
        match &self.listen {
            // An empty operand is omitted.
            Some(nothing) if nothing.is_empty() => {}
            Some(listen) => words.push(listen.clone()),
            None => words.push(self.port.address().to_string().into()),
        }
        words.extend(self.servers.iter().cloned());
        self.of(&words)
    }

    fn of(&self, words: &[OsString]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).envs(self.environment.iter().cloned());
        let place = |(n, socket): (usize, &OwnedFd)| FdMapping {
            parent_fd: socket.try_clone().unwrap(),
            child_fd: 3 + n as i32,
        };
        command.fd_mappings(self.sockets.iter().enumerate().map(place).collect()).unwrap();
        command
    }

    /// Runs a command line that must fail, in the foreground or background, and returns its output.
    #[track_caller]
    pub fn fails(self) -> Output {
        let output = self.runs();
        assert_eq!(output.status.code(), Some(1), "a failed start has status 1: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.starts_with("pen: ") && said.lines().count() == 1,
            "a failed start is one line: {said:?}"
        );
        output
    }

    /// Runs a command line that ends by itself.
    pub fn runs(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Starts pen and returns when it is ready.
    #[track_caller]
    pub fn start(self) -> Pen {
        let stderr = self.directory.path().join("stderr");
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let said = || fs::read_to_string(&stderr).unwrap();
        let pid_file = self.directory.path().join("pid");
        let pid = if self.foreground {
            let ready = format!("{}\n", child.id());
            eventually("the pid file says that pen is ready", || {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "pen did not start: {ended:?}, {}", said());
                fs::read_to_string(&pid_file).is_ok_and(|text| text == ready)
            });
            child.id() as i32
        } else {
            let status = child.wait().unwrap();
            assert!(status.success(), "pen did not start: {status}, {}", said());
            fs::read_to_string(&pid_file).unwrap().trim_end().parse().unwrap()
        };
        let supervisor = Process::open(pid).expect("the supervisor runs");
        let child = self.foreground.then_some(child);
        let Builder { workers, directory, port, control, .. } = self;
        Pen { supervisor, child, workers, directory, port, control, over: false }
    }
}

/// A running pen. Dropping it ends it, and checks that it ended in order.
pub struct Pen {
    supervisor: Process,
    child: Option<Child>,
    workers: u32,
    directory: TempDir,
    port: Port,
    control: Option<Control>,
    over: bool,
}

impl Pen {
    /// A pen with three workers, in the foreground, at a free port of 127.0.0.1.
    pub fn builder() -> Builder {
        Builder {
            binary: BINARY.into(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            sockets: Vec::new(),
            workers: 3,
            options: Vec::new(),
            listen: None,
            servers: Vec::new(),
            foreground: true,
            status_file: true,
            pid_file: None,
            alone: false,
            port: Port::reserve(),
            control: None,
            directory: TempDir::new().unwrap(),
        }
    }

    /// Its listen address, unless the test set another one.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The supervisor.
    pub fn supervisor(&self) -> &Process {
        &self.supervisor
    }

    /// All workers, in order of their process numbers. It waits for replacements that are still
    /// starting.
    #[track_caller]
    pub fn workers(&self) -> Vec<Process> {
        until("all workers run", || {
            let mut workers = self.supervisor.children();
            workers.retain(is_worker);
            if !is_root() {
                // Only root can distinguish them by their descriptors; the control and the page
                // process are forked last.
                workers.truncate(self.workers as usize);
            }
            (workers.len() == self.workers as usize).then_some(workers)
        })
    }

    /// The control process; waits until it has started. Needs root.
    #[track_caller]
    pub fn control_process(&self) -> Process {
        until("the control process runs", || {
            self.supervisor.children().into_iter().find(is_control)
        })
    }

    /// The page process; waits until it has started.
    #[track_caller]
    pub fn page_process(&self) -> Process {
        until("the page process runs", || {
            self.supervisor.children().into_iter().find(|child| child.title() == "pen: page")
        })
    }

    /// The address of the control port.
    #[track_caller]
    pub fn control(&self) -> &Control {
        self.control.as_ref().expect("the builder was told of a control port")
    }

    /// Sends a command to the control port and returns the whole reply.
    #[track_caller]
    pub fn tell(&self, line: &str) -> String {
        self.control().tell(line)
    }

    /// Does [`Pen::tell`], and checks the reply, which is given without its last line end.
    #[track_caller]
    pub fn tells(&self, line: &str, reply: &str) {
        let expected = if reply.is_empty() { String::new() } else { format!("{reply}\n") };
        assert_eq!(self.tell(line), expected, "the reply to {line:?}");
    }

    /// Sends a command that must be refused with one line. Returns the line without its end.
    #[track_caller]
    pub fn refuses(&self, line: &str) -> String {
        let reply = self.tell(line);
        assert!(
            reply.ends_with('\n') && reply.lines().count() == 1,
            "{line:?} is refused in one line: {reply:?}"
        );
        reply.trim_end().to_string()
    }

    /// Returns the backend that a client of this address gets. See [`client::ask`].
    #[track_caller]
    pub fn ask(&self, from: impl Into<IpAddr>) -> Option<String> {
        client::ask(self.address(), from.into())
    }

    /// Opens a connection and keeps it. See [`client::hold`].
    #[track_caller]
    pub fn hold(&self, from: impl Into<IpAddr>) -> Option<(Client, String)> {
        client::hold(self.address(), from.into())
    }

    /// Connects a client without waiting for anything else.
    #[track_caller]
    pub fn connect(&self, from: impl Into<IpAddr>) -> Client {
        Client::connect(from.into(), self.address()).expect("pen accepts")
    }

    /// Stops all workers but one while `act` runs, so that this one accepts all clients.
    #[track_caller]
    pub fn only<T>(&self, chosen: usize, act: impl FnOnce() -> T) -> T {
        let workers = self.workers();
        let others: Vec<&Process> =
            workers.iter().enumerate().filter(|(n, _)| *n != chosen).map(|(_, w)| w).collect();
        others.iter().for_each(|worker| worker.stop());
        let result = act();
        others.iter().for_each(|worker| worker.resume());
        result
    }

    /// Waits until a client's last connection is this many seconds ago, by pen's own clock, or its
    /// entry is gone.
    #[track_caller]
    pub fn await_age(&self, client: impl Into<IpAddr>, seconds: u32) {
        let client = client.into().to_string();
        eventually("a client's entry is old", || {
            let report = self.report();
            report
                .client(&client)
                .is_none_or(|row| row["age(secs)"].parse::<u32>().unwrap() >= seconds)
        });
    }

    /// Asks for a report (USR1, `-w`) and reads it.
    #[track_caller]
    pub fn report(&self) -> Report {
        let path = self.directory().join("status.html");
        let _ = fs::remove_file(&path);
        self.supervisor.signal(Signal::USR1);
        Report::parse(until("a report is written", || fs::read_to_string(&path).ok()))
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub fn settle(&self) {
        eventually("all connections have been given back", || {
            let report = self.report();
            report.in_use() == 0 && report.connections.is_empty()
        });
    }

    /// The text that pen wrote to standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory().join("stderr")).unwrap()
    }

    /// Waits until pen has written `text`.
    #[track_caller]
    pub fn hears(&self, text: &str) {
        assert!(
            within(super::wait::PATIENCE, || self.said().contains(text)),
            "pen did not say {text:?}, but:\n{}",
            self.said()
        );
    }

    /// Sends `signal` and waits for the end: status 0, and no worker is left.
    #[track_caller]
    pub fn end_by(&mut self, signal: Signal) {
        self.ends_when(|pen| pen.supervisor.signal(signal));
    }

    /// Runs an action that ends pen, and waits for the end: status 0, and no worker is left.
    #[track_caller]
    pub fn ends_when(&mut self, act: impl FnOnce(&Pen)) {
        let workers = self.supervisor.children();
        let lasting: Vec<bool> =
            workers.iter().map(|child| is_worker(child) || is_control(child)).collect();
        act(self);
        // pen(8) promises 3 s, even if a worker hangs. The rest is for a busy machine.
        let gone = within(Duration::from_secs(10), || self.supervisor.gone());
        let leftover: Vec<String> = workers
            .iter()
            .zip(lasting)
            .filter(|(child, lasts)| *lasts && !child.gone())
            .map(|(child, _)| format!("{} {}", child.pid(), child.title()))
            .collect();
        // A helper process is killed with the supervisor and may end a moment later.
        let alone = within(Duration::from_secs(5), || workers.iter().all(Process::gone));
        self.over = true;
        self.clear(&workers);
        assert!(gone, "pen did not end");
        assert_eq!(leftover, [""; 0], "workers are left after the supervisor's end");
        assert!(alone, "children are left after the supervisor's end");
        if let Some(status) = self.reap() {
            assert!(status.success(), "pen ends with status 0: {status}");
        }
        assert!(!self.directory().join("pid").exists(), "the pid file is removed");
    }

    /// Kills the supervisor, which no orderly stop does; its workers are left alone.
    #[track_caller]
    pub fn kill_supervisor(&mut self) {
        self.over = true;
        self.supervisor.kill();
        self.reap();
    }

    /// The exit status of the supervisor if it is our child and has ended.
    fn reap(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().map(|child| child.wait().unwrap())
    }

    /// Kills all remaining processes, in every case.
    fn clear(&mut self, workers: &[Process]) {
        if !self.supervisor.gone() {
            self.supervisor.signal(Signal::KILL);
        }
        workers
            .iter()
            .filter(|worker| !worker.gone())
            .for_each(|worker| worker.signal(Signal::KILL));
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- pen said ---\n{}--- end ---", self.said());
            if !self.over {
                let workers = self.supervisor.children();
                workers.iter().for_each(Process::resume);
                self.supervisor.signal(Signal::TERM);
                within(Duration::from_secs(5), || self.supervisor.gone());
                self.clear(&workers);
                self.reap();
            }
            return;
        }
        if !self.over {
            self.end_by(Signal::TERM);
        }
        let said = self.said();
        // An upgrade may fail because the other program panics.
        let panics = |line: &str| line.contains("panicked at") && !line.contains("upgrade failed");
        assert!(!said.lines().any(panics), "a process of pen panicked:\n{said}");
    }
}

/// Whether a child of the supervisor is a worker that has begun its work. It is not a starting
/// process, a helper that writes a report, or the control process. Only a worker has an epoll(7)
/// descriptor and the eventfd(2) of freed slots. A process that cannot be examined counts as a
/// worker. Root can examine all but those that are ending.
fn is_worker(child: &Process) -> bool {
    let descriptors = child.descriptors();
    match descriptors.is_empty() {
        true => !is_root(),
        false => has(&descriptors, "[eventpoll]") && has(&descriptors, "[eventfd]"),
    }
}

/// Whether a child of the supervisor is the control process.
fn is_control(child: &Process) -> bool {
    let descriptors = child.descriptors();
    has(&descriptors, "[eventpoll]")
        && !has(&descriptors, "[eventfd]")
        && child.title() != "pen: page"
}

fn has(descriptors: &[(i32, String)], what: &str) -> bool {
    descriptors.iter().any(|(_, target)| target.strip_prefix("anon_inode:") == Some(what))
}
