//! The servers ordered by load, for the methods that want the least loaded one (`weight`,
//! `leastconn`).
//!
//! A tree over all servers knows at each node the least load below it, and the sum of the weights
//! of the servers with that load. So the server whose turn it is among equals is found in as many
//! steps as the tree has levels.
//!
//! The tree is a copy of counts that all workers change. Its own worker says which counts it
//! changed. A candidate is compared with the true count before it is used, so a connection that
//! another worker took is never missed. One that another worker gave back, and a server that can be
//! used again, are noticed when all servers are read again: at each choice with up to [`FEW`]
//! servers, otherwise after [`PERIOD`] milliseconds.
//!
//! In slow start, the load counts with the part of the weight that the server has. Without
//! connections there is no load, so such a server is passed over as often as it lacks of its share.
//! Otherwise one that stays idle between short connections would have its whole share.

use pen_config::ids::ServerId;
use pen_config::settings::{Method, Server, Settings};

use crate::relay::select::SelectionRefusal;
use crate::relay::select::choices::turns::{Turns, next_turn};
use crate::relay::select::choices::{FEW, PERIOD};
use crate::relay::select::farm::Farm;
use crate::relay::select::judge::open_to_strangers;
use crate::relay::select::slow_start::{WHOLE, passes, share};

/// After so many changes since the last choice, all servers are read instead.
const MOST_CHANGES: usize = 64;

/// How a load is computed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measure {
    /// 256 × connections ÷ weight, rounded down, as in the original.
    Weight,
    /// (connections + ½) ÷ weight, and 0 without connections.
    Leastconn,
}

impl Measure {
    /// The load of a server that has this part of its weight, in thousandths.
    fn load(self, connections: u32, weight: u32, share: u32) -> u64 {
        if connections == 0 {
            return 0;
        }
        let (connections, weight) = (u64::from(connections), u64::from(weight.max(1)));
        let dividend = match self {
            Measure::Weight => 256 * connections,
            // Below 2^63. Fractions that differ by less than 2^-30 count as equal.
            Measure::Leastconn => (2 * connections + 1) << 30,
        };
        if share == WHOLE {
            return dividend / weight;
        }
        let load = u128::from(dividend) * u128::from(WHOLE)
            / (u128::from(weight) * u128::from(share.max(1)));
        u64::try_from(load).unwrap_or(u64::MAX - 1)
    }
}

/// What the tree knows of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Leaf {
    /// The connections with which its load was computed.
    connections: u32,
    weight: u32,
    /// The part of its weight that it has now (`slow_start`), in thousandths.
    share: u32,
    is_out: bool,
}

/// The servers below a node that have the least load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Node {
    load: u64,
    /// The sum of their weights.
    weight: u64,
    /// How many they are.
    count: u32,
}

impl Node {
    /// No server that can be used.
    const NONE: Node = Node { load: u64::MAX, weight: 0, count: 0 };

    fn of(one: Node, other: Node) -> Node {
        match one.load.cmp(&other.load) {
            std::cmp::Ordering::Less => one,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => Node {
                load: one.load,
                weight: one.weight + other.weight,
                count: one.count + other.count,
            },
        }
    }
}

/// The tree.
#[derive(Debug)]
pub struct Loads {
    measure: Measure,
    /// By server number.
    leaves: Vec<Leaf>,
    /// Node n has the children 2n and 2n + 1; the root is node 1, and the leaves begin in the
    /// middle.
    nodes: Vec<Node>,
    /// Servers whose count this worker changed since the last choice.
    changed: Vec<u32>,
    /// When all servers were read, in milliseconds.
    read_at: Option<u64>,
    turns: Turns,
}

impl Loads {
    /// A tree that has not read the counts yet.
    pub fn new(settings: &Settings, measure: Measure) -> Loads {
        let count = settings.server_count() as usize;
        let weight = |server: &Option<Server>| server.as_ref().map_or(0, |server| server.weight);
        let leaf = |weight| Leaf { connections: 0, weight, share: WHOLE, is_out: true };
        Loads {
            measure,
            leaves: settings.servers.iter().take(count).map(weight).map(leaf).collect(),
            nodes: vec![Node::NONE; 2 * count.next_power_of_two()],
            changed: Vec::new(),
            read_at: None,
            turns: Turns::default(),
        }
    }

    /// Notes that this worker changed the count of a server.
    pub fn note(&mut self, row: u32) {
        if self.changed.len() < MOST_CHANGES {
            self.changed.push(row);
        } else {
            self.read_at = None;
        }
    }

