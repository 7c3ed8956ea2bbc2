//! States made up, for tests, pictures and measurements: how each form looks in good and bad times.

use crate::event::{EventKind, EventRecord, EventTime};
use crate::histogram::{CONNECT, Histogram, LENGTH};
use crate::{
    CertificateStatus, ChangeResult, CheckState, CheckStatus, Counts, History, LastChange,
    LastFailure, Mode, OldWorkerStatus, ReasonCount, ServerState, ServerStatus, Status, TlsCounts,
    TlsHandshakes, WorkerStatus,
};

/// The moment of all samples, in seconds since 1970.
const NOW: i64 = 1_795_493_421;
/// A day, in seconds.
const DAY: i64 = 86_400;

/// So many servers, all of them up.
pub fn fine(servers: u32) -> Status {
    let servers: Vec<ServerStatus> = (0..servers).map(up).collect();
    let sum = |pick: fn(&ServerStatus) -> u32| servers.iter().map(pick).sum::<u32>();
    let connections = sum(|server| server.connections);
    Status {
        version: "0.1.0".into(),
        time: "2026-11-24 05:10:21".into(),
        unix_time: NOW,
        uptime: 12 * 86_400 + 4 * 3600 + 71,
        started_at: NOW - 12 * DAY - 4 * 3600 - 71,
        pid: 4711,
        listen: "0.0.0.0:443".into(),
        workers: 2,
        worker_list: (0..2).map(|number| worker(number, connections / 2)).collect(),
        connections,
        connections_max: (connections * 2).next_multiple_of(500).max(500),
        method: "leastconn".into(),
        clients: 1203,
        clients_max: 2048,
        counts: counts(),
        history: history(&servers),
        reload: Some(LastChange {
            unix_time: NOW - 3 * 3600,
            result: ChangeResult::Success,
            text: "configuration read again: server 2 has weight 3".into(),
        }),
        upgrade: Some(LastChange {
            unix_time: NOW - 12 * DAY,
            result: ChangeResult::Success,
            text: "upgraded from 0.0.9 to 0.1.0".into(),
        }),
        certificates: vec![
            certificate("www.example.org", "server", 71),
            certificate("api.example.org", "server", 34),
        ],
        events: events(),
        servers,
        ..Status::default()
    }
}

/// So many servers, every second of them down, and more that is not well.
pub fn half_down(servers: u32) -> Status {
    let mut status = fine(servers);
    for server in status.servers.iter_mut().skip(1).step_by(2) {
        fail(server);
    }
    if let Some(last) = status.servers.iter_mut().rfind(|server| server.state.is_up()) {
        (last.state, last.state_text) = (ServerState::Full, "full".into());
        (last.connections, last.max) = (last.max.max(20), last.max.max(20));
    }
    status.connections = status.servers.iter().map(|server| server.connections).sum();
    status.history = history(&status.servers);
    let mut emergency = up(1);
    emergency.number = None;
    emergency.name = Some("sorry.example.org".into());
    emergency.connections = 0;
    status.emergency = Some(emergency);
    status.worker_list[1].pid = None;
    status.worker_list[1].restarts = 1;
    status.old_workers =
        vec![OldWorkerStatus { version: "0.0.9".into(), age: 250, connections: 3 }];
    status.reload = Some(LastChange {
        unix_time: NOW - 190,
        result: ChangeResult::Failure,
        text: "/etc/pen/pen.conf:7: server 9 is not configured; the old settings stay".into(),
    });
    status.certificates[1] = certificate("api.example.org", "server", 6);
    status.counts.unserved = 12;
    status.counts.log_lines_lost = 431;
    status
}

/// A few servers, one of them down: the picture in the README.
pub fn showcase() -> Status {
    let mut status = fine(4);
    fail(&mut status.servers[1]);
    check_fails(&mut status.servers[1]);
    status.connections -= 60;
    status.history = history(&status.servers);
    status.events.retain(|event| event.kind != EventKind::Setting);
    let number = status.events.len() as u64;
    status.events.push(EventRecord {
        id: number,
        time: EventTime((NOW - 190) as u64 * 1000),
        kind: EventKind::ServerDown,
        text: "server 1 (www2.example.org:8080) is down by check: status 503".into(),
        fields: [].into(),
    });
    status
}

