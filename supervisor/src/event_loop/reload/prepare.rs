//! Preparation of a change: everything is checked and opened before anything is put in force.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use pen_config::address::{Address, Local};
use pen_config::apply;
use pen_config::command::{Command, LogTarget, Number, Startup, Switch};
use pen_config::configuration::{SourcedCommand, resolve_local, unused_lists, warnings};
use pen_config::ids::ClientKey;
use pen_config::parse::grammar::quoted;
use pen_config::print::in_force::{certificate, client_ca};
use pen_config::settings::Settings;
use pen_config::tls;
use pen_ipc::message::Operator;
use pen_ipc::start::RequestLog;
use pen_ipc::tls_files::Fact;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::event_loop::Supervisor;
use crate::event_loop::reload::{Batch, CommandSource, Need, in_jail};
use crate::event_loop::state::{ListenerGuard, SocketGuard};
use crate::files::configuration::in_order;
use crate::files::listener::{Bound, Listener, bind_first};
use crate::files::memory;
use crate::files::request_log;
use crate::files::source;
use crate::files::status_file;
use crate::files::status_file::StatusFile;
use crate::files::tls_material;
use crate::helpers::open::OpenRequest;
use crate::limits;
use crate::log::errno::why;

/// What becomes of something that need not be there.
#[derive(Debug)]
pub(in crate::event_loop) enum Change<T> {
    /// It stays as it is.
    Keep,
    /// It goes.
    Clear,
    /// This takes its place.
    Set(T),
}

/// A complete change, ready to be put in force.
#[derive(Debug)]
pub(in crate::event_loop) struct PreparedChange {
    pub(in crate::event_loop) settings: Settings,
    pub(in crate::event_loop) encoded: OwnedFd,
    pub(in crate::event_loop) listen: Option<Move>,
    pub(in crate::event_loop) log: Change<NewLog>,
    pub(in crate::event_loop) status: Change<StatusFile>,
    /// The TLS files, once they are read. An examiner has still to check them.
    pub(in crate::event_loop) tls: Option<OwnedFd>,
    /// The certificates in the TLS files, once these are checked.
    pub(in crate::event_loop) certificates: Vec<Fact>,
    /// A change of the OCSP response: one that an operator's process opened, or none any more.
    pub(in crate::event_loop) ocsp: Change<OwnedFd>,
    pub(in crate::event_loop) notices: Vec<String>,
}

/// A checked change, for which nothing is opened yet.
pub(in crate::event_loop) struct CheckedChange {
    settings: Settings,
    address: Option<(Local, Vec<Address>)>,
    notices: Vec<String>,
}

/// A new listen address. There is a new listener too, unless only the spelling differs.
#[derive(Debug)]
pub(in crate::event_loop) struct Move {
    pub(in crate::event_loop) local: Local,
    pub(in crate::event_loop) address: Address,
    pub(in crate::event_loop) listener: Option<(OwnedFd, ListenerGuard)>,
}

#[derive(Debug)]
pub(in crate::event_loop) struct NewLog {
    pub(in crate::event_loop) target: LogTarget,
    pub(in crate::event_loop) log: RequestLog,
    pub(in crate::event_loop) held: bool,
}

impl Supervisor {
    /// Checks everything, and opens everything except the TLS files. Also returns whether these are
    /// to be read.
    pub(in crate::event_loop) fn prepare(
        &mut self,
        batch: &mut Batch,
    ) -> Result<(PreparedChange, bool), Vec<String>> {
        let one = |why: String| vec![why];
        let CheckedChange { mut settings, address, mut notices } = self.checked(batch)?;
        let log = self.new_log(batch).map_err(one)?;
        let status = self.new_status_file(batch).map_err(one)?;
        let ocsp = self.new_ocsp(batch).map_err(one)?;
        let reads_keys = self.reads_keys(batch, &settings);
        let running = &self.context.settings;
        settings.generation = running.generation + 1;
        if settings.connections_max > running.connections_max {
            notices.extend(limits::too_few_descriptors(
                self.context.descriptor_limit,
                settings.connections_max,
            ));
        }
        let encoded = memory::encoded(&settings)
            .map_err(|error| one(format!("the settings cannot be sent: {}", why(&error))))?;
        let at = batch.last(listen).map_or(String::new(), |(_, at)| at);
        let moved = address
            .map(|(local, addresses)| self.new_listener(batch, local, &addresses, &mut notices));
        let listen = moved.transpose().map_err(|why| one(at + &why))?;
        let (tls, certificates) = (None, Vec::new());
        Ok((
            PreparedChange {
                settings,
                encoded,
                listen,
                log,
                status,
                tls,
                certificates,
                ocsp,
                notices,
            },
            reads_keys,
        ))
    }

