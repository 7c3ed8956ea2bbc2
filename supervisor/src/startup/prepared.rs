//! A start that is prepared: everything is open, bound and locked that needs no worker.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use pen_config::address::Address;
use pen_config::apply;
use pen_config::command::{ConnectionLogTarget, LogTarget, SourcedCommand};
use pen_config::configuration::Settled;
use pen_config::ids::Target;
use pen_config::settings::Settings;
use pen_ipc::text::error_text;
use pen_table::{MAX_ROWS, Shape, Table, TableError};
use rustix::event::{EventfdFlags, eventfd};

use crate::StartError;
use crate::clock;
use crate::event_loop::keep::KeptFiles;
use crate::event_loop::state::{FileGuard, ListenerGuard, RuntimeState, leave_out};
use crate::event_loop::{Output, Ports, Supervisor};
use crate::files::line_log;
use crate::files::line_log::{LineLog, OpenLog};
use crate::files::listener::{Listener, bind_first};
use crate::files::made::MadeFile;
use crate::files::memory;
use crate::files::pid_file::PidFile;
use crate::files::program::ProgramFile;
use crate::files::status_file::StatusFile;
use crate::files::tls_material::Keys;
use crate::files::tls_material::servers::ServerKeys;
use crate::jail::Jail;
use crate::jail::sandbox;
use crate::kept::regained::{Port, Regained, RegainedFile, Told};
use crate::kept::{Keeper, Origin};
use crate::launch::interrupt::Interrupts;
use crate::launch::options;
use crate::limits;
use crate::log::Logger;
use crate::processes::ports;
use crate::processes::ports::port::BACKLOG;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::{OpenConnectionLog, SpawnContext};
use crate::startup::plan::{PlannedPort, StartPlan};
use crate::startup::{Order, cannot, refused, worker_count};
use crate::systemd::activation::{Activation, too_open};

/// All resources that need no worker.
pub(in crate::startup) struct Prepared {
    /// The logs that were not there before. They go again if the start fails.
    made_logs: Vec<MadeFile>,
    service: Supervisor,
    notices: Vec<String>,
    /// What was not used of that which the service manager kept, and the files of what was.
    regained: Regained,
    files: RegainedFiles,
}

/// The files of sockets that the service manager kept. If the start fails, they stay.
#[derive(Default)]
struct RegainedFiles {
    listener: Option<RegainedFile>,
    control: Option<RegainedFile>,
    page: Option<RegainedFile>,
}

