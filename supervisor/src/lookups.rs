//! What is known of the names that are looked up again and again: when each was last looked up, and
//! which have no answer. Pure: times are arguments.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use pen_config::checks::ServersFrom;
use pen_config::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::helpers::resolve::Question;

/// All names in force.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    names: BTreeMap<Question, NameRow>,
    counts: LookupCounts,
}

/// What is known of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NameRow {
    /// When its last lookup ended, in seconds since 1970.
    pub(crate) last: i64,
    /// Since when it has no answer, if it has none.
    pub(crate) outage: Option<Outage>,
}

/// A time without an answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outage {
    /// When the first lookup failed, in seconds since 1970.
    pub(crate) since: i64,
    /// Why the last one failed.
    pub(crate) reason: String,
}

/// How many lookups ended how since the start, over upgrades.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct LookupCounts {
    #[serde(default)]
    pub(crate) succeeded: u64,
    #[serde(default)]
    pub(crate) failed: u64,
}

/// What a lookup says that was not known before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// An outage begins.
    Fails,
    /// It is over.
    Works,
}

/// What is known, as it passes to the next program. Each name is read by itself, because one of
/// another release may have another form.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedLookups {
    #[serde(default)]
    names: Vec<Value>,
    #[serde(default)]
    counts: LookupCounts,
}

#[derive(Debug, Serialize, Deserialize)]
struct CarriedName {
    question: Question,
    last: i64,
    #[serde(default)]
    outage: Option<Outage>,
}

impl Lookups {
    /// What an earlier program knew of the names in these settings.
    pub(crate) fn adopted(carried: CarriedLookups, settings: &Settings, unix: i64) -> Lookups {
        let mut lookups = Lookups { names: BTreeMap::new(), counts: carried.counts };
        lookups.follow(settings, unix);
        for value in carried.names {
            let Ok(carried) = serde_json::from_value::<CarriedName>(value) else { continue };
            let CarriedName { question, last, outage } = carried;
            if let Some(row) = lookups.names.get_mut(&question) {
                *row = NameRow { last, outage };
            }
        }
        lookups
    }

    /// What passes to the next program.
    pub(crate) fn carried(&self) -> CarriedLookups {
        let carried = self.names.iter().map(|(question, row)| CarriedName {
            question: question.clone(),
            last: row.last,
            outage: row.outage.clone(),
        });
        let names = carried.filter_map(|name| serde_json::to_value(name).ok()).collect();
        CarriedLookups { names, counts: self.counts }
    }

    /// Goes on with the names of new settings. A new one has just been looked up.
    pub(crate) fn follow(&mut self, settings: &Settings, unix: i64) {
        let wanted = questions(settings);
        self.names.retain(|question, _| wanted.contains(question));
        for question in wanted {
            self.names.entry(question).or_insert(NameRow { last: unix, outage: None });
        }
    }

    /// Whether there is a name.
    pub(crate) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// All names, the one whose last lookup is the longest ago first.
    pub(crate) fn questions(&self) -> Vec<Question> {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(_, row)| row.last);
        names.into_iter().map(|(question, _)| question.clone()).collect()
    }

    /// Takes the outcome of a lookup, with the reason if it failed. None if nothing new follows, or
    /// if nobody wants to know the name any more.
    pub(crate) fn take(
        &mut self,
        question: &Question,
        outcome: Result<(), &str>,
        unix: i64,
    ) -> Option<News> {
        let row = self.names.get_mut(question)?;
        row.last = unix;
        match (outcome, &mut row.outage) {
            (Ok(()), outage) => {
                self.counts.succeeded += 1;
                outage.take().map(|_| News::Works)
            }
            (Err(reason), Some(outage)) => {
                self.counts.failed += 1;
                outage.reason = reason.to_owned();
                None
            }
            (Err(reason), outage @ None) => {
                self.counts.failed += 1;
                *outage = Some(Outage { since: unix, reason: reason.to_owned() });
                Some(News::Fails)
            }
        }
    }

    /// What is known of a host name.
    pub(crate) fn host(&self, name: &str) -> Option<&NameRow> {
        self.names.get(&Question::Host(name.to_owned()))
    }

    /// What is known of a name that servers follow.
    pub(crate) fn records(&self, from: &ServersFrom) -> Option<&NameRow> {
        self.names.get(&Question::Records(from.name.clone(), from.records))
    }

    /// How many lookups ended how.
    pub(crate) fn counts(&self) -> LookupCounts {
        self.counts
    }

    /// How many names have no answer.
    pub(crate) fn failing(&self) -> usize {
        self.names.values().filter(|row| row.outage.is_some()).count()
    }
}

