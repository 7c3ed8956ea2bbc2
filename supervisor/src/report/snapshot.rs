//! The data of a report, for every form.

#![forbid(unsafe_code)]

use pen_config::ids::{ClientKey, ServerId, Target, WorkerId};
use pen_config::settings::{Server, Settings};
use pen_ipc::message::ConnectFailure;
use pen_ipc::refusal::Refusals;
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_table::{ClientEntry, Table};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::clock;
use crate::jail::sandbox::Summary;
use crate::log::errno::errno;
use crate::report::Program;
use crate::report::gather::Gathered;

/// The state of the whole program at one moment, as exact as possible without stopping it.
pub(super) struct Snapshot<'a> {
    pub(super) time: OffsetDateTime,
    pub(super) program: Program<'a>,
    pub(super) emergency: Option<ServerRow>,
    pub(super) abuse: Option<ServerRow>,
    /// The server of the last connection.
    pub(super) current: i32,
    pub(super) servers: Vec<ServerRow>,
    pub(super) clients_max: u32,
    /// The used client slots, read during the rendering: there may be millions.
    pub(super) clients: Box<dyn Iterator<Item = ClientRow> + 'a>,
    pub(super) connections_max: u32,
    pub(super) connections_used: u32,
    pub(super) connections: &'a [ConnectionInfo],
    pub(super) missing: &'a [WorkerId],
    /// The counters of all workers since the start, summed.
    pub(super) counters: Counters,
    /// The restrictions of the workers.
    pub(super) sandbox: &'a Summary,
}

/// A regular server.
#[derive(Serialize)]
pub(super) struct ServerRow {
    /// None for the emergency and the abuse server.
    pub(super) number: Option<u32>,
    /// The address without the port; none for a number that never had an address.
    pub(super) address: Option<String>,
    /// The last failed connect.
    pub(super) last_failure: Option<LastFailure>,
    /// 0, or the Unix time of the last failure while the server is blacklisted.
    #[serde(rename = "failed_at")]
    pub(super) status: u64,
    pub(super) port: u16,
    pub(super) connections: u32,
    #[serde(rename = "max")]
    pub(super) soft: u32,
    pub(super) hard: u32,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) weight: u32,
    pub(super) prio: u32,
    /// The number of its access list.
    pub(super) acl: u8,
    /// The remaining seconds on the blacklist.
    pub(super) blacklisted: u64,
    /// Whether the server gets clients.
    pub(super) state: ServerState,
    /// The name, or the address with its zone, as the operator gave it; none if the address
    /// contains all of it.
    pub(super) name: Option<String>,
}

/// Whether a server gets clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ServerState {
    /// The number never had an address.
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
}

impl ServerState {
    /// Whether the server has neither failed nor been taken out. It may be full.
    pub(super) fn is_up(self) -> bool {
        match self {
            ServerState::Up | ServerState::Full | ServerState::Pending => true,
            ServerState::Vacant | ServerState::Out | ServerState::Failed => false,
        }
    }
}

impl ServerRow {
    /// The state for people; `unix` is the present time.
    pub(super) fn in_words(&self, unix: i64) -> String {
        let since = u64::try_from(unix).unwrap_or(0).saturating_sub(self.status);
        let more = duration(self.blacklisted);
        let reason = self.last_failure.as_ref().map_or("unknown", |failure| &failure.reason);
        match self.state {
            ServerState::Vacant => "no address".into(),
            ServerState::Up => "up".into(),
            ServerState::Full => "full".into(),
            ServerState::Pending => {
                "passed over, too many connects to it are pending (pending_max)".into()
            }
            ServerState::Out => {
                format!("taken out by an operator {} ago, for {more} more", duration(since))
            }
            ServerState::Failed if self.blacklisted == 0 => {
                format!("failed, the next client tries it: {reason}")
            }
            ServerState::Failed => {
                format!("failed {} ago, left out for {more} more: {reason}", duration(since))
            }
        }
    }
}

/// A time for people: `12 s`, `3 min`, `5 h`, `4 days`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The time and reason of a failed connect.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct LastFailure {
    /// Seconds.
    pub(super) unix_time: u64,
    pub(super) reason: String,
}

impl ServerRow {
    /// The name and the address for people: only one of them if both are equal, and no port if
    /// there is none.
    pub(super) fn place(&self) -> String {
        let address = self.address.as_deref().unwrap_or("-");
        let name = self.name.as_deref().filter(|name| name.trim_matches(['[', ']']) != address);
        let name = name.map_or(String::new(), |name| format!("{name} at "));
        match self.port == 0 || address.starts_with('/') {
            true => format!("{name}{address}"),
            false => format!("{name}{address} port {}", self.port),
        }
    }

