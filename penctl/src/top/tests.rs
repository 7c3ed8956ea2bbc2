//! The live view without a terminal: reports and keys go in, frames come out.

use std::time::{Duration, Instant};

use pen_ipc::message::Outcome;
use pen_status::histogram::{CONNECT, Histogram};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use serde_json::{Value, json};

use super::draw::{self, Glyphs, Look};
use super::model::{AnswerPlace, Asked, Effect, Link, Mode, Model};
use crate::overview::{Overview, Slot};
use crate::tables::Paint;

pub const COLOURS: Look = Look { paint: Paint::Colours, glyphs: Glyphs::Blocks };
const PLAIN: Look = Look { paint: Paint::Plain, glyphs: Glyphs::Ascii };

/// A moment of a busy pen: what it reports after so many seconds.
pub fn report(second: u64) -> Value {
    let connect = |micros: u64| {
        let mut histogram = Histogram::default();
        (0..98).for_each(|_| histogram.record(&CONNECT, micros));
        (0..2).for_each(|_| histogram.record(&CONNECT, micros * 20));
        histogram
    };
    let history = |number: u64| {
        let wave = |period: u64| {
            let swing = (period + 7 * number) % 30;
            (90 + 8 * swing.min(30 - swing) + period * 5 % 7) / (number + 1)
        };
        json!({ "period": 5, "connections": (0..60).map(wave).collect::<Vec<u64>>() })
    };
    let server = |number: u64, state: &str, blacklisted: u64, connections: u64| {
        json!({
            "number": number, "name": format!("www{number}.example.com"), "port": 8080,
            "address": format!("10.0.0.{number}"), "state": state, "blacklisted": blacklisted,
            "connections": connections, "max": 200, "hard": 240, "weight": 1 + number % 2,
            "sent": 1_000_000 + second * 300_000 / (number + 1),
            "received": 9_000_000 + second * 4_000_000 / (number + 1),
            "connections_total": 5000 + second * 40 / (number + 1),
            "connect": connect(130 + 150 * number), "failovers": 0,
            "connect_failures": [], "last_failure": null, "history": history(number),
        })
    };
    let failure = json!({ "unix_time": 1_795_489_800, "reason": "connection refused" });
    let mut failed = server(2, "failed", 12, 0);
    for counter in ["sent", "received", "connections_total"] {
        failed[counter] = 20_000.into();
    }
    failed["last_failure"] = failure;
    failed["connect_failures"] = json!([{ "reason": "refused", "count": 17 }]);
    failed["history"]["connections"] = Value::from([vec![60; 40], vec![0; 20]].concat());
    let event = |id: u64, time: &str, kind: &str, text: &str| {
        let time = format!("2026-11-24T{time}.000Z");
        json!({ "id": id, "time": time, "kind": kind, "text": text, "fields": {} })
    };
    let worker = |number: u64, connections: u64, busy: u64| {
        let busy = 90_000 + busy * second;
        json!({
            "number": number, "pid": 4712 + number, "connections": connections,
            "busy_ms": busy, "restarts": 0,
        })
    };
    json!({
        "version": "0.1.0", "time": format!("2026-11-24 04:10:{}", 21 + second),
        "unix_time": 1_795_489_821 + second,
        "uptime": 259_200 + second, "pid": 4711, "listen": "0.0.0.0:443", "workers": 2,
        "worker_list": [worker(0, 161, 230), worker(1, 158, 210)],
        "old_workers": [], "connections": 319, "connections_max": 2048,
        "clients": 1204, "clients_max": 4096,
        "counts": { "accepted": 1_000_000 + second * 91, "unserved": 0 },
        "servers": [
            server(0, "up", 0, 97), server(1, "full", 0, 200), failed,
            server(3, "out", 3000, 4), server(4, "up", 0, 18),
        ],
        "emergency": {
            "number": null, "name": "sorry.example.com", "address": "10.0.0.99", "port": 80,
            "state": "up", "connections": 0, "max": 0, "sent": 0, "received": 0, "weight": 1,
        },
        "abuse": null,
        "events": [
            event(1, "02:58:02", "reloaded", "configuration /etc/pen/pen.conf read again"),
            event(2, "03:04:11", "server_state", "operator: server 3 blacklist 3600, by uid 0"),
            event(3, "03:09:40", "server_limit", "server 1 (10.0.0.1:8080) is passed over: it has \
                200 of 200 connections; raise its max"),
            event(4, "03:10:00", "server_down",
                "blacklisting server 2 (10.0.0.2:8080) for 30 s: connection refused"),
        ],
    })
}