/// The questions for the names in settings.
fn questions(settings: &Settings) -> BTreeSet<Question> {
    let hosts = settings.named().map(|(_, _, name)| Question::Host(name));
    let followed = settings.servers_from.iter().flat_map(|from| {
        let service = from.port.name().map(Question::TcpService);
        service.into_iter().chain([Question::Records(from.name.clone(), from.records)])
    });
    hosts.chain(followed).collect()
}

#[cfg(test)]
mod tests {
    use pen_config::address::{Address, Host};
    use pen_config::settings::Server;

    use super::*;

    fn settings(names: &[&str]) -> Settings {
        let server = |name: &&str| {
            let address = Address::Inet(([10, 0, 0, 1], 80).into());
            Some(Server { given: Some(Host::Name((*name).into())), ..Server::at(address) })
        };
        Settings { servers: names.iter().map(server).collect(), ..Settings::default() }
    }

    fn host(name: &str) -> Question {
        Question::Host(name.into())
    }

    fn lookups(names: &[&str]) -> Lookups {
        let mut lookups = Lookups::default();
        lookups.follow(&settings(names), 1);
        lookups
    }

    #[test]
    fn an_outage_and_its_end_are_told_once() {
        let mut lookups = lookups(&["a", "b", "a"]);
        assert_eq!(lookups.questions(), [host("a"), host("b")]);
        let mut take = |outcome, unix| lookups.take(&host("a"), outcome, unix);
        assert_eq!(take(Ok(()), 2), None);
        assert_eq!(take(Err("no such host"), 3), Some(News::Fails));
        assert_eq!(take(Err("the name server does not answer"), 4), None);
        let outage = Outage { since: 3, reason: "the name server does not answer".into() };
        let row = NameRow { last: 4, outage: Some(outage) };
        assert_eq!((lookups.host("a"), lookups.failing()), (Some(&row), 1));
        assert_eq!(lookups.take(&host("a"), Ok(()), 5), Some(News::Works));
        assert_eq!(lookups.take(&host("a"), Ok(()), 6), None);
        assert_eq!(lookups.counts(), LookupCounts { succeeded: 3, failed: 2 });
        assert_eq!(lookups.take(&host("c"), Err("x"), 6), None);
        assert_eq!((lookups.failing(), lookups.host("c")), (0, None));
    }

    #[test]
    fn the_name_that_waits_longest_is_first_and_gone_names_are_forgotten() {
        let mut lookups = lookups(&["a", "b", "c"]);
        for (name, unix) in [("a", 9), ("b", 7), ("c", 8)] {
            lookups.take(&host(name), Err("x"), unix);
        }
        assert_eq!(lookups.questions(), ["b", "c", "a"].map(host));
        lookups.follow(&settings(&["c", "d"]), 10);
        assert_eq!(lookups.questions(), ["c", "d"].map(host));
        lookups.follow(&settings(&[]), 11);
        assert!(!lookups.has_names());
    }

    #[test]
    fn the_next_program_knows_the_outages() {
        let mut lookups = lookups(&["a", "b", "c"]);
        lookups.take(&host("a"), Err("x"), 5);
        lookups.take(&host("b"), Ok(()), 6);
        let mut carried = serde_json::to_value(lookups.carried()).unwrap();
        // Another release may say something else of a name.
        carried["names"].as_array_mut().unwrap().push(Value::from("later"));
        let carried = serde_json::from_value(carried).unwrap();
        let mut next = Lookups::adopted(carried, &settings(&["a", "b", "d"]), 7);
        assert_eq!(next.counts(), LookupCounts { succeeded: 1, failed: 1 });
        assert_eq!(next.host("d"), Some(&NameRow { last: 7, outage: None }));
        assert_eq!(next.host("b"), Some(&NameRow { last: 6, outage: None }));
        assert_eq!(next.take(&host("a"), Err("x"), 8), None, "it was told");
        // An earlier release passes nothing.
        let nothing = serde_json::from_str("{}").unwrap();
        assert_eq!(Lookups::adopted(nothing, &settings(&["a"]), 7).failing(), 0);
    }
}
