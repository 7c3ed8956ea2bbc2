//! Changes of settings, by HUP or by an operator. Everything is checked and opened before anything
//! is put in force. The reply is sent when all processes work by the new settings.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pen_config::apply;
use pen_config::command::{Command, LogTarget, Number};
use pen_config::configuration::SourcedCommand;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_ipc::message::Outcome;
use pen_ipc::start::RequestLog;
use pen_ipc::tls_files::Examined;
use pen_table::Table;

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::job::{AfterApply, JobStage, PATIENCE, Progress, Requester, Settling};
use crate::event_loop::reload::notices::Success;
use crate::event_loop::reload::prepare::{Change, Move, NewLog, PreparedChange};
use crate::files::configuration;
use crate::files::configuration::Loaded;
use crate::files::memory;
use crate::files::tls_material::READING;
use crate::helpers::examine::Examining;
use crate::helpers::names::{FoundAddresses, Inquiry};
use crate::helpers::open::{Fetched, Fetching, JailedPath, OpenRequest};
use crate::helpers::resolve::{Asking, ResolvePatience};
use crate::jail::Jail;
use crate::jail::user;
use crate::launch::paths::all_absolute;
use crate::log::errno::why;
use crate::processes::control::{ControlReply, ReplyBody};
use crate::processes::spawn::SpawnContext;

/// Commands that take effect together or not at all.
#[derive(Debug)]
pub(in crate::event_loop) struct Batch {
    pub(in crate::event_loop) source: CommandSource,
    pub(in crate::event_loop) commands: Vec<SourcedCommand>,
    /// The addresses and ports of the names in the commands, once they are known.
    pub(in crate::event_loop) found: FoundAddresses,
    /// Files and sockets that an operator's commands name, once they are open.
    pub(in crate::event_loop) held: OpenedFiles,
}

/// The origin of commands, which decides their rights.
#[derive(Clone, Debug)]
pub(in crate::event_loop) enum CommandSource {
    /// The configuration file, which belongs to the administrator.
    File,
    /// An operator, with the command that the operator gave.
    Operator(Command),
}

/// Files and sockets that were opened with an operator's rights.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct OpenedFiles {
    pub(in crate::event_loop) log: Option<OwnedFd>,
    pub(in crate::event_loop) status: Option<OwnedFd>,
    pub(in crate::event_loop) ocsp: Option<OwnedFd>,
    pub(in crate::event_loop) listener: Option<(OwnedFd, JailedPath)>,
}

/// The purpose of an opener.
#[derive(Debug)]
pub(in crate::event_loop) enum OpenPurpose {
    /// The request log that an operator had named, to be opened again by HUP.
    Reopen,
    /// The commands of the file in an operator's `include`.
    Include(Command),
    /// The commands of the configuration file, for HUP.
    Reload,
    /// The TLS files for a change that is otherwise complete.
    Keys(Box<(PreparedChange, Batch)>),
    /// A file or socket that commands need. The text is the beginning of the error message if it
    /// cannot be opened.
    Need(Need, String, Box<Batch>),
}

/// A file or socket that commands can need.
#[derive(Clone, Debug)]
pub(in crate::event_loop) enum Need {
    Log,
    Status,
    Ocsp,
    Listener(PathBuf),
}

impl Batch {
    pub(in crate::event_loop) fn new(
        source: CommandSource,
        commands: Vec<SourcedCommand>,
    ) -> Batch {
        Batch { source, commands, found: FoundAddresses::default(), held: OpenedFiles::default() }
    }

    /// One command of an operator, with the file that it names.
    pub(in crate::event_loop) fn single(command: Command, file: Option<OwnedFd>) -> Batch {
        let held = match &command {
            Command::Log(Some(LogTarget::File(_))) => {
                OpenedFiles { log: file, ..OpenedFiles::default() }
            }
            Command::WebStats(Some(_)) => OpenedFiles { status: file, ..OpenedFiles::default() },
            Command::SslOcsp(Some(_)) => OpenedFiles { ocsp: file, ..OpenedFiles::default() },
            _ => OpenedFiles::default(),
        };
        let source = CommandSource::Operator(command.clone());
        Batch {
            held,
            ..Batch::new(source, vec![SourcedCommand { source_line: String::new(), command }])
        }
    }