    /// Does all checks that need no open file.
    pub(in crate::event_loop) fn checked(
        &self,
        batch: &Batch,
    ) -> Result<CheckedChange, Vec<String>> {
        let one = |why: String| vec![why];
        let address = self.new_address(batch).map_err(one)?;
        let port = address.as_ref().map_or(self.state.port(), |(_, addresses)| {
            addresses.first().and_then(Address::inet_port)
        });
        if let CommandSource::Operator(_) = batch.source {
            let mut commands = batch.commands.iter().map(|placed| &placed.command);
            commands.try_for_each(|command| self.offer_to_operators(command)).map_err(one)?;
        }
        let mut settings = self.new_settings(batch, port)?;
        self.admits_who_asks(&settings).map_err(one)?;
        let mut notices = self.check(batch, &settings).map_err(one)?;
        notices.extend(self.warnings(
            batch,
            address.as_ref().map(|(_, addresses)| &addresses[..]),
            &settings,
        ));
        let running = &self.context.settings;
        if settings.tls.is_on() != running.tls.is_on() {
            notices.extend(self.kept_tls(batch, &settings, port));
            settings.tls.clone_from(&running.tls);
        }
        let has_any =
            |settings: &Settings| settings.server_count() > 0 || settings.emergency.is_some();
        if has_any(running) && !has_any(&settings) && !settings.dummy {
            return Err(one("server: none would be left".into()));
        }
        Ok(CheckedChange { settings, address, notices: in_order(notices, &batch.commands) })
    }

    /// Refuses an access list that excludes the operator who sets it: that operator could not undo
    /// it.
    fn admits_who_asks(&self, settings: &Settings) -> Result<(), String> {
        let Some(Operator::Remote(bytes)) = self.queue.serving() else { return Ok(()) };
        let list = settings.control_acl;
        let admitted = |settings: &Settings| {
            let acl = settings.acls.get(usize::from(settings.control_acl));
            acl.is_none_or(|acl| acl.permits(ClientKey::from_bytes(bytes)))
        };
        match admitted(&self.context.settings) && !admitted(settings) {
            true => Err(format!(
                "access list {list}, which control_acl refers to, would refuse {}, which this \
                 command came from, and nobody \
                 there could take it back; permit that address first, or give the command from one \
                 that stays admitted",
                ClientKey::from_bytes(bytes)
            )),
            false => Ok(()),
        }
    }

    /// The warnings that a start would log for these settings: for a file all of them, for an
    /// operator's change only those that it causes.
    fn warnings(
        &self,
        batch: &Batch,
        moved: Option<&[Address]>,
        settings: &Settings,
    ) -> Vec<String> {
        let here = std::slice::from_ref(&self.state.listen);
        let of = |listen: &[Address], settings: &Settings| {
            let cut = limits::cut_backlog(self.state.longest_backlog, settings.backlog);
            warnings(listen, settings).into_iter().chain(cut).collect::<Vec<_>>()
        };
        if batch.commands.is_empty() {
            return Vec::new();
        }
        let mut after = of(moved.unwrap_or(here), settings);
        match &batch.source {
            CommandSource::File => after.extend(unused_lists(settings)),
            CommandSource::Operator(_) => {
                let before = of(here, &self.context.settings);
                after.retain(|warning| !before.contains(warning));
            }
        }
        after
    }

    /// Files that an operator's commands name and that are not open yet: path, purpose, and the
    /// source line for error messages.
    pub(in crate::event_loop) fn missing(
        &self,
        batch: &Batch,
    ) -> Option<(OpenRequest, Need, String)> {
        let CommandSource::Operator(_) = batch.source else { return None };
        if let (Some((Some(LogTarget::File(path)), at)), None) = (batch.last(log), &batch.held.log)
        {
            return Some((OpenRequest::Log(in_jail(path)), Need::Log, at + "log: "));
        }
        if let (Some((Some(path), at)), None) = (batch.last(web_stats), &batch.held.status) {
            return Some((OpenRequest::Status(in_jail(path)), Need::Status, at));
        }
        if let (Some((Some(path), at)), None) = (batch.last(ocsp), &batch.held.ocsp)
            && !self.is_the_administrators(path)
        {
            return Some((
                OpenRequest::Ocsp(in_jail(path)),
                Need::Ocsp,
                at + "ssl_ocsp_response: ",
            ));
        }
        match (batch.last(listen), &batch.held.listener) {
            (Some((local @ Local::Unix(path), at)), None) if *local != self.state.local => {
                let wanted = OpenRequest::Listener(in_jail(path), self.context.settings.backlog);
                Some((wanted, Need::Listener(path.clone()), at + "listen: "))
            }
            _ => None,
        }
    }

