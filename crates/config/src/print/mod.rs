//! Prints the settings as a configuration file for `write`.
//!
//! Every line is a displayed [`Setting`], so the text always loads again. Pen can start from the
//! text alone, because it contains the options as commands. As in the original, defaults are
//! omitted, unless the command line sets another value.

mod difference;
pub mod in_force;

use std::path::Path;

use crate::address::{Address, Host, Local, Service};
use crate::checks::{ServerCheck, ServerMode, ServersFrom};
use crate::command;
use crate::command::{
    BufferSide, Command, ConnectionLogTarget, LogTarget, Number, ServerChange, Setting, Switch,
};
use crate::configuration::MIN_SLOTS;
use crate::followed::{Record, SlotKeys};
use crate::ids::{ServerId, Target};
use crate::per_client::PerClient;
use crate::settings::{BufferSizes, Maglev, Server, Settings, SocketBuffers};
use crate::tls::servers::{ServerTls, ServerTransport};
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
    /// The connection log.
    pub connection_log: Option<&'a ConnectionLogTarget>,
    /// The connection log that the command line sets.
    pub given_connection_log: Option<&'a ConnectionLogTarget>,
    /// The file for status reports.
    pub status_file: Option<&'a Path>,
    /// Where pen listens.
    pub listen: Option<&'a Local>,
    /// The number of workers, if a command set it.
    pub workers: Option<u32>,
    /// The settings that only a start can change, if they are set or a command set them.
    pub startup: &'a [Setting],
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
    for setting in access_lists(settings).chain(head(settings)) {
        line(&mut text, &setting);
    }
    line(&mut text, &Setting::Http(settings.http));
    line(&mut text, &Setting::Log(state.log.cloned()));
    line(&mut text, &Setting::Switch(Switch::Roundrobin, settings.selection.roundrobin));
    for setting in names_followed(settings, state.given) {
        line(&mut text, &setting);
    }
    for (id, definition) in settings.configured() {
        if settings.followed(id).is_none() {
            line(&mut text, &server(id, definition, state.given.target(Target::Server(id))));
        }
    }
    for setting in middle(settings) {
        line(&mut text, &setting);
    }
    line(&mut text, &Setting::WebStats(state.status_file.map(Path::to_owned)));
    line(&mut text, &Setting::Switch(Switch::Weight, settings.selection.weight));
    line(&mut text, &Setting::Switch(Switch::Prio, settings.selection.prio));
    for setting in
        additions(state).chain(tls(&settings.tls, &state.given.tls)).chain(original_options(state))
    {
        line(&mut text, &setting);
    }
    text
}

/// Adds the line of a setting. A path with a space or a line end is not a valid word; only the
/// command line can give it. Such a path is omitted, and a comment says so.
pub(crate) fn line(text: &mut String, setting: &Setting) {
    let line = setting.to_string();
    let read = || command::parse_any(&line).ok().flatten();
    if !line.contains('\n') && matches!(read(), Some(Command::Setting(read)) if read == *setting) {
        text.push_str(&format!("{line}\n"));
    } else {
        text.push_str(&format!("# not expressible as a command: {}\n", line.escape_debug()));
    }
}

pub(crate) fn access_lists(settings: &Settings) -> impl Iterator<Item = Setting> {
    (0u8..).zip(&settings.acls).flat_map(|(list, acl)| {
        let entries = acl.entries().iter().map(move |(verdict, net)| Setting::Acl {
            list,
            verdict: *verdict,
            net: *net,
        });
        std::iter::once(Setting::NoAcl(list)).chain(entries)
    })
}

fn number(which: Number, value: u32) -> Setting {
    Setting::Number(which, value)
}

/// The commands before the log.
fn head(settings: &Settings) -> [Setting; 6] {
    [
        Setting::Switch(Switch::Ascii, settings.ascii),
        number(Number::Blacklist, settings.blacklist),
        number(Number::ClientAcl, settings.client_acl.into()),
        number(Number::ControlAcl, settings.control_acl.into()),
        number(Number::Debug, settings.debug.into()),
        Setting::Switch(Switch::Hash, settings.selection.hash),
    ]
}

/// The commands between the servers and the status file.
fn middle(settings: &Settings) -> [Setting; 5] {
    [
        Setting::Switch(Switch::Stubborn, settings.selection.stubborn),
        Setting::Fastclose(settings.fastclose),
        Setting::Switch(Switch::TcpNodelay, settings.tcp_nodelay),
        number(Number::Timeout, settings.connect_timeout),
        number(Number::Tracking, settings.tracking),
    ]
}

