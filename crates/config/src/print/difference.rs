//! The difference of two settings, in the words of the grammar.

use std::collections::HashMap;

use crate::print::{Written, text};
use crate::settings::Settings;

/// The differences, one phrase each: a server with its changed keys, an access list by its number,
/// anything else as the command that sets it. The order is that of [`text`].
pub fn difference(before: &Settings, after: &Settings) -> Vec<String> {
    let lines = |settings, given| {
        text(&Written {
            header: &[],
            settings,
            given,
            log: None,
            connection_log: None,
            given_connection_log: None,
            status_file: None,
            listen: None,
            workers: None,
            startup: &[],
            servers_only: false,
        })
    };
    // A value that is the default on one side only is written on both sides.
    let (before, after) = (lines(before, after), lines(after, before));
    let (before, after) = (things(&before), things(&after));
    let (old, new) = (by_key(&before), by_key(&after));
    let changed =
        after.iter().filter_map(|thing| phrase(thing, old.get(thing.key.as_str()).copied()));
    let gone = before.iter().filter(|thing| !new.contains_key(thing.key.as_str()));
    changed.chain(gone.map(|thing| format!("no {}", thing.key))).collect()
}

/// All lines about one setting.
struct Thing<'a> {
    /// The name of the setting.
    key: String,
    lines: Vec<&'a str>,
}

fn by_key<'t>(things: &'t [Thing<'t>]) -> HashMap<&'t str, &'t Thing<'t>> {
    things.iter().map(|thing| (thing.key.as_str(), thing)).collect()
}

fn things(text: &str) -> Vec<Thing<'_>> {
    let mut things: Vec<Thing<'_>> = Vec::new();
    for line in text.lines() {
        let key = key(line);
        match things.last_mut().filter(|last| last.key == key) {
            Some(last) => last.lines.push(line),
            None => things.push(Thing { key, lines: vec![line] }),
        }
    }
    things
}

/// The word that a line sets, with its number or side if there is one.
fn key(line: &str) -> String {
    let mut words = line.trim_start_matches("no ").split(' ');
    let word = words.next().unwrap_or_default();
    match (word, words.next()) {
        ("acl" | "server" | "servers_from" | "proxy_protocol" | "socket_buffers", Some(which)) => {
            format!("{word} {which}")
        }
        _ => word.to_owned(),
    }
}

fn phrase(thing: &Thing<'_>, before: Option<&Thing<'_>>) -> Option<String> {
    if before.is_some_and(|before| before.lines == thing.lines) {
        return None;
    }
    match (thing.key.split(' ').next(), thing.lines.first()) {
        (Some("acl"), _) => Some(thing.key.clone()),
        (Some("server"), Some(line)) if line.starts_with("no ") => Some((*line).to_owned()),
        (Some("server"), Some(line)) => {
            let before = before
                .and_then(|before| before.lines.first())
                .filter(|line| !line.starts_with("no "));
            let old: Vec<(&str, &str)> = before.map_or(Vec::new(), |line| pairs(line));
            // Of a new server, the keys that differ from the default.
            let is_new = |(key, value): &(&str, &str)| match before {
                Some(_) => !old.contains(&(*key, *value)),
                None => *value != "0",
            };
            let words: Vec<String> = pairs(line)
                .into_iter()
                .filter(is_new)
                .map(|(key, value)| format!("{key} {value}"))
                .collect();
            Some(format!("{} {}", thing.key, words.join(", ")))
        }
        _ => Some(thing.lines.join("; ")),
    }
}

/// The keys of a server's line, with their values. The value of the last key, `check`, is the rest
/// of the line.
fn pairs(line: &str) -> Vec<(&str, &str)> {
    let mut pairs = Vec::new();
    let mut rest = line.splitn(3, ' ').nth(2).unwrap_or_default();
    while let Some((key, behind)) = rest.split_once(' ') {
        let (value, further) = match key {
            "check" => (behind, ""),
            _ => behind.split_once(' ').unwrap_or((behind, "")),
        };
        pairs.push((key, value));
        rest = further;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::acl::{AclVerdict, Net};
    use crate::address::Address;
    use crate::settings::Server;
    use crate::strategies;

    fn server(port: u16) -> Server {
        Server::at(Address::Inet(([10, 0, 0, 1], port).into()))
    }

    #[test]
    fn each_thing_that_changed_is_a_phrase() {
        let before = Settings {
            servers: vec![Some(server(1)), Some(server(2)), None],
            ..Settings::default()
        };
        assert_eq!(difference(&before, &before), Vec::<String>::new());
        let mut after = Settings { idle_timeout: 9, ..before.clone() };
        after.servers[0] = Some(Server { soft: 10, weight: 7, ..server(1) });
        after.servers[2] = Some(Server { prio: 3, ..server(4) });
        assert!(
            after.acls[3]
                .push(AclVerdict::Permit, Net::v4([10, 0, 0, 0].into(), [255, 0, 0, 0].into()))
        );
        after.selection.roundrobin = true;
        let there = [
            "acl 3",
            "roundrobin",
            "server 0 max 10, weight 7",
            "server 2 address 10.0.0.1, port 4, prio 3",
            "idle_timeout 9",
        ];
        assert_eq!(difference(&before, &after), there);
        let back =
            ["acl 3", "no roundrobin", "server 0 max 0, weight 1", "idle_timeout 0", "no server 2"];
        assert_eq!(difference(&after, &before), back);
    }

    #[test]
    fn states_checks_and_names_are_phrases_too() {
        let before = Settings {
            servers: vec![Some(server(1)), Some(server(2)), None],
            ..Settings::default()
        };
        let change = |lines: &[&str]| {
            let mut after = before.clone();
            for line in lines {
                let names = Default::default();
                crate::apply::apply(&mut after, &strategies::parsed(line), &names, None).unwrap();
            }
            after
        };
        let after = change(&[
            "check http / port 81",
            "server 1 state drain",
            "server 0 check send a expect b port 82",
            "hold 5",
            "servers_from a.example 80 2-2",
        ]);
        assert_eq!(
            difference(&before, &after),
            [
                "servers_from a.example 80 2-2",
                "server 0 check send a expect b port 82",
                "server 1 state drain",
                "check http / port 81",
                "hold 5",
            ]
        );
        assert_eq!(
            difference(&after, &before),
            [
                "no servers_from a.example",
                "server 0 check default",
                "server 1 state ready",
                "check off",
                "hold 0",
            ]
        );
    }

    proptest! {
        #[test]
        fn equal_settings_do_not_differ(settings in strategies::settings()) {
            prop_assert!(difference(&settings, &settings).is_empty());
        }
    }
}
