//! Everything that runs with privilege: pen's supervisor.
//!
//! It binds the listener, makes the shared table, forks and jails the workers and replaces those that die, answers signals,
//! and opens every file that pen writes. It never reads a byte that a client or a server sent: names are resolved in a child
//! (`resolve`), and workers speak in typed, bounded messages that express no command.
//!
//! | Room | What for |
//! |---|---|
//! | `start` | the order of a start and its undoing; `background`, `interrupt`, `paths`, `limits` serve it |
//! | `service` | the event loop; `signals`, `events` are its sources |
//! | `crew`, `workers`, `inheritance` | the workers: all, one, and what one is born with; `backoff`, `flood` bound them, `child` watches processes |
//! | `jail`, `user` | what a child gives up, and as whom it goes on |
//! | `listen`, `log_file`, `pid_file`, `status_file` | what is opened |
//! | `report`, `say` | what the administrator reads |
//! | `sys` | the only unsafe code |
//!
//! The process has one thread for ever, because it forks.

#![deny(unsafe_code)]

mod background;
mod backoff;
mod child;
mod clock;
mod crew;
mod events;
mod flood;
mod inheritance;
mod interrupt;
mod jail;
mod limits;
mod listen;
mod log_file;
mod paths;
mod patience;
mod pid_file;
mod report;
mod resolve;
mod say;
mod service;
mod signals;
mod start;
mod status_file;
mod sys;
mod user;
mod why;
mod workers;

use std::env;
use std::io::{Write, stderr};
use std::path::PathBuf;

use pen_contract::address::{Host, Service};
use pen_contract::configuration::Configuration;
use pen_contract::start::WorkerStart;
use pen_table::Table;

/// What a worker runs once it is jailed; returns its exit status.
pub type WorkerEntry = fn(WorkerStart, &Table) -> i32;

/// Everything that the command line says.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What concerns balancing.
    pub configuration: Configuration,
    /// `--workers`; none = one per processor.
    pub workers: Option<u32>,
    /// `-q`.
    pub backlog: u32,
    /// `-f`.
    pub foreground: bool,
    /// `-j`.
    pub jail: Option<PathBuf>,
    /// `-u`.
    pub user: Option<String>,
    /// `-p`.
    pub pid_file: Option<PathBuf>,
    /// `-w`.
    pub status_file: Option<PathBuf>,
    /// `-l`.
    pub log: Option<LogTarget>,
}

/// Where the request log goes (`-l`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogTarget {
    /// A file.
    File(PathBuf),
    /// penlogd at host:port, by UDP.
    Network(Host, Service),
}

/// Why pen did not start; one clear line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Runs pen. With `foreground`, returns when it ended; otherwise the calling process returns when the service is ready, and the service ends on its own.
///
/// The process must have a single thread and own no descriptor but its standard streams: with `foreground`, whatever else is
/// open was inherited by mistake and is closed, and signals are handled here from now on.
///
/// # Errors
/// The start failed; nothing is left behind.
pub fn run(mut launch: Launch, entry: WorkerEntry) -> Result<(), StartError> {
    paths::make_absolute(&mut launch, &env::current_dir())?;
    let identity = user::of_workers(launch.user.as_deref(), launch.jail.is_some())
        .map_err(|error| StartError(error.to_string()))?;
    if launch.foreground {
        return start::foreground(launch, identity, entry);
    }
    let cannot = |error| StartError(format!("cannot go to the background: {}", why::why(&error)));
    let (link, watch) = background::start_channel().map_err(cannot)?;
    let supervisor = sys::fork(move || start::background(launch, identity, entry, link)).map_err(cannot)?;
    watch.wait(supervisor, |notice| {
        // If standard error is closed there is no one to tell.
        let _ = writeln!(stderr(), "pen: {notice}");
    })
}