    /// The listen address, if the commands change it and are allowed to.
    fn new_address(&self, batch: &Batch) -> Result<Option<(Local, Vec<Address>)>, String> {
        let last = batch.last(listen).filter(|(local, _)| **local != self.state.local);
        let Some((local, at)) = last else { return Ok(None) };
        let addresses = resolve_local(local, &batch.found.names)
            .map_err(|error| format!("{at}listen: {error}"))?;
        // All addresses have the same port.
        match (&batch.source, addresses.first()) {
            (CommandSource::Operator(_), Some(Address::Inet(inet)))
                if inet.port() < UNPRIVILEGED && self.state.port() != Some(inet.port()) =>
            {
                Err(format!(
                    "{at}listen: port {} is privileged: at the control port it can only be kept; \
                     use the file of -F",
                    inet.port()
                ))
            }
            _ => Ok(Some((local.clone(), addresses))),
        }
    }

    fn new_listener(
        &self,
        batch: &mut Batch,
        local: Local,
        addresses: &[Address],
        notices: &mut Vec<String>,
    ) -> Result<Move, String> {
        if addresses.contains(&self.state.listen) {
            return Ok(Move { local, address: self.state.listen.clone(), listener: None });
        }
        let failed = |error| format!("listen: {}", why(&error));
        let (socket, path, address) = match (addresses, &batch.source) {
            ([address @ Address::Unix(_)], CommandSource::Operator(_)) => {
                let (socket, path) =
                    batch.held.listener.take().ok_or("listen: the socket was not made")?;
                (socket, Some(SocketGuard::Jailed(path)), address.clone())
            }
            (_, CommandSource::Operator(_) | CommandSource::File) => {
                let bind = |address: &Address| {
                    Listener::bind_beside(
                        address,
                        self.context.settings.backlog,
                        self.state.guard.as_fd(),
                    )
                };
                let bound =
                    bind_first(addresses, bind).map_err(|error| format!("listen: {error}"))?;
                let Bound { what, address, notice } = bound;
                notices.extend(notice.map(|notice| format!("listen: {notice}")));
                let (socket, path) = what.into_parts();
                (socket, path.map(SocketGuard::Own), address)
            }
        };
        let guard = ListenerGuard::new(&socket, path).map_err(failed)?;
        Ok(Move { local, address, listener: Some((socket, guard)) })
    }

    fn new_settings(&self, batch: &Batch, port: Option<u16>) -> Result<Settings, Vec<String>> {
        let (running, names) = (&self.context.settings, &batch.found.names);
        let changed = match &batch.source {
            CommandSource::File => {
                apply::reload(running, &self.state.options, &batch.commands, names, port)
            }
            CommandSource::Operator(_) => {
                let mut settings = running.clone();
                let errors = apply::apply_all(&mut settings, &batch.commands, names, port);
                if errors.is_empty() { Ok(settings) } else { Err(errors) }
            }
        };
        let checked = changed.and_then(|settings| {
            let judged = match (running.tls.is_on(), settings.tls.is_on()) {
                // Only a restart turns TLS off: judge what it would find, not what is left of the
                // TLS that stays on. Other errors were found above.
                (true, false) => {
                    let mut restarted = self.state.given.clone();
                    apply::apply_all(&mut restarted, &batch.commands, names, port);
                    tls::check(&restarted.tls, &batch.commands)
                }
                (true, true) | (false, _) => tls::check(&settings.tls, &batch.commands),
            };
            judged.map(|()| settings)
        });
        checked.map_err(|errors| {
            in_order(errors.into_iter().map(|error| error.0).collect(), &batch.commands)
        })
    }

