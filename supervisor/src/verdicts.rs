//! What checks say of each server: the latest results, and what follows from a new one.
//!
//! The checker counts, because it knows which results follow each other. The supervisor decides
//! which of its results count: only those of the questions that the settings in force ask.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use pen_config::checks::Check;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_ipc::checks::{CheckFault, CheckResult, CheckState, MOST_UNDER_WAY, Seed, Verdict};
use pen_table::{DownCode, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What checks say of all servers that have one.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    rows: BTreeMap<ServerId, CheckRow>,
    /// When the rows were last swept.
    swept: Option<Instant>,
}

/// What checks say of a server.
#[derive(Debug)]
pub(crate) struct CheckRow {
    pub(crate) verdict: Verdict,
    /// Since when its state is the present one, in seconds since 1970.
    pub(crate) since: i64,
    /// Why the last failed check failed.
    pub(crate) fault: Option<CheckFault>,
    /// How long the last successful check took.
    pub(crate) micros: Option<u32>,
    /// When the last check ended, in seconds since 1970.
    pub(crate) checked: Option<i64>,
    /// How often it went down or came back.
    pub(crate) transitions: u64,
    /// When the last result came. Without one, when it was first asked for.
    last: Instant,
    /// The first generation of settings that asks this question.
    asked_since: u64,
    /// When traffic last found out that the server fails, in monotonic milliseconds.
    failed_at: u64,
    /// A number for the question: the address and the check.
    mark: u64,
}

/// What follows from a result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) server: ServerId,
    /// The state before and after, if they differ.
    pub(crate) change: Option<(CheckState, CheckState)>,
    /// When the check began, in monotonic milliseconds, if it succeeded and traffic has not found a
    /// failure since then.
    pub(crate) works_since: Option<u64>,
}

/// A verdict as it passes to the next program. Each is read by itself, because one of another
/// release may have another form.
pub(crate) type CarriedChecks = Vec<Value>;

#[derive(Debug, Serialize, Deserialize)]
struct CarriedCheck {
    server: u16,
    verdict: Verdict,
    since: i64,
    #[serde(default)]
    fault: Option<CheckFault>,
    #[serde(default)]
    micros: Option<u32>,
    #[serde(default)]
    checked: Option<i64>,
    #[serde(default)]
    transitions: u64,
    mark: u64,
}

impl Checks {
    /// What an earlier program knew, as far as these settings ask the same.
    pub(crate) fn adopted(carried: CarriedChecks, settings: &Settings, now: Instant) -> Checks {
        let mut checks = Checks::default();
        checks.follow(settings, 0, now);
        for value in carried {
            let Ok(carried) = serde_json::from_value::<CarriedCheck>(value) else { continue };
            let CarriedCheck { server, verdict, since, fault, micros, .. } = carried;
            let is_proper = fault.as_ref().is_none_or(CheckFault::is_proper)
                && (verdict.state != CheckState::Down || fault.is_some());
            if let Some(row) = checks.rows.get_mut(&ServerId(server))
                && row.mark == carried.mark
                && is_proper
            {
                let (checked, transitions) = (carried.checked, carried.transitions);
                (row.verdict, row.since, row.fault) = (verdict, since, fault);
                (row.micros, row.checked, row.transitions) = (micros, checked, transitions);
            }
        }
        checks
    }

    /// The verdicts for the next program.
    pub(crate) fn carried(&self) -> CarriedChecks {
        let carried = self.rows.iter().map(|(server, row)| CarriedCheck {
            server: server.0,
            verdict: row.verdict,
            since: row.since,
            fault: row.fault.clone(),
            micros: row.micros,
            checked: row.checked,
            transitions: row.transitions,
            mark: row.mark,
        });
        carried.filter_map(|carried| serde_json::to_value(carried).ok()).collect()
    }

    /// Goes on by new settings: a server with another address or check is unknown.
    pub(crate) fn follow(&mut self, settings: &Settings, unix: i64, now: Instant) {
        let asked = |id| settings.check_of(Target::Server(id));
        self.rows.retain(|id, _| asked(*id).is_some());
        for (id, server) in settings.configured() {
            let Some(check) = asked(id) else { continue };
            let mark = mark(server, check, tls(settings, Target::Server(id)));
            let new = || CheckRow::new(mark, settings.generation, unix, now);
            match self.rows.entry(id) {
                Entry::Occupied(mut row) if row.get().mark != mark => *row.get_mut() = new(),
                Entry::Occupied(_) => {}
                Entry::Vacant(vacant) => {
                    vacant.insert(new());
                }
            }
        }
    }

