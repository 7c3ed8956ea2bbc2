//! What commands change, whoever gave them: everything is checked and had before anything is put in force, and everybody works by it before
//! anybody is told.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use pen_contract::address::{Address, Local};
use pen_contract::command::{Command, LogTarget, Number};
use pen_contract::configuration::{Placed, resolve_local};
use pen_contract::fold;
use pen_contract::ids::{ServerId, Target};
use pen_contract::settings::Settings;
use pen_contract::start::RequestLog;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use socket2::{Domain, Socket, Type};

use super::Service;
use super::desk::{PATIENCE, Progress, Settling, Stage, Then};
use crate::config_file;
use crate::control::Reply;
use crate::fetch::{Fetched, Fetching, JailedPath, Wanted};
use crate::jail::Jail;
use crate::limits;
use crate::listen::Listener;
use crate::log_file;
use crate::memory;
use crate::names::{Found, Inquiry, last_log};
use crate::resolve::Asking;
use crate::standing::{self, Door, DoorPath};
use crate::start::{absolute, leave_out};
use crate::status_file::{self, StatusFile};
use crate::user;
use crate::why::why;

/// Commands that take effect together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) source: Source,
    pub(super) commands: Vec<Placed>,
    /// The file or the socket that the one command names.
    pub(super) file: Option<OwnedFd>,
    /// Device and number of the socket's file.
    pub(super) place: (u64, u64),
}

/// By whose authority.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The configuration file: root's.
    File,
    /// An operator's, who gave this command.
    Operator(Command),
}

impl Batch {
    /// One command of an operator.
    pub(super) fn single(command: Command, file: Option<OwnedFd>) -> Batch {
        let source = Source::Operator(command.clone());
        Batch { source, commands: vec![Placed { place: String::new(), command }], file, place: (0, 0) }
    }
}

/// All that is to be put in force, at hand.
struct Change {
    settings: Settings,
    encoded: OwnedFd,
    listen: Option<Move>,
    log: Option<Option<NewLog>>,
    status: Option<Option<StatusFile>>,
    notices: Vec<String>,
}

/// Another listen address; another listener too unless it is only written differently.
struct Move {
    local: Local,
    address: Address,
    listener: Option<(OwnedFd, Door)>,
}

struct NewLog {
    target: LogTarget,
    log: RequestLog,
    held: bool,
}

impl Service {
    /// Has the socket of an operator's `listen /path` made.
    pub(super) fn fetch_listener(&mut self, path: &Path, batch: Batch, now: Instant) -> Progress {
        let wanted = Wanted::Listener(Path::new("/").join(path), self.standing.backlog);
        match Fetching::begin(&wanted, &self.inheritance.jail, now) {
            Ok(fetching) => Progress::Wait(Stage::Fetching(fetching, Some(batch))),
            Err(error) => self.refuse(&batch, vec![format!("listen: not now: {}", why(&error))]),
        }
    }

    /// Has an operator's log opened again, and goes on to the configuration file.
    pub(super) fn reopen_held_log(&mut self, now: Instant) -> Progress {
        let Some(LogTarget::File(path)) = self.standing.log.as_ref().filter(|_| self.standing.log_is_held) else {
            return Progress::Next(Stage::Reload);
        };
        let wanted = Wanted::Log(Path::new("/").join(path));
        match Fetching::begin(&wanted, &self.inheritance.jail, now) {
            Ok(fetching) => Progress::Wait(Stage::Fetching(fetching, None)),
            Err(error) => self.held_log(Err(why(&error))),
        }
    }

    /// Goes on with what was fetched: for a command, or else the log.
    pub(super) fn fetched(&mut self, fetched: Result<Fetched, String>, batch: Option<Batch>, now: Instant) -> Progress {
        match (batch, fetched) {
            (None, fetched) => self.held_log(fetched),
            (Some(batch), Err(why)) => self.refuse(&batch, vec![format!("listen: {why}")]),
            (Some(batch), Ok(Fetched { descriptor, place })) => {
                self.look_up(Batch { file: Some(descriptor), place, ..batch }, now)
            }
        }
    }

    fn held_log(&mut self, fetched: Result<Fetched, String>) -> Progress {
        match fetched {
            Ok(Fetched { descriptor, .. }) => {
                self.inheritance.log = Some(RequestLog::File(descriptor));
                self.crew.workers_mut().for_each(|worker| worker.renew_log());
            }
            Err(why) => self.say.warning(&format!("{why}; lines still go to the file that was opened before")),
        }
        Progress::Next(Stage::Reload)
    }

