//! Events: what `events` and `watch` tell.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};

use serde_json::Value;
use socket2::Socket;

use super::{Client, Pen, until};

/// The events that pen keeps.
#[track_caller]
pub fn events(pen: &Pen) -> Vec<Value> {
    serde_json::from_str(&pen.tell("events 1000 json")).expect("an array")
}

/// Waits for an event of this kind that also fits, and returns the last one.
#[track_caller]
pub fn event(pen: &Pen, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(kind, || events(pen).into_iter().rev().find(|event| event["kind"] == kind && fits(event)))
}

/// Checks the fields of an event, and waits until the log has its line.
#[track_caller]
pub fn has(pen: &Pen, event: &Value, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        assert_eq!(event["fields"][name], *value, "{name} of {event}");
    }
    let text = event["text"].as_str().unwrap();
    pen.hears(&format!(": {text}\n"));
}

/// An operator who watches.
pub struct Watcher {
    /// Its connection. Lines may have been read ahead.
    pub client: Client,
    lines: RefCell<BufReader<Socket>>,
}

/// An operator who watches, from the next event on.
#[track_caller]
pub fn watch(pen: &Pen) -> Watcher {
    try_watch(pen).expect("one more may watch")
}

/// The same; none: it is refused.
#[track_caller]
pub fn try_watch(pen: &Pen) -> Option<Watcher> {
    let client = pen.control().connect().unwrap();
    client.send("outcome watch json\n");
    let lines = RefCell::new(BufReader::new(client.socket().try_clone().unwrap()));
    let watcher = Watcher { client, lines };
    (watcher.line().as_deref() == Some("outcome: ok")).then_some(watcher)
}

impl Watcher {
    /// The next line; none: the connection has ended.
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        let mut line = String::new();
        self.lines.borrow_mut().read_line(&mut line).expect("a line or an end");
        line.strip_suffix('\n').map(str::to_owned)
    }

    /// The next event, or what stands for one.
    #[track_caller]
    pub fn next(&self) -> Value {
        let line = self.line().expect("one more line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}
