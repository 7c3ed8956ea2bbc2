//! A server as pen reports it: its place, its state in words, its figures.

use std::fmt;

use pen_status::histogram::{CONNECT, Histogram};
use pen_status::{Mode as ServerMode, ServerTlsStatus, Verify};
use serde::Deserialize;
use serde_json::Value;

use super::check::Check;
use super::{History, figure, list, text};
use crate::text::{duration, shown};

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
    /// Which clients the operator lets it have; none if pen does not report it.
    pub mode: Option<ServerMode>,
    /// What its check says; none without a check.
    pub check: Option<Check>,
    /// Why its name has no answer; none if it has one, or no name is looked up.
    pub outage: Option<Outage>,
    /// The TLS of its connections; none in clear text, or if pen does not report it.
    pub tls: Option<ServerTlsStatus>,
    /// The part of its share in percent that it has in slow start; none if it has the whole.
    pub slow_start: Option<u64>,
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

/// The time in which the name of a server has no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outage {
    /// The name that is looked up.
    pub name: String,
    /// Seconds since 1970.
    pub since: u64,
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
    /// Its check fails.
    Down,
    /// It gets no new clients, by an operator's command.
    Drain,
    /// It gets none, by an operator's command.
    Maint,
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

impl Outage {
    fn read(server: &Value) -> Option<Outage> {
        let lookup = &server["lookup"];
        let name = text(&server["follows"]["name"]).or_else(|| text(&server["name"]));
        Some(Outage {
            name: name.unwrap_or_else(|| Slot::Number(figure(&server["number"])).to_string()),
            since: lookup["failing_since"].as_u64()?,
            reason: text(&lookup["reason"]).unwrap_or_default(),
        })
    }
}

impl Server {
    pub(super) fn numbered(server: &Value) -> Server {
        Server::read(Slot::Number(figure(&server["number"])), server)
    }

    pub(super) fn read(slot: Slot, server: &Value) -> Server {
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
            mode: ServerMode::deserialize(&server["mode"]).ok(),
            check: Check::read(&server["check"]),
            outage: Outage::read(server),
            tls: tls(&server["tls"]),
            slow_start: server["slow_start"].as_u64(),
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

    /// What its check says, as in the reply to `servers`: `up 12 ms`, `down REASON`, `unknown`.
    pub fn check_words(&self) -> Option<String> {
        self.check.as_ref().map(Check::words)
    }

    /// Whether its connections use TLS, in one short word: `yes`, or `any` if any certificate is
    /// good; none in clear text.
    pub fn tls_words(&self) -> Option<&'static str> {
        self.tls.as_ref().map(|tls| match tls.verify {
            Verify::On => "yes",
            Verify::Off => "any",
        })
    }

    /// The state in words, and then its reason.
    pub fn state(&self) -> (String, String) {
        let reason = || match &self.failure {
            Some(failure) => format!(": {}", failure.reason),
            None => ": unknown".to_owned(),
        };
        let alone = |word: &str| (word.to_owned(), String::new());
        match &self.state {
            State::Up => match self.slow_start {
                Some(percent) => (format!("slow start {percent} %"), String::new()),
                None => alone("up"),
            },
            State::Full => alone("full"),
            State::Pending => ("passed over".to_owned(), ": pending_max".to_owned()),
            State::Out => (format!("out {}", duration(self.seconds)), " by operator".to_owned()),
            State::Failed if self.seconds == 0 => ("failed, to be tried".to_owned(), reason()),
            State::Failed => (format!("failed {}", duration(self.seconds)), reason()),
            // The words of the check have the reason.
            State::Down => ("down".to_owned(), " by check".to_owned()),
            State::Drain => ("draining".to_owned(), ": no new clients".to_owned()),
            State::Maint => ("maintenance".to_owned(), ": no clients".to_owned()),
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
            Some("down") => State::Down,
            Some("drain") => State::Drain,
            Some("maint") => State::Maint,
            Some("vacant") => State::Vacant,
            Some(other) => State::Unknown(shown(other)),
            None if seconds > 0 => State::Out,
            None => State::Up,
        }
    }

    /// Whether the server has neither failed nor been taken out.
    pub fn is_up(&self) -> bool {
        match self {
            State::Up | State::Full | State::Pending | State::Drain => true,
            State::Out
            | State::Failed
            | State::Down
            | State::Maint
            | State::Vacant
            | State::Unknown(_) => false,
        }
    }

    pub fn health(&self) -> Health {
        match self {
            State::Up => Health::Good,
            State::Full | State::Pending | State::Drain => Health::Full,
            State::Out | State::Maint => Health::Out,
            State::Failed | State::Down => Health::Failed,
            State::Vacant | State::Unknown(_) => Health::Vacant,
        }
    }
}

fn tls(tls: &Value) -> Option<ServerTlsStatus> {
    let tls = ServerTlsStatus::deserialize(tls).ok()?;
    Some(ServerTlsStatus { name: tls.name.map(|name| shown(&name)), ..tls })
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
