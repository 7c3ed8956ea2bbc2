//! The state of the whole program. Counters count since pen was started, over reloads, deaths of
//! workers and upgrades; they never fall.

use serde::{Deserialize, Serialize};

use crate::event::EventRecord;
use crate::histogram::Histogram;

/// The state of the whole program at one moment, as exact as possible without stopping it. In JSON
/// it is the reply to `overview` and the page's `/status.json`: fields may be added there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The moment, local time: `2026-11-24 04:10:21`.
    pub time: String,
    /// The moment, in seconds since 1970.
    pub unix_time: i64,
    /// Seconds since the start.
    pub uptime: u64,
    /// The start, over all upgrades, in seconds since 1970.
    pub started_at: i64,
    /// The pid of the supervisor.
    pub pid: u32,
    /// The listen address, as it was written.
    pub listen: String,
    /// The number of workers.
    pub workers: u32,
    /// Each worker.
    pub worker_list: Vec<WorkerStatus>,
    /// Workers of earlier programs that still have connections.
    pub old_workers: Vec<OldWorkerStatus>,
    /// Open connections.
    pub connections: u32,
    /// The most connections at a time (-x).
    pub connections_max: u32,
    /// Clients that are held: no server can be used for them (`hold`), or an operator paused.
    pub held: u64,
    /// Connections beyond a limit per client that are kept open and silent (`tarpit`).
    #[serde(default)]
    pub tarpitted: u64,
    /// Whether new clients wait for the end of a pause (`pause`).
    pub paused: bool,
    /// Whether every client gets a fixed answer, and no server is used (`dummy`).
    pub dummy: bool,
    /// Which method chooses the server of a new client: `roundrobin`, `leastconn`, ...; empty if it
    /// is not known.
    #[serde(default)]
    pub method: String,
    /// Clients in the table.
    pub clients: u32,
    /// The most clients in the table (-c).
    pub clients_max: u32,
    /// What was counted.
    pub counts: Counts,
    /// The servers by number, those without an address too.
    pub servers: Vec<ServerStatus>,
    /// Whether all servers are down by their checks, and checks are disregarded (`fail_open`).
    #[serde(default)]
    pub disregards_checks: bool,
    /// How many names of servers had no answer when they were last looked up.
    #[serde(default)]
    pub names_failing: u32,
    /// The server of last resort (-e).
    pub emergency: Option<ServerStatus>,
    /// The server for clients that `client_acl` refuses (-B).
    pub abuse: Option<ServerStatus>,
    /// The last minutes of all servers together.
    pub history: History,
    /// The last reload of the configuration.
    pub reload: Option<LastChange>,
    /// The last upgrade that was tried.
    pub upgrade: Option<LastChange>,
    /// The certificates that servers of TLS show, and their authorities.
    pub certificates: Vec<CertificateStatus>,
    /// The last events, oldest first.
    pub events: Vec<EventRecord>,
}

/// What all workers and the supervisor counted.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Clients accepted.
    pub accepted: u64,
    /// Clients closed because no server was usable.
    pub unserved: u64,
    /// Clients refused, by reason.
    pub refused: Vec<ReasonCount>,
    /// Connections beyond a limit per client, by limit.
    #[serde(default)]
    pub limited: Vec<ReasonCount>,
    /// Connections that could not be checked against the limits per client.
    #[serde(default)]
    pub limits_unchecked: u64,
    /// Requests refused (-H), by reason.
    pub requests_refused: Vec<ReasonCount>,
    /// Pauses of accepting.
    pub accept_pauses: u64,
    /// Connections closed for a shortage of this machine.
    pub shortages: u64,
    /// Lines of the request log and the connection log written.
    pub log_lines: u64,
    /// Lines of these logs lost.
    pub log_lines_lost: u64,
    /// Events of workers that were lost.
    pub events_lost: u64,
    /// Clients that gave their slot of the table to others.
    pub client_evictions: u64,
    /// Times that the client table could not be used, because its lock was stuck.
    pub table_lock_timeouts: u64,
    /// Reloads that applied.
    pub reloads: u64,
    /// Reloads that failed.
    pub reloads_failed: u64,
    /// Upgrades that succeeded.
    pub upgrades: u64,
    /// Upgrades that failed.
    pub upgrades_failed: u64,
    /// Repeated lookups of names of servers that had an answer.
    #[serde(default)]
    pub lookups: u64,
    /// Those that had none.
    #[serde(default)]
    pub lookups_failed: u64,
    /// TLS; none without a certificate.
    pub tls: Option<TlsCounts>,
    /// TLS with servers; none if no server speaks it.
    #[serde(default)]
    pub server_tls: Option<TlsCounts>,
}

