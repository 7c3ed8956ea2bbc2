//! The order of a start. Whatever was done is undone by its owner's drop when a later step fails.
//!
//! Nothing is bound before all that can be wrong on the command line is known to be right; no client is accepted before all
//! workers are ready; nobody is told that pen is ready before the pid file is written.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::available_parallelism;
use std::time::Duration;

use nix::unistd::geteuid;
use pen_contract::address::{Address, Host, Service as ServiceName};
use pen_contract::configuration::{Lookup, Names};
use pen_contract::ids::MAX_WORKERS;
use pen_contract::settings::Settings;
use pen_contract::start::RequestLog;
use pen_table::{Shape, Table};
use rustix::event::{EventfdFlags, eventfd};

use crate::background::{StartLink, detach};
use crate::clock;
use crate::inheritance::Inheritance;
use crate::interrupt::Interrupts;
use crate::jail::Jail;
use crate::limits;
use crate::listen::{Listener, MIN_BACKLOG, SocketPath};
use crate::log_file;
use crate::pid_file::PidFile;
use crate::report::Reporter;
use crate::resolve::{Answer, Question, resolve};
use crate::say::Say;
use crate::service::Service;
use crate::signals::Signals;
use crate::status_file;
use crate::sys;
use crate::user::{self, Identity};
use crate::why::why;
use crate::{Launch, LogTarget, StartError, WorkerEntry};

/// Runs the supervisor in the process that pen was started as.
///
/// # Errors
/// The start failed; nothing is left behind.
pub(crate) fn foreground(launch: Launch, identity: Identity, entry: WorkerEntry) -> Result<(), StartError> {
    close_inherited(None)?;
    supervise(launch, identity, entry, None)
}

/// Runs the supervisor in a process of its own; returns its exit status. A failed start is told through the link.
pub(crate) fn background(launch: Launch, identity: Identity, entry: WorkerEntry, link: StartLink) -> i32 {
    let debug = launch.configuration.debug;
    let result = close_inherited(Some(&link)).and_then(|()| detach());
    let failed = match result {
        Ok(()) => supervise(launch, identity, entry, Some(link)).err(),
        Err(error) => {
            link.failed(&error);
            Some(error)
        }
    };
    match failed {
        None => 0,
        Some(error) => {
            Say::background(debug).error(&error.to_string());
            1
        }
    }
}

/// From here on every descriptor above standard error is pen's own.
fn close_inherited(link: Option<&StartLink>) -> Result<(), StartError> {
    let keep: Vec<_> = link.into_iter().map(|link| link.as_fd()).collect();
    sys::close_all_but(&keep).map_err(|error| {
        StartError(format!("cannot close inherited descriptors: {} (pen needs Linux 5.9 or later)", why(&error)))
    })
}

fn supervise(
    launch: Launch,
    identity: Identity,
    entry: WorkerEntry,
    link: Option<StartLink>,
) -> Result<(), StartError> {
    let signals = Signals::take_over()
        .map_err(|error| StartError(format!("cannot take signals: {}", why(&error))))
        .inspect_err(|error| link.iter().for_each(|link| link.failed(error)))?;
    let mut interrupts = Interrupts::new(signals, link);
    match Prepared::new(launch, identity, entry, &mut interrupts).and_then(|prepared| prepared.start(&mut interrupts)) {
        Ok(running) => {
            running.serve(interrupts);
            Ok(())
        }
        Err(error) => {
            // All that was made has been undone by now.
            interrupts.link().iter().for_each(|link| link.failed(&error));
            Err(error)
        }
    }
}

/// Everything that can be had without a worker. Fields are dropped in their order: the socket's file goes while the socket is
/// still open, the pid file last.
struct Prepared {
    service: Service,
    _socket_path: Option<SocketPath>,
    /// Keeps the number of the socket's file from being used again until that file is removed.
    _listener: OwnedFd,
    pid_file: Option<PidFile>,
    notices: Vec<String>,
    listen: Address,
}