    /// The last command for which `pick` returns a value: that value, and the beginning of a
    /// message about the command.
    pub(in crate::event_loop) fn last<'b, T>(
        &'b self,
        pick: impl Fn(&'b Command) -> Option<T>,
    ) -> Option<(T, String)> {
        self.commands.iter().rev().find_map(|SourcedCommand { source_line, command }| {
            let at =
                if source_line.is_empty() { String::new() } else { format!("{source_line}: ") };
            Some((pick(command)?, at))
        })
    }
}

impl Supervisor {
    /// Opens an operator's log again, and then reads the configuration file.
    pub(in crate::event_loop) fn reopen_held_log(&mut self, now: Instant) -> Progress {
        let Some(LogTarget::File(path)) =
            self.state.log.as_ref().filter(|_| self.state.log_is_held)
        else {
            return Progress::Next(JobStage::Reload);
        };
        self.fetch(&OpenRequest::Log(in_jail(path)), OpenPurpose::Reopen, now)
    }

    /// Reads the commands of an operator's file in a child.
    pub(in crate::event_loop) fn include(&mut self, path: PathBuf, now: Instant) -> Progress {
        self.fetch(
            &OpenRequest::Commands(in_jail(&path)),
            OpenPurpose::Include(Command::Include(path)),
            now,
        )
    }

    fn fetch(&mut self, wanted: &OpenRequest, purpose: OpenPurpose, now: Instant) -> Progress {
        if self.queue.hangs() {
            let why = "not now: too many processes hang in a file system that does not answer";
            return self.fetched(Err(why.into()), purpose, now);
        }
        match Fetching::begin(wanted, &self.context.jail, now) {
            Ok(fetching) => Progress::Wait(JobStage::Fetching(fetching, purpose)),
            Err(error) => self.fetched(Err(format!("not now: {}", why(&error))), purpose, now),
        }
    }

    /// Continues with the result of an opener.
    pub(in crate::event_loop) fn fetched(
        &mut self,
        fetched: Result<Fetched, String>,
        purpose: OpenPurpose,
        now: Instant,
    ) -> Progress {
        match (purpose, fetched) {
            (OpenPurpose::Reopen, fetched) => self.held_log(fetched),
            (OpenPurpose::Include(include), fetched) => match loaded(fetched) {
                Ok(loaded) => {
                    self.look_up(Batch::new(CommandSource::Operator(include), loaded.commands), now)
                }
                Err(errors) => {
                    let errors =
                        errors.into_iter().map(|why| self.with_jail(&include, why)).collect();
                    self.refuse(&Batch::new(CommandSource::Operator(include), Vec::new()), errors)
                }
            },
            (OpenPurpose::Reload, fetched) => self.reloaded(fetched, now),
            (OpenPurpose::Keys(waiting), fetched) => {
                let (change, batch) = *waiting;
                self.gathered_keys(fetched, change, batch, now)
            }
            (OpenPurpose::Need(_, at, batch), Err(why)) => {
                self.refuse(&batch, vec![at + &why + &self.in_the_jail()])
            }
            (OpenPurpose::Need(need, _, mut batch), Ok(Fetched { descriptor, file_id, .. })) => {
                match need {
                    Need::Log => batch.held.log = Some(descriptor),
                    Need::Status => batch.held.status = Some(descriptor),
                    Need::Ocsp => batch.held.ocsp = Some(descriptor),
                    Need::Listener(path) => {
                        let path = JailedPath::new(&path, file_id, &self.context.jail);
                        batch.held.listener = Some((descriptor, path));
                    }
                }
                self.change(*batch, now)
            }
        }
    }

    /// The directory of the files that operators name, for an error message.
    fn in_the_jail(&self) -> String {
        self.context
            .jail
            .root
            .as_ref()
            .map_or(String::new(), |root| format!(" (in the jail {})", root.display()))
    }

