//! Real servers and proxies of other projects, run in the foreground by a test: nginx, haproxy.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::machine::not_checked;
use super::super::port::Port;
use super::super::wait::until;

/// A program that listens at a port while this value lives.
pub struct Program {
    child: Child,
    port: Port,
    directory: TempDir,
}

impl Program {
    /// nginx with one server, which listens at `ADDRESS:PORT listen_options;` and contains `body`.
    #[track_caller]
    pub fn nginx(listen_options: &str, body: &str) -> Program {
        let (port, directory) = (Port::reserve(), TempDir::new().unwrap());
        let root = directory.path().display();
        let user = if super::super::machine::is_root() { "user root;" } else { "" };
        let address = port.address();
        let text = format!(
            "{user} daemon off; master_process off; worker_processes 1; pid {root}/nginx.pid; \
             error_log stderr;\n\
             events {{ worker_connections 512; }}\n\
             http \
             {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/p;\n\
              fastcgi_temp_path {root}/f;\n\
             uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; client_max_body_size 100m;\n\
             server {{ listen {address} {listen_options}; root {root};\n{body}\n}} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(&file).arg("-p").arg(directory.path());
        Program::run(command, port, directory)
    }

    /// haproxy with a frontend at a port. `text` is the rest of its configuration, in which ADDRESS
    /// stands for the address of the frontend.
    #[track_caller]
    pub fn haproxy(text: &str) -> Program {
        let (port, directory) = (Port::reserve(), TempDir::new().unwrap());
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, text.replace("ADDRESS", &port.address().to_string())).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(&file);
        Program::run(command, port, directory)
    }

    /// A program that a command of the test starts. The command gets the listen address and a
    /// directory for its files. Its output is the file `log` there.
    #[track_caller]
    pub fn of(command: impl FnOnce(SocketAddr, &Path) -> Command) -> Program {
        let (port, directory) = (Port::reserve(), TempDir::new().unwrap());
        let command = command(port.address(), directory.path());
        Program::run(command, port, directory)
    }

    #[track_caller]
    fn run(mut command: Command, port: Port, directory: TempDir) -> Program {
        let log = directory.path().join("log");
        let output = fs::File::create(&log).unwrap();
        let twin = output.try_clone().unwrap();
        // It gets its own process group: some programs have children, which must not outlive the
        // test.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(twin)
            .stderr(output)
            .spawn()
            .unwrap();
        until("a program listens", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", fs::read_to_string(&log).unwrap());
            std::net::TcpStream::connect(port.address()).ok()
        });
        Program { child, port, directory }
    }

    /// Its listen address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote to its output.
    pub fn log(&self) -> String {
        let log = fs::read(self.directory().join("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Whether these programs are installed; if not, the test says so.
pub fn installed(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !Path::new(program).exists());
    if let Some(program) = missing {
        not_checked(&format!("it needs {program}"));
    }
    missing.is_none()
}

/// Runs curl, quietly and with a time limit, and returns its output.
#[track_caller]
pub fn curl<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> String {
    let output =
        Command::new("curl").args(["-sS", "--max-time", "60"]).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