/// A server in each state, also full, without an address, and with each verdict of a check.
pub fn every_state() -> Status {
    let mut status = fine(10);
    let states = [
        (ServerState::Up, Mode::Ready, CheckState::Up, "up"),
        (ServerState::Full, Mode::Ready, CheckState::Up, "full"),
        (
            ServerState::Pending,
            Mode::Ready,
            CheckState::Up,
            "passed over, too many connects to it are pending (pending_max)",
        ),
        (
            ServerState::Out,
            Mode::Ready,
            CheckState::Up,
            "taken out by an operator 5 min ago, for 25 min more",
        ),
        (
            ServerState::Failed,
            Mode::Ready,
            CheckState::Unknown,
            "failed 12 s ago, left out for 18 s more: connection refused",
        ),
        (ServerState::Down, Mode::Ready, CheckState::Down, "down by check: status 503"),
        (ServerState::Drain, Mode::Drain, CheckState::Up, "draining, gets no new clients"),
        (ServerState::Drain, Mode::Drain, CheckState::Down, "draining, gets no new clients"),
        (ServerState::Maint, Mode::Maint, CheckState::Unknown, "in maintenance, gets no clients"),
        (ServerState::Vacant, Mode::Ready, CheckState::Unknown, "no address"),
    ];
    for (server, (state, mode, verdict, text)) in status.servers.iter_mut().zip(states) {
        (server.state, server.mode, server.state_text) = (state, mode, text.into());
        set_check(server, verdict);
    }
    status.servers[1].connections = status.servers[1].max;
    status.servers[3].check = None;
    status.servers[4].blacklisted = 18;
    status.servers[9].address = None;
    status.servers[9].check = None;
    status
}

/// An operator has paused while all servers are restarted.
pub fn paused() -> Status {
    let mut status = fine(3);
    status.servers.iter_mut().for_each(check_fails);
    (status.paused, status.held) = (true, 12);
    status
}

/// All servers are down by their checks, and clients wait (`hold`).
pub fn holding() -> Status {
    Status { paused: false, held: 1, ..paused() }
}

/// All servers are down by their checks, and checks are disregarded (`fail_open`).
pub fn disregarding() -> Status {
    Status { paused: false, held: 0, disregards_checks: true, ..paused() }
}

/// Nothing but a start.
pub fn empty() -> Status {
    Status {
        version: "0.1.0".into(),
        time: "2026-11-24 05:10:21".into(),
        unix_time: NOW,
        started_at: NOW,
        listen: "/run/pen/in.sock".into(),
        workers: 1,
        worker_list: vec![worker(0, 0)],
        connections_max: 500,
        clients_max: 2048,
        ..Status::default()
    }
}

/// Names as long and as hostile as nobody should give them.
pub fn hostile() -> Status {
    let mut status = half_down(8);
    let script = "<script>alert(document.cookie)</script>";
    let names = [
        script.to_owned(),
        "\" onmouseover=\"alert(1)\" x='".to_owned(),
        "\u{202e}gro.elpmaxe\u{202c} שלום עולם".to_owned(),
        format!("{}.example.org", "very-long-label-".repeat(14)),
        "/run/app/a socket with spaces & ampersands.sock".to_owned(),
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".to_owned(),
        "</style></script><!-- ]]> &lt;".to_owned(),
        "\0\u{1b}[31mred\n".to_owned(),
    ];
    for (server, name) in status.servers.iter_mut().zip(names) {
        server.address = Some(name.clone());
        server.name = None;
        if name.starts_with('/') {
            server.port = 0;
        }
        server.state_text = format!("{} {name}", server.state_text);
        if let Some(check) = &mut server.check {
            (check.state, check.reason) = (CheckState::Down, Some(name.clone()));
            (check.kind, check.since) = (script.into(), i64::MIN);
        }
        server.last_failure = Some(LastFailure { unix_time: u64::MAX, reason: name });
    }
    status.listen = script.into();
    status.version = script.into();
    status.time = script.into();
    status.counts.refused = vec![ReasonCount { reason: script.into(), count: u64::MAX }];
    status.certificates = vec![certificate(script, script, -3), certificate("\"", "'", 0)];
    status.certificates[1].not_after_unix = None;
    for event in &mut status.events {
        event.text = script.into();
    }
    for change in [&mut status.reload, &mut status.upgrade].into_iter().flatten() {
        (change.text, change.unix_time) = (script.into(), i64::MIN);
    }
    status
}

