//! More readers than there is room for, and readers that take their time.

use std::io::Write;
use std::time::Instant;

use pen_status::Status;

use super::*;
use crate::page::{READERS, STREAMS};

#[test]
fn of_too_many_readers_the_idlest_has_to_go() {
    let process = Process::plain();
    let mut crowd: Vec<TcpStream> = (0..READERS).map(|_| process.gets("/x")).collect();
    crowd.iter_mut().for_each(|reader| assert_eq!(response(reader, true).status, 404));
    // The first has begun a request, so the others can rather be spared.
    crowd[0].write_all(b"GET /").unwrap();
    crowd[1].write_all(b"GET /x HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    assert_eq!(response(&mut crowd[1], true).status, 404);
    let mut later = Vec::new();
    for idlest in &mut crowd[2..8] {
        later.push(process.gets("/x"));
        assert_eq!(response(later.last_mut().unwrap(), true).status, 404);
        assert_eq!(rest(idlest), "");
    }
    crowd[0].write_all(b"x HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    assert_eq!(response(&mut crowd[0], true).status, 404);
}

#[test]
fn if_nobody_can_be_spared_one_more_is_told_so() {
    let process = Process::plain();
    let mut crowd: Vec<TcpStream> = (0..READERS).map(|_| process.gets("/health")).collect();
    let serial = process.asked();
    // All requests are read before another reader comes.
    process.tells(&ToPage::Ping { serial: 1 }, None);
    while message(&process.channel) != (FromPage::Pong { serial: 1 }) {}
    let mut busy = loop {
        let mut reader = process.gets("/health");
        let got = response(&mut reader, true);
        // One that came before the others were read takes the place of one of them.
        if got.body == "too many readers at once\n" {
            assert!(got.status == 503 && got.has("Connection: close"));
            break reader;
        }
    };
    // Its request is read, so that no reset overtakes the answer.
    assert_eq!(rest(&mut busy), "");
    process.answers(serial, &well());
    crowd.iter_mut().for_each(|reader| assert_eq!(response(reader, true).status, 200));
    assert_eq!(response(&mut process.gets("/health"), true).status, 200);
}

#[test]
fn a_thousand_connections_at_once_keep_nobody_from_reading() {
    let process = Process::plain();
    let mut served = 0;
    for _ in 0..4 {
        let silent: Vec<TcpStream> = (0..250).map(|_| process.connect()).collect();
        assert_eq!(response(&mut process.gets("/x"), true).status, 404);
        served += silent.len();
    }
    assert_eq!(served, 1000);
}

#[test]
fn readers_of_events_leave_room_for_scrapes() {
    let process = Process::plain();
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| process.gets("/events")).collect();
    streams.iter_mut().for_each(|stream| assert!(head(stream).starts_with("HTTP/1.1 200 ")));
    let got = response(&mut process.gets("/events"), true);
    assert_eq!((got.status, &got.body[..]), (503, "too many readers of events\n"));
    let mut crowd: Vec<TcpStream> = (0..READERS).map(|_| process.gets("/x")).collect();
    crowd.iter_mut().for_each(|reader| assert_eq!(response(reader, true).status, 404));
    drop(streams.pop());
    // Its end is noticed, and then there is room for another one.
    while response(&mut process.gets("/events"), false).status != 200 {}
}

#[test]
fn a_slow_reader_gets_everything_and_delays_nobody() {
    let process = Process::plain();
    let mut slow = process.gets("/status.json");
    let status = Status { listen: "x".repeat(8 << 20), ..well() };
    let serial = process.asked();
    process.answers(serial, &status);
    for _ in 0..10 {
        assert_eq!(response(&mut process.gets("/x"), true).status, 404);
    }
    let got = response(&mut slow, true);
    assert_eq!(serde_json::from_str::<Status>(&got.body).unwrap(), status);
}

#[test]
fn readers_that_take_nothing_do_not_keep_all_places() {
    let process = Process::plain();
    let status = Status { listen: "x".repeat(8 << 20), ..well() };
    let stalled: Vec<TcpStream> = (0..READERS).map(|_| process.gets("/status.json")).collect();
    let serial = process.asked();
    process.answers(serial, &status);
    // At first each of them may still be reading, and one more is told that there is no room.
    let deadline = Instant::now() + PATIENCE;
    while response(&mut process.gets("/x"), true).status != 404 {
        assert!(Instant::now() < deadline, "no reader lost its place");
        // Those that were not read yet ask again.
        if let Received::Message(FromPage::Ask { serial }, _) = process.channel.receive().unwrap() {
            process.answers(serial, &status);
        }
    }
    drop(stalled);
}

#[test]
fn a_request_that_takes_too_long_is_given_up() {
    let process = Process::plain();
    let mut slow = process.sends("GET /x HTTP/1.1\r\n");
    let mut silent = process.connect();
    let got = response(&mut slow, true);
    assert_eq!((got.status, &got.body[..]), (408, "the request took too long\n"));
    assert_eq!(rest(&mut slow), "");
    assert_eq!(rest(&mut silent), "");
}
