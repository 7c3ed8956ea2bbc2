//! The supervisor from a state.
//!
//! Everything that can fail comes first, and gives values without an effect on drop. Only then are
//! the owners made that remove files or kill children when they are dropped. So an error leaves
//! everything as the earlier program needs it.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::{Gid, Pid, Uid};
use pen_config::ids::WorkerId;
use pen_ipc::start::RequestLog;
use pen_ipc::text::error_text;
use pen_walk::Entry;

use crate::Entries;
use crate::clock::from_precise;
use crate::event_loop::state::{FileGuard, ListenerGuard, RuntimeState};
use crate::event_loop::{Adopted, Output, Supervisor};
use crate::files::certificates::Certificates;
use crate::files::made::MadeFile;
use crate::files::memory;
use crate::files::pid_file::PidFile;
use crate::files::status_file::StatusFile;
use crate::files::tls_material::Keys;
use crate::files::tls_material::servers::ServerKeys;
use crate::handover::descriptors::Number;
use crate::handover::marker::Role;
use crate::handover::state::{
    Asker, CarriedConnectionLog, CarriedFile, CarriedKeys, CarriedLog, CarriedOldWorker,
    CarriedPort, CarriedRuntime, CarriedServerKeys, CarriedWorker, FileMaker, State,
};
use crate::handover::{Build, TableTransfer};
use crate::helpers::open::JailedFile;
use crate::jail::Jail;
use crate::jail::sandbox;
use crate::jail::user::Identity;
use crate::kept::Keeper;
use crate::launch::paths::Base;
use crate::limits::{self, why_within_limits};
use crate::log::Logger;
use crate::log::recent::Recent;
use crate::processes::old_tables::{OldTables, TableNumber, TableRow};
use crate::processes::old_worker::{AdoptedOldWorker, Origin};
use crate::processes::peer::AdoptedProcess;
use crate::processes::pool::AdoptedSlot;
use crate::processes::ports::port::Port;
use crate::processes::spawn::{OpenConnectionLog, SpawnContext};
use crate::processes::worker::AdoptedWorker;
use crate::signals::{SignalRequest, Signals};
use crate::successor::descriptors::Descriptors;
use crate::successor::tables::Tables;
use crate::systemd::notify::Notify;

/// A supervisor that can go on.
pub(in crate::successor) struct Restored {
    pub(in crate::successor) service: Supervisor,
    pub(in crate::successor) signals: Signals,
    pub(in crate::successor) deferred: Vec<SignalRequest>,
    pub(in crate::successor) asked_by: Asker,
    /// The version of the earlier program.
    pub(in crate::successor) before: String,
    /// The children at the time of the handover.
    pub(in crate::successor) children: Vec<i32>,
    pub(in crate::successor) table: TableTransfer,
    /// The descriptors of the earlier program.
    pub(in crate::successor) originals: Vec<Number>,
}

/// A made file, found again.
struct FoundFile {
    entry: Option<Entry>,
    carried: CarriedFile,
}

impl FoundFile {
    fn find(carried: CarriedFile, role: Role) -> Result<FoundFile, String> {
        let entry = match carried.maker {
            FileMaker::Supervisor => find_entry(&carried.path, role)?,
            FileMaker::Jail => None,
        };
        Ok(FoundFile { entry, carried })
    }

    fn made(self) -> Option<MadeFile> {
        let id = (self.carried.device, self.carried.inode);
        self.entry.map(|entry| MadeFile::adopted(entry, id))
    }

    fn guard(self, jail: &Jail) -> Option<FileGuard> {
        let CarriedFile { ref path, device, inode, maker } = self.carried;
        match maker {
            FileMaker::Supervisor => self.made().map(FileGuard::Own),
            FileMaker::Jail => {
                Some(FileGuard::Jailed(JailedFile::new(path, (device, inode), jail)))
            }
        }
    }
}

