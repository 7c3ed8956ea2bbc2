//! pen at work, for a first look: `cargo run --release --example demo`.
//!
//! Starts three small web servers inside this process and the real `pen` in front of them, sends clients from several
//! loopback addresses, takes a server down, kills a worker, and shows what the clients saw. Touches only loopback
//! addresses and processes of its own, needs no rights, and takes a few seconds. Exit status 1 if anything that it says
//! did not happen.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long anything may take before the demonstration counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
const WORKERS: usize = 3;
const SERVERS: [&str; 3] = ["www1", "www2", "www3"];
const CLIENTS: [Ipv4Addr; 6] = [
    Ipv4Addr::new(127, 0, 0, 11),
    Ipv4Addr::new(127, 0, 0, 12),
    Ipv4Addr::new(127, 0, 0, 13),
    Ipv4Addr::new(127, 0, 0, 14),
    Ipv4Addr::new(127, 0, 0, 15),
    Ipv4Addr::new(127, 0, 0, 16),
];

fn main() {
    if let Err(error) = demonstrate() {
        eprintln!("\nThe demonstration failed: {error}");
        std::process::exit(1);
    }
}

fn demonstrate() -> Outcome<()> {
    let binary = build()?;
    let mut servers: Vec<Server> = SERVERS.iter().map(|name| Server::start(name)).collect::<io::Result<_>>()?;
    let mut pen = Pen::start(&binary, &servers)?;
    say("1. One address in front of three servers");
    println!("   $ {}", pen.command_line);
    println!("   supervisor {}, workers {}", pen.child.id(), list(&pen.workers()));

    say("2. New clients are spread, and come back to the server they know");
    let visits: Vec<Visit> = (0..3).map(|_| pen.everybody_visits()).collect::<Outcome<_>>()?;
    table(&visits);
    check("every client was answered by the same server each time", visits.iter().all(|visit| *visit == visits[0]))?;
    let used = |visit: &Visit| SERVERS.map(|name| visit.values().filter(|server| *server == name).count());
    check("the clients are spread evenly over the servers", used(&visits[0]) == [2, 2, 2])?;

    say("3. A server goes down: www2");
    servers.remove(1).stop();
    let before = visits[0].clone();
    let visits: Vec<Visit> = (0..2).map(|_| pen.everybody_visits()).collect::<Outcome<_>>()?;
    table(&visits);
    let message = until("pen says that it leaves www2 out", || pen.heard("blacklisting"))?;
    println!("   pen says: {message}");
    check("its clients were passed on to the others", used(&visits[0])[1] == 0)?;
    let unmoved =
        before.iter().filter(|(_, server)| *server != "www2").all(|(client, server)| visits[0][client] == *server);
    check("the clients of the other servers noticed nothing", unmoved)?;
    check("who was moved stays there", visits[0] == visits[1])?;

    say("4. A worker is killed: kill -9");
    let workers = pen.workers();
    let victim = workers[0];
    kill_process(Pid::from_raw(victim).ok_or("no worker")?, Signal::KILL)?;
    let after = pen.everybody_visits()?;
    until("the worker is replaced", || {
        (pen.workers().len() == WORKERS && !pen.workers().contains(&victim)).then_some(())
    })?;
    println!("   workers were {}, and are {}", list(&workers), list(&pen.workers()));
    table(std::slice::from_ref(&after));
    check("every client was served meanwhile, by the server it knows", after == visits[1])?;

    say("5. What pen reports when asked: kill -USR1");
    for line in pen.report()? {
        println!("   | {line}");
    }

    say("6. The end: kill -TERM");
    pen.end()?;
    check("pen ended in order, status 0", true)?;
    println!("\nAll of this happened. Next: README.md, and pen --help.");
    Ok(())
}

/// Where each client landed.
type Visit = BTreeMap<Ipv4Addr, String>;

fn say(title: &str) {
    println!("\n{title}");
}

fn check(claim: &str, holds: bool) -> Outcome<()> {
    if holds {
        println!("   ok: {claim}");
        return Ok(());
    }
    Err(format!("it is not true that {claim}").into())
}

fn table(visits: &[Visit]) {
    for client in CLIENTS {
        let landed: Vec<&str> = visits.iter().map(|visit| visit[&client].as_str()).collect();
        println!("   client {client}  ->  {}", landed.join("   "));
    }
}

fn list(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Builds pen with the profile of this program, if that has not been done, and says where it is: beside the directory
/// of examples.
fn build() -> Outcome<PathBuf> {
    let me = std::env::current_exe()?;
    let place = me.parent().and_then(Path::parent).ok_or("this program is not where cargo puts examples")?;
    let (binary, target) = (place.join("pen"), place.parent().ok_or("no target directory")?);
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile =
            place.file_name().and_then(|name| name.to_str()).map(|name| if name == "debug" { "dev" } else { name });
        let mut command = Command::new(cargo);
        command.args(["build", "--bin", "pen", "--profile", profile.unwrap_or("dev"), "--target-dir"]).arg(target);
        if binary.exists() {
            command.arg("--quiet");
        }
        if !command.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success() {
            return Err("pen does not build".into());
        }
    }
    if binary.exists() {
        Ok(binary)
    } else {
        Err(format!("{} is missing: cargo build --release", binary.display()).into())
    }
}

