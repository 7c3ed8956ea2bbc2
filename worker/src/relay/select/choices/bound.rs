//! The bound of `maglev`: a server is passed over if it has more than a percentage of the mean.
//!
//! The mean is a copy of counts that all workers change. This worker's own changes are read before
//! each choice, and the count of a candidate is always the true one. What other workers did since
//! all servers were read is missing from the mean. With up to [`FEW`] servers all are read at each
//! choice. With more they are read after [`PERIOD`] milliseconds, and after as many choices as an
//! eighth of the servers: then other workers may have placed about as many.

use pen_config::ids::ServerId;
use pen_config::settings::{Server, Settings};

use crate::relay::select::SelectionRefusal;
use crate::relay::select::choices::{FEW, PERIOD};
use crate::relay::select::farm::Farm;
use crate::relay::select::judge::open_to_strangers;

/// All servers are read again after as many choices as this part of the servers.
const PART: usize = 8;

/// The bound, and the counts of which the mean is made.
#[derive(Debug)]
pub struct Bound {
    /// Most connections, in percent of the mean.
    percent: u32,
    /// By server number.
    servers: Vec<Counted>,
    /// The sums over the servers that count.
    connections: u64,
    weights: u64,
    /// Servers whose count this worker changed since the last choice.
    changed: Vec<u32>,
    /// When all servers were read, in milliseconds.
    read_at: Option<u64>,
    /// How many choices followed.
    choices: usize,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
struct Counted {
    weight: u32,
    /// Its connections, if it counts: new clients can use it.
    connections: Option<u32>,
}

impl Bound {
    /// A bound in percent of the mean. No count has been read.
    pub fn new(settings: &Settings, percent: u32) -> Bound {
        let count = settings.server_count() as usize;
        let all = settings.servers.iter().take(count);
        let weight = |server: &Option<Server>| server.as_ref().map_or(0, |server| server.weight);
        Bound {
            percent,
            servers: all.map(|s| Counted { weight: weight(s), connections: None }).collect(),
            connections: 0,
            weights: 0,
            changed: Vec::new(),
            read_at: None,
            choices: 0,
        }
    }

    /// Notes that this worker changed the count of a server.
    pub fn note(&mut self, row: u32) {
        match self.changed.len() < self.servers.len() {
            true => self.changed.push(row),
            // Reading all costs no more.
            false => self.read_at = None,
        }
    }

    /// Reads the counts that have changed, or all.
    pub fn update(&mut self, settings: &Settings, farm: &impl Farm) {
        let now = farm.now();
        let is_old = |at: u64| now.wrapping_sub(at) >= PERIOD;
        self.choices += 1;
        let is_due = self.servers.len() <= FEW
            || self.choices > self.servers.len() / PART
            || self.read_at.is_none_or(is_old);
        if is_due {
            (self.read_at, self.choices) = (Some(now), 0);
            self.changed.clear();
            return (0..).take(self.servers.len()).for_each(|row| self.read(settings, farm, row));
        }
        let mut changed = std::mem::take(&mut self.changed);
        for row in changed.drain(..) {
            self.read(settings, farm, row);
        }
        self.changed = changed;
    }

    /// Whether a server that can be used has not more connections than the bound.
    ///
    /// # Errors
    /// It has more than the percentage of the mean, and at least one connection more than the mean.
    pub fn judge(&mut self, farm: &impl Farm, id: ServerId) -> Result<(), SelectionRefusal> {
        let connections = farm.connections(id.0.into());
        // Other workers may have changed it, and it may have come back.
        self.set(id.index(), Some(connections));
        let weight = self.servers.get(id.index()).map_or(0, |server| server.weight);
        match self.exceeds(connections, weight) {
            true => Err(SelectionRefusal::Crowded { connections, percent: self.percent }),
            false => Ok(()),
        }
    }

    fn read(&mut self, settings: &Settings, farm: &impl Farm, row: u32) {
        let number = row as usize;
        // Without a weight it has no part of the mean, and the emergency server is not among them.
        if self.servers.get(number).is_none_or(|server| server.weight == 0) {
            return;
        }
        let connections = farm.connections(row);
        let open = open_to_strangers(settings, farm, row, connections);
        self.set(number, open.is_ok().then_some(connections));
    }

    fn set(&mut self, number: usize, connections: Option<u32>) {
        let Some(server) = self.servers.get_mut(number) else { return };
        if let Some(before) = std::mem::replace(&mut server.connections, connections) {
            self.connections -= u64::from(before);
            self.weights -= u64::from(server.weight);
        }
        if let Some(now) = connections {
            self.connections += u64::from(now);
            self.weights += u64::from(server.weight);
        }
    }

    /// The mean is by weight.
    fn exceeds(&self, connections: u32, weight: u32) -> bool {
        let own = u128::from(connections) * u128::from(self.weights);
        let mean = u128::from(self.connections) * u128::from(weight);
        own * 100 > mean * u128::from(self.percent) && own >= mean + u128::from(self.weights)
    }
}