/// What a state describes, checked and open. Nothing in it has an effect when it is dropped.
pub(in crate::successor) struct Checked {
    pub(in crate::successor) state: State,
    pub(in crate::successor) jail: Jail,
    pub(in crate::successor) tables: Tables,
    listener: OwnedFd,
    listener_file: Option<FoundFile>,
    freed: OwnedFd,
    vacancy: OwnedFd,
    log: Option<RequestLog>,
    connection_log: Option<OpenConnectionLog>,
    pub(in crate::successor) keys: Option<Keys>,
    pub(in crate::successor) server_keys: Option<ServerKeys>,
    encoded: OwnedFd,
    control: Option<CheckedPort>,
    page: Option<CheckedPort>,
    checker: Option<AdoptedProcess>,
    pid_file: Option<(PathBuf, Option<Entry>, OwnedFd)>,
    slots: Vec<AdoptedSlot>,
    old_workers: Vec<AdoptedOldWorker>,
    status: Option<StatusFile>,
    pub(in crate::successor) ocsp: Option<OwnedFd>,
}

struct CheckedPort {
    name: String,
    socket: OwnedFd,
    file: Option<FoundFile>,
    process: Option<AdoptedProcess>,
}

impl CheckedPort {
    fn new(
        port: CarriedPort,
        what: &str,
        role: Role,
        from: &mut Descriptors,
    ) -> Result<CheckedPort, String> {
        let CarriedPort { name, socket, file, process } = port;
        Ok(CheckedPort {
            socket: from.listener(socket, what)?,
            process: process.map(|process| from.process(&process)).transpose()?,
            name,
            file: file.map(|file| FoundFile::find(file, role)).transpose()?,
        })
    }

    fn build(self) -> (Port, Option<AdoptedProcess>) {
        let file = self.file.and_then(FoundFile::made);
        (Port::adopted(self.name, self.socket, file), self.process)
    }
}

impl Checked {
    /// Opens and checks everything that a state names.
    ///
    /// # Errors
    /// One line: what is not as the state says.
    pub(in crate::successor) fn new(
        mut state: State,
        role: Role,
        build: &Build,
    ) -> Result<Checked, String> {
        let mut descriptors = Descriptors::of(&state.descriptors, role)?;
        let from = &mut descriptors;
        let launch = &state.launch;
        let identity = Identity {
            uid: Uid::from_raw(launch.uid),
            gid: Gid::from_raw(launch.gid),
            groups: launch.groups.iter().map(|group| Gid::from_raw(*group)).collect(),
        };
        let sandbox = sandbox::adopted(&state.sandbox, from.take_if(state.empty_root)?)?;
        let jail = Jail { root: launch.jail.clone(), identity, sandbox };
        let tables = Tables::open(&mut state, from, build)?;
        let log = state.log.as_ref().map(|log| restore_log(log, from)).transpose()?;
        let connection_log = state.connection_log.as_ref().map(|log| match log {
            CarriedConnectionLog::Log(log) => restore_log(log, from).map(OpenConnectionLog::Log),
            CarriedConnectionLog::Syslog => Ok(OpenConnectionLog::Syslog),
        });
        let connection_log = connection_log.transpose()?;
        let control = state.control.take();
        let control = control
            .map(|port| CheckedPort::new(port, "the control port", role, from))
            .transpose()?;
        let page = state.page.take();
        let page = page
            .map(|port| CheckedPort::new(port, "the port of the page", role, from))
            .transpose()?;
        let checker = state.checker.take();
        let checker = checker.map(|process| from.process(&process)).transpose()?;
        let pid_file = state.pid_file.take().map(|file| {
            // If its directory is gone, the lock stays.
            let entry = find_entry(&file.path, role)?;
            Ok::<_, String>((file.path, entry, from.take(file.file)?))
        });
        let slots = std::mem::take(&mut state.slots).into_iter().map(|slot| {
            let worker = slot.worker.map(|worker| restore_worker(worker, from));
            Ok::<_, String>(AdoptedSlot {
                row: slot.row,
                worker: worker.transpose()?,
                ended: slot.ended,
            })
        });
        let slots = slots.collect::<Result<_, String>>()?;
        let old_workers = std::mem::take(&mut state.old_workers);
        let replaced = tables.replaced;
        let old_workers = old_workers.into_iter().map(|worker| restore_old(worker, replaced, from));
        let old_workers = old_workers.collect::<Result<_, String>>()?;
        let status = state.runtime.status.take().map(|file| {
            Ok::<_, String>(match from.take_if(file.file)? {
                Some(held) => StatusFile::Held { name: file.name, file: File::from(held) },
                None => StatusFile::Path(file.name),
            })
        });
        let listener_file = state.listener.file.take().map(|file| FoundFile::find(file, role));
        Ok(Checked {
            control,
            page,
            checker,
            pid_file: pid_file.transpose()?,
            status: status.transpose()?,
            listener: from.listener(state.listener.socket, "the listener")?,
            listener_file: listener_file.transpose()?,
            freed: from.take(state.freed)?,
            vacancy: from.take(state.vacancy)?,
            keys: state.keys.take().map(|keys| restore_keys(keys, from)).transpose()?,
            server_keys: state
                .server_keys
                .take()
                .map(|keys| restore_server_keys(keys, from))
                .transpose()?,
            encoded: memory::encoded(&state.settings)
                .map_err(|error| format!("settings: {}", error_text(&error)))?,
            ocsp: from.take_if(state.runtime.ocsp)?,
            jail,
            tables,
            log,
            connection_log,
            slots,
            old_workers,
            state,
        })
    }

