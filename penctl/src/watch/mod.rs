//! `watch`: prints what happens at one or more pens until the user interrupts it. A connection
//! that is lost is made again, and the events in between are printed first.
//!
//! pen is always asked for JSON, because only there events have numbers. A line for people is made
//! of it here. `lines` cuts the reply into lines, `seen` knows which events were printed, and
//! `printer` has their form.

mod lines;
mod printer;
mod seen;

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pen_ipc::message::Outcome;
use serde_json::Value;

use crate::arguments::OutputForm;
use crate::exchange::plain;
use crate::pens::{Pen, complain};
use lines::Lines;
use printer::{Heading, Printer};
use seen::{Seen, after};

/// The pause before the next attempt to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// The command that begins to watch.
const WATCH: &[u8] = b"watch json";

/// The command that returns the newest event.
const NEWEST: &[u8] = b"events 1 json";

/// The command that returns all events that pen keeps.
const KEPT: &[u8] = b"events 1000 json";

/// Prints the events of these pens. It ends if all refuse, or standard output is closed.
///
/// # Errors
/// A pen could not be reached from the beginning, or standard output cannot be written.
pub fn run(pens: &[Pen], form: OutputForm) -> Result<Outcome, String> {
    if let [pen] = pens {
        return Watcher::new(pen, form, Heading::Absent).run();
    }
    let (tell, ended) = mpsc::channel();
    for pen in pens {
        let (pen, tell) = (pen.clone(), tell.clone());
        thread::spawn(move || {
            let result = Watcher::new(&pen, form, Heading::Address).run();
            // Without a receiver, the program is about to end.
            let _ = tell.send((pen, result));
        });
    }
    drop(tell);
    let mut all = Outcome::Done;
    let mut silent = 0;
    for (pen, result) in ended {
        match result {
            // Standard output is closed.
            Ok(Outcome::Done) => return Ok(Outcome::Done),
            Ok(Outcome::Refused) => all = Outcome::Refused,
            Err(error) => {
                silent += 1;
                complain(&pen, &error);
            }
        }
    }
    match silent {
        0 => Ok(all),
        _ => Err(format!("{silent} of {} gave no reply", pens.len())),
    }
}

/// Prints the events of one pen.
struct Watcher<'p> {
    pen: &'p Pen,
    heading: Heading,
    printer: Printer<'p>,
    progress: RefCell<Progress>,
}

/// How far a watcher has come.
#[derive(Debug, Default)]
struct Progress {
    /// The last event that was printed; before the first, the newest one then.
    last: Option<Seen>,
    /// The events up to this number were printed before this connection brought them.
    caught_up: u64,
}

/// How a connection is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Link {
    New,
    Up,
    Lost,
}

impl<'p> Watcher<'p> {
    fn new(pen: &'p Pen, form: OutputForm, heading: Heading) -> Watcher<'p> {
        let printer = Printer::new(pen, form, heading);
        Watcher { pen, heading, printer, progress: RefCell::default() }
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
            let result = self.pen.follow(WATCH, &mut begun, &mut |piece| {
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
                self.printer.print(&serde_json::json!({ "missing": missing }).to_string())?;
            }
            next = id + 1;
            self.on_event(&event.to_string(), &event)?;
            self.progress.borrow_mut().caught_up = id;
        }
        Ok(())
    }

    /// The reply to a command for events, oldest first. `None`: there is none.
    fn events(&self, command: &[u8]) -> Option<Vec<Value>> {
        match self.pen.ask_whole(command) {
            Ok((Outcome::Done, reply)) => serde_json::from_slice(&reply).ok(),
            Ok((Outcome::Refused, _)) | Err(_) => None,
        }
    }

    /// Takes a line, which has no line end.
    fn on_line(&self, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line);
        match serde_json::from_str::<Value>(&line) {
            Ok(record) if record["id"].is_u64() => self.on_event(&line, &record),
            Ok(_) | Err(_) => self.printer.print(&line),
        }
    }

    /// Prints an event, unless it was printed before.
    fn on_event(&self, line: &str, event: &Value) -> io::Result<()> {
        let seen = Seen::of(event);
        let caught_up = self.progress.borrow().caught_up;
        if seen.as_ref().is_some_and(|seen| seen.id <= caught_up) {
            return Ok(());
        }
        self.printer.print(line)?;
        self.progress.borrow_mut().last = seen;
        Ok(())
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
            Heading::Address => complain(self.pen, text),
            Heading::Absent => {
                // If standard error is closed or full, this cannot be shown anywhere.
                let _ = writeln!(io::stderr(), "penctl: {text}");
            }
        }
    }
}
