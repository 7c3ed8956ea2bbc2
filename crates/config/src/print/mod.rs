//! Prints the settings as a configuration file for `write`.
//!
//! Every line is a displayed [`Command`], so the text always loads again. Pen can start from the
//! text alone, because it contains the options as commands. As in the original, defaults are
//! omitted, unless the command line sets another value.

mod difference;
pub mod in_force;

use std::path::Path;

use crate::address::{Address, Host, Local, Service};
use crate::command;
use crate::command::{BufferSide, Command, LogTarget, Number, ServerChange, Switch};
use crate::configuration::MIN_SLOTS;
use crate::ids::{ServerId, Target};
use crate::settings::{BufferSizes, Server, Settings, SocketBuffers};
use crate::tls::{SuiteList, Tls};

pub use crate::print::difference::difference;

/// The values to print.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// Comment lines at the beginning of the file.
    pub header: &'a [String],
    /// The settings.
    pub settings: &'a Settings,
    /// The settings of the command line alone. A default is printed if the command line would
    /// change it.
    pub given: &'a Settings,
    /// The request log.
    pub log: Option<&'a LogTarget>,
    /// The file for status reports.
    pub status_file: Option<&'a Path>,
    /// Where pen listens.
    pub listen: Option<&'a Local>,
    /// The number of workers, if a command set it.
    pub workers: Option<u32>,
    /// The settings that only a start can change, if they are set or a command set them.
    pub startup: &'a [Command],
    /// Whether the configuration file names all servers.
    pub servers_only: bool,
}

/// The text of the file, in the order of the original.
pub fn text(state: &Written<'_>) -> String {
    let settings = state.settings;
    let mut text = String::new();
    for line in state.header {
        text.push_str(&format!("# {}\n", line.replace(['\n', '\r'], " ")));
    }
    for command in access_lists(settings).chain(head(settings)) {
        line(&mut text, &command);
    }
    line(&mut text, &Command::Http(settings.http));
    line(&mut text, &state.log.map_or(Command::NoLog, |target| Command::Log(Some(target.clone()))));
    line(&mut text, &Command::Switch(Switch::Roundrobin, settings.selection.roundrobin));
    for (id, definition) in settings.configured() {
        line(&mut text, &server(id, definition, state.given.target(Target::Server(id))));
    }
    for command in middle(settings) {
        line(&mut text, &command);
    }
    line(
        &mut text,
        &state.status_file.map_or(Command::NoWebStats, |path| Command::WebStats(Some(path.into()))),
    );
    line(&mut text, &Command::Switch(Switch::Weight, settings.selection.weight));
    line(&mut text, &Command::Switch(Switch::Prio, settings.selection.prio));
    for command in
        additions(state).chain(tls(&settings.tls, &state.given.tls)).chain(one_file(state))
    {
        line(&mut text, &command);
    }
    text
}

/// Adds the line of a command. A path with a space or a line end is not a valid word; only the
/// command line can give it. Such a path is omitted, and a comment says so.
pub(crate) fn line(text: &mut String, command: &Command) {
    let line = command.to_string();
    if !line.contains('\n') && command::parse(&line).as_ref() == Ok(command) {
        text.push_str(&format!("{line}\n"));
    } else {
        text.push_str(&format!("# not expressible as a command: {}\n", line.escape_debug()));
    }
}

pub(crate) fn access_lists(settings: &Settings) -> impl Iterator<Item = Command> {
    (0u8..).zip(&settings.acls).flat_map(|(list, acl)| {
        let entries = acl.entries().iter().map(move |(verdict, net)| Command::Acl {
            list,
            verdict: *verdict,
            net: *net,
        });
        std::iter::once(Command::NoAcl(list)).chain(entries)
    })
}

fn number(which: Number, value: u32) -> Command {
    Command::Number(which, Some(value))
}

/// The commands before the log.
fn head(settings: &Settings) -> [Command; 6] {
    [
        Command::Switch(Switch::Ascii, settings.ascii),
        number(Number::Blacklist, settings.blacklist),
        number(Number::ClientAcl, settings.client_acl.into()),
        number(Number::ControlAcl, settings.control_acl.into()),
        number(Number::Debug, settings.debug.into()),
        Command::Switch(Switch::Hash, settings.selection.hash),
    ]
}

/// The commands between the servers and the status file.
fn middle(settings: &Settings) -> [Command; 5] {
    [
        Command::Switch(Switch::Stubborn, settings.selection.stubborn),
        Command::Fastclose(settings.fastclose),
        Command::Switch(Switch::TcpNodelay, settings.tcp_nodelay),
        number(Number::Timeout, settings.connect_timeout),
        number(Number::Tracking, settings.tracking),
    ]
}

