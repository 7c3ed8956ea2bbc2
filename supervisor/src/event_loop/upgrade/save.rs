//! The writing of the state: everything that the next program needs, and which descriptors pass.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::prctl;
use nix::unistd::Pid;
use pen_config::address::Address;
use pen_config::checks::{Admission, ServerMode};
use pen_config::settings::Method;
use pen_ipc::codec::Incoming;
use pen_ipc::message::{LASTING_VERSION, LastingCounters};
use pen_ipc::start::RequestLog;
use pen_table::TableDescription;
use serde::Serialize;

use crate::clock::to_precise;
use crate::event_loop::Supervisor;
use crate::event_loop::job::Requester;
use crate::event_loop::state::FileGuard;
use crate::files::made::{FileId, MadeFile};
use crate::files::status_file::StatusFile;
use crate::files::tls_material::Keys;
use crate::files::tls_material::servers::ServerKeys;
use crate::handover::clients;
use crate::handover::descriptors::Number;
use crate::handover::state::{
    Asker, CHECKS, CONNECTION_LOG, CarriedConnectionLog, CarriedExport, CarriedFile, CarriedKeys,
    CarriedLaunch, CarriedListener, CarriedLog, CarriedNotify, CarriedOldTable, CarriedOldWorker,
    CarriedPidFile, CarriedPort, CarriedProcess, CarriedRuntime, CarriedServerKeys, CarriedSlot,
    CarriedStatusFile, CarriedTable, CarriedWorker, FileMaker, HOLD, LIMITS, NAMES, PAGE,
    PLACEMENT, SERVER_STATES, SERVER_TLS, SERVERS_FROM, State,
};
use crate::processes::child::children;
use crate::processes::old_tables::OldTable;
use crate::processes::old_worker::OldWorker;
use crate::processes::peer::Peer;
use crate::processes::ports::checker::Checker;
use crate::processes::ports::kind::PortKind;
use crate::processes::ports::port::Port;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::{OpenConnectionLog, descriptor};
use crate::processes::worker::{Worker, is_network};

/// The descriptors that pass, noted as they are written.
#[derive(Debug, Default)]
struct Passing(Vec<Number>);

impl Passing {
    fn note(&mut self, descriptor: &impl AsFd) -> Number {
        let number = Number::of(descriptor);
        self.0.push(number);
        number
    }

    fn note_if(&mut self, descriptor: Option<BorrowedFd<'_>>) -> Option<Number> {
        descriptor.map(|descriptor| self.note(&descriptor))
    }

    fn process<Tx: Serialize, Rx: Incoming>(&mut self, peer: &Peer<Tx, Rx>) -> CarriedProcess {
        CarriedProcess {
            pid: peer.pid().as_raw(),
            pidfd: self.note(&peer.pidfd()),
            channel: self.note_if(peer.channel()),
            stat: self.note_if(peer.stat()),
            used: u64::try_from(peer.used().as_nanos()).unwrap_or(u64::MAX),
            born: to_precise(peer.born),
        }
    }
}

impl Supervisor {
    /// The present state, and the descriptors in it.
    pub(in crate::event_loop::upgrade) fn save(&self, by: Requester) -> State {
        let mut passing = Passing::default();
        let to = &mut passing;
        let context = &self.context;
        let mut state = State {
            version: self.build.version.into(),
            lasting: LASTING_VERSION,
            generation: self.state.generation,
            requires: self.required(),
            descriptors: Vec::new(),
            pid: std::process::id().cast_signed(),
            children: children().iter().map(|pid| pid.as_raw()).collect(),
            asked_by: asker(by),
            launch: self.save_launch(),
            sandbox: context.jail.sandbox.carried(),
            empty_root: to
                .note_if(context.jail.sandbox.empty_root.as_ref().map(|root| root.as_fd())),
            settings: context.settings.clone(),
            listener: CarriedListener {
                socket: to.note(&context.listener.as_fd()),
                file: self.save_listener_file(),
            },
            freed: to.note(&context.freed),
            vacancy: to.note(&context.vacancy),
            table: CarriedTable {
                memory: to.note(&context.table.descriptor()),
                description: TableDescription {
                    layout: self.build.table_layout,
                    ..context.table.description()
                },
                counts: Some(context.table.counts()),
            },
            export: None,
            old_tables: self.old_tables.iter().map(|table| save_old_table(table, to)).collect(),
            log: context.log.as_ref().map(|log| save_log(log, to)),
            connection_log: context.connection_log.as_ref().map(|log| match log {
                OpenConnectionLog::Log(log) => CarriedConnectionLog::Log(save_log(log, to)),
                OpenConnectionLog::Syslog => CarriedConnectionLog::Syslog,
            }),
            keys: context.keys.as_ref().map(|keys| save_keys(keys, to)),
            server_keys: context.server_keys.as_ref().map(|keys| save_server_keys(keys, to)),
            control: self.control.as_ref().map(|control| save_port(control, to)),
            page: self.page.as_ref().map(|page| save_port(page, to)),
            checks: self.checking.known.carried(),
            lookups: self.names.known.carried(),
            former_marks: self.names.former.clone(),
            checker: self.checking.process().and_then(Checker::peer).map(|peer| to.process(peer)),
            pid_file: self.pid_file.as_ref().map(|file| CarriedPidFile {
                path: file.path().into(),
                file: to.note(&file.descriptor()),
            }),
            upgrades: self.save_upgrades(),
            notify: CarriedNotify {
                socket: self.notify.socket(),
                alive_every: self.notify.alive_every().map(|every| every.as_micros() as u64),
                keeper: self.keeper.carried(),
            },
            slots: self
                .pool
                .slots()
                .zip(self.pool.ended())
                .map(|((row, worker), ended)| CarriedSlot {
                    row,
                    worker: worker.map(|worker| save_worker(worker, to)),
                    ended,
                })
                .collect(),
            old_workers: self.old.workers().map(|worker| save_old(worker, to)).collect(),
            retired: LastingCounters(*self.pool.retired()),
            events: self.logger.recent().carried(),
            past: self.past.carried(),
            runtime: self.save_runtime(to),
        };
        state.descriptors = passing.0;
        state
    }

