//! The pens that a command goes to: addresses, and patterns of sockets in the file system.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;

use pen_ipc::message::Outcome;

use crate::address::ControlAddress;
use crate::exchange::{self, Taker, Timeout};
use crate::print;
use crate::text::shown;

/// Longest reply in bytes that is kept as a whole: far more than 32767 servers with the longest
/// names need.
const LONGEST_REPLY: usize = 64 << 20;

/// A pen, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Pen {
    /// The address, for programs.
    pub name: String,
    address: ControlAddress,
    timeout: Timeout,
}

impl Pen {
    /// The address for people. The name of a socket that a pattern found is a stranger's choice.
    pub fn shown(&self) -> String {
        shown(&self.name)
    }

    /// Sends one command and passes on the reply piece by piece.
    ///
    /// # Errors
    /// There is no reply: a line for the user.
    pub fn ask(&self, command: &[u8], take: Taker<'_>) -> Result<Outcome, String> {
        exchange::ask(&self.address.sockets()?, command, self.timeout, take)
    }

    /// Sends one command and returns the reply, if it has a usual length.
    ///
    /// # Errors
    /// There is no reply, or it is longer: a line for the user.
    pub fn ask_whole(&self, command: &[u8]) -> Result<(Outcome, Vec<u8>), String> {
        let mut reply = Vec::new();
        let outcome = self.ask(command, &mut |piece| {
            reply.extend_from_slice(piece);
            match reply.len() > LONGEST_REPLY {
                true => Err(format!("the reply is longer than {LONGEST_REPLY} bytes")),
                false => Ok(()),
            }
        })?;
        Ok((outcome, reply))
    }

    /// Sends one command whose reply goes on until pen ends it: `begun` learns that pen accepts it.
    ///
    /// # Errors
    /// There is no reply, or it broke off: a line for the user.
    pub fn follow(
        &self,
        command: &[u8],
        begun: &mut dyn FnMut() -> Result<(), String>,
        take: Taker<'_>,
    ) -> Result<Outcome, String> {
        exchange::follow(&self.address.sockets()?, command, self.timeout, begun, take)
    }

    /// The same pen, with this timeout unless the user gave one.
    pub fn with_timeout(&self, timeout: Timeout) -> Pen {
        Pen { timeout: self.timeout.or(timeout), ..self.clone() }
    }
}

/// Reads the addresses, and finds the sockets of the patterns.
///
/// # Errors
/// One is no address, or a pattern has no socket: a line for the user.
pub fn find(operands: &[impl AsRef<OsStr>], timeout: Timeout) -> Result<Vec<Pen>, String> {
    let mut pens = Vec::new();
    let mut add = |text: &OsStr| -> Result<(), String> {
        let address = ControlAddress::read(text)?;
        pens.push(Pen { name: text.to_string_lossy().into_owned(), address, timeout });
        Ok(())
    };
    for operand in operands.iter().map(AsRef::as_ref) {
        match pattern(operand) {
            None => add(operand)?,
            Some(pattern) => {
                let found = sockets(pattern)?;
                found.iter().try_for_each(|path| add(path.as_os_str()))?;
            }
        }
    }
    Ok(pens)
}

/// The operand as a pattern of paths. A file whose name looks like a pattern is none.
fn pattern(operand: &OsStr) -> Option<&str> {
    let bytes = operand.as_bytes();
    let is_pattern = bytes.contains(&b'/')
        && bytes.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
        && fs::symlink_metadata(Path::new(operand)).is_err();
    operand.to_str().filter(|_| is_pattern)
}

/// The sockets with such a path, in alphabetical order.
fn sockets(pattern: &str) -> Result<Vec<std::path::PathBuf>, String> {
    let escaped = pattern.escape_debug();
    let paths = glob::glob(pattern).map_err(|error| format!("{escaped}: {}", error.msg))?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = shown(&error.path().to_string_lossy());
            format!("{path}: {}", exchange::plain(error.error()))
        })?;
        if fs::metadata(&path).is_ok_and(|file| file.file_type().is_socket()) {
            found.push(path);
        }
    }
    match found.is_empty() {
        true => Err(format!("{escaped}: no socket has such a path")),
        false => Ok(found),
    }
}