impl Prepared {
    fn new(
        launch: Launch,
        identity: Identity,
        entry: WorkerEntry,
        interrupts: &mut Interrupts,
    ) -> Result<Prepared, StartError> {
        // Has the C library read the time zone, which no jail holds.
        clock::utc_offset(0);
        let descriptor_limit = limits::raise_descriptors();
        let jail = Jail { root: launch.jail.clone(), identity };
        let resolved = resolve_names(&launch, &jail.identity, interrupts)?;
        let settled = launch.configuration.settle(&resolved.names);
        let (listen, settings) = settled.map_err(|error| StartError(error.to_string()))?;
        let notices = notices(&launch, &listen, &settings, descriptor_limit);
        launch.status_file.as_deref().map_or(Ok(()), status_file::check).map_err(refused)?;
        let log = open_log(&launch, resolved.log)?;
        let (listener, socket_path) = Listener::bind(&listen, launch.backlog).map_err(refused)?.into_parts();
        let pid_file = launch.pid_file.as_deref().map(PidFile::lock).transpose().map_err(refused)?;
        let workers = worker_count(launch.workers);
        let table = Table::create(shape(&settings, workers)).map_err(refused)?;
        let cannot = |what: &'static str| move |error| StartError(format!("{what}: {}", why(&error)));
        let freed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let freed = freed.map_err(|errno| cannot("eventfd")(errno.into()))?;
        let own_listener = listener.try_clone().map_err(cannot("listener"))?;
        let say = match launch.foreground {
            true => Say::foreground(settings.debug),
            false => Say::background(settings.debug),
        };
        let inheritance = Inheritance {
            entry,
            table,
            listener,
            freed,
            settings,
            log,
            jail,
            foreground: launch.foreground,
            descriptor_limit,
        };
        let log_path = match launch.log {
            Some(LogTarget::File(path)) => Some(path),
            Some(LogTarget::Network(_, _)) | None => None,
        };
        let service = Service::new(inheritance, workers, Reporter::new(launch.status_file), log_path, say);
        Ok(Prepared { service, _socket_path: socket_path, _listener: own_listener, pid_file, notices, listen })
    }

    fn start(mut self, interrupts: &mut Interrupts) -> Result<Prepared, StartError> {
        self.service.start(interrupts)?;
        if let Some(pid_file) = &mut self.pid_file {
            pid_file.write().map_err(refused)?;
        }
        Ok(self)
    }

    /// Says what there is to say, reports readiness, and serves until the end.
    fn serve(mut self, interrupts: Interrupts) {
        let say = self.service.say();
        for notice in std::mem::take(&mut self.notices) {
            interrupts.link().iter().for_each(|link| link.notice(&notice));
            say.warning(&notice);
        }
        say.debug(&format!("listening on {}", self.listen));
        let (signals, deferred) = interrupts.ready();
        self.service.run(&signals, deferred);
    }
}

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
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

/// One worker per processor that pen may use, unless told otherwise.
fn worker_count(wanted: Option<u32>) -> u8 {
    let processors = || available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(MAX_WORKERS));
    let count = wanted.unwrap_or_else(processors).clamp(1, MAX_WORKERS);
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// What the administrator should know about a start that succeeds.
fn notices(launch: &Launch, listen: &Address, settings: &Settings, descriptor_limit: u64) -> Vec<String> {
    let mut notices = launch.configuration.warnings(listen, settings);
    if launch.backlog < MIN_BACKLOG {
        notices.push(format!("-q {}: raised to {MIN_BACKLOG}, the smallest backlog", launch.backlog));
    }
    if launch.jail.is_some() && launch.user.is_none() && geteuid().is_root() {
        notices.push("-j without -u: the workers stay root in the jail, though without capabilities; add -u".into());
    }
    notices.extend(limits::too_few_descriptors(descriptor_limit, settings.connections_max));
    notices
}

fn open_log(launch: &Launch, network: Option<SocketAddr>) -> Result<Option<RequestLog>, StartError> {
    match (&launch.log, network) {
        (Some(LogTarget::File(path)), _) => log_file::open(path).map(Some).map_err(refused),
        (Some(LogTarget::Network(_, _)), Some(address)) => log_file::connect(address).map(Some).map_err(refused),
        (Some(LogTarget::Network(_, _)) | None, _) => Ok(None),
    }
}

/// What the resolver found.
struct Resolved {
    names: Names,
    /// Where the request log goes, if it goes to the network.
    log: Option<SocketAddr>,
}

