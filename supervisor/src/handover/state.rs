//! The state that passes from one program to the next.
//!
//! Times are nanoseconds of CLOCK_MONOTONIC, which goes on over execve(2). Descriptors are named by
//! their numbers, which execve(2) keeps. Fields that later releases add need `#[serde(default)]`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use pen_config::address::{Address, Local};
use pen_config::command::{ConnectionLogTarget, LogTarget, Setting, SourcedCommand, Startup};
use pen_config::settings::Settings;
use pen_ipc::message::{LastingCounters, Operator};
use pen_ipc::tls_files::Fact;
use pen_table::{CountsDescription, ExportedServers, TableDescription};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use pen_ipc::message::LASTING_VERSION;

use crate::files::program::ProgramFile;
use crate::former_marks::FormerMarks;
use crate::handover::descriptors::Number;
use crate::jail::sandbox::CarriedSandbox;
use crate::kept::CarriedKeeper;
use crate::log::recent::CarriedEvents;
use crate::lookups::CarriedLookups;
use crate::processes::old_tables::TableNumber;
use crate::processes::pool::EndedWorkers;
use crate::report::past::CarriedPast;
use crate::verdicts::CarriedChecks;

/// A connection log: a program that knows none would stop writing it.
pub(crate) const CONNECTION_LOG: &str = "connection_log";

/// A page: a program that knows none would not serve it.
pub(crate) const PAGE: &str = "page";

/// Checks of servers: a program that knows none would send clients to servers that are down.
pub(crate) const CHECKS: &str = "checks";

/// Clients that wait for a server (`hold`), or a pause: a program that knows neither would close or
/// serve them.
pub(crate) const HOLD: &str = "hold";

/// Servers that drain or are in maintenance: a program that knows no such state would send clients
/// there.
pub(crate) const SERVER_STATES: &str = "server_states";

/// A method of choosing servers that the earlier release does not have: it would take turns, also
/// with servers of weight 0, to which no new client should go.
pub(crate) const PLACEMENT: &str = "placement";

/// Names that are looked up again: a program that does not do so would leave servers where they are
/// no more.
pub(crate) const NAMES: &str = "names";

/// Servers that follow names: a program that knows none would send new clients to servers whose
/// records are gone, and would never look the names up again.
pub(crate) const SERVERS_FROM: &str = "servers_from";

/// Limits per client: a program that knows none would let everybody in.
pub(crate) const LIMITS: &str = "limits_per_client";

/// Servers that speak TLS: a program that knows none would send clients' data to them in clear
/// text.
pub(crate) const SERVER_TLS: &str = "server_tls";

/// The features that this release has.
pub(crate) const FEATURES: [&str; 10] = [
    CONNECTION_LOG,
    PAGE,
    CHECKS,
    HOLD,
    SERVER_STATES,
    PLACEMENT,
    NAMES,
    SERVERS_FROM,
    LIMITS,
    SERVER_TLS,
];

