//! Applies commands to the [`Settings`]. This is the only module that changes settings by commands.
//!
//! This module is pure: the names are resolved before, and nothing is opened. Every function checks
//! the whole command before it changes anything.

use std::collections::BTreeSet;

use crate::acl::{Acl, LISTS, MAX_ENTRIES};
use crate::address::{Address, Host, Local, Service};
use crate::command::{BufferSide, Command, Nature, Number, ServerChange, Startup, Switch};
use crate::configuration::{
    ConfigurationError, Lookup, Names, SourcedCommand, resolve_port, resolved, server_addresses,
    zoned,
};
use crate::ids::ServerId;
use crate::parse::grammar::ServerSpec;
use crate::settings::{Server, Settings};

/// Applies one command to `settings`. A command that is not a setting, such as `log`, `listen` or
/// `exit`, changes nothing here: the supervisor carries it out. The same holds for `blacklist`
/// among the changes of a server, which is a state and not a setting.
///
/// `listen_port` is the port for a new server without a port; `None` if pen listens on a Unix
/// socket.
///
/// # Errors
/// The command cannot take effect; `settings` are unchanged. The text begins with the command's
/// word and is the reply.
pub fn apply(
    settings: &mut Settings,
    command: &Command,
    names: &Names,
    listen_port: Option<u16>,
) -> Result<(), String> {
    match command {
        Command::Acl { list, verdict, net } => {
            let acl = settings.acls.get_mut(usize::from(*list)).ok_or("acl: no such list")?;
            if !acl.push(*verdict, *net) {
                return Err(format!("acl: list {list} is full, it has {MAX_ENTRIES} entries"));
            }
        }
        Command::NoAcl(list) => {
            *settings.acls.get_mut(usize::from(*list)).ok_or("acl: no such list")? = Acl::default();
        }
        Command::Switch(which, on) => {
            if let Some(source_line) = switch(settings, *which) {
                *source_line = *on;
            }
        }
        Command::Number(which, Some(value)) => {
            if let Some(present) = present(settings, *which).filter(|present| value < present) {
                let word = which.word();
                return Err(format!(
                    "{word}: {value} is below {present}, which is in force: it only grows"
                ));
            }
            number(settings, *which, *value);
        }
        Command::Http(http) => settings.http = *http,
        Command::Server { number, changes } => {
            let slots = settings.servers.len();
            let slot =
                settings.servers.get_mut(*number as usize).ok_or_else(|| beyond(*number, slots))?;
            *slot = Some(server(slot.as_ref(), *number, changes, names, listen_port)?);
        }
        Command::NoServer(number) => {
            let slots = settings.servers.len();
            *settings.servers.get_mut(*number as usize).ok_or_else(|| beyond(*number, slots))? =
                None;
        }
        Command::Emergency(spec) => {
            settings.emergency = backup("emergency", spec.as_ref(), names, listen_port)?
        }
        Command::Abuse(spec) => {
            settings.abuse = backup("abuse", spec.as_ref(), names, listen_port)?
        }
        Command::Certificate(files) => {
            let (certificate, key) =
                files.clone().map_or((None, None), |(file, key)| (Some(file), key));
            (settings.tls.certificate, settings.tls.key) = (certificate, key);
        }
        Command::ClientCa(paths) => {
            let mut paths = paths.iter().cloned();
            (settings.tls.ca_file, settings.tls.ca_directory) = (paths.next(), paths.next());
        }
        Command::Source(address) => settings.source = *address,
        Command::SocketBuffers(BufferSide::Client, sizes) => settings.buffers.client = *sizes,
        Command::SocketBuffers(BufferSide::Server, sizes) => settings.buffers.server = *sizes,
        Command::Fastclose(which) => settings.fastclose = *which,
        Command::ProxyIn(senders) => settings.proxy_in = senders.clone(),
        Command::ProxyOut(out) => settings.proxy_out = *out,
        Command::SslCiphers(list) => {
            settings.tls.suites = list.as_ref().map_or(Vec::new(), |list| list.suites.clone());
        }
        Command::SslNoTls12 => settings.tls.tls12 = false,
        Command::SslTls12 => settings.tls.tls12 = true,
        Command::SslOcsp(path) => settings.tls.ocsp.clone_from(path),
        Command::SslNames(path) => settings.tls.names.clone_from(path),
        _ => {}
    }
    Ok(())
}

