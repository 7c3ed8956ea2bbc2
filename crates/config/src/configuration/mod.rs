//! The configuration as the operator wrote it, with unresolved names, and its conversion to
//! [`Settings`].

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::ConfigurationError;
use crate::address::{Address, Local, Service};
use crate::apply;
use crate::command::{ConnectionLogTarget, LogTarget, Number, Setting, SourcedCommand, last};
use crate::followed::{answered, unanswered};
use crate::grammar::ServerSpec;
use crate::ids::{MAX_SERVERS, ServerId};
use crate::names::{Lookup, Names, of_host, of_local, of_service, resolve_local, resolved};
use crate::settings::{Server, Settings};
use crate::tls::Tls;

pub use crate::configuration::check_server_tls::check_server_tls;
pub use crate::configuration::check_tls::check_tls;
pub use crate::configuration::warnings::{unused_lists, warnings};

mod check_server_tls;
mod check_tls;
pub mod file;
mod health;
mod limits;
pub mod twice;
mod warnings;

/// The balancing options of the command line, checked but not resolved.
///
/// An option that a command can express is stored as that command. So options and `-O` apply in the
/// order in which they were given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandLine {
    /// The first operand: the listen address, unless a command sets another one.
    pub local: Option<Local>,
    /// The servers in the order of the operands.
    pub servers: Vec<ServerSpec>,
    /// The commands of the options, and those in `-O`, in order. The caller must replace an
    /// `include` by the commands of its file.
    pub commands: Vec<SourcedCommand>,
    /// `-e`.
    pub emergency: Option<ServerSpec>,
    /// `-B`.
    pub abuse: Option<ServerSpec>,
    /// `-S`: the exact number of slots; `None` = the needed number, but at least 16.
    pub server_slots: Option<u32>,
    /// `-m`.
    pub accept_batch: u32,
    /// `-N`.
    pub hash_always: bool,
    /// `-E`, `-K`, `-G`, `-A`, `-R`.
    pub tls: Tls,
}

/// The configuration of a start: options, operands and file together, resolved and checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// The listen address as the operator wrote it.
    pub local: Local,
    /// The addresses of the listener: pen uses the first one that it can bind. There is at least
    /// one, and all have the same port.
    pub listen: Vec<Address>,
    /// The settings.
    pub settings: Settings,
    /// The request log.
    pub log: Option<LogTarget>,
    /// The connection log.
    pub connection_log: Option<ConnectionLogTarget>,
    /// The file for status reports.
    pub status_file: Option<PathBuf>,
    /// The number of workers; `None` = one per processor.
    pub workers: Option<u32>,
    /// The settings by options and operands alone, without the file.
    pub given: Settings,
    /// Servers that are blacklisted from the start, each with its time in seconds.
    pub blacklisted: Vec<(ServerId, u32)>,
    /// Warnings about names that servers follow.
    pub notices: Vec<String>,
}

impl CommandLine {
    /// The names to resolve first, including those of the file's commands; empty if all addresses
    /// are numeric.
    pub fn lookups(&self, file: &[SourcedCommand]) -> BTreeSet<Lookup> {
        let specs = || self.servers.iter().chain(&self.emergency).chain(&self.abuse);
        let hosts = specs().filter_map(|spec| of_host(&spec.host));
        let services = specs().filter_map(|spec| of_service(spec.port.as_ref()?));
        let settings = self.commands.iter().chain(file).filter_map(SourcedCommand::setting);
        hosts
            .chain(services)
            .chain(self.local.iter().flat_map(of_local))
            .chain(settings.flat_map(apply::lookups))
            .collect()
    }

