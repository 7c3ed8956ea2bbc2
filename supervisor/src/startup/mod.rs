//! The start. If a step fails, the drop of each owner undoes the earlier steps.
//!
//! First, everything on the command line is checked; only then anything is bound. Clients are
//! accepted when all workers are ready. Readiness is reported when the pid file is written.

#![forbid(unsafe_code)]

use crate::event_loop::reload::leave_out;
use crate::event_loop::reload::prepare::unknown_suites;
use crate::launch::options;
use crate::launch::options::lines;
use crate::launch::paths::all_absolute;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use pen_config::address::{Address, Local};
use pen_config::apply;
use pen_config::command::{Command, LogTarget};
use pen_config::configuration::{Settled, SourcedCommand, resolve_local, unused_lists, warnings};
use pen_config::ids::{MAX_WORKERS, Target};
use pen_config::print::in_force::InForce;
use pen_config::settings::Settings;
use pen_ipc::start::RequestLog;
use pen_ipc::tls_files::Fact;
use pen_table::{Shape, Table, TableError};
use pen_walk as walk;
use rustix::event::{EventfdFlags, eventfd};

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::state::{ListenerGuard, RuntimeState, SocketGuard};
use crate::files::certificates;
use crate::files::configuration;
use crate::files::listener;
use crate::files::listener::{Listener, bind_first};
use crate::files::memory;
use crate::files::pid_file;
use crate::files::pid_file::PidFile;
use crate::files::request_log;
use crate::files::running;
use crate::files::source;
use crate::files::status_file;
use crate::files::status_file::StatusFile;
use crate::files::tls_material;
use crate::files::tls_material::Keys;
use crate::helpers::examine::examine;
use crate::helpers::names;
use crate::helpers::names::{FoundAddresses, Inquiry};
use crate::helpers::resolve::{ResolveError, ResolvePatience, resolve};
use crate::jail::Jail;
use crate::jail::sandbox;
use crate::jail::sandbox::Sandbox;
use crate::jail::user;
use crate::jail::user::Identity;
use crate::launch::background::{StartLink, detach};
use crate::launch::interrupt::Interrupts;
use crate::launch::options::GivenCommands;
use crate::launch::paths::Base;
use crate::limits;
use crate::log::Logger;
use crate::log::errno::why;
use crate::processes::control;
use crate::processes::control::{Control, ControlPort};
use crate::processes::spawn::SpawnContext;
use crate::signals::Signals;
use crate::sys;
use crate::systemd::activation::{Activation, too_open};
use crate::systemd::notify::Notify;
use crate::{Entries, Launch, StartError};

/// The input of a start.
pub(crate) struct Order {
    /// The command line.
    pub(crate) launch: Launch,
    /// The commands of command line and configuration file.
    pub(crate) words: GivenCommands,
    /// The base directory of its relative paths.
    pub(crate) base: Base,
    /// The user of the jailed processes.
    pub(crate) identity: Identity,
    /// The code of the jailed processes.
    pub(crate) entries: Entries,
    /// Sockets that a service manager passed.
    pub(crate) activation: Activation,
    /// The service manager.
    pub(crate) notify: Notify,
}

/// Runs the supervisor in the process that was started.
///
/// # Errors
/// The start failed; nothing is left behind.
pub(crate) fn foreground(order: Order) -> Result<(), StartError> {
    close_inherited(None, &order.activation)?;
    supervise(order, None)
}

/// Runs the supervisor in its own process; returns its exit status. The link reports a failed
/// start.
pub(crate) fn background(order: Order, link: StartLink) -> i32 {
    let result = close_inherited(Some(&link), &order.activation).and_then(|()| detach());
    let failed = match result {
        Ok(()) => supervise(order, Some(link)).err(),
        Err(error) => {
            link.failed(&error);
            Some(error)
        }
    };
    match failed {
        None => 0,
        Some(error) => {
            let mut logger = Logger::background(0);
            error.0.lines().for_each(|line| logger.error(line));
            1
        }
    }
}