    /// An error about an operator's file of commands. If the file is missing, the text names the
    /// jail in which it was searched.
    fn with_jail(&self, include: &Command, error: String) -> String {
        match include {
            Command::Include(path)
                if error.starts_with(&format!("{}: ", in_jail(path).display())) =>
            {
                error + &self.in_the_jail()
            }
            _ => error,
        }
    }

    fn held_log(&mut self, fetched: Result<Fetched, String>) -> Progress {
        match fetched {
            Ok(Fetched { descriptor, .. }) => {
                self.context.log = Some(RequestLog::File(descriptor));
                self.pool.workers_mut().for_each(|worker| worker.renew_log());
            }
            Err(why) => self
                .logger
                .warning(&format!("{why}; lines still go to the file that was opened before")),
        }
        Progress::Next(JobStage::Reload)
    }

    /// Reads the configuration file again, in a child.
    pub(in crate::event_loop) fn reload(&mut self, now: Instant) -> Progress {
        if let Some(keys) = &mut self.context.keys {
            keys.certificates.ask();
        }
        let Some(path) = &self.state.config else {
            return match self.context.keys {
                Some(_) => self.reread_tls(now),
                None => Progress::Done(ControlReply::none()),
            };
        };
        self.fetch(&OpenRequest::Configuration(path.clone()), OpenPurpose::Reload, now)
    }

    /// Continues with the commands of the configuration file.
    fn reloaded(&mut self, fetched: Result<Fetched, String>, now: Instant) -> Progress {
        let loaded = loaded(fetched).and_then(|mut loaded| {
            all_absolute(&self.state.base, &mut loaded.commands)?;
            Ok(loaded)
        });
        match loaded {
            Ok(loaded) => {
                loaded.notices.iter().for_each(|notice| self.logger.warning(notice));
                self.look_up(Batch::new(CommandSource::File, loaded.commands), now)
            }
            Err(errors) => {
                self.keep_running_settings(&errors, true);
                Progress::Done(ControlReply::none())
            }
        }
    }

    /// Looks up the names in the commands, and continues.
    pub(in crate::event_loop) fn look_up(&mut self, mut batch: Batch, now: Instant) -> Progress {
        let lookups =
            batch.commands.iter().flat_map(|placed| apply::lookups(&placed.command)).collect();
        let inquiry = Inquiry::new(lookups, batch.commands.iter());
        let questions = inquiry.questions();
        if questions.is_empty() {
            return match inquiry.found(Vec::new()) {
                Ok(found) => {
                    batch.found = found;
                    self.change(batch, now)
                }
                Err(why) => self.refuse(&batch, vec![why]),
            };
        }
        let Jail { identity, sandbox, .. } = &self.context.jail;
        let jail =
            Jail { root: None, identity: user::of_resolver(identity), sandbox: sandbox.clone() };
        match Asking::begin(questions, &jail, RESOLVE_PATIENCE) {
            Ok(asking) => Progress::Wait(JobStage::Asking(asking, inquiry, Box::new(batch))),
            Err(why) => self.refuse(&batch, vec![why]),
        }
    }

    /// Puts the commands in force, or refuses them. Files that an operator's commands name are
    /// opened first, but only if the commands can take effect: a refused file of commands creates
    /// no new log.
    pub(in crate::event_loop) fn change(&mut self, mut batch: Batch, now: Instant) -> Progress {
        if let Some((wanted, need, at)) = self.missing(&batch) {
            return match self.checked(&batch) {
                Ok(_) => self.fetch(&wanted, OpenPurpose::Need(need, at, Box::new(batch)), now),
                Err(errors) => self.refuse(&batch, errors),
            };
        }
        match self.prepare(&mut batch) {
            Ok((change, true)) => self.gather_keys(change, batch, now),
            Ok((change, false)) => self.commit(change, &batch, now),
            Err(errors) => self.refuse(&batch, errors),
        }
    }

    /// Reads the TLS files before anything is put in force.
    fn gather_keys(&mut self, change: PreparedChange, batch: Batch, now: Instant) -> Progress {
        let held = match &change.ocsp {
            Change::Keep => self.state.ocsp.as_ref(),
            Change::Clear => None,
            Change::Set(ocsp) => Some(ocsp),
        };
        let held = held.map(OwnedFd::try_clone).transpose();
        let tls = Box::new(change.settings.tls.clone());
        let wanted = held.map(|held| OpenRequest::Keys(tls, held));
        let purpose = OpenPurpose::Keys(Box::new((change, batch)));
        match wanted {
            Ok(wanted) => self.fetch(&wanted, purpose, now),
            Err(error) => self.fetched(
                Err(format!("the files of TLS cannot be read now: {}", why(&error))),
                purpose,
                now,
            ),
        }
    }

