//! The table of `maglev`: which server each of 65537 positions belongs to. Pure and frozen: other
//! machines and later releases must compute the same.
//!
//! As in Maglev (Eisenbud and others, 2016), each server names all positions in an order of its
//! own, as often as its weight says. Unlike there, it does not skip positions that are taken: a
//! position belongs to the server that names it first. So a server that joins takes positions, and
//! one that leaves gives positions, and no other position moves. In the original, of 200 servers
//! one that leaves moves two and a half times its share.
//!
//! Each server names one position after the other, at times that only its own name and weight
//! decide. So the table depends on the set of servers and on nothing else. Numbers are integers,
//! because every machine must compute the same.

mod names;
pub mod rendezvous;

pub use crate::maglev::names::{Named, named};
use crate::settings::{Method, Settings};

/// How many positions there are. A prime, so that every step visits all positions.
pub const POSITIONS: u32 = 65537;

/// What stands at a position that no server has named yet.
const NOBODY: u16 = u16::MAX;

/// The server of each position, as a number, for the method maglev; empty with other methods, and
/// if no server has a weight.
pub fn positions(settings: &Settings) -> Vec<u16> {
    match settings.selection.method() {
        Method::Maglev => {
            table(named(settings).into_iter().filter(|server| server.weight > 0).collect())
        }
        Method::Prio
        | Method::Weight
        | Method::Leastconn
        | Method::P2c
        | Method::Hash
        | Method::RoundRobin => Vec::new(),
    }
}

/// How a server names positions: all of them once, in steps.
struct Naming {
    server: Named,
    position: u32,
    step: u32,
    /// When within the time between two positions, as a fraction of 2^16.
    phase: u64,
    /// How many positions it has named.
    named: u32,
}

impl Naming {
    fn new(server: Named) -> Naming {
        let word = |number: u64| mixed(server.hash.wrapping_add(number));
        let below = |word: u64, end: u32| (word % u64::from(end)) as u32;
        Naming {
            server,
            position: below(word(1), POSITIONS),
            step: 1 + below(word(2), POSITIONS - 1),
            phase: word(3) & 0xffff,
            named: 0,
        }
    }

    /// When it names its next position; `None` after the last one.
    fn time(&self, times: &[u64]) -> Option<u64> {
        let [from, to] = times.get(self.named as usize..)?.first_chunk()?;
        // A time is below 12 seconds, which is below 2^64. The difference is at most one second.
        let time = from + ((to - from) >> 16) * self.phase;
        Some(time / u64::from(self.server.weight))
    }

    fn advance(&mut self) {
        self.named += 1;
        self.position += self.step;
        if self.position >= POSITIONS {
            self.position -= POSITIONS;
        }
    }
}

/// The unit of time. The time until the end is below 12 of them, and with the largest weight there
/// are still some thousand moments between two positions.
const SECOND: u64 = 1 << 60;

