//! What pen reports: the reply to `overview`, which is JSON, as values.
//!
//! A pen of another release may know less or more than this program. What it does not report is
//! absent here, and a state that only it knows keeps its name. Every text is safe for a terminal.

mod check;
mod event;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use pen_status::Mode as ServerMode;
use pen_status::event::EventTime;
use serde::Deserialize;
use serde_json::Value;

pub use self::check::Check;
pub use self::event::Event;
pub use self::server::{Health, Outage, Server, Slot, State};
use crate::text::{duration, shown};

/// The command that returns it.
pub const OVERVIEW: &[u8] = b"overview";

/// The seconds before its end from which a certificate is marked.
pub const SOON: i64 = 14 * 86_400;

/// The state of pen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    pub version: Option<String>,
    /// Local time where pen runs: `2026-11-24 04:10:21`.
    pub time: String,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// Seconds since the start.
    pub uptime: Option<u64>,
    pub listen: Option<String>,
    /// Which method chooses the server of a new client, as `mode` has it.
    pub method: Option<String>,
    pub workers: Option<u64>,
    pub worker_list: Vec<Worker>,
    pub old_workers: Vec<OldWorker>,
    /// Open connections, and their limit.
    pub connections: Option<u64>,
    pub connections_max: Option<u64>,
    /// Clients that wait: no server can be used for them (`hold`), or an operator paused.
    pub held: u64,
    /// Connections beyond a limit per client that are kept open and silent.
    pub tarpitted: u64,
    /// Whether new clients wait for the end of a pause.
    pub paused: bool,
    /// Whether all servers are down, and checks are disregarded (`fail_open`).
    pub disregards_checks: bool,
    /// Names of servers that had no answer when they were last looked up.
    pub names_failing: u64,
    /// Clients in the table, and their limit.
    pub clients: Option<u64>,
    pub clients_max: Option<u64>,
    /// Clients accepted since the start.
    pub accepted: Option<u64>,
    /// Clients closed since the start because no server was usable.
    pub unserved: u64,
    /// The servers by number, then the emergency and the abuse server.
    pub servers: Vec<Server>,
    pub history: History,
    /// The last reload and the last upgrade, if it failed: what the log said of it.
    pub failed_reload: Option<String>,
    pub failed_upgrade: Option<String>,
    pub certificates: Vec<Certificate>,
    /// The last events, oldest first.
    pub events: Vec<Event>,
}

/// A worker.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    pub number: u64,
    pub connections: u64,
    /// Processor time in milliseconds.
    pub busy: u64,
    pub is_running: bool,
    pub restarts: u64,
}

/// A worker of an earlier program.
#[derive(Clone, Debug)]
pub struct OldWorker {
    pub version: String,
    pub connections: u64,
}

/// A certificate that expires.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub name: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// Equal periods of time, oldest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct History {
    /// The length of a period in seconds.
    pub period: u64,
    /// New connections in each period.
    pub connections: Vec<u64>,
}

impl Overview {
    /// Reads a reply. `None`: it is no overview.
    pub fn read(reply: &[u8]) -> Option<Overview> {
        let value: Value = serde_json::from_slice(reply).ok()?;
        let mut servers: Vec<Server> =
            value.get("servers")?.as_array()?.iter().map(Server::numbered).collect();
        for (name, slot) in [("emergency", Slot::Emergency), ("abuse", Slot::Abuse)] {
            let server = &value[name];
            servers.extend(server.is_object().then(|| Server::read(slot, server)));
        }
        let failed = |name: &str| {
            let failed = value[name]["result"].as_str() == Some("failure");
            failed.then(|| text(&value[name]["text"]).unwrap_or_default())
        };
        Some(Overview {
            version: text(&value["version"]),
            time: text(&value["time"]).unwrap_or_default(),
            unix_time: figure(&value["unix_time"]),
            uptime: value["uptime"].as_u64(),
            listen: text(&value["listen"]),
            method: text(&value["method"]).filter(|method| !method.is_empty()),
            workers: value["workers"].as_u64(),
            worker_list: list(&value["worker_list"]).map(Worker::read).collect(),
            old_workers: list(&value["old_workers"]).map(OldWorker::read).collect(),
            connections: value["connections"].as_u64(),
            connections_max: value["connections_max"].as_u64(),
            held: figure(&value["held"]),
            tarpitted: figure(&value["tarpitted"]),
            paused: value["paused"].as_bool().unwrap_or(false),
            disregards_checks: value["disregards_checks"].as_bool().unwrap_or(false),
            names_failing: figure(&value["names_failing"]),
            clients: value["clients"].as_u64(),
            clients_max: value["clients_max"].as_u64(),
            accepted: value["counts"]["accepted"].as_u64(),
            unserved: figure(&value["counts"]["unserved"]),
            servers,
            history: History::read(&value["history"]),
            failed_reload: failed("reload"),
            failed_upgrade: failed("upgrade"),
            certificates: list(&value["certificates"]).filter_map(Certificate::read).collect(),
            events: list(&value["events"]).filter_map(Event::read).collect(),
        })
    }

