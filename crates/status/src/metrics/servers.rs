//! The metrics of the servers, the emergency and the abuse server included.

use std::sync::LazyLock;

use crate::histogram::{CONNECT, Histogram, LENGTH};
use crate::metrics::text::{Text, label, les};
use crate::metrics::{Family, Kind, State};
use crate::status::{Mode, ServerState, ServerStatus, Status, Verify};

/// A server and the labels of its samples.
pub(super) struct Labelled<'s> {
    server: &'s ServerStatus,
    labels: String,
}

/// The servers that have an address.
pub(super) fn labelled(status: &Status) -> Vec<Labelled<'_>> {
    let regular = status.servers.iter().map(|server| (server.number().to_string(), server));
    let other = |name: &str, server| Option::map(server, |server| (name.to_owned(), server));
    let others =
        [other("emergency", status.emergency.as_ref()), other("abuse", status.abuse.as_ref())];
    let all = regular.chain(others.into_iter().flatten());
    let there = all.filter(|(_, server)| server.state != ServerState::Vacant);
    let labels = |(name, server): (String, &ServerStatus)| {
        let [number, address] = [label("server", &name), label("address", &server.given())];
        format!("{number},{address}")
    };
    there.map(|(name, server)| Labelled { server, labels: labels((name, server)) }).collect()
}

/// The labels of all of them; some have one more.
pub(super) const LABELS: &[&str] = &["server", "address"];

/// All of them.
pub(super) const FAMILIES: &[Family] = &[
    Family::of_servers(
        Kind::Gauge,
        "pen_server_up",
        "Whether a server is used: it has neither failed nor been taken out.",
        |server| server.state.is_up().into(),
    ),
    Family::written(
        Kind::Gauge,
        "pen_server_state",
        "Which clients the operator lets a server have: 1 for ready (all), drain (those that it \
         knows) or maint (none), and 0 for the others.",
        &["server", "address", "state"],
        |state, text| {
            each_of(state, text, "state", |server| {
                Mode::ALL.map(|mode| (mode.name(), (server.mode == mode).into()))
            });
        },
    ),
    Family::of_servers(
        Kind::Gauge,
        "pen_server_blacklisted",
        "Whether a server is left out for a time, because it failed or was taken out.",
        |server| (server.blacklisted > 0).into(),
    ),
    Family::written(
        Kind::Gauge,
        "pen_server_check_duration_seconds",
        "How long the last successful check of a server took, in seconds; absent without one.",
        LABELS,
        |state, text| {
            for Labelled { server, labels } in &state.servers {
                let check = server.check.as_ref();
                if let Some(micros) = check.and_then(|check| check.duration_us) {
                    text.seconds(labels, micros.into());
                }
            }
        },
    ),
    Family::written(
        Kind::Counter,
        "pen_server_check_transitions_total",
        "How often a server went down or came back by its check; absent without a check.",
        LABELS,
        |state, text| {
            for Labelled { server, labels } in &state.servers {
                if let Some(check) = &server.check {
                    text.number(labels, check.transitions);
                }
            }
        },
    ),
    Family::written(
        Kind::Gauge,
        "pen_server_tls",
        "Whether connections to a server use TLS: 1 for on (its certificate is verified) or off \
         (it is not), and 0 for the other; both are 0 without TLS.",
        &["server", "address", "verify"],
        |state, text| {
            each_of(state, text, "verify", |server| {
                let verify = server.tls.as_ref().map(|tls| tls.verify);
                Verify::ALL.map(|each| (each.name(), (verify == Some(each)).into()))
            });
        },
    ),
    Family::of_servers(Kind::Gauge, "pen_server_weight", "The weight of a server.", |server| {
        server.weight.into()
    }),
    Family::of_servers(
        Kind::Gauge,
        "pen_server_connections",
        "Open and pending connections to a server.",
        |server| server.connections.into(),
    ),
    Family::written(
        Kind::Gauge,
        "pen_server_connections_limit",
        "The most connections to a server, 0 without a limit: soft for new clients, hard \
               for those that it knows.",
        &["server", "address", "limit"],
        |state, text| {
            each_of(state, text, "limit", |server| {
                [("soft", server.max.into()), ("hard", server.hard.into())]
            });
        },
    ),
    Family::of_servers(
        Kind::Counter,
        "pen_server_connections_total",
        "Connections of clients that reached a server.",
        |server| server.connections_total,
    ),
    Family::written(
        Kind::Counter,
        "pen_server_bytes_total",
        "Bytes sent to a server and received from it.",
        &["server", "address", "direction"],
        |state, text| {
            each_of(state, text, "direction", |server| {
                [("sent", server.sent), ("received", server.received)]
            });
        },
    ),
    Family::written(
        Kind::Counter,
        "pen_server_connect_failures_total",
        "Connects to a server that failed, by reason.",
        &["server", "address", "reason"],
        |state, text| {
            each_of(state, text, "reason", |server| {
                server.connect_failures.iter().map(|each| (each.reason.as_str(), each.count))
            });
        },
    ),
    Family::of_servers(
        Kind::Counter,
        "pen_server_failovers_total",
        "Clients passed on to another server, because this one was not usable.",
        |server| server.failovers,
    ),
    Family::of_servers(
        Kind::Counter,
        "pen_server_rebalanced_total",
        "Silent connections to a server that were closed, because it had more than its share.",
        |server| server.rebalanced,
    ),
    Family::written(
        Kind::Histogram,
        "pen_server_connect_seconds",
        "How long connects to a server took that succeeded, with the TLS handshake if there is \
         one, in seconds.",
        LABELS,
        |state, text| histograms(state, text, &CONNECT_LES, |server| &server.connect),
    ),
    Family::written(
        Kind::Histogram,
        "pen_server_connection_seconds",
        "How long connections lasted that reached a server and ended, in seconds.",
        LABELS,
        |state, text| histograms(state, text, &LENGTH_LES, |server| &server.length),
    ),
];

static CONNECT_LES: LazyLock<Vec<String>> = LazyLock::new(|| les(&CONNECT));
static LENGTH_LES: LazyLock<Vec<String>> = LazyLock::new(|| les(&LENGTH));

/// Writes a sample of each server.
pub(super) fn each(state: &State<'_>, value: fn(&ServerStatus) -> u64, text: &mut Text) {
    for Labelled { server, labels } in &state.servers {
        text.number(labels, value(server));
    }
}

/// Several samples of each server, which differ in one label more.
fn each_of<'s, Values: IntoIterator<Item = (&'s str, u64)>>(
    state: &'s State<'_>,
    text: &mut Text,
    name: &str,
    values: fn(&'s ServerStatus) -> Values,
) {
    for Labelled { server, labels } in &state.servers {
        for (value, count) in values(server) {
            text.number(&format!("{labels},{}", label(name, value)), count);
        }
    }
}

fn histograms(
    state: &State<'_>,
    text: &mut Text,
    les: &[String],
    histogram: fn(&ServerStatus) -> &Histogram,
) {
    for Labelled { server, labels } in &state.servers {
        text.histogram(labels, les, histogram(server));
    }
}