/// When a server of weight 1 names its first position, its second, and so on.
///
/// If each server named each position after a time of its own, exponentially distributed with its
/// weight as the rate, the first one would be a server as often as its weight says, exactly. These
/// are the expected times of the first, the second, ... of 65537 such positions: the one after k
/// comes after 1 / (65537 - k).
fn times() -> Vec<u64> {
    let steps = (1..=u64::from(POSITIONS)).rev().map(|left| SECOND / left);
    let sums = steps.scan(0, |sum, step| {
        *sum += step;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

fn table(servers: Vec<Named>) -> Vec<u16> {
    if servers.is_empty() {
        return Vec::new();
    }
    let weights: u128 = servers.iter().map(|server| u128::from(server.weight)).sum();
    let mut owners = vec![(u64::MAX, 0u64, NOBODY); POSITIONS as usize];
    let mut namings: Vec<Naming> = servers.into_iter().map(Naming::new).collect();
    let times = times();
    // By then a position is free with a probability of e^-15.
    let round = 15 * u128::from(SECOND) / weights;
    let round = u64::try_from(round).unwrap_or(u64::MAX);
    let mut end = round;
    loop {
        for naming in &mut namings {
            while let Some(time) = naming.time(&times).filter(|time| *time < end) {
                let named = (time, naming.server.hash, naming.server.id.0);
                let owner = &mut owners[naming.position as usize];
                *owner = named.min(*owner);
                naming.advance();
            }
        }
        let is_full = owners.iter().all(|(_, _, id)| *id != NOBODY);
        if is_full || namings.iter().all(|naming| naming.time(&times).is_none()) {
            return owners.into_iter().map(|(_, _, id)| id).collect();
        }
        end = end.saturating_add(round);
    }
}

/// Spreads a hash over all bits (the end of MurmurHash3, Appleby 2011).
pub fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::collections::HashMap;

    use super::*;
    use crate::address::{Address, Host};
    use crate::settings::{Maglev, Selection, Server};

    fn settings(servers: Vec<Option<Server>>) -> Settings {
        let selection = Selection { maglev: Maglev::On, ..Selection::default() };
        Settings { servers, selection, ..Settings::default() }
    }

    fn server(number: u16, weight: u32) -> Option<Server> {
        let address = Address::Inet(([10, 0, (number >> 8) as u8, number as u8], 80).into());
        Some(Server { weight, ..Server::at(address) })
    }

    fn counts(table: &[u16]) -> HashMap<u16, u32> {
        let mut counts = HashMap::new();
        table.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
        counts
    }

    #[test]
    fn the_table_is_frozen() {
        let servers = vec![server(1, 1), None, server(2, 3), server(1, 1), server(9, 0)];
        let table = positions(&settings(servers));
        let digest = table.iter().fold(0u64, |digest, id| mixed(digest ^ u64::from(*id)));
        assert_eq!((table.len(), format!("{digest:016x}").as_str()), (65537, FROZEN));
        assert!(positions(&Settings::default()).is_empty());
    }

    const FROZEN: &str = "93b4529830ffb7ed";

    #[test]
    fn weights_are_shares_and_weight_0_has_none() {
        let weights = [1, 0, 2, 5, 8];
        let table =
            positions(&settings((0u16..).zip(weights).map(|(n, w)| server(n, w)).collect()));
        let counts = counts(&table);
        for (id, weight) in (0u16..).zip(weights) {
            let share = 65537 * weight / 16;
            let has = counts.get(&id).copied().unwrap_or(0);
            assert!(has.abs_diff(share) <= 200 + share / 50, "{id}: {has}, not {share}");
        }
        let none = positions(&settings(vec![server(1, 0)]));
        assert!(none.is_empty());
        let one = positions(&settings(vec![None, server(1, u32::MAX >> 1)]));
        assert!(one.iter().all(|id| *id == 1));
    }

    #[test]
    fn a_name_counts_as_it_is_written_and_the_number_of_a_server_does_not() {
        let named = |ip: [u8; 4]| {
            let address = Address::Inet((ip, 80).into());
            let given = Some(Host::Name("www.example".into()));
            Some(Server { given, ..Server::at(address) })
        };
        let of = |servers| positions(&settings(servers));
        let one = of(vec![named([10, 1, 1, 1]), server(2, 1)]);
        assert_eq!(one, of(vec![named([10, 2, 2, 2]), server(2, 1)]), "it moved");
        let turned = of(vec![server(2, 1), named([10, 1, 1, 1])]);
        assert!(one.iter().zip(&turned).all(|(one, other)| one != other));
    }

    #[test]
    fn a_thousand_servers_have_about_their_share() {
        let table = positions(&settings((0..1000).map(|n| server(n, 1)).collect()));
        let counts = counts(&table);
        assert!(counts.len() == 1000 && counts.values().all(|count| (30..110).contains(count)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Nobody's position moves but from the one that leaves, or to the one that joins.
        #[test]
        fn who_leaves_moves_only_its_own_positions(
            names in prop::collection::btree_map(any::<u16>(), 1u32..6, 3..200),
            which in any::<prop::sample::Index>(),
        ) {
            let all: Vec<_> = names.iter().map(|(name, weight)| server(*name, *weight)).collect();
            let leaver = which.index(all.len());
            let mut rest = all.clone();
            rest[leaver] = None;
            let (with, without) = (positions(&settings(all)), positions(&settings(rest)));
            let moved = with.iter().zip(&without).filter(|(one, other)| one != other);
            let mut count = 0;
            for (from, _) in moved {
                prop_assert_eq!(usize::from(*from), leaver);
                count += 1;
            }
            let (weight, total) = (*names.values().nth(leaver).unwrap(), names.values().sum::<u32>());
            prop_assert!(count * total <= 65537 * weight * 3 / 2, "{count} of weight {weight}/{total}");
            prop_assert!(count > 0);
        }
    }
}
