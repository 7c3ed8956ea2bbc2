//! What commands change, whoever gave them: everything is checked and had before anything is put in force, and everybody works by it before
//! anybody is told.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use pen_contract::command::{Command, LogTarget};
use pen_contract::configuration::Placed;
use pen_contract::fold;
use pen_contract::ids::{ServerId, Target};
use pen_contract::settings::Settings;
use pen_contract::start::RequestLog;

use super::Service;
use super::desk::{PATIENCE, Progress, Settling, Stage, Then};
use super::prepare::{Change, Move, NewLog};
use crate::config_file;
use crate::control::Reply;
use crate::fetch::{Fetched, Fetching, Wanted};
use crate::jail::Jail;
use crate::memory;
use crate::names::{Found, Inquiry};
use crate::resolve::Asking;
use crate::start::{absolute, leave_out};
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
        let Jail { identity, sandbox, .. } = &self.inheritance.jail;
        let jail = Jail { root: None, identity: user::of_resolver(identity), sandbox: sandbox.clone() };
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
        self.file_refused = true;
        errors.iter().for_each(|error| self.say.warning(error));
        self.say.warning("the configuration file is not used: the settings stay as they were");
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
                self.file_refused = false;
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

/// How long all names of a command or a file together may take; other commands wait meanwhile.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use pen_contract::address::Address;
    use pen_contract::command::{Number, Switch};
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
}
