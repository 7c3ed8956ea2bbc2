//! What pen reports: the reply to `overview`, which is JSON, as values.
//!
//! A pen of another release may know less or more than this program. What it does not report is
//! absent here, and a state that only it knows keeps its name. Every text is safe for a terminal.

use std::fmt;

use pen_status::event::EventTime;
use pen_status::histogram::{CONNECT, Histogram};
use serde::Deserialize;
use serde_json::Value;

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
    pub workers: Option<u64>,
    pub worker_list: Vec<Worker>,
    pub old_workers: Vec<OldWorker>,
    /// Open connections, and their limit.
    pub connections: Option<u64>,
    pub connections_max: Option<u64>,
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

/// The place of a server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Slot {
    /// A server that is selected for clients.
    Number(u64),
    /// The server of last resort (-e).
    Emergency,
    /// The server for refused clients (-B).
    Abuse,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    pub slot: Slot,
    /// Name and port, as the operator gave them.
    pub name: String,
    /// Address and port in use.
    pub address: String,
    pub state: State,
    /// The seconds that it is left out.
    pub seconds: u64,
    pub failure: Option<Failure>,
    pub connections: u64,
    /// The limits; 0 is none.
    pub max: u64,
    pub hard: u64,
    pub weight: Option<u64>,
    /// Bytes to the server, and from it.
    pub sent: u64,
    pub received: u64,
    /// Connections that reached it.
    pub total: Option<u64>,
    /// Failed connects, by reason.
    pub failures: Vec<(String, u64)>,
    pub failovers: u64,
    /// The times of its connects; none if pen does not report them.
    pub connect: Option<Histogram>,
    pub history: History,
}

/// The last failed connect.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seconds since 1970.
    pub at: u64,
    pub reason: String,
}

/// Whether a server gets clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    Up,
    /// It has as many connections as its limit allows.
    Full,
    /// As many connects to it are pending as allowed.
    Pending,
    /// An operator took it out.
    Out,
    Failed,
    /// The number has no server.
    Vacant,
    /// A state that this program does not know, by its name.
    Unknown(String),
}

/// The meaning of a state for the administrator of the servers.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    Failed,
    Out,
    Full,
    Good,
    Vacant,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub id: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    pub kind: String,
    pub text: String,
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
            workers: value["workers"].as_u64(),
            worker_list: list(&value["worker_list"]).map(Worker::read).collect(),
            old_workers: list(&value["old_workers"]).map(OldWorker::read).collect(),
            connections: value["connections"].as_u64(),
            connections_max: value["connections_max"].as_u64(),
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

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Number(number) => number.fmt(f),
            Slot::Emergency => f.write_str("emergency"),
            Slot::Abuse => f.write_str("abuse"),
        }
    }
}

impl Slot {
    /// The number, in commands.
    pub fn number(self) -> Option<u64> {
        match self {
            Slot::Number(number) => Some(number),
            Slot::Emergency | Slot::Abuse => None,
        }
    }
}

impl Server {
    fn numbered(server: &Value) -> Server {
        Server::read(Slot::Number(figure(&server["number"])), server)
    }

    fn read(slot: Slot, server: &Value) -> Server {
        let address = address(server);
        let given = text(&server["name"]).map(|name| match server["port"].as_u64() {
            None | Some(0) => name,
            Some(port) => format!("{name}:{port}"),
        });
        let seconds = figure(&server["blacklisted"]);
        let failure = &server["last_failure"];
        let failure = failure["unix_time"].as_u64().zip(text(&failure["reason"]));
        let reasons = list(&server["connect_failures"]);
        Server {
            slot,
            name: given.unwrap_or_else(|| address.clone()),
            address,
            state: State::read(server["state"].as_str(), seconds),
            seconds,
            failure: failure.map(|(at, reason)| Failure { at, reason }),
            connections: figure(&server["connections"]),
            max: figure(&server["max"]),
            hard: figure(&server["hard"]),
            weight: server["weight"].as_u64(),
            sent: figure(&server["sent"]),
            received: figure(&server["received"]),
            total: server["connections_total"].as_u64(),
            failures: reasons
                .filter_map(|reason| Some((text(&reason["reason"])?, figure(&reason["count"]))))
                .collect(),
            failovers: figure(&server["failovers"]),
            connect: Histogram::deserialize(&server["connect"]).ok(),
            history: History::read(&server["history"]),
        }
    }

