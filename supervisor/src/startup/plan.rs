//! The plan of a start: everything is read, resolved and checked, and nothing is opened.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::geteuid;
use pen_config::ConfigurationError;
use pen_config::address::{Address, Local};
use pen_config::apply;
use pen_config::command::{ConnectionLogTarget, LogTarget, Setting, SourcedCommand};
use pen_config::configuration::{Settled, unused_lists, warnings};
use pen_config::names::{Lookup, resolve_local};
use pen_config::print::in_force::InForce;
use pen_ipc::text::error_text;
use pen_ipc::tls_files::Fact;
use pen_walk as walk;

use crate::files::certificates;
use crate::files::configuration;
use crate::files::configuration::unknown_suites;
use crate::files::line_log;
use crate::files::line_log::LineLog;
use crate::files::listener;
use crate::files::pid_file;
use crate::files::source;
use crate::files::status_file;
use crate::files::tls_material;
use crate::helpers::examine::examine;
use crate::helpers::names;
use crate::helpers::names::{FoundAddresses, Inquiry};
use crate::helpers::resolve::{ResolveError, ResolvePatience, resolve};
use crate::jail::Jail;
use crate::jail::sandbox::Sandbox;
use crate::jail::user;
use crate::launch::interrupt::Interrupts;
use crate::launch::options;
use crate::launch::options::{GivenCommands, lines};
use crate::launch::paths::all_absolute;
use crate::limits;
use crate::startup::clashes::{self, Taken};
use crate::startup::{Order, refused, worker_count};
use crate::{Examiner, StartError};

/// The command line and the configuration file, read, resolved and checked; nothing is opened yet.
pub(in crate::startup) struct StartPlan {
    pub(in crate::startup) settled: Settled,
    /// The commands of `-O` with included files, needed for building access lists anew at a reload.
    pub(in crate::startup) options: Vec<SourcedCommand>,
    /// The address of the request log, if it goes to the network.
    pub(in crate::startup) log: Option<SocketAddr>,
    /// The address of the connection log, if it goes to the network.
    pub(in crate::startup) connection_log: Option<SocketAddr>,
    /// The control port.
    pub(in crate::startup) control: Option<PlannedPort>,
    /// The port of the page.
    pub(in crate::startup) page: Option<PlannedPort>,
    /// The commands of the file, for source lines in messages.
    pub(in crate::startup) file: Vec<SourcedCommand>,
    /// The TLS files and the certificates in them, if TLS is on.
    pub(in crate::startup) tls: Option<(OwnedFd, Vec<Fact>)>,
    /// The same of TLS towards servers, if a server speaks it.
    pub(in crate::startup) server_tls: Option<(OwnedFd, Vec<Fact>)>,
    pub(in crate::startup) notices: Vec<String>,
}

/// A port of pen's own: as it is shown, and the addresses to bind.
#[derive(Clone, Debug)]
pub(in crate::startup) struct PlannedPort {
    pub(in crate::startup) name: Local,
    pub(in crate::startup) addresses: Vec<Address>,
}

