//! The context that every worker inherits through fork(2), and the supervisor's part of the
//! worker's code: from the fork to the call of its entry.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_config::settings::{ConnectionLogFormat, Settings};
use pen_ipc::channel::Channel;
use pen_ipc::message::{ConnectionLogKind, FromStartingWorker, LastingToWorker, ToWorker};
use pen_ipc::start::{Begins, ConnectionLog, DebugOutput, RequestLog, TlsStart, WorkerStart};
use pen_ipc::tls_files::Fact;
use pen_table::Table;

use crate::Entries;
use crate::clock;
use crate::files::certificates::Certificates;
use crate::files::tls_material::Keys;
use crate::files::tls_material::servers::ServerKeys;
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::limits::why_within_limits;
use crate::log::{for_worker, journal, make_nonblocking};
use crate::processes::liveness::Grace;
use crate::signals;
use crate::sys;

/// The worker's end of its channel.
pub(crate) type WorkerEnd = Channel<FromStartingWorker, ToWorker>;

/// What distinguishes a new worker from the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    pub(crate) id: WorkerId,
    /// Its row of the shared table.
    pub(crate) row: u32,
    /// When it begins to accept clients.
    pub(crate) begins: Begins,
    /// How long it may take to become ready.
    pub(crate) grace: Grace,
}

/// The context that is the same for all workers.
#[derive(Debug)]
pub(crate) struct SpawnContext {
    /// The code of the jailed processes.
    pub(crate) entries: Entries,
    /// The shared table.
    pub(crate) table: Table,
    /// The number of workers.
    pub(crate) workers: u8,
    /// The listening socket.
    pub(crate) listener: Rc<OwnedFd>,
    /// The eventfd that wakes all workers to accept clients.
    pub(crate) freed: OwnedFd,
    /// The eventfd that wakes one of the workers that wait for a connection slot.
    pub(crate) vacancy: OwnedFd,
    /// The settings in force.
    pub(crate) settings: Settings,
    /// The settings encoded in a sealed memfd, for running processes.
    pub(crate) encoded: OwnedFd,
    /// The request log as it was last opened.
    pub(crate) log: Option<RequestLog>,
    /// The connection log as it was last opened.
    pub(crate) connection_log: Option<OpenConnectionLog>,
    /// The TLS files and ticket secrets, if TLS is on.
    pub(crate) keys: Option<Keys>,
    /// The files of TLS towards servers, if a server speaks it.
    pub(crate) server_keys: Option<ServerKeys>,
    /// The root directory and the user of the workers.
    pub(crate) jail: Jail,
    /// Whether debug output goes to standard error.
    pub(crate) foreground: bool,
    /// RLIMIT_NOFILE.
    pub(crate) descriptor_limit: u64,
}

impl SpawnContext {
    /// What is known of the certificates in each set of files.
    pub(crate) fn certificates_mut(&mut self) -> impl Iterator<Item = &mut Certificates> {
        let own = self.keys.iter_mut().map(|keys| &mut keys.certificates);
        own.chain(self.server_keys.iter_mut().map(|keys| &mut keys.certificates))
    }

    /// The certificates in all files of TLS; none without TLS.
    pub(crate) fn certificates(&self) -> Option<Vec<Fact>> {
        let own = self.keys.as_ref().map(|keys| &keys.certificates);
        let servers = self.server_keys.as_ref().map(|keys| &keys.certificates);
        match (own, servers) {
            (None, None) => None,
            (own, servers) => {
                let both = own.into_iter().chain(servers);
                Some(both.flat_map(|certificates| certificates.facts.iter().cloned()).collect())
            }
        }
    }

    /// Runs a worker in the forked child; returns its exit status.
    pub(crate) fn run(&self, birth: Birth, channel: WorkerEnd, supervisor: Pid) -> i32 {
        let id = birth.id;
        sys::title::set(&format!("worker {id}"));
        match self.prepare(&channel, supervisor) {
            Ok(kept) => (self.entries.relay)(self.start(birth, channel, kept), &self.table),
            Err(reason) => {
                let place = self.jail.location();
                let reason = format!("cannot jail worker {id}{place}: {reason}");
                let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
                1
            }
        }
    }