    /// The number of a regular server.
    pub(super) fn number(&self) -> u32 {
        self.number.unwrap_or_default()
    }
}

/// A client.
#[derive(Serialize)]
pub(super) struct ClientRow {
    pub(super) slot: u32,
    pub(super) address: String,
    /// Seconds since its last use.
    pub(super) age: u64,
    /// The recorded server; -1, -2 and -3 are none.
    #[serde(serialize_with = "code_or_null")]
    pub(super) server: i32,
    /// The server's name as the operator gave it, with its port.
    pub(super) server_name: Option<String>,
    pub(super) connects: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl<'a> Snapshot<'a> {
    pub(super) fn take(
        gathered: &'a Gathered,
        program: &Program<'a>,
        (settings, table): (&'a Settings, &'a Table),
        sandbox: &'a Summary,
    ) -> Snapshot<'a> {
        Snapshot {
            time: clock::now(),
            program: *program,
            emergency: backup(Target::Emergency, settings, table),
            abuse: backup(Target::Abuse, settings, table),
            current: table.current(),
            servers: servers(settings, table).collect(),
            clients_max: settings.clients_max,
            clients: Box::new(clients(settings, table)),
            connections_max: settings.connections_max,
            connections_used: table.connections_open(),
            connections: &gathered.connections,
            missing: &gathered.missing,
            counters: gathered.counters,
            sandbox,
        }
    }

    /// The number of regular servers; a number without an address does not count.
    pub(super) fn known(&self) -> usize {
        self.servers.iter().filter(|server| server.state != ServerState::Vacant).count()
    }

    /// Whether further clients have to wait for the end of a connection.
    pub(super) fn connections_full(&self) -> bool {
        self.connections_used >= self.connections_max
    }

    /// The remark for people that clients have to wait.
    pub(super) fn full_remark(&self) -> Option<String> {
        let (used, most) = (self.connections_used, self.connections_max);
        self.connections_full()
            .then(|| format!("{used} of {most} connections are in use: further clients wait (-x)"))
    }

    /// The highest connection number in use; 0 if none is.
    pub(super) fn connections_last(&self) -> u32 {
        self.connections.last().map_or(0, |connection| connection.number)
    }

    /// The number of refused requests for each reason; none if there were none.
    pub(super) fn refusals(refused: &Refusals) -> Option<String> {
        let counts = refused.iter().filter(|(_, count)| *count > 0);
        let all: Vec<String> =
            counts.map(|(why, count)| format!("{count} {}", why.name())).collect();
        (!all.is_empty()).then(|| format!("Requests refused: {}", all.join(", ")))
    }

    /// What workers counted, for a reader.
    pub(super) fn counted(counters: &Counters) -> String {
        let Counters { accepted, unserved, refused, failed_connects, failovers, .. } = counters;
        let Counters { pauses, shortages, log_lines, log_lost, lock_timeouts, .. } = counters;
        format!(
            "Clients since the start: {accepted} accepted, {unserved} unserved, {refused} refused by \
             client_acl\n{failed_connects} connects failed, {failovers} clients passed on to another \
             server\nAccepting paused {pauses} times, {shortages} connections closed for a \
             shortage\n{log_lines} lines of the request log, {log_lost} lost; {lock_timeouts} \
             times the client table was locked"
        )
    }

    /// The remark about a worker that did not answer.
    pub(super) fn remark(worker: WorkerId) -> String {
        format!("Worker {worker} did not answer in time; its connections are left out.")
    }
}

/// The regular servers, with gaps.
pub(super) fn servers(settings: &Settings, table: &Table) -> impl Iterator<Item = ServerRow> {
    let now = clock::monotonic();
    let servers = settings.servers.iter().take(settings.server_count() as usize).enumerate();
    // Below MAX_SERVERS.
    let target = |number| Target::Server(ServerId(number as u16));
    servers.map(move |(number, server)| row(target(number), server.as_ref(), settings, table, now))
}

/// The emergency or the abuse server, if there is one.
pub(super) fn backup(target: Target, settings: &Settings, table: &Table) -> Option<ServerRow> {
    let server = settings.target(target)?;
    Some(row(target, Some(server), settings, table, clock::monotonic()))
}

/// The code of a server for JSON: null for none.
pub(super) fn code_or_null<S: Serializer>(code: &i32, to: S) -> Result<S::Ok, S::Error> {
    Target::from_code(*code).map(Target::code).serialize(to)
}

