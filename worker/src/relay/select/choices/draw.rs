//! Two servers at random, and the less loaded of them (`p2c`).

use std::cell::Cell;

use pen_config::ids::ServerId;
use pen_config::maglev::mixed;
use pen_config::maglev::rendezvous::Arrival;
use pen_config::settings::Settings;

use crate::relay::select::SelectionRefusal;
use crate::relay::select::farm::Farm;
use crate::relay::select::slow_start::{passes, share};

/// How often is drawn until two servers are found. With nine tenths of the servers out, one choice
/// in four thousand finds none, and examines all.
const DRAWS: usize = 80;

/// The same for each server. With few servers, all are soon examined.
const DRAWS_EACH: usize = 8;

/// How many draws of servers that can be used are left out because of slow start. If all servers
/// begin slowly, most draws would be left out for nothing.
const SLOW_DRAWS: usize = 16;

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
        let (mut servers, mut sums, mut sum) = (Vec::new(), Vec::new(), 0);
        for (id, server) in settings.configured().filter(|(_, server)| server.weight > 0) {
            sum += u64::from(server.weight);
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
        let chance = random();
        let mut found = self.drawn_two(settings, farm, chance, random, judge);
        if found.first.is_none() {
            found = self.any_two(settings, farm, random(), judge);
        }
        match (found.first, found.second) {
            (Some(one), Some(other)) => Some(self.lesser(settings, farm, one, other)),
            (one, _) => self.servers.get(one?.0).copied(),
        }
    }

    /// The servers that the last choice compared.
    pub fn compared(&self) -> Option<(ServerId, ServerId)> {
        self.compared.get()
    }

    /// Two servers that can be used, as far as draws find them. A server in slow start is left out
    /// of as many choices as it lacks of its share; but it is better than none. `chance`: the
    /// random word of this choice.
    fn drawn_two(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        chance: u64,
        random: &mut impl FnMut() -> u64,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
    ) -> Two {
        let (mut two, mut left_out, mut slow_draws) = (Two::default(), Two::default(), 0);
        for _ in 0..DRAWS.min(DRAWS_EACH * self.servers.len()) {
            let word = random();
            let Some((place, id)) = self.drawn(word, two.first.map(|(place, _)| place)) else {
                break;
            };
            if judge(id).is_err() {
                continue;
            }
            if passes(share(settings, farm, id.0.into()), id, chance) {
                two.add(place, Admission::Whole);
            } else {
                left_out.add(place, Admission::WithLoad);
                slow_draws += 1;
            }
            if two.second.is_some() || slow_draws == SLOW_DRAWS {
                break;
            }
        }
        for (place, admission) in [left_out.first, left_out.second].into_iter().flatten() {
            two.add(place, admission);
        }
        two
    }

    /// Two servers of all that can be used. It examines all: nearly all others are out.
    fn any_two(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        word: u64,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
    ) -> Two {
        let mut earliest: [Option<(Arrival, usize)>; 2] = [None; 2];
        for (place, id) in self.servers.iter().enumerate() {
            if judge(*id).is_err() {
                continue;
            }
            let arrival = Arrival::new(
                mixed(word ^ mixed(place as u64)),
                self.weight(place) * u64::from(share(settings, farm, id.0.into())),
            );
            let is_before =
                |other: Option<(Arrival, usize)>| other.is_none_or(|(at, _)| arrival < at);
            if is_before(earliest[0]) {
                earliest = [Some((arrival, place)), earliest[0]];
            } else if is_before(earliest[1]) {
                earliest[1] = Some((arrival, place));
            }
        }
        let [first, second] =
            earliest.map(|found| found.map(|(_, place)| (place, Admission::Whole)));
        Two { first, second }
    }

    /// The server of a random word, and its place: any but the one at the place `without`.
    fn drawn(&self, word: u64, without: Option<usize>) -> Option<(usize, ServerId)> {
        let left_out = without.map_or(0..0, |place| self.before(place)..self.sums[place]);
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

    /// The sum of all weights before a place.
    fn before(&self, place: usize) -> u64 {
        place.checked_sub(1).map_or(0, |place| self.sums[place])
    }

    /// The weight of the server at a place.
    fn weight(&self, place: usize) -> u64 {
        self.sums[place] - self.before(place)
    }

    /// The one with fewer connections for its weight, of which a server in slow start has its share
    /// only. Of equals it is the first, which was drawn by weight alone.
    fn lesser(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        one: (usize, Admission),
        other: (usize, Admission),
    ) -> ServerId {
        let ids = [one, other].map(|(place, _)| self.servers[place]);
        self.compared.set(Some((ids[0], ids[1])));
        let connections = ids.map(|id| u128::from(farm.connections(id.0.into())));
        let weight = |(place, _): (usize, Admission)| {
            let share = share(settings, farm, self.servers[place].0.into());
            u128::from(self.weight(place)) * u128::from(share)
        };
        let is_without_load =
            |n: usize, admission| connections[n] == 0 && admission == Admission::WithLoad;
        match (is_without_load(0, one.1), is_without_load(1, other.1)) {
            (true, false) => ids[1],
            (false, true) => ids[0],
            (false, false) | (true, true) => {
                let is_less = connections[1] * weight(one) < connections[0] * weight(other);
                ids[usize::from(is_less)]
            }
        }
    }
}

/// Whether slow start lets a choice have a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Admission {
    /// Yes.
    Whole,
    /// Only if it has connections: they are compared by its share. An idle server has no load, and
    /// would get every client.
    WithLoad,
}

/// The places of two different servers, as far as they are found.
#[derive(Clone, Copy, Debug, Default)]
struct Two {
    first: Option<(usize, Admission)>,
    second: Option<(usize, Admission)>,
}

impl Two {
    fn add(&mut self, place: usize, admission: Admission) {
        match (self.first, self.second) {
            (None, _) => self.first = Some((place, admission)),
            (Some((first, _)), None) if first != place => self.second = Some((place, admission)),
            (Some(_), _) => {}
        }
    }
}