impl StartPlan {
    /// Reads, resolves and checks everything.
    ///
    /// # Errors
    /// All errors that were found, or the start is interrupted.
    pub(in crate::startup) fn make(
        order: &Order,
        sandbox: &Sandbox,
        interrupts: &mut Interrupts,
    ) -> Result<StartPlan, StartError> {
        let Order { launch, words, base, .. } = order;
        check_user(order)?;
        let GivenCommands { mut given, mut file } = words.clone();
        all_absolute(base, &mut given.commands)
            .and(all_absolute(base, &mut file.commands))
            .map_err(lines)?;
        let mut configuration = launch.configuration.clone();
        configuration.commands = given.commands;
        let control = launch.control.clone().map(Local::or_loopback);
        let page = launch.page.clone();
        let mut lookups = configuration.lookups(&file.commands);
        let ports = control.iter().chain(&page);
        lookups.extend(ports.flat_map(|local| apply::lookups(&Setting::Listen(local.clone()))));
        let commands: Vec<SourcedCommand> =
            configuration.commands.iter().chain(&file.commands).cloned().collect();
        let FoundAddresses { names, log, connection_log } =
            look_up(lookups, &commands, order, sandbox, interrupts)?;
        let mut settled = configuration.settle(&names, &file.commands).map_err(|errors| {
            let errors = errors.into_iter().map(|error| error.0).collect();
            lines(configuration::in_order(errors, &commands))
        })?;
        let planned = |name: Option<Local>, place: &dyn Fn() -> String| {
            let port = name.map(|name| {
                let addresses = resolve_local(&name, &names)?;
                Ok(PlannedPort { name, addresses })
            });
            port.transpose()
                .map_err(|error: ConfigurationError| StartError(format!("{}: {error}", place())))
        };
        let control = planned(control, &|| words.source_line("control", "-C"))?;
        let page = planned(page, &|| words.source_line("page", "page"))?;
        let mut notices: Vec<String> = given.notices.into_iter().chain(file.notices).collect();
        notices.extend(commands.iter().filter_map(unknown_suites));
        notices.append(&mut settled.notices);
        let mut plan = StartPlan {
            settled,
            options: configuration.commands,
            file: file.commands,
            log,
            connection_log,
            control,
            page,
            tls: None,
            server_tls: None,
            notices,
        };
        if plan.settled.settings.tls.is_on() {
            let read = tls_material::gather(&plan.settled.settings.tls, None);
            let examiner = order.entries.examine_tls;
            plan.tls = Some(plan.examine_tls(read, examiner, order, sandbox, interrupts)?);
        }
        if plan.settled.settings.has_server_tls() {
            let read = tls_material::servers::gather(&plan.settled.settings.server_tls);
            let examiner = order.entries.examine_server_tls;
            plan.server_tls = Some(plan.examine_tls(read, examiner, order, sandbox, interrupts)?);
        }
        Ok(plan)
    }

    /// Has an examiner check TLS files that were read. Returns them with the certificates in them.
    fn examine_tls(
        &mut self,
        read: Result<(OwnedFd, Vec<String>), String>,
        examiner: Examiner,
        order: &Order,
        sandbox: &Sandbox,
        interrupts: &mut Interrupts,
    ) -> Result<(OwnedFd, Vec<Fact>), StartError> {
        let Order { launch, identity, .. } = order;
        let (files, notices) = read.map_err(StartError)?;
        self.notices.extend(notices);
        // `--check` changes nothing, as far as possible.
        let (root, identity) = match launch.check {
            true => (None, user::of_resolver(identity)),
            false => (launch.jail.clone(), identity.clone()),
        };
        let jail = Jail { root, identity, sandbox: sandbox.clone() };
        let found = examine(&files, examiner, &jail, interrupts)?;
        self.notices.extend(found.notices);
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        self.notices.extend(certificates::warnings(&found.certificates, now));
        Ok((files, found.certificates))
    }

    /// Checks the paths that a start would open, make or bind, and the address towards servers.
    /// Changes nothing.
    pub(in crate::startup) fn examine(&self, order: &Order) -> Result<(), StartError> {
        let Order { launch, words, .. } = order;
        let (control, page) = (self.control.as_ref(), self.page.as_ref());
        let listen = Taken { by: "pen listens for clients", at: &self.settled.listen };
        if let Some(control) = control {
            clashes::of_addresses(listen, "the control port", &control.addresses).map_err(
                |why| StartError(format!("{}: {why}", words.source_line("control", "-C"))),
            )?;
        }
        if let Some(page) = page {
            let control =
                control.map(|control| Taken { by: "the control port is", at: &control.addresses });
            for taken in [Some(listen), control].into_iter().flatten() {
                clashes::of_addresses(taken, "the page", &page.addresses).map_err(|why| {
                    StartError(format!("{}: {why}", words.source_line("page", "page")))
                })?;
            }
        }
        let names = [control, page].map(|port| port.map(|port| &port.name));
        clashes::of_files(launch, &self.settled, names).map_err(lines)?;
        let Settled { listen, log, connection_log, status_file, .. } = &self.settled;
        status_file
            .as_deref()
            .map_or(Ok(()), status_file::check)
            .map_err(|error| StartError(format!("{}: {error}", words.place_of_status_file())))?;
        let connection_log = connection_log.as_ref().and_then(ConnectionLogTarget::log);
        for (which, target) in
            [(LineLog::Requests, log.as_ref()), (LineLog::Connections, connection_log)]
        {
            let path = target.and_then(LogTarget::file);
            path.map_or(Ok(()), |path| line_log::examine(which, path)).map_err(refused)?;
        }
        listen.iter().try_for_each(listener::examine).map_err(refused)?;
        for port in control.into_iter().chain(page) {
            port.addresses.iter().try_for_each(listener::examine).map_err(refused)?;
        }
        if let Some(root) = &launch.jail {
            walk::directory(root).map_err(|error| {
                StartError(format!("-j {}: {}", root.display(), error_text(&error)))
            })?;
        }
        launch.pid_file.as_deref().map_or(Ok(()), pid_file::examine).map_err(refused)?;
        let commands: Vec<SourcedCommand> =
            self.options.iter().chain(&self.file).cloned().collect();
        let source = self.settled.settings.source;
        source.map_or(Ok(()), |address| source::check(address, &commands)).map_err(StartError)
    }