/// How often something happened for one reason.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason as one word.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// What happened with TLS.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct TlsCounts {
    /// Finished handshakes.
    pub handshakes: Vec<TlsHandshakes>,
    /// Handshakes that failed, by reason.
    pub failures: Vec<ReasonCount>,
}

/// Finished handshakes of one kind.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TlsHandshakes {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// Whether they resumed an earlier session.
    pub resumed: bool,
    /// How many.
    pub count: u64,
}

/// A worker.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub number: u32,
    /// Its pid; none while it is being replaced.
    pub pid: Option<u32>,
    /// Its open connections.
    pub connections: u64,
    /// Processor time of all processes that had this number, in milliseconds.
    pub busy_ms: u64,
    /// Resident memory in bytes, as far as /proc shows it.
    pub memory: Option<u64>,
    /// How often it was replaced.
    pub restarts: u64,
}

/// A worker of an earlier program.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct OldWorkerStatus {
    /// The version of its program.
    pub version: String,
    /// Seconds since it takes no clients.
    pub age: u64,
    /// Its open connections.
    pub connections: u64,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its number; none for the emergency and the abuse server.
    pub number: Option<u32>,
    /// The address without the port; none for a number that never had an address.
    pub address: Option<String>,
    /// The last failed connect.
    pub last_failure: Option<LastFailure>,
    /// 0, or the Unix time of the last failure while it is blacklisted.
    pub failed_at: u64,
    /// The port; 0 for a Unix socket.
    pub port: u16,
    /// Open and pending connections.
    pub connections: u32,
    /// The soft limit of connections; 0 is none.
    pub max: u32,
    /// The hard limit, for clients that the server knows; 0 is none.
    pub hard: u32,
    /// Bytes sent to it.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Its weight.
    pub weight: u32,
    /// Its priority.
    pub prio: u32,
    /// The number of its access list.
    pub acl: u8,
    /// The remaining seconds on the blacklist.
    pub blacklisted: u64,
    /// Whether it gets clients.
    pub state: ServerState,
    /// Which clients the operator lets it have.
    pub mode: Mode,
    /// The record of a name that it follows; none if its address is its own.
    #[serde(default)]
    pub follows: Option<FollowedRecord>,
    /// The name, or the address with its zone, as the operator gave it; none if the address
    /// contains all of it.
    pub name: Option<String>,
    /// The state in words, with time and reason.
    pub state_text: String,
    /// Connections that reached it.
    pub connections_total: u64,
    /// Connects to it that failed, by reason.
    pub connect_failures: Vec<ReasonCount>,
    /// Clients that were passed on to another server, because this one was not usable.
    pub failovers: u64,
    /// The time that connects to it took ([`crate::histogram::CONNECT`]).
    pub connect: Histogram,
    /// The length of its connections that ended ([`crate::histogram::LENGTH`]).
    pub length: Histogram,
    /// Its last minutes.
    pub history: History,
    /// What its check says; none without a check.
    #[serde(default)]
    pub check: Option<CheckStatus>,
    /// How many of its connections were ended, because it had more than its share (`rebalance`).
    #[serde(default)]
    pub rebalanced: u64,
    /// The addresses of its name in the order of their positions, without the port; empty without a
    /// name. `address` is the one in use.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The last lookup of its name; none without a name.
    #[serde(default)]
    pub lookup: Option<LookupStatus>,
    /// The part of its share of new clients that it has now, in percent, while it begins slowly
    /// (`slow_start`); none if it has the whole.
    #[serde(default)]
    pub slow_start: Option<u32>,
    /// The TLS of its connections; none in clear text.
    #[serde(default)]
    pub tls: Option<ServerTlsStatus>,
}

/// The TLS of the connections to a server.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ServerTlsStatus {
    /// Whether its certificate is verified.
    pub verify: Verify,
    /// The name that its certificate must have, or that is sent to it; none if it has no name.
    pub name: Option<String>,
}

/// Whether the certificate of a server is verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// It is.
    On,
    /// Every certificate is good.
    Off,
}

impl Verify {
    /// All of them.
    pub const ALL: [Verify; 2] = [Verify::On, Verify::Off];

    /// The state as one word.
    pub fn name(self) -> &'static str {
        match self {
            Verify::On => "on",
            Verify::Off => "off",
        }
    }
}

/// The last lookup of a name.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct LookupStatus {
    /// When it ended, in seconds since 1970.
    pub last: i64,
    /// Since when lookups fail, in seconds since 1970; none if the last one had an answer.
    pub failing_since: Option<i64>,
    /// Why the last one failed.
    pub reason: Option<String>,
}

/// A record of a name that a server follows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FollowedRecord {
    /// The name.
    pub name: String,
    /// Whether the record is there.
    pub record: RecordState,
}

