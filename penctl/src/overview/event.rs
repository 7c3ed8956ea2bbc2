//! An event as pen reports it.

use serde_json::Value;

use super::{moment, text};

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub id: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    pub kind: String,
    pub text: String,
}

impl Event {
    /// Reads one record. `None`: it is none.
    pub fn read(event: &Value) -> Option<Event> {
        Some(Event {
            id: event["id"].as_u64()?,
            time: moment(&event["time"])?.0,
            kind: text(&event["kind"]).unwrap_or_default(),
            text: text(&event["text"])?,
        })
    }

    /// Reads the reply to `events json`. `None`: it is none.
    pub fn read_all(reply: &[u8]) -> Option<Vec<Event>> {
        let value: Value = serde_json::from_slice(reply).ok()?;
        Some(value.as_array()?.iter().filter_map(Event::read).collect())
    }
}