/// Checks whether pen would start, as far as possible without opening, binding or changing
/// anything.
///
/// # Errors
/// All errors that were found.
pub(crate) fn check(order: &Order) -> Result<(), StartError> {
    let signals = Signals::take_over().map_err(cannot("cannot take signals"))?;
    let plan = StartPlan::make(order, &Sandbox::none(), &mut Interrupts::new(signals, None))?;
    plan.examine_paths(order)?;
    let mut notices = plan.notices(order, limits::raise_descriptors());
    notices.extend(order.launch.pid_file.as_deref().and_then(running::has_other_options));
    notices.iter().for_each(|notice| eprintln!("pen: {notice}"));
    let text = if order.launch.show { plan.shown(order) } else { "ok\n".to_owned() };
    stdout()
        .write_all(text.as_bytes())
        .map_err(|error| StartError(format!("standard output: {}", why(&error))))
}

/// From here on, pen owns every descriptor above standard error.
fn close_inherited(link: Option<&StartLink>, activation: &Activation) -> Result<(), StartError> {
    let keep: Vec<_> =
        link.into_iter().map(|link| link.as_fd()).chain(activation.descriptors()).collect();
    sys::close_all_but(&keep).map_err(|error| {
        StartError(format!(
            "cannot close inherited descriptors: {} (pen needs Linux 5.9 or later)",
            why(&error)
        ))
    })
}

fn supervise(order: Order, link: Option<StartLink>) -> Result<(), StartError> {
    let signals = Signals::take_over()
        .map_err(cannot("cannot take signals"))
        .inspect_err(|error| link.iter().for_each(|link| link.failed(error)))?;
    let mut interrupts = Interrupts::new(signals, link);
    let notify = order.notify.clone();
    match Prepared::new(order, &mut interrupts).and_then(|prepared| prepared.start(&mut interrupts))
    {
        Ok(running) => {
            running.serve(interrupts);
            Ok(())
        }
        Err(error) => {
            // Everything that was made is undone by now.
            interrupts.link().iter().for_each(|link| link.failed(&error));
            notify.failed(&error.0);
            Err(error)
        }
    }
}

/// The command line and the configuration file, read, resolved and checked; nothing is opened yet.
struct StartPlan {
    settled: Settled,
    /// The commands of `-O` with included files, needed for building access lists anew at a reload.
    options: Vec<SourcedCommand>,
    /// The address of the request log, if it goes to the network.
    log: Option<SocketAddr>,
    /// The control port: as it is shown, and the addresses to bind.
    control: Option<(Local, Vec<Address>)>,
    /// The commands of the file, for source lines in messages.
    file: Vec<SourcedCommand>,
    /// The TLS files and the certificates in them, if TLS is on.
    tls: Option<(OwnedFd, Vec<Fact>)>,
    notices: Vec<String>,
}

