//! The metrics of the program, its workers, its table of clients and TLS.

use std::collections::BTreeMap;

use crate::metrics::text::{Text, label};
use crate::metrics::{Family, Kind, State};
use crate::status::{ChangeResult, ReasonCount, Status, TlsCounts, WorkerStatus};

/// The labels of the metrics of workers.
pub(super) const LABELS: &[&str] = &["worker"];

/// All of them.
pub(super) const FAMILIES: &[Family] = &[
    Family::written(
        Kind::Info,
        "pen_build_info",
        "The version of pen.",
        &["version"],
        |state, text| text.number(&label("version", &state.status.version), 1),
    ),
    Family::written(
        Kind::Gauge,
        "pen_start_time_seconds",
        "When pen was started, over all upgrades, as Unix time.",
        &[],
        |state, text| text.moment("", state.status.started_at),
    ),
    Family::gauge("pen_workers", "Workers that take clients.", |status| status.workers.into()),
    Family::gauge(
        "pen_old_workers",
        "Workers of earlier programs that still have connections.",
        |status| status.old_workers.len() as u64,
    ),
    Family::gauge("pen_connections", "Open connections of clients.", |status| {
        status.connections.into()
    }),
    Family::gauge("pen_connections_limit", "The most connections at a time (-x).", |status| {
        status.connections_max.into()
    }),
    Family::written(
        Kind::Info,
        "pen_placement_info",
        "Which method chooses the server of a new client.",
        &["method"],
        |state, text| text.number(&label("method", &state.status.method), 1),
    ),
    Family::gauge(
        "pen_held_clients",
        "Clients that wait because no server can be used for them, or for the end of a pause.",
        |status| status.held,
    ),
    Family::gauge("pen_paused", "Whether new clients wait for the end of a pause.", |status| {
        status.paused.into()
    }),
    Family::counter("pen_connections_total", "Clients accepted.", |status| status.counts.accepted),
    Family::written(
        Kind::Counter,
        "pen_refused_total",
        "Clients closed without a server, and HTTP requests refused, by reason.",
        &["reason"],
        refused,
    ),
    Family::written(
        Kind::Counter,
        "pen_limited_total",
        "Connections beyond a limit per client, by limit.",
        &["reason"],
        |state, text| {
            for ReasonCount { reason: why, count } in &state.status.counts.limited {
                reason(why, *count, text);
            }
        },
    ),
    Family::gauge(
        "pen_tarpitted_connections",
        "Connections beyond a limit per client that are kept open and silent.",
        |status| status.tarpitted,
    ),
    Family::counter(
        "pen_limits_unchecked_total",
        "Connections let in that could not be checked against the limits per client.",
        |status| status.counts.limits_unchecked,
    ),
    Family::counter(
        "pen_accept_pauses_total",
        "Pauses of accepting, for want of connections, descriptors or memory.",
        |status| status.counts.accept_pauses,
    ),
    Family::counter(
        "pen_log_lines_lost_total",
        "Lines lost of the request log and the connection log.",
        |status| status.counts.log_lines_lost,
    ),
    Family::written(
        Kind::Counter,
        "pen_reloads_total",
        "Times that the configuration file or the files of TLS were read again, by result.",
        &["result"],
        |state, text| {
            let counts = &state.status.counts;
            results(counts.reloads, counts.reloads_failed, text);
        },
    ),
    Family::gauge(
        "pen_last_reload_success",
        "Whether the configuration that was last read is in force.",
        |status| {
            let reload = status.reload.as_ref();
            reload.is_none_or(|last| last.result == ChangeResult::Success).into()
        },
    ),
    Family::written(
        Kind::Gauge,
        "pen_last_reload_timestamp_seconds",
        "When the configuration was last read, in force or not, as Unix time.",
        &[],
        |state, text| {
            let reload = state.status.reload.as_ref();
            text.moment("", reload.map_or(state.status.started_at, |last| last.unix_time));
        },
    ),
    Family::written(
        Kind::Counter,
        "pen_lookups_total",
        "Repeated lookups of names of servers, by result.",
        &["result"],
        |state, text| {
            let counts = &state.status.counts;
            results(counts.lookups, counts.lookups_failed, text);
        },
    ),
    Family::gauge(
        "pen_names_failing",
        "Names of servers that had no answer when they were last looked up.",
        |status| status.names_failing.into(),
    ),
    Family::written(
        Kind::Counter,
        "pen_upgrades_total",
        "Upgrades to another program without a restart, by result.",
        &["result"],
        |state, text| {
            let counts = &state.status.counts;
            results(counts.upgrades, counts.upgrades_failed, text);
        },
    ),
    Family::counter(
        "pen_events_lost_total",
        "Events that the log does not have, because there were too many.",
        |status| status.counts.events_lost,
    ),
    Family::of_workers(
        Kind::Gauge,
        "pen_worker_connections",
        "Open connections of a worker.",
        |worker| Some(worker.connections),
    ),
    Family::written(
        Kind::Counter,
        "pen_worker_busy_seconds_total",
        "Processor time of all processes that had this worker's number, in seconds.",
        LABELS,
        |state, text| {
            for worker in &state.status.worker_list {
                let label = label("worker", &worker.number.to_string());
                text.seconds(&label, worker.busy_ms.saturating_mul(1000));
            }
        },
    ),
    Family::of_workers(
        Kind::Gauge,
        "pen_worker_memory_bytes",
        "Resident memory of a worker, the shared table included, as far as it used it.",
        |worker| worker.memory,
    ),
    Family::of_workers(
        Kind::Counter,
        "pen_worker_restarts_total",
        "Times that a worker died and was replaced.",
        |worker| Some(worker.restarts),
    ),
    Family::gauge("pen_clients", "Clients in the table.", |status| status.clients.into()),
    Family::gauge("pen_clients_limit", "The most clients in the table (-c).", |status| {
        status.clients_max.into()
    }),
    Family::counter(
        "pen_client_evictions_total",
        "Clients forgotten because another client needed their slot of the table.",
        |status| status.counts.client_evictions,
    ),
    Family::counter(
        "pen_table_lock_timeouts_total",
        "Times that the table of clients could not be used, because its lock was stuck.",
        |status| status.counts.table_lock_timeouts,
    ),
    Family::written(
        Kind::Counter,
        "pen_tls_handshakes_total",
        "Finished TLS handshakes, by version and whether they resumed a session.",
        &["version", "resumed"],
        |state, text| handshakes(state.status.counts.tls.as_ref(), text),
    ),
    Family::written(
        Kind::Counter,
        "pen_tls_failures_total",
        "TLS handshakes that failed, by reason.",
        &["reason"],
        |state, text| {
            let failures = state.status.counts.tls.iter().flat_map(|tls| &tls.failures);
            failures.for_each(|failure| reason(&failure.reason, failure.count, text));
        },
    ),
    Family::written(
        Kind::Counter,
        "pen_server_tls_handshakes_total",
        "Finished TLS handshakes with servers, by version and whether they resumed a session.",
        &["version", "resumed"],
        |state, text| handshakes(state.status.counts.server_tls.as_ref(), text),
    ),
    Family::written(
        Kind::Counter,
        "pen_server_tls_failures_total",
        "TLS handshakes with servers that failed, by reason.",
        &["reason"],
        |state, text| {
            let failures = state.status.counts.server_tls.iter().flat_map(|tls| &tls.failures);
            failures.for_each(|failure| reason(&failure.reason, failure.count, text));
        },
    ),
    Family::written(
        Kind::Gauge,
        "pen_certificate_not_after_seconds",
        "When a certificate expires, as Unix time; the first of several with one name.",
        &["name"],
        certificates,
    ),
];

