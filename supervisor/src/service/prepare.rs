//! Everything that commands would change is checked and had before anything is put in force.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use pen_contract::address::{Address, Local};
use pen_contract::command::{Command, LogTarget, Number};
use pen_contract::configuration::{Placed, resolve_local};
use pen_contract::fold;
use pen_contract::settings::Settings;
use pen_contract::start::RequestLog;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use socket2::{Domain, Socket, Type};

use super::Service;
use super::change::{Batch, Source};
use crate::fetch::JailedPath;
use crate::limits;
use crate::listen::Listener;
use crate::log_file;
use crate::memory;
use crate::names::{Found, last_log};
use crate::standing::{self, Door, DoorPath};
use crate::status_file::{self, StatusFile};
use crate::why::why;

/// All that is to be put in force, at hand.
pub(super) struct Change {
    pub(super) settings: Settings,
    pub(super) encoded: OwnedFd,
    pub(super) listen: Option<Move>,
    pub(super) log: Option<Option<NewLog>>,
    pub(super) status: Option<Option<StatusFile>>,
    pub(super) notices: Vec<String>,
}

/// Another listen address; another listener too unless it is only written differently.
pub(super) struct Move {
    pub(super) local: Local,
    pub(super) address: Address,
    pub(super) listener: Option<(OwnedFd, Door)>,
}

pub(super) struct NewLog {
    pub(super) target: LogTarget,
    pub(super) log: RequestLog,
    pub(super) held: bool,
}

impl Service {
    /// Checks everything, and gets hold of everything that is needed.
    pub(super) fn prepare(&mut self, batch: &mut Batch, found: &Found) -> Result<Change, Vec<String>> {
        let one = |why: String| vec![why];
        let listen = self.new_address(batch, found).map_err(one)?;
        let port = listen.as_ref().map_or(self.standing.port(), |(_, address)| standing::port(address));
        let mut settings = self.new_settings(batch, found, port)?;
        let mut notices = self.check(batch, &settings).map_err(one)?;
        let log = self.new_log(batch, found).map_err(one)?;
        let status = self.new_status_file(batch).map_err(one)?;
        let running = &self.inheritance.settings;
        settings.generation = running.generation + 1;
        if settings.connections_max > running.connections_max {
            notices.extend(limits::too_few_descriptors(self.inheritance.descriptor_limit, settings.connections_max));
        }
        let encoded =
            memory::encoded(&settings).map_err(|error| one(format!("the settings cannot be sent: {}", why(&error))))?;
        let listen =
            listen.map(|(local, address)| self.new_listener(batch, local, address)).transpose().map_err(one)?;
        Ok(Change { settings, encoded, listen, log, status, notices })
    }

    /// The listen address, if the commands change it and may.
    fn new_address(&self, batch: &Batch, found: &Found) -> Result<Option<(Local, Address)>, String> {
        let last = batch.commands.iter().rev().find_map(|placed| match &placed.command {
            Command::Listen(Some(local)) => Some((local, &placed.place)),
            _ => None,
        });
        let Some((local, place)) = last.filter(|(local, _)| **local != self.standing.local) else { return Ok(None) };
        let at = if place.is_empty() { String::new() } else { format!("{place}: ") };
        let address = resolve_local(local, &found.names).map_err(|error| format!("{at}listen: {error}"))?;
        if let Source::Operator(_) = batch.source {
            match &address {
                Address::Inet(inet) if inet.port() < UNPRIVILEGED && self.standing.port() != Some(inet.port()) => {
                    return Err(format!(
                        "{at}listen: port {} is privileged: at the control port it can only be kept; use the file of -F",
                        inet.port()
                    ));
                }
                Address::Unix(path) if self.standing.listen != address && batch.file.is_none() => {
                    return Err(format!("{at}listen: {}: name it in a command of its own", path.display()));
                }
                Address::Inet(_) | Address::Unix(_) => {}
            }
        }
        Ok(Some((local.clone(), address)))
    }

    fn new_listener(&self, batch: &mut Batch, local: Local, address: Address) -> Result<Move, String> {
        if address == self.standing.listen {
            return Ok(Move { local, address, listener: None });
        }
        if let (Address::Unix(path), Source::Operator(_), Some(socket)) = (&address, &batch.source, batch.file.take()) {
            let path = DoorPath::Jailed(JailedPath::new(path, batch.place, &self.inheritance.jail));
            let door = Door::new(&socket, Some(path)).map_err(|error| format!("listen: {}", why(&error)))?;
            return Ok(Move { local, address, listener: Some((socket, door)) });
        }
        let listener = Listener::bind_beside(&address, self.standing.backlog, self.standing.door.as_fd());
        let (socket, path) = listener.map_err(|error| format!("listen: {error}"))?.into_parts();
        let door = Door::new(&socket, path.map(DoorPath::Own)).map_err(|error| format!("listen: {}", why(&error)))?;
        Ok(Move { local, address, listener: Some((socket, door)) })
    }

    fn new_settings(&self, batch: &Batch, found: &Found, port: Option<u16>) -> Result<Settings, Vec<String>> {
        let (running, names) = (&self.inheritance.settings, &found.names);
        match &batch.source {
            Source::File => fold::reload(running, &self.standing.options, &batch.commands, names, port)
                .map_err(|errors| errors.into_iter().map(|error| error.0).collect()),
            Source::Operator(_) => {
                let mut settings = running.clone();
                let errors: Vec<String> = batch
                    .commands
                    .iter()
                    .filter_map(|Placed { place, command }| {
                        let why = fold::apply(&mut settings, command, names, port).err()?;
                        Some(if place.is_empty() { why } else { format!("{place}: {why}") })
                    })
                    .collect();
                if errors.is_empty() { Ok(settings) } else { Err(errors) }
            }
        }
    }