    /// Has an examiner check the TLS files that were read.
    fn gathered_keys(
        &mut self,
        fetched: Result<Fetched, String>,
        mut change: PreparedChange,
        batch: Batch,
        now: Instant,
    ) -> Progress {
        let SpawnContext { jail, examine_tls, .. } = &self.context;
        let begun = fetched.and_then(|Fetched { descriptor, notices, .. }| {
            change.notices.extend(notices);
            let files = change.tls.insert(descriptor);
            Examining::begin(files, *examine_tls, jail, now)
        });
        match begun {
            Ok(examining) => {
                Progress::Wait(JobStage::Examining(examining, Box::new((change, batch))))
            }
            Err(why) => self.refuse(&batch, vec![why]),
        }
    }

    /// Continues after an examiner has checked the TLS files.
    pub(in crate::event_loop) fn examined(
        &mut self,
        found: Result<Examined, String>,
        mut change: PreparedChange,
        batch: &Batch,
        now: Instant,
    ) -> Progress {
        match found {
            Ok(Examined { notices, certificates }) => {
                change.notices.extend(notices);
                change.certificates = certificates;
                self.commit(change, batch, now)
            }
            Err(why) => self.refuse(batch, vec![why]),
        }
    }

    /// Reads the TLS files again without a request.
    pub(in crate::event_loop) fn reread_tls(&mut self, now: Instant) -> Progress {
        self.look_up(Batch::new(CommandSource::File, Vec::new()), now)
    }

    /// Refuses a change, and reports the errors.
    pub(in crate::event_loop) fn refuse(&mut self, batch: &Batch, errors: Vec<String>) -> Progress {
        let errors = configuration::bounded(errors);
        match &batch.source {
            CommandSource::File => {
                // Without commands, only the TLS files were to be read.
                self.keep_running_settings(&errors, !batch.commands.is_empty());
                Progress::Done(ControlReply::none())
            }
            CommandSource::Operator(command) => {
                let line = command.to_string();
                let word =
                    line.strip_prefix("no ").unwrap_or(&line).split(' ').next().unwrap_or_default();
                // Errors of a command begin with its word, or are those of the original pen. Errors
                // about names and about lines of a file lack the word.
                let whole = |why: &str| {
                    why.split([':', ' ']).next() == Some(word) || why.starts_with("unable to ")
                };
                let line =
                    |why: String| if whole(&why) { why + "\n" } else { format!("{word}: {why}\n") };
                let text = errors.into_iter().map(line).collect();
                Progress::Done(ControlReply {
                    outcome: Outcome::Refused,
                    body: ReplyBody::Text(text),
                })
            }
        }
    }

    fn keep_running_settings(&mut self, errors: &[String], of_file: bool) {
        self.file_refused = true;
        errors.iter().for_each(|error| self.logger.warning(error));
        self.logger.warning(match of_file {
            true => {
                "the configuration file is not used: the settings stay as they were, and so \
                does TLS"
            }
            false => "the files of TLS are not used: it goes on with those that it had",
        });
    }

