//! By what each server's share of the connections is measured, and how it grows in slow start.

use crate::settings::{Method, Selection};

/// How the connections of all usable servers are shared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shares {
    /// All servers get the same number.
    Equal,
    /// Each server gets a number in proportion to its weight.
    ByWeight,
}

/// Why no server has a share: a client that comes back gets the same server again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoShares {
    /// The server with the lowest prio is to have all clients.
    Prio,
    /// A client has one server and no other.
    Stubborn,
    /// The client's address decides.
    Hash,
    /// The client's position in a table decides.
    Maglev,
}

impl NoShares {
    /// The mode as operators set it.
    pub fn mode(self) -> &'static str {
        match self {
            NoShares::Prio => "prio",
            NoShares::Stubborn => "stubborn (-s)",
            NoShares::Hash => "hash (-h, -N)",
            NoShares::Maglev => "maglev",
        }
    }
}

/// How the modes in force share connections.
///
/// # Errors
/// The mode in which a client that comes back gets the same server again.
pub fn shares(selection: Selection) -> Result<Shares, NoShares> {
    if selection.stubborn {
        return Err(NoShares::Stubborn);
    }
    match selection.method() {
        Method::Prio => Err(NoShares::Prio),
        Method::Weight | Method::Leastconn | Method::P2c => Ok(Shares::ByWeight),
        Method::Maglev => Err(NoShares::Maglev),
        Method::Hash => Err(NoShares::Hash),
        Method::RoundRobin => Ok(Shares::Equal),
    }
}

/// A whole share, in thousandths.
pub const WHOLE: u32 = 1000;

/// The part of a share with which a server begins (`slow_start`).
const FIRST: u64 = 100;

/// The part of its share that a server has in slow start, in thousandths: at first a tenth, then
/// more with the time. `returned` and `now` are in monotonic milliseconds; `returned` 0: it was
/// never out of service. Any worker can write it, so it can be in the future.
pub fn slow_share(returned: u64, now: u64, seconds: u32) -> u32 {
    let (passed, whole) = (now.saturating_sub(returned), u64::from(seconds) * 1000);
    if returned == 0 || passed >= whole {
        return WHOLE;
    }
    // Below 1000: a day is less than 2^27 milliseconds.
    (FIRST + (u64::from(WHOLE) - FIRST) * passed / whole) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Maglev;

    #[test]
    fn the_mode_that_chooses_decides_about_the_shares() {
        let none = Selection::default();
        let all = Selection {
            roundrobin: true,
            hash: true,
            hash_always: true,
            weight: true,
            prio: true,
            leastconn: true,
            p2c: true,
            maglev: Maglev::On,
            stubborn: true,
        };
        for (selection, expected) in [
            (none, Ok(Shares::Equal)),
            (Selection { roundrobin: true, ..none }, Ok(Shares::Equal)),
            (Selection { weight: true, ..none }, Ok(Shares::ByWeight)),
            (Selection { leastconn: true, ..none }, Ok(Shares::ByWeight)),
            (Selection { p2c: true, ..none }, Ok(Shares::ByWeight)),
            (Selection { hash: true, ..none }, Err(NoShares::Hash)),
            (Selection { hash_always: true, ..none }, Err(NoShares::Hash)),
            (Selection { maglev: Maglev::On, ..none }, Err(NoShares::Maglev)),
            (Selection { weight: true, hash: true, ..none }, Ok(Shares::ByWeight)),
            (Selection { prio: true, ..none }, Err(NoShares::Prio)),
            (Selection { stubborn: false, ..all }, Err(NoShares::Prio)),
            (all, Err(NoShares::Stubborn)),
        ] {
            assert_eq!(shares(selection), expected, "{selection:?}");
        }
    }

    #[test]
    fn in_slow_start_a_share_grows_from_a_tenth_to_the_whole() {
        for (returned, now, share) in [
            (0, 5, 1000),
            (100, 100, 100),
            (100, 5_100, 550),
            (100, 10_099, 999),
            (100, 10_100, 1000),
            (u64::MAX, 100, 100),
        ] {
            assert_eq!(slow_share(returned, now, 10), share, "{returned} {now}");
        }
        assert_eq!(slow_share(1, 86_400_000, 86_400), 999);
    }
}