/// The used client slots.
pub(super) fn clients(settings: &Settings, table: &Table) -> impl Iterator<Item = ClientRow> {
    let now = clock::monotonic();
    table.clients().map(move |entry| client(&entry, settings, now))
}

fn row(
    target: Target,
    server: Option<&Server>,
    settings: &Settings,
    table: &Table,
    now: u64,
) -> ServerRow {
    let totals = table.server_totals(target.row(settings.table_size()));
    let limit = server.and_then(|server| server.limit(false));
    let state = match (server, totals.blacklisted_until, limit) {
        (None, _, _) => ServerState::Vacant,
        (Some(_), until, _) if until > now && totals.is_taken_out => ServerState::Out,
        // When the time of an operator's blacklisting is over, the server counts as usable; one
        // client tries it first.
        (Some(_), until, _) if until > 0 && !totals.is_taken_out => ServerState::Failed,
        (Some(_), _, Some(most)) if totals.connections >= most => ServerState::Full,
        (Some(_), _, _) if totals.is_pending => ServerState::Pending,
        (Some(_), _, _) => ServerState::Up,
    };
    ServerRow {
        number: match target {
            Target::Server(id) => Some(id.0.into()),
            Target::Emergency | Target::Abuse => None,
        },
        last_failure: totals.last_failure.map(|failure| LastFailure {
            unix_time: failure.at,
            reason: match ConnectFailure::from_code(failure.cause) {
                ConnectFailure::Errno(number) => errno(number),
                ConnectFailure::Timeout => "no answer in time".into(),
            },
        }),
        address: server.map(|server| server.host_at(totals.address)),
        status: if totals.blacklisted_until > now { totals.failed_at } else { 0 },
        port: server.map_or(0, |server| server.address.port()),
        connections: totals.connections,
        soft: server.map_or(0, |server| server.soft),
        hard: server.map_or(0, |server| server.hard),
        sent: totals.sent,
        received: totals.received,
        weight: server.map_or(0, |server| server.weight),
        prio: server.map_or(0, |server| server.prio),
        acl: server.map_or(0, |server| server.acl),
        blacklisted: totals.blacklisted_until.saturating_sub(now).div_ceil(1000),
        state,
        name: server.and_then(|server| server.given.as_ref()).map(ToString::to_string),
    }
}

fn client(entry: &ClientEntry, settings: &Settings, now: u64) -> ClientRow {
    ClientRow {
        slot: entry.slot,
        address: ClientKey::from_bytes(entry.key).to_string(),
        age: now.saturating_sub(entry.last_use) / 1000,
        server: entry.server,
        server_name: name_of(entry.server, settings),
        connects: entry.connects,
        sent: entry.sent,
        received: entry.received,
    }
}

/// The server as the operator gave it, with its port.
fn name(server: &Server) -> String {
    match &server.given {
        Some(host) => format!("{host}:{}", server.address.port()),
        None => server.address.to_string(),
    }
}

