//! Servers and durations in words, for people.

use crate::status::{
    CheckState, CheckStatus, FollowedRecord, Mode, RecordState, ServerState, ServerStatus,
    ServerTlsStatus, Verify,
};

/// A time for people: `12 s`, `3 min`, `5 h`, `4 days`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

impl ServerStatus {
    /// The state for people; `unix` is the present time in seconds since 1970.
    pub fn in_words(&self, unix: i64) -> String {
        let since = u64::try_from(unix).unwrap_or(0).saturating_sub(self.failed_at);
        let more = duration(self.blacklisted);
        let reason = self.last_failure.as_ref().map_or("unknown", |failure| &failure.reason);
        match self.state {
            ServerState::Vacant => "no address".into(),
            ServerState::Up => match self.slow_start {
                Some(percent) => format!("up, has {percent} % of its share now (slow_start)"),
                None => "up".into(),
            },
            ServerState::Full => "full".into(),
            ServerState::Pending => {
                "passed over, too many connects to it are pending (pending_max)".into()
            }
            ServerState::Out => {
                format!("taken out by an operator {} ago, for {more} more", duration(since))
            }
            ServerState::Failed if self.blacklisted == 0 => {
                format!("failed, the next client tries it: {reason}")
            }
            ServerState::Failed => {
                format!("failed {} ago, left out for {more} more: {reason}", duration(since))
            }
            ServerState::Down => match &self.check {
                Some(CheckStatus { reason: Some(reason), .. }) => {
                    format!("down by check: {reason}")
                }
                Some(_) | None => "down by check".into(),
            },
            ServerState::Drain => match (&self.follows, self.mode) {
                (Some(FollowedRecord { name, record: RecordState::Gone }), Mode::Ready) => {
                    format!("no longer an address of {name}, gets no new clients")
                }
                (_, Mode::Ready | Mode::Drain | Mode::Maint) => {
                    "draining, gets no new clients".into()
                }
            },
            ServerState::Maint => "in maintenance, gets no clients".into(),
        }
    }

    /// The words about its check: ` check up 12 ms`, with a space in front; empty without a check.
    pub fn check_words(&self) -> String {
        let Some(CheckStatus { state, duration_us, reason, .. }) = &self.check else {
            return String::new();
        };
        match (state, duration_us, reason) {
            (CheckState::Unknown, _, _) => " check unknown".into(),
            (CheckState::Up, Some(micros), _) => {
                format!(" check up {} ms", micros.saturating_add(500).div_euclid(1000).max(1))
            }
            (CheckState::Up, None, _) => " check up".into(),
            (CheckState::Down, _, Some(reason)) => format!(" check down {reason}"),
            (CheckState::Down, _, None) => " check down".into(),
        }
    }

    /// The name and the address for people: only one of them if both are equal, and no port if
    /// there is none.
    pub fn name_and_address(&self) -> String {
        let address = self.address.as_deref().unwrap_or("-");
        let name = self.name.as_deref().filter(|name| name.trim_matches(['[', ']']) != address);
        let name = name.map_or(String::new(), |name| format!("{name} at "));
        match self.port == 0 || address.starts_with('/') {
            true => format!("{name}{address}"),
            false => format!("{name}{address} port {}", self.port),
        }
    }

    /// The server as an operator writes it: `www1:80`, `[::1]:80`, `/run/app.sock`; empty without
    /// an address. It has the name if there is one.
    pub fn given(&self) -> String {
        let address = self.address.as_deref().unwrap_or_default();
        let host = self.name.as_deref().unwrap_or(address);
        match (host.is_empty() || host.starts_with('/'), host.contains(':')) {
            (true, _) => host.to_owned(),
            (false, true) if !host.starts_with('[') => format!("[{host}]:{}", self.port),
            (false, _) => format!("{host}:{}", self.port),
        }
    }

    /// The number of a regular server; 0 for the others.
    pub fn number(&self) -> u32 {
        self.number.unwrap_or_default()
    }
}