    /// Reads the configuration file again.
    pub(super) fn reload(&mut self, now: Instant) -> Progress {
        let Some(path) = &self.standing.config else { return Progress::Done(Reply::none()) };
        let loaded = config_file::load(path).and_then(|mut loaded| {
            absolute(&self.standing.base, &mut loaded.commands)?;
            Ok(loaded)
        });
        match loaded {
            Ok(loaded) => {
                loaded.notices.iter().for_each(|notice| self.say.warning(notice));
                self.look_up(Batch { source: Source::File, commands: loaded.commands, file: None, place: (0, 0) }, now)
            }
            Err(errors) => {
                self.keep_running_settings(&errors);
                Progress::Done(Reply::none())
            }
        }
    }

    /// Has the names in the commands looked up, and goes on.
    pub(super) fn look_up(&mut self, batch: Batch, now: Instant) -> Progress {
        let lookups = batch.commands.iter().flat_map(|placed| fold::lookups(&placed.command)).collect();
        let inquiry = Inquiry::new(lookups, batch.commands.iter());
        let questions = inquiry.questions();
        if questions.is_empty() {
            return match inquiry.found(Vec::new()) {
                Ok(found) => self.change(batch, &found, now),
                Err(why) => self.refuse(&batch, vec![why]),
            };
        }
        let jail = Jail { root: None, identity: user::of_resolver(&self.inheritance.jail.identity) };
        match Asking::begin(questions, &jail, RESOLVE_PATIENCE) {
            Ok(asking) => Progress::Wait(Stage::Asking(asking, inquiry, batch)),
            Err(why) => self.refuse(&batch, vec![why]),
        }
    }

    /// Puts the commands in force, or says why not.
    pub(super) fn change(&mut self, mut batch: Batch, found: &Found, now: Instant) -> Progress {
        match self.prepare(&mut batch, found) {
            Ok(change) => self.commit(change, &batch, now),
            Err(errors) => self.refuse(&batch, errors),
        }
    }

    /// Says why nothing was changed.
    pub(super) fn refuse(&mut self, batch: &Batch, errors: Vec<String>) -> Progress {
        match &batch.source {
            Source::File => {
                self.keep_running_settings(&errors);
                Progress::Done(Reply::none())
            }
            Source::Operator(command) => {
                let word = command.to_string();
                let word = word.split(' ').next().unwrap_or_default();
                // Errors of a command begin with its word; those of names, and of the lines of a file, do not know it.
                let line = |why: String| match why.split([':', ' ']).next() == Some(word) {
                    true => format!("{why}\n"),
                    false => format!("{word}: {why}\n"),
                };
                Progress::Done(Reply::Text(errors.into_iter().map(line).collect()))
            }
        }
    }

    fn keep_running_settings(&mut self, errors: &[String]) {
        errors.iter().for_each(|error| self.say.warning(error));
        self.say.warning("the configuration file is not used: the settings stay as they were");
    }