fn beyond(number: u32, slots: usize) -> String {
    format!("server: number {number} too large, this program was started for {slots} servers (-S)")
}

/// The emergency or abuse server, resolved.
fn backup(
    word: &str,
    spec: Option<&ServerSpec>,
    names: &Names,
    listen_port: Option<u16>,
) -> Result<Option<Server>, String> {
    spec.map(|spec| resolved(spec, listen_port, names))
        .transpose()
        .map_err(|why| format!("{word}: {why}"))
}

/// Whether the file says that it names all servers (`servers_only`); `None` if it does not say.
pub fn names_all(file: &[SourcedCommand]) -> Option<bool> {
    file.iter().rev().find_map(|placed| match placed.command {
        Command::Switch(Switch::ServersOnly, on) => Some(on),
        _ => None,
    })
}

/// Removes the servers that a file does not name, if the file says that it names all.
pub(crate) fn keep_named(servers: &mut [Option<Server>], file: &[SourcedCommand]) {
    if names_all(file) != Some(true) {
        return;
    }
    let number = |placed: &SourcedCommand| match placed.command {
        Command::Server { number, .. } => Some(number as usize),
        _ => None,
    };
    let named: BTreeSet<usize> = file.iter().filter_map(number).collect();
    for (_, server) in servers.iter_mut().enumerate().filter(|(number, _)| !named.contains(number))
    {
        *server = None;
    }
}

/// The present value of a table size, which cannot become smaller while pen runs; `None` for any
/// other number.
pub fn present(settings: &Settings, which: Number) -> Option<u32> {
    match which {
        Number::ClientsMax => Some(settings.clients_max),
        Number::ConnMax => Some(settings.connections_max),
        Number::AcceptBatch
        | Number::Backlog
        | Number::Blacklist
        | Number::ClientAcl
        | Number::ControlAcl
        | Number::Debug
        | Number::IdleTimeout
        | Number::Idlers
        | Number::MaxServers
        | Number::PendingMax
        | Number::Timeout
        | Number::Tracking
        | Number::Workers => None,
    }
}

/// The settings after a reload (HUP): the settings in force, changed by all commands of the file or
/// by none. An access list that the file mentions is built anew: from the `-O` entries, which are
/// in `options`, and then from the file's entries.
///
/// # Errors
/// One error for each command that cannot take effect.
pub fn reload(
    running: &Settings,
    options: &[SourcedCommand],
    file: &[SourcedCommand],
    names: &Names,
    listen_port: Option<u16>,
) -> Result<Settings, Vec<ConfigurationError>> {
    let mut settings = running.clone();
    let mentioned = file.iter().filter_map(|placed| match placed.command {
        Command::Acl { list, .. } | Command::NoAcl(list) => Some(usize::from(list)),
        _ => None,
    });
    keep_named(&mut settings.servers, file);
    let given = lists(options);
    for list in mentioned.collect::<BTreeSet<_>>() {
        if let (Some(acl), Some(given)) = (settings.acls.get_mut(list), given.get(list)) {
            acl.clone_from(given);
        }
    }
    for which in [Number::ClientsMax, Number::ConnMax] {
        // The last value counts, as at the start; a smaller one needs a restart.
        if let Some(wanted) =
            last_number(file, which).filter(|wanted| Some(*wanted) > present(&settings, which))
        {
            number(&mut settings, which, wanted);
        }
    }
    let others = file.iter().filter(|placed| !grows(&placed.command));
    let errors = apply_all(&mut settings, others, names, listen_port);
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// Whether the command sets the size of a table. At the start it can also make the table smaller.
pub fn grows(command: &Command) -> bool {
    matches!(command, Command::Number(Number::ClientsMax | Number::ConnMax, _))
}

/// The last value of a number in a file.
pub fn last_number(file: &[SourcedCommand], which: Number) -> Option<u32> {
    file.iter().rev().find_map(|placed| match placed.command {
        Command::Number(said, value) if said == which => value,
        _ => None,
    })
}

/// Applies commands of a file in order; returns the errors, each with its source line.
pub fn apply_all<'c>(
    settings: &mut Settings,
    commands: impl IntoIterator<Item = &'c SourcedCommand>,
    names: &Names,
    listen_port: Option<u16>,
) -> Vec<ConfigurationError> {
    let one = |SourcedCommand { source_line, command }: &SourcedCommand| {
        let taken = only_at_the_control_port(command)
            .and_then(|()| apply(settings, command, names, listen_port));
        let at = if source_line.is_empty() { String::new() } else { format!("{source_line}: ") };
        taken.err().map(|why| ConfigurationError(at + &why))
    };
    commands.into_iter().filter_map(one).collect()
}