    /// Whether workers need connections to the syslog daemon for the connection log.
    pub(crate) fn logs_to_daemon(&self) -> bool {
        matches!(self.connection_log, Some(OpenConnectionLog::Syslog))
    }

    /// Reduces the rights and descriptors of the process to those of a worker.
    fn prepare(&self, channel: &WorkerEnd, supervisor: Pid) -> Result<KeptDescriptors, String> {
        let at = |step: &'static str| {
            move |error: io::Error| format!("{step}: {}", why_within_limits(&error))
        };
        signals::reset_for_child().map_err(at("signals"))?;
        if self.foreground {
            make_nonblocking();
        }
        // First of all, so that the copies have room under a low limit.
        sys::close_all_but(&self.needed(channel)).map_err(at("close descriptors"))?;
        let kept = KeptDescriptors {
            listener: self.listener.try_clone().map_err(at("listener"))?,
            freed: self.freed.try_clone().map_err(at("eventfd"))?,
            vacancy: self.vacancy.try_clone().map_err(at("eventfd"))?,
            log: self.log.as_ref().map(duplicate).transpose().map_err(at("request log"))?,
            connection_log: self
                .connection_log
                .as_ref()
                .map(OpenConnectionLog::duplicate)
                .transpose()
                .map_err(at("connection log"))?,
            host: host_name(),
            tls: self.keys.as_ref().map(Keys::start).transpose().map_err(at("files of TLS"))?,
            server_tls: self
                .server_keys
                .as_ref()
                .map(|keys| keys.files.try_clone())
                .transpose()
                .map_err(at("files of TLS"))?,
            // Before the change of root: the socket of syslog is outside.
            debug: match self.foreground {
                true if journal::reads_stderr() => DebugOutput::Journal,
                true => DebugOutput::Stderr,
                false => DebugOutput::Syslog(for_worker()),
            },
        };
        // The originals of these descriptors are closed too. Their Rust owners belong to the
        // supervisor's code and are never used here.
        let keep = kept.descriptors(channel);
        self.jail
            .enter(ProcessKind::Relay, supervisor, &keep)
            .map_err(|error| error.to_string())?;
        Ok(kept)
    }

    /// The descriptors of the supervisor that a worker copies or uses on its way.
    fn needed<'a>(&'a self, channel: &'a WorkerEnd) -> Vec<BorrowedFd<'a>> {
        let always =
            [channel.as_fd(), self.listener.as_fd(), self.freed.as_fd(), self.vacancy.as_fd()];
        let keys = self.keys.iter().flat_map(|keys| {
            let (current, previous) = &keys.secrets;
            [&keys.files, current].into_iter().chain(previous).map(AsFd::as_fd)
        });
        let root = self.jail.sandbox.empty_root.as_ref().map(|root| root.as_fd());
        always
            .into_iter()
            .chain(self.log.as_ref().map(descriptor))
            .chain(self.connection_log.as_ref().and_then(OpenConnectionLog::descriptor))
            .chain(keys)
            .chain(self.server_keys.as_ref().map(|keys| keys.files.as_fd()))
            .chain(root)
            .collect()
    }

    fn start(&self, birth: Birth, channel: WorkerEnd, kept: KeptDescriptors) -> WorkerStart {
        let KeptDescriptors {
            listener,
            freed,
            vacancy,
            log,
            connection_log,
            host,
            tls,
            server_tls,
            debug,
        } = kept;
        WorkerStart {
            id: birth.id,
            workers: u32::from(self.workers),
            row: birth.row,
            begins: birth.begins,
            channel,
            listener,
            freed,
            vacancy,
            settings: self.settings.clone(),
            log,
            connection_log,
            tls,
            server_tls,
            debug,
            host,
            descriptor_limit: self.descriptor_limit,
            utc_offset: clock::utc_offset,
        }
    }
}

/// The descriptors that a worker keeps, and what it has to ask for before it is jailed.
struct KeptDescriptors {
    listener: OwnedFd,
    freed: OwnedFd,
    vacancy: OwnedFd,
    log: Option<RequestLog>,
    connection_log: Option<ConnectionLog>,
    host: String,
    tls: Option<TlsStart>,
    server_tls: Option<OwnedFd>,
    debug: DebugOutput,
}

