//! The last events: each line that the log tells at every debug level, with its kind and fields.
//! The commands `events` and `watch`, the page and reports show them.
//!
//! Room for one more is made by the oldest event of the kind that has most. So clients that cause
//! one kind again and again push out no other kind.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use pen_ipc::text::date_time;
use pen_status::event::{EventKind, EventRecord, EventTime, Field};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;

/// What happened, for programs.
#[derive(Debug)]
pub(crate) struct Incident {
    kind: EventKind,
    fields: BTreeMap<String, Field>,
}

impl Incident {
    pub(crate) fn of(kind: EventKind) -> Incident {
        Incident { kind, fields: BTreeMap::new() }
    }

    /// Adds a field. Control characters are replaced, and a long text is cut.
    pub(crate) fn with(mut self, name: &str, field: impl Into<Field>) -> Incident {
        let field = match field.into() {
            Field::Text(text) => Field::Text(one_line(&text, LONGEST_FIELD)),
            Field::Number(number) => Field::Number(number),
        };
        self.fields.insert(name.to_owned(), field);
        self
    }

    /// Adds a field if there is a value for it.
    pub(crate) fn with_if(self, name: &str, field: Option<impl Into<Field>>) -> Incident {
        match field {
            Some(field) => self.with(name, field),
            None => self,
        }
    }
}

/// The last events, oldest first.
#[derive(Debug)]
pub(crate) struct Recent {
    records: VecDeque<EventRecord>,
    /// The number of the next event.
    next: u64,
    /// How many events were not entered: a worker sent too many, or memory was short.
    lost: u64,
}

/// The last events as they pass to the next program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedEvents {
    /// Without it, that after the last event.
    #[serde(default)]
    next: Option<u64>,
    #[serde(default)]
    lost: u64,
    /// Each is read by itself, because one of another release may have another form.
    #[serde(default)]
    records: Vec<Value>,
}

impl Recent {
    pub(crate) fn new() -> Recent {
        Recent { records: VecDeque::new(), next: 1, lost: 0 }
    }

    /// The events of an earlier program, without those that this one does not understand.
    pub(crate) fn adopted(carried: CarriedEvents) -> Recent {
        let CarriedEvents { next, lost, records } = carried;
        let records: Vec<EventRecord> =
            records.into_iter().filter_map(|record| serde_json::from_value(record).ok()).collect();
        let after = |last: &EventRecord| last.id.saturating_add(1);
        let next = next.or(records.last().map(after)).unwrap_or(1).max(1);
        let mut recent = Recent { next, lost, ..Recent::new() };
        for record in records.into_iter().map(bounded) {
            let follows = recent.records.back().is_none_or(|last| last.id < record.id);
            if follows && (1..recent.next).contains(&record.id) {
                recent.make_room();
                recent.records.push_back(record);
            }
        }
        recent
    }

    pub(crate) fn carried(&self) -> CarriedEvents {
        let records = self.records.iter().filter_map(|record| serde_json::to_value(record).ok());
        CarriedEvents { next: Some(self.next), lost: self.lost, records: records.collect() }
    }

    /// Enters an event. Its text is that of the log, in one line. While memory is short, the event
    /// is only counted.
    pub(crate) fn enter(&mut self, incident: Incident, text: &str, time: EventTime) {
        let Incident { kind, fields } = incident;
        let id = self.next;
        self.next += 1;
        // What is kept must not take the memory that pen needs to go on: without it, pen would end.
        let mut room = Vec::<u8>::new();
        if std::hint::black_box(&mut room).try_reserve_exact(RESERVE).is_err() {
            return self.lose(1);
        }
        drop(std::hint::black_box(room));
        let text = one_line(text, LONGEST_TEXT);
        self.make_room();
        self.records.push_back(EventRecord { id, time, kind, text, fields });
    }

    /// Counts events that are not entered.
    pub(crate) fn lose(&mut self, events: u64) {
        self.lost = self.lost.saturating_add(events);
    }