/// Settings that the original does not write, if they differ from the default or from the command
/// line.
fn additions(state: &Written<'_>) -> impl Iterator<Item = Setting> {
    let (now, given, default) = (state.settings, state.given, Settings::default());
    let set = |which: Number| {
        let usual = which.value(&default);
        let is_plain = [now, given].iter().all(|settings| which.value(settings) == usual);
        which.value(now).filter(|_| !is_plain).map(|value| Setting::Number(which, value))
    };
    let switched =
        |which, now: bool, given: bool| (now || given).then_some(Setting::Switch(which, now));
    let buffers = |side: fn(&SocketBuffers) -> BufferSizes| {
        let plain = |settings: &Settings| side(&settings.buffers) == BufferSizes::default();
        (!plain(now) || !plain(given)).then(|| side(&now.buffers))
    };
    let receives = [now, given].iter().any(|settings| settings.proxy_in != default.proxy_in);
    let format = [now, given]
        .iter()
        .any(|settings| settings.connection_log_format != default.connection_log_format);
    let sends = [now, given].iter().any(|settings| settings.proxy_out != default.proxy_out);
    [
        set(Number::PageAcl),
        set(Number::IdleTimeout),
        set(Number::DrainTimeout),
        set(Number::PendingMax),
        set(Number::Backlog),
        switched(Switch::Keepalive, now.keepalive, given.keepalive),
        now.source.or(given.source).map(|_| Setting::Source(now.source)),
        buffers(|of| of.client).map(|sizes| Setting::SocketBuffers(BufferSide::Client, sizes)),
        buffers(|of| of.server).map(|sizes| Setting::SocketBuffers(BufferSide::Server, sizes)),
        receives.then(|| Setting::ProxyIn(now.proxy_in.clone())),
        sends.then_some(Setting::ProxyOut(now.proxy_out)),
        state
            .connection_log
            .or(state.given_connection_log)
            .map(|_| Setting::ConnectionLog(state.connection_log.cloned())),
        format.then_some(Setting::ConnectionLogFormat(now.connection_log_format)),
        switched(Switch::Dummy, now.dummy, given.dummy),
        set(Number::Idlers),
        set(Number::ClientsMax),
        set(Number::ConnMax),
        state.workers.map(|workers| number(Number::Workers, workers)),
        state.listen.cloned().map(Setting::Listen),
    ]
    .into_iter()
    .flatten()
    .chain(placement(now, given))
    .chain(health(now, given))
    .chain(server_tls(&now.server_tls, &given.server_tls))
    .chain(limits(now, given))
}

/// The settings of TLS towards servers, if they differ from the default or from the command line.
fn server_tls(now: &ServerTls, given: &ServerTls) -> impl Iterator<Item = Setting> {
    let [on, verify, name, ca, certificate] = in_force::server_tls(now);
    let differs = |is_plain: fn(&ServerTls) -> bool| !is_plain(now) || !is_plain(given);
    [
        (differs(|tls| !tls.on), on),
        (differs(|tls| tls.verify), verify),
        (differs(|tls| tls.name.is_none()), name),
        (differs(|tls| tls.ca.is_none()), ca),
        (differs(|tls| tls.certificate.is_none()), certificate),
    ]
    .into_iter()
    .filter_map(|(differs, setting)| differs.then_some(setting))
}

/// The methods of selection that the original does not have, and the slow start.
fn placement(now: &Settings, given: &Settings) -> impl Iterator<Item = Setting> {
    let slow = now.slow_start > 0 || given.slow_start > 0;
    let slow = slow.then(|| number(Number::SlowStart, now.slow_start));
    let (now, given) = (now.selection, given.selection);
    let is_maglev = [now, given].iter().any(|modes| modes.maglev != Maglev::Off);
    let switched =
        |which, now: bool, given: bool| (now || given).then_some(Setting::Switch(which, now));
    [
        switched(Switch::Leastconn, now.leastconn, given.leastconn),
        switched(Switch::P2c, now.p2c, given.p2c),
        is_maglev.then_some(Setting::Maglev(now.maglev)),
        slow,
    ]
    .into_iter()
    .flatten()
}

