//! Streams of events.

use pen_status::event::{EventKind, EventRecord, EventTime};

use super::*;

fn status(ids: std::ops::Range<u64>) -> Status {
    let event = |id| EventRecord {
        id,
        time: EventTime(id),
        kind: EventKind::Reloaded,
        text: format!("event {id}"),
        fields: Default::default(),
    };
    Status { events: ids.map(event).collect(), ..well() }
}

/// A status with one event more, which happens now.
fn now(before: std::ops::Range<u64>) -> Status {
    let mut status = status(before.start..before.end + 1);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    if let Some(event) = status.events.last_mut() {
        event.time = EventTime(since.as_millis().try_into().unwrap());
    }
    status
}

/// The next event of a stream: its lines.
#[track_caller]
fn event(stream: &mut TcpStream) -> Vec<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap().trim_end().lines().map(str::to_owned).collect()
}

#[test]
fn events_come_once_to_each_reader_and_again_to_one_that_was_away() {
    let process = Process::plain();
    let mut stream = process.gets("/events");
    let head = head(&mut stream);
    assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"), "{head}");
    assert!(!head.contains("Content-Length"), "{head}");
    assert_eq!(event(&mut stream), ["retry: 1000"]);
    // It makes the process ask each second.
    process.answers(process.asked(), &status(1..4));
    process.answers(process.asked(), &status(2..5));
    assert_eq!(event(&mut stream)[..2], ["id: 4", "event: reloaded"]);
    let request = "GET /events HTTP/1.1\r\nHost: pen\r\nLast-Event-ID: 2\r\n\r\n";
    let mut again = process.sends(request);
    super::head(&mut again);
    event(&mut again);
    process.answers(process.asked(), &status(2..6));
    assert_eq!(event(&mut again)[0], "id: 3");
    assert_eq!(event(&mut again)[0], "id: 4");
    let lines = event(&mut again);
    let data = lines[2].strip_prefix("data: ").unwrap();
    let record: EventRecord = serde_json::from_str(data).unwrap();
    assert_eq!((lines[0].as_str(), record.id), ("id: 5", 5));
    assert_eq!(event(&mut stream)[0], "id: 5");
    // What such a reader sends means nothing.
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    process.answers(process.asked(), &status(6..7));
    assert_eq!(event(&mut stream)[0], "id: 6");
}

#[test]
fn what_happens_after_the_arrival_comes_even_if_the_first_status_is_late() {
    let process = Process::plain();
    let mut stream = process.gets("/events");
    head(&mut stream);
    event(&mut stream);
    process.answers(process.asked(), &now(1..4));
    assert_eq!(event(&mut stream)[0], "id: 4");
    // Of those that a status has no more, it hears how many there were.
    process.answers(process.asked(), &status(7..9));
    assert_eq!(event(&mut stream), ["event: missing", "data: {\"missing\":2}"]);
    assert_eq!(event(&mut stream)[0], "id: 7");
}

#[test]
fn a_stream_goes_on_although_the_supervisor_is_silent_for_a_while() {
    let process = Process::plain();
    let mut stream = process.gets("/events");
    head(&mut stream);
    event(&mut stream);
    process.answers(process.asked(), &status(1..2));
    process.asked();
    let serial = process.asked();
    process.answers(serial, &status(1..3));
    assert_eq!(event(&mut stream)[0], "id: 2");
}

#[test]
fn head_of_a_stream_ends_at_once() {
    let process = Process::plain();
    let mut reader = process.sends("HEAD /events HTTP/1.1\r\nHost: pen\r\n\r\n");
    assert!(response(&mut reader, false).has("Content-Type: text/event-stream"));
    assert_eq!(rest(&mut reader), "");
}