/// Everything that the next program needs to go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The version of the program that wrote it.
    pub(crate) version: String,
    /// The version of the lasting messages that its workers know ([`LASTING_VERSION`]).
    pub(crate) lasting: u16,
    /// How many programs had this process before, so that generations of workers can be told apart.
    pub(crate) generation: u32,
    /// Names of features that the reader must have: some of [`FEATURES`].
    #[serde(default)]
    pub(crate) requires: Vec<String>,
    /// Every descriptor in here. They pass to the next program, and no others.
    pub(crate) descriptors: Vec<Number>,
    /// The pid of the supervisor, which stays.
    pub(crate) pid: i32,
    /// All children at the time of the handover, those of others included that process 1 of a
    /// container inherits.
    #[serde(default)]
    pub(crate) children: Vec<i32>,
    /// Who asked for the upgrade.
    pub(crate) asked_by: Asker,
    /// The command line and what followed from it.
    pub(crate) launch: CarriedLaunch,
    /// The restrictions of the process, which nothing can lift.
    pub(crate) sandbox: CarriedSandbox,
    /// The empty root directory of the workers.
    pub(crate) empty_root: Option<Number>,
    /// The settings in force.
    pub(crate) settings: Settings,
    /// What commands set beside the settings.
    pub(crate) runtime: CarriedRuntime,
    /// The listening socket.
    pub(crate) listener: CarriedListener,
    /// The eventfd that wakes all workers.
    pub(crate) freed: Number,
    /// The eventfd that wakes one worker.
    pub(crate) vacancy: Number,
    /// The shared table.
    pub(crate) table: CarriedTable,
    /// What the table holds, for a program with another layout of tables.
    #[serde(default)]
    pub(crate) export: Option<CarriedExport>,
    /// Tables of earlier programs, in which old workers go on.
    #[serde(default)]
    pub(crate) old_tables: Vec<CarriedOldTable>,
    /// The request log as it was last opened.
    pub(crate) log: Option<CarriedLog>,
    /// The connection log as it was last opened.
    #[serde(default)]
    pub(crate) connection_log: Option<CarriedConnectionLog>,
    /// The files and secrets of TLS.
    pub(crate) keys: Option<CarriedKeys>,
    /// The files of TLS towards servers.
    #[serde(default)]
    pub(crate) server_keys: Option<CarriedServerKeys>,
    /// The control port and its process.
    pub(crate) control: Option<CarriedPort>,
    /// The port of the page and its process.
    #[serde(default)]
    pub(crate) page: Option<CarriedPort>,
    /// The verdicts of checks.
    #[serde(default)]
    pub(crate) checks: CarriedChecks,
    /// What is known of the names of servers.
    #[serde(default)]
    pub(crate) lookups: CarriedLookups,
    /// The marks of servers before they moved.
    #[serde(default)]
    pub(crate) former_marks: FormerMarks,
    /// The checker.
    #[serde(default)]
    pub(crate) checker: Option<CarriedProcess>,
    /// The pid file.
    pub(crate) pid_file: Option<CarriedPidFile>,
    /// The processes that asked for further upgrades by the signal USR2; none if the kernel did not
    /// name it.
    pub(crate) upgrades: Vec<Option<i32>>,
    /// The service manager.
    pub(crate) notify: CarriedNotify,
    /// The slots of the workers, in the order of their numbers.
    pub(crate) slots: Vec<CarriedSlot>,
    /// Workers of earlier programs that still have connections.
    pub(crate) old_workers: Vec<CarriedOldWorker>,
    /// The counters of workers that have ended, summed.
    pub(crate) retired: LastingCounters,
    /// The last events. A pen without them begins anew.
    #[serde(default)]
    pub(crate) events: CarriedEvents,
    /// What reports tell of the past.
    #[serde(default)]
    pub(crate) past: CarriedPast,
}

/// Who asked for an upgrade and waits for its outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Asker {
    /// The sender of the signal USR2, if the kernel named it.
    Signal(Option<i32>),
    /// An operator at the control port.
    Operator {
        /// The pid of the control process.
        pid: i32,
        /// The number of the operator in the control process.
        ticket: u64,
        /// The identity of the operator.
        who: Operator,
    },
}

/// What the command line said.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedLaunch {
    /// The command line as the process was started with it.
    pub(crate) argv: Vec<Vec<u8>>,
    /// The name of the process (/proc/PID/comm), which execve(2) changes.
    pub(crate) name: String,
    /// `-f`.
    pub(crate) foreground: bool,
    /// `-j`.
    #[serde(with = "pen_config::paths", default)]
    pub(crate) jail: Option<PathBuf>,
    /// The user id of the jailed processes.
    pub(crate) uid: u32,
    /// The group id of the jailed processes.
    pub(crate) gid: u32,
    /// The supplementary groups of the jailed processes.
    pub(crate) groups: Vec<u32>,
    /// The directory where pen was started, if it was found.
    #[serde(with = "pen_config::paths", default)]
    pub(crate) start: Option<PathBuf>,
}