/// Finished handshakes by kind.
fn handshakes(tls: Option<&TlsCounts>, text: &mut Text) {
    for kind in tls.into_iter().flat_map(|tls| &tls.handshakes) {
        let version = label("version", &kind.version);
        let resumed = label("resumed", if kind.resumed { "true" } else { "false" });
        text.number(&format!("{version},{resumed}"), kind.count);
    }
}

fn refused(state: &State<'_>, text: &mut Text) {
    let counts = &state.status.counts;
    for ReasonCount { reason: why, count } in &counts.refused {
        reason(why, *count, text);
    }
    reason("no_server", counts.unserved, text);
    for ReasonCount { reason: why, count } in &counts.requests_refused {
        reason(&format!("http_{why}"), *count, text);
    }
}

fn reason(why: &str, count: u64, text: &mut Text) {
    text.number(&label("reason", why), count);
}

fn results(succeeded: u64, failed: u64, text: &mut Text) {
    text.number(&label("result", "success"), succeeded);
    text.number(&label("result", "failure"), failed);
}

/// Writes a sample of each worker that has the value.
pub(super) fn each(status: &Status, value: fn(&WorkerStatus) -> Option<u64>, text: &mut Text) {
    for worker in &status.worker_list {
        if let Some(value) = value(worker) {
            text.number(&label("worker", &worker.number.to_string()), value);
        }
    }
}

/// Labels must differ, but names of certificates may be the same.
fn certificates(state: &State<'_>, text: &mut Text) {
    let mut ends = BTreeMap::<&str, i64>::new();
    for certificate in &state.status.certificates {
        let Some(end) = certificate.not_after_unix else { continue };
        let first = ends.entry(&certificate.name).or_insert(end);
        *first = end.min(*first);
    }
    for (name, end) in ends {
        text.moment(&label("name", name), end);
    }
}
