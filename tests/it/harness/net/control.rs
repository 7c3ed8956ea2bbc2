//! Operators: who speaks to the control port, by hand or with penctl.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::super::client::Client;
use super::super::port::Port;

/// The project's penctl.
// Beside pen, from a package of its own: `cargo build --bins --package penctl` makes it.
pub const PENCTL: &str = concat!(env!("CARGO_BIN_EXE_pen"), "ctl");

/// The penctl of Debian's package of the original.
pub const DEBIAN_PENCTL: &str = "/usr/bin/penctl";

/// Where a control port is.
#[derive(Debug)]
pub enum Control {
    /// A port of 127.0.0.1.
    Tcp(Port),
    /// A Unix socket.
    Unix(PathBuf),
}

/// As -C and penctl take it.
impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Control::Tcp(port) => port.address().fmt(f),
            Control::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Control {
    /// Connects an operator that says nothing yet.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> io::Result<Client> {
        match self {
            Control::Tcp(port) => Client::connect(Ipv4Addr::LOCALHOST.into(), port.address()),
            Control::Unix(path) => Client::connect_unix(path),
        }
    }

    /// Says a command and returns the reply, as bytes.
    ///
    /// # Errors
    /// Nobody listens, or the connection broke before the end of the reply.
    pub fn try_tell(&self, line: &str) -> io::Result<Vec<u8>> {
        let operator = self.connect()?;
        let mut socket = operator.socket();
        socket.write_all(format!("{line}\n").as_bytes())?;
        operator.read_to_end()
    }

    /// Says a command and returns the reply.
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

/// Runs a penctl with arguments, and text at its standard input.
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
    // One that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a process wrote on a stream.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