/// What commands set beside the settings ([`crate::event_loop::state::RuntimeState`]).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedRuntime {
    pub(crate) local: Local,
    pub(crate) listen: Address,
    pub(crate) log: Option<LogTarget>,
    pub(crate) log_is_held: bool,
    #[serde(default)]
    pub(crate) connection_log: Option<ConnectionLogTarget>,
    #[serde(default)]
    pub(crate) connection_log_is_held: bool,
    pub(crate) ocsp: Option<Number>,
    pub(crate) status: Option<CarriedStatusFile>,
    pub(crate) startup: Vec<Startup>,
    pub(crate) commanded: Vec<Setting>,
    pub(crate) servers_only: bool,
    #[serde(with = "pen_config::paths", default)]
    pub(crate) config: Option<PathBuf>,
    pub(crate) options: Vec<SourcedCommand>,
    pub(crate) given: Settings,
    pub(crate) allow_exit: bool,
    pub(crate) workers: Option<u32>,
    pub(crate) command_line: String,
    pub(crate) program: Option<ProgramFile>,
    pub(crate) started: u64,
    pub(crate) file_refused: bool,
}

/// The file for status pages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedStatusFile {
    /// Its path.
    #[serde(with = "pen_config::paths")]
    pub(crate) name: PathBuf,
    /// The file, if the control process opened it.
    pub(crate) file: Option<Number>,
}

/// A file that pen made and removes at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedFile {
    /// Its path as its maker saw it.
    #[serde(with = "pen_config::paths")]
    pub(crate) path: PathBuf,
    /// The device of the file.
    pub(crate) device: u64,
    /// The inode number of the file.
    pub(crate) inode: u64,
    /// Who made it.
    pub(crate) maker: FileMaker,
}

/// The maker of a file, which also removes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum FileMaker {
    /// The supervisor.
    Supervisor,
    /// A helper in the jail.
    Jail,
}

/// The listening socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedListener {
    pub(crate) socket: Number,
    pub(crate) file: Option<CarriedFile>,
}

/// The shared table.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedTable {
    pub(crate) memory: Number,
    pub(crate) description: TableDescription,
    /// Where its counts are, for a program with another layout.
    #[serde(default)]
    pub(crate) counts: Option<CountsDescription>,
}

/// What a table holds, in a form that does not depend on its layout.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedExport {
    /// The clients ([`crate::handover::clients`]).
    pub(crate) clients: Number,
    /// The servers, without the bytes of `rows` and of the rows that stand for old tables.
    pub(crate) servers: ExportedServers,
    /// The rows that have a worker.
    pub(crate) rows: Vec<u32>,
}

/// A table of an earlier program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedOldTable {
    pub(crate) number: TableNumber,
    pub(crate) memory: Number,
    pub(crate) counts: CountsDescription,
    /// The rows in it whose bytes count.
    pub(crate) rows: Vec<u32>,
    /// The row of the table in use that stands for them.
    pub(crate) row: u32,
}

/// The request log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedLog {
    pub(crate) descriptor: Number,
    pub(crate) network: bool,
}

/// The connection log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CarriedConnectionLog {
    Log(CarriedLog),
    Syslog,
}

/// The files and secrets of TLS.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedKeys {
    pub(crate) files: Number,
    pub(crate) current: Number,
    pub(crate) previous: Option<Number>,
    pub(crate) rotation: u64,
    pub(crate) reading: u64,
    pub(crate) facts: Vec<Fact>,
    /// How many thresholds before its end were told of each certificate.
    #[serde(default)]
    pub(crate) told: Vec<u8>,
    pub(crate) warning: u64,
}

/// The files of TLS towards servers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedServerKeys {
    pub(crate) files: Number,
    pub(crate) facts: Vec<Fact>,
    pub(crate) told: Vec<u8>,
    pub(crate) warning: u64,
    pub(crate) looking: u64,
}

/// A port and the process that serves it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedPort {
    pub(crate) name: String,
    pub(crate) socket: Number,
    pub(crate) file: Option<CarriedFile>,
    pub(crate) process: Option<CarriedProcess>,
}