    /// Does the checks that only the supervisor can do; returns warnings for the log.
    fn check(&self, batch: &Batch, settings: &Settings) -> Result<Vec<String>, String> {
        let mut notices: Vec<String> = batch.commands.iter().filter_map(unknown_suites).collect();
        if let CommandSource::File = batch.source {
            notices.extend(self.kept_sizes(&batch.commands));
        }
        let here = self.pool.ids().count();
        for SourcedCommand { source_line, command } in &batch.commands {
            match (command, &batch.source) {
                (Command::Number(Number::Workers, Some(wanted)), _)
                    if usize::try_from(*wanted) == Ok(here) => {}
                (Command::Number(Number::Workers, Some(wanted)), CommandSource::File) => {
                    notices.push(format!(
                        "{source_line}: workers: there are {here}; {wanted} need a restart"
                    ));
                }
                (Command::Number(Number::Workers, Some(_)), CommandSource::Operator(_)) => {
                    let at = if source_line.is_empty() {
                        String::new()
                    } else {
                        format!("{source_line}: ")
                    };
                    return Err(format!(
                        "{at}workers: there are {here}; another number needs a restart"
                    ));
                }
                (command, CommandSource::File) => {
                    notices.extend(self.left_to_a_restart(source_line, command))
                }
                (_, CommandSource::Operator(_)) => {}
            }
        }
        notices.extend(self.context.jail.sandbox.unreachable(&self.context.settings, settings));
        let source = settings.source.filter(|source| Some(*source) != self.context.settings.source);
        source.map_or(Ok(()), |address| source::check(address, &batch.commands))?;
        Ok(notices)
    }

    /// A notice about a command of a file that only takes effect at a restart.
    fn left_to_a_restart(&self, source_line: &str, command: &Command) -> Option<String> {
        match command {
            Command::Number(Number::MaxServers, Some(wanted)) => {
                let here = self.context.settings.table_size();
                (*wanted != here).then(|| {
                    format!("{source_line}: max_servers: there are {here}; {wanted} need a restart")
                })
            }
            Command::Startup(wanted) if !self.state.startup.contains(wanted) => {
                let word = wanted.word();
                let now = self.state.startup.iter().find(|startup| startup.word() == word);
                let now = now.map_or(String::new(), Startup::to_string);
                Some(format!("{source_line}: {wanted}: needs a restart; until then: {now}"))
            }
            _ => None,
        }
    }

    /// Notices about commands for TLS that have no effect, because TLS cannot be turned on or off.
    fn kept_tls(&self, batch: &Batch, wanted: &Settings, port: Option<u16>) -> Vec<String> {
        let running = &self.context.settings;
        let (state, turning) = if wanted.tls.is_on() { ("off", "on") } else { ("on", "off") };
        let about = |placed: &SourcedCommand| {
            let mut changed = running.clone();
            apply::apply_all(&mut changed, [placed], &batch.found.names, port);
            let at = if placed.source_line.is_empty() {
                String::new()
            } else {
                format!("{}: ", placed.source_line)
            };
            let command = &placed.command;
            match (changed.tls == running.tls, changed.tls.is_on() == running.tls.is_on()) {
                (true, _) => None,
                (false, false) => Some(format!(
                    "{at}{command}: TLS is {state}, and turning it {turning} needs a restart"
                )),
                (false, true) => Some(format!(
                    "{at}{command}: is not put in force, because turning TLS {turning} needs a \
                     restart"
                )),
            }
        };
        batch.commands.iter().filter_map(about).collect()
    }

