//! The checks of a change that need no open file: what an operator may say, what needs a restart,
//! and what a start would warn of.

#![forbid(unsafe_code)]

use std::path::Path;

use pen_config::address::Address;
use pen_config::apply;
use pen_config::command::{Number, Setting, SourcedCommand, Startup, Switch, last};
use pen_config::configuration::{check_server_tls, check_tls, unused_lists, warnings};
use pen_config::ids::ClientKey;
use pen_config::names::Names;
use pen_config::print::in_force::{certificate, client_ca, server_certificate};
use pen_config::settings::Settings;
use pen_ipc::message::Operator;

use crate::event_loop::Supervisor;
use crate::event_loop::reload::configuration::{CommandSource, Configuration};
use crate::files::configuration::{in_order, unknown_suites};
use crate::files::source;
use crate::limits;

impl Supervisor {
    /// Refuses an access list that excludes the operator who sets it: that operator could not undo
    /// it.
    pub(in crate::event_loop::reload) fn admits_who_asks(
        &self,
        settings: &Settings,
    ) -> Result<(), String> {
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
    pub(in crate::event_loop::reload) fn warnings(
        &self,
        configuration: &Configuration,
        moved: Option<&[Address]>,
        settings: &Settings,
    ) -> Vec<String> {
        let here = std::slice::from_ref(&self.state.listen);
        let of = |listen: &[Address], settings: &Settings| {
            let cut = limits::cut_backlog(self.state.longest_backlog, settings.backlog);
            warnings(listen, settings).into_iter().chain(cut).collect::<Vec<_>>()
        };
        if configuration.commands.is_empty() {
            return Vec::new();
        }
        let mut after = of(moved.unwrap_or(here), settings);
        match &configuration.source {
            CommandSource::File => after.extend(unused_lists(settings)),
            CommandSource::Setting(_, _) | CommandSource::Include(_) => {
                let before = of(here, &self.context.settings);
                after.retain(|warning| !before.contains(warning));
            }
        }
        after
    }

    pub(in crate::event_loop::reload) fn new_settings(
        &self,
        configuration: &Configuration,
        names: &Names,
        port: Option<u16>,
    ) -> Result<Settings, Vec<String>> {
        let running = &self.context.settings;
        let changed = match &configuration.source {
            CommandSource::File => {
                apply::reload(running, &self.state.options, &configuration.commands, names, port)
            }
            CommandSource::Setting(_, _) | CommandSource::Include(_) => {
                let mut settings = running.clone();
                let errors = apply::apply_all(&mut settings, &configuration.commands, names, port);
                if errors.is_empty() { Ok(settings) } else { Err(errors) }
            }
        };
        let checked = changed.and_then(|settings| {
            let judged = match (running.tls.is_on(), settings.tls.is_on()) {
                // Only a restart turns TLS off: judge what it would find, not what is left of the
                // TLS that stays on. Other errors were found above.
                (true, false) => {
                    let mut restarted = self.state.given.clone();
                    apply::apply_all(&mut restarted, &configuration.commands, names, port);
                    check_tls(&restarted.tls, &configuration.commands)
                }
                (true, true) | (false, _) => check_tls(&settings.tls, &configuration.commands),
            };
            judged.and_then(|()| check_server_tls(&settings)).map(|()| settings)
        });
        checked.map_err(|errors| {
            in_order(errors.into_iter().map(|error| error.0).collect(), &configuration.commands)
        })
    }

    /// Does the checks that only the supervisor can do; returns warnings for the log.
    pub(in crate::event_loop::reload) fn check(
        &self,
        configuration: &Configuration,
        settings: &Settings,
    ) -> Result<Vec<String>, String> {
        let mut notices: Vec<String> =
            configuration.commands.iter().filter_map(unknown_suites).collect();
        if let CommandSource::File = configuration.source {
            notices.extend(self.kept_sizes(&configuration.commands));
        }
        for sourced in &configuration.commands {
            let Some(setting) = sourced.setting() else { continue };
            if let Setting::Number(Number::Workers, wanted) = setting {
                notices.extend(self.kept_workers(&configuration.source, sourced, *wanted)?);
            } else if let CommandSource::File = configuration.source {
                notices.extend(self.left_to_a_restart(&sourced.at(), setting));
            }
        }
        notices.extend(self.context.jail.sandbox.unreachable(&self.context.settings, settings));
        let source = settings.source.filter(|source| Some(*source) != self.context.settings.source);
        source.map_or(Ok(()), |address| source::check(address, &configuration.commands))?;
        Ok(notices)
    }

    /// The notice or the error about another number of workers.
    fn kept_workers(
        &self,
        source: &CommandSource,
        sourced: &SourcedCommand,
        wanted: u32,
    ) -> Result<Option<String>, String> {
        let (present, at) = (self.pool.ids().count(), sourced.at());
        if usize::try_from(wanted) == Ok(present) {
            return Ok(None);
        }
        match source {
            CommandSource::File => {
                Ok(Some(format!("{at}workers: there are {present}; {wanted} need a restart")))
            }
            CommandSource::Setting(_, _) | CommandSource::Include(_) => {
                Err(format!("{at}workers: there are {present}; another number needs a restart"))
            }
        }
    }

    /// A notice about a command of a file that only takes effect at a restart.
    fn left_to_a_restart(&self, at: &str, setting: &Setting) -> Option<String> {
        if let Setting::Number(Number::MaxServers, wanted) = setting {
            let present = self.context.settings.table_size();
            return (*wanted != present)
                .then(|| format!("{at}max_servers: there are {present}; {wanted} need a restart"));
        }
        let Setting::Startup(wanted) = setting else { return None };
        if self.state.startup.contains(wanted) {
            return None;
        }
        let word = wanted.word();
        let now = self.state.startup.iter().find(|startup| startup.word() == word);
        let now = now.map_or(String::new(), Startup::to_string);
        Some(format!("{at}{wanted}: needs a restart; until then: {now}"))
    }

    /// Notices about commands for TLS that have no effect, because TLS cannot be turned on or off.
    pub(in crate::event_loop::reload) fn kept_tls(
        &self,
        configuration: &Configuration,
        names: &Names,
        wanted: &Settings,
        port: Option<u16>,
    ) -> Vec<String> {
        let running = &self.context.settings;
        let (state, turning) = if wanted.tls.is_on() { ("off", "on") } else { ("on", "off") };
        let about = |placed: &SourcedCommand| {
            let mut changed = running.clone();
            apply::apply_all(&mut changed, [placed], names, port);
            let (at, command) = (placed.at(), &placed.command);
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
        configuration.commands.iter().filter_map(about).collect()
    }

    /// Refuses commands that only the administrator may give, or that have no meaning here.
    pub(in crate::event_loop::reload) fn offer_to_operators(
        &self,
        setting: &Setting,
    ) -> Result<(), String> {
        let settings = &self.context.settings;
        match setting {
            Setting::Number(Number::MaxServers, wanted) if *wanted != settings.table_size() => {
                Err(format!(
                    "max_servers: there are {}; another number needs a \
                    restart",
                    settings.table_size()
                ))
            }
            Setting::Startup(wanted) if !self.state.startup.contains(wanted) => {
                let word = wanted.word();
                Err(format!(
                    "{word}: only a start can give this: put it into the file of -F, and \
                    restart pen"
                ))
            }
            Setting::Certificate(_) if *setting == certificate(&settings.tls) => Ok(()),
            Setting::ClientCa(_) if *setting == client_ca(&settings.tls) => Ok(()),
            Setting::ServerTlsCa(path) if *path == settings.server_tls.ca => Ok(()),
            Setting::ServerTlsCert(_) if *setting == server_certificate(&settings.server_tls) => {
                Ok(())
            }
            Setting::Certificate(_)
            | Setting::ClientCa(_)
            | Setting::ServerTlsCa(_)
            | Setting::ServerTlsCert(_) => {
                let word = setting.word();
                Err(format!(
                    "{word}: only the file of -F can say this, because it is read with the rights \
                     of whoever started pen; then send HUP"
                ))
            }
            Setting::Switch(Switch::RequireClientCert, true) if !settings.tls.is_on() => {
                Err("require_client_cert: means nothing without a certificate".into())
            }
            Setting::Switch(Switch::ServersOnly, on) if *on == self.state.servers_only => Ok(()),
            Setting::Switch(Switch::ServersOnly, _) => {
                Err("servers_only: only the file of -F can say this: it is about the servers in \
                    that file"
                    .into())
            }
            Setting::NoServer(number) if settings.followed_by(*number).is_some() => {
                let from = settings.followed_by(*number).map_or("", |from| from.name.as_str());
                Err(format!(
                    "server: number {number} follows {from}; say no servers_from {from}, or server \
                     {number} state maint"
                ))
            }
            Setting::NoServer(number)
                if settings.servers.get(*number as usize).is_some_and(Option::is_none) =>
            {
                Err(format!("server: there is no server {number}"))
            }
            Setting::NoServersFrom(name)
                if settings.servers_from.iter().all(|from| from.name != *name) =>
            {
                Err(format!("servers_from: no server follows {name}"))
            }
            Setting::SslNames(path) if *path != settings.tls.names => Err(format!(
                "ssl_sni_path: {}: at the control port the directory can only be read again; \
                 another one has to be in the file of -F",
                path.as_deref().unwrap_or(Path::new("none")).display()
            )),
            Setting::Abuse(_)
            | Setting::Acl { .. }
            | Setting::Check(_)
            | Setting::ConnectionLog(_)
            | Setting::ConnectionLogFormat(_)
            | Setting::Emergency(_)
            | Setting::Fastclose(_)
            | Setting::Http(_)
            | Setting::Listen(_)
            | Setting::Log(_)
            | Setting::NoAcl(_)
            | Setting::NoServer(_)
            | Setting::NoServersFrom(_)
            | Setting::Number(_, _)
            | Setting::Maglev(_)
            | Setting::OnDown(_)
            | Setting::PerClientNet(_)
            | Setting::PerClientRate(_)
            | Setting::ProxyIn(_)
            | Setting::ProxyOut(_)
            | Setting::Server { .. }
            | Setting::ServerTlsName(_)
            | Setting::ServersFrom(_)
            | Setting::SocketBuffers(_, _)
            | Setting::Source(_)
            | Setting::SslAlways
            | Setting::SslCiphers(_)
            | Setting::SslNames(_)
            | Setting::SslNoTls12
            | Setting::SslOcsp(_)
            | Setting::SslRenegotiation(_)
            | Setting::SslTls12
            | Setting::Startup(_)
            | Setting::Switch(_, _)
            | Setting::UnlimitedAcl(_)
            | Setting::WebStats(_) => Ok(()),
        }
    }

    /// Notices about tables that a file wants smaller: only a restart can shrink them.
    fn kept_sizes(&self, file: &[SourcedCommand]) -> Vec<String> {
        let kept = |which: Number| {
            let present = which.value(&self.context.settings)?;
            let (wanted, SourcedCommand { source_line, .. }) =
                last(file, |setting| setting.number(which))?;
            let word = which.word();
            (wanted < present).then(|| {
                format!("{source_line}: {word}: there are {present}; {wanted} need a restart")
            })
        };
        Number::GROWING.into_iter().filter_map(kept).collect()
    }
}
