//! Prints all settings in force as commands of a configuration file, for `show` and `--check
//! --show`.
//!
//! Unlike `write`, it also prints the defaults and the settings of the command line.

use std::path::Path;

use crate::address::{Host, Local};
use crate::checks::{Admission, Records};
use crate::command::{
    BufferSide, ConnectionLogTarget, LogTarget, Number, Offered, ServerChange, Setting, Startup,
    Switch, is_offered,
};
use crate::grammar::ServerSpec;
use crate::ids::{ServerId, Target};
use crate::print;
use crate::settings::{Server, Settings};
use crate::tls::servers::ServerTls;
use crate::tls::{Suite, SuiteList, Tls};

/// The settings in force, and the values that are not part of [`Settings`].
#[derive(Clone, Copy, Debug)]
pub struct InForce<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The settings that only a start can change: one of each kind.
    pub startup: &'a [Startup],
    /// The listen address as the operator wrote it.
    pub listen: &'a Local,
    /// The request log.
    pub log: Option<&'a LogTarget>,
    /// The connection log.
    pub connection_log: Option<&'a ConnectionLogTarget>,
    /// The file for status reports.
    pub status_file: Option<&'a Path>,
    /// How many workers there are.
    pub workers: u32,
    /// Whether the configuration file names all servers.
    pub servers_only: bool,
}

impl InForce<'_> {
    /// One line for each setting, or only the lines of the setting `word`, which may have a number
    /// after it.
    pub fn text(&self, word: Option<&str>) -> String {
        self.text_of(word, Offered::Built)
    }

    fn text_of(&self, word: Option<&str>, offered: Offered) -> String {
        // Two words for the same setting.
        let word = word.map(|word| if word == "status_file" { "web_stats" } else { word });
        let mut text = String::new();
        for mut setting in self.all() {
            if let Setting::Server { changes, .. } = &mut setting {
                changes.retain(|change| offered.has_key(change.key()));
            }
            if !is_offered(&setting, offered) {
                continue;
            }
            if word.is_none_or(|word| word == setting.word() || word == numbered(&setting)) {
                print::line(&mut text, &setting);
                if matches!(setting, Setting::SslCiphers(None)) {
                    // The line alone does not show which suites are the default.
                    let all = SuiteList { suites: Suite::ALL.to_vec(), unknown: Vec::new() };
                    text.insert_str(text.len() - 1, &format!(" # the default: {all}"));
                }
            }
        }
        match self.settings.admission {
            Admission::Paused if word.is_none() => {
                text.push_str("# paused: new clients wait until the command resume\n");
            }
            Admission::Paused | Admission::Open => {}
        }
        text
    }

    /// The settings, in an order that a file accepts.
    fn all(&self) -> Vec<Setting> {
        let settings = self.settings;
        let mut all: Vec<Setting> = self.startup.iter().cloned().map(Setting::Startup).collect();
        all.push(Setting::Switch(Switch::ServersOnly, self.servers_only));
        all.push(Setting::Listen(self.listen.clone()));
        all.extend(self.numbers().map(|(number, value)| Setting::Number(number, value)));
        all.extend(switches(settings).map(|(switch, on)| Setting::Switch(switch, on)));
        all.push(Setting::Http(settings.http));
        all.extend(tls(&settings.tls));
        all.extend(server_tls(&settings.server_tls));
        all.extend(print::access_lists(settings));
        all.push(Setting::Log(self.log.cloned()));
        all.push(Setting::ConnectionLog(self.connection_log.cloned()));
        all.push(Setting::ConnectionLogFormat(settings.connection_log_format));
        all.push(Setting::WebStats(self.status_file.map(Path::to_owned)));
        all.push(Setting::Source(settings.source));
        all.push(Setting::SocketBuffers(BufferSide::Client, settings.buffers.client));
        all.push(Setting::SocketBuffers(BufferSide::Server, settings.buffers.server));
        all.push(Setting::Fastclose(settings.fastclose));
        all.push(Setting::ProxyIn(settings.proxy_in.clone()));
        all.push(Setting::ProxyOut(settings.proxy_out));
        all.push(Setting::Check(settings.check.clone()));
        all.push(Setting::OnDown(settings.on_down));
        all.push(Setting::Maglev(settings.selection.maglev));
        all.push(Setting::PerClientRate(settings.per_client.rate));
        all.push(Setting::PerClientNet(settings.per_client.net));
        all.push(Setting::UnlimitedAcl(settings.per_client.unlimited));
        all.extend(settings.servers_from.iter().cloned().map(Setting::ServersFrom));
        let last = settings.servers_from.iter().map(|from| u32::from(from.last) + 1).max();
        let count = settings.server_count().max(last.unwrap_or(0));
        all.extend((0..count).filter_map(|number| server(number, settings)));
        all.push(Setting::Emergency(settings.emergency.as_ref().map(spec)));
        all.push(Setting::Abuse(settings.abuse.as_ref().map(spec)));
        all
    }

    fn numbers(&self) -> impl Iterator<Item = (Number, u32)> {
        [
            Number::Workers,
            Number::MaxServers,
            Number::Backlog,
            Number::AcceptBatch,
            Number::ConnMax,
            Number::ClientsMax,
            Number::PendingMax,
            Number::Timeout,
            Number::IdleTimeout,
            Number::DrainTimeout,
            Number::Tracking,
            Number::Blacklist,
            Number::ClientAcl,
            Number::ControlAcl,
            Number::PageAcl,
            Number::Debug,
            Number::Idlers,
            Number::CheckInterval,
            Number::CheckTimeout,
            Number::CheckRise,
            Number::CheckFall,
            Number::Hold,
            Number::Rebalance,
            Number::Resolve,
            Number::SlowStart,
            Number::PerClientMax,
            Number::Tarpit,
        ]
        .into_iter()
        .map(|number| (number, number.value(self.settings).unwrap_or(self.workers)))
    }
}