/// Does the same with several pens: prints a heading before each, and goes on after one that gives
/// no reply. With one pen there is no heading.
///
/// # Errors
/// One of them gave no reply. With one pen, the line for the user; with several, the lines were
/// printed, and a line says how many there are.
pub fn each(
    pens: &[Pen],
    mut act: impl FnMut(&Pen) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    if let [pen] = pens {
        return act(pen);
    }
    let mut sum = Sum::default();
    for (index, pen) in pens.iter().enumerate() {
        heading(index, pen)?;
        sum.add(pen, act(pen));
    }
    sum.result(pens)
}

/// Sends a command that waits to several pens at once, and prints their replies in the order of
/// the addresses, as [`each`] does. Each is printed as soon as those before it are there.
///
/// # Errors
/// As [`each`].
pub fn all_at_once(pens: &[Pen], command: &[u8]) -> Result<Outcome, String> {
    // If nobody reads the replies any more, those that are missing need no waiting for.
    let ask = |pen: &Pen| {
        let (pen, command) = (pen.clone(), command.to_vec());
        thread::Builder::new().spawn(move || pen.ask_whole(&command))
    };
    let asked: Vec<_> = pens.iter().map(ask).collect();
    let mut sum = Sum::default();
    for (index, (pen, asker)) in pens.iter().zip(asked).enumerate() {
        heading(index, pen)?;
        let reply = match asker {
            Ok(asker) => asker.join().unwrap_or_else(|_| Err("no reply".to_owned())),
            Err(error) => Err(exchange::plain(&error)),
        };
        let printed = reply.and_then(|(outcome, reply)| print(&reply).map(|()| outcome));
        sum.add(pen, printed);
    }
    sum.result(pens)
}

fn heading(index: usize, pen: &Pen) -> Result<(), String> {
    let gap = if index == 0 { "" } else { "\n" };
    print(format!("{gap}==> {} <==\n", pen.shown()).as_bytes())
}

/// What several pens replied together.
struct Sum {
    outcome: Outcome,
    silent: usize,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum { outcome: Outcome::Done, silent: 0 }
    }
}

impl Sum {
    /// Adds what one replied. An error is printed.
    fn add(&mut self, pen: &Pen, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Refused) => self.outcome = Outcome::Refused,
            Err(error) => {
                self.silent += 1;
                complain(pen, &error);
            }
        }
    }

    fn result(self, pens: &[Pen]) -> Result<Outcome, String> {
        match self.silent {
            0 => Ok(self.outcome),
            _ => Err(format!("{} of {} gave no reply", self.silent, pens.len())),
        }
    }
}

/// Prints an error of one of several pens.
pub fn complain(pen: &Pen, error: &str) {
    // If standard error is closed or full, the error cannot be shown anywhere.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{}: {error}\n", pen.shown()));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_pattern_finds_sockets_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("penctl-pens-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let _listeners =
            ["b.ctl", "a.ctl", "odd[1].ctl"].map(|name| UnixListener::bind(path(name)).unwrap());
        fs::write(path("c.ctl"), "").unwrap();
        let found = |name: &str| -> Result<Vec<String>, String> {
            let pens = find(&[path(name)], Timeout::default())?;
            let name = |pen: &Pen| pen.name.rsplit('/').next().unwrap().to_owned();
            Ok(pens.iter().map(name).collect())
        };
        assert_eq!(found("?.ctl").unwrap(), ["a.ctl", "b.ctl"]);
        assert_eq!(found("odd[1].ctl").unwrap(), ["odd[1].ctl"], "a file, not a pattern");
        assert_eq!(found("none").unwrap(), ["none"], "no pattern: pen may be about to make it");
        assert!(found("*.none").unwrap_err().ends_with(": no socket has such a path"));
        assert!(found("***").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