    /// Takes a result. None if nobody asks this question any more.
    pub(crate) fn take(&mut self, result: CheckResult, unix: i64, now: Instant) -> Option<Outcome> {
        let Some(Target::Server(server)) = Target::from_code(result.server) else { return None };
        let row = self.rows.get_mut(&server)?;
        if result.generation < row.asked_since {
            return None;
        }
        let is_success = result.fault.is_none();
        let before = row.verdict.state;
        (row.last, row.checked) = (now, Some(unix));
        match result.fault {
            Some(fault) => row.fault = Some(fault),
            None => row.micros = Some(result.micros),
        }
        // A server is down for a reason.
        row.verdict = match result.verdict.state {
            CheckState::Down if row.fault.is_none() => Verdict::default(),
            CheckState::Down | CheckState::Up | CheckState::Unknown => result.verdict,
        };
        let after = row.verdict.state;
        let change = (before != after).then(|| {
            row.since = unix;
            if let (CheckState::Up, CheckState::Down) | (CheckState::Down, CheckState::Up) =
                (before, after)
            {
                row.transitions += 1;
            }
            (before, after)
        });
        let works_since = (is_success && result.began > row.failed_at).then_some(result.began);
        Some(Outcome { server, change, works_since })
    }

    /// Notes that traffic found out that a server fails. Returns whether it has a check.
    pub(crate) fn failed(&mut self, server: ServerId, monotonic: u64) -> bool {
        let Some(row) = self.rows.get_mut(&server) else { return false };
        row.failed_at = monotonic;
        true
    }

    /// Makes servers unknown that have had no result for too long. Returns how many were known.
    /// Call it at each heartbeat: after a longer pause nobody knows how long the checker was silent
    /// while the supervisor could have heard it.
    pub(crate) fn sweep(&mut self, settings: &Settings, unix: i64, now: Instant) -> Vec<ServerId> {
        let gap = self.swept.replace(now).map(|swept| now.saturating_duration_since(swept));
        if gap.is_none_or(|gap| gap > LONGEST_GAP) {
            self.refresh(now);
            return Vec::new();
        }
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let (interval, timeout) =
            (seconds(settings.check_interval), seconds(settings.check_timeout));
        // If all servers hang, their checks wait for each other.
        let rounds = u32::try_from(self.rows.len().div_ceil(MOST_UNDER_WAY)).unwrap_or(u32::MAX);
        let longest = (3 * interval).max(interval + timeout.saturating_mul(rounds) + SLACK);
        let mut outdated = Vec::new();
        for (server, row) in &mut self.rows {
            let is_known = row.verdict.state != CheckState::Unknown;
            if is_known && now.saturating_duration_since(row.last) > longest {
                (row.verdict, row.since) = (Verdict::default(), unix);
                outdated.push(*server);
            }
        }
        outdated
    }

    /// Counts the silence of the checker from now on.
    pub(crate) fn refresh(&mut self, now: Instant) {
        self.rows.values_mut().for_each(|row| row.last = now);
    }

    /// What is known of a server.
    pub(crate) fn row(&self, server: ServerId) -> Option<&CheckRow> {
        self.rows.get(&server)
    }

    /// Why a server is down; none if it is not.
    pub(crate) fn down(&self, target: Target) -> Option<DownCode> {
        let Target::Server(server) = target else { return None };
        let fault = self.rows.get(&server)?.reason()?;
        DownCode::new(fault.code())
    }

    /// What a new checker is told.
    pub(crate) fn seeds(&self, table: &Table) -> Vec<Seed> {
        let seed = |(server, row): (&ServerId, &CheckRow)| Seed {
            server: Target::Server(*server).code(),
            position: table.server_totals(u32::from(server.0)).address,
            verdict: row.verdict,
        };
        self.rows.iter().map(seed).collect()
    }
}

impl CheckRow {
    fn new(mark: u64, asked_since: u64, since: i64, now: Instant) -> CheckRow {
        CheckRow {
            verdict: Verdict::default(),
            since,
            fault: None,
            micros: None,
            checked: None,
            transitions: 0,
            last: now,
            asked_since,
            failed_at: 0,
            mark,
        }
    }

    /// Why the server is down; none if it is not.
    pub(crate) fn reason(&self) -> Option<&CheckFault> {
        match self.verdict.state {
            CheckState::Down => self.fault.as_ref(),
            CheckState::Up | CheckState::Unknown => None,
        }
    }
}

