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
use crate::print;
use crate::talk::{self, Patience, Taker};
use crate::text::shown;

/// A pen, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address, for programs.
    pub name: String,
    address: ControlAddress,
    patience: Patience,
}

impl Place {
    /// The address for people. The name of a socket that a pattern found is a stranger's choice.
    pub fn shown(&self) -> String {
        shown(&self.name)
    }

    /// Sends one command and passes on the reply piece by piece.
    ///
    /// # Errors
    /// There is no reply: a line for the user.
    pub fn ask(&self, command: &[u8], take: Taker<'_>) -> Result<Outcome, String> {
        talk::ask(&self.address.sockets()?, command, self.patience, take)
    }

    /// Sends one command and returns the reply, if it is at most `most` bytes long.
    ///
    /// # Errors
    /// There is no reply, or it is longer: a line for the user.
    pub fn ask_whole(&self, command: &[u8], most: usize) -> Result<(Outcome, Vec<u8>), String> {
        let mut reply = Vec::new();
        let outcome = self.ask(command, &mut |piece| {
            reply.extend_from_slice(piece);
            match reply.len() > most {
                true => Err(format!("the reply is longer than {most} bytes")),
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
        talk::follow(&self.address.sockets()?, command, self.patience, begun, take)
    }

    /// The same pen, with this patience unless the user gave one.
    pub fn with_patience(&self, patience: Patience) -> Place {
        Place { patience: self.patience.or(patience), ..self.clone() }
    }
}

/// Reads the addresses, and finds the sockets of the patterns.
///
/// # Errors
/// One is no address, or a pattern has no socket: a line for the user.
pub fn find(operands: &[impl AsRef<OsStr>], patience: Patience) -> Result<Vec<Place>, String> {
    let mut places = Vec::new();
    let mut add = |text: &OsStr| -> Result<(), String> {
        let address = ControlAddress::read(text)?;
        places.push(Place { name: text.to_string_lossy().into_owned(), address, patience });
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
    Ok(places)
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
            format!("{path}: {}", talk::plain(error.error()))
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
    places: &[Place],
    mut act: impl FnMut(&Place) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    if let [place] = places {
        return act(place);
    }
    let mut sum = Sum::default();
    for (index, place) in places.iter().enumerate() {
        heading(index, place)?;
        sum.add(place, act(place));
    }
    sum.result(places)
}

/// Sends a command that waits to several pens at once, and prints their replies in the order of
/// the addresses, as [`each`] does. Each is printed as soon as those before it are there.
///
/// # Errors
/// As [`each`].
pub fn all_at_once(places: &[Place], command: &[u8], most: usize) -> Result<Outcome, String> {
    thread::scope(|scope| {
        let ask = |place| {
            let asker = thread::Builder::new();
            asker.spawn_scoped(scope, move || Place::ask_whole(place, command, most))
        };
        let asked: Vec<_> = places.iter().map(ask).collect();
        let mut sum = Sum::default();
        for (index, (place, asker)) in places.iter().zip(asked).enumerate() {
            heading(index, place)?;
            let reply = match asker {
                Ok(asker) => asker.join().unwrap_or_else(|_| Err("no reply".to_owned())),
                Err(error) => Err(talk::plain(&error)),
            };
            let printed = reply.and_then(|(outcome, reply)| print(&reply).map(|()| outcome));
            sum.add(place, printed);
        }
        sum.result(places)
    })
}

fn heading(index: usize, place: &Place) -> Result<(), String> {
    let gap = if index == 0 { "" } else { "\n" };
    print(format!("{gap}==> {} <==\n", place.shown()).as_bytes())
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
    fn add(&mut self, place: &Place, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Refused) => self.outcome = Outcome::Refused,
            Err(error) => {
                self.silent += 1;
                complain(place, &error);
            }
        }
    }

    fn result(self, places: &[Place]) -> Result<Outcome, String> {
        match self.silent {
            0 => Ok(self.outcome),
            _ => Err(format!("{} of {} gave no reply", self.silent, places.len())),
        }
    }
}

/// Prints an error of one of several pens.
pub fn complain(place: &Place, error: &str) {
    // If standard error is closed or full, the error cannot be shown anywhere.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{}: {error}\n", place.shown()));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_pattern_finds_sockets_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("penctl-places-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let _listeners =
            ["b.ctl", "a.ctl", "odd[1].ctl"].map(|name| UnixListener::bind(path(name)).unwrap());
        fs::write(path("c.ctl"), "").unwrap();
        let found = |name: &str| -> Result<Vec<String>, String> {
            let places = find(&[path(name)], Patience::default())?;
            let name = |place: &Place| place.name.rsplit('/').next().unwrap().to_owned();
            Ok(places.iter().map(name).collect())
        };
        assert_eq!(found("?.ctl").unwrap(), ["a.ctl", "b.ctl"]);
        assert_eq!(found("odd[1].ctl").unwrap(), ["odd[1].ctl"], "a file, not a pattern");
        assert_eq!(found("none").unwrap(), ["none"], "no pattern: pen may be about to make it");
        assert!(found("*.none").unwrap_err().ends_with(": no socket has such a path"));
        assert!(found("***").is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
