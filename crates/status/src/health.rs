//! Whether new clients are served.

use std::fmt;

use crate::status::{ServerState, ServerStatus, Status};

/// How new clients are served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Service {
    /// At once.
    AtOnce,
    /// When an operator ends the pause. They wait until then, and none is closed.
    AfterPause,
    /// By servers that are down by their checks: checks are disregarded.
    Disregarding,
    /// When another one ends: all connections are in use. They wait in the backlog until then.
    AfterOthers {
        /// Connections in use.
        used: u32,
        /// As many as may be.
        most: u32,
    },
}

impl fmt::Display for Service {
    /// The answer at `/health`: it begins with `ok`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::AtOnce => f.write_str("ok"),
            Service::AfterPause => {
                f.write_str("ok, but paused: clients wait until the command resume")
            }
            Service::Disregarding => {
                f.write_str("ok, but all servers are down: checks are disregarded (fail_open)")
            }
            Service::AfterOthers { used, most } => {
                write!(f, "ok, but {used} of {most} connections are in use: clients wait")
            }
        }
    }
}

impl Status {
    /// Whether a worker takes new clients and a server is usable for them. A server whose time on
    /// the blacklist is over counts: the next client tries it, and without clients nobody would.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn health(&self) -> Result<Service, &'static str> {
        if !self.has_worker() {
            return Err("no worker is running");
        }
        if self.paused {
            return Ok(Service::AfterPause);
        }
        let mut known = self.servers.iter().filter(|server| server.state != ServerState::Vacant);
        let is_disregarding = self.disregards_checks && !self.dummy;
        if !self.dummy
            && !is_disregarding
            && !known.clone().chain(&self.emergency).any(ServerStatus::is_usable)
        {
            return Err(match known.next() {
                None => "there is no server",
                Some(_) => "no server is usable",
            });
        }
        let (used, most) = (self.connections, self.connections_max);
        Ok(match used < most {
            true if is_disregarding => Service::Disregarding,
            true => Service::AtOnce,
            false => Service::AfterOthers { used, most },
        })
    }

    /// Whether somebody accepts clients.
    pub(crate) fn has_worker(&self) -> bool {
        self.worker_list.iter().any(|worker| worker.pid.is_some())
    }
}

impl ServerStatus {
    /// Whether new clients are sent to it, or the next one tries it.
    pub(crate) fn is_usable(&self) -> bool {
        match self.state {
            ServerState::Up | ServerState::Pending => true,
            ServerState::Failed => self.blacklisted == 0,
            ServerState::Vacant
            | ServerState::Full
            | ServerState::Out
            | ServerState::Down
            | ServerState::Drain
            | ServerState::Maint => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::status::WorkerStatus;

    fn server(state: ServerState, blacklisted: u64) -> ServerStatus {
        let none = json!(crate::histogram::Histogram::default());
        serde_json::from_value(json!({
            "number": 0, "address": "10.0.0.1", "last_failure": null, "failed_at": 0, "port": 80,
            "connections": 0, "max": 0, "hard": 0, "sent": 0, "received": 0, "weight": 1,
            "prio": 1, "acl": 0, "blacklisted": blacklisted, "state": state, "mode": "ready", "name": null,
            "state_text": "", "connections_total": 0, "connect_failures": [], "failovers": 0,
            "connect": none, "length": none,
            "history": { "period": 5, "connections": [], "bytes": [] },
        }))
        .unwrap()
    }

    fn status(servers: &[(ServerState, u64)]) -> Status {
        let worker = WorkerStatus {
            number: 0,
            pid: Some(7),
            connections: 0,
            busy_ms: 0,
            memory: None,
            restarts: 0,
        };
        Status {
            worker_list: vec![worker],
            connections_max: 256,
            servers: servers.iter().map(|(state, seconds)| server(*state, *seconds)).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn a_usable_server_is_enough() {
        for (servers, well) in [
            (&[(ServerState::Up, 0)][..], true),
            (&[(ServerState::Failed, 9), (ServerState::Pending, 0)], true),
            (&[(ServerState::Failed, 0)], true),
            (&[(ServerState::Failed, 9), (ServerState::Full, 0), (ServerState::Out, 9)], false),
            (&[(ServerState::Drain, 0), (ServerState::Maint, 0), (ServerState::Down, 0)], false),
            (&[(ServerState::Drain, 0), (ServerState::Up, 0)], true),
        ] {
            assert_eq!(status(servers).health().is_ok(), well, "{servers:?}");
        }
        let why = |status: Status| status.health().unwrap_err();
        assert_eq!(why(status(&[(ServerState::Failed, 9)])), "no server is usable");
        assert_eq!(why(status(&[(ServerState::Vacant, 0)])), "there is no server");
        let emergency = Some(server(ServerState::Up, 0));
        assert_eq!(
            Status { emergency, ..status(&[(ServerState::Failed, 9)]) }.health(),
            Ok(Service::AtOnce)
        );
        assert_eq!(Status { dummy: true, ..status(&[]) }.health(), Ok(Service::AtOnce));
        let paused = Status { paused: true, ..status(&[(ServerState::Failed, 9)]) };
        assert_eq!(
            paused.health().unwrap().to_string(),
            "ok, but paused: clients wait until the command resume"
        );
        let down = status(&[(ServerState::Down, 0), (ServerState::Maint, 0)]);
        assert_eq!(down.health().unwrap_err(), "no server is usable");
        let open = Status { disregards_checks: true, ..down };
        assert_eq!(
            open.health().unwrap().to_string(),
            "ok, but all servers are down: checks are disregarded (fail_open)"
        );
    }

    #[test]
    fn without_a_worker_nobody_is_served_and_with_all_connections_in_use_later() {
        let well = status(&[(ServerState::Up, 0)]);
        let mut dead = well.clone();
        (dead.worker_list[0].pid, dead.paused) = (None, true);
        assert_eq!(dead.health().unwrap_err(), "no worker is running");
        let full = Status { connections: 256, ..well };
        assert_eq!(
            full.health().unwrap().to_string(),
            "ok, but 256 of 256 connections are in use: clients wait"
        );
        let down = Status { connections: 256, ..status(&[(ServerState::Failed, 9)]) };
        assert_eq!(down.health(), Err("no server is usable"));
    }
}