/// A sequence without pattern that is always the same.
fn noise(seed: u32) -> impl Iterator<Item = u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state >> 8
    })
}

fn up(number: u32) -> ServerStatus {
    let mut noise = noise(number + 7);
    let mut next = |below: u32| noise.next().unwrap_or_default() % below;
    let base = 20 + next(14);
    let connections: Vec<u32> = (0..60u32)
        .map(|period| base + next(9) + 12 * u32::from((22..31).contains(&period)) + period / 8)
        .collect();
    let bytes = connections.iter().map(|count| u64::from(*count * (9_000 + next(4000)))).collect();
    let total = 120_000 + u64::from(next(40_000));
    let (mut connect, mut length) = (Histogram::default(), Histogram::default());
    for _ in 0..200 {
        connect.record(&CONNECT, u64::from(180 + next(500) + next(3) * next(900)));
        length.record(&LENGTH, u64::from(20_000 + next(900_000)));
    }
    ServerStatus {
        number: Some(number),
        address: Some(format!("10.0.{}.{}", number / 250, number % 250 + 1)),
        last_failure: None,
        failed_at: 0,
        port: 8080,
        connections: 40 + next(70),
        max: 200,
        hard: 250,
        sent: total * 1800,
        received: total * 24_000,
        weight: if number % 3 == 2 { 3 } else { 0 },
        prio: 0,
        acl: 0,
        blacklisted: 0,
        state: ServerState::Up,
        mode: Mode::Ready,
        follows: None,
        name: (number % 4 != 3).then(|| format!("www{}.example.org", number + 1)),
        state_text: "up".into(),
        connections_total: total,
        connect_failures: vec![],
        failovers: 0,
        connect,
        length,
        history: History { period: 5, connections, bytes },
        check: Some(check(CheckState::Up)),
        addresses: Vec::new(),
        lookup: None,
        slow_start: None,
        tls: None,
        rebalanced: u64::from(number % 3),
    }
}

fn check(verdict: CheckState) -> CheckStatus {
    CheckStatus {
        kind: "http".into(),
        state: verdict,
        since: NOW - if verdict == CheckState::Up { 25 * 3600 } else { 190 },
        duration_us: (verdict != CheckState::Unknown).then_some(2_300),
        reason: (verdict == CheckState::Down).then(|| "status 503".into()),
        last: Some(NOW - 1),
        transitions: 2,
    }
}

fn set_check(server: &mut ServerStatus, verdict: CheckState) {
    server.check = Some(check(verdict));
}

fn check_fails(server: &mut ServerStatus) {
    set_check(server, CheckState::Down);
    (server.state, server.state_text) = (ServerState::Down, "down by check: status 503".into());
}

fn fail(server: &mut ServerStatus) {
    let number = server.number.unwrap_or_default();
    let reason = ["connection refused", "no answer in time", "no route to host"];
    let reason = reason[(number / 2) as usize % 3];
    server.state = ServerState::Failed;
    server.failed_at = (NOW - 12) as u64;
    server.blacklisted = 18;
    server.state_text = format!("failed 12 s ago, left out for 18 s more: {reason}");
    server.last_failure =
        Some(LastFailure { unix_time: server.failed_at, reason: reason.to_owned() });
    server.connect_failures =
        vec![ReasonCount { reason: "refused".into(), count: 3 + u64::from(number % 7) }];
    server.failovers = 9;
    server.connections = 0;
    for count in server.history.connections.iter_mut().skip(57) {
        *count = 0;
    }
    if number % 10 == 9 {
        server.state = ServerState::Out;
        server.state_text = "taken out by an operator 5 min ago, for 25 min more".into();
        server.last_failure = None;
    }
}