/// Refuses, in a file, a command that is not a setting: it would run at every start. Commands that
/// only show something were already refused when the file was read.
fn only_at_the_control_port(command: &Command) -> Result<(), String> {
    match command.nature() {
        Nature::Sets | Nature::Shows => Ok(()),
        Nature::Does => {
            let line = command.to_string();
            let word = line.split(' ').next().unwrap_or_default();
            Err(format!("{word}: only the control port takes this command"))
        }
    }
}

/// The access lists that these commands build.
fn lists(commands: &[SourcedCommand]) -> [Acl; LISTS] {
    let mut settings = Settings::default();
    for SourcedCommand { command, .. } in commands {
        if let Command::Acl { .. } | Command::NoAcl(_) = command {
            // These commands already took effect at the start, so they cannot fail now.
            let _ = apply(&mut settings, command, &Names::default(), None);
        }
    }
    settings.acls
}

/// The server that a command blacklists, and the time in seconds.
pub fn blacklisting(command: &Command) -> Option<(ServerId, u32)> {
    let Command::Server { number, changes } = command else { return None };
    let seconds = changes.iter().rev().find_map(|change| match change {
        ServerChange::Blacklist(seconds) => Some(*seconds),
        _ => None,
    });
    Some((ServerId(u16::try_from(*number).ok()?), seconds?))
}

/// The names that must be resolved before the command can take effect. The names of `log` are not
/// included, because its service is a UDP service.
pub fn lookups(command: &Command) -> Vec<Lookup> {
    match command {
        Command::Listen(Some(local)) => of_local(local),
        Command::Startup(Startup::Control(Some(local))) => of_local(local),
        Command::Server { changes, .. } => changes.iter().filter_map(of_change).collect(),
        Command::Emergency(Some(spec)) | Command::Abuse(Some(spec)) => {
            of_host(&spec.host).into_iter().chain(spec.port.as_ref().and_then(of_service)).collect()
        }
        _ => Vec::new(),
    }
}

pub(crate) fn of_local(local: &Local) -> Vec<Lookup> {
    match local {
        Local::Inet { host, port } => {
            host.iter().filter_map(of_host).chain(of_service(port)).collect()
        }
        Local::Unix(_) => Vec::new(),
    }
}

pub(crate) fn of_host(host: &Host) -> Option<Lookup> {
    match host {
        Host::Zoned(ip, zone) => Some(Lookup::Host(zoned(*ip, zone))),
        Host::Name(name) => Some(Lookup::Host(name.clone())),
        Host::Ip(_) | Host::Unix(_) => None,
    }
}

pub(crate) fn of_service(service: &Service) -> Option<Lookup> {
    match service {
        Service::Name(name) => Some(Lookup::Service(name.clone())),
        Service::Port(_) => None,
    }
}