/// The limits per client, if they differ from the default or from the command line.
fn limits(now: &Settings, given: &Settings) -> impl Iterator<Item = Setting> {
    let (now, given, usual) = (now.per_client, given.per_client, PerClient::default());
    let differs = |is_plain: &dyn Fn(PerClient) -> bool| !is_plain(now) || !is_plain(given);
    [
        differs(&|limits| limits.max == usual.max)
            .then_some(Setting::Number(Number::PerClientMax, now.max)),
        differs(&|limits| limits.rate == usual.rate).then_some(Setting::PerClientRate(now.rate)),
        differs(&|limits| limits.net == usual.net).then_some(Setting::PerClientNet(now.net)),
        differs(&|limits| limits.tarpit == usual.tarpit)
            .then_some(Setting::Number(Number::Tarpit, now.tarpit)),
        differs(&|limits| limits.abuse_over == usual.abuse_over)
            .then_some(Setting::Switch(Switch::AbuseOver, now.abuse_over)),
        differs(&|limits| limits.unlimited == usual.unlimited)
            .then_some(Setting::UnlimitedAcl(now.unlimited)),
    ]
    .into_iter()
    .flatten()
}

/// The settings of checks, of what they decide, and of names over time, if they differ from the
/// default or from the command line.
fn health(now: &Settings, given: &Settings) -> impl Iterator<Item = Setting> {
    let default = Settings::default();
    let differs = |is_plain: &dyn Fn(&Settings) -> bool| !is_plain(now) || !is_plain(given);
    let set = |which: Number| {
        let value = |settings: &Settings| which.value(settings);
        let is_set = differs(&|settings| value(settings) == value(&default));
        value(now).filter(|_| is_set).map(|value| Setting::Number(which, value))
    };
    [
        differs(&|settings| settings.check.is_none()).then(|| Setting::Check(now.check.clone())),
        set(Number::CheckInterval),
        set(Number::CheckTimeout),
        set(Number::CheckRise),
        set(Number::CheckFall),
        differs(&|settings| settings.on_down == default.on_down)
            .then_some(Setting::OnDown(now.on_down)),
        differs(&|settings| settings.fail_open)
            .then_some(Setting::Switch(Switch::FailOpen, now.fail_open)),
        set(Number::Hold),
        set(Number::Rebalance),
        set(Number::Resolve),
    ]
    .into_iter()
    .flatten()
}

/// The names that servers follow, and what operators set of such servers. It stands before the
/// servers, which can only be set once they follow a name.
fn names_followed(now: &Settings, given: &Settings) -> Vec<Setting> {
    let is_gone =
        |from: &&ServersFrom| now.servers_from.iter().all(|other| other.name != from.name);
    let gone = given.servers_from.iter().filter(is_gone);
    let mut all: Vec<Setting> =
        gone.map(|from| Setting::NoServersFrom(from.name.clone())).collect();
    // Servers of the command line whose numbers follow a name now.
    let own = own_addresses(given).filter(|id| now.followed(*id).is_some());
    all.extend(own.map(|id| Setting::NoServer(id.0.into())));
    for from in &now.servers_from {
        all.push(Setting::ServersFrom(from.clone()));
    }
    for from in &now.servers_from {
        for slot in from.first..=from.last {
            let before = given.followed(ServerId(slot));
            let before = before.map(|from| given.slot_keys(from, slot)).unwrap_or_default();
            let changes = changed_keys(now.slot_keys(from, slot), &before, &SlotKeys::default());
            if !changes.is_empty() {
                all.push(Setting::Server { number: slot.into(), changes });
            }
        }
    }
    all
}

/// The servers with an address of their own.
fn own_addresses(settings: &Settings) -> impl Iterator<Item = ServerId> {
    let own = settings.configured().filter(|(_, server)| server.record == Record::Own);
    own.map(|(id, _)| id)
}

/// The keys of a slot that are not `usual`, or that the command line sets.
fn changed_keys(now: SlotKeys, given: &SlotKeys, usual: &SlotKeys) -> Vec<ServerChange> {
    let [now, given, usual] = [&now, given, usual].map(key_changes);
    let all = now.into_iter().zip(given.into_iter().zip(usual));
    all.filter(|(now, (given, usual))| now != usual || given != usual).map(|(now, _)| now).collect()
}