    /// How many events were not entered since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The number of the next event.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The last events, at most so many, oldest first.
    pub(crate) fn last(&self, most: usize) -> impl Iterator<Item = &EventRecord> {
        self.records.range(self.records.len().saturating_sub(most)..)
    }

    /// The events from a number on.
    pub(crate) fn since(&self, id: u64) -> impl Iterator<Item = &EventRecord> {
        self.records.range(self.records.partition_point(|record| record.id < id)..)
    }

    fn make_room(&mut self) {
        if self.records.len() < MOST {
            return;
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        for record in &self.records {
            *counts.entry(record.kind.name()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind);
        let oldest = self.records.iter().position(|record| Some(record.kind.name()) == most);
        self.records.remove(oldest.unwrap_or(0));
    }
}

/// An event as the log has it: local time and text. Without its line end.
pub(crate) fn line(record: &EventRecord) -> String {
    format!("{} {}", date_time(clock::local(record.time.calendar())), record.text)
}

/// Writes events as lines.
///
/// # Errors
/// Writing failed.
pub(crate) fn write_lines<'r>(
    records: impl IntoIterator<Item = &'r EventRecord>,
    to: &mut dyn Write,
) -> io::Result<()> {
    records.into_iter().try_for_each(|record| writeln!(to, "{}", line(record)))
}

/// Writes events as a JSON array in one line.
///
/// # Errors
/// Writing failed.
pub(crate) fn write_json<'r>(
    records: impl IntoIterator<Item = &'r EventRecord>,
    to: &mut dyn Write,
) -> io::Result<()> {
    let records: Vec<&EventRecord> = records.into_iter().collect();
    serde_json::to_writer(&mut *to, &records)?;
    writeln!(to)
}

/// A record of another program, within the bounds of this one.
fn bounded(record: EventRecord) -> EventRecord {
    let EventRecord { id, time, kind, text, fields } = record;
    let mut incident = Incident::of(kind);
    for (name, field) in fields.into_iter().take(MOST_FIELDS) {
        incident = incident.with(&one_line(&name, LONGEST_NAME), field);
    }
    EventRecord { id, time, kind, text: one_line(&text, LONGEST_TEXT), fields: incident.fields }
}

/// A text without control characters, and cut if it is too long.
fn one_line(text: &str, longest: usize) -> String {
    let clean = |letter: char| if letter.is_control() { '.' } else { letter };
    let line: String = text.chars().map(clean).collect();
    if line.len() <= longest {
        return line;
    }
    let end = (0..=longest).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &line[..end])
}

/// How many events are kept.
pub(crate) const MOST: usize = 1000;

/// The memory that is to be free when an event is entered. Below 128 KiB, the C library takes it
/// from the heap (mallopt(3), `M_MMAP_THRESHOLD`).
const RESERVE: usize = 120 * 1024;

/// Most bytes of a text. The longest lines of the log are those about many changed settings.
const LONGEST_TEXT: usize = 8192;

/// Most bytes of the text in a field.
const LONGEST_FIELD: usize = 1024;

/// Most bytes of a field's name.
const LONGEST_NAME: usize = 32;

