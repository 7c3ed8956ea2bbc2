//! The configuration as the operator wrote it, with unresolved names, and its conversion to
//! [`Settings`].

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::address::{Address, Local, Service};
use crate::apply;
use crate::command::{Command, LogTarget, Number};
use crate::ids::{MAX_SERVERS, ServerId};
use crate::parse::grammar::{ServerSpec, quoted};
use crate::settings::{Server, Settings};
use crate::tls;
use crate::tls::Tls;

pub use crate::configuration::names::{Lookup, Names, resolve_local, zoned};
pub(crate) use crate::configuration::names::{resolve_port, server_addresses};
pub use crate::configuration::warnings::{unused_lists, warnings};

mod names;
pub mod twice;
mod warnings;

/// The balancing options of the command line, checked but not resolved.
///
/// An option that a command can express is stored as that command. So options and `-O` apply in the
/// order in which they were given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Configuration {
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

/// A command with its source line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SourcedCommand {
    /// The source of the command in messages: `FILE:LINE`, or the option.
    pub source_line: String,
    /// The command.
    pub command: Command,
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
    /// The file for status reports.
    pub status_file: Option<PathBuf>,
    /// The number of workers; `None` = one per processor.
    pub workers: Option<u32>,
    /// The settings by options and operands alone, without the file.
    pub given: Settings,
    /// Servers that are blacklisted from the start, each with its time in seconds.
    pub blacklisted: Vec<(ServerId, u32)>,
}

/// An error in a configuration, which is therefore not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub String);

impl Configuration {
    /// The names to resolve first, including those of the file's commands; empty if all addresses
    /// are numeric.
    pub fn lookups(&self, file: &[SourcedCommand]) -> BTreeSet<Lookup> {
        let specs = || self.servers.iter().chain(&self.emergency).chain(&self.abuse);
        let hosts = specs().filter_map(|spec| apply::of_host(&spec.host));
        let services = specs().filter_map(|spec| apply::of_service(spec.port.as_ref()?));
        let commands =
            self.commands.iter().chain(file).flat_map(|placed| apply::lookups(&placed.command));
        hosts
            .chain(services)
            .chain(self.local.iter().flat_map(apply::of_local))
            .chain(commands)
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
        // has no field for the access list.
        for (server, operand) in settled.settings.servers.iter_mut().zip(operands) {
            if let Some(operand) = operand {
                let acl = server.as_ref().map_or(0, |server| server.acl);
                *server = Some(Server { acl, ..operand });
            }
        }
        settled.given.clone_from(&settled.settings);
        apply::keep_named(&mut settled.settings.servers, file);
        errors.extend(settled.take(file, names, port));
        errors.extend(
            tls::check(&settled.settings.tls, self.commands.iter().chain(file))
                .err()
                .into_iter()
                .flatten(),
        );
        let settings = &settled.settings;
        if errors.is_empty()
            && settings.server_count() == 0
            && settings.emergency.is_none()
            && !settings.dummy
        {
            errors.push(error("no server: neither an operand nor a command gives one".to_owned()));
        }
        if errors.is_empty() { Ok(settled) } else { Err(errors) }
    }

    /// The last value that the options and the file give.
    fn last<'c, T>(
        &'c self,
        file: &'c [SourcedCommand],
        pick: impl Fn(&'c Command) -> Option<T>,
    ) -> Option<T> {
        self.commands.iter().chain(file).rev().find_map(|placed| pick(&placed.command))
    }

