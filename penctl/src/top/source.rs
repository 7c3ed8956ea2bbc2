//! Asks pen, in a thread of its own: a pen that is slow or gone stops neither keys nor clock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use pen_ipc::message::Outcome;

use super::Input;
use super::model::Asked;
use crate::overview::{Event, OVERVIEW, Overview};
use crate::pens::Pen;

/// The time from one report to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// The command that returns the last events.
const EVENTS: &[u8] = b"events 50 json";

/// Whether this pen has a command for events.
#[derive(Clone, Copy, Eq, PartialEq)]
enum EventsCommand {
    Unknown,
    Absent,
}

/// The overview of a pen.
///
/// # Errors
/// There is none: a line for the user.
pub fn overview(pen: &Pen) -> Result<Overview, String> {
    match pen.ask_whole(OVERVIEW)? {
        (Outcome::Done, reply) => {
            Overview::read(&reply).ok_or_else(|| "this pen has no overview".to_owned())
        }
        (Outcome::Refused, reply) => Err(String::from_utf8_lossy(reply.trim_ascii()).into_owned()),
    }
}

/// Sends reports until nobody takes them, and asks what the user wants to know in between.
pub fn run(pen: &Pen, wanted: &Receiver<Asked>, to: &SyncSender<Input>) {
    let mut events = EventsCommand::Unknown;
    let mut next = Instant::now();
    loop {
        match wanted.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(asked) => {
                let reply = pen.ask_whole(asked.line.as_bytes());
                let reply = reply.map(|(outcome, reply)| {
                    (outcome, String::from_utf8_lossy(&reply).into_owned())
                });
                if to.send(Input::Answer(asked, reply)).is_err() {
                    return;
                }
                // What has changed is shown at once.
                next = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + PERIOD;
                let report = overview(pen);
                let has_events = report.as_ref().is_ok_and(|report| !report.events.is_empty());
                let answers = report.is_ok();
                if !answers {
                    // Another pen may come.
                    events = EventsCommand::Unknown;
                }
                if to.send(Input::Report(report.map(Box::new))).is_err() {
                    return;
                }
                if answers && !has_events && events == EventsCommand::Unknown {
                    match pen.ask_whole(EVENTS) {
                        Ok((Outcome::Done, reply)) => {
                            let list = Event::read_all(&reply).unwrap_or_default();
                            if to.send(Input::Events(list)).is_err() {
                                return;
                            }
                        }
                        Ok((Outcome::Refused, _)) => events = EventsCommand::Absent,
                        // The next report says why.
                        Err(_) => {}
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