    /// What only the supervisor can check; returns what the administrator should hear.
    fn check(&self, batch: &Batch, settings: &Settings) -> Result<Vec<String>, String> {
        let mut notices = Vec::new();
        let here = self.crew.ids().count();
        for Placed { place, command } in &batch.commands {
            match (command, &batch.source) {
                (Command::Number(Number::Workers, Some(wanted)), _) if usize::try_from(*wanted) == Ok(here) => {}
                (Command::Number(Number::Workers, Some(wanted)), Source::File) => {
                    notices.push(format!("{place}: workers: there are {here}; {wanted} need a restart"));
                }
                (Command::Number(Number::Workers, Some(_)), Source::Operator(_)) => {
                    return Err(format!("workers: there are {here}; another number needs a restart"));
                }
                (Command::Log(Some(LogTarget::File(path))) | Command::WebStats(Some(path)), Source::Operator(_))
                    if batch.file.is_none() =>
                {
                    let at = if place.is_empty() { String::new() } else { format!("{place}: ") };
                    return Err(format!("{at}{}: it was not opened: name it in a command of its own", path.display()));
                }
                _ => {}
            }
        }
        notices.extend(self.inheritance.jail.sandbox.unreachable(&self.inheritance.settings, settings));
        match settings.source.filter(|source| Some(*source) != self.inheritance.settings.source) {
            Some(source) => try_source(source).map(|()| notices),
            None => Ok(notices),
        }
    }

    /// The request log, if the commands change it.
    fn new_log(&self, batch: &mut Batch, found: &Found) -> Result<Option<Option<NewLog>>, String> {
        let Some(wanted) = last_log(batch.commands.iter()) else { return Ok(None) };
        let Some(target) = wanted else { return Ok(Some(None)) };
        let (log, held) = match (&target, &batch.source, found.log) {
            (LogTarget::File(path), Source::Operator(_), _) => {
                let file = batch.file.take().ok_or("log: it was not opened")?;
                (RequestLog::File(appendable(path, file)?), true)
            }
            (LogTarget::File(_), Source::File, _) if self.has_log(&target) => return Ok(None),
            (LogTarget::File(path), Source::File, _) => {
                (log_file::open(path).map_err(|error| error.to_string())?, false)
            }
            (LogTarget::Network(_, _), _, Some(address)) => {
                (log_file::connect(address).map_err(|error| error.to_string())?, false)
            }
            (LogTarget::Network(_, _), _, None) => return Err("log: the log host has no address".into()),
        };
        Ok(Some(Some(NewLog { target, log, held })))
    }

    /// Whether that is where lines go already: HUP has just opened it again.
    fn has_log(&self, target: &LogTarget) -> bool {
        self.standing.log.as_ref() == Some(target) && !self.standing.log_is_held
    }

    /// The file for status pages, if the commands change it.
    fn new_status_file(&self, batch: &mut Batch) -> Result<Option<Option<StatusFile>>, String> {
        let last = batch.commands.iter().rev().find_map(|placed| match &placed.command {
            Command::WebStats(Some(path)) => Some(Some(path)),
            Command::NoWebStats => Some(None),
            _ => None,
        });
        let Some(wanted) = last else { return Ok(None) };
        let Some(path) = wanted else { return Ok(Some(None)) };
        Ok(Some(Some(match &batch.source {
            Source::Operator(_) => {
                let file = batch.file.take().ok_or("web_stats: it was not opened")?;
                let held = StatusFile::held(path, File::from(file));
                held.map_err(|error| format!("web_stats: {}: {}", path.display(), why(&error)))?
            }
            Source::File => {
                status_file::check(path).map_err(|error| error.to_string())?;
                StatusFile::Path(path.clone())
            }
        })))
    }
}

/// Whether this machine has the address.
fn try_source(source: IpAddr) -> Result<(), String> {
    let address = SocketAddr::new(source, 0);
    let bind = || Socket::new(Domain::for_address(address), Type::STREAM, None)?.bind(&address.into());
    bind().map_err(|error: io::Error| format!("source: unable to set source address to '{source}': {}", why(&error)))
}

/// A file that came from an operator as a request log: lines of several workers are appended to it, and nobody may ever wait for it.
fn appendable(path: &Path, file: OwnedFd) -> Result<OwnedFd, String> {
    let failed = |why: String| format!("log: {}: {why}", path.display());
    let file = File::from(file);
    let there = file.metadata().map_err(|error| failed(why(&error)))?;
    let kind = there.file_type();
    if !(kind.is_file() && there.nlink() <= 1 || kind.is_fifo() || kind.is_char_device()) {
        return Err(failed("neither a file with a single name, a fifo nor a character device".into()));
    }
    let flags = fcntl_getfl(&file).map_err(|errno| failed(why(&errno.into())))?;
    let wanted = flags | OFlags::APPEND | OFlags::NONBLOCK;
    fcntl_setfl(&file, wanted).map_err(|errno| failed(why(&errno.into())))?;
    Ok(file.into())
}

/// Ports below are the administrator's (`ip_unprivileged_port_start`, whose default this is).
const UNPRIVILEGED: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_must_be_an_address_of_this_machine() {
        try_source([127, 0, 0, 1].into()).unwrap();
        let why = try_source([192, 0, 2, 1].into()).unwrap_err();
        assert!(why.starts_with("source: unable to set source address to '192.0.2.1': "), "{why}");
    }

    #[test]
    fn a_log_from_an_operator_appends_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let plain = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut log = File::from(appendable(&path, plain.into()).unwrap());
        io::Write::write_all(&mut log, b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
        assert!(appendable(directory.path(), File::open(directory.path()).unwrap().into()).is_err());
    }
}