/// The name of the server with this code.
fn name_of(code: i32, settings: &Settings) -> Option<String> {
    Some(name(settings.target(Target::from_code(code)?)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::report) fn connection(number: u32) -> ConnectionInfo {
        ConnectionInfo {
            number,
            state: 2,
            downfd: 7,
            upfd: 8,
            pending_down: 3,
            pending_up: 4,
            client: 0,
            server: 1,
        }
    }

    pub(in crate::report) fn client(slot: u32) -> ClientRow {
        ClientRow {
            slot,
            address: "127.0.0.1".into(),
            age: 0,
            server: 1,
            server_name: Some("127.0.0.1:21001".into()),
            connects: 2,
            sent: 41,
            received: 28,
        }
    }

    pub(in crate::report) fn snapshot<'a>(
        connections: &'a [ConnectionInfo],
        clients: u32,
        missing: &'a [WorkerId],
    ) -> Snapshot<'a> {
        let server = |number: u32, address: &str| ServerRow {
            number: Some(number),
            address: Some(address.into()),
            last_failure: None,
            status: 0,
            port: 21000 + number as u16,
            connections: number,
            soft: 20,
            hard: 30,
            sent: 28,
            received: 41,
            weight: 1,
            prio: 2,
            acl: 0,
            blacklisted: 0,
            state: ServerState::Up,
            name: None,
        };
        Snapshot {
            time: OffsetDateTime::from_unix_timestamp(1_795_493_421).unwrap(),
            program: Program {
                uptime: std::time::Duration::from_secs(7300),
                listen: "www:80",
                workers: 2,
            },
            emergency: None,
            abuse: None,
            current: 1,
            servers: vec![server(0, "127.0.0.1"), server(1, "/run/<&\">.sock")],
            clients_max: 2048,
            clients: Box::new((0..clients).map(client)),
            connections_max: 500,
            connections_used: connections.len() as u32,
            connections,
            missing,
            counters: Counters::default(),
            sandbox: &Summary { seccomp: true, landlock: 6, root: "empty" },
        }
    }

    #[test]
    fn times_and_states_are_words() {
        let times = [0, 119, 120, 7199, 7200, 172_800].map(duration);
        assert_eq!(times, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
        let mut row = snapshot(&[], 0, &[]).servers.remove(1);
        assert_eq!(row.in_words(1000), "up");
        row.state = ServerState::Pending;
        assert_eq!(
            row.in_words(1000),
            "passed over, too many connects to it are pending (pending_max)"
        );
        let up = [
            ServerState::Vacant,
            ServerState::Up,
            ServerState::Full,
            ServerState::Pending,
            ServerState::Out,
            ServerState::Failed,
        ];
        assert_eq!(up.map(ServerState::is_up), [false, true, true, true, false, false]);
        (row.state, row.connections) = (ServerState::Full, 20);
        assert_eq!(row.in_words(1000), "full");
        row.last_failure = Some(LastFailure { unix_time: 7, reason: "connection refused".into() });
        assert_eq!(row.in_words(1000), "full", "it is history");
        (row.state, row.status, row.blacklisted) = (ServerState::Out, 988, 18);
        assert_eq!(row.in_words(1000), "taken out by an operator 12 s ago, for 18 s more");
        row.state = ServerState::Failed;
        assert_eq!(
            row.in_words(1000),
            "failed 12 s ago, left out for 18 s more: connection refused"
        );
        row.blacklisted = 0;
        assert_eq!(row.in_words(1000), "failed, the next client tries it: connection refused");
    }

    #[test]
    fn connections_are_full_when_all_are_in_use() {
        let snapshot = Snapshot { connections_used: 500, ..snapshot(&[], 0, &[]) };
        assert_eq!(
            snapshot.full_remark().as_deref(),
            Some("500 of 500 connections are in use: further clients wait (-x)")
        );
        assert_eq!(Snapshot { connections_used: 499, ..snapshot }.full_remark(), None);
    }

    #[test]
    fn states_come_from_the_table_and_the_limits() {
        let address = pen_config::address::Address::Inet("10.0.0.1:80".parse().unwrap());
        let server = |soft| Some(Server { soft, ..Server::at(address.clone()) });
        let settings = Settings {
            servers: vec![server(0), server(0), server(1), None, server(0)],
            emergency: server(0),
            ..Settings::default()
        };
        let table =
            Table::create(pen_table::Shape { clients: 1, servers: 7, workers: 1, connections: 8 })
                .unwrap();
        let (worker_table, now) = (table.worker_table(0), clock::monotonic());
        worker_table.note_failure(0, 7, ConnectFailure::Errno(111).code());
        assert!(worker_table.set_blacklist(0, now + 12_000, 7) && worker_table.reserve(2, None));
        table.take_out(1, now + 60_000, 8);
        // The time on the blacklist is over.
        assert!(worker_table.set_blacklist(4, 1, 9));
        let rows: Vec<ServerRow> = servers(&settings, &table).collect();
        let states: Vec<ServerState> = rows.iter().map(|row| row.state).collect();
        assert_eq!(
            states,
            [
                ServerState::Failed,
                ServerState::Out,
                ServerState::Full,
                ServerState::Vacant,
                ServerState::Failed
            ]
        );
        assert_eq!(rows[0].last_failure.as_ref().unwrap().reason, "connection refused");
        assert_eq!((rows[0].blacklisted, rows[1].blacklisted, rows[4].blacklisted), (12, 60, 0));
        let backups =
            [Target::Emergency, Target::Abuse].map(|target| backup(target, &settings, &table));
        assert_eq!(
            backups.map(|row| row.map(|row| (row.number, row.state))),
            [Some((None, ServerState::Up)), None]
        );
    }

    #[test]
    fn a_server_is_called_as_the_operator_gave_it() {
        let mut server =
            Server::at(pen_config::address::Address::Inet("10.0.0.1:80".parse().unwrap()));
        assert_eq!(name(&server), "10.0.0.1:80");
        server.given = Some(pen_config::address::Host::Name("www3".into()));
        assert_eq!(name(&server), "www3:80");
    }

    #[test]
    fn the_last_connection_is_the_highest_number() {
        let connections = [connection(3), connection(9)];
        assert_eq!(snapshot(&connections, 0, &[]).connections_last(), 9);
        assert_eq!(snapshot(&[], 0, &[]).connections_last(), 0);
    }
}