impl ServerTlsStatus {
    /// Whose certificate is good, for people.
    pub fn in_words(&self) -> String {
        match (self.verify, &self.name) {
            (Verify::On, Some(name)) => format!("verified as {name}"),
            (Verify::On, None) => "without a name that could be verified".into(),
            (Verify::Off, _) => "not verified".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::LastFailure;

    #[test]
    fn times_and_states_are_words() {
        let times = [0, 119, 120, 7199, 7200, 172_800].map(duration);
        assert_eq!(times, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
        let mut row = ServerStatus { state: ServerState::Up, ..ServerStatus::default() };
        assert_eq!(row.in_words(1000), "up");
        row.slow_start = Some(55);
        assert_eq!(row.in_words(1000), "up, has 55 % of its share now (slow_start)");
        row.state = ServerState::Pending;
        assert_eq!(
            row.in_words(1000),
            "passed over, too many connects to it are pending (pending_max)"
        );
        let up = [
            ServerState::Vacant,
            ServerState::Up,
            ServerState::Full,
            ServerState::Pending,
            ServerState::Out,
            ServerState::Failed,
            ServerState::Down,
            ServerState::Drain,
            ServerState::Maint,
        ];
        assert_eq!(
            up.map(ServerState::is_up),
            [false, true, true, true, false, false, false, true, false]
        );
        (row.state, row.connections) = (ServerState::Full, 20);
        assert_eq!(row.in_words(1000), "full");
        row.last_failure = Some(LastFailure { unix_time: 7, reason: "connection refused".into() });
        assert_eq!(row.in_words(1000), "full", "it is history");
        (row.state, row.failed_at, row.blacklisted) = (ServerState::Out, 988, 18);
        assert_eq!(row.in_words(1000), "taken out by an operator 12 s ago, for 18 s more");
        row.state = ServerState::Failed;
        assert_eq!(
            row.in_words(1000),
            "failed 12 s ago, left out for 18 s more: connection refused"
        );
        row.blacklisted = 0;
        assert_eq!(row.in_words(1000), "failed, the next client tries it: connection refused");
    }

    #[test]
    fn a_check_is_words_that_follow_others() {
        let words = |state, duration_us, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            let check = CheckStatus { state, duration_us, reason, ..CheckStatus::default() };
            ServerStatus { check: Some(check), ..ServerStatus::default() }.check_words()
        };
        assert_eq!(words(CheckState::Unknown, Some(1), None), " check unknown");
        let times = [1, 1499, 1500, 12_300, u32::MAX];
        let times = times.map(|micros| words(CheckState::Up, Some(micros), None));
        let expected = ["1 ms", "1 ms", "2 ms", "12 ms", "4294967 ms"];
        assert_eq!(times, expected.map(|time| format!(" check up {time}")));
        assert_eq!(words(CheckState::Up, None, None), " check up");
        assert_eq!(words(CheckState::Down, Some(9), Some("status 503")), " check down status 503");
        assert_eq!(ServerStatus::default().check_words(), "");
        let check = CheckStatus { reason: Some("timeout".into()), ..CheckStatus::default() };
        let server = ServerStatus {
            state: ServerState::Down,
            check: Some(check),
            ..ServerStatus::default()
        };
        assert_eq!(server.in_words(0), "down by check: timeout");
    }

    #[test]
    fn a_server_is_called_as_an_operator_writes_it() {
        let server = |name: Option<&str>, address: &str, port| ServerStatus {
            name: name.map(str::to_owned),
            address: Some(address.into()),
            port,
            ..ServerStatus::default()
        };
        let given = [
            server(None, "10.0.0.1", 80),
            server(Some("www1"), "10.0.0.1", 80),
            server(None, "::1", 80),
            server(Some("[fe80::1%lo]"), "fe80::1%lo", 80),
            server(None, "/run/app.sock", 0),
            ServerStatus::default(),
        ]
        .map(|server| server.given());
        let expected =
            ["10.0.0.1:80", "www1:80", "[::1]:80", "[fe80::1%lo]:80", "/run/app.sock", ""];
        assert_eq!(given, expected);
    }
}