fn resolve_names(launch: &Launch, workers: &Identity, interrupts: &mut Interrupts) -> Result<Resolved, StartError> {
    let lookups: Vec<Lookup> = launch.configuration.lookups().into_iter().collect();
    let mut questions: Vec<Question> = lookups.iter().map(question).collect();
    let log = match &launch.log {
        Some(LogTarget::Network(host, service)) => Some((host, service)),
        Some(LogTarget::File(_)) | None => None,
    };
    if let Some((host, service)) = log {
        questions.extend(log_questions(host, service));
    }
    let mut answers = Vec::new();
    if !questions.is_empty() {
        let jail = Jail { root: None, identity: user::of_resolver(workers) };
        answers = resolve(&questions, &jail, RESOLVE_PATIENCE, interrupts)?;
    }
    let log_answers = answers.split_off(lookups.len().min(answers.len()));
    let log = log.map(|(host, service)| log_address(host, service, log_answers)).transpose()?;
    Ok(Resolved { names: names(lookups, answers), log })
}

fn question(lookup: &Lookup) -> Question {
    match lookup {
        Lookup::Host(name) => Question::Host(name.clone()),
        Lookup::Service(name) => Question::TcpService(name.clone()),
    }
}

fn names(lookups: Vec<Lookup>, answers: Vec<Answer>) -> Names {
    let mut names = Names::default();
    for pair in lookups.into_iter().zip(answers) {
        match pair {
            (Lookup::Host(name), Answer::Host(ip)) => drop(names.hosts.insert(name, ip)),
            (Lookup::Service(name), Answer::Service(port)) => drop(names.services.insert(name, port)),
            // The resolver's answers fit their questions; without one, the configuration cannot be settled.
            (Lookup::Host(_) | Lookup::Service(_), _) => {}
        }
    }
    names
}

fn log_questions(host: &Host, service: &ServiceName) -> impl Iterator<Item = Question> {
    let host = match host {
        Host::Name(name) => Some(Question::Host(name.clone())),
        Host::Ip(_) | Host::Unix(_) => None,
    };
    let service = match service {
        ServiceName::Name(name) => Some(Question::UdpService(name.clone())),
        ServiceName::Port(_) => None,
    };
    host.into_iter().chain(service)
}

fn log_address(host: &Host, service: &ServiceName, answers: Vec<Answer>) -> Result<SocketAddr, StartError> {
    let (mut ip, mut port) = (None, None);
    match host {
        Host::Ip(numeric) => ip = Some(*numeric),
        Host::Name(_) | Host::Unix(_) => {}
    }
    match service {
        ServiceName::Port(numeric) => port = Some(*numeric),
        ServiceName::Name(_) => {}
    }
    for answer in answers {
        match answer {
            Answer::Host(found) => ip = Some(found),
            Answer::Service(found) => port = Some(found),
            Answer::Failed(_) => {}
        }
    }
    match (ip, port) {
        (Some(ip), Some(port)) => Ok((ip, port).into()),
        _ => Err(StartError("-l: the log host is not an address that UDP can reach".into())),
    }
}

/// How long all names together may take.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(30);

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
    fn answers_become_names() {
        let lookups = vec![Lookup::Host("www1".into()), Lookup::Service("http".into())];
        let found = names(lookups, vec![Answer::Host([10, 0, 0, 1].into()), Answer::Service(80)]);
        assert_eq!(found.hosts["www1"], std::net::IpAddr::from([10, 0, 0, 1]));
        assert_eq!(found.services["http"], 80);
    }

    #[test]
    fn the_log_host_is_put_together_from_numbers_and_answers() {
        let (host, service) = (Host::Name("loghost".into()), ServiceName::Name("penlog".into()));
        assert_eq!(log_questions(&host, &service).count(), 2);
        let answers = vec![Answer::Host([10, 0, 0, 1].into()), Answer::Service(10000)];
        assert_eq!(log_address(&host, &service, answers).unwrap(), "10.0.0.1:10000".parse().unwrap());
        let numeric = (Host::Ip([10, 0, 0, 2].into()), ServiceName::Port(7));
        assert_eq!(log_questions(&numeric.0, &numeric.1).count(), 0);
        assert_eq!(log_address(&numeric.0, &numeric.1, Vec::new()).unwrap(), "10.0.0.2:7".parse().unwrap());
    }
}