fn history(servers: &[ServerStatus]) -> History {
    let (mut connections, mut bytes) = (vec![0; 60], vec![0; 60]);
    for server in servers {
        for period in 0..60 {
            connections[period] += server.history.connections[period];
            bytes[period] += server.history.bytes[period];
        }
    }
    History { period: 5, connections, bytes }
}

fn worker(number: u32, connections: u32) -> WorkerStatus {
    WorkerStatus {
        number,
        pid: Some(4714 + number),
        connections: connections.into(),
        busy_ms: 5_412_000 + u64::from(number) * 133_000,
        memory: Some(31_400_000 + u64::from(number) * 700_000),
        restarts: 0,
    }
}

fn counts() -> Counts {
    let reason = |reason: &str, count| ReasonCount { reason: reason.into(), count };
    let handshakes =
        |version: &str, resumed, count| TlsHandshakes { version: version.into(), resumed, count };
    Counts {
        accepted: 4_310_224,
        refused: vec![reason("acl", 12), reason("limit", 0)],
        limited: vec![reason("per_client_max", 812), reason("per_client_rate", 90)],
        requests_refused: vec![reason("malformed", 4)],
        log_lines: 4_310_007,
        client_evictions: 19_022,
        reloads: 4,
        upgrades: 1,
        tls: Some(TlsCounts {
            handshakes: vec![
                handshakes("TLSv1.3", false, 1_900_112),
                handshakes("TLSv1.3", true, 2_300_421),
                handshakes("TLSv1.2", false, 99_870),
            ],
            failures: vec![reason("timeout", 71), reason("not_tls", 402)],
        }),
        server_tls: Some(TlsCounts {
            handshakes: vec![handshakes("TLSv1.3", true, 4_288_180)],
            failures: vec![reason("expired", 0)],
        }),
        ..Counts::default()
    }
}

fn certificate(name: &str, used: &str, days: i64) -> CertificateStatus {
    CertificateStatus {
        name: name.into(),
        file: format!("/etc/pen/tls/{name}.pem"),
        used: used.into(),
        not_after_unix: Some(NOW + days * DAY + 3600),
    }
}

fn events() -> Vec<EventRecord> {
    let texts = [
        (86_400 * 2, EventKind::Started, "pen 0.1.0 started: 2 workers, listening at 0.0.0.0:443"),
        (40_000, EventKind::ServerWeight, "server 2 (www3.example.org:8080): weight 3 (before: 1)"),
        (9000, EventKind::Reloaded, "configuration read again: server 2 has weight 3"),
        (
            4210,
            EventKind::ServerDown,
            "blacklisting server 1 (www2.example.org:8080) for 30 s: connection refused",
        ),
        (4180, EventKind::ServerUp, "server 1 (www2.example.org:8080) is in use again"),
        (
            1900,
            EventKind::ClientRefused,
            "client 192.0.2.44: TLS handshake failed: what it sent is no TLS",
        ),
        (
            610,
            EventKind::ServerLimit,
            "server 0 (www1.example.org:8080) is passed over: it has 200 of 200 connections; raise \
             its max",
        ),
        (602, EventKind::ServerUp, "server 0 (www1.example.org:8080) is in use again"),
    ];
    let again = (0..92).map(|number| (90_000 - number * 100, EventKind::Setting, "weight changed"));
    let texts = again.chain(texts).enumerate();
    let mut events: Vec<EventRecord> = texts
        .map(|(id, (ago, kind, text))| EventRecord {
            id: id as u64,
            time: EventTime((NOW - ago) as u64 * 1000),
            kind,
            text: text.into(),
            fields: [].into(),
        })
        .collect();
    events.sort_by_key(|event| event.time);
    events
}