    /// Writes down what the table holds. Returns the memory of the clients too.
    pub(in crate::event_loop::upgrade) fn export(&self) -> io::Result<(CarriedExport, OwnedFd)> {
        let table = &self.context.table;
        let old = self.old.workers().filter(|worker| worker.origin.row.table.is_none());
        let rows: Vec<u32> = self
            .pool
            .workers()
            .map(|worker| worker.row)
            .chain(old.map(|worker| worker.origin.row.row))
            .collect();
        let mirrors = self.old_tables.iter().map(|table| table.row);
        let left_out: Vec<u32> = rows.iter().copied().chain(mirrors).collect();
        let servers = table.export_servers(&left_out);
        let clients = clients::write(table.export_clients())?;
        Ok((CarriedExport { clients: Number::of(&clients), servers, rows }, clients))
    }

    /// The features in use that a program of an earlier release cannot go on with.
    fn required(&self) -> Vec<String> {
        let log = self.context.connection_log.as_ref().map(|_| CONNECTION_LOG.to_owned());
        let page = self.page.as_ref().map(|_| PAGE.to_owned());
        let settings = &self.context.settings;
        let checks = settings.has_checks().then(|| CHECKS.to_owned());
        let holds = settings.hold > 0 || settings.admission == Admission::Paused;
        let hold = holds.then(|| HOLD.to_owned());
        let is_out = |server: &pen_config::settings::Server| server.mode != ServerMode::Ready;
        let states = settings.servers.iter().flatten().any(is_out);
        let states = states.then(|| SERVER_STATES.to_owned());
        let is_later = match settings.selection.method() {
            Method::Leastconn | Method::P2c | Method::Maglev => true,
            Method::Prio | Method::Weight | Method::Hash | Method::RoundRobin => false,
        };
        let placement = is_later.then(|| PLACEMENT.to_owned());
        let follows = settings.resolve > 0 && self.names.known.has_names();
        let names = follows.then(|| NAMES.to_owned());
        let followed = (!settings.servers_from.is_empty()).then(|| SERVERS_FROM.to_owned());
        let limits = settings.per_client.is_on().then(|| LIMITS.to_owned());
        let server_tls = settings.has_server_tls().then(|| SERVER_TLS.to_owned());
        let all = [log, page, checks, hold, states, placement, names, followed, limits, server_tls];
        all.into_iter().flatten().collect()
    }

    fn save_launch(&self) -> CarriedLaunch {
        let jail = &self.context.jail;
        CarriedLaunch {
            argv: self.state.argv.clone(),
            name: prctl::get_name().map_or(String::new(), |name| name.to_string_lossy().into()),
            foreground: self.context.foreground,
            jail: jail.root.clone(),
            uid: jail.identity.uid.as_raw(),
            gid: jail.identity.gid.as_raw(),
            groups: jail.identity.groups.iter().map(|group| group.as_raw()).collect(),
            start: self.state.base.start().map(Into::into),
        }
    }