fn switches(settings: &Settings) -> impl Iterator<Item = (Switch, bool)> + use<> {
    let selection = settings.selection;
    [
        (Switch::Roundrobin, selection.roundrobin),
        (Switch::Hash, selection.hash),
        (Switch::HashAlways, selection.hash_always),
        (Switch::Weight, selection.weight),
        (Switch::Prio, selection.prio),
        (Switch::Leastconn, selection.leastconn),
        (Switch::P2c, selection.p2c),
        (Switch::Stubborn, selection.stubborn),
        (Switch::Keepalive, settings.keepalive),
        (Switch::TcpNodelay, settings.tcp_nodelay),
        (Switch::Ascii, settings.ascii),
        (Switch::Dummy, settings.dummy),
        (Switch::FailOpen, settings.fail_open),
        (Switch::AbuseOver, settings.per_client.abuse_over),
    ]
    .into_iter()
}

fn tls(tls: &Tls) -> [Setting; 7] {
    let suites = (!tls.suites.is_empty())
        .then(|| SuiteList { suites: tls.suites.clone(), unknown: Vec::new() });
    [
        certificate(tls),
        client_ca(tls),
        Setting::Switch(Switch::RequireClientCert, tls.required),
        if tls.tls12 { Setting::SslTls12 } else { Setting::SslNoTls12 },
        Setting::SslCiphers(suites),
        Setting::SslOcsp(tls.ocsp.clone()),
        Setting::SslNames(tls.names.clone()),
    ]
}

/// The settings of TLS towards servers.
pub(super) fn server_tls(tls: &ServerTls) -> [Setting; 5] {
    [
        Setting::Switch(Switch::ServerTls, tls.on),
        Setting::Switch(Switch::ServerTlsVerify, tls.verify),
        Setting::ServerTlsName(tls.name.clone()),
        Setting::ServerTlsCa(tls.ca.clone()),
        server_certificate(tls),
    ]
}

/// The setting of the certificate that servers may ask for.
pub fn server_certificate(tls: &ServerTls) -> Setting {
    Setting::ServerTlsCert(tls.certificate.clone().map(|file| (file, tls.key.clone())))
}

/// The setting of the certificate's path.
pub fn certificate(tls: &Tls) -> Setting {
    Setting::Certificate(tls.certificate.clone().map(|file| (file, tls.key.clone())))
}

/// The setting of the authorities of client certificates.
pub fn client_ca(tls: &Tls) -> Setting {
    Setting::ClientCa(tls.ca_file.iter().chain(&tls.ca_directory).cloned().collect())
}

/// The setting that defines the server of this number; none for an empty slot that follows a name.
fn server(number: u32, settings: &Settings) -> Option<Setting> {
    let id = u16::try_from(number).ok();
    if let Some((slot, from)) = id.and_then(|id| Some((id, settings.followed(ServerId(id))?))) {
        let is_empty = settings.target(Target::Server(ServerId(slot))).is_none();
        if is_empty && !settings.vacant.contains_key(&slot) {
            return None;
        }
        let mut changes: Vec<_> = print::key_changes(&settings.slot_keys(from, slot)).into();
        match from.records {
            Records::Addresses => {}
            Records::Srv => changes.retain(|change| {
                !matches!(change, ServerChange::Weight(_) | ServerChange::Prio(_))
            }),
        }
        return Some(Setting::Server { number, changes });
    }
    let Some(server) = settings.servers.get(number as usize).and_then(Option::as_ref) else {
        return Some(Setting::NoServer(number));
    };
    let mut changes = print::address_of(server);
    changes.extend([
        ServerChange::Max(server.soft),
        ServerChange::Hard(server.hard),
        ServerChange::Weight(server.weight),
        ServerChange::Prio(server.prio),
        ServerChange::Acl(server.acl),
        ServerChange::State(server.mode),
        ServerChange::Tls(server.transport),
        ServerChange::Check(server.check.clone()),
    ]);
    Some(Setting::Server { number, changes })
}

/// A server in the form that `emergency` and `abuse` take.
pub(crate) fn spec(server: &Server) -> ServerSpec {
    let (host, port) = print::where_it_is(server);
    let port = (!matches!(host, Host::Unix(_))).then_some(port);
    let Server { soft, hard, weight, prio, .. } = *server;
    ServerSpec { host, port, soft, hard, weight, prio }
}

/// The word of a setting, with its number for settings of which there are several.
fn numbered(setting: &Setting) -> String {
    let line = setting.to_string();
    let words = line.strip_prefix("no ").unwrap_or(&line);
    words.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