    /// Puts a change in force, and waits until all processes work by it.
    fn commit(&mut self, change: PreparedChange, batch: &Batch, now: Instant) -> Progress {
        let blacklist: Vec<_> = batch
            .commands
            .iter()
            .filter_map(|placed| apply::blacklisting(&placed.command))
            .collect();
        let success = self.success(&change, batch, &blacklist);
        let PreparedChange {
            settings,
            encoded,
            listen,
            log,
            status,
            tls,
            certificates,
            ocsp,
            notices,
        } = change;
        notices.iter().for_each(|notice| self.logger.warning(notice));
        let (readdressed, rerouted) = (
            changed(&self.context.settings, &settings, |server| &server.address),
            changed(&self.context.settings, &settings, |server| &server.alternatives),
        );
        // Workers accept any address index in a table row, so the reset can happen before they know
        // of the change.
        for server in readdressed.iter().chain(&rerouted) {
            self.context.table.reset_address(server.row(settings.table_size()));
        }
        if let Some(Move { local, address, listener }) = listen {
            if let Some((socket, guard)) = listener {
                self.context.listener = socket;
                self.pool.workers_mut().for_each(|worker| worker.renew_listener());
                self.state.retired.push(std::mem::replace(&mut self.state.guard, guard));
            }
            (self.state.local, self.state.listen) = (local, address);
        }
        let log = match log {
            Change::Keep => None,
            Change::Clear => Some((None, None, false)),
            Change::Set(NewLog { target, log, held }) => Some((Some(target), Some(log), held)),
        };
        if let Some((target, log, held)) = log {
            (self.state.log, self.state.log_is_held, self.context.log) = (target, held, log);
            self.pool.workers_mut().for_each(|worker| worker.renew_log());
        }
        match ocsp {
            Change::Keep => {}
            Change::Clear => self.state.ocsp = None,
            Change::Set(ocsp) => self.state.ocsp = Some(ocsp),
        }
        if let (Some(files), Some(keys)) = (tls, &mut self.context.keys) {
            (keys.files, keys.reading) = (files, now + READING);
            keys.certificates.replace(
                certificates,
                matches!(batch.source, CommandSource::Operator(_)),
                now,
            );
            self.pool.workers_mut().for_each(|worker| worker.renew_tls());
        }
        match status {
            Change::Keep => {}
            Change::Clear => self.state.status = None,
            Change::Set(status) => self.state.status = Some(status),
        }
        if let CommandSource::File = batch.source {
            self.state.servers_only =
                apply::names_all(&batch.commands).unwrap_or(self.state.servers_only);
        }
        let then = match &batch.source {
            CommandSource::File => AfterApply::Reloaded,
            CommandSource::Operator(command) => {
                question(command).map_or(AfterApply::Reply(ControlReply::none()), AfterApply::Ask)
            }
        };
        let rows = (readdressed, blacklist);
        self.publish(settings, encoded, rows, (then, Some(success)), now)
    }

    /// Sends the settings in force again. Their acknowledgement proves that all earlier messages
    /// have arrived.
    pub(in crate::event_loop) fn publish_anew(
        &mut self,
        then: AfterApply,
        now: Instant,
    ) -> Progress {
        let running = &self.context.settings;
        let settings = Settings { generation: running.generation + 1, ..running.clone() };
        match memory::encoded(&settings) {
            Ok(encoded) => self.publish(settings, encoded, Default::default(), (then, None), now),
            // The time of arrival is unknown then, but the messages will arrive.
            Err(_) => Progress::Done(match then {
                AfterApply::Reply(reply) => reply,
                AfterApply::Ask(_) | AfterApply::Reloaded => ControlReply::none(),
            }),
        }
    }

    fn publish(
        &mut self,
        settings: Settings,
        encoded: OwnedFd,
        (readdressed, blacklist): (Vec<Target>, Vec<(ServerId, u32)>),
        (then, success): (AfterApply, Option<Success>),
        now: Instant,
    ) -> Progress {
        let generation = settings.generation;
        self.logger.set_verbosity(settings.debug);
        self.context.table.grow_clients(settings.clients_max);
        if settings.backlog != self.context.settings.backlog {
            // On a socket that listens already, listen(2) only sets the length of the queue.
            let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
            let _ = rustix::net::listen(&self.context.listener, backlog);
        }
        (self.context.settings, self.context.encoded) = (settings, encoded);
        self.pool.workers_mut().for_each(|worker| worker.renew_settings());
        self.control.iter_mut().for_each(|control| control.renew_settings());
        self.send_due();
        let deadline = now + PATIENCE;
        Progress::Wait(JobStage::Settling(Settling {
            generation,
            deadline,
            readdressed,
            blacklist,
            then,
            success,
        }))
    }

