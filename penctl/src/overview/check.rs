//! What the check of a server says, as pen reports it.

use pen_status::CheckState;
use serde::Deserialize;
use serde_json::Value;

use super::{figure, text};

/// What the check of a server says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What it asks: `http`, `tcp`.
    pub kind: String,
    /// The verdict. One that this program does not know is unknown.
    pub verdict: CheckState,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The time of the last successful check in microseconds.
    pub micros: Option<u64>,
    /// Why the server is down.
    pub reason: Option<String>,
    /// When the last check ended, in seconds since 1970.
    pub last: Option<u64>,
    /// How often the server went down or came back.
    pub transitions: u64,
}

impl Check {
    pub(super) fn read(check: &Value) -> Option<Check> {
        check.is_object().then(|| Check {
            kind: text(&check["kind"]).unwrap_or_default(),
            verdict: CheckState::deserialize(&check["state"]).unwrap_or_default(),
            since: figure(&check["since"]),
            micros: check["duration_us"].as_u64(),
            reason: text(&check["reason"]),
            last: check["last"].as_u64(),
            transitions: figure(&check["transitions"]),
        })
    }

    /// The verdict in words, as in the reply to `servers`: `up 12 ms`, `down REASON`, `unknown`.
    pub fn words(&self) -> String {
        match (self.verdict, self.micros, &self.reason) {
            (CheckState::Unknown, _, _) => "unknown".to_owned(),
            (CheckState::Up, Some(micros), _) => {
                format!("up {} ms", (micros.saturating_add(500) / 1000).max(1))
            }
            (CheckState::Up, None, _) => "up".to_owned(),
            (CheckState::Down, _, Some(reason)) => format!("down {reason}"),
            (CheckState::Down, _, None) => "down".to_owned(),
        }
    }

    /// The place in an order by checks: servers that are down come first, then those that nobody
    /// knows, then those that answer slowly.
    pub fn urgency(&self) -> (u8, std::cmp::Reverse<u64>) {
        let micros = std::cmp::Reverse(self.micros.unwrap_or(0));
        match self.verdict {
            CheckState::Down => (0, micros),
            CheckState::Unknown => (1, micros),
            CheckState::Up => (2, micros),
        }
    }
}
