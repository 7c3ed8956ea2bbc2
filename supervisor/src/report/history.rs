//! The last five minutes of each server, in periods of five seconds.
//!
//! The first reader is to see five minutes too, so this is kept also while nobody asks. The end of
//! a period reads a word of each worker and server: 0.6 ms with 1000 servers and 16 workers, which
//! is 0.01 % of a processor.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use pen_config::ids::Target;
use pen_config::settings::Settings;
use pen_status::History;
use pen_table::{Table, Traffic};
use serde::{Deserialize, Serialize};

use crate::clock::{from_precise, to_precise};

/// What happened in each period. It is kept only while somebody can ask for it.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    /// When the present period ends; none before the first.
    due: Option<Instant>,
    /// All servers together.
    all: Periods,
    /// Each server, by its code.
    servers: BTreeMap<i32, Course>,
}

/// The periods as they pass to the next program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedHistories {
    #[serde(default)]
    due: Option<u64>,
    #[serde(default)]
    all: Periods,
    #[serde(default)]
    servers: BTreeMap<i32, Course>,
}

/// A server over time.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Course {
    /// Its counts at the end of the last period.
    totals: Totals,
    periods: Periods,
}

/// What a server has counted so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::report) struct Totals {
    /// New connections.
    pub(in crate::report) connections: u64,
    /// Bytes in both directions.
    pub(in crate::report) bytes: u64,
}

/// The periods that are over, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Periods {
    connections: VecDeque<u32>,
    bytes: VecDeque<u64>,
}

impl Histories {
    /// The histories that an earlier program in this process kept.
    pub(crate) fn adopted(carried: CarriedHistories) -> Histories {
        let CarriedHistories { due, mut all, mut servers } = carried;
        all.bound();
        servers.values_mut().for_each(|course| course.periods.bound());
        Histories { due: due.map(from_precise), all, servers }
    }

    pub(crate) fn carried(&self) -> CarriedHistories {
        let servers = self.servers.iter().map(|(code, course)| {
            let Course { totals, ref periods } = *course;
            (*code, Course { totals, periods: periods.clone() })
        });
        CarriedHistories {
            due: self.due.map(to_precise),
            all: self.all.clone(),
            servers: servers.collect(),
        }
    }

    /// When to call [`Histories::sample`].
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Ends the period, if it is time, and begins the next one. Periods in which pen was stopped
    /// are left out.
    pub(crate) fn sample(&mut self, settings: &Settings, table: &Table, now: Instant) {
        if self.due.is_some_and(|due| due > now) {
            return;
        }
        let next = self.due.and_then(|due| due.checked_add(PERIOD)).filter(|next| *next > now);
        let is_first = self.due.is_none();
        self.due = Some(next.unwrap_or(now + PERIOD));
        let targets = settings.targets().map(|(target, _)| target);
        self.take(targets.map(|target| (target.code(), totals(target, settings, table))));
        if is_first {
            // What came before the first period is no period.
            self.all = Periods::default();
            self.servers.values_mut().for_each(|course| course.periods = Periods::default());
        }
    }

    /// Takes what each server has counted at the end of a period.
    fn take(&mut self, now: impl Iterator<Item = (i32, Totals)>) {
        let mut before = std::mem::take(&mut self.servers);
        let mut sum = Totals::default();
        for (code, totals) in now {
            let mut course = before
                .remove(&code)
                .filter(|course| course.totals.is_before(totals))
                // Its counts fell: it is another server.
                .unwrap_or_default();
            let period = totals.since(course.totals);
            sum = sum.plus(period);
            course.periods.push(period);
            self.servers.insert(code, Course { totals, ..course });
        }
        self.all.push(sum);
    }

    /// The history of a server.
    pub(in crate::report) fn of(&self, target: Target) -> History {
        let course = self.servers.get(&target.code());
        course.map_or(History::default(), |course| course.periods.history())
    }

    /// The history of all servers together.
    pub(in crate::report) fn all(&self) -> History {
        self.all.history()
    }
}

impl Totals {
    fn is_before(self, later: Totals) -> bool {
        self.connections <= later.connections && self.bytes <= later.bytes
    }

