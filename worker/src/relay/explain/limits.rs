//! What the limits per client make of a client's next connection.

use pen_config::checks::Admission;
use pen_config::ids::ClientKey;
use pen_ipc::text::plural;
use pen_table::Exceeded;

use crate::relay::Relay;
use crate::relay::explain::reason_of;
use crate::relay::explain::view::Looked;
use crate::relay::explain::words::{secured, why_not};
use crate::relay::limits::{tarpit_room, uses_abuse_server};
use crate::relay::select::{Candidate, Placement};

/// What the limits make of a client's next connection.
pub(super) enum Limited {
    /// Nothing: there is no limit.
    Free,
    /// It goes on; the line says why.
    Goes(String),
    /// It does not; the last line says what becomes of it.
    Stops(Vec<String>),
}

impl Relay<'_> {
    /// What the limits make of a client's next connection.
    pub(super) fn explain_limits(&self, key: ClientKey) -> Limited {
        let limits = self.settings.per_client;
        if !limits.is_on() {
            return Limited::Free;
        }
        if key == ClientKey::UNIX {
            return Limited::Goes("no limits per client: it has no address".into());
        }
        if limits.is_unlimited(&self.settings.acls, key) {
            let list = limits.unlimited.unwrap_or_default();
            let line = format!("no limits per client: permitted by acl {list} (unlimited_acl)");
            return Limited::Goes(line);
        }
        let seconds = limits.rate.map_or(1, |rate| rate.seconds);
        let used = self.worker_table.net_use(limits.net.key(key), seconds, self.now);
        let net = limits.net.shown(key);
        let mut line = match net == key.to_string() {
            true => "limits per client:".to_owned(),
            false => format!("limits per client, as one of {net}:"),
        };
        let mut beyond = None;
        if let Some(rate) = limits.rate {
            line += &format!(
                " {} of {} within {seconds} s (per_client_rate)",
                used.attempts,
                plural(rate.connections, "connection")
            );
            beyond = (used.attempts >= rate.connections).then_some(Exceeded::Rate);
        }
        if limits.max > 0 {
            let comma = if limits.rate.is_some() { "," } else { "" };
            line += &format!("{comma} {} of {} open (per_client_max)", used.open, limits.max);
            let is_full = used.open >= limits.max;
            beyond = beyond.or(is_full.then_some(Exceeded::Connections));
        }
        let Some(exceeded) = beyond else { return Limited::Goes(line) };
        let mut lines = vec![line];
        let fate = self.fate(key, &mut lines);
        let limit = match exceeded {
            Exceeded::Connections => "per_client_max",
            Exceeded::Rate => "per_client_rate",
        };
        lines.push(format!("beyond {limit}: the connection {fate}"));
        Limited::Stops(lines)
    }

    /// What becomes of a connection beyond a limit, in the order of `relay::limits`. Why the abuse
    /// server cannot be used is added to the lines.
    fn fate(&self, key: ClientKey, lines: &mut Vec<String>) -> String {
        if let Some(secured) = self.abuse_server_takes(key, lines) {
            return format!("would go to the abuse server (abuse_over){secured}");
        }
        let seconds = self.settings.per_client.tarpit;
        match seconds > 0 && self.worker_table.tarpitted() < tarpit_room(&self.settings) {
            true => format!("would be kept open and silent for {seconds} s (tarpit)"),
            false => "would be reset".into(),
        }
    }

    /// Whether the abuse server takes a connection beyond a limit, and what the explanation says of
    /// TLS to it.
    fn abuse_server_takes(&self, key: ClientKey, lines: &mut Vec<String>) -> Option<String> {
        let settings = &self.settings;
        if !uses_abuse_server(settings) {
            return None;
        }
        if settings.admission == Admission::Paused {
            lines.push("the abuse server gets no client until resume (pause)".into());
            return None;
        }
        let servers = self.farm();
        let farm = Looked::new(&servers, settings);
        let client = Candidate { key, port: 0, recorded: None, permitted: false };
        let mut placement = Placement::new(settings, &farm, client, &mut |_, _| ());
        while let Some(trial) = placement.next(settings, &farm) {
            match placement.judge(settings, &farm, key, trial) {
                Ok(_) => return Some(secured(settings, trial.target)),
                Err(refusal) => {
                    let reason = &|row| reason_of(&self.worker_table, row);
                    lines.push(why_not(settings, trial.target, refusal, self.now, reason));
                }
            }
        }
        None
    }
}
