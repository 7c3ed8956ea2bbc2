//! The words of an explanation: for a client, for a server that is used, and for one that is not.

use pen_config::checks::ServerMode;
use pen_config::followed::Record;
use pen_config::ids::{ClientKey, Target};
use pen_config::settings::{Method, Settings};
use pen_ipc::checks::words_of;
use pen_ipc::text::plural;
use pen_table::TableMode;

use crate::relay::select::farm::Hindrance;
use crate::relay::select::{SelectionRefusal, Usable};

/// The facts about the client itself, and how its first server is chosen.
pub(super) fn client_facts(
    settings: &Settings,
    client: ClientKey,
    permitted: bool,
    recorded: Option<i32>,
) -> String {
    if !permitted {
        let instead = match (settings.dummy, &settings.abuse) {
            (true, _) => ", and dummy uses no abuse server",
            (false, Some(_)) => "",
            (false, None) => ", and there is no abuse server",
        };
        return format!("client {client}: refused by acl {}{instead}", settings.client_acl);
    }
    let modes = settings.selection;
    let choice = match modes.method() {
        Method::Prio => "prio",
        Method::Weight => "weight",
        Method::Leastconn => "leastconn",
        Method::P2c => "p2c",
        Method::Maglev => "maglev",
        Method::Hash if modes.roundrobin => "hash of address and port, here of port 0",
        Method::Hash => "hash",
        Method::RoundRobin => "round robin",
    };
    let recorded = match recorded.map(Target::from_code) {
        None => return format!("client {client}: the client table is locked; by {choice}"),
        Some(Some(Target::Server(id))) => id,
        Some(Some(Target::Emergency)) => {
            return format!("client {client}: was on the emergency server; by {choice}");
        }
        Some(Some(Target::Abuse)) => {
            return format!("client {client}: was on the abuse server; by {choice}");
        }
        Some(None) => return format!("client {client}: not tracked; by {choice}"),
    };
    if settings.target(Target::Server(recorded)).is_none() {
        format!("client {client}: tracked on server {recorded}, which is no more; by {choice}")
    } else if !modes.tracks() {
        format!(
            "client {client}: was on server {recorded}, but clients are not tracked; by {choice}"
        )
    } else {
        format!("client {client}: tracked on server {recorded}")
    }
}

/// The end of the line about the server that would be used.
pub(super) fn how_used(
    settings: &Settings,
    target: Target,
    usable: Usable,
    mode: TableMode,
) -> String {
    match (usable, mode, gone_from(settings, target)) {
        (Usable::InUse, TableMode::Ready | TableMode::Maint, _) => ": would be used".into(),
        (Usable::InUse, TableMode::Drain, None) => {
            ": would be used: it is draining, but knows the client".into()
        }
        (Usable::InUse, TableMode::Drain, Some(from)) => {
            format!(": would be used: it is no longer an address of {from}, but knows the client")
        }
        (Usable::ForProbe, _, _) => {
            ": would be used, the first to try it after its blacklist time".into()
        }
    }
}

/// The name that a server followed, if it drains because its record is gone.
fn gone_from(settings: &Settings, target: Target) -> Option<&str> {
    let Target::Server(id) = target else { return None };
    let server = settings.target(target)?;
    match (server.mode, server.record) {
        (ServerMode::Ready, Record::Gone) => settings.followed(id).map(|from| from.name.as_str()),
        (ServerMode::Ready | ServerMode::Drain | ServerMode::Maint, _) => None,
    }
}

/// The end of the line about a server that speaks TLS.
pub(super) fn secured(settings: &Settings, target: Target) -> String {
    if !settings.speaks_tls(target) {
        return String::new();
    }
    match (settings.server_tls.verify, settings.tls_name(target)) {
        (true, Some(name)) => format!("; with TLS, verified as {name}"),
        (true, None) => "; with TLS, but without a name that could be verified".into(),
        (false, _) => "; with TLS, not verified".into(),
    }
}

/// The end of the line about a blacklisted server, by row.
pub(super) type BlacklistReason<'w> = &'w dyn Fn(u32) -> String;

/// Why a server is not used.
pub(super) fn why_not(
    settings: &Settings,
    target: Target,
    refusal: SelectionRefusal,
    now: u64,
    blacklist_reason: BlacklistReason<'_>,
) -> String {
    let name = name(settings, target);
    match refusal {
        SelectionRefusal::Absent => format!("{name}: has no address"),
        SelectionRefusal::Maintenance => format!("{name}: in maintenance"),
        SelectionRefusal::Draining => match gone_from(settings, target) {
            Some(from) => format!("{name}: no longer an address of {from}, no new clients"),
            None => format!("{name}: draining, no new clients"),
        },
        SelectionRefusal::Down(code) => {
            format!("{name}: down by check: {}", words_of(code.code()))
        }
        SelectionRefusal::Blacklisted(until) => {
            let seconds = until.saturating_sub(now).div_ceil(1000);
            format!(
                "{name}: blacklisted for {seconds} s more{}",
                blacklist_reason(target.row(settings.table_size()))
            )
        }
        SelectionRefusal::Probed => {
            format!("{name}: being tried by another connection after its blacklist time")
        }
        SelectionRefusal::Acl(list) => format!("{name}: refused by acl {list}"),
        SelectionRefusal::Full { connections, most } => {
            format!("{name}: full ({connections} of {most})")
        }
        SelectionRefusal::Hindered(Hindrance::Pending) => {
            format!(
                "{name}: passed over, {} connects to it are pending (pending_max)",
                settings.pending_max
            )
        }
        SelectionRefusal::Hindered(Hindrance::Ports) => {
            format!("{name}: passed over, no local port was free towards it")
        }
        SelectionRefusal::SlowStart(share) => format!(
            "{name}: passed over this time, it has {} % of its share now (slow_start)",
            share / 10
        ),
        SelectionRefusal::Crowded { connections, percent } => format!(
            "{name}: passed over with {}, more than {percent} % of the mean (maglev bounded)",
            plural(connections, "connection")
        ),
        SelectionRefusal::NoWeight => format!("{name}: weight 0, only when no other can be used"),
    }
}

/// The name of a server in a line.
pub(super) fn name(settings: &Settings, target: Target) -> String {
    let title = match target {
        Target::Server(id) => format!("server {id}"),
        Target::Emergency => "emergency server".into(),
        Target::Abuse => "abuse server".into(),
    };
    match settings.target(target) {
        Some(server) => match server.alternatives.len() {
            0 => format!("{title} ({})", server.place_at(0)),
            1 => format!("{title} ({} and 1 more address)", server.place_at(0)),
            more => format!("{title} ({} and {more} more addresses)", server.place_at(0)),
        },
        None => title,
    }
}