impl Prepared {
    /// Opens, binds and makes everything.
    ///
    /// # Errors
    /// A step failed, or the start is interrupted; the earlier steps are undone.
    pub(in crate::startup) fn new(
        order: Order,
        mut regained: Regained,
        keeper: &mut Keeper,
        interrupts: &mut Interrupts,
    ) -> Result<Prepared, StartError> {
        // The C library reads the time zone file now, because no jail contains it.
        clock::utc_offset(0);
        let descriptor_limit = limits::raise_descriptors();
        let (mut sandbox, incomplete) = sandbox::confine(
            order.launch.jail.is_some(),
            order.launch.require_sandbox,
            &order.held,
        )?;
        let plan = StartPlan::make(&order, &sandbox, interrupts)?;
        plan.examine(&order)?;
        let mut notices = plan.notices(&order, descriptor_limit);
        let Order { launch, argv, base, identity, entries, activation, mut notify, .. } = order;
        notices.extend(notify.complaint());
        notices.extend(incomplete.into_iter().chain(sandbox.suit(&plan.settled.settings)));
        let jail = Jail { root: launch.jail.clone(), identity, sandbox };
        let StartPlan {
            settled,
            options,
            file,
            log,
            connection_log,
            control,
            page,
            tls,
            server_tls,
            ..
        } = plan;
        let server_keys =
            server_tls.map(|(files, facts)| ServerKeys::new(Rc::new(files), facts, Instant::now()));
        let mut keys = tls
            .map(|(files, facts)| Keys::new(files, facts, Instant::now()))
            .transpose()
            .map_err(cannot("files of TLS"))?;
        keys.iter_mut().for_each(|keys| regained.tickets(keys));
        let Settled {
            local,
            listen,
            settings,
            log: log_target,
            connection_log: connection_target,
            status_file,
            workers: wanted,
            given,
            blacklisted,
            notices: _,
        } = settled;
        let commands: Vec<SourcedCommand> = options.iter().chain(&file).cloned().collect();
        let mut made_logs = Vec::new();
        let mut open = |which, target: &LogTarget, address| {
            let OpenLog { log, made } = line_log::open(which, target, address).map_err(refused)?;
            made_logs.extend(made);
            Ok::<_, StartError>(log)
        };
        let log = log_target.as_ref().map(|target| open(LineLog::Requests, target, log));
        let log = log.transpose()?;
        let connections = connection_target.as_ref().map(|target| match target {
            ConnectionLogTarget::Syslog => Ok(OpenConnectionLog::Syslog),
            ConnectionLogTarget::Log(target) => {
                let log = open(LineLog::Connections, target, connection_log)?;
                Ok(OpenConnectionLog::Log(log))
            }
        });
        let connections = connections.transpose()?;
        keeper.blacklisted(&blacklisted, false);
        let mut sockets = Sockets { activation, regained, keeper, notices, files: <_>::default() };
        let user = jail.identity.uid;
        let addresses =
            |port: &Option<PlannedPort>| port.as_ref().map(|port| port.addresses.clone());
        sockets.close_unfit(Port::Listener, Some(&listen));
        sockets.close_unfit(Port::Control(user), addresses(&control).as_deref());
        sockets.close_unfit(Port::Page(user), addresses(&page).as_deref());
        let (listener, guard, listen) = sockets.listener(&listen, &settings)?;
        let control =
            control.map(|port| sockets.port(Port::Control(user), &port, &jail)).transpose()?;
        let page = page.map(|port| sockets.port(Port::Page(user), &port, &jail)).transpose()?;
        let Sockets { activation, mut regained, notices, files, .. } = sockets;
        activation.all_claimed(&listen)?;
        let pid_file =
            launch.pid_file.as_deref().map(PidFile::lock).transpose().map_err(refused)?;
        let workers = worker_count(wanted);
        let shape = shape(&settings);
        let table = match regained.table(shape, &settings) {
            Some(table) => table,
            None => Table::create(shape).map_err(no_table)?,
        };
        for (server, seconds) in blacklisted {
            leave_out(&table, Target::Server(server).row(settings.table_size()), seconds);
        }
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
            connection_log: connection_target,
            connection_log_is_held: false,
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
            argv,
            generation: 0,
            program: ProgramFile::find(),
            started: Instant::now(),
        };
        let context = SpawnContext {
            entries,
            table,
            workers,
            listener,
            freed,
            vacancy,
            settings,
            encoded,
            log,
            connection_log: connections,
            keys,
            server_keys,
            jail,
            foreground: launch.foreground,
            descriptor_limit,
        };
        let output = Output { logger, notify, keeper: Keeper::default(), pid_file };
        let ports = Ports { control: control.map(Slot::new), page: page.map(Slot::new) };
        let service = Supervisor::new(state, context, workers, ports, output, entries.build);
        Ok(Prepared { made_logs, service, notices, regained, files })
    }

    /// Starts all processes.
    ///
    /// # Errors
    /// One of them does not become ready, or the start is interrupted.
    pub(in crate::startup) fn start(
        mut self,
        interrupts: &mut Interrupts,
    ) -> Result<Prepared, StartError> {
        self.service.start(interrupts)?;
        self.service.write_pid_file().map_err(refused)?;
        for made in self.made_logs.drain(..) {
            made.keep();
        }
        Ok(self)
    }

    /// Logs the notices, reports readiness, and serves until the end.
    pub(in crate::startup) fn serve(mut self, keeper: Keeper, interrupts: Interrupts) {
        let Told { before, used, unasked, unused } = self.regained.tell();
        self.notices.extend(unused);
        let RegainedFiles { listener, control, page } = self.files;
        let own = |file: Option<RegainedFile>| file.map(RegainedFile::own);
        let files = KeptFiles { listener: own(listener), control: own(control), page: own(page) };
        self.service.go_on_keeping(keeper, files);
        unasked.iter().for_each(|line| self.service.logger().notice(line));
        let notices = std::mem::take(&mut self.notices);
        for notice in &notices {
            interrupts.link().iter().for_each(|link| link.notice(notice));
        }
        self.service.warn_at_start(&notices);
        self.service.log_start(before, used);
        let (signals, deferred) = interrupts.ready();
        self.service.run(&signals, deferred);
    }
}

