//! Tests of the reading: what is absent, what is sly, and what this release reports.

use serde_json::json;

use pen_status::histogram::{CONNECT, Histogram};

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
fn what_a_later_pen_reports_of_a_check_is_unknown() {
    let words = |check: serde_json::Value| {
        let server = json!({ "number": 0, "check": check, "mode": "sleepy" });
        let server = Server::numbered(&server);
        assert_eq!(server.mode, None);
        server.check_words()
    };
    assert_eq!(words(json!({ "state": "unsure", "duration_us": 5 })).as_deref(), Some("unknown"));
    for (micros, expected) in [(0, "up 1 ms"), (1499, "up 1 ms"), (12_500, "up 13 ms")] {
        let check = json!({ "state": "up", "duration_us": micros });
        assert_eq!(words(check).as_deref(), Some(expected));
    }
    assert_eq!(words(json!({ "state": "up" })).as_deref(), Some("up"));
    assert_eq!(words(json!({ "state": "down" })).as_deref(), Some("down"));
    assert_eq!(words(json!(null)), None);
}

#[test]
fn no_text_can_move_the_cursor() {
    let sly = "a\u{1b}[2J\n";
    let sly = json!({
        "version": sly, "listen": sly, "time": sly, "method": sly,
        "reload": { "result": "failure", "text": sly },
        "certificates": [{ "name": sly, "not_after_unix": 1 }],
        "old_workers": [{ "version": sly }],
        "servers": [{
            "name": sly, "address": sly, "state": sly,
            "last_failure": { "unix_time": 1, "reason": sly },
            "connect_failures": [{ "reason": sly, "count": 1 }], "mode": sly,
            "check": { "kind": sly, "state": sly, "reason": sly },
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
    let check = pen_status::CheckStatus {
        kind: "http".into(),
        state: pen_status::CheckState::Down,
        since: 7,
        duration_us: Some(1500),
        reason: Some("status 503".into()),
        last: Some(8),
        transitions: 9,
    };
    let server = pen_status::ServerStatus {
        number: Some(3),
        mode: ServerMode::Maint,
        check: Some(check),
        connections_total: 4,
        connect,
        ..Default::default()
    };
    value["servers"] = json!([server]);
    (value["held"], value["paused"]) = (5.into(), true.into());
    let read = Overview::read(value.to_string().as_bytes()).unwrap();
    assert_eq!(
        (read.accepted, read.offset(), &read.history.connections[..]),
        (Some(9), 3600, &[1, 2][..])
    );
    assert_eq!((read.servers[0].total, read.servers[0].slot), (Some(4), Slot::Number(3)));
    assert_eq!((read.held, read.notes().count()), (5, 2), "all of 0 connections are in use, too");
    assert_eq!(read.servers[0].outage, None);
    let check = read.servers[0].check.as_ref().unwrap();
    assert_eq!((check.since, check.last, check.transitions), (7, Some(8), 9));
    assert_eq!((check.kind.as_str(), check.words().as_str()), ("http", "down status 503"));
    assert_eq!(read.servers[0].mode, Some(ServerMode::Maint));
    assert!(read.servers[0].connect_time(0.5).is_some_and(|time| (100..=200).contains(&time)));
}

#[test]
fn names_without_an_answer_are_one_note() {
    let server = |name: &str, follows: Value, reason: Value| {
        let since = if reason.is_null() { Value::Null } else { 700.into() };
        json!({
            "number": 0, "name": name, "port": 80, "follows": follows,
            "lookup": { "last": 990, "failing_since": since, "reason": reason },
        })
    };
    let note = |names_failing: u64, servers: Value| {
        let overview =
            json!({ "unix_time": 1000, "names_failing": names_failing, "servers": servers });
        Overview::read(overview.to_string().as_bytes()).unwrap().notes().next()
    };
    let works = server("www1", Value::Null, Value::Null);
    let fails = server("www2", Value::Null, "no such host".into());
    let followed =
        server("10.0.0.1", json!({ "name": "farm", "record": "present" }), "late".into());
    assert_eq!(note(0, json!([works])), None);
    let one = "Cannot resolve www2 for 5 min: no such host; its servers stay where they are.";
    assert_eq!(note(1, json!([works, fails, fails])).as_deref(), Some(one));
    let two = "Cannot resolve 2 names, farm for 5 min: late; their servers stay where they are.";
    assert_eq!(note(2, json!([works, fails, followed])).as_deref(), Some(two));
    assert_eq!(note(1, json!([])).as_deref(), Some("Cannot resolve a name of servers."));
    assert_eq!(note(3, json!([])).as_deref(), Some("Cannot resolve 3 names of servers."));
}
