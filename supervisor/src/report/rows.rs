//! The rows of a report: servers and clients, for every form.

#![forbid(unsafe_code)]

use pen_config::checks::{ServerMode, ServersFrom};
use pen_config::followed::Record;
use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_config::shares::{WHOLE, slow_share};
use pen_ipc::message::ConnectFailure;
use pen_ipc::text::errno_text;
use pen_status::histogram::Histogram;
use pen_status::{
    CheckState, CheckStatus, FollowedRecord, History, LastFailure, LookupStatus, Mode, ReasonCount,
    RecordState, ServerState, ServerStatus, ServerTlsStatus, Verify,
};
use pen_table::{
    Checks as Obedience, ClientEntry, Durations, FailureClass, Knows, Patience, ServerView, Table,
    Unusable, Usable, can_use,
};
use serde::{Serialize, Serializer};

use crate::clock;
use crate::lookups::{Lookups, NameRow};
use crate::verdicts::Checks;

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

/// The regular servers, with gaps.
pub(super) fn servers(
    settings: &Settings,
    table: &Table,
    checks: &Checks,
    lookups: &Lookups,
) -> impl Iterator<Item = ServerStatus> {
    let now = Now::take();
    let servers = settings.servers.iter().take(settings.server_count() as usize).enumerate();
    // Below MAX_SERVERS.
    let target = |number| Target::Server(ServerId(number as u16));
    servers.map(move |(number, server)| {
        let row = row(target(number), server.as_ref(), settings, table, now);
        let row = with_lookup(row, server.as_ref(), lookups);
        let row = with_records(row, settings.followed(ServerId(number as u16)), lookups);
        with_check(row, ServerId(number as u16), settings, checks, now)
    })
}

/// The emergency or the abuse server, if there is one.
pub(super) fn backup(
    target: Target,
    settings: &Settings,
    table: &Table,
    lookups: &Lookups,
) -> Option<ServerStatus> {
    let server = settings.target(target)?;
    let row = row(target, Some(server), settings, table, Now::take());
    Some(with_lookup(row, Some(server), lookups))
}

/// The code of a server for JSON: null for none.
pub(super) fn code_or_null<S: Serializer>(code: &i32, to: S) -> Result<S::Ok, S::Error> {
    Target::from_code(*code).map(Target::code).serialize(to)
}

/// A row with what is known of its name.
fn with_lookup(row: ServerStatus, server: Option<&Server>, lookups: &Lookups) -> ServerStatus {
    let Some((server, name)) = server.and_then(|server| Some((server, server.looked_up()?))) else {
        return row;
    };
    let addresses = server.addresses().map(|address| address.host().to_string()).collect();
    let lookup = lookups.host(&name).map(lookup_status);
    ServerStatus { addresses, lookup, ..row }
}

/// A row with what is known of the name that it follows.
fn with_records(row: ServerStatus, from: Option<&ServersFrom>, lookups: &Lookups) -> ServerStatus {
    match from.and_then(|from| lookups.records(from)) {
        Some(known) => ServerStatus { lookup: Some(lookup_status(known)), ..row },
        None => row,
    }
}

fn lookup_status(known: &NameRow) -> LookupStatus {
    LookupStatus {
        last: known.last,
        failing_since: known.outage.as_ref().map(|outage| outage.since),
        reason: known.outage.as_ref().map(|outage| outage.reason.clone()),
    }
}

/// A row with what its check says.
fn with_check(
    row: ServerStatus,
    id: ServerId,
    settings: &Settings,
    checks: &Checks,
    now: Now,
) -> ServerStatus {
    let (Some(check), Some(known)) = (settings.check_of(Target::Server(id)), checks.row(id)) else {
        return row;
    };
    let check = CheckStatus {
        kind: check.kind.word().to_owned(),
        state: match known.verdict.state {
            pen_ipc::checks::CheckState::Unknown => CheckState::Unknown,
            pen_ipc::checks::CheckState::Up => CheckState::Up,
            pen_ipc::checks::CheckState::Down => CheckState::Down,
        },
        since: known.since,
        duration_us: known.micros,
        reason: known.reason().map(|fault| fault.text.clone()),
        last: known.checked,
        transitions: known.transitions,
    };
    let row = ServerStatus { check: Some(check), ..row };
    ServerStatus { state_text: row.in_words(now.unix), ..row }
}

/// Whether checks are disregarded, because no server could be used if they were obeyed.
pub(super) fn disregards_checks(servers: &[ServerStatus], settings: &Settings) -> bool {
    let mut known = servers.iter().filter(|server| server.state != ServerState::Vacant);
    settings.fail_open
        && settings.emergency.is_none()
        && known.clone().any(|server| server.state == ServerState::Down)
        && known.all(|server| match server.state {
            ServerState::Down | ServerState::Out | ServerState::Drain | ServerState::Maint => true,
            ServerState::Failed => server.blacklisted > 0,
            ServerState::Vacant | ServerState::Up | ServerState::Full | ServerState::Pending => {
                false
            }
        })
}