/// Where the sockets of a start come from: a socket unit, the store of the service manager, or else
/// pen binds them.
struct Sockets<'a> {
    activation: Activation,
    regained: Regained,
    keeper: &'a mut Keeper,
    notices: Vec<String>,
    files: RegainedFiles,
}

impl Sockets<'_> {
    /// Closes a kept socket that does not fit its port, or whose port pen does not have. It may
    /// have the address that another port is to get, so this comes before anything is bound.
    fn close_unfit(&mut self, port: Port, addresses: Option<&[Address]>) {
        match addresses {
            Some(addresses) => self.regained.close_unfit(port, addresses),
            None => self.regained.close_unasked(port),
        }
    }

    /// The listener.
    fn listener(
        &mut self,
        addresses: &[Address],
        settings: &Settings,
    ) -> Result<(Rc<OwnedFd>, ListenerGuard, Address), StartError> {
        let backlog = settings.backlog;
        let passed = self.activation.claim_first(addresses, backlog)?;
        let (listener, path, address) = if let Some((passed, address)) = passed {
            self.regained.close_unasked(Port::Listener);
            self.keeper.note(Port::Listener, Origin::Passed);
            (passed, None, address)
        } else if let Some(kept) = self.regained.socket(Port::Listener, addresses, backlog) {
            self.files.listener = kept.file;
            (kept.socket, None, kept.address)
        } else {
            let bind = |address: &Address| Listener::bind(address, backlog);
            let bound = bind_first(addresses, bind).map_err(refused)?;
            self.notices.extend(bound.notice);
            let (listener, path) = bound.what.into_parts();
            (listener, path, bound.address)
        };
        let listener = Rc::new(listener);
        let guard = ListenerGuard::new(listener.clone(), path.map(FileGuard::Own));
        Ok((listener, guard, address))
    }

    /// The control port, or the port of the page.
    fn port(
        &mut self,
        port: Port,
        planned: &PlannedPort,
        jail: &Jail,
    ) -> Result<ports::port::Port, StartError> {
        let PlannedPort { name, addresses } = planned;
        if let Some((passed, address)) = self.activation.claim_first(addresses, BACKLOG)? {
            self.regained.close_unasked(port);
            self.keeper.note(port, Origin::Passed);
            match port {
                Port::Control(_) => self.notices.extend(too_open(&address)),
                // Whoever reaches the page changes nothing by it.
                Port::Listener | Port::Page(_) => {}
            }
            return Ok(ports::port::Port::passed(name, passed));
        }
        if let Some(kept) = self.regained.socket(port, addresses, BACKLOG) {
            match port {
                Port::Control(_) => self.files.control = kept.file,
                Port::Page(_) => self.files.page = kept.file,
                Port::Listener => {}
            }
            return Ok(ports::port::Port::passed(name, kept.socket));
        }
        let bind = |address: &Address| ports::port::Port::bind(name, address, jail);
        let bound = bind_first(addresses, bind).map_err(refused)?;
        self.notices.extend(bound.notice);
        Ok(bound.what)
    }
}

fn wakes() -> Result<OwnedFd, StartError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| cannot("eventfd")(errno.into()))
}

fn no_table(error: TableError) -> StartError {
    let TableError::System { bytes, source, .. } = &error else { return refused(error) };
    let hint = match source.raw_os_error() {
        Some(libc::EFBIG) => " (a limit on the size of files: ulimit -f, LimitFSIZE=)",
        _ => " (-c and --workers make it smaller; ulimit -v)",
    };
    StartError(format!("shared table of {bytes} bytes: {}{hint}", error_text(source)))
}

/// The shape of a table for these settings.
pub(crate) fn shape(settings: &Settings) -> Shape {
    Shape {
        clients: settings.clients_max,
        // The emergency and the abuse server have rows of their own.
        servers: settings.table_size() + 2,
        // Rows that no worker ever had cost address space only. Workers of earlier programs keep
        // theirs, so that their connections can outlive many upgrades.
        rows: MAX_ROWS,
        connections: settings.connections_max,
    }
}
