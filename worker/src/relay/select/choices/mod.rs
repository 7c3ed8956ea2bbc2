//! What a worker derives from the settings to choose a first server, for the one method in force.
//!
//! It makes a choice among a thousand servers cost about as much as one among two. Everything here
//! can be made again from the settings and the shared table at any time.

mod bound;
mod draw;
mod loads;
mod positions;
mod ranks;
mod turns;

use std::cell::RefCell;

use pen_config::ids::ServerId;
use pen_config::maglev::{self, mixed};
use pen_config::settings::{Method, Settings};

use crate::relay::select::SelectionRefusal;
use crate::relay::select::choices::draw::Draw;
use crate::relay::select::choices::loads::{Loads, measure};
pub use crate::relay::select::choices::positions::position;
use crate::relay::select::choices::positions::{Positions, Walked};
use crate::relay::select::choices::ranks::Ranks;
use crate::relay::select::farm::Farm;

/// Up to so many servers, all are read at each choice.
const FEW: usize = 32;

/// Milliseconds after which all servers are read again.
const PERIOD: u64 = 10;

/// A farm with what a worker derived for the method in force.
pub trait Choosing: Farm {
    /// What is derived from the settings.
    fn choices(&self) -> &RefCell<Choices>;
}

/// What the method in force needs.
#[derive(Debug)]
pub struct Choices {
    of_method: OfMethod,
    /// The state of the generator of random words; not 0.
    random: u64,
}

#[derive(Debug)]
enum OfMethod {
    /// Prio.
    Ranks(Ranks),
    /// Weight and leastconn.
    Loads(Box<Loads>),
    /// P2c.
    Draw(Draw),
    /// Maglev.
    Positions(Positions),
    /// Hash and round robin need nothing.
    Nothing,
}

impl OfMethod {
    fn new(settings: &Settings, positions: Vec<u16>) -> OfMethod {
        let method = settings.selection.method();
        match (method, measure(method)) {
            (_, Some(measure)) => OfMethod::Loads(Box::new(Loads::new(settings, measure))),
            (Method::Prio, None) => OfMethod::Ranks(Ranks::new(settings)),
            (Method::P2c, None) => OfMethod::Draw(Draw::new(settings)),
            (Method::Maglev, None) => OfMethod::Positions(Positions::new(settings, positions)),
            (Method::Weight | Method::Leastconn | Method::Hash | Method::RoundRobin, None) => {
                OfMethod::Nothing
            }
        }
    }
}

impl Choices {
    /// What these settings need. `seed`: any word, another one for each worker.
    pub fn new(settings: &Settings, seed: u64) -> Choices {
        // Neighbours must not begin alike.
        let random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let of_method = OfMethod::new(settings, maglev::positions(settings));
        Choices { of_method, random }
    }

    /// Replaces what other settings needed. `positions`: what [`maglev::positions`] gives for the
    /// new ones.
    pub fn renew(&mut self, settings: &Settings, positions: Vec<u16>) {
        self.of_method = OfMethod::new(settings, positions);
    }

    /// The same for an explanation, made anew: it knows all servers as they are now, and draws
    /// otherwise at another time. `now` is in monotonic milliseconds.
    pub fn anew(&self, settings: &Settings, now: u64) -> Choices {
        let positions = match &self.of_method {
            OfMethod::Positions(positions) => positions.owners().to_vec(),
            OfMethod::Ranks(_) | OfMethod::Loads(_) | OfMethod::Draw(_) | OfMethod::Nothing => {
                Vec::new()
            }
        };
        Choices {
            of_method: OfMethod::new(settings, positions),
            random: mixed(self.random ^ now) | 1,
        }
    }

    /// A random word.
    pub fn word(&mut self) -> u64 {
        next(&mut self.random)
    }

    /// Notes that this worker changed the count of a server. Called for each connection.
    #[inline]
    pub fn note(&mut self, row: u32) {
        match &mut self.of_method {
            OfMethod::Loads(loads) => loads.note(row),
            OfMethod::Positions(positions) => positions.note(row),
            OfMethod::Ranks(_) | OfMethod::Draw(_) | OfMethod::Nothing => {}
        }
    }

    /// The server of the method in force; `None` if there is no server that `judge` accepts, or if
    /// the method is one of those that need nothing. `judge` notes why it refuses a server; `note`
    /// is called for servers that are refused without it. `position`: the client's, with maglev.
    /// `word`: a random word, in slow start.
    pub(in crate::relay::select) fn first(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        position: u32,
        word: u64,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Option<ServerId> {
        match &mut self.of_method {
            OfMethod::Ranks(ranks) => ranks.first(farm, judge),
            OfMethod::Positions(positions) => {
                positions.first(settings, farm, position, &mut |id| judge(id).is_ok(), note)
            }
            OfMethod::Loads(loads) => loads.least(settings, farm, word, judge, note),
            OfMethod::Draw(draw) => {
                draw.choose(settings, farm, &mut || next(&mut self.random), judge)
            }
            OfMethod::Nothing => None,
        }
    }

    /// The server that failover tries next with maglev, of those that `accepts`, as long as a walk
    /// from the position comes to one that is not above the bound.
    pub(in crate::relay::select) fn walked(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        position: u32,
        accepts: &mut impl FnMut(ServerId) -> bool,
    ) -> Option<ServerId> {
        match &mut self.of_method {
            OfMethod::Positions(positions) => {
                match positions.walked(settings, farm, position, accepts, &mut |_, _| ()) {
                    Walked::Found(id) => Some(id),
                    Walked::InVain(_) => None,
                }
            }
            OfMethod::Ranks(_) | OfMethod::Loads(_) | OfMethod::Draw(_) | OfMethod::Nothing => None,
        }
    }

    /// The servers that failover tries after those, the last one first; none with other methods.
    pub(in crate::relay::select) fn rest(
        &mut self,
        farm: &impl Farm,
        position: u32,
        accepts: &mut impl FnMut(ServerId) -> bool,
    ) -> Vec<ServerId> {
        match &mut self.of_method {
            OfMethod::Positions(positions) => positions.rest(farm, position, accepts),
            OfMethod::Ranks(_) | OfMethod::Loads(_) | OfMethod::Draw(_) | OfMethod::Nothing => {
                Vec::new()
            }
        }
    }

    /// The servers in the order of prio; none with other methods.
    pub fn ranked(&self) -> &[ServerId] {
        match &self.of_method {
            OfMethod::Ranks(ranks) => ranks.servers(),
            OfMethod::Loads(_) | OfMethod::Draw(_) | OfMethod::Positions(_) | OfMethod::Nothing => {
                &[]
            }
        }
    }

    /// The server to which a position belongs, with maglev.
    pub fn owner(&self, position: u32) -> Option<ServerId> {
        match &self.of_method {
            OfMethod::Positions(positions) => positions.owner(position),
            OfMethod::Ranks(_) | OfMethod::Loads(_) | OfMethod::Draw(_) | OfMethod::Nothing => None,
        }
    }

    /// The two servers that the last choice compared, if the method compares two.
    pub fn compared(&self) -> Option<(ServerId, ServerId)> {
        match &self.of_method {
            OfMethod::Draw(draw) => draw.compared(),
            OfMethod::Ranks(_)
            | OfMethod::Loads(_)
            | OfMethod::Positions(_)
            | OfMethod::Nothing => None,
        }
    }
}

/// The next random word (xorshift64*, Vigna 2016). Nobody gains anything by guessing it.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
