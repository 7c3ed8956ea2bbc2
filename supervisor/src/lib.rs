//! The supervisor: all code of pen that runs with privileges.
//!
//! It binds the listener, makes the shared table, and forks and jails the workers. It replaces
//! workers that die, handles signals, and opens every file that pen writes. It never reads a byte
//! that a client or a server sent. Children look up names (`helpers::resolve`). Workers send typed
//! messages of bounded size, none of which is a command.
//!
//! | Module | Content |
//! |---|---|
//! | `launch` | what a start is given: options, paths, the background, interrupts |
//! | `startup` | the order of a start, and its undoing |
//! | `event_loop` | the main loop; `commands` is the command queue, `reload` changes settings |
//! | `handover` | the state that passes from one program to the next in this process |
//! | `successor` | a program that another pen executed: takes over, takes back, rehearses |
//! | `processes` | workers, control and page process: pool, single process, spawn, liveness |
//! | `helpers` | short-lived children: resolver, opener, reader, examiner, reporter |
//! | `jail` | the restrictions of a child: root directory, user, capabilities, sandbox |
//! | `files` | listeners, logs, status files, pid file, TLS files, configuration files |
//! | `systemd` | sockets from a service manager, messages to it, and its store of descriptors |
//! | `kept` | what the manager keeps over a restart, and what a start gets back |
//! | `report` | the content of reports, and their forms |
//! | `log` | messages to the administrator, with the texts for events and errors |
//! | `verdicts` | what checks say of the servers, and what of it passes to the next program |
//! | `signals` | signals as events |
//! | `asker` | the command that asks a running pen for an upgrade, and the answer to it |
//! | `limits` | descriptors of a process, backlog of a listener |
//! | `poll`, `clock`, `flood` | the wait for descriptors, the time, what one source may cause |
//! | `sys` | the only unsafe code |
//!
//! The process always has one thread, because it forks.

#![deny(unsafe_code)]

mod asker;
mod clock;
pub(crate) mod event_loop;
pub(crate) mod files;
mod flood;
mod former_marks;
pub(crate) mod handover;
pub(crate) mod helpers;
pub(crate) mod jail;
pub(crate) mod kept;
pub(crate) mod launch;
mod limits;
pub(crate) mod log;
mod lookups;
mod poll;
pub(crate) mod processes;
pub(crate) mod report;
mod signals;
pub(crate) mod startup;
mod successor;
mod sys;
pub(crate) mod systemd;
mod verdicts;

use crate::launch::background;
use crate::launch::options;
use crate::launch::paths;
use std::env;
use std::ffi::OsString;
use std::io::{Write, stderr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use pen_config::address::Local;
use pen_config::configuration::CommandLine;
use pen_ipc::start::{CheckerStart, ControlStart, PageStart, WorkerStart};
use pen_ipc::text::error_text;
use pen_ipc::tls_files::Examined;
use pen_table::Table;

pub use crate::handover::Build;
pub use crate::successor::Succession;
use crate::systemd::activation::Activation;
use crate::systemd::notify::Notify;

/// The code of a worker after the jail; returns its exit status.
pub type WorkerEntry = fn(WorkerStart, &Table) -> i32;

/// The code of the control process after the jail; returns its exit status.
pub type ControlEntry = fn(ControlStart) -> i32;

/// The code of the page process after the jail; returns its exit status.
pub type PageEntry = fn(PageStart) -> i32;

/// The code of the checker after the jail; returns its exit status.
pub type CheckerEntry = fn(CheckerStart) -> i32;

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
    /// The code of the page process.
    pub page: PageEntry,
    /// The code of the checker.
    pub checker: CheckerEntry,
    /// The code of the examiner.
    pub examine_tls: Examiner,
    /// The code of the examiner of files of TLS towards servers.
    pub examine_server_tls: Examiner,
    /// This program, for upgrades.
    pub build: Build,
}

/// The command line.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The settings, and everything else that a command can set.
    pub configuration: CommandLine,
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
    /// Where the status page is served: the command `page`.
    pub page: Option<Local>,
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

/// The reason why pen did not start, or was not upgraded: one line, or for a configuration file one
/// line for each error.
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
    order.held = sys::program::hold_running().map_err(|error| error_text(&error));
    environment.wipe(&VARIABLES);
    sys::title::begin();
    if foreground {
        return startup::foreground(order);
    }
    let cannot = |error| StartError(format!("cannot go to the background: {}", error_text(&error)));
    let (link, watch) = background::start_channel().map_err(cannot)?;
    let supervisor = sys::fork(move || startup::background(order, link)).map_err(cannot)?;
    watch.wait(supervisor, |notice| {
        // If standard error is closed, nobody can read the line.
        let _ = writeln!(stderr(), "{}", line_for_stderr(notice, false));
    })
}

/// Asks the pen that holds this pid file to go on as the program that is installed now. Returns its
/// answer, one line. Waits up to 45 seconds.
///
/// # Errors
/// The pen goes on as it was, or it is not known whether it does. The path is relative, and the
/// current directory is gone.
pub fn upgrade(pid_file: &Path) -> Result<String, StartError> {
    let pid_file = paths::absolute(pid_file, &env::current_dir()).map_err(StartError)?;
    asker::ask(&pid_file).map_err(|why| StartError(why.to_string()))
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
        argv: env::args_os().map(OsString::into_vec).collect(),
        words,
        base,
        identity,
        entries,
        activation: Activation::default(),
        notify,
        held: Ok(()),
    })
}
