//! Positions of clients and servers (`maglev`): the same client gets the same server.

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::maglev::{POSITIONS, mixed};
use pen_config::settings::{Maglev, Settings};

use crate::relay::select::SelectionRefusal;
use crate::relay::select::choices::{FEW, PERIOD};
use crate::relay::select::farm::Farm;
use crate::relay::select::hash::hash_of_net;
use crate::relay::select::judge::open_to_strangers;

/// After so many positions for each server, those that are left are not looked for any more.
const ROUNDS: u32 = 4;

/// At least so many positions are looked at.
const FEWEST: u32 = 64;

/// The table, and what the bound needs.
#[derive(Debug)]
pub struct Positions {
    owners: Vec<u16>,
    /// Most connections, in percent of the mean; `None` = no bound.
    bound: Option<u32>,
    totals: Totals,
    /// When the totals were computed, in milliseconds.
    read_at: Option<u64>,
}

/// The sums over the servers that can be used.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    connections: u64,
    weights: u64,
}

impl Positions {
    /// `owners`: what [`pen_config::maglev::positions`] gives for these settings.
    pub fn new(settings: &Settings, owners: Vec<u16>) -> Positions {
        let bound = match settings.selection.maglev {
            Maglev::Bounded(percent) => Some(percent),
            Maglev::Off | Maglev::On => None,
        };
        Positions { owners, bound, totals: Totals::default(), read_at: None }
    }

    /// The first server from a position on that `judge` accepts and that has not more connections
    /// than the bound; if there is none, the first that `judge` accepts.
    pub fn first(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        position: u32,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Option<ServerId> {
        let Some(percent) = self.bound else {
            return self.walk(settings, position).find(|id| judge(*id).is_ok());
        };
        self.read(settings, farm);
        let mut fallback = None;
        for id in self.walk(settings, position) {
            if fallback == Some(id) || judge(id).is_err() {
                continue;
            }
            let connections = farm.connections(id.0.into());
            match self.totals.exceeds(percent, connections, weight(settings, id)) {
                false => return Some(id),
                true => note(id, SelectionRefusal::Crowded { connections, percent }),
            }
            fallback = fallback.or(Some(id));
        }
        fallback
    }

    /// The number of the server at each position.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }

    /// The servers from a position on, in an order that depends on the position alone. A server may
    /// come several times.
    pub fn walk(
        &self,
        settings: &Settings,
        position: u32,
    ) -> impl Iterator<Item = ServerId> + use<'_> {
        let step = 1 + mixed(position.into()) % u64::from(POSITIONS - 1);
        let most = (ROUNDS * settings.server_count()).clamp(FEWEST, POSITIONS);
        let places = (0..u64::from(most))
            .map(move |n| ((u64::from(position) + n * step) % u64::from(POSITIONS)) as usize);
        // The table is empty if no server has a weight.
        places.filter_map(|place| self.owners.get(place)).copied().map(ServerId)
    }

    /// Computes the totals anew if they may be old.
    fn read(&mut self, settings: &Settings, farm: &impl Farm) {
        let now = farm.now();
        let is_old = |at: u64| now.wrapping_sub(at) >= PERIOD;
        if settings.server_count() as usize > FEW && !self.read_at.is_none_or(is_old) {
            return;
        }
        self.read_at = Some(now);
        self.totals = Totals::default();
        for (id, server) in settings.configured().filter(|(_, server)| server.weight > 0) {
            let connections = farm.connections(id.0.into());
            match open_to_strangers(settings, farm, id.0.into(), connections) {
                // A full server has its part of the load.
                Ok(()) | Err(SelectionRefusal::Full { .. }) => {
                    self.totals.connections += u64::from(connections);
                    self.totals.weights += u64::from(server.weight);
                }
                Err(_) => {}
            }
        }
    }
}

impl Totals {
    /// Whether a server has more than this percentage of the mean, and at least one connection more
    /// than the mean. The mean is by weight.
    fn exceeds(self, percent: u32, connections: u32, weight: u32) -> bool {
        let own = u128::from(connections) * u128::from(self.weights);
        let mean = u128::from(self.connections) * u128::from(weight);
        own * 100 > mean * u128::from(percent) && own >= mean + u128::from(self.weights)
    }
}

fn weight(settings: &Settings, id: ServerId) -> u32 {
    settings.target(Target::Server(id)).map_or(0, |server| server.weight)
}

/// The position of a client.
pub fn position(settings: &Settings, client: ClientKey) -> u32 {
    (mixed(hash_of_net(client, settings.per_client.net)) % u64::from(POSITIONS)) as u32
}