    /// How many servers are up, as text. A server is up if it is neither failed nor taken out;
    /// those without room are also counted beside it.
    pub fn servers_up(&self) -> String {
        let numbered = || {
            let numbered = self.servers.iter().filter(|server| server.slot.number().is_some());
            numbered.filter(|server| server.state != State::Vacant)
        };
        let count = |state: State| numbered().filter(|server| server.state == state).count();
        let up = numbered().filter(|server| server.state.is_up()).count();
        let mut text = format!("{up} of {} servers up", numbered().count());
        for (state, what) in [(State::Full, "full"), (State::Pending, "passed over")] {
            match count(state) {
                0 => {}
                some => text.push_str(&format!(", {some} {what}")),
            }
        }
        text
    }

    /// What all new clients notice, or may notice soon, a sentence for each.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let is_full = self.connections_max.is_some() && self.connections >= self.connections_max;
        let notes = [
            (self.paused, "Paused: new clients wait until the command resume."),
            (
                self.disregards_checks,
                "All servers are down: checks are disregarded (fail_open), and clients are served \
                 as far as servers accept them.",
            ),
            (is_full, "All connections are in use: further clients wait for one to end (-x)."),
        ];
        let notes = notes.into_iter().filter(|(is_so, _)| *is_so).map(|(_, note)| note.to_owned());
        notes.chain(self.unresolved())
    }

    /// Which names of servers have no answer.
    fn unresolved(&self) -> Option<String> {
        let outages = self.servers.iter().filter_map(|server| server.outage.as_ref());
        let names: BTreeMap<&str, &Outage> =
            outages.map(|outage| (outage.name.as_str(), outage)).collect();
        let count = self.names_failing.max(names.len() as u64);
        // Without a server, nothing is known of a name but that it fails.
        let Some((name, Outage { since, reason, .. })) = names.first_key_value() else {
            return match count {
                0 => None,
                1 => Some("Cannot resolve a name of servers.".to_owned()),
                more => Some(format!("Cannot resolve {more} names of servers.")),
            };
        };
        let time = duration(self.unix_time.saturating_sub(*since));
        Some(match count {
            1 => format!(
                "Cannot resolve {name} for {time}: {reason}; its servers stay where they are."
            ),
            more => format!(
                "Cannot resolve {more} names, {name} for {time}: {reason}; their servers stay \
                 where they are."
            ),
        })
    }

    /// The certificates that have expired or do so soon, a text for each.
    pub fn expiring(&self) -> impl Iterator<Item = String> {
        let now = i64::try_from(self.unix_time).unwrap_or(i64::MAX);
        let soon = move |certificate: &&Certificate| {
            now > 0 && certificate.not_after.saturating_sub(now) <= SOON
        };
        self.certificates.iter().filter(soon).map(move |certificate| {
            let left = certificate.not_after.saturating_sub(now);
            let when = duration(left.unsigned_abs());
            match left {
                ..=0 => format!("{} expired {when} ago", certificate.name),
                _ => format!("{} expires in {when}", certificate.name),
            }
        })
    }

    /// The seconds that local time where pen runs is ahead of UTC.
    pub fn offset(&self) -> i64 {
        let local = format!("{}.000Z", self.time.replacen(' ', "T", 1));
        let local = moment(&Value::String(local));
        local.map_or(0, |local| local.seconds().saturating_sub_unsigned(self.unix_time))
    }
}

impl Worker {
    fn read(worker: &Value) -> Worker {
        Worker {
            number: figure(&worker["number"]),
            connections: figure(&worker["connections"]),
            busy: figure(&worker["busy_ms"]),
            is_running: worker["pid"].is_number(),
            restarts: figure(&worker["restarts"]),
        }
    }
}

impl OldWorker {
    fn read(worker: &Value) -> OldWorker {
        OldWorker {
            version: text(&worker["version"]).unwrap_or_default(),
            connections: figure(&worker["connections"]),
        }
    }
}

impl Certificate {
    fn read(certificate: &Value) -> Option<Certificate> {
        let name = text(&certificate["name"]).unwrap_or_default();
        Some(Certificate { name, not_after: certificate["not_after_unix"].as_i64()? })
    }
}

impl History {
    fn read(history: &Value) -> History {
        History {
            period: figure(&history["period"]),
            connections: list(&history["connections"]).map(figure).collect(),
        }
    }
}

/// A moment as in RFC 3339.
fn moment(value: &Value) -> Option<EventTime> {
    EventTime::deserialize(value).ok()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(shown)
}

fn figure(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}
