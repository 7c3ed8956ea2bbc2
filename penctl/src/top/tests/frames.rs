//! What is seen of a report: every figure, on every terminal, whatever pen reports.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::KeyCode;
use serde_json::{Value, json};

use super::{COLOURS, PLAIN, frame, line, press, read, report, shown, text, typed, view};
use crate::overview::Overview;
use crate::tables::Paint;
use crate::top::draw::Look;
use crate::top::model::{Effect, Link, Model};

#[test]
fn everything_is_seen_at_a_glance() {
    let (mut model, _) = view();
    let text = shown(&mut model, (80, 24));
    for part in [
        "pen 0.1.0  /run/pen/pen.ctl  listens on 0.0.0.0:443  method leastconn",
        "connections ███",
        " 319 of 2048   clients 1204 of 4096",
        "new 91/s",
        "3 of 5 servers up, 1 full",
        "workers 2  0: 161 conn 23%  1: 158 conn 21%",
        "04:10:00  blacklisting server 2 (10.0.0.2:8080) for 30 s: connection refused",
        "04:10:24",
        "? help",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(line(&text, "0 ").contains(" up ") && line(&text, "0 ").contains("97/200"), "{text}");
    assert!(line(&text, "1 ").contains(" full ") && line(&text, "2 ").contains(" failed 12 s "));
    assert!(line(&text, "3 ").contains(" out 50 min "), "{text}");
    assert!(line(&text, "- ").contains("emergency sor"), "{text}");
}

#[test]
fn of_new_is_the_share_of_new_connections_as_on_the_page() {
    let of_new = |report: &Value, begin: &str| {
        let mut model = Model::new("/run/pen/pen.ctl", read(report), Instant::now());
        let text = shown(&mut model, (200, 50));
        let title = line(&text, "#");
        let at = title[..title.find("of new").unwrap()].chars().count();
        let cell: String = line(&text, begin).chars().skip(at).take(6).collect();
        cell.trim().to_owned()
    };
    let mut report = report(0);
    let counts = [(0, 300), (1, 12), (2, 0), (3, 0), (4, 0)];
    for (number, count) in counts {
        report["servers"][number]["history"] = json!({ "period": 5, "connections": [0, count] });
        // Open ones do not count.
        report["servers"][number]["connections"] = 7.into();
    }
    let shares = ["0 ", "1 ", "2 ", "- "].map(|begin| of_new(&report, begin));
    assert_eq!(shares, ["96%", "3.8%", "0%", "-"]);
    for (number, _) in counts {
        report["servers"][number]["history"]["connections"] = json!([0, 0]);
    }
    assert_eq!(of_new(&report, "0 "), "-", "there was no client");
}

#[test]
fn a_large_terminal_shows_more_and_a_tiny_one_says_what_it_needs() {
    let (mut model, _) = view();
    let wide = shown(&mut model, (200, 50));
    let columns = line(&wide, "#");
    for title in [
        "server",
        "state",
        "conn",
        "of new",
        "new/s",
        "bytes/s",
        "p50",
        "p99",
        "failed",
        "new in 5 min",
    ] {
        assert!(columns.contains(title), "{title}: {columns}");
    }
    assert!(line(&wide, "2 ").contains("failed 12 s: connection refused"), "{wide}");
    assert!(line(&wide, "2 ").contains("www2.example.com:8080"), "{wide}");
    assert!(line(&wide, "0 ").contains("µs") && line(&wide, "0 ").contains("█"), "{wide}");
    assert!(shown(&mut model, (40, 10)).contains("top needs 60x12, here are 40x10"));
    // Whatever the size, nothing panics.
    for size in [(1, 1), (3, 2), (60, 12), (61, 13), (79, 23), (120, 30), (500, 200)] {
        for code in [KeyCode::Esc, KeyCode::Char('?'), KeyCode::Enter, KeyCode::Char('b')] {
            let now = model.now;
            press(&mut model, code, now);
            shown(&mut model, size);
            press(&mut model, KeyCode::Esc, now);
        }
    }
}

#[test]
fn a_server_that_begins_slowly_tells_its_share() {
    let (mut model, now) = view();
    let mut slow = report(4);
    slow["servers"][0]["slow_start"] = 37.into();
    model.report(read(&slow), now);
    for (size, words) in [((60, 20), " slow 37 % "), ((200, 50), " slow start 37 % ")] {
        let text = shown(&mut model, size);
        assert!(line(&text, "0 ").contains(words), "{size:?}:\n{text}");
    }
    press(&mut model, KeyCode::Enter, now);
    assert!(shown(&mut model, (80, 24)).contains("slow start 37 %"), "the details");
}

/// A report in which servers are out of service in every way.
fn out_of_service() -> Value {
    let mut value = report(4);
    let refused = json!("status 503");
    for (number, state, mode) in
        [(0, "down", "ready"), (1, "drain", "drain"), (2, "maint", "maint")]
    {
        value["servers"][number]["state"] = state.into();
        value["servers"][number]["mode"] = mode.into();
    }
    value["servers"][0]["check"]["state"] = "down".into();
    value["servers"][0]["check"]["reason"] = refused;
    value["servers"][0]["check"]["transitions"] = 3.into();
    value
}

#[test]
fn states_and_checks_are_columns_that_go_last() {
    let (mut model, now) = view();
    model.report(read(&out_of_service()), now);
    for size in [(60, 20), (80, 24), (118, 24), (200, 50)] {
        let text = shown(&mut model, size);
        assert!(line(&text, "#").contains(" check "), "{size:?}:\n{text}");
        let words = |begin: &str, words: &[&str]| {
            let line = line(&text, begin);
            assert!(words.iter().all(|word| line.contains(word)), "{size:?} {words:?}:\n{text}");
        };
        words("0 ", &[" down ", " down sta"]);
        words("1 ", &[" draining", " up 11 ms "]);
        words("2 ", &[" maintenance", " unknown "]);
        words("3 ", &[" out 50 min ", " up 29 ms "]);
    }
    let wide = shown(&mut model, (200, 50));
    assert!(line(&wide, "0 ").contains("down by check") && wide.contains("down status 503"));
    assert!(line(&wide, "1 ").contains("draining: no new clients"), "{wide}");
    // Between them, other columns go one after the other.
    let columns = |width: u16, model: &mut Model| {
        let text = shown(model, (width, 24));
        line(&text, "#").split_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(columns(60, &mut model)[..6], ["#▲", "server", "state", "check", "conn", "new/s"]);
    assert_eq!(columns(80, &mut model).len(), 8, "{:?}", columns(80, &mut model));
    press(&mut model, KeyCode::Enter, now);
    let text = shown(&mut model, (80, 24));
    for part in ["http: down status 503", "for 25 h, checked ", "3 changes"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn a_pen_without_checks_has_no_column_for_them() {
    let (mut model, now) = view();
    let mut value = report(4);
    for number in 0..5 {
        value["servers"][number]["check"] = Value::Null;
    }
    model.report(read(&value), now);
    for size in [(60, 20), (80, 24), (200, 50)] {
        assert!(!line(&shown(&mut model, size), "#").contains("check"));
    }
}

#[test]
fn servers_with_tls_are_marked_and_details_say_whose_certificate_is_good() {
    let (mut model, now) = view();
    let mut value = report(4);
    value["servers"][0]["tls"] = json!({ "verify": "on", "name": "www0.example.com" });
    value["servers"][1]["tls"] = json!({ "verify": "off", "name": null });
    model.report(read(&value), now);
    for size in [(80, 24), (132, 43)] {
        let text = shown(&mut model, size);
        assert!(line(&text, "#").contains(" tls "), "{size:?}:\n{text}");
        assert!(line(&text, "0 ").contains(" yes "), "{size:?}:\n{text}");
        assert!(line(&text, "1 ").contains(" any "), "{size:?}:\n{text}");
    }
    press(&mut model, KeyCode::Enter, now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("verified as www0.example.com"), "{text}");
    let (mut clear, _) = view();
    assert!(!shown(&mut clear, (132, 43)).contains("tls"));
}

#[test]
fn held_clients_a_pause_and_disregarded_checks_are_above_the_servers() {
    let (mut model, now) = view();
    let text = shown(&mut model, (80, 24));
    assert!(!text.contains("held") && !text.contains("! "), "{text}");
    let mut value = report(4);
    (value["held"], value["tarpitted"]) = (12.into(), 3.into());
    model.report(read(&value), now);
    assert!(
        line(&shown(&mut model, (80, 24)), "connections ")
            .contains("   held 12   tarpit 3   clients")
    );
    value["paused"] = true.into();
    value["disregards_checks"] = true.into();
    model.report(read(&value), now);
    let text = shown(&mut model, (80, 24));
    for part in [
        "held 12",
        "! Paused: new clients wait until the command resume.",
        "! All servers are down: checks are disregarded (fail_open)",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn without_colours_and_blocks_all_words_stay() {
    let (mut model, _) = view();
    let buffer = frame(&mut model, (120, 30), PLAIN);
    assert!(text(&buffer).is_ascii() && text(&buffer).contains(" us "), "{}", text(&buffer));
    assert!(buffer.content.iter().all(|cell| {
        cell.fg == ratatui::style::Color::Reset && cell.bg == ratatui::style::Color::Reset
    }));
    let coloured = frame(&mut model, (120, 30), Look { paint: Paint::Colours, ..PLAIN });
    assert_eq!(text(&buffer), text(&coloured), "a colour says nothing alone");
}

#[test]
fn a_lost_connection_is_told_until_pen_is_back() {
    let (mut model, now) = view();
    model.lose("connection refused\u{1b}", now);
    model.lose("connection refused\u{1b}", now + Duration::from_secs(5));
    model.now = now + Duration::from_secs(9);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("! no answer for 9 s") && text.contains("connection refused?"), "{text}");
    assert!(text.contains("www0."), "what was known stays");
    assert_eq!(typed(&mut model, "b", now + Duration::from_secs(9)), Effect::None);
    assert!(shown(&mut model, (80, 24)).contains("pen does not answer now"));
    let later = now + Duration::from_secs(10);
    model.report(read(&report(0)), later);
    model.now = later;
    assert_eq!(model.link, Link::Up);
    let text = shown(&mut model, (80, 24));
    assert!(
        text.contains("pen answers again, after 10 s") && !text.contains("no answer"),
        "{text}"
    );
    assert!(text.contains("new -"), "rates begin anew: {text}");
    model.now = later + Duration::from_secs(60);
    assert!(shown(&mut model, (80, 24)).contains("? help"), "the message has gone");
}

#[test]
fn what_needs_attention_is_above_the_servers() {
    let (mut model, now) = view();
    let mut value = report(4);
    value["reload"] = json!({ "result": "failure", "text": "/etc/pen/pen.conf:3: unknown" });
    value["certificates"] =
        json!([{ "name": "CN=www", "not_after_unix": 1_795_489_821 + 86_400 * 3 }]);
    value["connections"] = json!(2048);
    value["worker_list"][1]["pid"] = Value::Null;
    value["worker_list"][0]["restarts"] = 2.into();
    value["old_workers"] = json!([{ "version": "0.0.9", "age": 5, "connections": 12 }]);
    model.report(read(&value), now);
    let text = shown(&mut model, (100, 30));
    for part in [
        "! last reload failed: /etc/pen/pen.conf:3: unknown",
        "! CN=www expires in 3 d",
        "! All connections are in use",
        "replaced 2x",
        "% starting",
        "1 old of pen 0.0.9: 12 conn",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn no_text_of_pen_reaches_the_terminal_unchecked() {
    let (mut model, now) = view();
    let sly = "\u{1b}]0;title\u{7}\u{9b}2J\r\n\u{202e}";
    let mut value = report(4);
    value["servers"][0]["name"] = sly.into();
    value["servers"][0]["state"] = sly.into();
    value["version"] = sly.into();
    value["listen"] = sly.into();
    value["method"] = sly.into();
    value["events"][0]["text"] = sly.into();
    value["reload"] = json!({ "result": "failure", "text": sly });
    model.report(read(&value), now);
    model.address = crate::text::shown(sly);
    for keys in ["", "?", "\n", "b"] {
        typed(&mut model, keys, now);
        let buffer = frame(&mut model, (120, 30), COLOURS);
        let is_bad =
            |text: &str| text.chars().any(|letter| letter.is_control() || letter == '\u{202e}');
        assert!(!buffer.content.iter().any(|cell| is_bad(cell.symbol())));
        press(&mut model, KeyCode::Esc, now);
    }
}

#[test]
fn an_older_pen_is_shown_as_far_as_it_reports() {
    let old = json!({
        "version": "0.0.9", "unix_time": 5, "servers": [
            { "number": 0, "address": "10.0.0.1", "port": 80, "connections": 3, "state": "up" },
        ],
    });
    let now = Instant::now();
    let mut model = Model::new("8888", read(&old), now);
    let text = shown(&mut model, (100, 24));
    assert!(
        text.contains("pen 0.0.9  8888") && line(&text, "0 ").contains("10.0.0.1:80"),
        "{text}"
    );
    assert!(text.contains("none yet"));
}

/// Every place in a report. Of a list, the first elements stand for all.
fn places(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, value)| places(value, &format!("{path}/{name}"), found));
        }
        Value::Array(elements) => {
            let some = elements.iter().enumerate().take(2);
            some.for_each(|(index, value)| places(value, &format!("{path}/{index}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_report_with_anything_in_it_is_shown() {
    let mut small = report(3);
    small["servers"].as_array_mut().unwrap().drain(1..);
    small["servers"][0]["history"]["connections"] = json!([1, 2]);
    small["servers"][0]["connect_failures"] = json!([{ "reason": "refused", "count": 17 }]);
    small["servers"][0]["last_failure"] = json!({ "unix_time": 3, "reason": "refused" });
    let mut all = Vec::new();
    places(&small, "", &mut all);
    assert!(all.len() > 70, "{}", all.len());
    let wrong = [Value::Null, json!(u64::MAX), json!(-1), json!("\u{1b}[")];
    for path in all {
        for value in &wrong {
            let mut report = small.clone();
            *report.pointer_mut(&path).unwrap() = value.clone();
            let Some(overview) = Overview::read(report.to_string().as_bytes()) else { continue };
            let now = Instant::now();
            let mut model = Model::new("", read(&small), now);
            model.report(overview, now + Duration::from_secs(1));
            press(&mut model, KeyCode::Enter, now);
            let buffer = frame(&mut model, (90, 12), COLOURS);
            let is_bad = |text: &str| text.chars().any(char::is_control);
            assert!(!buffer.content.iter().any(|cell| is_bad(cell.symbol())), "{path}");
        }
    }
}