    /// Fills in the resolved names and applies the options, the operands and the file's commands,
    /// in this order. Then it checks the whole.
    ///
    /// # Errors
    /// All errors: no listen address or no server, more servers than slots, a server without a port
    /// while the listener is a Unix socket, an unresolved name, a command that cannot take effect.
    pub fn settle(
        &self,
        names: &Names,
        file: &[SourcedCommand],
    ) -> Result<Settled, Vec<ConfigurationError>> {
        let mut errors = Vec::new();
        let mut settled = self.beginning(names, file, &mut errors);
        let port = settled.listen.first().and_then(Address::inet_port);
        let slots = self.slots(file, &mut errors);
        let mut keep = |result: Result<Server, ConfigurationError>| {
            result.map_err(|error| errors.push(error)).ok()
        };
        let mut operands: Vec<_> =
            self.servers.iter().map(|spec| keep(resolved(spec, port, names))).collect();
        settled.settings.emergency =
            self.emergency.as_ref().and_then(|spec| keep(resolved(spec, port, names)));
        settled.settings.abuse =
            self.abuse.as_ref().and_then(|spec| keep(resolved(spec, port, names)));
        operands.resize(slots, None);
        settled.settings.servers.clone_from(&operands);
        errors.extend(settled.take(&self.commands, names, port));
        // The operands come after the options: their fields override those that -O gave. An operand
        // has no field for the access list, the check, the state and TLS.
        for (server, operand) in settled.settings.servers.iter_mut().zip(operands) {
            if let Some(operand) = operand {
                *server = Some(match server.take() {
                    Some(Server { acl, check, mode, transport, .. }) => {
                        Server { acl, check, mode, transport, ..operand }
                    }
                    None => operand,
                });
            }
        }
        settled.given.clone_from(&settled.settings);
        apply::keep_named(&mut settled.settings, file);
        errors.extend(settled.take(file, names, port));
        errors.extend(settled.follow_names(names, self.commands.iter().chain(file)));
        errors.extend(
            check_tls(&settled.settings.tls, self.commands.iter().chain(file))
                .err()
                .into_iter()
                .flatten(),
        );
        errors.extend(check_server_tls(&settled.settings).err().into_iter().flatten());
        let settings = &settled.settings;
        if errors.is_empty()
            && settings.server_count() == 0
            && settings.servers_from.is_empty()
            && settings.emergency.is_none()
            && !settings.dummy
        {
            errors.push(ConfigurationError(
                "no server: neither an operand nor a command gives one".to_owned(),
            ));
        }
        if errors.is_empty() { Ok(settled) } else { Err(errors) }
    }

    /// The last value that the options and the file give.
    fn last<'c, T>(
        &'c self,
        file: &'c [SourcedCommand],
        pick: impl Fn(&'c Setting) -> Option<T>,
    ) -> Option<T> {
        last(self.commands.iter().chain(file), pick).map(|(value, _)| value)
    }

    /// The request log.
    pub fn log<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c LogTarget> {
        self.last(file, Setting::log).flatten()
    }