/// The used client slots.
pub(super) fn clients(settings: &Settings, table: &Table) -> impl Iterator<Item = ClientRow> {
    let now = clock::monotonic();
    table.clients().map(move |entry| client(&entry, settings, now))
}

/// The present time by two clocks.
#[derive(Clone, Copy)]
struct Now {
    /// The clock of the table, in milliseconds.
    monotonic: u64,
    /// Seconds since 1970.
    unix: i64,
}

impl Now {
    fn take() -> Now {
        let unix = time::OffsetDateTime::now_utc().unix_timestamp();
        Now { monotonic: clock::monotonic(), unix }
    }
}

fn row(
    target: Target,
    server: Option<&Server>,
    settings: &Settings,
    table: &Table,
    Now { monotonic: now, unix }: Now,
) -> ServerStatus {
    let number = target.row(settings.table_size());
    let (totals, statistics) = (table.server_totals(number), table.server_statistics(number));
    let limit = server.and_then(|server| server.limit(false));
    // As for a new client.
    let ServerView { blacklist, standing } = table.server_view(number, now);
    let usable = can_use(blacklist, standing, Knows::Stranger, Patience::Skip, Obedience::Obeyed);
    let state = match (server, usable, limit) {
        (None, _, _) => ServerState::Vacant,
        (Some(_), Err(Unusable::Maintenance), _) => ServerState::Maint,
        (Some(_), Err(Unusable::Draining), _) => ServerState::Drain,
        (Some(_), Err(Unusable::Down(_)), _) => ServerState::Down,
        (Some(_), Err(Unusable::Blacklisted(_) | Unusable::Probed), _) if totals.is_taken_out => {
            ServerState::Out
        }
        (Some(_), Err(Unusable::Blacklisted(_) | Unusable::Probed), _) => ServerState::Failed,
        // When the time of an operator's blacklisting is over, the server counts as usable; one
        // client tries it first.
        (Some(_), Ok(Usable::ForProbe), _) if !totals.is_taken_out => ServerState::Failed,
        (Some(_), Ok(_), Some(most)) if totals.connections >= most => ServerState::Full,
        (Some(_), Ok(_), _) if totals.is_pending => ServerState::Pending,
        (Some(_), Ok(_), _) => ServerState::Up,
    };
    let status = ServerStatus {
        number: match target {
            Target::Server(id) => Some(id.0.into()),
            Target::Emergency | Target::Abuse => None,
        },
        last_failure: totals.last_failure.map(|failure| LastFailure {
            unix_time: failure.at,
            reason: match ConnectFailure::from_code(failure.cause) {
                ConnectFailure::Errno(number) => errno_text(number),
                ConnectFailure::Timeout => "no answer in time".into(),
                ConnectFailure::Tls(fault) => fault.to_string(),
            },
        }),
        address: server.map(|server| server.host_at(totals.address)),
        failed_at: if totals.blacklisted_until > now { totals.failed_at } else { 0 },
        port: server.map_or(0, |server| server.address.port()),
        connections: totals.connections,
        max: server.map_or(0, |server| server.soft),
        hard: server.map_or(0, |server| server.hard),
        sent: totals.sent,
        received: totals.received,
        weight: server.map_or(0, |server| server.weight),
        prio: server.map_or(0, |server| server.prio),
        acl: server.map_or(0, |server| server.acl),
        blacklisted: totals.blacklisted_until.saturating_sub(now).div_ceil(1000),
        state,
        mode: match server.map_or(ServerMode::Ready, |server| server.mode) {
            ServerMode::Ready => Mode::Ready,
            ServerMode::Drain => Mode::Drain,
            ServerMode::Maint => Mode::Maint,
        },
        follows: server.and_then(|server| follows(target, server, settings)),
        name: server.and_then(|server| server.given.as_ref()).map(ToString::to_string),
        state_text: String::new(),
        connections_total: statistics.reached,
        connect_failures: failures(statistics.failures),
        failovers: statistics.failovers,
        connect: histogram(statistics.connect),
        length: histogram(statistics.length),
        // The supervisor knows these.
        history: History::default(),
        check: None,
        rebalanced: 0,
        addresses: Vec::new(),
        lookup: None,
        slow_start: slow_start(target, state, settings, table.returned(number), now),
        tls: tls(target, settings),
    };
    ServerStatus { state_text: status.in_words(unix), ..status }
}

/// The TLS of the connections to a server.
fn tls(target: Target, settings: &Settings) -> Option<ServerTlsStatus> {
    settings.speaks_tls(target).then(|| ServerTlsStatus {
        verify: if settings.server_tls.verify { Verify::On } else { Verify::Off },
        name: settings.tls_name(target).map(|name| name.to_string()),
    })
}

/// The part of its share that a server in use has in slow start, in percent. None: it has the
/// whole, also because the method in force knows no slow start, or it gets no new clients at all.
/// `returned` and `now` are in monotonic milliseconds.
fn slow_start(
    target: Target,
    state: ServerState,
    settings: &Settings,
    returned: u64,
    now: u64,
) -> Option<u32> {
    let is_regular = matches!(target, Target::Server(_));
    let applies = settings.slow_start > 0 && settings.selection.method().has_slow_start();
    if !is_regular || state != ServerState::Up || !applies {
        return None;
    }
    let share = slow_share(returned, now, settings.slow_start);
    (share < WHOLE).then_some(share / 10)
}