impl KeptDescriptors {
    fn descriptors<'a>(&'a self, channel: &'a WorkerEnd) -> Vec<BorrowedFd<'a>> {
        let debug = match &self.debug {
            DebugOutput::Syslog(Some(socket)) => Some(socket.as_fd()),
            DebugOutput::Syslog(None) | DebugOutput::Stderr | DebugOutput::Journal => None,
        };
        let always =
            [channel.as_fd(), self.listener.as_fd(), self.freed.as_fd(), self.vacancy.as_fd()];
        let tls = self.tls.iter().flat_map(|TlsStart { files, secrets: (current, previous) }| {
            [files, current].into_iter().chain(previous).map(AsFd::as_fd)
        });
        always
            .into_iter()
            .chain(self.log.as_ref().map(descriptor))
            .chain(self.connection_log.as_ref().and_then(|log| match log {
                ConnectionLog::File(fd) | ConnectionLog::Network(fd) => Some(fd.as_fd()),
                ConnectionLog::Syslog(daemon) => daemon.as_ref().map(AsFd::as_fd),
            }))
            .chain(tls)
            .chain(self.server_tls.as_ref().map(AsFd::as_fd))
            .chain(debug)
            .collect()
    }
}

/// The descriptor of a request log.
pub(crate) fn descriptor(log: &RequestLog) -> BorrowedFd<'_> {
    match log {
        RequestLog::File(fd) | RequestLog::Network(fd) => fd.as_fd(),
    }
}

/// The descriptor of a request log, without the log.
pub(crate) fn into_descriptor(log: RequestLog) -> OwnedFd {
    match log {
        RequestLog::File(fd) | RequestLog::Network(fd) => fd,
    }
}

fn duplicate(log: &RequestLog) -> io::Result<RequestLog> {
    Ok(match log {
        RequestLog::File(fd) => RequestLog::File(fd.try_clone()?),
        RequestLog::Network(fd) => RequestLog::Network(fd.try_clone()?),
    })
}

/// The connection log as the supervisor has it.
#[derive(Debug)]
pub(crate) enum OpenConnectionLog {
    /// A log that the request log can be too.
    Log(RequestLog),
    /// The syslog daemon. Each worker has a socket of its own to it.
    Syslog,
}

impl OpenConnectionLog {
    /// Its descriptor, if the supervisor has one.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            OpenConnectionLog::Log(log) => Some(descriptor(log)),
            OpenConnectionLog::Syslog => None,
        }
    }

    /// The log for a worker.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<ConnectionLog> {
        Ok(match self {
            OpenConnectionLog::Log(log) => duplicate(log)?.into(),
            OpenConnectionLog::Syslog => ConnectionLog::Syslog(for_worker()),
        })
    }

    /// Sends it to a worker by `send`, which returns whether the channel had no room.
    pub(crate) fn send(
        log: Option<&OpenConnectionLog>,
        format: ConnectionLogFormat,
        send: impl Fn(LastingToWorker, Option<BorrowedFd<'_>>) -> bool,
    ) -> bool {
        let message = |to| LastingToWorker::ConnectionLog { to, format };
        match log {
            None => send(LastingToWorker::NoConnectionLog, None),
            Some(OpenConnectionLog::Log(log)) => {
                let to = match log {
                    RequestLog::File(_) => ConnectionLogKind::File,
                    RequestLog::Network(_) => ConnectionLogKind::Network,
                };
                send(message(to), Some(descriptor(log)))
            }
            Some(OpenConnectionLog::Syslog) => {
                let daemon = for_worker();
                send(message(ConnectionLogKind::Syslog), daemon.as_ref().map(AsFd::as_fd))
            }
        }
    }
}

/// The name of this machine, without its domain; `-` if it has none.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_graphic());
    match name.split('.').next() {
        Some(short) if !short.is_empty() && plain(short) => short.to_owned(),
        Some(_) | None => "-".to_owned(),
    }
}
