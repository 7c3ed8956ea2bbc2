//! The state of the whole program ([`Status`]), which JSON, metrics, page and terminal show.

#![forbid(unsafe_code)]

use pen_config::checks::Admission;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;
use pen_ipc::handshakes::{HandshakeFailures, Handshakes};
use pen_ipc::stats::Counters;
use pen_ipc::text::date_time;
use pen_ipc::tls_files::{Fact, Purpose};
use pen_status::{
    CertificateStatus, Counts, OldWorkerStatus, ReasonCount, ServerStatus, Status, TlsCounts,
    TlsHandshakes, WorkerStatus,
};
use pen_table::Table;

use crate::clock;
use crate::log::recent::Recent;
use crate::lookups::LookupCounts;
use crate::processes::old::OldWorkerSummary;
use crate::report::Program;
use crate::report::past::Past;
use crate::report::rows::{backup, disregards_checks, servers};

/// What only the supervisor knows.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) program: Program<'a>,
    pub(crate) past: &'a Past,
    /// Its pid: a child makes the report.
    pub(crate) pid: u32,
    pub(crate) workers: Vec<WorkerStatus>,
    /// Workers of earlier programs that still have connections.
    pub(crate) old_workers: Vec<OldWorkerSummary>,
    /// The counters of all workers since the start, summed, dead workers included.
    pub(crate) counters: Counters,
    /// The clients that are held.
    pub(crate) held: u64,
    /// The connections that are kept open and silent.
    pub(crate) tarpitted: u64,
    /// The certificates of TLS.
    pub(crate) certificates: Vec<Fact>,
    /// Whether clients use TLS.
    pub(crate) has_tls: bool,
    /// Whether a server speaks TLS.
    pub(crate) has_server_tls: bool,
    /// The last events.
    pub(crate) events: &'a Recent,
}

/// The state at this moment, as exact as possible without stopping anything.
pub(crate) fn take(known: Known<'_>, settings: &Settings, table: &Table) -> Status {
    let Known { program, past, pid, workers, old_workers, counters, held, .. } = known;
    let Known { certificates, has_tls, has_server_tls, events, tarpitted, .. } = known;
    let time = clock::now();
    let other = |target| {
        let server = backup(target, settings, table, program.lookups)?;
        Some(with_past(server, target, past))
    };
    // Below MAX_SERVERS.
    let id = |server: &ServerStatus| ServerId(server.number() as u16);
    let regular: Vec<ServerStatus> = servers(settings, table, program.checks, program.lookups)
        .map(|server| (Target::Server(id(&server)), server))
        .map(|(target, server)| with_past(server, target, past))
        .collect();
    Status {
        version: program.version.to_owned(),
        time: date_time(time),
        unix_time: time.unix_timestamp(),
        uptime: program.uptime.as_secs(),
        started_at: past.started_at,
        pid,
        listen: program.listen.to_owned(),
        workers: u32::try_from(program.workers).unwrap_or(u32::MAX),
        worker_list: workers,
        old_workers: old_workers.iter().map(OldWorkerStatus::from).collect(),
        connections: table.connections_open(),
        connections_max: settings.connections_max,
        held,
        tarpitted,
        paused: settings.admission == Admission::Paused,
        dummy: settings.dummy,
        method: settings.selection.method().name().to_owned(),
        clients: table.clients_used(),
        clients_max: settings.clients_max,
        counts: Counts {
            tls: has_tls
                .then(|| tls_counts(&counters.handshakes_by_kind, &counters.handshake_failures)),
            server_tls: has_server_tls.then(|| {
                let failures = counters.server_tls_faults.iter();
                tls_counts_of(&counters.server_handshakes, failures)
            }),
            ..counts(&counters, past, program.lookups.counts(), events.lost())
        },
        names_failing: u32::try_from(program.lookups.failing()).unwrap_or(u32::MAX),
        disregards_checks: disregards_checks(&regular, settings),
        servers: regular,
        emergency: other(Target::Emergency),
        abuse: other(Target::Abuse),
        history: past.histories.all(),
        reload: past.reloads.last.clone(),
        upgrade: past.upgrades.last.clone(),
        certificates: certificates.iter().map(certificate).collect(),
        events: events.last(EVENTS).cloned().collect(),
    }
}

