//! From [`Configuration`] to [`Resolved`]: names are looked up, and everything is checked that
//! needs no open file.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pen_config::address::{Address, Local};
use pen_config::apply;
use pen_config::command::{ConnectionLogTarget, LogTarget, Setting, last};
use pen_config::names::places::settle_epochs;
use pen_config::names::{Names, resolve_local};
use pen_config::settings::Settings;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Progress;
use crate::event_loop::reload::configuration::Configuration;
use crate::event_loop::reload::stages::{
    JailedTarget, OpenTarget, ReloadStage, Resolved, Unopened,
};
use crate::files::configuration::in_order;
use crate::files::line_log::LineLog;
use crate::helpers::names::{FoundAddresses, Inquiry};
use crate::helpers::resolve::{Asking, ResolvePatience};
use crate::limits;

impl Supervisor {
    /// Looks up the names in the commands, and continues.
    pub(in crate::event_loop) fn look_up(
        &mut self,
        configuration: Configuration,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let lookups = configuration.settings().flat_map(apply::lookups).collect();
        let inquiry = Inquiry::new(lookups, configuration.commands.iter());
        let questions = inquiry.questions();
        if questions.is_empty() {
            return match inquiry.found(Vec::new()) {
                Ok(found) => self.resolve(configuration, &found, now),
                Err(why) => self.refuse(&configuration, vec![why]),
            };
        }
        match Asking::begin(questions, &self.resolver_jail(), RESOLVE_PATIENCE) {
            Ok(asking) => {
                Progress::Wait(ReloadStage::Asking(asking, inquiry, Box::new(configuration)))
            }
            Err(unasked) => self.refuse(&configuration, vec![unasked.to_string()]),
        }
    }

    /// Checks everything that needs no open file, and continues.
    pub(in crate::event_loop::reload) fn resolve(
        &mut self,
        configuration: Configuration,
        found: &FoundAddresses,
        now: Instant,
    ) -> Progress<ReloadStage> {
        self.names.supersede(&found.names);
        match self.checked(&configuration, found) {
            Ok((settings, unopened, notices)) => {
                let resolved = Resolved { configuration, settings, unopened, notices };
                self.open_ocsp(resolved, now)
            }
            Err(errors) => self.refuse(&configuration, errors),
        }
    }

    /// Does the checks. Returns the new settings, what is to be opened, and notices.
    fn checked(
        &self,
        configuration: &Configuration,
        found: &FoundAddresses,
    ) -> Result<(Settings, Vec<Unopened>, Vec<String>), Vec<String>> {
        let one = |why: String| vec![why];
        let (running, names) = (&self.context.settings, &found.names);
        let address = self.new_address(configuration, names).map_err(one)?;
        let addresses = address.as_ref().map(|(_, addresses, _)| &addresses[..]);
        let port = addresses
            .map_or(self.state.port(), |addresses| addresses.first().and_then(Address::inet_port));
        if configuration.source.is_operator() {
            let mut settings = configuration.settings();
            settings.try_for_each(|setting| self.offer_to_operators(setting)).map_err(one)?;
        }
        let mut settings = self.new_settings(configuration, names, port)?;
        let unanswered = self.assign_records(configuration, &mut settings, names)?;
        self.admits_who_asks(&settings).map_err(one)?;
        let mut notices = self.check(configuration, &settings).map_err(one)?;
        notices.extend(unanswered);
        notices.extend(self.warnings(configuration, addresses, &settings));
        if settings.tls.is_on() != running.tls.is_on() {
            notices.extend(self.kept_tls(configuration, names, &settings, port));
            settings.tls.clone_from(&running.tls);
        }
        let has_any =
            |settings: &Settings| settings.server_count() > 0 || settings.emergency.is_some();
        if has_any(running) && !has_any(&settings) && !settings.dummy {
            return Err(one("server: none would be left; give another one first (server, \
                            servers_from), or an emergency server"
                .into()));
        }
        settings.generation = running.generation + 1;
        settle_epochs(running, &mut settings);
        let mut notices = in_order(notices, &configuration.commands);
        if settings.connections_max > running.connections_max {
            let limit = self.context.descriptor_limit;
            notices.extend(limits::too_few_descriptors(limit, settings.connections_max));
        }
        let unopened = self.unopened(configuration, found, address).map_err(one)?;
        Ok((settings, unopened, notices))
    }