/// Settings that the original does not write, if they differ from the default or from the command
/// line.
fn additions(state: &Written<'_>) -> impl Iterator<Item = Command> {
    let (now, given, default) = (state.settings, state.given, Settings::default());
    let set = |which, value: fn(&Settings) -> u32| {
        let is_plain = value(now) == value(&default) && value(given) == value(&default);
        (!is_plain).then_some(number(which, value(now)))
    };
    let switched =
        |which, now: bool, given: bool| (now || given).then_some(Command::Switch(which, now));
    let buffers = |side: fn(&SocketBuffers) -> BufferSizes| {
        let plain = |settings: &Settings| side(&settings.buffers) == BufferSizes::default();
        (!plain(now) || !plain(given)).then(|| side(&now.buffers))
    };
    let receives = [now, given].iter().any(|settings| settings.proxy_in != default.proxy_in);
    let sends = [now, given].iter().any(|settings| settings.proxy_out != default.proxy_out);
    [
        set(Number::IdleTimeout, |settings| settings.idle_timeout),
        set(Number::PendingMax, |settings| settings.pending_max),
        set(Number::Backlog, |settings| settings.backlog),
        switched(Switch::Keepalive, now.keepalive, given.keepalive),
        now.source.or(given.source).map(|_| Command::Source(now.source)),
        buffers(|of| of.client).map(|sizes| Command::SocketBuffers(BufferSide::Client, sizes)),
        buffers(|of| of.server).map(|sizes| Command::SocketBuffers(BufferSide::Server, sizes)),
        receives.then(|| Command::ProxyIn(now.proxy_in.clone())),
        sends.then_some(Command::ProxyOut(now.proxy_out)),
        switched(Switch::Dummy, now.dummy, given.dummy),
        set(Number::Idlers, |settings| settings.idlers),
        set(Number::ClientsMax, |settings| settings.clients_max),
        set(Number::ConnMax, |settings| settings.connections_max),
        state.workers.map(|workers| number(Number::Workers, workers)),
        state.listen.map(|local| Command::Listen(Some(local.clone()))),
    ]
    .into_iter()
    .flatten()
}

/// The TLS settings that commands can express, if they differ from the default or from the command
/// line.
fn tls(tls: &Tls, given: &Tls) -> impl Iterator<Item = Command> {
    let list = (!tls.suites.is_empty())
        .then(|| SuiteList { suites: tls.suites.clone(), unknown: Vec::new() });
    let suites = (list.is_some() || !given.suites.is_empty()).then_some(Command::SslCiphers(list));
    let only_new = (!tls.tls12).then_some(Command::SslNoTls12);
    let both = (tls.tls12 && !given.tls12).then_some(Command::SslTls12);
    let ocsp =
        tls.ocsp.as_ref().or(given.ocsp.as_ref()).map(|_| Command::SslOcsp(tls.ocsp.clone()));
    let names =
        tls.names.as_ref().or(given.names.as_ref()).map(|_| Command::SslNames(tls.names.clone()));
    [suites, only_new, both, ocsp, names].into_iter().flatten()
}

/// The settings that are only options in the original, if they differ from the default or from the
/// command line.
fn one_file(state: &Written<'_>) -> impl Iterator<Item = Command> {
    let (now, given, default) = (state.settings, state.given, Settings::default());
    let set = |part: fn(&Settings) -> bool, command: Command| {
        (part(now) || part(given)).then_some(command)
    };
    let always = now.selection.hash_always;
    let batch = [now, given].iter().any(|settings| settings.accept_batch != default.accept_batch);
    let gone = given.configured().filter(|(id, _)| now.target(Target::Server(*id)).is_none());
    let gone: Vec<Command> = gone.map(|(id, _)| Command::NoServer(id.0.into())).collect();
    let is_size = |command: &&Command| matches!(command, Command::Number(Number::MaxServers, _));
    let sized = state.startup.iter().any(|command| is_size(&command));
    let needed = now.server_count().max(MIN_SLOTS);
    [
        batch.then(|| number(Number::AcceptBatch, now.accept_batch)),
        (sized || now.table_size() != needed).then(|| number(Number::MaxServers, now.table_size())),
        set(|settings| settings.selection.hash_always, Command::Switch(Switch::HashAlways, always)),
        set(|settings| settings.tls.certificate.is_some(), in_force::certificate(&now.tls)),
        set(
            |settings| settings.tls.ca_file.is_some() || settings.tls.ca_directory.is_some(),
            in_force::client_ca(&now.tls),
        ),
        set(
            |settings| settings.tls.required,
            Command::Switch(Switch::RequireClientCert, now.tls.required),
        ),
        set(
            |settings| settings.emergency.is_some(),
            Command::Emergency(now.emergency.as_ref().map(in_force::spec)),
        ),
        set(
            |settings| settings.abuse.is_some(),
            Command::Abuse(now.abuse.as_ref().map(in_force::spec)),
        ),
        state.servers_only.then_some(Command::Switch(Switch::ServersOnly, true)),
    ]
    .into_iter()
    .flatten()
    .chain(gone)
    .chain(state.startup.iter().filter(move |command| !is_size(command)).cloned())
}

/// A server's address as the operator gave it. A number would lose the other addresses, the
/// interface or a later answer of the resolver.
pub(crate) fn address_of(server: &Server) -> Vec<ServerChange> {
    let (host, port) = where_it_is(server);
    vec![ServerChange::Address(host), ServerChange::Port(port)]
}

/// Host and port as the operator gave them.
pub(crate) fn where_it_is(server: &Server) -> (Host, Service) {
    let host = match (&server.given, &server.address) {
        (Some(host), _) => host.clone(),
        (None, Address::Inet(address)) => Host::Ip(address.ip()),
        (None, Address::Unix(path)) => Host::Unix(path.clone()),
    };
    let number = Service::Port(server.address.port());
    (host, server.service.clone().map_or(number, Service::Name))
}

fn server(id: ServerId, server: &Server, given: Option<&Server>) -> Command {
    let mut changes = vec![ServerChange::Acl(server.acl)];
    changes.extend(address_of(server));
    changes.extend([ServerChange::Max(server.soft), ServerChange::Hard(server.hard)]);
    let differs = |plain: fn(&Server) -> bool| !plain(server) || !given.is_none_or(plain);
    if differs(|server| server.weight == DEFAULT_WEIGHT) {
        changes.push(ServerChange::Weight(server.weight));
    }
    if differs(|server| server.prio == 0) {
        changes.push(ServerChange::Prio(server.prio));
    }
    Command::Server { number: id.0.into(), changes }
}

/// The weight of a server without a given weight.
const DEFAULT_WEIGHT: u32 = 1;

#[cfg(test)]
mod tests;
