//! Everything that runs with privilege: pen's supervisor.
//!
//! It binds the listener, makes the shared table, forks and jails the workers and replaces those
//! that die, answers signals, and opens every file that pen writes. It never reads a byte that a
//! client or a server sent: names are resolved in a child (`helpers::resolve`), and workers speak
//! in typed, bounded messages that express no command.
//!
//! | Room | What for |
//! |---|---|
//! | `startup` | the order of a start and its undoing, and what only a start can give |
//! | `event_loop` | what the supervisor waits for and does; `commands` is the queue of commands, `reload` what they change |
//! | `processes` | workers and the control process: their pool, one of them, what it is born with, whether it lives |
//! | `helpers` | children of the moment: names, files, certificates, long replies |
//! | `jail` | what a child gives up, as whom it goes on, and its sandbox |
//! | `files` | listeners, logs, status files, the pid file, files of TLS and of commands |
//! | `systemd` | what a service manager passes in and is told |
//! | `report` | what reports show, in each of their forms |
//! | `log` | messages to the administrator, events in words, errors in words |
//! | `sys` | the only unsafe code |
//!
//! The process has one thread for ever, because it forks.

#![deny(unsafe_code)]

mod clock;
pub(crate) mod event_loop;
pub(crate) mod files;
pub(crate) mod helpers;
pub(crate) mod jail;
mod limits;
pub(crate) mod log;
mod patience;
pub(crate) mod processes;
pub(crate) mod report;
mod signals;
pub(crate) mod startup;
mod sys;
pub(crate) mod systemd;

use crate::log::errno;
use crate::startup::background;
use crate::startup::options;
use crate::startup::paths;
use std::env;
use std::io::{Write, stderr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use pen_config::address::Local;
use pen_config::configuration::Configuration;
use pen_ipc::start::{ControlStart, WorkerStart};
use pen_ipc::tls_files::Examined;
use pen_table::Table;

use crate::systemd::activation::Activation;
use crate::systemd::notify::Notify;

/// What a worker runs once it is jailed; returns its exit status.
pub type WorkerEntry = fn(WorkerStart, &Table) -> i32;

/// What the control process runs once it is jailed; returns its exit status.
pub type ControlEntry = fn(ControlStart) -> i32;

/// Says whether files of TLS are good, what the administrator should know about them, and which
/// certificates there are; or the file, and what is wrong with it. Run in a jailed child.
pub type Examiner = fn(OwnedFd) -> Result<Examined, String>;

/// The code of the jailed processes.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// Of those that serve clients.
    pub relay: WorkerEntry,
    /// Of the one that serves operators.
    pub control: ControlEntry,
    /// Of those that examine files of TLS.
    pub examine_tls: Examiner,
}

/// Everything that the command line says.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What concerns balancing, and everything that a command can say too.
    pub configuration: Configuration,
    /// `-f`.
    pub foreground: bool,
    /// `-j`.
    pub jail: Option<PathBuf>,
    /// `-u`.
    pub user: Option<String>,
    /// `-p`.
    pub pid_file: Option<PathBuf>,
    /// `-C`.
    pub control: Option<Local>,
    /// `-X`.
    pub allow_exit: bool,
    /// `-F`.
    pub config: Option<PathBuf>,
    /// `--require-sandbox`: a sandbox that is not whole is an error.
    pub require_sandbox: bool,
    /// `--check`: say what is wrong with all this and do nothing.
    pub check: bool,
    /// `--show`: with `check`, print the settings that a start would have.
    pub show: bool,
    /// The command line, for the head of what `write` writes: the options that no command can
    /// express.
    pub command_line: String,
}

/// The variables that pen goes on needing: of the time zone, of names (resolver(3)), and of where
/// standard error leads.
const VARIABLES: [&str; 6] =
    ["TZ", "TZDIR", "LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES", "JOURNAL_STREAM"];

/// Why pen did not start: one clear line, or for a configuration file one for each line that is
/// wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A line about the start for standard error, without its end: `pen: ...`, and as the journal takes
/// it if that is who reads it.
pub fn line_for_stderr(text: &str, is_error: bool) -> String {
    let severity = if is_error { log::Severity::Error } else { log::Severity::Warning };
    match log::journal::reads_stderr() {
        true => log::journal::lines(severity, text).trim_end().to_owned(),
        false => format!("pen: {text}"),
    }
}

/// Runs pen. With `check`, says `ok` on standard output if it could start. With `foreground`,
/// returns when it ended; otherwise the calling process returns when the service is ready, and the
/// service ends on its own.
///
/// The process must have a single thread and own no descriptor but its standard streams: whatever
/// else is open is a socket that a service manager passed, or was inherited by mistake and is
/// closed. Signals are handled here from now on.
///
/// # Errors
/// The start failed; nothing is left behind.
pub fn run(launch: Launch, entries: Entries) -> Result<(), StartError> {
    let environment = sys::Environment::find();
    let (check, foreground) = (launch.check, launch.foreground);
    // Before any fork: the environment names this process.
    let notify = if check { Notify::default() } else { Notify::take() };
    let ordered =
        order(launch, entries, notify.clone()).inspect_err(|error| notify.failed(&error.0));
    let mut order = ordered?;
    if check {
        return startup::check(&order);
    }
    order.activation = Activation::take().inspect_err(|error| notify.failed(&error.0))?;
    environment.wipe(&VARIABLES);
    sys::title::begin();
    if foreground {
        return startup::foreground(order);
    }
    let cannot = |error| StartError(format!("cannot go to the background: {}", errno::why(&error)));
    let (link, watch) = background::start_channel().map_err(cannot)?;
    let supervisor = sys::fork(move || startup::background(order, link)).map_err(cannot)?;
    watch.wait(supervisor, |notice| {
        // If standard error is closed there is no one to tell.
        let _ = writeln!(stderr(), "{}", line_for_stderr(notice, false));
    })
}

/// Reads what the start goes by, and makes it independent of where pen was started.
fn order(
    mut launch: Launch,
    entries: Entries,
    notify: Notify,
) -> Result<startup::Order, StartError> {
    let here = env::current_dir();
    let words = options::Words::read(&mut launch, &here)?;
    let base = paths::make_absolute(&mut launch, here)?;
    let identity = words.identity(&launch)?;
    Ok(startup::Order {
        launch,
        words,
        base,
        identity,
        entries,
        activation: Activation::default(),
        notify,
    })
}