    /// The listen address as it is written, its addresses, and the source line, if the commands
    /// change the address and are allowed to.
    fn new_address(
        &self,
        configuration: &Configuration,
        names: &Names,
    ) -> Result<Option<(Local, Vec<Address>, String)>, String> {
        let last = last(&configuration.commands, Setting::listen);
        let last = last.filter(|(local, _)| **local != self.state.local);
        let Some((local, sourced)) = last else { return Ok(None) };
        let at = sourced.at();
        let addresses =
            resolve_local(local, names).map_err(|error| format!("{at}listen: {error}"))?;
        // All addresses have the same port.
        let port = addresses.first().and_then(Address::inet_port);
        if let Some(port) = port.filter(|port| *port < UNPRIVILEGED)
            && configuration.source.is_operator()
            && self.state.port() != Some(port)
        {
            return Err(format!(
                "{at}listen: port {port} is privileged: at the control port it can only be kept; \
                 use the file of -F"
            ));
        }
        Ok(Some((local.clone(), addresses, at)))
    }

    /// The files and sockets to open. The new address is reserved first, because nobody sees that.
    /// A listener that is made in the jail listens at once, and comes last.
    fn unopened(
        &self,
        configuration: &Configuration,
        found: &FoundAddresses,
        address: Option<(Local, Vec<Address>, String)>,
    ) -> Result<Vec<Unopened>, String> {
        let is_operator = configuration.source.is_operator();
        let log = last(&configuration.commands, Setting::log).and_then(|(target, sourced)| {
            let opens = self.log_to_open(LineLog::Requests, target?, found.log, is_operator)?;
            Some((opens, sourced.at()))
        });
        let connections = last(&configuration.commands, Setting::connection_log);
        let connections = connections.and_then(|(target, sourced)| {
            let opens = match target? {
                ConnectionLogTarget::Syslog => OpenTarget::Syslog,
                ConnectionLogTarget::Log(target) => {
                    let (which, address) = (LineLog::Connections, found.connection_log);
                    self.log_to_open(which, target, address, is_operator)?
                }
            };
            Some((opens, sourced.at()))
        });
        let status_file = last(&configuration.commands, Setting::web_stats);
        let status_file = status_file.and_then(|(path, sourced)| {
            let path = path?.to_owned();
            let target = match is_operator {
                true => OpenTarget::Jailed(JailedTarget::StatusFile(path)),
                false => OpenTarget::StatusFile(path),
            };
            Some((target, sourced.at()))
        });
        let (reserved, jailed) = match address {
            Some((Local::Unix(path), _, at)) if is_operator => {
                (None, Some((OpenTarget::Jailed(JailedTarget::Listener(path)), at)))
            }
            Some((local, addresses, at)) => {
                (Some((OpenTarget::Listener(local, addresses), at)), None)
            }
            None => (None, None),
        };
        for (target, at) in log.iter().chain(&connections).chain(&status_file).chain(&reserved) {
            target.examine().map_err(|why| format!("{at}{why}"))?;
        }
        let all =
            reserved.into_iter().chain(log).chain(connections).chain(status_file).chain(jailed);
        Ok(all.map(|(target, at)| Unopened { target, at }).collect())
    }

    /// What to open for a log; none if its lines already go there.
    fn log_to_open(
        &self,
        which: LineLog,
        target: &LogTarget,
        address: Option<SocketAddr>,
        is_operator: bool,
    ) -> Option<OpenTarget> {
        match target {
            LogTarget::File(path) if is_operator => {
                Some(OpenTarget::Jailed(JailedTarget::Log(which, path.clone())))
            }
            // HUP has just opened that file again.
            LogTarget::File(_) if self.state.line_log(which) == (Some(target), false) => None,
            LogTarget::File(_) | LogTarget::Network(_, _) => {
                Some(OpenTarget::Log(which, target.clone(), address))
            }
        }
    }
}

/// How long the names of a command or a file may take. Other commands wait meanwhile.
const RESOLVE_PATIENCE: ResolvePatience = ResolvePatience { each: Duration::from_secs(20) };

/// Ports below this number are reserved for the administrator (default of
/// `ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1024;