fn of_change(change: &ServerChange) -> Option<Lookup> {
    match change {
        ServerChange::Address(host) => of_host(host),
        ServerChange::Port(service) => of_service(service),
        _ => None,
    }
}

/// The setting of a switch; `None` if the switch belongs to the file or to the start.
fn switch(settings: &mut Settings, which: Switch) -> Option<&mut bool> {
    Some(match which {
        Switch::Ascii => &mut settings.ascii,
        Switch::Dummy => &mut settings.dummy,
        Switch::Hash => &mut settings.selection.hash,
        Switch::HashAlways => &mut settings.selection.hash_always,
        Switch::Keepalive => &mut settings.keepalive,
        Switch::Prio => &mut settings.selection.prio,
        Switch::RequireClientCert => &mut settings.tls.required,
        Switch::Roundrobin => &mut settings.selection.roundrobin,
        Switch::ServersOnly => return None,
        Switch::Stubborn => &mut settings.selection.stubborn,
        Switch::TcpNodelay => &mut settings.tcp_nodelay,
        Switch::Weight => &mut settings.selection.weight,
    })
}

/// Sets a number. The parser keeps every number in its range.
fn number(settings: &mut Settings, which: Number, value: u32) {
    let list = || u8::try_from(value).unwrap_or(0);
    match which {
        Number::AcceptBatch => settings.accept_batch = value,
        Number::Backlog => settings.backlog = value,
        Number::Blacklist => settings.blacklist = value,
        Number::ClientAcl => settings.client_acl = list(),
        Number::ClientsMax => settings.clients_max = value,
        Number::ConnMax => settings.connections_max = value,
        Number::ControlAcl => settings.control_acl = list(),
        Number::Debug => settings.debug = u8::try_from(value).unwrap_or(u8::MAX),
        Number::IdleTimeout => settings.idle_timeout = value,
        Number::Idlers => settings.idlers = value,
        Number::PendingMax => settings.pending_max = value,
        Number::Timeout => settings.connect_timeout = value,
        Number::Tracking => settings.tracking = value,
        // Only a start can change the workers and the server table; the supervisor replies so.
        Number::MaxServers | Number::Workers => {}
    }
}

/// The server after its changes, applied in order, all checked.
fn server(
    before: Option<&Server>,
    number: u32,
    changes: &[ServerChange],
    names: &Names,
    listen_port: Option<u16>,
) -> Result<Server, String> {
    let what = || format!("server: number {number}");
    let failed = |why: ConfigurationError| why.to_string();
    let mut port = match before.map(|server| &server.address) {
        Some(Address::Inet(address)) => Some(address.port()),
        Some(Address::Unix(_)) | None => listen_port,
    };
    let mut host = None;
    let mut server = before.cloned().unwrap_or(Server::at(Address::Unix(Default::default())));
    for change in changes {
        match change {
            ServerChange::Acl(list) => server.acl = *list,
            ServerChange::Address(given) => host = Some(given),
            ServerChange::Blacklist(_) => {}
            ServerChange::Hard(limit) => server.hard = *limit,
            ServerChange::Max(limit) => server.soft = *limit,
            ServerChange::Port(service) => {
                port = Some(resolve_port(service, names, what).map_err(failed)?);
                server.service = service.name();
            }
            ServerChange::Prio(prio) => server.prio = *prio,
            ServerChange::Weight(weight) => server.weight = *weight,
        }
    }
    let port = || port.ok_or_else(|| format!("{}: the port is missing", what()));
    match (host, before) {
        (Some(host), _) => server_addresses(host, port, names, what, failed)?.give_to(&mut server),
        (None, Some(Server { address: Address::Inet(_), .. })) => server.set_port(port()?),
        (None, Some(_)) => {}
        (None, None) => {
            return Err(format!(
                "{} has no address yet; give it one: server {number} address ...",
                what()
            ));
        }
    }
    Ok(server)
}

#[cfg(test)]
mod tests;