    /// The server with the least load of those that `judge` accepts; among several, the one whose
    /// turn it is. `judge` notes why it refuses one; `note` is called for those that no stranger
    /// can use, and for those that slow start passes over. `word`: a random word of the client.
    pub fn least(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        word: u64,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Option<ServerId> {
        self.update(settings, farm, note);
        let mut turn = None;
        // Those that only this client cannot use.
        let mut refused = Vec::new();
        // The first one that slow start passed over: it is used if there is no other.
        let mut passed = None;
        // Other workers may change a count again and again meanwhile.
        let mut corrections = 0;
        let found = loop {
            let Some(id) = self.candidate(&mut turn, farm) else { break None };
            let connections = farm.connections(u32::from(id));
            if connections != self.leaves[usize::from(id)].connections
                && corrections < self.leaves.len() + MOST_CHANGES
            {
                corrections += 1;
                self.set(id.into(), connections, false);
                continue;
            }
            match judge(ServerId(id)) {
                Ok(()) if connections > 0 => break Some(ServerId(id)),
                Ok(()) => {
                    let share = self.leaves[usize::from(id)].share;
                    if passes(share, ServerId(id), word) {
                        break Some(ServerId(id));
                    }
                    note(ServerId(id), SelectionRefusal::SlowStart(share));
                    passed.get_or_insert(ServerId(id));
                    refused.push(id);
                }
                Err(SelectionRefusal::Acl(_)) => refused.push(id),
                Err(_) => {}
            }
            self.set(id.into(), connections, true);
        };
        for id in refused {
            let connections = self.leaves[usize::from(id)].connections;
            self.set(id.into(), connections, false);
        }
        found.or(passed)
    }

    /// The server whose turn it is among those with the least load.
    fn candidate(&mut self, turn: &mut Option<u32>, farm: &impl Farm) -> Option<u16> {
        let root = self.nodes[1];
        if root.count == 0 {
            return None;
        }
        let mut rank = 0;
        if root.count > 1 {
            let turn = *turn.get_or_insert_with(|| next_turn(farm));
            rank = self.turns.rank(root.weight, turn);
        }
        let (mut node, leaves) = (1, self.nodes.len() / 2);
        while node < leaves {
            let left = self.nodes[2 * node];
            node *= 2;
            // A side without the least load has no share in the turns.
            let share = if left.load == root.load { left.weight } else { 0 };
            if rank >= share {
                rank -= share;
                node += 1;
            }
        }
        u16::try_from(node - leaves).ok()
    }

    /// Reads the counts that have changed, or all.
    fn update(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) {
        let is_old = |at: u64| farm.now().wrapping_sub(at) >= PERIOD;
        if self.leaves.len() <= FEW || self.read_at.is_none_or(is_old) {
            self.changed.clear();
            self.read_at = Some(farm.now());
            return self.read_all(settings, farm, note);
        }
        let mut changed = std::mem::take(&mut self.changed);
        for row in changed.drain(..) {
            let connections = farm.connections(row);
            if let Some(leaf) = self.leaves.get(row as usize) {
                // A server that was full may have room again.
                let is_out =
                    leaf.is_out && open_to_strangers(settings, farm, row, connections).is_err();
                self.set(row as usize, connections, is_out);
            }
        }
        self.changed = changed;
    }

    fn read_all(
        &mut self,
        settings: &Settings,
        farm: &impl Farm,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) {
        for (row, number) in (0u32..).zip(0..self.leaves.len()) {
            let connections = farm.connections(row);
            let refusal = match self.leaves[number].weight {
                0 if settings.servers[number].is_some() => Some(SelectionRefusal::NoWeight),
                _ => open_to_strangers(settings, farm, row, connections).err(),
            };
            if let Some(refusal) = refusal {
                note(ServerId(number as u16), refusal);
            }
            let share = share(settings, farm, row);
            self.set_all(number, connections, share, refusal.is_some());
        }
    }

    /// Sets what is known of a server; it keeps its share.
    fn set(&mut self, number: usize, connections: u32, is_out: bool) {
        let share = self.leaves[number].share;
        self.set_all(number, connections, share, is_out);
    }

    /// Sets what is known of a server, and what follows for the nodes above it.
    fn set_all(&mut self, number: usize, connections: u32, share: u32, is_out: bool) {
        let weight = self.leaves[number].weight;
        let is_out = is_out || weight == 0;
        let leaf = Leaf { connections, weight, share, is_out };
        if std::mem::replace(&mut self.leaves[number], leaf) == leaf {
            return;
        }
        let mut now = match is_out {
            true => Node::NONE,
            false => Node {
                load: self.measure.load(connections, weight, share),
                weight: u64::from(weight),
                count: 1,
            },
        };
        let mut node = self.nodes.len() / 2 + number;
        while self.nodes[node] != now {
            self.nodes[node] = now;
            if node == 1 {
                return;
            }
            node /= 2;
            now = Node::of(self.nodes[2 * node], self.nodes[2 * node + 1]);
        }
    }
}

/// The measure of a method that orders servers by load.
pub fn measure(method: Method) -> Option<Measure> {
    match method {
        Method::Weight => Some(Measure::Weight),
        Method::Leastconn => Some(Measure::Leastconn),
        Method::Prio | Method::P2c | Method::Maglev | Method::Hash | Method::RoundRobin => None,
    }
}