    /// Checks everything, and gets hold of everything that is needed.
    fn prepare(&mut self, batch: &mut Batch, found: &Found) -> Result<Change, Vec<String>> {
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

    /// Puts a change in force, and waits until everybody works by it.
    fn commit(&mut self, change: Change, batch: &Batch, now: Instant) -> Progress {
        let Change { settings, encoded, listen, log, status, notices } = change;
        notices.iter().for_each(|notice| self.say.warning(notice));
        let readdressed = readdressed(&self.inheritance.settings, &settings);
        let blacklist = batch.commands.iter().filter_map(|placed| fold::blacklisting(&placed.command)).collect();
        if let Some(Move { local, address, listener }) = listen {
            if let Some((socket, door)) = listener {
                self.inheritance.listener = socket;
                self.crew.workers_mut().for_each(|worker| worker.renew_listener());
                self.standing.retired.push(std::mem::replace(&mut self.standing.door, door));
            }
            (self.standing.local, self.standing.listen, self.standing.listen_commanded) = (local, address, true);
        }
        if let Some(new) = log {
            let (target, log, held) = match new {
                Some(NewLog { target, log, held }) => (Some(target), Some(log), held),
                None => (None, None, false),
            };
            (self.standing.log, self.standing.log_is_held, self.inheritance.log) = (target, held, log);
            self.crew.workers_mut().for_each(|worker| worker.renew_log());
        }
        if let Some(status) = status {
            self.standing.status = status;
        }
        let then = match &batch.source {
            Source::File => Then::Reloaded,
            Source::Operator(command) => question(command).map_or(Then::Reply(Reply::none()), Then::Ask),
        };
        self.publish(settings, encoded, then, (readdressed, blacklist), now)
    }

    /// Sends the settings in force to everybody once more, so that all that was sent before is known to have arrived.
    pub(super) fn publish_anew(&mut self, then: Then, now: Instant) -> Progress {
        let running = &self.inheritance.settings;
        let settings = Settings { generation: running.generation + 1, ..running.clone() };
        match memory::encoded(&settings) {
            Ok(encoded) => self.publish(settings, encoded, then, Default::default(), now),
            // Then nobody knows when, but it will arrive.
            Err(_) => Progress::Done(match then {
                Then::Reply(reply) => reply,
                Then::Ask(_) | Then::Reloaded => Reply::none(),
            }),
        }
    }

    fn publish(
        &mut self,
        settings: Settings,
        encoded: OwnedFd,
        then: Then,
        (readdressed, blacklist): (Vec<ServerId>, Vec<(ServerId, u32)>),
        now: Instant,
    ) -> Progress {
        let generation = settings.generation;
        self.say.set_verbosity(settings.debug);
        self.inheritance.table.grow_clients(settings.clients_max);
        (self.inheritance.settings, self.inheritance.encoded) = (settings, encoded);
        self.crew.workers_mut().for_each(|worker| worker.renew_settings());
        self.control.iter_mut().for_each(|control| control.renew_settings());
        self.send_due();
        let deadline = now + PATIENCE;
        Progress::Wait(Stage::Settling(Settling { generation, deadline, readdressed, blacklist, then }))
    }

    /// Everybody works by the new settings.
    pub(super) fn settled(&mut self, settling: Settling) -> Progress {
        let Settling { readdressed, blacklist, then, .. } = settling;
        let (table, servers) = (&self.inheritance.table, self.inheritance.settings.table_size());
        for server in readdressed {
            table.reset_server(Target::Server(server).row(servers));
        }
        for (server, seconds) in blacklist {
            leave_out(table, Target::Server(server).row(servers), seconds);
        }
        match then {
            Then::Reply(reply) => Progress::Done(reply),
            Then::Ask(command) => Progress::Next(Stage::Begin(command, None)),
            Then::Reloaded => {
                self.say.debug("the configuration file was read again");
                Progress::Done(Reply::none())
            }
        }
    }
}

/// The numbers that stand for another server after the change.
fn readdressed(before: &Settings, after: &Settings) -> Vec<ServerId> {
    let address = |settings: &Settings, index: usize| Some(settings.servers.get(index)?.as_ref()?.address.clone());
    let changed = (0..after.servers.len()).filter(|index| address(before, *index) != address(after, *index));
    // Below MAX_SERVERS.
    changed.map(|index| ServerId(index as u16)).collect()
}

/// The question whose answer is the reply to a command that sets something.
fn question(command: &Command) -> Option<Command> {
    match command {
        Command::Number(which, Some(_)) => Some(Command::Number(*which, None)),
        Command::Listen(Some(_)) => Some(Command::Listen(None)),
        Command::Log(Some(_)) => Some(Command::Log(None)),
        Command::WebStats(Some(_)) => Some(Command::WebStats(None)),
        _ => None,
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

/// How long all names of a command or a file together may take; other commands wait meanwhile.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use pen_contract::command::Switch;
    use pen_contract::settings::Server;

    use super::*;

    #[test]
    fn other_addresses_are_other_servers() {
        let server = |port| Server {
            address: Address::Inet(([10, 0, 0, 1], port).into()),
            soft: 0,
            hard: 0,
            weight: 1,
            prio: 0,
            acl: 0,
        };
        let settings = |servers: [Option<Server>; 4]| Settings { servers: servers.into(), ..Settings::default() };
        let before = settings([Some(server(1)), Some(server(2)), None, None]);
        let other_limit = Server { soft: 9, ..server(2) };
        let after = settings([Some(server(9)), Some(other_limit), Some(server(3)), None]);
        assert_eq!(readdressed(&before, &after), [ServerId(0), ServerId(2)]);
    }

    #[test]
    fn commands_that_set_answer_with_what_was_set() {
        assert_eq!(question(&Command::Number(Number::Timeout, Some(3))), Some(Command::Number(Number::Timeout, None)));
        assert_eq!(question(&Command::Switch(Switch::Hash, true)), None);
    }

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