pub fn read(value: &Value) -> Overview {
    Overview::read(value.to_string().as_bytes()).unwrap()
}

/// The view of a pen that has reported for some seconds.
pub fn view() -> (Model, Instant) {
    let begin = Instant::now();
    let mut model = Model::new("/run/pen/pen.ctl", read(&report(0)), begin);
    let mut now = begin;
    for second in 1..4 {
        now = begin + Duration::from_secs(second);
        model.report(read(&report(second)), now);
    }
    model.now = now;
    (model, now)
}

pub fn frame(model: &mut Model, size: (u16, u16), look: Look) -> Buffer {
    model.set_page(draw::page(Rect::new(0, 0, size.0, size.1), model));
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model, look)).unwrap();
    terminal.backend().buffer().clone()
}

/// The frame as text, a line for each row.
fn shown(model: &mut Model, size: (u16, u16)) -> String {
    text(&frame(model, size, COLOURS))
}

fn text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let row = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.map(row).collect()
}

fn press(model: &mut Model, code: KeyCode, now: Instant) -> Effect {
    model.key(KeyEvent::new(code, KeyModifiers::NONE), now)
}

fn typed(model: &mut Model, text: &str, now: Instant) -> Effect {
    text.chars().fold(Effect::None, |_, letter| match letter {
        '\n' => press(model, KeyCode::Enter, now),
        letter => press(model, KeyCode::Char(letter), now),
    })
}

#[track_caller]
fn line<'t>(text: &'t str, begin: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}:\n{text}"))
}

