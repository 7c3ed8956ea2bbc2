//! Whether all is well: the headline of the page, and what an operator should look at.

use crate::event::EventKind;
use crate::page::figures::{Clock, Count, Duration, Of};
use crate::{CertificateStatus, ChangeResult, ServerState, ServerStatus, Status};

/// A certificate with fewer days left is worth a remark.
const DAYS_BEFORE_EXPIRY: i64 = 14;
/// Log lines that were lost so many seconds ago are worth a remark.
const LOST_LINES: u64 = 300;
/// So many servers are named one by one.
const NAMED: usize = 3;

/// How well something is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Level {
    /// As it should be.
    Well,
    /// An operator should look at it; clients are served.
    Attention,
    /// Clients notice it.
    Trouble,
}

/// The headline and its reasons.
pub(super) struct Health {
    /// The worst of what there is.
    pub(super) level: Level,
    /// One line about the servers.
    pub(super) headline: String,
    /// What else to look at, each one sentence.
    pub(super) remarks: Vec<Remark>,
}

/// Something to look at.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Remark {
    pub(super) level: Level,
    pub(super) text: String,
}

/// How many servers there are in each state, those without an address left out.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) up: u64,
    pub(super) full: u64,
    pub(super) pending: u64,
    pub(super) out: u64,
    pub(super) failed: u64,
    pub(super) down: u64,
    pub(super) drain: u64,
    pub(super) maint: u64,
}

impl Tally {
    pub(super) fn new(servers: &[ServerStatus]) -> Tally {
        let mut tally = Tally::default();
        for server in servers {
            let count = match server.state {
                ServerState::Vacant => continue,
                ServerState::Up => &mut tally.up,
                ServerState::Full => &mut tally.full,
                ServerState::Pending => &mut tally.pending,
                ServerState::Out => &mut tally.out,
                ServerState::Failed => &mut tally.failed,
                ServerState::Down => &mut tally.down,
                ServerState::Drain => &mut tally.drain,
                ServerState::Maint => &mut tally.maint,
            };
            *count += 1;
            tally.all += 1;
        }
        tally
    }

    /// Those that have neither failed nor been taken out.
    fn working(self) -> u64 {
        self.up + self.full + self.pending + self.drain
    }
}

impl Level {
    /// The level in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Level::Well => "All is well",
            Level::Attention => "Needs attention",
            Level::Trouble => "Clients are affected",
        }
    }
}

impl Health {
    pub(super) fn new(status: &Status, clock: Clock) -> Health {
        let tally = Tally::new(&status.servers);
        let (mut level, headline) = headline(status, tally);
        let mut remarks = Vec::new();
        connections(status, &mut remarks);
        held(status, &mut remarks);
        servers(status, &mut remarks);
        backups(status, &mut remarks);
        workers(status, &mut remarks);
        changes(status, clock, &mut remarks);
        logs(status, clock, &mut remarks);
        certificates(&status.certificates, clock, &mut remarks);
        // The worst comes first; otherwise in the order above.
        remarks.sort_by_key(|remark| std::cmp::Reverse(remark.level));
        level = remarks.iter().map(|remark| remark.level).fold(level, Level::max);
        Health { level, headline, remarks }
    }
}

/// What clients find, as `/health` has it, too. It is about new clients: those that have a
/// connection keep it.
fn headline(status: &Status, tally: Tally) -> (Level, String) {
    let emergency = status.emergency.as_ref().is_some_and(ServerStatus::is_usable);
    let is_tried = status.servers.iter().any(ServerStatus::is_usable);
    let (all, working) = (tally.all, tally.working());
    if status.paused && status.has_worker() {
        return (Level::Trouble, "Paused: new clients wait until the command resume".into());
    }
    let obstacle = match (all, working, tally.up + tally.pending) {
        (_, _, _) if status.dummy => None,
        (0, _, _) => Some("no server is configured"),
        (1, 0, _) if tally.maint == 1 => Some("the server is in maintenance"),
        (_, 0, _) if tally.maint == all => Some("all servers are in maintenance"),
        (1, 0, _) => Some("the server is down"),
        (_, 0, _) => Some("all servers are down"),
        (1, _, 0) if tally.drain == 1 => Some("the server is draining"),
        (_, _, 0) if tally.full == 0 => Some("all servers that are up are draining"),
        (1, _, 0) => Some("the server is full"),
        (_, _, 0) if tally.drain > 0 => Some("all servers that are up are full or draining"),
        (_, _, 0) => Some("all servers that are up are full"),
        (_, _, _) => None,
    };
    match (obstacle, emergency) {
        (Some(obstacle), _) if status.disregards_checks => {
            (Level::Trouble, format!("Checks are disregarded (fail_open): {obstacle}"))
        }
        (Some(obstacle), _) if is_tried => {
            (Level::Trouble, format!("The next client tries a server again: {obstacle}"))
        }
        (Some(obstacle), true) => {
            (Level::Trouble, format!("The emergency server serves all new clients: {obstacle}"))
        }
        (Some(obstacle), false) if status.held > 0 => {
            (Level::Trouble, format!("New clients wait (hold): {obstacle}"))
        }
        (Some(obstacle), false) => (Level::Trouble, format!("Clients are turned away: {obstacle}")),
        (None, _) if !status.has_worker() => {
            (Level::Trouble, "Clients wait: no worker is running".into())
        }
        (None, _) if status.dummy => {
            (Level::Attention, "pen answers all clients itself (dummy)".into())
        }
        (None, _) if working < all => {
            (Level::Attention, format!("{} of {} servers are up", Count(working), Count(all)))
        }
        (None, _) if all == 1 => (Level::Well, "The server is up".into()),
        (None, _) => (Level::Well, format!("{} of {} servers are up", Count(all), Count(all))),
    }
}

