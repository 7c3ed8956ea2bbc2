//! Applies commands to the [`Settings`]. This is the only module that changes settings by commands.
//!
//! This module is pure: the names are resolved before, and nothing is opened. Every function checks
//! the whole command before it changes anything.

use std::collections::BTreeSet;

use crate::ConfigurationError;
use crate::acl::{Acl, LISTS, MAX_ENTRIES};
use crate::address::Address;
use crate::apply::names_followed::{follow, make_room, set_keys};
use crate::checks::ServersFrom;
use crate::command::{
    BufferSide, Command, Number, ServerChange, Setting, SourcedCommand, Startup, Switch, last,
};
use crate::followed::{Record, retain_followed};
use crate::grammar::ServerSpec;
use crate::ids::ServerId;
use crate::names::{
    Lookup, Names, of_host, of_local, of_service, resolve_port, resolved, server_addresses,
};
use crate::settings::{Server, Settings};

mod names_followed;

/// Applies one command to `settings`. What is not in [`Settings`], such as the log or the listen
/// address, is not changed here: the supervisor carries it out. The same holds for `blacklist`
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
    setting: &Setting,
    names: &Names,
    listen_port: Option<u16>,
) -> Result<(), String> {
    match setting {
        Setting::Acl { list, verdict, net } => {
            let acl = settings.acls.get_mut(usize::from(*list)).ok_or("acl: no such list")?;
            if !acl.push(*verdict, *net) {
                return Err(format!("acl: list {list} is full, it has {MAX_ENTRIES} entries"));
            }
        }
        Setting::NoAcl(list) => {
            *settings.acls.get_mut(usize::from(*list)).ok_or("acl: no such list")? = Acl::default();
        }
        Setting::Switch(which, on) => {
            if let Some(present) = switch(settings, *which) {
                *present = *on;
            }
        }
        Setting::Number(which, value) => {
            let present = which.value(settings).filter(|_| Number::GROWING.contains(which));
            if let Some(present) = present.filter(|present| value < present) {
                let word = which.word();
                return Err(format!(
                    "{word}: {value} is below {present}, which is in force: it only grows"
                ));
            }
            set_number(settings, *which, *value);
        }
        Setting::Http(http) => settings.http = *http,
        Setting::Server { number, changes } => {
            let slots = settings.servers.len();
            if set_keys(settings, *number, changes)? {
                return Ok(());
            }
            let slot =
                settings.servers.get_mut(*number as usize).ok_or_else(|| beyond(*number, slots))?;
            *slot = Some(server(slot.as_ref(), *number, changes, names, listen_port)?);
        }
        // A server that follows a name has no address of its own that this could take away.
        Setting::NoServer(number) if settings.followed_by(*number).is_some() => {}
        Setting::NoServer(number) => {
            let slots = settings.servers.len();
            *settings.servers.get_mut(*number as usize).ok_or_else(|| beyond(*number, slots))? =
                None;
        }
        Setting::Emergency(spec) => {
            settings.emergency = backup(setting.word(), spec.as_ref(), names, listen_port)?
        }
        Setting::Abuse(spec) => {
            settings.abuse = backup(setting.word(), spec.as_ref(), names, listen_port)?
        }
        Setting::Certificate(files) => {
            let (certificate, key) =
                files.clone().map_or((None, None), |(file, key)| (Some(file), key));
            (settings.tls.certificate, settings.tls.key) = (certificate, key);
        }
        Setting::ClientCa(paths) => {
            let mut paths = paths.iter().cloned();
            (settings.tls.ca_file, settings.tls.ca_directory) = (paths.next(), paths.next());
        }
        Setting::ServerTlsCa(path) => settings.server_tls.ca.clone_from(path),
        Setting::ServerTlsCert(files) => {
            let (certificate, key) =
                files.clone().map_or((None, None), |(file, key)| (Some(file), key));
            (settings.server_tls.certificate, settings.server_tls.key) = (certificate, key);
        }
        Setting::ServerTlsName(name) => settings.server_tls.name.clone_from(name),
        Setting::Source(address) => settings.source = *address,
        Setting::SocketBuffers(BufferSide::Client, sizes) => settings.buffers.client = *sizes,
        Setting::SocketBuffers(BufferSide::Server, sizes) => settings.buffers.server = *sizes,
        Setting::Fastclose(which) => settings.fastclose = *which,
        Setting::ProxyIn(senders) => settings.proxy_in = senders.clone(),
        Setting::ProxyOut(out) => settings.proxy_out = *out,
        Setting::SslCiphers(list) => {
            settings.tls.suites = list.as_ref().map_or(Vec::new(), |list| list.suites.clone());
        }
        Setting::SslNoTls12 => settings.tls.tls12 = false,
        Setting::SslTls12 => settings.tls.tls12 = true,
        Setting::SslOcsp(path) => settings.tls.ocsp.clone_from(path),
        Setting::SslNames(path) => settings.tls.names.clone_from(path),
        Setting::ConnectionLogFormat(form) => settings.connection_log_format = *form,
        Setting::Check(check) => settings.check.clone_from(check),
        Setting::Maglev(maglev) => settings.selection.maglev = *maglev,
        Setting::OnDown(what) => settings.on_down = *what,
        Setting::PerClientNet(net) => settings.per_client.net = *net,
        Setting::PerClientRate(rate) => settings.per_client.rate = *rate,
        Setting::UnlimitedAcl(list) => settings.per_client.unlimited = *list,
        Setting::ServersFrom(from) => follow(settings, from, names)?,
        Setting::NoServersFrom(name) => {
            settings.servers_from.retain(|present| present.name != *name);
            retain_followed(settings);
        }
        Setting::ConnectionLog(_)
        | Setting::Listen(_)
        | Setting::Log(_)
        | Setting::WebStats(_)
        | Setting::Startup(_) => {}
        // Settings of the original that have no effect here.
        Setting::SslAlways | Setting::SslRenegotiation(_) => {}
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
    let pick = |setting: &Setting| {
        let Setting::Switch(Switch::ServersOnly, on) = setting else { return None };
        Some(*on)
    };
    last(file, pick).map(|(on, _)| on)
}

/// Removes the servers that a file does not name, if the file says that it names all.
pub(crate) fn keep_named(settings: &mut Settings, file: &[SourcedCommand]) {
    if names_all(file) != Some(true) {
        return;
    }
    let of_file = || file.iter().filter_map(SourcedCommand::setting);
    let number = |setting: &Setting| {
        let Setting::Server { number, .. } = setting else { return None };
        Some(*number as usize)
    };
    let follows = |from: &ServersFrom| {
        of_file().any(
            |setting| matches!(setting, Setting::ServersFrom(named) if named.name == from.name),
        )
    };
    settings.servers_from.retain(follows);
    retain_followed(settings);
    let named: BTreeSet<usize> = of_file().filter_map(number).collect();
    for (number, server) in settings.servers.iter_mut().enumerate() {
        let follows = server.as_ref().is_some_and(|server| server.record != Record::Own);
        if !follows && !named.contains(&number) {
            *server = None;
        }
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
    let mentioned = file.iter().filter_map(SourcedCommand::setting).filter_map(list_of);
    keep_named(&mut settings, file);
    make_room(&mut settings, file);
    let given = lists(options);
    for list in mentioned.collect::<BTreeSet<_>>() {
        if let (Some(acl), Some(given)) = (settings.acls.get_mut(list), given.get(list)) {
            acl.clone_from(given);
        }
    }
    for which in Number::GROWING {
        // The last value counts, as at the start; a smaller one needs a restart.
        if let Some(wanted) =
            last_number(file, which).filter(|wanted| Some(*wanted) > which.value(&settings))
        {
            set_number(&mut settings, which, wanted);
        }
    }
    let others = file.iter().filter(|sourced| !grows(sourced));
    let errors = apply_all(&mut settings, others, names, listen_port);
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// Whether the command sets the size of a table. At the start it can also make the table smaller.
pub fn grows(sourced: &SourcedCommand) -> bool {
    let Some(Setting::Number(which, _)) = sourced.setting() else { return false };
    Number::GROWING.contains(which)
}

/// The access list that a setting changes.
fn list_of(setting: &Setting) -> Option<usize> {
    let (Setting::Acl { list, .. } | Setting::NoAcl(list)) = setting else { return None };
    Some(usize::from(*list))
}

/// The last value of a number in a list of commands.
pub(crate) fn last_number(file: &[SourcedCommand], which: Number) -> Option<u32> {
    last(file, |setting| setting.number(which)).map(|(value, _)| value)
}

/// Applies commands of a file in order; returns the errors, each with its source line.
pub fn apply_all<'c>(
    settings: &mut Settings,
    commands: impl IntoIterator<Item = &'c SourcedCommand>,
    names: &Names,
    listen_port: Option<u16>,
) -> Vec<ConfigurationError> {
    let one = |sourced: &SourcedCommand| {
        let applied = match &sourced.command {
            Command::Setting(setting) => apply(settings, setting, names, listen_port),
            // It would run at every start.
            Command::Action(action) => {
                Err(format!("{}: only the control port takes this command", action.word()))
            }
            // Refused when the file was read.
            Command::Query(_) => Ok(()),
        };
        applied.err().map(|why| ConfigurationError(sourced.at() + &why))
    };
    commands.into_iter().filter_map(one).collect()
}

/// The access lists that these commands build.
fn lists(commands: &[SourcedCommand]) -> [Acl; LISTS] {
    let mut settings = Settings::default();
    let of_lists = |setting: &&Setting| list_of(setting).is_some();
    for setting in commands.iter().filter_map(SourcedCommand::setting).filter(of_lists) {
        // These commands already took effect at the start, so they cannot fail now.
        let _ = apply(&mut settings, setting, &Names::default(), None);
    }
    settings.acls
}

/// The server that a setting blacklists, and the time in seconds.
pub fn blacklisting(setting: &Setting) -> Option<(ServerId, u32)> {
    let Setting::Server { number, changes } = setting else { return None };
    let seconds = changes.iter().rev().find_map(|change| {
        let ServerChange::Blacklist(seconds) = change else { return None };
        Some(*seconds)
    });
    Some((ServerId(u16::try_from(*number).ok()?), seconds?))
}

/// The names that must be resolved before the setting can take effect. The names of `log` are not
/// included, because its service is a UDP service.
pub fn lookups(setting: &Setting) -> Vec<Lookup> {
    match setting {
        Setting::Listen(local) => of_local(local),
        Setting::Startup(startup) => match startup {
            Startup::Control(local) | Startup::Page(local) => {
                local.iter().flat_map(of_local).collect()
            }
            Startup::ExitCommand(_)
            | Startup::Jail(_)
            | Startup::PidFile(_)
            | Startup::RequireSandbox(_)
            | Startup::User(_) => Vec::new(),
        },
        Setting::Server { changes, .. } => changes.iter().filter_map(of_change).collect(),
        Setting::Emergency(spec) | Setting::Abuse(spec) => {
            let names = |spec: &ServerSpec| {
                of_host(&spec.host).into_iter().chain(spec.port.as_ref().and_then(of_service))
            };
            spec.iter().flat_map(names).collect()
        }
        Setting::ServersFrom(from) => {
            let records = Lookup::Records(from.name.clone(), from.records);
            of_service(&from.port).into_iter().chain([records]).collect()
        }
        Setting::Acl { .. }
        | Setting::Certificate(_)
        | Setting::Check(_)
        | Setting::ClientCa(_)
        | Setting::ConnectionLog(_)
        | Setting::ConnectionLogFormat(_)
        | Setting::Fastclose(_)
        | Setting::Http(_)
        | Setting::Log(_)
        | Setting::Maglev(_)
        | Setting::NoAcl(_)
        | Setting::NoServer(_)
        | Setting::NoServersFrom(_)
        | Setting::Number(_, _)
        | Setting::OnDown(_)
        | Setting::PerClientNet(_)
        | Setting::PerClientRate(_)
        | Setting::ProxyIn(_)
        | Setting::ProxyOut(_)
        | Setting::ServerTlsCa(_)
        | Setting::ServerTlsCert(_)
        | Setting::ServerTlsName(_)
        | Setting::SocketBuffers(_, _)
        | Setting::Source(_)
        | Setting::SslAlways
        | Setting::SslCiphers(_)
        | Setting::SslNames(_)
        | Setting::SslNoTls12
        | Setting::SslOcsp(_)
        | Setting::SslRenegotiation(_)
        | Setting::SslTls12
        | Setting::Switch(_, _)
        | Setting::UnlimitedAcl(_)
        | Setting::WebStats(_) => Vec::new(),
    }
}

fn of_change(change: &ServerChange) -> Option<Lookup> {
    match change {
        ServerChange::Address(host) => of_host(host),
        ServerChange::Port(service) => of_service(service),
        ServerChange::Acl(_)
        | ServerChange::Blacklist(_)
        | ServerChange::Check(_)
        | ServerChange::Hard(_)
        | ServerChange::Max(_)
        | ServerChange::Prio(_)
        | ServerChange::State(_)
        | ServerChange::Tls(_)
        | ServerChange::Weight(_) => None,
    }
}

/// The setting of a switch; `None` if the switch belongs to the file or to the start.
fn switch(settings: &mut Settings, which: Switch) -> Option<&mut bool> {
    Some(match which {
        Switch::AbuseOver => &mut settings.per_client.abuse_over,
        Switch::Ascii => &mut settings.ascii,
        Switch::Dummy => &mut settings.dummy,
        Switch::FailOpen => &mut settings.fail_open,
        Switch::Hash => &mut settings.selection.hash,
        Switch::HashAlways => &mut settings.selection.hash_always,
        Switch::Keepalive => &mut settings.keepalive,
        Switch::Leastconn => &mut settings.selection.leastconn,
        Switch::P2c => &mut settings.selection.p2c,
        Switch::Prio => &mut settings.selection.prio,
        Switch::RequireClientCert => &mut settings.tls.required,
        Switch::Roundrobin => &mut settings.selection.roundrobin,
        Switch::ServerTls => &mut settings.server_tls.on,
        Switch::ServerTlsVerify => &mut settings.server_tls.verify,
        Switch::ServersOnly => return None,
        Switch::Stubborn => &mut settings.selection.stubborn,
        Switch::TcpNodelay => &mut settings.tcp_nodelay,
        Switch::Weight => &mut settings.selection.weight,
    })
}

/// Sets a number. The parser keeps every number in its range.
pub(crate) fn set_number(settings: &mut Settings, which: Number, value: u32) {
    let list = || u8::try_from(value).unwrap_or(0);
    match which {
        Number::AcceptBatch => settings.accept_batch = value,
        Number::Backlog => settings.backlog = value,
        Number::Blacklist => settings.blacklist = value,
        Number::CheckFall => settings.check_fall = value,
        Number::CheckInterval => settings.check_interval = value,
        Number::CheckRise => settings.check_rise = value,
        Number::CheckTimeout => settings.check_timeout = value,
        Number::ClientAcl => settings.client_acl = list(),
        Number::ClientsMax => settings.clients_max = value,
        Number::ConnMax => settings.connections_max = value,
        Number::ControlAcl => settings.control_acl = list(),
        Number::PageAcl => settings.page_acl = list(),
        Number::Debug => settings.debug = u8::try_from(value).unwrap_or(u8::MAX),
        Number::DrainTimeout => settings.drain_timeout = value,
        Number::Hold => settings.hold = value,
        Number::IdleTimeout => settings.idle_timeout = value,
        Number::Idlers => settings.idlers = value,
        Number::PendingMax => settings.pending_max = value,
        Number::PerClientMax => settings.per_client.max = value,
        Number::Rebalance => settings.rebalance = value,
        Number::Resolve => settings.resolve = value,
        Number::SlowStart => settings.slow_start = value,
        Number::Tarpit => settings.per_client.tarpit = value,
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
            ServerChange::Check(check) => server.check = check.clone(),
            ServerChange::Hard(limit) => server.hard = *limit,
            ServerChange::Max(limit) => server.soft = *limit,
            ServerChange::Port(service) => {
                port = Some(resolve_port(service, names, what).map_err(failed)?);
                server.service = service.name();
            }
            ServerChange::Prio(prio) => server.prio = *prio,
            ServerChange::State(mode) => server.mode = *mode,
            ServerChange::Tls(transport) => server.transport = *transport,
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
