//! `watch`: prints what happens at one or more pens until the user interrupts it. A connection
//! that is lost is made again, and the events in between are printed first.
//!
//! pen is always asked for JSON, because only there events have numbers. A line for people is made
//! of it here.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pen_ipc::message::Outcome;
use pen_status::event::EventTime;
use serde::Deserialize;
use serde_json::Value;

use crate::arguments::OutputForm;
use crate::overview::{OVERVIEW, Overview};
use crate::places::{Place, complain};
use crate::talk::plain;
use crate::text::shown;

/// The pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest line in bytes. The rest of a longer one is omitted.
const LONGEST: usize = 65_536;

/// Longest reply in bytes with all events that a pen keeps, or with its state.
const MOST_REPLY: usize = 64 << 20;

/// The command that begins to watch.
const WATCH: &[u8] = b"watch json";

/// The command that returns the newest event.
const NEWEST: &[u8] = b"events 1 json";

/// The command that returns all events that pen keeps.
const KEPT: &[u8] = b"events 1000 json";

/// Milliseconds of a quarter of an hour. Zones change their offset only at its multiples.
const QUARTER: u64 = 15 * 60 * 1000;

/// Prints the events of these pens. It ends if all refuse, or standard output is closed.
///
/// # Errors
/// A pen could not be reached from the beginning, or standard output cannot be written.
pub fn run(places: &[Place], form: OutputForm) -> Result<Outcome, String> {
    if let [place] = places {
        return Watcher::new(place, form, Heading::Absent).run();
    }
    let (tell, ended) = mpsc::channel();
    for place in places {
        let (place, tell) = (place.clone(), tell.clone());
        thread::spawn(move || {
            let result = Watcher::new(&place, form, Heading::Address).run();
            // Without a receiver, the program is about to end.
            let _ = tell.send((place, result));
        });
    }
    drop(tell);
    let mut all = Outcome::Done;
    let mut silent = 0;
    for (place, result) in ended {
        match result {
            // Standard output is closed.
            Ok(Outcome::Done) => return Ok(Outcome::Done),
            Ok(Outcome::Refused) => all = Outcome::Refused,
            Err(error) => {
                silent += 1;
                complain(&place, &error);
            }
        }
    }
    match silent {
        0 => Ok(all),
        _ => Err(format!("{silent} of {} gave no reply", places.len())),
    }
}

/// Whether each line names the pen.
#[derive(Clone, Copy)]
enum Heading {
    Absent,
    Address,
}

/// Prints the events of one pen.
struct Watcher<'p> {
    place: &'p Place,
    form: OutputForm,
    heading: Heading,
    progress: RefCell<Progress>,
}

/// How far a watcher has come.
#[derive(Debug, Default)]
struct Progress {
    /// The last event that was printed; before the first, the newest one then.
    last: Option<Seen>,
    /// The events up to this number were printed before this connection brought them.
    caught_up: u64,
    /// The quarter of an hour of the last event, and the offset of pen's local time in seconds.
    offset: Option<(u64, i64)>,
}

/// An event, as far as it tells whether another pen has the same.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    id: u64,
    time: Value,
}

impl Seen {
    fn of(event: &Value) -> Option<Seen> {
        Some(Seen { id: event["id"].as_u64()?, time: event["time"].clone() })
    }
}

/// The events after the last one that was seen. `None`: they are those of another pen, which
/// began anew.
fn after(last: &Seen, kept: Vec<Value>) -> Option<Vec<Value>> {
    let seen: Vec<Seen> = kept.iter().filter_map(Seen::of).collect();
    let newest = seen.iter().map(|seen| seen.id).max().unwrap_or(0);
    let is_other = |seen: &Seen| seen.id == last.id && seen.time != last.time;
    if newest < last.id || seen.iter().any(is_other) {
        return None;
    }
    let is_new = |event: &Value| event["id"].as_u64().is_some_and(|id| id > last.id);
    Some(kept.into_iter().filter(is_new).collect())
}

/// How a connection is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Link {
    New,
    Up,
    Lost,
}

