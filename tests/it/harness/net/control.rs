//! Operators: they use the control port directly or through penctl.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::super::client::Client;
use super::super::port::Port;

/// The project's penctl.
// It is beside pen, but from its own package: `cargo build --bins --package penctl` makes it.
pub const PENCTL: &str = concat!(env!("CARGO_BIN_EXE_pen"), "ctl");

/// The penctl of Debian's package of the original.
pub const DEBIAN_PENCTL: &str = "/usr/bin/penctl";

/// The address of a control port.
#[derive(Debug)]
pub enum Control {
    /// A port of 127.0.0.1.
    Tcp(Port),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The form that -C and penctl take.
impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Control::Tcp(port) => port.address().fmt(f),
            Control::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Control {
    /// Connects an operator that sends nothing yet.
    ///
    /// # Errors
    /// No process listens.
    pub fn connect(&self) -> io::Result<Client> {
        match self {
            Control::Tcp(port) => Client::connect(Ipv4Addr::LOCALHOST.into(), port.address()),
            Control::Unix(path) => Client::connect_unix(path),
        }
    }

    /// Sends a command and returns the reply, as bytes.
    ///
    /// # Errors
    /// No process listens, or the connection broke before the end of the reply.
    pub fn try_tell(&self, line: &str) -> io::Result<Vec<u8>> {
        let operator = self.connect()?;
        let mut socket = operator.socket();
        socket.write_all(format!("{line}\n").as_bytes())?;
        operator.read_to_end()
    }

    /// Sends a command and returns the reply.
    #[track_caller]
    pub fn tell(&self, line: &str) -> String {
        let reply =
            self.try_tell(line).unwrap_or_else(|error| panic!("no reply to {line:?}: {error}"));
        String::from_utf8(reply).expect("a reply is text")
    }

    /// Sends bytes and then an end of file, and returns the reply.
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        let operator = self.connect().expect("the control port is there");
        operator.send(bytes);
        let _ = operator.socket().shutdown(Shutdown::Write);
        String::from_utf8(operator.read_to_end().expect("a reply")).expect("a reply is text")
    }
}

/// Runs a penctl with these arguments and this standard input.
pub fn run_penctl<S: AsRef<OsStr>>(
    program: &str,
    words: impl IntoIterator<Item = S>,
    input: &str,
) -> Output {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    // A penctl that does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The output of a process on a stream, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