/// The pid file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedPidFile {
    #[serde(with = "pen_config::paths")]
    pub(crate) path: PathBuf,
    pub(crate) file: Number,
}

/// The service manager (sd_notify(3)).
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedNotify {
    /// The value of NOTIFY_SOCKET.
    pub(crate) socket: Option<String>,
    /// Half of WATCHDOG_USEC, in microseconds.
    pub(crate) alive_every: Option<u64>,
    /// What the manager keeps for the next start.
    #[serde(default)]
    pub(crate) keeper: Option<CarriedKeeper>,
}

/// A slot of the worker pool.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedSlot {
    /// The row of the table that its workers have.
    pub(crate) row: u32,
    pub(crate) worker: Option<CarriedWorker>,
    /// What is known of the workers before it.
    #[serde(default)]
    pub(crate) ended: EndedWorkers,
}

/// A jailed process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedProcess {
    pub(crate) pid: i32,
    pub(crate) pidfd: Number,
    /// The supervisor's end of its channel; none if it was closed, and the process ends.
    pub(crate) channel: Option<Number>,
    /// Its /proc/PID/stat.
    pub(crate) stat: Option<Number>,
    /// The processor time that it had used, in nanoseconds.
    #[serde(default)]
    pub(crate) used: u64,
    pub(crate) born: u64,
}

/// A worker that takes clients.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedWorker {
    pub(crate) process: CarriedProcess,
    pub(crate) counters: LastingCounters,
    /// The generation of the settings that it acknowledged.
    pub(crate) applied: u64,
}

/// A worker of an earlier program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedOldWorker {
    pub(crate) process: CarriedProcess,
    /// Its row of its table.
    pub(crate) row: u32,
    /// Its table; none: the table in use.
    #[serde(default)]
    pub(crate) table: Option<TableNumber>,
    pub(crate) counters: LastingCounters,
    /// Its number when it took clients.
    pub(crate) id: u8,
    /// The version of its program.
    pub(crate) version: String,
    /// The version of the lasting messages that it knows.
    pub(crate) lasting: u16,
    /// The number of its program among those that had this process.
    pub(crate) generation: u32,
    /// Since when it takes no clients.
    pub(crate) since: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// States that releases have written. Add one for each release; never change one.
    const STORED: [(&str, &str); 1] = [("0.1.0", include_str!("state-0.1.0.json"))];

    /// Whether a later text says all that an earlier one says. Lists may be longer.
    fn says_all(later: &Value, earlier: &Value, at: &str) -> Result<(), String> {
        let all = |parts: Vec<(String, &Value, Option<&Value>)>| {
            parts.into_iter().try_for_each(|(name, earlier, later)| match later {
                Some(later) => says_all(later, earlier, &name),
                None => Err(format!("{name} is gone")),
            })
        };
        match (later, earlier) {
            (Value::Object(later), Value::Object(earlier)) => {
                all(earlier.iter().map(|(k, v)| (format!("{at}.{k}"), v, later.get(k))).collect())
            }
            (Value::Array(later), Value::Array(earlier)) => {
                let numbered = earlier.iter().enumerate();
                all(numbered.map(|(n, v)| (format!("{at}[{n}]"), v, later.get(n))).collect())
            }
            (later, earlier) if later == earlier => Ok(()),
            (later, earlier) => Err(format!("{at} was {earlier} and is {later}")),
        }
    }

    #[test]
    fn states_of_all_releases_are_read_and_written_with_all_that_they_had() {
        for (version, text) in STORED {
            // If this fails, a field lacks `#[serde(default)]`, or something has another form.
            let state: State = serde_json::from_str(text).unwrap();
            assert_eq!(state.version, version);
            let written = serde_json::to_value(&state).unwrap();
            let stored: Value = serde_json::from_str(text).unwrap();
            assert_eq!(says_all(&written, &stored, "state"), Ok(()), "{version}");
        }
    }
}