    /// Refuses commands that only the administrator may give, or that have no meaning here.
    fn offer_to_operators(&self, command: &Command) -> Result<(), String> {
        let settings = &self.context.settings;
        match command {
            Command::Number(Number::MaxServers, Some(wanted))
                if *wanted != settings.table_size() =>
            {
                Err(format!(
                    "max_servers: there are {}; another number needs a \
                    restart",
                    settings.table_size()
                ))
            }
            Command::Startup(wanted) if !self.state.startup.contains(wanted) => {
                let word = wanted.word();
                Err(format!(
                    "{word}: only a start can give this: put it into the file of -F, and \
                    restart pen"
                ))
            }
            Command::Certificate(_) if *command == certificate(&settings.tls) => Ok(()),
            Command::ClientCa(_) if *command == client_ca(&settings.tls) => Ok(()),
            Command::Certificate(_) | Command::ClientCa(_) => {
                let word = if matches!(command, Command::Certificate(_)) {
                    "certificate"
                } else {
                    "client_ca"
                };
                Err(format!(
                    "{word}: only the file of -F can say this, because it is read with the rights \
                     of whoever started pen; then send HUP"
                ))
            }
            Command::Switch(Switch::RequireClientCert, true) if !settings.tls.is_on() => {
                Err("require_client_cert: means nothing without a certificate".into())
            }
            Command::Switch(Switch::ServersOnly, on) if *on == self.state.servers_only => Ok(()),
            Command::Switch(Switch::ServersOnly, _) => {
                Err("servers_only: only the file of -F can say this: it is about the servers in \
                    that file"
                    .into())
            }
            Command::NoServer(number)
                if settings.servers.get(*number as usize).is_some_and(Option::is_none) =>
            {
                Err(format!("server: there is no server {number}"))
            }
            Command::SslNames(path) if *path != settings.tls.names => Err(format!(
                "ssl_sni_path: {}: at the control port the directory can only be read again; \
                 another one has to be in the file of -F",
                path.as_deref().unwrap_or(Path::new("none")).display()
            )),
            _ => Ok(()),
        }
    }

    /// Notices about tables that a file wants smaller: only a restart can shrink them.
    fn kept_sizes(&self, file: &[SourcedCommand]) -> Vec<String> {
        let kept = |which: Number| {
            let present = apply::present(&self.context.settings, which)?;
            let said = |placed: &&SourcedCommand| matches!(placed.command, Command::Number(word, Some(_)) if word == which);
            let SourcedCommand { source_line, command } = file.iter().rev().find(said)?;
            let Command::Number(_, Some(wanted)) = *command else { return None };
            let word = which.word();
            (wanted < present).then(|| {
                format!("{source_line}: {word}: there are {present}; {wanted} need a restart")
            })
        };
        [Number::ClientsMax, Number::ConnMax].into_iter().filter_map(kept).collect()
    }

    /// The OCSP response, if the commands change it.
    fn new_ocsp(&self, batch: &mut Batch) -> Result<Change<OwnedFd>, String> {
        let Some((path, at)) = batch.last(ocsp) else { return Ok(Change::Keep) };
        let Some(path) = path.map(Path::to_owned) else { return Ok(Change::Clear) };
        match (&batch.source, batch.held.ocsp.take()) {
            (CommandSource::File, _) => Ok(Change::Clear),
            // The administrator's file, not one of the same name in the jail.
            (CommandSource::Operator(_), _) if self.is_the_administrators(&path) => {
                Ok(Change::Clear)
            }
            (CommandSource::Operator(_), file) => file
                .ok_or("it was not opened".to_owned())
                .and_then(tls_material::hold)
                .map(Change::Set)
                .map_err(|why| format!("{at}ssl_ocsp_response: {}: {why}", path.display())),
        }
    }

    /// Whether this path is the OCSP response that the administrator named, not an operator.
    fn is_the_administrators(&self, path: &Path) -> bool {
        self.state.ocsp.is_none() && Some(path) == self.context.settings.tls.ocsp.as_deref()
    }

    /// Whether to read the TLS files again: when a command or HUP requests it, and when the TLS
    /// settings change.
    fn reads_keys(&self, batch: &Batch, settings: &Settings) -> bool {
        let names_files = |placed: &SourcedCommand| {
            matches!(placed.command, Command::SslOcsp(_) | Command::SslNames(_))
        };
        let is_asked =
            matches!(batch.source, CommandSource::File) || batch.commands.iter().any(names_files);
        settings.tls.is_on() && (is_asked || settings.tls != self.context.settings.tls)
    }

    /// The request log, if the commands change it.
    fn new_log(&self, batch: &mut Batch) -> Result<Change<NewLog>, String> {
        let last = batch.last(log).map(|(wanted, at)| (wanted.cloned(), at));
        let Some((wanted, at)) = last else { return Ok(Change::Keep) };
        let Some(target) = wanted else { return Ok(Change::Clear) };
        let opened = match (&target, &batch.source, batch.found.log) {
            (LogTarget::File(path), CommandSource::Operator(_), _) => match batch.held.log.take() {
                Some(file) => appendable(path, file).map(|file| (RequestLog::File(file), true)),
                None => Err("log: it was not opened".into()),
            },
            (LogTarget::File(_), CommandSource::File, _) if self.has_log(&target) => {
                return Ok(Change::Keep);
            }
            (LogTarget::File(path), CommandSource::File, _) => {
                request_log::open(path).map(|log| (log, false)).map_err(|error| error.to_string())
            }
            (LogTarget::Network(_, _), _, Some(address)) => request_log::connect(address)
                .map(|log| (log, false))
                .map_err(|error| error.to_string()),
            (LogTarget::Network(_, _), _, None) => Err("log: the log host has no address".into()),
        };
        let (log, held) = opened.map_err(|why| at + &why)?;
        Ok(Change::Set(NewLog { target, log, held }))
    }