#[test]
fn everything_is_seen_at_a_glance() {
    let (mut model, _) = view();
    let text = shown(&mut model, (80, 24));
    for part in [
        "pen 0.1.0  /run/pen/pen.ctl  listens on 0.0.0.0:443",
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
fn servers_are_ordered_and_found_and_the_selection_stays_with_its_server() {
    let (mut model, now) = view();
    let order = |model: &Model| -> Vec<String> {
        model.rows().iter().map(|server| server.slot.to_string()).collect()
    };
    typed(&mut model, "jj", now);
    assert_eq!(model.selected, Some(Slot::Number(2)));
    typed(&mut model, "C", now);
    assert_eq!(order(&model), ["1", "0", "4", "3", "2", "emergency"]);
    typed(&mut model, "C", now);
    assert_eq!(order(&model)[0], "2", "again: the other way");
    typed(&mut model, "F", now);
    assert_eq!(order(&model)[0], "2", "it has failed connects");
    typed(&mut model, "S", now);
    assert_eq!(order(&model)[..3], ["2", "3", "1"], "the worst first");
    typed(&mut model, "R", now);
    assert_eq!(order(&model)[0], "0");
    typed(&mut model, "<r", now);
    assert_eq!(model.selected, Some(Slot::Number(2)));
    typed(&mut model, "N/REFUSED", now);
    assert_eq!(order(&model), ["2"], "it is found by its reason, while one types");
    typed(&mut model, "\n", now);
    assert!(shown(&mut model, (80, 24)).contains("only \"REFUSED\""));
    press(&mut model, KeyCode::Esc, now);
    assert_eq!(order(&model).len(), 6);
}

#[test]
fn hundreds_of_servers_scroll() {
    let (mut model, now) = view();
    let mut value = report(4);
    let servers: Vec<Value> = (0..300)
        .map(|number| {
            let port = 1000 + number;
            json!({ "number": number, "address": "10.0.0.1", "port": port, "state": "up" })
        })
        .collect();
    value["servers"] = Value::from(servers);
    model.report(read(&value), now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains(":1000") && !text.contains(":1299"), "{text}");
    press(&mut model, KeyCode::End, now);
    let text = shown(&mut model, (80, 24));
    assert!(line(&text, "- ").contains("emergency") && text.contains(":1299"), "{text}");
    press(&mut model, KeyCode::PageUp, now);
    press(&mut model, KeyCode::Home, now);
    assert!(shown(&mut model, (80, 24)).contains(":1000"));
    // A server that goes leaves the selection on another.
    press(&mut model, KeyCode::End, now);
    model.report(read(&report(5)), now);
    assert!(model.selected.is_some() && shown(&mut model, (80, 24)).contains("www0."));
}

#[test]
fn a_change_is_asked_about_once_more() {
    let (mut model, now) = view();
    let text = |model: &mut Model| shown(model, (80, 24));
    assert_eq!(typed(&mut model, "jb", now), Effect::None);
    assert!(text(&mut model).contains("server 1 (www1.example.com:8080): seconds without clients"));
    assert_eq!(typed(&mut model, "9x0\n", now), Effect::None, "a letter is no digit");
    assert!(text(&mut model).contains("server 1 blacklist 90"));
    assert_eq!(typed(&mut model, "n", now), Effect::None);
    assert!(text(&mut model).contains("nothing changed"));
    let asked = Asked { line: "server 1 blacklist 60".into(), answer: AnswerPlace::Message };
    assert_eq!(typed(&mut model, "b\ny", now), Effect::Ask(asked.clone()), "60 unless told");
    model.answer(&asked, Ok((Outcome::Done, String::new())), now);
    assert!(text(&mut model).contains("done: server 1 blacklist 60"));
    model.answer(&asked, Ok((Outcome::Refused, "server: no\u{1b}[2J".into())), now);
    assert!(text(&mut model).contains("refused: server: no?[2J"));
    // One that is out is brought back.
    typed(&mut model, "jjb\n", now);
    assert!(text(&mut model).contains("it gets clients again"), "{}", text(&mut model));
    let back = Asked { line: "server 3 blacklist 0".into(), answer: AnswerPlace::Message };
    assert_eq!(typed(&mut model, "y", now), Effect::Ask(back));
    let weight = Asked { line: "server 3 weight 7".into(), answer: AnswerPlace::Message };
    assert_eq!(typed(&mut model, "w7\ny", now), Effect::Ask(weight));
    assert_eq!(typed(&mut model, "w99999999999999999999999\n", now), Effect::None);
    assert!(text(&mut model).contains("is too large"));
    // The emergency server has no number.
    press(&mut model, KeyCode::End, now);
    assert_eq!(typed(&mut model, "b", now), Effect::None);
    assert!(text(&mut model).contains("the emergency server has no number"));
}

#[test]
fn a_command_is_not_sent_for_another_server_than_the_user_saw() {
    let (mut model, now) = view();
    typed(&mut model, "b\n", now);
    let mut value = report(4);
    value["servers"][0]["name"] = "other".into();
    model.report(read(&value), now);
    assert_eq!(typed(&mut model, "y", now), Effect::None);
    assert!(shown(&mut model, (80, 24)).contains("server 0 is another one now"));
}

#[test]
fn a_client_is_explained() {
    let (mut model, now) = view();
    typed(&mut model, "e192.0.2.g\n", now);
    assert!(shown(&mut model, (80, 24)).contains("192.0.2. is no IP address"));
    let asked = Asked { line: "explain 2001:db8::1".into(), answer: AnswerPlace::Text };
    assert_eq!(typed(&mut model, "e2001:db8::1\n", now), Effect::Ask(asked.clone()));
    let answer = (0..100).map(|number| format!("reason {number}\n")).collect::<String>();
    model.answer(&asked, Ok((Outcome::Done, answer)), now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("explain 2001:db8::1") && text.contains("reason 5"), "{text}");
    press(&mut model, KeyCode::PageDown, now);
    let text = shown(&mut model, (80, 24));
    assert!(text.contains("reason 10") && !text.contains("reason 5 "), "{text}");
    typed(&mut model, "x", now);
    assert_eq!(model.mode, Mode::Table);
    model.answer(&asked, Err("gone".into()), now);
    assert!(shown(&mut model, (80, 24)).contains("explain 2001:db8::1: gone"));
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
        "! all connections are in use",
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
    value["events"][0]["text"] = sly.into();
    value["reload"] = json!({ "result": "failure", "text": sly });
    model.report(read(&value), now);
    model.place = crate::text::shown(sly);
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

#[test]
fn leaving_and_stopping_are_effects() {
    let (mut model, now) = view();
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!(typed(&mut model, "q", now), Effect::Quit);
    for (letter, effect) in [('c', Effect::Quit), ('z', Effect::Suspend), ('l', Effect::Redraw)] {
        // In a question, too.
        typed(&mut model, "/", now);
        assert_eq!(model.key(control(letter), now), effect);
        press(&mut model, KeyCode::Esc, now);
    }
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