/// A number for a question, which stands in the state of an upgrade: FNV-1a of the address and the
/// check as text. A release with another text takes the servers for unknown.
fn mark(server: &Server, check: &Check, tls: Option<String>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let check = serde_json::to_string(check).unwrap_or_default();
    let mut text = format!("{} {} {check}", server.address, server.epoch);
    text.extend(tls.into_iter().flat_map(|tls| [" ".to_owned(), tls]));
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// What the checks of a server that speaks TLS ask for beside their question.
fn tls(settings: &Settings, target: Target) -> Option<String> {
    let (verify, name) = (settings.server_tls.verify, settings.tls_name(target));
    settings.speaks_tls(target).then(|| format!("tls {verify} {name:?}"))
}

/// How much longer than a check its result may take: the checker may have to be replaced.
const SLACK: Duration = Duration::from_secs(3);

/// The longest time between two heartbeats of a supervisor that runs.
const LONGEST_GAP: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use pen_config::address::Address;
    use pen_config::checks::{CheckKind, RedisRole, ServerCheck};
    use pen_config::proxy::ProxyOut;
    use pen_ipc::checks::FaultClass;

    use super::*;

    fn check(kind: CheckKind) -> Check {
        Check { kind, host: None, port: None, proxy: ProxyOut::Off }
    }

    fn settings(ports: &[u16]) -> Settings {
        let server = |port: &u16| Some(Server::at(Address::Inet(([10, 0, 0, 1], *port).into())));
        Settings {
            generation: 5,
            servers: ports.iter().map(server).collect(),
            check: Some(check(CheckKind::Tcp)),
            ..Settings::default()
        }
    }

    fn result(server: i32, state: CheckState, fault: Option<CheckFault>) -> CheckResult {
        let verdict = Verdict { state, streak: 0 };
        CheckResult { server, generation: 5, began: 100, micros: 1500, verdict, fault }
    }

    fn refused() -> Option<CheckFault> {
        Some(CheckFault::of(FaultClass::Refused))
    }

    fn known(settings: &Settings, now: Instant) -> Checks {
        let mut checks = Checks::default();
        checks.follow(settings, 1, now);
        for result in [result(0, CheckState::Up, None), result(1, CheckState::Down, refused())] {
            checks.take(result, 2, now).unwrap();
        }
        checks
    }

    fn state(checks: &Checks, server: u16) -> Option<CheckState> {
        checks.row(ServerId(server)).map(|row| row.verdict.state)
    }

    use CheckState::{Down, Unknown, Up};

    #[test]
    fn a_change_is_told_once_and_counted() {
        let (now, settings) = (Instant::now(), settings(&[1, 2]));
        let mut checks = Checks::default();
        checks.follow(&settings, 1, now);
        assert_eq!((state(&checks, 0), state(&checks, 2)), (Some(Unknown), None));
        let mut told = |state, fault| checks.take(result(0, state, fault), 9, now).unwrap().change;
        assert_eq!(told(Up, None), Some((Unknown, Up)));
        assert_eq!(told(Up, refused()), None);
        assert_eq!(told(Down, refused()), Some((Up, Down)));
        assert_eq!(told(Down, None), None);
        assert_eq!(told(Up, None), Some((Down, Up)));
        let row = checks.row(ServerId(0)).unwrap();
        assert_eq!((row.transitions, row.since, row.micros), (2, 9, Some(1500)));
        assert!(row.reason().is_none() && checks.down(Target::Server(ServerId(0))).is_none());
    }

    #[test]
    fn a_down_server_has_the_latest_reason() {
        let (now, settings) = (Instant::now(), settings(&[1, 2]));
        let mut checks = known(&settings, now);
        let down = |checks: &Checks| checks.down(Target::Server(ServerId(1)));
        assert_eq!(down(&checks), DownCode::new(CheckFault::of(FaultClass::Refused).code()));
        let status = CheckFault::numbered(FaultClass::Status, 503);
        checks.take(result(1, Down, Some(status.clone())), 3, now).unwrap();
        assert_eq!(down(&checks), DownCode::new(status.code()));
        for target in [Target::Server(ServerId(0)), Target::Server(ServerId(9)), Target::Emergency]
        {
            assert_eq!(checks.down(target), None);
        }
        // A checker that says so is broken: a server is not down without a reason.
        let mut checks = Checks::default();
        checks.follow(&settings, 1, now);
        checks.take(result(0, Down, None), 2, now).unwrap();
        assert_eq!(state(&checks, 0), Some(Unknown));
    }

    #[test]
    fn results_that_nobody_asked_for_are_dropped() {
        let (now, settings) = (Instant::now(), settings(&[1]));
        let mut checks = Checks::default();
        checks.follow(&settings, 1, now);
        for server in [-1, -2, 1, 4095, 4096, i32::MIN, i32::MAX] {
            assert_eq!(checks.take(result(server, Up, None), 2, now), None);
        }
        let earlier = CheckResult { generation: 4, ..result(0, Up, None) };
        assert_eq!(checks.take(earlier, 2, now), None);
    }

    #[test]
    fn only_another_question_makes_a_server_unknown() {
        let (now, before) = (Instant::now(), settings(&[1, 2]));
        let mut checks = known(&before, now);
        let mut after = Settings { generation: 6, check_fall: 9, ..before.clone() };
        after.servers[0].as_mut().unwrap().weight = 7;
        checks.follow(&after, 3, now);
        assert_eq!((state(&checks, 0), state(&checks, 1)), (Some(Up), Some(Down)));
        // Its results of the generation before still count.
        assert!(checks.take(result(0, Up, None), 4, now).is_some());
        after.generation = 7;
        after.servers[0].as_mut().unwrap().address = Address::Inet(([10, 0, 0, 2], 1).into());
        let redis = check(CheckKind::Redis(RedisRole::Any));
        after.servers[1].as_mut().unwrap().check = ServerCheck::Own(Box::new(redis));
        checks.follow(&after, 5, now);
        assert_eq!((state(&checks, 0), state(&checks, 1)), (Some(Unknown), Some(Unknown)));
        assert_eq!(checks.take(result(0, Up, None), 6, now), None, "of the address before");
        after.servers[1].as_mut().unwrap().check = ServerCheck::Off;
        after.servers[0] = None;
        checks.follow(&after, 7, now);
        assert_eq!((state(&checks, 0), state(&checks, 1)), (None, None));
    }

    #[test]
    fn only_a_check_that_began_after_a_failure_speaks_against_it() {
        let (now, settings) = (Instant::now(), settings(&[1]));
        let mut checks = Checks::default();
        checks.follow(&settings, 1, now);
        assert!(checks.failed(ServerId(0), 100) && !checks.failed(ServerId(1), 100));
        let mut works = |began, fault| {
            checks.take(CheckResult { began, ..result(0, Up, fault) }, 2, now).unwrap().works_since
        };
        assert_eq!((works(100, None), works(101, refused())), (None, None));
        assert_eq!(works(101, None), Some(101));
    }

    #[test]
    fn silence_makes_servers_unknown_but_not_that_of_the_supervisor() {
        let (start, settings) = (Instant::now(), settings(&[1, 2, 3]));
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut checks = known(&settings, start);
        let mut second = 0;
        for _ in 0..7 {
            assert_eq!(checks.sweep(&settings, 9, at(second)), vec![]);
            second += 1;
            if second == 4 {
                checks.take(result(0, Up, None), 9, at(4)).unwrap();
            }
        }
        assert_eq!(checks.sweep(&settings, 9, at(second)), vec![ServerId(1)]);
        assert_eq!((state(&checks, 0), state(&checks, 1)), (Some(Up), Some(Unknown)));
        // The supervisor was stopped.
        assert_eq!(checks.sweep(&settings, 9, at(1000)), vec![]);
        assert_eq!(state(&checks, 0), Some(Up));
        for second in 1001..1007 {
            assert_eq!(checks.sweep(&settings, 9, at(second)), vec![]);
        }
        assert_eq!(checks.sweep(&settings, 9, at(1007)), vec![ServerId(0)]);
    }

    #[test]
    fn verdicts_of_many_servers_that_hang_outlive_the_round_of_their_checks() {
        let ports: Vec<u16> = (1..=1000).collect();
        let (start, mut settings) = (Instant::now(), settings(&ports));
        settings.check_timeout = 5;
        let mut checks = known(&settings, start);
        // 200 at a time for 5 s each: every server has its turn every 25 s.
        for second in 0..=30 {
            let at = start + Duration::from_secs(second);
            assert_eq!(checks.sweep(&settings, 9, at), vec![], "{second}");
        }
        let outdated = checks.sweep(&settings, 9, start + Duration::from_secs(31));
        assert_eq!(outdated.len(), 2);
    }

    #[test]
    fn verdicts_pass_to_the_next_program_if_it_asks_the_same() {
        let (now, settings) = (Instant::now(), settings(&[1, 2]));
        let mut checks = known(&settings, now);
        checks.take(result(1, Up, None), 7, now).unwrap();
        checks.take(result(1, Down, refused()), 8, now).unwrap();
        let mut carried = checks.carried();
        carried.push(serde_json::json!({"server": 0, "verdict": "of a later release"}));
        let next = Checks::adopted(carried.clone(), &settings, now);
        let row = next.row(ServerId(1)).unwrap();
        assert_eq!((state(&next, 0), row.verdict.state), (Some(Up), Down));
        assert_eq!((row.since, row.transitions, row.fault.clone()), (8, 2, refused()));
        let mut others = settings.clone();
        others.servers.swap(0, 1);
        let next = Checks::adopted(carried, &others, now);
        assert_eq!((state(&next, 0), state(&next, 1)), (Some(Unknown), Some(Unknown)));
        // What no pen writes.
        let text = "two\nlines".to_owned();
        let fault = Some(CheckFault { class: FaultClass::Other, number: 0, text });
        for fault in [None, fault] {
            let mut carried = checks.carried();
            carried[1]["fault"] = serde_json::to_value(fault).unwrap();
            assert_eq!(state(&Checks::adopted(carried, &settings, now), 1), Some(Unknown));
        }
    }
}