    /// The connection log.
    pub fn connection_log<'c>(
        &'c self,
        file: &'c [SourcedCommand],
    ) -> Option<&'c ConnectionLogTarget> {
        self.last(file, Setting::connection_log).flatten()
    }

    /// The file for status reports.
    pub fn status_file<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c Path> {
        self.last(file, Setting::web_stats).flatten()
    }

    /// The debug level.
    pub fn debug(&self, file: &[SourcedCommand]) -> u8 {
        let level = self.last(file, |setting| setting.number(Number::Debug));
        level.and_then(|level| u8::try_from(level).ok()).unwrap_or_default()
    }

    /// Where pen listens, as the operator wrote it.
    pub fn listen<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c Local> {
        self.last(file, Setting::listen).or(self.local.as_ref())
    }

    /// The initial state, before any command is applied. After an error, the listen address is only
    /// a placeholder.
    fn beginning(
        &self,
        names: &Names,
        file: &[SourcedCommand],
        errors: &mut Vec<ConfigurationError>,
    ) -> Settled {
        let local = self.listen(file).cloned().unwrap_or_else(|| {
            let nowhere = "no listen address: neither an operand nor a listen command gives one";
            errors.push(ConfigurationError(nowhere.to_owned()));
            Local::Inet { host: None, port: Service::Port(1) }
        });
        let listen = resolve_local(&local, names).unwrap_or_else(|error| {
            errors.push(error);
            vec![Address::Inet((Ipv4Addr::UNSPECIFIED, 1).into())]
        });
        let mut settings = Settings { accept_batch: self.accept_batch, ..Settings::default() };
        settings.selection.hash_always = self.hash_always;
        settings.tls = self.tls.clone();
        let log = self.log(file).cloned();
        let connection_log = self.connection_log(file).cloned();
        let status_file = self.status_file(file).map(Path::to_owned);
        let workers = self.last(file, |setting| setting.number(Number::Workers));
        let (given, blacklisted) = (Settings::default(), Vec::new());
        Settled {
            local,
            listen,
            settings,
            log,
            connection_log,
            status_file,
            workers,
            given,
            blacklisted,
            notices: Vec::new(),
        }
    }

    /// The size of the server table. It is large enough for the operands even after an error.
    fn slots(&self, file: &[SourcedCommand], errors: &mut Vec<ConfigurationError>) -> usize {
        let settings = self.commands.iter().chain(file).filter_map(SourcedCommand::setting);
        let numbers = settings.filter_map(|setting| {
            if let Setting::ServersFrom(from) = setting {
                return Some(u32::from(from.last) + 1);
            }
            let Setting::Server { number, .. } = setting else { return None };
            Some(number.saturating_add(1))
        });
        let count = self.servers.len();
        let needed = numbers.max().unwrap_or(0).max(u32::try_from(count).unwrap_or(u32::MAX));
        let said = self.last(file, |setting| setting.number(Number::MaxServers));
        let said = said.or(self.server_slots);
        let slots = said.unwrap_or(needed.clamp(MIN_SLOTS, MAX_SERVERS)) as usize;
        if count > slots {
            let hint = if slots < MAX_SERVERS as usize {
                format!("; -S {count} makes room")
            } else {
                String::new()
            };
            errors.push(ConfigurationError(format!(
                "{count} servers, but the server table has {slots} slots{hint}"
            )));
        }
        slots.max(count)
    }
}

impl Settled {
    /// Gives the servers that follow names their addresses. Returns the errors.
    fn follow_names<'c>(
        &mut self,
        names: &Names,
        commands: impl Iterator<Item = &'c SourcedCommand> + Clone,
    ) -> Vec<ConfigurationError> {
        let mut errors = Vec::new();
        for line in unanswered(&self.settings, names, commands) {
            match self.settings.resolve {
                0 => errors.push(ConfigurationError(line)),
                _ => self.notices.push(line + "; it is asked for again"),
            }
        }
        errors.extend(answered(&mut self.settings, names, |_| 0));
        let settings = &self.settings;
        let from = settings.servers_from.iter();
        let unplaced = from.filter_map(|from| settings.placed(from).warning(&from.name));
        self.notices.extend(unplaced);
        errors
    }

    /// Applies commands in order; returns the errors.
    fn take(
        &mut self,
        commands: &[SourcedCommand],
        names: &Names,
        port: Option<u16>,
    ) -> Vec<ConfigurationError> {
        // The tables do not exist yet, so they can be smaller than the defaults.
        for which in Number::GROWING {
            if let Some(size) = apply::last_number(commands, which) {
                apply::set_number(&mut self.settings, which, size);
            }
        }
        let settings = commands.iter().filter_map(SourcedCommand::setting);
        self.blacklisted.extend(settings.filter_map(apply::blacklisting));
        let others = commands.iter().filter(|sourced| !apply::grows(sourced));
        apply::apply_all(&mut self.settings, others, names, port)
    }
}

/// Fewest slots of the server table if `-S` is not given.
pub(crate) const MIN_SLOTS: u32 = 16;

#[cfg(test)]
mod tests;