    /// The request log.
    pub fn log<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c LogTarget> {
        let pick = |command: &'c Command| match command {
            Command::Log(Some(target)) => Some(Some(target)),
            Command::NoLog => Some(None),
            _ => None,
        };
        self.last(file, pick).flatten()
    }

    /// The file for status reports.
    pub fn status_file<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c Path> {
        let pick = |command: &'c Command| match command {
            Command::WebStats(Some(path)) => Some(Some(path.as_path())),
            Command::NoWebStats => Some(None),
            _ => None,
        };
        self.last(file, pick).flatten()
    }

    /// The debug level.
    pub fn debug(&self, file: &[SourcedCommand]) -> u8 {
        let pick = |command: &Command| match command {
            Command::Number(Number::Debug, level) => {
                level.and_then(|level| u8::try_from(level).ok())
            }
            _ => None,
        };
        self.last(file, pick).unwrap_or_default()
    }

    /// Where pen listens, as the operator wrote it.
    pub fn listen<'c>(&'c self, file: &'c [SourcedCommand]) -> Option<&'c Local> {
        let pick = |command: &'c Command| match command {
            Command::Listen(local) => local.as_ref(),
            _ => None,
        };
        self.last(file, pick).or(self.local.as_ref())
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
            errors.push(error(nowhere.to_owned()));
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
        let status_file = self.status_file(file).map(Path::to_owned);
        let workers = self.last(file, |command| match command {
            Command::Number(Number::Workers, workers) => *workers,
            _ => None,
        });
        let (given, blacklisted) = (Settings::default(), Vec::new());
        Settled { local, listen, settings, log, status_file, workers, given, blacklisted }
    }

    /// The size of the server table. It is large enough for the operands even after an error.
    fn slots(&self, file: &[SourcedCommand], errors: &mut Vec<ConfigurationError>) -> usize {
        let numbers = self.commands.iter().chain(file).filter_map(|placed| match placed.command {
            Command::Server { number, .. } => Some(number.saturating_add(1)),
            _ => None,
        });
        let count = self.servers.len();
        let needed = numbers.max().unwrap_or(0).max(u32::try_from(count).unwrap_or(u32::MAX));
        let said = self.last(file, |command| match command {
            Command::Number(Number::MaxServers, slots) => *slots,
            _ => None,
        });
        let said = said.or(self.server_slots);
        let slots = said.unwrap_or(needed.clamp(MIN_SLOTS, MAX_SERVERS)) as usize;
        if count > slots {
            let hint = if slots < MAX_SERVERS as usize {
                format!("; -S {count} makes room")
            } else {
                String::new()
            };
            errors.push(error(format!(
                "{count} servers, but the server table has {slots} slots{hint}"
            )));
        }
        slots.max(count)
    }
}

impl Settled {
    /// Applies commands in order; returns the errors.
    fn take(
        &mut self,
        commands: &[SourcedCommand],
        names: &Names,
        port: Option<u16>,
    ) -> Vec<ConfigurationError> {
        for SourcedCommand { command, .. } in commands {
            match command {
                // The tables do not exist yet, so they can be smaller than the defaults.
                Command::Number(Number::ClientsMax, Some(clients)) => {
                    self.settings.clients_max = *clients
                }
                Command::Number(Number::ConnMax, Some(connections)) => {
                    self.settings.connections_max = *connections
                }
                _ => self.blacklisted.extend(apply::blacklisting(command)),
            }
        }
        let others = commands.iter().filter(|placed| !apply::grows(&placed.command));
        apply::apply_all(&mut self.settings, others, names, port)
    }
}

/// A server with resolved names. `listen_port` is the port of a server that has none.
pub(crate) fn resolved(
    spec: &ServerSpec,
    listen_port: Option<u16>,
    names: &Names,
) -> Result<Server, ConfigurationError> {
    let what = || format!("server {}", quoted(&spec.to_string()));
    let port = || match &spec.port {
        Some(port) => resolve_port(port, names, what),
        None => listen_port.ok_or_else(|| {
            error(format!(
                "{}: the port is missing, and a listener on a Unix socket has none to use",
                what()
            ))
        }),
    };
    let ServerSpec { soft, hard, weight, prio, .. } = *spec;
    let placeholder = Address::Unix(PathBuf::new());
    let mut server = Server { soft, hard, weight, prio, ..Server::at(placeholder) };
    server.service = spec.port.as_ref().and_then(Service::name);
    server_addresses(&spec.host, port, names, what, |error| error)?.give_to(&mut server);
    Ok(server)
}

fn error(why: String) -> ConfigurationError {
    ConfigurationError(why)
}

/// Fewest slots of the server table if `-S` is not given.
pub(crate) const MIN_SLOTS: u32 = 16;

#[cfg(test)]
mod tests;