/// The keys of a slot that follows a name. The check is the last one, because it takes the rest of
/// the line.
pub(crate) fn key_changes(keys: &SlotKeys) -> [ServerChange; 8] {
    [
        ServerChange::Acl(keys.acl),
        ServerChange::Max(keys.soft),
        ServerChange::Hard(keys.hard),
        ServerChange::Weight(keys.weight),
        ServerChange::Prio(keys.prio),
        ServerChange::State(keys.mode),
        ServerChange::Tls(keys.transport),
        ServerChange::Check(keys.check.clone()),
    ]
}

/// The TLS settings that commands can express, if they differ from the default or from the command
/// line.
fn tls(tls: &Tls, given: &Tls) -> impl Iterator<Item = Setting> {
    let list = (!tls.suites.is_empty())
        .then(|| SuiteList { suites: tls.suites.clone(), unknown: Vec::new() });
    let suites = (list.is_some() || !given.suites.is_empty()).then_some(Setting::SslCiphers(list));
    let only_new = (!tls.tls12).then_some(Setting::SslNoTls12);
    let both = (tls.tls12 && !given.tls12).then_some(Setting::SslTls12);
    let ocsp =
        tls.ocsp.as_ref().or(given.ocsp.as_ref()).map(|_| Setting::SslOcsp(tls.ocsp.clone()));
    let names =
        tls.names.as_ref().or(given.names.as_ref()).map(|_| Setting::SslNames(tls.names.clone()));
    [suites, only_new, both, ocsp, names].into_iter().flatten()
}

/// The settings that are only options in the original, if they differ from the default or from the
/// command line.
fn original_options(state: &Written<'_>) -> impl Iterator<Item = Setting> {
    let (now, given, default) = (state.settings, state.given, Settings::default());
    let set = |part: fn(&Settings) -> bool, setting: Setting| {
        (part(now) || part(given)).then_some(setting)
    };
    let always = now.selection.hash_always;
    let batch = [now, given].iter().any(|settings| settings.accept_batch != default.accept_batch);
    let is_gone =
        |id: &ServerId| now.target(Target::Server(*id)).is_none() && now.followed(*id).is_none();
    let gone = own_addresses(given).filter(is_gone);
    let gone: Vec<Setting> = gone.map(|id| Setting::NoServer(id.0.into())).collect();
    let is_size = |setting: &Setting| matches!(setting, Setting::Number(Number::MaxServers, _));
    let sized = state.startup.iter().any(is_size);
    let followed = now.servers_from.iter().map(|from| u32::from(from.last) + 1).max();
    let needed = now.server_count().max(MIN_SLOTS).max(followed.unwrap_or(0));
    [
        batch.then(|| number(Number::AcceptBatch, now.accept_batch)),
        (sized || now.table_size() != needed).then(|| number(Number::MaxServers, now.table_size())),
        set(|settings| settings.selection.hash_always, Setting::Switch(Switch::HashAlways, always)),
        set(|settings| settings.tls.certificate.is_some(), in_force::certificate(&now.tls)),
        set(
            |settings| settings.tls.ca_file.is_some() || settings.tls.ca_directory.is_some(),
            in_force::client_ca(&now.tls),
        ),
        set(
            |settings| settings.tls.required,
            Setting::Switch(Switch::RequireClientCert, now.tls.required),
        ),
        set(
            |settings| settings.emergency.is_some(),
            Setting::Emergency(now.emergency.as_ref().map(in_force::spec)),
        ),
        set(
            |settings| settings.abuse.is_some(),
            Setting::Abuse(now.abuse.as_ref().map(in_force::spec)),
        ),
        state.servers_only.then_some(Setting::Switch(Switch::ServersOnly, true)),
    ]
    .into_iter()
    .flatten()
    .chain(gone)
    .chain(state.startup.iter().filter(move |setting| !is_size(setting)).cloned())
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

fn server(id: ServerId, server: &Server, given: Option<&Server>) -> Setting {
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
    if differs(|server| server.mode == ServerMode::Ready) {
        changes.push(ServerChange::State(server.mode));
    }
    if differs(|server| server.transport == ServerTransport::Default) {
        changes.push(ServerChange::Tls(server.transport));
    }
    // The last one, because it takes the rest of the line.
    if differs(|server| server.check == ServerCheck::Default) {
        changes.push(ServerChange::Check(server.check.clone()));
    }
    Setting::Server { number: id.0.into(), changes }
}

/// The weight of a server without a given weight.
const DEFAULT_WEIGHT: u32 = 1;

#[cfg(test)]
mod tests;