impl<'p> Watcher<'p> {
    fn new(place: &'p Place, form: OutputForm, heading: Heading) -> Watcher<'p> {
        Watcher { place, form, heading, progress: RefCell::default() }
    }

    fn run(&self) -> Result<Outcome, String> {
        let mut link = Link::New;
        loop {
            let mut lines = Lines::default();
            let closed = RefCell::new(None);
            let failed = |error: io::Error| {
                *closed.borrow_mut() = Some(error.kind());
                format!("standard output: {}", plain(&error))
            };
            let mut begun = || {
                let before = std::mem::replace(&mut link, Link::Up);
                self.begin(before).map_err(failed)
            };
            let result = self.place.follow(WATCH, &mut begun, &mut |piece| {
                lines.take(piece, &mut |line| self.on_line(line)).map_err(failed)
            });
            match (*closed.borrow(), result) {
                (Some(ErrorKind::BrokenPipe), _) => return Ok(Outcome::Done),
                (Some(_), Err(error)) => return Err(error),
                (_, Ok(Outcome::Refused)) => return Ok(Outcome::Refused),
                (_, Err(error)) if link == Link::New => return Err(error),
                (_, Err(error)) => self.lose(&mut link, &error),
                (_, Ok(Outcome::Done)) => self.lose(&mut link, "pen ended the connection"),
            }
            thread::sleep(PAUSE);
        }
    }

    /// A connection begins, and pen sends it the events from now on: prints those before it that
    /// the last connection did not bring.
    fn begin(&self, before: Link) -> io::Result<()> {
        self.progress.borrow_mut().caught_up = 0;
        let last = self.progress.borrow().last.clone();
        let Some(last) = last else {
            let newest = self.events(NEWEST).and_then(|events| events.last().and_then(Seen::of));
            self.progress.borrow_mut().last = newest;
            return Ok(());
        };
        match before {
            Link::New | Link::Up => return Ok(()),
            Link::Lost => {}
        }
        let Some(kept) = self.events(KEPT) else {
            self.tell("connected again; events in between are in the reply to events");
            return Ok(());
        };
        let newest = kept.last().and_then(Seen::of);
        let Some(missed) = after(&last, kept) else {
            self.tell(
                "connected again; pen was started anew: its events are in the reply to events",
            );
            self.progress.borrow_mut().last = newest;
            return Ok(());
        };
        self.tell("connected again");
        let mut next = last.id + 1;
        for event in missed {
            let id = event["id"].as_u64().unwrap_or(next);
            if let missing @ 1.. = id.saturating_sub(next) {
                self.print(&serde_json::json!({ "missing": missing }).to_string())?;
            }
            next = id + 1;
            self.on_event(&event.to_string(), &event)?;
            self.progress.borrow_mut().caught_up = id;
        }
        Ok(())
    }

    /// The reply to a command for events, oldest first. `None`: there is none.
    fn events(&self, command: &[u8]) -> Option<Vec<Value>> {
        match self.place.ask_whole(command, MOST_REPLY) {
            Ok((Outcome::Done, reply)) => serde_json::from_slice(&reply).ok(),
            Ok((Outcome::Refused, _)) | Err(_) => None,
        }
    }

    /// Takes a line, which has no line end.
    fn on_line(&self, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line);
        match serde_json::from_str::<Value>(&line) {
            Ok(record) if record["id"].is_u64() => self.on_event(&line, &record),
            Ok(_) | Err(_) => self.print(&line),
        }
    }

    /// Prints an event, unless it was printed before.
    fn on_event(&self, line: &str, event: &Value) -> io::Result<()> {
        let seen = Seen::of(event);
        let caught_up = self.progress.borrow().caught_up;
        if seen.as_ref().is_some_and(|seen| seen.id <= caught_up) {
            return Ok(());
        }
        self.print(line)?;
        self.progress.borrow_mut().last = seen;
        Ok(())
    }

    /// A record as a line for people: as `events` prints it, in pen's local time. What is none
    /// stays as it is.
    fn in_words(&self, line: &str) -> String {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
        match (&record["text"], EventTime::deserialize(&record["time"])) {
            (Value::String(text), Ok(EventTime(time))) => {
                let offset = self.offset(time).saturating_mul(1000);
                let local = EventTime(time.saturating_add_signed(offset)).to_string();
                let (date, clock) = (local.get(..10), local.get(11..19));
                format!("{} {} {text}", date.unwrap_or_default(), clock.unwrap_or_default())
            }
            (_, _) => match (&record["missing"], &record["closed"]) {
                (Value::Number(missing), _) => format!("watch: {missing} events are missing here"),
                (_, Value::String(why)) => format!("watch: closed: {why}"),
                (_, _) => line.to_owned(),
            },
        }
    }

