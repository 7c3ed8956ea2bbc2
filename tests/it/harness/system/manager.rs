//! A service manager played by the test: the notification socket of sd_notify(3).

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tempfile::TempDir;

use super::super::wait::PATIENCE;

/// Runs the following command as the process that LISTEN_PID or another variable names: `$$` stands
/// for its own number.
pub const NAMED: [&str; 4] =
    ["sh", "-c", "for v in $NAME_ME; do export $v=$$; done; exec \"$0\" \"$@\"", "env"];

/// A notification socket.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    name: OsString,
    _directory: Option<TempDir>,
}

impl Manager {
    /// A socket with a path.
    pub fn at_path() -> Manager {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, name: path.into_os_string(), _directory: Some(directory) }
    }

    /// A socket with an abstract name.
    pub fn abstract_named(name: &str) -> Manager {
        let name = format!("pen-test-{}-{name}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, name: format!("@{name}").into(), _directory: None }
    }

    /// The value of NOTIFY_SOCKET.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The next message, as lines.
    #[track_caller]
    pub fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the manager is told something");
        std::str::from_utf8(&buffer[..length]).unwrap().lines().map(String::from).collect()
    }

    /// Discards the messages so far; returns their number.
    pub fn drain(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        let count = std::iter::from_fn(|| self.socket.recv(&mut [0; 4096]).ok()).count();
        self.socket.set_nonblocking(false).unwrap();
        count
    }

    /// The next message with this line, and before it the messages that were skipped.
    #[track_caller]
    pub fn hears(&self, line: &str) -> (Vec<Vec<String>>, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let message = self.next();
            if message.iter().any(|said| said == line) {
                return (before, message);
            }
            before.push(message);
        }
    }
}

/// The value of a variable in a message.
#[track_caller]
pub fn value<'m>(message: &'m [String], name: &str) -> &'m str {
    let found = message.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}