/// A server with what only the supervisor remembers of it.
fn with_past(server: ServerStatus, target: Target, past: &Past) -> ServerStatus {
    let rebalanced = past.rebalanced.get(&target.code()).copied().unwrap_or(0);
    ServerStatus { history: past.histories.of(target), rebalanced, ..server }
}

impl From<&OldWorkerSummary> for OldWorkerStatus {
    fn from(old: &OldWorkerSummary) -> OldWorkerStatus {
        let OldWorkerSummary { version, age, connections } = old;
        let (version, connections) = (version.clone(), *connections);
        OldWorkerStatus { version, age: age.as_secs(), connections }
    }
}

/// What workers and the supervisor counted, by the names of a [`Status`].
fn counts(counters: &Counters, past: &Past, lookups: LookupCounts, withheld: u64) -> Counts {
    let reason = |reason: &str, count| ReasonCount { reason: reason.into(), count };
    let Counters {
        accepted,
        // With `accepted`, the connections that are open, which the table knows better.
        closed: _,
        unserved,
        refused,
        // The table has them by server.
        failed_connects: _,
        failovers: _,
        pauses,
        shortages,
        log_lines,
        log_lost,
        lock_timeouts,
        events_dropped,
        // By kind and reason below.
        handshakes: _,
        resumed: _,
        failed_handshakes: _,
        crowded,
        connection_log_lines,
        connection_log_lost,
        requests_refused,
        evictions,
        bad_senders,
        over_limit,
        // Those that are held now are in the status.
        held: _,
        held_ended: _,
        // Only with TLS.
        handshakes_by_kind: _,
        handshake_failures: _,
        server_handshakes: _,
        server_tls_faults: _,
        beyond_max,
        beyond_rate,
        tarpitted: _,
        tarpit_ended: _,
        limits_unchecked,
    } = *counters;
    let Past { reloads, upgrades, started_at: _, histories: _, rebalanced: _ } = past;
    let requests = requests_refused.iter();
    Counts {
        accepted,
        unserved,
        refused: vec![
            reason("client_acl", refused),
            reason("crowded", crowded),
            reason("limit", over_limit),
            reason("proxy_header", bad_senders),
        ],
        limited: vec![reason("per_client_max", beyond_max), reason("per_client_rate", beyond_rate)],
        limits_unchecked,
        requests_refused: requests.map(|(why, count)| reason(why.name(), count)).collect(),
        accept_pauses: pauses,
        shortages,
        log_lines: log_lines.saturating_add(connection_log_lines),
        log_lines_lost: log_lost.saturating_add(connection_log_lost),
        // Those that workers could not tell, and those that the log withheld.
        events_lost: events_dropped.saturating_add(withheld),
        client_evictions: evictions,
        table_lock_timeouts: lock_timeouts,
        reloads: reloads.succeeded,
        reloads_failed: reloads.failed,
        upgrades: upgrades.succeeded,
        upgrades_failed: upgrades.failed,
        lookups: lookups.succeeded,
        lookups_failed: lookups.failed,
        tls: None,
        server_tls: None,
    }
}

fn tls_counts(handshakes: &Handshakes, failures: &HandshakeFailures) -> TlsCounts {
    tls_counts_of(handshakes, failures.iter().map(|(why, count)| (why.name(), count)))
}

fn tls_counts_of<'n>(
    handshakes: &Handshakes,
    failures: impl Iterator<Item = (&'n str, u64)>,
) -> TlsCounts {
    let handshakes = handshakes.iter().map(|(kind, count)| TlsHandshakes {
        version: kind.version().to_owned(),
        resumed: kind.is_resumed(),
        count,
    });
    let failures = failures.map(|(why, count)| ReasonCount { reason: why.into(), count });
    TlsCounts { handshakes: handshakes.collect(), failures: failures.collect() }
}

/// A certificate.
fn certificate(fact: &Fact) -> CertificateStatus {
    let used = match fact.purpose {
        Purpose::Server(_) => "server",
        Purpose::Chain(_) => "chain",
        Purpose::Authority(_) => "authority",
        Purpose::Client => "client",
        Purpose::ClientChain => "client_chain",
        Purpose::ServerAuthority => "server_authority",
    };
    CertificateStatus {
        name: fact.name.clone(),
        file: fact.file.clone(),
        used: used.to_owned(),
        not_after_unix: fact.not_after,
    }
}

/// How many events a status has.
const EVENTS: usize = 100;
