//! The context that every worker inherits through fork(2), and the supervisor's part of the
//! worker's code: from the fork to the call of its entry.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_config::settings::Settings;
use pen_ipc::channel::Channel;
use pen_ipc::message::{FromStartingWorker, PROTOCOL_VERSION, ToWorker};
use pen_ipc::start::{DebugOutput, RequestLog, TlsStart, WorkerStart};
use pen_table::{LAYOUT_VERSION, Table};

use crate::clock;
use crate::files::tls_material::Keys;
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::limits::why_within_limits;
use crate::log::{for_worker, journal, never_wait};
use crate::signals;
use crate::sys;
use crate::{Examiner, WorkerEntry};

/// The worker's end of its channel.
pub(crate) type WorkerEnd = Channel<FromStartingWorker, ToWorker>;

/// The context that is the same for all workers.
#[derive(Debug)]
pub(crate) struct SpawnContext {
    /// The worker's own code.
    pub(crate) entry: WorkerEntry,
    /// The code that examines TLS files.
    pub(crate) examine_tls: Examiner,
    /// The shared table.
    pub(crate) table: Table,
    /// The listening socket.
    pub(crate) listener: OwnedFd,
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
    /// The TLS files and ticket secrets, if TLS is on.
    pub(crate) keys: Option<Keys>,
    /// The root directory and the user of the workers.
    pub(crate) jail: Jail,
    /// Whether debug output goes to standard error.
    pub(crate) foreground: bool,
    /// RLIMIT_NOFILE.
    pub(crate) descriptor_limit: u64,
}

impl SpawnContext {
    /// Runs a worker in the forked child; returns its exit status.
    pub(crate) fn live(&self, id: WorkerId, channel: WorkerEnd, supervisor: Pid) -> i32 {
        sys::title::set(&format!("worker {id}"));
        match self.prepare(&channel, supervisor) {
            Ok(belongings) => {
                let hello = FromStartingWorker::Hello {
                    protocol: PROTOCOL_VERSION,
                    layout: LAYOUT_VERSION,
                };
                match channel.send(&hello, None) {
                    Ok(_) => (self.entry)(self.start(id, channel, belongings), &self.table),
                    Err(_) => 1,
                }
            }
            Err(reason) => {
                let place = self.jail.place();
                let reason = format!("cannot jail worker {id}{place}: {reason}");
                let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
                1
            }
        }
    }

    /// Reduces the rights and descriptors of the process to those of a worker.
    fn prepare(&self, channel: &WorkerEnd, supervisor: Pid) -> Result<Belongings, String> {
        let at = |step: &'static str| {
            move |error: io::Error| format!("{step}: {}", why_within_limits(&error))
        };
        signals::settle_child().map_err(at("signals"))?;
        if self.foreground {
            never_wait();
        }
        let belongings = Belongings {
            listener: self.listener.try_clone().map_err(at("listener"))?,
            freed: self.freed.try_clone().map_err(at("eventfd"))?,
            vacancy: self.vacancy.try_clone().map_err(at("eventfd"))?,
            log: self.log.as_ref().map(duplicate).transpose().map_err(at("request log"))?,
            tls: self.keys.as_ref().map(Keys::start).transpose().map_err(at("files of TLS"))?,
            // Before the change of root: the socket of syslog is outside.
            debug: match self.foreground {
                true if journal::reads_stderr() => DebugOutput::Journal,
                true => DebugOutput::Stderr,
                false => DebugOutput::Syslog(for_worker()),
            },
        };
        // The originals of these descriptors are closed too. Their Rust owners belong to the
        // supervisor's code and are never used here.
        let keep = belongings.descriptors(channel);
        self.jail
            .enter(ProcessKind::Relay, supervisor, &keep)
            .map_err(|error| error.to_string())?;
        Ok(belongings)
    }

    fn start(&self, id: WorkerId, channel: WorkerEnd, belongings: Belongings) -> WorkerStart {
        let Belongings { listener, freed, vacancy, log, tls, debug } = belongings;
        WorkerStart {
            id,
            channel,
            listener,
            freed,
            vacancy,
            settings: self.settings.clone(),
            log,
            tls,
            debug,
            descriptor_limit: self.descriptor_limit,
            utc_offset: clock::utc_offset,
        }
    }
}

/// The descriptors that a worker keeps.
struct Belongings {
    listener: OwnedFd,
    freed: OwnedFd,
    vacancy: OwnedFd,
    log: Option<RequestLog>,
    tls: Option<TlsStart>,
    debug: DebugOutput,
}

impl Belongings {
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
            .chain(tls)
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
