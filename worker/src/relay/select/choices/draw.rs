//! Two servers at random, and the less loaded of them (`p2c`).

use std::cell::Cell;

use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;

use crate::relay::select::SelectionRefusal;
use crate::relay::select::farm::Farm;
use crate::relay::select::slow_start;

/// How often is drawn until two servers are found that can be used. With half of the
/// servers out, one choice in some thousands needs more.
const DRAWS: usize = 16;

/// The servers that can be drawn, each as often as its weight says.
#[derive(Debug)]
pub struct Draw {
    servers: Vec<ServerId>,
    /// For each server, the sum of its weight and of all before it.
    sums: Vec<u64>,
    /// The servers that were compared last, for explanations.
    compared: Cell<Option<(ServerId, ServerId)>>,
}

impl Draw {
    /// All servers that have a weight.
    pub fn new(settings: &Settings) -> Draw {
        Draw::of(
            settings
                .configured()
                .filter(|(_, server)| server.weight > 0)
                .map(|(id, server)| (id, server.weight)),
        )
    }

    fn of(weights: impl Iterator<Item = (ServerId, u32)>) -> Draw {
        let (mut servers, mut sums, mut sum) = (Vec::new(), Vec::new(), 0);
        for (id, weight) in weights {
            sum += u64::from(weight);
            servers.push(id);
            sums.push(sum);
        }
        Draw { servers, sums, compared: Cell::new(None) }
    }

    /// The less loaded of two servers that `judge` accepts, or the one that there is. `random`
    /// gives a new word each time.
    pub fn choose(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        random: &mut impl FnMut() -> u64,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
    ) -> Option<ServerId> {
        self.compared.set(None);
        if let [only] = self.servers[..] {
            return Some(only).filter(|id| judge(*id).is_ok());
        }
        // A server in slow start is left out of as many draws as it lacks of its share.
        let mut judge_drawn = |id: ServerId, chance: u64| {
            slow_start::passes(settings, farm, id, chance)?;
            judge(id)
        };
        let first = match self.two(random, &mut judge_drawn) {
            (Some(one), Some(other)) => return Some(self.lesser(settings, farm, one, other)),
            (first, _) => first,
        };
        if first.is_some() {
            return first;
        }
        // Few can be used: all are examined.
        let usable = self.servers.iter().filter(|id| judge(**id).is_ok());
        let weight = |id: &ServerId| Some((*id, settings.target(Target::Server(*id))?.weight));
        let usable = Draw::of(usable.filter_map(weight));
        match usable.two(random, &mut |_, _| Ok(())) {
            (Some(one), Some(other)) => Some(self.lesser(settings, farm, one, other)),
            (first, _) => first,
        }
    }

    /// The servers that the last choice compared.
    pub fn compared(&self) -> Option<(ServerId, ServerId)> {
        self.compared.get()
    }

    /// Two different servers that can be used, as far as they are found.
    fn two(
        &self,
        random: &mut impl FnMut() -> u64,
        judge: &mut impl FnMut(ServerId, u64) -> Result<(), SelectionRefusal>,
    ) -> (Option<ServerId>, Option<ServerId>) {
        let mut first = None;
        for _ in 0..DRAWS {
            let word = random();
            let Some((place, id)) = self.drawn(word, first) else { break };
            if judge(id, word).is_err() {
                continue;
            }
            match first {
                None => first = Some(place),
                Some(one) => return (self.servers.get(one).copied(), Some(id)),
            }
        }
        (first.and_then(|one| self.servers.get(one).copied()), None)
    }

    /// The server of a random word, and its place: any but the one at the place `without`.
    fn drawn(&self, word: u64, without: Option<usize>) -> Option<(usize, ServerId)> {
        let before = |place: usize| place.checked_sub(1).map_or(0, |place| self.sums[place]);
        let left_out = without.map_or(0..0, |place| before(place)..self.sums[place]);
        let weight = left_out.end - left_out.start;
        let total = *self.sums.last()? - weight;
        // Below `total`.
        let mut point = ((u128::from(word) * u128::from(total)) >> 64) as u64;
        if without.is_some() && point >= left_out.start {
            point += weight;
        }
        let place = self.sums.partition_point(|sum| *sum <= point);
        Some((place, *self.servers.get(place)?))
    }

    /// The one with fewer connections for its weight; of equals the first, which was drawn by
    /// weight alone.
    fn lesser(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        one: ServerId,
        other: ServerId,
    ) -> ServerId {
        self.compared.set(Some((one, other)));
        let connections = |id: ServerId| u128::from(farm.connections(id.0.into()));
        let weight = |id: ServerId| {
            let weight = settings.target(Target::Server(id)).map_or(1, |server| server.weight);
            u128::from(weight.max(1)) * u128::from(slow_start::share(settings, farm, id.0.into()))
        };
        match connections(other) * weight(one) < connections(one) * weight(other) {
            true => other,
            false => one,
        }
    }
}