    /// Finishes a change that all processes have applied.
    pub(in crate::event_loop) fn settled(
        &mut self,
        by: Requester,
        settling: Settling,
        now: Instant,
    ) -> Progress {
        let Settling { readdressed, blacklist, then, success, .. } = settling;
        let (table, servers) = (&self.context.table, self.context.settings.table_size());
        for server in readdressed {
            table.reset_server(server.row(servers));
            self.obstructed.forget(server.code());
        }
        for (server, seconds) in blacklist {
            leave_out(table, Target::Server(server).row(servers), seconds);
        }
        if let Some(success) = success {
            self.tell_success(success, by, now);
        }
        match then {
            AfterApply::Reply(reply) => Progress::Done(reply),
            AfterApply::Ask(command) => Progress::Next(JobStage::Begin(command, None)),
            AfterApply::Reloaded => {
                self.file_refused = false;
                Progress::Done(ControlReply::none())
            }
        }
    }
}

/// The commands that were read, or all errors in them.
fn loaded(fetched: Result<Fetched, String>) -> Result<Loaded, Vec<String>> {
    let commands = fetched.and_then(|fetched| fetched.commands().map_err(|error| why(&error)));
    commands.unwrap_or_else(|why| Err(vec![why]))
}

/// The path inside the jail for a path that an operator named.
pub(in crate::event_loop) fn in_jail(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// The servers whose `part` differs after the change. With another address, it is another server.
fn changed<'s, T: PartialEq + 's>(
    before: &'s Settings,
    after: &'s Settings,
    part: impl Fn(&'s Server) -> &'s T,
) -> Vec<Target> {
    // Below MAX_SERVERS.
    let regular = (0..after.servers.len()).map(|index| Target::Server(ServerId(index as u16)));
    let part = |settings: &'s Settings, target| settings.target(target).map(&part);
    let all = regular.chain([Target::Emergency, Target::Abuse]);
    all.filter(|target| part(before, *target) != part(after, *target)).collect()
}

/// The query whose answer is the reply to a command that sets something.
fn question(command: &Command) -> Option<Command> {
    match command {
        // The original pen replies nothing.
        Command::Number(Number::PendingMax, _) => None,
        Command::Number(which, Some(_)) => Some(Command::Number(*which, None)),
        Command::Listen(Some(_)) => Some(Command::Listen(None)),
        Command::Log(Some(_)) => Some(Command::Log(None)),
        Command::WebStats(Some(_)) => Some(Command::WebStats(None)),
        _ => None,
    }
}

/// How long the names of a command or a file may take. Other commands wait meanwhile.
const RESOLVE_PATIENCE: ResolvePatience = ResolvePatience { each: Duration::from_secs(20) };

pub(crate) mod notices;
pub(crate) mod prepare;

/// Blacklists a server from now on; 0 seconds ends the blacklisting.
pub(crate) fn leave_out(table: &Table, row: u32, seconds: u32) {
    match seconds {
        0 => table.clear_blacklist(row),
        seconds => {
            let unix = time::OffsetDateTime::now_utc().unix_timestamp();
            let until = clock::monotonic() + u64::from(seconds) * 1000;
            table.take_out(row, until, u64::try_from(unix).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use pen_config::address::Address;
    use pen_config::command::Switch;

    use super::*;

    #[test]
    fn other_addresses_are_other_servers() {
        let server = |port| Server::at(Address::Inet(([10, 0, 0, 1], port).into()));
        let settings = |servers: [Option<Server>; 4]| Settings {
            servers: servers.into(),
            ..Settings::default()
        };
        let before = settings([Some(server(1)), Some(server(2)), None, None]);
        let other_limit = Server { soft: 9, ..server(2) };
        let after = settings([Some(server(9)), Some(other_limit), Some(server(3)), None]);
        let expected = [0, 2].map(|id| Target::Server(ServerId(id)));
        assert_eq!(changed(&before, &after, |server| &server.address), expected);
    }

    #[test]
    fn commands_that_set_answer_with_what_was_set() {
        assert_eq!(
            question(&Command::Number(Number::Timeout, Some(3))),
            Some(Command::Number(Number::Timeout, None))
        );
        assert_eq!(question(&Command::Switch(Switch::Hash, true)), None);
    }
}
