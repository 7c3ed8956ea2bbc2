//! The kind and the fields of the events that workers report.

#![forbid(unsafe_code)]

use pen_config::ids::{ClientKey, Target};
use pen_config::per_client;
use pen_config::settings::{Server, Settings};
use pen_ipc::message::{Event, Obstacle, PerClientLimit, ShortageDuring};
use pen_ipc::text::errno_text;
use pen_status::event::{EventKind, Field};

use crate::log::events::throttle::MergedEvent;
use crate::log::events::{failure, handshake, log_failure, obstacle_line, sender_fault};
use crate::log::recent::Incident;

/// The incident for an event that stands for several.
pub(crate) fn merged(merged: &MergedEvent, settings: &Settings) -> Incident {
    let incident = incident(&merged.event, settings);
    match merged.more {
        0 => incident,
        more => incident.with("others", number(more)),
    }
}

/// The incident for an event.
pub(crate) fn incident(event: &Event, settings: &Settings) -> Incident {
    let of = Incident::of;
    let server = |kind, code: i32| about(of(kind), code, settings);
    match event {
        Event::Blacklisted { server: code, seconds, reason } => {
            server(EventKind::ServerDown, *code)
                .with("by", "traffic")
                .with("seconds", *seconds)
                .with("reason", failure(*reason, settings))
        }
        Event::AddressChanged { server: code, from, to, reason } => {
            let found = found(*code, settings);
            of(EventKind::ServerAddress)
                .with("server", title(*code))
                .with_if("from", found.map(|found| found.place_at(*from).to_string()))
                .with_if("address", found.map(|found| found.place_at(*to).to_string()))
                .with("reason", failure(*reason, settings))
        }
        Event::BackInUse { server: code } | Event::Reached { server: code } => {
            server(EventKind::ServerUp, *code).with("by", "traffic")
        }
        Event::PassedOver { server: code, obstacle: Obstacle::Limit, .. } => {
            let limit = found(*code, settings).and_then(|found| found.limit(false));
            server(EventKind::ServerLimit, *code).with_if("limit", limit)
        }
        Event::PassedOver { server: code, obstacle, errno } => {
            server(EventKind::ServerPassedOver, *code)
                .with("reason", obstacle_line(*obstacle, *errno, settings))
        }
        Event::ConnectionsFull => of(EventKind::ConnectionsLimit)
            .with("connections", settings.connections_max)
            .with("limit", settings.connections_max),
        Event::Unserved { clients } => of(EventKind::Unserved).with("clients", number(*clients)),
        Event::Shortage { during, errno } => of(EventKind::Shortage)
            .with("during", shortage(*during))
            .with("reason", errno_text(*errno)),
        Event::LogLost { lines, errno } => lost("log", *lines, *errno),
        Event::ConnectionLogLost { lines, errno } => lost("connection_log", *lines, *errno),
        Event::HandshakeFailed { client, reason, others, certificate: _ } => {
            refused(client, *others).with("reason", handshake(reason))
        }
        Event::RequestRefused { client, reason, others } => {
            refused(client, *others).with("reason", reason.to_string())
        }
        Event::BadSender { sender, fault, others } => {
            refused(sender, *others).with("reason", sender_fault(*fault))
        }
        Event::Crowded { clients, kept } => of(EventKind::Shortage)
            .with("during", "unfinished")
            .with("clients", number(*clients))
            .with("bytes", number(*kept)),
        Event::BeyondLimit { client, length, limit, others } => {
            beyond_limit(*client, *length, *limit, *others)
        }
        Event::LimitsUnchecked { clients, why } => {
            of(EventKind::Other).with("reason", why.to_string()).with("clients", number(*clients))
        }
        Event::LockStuck => of(EventKind::Other),
        Event::TableRebuilt { kept } => of(EventKind::Other).with("clients", *kept),
    }
}

fn shortage(during: ShortageDuring) -> &'static str {
    match during {
        ShortageDuring::Accept => "accept",
        ShortageDuring::Connect => "connect",
        ShortageDuring::Watch => "watch",
    }
}

/// Lines of a log were lost.
fn lost(log: &str, lines: u64, errno: i32) -> Incident {
    Incident::of(EventKind::LogLost)
        .with("log", log)
        .with("lines", number(lines))
        .with("reason", log_failure(errno))
}

fn found(code: i32, settings: &Settings) -> Option<&Server> {
    settings.target(Target::from_code(code)?)
}

/// Something about a server, with its number and its first address.
fn about(incident: Incident, code: i32, settings: &Settings) -> Incident {
    let address = found(code, settings).map(|found| found.place_at(0).to_string());
    incident.with("server", title(code)).with_if("address", address)
}

/// The number of a server, or the word for one without a number.
pub(crate) fn title(code: i32) -> Field {
    match Target::from_code(code) {
        Some(Target::Server(id)) => Field::Number(id.0.into()),
        Some(Target::Emergency) => "emergency".into(),
        Some(Target::Abuse) => "abuse".into(),
        None => Field::Number(code.into()),
    }
}

fn refused(client: &[u8; 16], others: u64) -> Incident {
    Incident::of(EventKind::ClientRefused)
        .with("client", ClientKey::from_bytes(*client).to_string())
        .with("others", number(others))
}

fn beyond_limit(client: [u8; 16], length: u8, limit: PerClientLimit, others: u64) -> Incident {
    let incident = Incident::of(EventKind::ClientLimit)
        .with("client", per_client::in_words(client, length))
        .with("others", number(others));
    match limit {
        PerClientLimit::Connections { most } => {
            incident.with("limit", "per_client_max").with("connections", most)
        }
        PerClientLimit::Rate { connections, seconds } => incident
            .with("limit", "per_client_rate")
            .with("connections", connections)
            .with("seconds", seconds),
    }
}

/// A count as a field.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
