//! The supervisor: all code of pen that runs with privileges.
//!
//! It binds the listener, makes the shared table, and forks and jails the workers. It replaces
//! workers that die, handles signals, and opens every file that pen writes. It never reads a byte
//! that a client or a server sent. Children look up names (`helpers::resolve`). Workers send typed
//! messages of bounded size, none of which is a command.
//!
//! | Module | Content |
//! |---|---|
//! | `startup` | the start, its undoing, and the options that only a start can set |
//! | `event_loop` | the main loop; `commands` is the command queue, `reload` changes settings |
//! | `processes` | workers and the control process: pool, single process, spawn, liveness |
//! | `helpers` | short-lived children: resolver, opener, examiner, helper task |
//! | `jail` | the restrictions of a child: root directory, user, capabilities, sandbox |
//! | `files` | listeners, logs, status files, pid file, TLS files, configuration files |
//! | `systemd` | sockets from a service manager, and messages to it |
//! | `report` | the content of reports, and their forms |
//! | `log` | messages to the administrator, with the texts for events and errors |
//! | `sys` | the only unsafe code |
//!
//! The process always has one thread, because it forks.

#![deny(unsafe_code)]

mod clock;
pub(crate) mod event_loop;
pub(crate) mod files;
pub(crate) mod helpers;
pub(crate) mod jail;
pub(crate) mod launch;
mod limits;
pub(crate) mod log;
mod patience;
pub(crate) mod processes;
pub(crate) mod report;
mod signals;
pub(crate) mod startup;
mod sys;
pub(crate) mod systemd;

use crate::launch::background;
use crate::launch::options;
use crate::launch::paths;
use crate::log::errno;
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

/// The code of a worker after the jail; returns its exit status.
pub type WorkerEntry = fn(WorkerStart, &Table) -> i32;

/// The code of the control process after the jail; returns its exit status.
pub type ControlEntry = fn(ControlStart) -> i32;

/// Examines TLS files. Returns the notices for the administrator and the certificates; or else the
/// file and what is wrong with it. Runs in a jailed child.
pub type Examiner = fn(OwnedFd) -> Result<Examined, String>;

/// The code of the jailed processes.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// The code of the workers.
    pub relay: WorkerEntry,
    /// The code of the control process.
    pub control: ControlEntry,
    /// The code of the examiner.
    pub examine_tls: Examiner,
}

/// The command line.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The settings, and everything else that a command can set.
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
    /// `--require-sandbox`: an incomplete sandbox is an error.
    pub require_sandbox: bool,
    /// `--check`: report the errors in all this and do nothing else.
    pub check: bool,
    /// `--show`: with `check`, print the settings that a start would have.
    pub show: bool,
    /// The command line, for the head of a file that `write` makes: some options have no command.
    pub command_line: String,
}

/// The variables that pen keeps: for the time zone, for lookups of names (resolver(3)), and for the
/// target of standard error.
const VARIABLES: [&str; 6] =
    ["TZ", "TZDIR", "LOCALDOMAIN", "RES_OPTIONS", "HOSTALIASES", "JOURNAL_STREAM"];

/// The reason why pen did not start: one line, or for a configuration file one line for each error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A line about the start for standard error, without its line end: `pen: ...`. If the journal
/// reads standard error, it has the form for the journal.
pub fn line_for_stderr(text: &str, is_error: bool) -> String {
    let severity = if is_error { log::Severity::Error } else { log::Severity::Warning };
    match log::journal::reads_stderr() {
        true => log::journal::lines(severity, text).trim_end().to_owned(),
        false => format!("pen: {text}"),
    }
}

/// Runs pen. With `check`, prints `ok` on standard output if pen could start. With `foreground`,
/// returns when pen has ended. Otherwise the calling process returns when the service is ready, and
/// the service runs on.
///
/// The process must have a single thread and own no descriptor but its standard streams. Any other
/// open descriptor is either a socket that a service manager passed, or was inherited by mistake
/// and is closed. From now on, signals are handled here.
///
/// # Errors
/// The start failed; nothing is left behind.
pub fn run(launch: Launch, entries: Entries) -> Result<(), StartError> {
    let environment = sys::Environment::find();
    let (check, foreground) = (launch.check, launch.foreground);
    // Before any fork: the environment names the pid of this process.
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
        // If standard error is closed, nobody can read the line.
        let _ = writeln!(stderr(), "{}", line_for_stderr(notice, false));
    })
}

/// Reads the input of the start, and makes it independent of the working directory.
fn order(
    mut launch: Launch,
    entries: Entries,
    notify: Notify,
) -> Result<startup::Order, StartError> {
    let here = env::current_dir();
    let words = options::GivenCommands::read(&mut launch, &here)?;
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
