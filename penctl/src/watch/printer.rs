//! Prints the records of one pen in the form that the user wants.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use pen_ipc::message::Outcome;
use pen_status::event::EventTime;
use serde::Deserialize;
use serde_json::Value;

use crate::arguments::OutputForm;
use crate::overview::{OVERVIEW, Overview};
use crate::pens::Pen;
use crate::text::shown;

/// Milliseconds of a quarter of an hour. Zones change their offset only at its multiples.
const QUARTER: u64 = 15 * 60 * 1000;

/// Whether each line names the pen.
#[derive(Clone, Copy)]
pub enum Heading {
    Absent,
    Address,
}

/// Prints the records of one pen.
pub struct Printer<'p> {
    pen: &'p Pen,
    form: OutputForm,
    heading: Heading,
    /// The quarter of an hour of the last event, and the offset of pen's local time in seconds.
    offset: Cell<Option<(u64, i64)>>,
}

impl<'p> Printer<'p> {
    pub fn new(pen: &'p Pen, form: OutputForm, heading: Heading) -> Printer<'p> {
        Printer { pen, form, heading, offset: Cell::new(None) }
    }

    /// Prints a record in the form that the user wants.
    pub fn print(&self, record: &str) -> io::Result<()> {
        let line = match (self.heading, self.form) {
            (Heading::Absent, OutputForm::AsGiven) => self.in_words(record),
            (Heading::Absent, OutputForm::Json) => record.to_owned(),
            (Heading::Address, OutputForm::AsGiven) => {
                format!("{}: {}", self.pen.shown(), self.in_words(record))
            }
            (Heading::Address, OutputForm::Json) => with_address(record, &self.pen.name),
        };
        let mut out = io::stdout();
        let line = if out.is_terminal() { shown(&line) } else { line };
        out.write_all((line + "\n").as_bytes()).and_then(|()| out.flush())
    }

    /// A record as a line for people: as `events` prints it, in pen's local time. What is none
    /// stays as it is.
    fn in_words(&self, line: &str) -> String {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
        match (&record["text"], EventTime::deserialize(&record["time"])) {
            (Value::String(text), Ok(EventTime(time))) => {
                let offset = self.offset_at(time).saturating_mul(1000);
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
    fn offset_at(&self, time: u64) -> i64 {
        let known = self.offset.get();
        if let Some((_, offset)) = known.filter(|(quarter, _)| *quarter == time / QUARTER) {
            return offset;
        }
        let overview = match self.pen.ask_whole(OVERVIEW) {
            Ok((Outcome::Done, reply)) => Overview::read(&reply),
            Ok((Outcome::Refused, _)) | Err(_) => None,
        };
        let offset = overview
            .map(|overview| overview.offset())
            .or(known.map(|(_, offset)| offset))
            .unwrap_or_default();
        self.offset.set(Some((time / QUARTER, offset)));
        offset
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_whose_it_is() {
        let line = with_address("{\"id\":1,\"text\":\"up\"}", "/run/a");
        assert_eq!(line, "{\"address\":\"/run/a\",\"id\":1,\"text\":\"up\"}");
        assert_eq!(with_address("[1]", "/run/a"), "[1]");
    }
}