    fn since(self, earlier: Totals) -> Totals {
        Totals {
            connections: self.connections.saturating_sub(earlier.connections),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }

    fn plus(self, other: Totals) -> Totals {
        Totals {
            connections: self.connections.saturating_add(other.connections),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Periods {
    fn push(&mut self, period: Totals) {
        self.connections.push_back(u32::try_from(period.connections).unwrap_or(u32::MAX));
        self.bytes.push_back(period.bytes);
        self.bound();
    }

    /// Drops the oldest periods beyond five minutes, and what has no counterpart.
    fn bound(&mut self) {
        let Periods { connections, bytes } = self;
        let most = connections.len().min(bytes.len()).min(PERIODS);
        connections.drain(..connections.len() - most);
        bytes.drain(..bytes.len() - most);
    }

    fn history(&self) -> History {
        History {
            period: PERIOD.as_secs() as u32,
            connections: self.connections.iter().copied().collect(),
            bytes: self.bytes.iter().copied().collect(),
        }
    }
}

fn totals(target: Target, settings: &Settings, table: &Table) -> Totals {
    let number = target.row(settings.table_size());
    let Traffic { reached, sent, received } = table.server_traffic(number);
    Totals { connections: reached, bytes: sent.saturating_add(received) }
}

/// The length of a period.
const PERIOD: Duration = Duration::from_secs(5);

/// How many periods are kept: five minutes.
const PERIODS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers 0, 1 and so on with so many connections and bytes.
    fn totals(counts: &[(u64, u64)]) -> impl Iterator<Item = (i32, Totals)> {
        let totals =
            |(connections, bytes): &(u64, u64)| Totals { connections: *connections, bytes: *bytes };
        (0..).zip(counts.iter().map(totals))
    }

    fn server(number: u16) -> Target {
        Target::Server(pen_config::ids::ServerId(number))
    }

    #[test]
    fn each_period_has_what_came_in_it() {
        let mut histories = Histories::default();
        histories.take(totals(&[(5, 100), (1, 0)]));
        histories.take(totals(&[(7, 150), (1, 3)]));
        let History { period, connections, bytes } = histories.of(server(0));
        assert_eq!((period, connections, bytes), (5, vec![5, 2], vec![100, 50]));
        assert_eq!(histories.all().connections, [6, 2]);
        assert_eq!(histories.all().bytes, [100, 53]);
        assert_eq!(histories.of(server(2)), History::default());
    }

    #[test]
    fn the_first_period_begins_with_the_first_sample() {
        let address = pen_config::address::Address::Inet("10.0.0.1:80".parse().unwrap());
        let settings = Settings {
            servers: vec![Some(pen_config::settings::Server::at(address))],
            ..Settings::default()
        };
        let shape = pen_table::Shape { clients: 1, servers: 3, rows: 1, connections: 8 };
        let (table, start) = (Table::create(shape).unwrap(), Instant::now());
        let mut histories = Histories::default();
        for (seconds, periods) in [(0, 0), (4, 0), (5, 1), (11, 2), (3600, 3), (3604, 3)] {
            histories.sample(&settings, &table, start + Duration::from_secs(seconds));
            assert_eq!(histories.of(server(0)).bytes.len(), periods, "at {seconds} s");
            assert_eq!(histories.all().bytes.len(), periods, "at {seconds} s");
        }
        assert_eq!(histories.due(), Some(start + Duration::from_secs(3605)));
    }

    #[test]
    fn five_minutes_are_kept() {
        let mut histories = Histories::default();
        (1..=100).for_each(|n| histories.take(totals(&[(n * n, 0)])));
        let connections = histories.of(server(0)).connections;
        assert_eq!((connections.len(), connections[0], connections[59]), (60, 81, 199));
    }

    #[test]
    fn another_server_under_the_number_begins_anew() {
        let mut histories = Histories::default();
        histories.take(totals(&[(5, 100), (9, 9)]));
        histories.take(totals(&[(2, 10), (9, 9)]));
        assert_eq!(histories.of(server(0)).connections, [2]);
        assert_eq!(histories.all().connections, [14, 2]);
        histories.take(totals(&[(3, 10)]));
        assert_eq!(histories.of(server(1)), History::default(), "it has no address any more");
    }

    #[test]
    fn all_of_it_passes_and_no_more_than_there_can_be() {
        let mut histories = Histories { due: Some(Instant::now()), ..Histories::default() };
        histories.take(totals(&[(5, 100)]));
        let passed = serde_json::to_string(&histories.carried()).unwrap();
        let mut after = Histories::adopted(serde_json::from_str(&passed).unwrap());
        after.take(totals(&[(6, 100)]));
        assert_eq!(after.of(server(0)).connections, [5, 1]);
        assert!(after.due().is_some());
        // A later release may leave something out.
        let less = serde_json::json!({
            "all": { "bytes": [1] },
            "servers": { "0": { "totals": { "connections": 6 }, "periods": {} } },
        });
        let mut less = Histories::adopted(serde_json::from_value(less).unwrap());
        less.take(totals(&[(9, 100)]));
        assert_eq!(less.of(server(0)).connections, [3]);
        let mut carried = after.carried();
        carried.all.connections.extend([7; 100]);
        assert_eq!(Histories::adopted(carried).all().connections.len(), 2);
    }
}
