//! The real pen, started as an administrator would start it, and penctl.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, getuid, kill_process};
use socket2::{Domain, Socket, Type};

use crate::servers::Server;
use crate::{Outcome, until};

/// Worker processes of the demonstration.
pub const WORKERS: usize = 3;

/// The running service.
pub struct Service {
    child: Child,
    /// The listen address.
    pub address: SocketAddr,
    /// The command that started it, as typed.
    pub command_line: String,
    /// Its configuration file.
    pub file: PathBuf,
    control: String,
    penctl: PathBuf,
    stderr: PathBuf,
    directory: tempfile::TempDir,
    /// Reserves both ports between their choice here and pen's bind(2).
    _ports: [Socket; 2],
}

impl Service {
    /// Starts `pen` from the directory `programs`, with a configuration file that lists the
    /// servers.
    pub fn start(programs: &Path, servers: &[Server]) -> Outcome<Service> {
        let directory = tempfile::tempdir()?;
        let (front, control) = (reserve()?, reserve()?);
        let (address, control_address) = (local(&front)?, local(&control)?);
        let file = directory.path().join("pen.conf");
        let mut settings = format!("listen {address}\nblacklist 2\n");
        for (number, server) in servers.iter().enumerate() {
            let (host, port) = (server.address.ip(), server.address.port());
            settings.push_str(&format!("server {number} address {host} port {port}\n"));
        }
        fs::write(&file, settings)?;
        let (stderr, pid_file) = (directory.path().join("stderr"), directory.path().join("pid"));
        let workers = WORKERS.to_string();
        let mut arguments = vec!["-f".to_string(), "--workers".to_string(), workers];
        if getuid().is_root() {
            arguments.extend(["-u".to_string(), "nobody".to_string()]);
        }
        arguments.extend(["-C".to_string(), control_address.to_string()]);
        let command_line = format!("pen {} -F pen.conf", arguments.join(" "));
        let child = Command::new(programs.join("pen"))
            .args(&arguments)
            .arg("-p")
            .arg(&pid_file)
            .arg("-F")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(File::create(&stderr)?)
            .spawn()?;
        let mut service = Service {
            child,
            address,
            command_line,
            file,
            control: control_address.to_string(),
            penctl: programs.join("penctl"),
            stderr,
            directory,
            _ports: [front, control],
        };
        until("pen is ready", || match service.child.try_wait() {
            Ok(None) => pid_file.exists().then_some(true),
            Ok(Some(_)) | Err(_) => Some(false),
        })?
        .then_some(())
        .ok_or_else(|| format!("pen did not start: {}", service.messages().trim_end()))?;
        Ok(service)
    }

    /// The supervisor's process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process numbers of the workers, from their process titles.
    pub fn workers(&self) -> Vec<i32> {
        let me = self.child.id().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut workers: Vec<i32> = pids
            .filter(|pid| {
                parent(*pid).as_ref() == Some(&me) && title(*pid).starts_with(b"pen: worker")
            })
            .collect();
        workers.sort_unstable();
        workers
    }

    /// The `penctl` command with its address, as typed.
    pub fn penctl(&self) -> String {
        format!("penctl {}", self.control)
    }

    /// The output of `penctl` for a command, on both streams.
    pub fn command(&self, words: &[&str]) -> Outcome<String> {
        let output = Command::new(&self.penctl).arg(&self.control).args(words).output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Adds a line to the configuration file and asks for a reload.
    pub fn reload_with(&self, line: &str) -> Outcome<()> {
        let mut file = OpenOptions::new().append(true).open(&self.file)?;
        writeln!(file, "{line}")?;
        self.signal(Signal::HUP)
    }

    /// All text that pen has written to standard error.
    pub fn messages(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The last message that contains this word, without the path of the demonstration's directory.
    pub fn last_message(&self, word: &str) -> Option<String> {
        let messages = self.messages();
        let line = messages.lines().rev().find(|line| line.contains(word))?;
        let directory = format!("{}/", self.directory.path().display());
        Some(line.replace(&directory, ""))
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Stops the service as an administrator would, and waits for its end.
    pub fn end(&mut self) -> Outcome<()> {
        self.signal(Signal::TERM)?;
        let status = until("pen has ended", || self.child.try_wait().transpose())??;
        if status.success() { Ok(()) } else { Err(format!("pen ended with {status}").into()) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The workers exit by themselves when the supervisor is gone.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reserves a port that the kernel chooses.
fn reserve() -> Outcome<Socket> {
    let port = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    port.set_reuse_address(true)?;
    port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(port)
}

fn local(socket: &Socket) -> Outcome<SocketAddr> {
    Ok(socket.local_addr()?.as_socket().ok_or("the kernel chose no port")?)
}

/// The title of a process that ps(1) shows.
fn title(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The parent of a running process, according to /proc.
fn parent(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_string);
    (fields.next()? != "Z").then(|| fields.next())?
}
