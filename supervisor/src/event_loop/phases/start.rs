//! The start of the processes: forked, and waited for until all are ready.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use pen_ipc::start::Begins;
use pen_status::event::EventKind;

use crate::StartError;
use crate::event_loop::Supervisor;
use crate::files::pid_file::{PidFile, PidFileError};
use crate::kept::state::End;
use crate::launch::interrupt::Interrupts;
use crate::limits::why_within_limits;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::processes::ports::kind::PortKind;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;

impl Supervisor {
    /// Forks the workers, waits until all are ready, and then does the same with the processes that
    /// have ports of their own.
    ///
    /// # Errors
    /// A process cannot be forked or jailed or does not become ready, or the start is interrupted.
    /// All children are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let deadline = Instant::now() + START_PATIENCE;
        // The table may be one that an earlier start left.
        self.restate();
        self.spawn_workers()?;
        while !self.pool.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        self.spawn_ports()?;
        while self.late().is_some() {
            self.start_turn(interrupts, deadline)?;
        }
        Ok(())
    }

    fn start_turn(
        &mut self,
        interrupts: &mut Interrupts,
        deadline: Instant,
    ) -> Result<(), StartError> {
        let signals: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
        self.turn(&signals, Some(deadline))?;
        drop(signals);
        interrupts.check()?;
        match self.late().filter(|_| Instant::now() >= deadline) {
            Some(late) => Err(not_ready(&late, START_PATIENCE)),
            None => Ok(()),
        }
    }

    /// Forks a worker into each slot.
    pub(in crate::event_loop) fn spawn_workers(&mut self) -> Result<(), StartError> {
        for id in self.pool.ids() {
            let cannot = |error| {
                StartError(format!("cannot start worker {id}: {}", why_within_limits(&error)))
            };
            self.pool.spawn(id, self.begins, &self.context, Instant::now()).map_err(cannot)?;
        }
        Ok(())
    }

    /// Forks the control and the page process and the checker, if there are to be such.
    pub(in crate::event_loop) fn spawn_ports(&mut self) -> Result<(), StartError> {
        let (begins, context) = (self.begins, &self.context);
        self.control.iter_mut().try_for_each(|control| spawn_port(control, begins, context))?;
        self.page.iter_mut().try_for_each(|page| spawn_port(page, begins, context))?;
        self.start_checker()
    }

    /// The first process that is not ready yet.
    pub(in crate::event_loop) fn late(&self) -> Option<String> {
        let worker = self
            .pool
            .ids()
            .zip(self.pool.slots())
            .find(|(_, (_, worker))| !worker.is_some_and(|worker| worker.peer.is_ready()))
            .map(|(id, _)| format!("worker {id}"));
        let control = self.control.as_ref().and_then(late_port);
        let worker = worker.or(control).or_else(|| self.page.as_ref().and_then(late_port));
        worker.or_else(|| self.checking.late())
    }

    /// Writes the pid file, if there is one.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(crate) fn write_pid_file(&mut self) -> Result<(), PidFileError> {
        self.pid_file.as_mut().map_or(Ok(()), PidFile::write)
    }

    /// Logs the listen address, and what became of the pen before, as far as a service manager
    /// kept that. `used` says what else it kept.
    pub(crate) fn log_start(&mut self, before: Option<End>, used: Option<String>) {
        let address = self.state.listen.to_string();
        let mut line = format!("listening on {address}");
        let (previous, severity) = match before {
            Some(End::Running) => (Some("died"), Severity::Notice),
            Some(End::Orderly) => (Some("stopped"), Severity::Debug),
            None => (None, Severity::Debug),
        };
        if before == Some(End::Running) {
            line += "; pen died before";
        }
        used.iter().for_each(|used| line += &format!("; {used}"));
        let incident = Incident::of(EventKind::Started)
            .with("address", address)
            .with("version", self.build.version)
            .with("pid", std::process::id())
            .with_if("previous", previous);
        self.logger.event(severity, incident, &line);
        if let Some(control) = &self.control {
            self.logger.debug(&format!("control port {}", control.port().name));
        }
        if let Some(page) = &self.page {
            self.logger.debug(&format!("page {}", page.port().name));
        }
    }
}

/// Forks a process with a port into its slot.
pub(in crate::event_loop) fn spawn_port<K: PortKind>(
    slot: &mut Slot<K>,
    begins: Begins,
    context: &SpawnContext,
) -> Result<(), StartError> {
    let cannot =
        |error| StartError(format!("cannot start {}: {}", K::NAME, why_within_limits(&error)));
    slot.spawn(begins, context, Instant::now()).map(drop).map_err(cannot)
}

/// The name of a process with a port that is not ready yet.
pub(in crate::event_loop) fn late_port<K: PortKind>(slot: &Slot<K>) -> Option<String> {
    (!slot.is_ready()).then(|| K::NAME.to_owned())
}

/// The error of a start in which a process is late.
pub(in crate::event_loop) fn not_ready(late: &str, patience: Duration) -> StartError {
    StartError(format!("{late} was not ready within {} s", patience.as_secs()))
}

/// How long all processes may take to become ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