impl StartPlan {
    fn make(
        order: &Order,
        sandbox: &Sandbox,
        interrupts: &mut Interrupts,
    ) -> Result<StartPlan, StartError> {
        let Order { launch, words, base, identity, .. } = order;
        let source_line = words.source_line("control", "-C");
        if launch.control.is_some() && geteuid().is_root() && launch.user.is_none() {
            let add = if source_line == "-C" {
                "add -u user (or -u root)"
            } else {
                "say user NAME (or user root)"
            };
            return Err(StartError(format!(
                "{source_line}: as root, the control port needs a user to run as: {add}"
            )));
        }
        let mut configuration = launch.configuration.clone();
        let GivenCommands { mut given, mut file } = words.clone();
        all_absolute(base, &mut given.commands)
            .and(all_absolute(base, &mut file.commands))
            .map_err(lines)?;
        configuration.commands = given.commands;
        let control = launch.control.as_ref().map(control::complete);
        let mut lookups = configuration.lookups(&file.commands);
        lookups.extend(
            control.iter().flat_map(|local| apply::lookups(&Command::Listen(Some(local.clone())))),
        );
        let inquiry = Inquiry::new(lookups, configuration.commands.iter().chain(&file.commands));
        let resolver =
            Jail { root: None, identity: user::of_resolver(identity), sandbox: sandbox.clone() };
        let answers = resolve(inquiry.questions(), &resolver, RESOLVE_PATIENCE, interrupts);
        let answers = answers.map_err(|error| match error {
            ResolveError::Start(error) => error,
            ResolveError::Names(unresolved) => lines(names::placed(
                &unresolved,
                configuration.commands.iter().chain(&file.commands),
            )),
        })?;
        let FoundAddresses { names, log } = inquiry.found(answers).map_err(StartError)?;
        let settled = configuration.settle(&names, &file.commands);
        let commands: Vec<SourcedCommand> =
            configuration.commands.iter().chain(&file.commands).cloned().collect();
        let settled = settled.map_err(|errors| {
            lines(configuration::in_order(
                errors.into_iter().map(|error| error.0).collect(),
                &commands,
            ))
        })?;
        let control =
            control.map(|local| resolve_local(&local, &names).map(|address| (local, address)));
        let control =
            control.transpose().map_err(|error| StartError(format!("{source_line}: {error}")))?;
        let mut notices: Vec<String> = given.notices.into_iter().chain(file.notices).collect();
        let commands = || configuration.commands.iter().chain(&file.commands);
        notices.extend(commands().filter_map(unknown_suites));
        let tls = &settled.settings.tls;
        let tls = match tls.is_on() {
            false => None,
            true => {
                let (files, about) = tls_material::gather(tls, None).map_err(StartError)?;
                notices.extend(about);
                // `--check` changes nothing, as far as possible.
                let root = if launch.check { None } else { launch.jail.clone() };
                let identity =
                    if launch.check { user::of_resolver(identity) } else { identity.clone() };
                let jail = Jail { root, identity, sandbox: sandbox.clone() };
                let found = examine(&files, order.entries.examine_tls, &jail, interrupts)?;
                notices.extend(found.notices);
                let now = time::OffsetDateTime::now_utc().unix_timestamp();
                notices.extend(certificates::warnings(&found.certificates, now));
                Some((files, found.certificates))
            }
        };
        Ok(StartPlan {
            settled,
            options: configuration.commands,
            file: file.commands,
            log,
            control,
            tls,
            notices,
        })
    }

    /// Checks the paths that a start would open, make or bind, and changes nothing.
    fn examine_paths(&self, order: &Order) -> Result<(), StartError> {
        let Order { launch, words, .. } = order;
        if let Some((_, addresses)) = &self.control {
            clashes::of_addresses(&self.settled.listen, addresses).map_err(|why| {
                StartError(format!("{}: {why}", words.source_line("control", "-C")))
            })?;
        }
        clashes::of_files(launch, &self.settled, self.control.as_ref().map(|(local, _)| local))
            .map_err(lines)?;
        let Settled { listen, log, status_file, .. } = &self.settled;
        status_file
            .as_deref()
            .map_or(Ok(()), status_file::check)
            .map_err(|error| StartError(format!("{}: {error}", words.place_of_status_file())))?;
        if let Some(LogTarget::File(path)) = log {
            request_log::examine(path).map_err(refused)?;
        }
        listen.iter().try_for_each(listener::examine).map_err(refused)?;
        self.control
            .as_ref()
            .map_or(Ok(()), |(_, addresses)| addresses.iter().try_for_each(listener::examine))
            .map_err(refused)?;
        if let Some(root) = &launch.jail {
            walk::directory(root)
                .map_err(|error| StartError(format!("-j {}: {}", root.display(), why(&error))))?;
        }
        launch.pid_file.as_deref().map_or(Ok(()), pid_file::examine).map_err(refused)
    }

    /// The settings that the start would have, in the form of a configuration file.
    fn shown(&self, order: &Order) -> String {
        let Settled { local, settings, log, status_file, workers, .. } = &self.settled;
        InForce {
            settings,
            startup: &options::in_force(&order.launch),
            listen: local,
            log: log.as_ref(),
            status_file: status_file.as_deref(),
            workers: worker_count(*workers).into(),
            servers_only: apply::names_all(&self.file) == Some(true),
        }
        .text(None)
    }

