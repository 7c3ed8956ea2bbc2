//! Servers that follow names: what a change of settings does to their slots, and how the log tells
//! of it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use pen_config::checks::ServerMode;
use pen_config::followed::{Placed, SlotChange, SlotChangeKind, changes};
use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::log::Severity;
use crate::log::recent::Incident;

/// What a change of settings does to servers that follow names.
#[derive(Debug, Default, Eq, PartialEq)]
pub(in crate::event_loop) struct RecordMoves {
    slots: Vec<SlotChange>,
    /// The names whose servers have got, or have lost, a slot, with how many have one now.
    placed: Vec<(String, Placed)>,
}

impl RecordMoves {
    /// Compares settings.
    pub(in crate::event_loop::moves) fn between(
        before: &Settings,
        after: &Settings,
    ) -> RecordMoves {
        let of = |settings: &Settings, name: &str| {
            let from = settings.servers_from.iter().find(|from| from.name == name);
            from.map_or(Placed::default(), |from| settings.placed(from))
        };
        let names = after.servers_from.iter().map(|from| &from.name);
        let placed = names.filter_map(|name| {
            let (old, new) = (of(before, name), of(after, name));
            let is_told = new.unplaced() > 0 && old != new;
            (is_told || (old.unplaced() > 0 && new.unplaced() == 0)).then(|| (name.clone(), new))
        });
        RecordMoves { slots: changes(before, after), placed: placed.collect() }
    }
}

impl Supervisor {
    /// The connections of a server, of workers of earlier programs too.
    pub(in crate::event_loop) fn connections_of(&self, server: ServerId) -> u64 {
        let row = Target::Server(server).row(self.context.settings.table_size());
        self.context.table.server_totals(row).connections.into()
    }

    /// Tells of the slots that changed.
    pub(in crate::event_loop::moves) fn tell_records(&mut self, moves: RecordMoves) {
        let RecordMoves { slots, placed } = moves;
        let mut names: BTreeMap<String, Vec<SlotChange>> = BTreeMap::new();
        for change in slots {
            names.entry(change.name.clone()).or_default().push(change);
        }
        for (name, slots) in names {
            // A thousand lines would hide others.
            let severity = match slots.len() {
                ..=MOST_LINES => Severity::Notice,
                _ => Severity::Debug,
            };
            let summary = (slots.len() > MOST_LINES).then(|| in_short(&name, &slots));
            slots.into_iter().for_each(|change| self.tell_slot(severity, change));
            if let Some(line) = summary {
                let incident = Incident::of(EventKind::ServerAddress).with("name", name);
                self.logger.event(Severity::Notice, incident, &line);
            }
        }
        for (name, placed) in placed {
            let (severity, line) = match placed.warning(&name) {
                Some(line) => (Severity::Warning, line),
                None => (Severity::Notice, format!("all addresses of {name} have a slot again")),
            };
            let incident = Incident::of(EventKind::ServerAddress)
                .with("name", name)
                .with("addresses", placed.records)
                .with("without_slot", placed.unplaced());
            self.logger.event(severity, incident, &line);
        }
    }

    fn tell_slot(&mut self, severity: Severity, change: SlotChange) {
        let SlotChange { server, address, name, kind } = change;
        let now = self.context.settings.target(Target::Server(server));
        let title = format!("server {server}");
        let kind_of_event = match kind {
            SlotChangeKind::Added | SlotChangeKind::Freed => EventKind::ServerAddress,
            SlotChangeKind::Gone | SlotChangeKind::Back => EventKind::ServerState,
            SlotChangeKind::Ranked { .. } => EventKind::ServerWeight,
        };
        let incident = Incident::of(kind_of_event)
            .with("server", i64::from(server.0))
            .with("address", address.to_string())
            .with("name", name.clone());
        let (reason, line) = match kind {
            SlotChangeKind::Added => {
                let state = now.map_or(ServerMode::Ready, |now| now.mode);
                let state = match state {
                    ServerMode::Ready => String::new(),
                    ServerMode::Drain | ServerMode::Maint => format!(" (state {})", state.word()),
                };
                ("added", format!("{title} is now {address}, an address of {name}{state}"))
            }
            SlotChangeKind::Gone => {
                let line = format!(
                    "{title} ({address}) is no longer an address of {name}: it gets no new clients"
                );
                ("gone", line)
            }
            SlotChangeKind::Back => {
                ("back", format!("{title} ({address}) is an address of {name} again"))
            }
            SlotChangeKind::Freed => {
                ("freed", format!("{title} ({address}) has left: it was an address of {name}"))
            }
            SlotChangeKind::Ranked { weight, prio } => {
                let line = format!(
                    "{title} ({address}): the SRV record of {name} says weight {weight}, prio {prio}"
                );
                ("weight", line)
            }
        };
        self.logger.event(severity, incident.with("record", reason), &line);
    }
}

/// Many changes in one line.
fn in_short(name: &str, slots: &[SlotChange]) -> String {
    let count = |wanted: fn(&SlotChangeKind) -> bool| {
        slots.iter().filter(|change| wanted(&change.kind)).count()
    };
    let added = count(|kind| matches!(kind, SlotChangeKind::Added));
    let gone = count(|kind| matches!(kind, SlotChangeKind::Gone));
    let back = count(|kind| matches!(kind, SlotChangeKind::Back));
    let freed = count(|kind| matches!(kind, SlotChangeKind::Freed));
    let ranked = count(|kind| matches!(kind, SlotChangeKind::Ranked { .. }));
    let words = [
        (added, "added"),
        (gone, "gone"),
        (back, "back"),
        (freed, "left"),
        (ranked, "with another weight or prio"),
    ];
    let words: Vec<String> = words
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    format!("servers of {name}: {}", words.join(", "))
}

/// Most slots of a name of which a change has a line for each.
const MOST_LINES: usize = 16;