/// Most fields. With the bounds of their texts, an event fits into a message.
const MOST_FIELDS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(kinds: impl IntoIterator<Item = EventKind>) -> Recent {
        let mut recent = Recent::new();
        for kind in kinds {
            recent.enter(Incident::of(kind), "text", EventTime(7));
        }
        recent
    }

    fn ids(records: impl Iterator<Item = EventRecord>) -> Vec<u64> {
        records.map(|record| record.id).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_numbered() {
        let recent = recent([EventKind::Setting; MOST + 5]);
        assert_eq!(recent.next(), MOST as u64 + 6);
        assert_eq!(recent.records.front().unwrap().id, 6);
        assert_eq!(ids(recent.last(2).cloned()), [MOST as u64 + 4, MOST as u64 + 5]);
        assert_eq!(ids(recent.since(MOST as u64 + 5).cloned()), [MOST as u64 + 5]);
        assert_eq!(recent.since(1).count(), MOST);
        assert_eq!(recent.last(MOST + 1).count(), MOST);
    }

    #[test]
    fn a_kind_that_clients_cause_pushes_out_no_other() {
        let mut kinds = vec![EventKind::ServerDown, EventKind::Reloaded];
        kinds.extend([EventKind::ClientRefused; 3 * MOST]);
        kinds.push(EventKind::ServerUp);
        let recent = recent(kinds);
        let others = recent.last(MOST).filter(|record| record.kind != EventKind::ClientRefused);
        assert_eq!(ids(others.cloned()), [1, 2, 3 * MOST as u64 + 3]);
        assert_eq!(recent.last(MOST).count(), MOST);
    }

    #[test]
    fn an_event_is_one_line_of_bounded_length() {
        let mut recent = Recent::new();
        let incident = Incident::of(EventKind::Other).with("file", "a\nb".repeat(LONGEST_FIELD));
        recent.enter(incident, &"\u{e9}\n".repeat(LONGEST_TEXT), EventTime(7));
        let record = recent.last(1).next().unwrap();
        assert!(record.text.starts_with("\u{e9}.\u{e9}.") && record.text.ends_with("..."));
        assert!(record.text.len() <= LONGEST_TEXT + 3);
        let Field::Text(file) = &record.fields["file"] else { panic!() };
        assert!(file.starts_with("a.ba.b") && file.len() <= LONGEST_FIELD + 3);
    }

    #[test]
    fn what_passes_to_another_program_goes_on_with_its_numbers() {
        let mut before = recent([EventKind::Started, EventKind::ServerDown]);
        before.lose(3);
        let mut carried = serde_json::to_value(before.carried()).unwrap();
        carried["records"][0]["kind"] = "of_a_later_release".into();
        carried["records"][0]["more"] = true.into();
        let records = carried["records"].as_array_mut().unwrap();
        let mut unreadable = records[1].clone();
        unreadable["fields"] = serde_json::json!({ "odd": [1] });
        records.insert(1, unreadable);
        let mut after = Recent::adopted(serde_json::from_value(carried).unwrap());
        assert_eq!((ids(after.last(9).cloned()), after.lost()), (vec![1, 2], 3));
        assert_eq!(after.records[0].kind, EventKind::Other);
        after.enter(Incident::of(EventKind::Upgraded), "text", EventTime(8));
        assert_eq!(ids(after.last(1).cloned()), [3]);
        // A pen without events passes nothing.
        assert_eq!(Recent::adopted(CarriedEvents::default()).next(), 1);
    }

    #[test]
    fn numbers_that_cannot_be_are_left_out() {
        let mut carried = recent([EventKind::Other; 4]).carried();
        carried.next = Some(4);
        carried.records.swap(1, 2);
        assert_eq!(ids(Recent::adopted(carried).last(9).cloned()), [1, 3]);
    }

    #[test]
    fn what_another_release_leaves_out_loses_no_event() {
        let carried = recent([EventKind::Started, EventKind::Other]).carried();
        let carried = serde_json::to_value(carried).unwrap();
        for left_out in ["next", "lost"] {
            let mut carried = carried.clone();
            carried.as_object_mut().unwrap().remove(left_out).unwrap();
            let recent = Recent::adopted(serde_json::from_value(carried).unwrap());
            assert_eq!(
                (ids(recent.last(9).cloned()), recent.next()),
                (vec![1, 2], 3),
                "{left_out}"
            );
        }
        let nothing = serde_json::from_str("{}").unwrap();
        assert_eq!(Recent::adopted(nothing).next(), 1);
    }

    #[test]
    fn events_are_lines_or_json() {
        let recent = recent([EventKind::Started, EventKind::Other]);
        let mut lines = Vec::new();
        write_lines(recent.last(9), &mut lines).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        assert!(lines.lines().count() == 2 && lines.lines().all(|line| line.ends_with(" text")));
        let mut json = Vec::new();
        write_json(recent.last(9), &mut json).unwrap();
        let json: Vec<EventRecord> = serde_json::from_slice(&json).unwrap();
        assert_eq!(VecDeque::from(json), recent.records);
    }
}
