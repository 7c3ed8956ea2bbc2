//! Prints all settings in force as commands of a configuration file, for `show` and `--check
//! --show`.
//!
//! Unlike `write`, it also prints the defaults and the settings of the command line.

use std::path::Path;

use crate::address::{Host, Local};
use crate::command::{BufferSide, Command, LogTarget, Number, ServerChange, Startup, Switch};
use crate::parse::grammar::ServerSpec;
use crate::print;
use crate::settings::{Server, Settings};
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
        // Two words for the same setting.
        let word = word.map(|word| if word == "status_file" { "web_stats" } else { word });
        let mut text = String::new();
        for command in self.commands() {
            if word.is_none_or(|word| word == word_of(&command) || word == numbered(&command)) {
                print::line(&mut text, &command);
                if matches!(command, Command::SslCiphers(None)) {
                    // The line alone does not show which suites are the default.
                    let all = SuiteList { suites: Suite::ALL.to_vec(), unknown: Vec::new() };
                    text.insert_str(text.len() - 1, &format!(" # the default: {all}"));
                }
            }
        }
        text
    }

    /// The commands, in an order that a file accepts.
    fn commands(&self) -> Vec<Command> {
        let settings = self.settings;
        let mut all: Vec<Command> = self.startup.iter().cloned().map(Command::Startup).collect();
        all.push(Command::Switch(Switch::ServersOnly, self.servers_only));
        all.push(Command::Listen(Some(self.listen.clone())));
        all.extend(self.numbers().map(|(number, value)| Command::Number(number, Some(value))));
        all.extend(switches(settings).map(|(switch, on)| Command::Switch(switch, on)));
        all.push(Command::Http(settings.http));
        all.extend(tls(&settings.tls));
        all.extend(print::access_lists(settings));
        all.push(self.log.map_or(Command::NoLog, |target| Command::Log(Some(target.clone()))));
        all.push(
            self.status_file
                .map_or(Command::NoWebStats, |path| Command::WebStats(Some(path.into()))),
        );
        all.push(Command::Source(settings.source));
        all.push(Command::SocketBuffers(BufferSide::Client, settings.buffers.client));
        all.push(Command::SocketBuffers(BufferSide::Server, settings.buffers.server));
        all.push(Command::Fastclose(settings.fastclose));
        all.push(Command::ProxyIn(settings.proxy_in.clone()));
        all.push(Command::ProxyOut(settings.proxy_out));
        all.extend((0..settings.server_count()).map(|number| server(number, settings)));
        all.push(Command::Emergency(settings.emergency.as_ref().map(spec)));
        all.push(Command::Abuse(settings.abuse.as_ref().map(spec)));
        all
    }

    fn numbers(&self) -> impl Iterator<Item = (Number, u32)> + use<> {
        let settings = self.settings;
        [
            (Number::Workers, self.workers),
            (Number::MaxServers, settings.table_size()),
            (Number::Backlog, settings.backlog),
            (Number::AcceptBatch, settings.accept_batch),
            (Number::ConnMax, settings.connections_max),
            (Number::ClientsMax, settings.clients_max),
            (Number::PendingMax, settings.pending_max),
            (Number::Timeout, settings.connect_timeout),
            (Number::IdleTimeout, settings.idle_timeout),
            (Number::Tracking, settings.tracking),
            (Number::Blacklist, settings.blacklist),
            (Number::ClientAcl, settings.client_acl.into()),
            (Number::ControlAcl, settings.control_acl.into()),
            (Number::Debug, settings.debug.into()),
            (Number::Idlers, settings.idlers),
        ]
        .into_iter()
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
        (Switch::Stubborn, selection.stubborn),
        (Switch::Keepalive, settings.keepalive),
        (Switch::TcpNodelay, settings.tcp_nodelay),
        (Switch::Ascii, settings.ascii),
        (Switch::Dummy, settings.dummy),
    ]
    .into_iter()
}

fn tls(tls: &Tls) -> [Command; 7] {
    let suites = (!tls.suites.is_empty())
        .then(|| SuiteList { suites: tls.suites.clone(), unknown: Vec::new() });
    [
        certificate(tls),
        client_ca(tls),
        Command::Switch(Switch::RequireClientCert, tls.required),
        if tls.tls12 { Command::SslTls12 } else { Command::SslNoTls12 },
        Command::SslCiphers(suites),
        Command::SslOcsp(tls.ocsp.clone()),
        Command::SslNames(tls.names.clone()),
    ]
}

/// The command that sets the certificate's path.
pub fn certificate(tls: &Tls) -> Command {
    Command::Certificate(tls.certificate.clone().map(|file| (file, tls.key.clone())))
}

/// The command that sets the authorities of client certificates.
pub fn client_ca(tls: &Tls) -> Command {
    Command::ClientCa(tls.ca_file.iter().chain(&tls.ca_directory).cloned().collect())
}

/// The command that defines the server of this number.
fn server(number: u32, settings: &Settings) -> Command {
    let Some(server) = settings.servers.get(number as usize).and_then(Option::as_ref) else {
        return Command::NoServer(number);
    };
    let mut changes = print::address_of(server);
    changes.extend([
        ServerChange::Max(server.soft),
        ServerChange::Hard(server.hard),
        ServerChange::Weight(server.weight),
        ServerChange::Prio(server.prio),
        ServerChange::Acl(server.acl),
    ]);
    Command::Server { number, changes }
}

/// A server in the form that `emergency` and `abuse` take.
pub(crate) fn spec(server: &Server) -> ServerSpec {
    let (host, port) = print::where_it_is(server);
    let port = (!matches!(host, Host::Unix(_))).then_some(port);
    let Server { soft, hard, weight, prio, .. } = *server;
    ServerSpec { host, port, soft, hard, weight, prio }
}

/// The word of a command, with its number for settings of which there are several.
fn numbered(command: &Command) -> String {
    let line = command.to_string();
    let words = line.strip_prefix("no ").unwrap_or(&line);
    words.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The word of a command; after `no`, the word that follows it.
fn word_of(command: &Command) -> String {
    let line = command.to_string();
    let words = line.strip_prefix("no ").unwrap_or(&line);
    words.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