/// Whether a record is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordState {
    /// It is.
    Present,
    /// It is not any more: its server gets no new clients.
    Gone,
}

impl RecordState {
    /// The state as one word.
    pub fn name(self) -> &'static str {
        match self {
            RecordState::Present => "present",
            RecordState::Gone => "gone",
        }
    }
}

/// What the check of a server says.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What it asks: `http`, `tcp`.
    pub kind: String,
    /// The verdict.
    pub state: CheckState,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// How long the last successful check took, in microseconds.
    pub duration_us: Option<u32>,
    /// Why the server is down.
    pub reason: Option<String>,
    /// When the last check ended, in seconds since 1970.
    pub last: Option<i64>,
    /// How often the server went down or came back.
    pub transitions: u64,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// Too few checks yet.
    #[default]
    Unknown,
    /// The server answers.
    Up,
    /// It does not.
    Down,
}

/// Whether a server gets clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// The number never had an address.
    #[default]
    Vacant,
    /// It gets clients.
    Up,
    /// It gets no new ones: it has as many connections as its limit allows.
    Full,
    /// It gets hardly any new ones: in a worker, as many connects to it are pending as allowed.
    Pending,
    /// It gets none: an operator or the configuration blacklisted it for a time.
    Out,
    /// It gets none: it failed. When its time is over, one client tries it.
    Failed,
    /// It gets none: its check fails.
    Down,
    /// It gets no new ones: an operator drains it, or the record that it follows is gone. Those
    /// that it knows still go there.
    Drain,
    /// It gets none: an operator took it into maintenance.
    Maint,
}

/// Which clients the operator lets a server have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All.
    #[default]
    Ready,
    /// Those that it knows, and no new one.
    Drain,
    /// None.
    Maint,
}

/// The time and reason of a failed connect.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LastFailure {
    /// Seconds since 1970.
    pub unix_time: u64,
    /// Why.
    pub reason: String,
}

/// Equal periods of time, oldest first; the last one is over. Empty if nobody asked for them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The length of a period, in seconds.
    pub period: u32,
    /// New connections in each period.
    pub connections: Vec<u32>,
    /// Bytes in both directions in each period.
    pub bytes: Vec<u64>,
}

/// A reload or an upgrade.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct LastChange {
    /// Seconds since 1970.
    pub unix_time: i64,
    /// How it ended.
    pub result: ChangeResult,
    /// What the log said of it.
    pub text: String,
}

/// How a reload or an upgrade ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeResult {
    /// It applies.
    Success,
    /// Everything stayed as it was.
    Failure,
}

/// A certificate.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The subject.
    pub name: String,
    /// The file that it is in.
    pub file: String,
    /// What it is for: `server`, `chain` or `authority`.
    pub used: String,
    /// When it expires, in seconds since 1970; none if it does not say.
    pub not_after_unix: Option<i64>,
}

impl ServerState {
    /// Whether the server serves clients: it has neither failed nor been taken out. It may be full,
    /// or may drain.
    pub fn is_up(self) -> bool {
        match self {
            ServerState::Up | ServerState::Full | ServerState::Pending | ServerState::Drain => true,
            ServerState::Vacant
            | ServerState::Out
            | ServerState::Failed
            | ServerState::Down
            | ServerState::Maint => false,
        }
    }

    /// The state as one word.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Vacant => "vacant",
            ServerState::Up => "up",
            ServerState::Full => "full",
            ServerState::Pending => "pending",
            ServerState::Out => "out",
            ServerState::Failed => "failed",
            ServerState::Down => "down",
            ServerState::Drain => "drain",
            ServerState::Maint => "maint",
        }
    }
}

impl Mode {
    /// All modes.
    pub const ALL: [Mode; 3] = [Mode::Ready, Mode::Drain, Mode::Maint];

    /// The mode as commands have it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Ready => "ready",
            Mode::Drain => "drain",
            Mode::Maint => "maint",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use serde_json::Value;

    use crate::samples::half_down;

    /// The names of all fields, those of fields of fields too.
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                found.insert(name.clone());
                names(value, found);
            }),
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_document_has_every_field() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
        let document = fs::read_to_string(path).unwrap();
        let mut status = serde_json::to_value(half_down(2)).unwrap();
        // The fields of events differ with their kind.
        for event in status["events"].as_array_mut().unwrap() {
            event["fields"] = Value::Null;
        }
        let mut all = BTreeSet::new();
        names(&status, &mut all);
        assert!(all.len() > 60);
        for name in all {
            assert!(document.contains(&format!("`{name}`")), "docs/commands.md lacks {name}");
        }
    }
}