    /// The seconds that local time where pen runs is ahead of UTC. pen is asked once in a quarter
    /// of an hour, if there is an event.
    fn offset(&self, time: u64) -> i64 {
        let known = self.progress.borrow().offset;
        if let Some((_, offset)) = known.filter(|(quarter, _)| *quarter == time / QUARTER) {
            return offset;
        }
        let overview = match self.place.ask_whole(OVERVIEW, MOST_REPLY) {
            Ok((Outcome::Done, reply)) => Overview::read(&reply),
            Ok((Outcome::Refused, _)) | Err(_) => None,
        };
        let offset = overview
            .map(|overview| overview.offset())
            .or(known.map(|(_, offset)| offset))
            .unwrap_or_default();
        self.progress.borrow_mut().offset = Some((time / QUARTER, offset));
        offset
    }

    /// Says once that the connection is lost.
    fn lose(&self, link: &mut Link, why: &str) {
        if *link != Link::Lost {
            self.tell(&format!("{why}; trying again until it is back"));
        }
        *link = Link::Lost;
    }

    fn tell(&self, text: &str) {
        match self.heading {
            Heading::Address => complain(self.place, text),
            Heading::Absent => {
                // If standard error is closed or full, this cannot be shown anywhere.
                let _ = writeln!(io::stderr(), "penctl: {text}");
            }
        }
    }

    /// Prints a record in the form that the user wants.
    fn print(&self, record: &str) -> io::Result<()> {
        let line = match (self.heading, self.form) {
            (Heading::Absent, OutputForm::AsGiven) => self.in_words(record),
            (Heading::Absent, OutputForm::Json) => record.to_owned(),
            (Heading::Address, OutputForm::AsGiven) => {
                format!("{}: {}", self.place.shown(), self.in_words(record))
            }
            (Heading::Address, OutputForm::Json) => with_address(record, &self.place.name),
        };
        let mut out = io::stdout();
        let line = if out.is_terminal() { shown(&line) } else { line };
        out.write_all((line + "\n").as_bytes()).and_then(|()| out.flush())
    }
}

/// The record with the member `address`. What is no record stays as it is.
fn with_address(line: &str, address: &str) -> String {
    match serde_json::from_str(line) {
        Ok(Value::Object(mut record)) => {
            record.insert("address".to_owned(), address.into());
            Value::Object(record).to_string()
        }
        _ => line.to_owned(),
    }
}

/// Makes lines of pieces.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(
        &mut self,
        piece: &[u8],
        print: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LONGEST.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                print(&self.begun)?;
                self.begun.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_cut_and_have_a_bound() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let mut take = |piece: &[u8]| {
            let mut print = |line: &[u8]| {
                got.push(String::from_utf8(line.to_vec()).unwrap());
                Ok(())
            };
            lines.take(piece, &mut print).unwrap();
        };
        ["a", "b\nc", "\n\nd\n", "rest"].iter().for_each(|piece| take(piece.as_bytes()));
        (0..3).for_each(|_| take(&[b'x'; LONGEST]));
        take(b"\nend\n");
        assert_eq!(got[..4], ["ab", "c", "", "d"]);
        assert_eq!((got[4].len(), got[5].as_str()), (LONGEST, "end"));
    }

    #[test]
    fn only_later_events_of_the_same_pen_are_caught_up() {
        let event = |id: u64, time: u64| serde_json::json!({ "id": id, "time": time, "text": "" });
        let last = Seen { id: 5, time: 50.into() };
        let new = |kept: &[(u64, u64)]| -> Option<Vec<u64>> {
            let kept = kept.iter().map(|(id, time)| event(*id, *time)).collect();
            let new = after(&last, kept)?;
            Some(new.iter().filter_map(|event| event["id"].as_u64()).collect())
        };
        assert_eq!(new(&[(4, 40), (5, 50), (6, 60), (8, 80)]), Some(vec![6, 8]));
        assert_eq!(new(&[(5, 50)]), Some(vec![]));
        assert_eq!(new(&[(2, 20), (7, 70)]), Some(vec![7]), "others made its event leave");
        assert_eq!(new(&[(1, 60), (2, 70)]), None, "another pen");
        assert_eq!(new(&[(1, 60), (5, 70), (6, 80)]), None, "another pen with more events");
        assert_eq!(new(&[]), None);
    }

    #[test]
    fn a_record_says_whose_it_is() {
        let line = with_address("{\"id\":1,\"text\":\"up\"}", "/run/a");
        assert_eq!(line, "{\"address\":\"/run/a\",\"id\":1,\"text\":\"up\"}");
        assert_eq!(with_address("[1]", "/run/a"), "[1]");
    }
}
