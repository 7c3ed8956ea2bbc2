//! Positions of clients and servers (`maglev`): the same client gets the same server.
//!
//! A position has an order of all servers: first the owners of the positions that a walk from there
//! comes to, then the others by their names ([`Named::arrival`]). The order depends on nothing but
//! the servers' names and weights. A client gets the first one that can be used.

use std::cmp::Reverse;

use pen_config::ids::{ClientKey, ServerId};
use pen_config::maglev::rendezvous::Arrival;
use pen_config::maglev::{Named, POSITIONS, mixed, named};
use pen_config::settings::{Maglev, Settings};

use crate::relay::select::SelectionRefusal;
use crate::relay::select::choices::bound::Bound;
use crate::relay::select::farm::Farm;
use crate::relay::select::hash::hash_of_client;

/// How many positions a walk comes to. If a tenth of the weights can be used, one walk in 10^12
/// finds none of them. It must be the same on every machine, whatever servers that has.
const STEPS: u64 = 256;

/// The table, and what the bound needs.
#[derive(Debug)]
pub struct Positions {
    owners: Vec<u16>,
    /// All servers, those with a weight first.
    names: Vec<Named>,
    /// How many have a weight.
    weighted: usize,
    bound: Option<Bound>,
    /// The servers that were examined for the present client.
    seen: Seen,
}

/// What a walk comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Walked {
    Found(ServerId),
    /// Nothing but, perhaps, servers above the bound: the first of them.
    InVain(Option<ServerId>),
}

/// In which order the servers that are left are tried.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Class {
    Fits,
    Crowded,
    Weightless,
}

impl Positions {
    /// `owners`: what [`pen_config::maglev::positions`] gives for these settings.
    pub fn new(settings: &Settings, owners: Vec<u16>) -> Positions {
        let bound = match settings.selection.maglev {
            Maglev::Bounded(percent) => Some(Bound::new(settings, percent)),
            Maglev::Off | Maglev::On => None,
        };
        let names = named(settings);
        let weighted = names.iter().filter(|named| named.weight > 0).count();
        let seen = Seen::new(settings.server_count());
        Positions { owners, names, weighted, bound, seen }
    }

    /// Notes that this worker changed the count of a server.
    pub fn note(&mut self, row: u32) {
        if let Some(bound) = &mut self.bound {
            bound.note(row);
        }
    }

    /// The first server of a position that `accepts` and that has not more connections than the
    /// bound; if there is none, the first that `accepts`. It is asked once of each server.
    pub fn first(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        position: u32,
        accepts: &mut impl FnMut(ServerId) -> bool,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Option<ServerId> {
        let crowded = match self.walked(settings, farm, position, accepts, note) {
            Walked::Found(id) => return Some(id),
            Walked::InVain(crowded) => crowded,
        };
        let Positions { names, weighted, bound, seen, .. } = self;
        let (mut first, mut first_crowded) = (None, None);
        for named in names.iter().take(*weighted).filter(|named| seen.insert(named.id)) {
            if !accepts(named.id) {
                continue;
            }
            let earliest = match bound.as_mut().map_or(Ok(()), |bound| bound.judge(farm, named.id))
            {
                Ok(()) => &mut first,
                Err(refusal) => {
                    note(named.id, refusal);
                    &mut first_crowded
                }
            };
            let arrival = named.arrival(position);
            if earliest.is_none_or(|(before, _)| arrival < before) {
                *earliest = Some((arrival, named.id));
            }
        }
        let id = |earliest: Option<(Arrival, ServerId)>| earliest.map(|(_, id)| id);
        id(first).or(crowded).or(id(first_crowded))
    }

    /// The first server that a walk from a position comes to, that `accepts`, and that is not above
    /// the bound.
    pub fn walked(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        position: u32,
        accepts: &mut impl FnMut(ServerId) -> bool,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Walked {
        let Positions { owners, weighted, bound, seen, .. } = self;
        if let Some(bound) = bound {
            bound.update(settings, farm);
        }
        seen.clear();
        let mut crowded = None;
        for id in walk(owners, position) {
            if !seen.insert(id) {
                continue;
            }
            if accepts(id) {
                match bound.as_mut().map_or(Ok(()), |bound| bound.judge(farm, id)) {
                    Ok(()) => return Walked::Found(id),
                    Err(refusal) => note(id, refusal),
                }
                crowded = crowded.or(Some(id));
            }
            if seen.count == *weighted {
                break;
            }
        }
        Walked::InVain(crowded)
    }

    /// The servers that `accepts`, the last one first: those without a weight, those above the
    /// bound, the others; each kind in the reverse order of the position.
    pub fn rest(
        &mut self,
        farm: &impl Farm,
        position: u32,
        accepts: &mut impl FnMut(ServerId) -> bool,
    ) -> Vec<ServerId> {
        let bound = &mut self.bound;
        let mut class = |named: &Named| match named.weight {
            0 => Class::Weightless,
            _ => match bound.as_mut().map_or(Ok(()), |bound| bound.judge(farm, named.id)) {
                Ok(()) => Class::Fits,
                Err(_) => Class::Crowded,
            },
        };
        let accepted = self.names.iter().filter(|named| accepts(named.id));
        let mut rest: Vec<_> = accepted
            .map(|named| Reverse((class(named), named.arrival(position), named.id)))
            .collect();
        rest.sort_unstable();
        rest.into_iter().map(|Reverse((_, _, id))| id).collect()
    }

    /// The server to which a position belongs.
    pub fn owner(&self, position: u32) -> Option<ServerId> {
        self.owners.get(position as usize).copied().map(ServerId)
    }

    /// The number of the server at each position.
    pub fn owners(&self) -> &[u16] {
        &self.owners
    }
}

/// A set of servers.
#[derive(Debug)]
struct Seen {
    bits: Vec<u64>,
    count: usize,
}

impl Seen {
    fn new(servers: u32) -> Seen {
        Seen { bits: vec![0; servers.div_ceil(64) as usize], count: 0 }
    }

    fn clear(&mut self) {
        self.bits.fill(0);
        self.count = 0;
    }

    /// Adds a server. False: it is there, or does not exist.
    fn insert(&mut self, id: ServerId) -> bool {
        let Some(word) = self.bits.get_mut(id.index() / 64) else { return false };
        let bit = 1 << (id.index() % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(is_new);
        is_new
    }
}

/// The owners of the positions from one on, with a step that depends on the position alone. So the
/// clients of a server that fails spread over all others. A server may come several times.
fn walk(owners: &[u16], position: u32) -> impl Iterator<Item = ServerId> + use<'_> {
    let step = 1 + mixed(position.into()) % u64::from(POSITIONS - 1);
    let places =
        (0..STEPS).map(move |n| ((u64::from(position) + n * step) % u64::from(POSITIONS)) as usize);
    // The table is empty if no server has a weight.
    places.filter_map(|place| owners.get(place)).copied().map(ServerId)
}

/// The position of a client.
pub fn position(client: ClientKey) -> u32 {
    (mixed(hash_of_client(client)) % u64::from(POSITIONS)) as u32
}