    /// Makes the supervisor. From now on the drop of its parts has effects.
    ///
    /// # Errors
    /// No descriptors left; nothing was made.
    pub(in crate::successor) fn build(
        self,
        role: Role,
        entries: &Entries,
        descriptor_limit: u64,
    ) -> Result<Restored, String> {
        let signals = Signals::go_on()
            .map_err(|error| format!("cannot take signals: {}", error_text(&error)))?;
        let Checked { state, jail, .. } = self;
        let table = self.tables.transfer();
        let listener = Rc::new(self.listener);
        let file = self.listener_file.and_then(|file| file.guard(&jail));
        let guard = ListenerGuard::new(listener.clone(), file);
        let control = self.control.map(CheckedPort::build);
        let page = self.page.map(CheckedPort::build);
        let mut logger = match state.launch.foreground {
            true => Logger::foreground(state.settings.debug),
            false => Logger::background(state.settings.debug),
        };
        logger.adopt(Recent::adopted(state.events));
        let deferred = state
            .upgrades
            .iter()
            .map(|asker| SignalRequest::Upgrade { asker: asker.map(Pid::from_raw) });
        let every = state.notify.alive_every.map(Duration::from_micros);
        let adopted = Adopted {
            role,
            version: state.version.clone(),
            lasting: state.lasting,
            generation: state.generation,
            slots: self.slots,
            old_workers: self.old_workers,
            old_tables: OldTables::adopted(self.tables.old),
            replaced: self.tables.replaced,
            control,
            page,
            checks: (state.checks, self.checker),
            lookups: state.lookups,
            former_marks: state.former_marks,
            retired: state.retired.0,
            past: state.past,
            file_refused: state.runtime.file_refused,
        };
        let pid_file = self.pid_file;
        let notify = Notify::adopted(state.notify.socket.as_deref(), every);
        let output = Output {
            logger,
            keeper: Keeper::adopted(&notify, state.notify.keeper),
            notify,
            pid_file: pid_file.map(|(path, entry, file)| PidFile::adopted(path, entry, file)),
        };
        let parts = RuntimeParts {
            guard,
            status: self.status,
            ocsp: self.ocsp,
            base: Base::adopted(state.launch.start, state.launch.jail),
            argv: state.launch.argv,
        };
        let context = SpawnContext {
            entries: *entries,
            table: self.tables.table,
            // At most MAX_WORKERS.
            workers: adopted.slots.len() as u8,
            listener,
            freed: self.freed,
            vacancy: self.vacancy,
            settings: state.settings,
            encoded: self.encoded,
            log: self.log,
            connection_log: self.connection_log,
            keys: self.keys,
            server_keys: self.server_keys,
            jail,
            foreground: state.launch.foreground,
            descriptor_limit,
        };
        let generation = match role {
            Role::Successor => state.generation.saturating_add(1),
            Role::Predecessor => state.generation,
        };
        let runtime = RuntimeState { generation, ..restore_runtime(state.runtime, parts) };
        Ok(Restored {
            service: Supervisor::adopted(runtime, context, adopted, output, entries.build),
            signals,
            deferred: deferred.collect(),
            asked_by: state.asked_by,
            before: state.version,
            children: state.children,
            table,
            originals: state.descriptors,
        })
    }
}