/// A web server that says its name and nothing else.
struct Server {
    name: &'static str,
    address: SocketAddr,
    listener: TcpListener,
    thread: thread::JoinHandle<()>,
}

impl Server {
    fn start(name: &'static str) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let accepting = listener.try_clone()?;
        let thread = thread::spawn(move || {
            // Fails, and ends, when the listener is shut down.
            while let Ok((connection, _)) = accepting.accept() {
                let _ = answer(connection, name);
            }
        });
        Ok(Server { name, address: listener.local_addr()?, listener, thread })
    }

    fn stop(self) {
        let _ = Socket::from(self.listener).shutdown(Shutdown::Both);
        let _ = self.thread.join();
        println!("   {} ({}) is down", self.name, self.address);
    }
}

/// Answers one request.
fn answer(mut connection: TcpStream, name: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len())
}

/// The real program.
struct Pen {
    child: Child,
    address: SocketAddr,
    command_line: String,
    stderr: PathBuf,
    _directory: tempfile::TempDir,
    /// Holds the port, so that nobody else is given it between our choice and pen's bind(2).
    _port: Socket,
}

impl Pen {
    fn start(binary: &Path, servers: &[Server]) -> Outcome<Pen> {
        let directory = tempfile::tempdir()?;
        let port = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        port.set_reuse_address(true)?;
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = port.local_addr()?.as_socket().ok_or("no port")?;
        let mut arguments = vec!["-f".to_string(), "--workers".to_string(), WORKERS.to_string()];
        arguments.push(address.to_string());
        arguments.extend(servers.iter().map(|server| server.address.to_string()));
        let command_line = format!("pen {}", arguments.join(" "));
        let (stderr, pid_file) = (directory.path().join("stderr"), directory.path().join("pid"));
        let child = Command::new(binary)
            .arg("-p")
            .arg(&pid_file)
            .args(&arguments)
            .stdin(Stdio::null())
            .stderr(File::create(&stderr)?)
            .spawn()?;
        let mut pen = Pen { child, address, command_line, stderr, _directory: directory, _port: port };
        until("pen is ready", || {
            pid_file.exists().then_some(Ok(())).or_else(|| pen.child.try_wait().transpose().map(drop).map(Err))
        })?
        .map_err(|()| format!("pen did not start: {}", fs::read_to_string(&pen.stderr).unwrap_or_default()))?;
        Ok(pen)
    }

    /// The workers' process numbers: the supervisor's children.
    fn workers(&self) -> Vec<i32> {
        let me = self.child.id().to_string();
        let parent = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_string);
            (fields.next()? != "Z").then(|| fields.next())?
        };
        let pids = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut workers: Vec<i32> = pids.filter(|pid| parent(pid).as_ref() == Some(&me)).collect();
        workers.sort_unstable();
        workers
    }

    /// One request from each client.
    fn everybody_visits(&self) -> Outcome<Visit> {
        CLIENTS.iter().map(|client| Ok((*client, self.visit(*client)?))).collect()
    }

    /// One request; returns the name of the server that answered.
    fn visit(&self, from: Ipv4Addr) -> Outcome<String> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect_timeout(&self.address.into(), PATIENCE)?;
        let mut connection = TcpStream::from(socket);
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("client {from} got no answer"))?;
        Ok(body.to_string())
    }

    /// The first line that pen wrote on standard error with this word in it.
    fn heard(&self, word: &str) -> Option<String> {
        fs::read_to_string(&self.stderr).ok()?.lines().find(|line| line.contains(word)).map(str::to_string)
    }

    /// Asks for the report, and returns it without most of its clients.
    fn report(&self) -> Outcome<Vec<String>> {
        self.signal(Signal::USR1)?;
        until("pen has reported", || self.heard("Active connections"))?;
        let text = fs::read_to_string(&self.stderr)?;
        let start = text.lines().position(|line| line.contains("servers,")).ok_or("the report has no beginning")?;
        let report: Vec<String> = text.lines().skip(start).map(str::to_string).collect();
        let second = report.iter().position(|line| line.contains("Client 1 status")).unwrap_or(report.len());
        let mut shown: Vec<String> = report[..second].iter().filter(|line| !line.is_empty()).cloned().collect();
        shown.push(format!("... and so on for {} clients", CLIENTS.len()));
        Ok(shown)
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn end(&mut self) -> Outcome<()> {
        self.signal(Signal::TERM)?;
        let status = until("pen has ended", || self.child.try_wait().transpose())??;
        if status.success() { Ok(()) } else { Err(format!("pen ended with {status}").into()) }
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        // Its workers leave by themselves when the supervisor is gone.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