fn gets_clients(state: ServerState) -> bool {
    match state {
        ServerState::Up | ServerState::Pending => true,
        ServerState::Vacant
        | ServerState::Full
        | ServerState::Out
        | ServerState::Failed
        | ServerState::Down
        | ServerState::Drain
        | ServerState::Maint => false,
    }
}

fn connections(status: &Status, remarks: &mut Vec<Remark>) {
    let (used, most) = (u64::from(status.connections), u64::from(status.connections_max));
    if most > 0 && used >= most {
        let text = format!(
            "Clients wait: {} of {} connections are in use. Raise conn_max (-x).",
            Count(used),
            Count(most)
        );
        remarks.push(Remark { level: Level::Trouble, text });
    }
}

fn held(status: &Status, remarks: &mut Vec<Remark>) {
    if status.held > 0 {
        let until = match status.paused {
            true => "the command resume",
            false => "a server can be used, as long as hold says",
        };
        let are = if status.held == 1 { "waits" } else { "wait" };
        let text = format!("{} {are} until {until}.", Of(status.held, "client"));
        remarks.push(Remark { level: Level::Trouble, text });
    }
    if status.disregards_checks && !status.paused {
        let text = "Clients get servers that are down, because no other is left. With no fail_open \
                    they would be closed.";
        remarks.push(Remark { level: Level::Trouble, text: text.into() });
    }
}

fn servers(status: &Status, remarks: &mut Vec<Remark>) {
    let groups = [
        (ServerState::Failed, "failed"),
        (ServerState::Down, "down"),
        (ServerState::Out, "taken out"),
        (ServerState::Maint, "in maintenance"),
        (ServerState::Drain, "draining"),
        (ServerState::Full, "full"),
        (ServerState::Pending, "passed over"),
    ];
    for (state, words) in groups {
        let found: Vec<&ServerStatus> =
            status.servers.iter().filter(|server| server.state == state).collect();
        let texts: Vec<String> = if found.len() <= NAMED {
            found.iter().map(|server| one_server(server)).collect()
        } else {
            let first: Vec<String> = found
                .iter()
                .take(NAMED)
                .filter_map(|server| Some(server.number?.to_string()))
                .collect();
            let more = found.len() - NAMED;
            let count = Of(found.len() as u64, "server");
            vec![format!("{count} {words}: {} and {more} more.", first.join(", "))]
        };
        remarks.extend(texts.into_iter().map(|text| Remark { level: Level::Attention, text }));
    }
}

fn one_server(server: &ServerStatus) -> String {
    let number = server.number.map_or(String::new(), |number| format!(" {number}"));
    format!("Server{number} ({}): {}.", server.given(), server.state_text)
}

fn backups(status: &Status, remarks: &mut Vec<Remark>) {
    for (title, server) in [("emergency", &status.emergency), ("abuse", &status.abuse)] {
        if let Some(server) = server
            && !gets_clients(server.state)
        {
            let text = format!("The {title} server ({}): {}.", server.given(), server.state_text);
            remarks.push(Remark { level: Level::Attention, text });
        }
    }
}

fn workers(status: &Status, remarks: &mut Vec<Remark>) {
    for worker in status.worker_list.iter().filter(|worker| worker.pid.is_none()) {
        let text = format!("Worker {} is being replaced.", worker.number);
        remarks.push(Remark { level: Level::Attention, text });
    }
}

fn changes(status: &Status, clock: Clock, remarks: &mut Vec<Remark>) {
    for (title, change) in [("reload", &status.reload), ("upgrade", &status.upgrade)] {
        if let Some(change) = change
            && change.result == ChangeResult::Failure
        {
            let ago = Duration(clock.since(change.unix_time));
            let text = format!("The last {title} failed {ago} ago: {}", change.text);
            remarks.push(Remark { level: Level::Attention, text });
        }
    }
}

/// The last event of each log that says that lines were lost.
fn logs(status: &Status, clock: Clock, remarks: &mut Vec<Remark>) {
    let mut named = Vec::new();
    for event in status.events.iter().rev() {
        let log = event.fields.get("log");
        let ago = clock.since(event.time.seconds());
        if event.kind != EventKind::LogLost || ago > LOST_LINES || named.contains(&log) {
            continue;
        }
        named.push(log);
        let text = format!("{} ago, {}.", Duration(ago), event.text);
        remarks.push(Remark { level: Level::Attention, text });
    }
}

fn certificates(certificates: &[CertificateStatus], clock: Clock, remarks: &mut Vec<Remark>) {
    for certificate in certificates {
        let Some((level, left)) = expiry(certificate, clock) else { continue };
        if level > Level::Well {
            let text = format!("The certificate of {}: {left}.", certificate.name);
            remarks.push(Remark { level, text });
        }
    }
}

/// How long a certificate is still valid, and how well that is; none if it does not say.
pub(super) fn expiry(certificate: &CertificateStatus, clock: Clock) -> Option<(Level, String)> {
    let seconds = certificate.not_after_unix?.saturating_sub(clock.now);
    let days = seconds.div_euclid(86_400);
    Some(match seconds {
        ..0 => (Level::Trouble, "has expired".into()),
        0..172_800 => (Level::Attention, format!("{} left", Duration(seconds as u64))),
        _ if days < DAYS_BEFORE_EXPIRY => (Level::Attention, format!("{days} days left")),
        _ => (Level::Well, format!("{} left", Of(days as u64, "day"))),
    })
}