/// The place of a file that is removed at the end; none if its directory is gone, and so the file.
/// The program before goes on in any case: there is nobody else.
fn find_entry(path: &Path, role: Role) -> Result<Option<Entry>, String> {
    match (Entry::find(path), role) {
        (Ok(entry), _) => Ok(Some(entry)),
        (Err(_), Role::Predecessor) => Ok(None),
        (Err(error), Role::Successor) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            _ => Err(format!("{}: {}", path.display(), why_within_limits(&error))),
        },
    }
}

fn restore_log(log: &CarriedLog, from: &mut Descriptors) -> Result<RequestLog, String> {
    let descriptor = from.take(log.descriptor)?;
    Ok(match log.network {
        true => RequestLog::Network(descriptor),
        false => RequestLog::File(descriptor),
    })
}

fn restore_keys(keys: CarriedKeys, from: &mut Descriptors) -> Result<Keys, String> {
    Ok(Keys {
        files: from.take(keys.files)?,
        secrets: (from.take(keys.current)?, from.take_if(keys.previous)?),
        rotation: from_precise(keys.rotation),
        reading: from_precise(keys.reading),
        certificates: Certificates::adopted(keys.facts, keys.told, from_precise(keys.warning)),
    })
}

fn restore_server_keys(
    keys: CarriedServerKeys,
    from: &mut Descriptors,
) -> Result<ServerKeys, String> {
    Ok(ServerKeys {
        files: Rc::new(from.take(keys.files)?),
        certificates: Certificates::adopted(keys.facts, keys.told, from_precise(keys.warning)),
        looking: from_precise(keys.looking),
    })
}

fn restore_worker(worker: CarriedWorker, from: &mut Descriptors) -> Result<AdoptedWorker, String> {
    Ok(AdoptedWorker {
        process: from.process(&worker.process)?,
        counters: worker.counters.0,
        applied: worker.applied,
    })
}

fn restore_old(
    worker: CarriedOldWorker,
    replaced: Option<TableNumber>,
    from: &mut Descriptors,
) -> Result<AdoptedOldWorker, String> {
    let origin = Origin {
        id: WorkerId(worker.id),
        // Those that used the table in use have the one now that it was.
        row: TableRow { table: worker.table.or(replaced), row: worker.row },
        version: worker.version,
        lasting: worker.lasting,
        generation: worker.generation,
        since: from_precise(worker.since),
    };
    let process = from.process(&worker.process)?;
    Ok(AdoptedOldWorker { origin, process, counters: worker.counters.0 })
}

/// The parts of the runtime state that are no plain values.
struct RuntimeParts {
    guard: ListenerGuard,
    status: Option<StatusFile>,
    ocsp: Option<OwnedFd>,
    base: Base,
    argv: Vec<Vec<u8>>,
}

fn restore_runtime(carried: CarriedRuntime, parts: RuntimeParts) -> RuntimeState {
    let RuntimeParts { guard, status, ocsp, base, argv } = parts;
    RuntimeState {
        local: carried.local,
        listen: carried.listen,
        guard,
        retired: Vec::new(),
        log: carried.log,
        log_is_held: carried.log_is_held,
        connection_log: carried.connection_log,
        connection_log_is_held: carried.connection_log_is_held,
        ocsp,
        status,
        startup: carried.startup,
        commanded: carried.commanded,
        servers_only: carried.servers_only,
        config: carried.config,
        options: carried.options,
        given: carried.given,
        base,
        allow_exit: carried.allow_exit,
        longest_backlog: limits::longest_backlog(),
        workers: carried.workers,
        command_line: carried.command_line,
        argv,
        generation: 0,
        program: carried.program,
        started: from_precise(carried.started),
    }
}