    /// Notices for the log about a start that succeeds.
    fn notices(&self, order: &Order, descriptor_limit: u64) -> Vec<String> {
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

/// All resources that need no worker. Fields are dropped in their order, the pid file last.
struct Prepared {
    service: Supervisor,
    pid_file: Option<PidFile>,
    notices: Vec<String>,
}

impl Prepared {
    fn new(order: Order, interrupts: &mut Interrupts) -> Result<Prepared, StartError> {
        // The C library reads the time zone file now, because no jail contains it.
        clock::utc_offset(0);
        let descriptor_limit = limits::raise_descriptors();
        let (mut sandbox, incomplete) =
            sandbox::confine(order.launch.jail.is_some(), order.launch.require_sandbox)?;
        let plan = StartPlan::make(&order, &sandbox, interrupts)?;
        plan.examine_paths(&order)?;
        let mut notices = plan.notices(&order, descriptor_limit);
        let Order { launch, base, identity, entries, mut activation, mut notify, .. } = order;
        notices.extend(notify.complaint());
        notices.extend(incomplete.into_iter().chain(sandbox.suit(&plan.settled.settings)));
        let jail = Jail { root: launch.jail.clone(), identity, sandbox };
        let StartPlan { settled, options, file, log, control, tls, .. } = plan;
        let keys = tls
            .map(|(files, facts)| Keys::new(files, facts, Instant::now()))
            .transpose()
            .map_err(cannot("files of TLS"))?;
        let Settled {
            local,
            listen,
            settings,
            log: log_target,
            status_file,
            workers: wanted,
            given,
            blacklisted,
        } = settled;
        let commands: Vec<SourcedCommand> = options.iter().chain(&file).cloned().collect();
        settings
            .source
            .map_or(Ok(()), |address| source::check(address, &commands))
            .map_err(StartError)?;
        let log = open_log(log_target.as_ref(), log)?;
        let (listener, socket_path, listen) =
            match activation.claim_first(&listen, settings.backlog)? {
                Some((passed, address)) => (passed, None, address),
                None => {
                    let bound =
                        bind_first(&listen, |address| Listener::bind(address, settings.backlog))
                            .map_err(refused)?;
                    notices.extend(bound.notice);
                    let (listener, path) = bound.what.into_parts();
                    (listener, path, bound.address)
                }
            };
        let guard = ListenerGuard::new(&listener, socket_path.map(SocketGuard::Own))
            .map_err(cannot("listener"))?;
        let control = control.map(|(name, addresses)| {
            match activation.claim_first(&addresses, control::BACKLOG)? {
                Some((passed, address)) => {
                    notices.extend(too_open(&address));
                    Ok(ControlPort::passed(&name, passed, entries.control))
                }
                None => {
                    let bind = |address: &Address| {
                        ControlPort::bind(&name, address, &jail, entries.control)
                    };
                    let bound = bind_first(&addresses, bind).map_err(refused)?;
                    notices.extend(bound.notice);
                    Ok(bound.what)
                }
            }
        });
        let control = control.transpose()?;
        activation.all_claimed(&listen)?;
        let pid_file =
            launch.pid_file.as_deref().map(PidFile::lock).transpose().map_err(refused)?;
        let workers = worker_count(wanted);
        let table = Table::create(shape(&settings, workers)).map_err(no_table)?;
        for (server, seconds) in blacklisted {
            leave_out(&table, Target::Server(server).row(settings.table_size()), seconds);
        }
        let wakes = || -> Result<OwnedFd, StartError> {
            let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            eventfd.map_err(|errno| cannot("eventfd")(errno.into()))
        };
        let (freed, vacancy) = (wakes()?, wakes()?);
        let encoded = memory::encoded(&settings).map_err(cannot("settings"))?;
        let logger = match launch.foreground {
            true => Logger::foreground(settings.debug),
            false => Logger::background(settings.debug),
        };
        let state = RuntimeState {
            local,
            listen,
            longest_backlog: limits::longest_backlog(),
            guard,
            retired: Vec::new(),
            log: log_target,
            log_is_held: false,
            ocsp: None,
            status: status_file.map(StatusFile::Path),
            startup: options::in_force(&launch),
            commanded: options::commanded(commands.iter()),
            servers_only: apply::names_all(&file) == Some(true),
            config: launch.config,
            options,
            given,
            base,
            allow_exit: launch.allow_exit,
            workers: wanted,
            command_line: launch.command_line,
            started: Instant::now(),
        };
        let context = SpawnContext {
            entry: entries.relay,
            examine_tls: entries.examine_tls,
            table,
            listener,
            freed,
            vacancy,
            settings,
            encoded,
            log,
            keys,
            jail,
            foreground: launch.foreground,
            descriptor_limit,
        };
        let service =
            Supervisor::new(state, context, workers, control.map(Control::new), logger, notify);
        Ok(Prepared { service, pid_file, notices })
    }

    fn start(mut self, interrupts: &mut Interrupts) -> Result<Prepared, StartError> {
        self.service.start(interrupts)?;
        if let Some(pid_file) = &mut self.pid_file {
            pid_file.write().map_err(refused)?;
        }
        Ok(self)
    }

    /// Logs the notices, reports readiness, and serves until the end.
    fn serve(mut self, interrupts: Interrupts) {
        for notice in std::mem::take(&mut self.notices) {
            interrupts.link().iter().for_each(|link| link.notice(&notice));
            self.service.logger().warning(&notice);
        }
        self.service.say_where();
        let (signals, deferred) = interrupts.ready();
        self.service.run(&signals, deferred);
    }
}

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

fn no_table(error: TableError) -> StartError {
    let TableError::System { bytes, source, .. } = &error else { return refused(error) };
    let hint = match source.raw_os_error() {
        Some(libc::EFBIG) => " (a limit on the size of files: ulimit -f, LimitFSIZE=)",
        _ => " (-c and --workers make it smaller; ulimit -v)",
    };
    StartError(format!("shared table of {bytes} bytes: {}{hint}", why(source)))
}

fn cannot(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |error| StartError(format!("{what}: {}", why(&error)))
}

fn shape(settings: &Settings, workers: u8) -> Shape {
    Shape {
        clients: settings.clients_max,
        // The emergency and the abuse server have rows of their own.
        servers: settings.table_size() + 2,
        workers: u32::from(workers),
        connections: settings.connections_max,
    }
}

/// The number of workers: one per processor that pen may use, unless set otherwise.
fn worker_count(wanted: Option<u32>) -> u8 {
    let processors = || {
        available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(MAX_WORKERS))
    };
    let count = wanted.unwrap_or_else(processors).clamp(1, MAX_WORKERS);
    u8::try_from(count).unwrap_or(u8::MAX)
}

fn open_log(
    target: Option<&LogTarget>,
    network: Option<SocketAddr>,
) -> Result<Option<RequestLog>, StartError> {
    match (target, network) {
        (Some(LogTarget::File(path)), _) => request_log::open(path).map(Some).map_err(refused),
        (Some(LogTarget::Network(_, _)), Some(address)) => {
            request_log::connect(address).map(Some).map_err(refused)
        }
        (Some(LogTarget::Network(_, _)) | None, _) => Ok(None),
    }
}

/// How long names may take. Two name servers that do not answer, asked for a short name in two
/// domains, cost 20 s (resolv.conf(5)).
const RESOLVE_PATIENCE: ResolvePatience = ResolvePatience { each: Duration::from_secs(30) };

pub(crate) mod clashes;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_between_one_and_the_most() {
        assert_eq!(worker_count(Some(3)), 3);
        assert_eq!(worker_count(Some(0)), 1);
        assert_eq!(worker_count(Some(1000)), 64);
        assert!((1..=64).contains(&worker_count(None)));
    }

    #[test]
    fn every_error_has_a_line_of_its_own() {
        assert_eq!(lines(vec!["a:1: x".into(), "a:2: y".into()]).to_string(), "a:1: x\na:2: y");
    }
}
