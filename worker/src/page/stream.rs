//! The event stream of one reader (`/events`), as HTML's EventSource reads it.
//!
//! Pure. A reader that comes again names the last event that it had, and gets those since then. One
//! that names none gets what happens from its arrival on. An event `missing` stands for those that
//! are gone before the reader could have them.

use std::time::{Duration, Instant};

use pen_status::event::{EventRecord, EventTime};

use crate::page::request::Stays;
use crate::page::response::{Content, Response};

/// How long a stream is silent at most.
const SILENCE: Duration = Duration::from_secs(15);

/// Most bytes that wait for a reader. One that lets more come together is let go, and comes again.
const MOST: usize = 256 * 1024;

/// What a reader gets, and how far it is.
#[derive(Debug)]
pub struct Stream {
    /// Bytes that wait for the reader.
    pending: Vec<u8>,
    since: Since,
    /// When a comment is due.
    comment: Instant,
}

/// Which events a reader wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// Those after the one with this number.
    Event(u64),
    /// Those that happen from this moment on.
    Moment(EventTime),
}

impl Stream {
    /// A stream of the events that a reader does not have.
    pub fn new(since: Since, unix: i64, now: Instant) -> Stream {
        let response = Response::shown(Content::Events, std::rc::Rc::default());
        let mut pending = response.head(Stays::Closes, unix);
        pending.extend_from_slice(b"retry: 1000\n\n");
        Stream { pending, since, comment: now + SILENCE }
    }

    /// The bytes that wait for the reader.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Notes that so many of them were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.pending.drain(..bytes);
    }

    /// Adds a comment if it is due, so that both ends notice when the other one has gone.
    pub fn comment(&mut self, now: Instant) {
        if self.comment <= now {
            self.add(b":\n\n", now);
        }
    }

    /// Adds the events that the reader does not have, and how many of them are missing.
    pub fn add_events(&mut self, events: &[EventRecord], now: Instant) {
        let newest = events.last().map_or(0, |event| event.id);
        let mut last = match self.since {
            // If the reader knows later ones, pen was started anew, and counts from the beginning.
            Since::Event(last) if last > newest => 0,
            Since::Event(last) => last,
            Since::Moment(arrival) => {
                let before =
                    events.iter().filter(|event| event.time < arrival).map(|event| event.id);
                // If none is from before, nobody knows how many are between.
                let oldest = events.first().map_or(0, |event| event.id.saturating_sub(1));
                before.max().unwrap_or(oldest)
            }
        };
        for event in events {
            if event.id <= last {
                continue;
            }
            // An event has a form in JSON, and JSON has no line ends.
            let Ok(data) = serde_json::to_string(event) else { continue };
            let missing = event.id - last - 1;
            if missing > 0 {
                self.add(
                    format!("event: missing\ndata: {{\"missing\":{missing}}}\n\n").as_bytes(),
                    now,
                );
            }
            let (id, kind) = (event.id, event.kind.name());
            let text = format!("id: {id}\nevent: {kind}\ndata: {data}\n\n");
            self.add(text.as_bytes(), now);
            last = id;
        }
        self.since = Since::Event(last);
    }

    /// Whether more waits for the reader than is kept for it.
    pub fn is_behind(&self) -> bool {
        self.pending.len() > MOST
    }

    fn add(&mut self, bytes: &[u8], now: Instant) {
        self.pending.extend_from_slice(bytes);
        self.comment = now + SILENCE;
    }
}

#[cfg(test)]
mod tests {
    use pen_status::event::{EventKind, EventTime};

    use super::*;

    fn events(ids: std::ops::Range<u64>) -> Vec<EventRecord> {
        let event = |id| EventRecord {
            id,
            time: EventTime(id),
            kind: EventKind::ServerDown,
            text: "one\nline".into(),
            fields: Default::default(),
        };
        ids.map(event).collect()
    }

    fn ids(stream: &mut Stream) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut stream.pending)).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
    }

    #[test]
    fn a_reader_gets_each_event_once() {
        let now = Instant::now();
        let mut stream = Stream::new(Since::Moment(EventTime(4)), 0, now);
        stream.add_events(&events(1..4), now);
        assert_eq!(ids(&mut stream), [""; 0], "from now on");
        stream.add_events(&events(2..6), now);
        stream.add_events(&events(2..6), now);
        assert_eq!(ids(&mut stream), ["4", "5"]);
        let mut again = Stream::new(Since::Event(3), 0, now);
        again.add_events(&events(2..6), now);
        assert_eq!(ids(&mut again), ["4", "5"]);
        let mut of_earlier_pen = Stream::new(Since::Event(90), 0, now);
        of_earlier_pen.add_events(&events(1..3), now);
        assert_eq!(ids(&mut of_earlier_pen), ["1", "2"]);
        let mut empty = Stream::new(Since::Moment(EventTime(0)), 0, now);
        empty.add_events(&[], now);
        empty.add_events(&events(1..2), now);
        assert_eq!(ids(&mut empty), ["1"]);
    }

    #[test]
    fn what_happens_between_the_arrival_and_the_first_status_comes_too() {
        let now = Instant::now();
        for (arrival, wanted) in [(1, "1 2 3"), (3, "3"), (4, "")] {
            let mut stream = Stream::new(Since::Moment(EventTime(arrival)), 0, now);
            stream.add_events(&events(1..4), now);
            assert_eq!(ids(&mut stream).join(" "), wanted, "since {arrival}");
        }
    }

    #[test]
    fn a_reader_is_told_how_many_events_are_missing() {
        let now = Instant::now();
        let told = |stream: &Stream| {
            let text = String::from_utf8(stream.pending().to_vec()).unwrap();
            let lines =
                text.lines().filter(|line| line.contains("\"missing\"") || line.starts_with("id"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut stream = Stream::new(Since::Event(2), 0, now);
        stream.add_events(&[events(5..7), events(9..10)].concat(), now);
        let lines = ["data: {\"missing\":2}", "id: 5", "id: 6", "data: {\"missing\":2}", "id: 9"];
        assert_eq!(told(&stream), lines);
        stream.add_events(&events(9..12), now);
        assert_eq!(told(&stream)[5..], ["id: 10", "id: 11"]);
        // One that never had an event misses none of those before its arrival.
        let mut stream = Stream::new(Since::Moment(EventTime(0)), 0, now);
        stream.add_events(&events(5..6), now);
        assert_eq!(told(&stream), ["id: 5"]);
    }

    #[test]
    fn the_form_is_that_of_event_streams() {
        let now = Instant::now();
        let mut stream = Stream::new(Since::Event(0), 0, now);
        let head = String::from_utf8(stream.pending().to_vec()).unwrap();
        assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\nretry: 1000\n\n"), "{head}");
        stream.sent(head.len());
        stream.comment(now);
        assert_eq!(stream.pending(), b"");
        stream.comment(now + SILENCE);
        assert_eq!(stream.pending(), b":\n\n");
        stream.sent(3);
        stream.add_events(&events(1..2), now);
        let text = String::from_utf8(stream.pending().to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[1], lines[3]), ("id: 1", "event: server_down", ""));
        let data = lines[2].strip_prefix("data: ").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!((&data["id"], &data["text"]), (&1.into(), &"one\nline".into()));
    }
}