    /// The settings that the start would have, in the form of a configuration file.
    pub(in crate::startup) fn shown(&self, order: &Order) -> String {
        let Settled { local, settings, log, connection_log, status_file, workers, .. } =
            &self.settled;
        InForce {
            settings,
            startup: &options::in_force(&order.launch),
            listen: local,
            log: log.as_ref(),
            connection_log: connection_log.as_ref(),
            status_file: status_file.as_deref(),
            workers: worker_count(*workers).into(),
            servers_only: apply::names_all(&self.file) == Some(true),
        }
        .text(None)
    }

    /// Notices for the log about a start that succeeds.
    pub(in crate::startup) fn notices(&self, order: &Order, descriptor_limit: u64) -> Vec<String> {
        let Order { launch, words, .. } = order;
        let Settled { listen, settings, .. } = &self.settled;
        let mut notices = self.notices.clone();
        notices.extend(warnings(listen, settings));
        notices.extend(unused_lists(settings));
        notices.extend(limits::cut_backlog(limits::longest_backlog(), settings.backlog));
        if launch.allow_exit && launch.control.is_none() {
            let source_line = words.source_line("exit_command", "-X");
            notices.push(format!(
                "{source_line}: means nothing without a control port (-C), where exit is said"
            ));
        }
        if launch.user.is_none() && geteuid().is_root() {
            notices.push(
                "without -u the workers are root, though without capabilities; add -u USER".into(),
            );
        }
        notices.extend(limits::too_few_descriptors(descriptor_limit, settings.connections_max));
        notices
    }
}

/// Refuses ports whose processes would be root by oversight: they read what strangers send.
fn check_user(Order { launch, words, .. }: &Order) -> Result<(), StartError> {
    if !geteuid().is_root() || launch.user.is_some() {
        return Ok(());
    }
    let control = launch.control.as_ref().map(|_| ("control", "-C", "the control port"));
    let page = launch.page.as_ref().map(|_| ("page", "page", "the page"));
    let Some((word, option, what)) = control.or(page) else { return Ok(()) };
    let source_line = words.source_line(word, option);
    let add = match source_line.as_str() {
        "-C" => "add -u user (or -u root)",
        _ => "say user NAME (or user root)",
    };
    Err(StartError(format!("{source_line}: as root, {what} needs a user to run as: {add}")))
}

/// Looks up all names.
fn look_up(
    lookups: BTreeSet<Lookup>,
    commands: &[SourcedCommand],
    order: &Order,
    sandbox: &Sandbox,
    interrupts: &mut Interrupts,
) -> Result<FoundAddresses, StartError> {
    let inquiry = Inquiry::new(lookups, commands.iter());
    let identity = user::of_resolver(&order.identity);
    let resolver = Jail { root: None, identity, sandbox: sandbox.clone() };
    let answers = resolve(inquiry.questions(), &resolver, RESOLVE_PATIENCE, interrupts);
    let answers = answers.map_err(|error| match error {
        ResolveError::Start(error) => error,
        ResolveError::Names(unresolved) => {
            lines(names::unresolved_lines(&unresolved, commands.iter()))
        }
    })?;
    inquiry.found(answers).map_err(StartError)
}

/// How long names may take. Two name servers that do not answer, asked for a short name in two
/// domains, cost 20 s (resolv.conf(5)).
const RESOLVE_PATIENCE: ResolvePatience = ResolvePatience { each: Duration::from_secs(30) };
