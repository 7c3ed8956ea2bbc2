//! The description of what the service manager keeps: sealed memory with a line that has the
//! format, and then JSON. Fields that later releases add need `#[serde(default)]`.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use pen_config::address::{Address, Host};
use pen_config::settings::{Server, Settings};
use pen_ipc::text::error_text;
use pen_table::TableDescription;
use serde::{Deserialize, Serialize};

use crate::files::made::FileId;
use crate::files::memory;
use crate::systemd::store::Identity;

/// The first line. Another format is of no use to this pen, which then starts empty.
const FIRST_LINE: &str = "pen-kept 1\n";

/// Most bytes: far more than those of 4096 servers with many addresses.
const MOST: usize = 16 << 20;

/// What the stored descriptors are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptState {
    /// The version of the program that wrote it.
    pub(crate) version: String,
    /// What became of that program.
    pub(crate) end: End,
    /// When a start found that pen had died, in milliseconds of the monotonic clock: the last ones.
    pub(crate) deaths: Vec<u64>,
    pub(crate) listener: Option<KeptSocket>,
    pub(crate) control: Option<KeptSocket>,
    #[serde(default)]
    pub(crate) page: Option<KeptSocket>,
    pub(crate) table: Option<KeptTable>,
    pub(crate) tickets: Option<KeptTickets>,
}

/// What became of a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum End {
    /// It runs. A start that finds this knows that it died.
    Running,
    /// It ended in order.
    Orderly,
}

/// A listening socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptSocket {
    pub(crate) identity: Identity,
    /// The file of a Unix socket, if pen made it.
    pub(crate) file: Option<KeptFile>,
}

/// A file that pen made.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptFile {
    #[serde(with = "pen_config::paths")]
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
}

/// The shared table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptTable {
    pub(crate) identity: Identity,
    pub(crate) description: TableDescription,
    pub(crate) servers: KeptServers,
}

/// The addresses of the servers whose numbers are in the table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptServers {
    pub(crate) regular: Vec<Option<KeptServer>>,
    pub(crate) emergency: Option<KeptServer>,
    pub(crate) abuse: Option<KeptServer>,
    /// The numbers of those that the configuration blacklisted.
    #[serde(default)]
    pub(crate) blacklisted: Vec<u16>,
}

/// The addresses of a server.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptServer {
    pub(crate) address: Address,
    pub(crate) alternatives: Vec<Address>,
    /// The name or the address with its zone, if it was given so.
    #[serde(default)]
    pub(crate) given: Option<Host>,
}

/// The secrets of session tickets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptTickets {
    pub(crate) current: Identity,
    pub(crate) earlier: Option<Identity>,
    /// When the current one is to be replaced, in nanoseconds of the monotonic clock.
    pub(crate) rotation: u64,
}

impl KeptServer {
    /// Whether both are one server. Its name may have had another answer meanwhile.
    pub(crate) fn is_same(&self, other: &KeptServer) -> bool {
        let has_same_name = self.given.is_some()
            && self.given == other.given
            && self.address.port() == other.address.port();
        has_same_name || self.address == other.address
    }

    /// Whether both have the same addresses in the same order.
    pub(crate) fn has_addresses_of(&self, other: &KeptServer) -> bool {
        self.address == other.address && self.alternatives == other.alternatives
    }
}

impl KeptServers {
    /// The servers in these settings.
    pub(crate) fn of(settings: &Settings) -> KeptServers {
        let kept = |server: &Option<Server>| {
            server.as_ref().map(|server| KeptServer {
                address: server.address.clone(),
                alternatives: server.alternatives.clone(),
                given: server.given.clone(),
            })
        };
        KeptServers {
            regular: settings.servers.iter().map(kept).collect(),
            emergency: kept(&settings.emergency),
            abuse: kept(&settings.abuse),
            blacklisted: Vec::new(),
        }
    }
}

impl KeptState {
    /// As text, to be compared with what was written last.
    ///
    /// # Errors
    /// A value in it has no form in JSON.
    pub(crate) fn text(&self) -> io::Result<String> {
        Ok(FIRST_LINE.to_owned() + &serde_json::to_string(self).map_err(io::Error::other)?)
    }

    /// Reads what [`write()`] wrote.
    ///
    /// # Errors
    /// The memory is not sealed, or is not such a description.
    pub(crate) fn read(memory: OwnedFd) -> Result<KeptState, String> {
        if !memory::is_sealed(&memory).unwrap_or(false) {
            return Err("it is no sealed memory".into());
        }
        let bytes = pen_ipc::memory::read(&File::from(memory), MOST);
        let bytes = bytes.map_err(|error| error_text(&error))?;
        let rest = bytes
            .strip_prefix(FIRST_LINE.as_bytes())
            .ok_or("it has another format, of another release of pen")?;
        serde_json::from_slice(rest).map_err(|error| error.to_string())
    }
}

/// Writes a text to sealed memory.
///
/// # Errors
/// No descriptors or memory left.
pub(crate) fn write(text: &str) -> io::Result<OwnedFd> {
    let mut to = memory::new()?;
    to.write_all(text.as_bytes())?;
    memory::seal(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_nothing_else_is_one() {
        let state = KeptState {
            version: "1".into(),
            end: End::Running,
            deaths: vec![7],
            listener: None,
            control: None,
            page: None,
            table: None,
            tickets: None,
        };
        let text = state.text().unwrap();
        let back = KeptState::read(write(&text).unwrap()).unwrap();
        assert_eq!(back.text().unwrap(), text);
        for (bad, why) in [
            (text.replace("pen-kept 1", "pen-kept 2"), "another format"),
            (FIRST_LINE.to_owned() + "{}", "missing field"),
            (String::new(), "another format"),
        ] {
            let said = KeptState::read(write(&bad).unwrap()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let open = memory::new().unwrap();
        assert!(KeptState::read(open.into()).unwrap_err().contains("sealed"));
        let file = File::open("/dev/null").unwrap();
        assert!(KeptState::read(file.into()).unwrap_err().contains("sealed"));
    }
}