/// The record that a server follows.
fn follows(target: Target, server: &Server, settings: &Settings) -> Option<FollowedRecord> {
    let Target::Server(id) = target else { return None };
    let record = match server.record {
        Record::Own => return None,
        Record::Present => RecordState::Present,
        Record::Gone => RecordState::Gone,
    };
    let name = settings.followed(id).map_or(String::new(), |from| from.name.clone());
    Some(FollowedRecord { name, record })
}

/// How many connects failed for each reason.
fn failures(counts: [u64; FailureClass::ALL.len()]) -> Vec<ReasonCount> {
    let classes = FailureClass::ALL.into_iter().zip(counts);
    classes.map(|(class, count)| ReasonCount { reason: class.name().to_owned(), count }).collect()
}

fn histogram(durations: Durations) -> Histogram {
    Histogram { buckets: durations.buckets, sum: durations.sum }
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
mod tests {
    use pen_config::tls::servers::ServerTransport;
    use pen_table::TableMode;

    use super::*;

    #[test]
    fn a_server_with_tls_tells_its_name_and_whether_it_is_verified() {
        let address = pen_config::address::Address::Inet("10.0.0.1:443".parse().unwrap());
        let mut settings = Settings {
            servers: vec![Some(Server::at(address.clone())), Some(Server::at(address))],
            ..Settings::default()
        };
        let of = |settings: &Settings, number| tls(Target::Server(ServerId(number)), settings);
        assert_eq!(of(&settings, 0), None);
        settings.servers[0].as_mut().unwrap().transport = ServerTransport::Tls;
        let known = |verify, name: &str| Some(ServerTlsStatus { verify, name: Some(name.into()) });
        assert_eq!(of(&settings, 0), known(Verify::On, "10.0.0.1"));
        assert_eq!(of(&settings, 1), None);
        settings.server_tls.name = Some("www.example".parse().unwrap());
        settings.server_tls.verify = false;
        assert_eq!(of(&settings, 0), known(Verify::Off, "www.example"));
    }

    #[test]
    fn a_server_in_use_tells_the_share_that_it_has_in_slow_start() {
        let address = pen_config::address::Address::Inet("10.0.0.1:80".parse().unwrap());
        let mut settings = Settings {
            servers: vec![Some(Server::at(address.clone())), Some(Server::at(address))],
            slow_start: 1000,
            ..Settings::default()
        };
        let table =
            Table::create(pen_table::Shape { clients: 1, servers: 4, rows: 1, connections: 8 })
                .unwrap();
        table.note_return(1, clock::monotonic());
        let (checks, lookups) = (Checks::default(), Lookups::default());
        let shares = |settings: &Settings| {
            let rows = servers(settings, &table, &checks, &lookups);
            rows.map(|row| row.slow_start).collect::<Vec<_>>()
        };
        let [None, Some(share)] = shares(&settings)[..] else { panic!() };
        assert!((10..100).contains(&share), "{share}");
        settings.selection.hash = true;
        assert_eq!(shares(&settings), [None, None], "hash has no slow start");
        settings.selection.hash = false;
        table.take_out(1, clock::monotonic() + 60_000, 8);
        assert_eq!(shares(&settings), [None, None], "it gets no clients");
        table.clear_blacklist(1);
        settings.slow_start = 0;
        assert_eq!(shares(&settings), [None, None]);
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
            Table::create(pen_table::Shape { clients: 1, servers: 7, rows: 1, connections: 8 })
                .unwrap();
        let (worker_table, now) = (table.worker_table(0), clock::monotonic());
        worker_table.note_failure(0, 7, ConnectFailure::Errno(111).code());
        assert!(worker_table.set_blacklist(0, now + 12_000, 7) && worker_table.reserve(2, None));
        table.take_out(1, now + 60_000, 8);
        // The time on the blacklist is over.
        assert!(worker_table.set_blacklist(4, 1, 9));
        let rows: Vec<ServerStatus> =
            servers(&settings, &table, &Checks::default(), &Lookups::default()).collect();
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
        let closed = |mode, down| {
            table.set_standing(0, pen_table::Standing { mode, down }, 1);
            servers(&settings, &table, &Checks::default(), &Lookups::default())
                .next()
                .unwrap()
                .state
        };
        let down = pen_table::DownCode::new(7);
        assert_eq!(closed(TableMode::Ready, down), ServerState::Failed, "traffic is first");
        assert_eq!(closed(TableMode::Drain, down), ServerState::Drain);
        assert_eq!(closed(TableMode::Maint, down), ServerState::Maint);
        table.clear_blacklist(0);
        assert_eq!(closed(TableMode::Ready, down), ServerState::Down);
        let backups = [Target::Emergency, Target::Abuse]
            .map(|target| backup(target, &settings, &table, &Lookups::default()));
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
}