    /// Whether request lines already go there: HUP has just opened that file again.
    fn has_log(&self, target: &LogTarget) -> bool {
        self.state.log.as_ref() == Some(target) && !self.state.log_is_held
    }

    /// The file for status pages, if the commands change it.
    fn new_status_file(&self, batch: &mut Batch) -> Result<Change<StatusFile>, String> {
        let last = batch.last(web_stats).map(|(wanted, at)| (wanted.map(Path::to_owned), at));
        let Some((wanted, at)) = last else { return Ok(Change::Keep) };
        let Some(path) = wanted else { return Ok(Change::Clear) };
        let file = match &batch.source {
            CommandSource::Operator(_) => match batch.held.status.take() {
                Some(file) => StatusFile::held(&path, File::from(file))
                    .map_err(|error| format!("status file {}: {}", path.display(), why(&error))),
                None => Err(format!("status file {}: it was not opened", path.display())),
            },
            CommandSource::File => status_file::check(&path)
                .map(|()| StatusFile::Path(path))
                .map_err(|error| error.to_string()),
        };
        file.map(Change::Set).map_err(|why| at + &why)
    }
}

/// The log target that a command sets.
fn log(command: &Command) -> Option<Option<&LogTarget>> {
    match command {
        Command::Log(Some(target)) => Some(Some(target)),
        Command::NoLog => Some(None),
        _ => None,
    }
}

/// The OCSP response that a command sets.
fn ocsp(command: &Command) -> Option<Option<&Path>> {
    match command {
        Command::SslOcsp(path) => Some(path.as_deref()),
        _ => None,
    }
}

/// The listen address that a command sets.
fn listen(command: &Command) -> Option<&Local> {
    match command {
        Command::Listen(local) => local.as_ref(),
        _ => None,
    }
}

/// The status file that a command sets.
fn web_stats(command: &Command) -> Option<Option<&Path>> {
    match command {
        Command::WebStats(Some(path)) => Some(Some(path)),
        Command::NoWebStats => Some(None),
        _ => None,
    }
}

/// Prepares a file that came from an operator as request log: several workers append lines to it,
/// and no write may block.
fn appendable(path: &Path, file: OwnedFd) -> Result<OwnedFd, String> {
    let failed = |why: String| format!("log: {}: {why}", path.display());
    let file = File::from(file);
    let there = file.metadata().map_err(|error| failed(why(&error)))?;
    let kind = there.file_type();
    if !(kind.is_file() && there.nlink() <= 1 || kind.is_fifo() || kind.is_char_device()) {
        return Err(failed(
            "neither a file with a single name, a fifo nor a character device".into(),
        ));
    }
    let flags = fcntl_getfl(&file).map_err(|errno| failed(why(&errno.into())))?;
    let wanted = flags | OFlags::APPEND | OFlags::NONBLOCK;
    fcntl_setfl(&file, wanted).map_err(|errno| failed(why(&errno.into())))?;
    Ok(file.into())
}

/// Ports below this number are reserved for the administrator (default of
/// `ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1024;

/// A notice about unknown words in a list of cipher suites.
pub(crate) fn unknown_suites(placed: &SourcedCommand) -> Option<String> {
    let Command::SslCiphers(Some(list)) = &placed.command else { return None };
    let at = if placed.source_line.is_empty() {
        String::new()
    } else {
        format!("{}: ", placed.source_line)
    };
    let unknown = list.unknown.join(":");
    (!unknown.is_empty()).then(|| {
        format!("{at}ssl_ciphers: {} names no suite that is here: passed over", quoted(&unknown))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_from_an_operator_appends_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let plain = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut log = File::from(appendable(&path, plain.into()).unwrap());
        std::io::Write::write_all(&mut log, b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
        assert!(
            appendable(directory.path(), File::open(directory.path()).unwrap().into()).is_err()
        );
    }
}