    fn save_runtime(&self, to: &mut Passing) -> CarriedRuntime {
        let state = &self.state;
        CarriedRuntime {
            local: state.local.clone(),
            listen: state.listen.clone(),
            log: state.log.clone(),
            log_is_held: state.log_is_held,
            connection_log: state.connection_log.clone(),
            connection_log_is_held: state.connection_log_is_held,
            ocsp: to.note_if(state.ocsp.as_ref().map(AsFd::as_fd)),
            status: state.status.as_ref().map(|file| save_status_file(file, to)),
            startup: state.startup.clone(),
            commanded: state.commanded.clone(),
            servers_only: state.servers_only,
            config: state.config.clone(),
            options: state.options.clone(),
            given: state.given.clone(),
            allow_exit: state.allow_exit,
            workers: state.workers,
            command_line: state.command_line.clone(),
            program: state.program.clone(),
            started: to_precise(state.started),
            file_refused: self.file_refused,
        }
    }

    fn save_listener_file(&self) -> Option<CarriedFile> {
        let Address::Unix(path) = &self.state.listen else { return None };
        match self.state.guard.file()? {
            FileGuard::Own(file) => Some(save_made(path, file)),
            FileGuard::Jailed(file) => Some(save_file(file.path(), file.id(), FileMaker::Jail)),
        }
    }

    /// Who asked for further upgrades. Commands, HUP and USR1 have been carried out.
    fn save_upgrades(&self) -> Vec<Option<i32>> {
        let upgrades = self.queue.upgrades().filter_map(|by| match by {
            Requester::Signal { asker } => Some(asker.map(Pid::as_raw)),
            Requester::Operator { .. } | Requester::Hangup | Requester::Names => None,
        });
        upgrades.collect()
    }
}

fn asker(by: Requester) -> Asker {
    match by {
        Requester::Operator { pid, ticket, who } => {
            Asker::Operator { pid: pid.as_raw(), ticket, who }
        }
        Requester::Signal { asker } => Asker::Signal(asker.map(|asker| asker.as_raw())),
        Requester::Hangup | Requester::Names => Asker::Signal(None),
    }
}

fn save_port<K: PortKind<Port = Port>>(slot: &Slot<K>, to: &mut Passing) -> CarriedPort {
    let port = slot.port();
    CarriedPort {
        name: port.name.clone(),
        socket: to.note(&port.socket()),
        file: port.file().map(|file| save_made(Path::new(&port.name), file)),
        process: slot.peer().map(|peer| to.process(peer)),
    }
}

fn save_made(path: &Path, file: &MadeFile) -> CarriedFile {
    save_file(path, file.id(), FileMaker::Supervisor)
}

fn save_file(path: &Path, (device, inode): FileId, maker: FileMaker) -> CarriedFile {
    CarriedFile { path: path.into(), device, inode, maker }
}

fn save_status_file(file: &StatusFile, to: &mut Passing) -> CarriedStatusFile {
    let descriptor = file.descriptor();
    CarriedStatusFile { name: file.name().into(), file: to.note_if(descriptor) }
}

fn save_log(log: &RequestLog, to: &mut Passing) -> CarriedLog {
    CarriedLog { descriptor: to.note(&descriptor(log)), network: is_network(log) }
}

fn save_keys(keys: &Keys, to: &mut Passing) -> CarriedKeys {
    CarriedKeys {
        files: to.note(&keys.files),
        current: to.note(&keys.secrets.0),
        previous: to.note_if(keys.secrets.1.as_ref().map(AsFd::as_fd)),
        rotation: to_precise(keys.rotation),
        reading: to_precise(keys.reading),
        facts: keys.certificates.facts.clone(),
        told: keys.certificates.told().to_vec(),
        warning: to_precise(keys.certificates.due()),
    }
}

fn save_server_keys(keys: &ServerKeys, to: &mut Passing) -> CarriedServerKeys {
    CarriedServerKeys {
        files: to.note(&*keys.files),
        facts: keys.certificates.facts.clone(),
        told: keys.certificates.told().to_vec(),
        warning: to_precise(keys.certificates.due()),
        looking: to_precise(keys.looking),
    }
}

fn save_worker(worker: &Worker, to: &mut Passing) -> CarriedWorker {
    CarriedWorker {
        process: to.process(&worker.peer),
        counters: LastingCounters(worker.counters),
        applied: worker.applied(),
    }
}

fn save_old_table(table: &OldTable, to: &mut Passing) -> CarriedOldTable {
    CarriedOldTable {
        number: table.number,
        memory: to.note(&table.table.descriptor()),
        counts: table.table.counts(),
        rows: table.rows.clone(),
        row: table.row,
    }
}

fn save_old(worker: &OldWorker, to: &mut Passing) -> CarriedOldWorker {
    CarriedOldWorker {
        process: to.process(&worker.peer),
        row: worker.origin.row.row,
        table: worker.origin.row.table,
        counters: LastingCounters(worker.counters),
        id: worker.origin.id.0,
        version: worker.origin.version.clone(),
        lasting: worker.origin.lasting,
        generation: worker.origin.generation,
        since: to_precise(worker.origin.since),
    }
}
