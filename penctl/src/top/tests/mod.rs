//! The live view without a terminal: reports and keys go in, frames come out.

mod frames;
mod keys;

use std::time::{Duration, Instant};

use pen_status::histogram::{CONNECT, Histogram};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use serde_json::{Value, json};

use crate::overview::Overview;
use crate::tables::Paint;
use crate::top::draw::{self, Glyphs, Look};
use crate::top::model::{Effect, Model};

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
            "mode": "ready", "check": {
                "kind": "http", "state": "up", "since": 1_795_400_000,
                "duration_us": 2300 + 9000 * number, "reason": null,
                "last": 1_795_489_820 + second, "transitions": 0,
            },
        })
    };
    let failure = json!({ "unix_time": 1_795_489_800, "reason": "connection refused" });
    let mut failed = server(2, "failed", 12, 0);
    for counter in ["sent", "received", "connections_total"] {
        failed[counter] = 20_000.into();
    }
    failed["last_failure"] = failure;
    failed["check"]["state"] = "unknown".into();
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
        "method": "leastconn",
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