    /// All failed connects.
    pub fn failed(&self) -> u64 {
        self.failures.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The time in microseconds that this share of its connects took at most.
    pub fn connect_time(&self, share: f64) -> Option<u64> {
        self.connect.as_ref()?.quantile(&CONNECT, share)
    }

    /// The limit that counts for new clients; none is no limit.
    pub fn limit(&self) -> Option<u64> {
        (self.max > 0).then_some(self.max)
    }

    /// Connections and limits, as `10 of 100/120`.
    pub fn usage(&self) -> String {
        match (self.max, self.hard) {
            (0, _) => self.connections.to_string(),
            (soft, hard) if hard <= soft => format!("{} of {soft}", self.connections),
            (soft, hard) => format!("{} of {soft}/{hard}", self.connections),
        }
    }

    /// The state in words, and then its reason.
    pub fn state(&self) -> (String, String) {
        let reason = || match &self.failure {
            Some(failure) => format!(": {}", failure.reason),
            None => ": unknown".to_owned(),
        };
        let alone = |word: &str| (word.to_owned(), String::new());
        match &self.state {
            State::Up => alone("up"),
            State::Full => alone("full"),
            State::Pending => ("passed over".to_owned(), ": pending_max".to_owned()),
            State::Out => (format!("out {}", duration(self.seconds)), " by operator".to_owned()),
            State::Failed if self.seconds == 0 => ("failed, to be tried".to_owned(), reason()),
            State::Failed => (format!("failed {}", duration(self.seconds)), reason()),
            State::Vacant => alone("-"),
            State::Unknown(name) => alone(name),
        }
    }
}

impl State {
    fn read(name: Option<&str>, seconds: u64) -> State {
        match name {
            Some("up") => State::Up,
            Some("full") => State::Full,
            Some("pending") => State::Pending,
            Some("out") => State::Out,
            Some("failed") => State::Failed,
            Some("vacant") => State::Vacant,
            Some(other) => State::Unknown(shown(other)),
            None if seconds > 0 => State::Out,
            None => State::Up,
        }
    }

    /// Whether the server has neither failed nor been taken out.
    pub fn is_up(&self) -> bool {
        match self {
            State::Up | State::Full | State::Pending => true,
            State::Out | State::Failed | State::Vacant | State::Unknown(_) => false,
        }
    }

    pub fn health(&self) -> Health {
        match self {
            State::Up => Health::Good,
            State::Full | State::Pending => Health::Full,
            State::Out => Health::Out,
            State::Failed => Health::Failed,
            State::Vacant | State::Unknown(_) => Health::Vacant,
        }
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

impl Event {
    /// Reads one record. `None`: it is none.
    pub fn read(event: &Value) -> Option<Event> {
        Some(Event {
            id: event["id"].as_u64()?,
            time: moment(&event["time"])?.0,
            kind: text(&event["kind"]).unwrap_or_default(),
            text: text(&event["text"])?,
        })
    }

    /// Reads the reply to `events json`. `None`: it is none.
    pub fn read_all(reply: &[u8]) -> Option<Vec<Event>> {
        let value: Value = serde_json::from_slice(reply).ok()?;
        Some(value.as_array()?.iter().filter_map(Event::read).collect())
    }
}

/// Address and port, as an operator writes them.
fn address(server: &Value) -> String {
    match (text(&server["address"]), figure(&server["port"])) {
        (None, _) => "-".to_owned(),
        (Some(path), _) if path.starts_with('/') => path,
        (Some(ip), port) if ip.contains(':') => format!("[{}]:{port}", ip.trim_matches(['[', ']'])),
        (Some(ip), port) => format!("{ip}:{port}"),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_reported_is_absent() {
        let old = json!({ "servers": [
            { "number": 0, "address": "::1", "port": 80, "connections": 3, "blacklisted": 7 },
        ] });
        let old = Overview::read(old.to_string().as_bytes()).unwrap();
        let server = &old.servers[0];
        assert_eq!((server.name.as_str(), &server.state), ("[::1]:80", &State::Out));
        assert_eq!((server.total, server.connect_time(0.5), old.offset()), (None, None, 0));
        for text in ["", "[]", "{}", "do_cmd: ignoring", "{\"servers\":3}", "null"] {
            assert!(Overview::read(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn no_text_can_move_the_cursor() {
        let sly = "a\u{1b}[2J\n";
        let sly = json!({
            "version": sly, "listen": sly, "time": sly,
            "reload": { "result": "failure", "text": sly },
            "certificates": [{ "name": sly, "not_after_unix": 1 }],
            "old_workers": [{ "version": sly }],
            "servers": [{
                "name": sly, "address": sly, "state": sly,
                "last_failure": { "unix_time": 1, "reason": sly },
                "connect_failures": [{ "reason": sly, "count": 1 }],
            }],
            "events": [{ "id": 1, "time": "2026-11-24T04:10:21.042Z", "kind": sly, "text": sly }],
        });
        let read = Overview::read(sly.to_string().as_bytes()).unwrap();
        assert_eq!((read.events.len(), read.certificates.len()), (1, 1));
        let shown = format!("{read:?}");
        assert!(!shown.contains("\\u{1b}") && !shown.contains("\\n"), "{shown}");
    }

    #[test]
    fn a_status_of_this_release_is_read_whole() {
        let mut connect = Histogram::default();
        connect.record(&CONNECT, 150);
        let status = pen_status::Status {
            time: "2026-11-24 04:10:21".into(),
            unix_time: 1_795_493_421 - 3600,
            counts: pen_status::Counts { accepted: 9, ..Default::default() },
            history: pen_status::History { period: 5, connections: vec![1, 2], bytes: vec![] },
            ..Default::default()
        };
        let mut value = serde_json::to_value(&status).unwrap();
        value["servers"] = json!([{ "number": 3, "connect": connect, "connections_total": 4 }]);
        let read = Overview::read(value.to_string().as_bytes()).unwrap();
        assert_eq!(
            (read.accepted, read.offset(), &read.history.connections[..]),
            (Some(9), 3600, &[1, 2][..])
        );
        assert_eq!((read.servers[0].total, read.servers[0].slot), (Some(4), Slot::Number(3)));
        assert!(read.servers[0].connect_time(0.5).is_some_and(|time| (100..=200).contains(&time)));
    }
}
