//! The order of the servers, and which of them are shown.

use std::cmp::Ordering;

use super::rates::Rates;
use crate::overview::{Check, Server};

/// What the servers are ordered by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    Number,
    Name,
    State,
    Check,
    Connections,
    Rate,
    Bytes,
    ConnectTime,
    Failures,
}

impl Key {
    /// All keys, in the order of their columns.
    pub const ALL: [Key; 9] = [
        Key::Number,
        Key::Name,
        Key::State,
        Key::Check,
        Key::Connections,
        Key::Rate,
        Key::Bytes,
        Key::ConnectTime,
        Key::Failures,
    ];

    /// The letter that chooses it.
    pub fn letter(self) -> char {
        match self {
            Key::Number => 'N',
            Key::Name => 'A',
            Key::State => 'S',
            Key::Check => 'K',
            Key::Connections => 'C',
            Key::Rate => 'R',
            Key::Bytes => 'B',
            Key::ConnectTime => 'P',
            Key::Failures => 'F',
        }
    }

    /// The direction that shows first what one looks for.
    fn direction(self) -> Direction {
        match self {
            Key::Number | Key::Name | Key::State | Key::Check => Direction::Up,
            Key::Connections | Key::Rate | Key::Bytes | Key::ConnectTime | Key::Failures => {
                Direction::Down
            }
        }
    }
}

/// Whether small values come first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// They do.
    Up,
    /// Large ones come first.
    Down,
}

/// A key and a direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Order {
    pub key: Key,
    pub direction: Direction,
}

impl Default for Order {
    fn default() -> Order {
        Order::by(Key::Number)
    }
}

impl Order {
    fn by(key: Key) -> Order {
        Order { key, direction: key.direction() }
    }

    /// By this key. The same key again turns the direction.
    pub fn choose(&mut self, key: Key) {
        match self.key == key {
            true => self.turn(),
            false => *self = Order::by(key),
        }
    }

    /// By the next key, or by the one before.
    pub fn step(&mut self, direction: Direction) {
        let index = Key::ALL.iter().position(|key| *key == self.key).unwrap_or(0);
        let step = match direction {
            Direction::Up => 1,
            Direction::Down => Key::ALL.len() - 1,
        };
        *self = Order::by(Key::ALL[(index + step) % Key::ALL.len()]);
    }

    /// The other direction.
    pub fn turn(&mut self) {
        self.direction = match self.direction {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        };
    }

    /// The servers that contain the text in name, address, state or check, in this order. Those
    /// that are equal are ordered by number.
    pub fn of<'s>(&self, servers: &'s [Server], filter: &str, rates: &Rates) -> Vec<&'s Server> {
        let filter = filter.to_lowercase();
        let mut rows: Vec<&Server> =
            servers.iter().filter(|server| contains(server, &filter)).collect();
        rows.sort_by(|one, other| {
            let order = match self.direction {
                Direction::Up => self.compare(one, other, rates),
                Direction::Down => self.compare(other, one, rates),
            };
            order.then(one.slot.cmp(&other.slot))
        });
        rows
    }

    fn compare(&self, one: &Server, other: &Server, rates: &Rates) -> Ordering {
        let number = |of: &dyn Fn(&Server) -> f64| of(one).total_cmp(&of(other));
        match self.key {
            Key::Number => one.slot.cmp(&other.slot),
            Key::Name => one.name.cmp(&other.name),
            Key::State => one.state.health().cmp(&other.state.health()),
            // Servers without a check come last.
            Key::Check => {
                let urgency = |server: &Server| server.check.as_ref().map(Check::urgency);
                match (urgency(one), urgency(other)) {
                    (Some(one), Some(other)) => one.cmp(&other),
                    (one, other) => other.is_some().cmp(&one.is_some()),
                }
            }
            Key::Connections => one.connections.cmp(&other.connections),
            Key::Rate => number(&|server| rates.connections(server.slot).unwrap_or(-1.0)),
            Key::Bytes => number(&|server| {
                rates.bytes(server.slot).map_or(-1.0, |(sent, received)| sent + received)
            }),
            Key::ConnectTime => one.connect_time(0.99).cmp(&other.connect_time(0.99)),
            Key::Failures => one.failed().cmp(&other.failed()),
        }
    }
}

fn contains(server: &Server, filter: &str) -> bool {
    let (state, why) = server.state();
    let check = server.check_words().unwrap_or_default();
    let slot = server.slot.to_string();
    [&server.name, &server.address, &(state + &why), &check, &slot]
        .iter()
        .any(|text| text.to_lowercase().contains(filter))
}
