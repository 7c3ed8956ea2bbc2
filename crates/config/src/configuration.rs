//! What the operator asked for, still with names in it, and how it becomes [`Settings`].

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

/// Everything that the command line says about balancing, checked but not resolved.
///
/// An option that a command can express is that command, so that options and `-O` count in the
/// order in which they were given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Configuration {
    /// The first operand: where pen listens unless a command says otherwise.
    pub local: Option<Local>,
    /// The servers in the order of the operands.
    pub servers: Vec<ServerSpec>,
    /// The commands that the options stand for or hold (`-O`), in order. An `include` has to be
    /// replaced by the commands of its file.
    pub commands: Vec<SourcedCommand>,
    /// `-e`.
    pub emergency: Option<ServerSpec>,
    /// `-B`.
    pub abuse: Option<ServerSpec>,
    /// `-S`: exactly so many slots; none = the larger of 16 and what is needed.
    pub server_slots: Option<u32>,
    /// `-m`.
    pub accept_batch: u32,
    /// `-N`.
    pub hash_always: bool,
    /// `-E`, `-K`, `-G`, `-A`, `-R`.
    pub tls: Tls,
}

/// A command with the place where the operator wrote it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SourcedCommand {
    /// How a message names the place: `FILE:LINE`, or the option.
    pub source_line: String,
    /// The command.
    pub command: Command,
}

/// What a start goes by: options, operands and file together, resolved and checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// Where pen listens, as the operator wrote it.
    pub local: Local,
    /// Where pen listens: the first of these addresses that can be bound; at least one, and all
    /// with one port.
    pub listen: Vec<Address>,
    /// The settings.
    pub settings: Settings,
    /// The request log.
    pub log: Option<LogTarget>,
    /// The file for status reports.
    pub status_file: Option<PathBuf>,
    /// The number of workers; none = one per processor.
    pub workers: Option<u32>,
    /// What the settings are without the file: by options and operands alone.
    pub given: Settings,
    /// Servers to be left out from the start, each for so many seconds.
    pub blacklisted: Vec<(ServerId, u32)>,
}

/// A configuration that cannot be put in force.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub String);

impl Configuration {
    /// The names that have to be resolved first, those of the file's commands included; empty if
    /// all addresses are numeric.
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

    /// Puts the answers in, and the effects of options, operands and the file's commands in this
    /// order, and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong: no listen address or no server, more servers than slots, a server
    /// without a port behind a Unix listener, a name without an answer, a command that cannot
    /// take effect.
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
        // The operands come after the options: their fields win over those that -O gave. An access
        // list is none of their fields.
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

    /// The last that options and file say of something.
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

    /// All that can be said without an effect of a command. After an error, the listen address is a
    /// stand-in.
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

    /// The size of the server table; enough for the operands even after an error.
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
    /// Lets commands take effect in order; returns what cannot.
    fn take(
        &mut self,
        commands: &[SourcedCommand],
        names: &Names,
        port: Option<u16>,
    ) -> Vec<ConfigurationError> {
        for SourcedCommand { command, .. } in commands {
            match command {
                // Before the tables are made, they may be smaller than the defaults.
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

/// A server with its names replaced by the answers. `listen_port` is for one that has no port.
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

/// Slots of the server table when `-S` does not say it and fewer are needed.
pub(crate) const MIN_SLOTS: u32 = 16;

#[cfg(test)]
mod tests;
