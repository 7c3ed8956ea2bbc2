//! The choice of a server for a client: the order in which servers are tried, and whether one can
//! be used.
//!
//! It is a pure function of the settings and the servers' state in the shared table
//! ([`farm::Farm`]), without a clock or a socket. The caller tries each target of
//! [`Placement::next`] that is [eligible](Placement::judge), until one takes the client. The
//! explanation of a choice (`relay::explain`) follows the same steps.

pub mod farm;
pub(crate) mod hash;
pub mod route;
#[cfg(test)]
mod tests;
pub(crate) mod weight;

use pen_config::ids::{ClientKey, MAX_SERVERS, ServerId, Target};
use pen_config::settings::Settings;
use pen_table::Blacklist;

use crate::relay::select::farm::{Farm, Hindrance};
use crate::relay::select::hash::hashed;
use crate::relay::select::weight::least_loaded;

/// The client that needs a server.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The client's key.
    pub key: ClientKey,
    /// Its source port. It is used only where a hash chooses the server of every connection.
    pub port: u16,
    /// Its recorded server.
    pub recorded: Option<Target>,
    /// Whether the access list permits it ([`client_permitted`]). The caller decides that before it
    /// locks the client table, because a list may be long.
    pub permitted: bool,
}

/// Whether a target may be tried that another connection is probing after its blacklist time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probed {
    /// No: wait for the probe's result.
    Skip,
    /// Yes: no other target is left for this client.
    Join,
}

/// How a target can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Eligible {
    /// It is in use.
    InUse,
    /// Its blacklist time is over: one connection tries it before others do.
    ForProbe,
}

/// Why a target cannot be used for a client now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SelectionRefusal {
    /// It has no address.
    Absent,
    /// It is blacklisted until this monotonic millisecond.
    Blacklisted(u64),
    /// Another connection is probing it after its blacklist time.
    Probed,
    /// Its access list refuses the client.
    Acl(u8),
    /// It has reached its connection limit for this client.
    Full {
        /// Its present connections.
        connections: u32,
        /// Its connection limit.
        most: u32,
    },
    /// This worker must pass it over now.
    Hindered(Hindrance),
    /// In weight mode, a server with weight 0 is no first choice. It may be tried when the others
    /// cannot be used.
    NoWeight,
}

/// The order of servers for one client, and the position in it. Every server comes at most once.
/// But a server that another connection is probing comes again at the end, when no other is left.
#[derive(Debug)]
pub struct Placement {
    step: SelectionStep,
    known: Option<ServerId>,
    /// The servers that were tried: the first one and, only if there are more, a bit for each. The
    /// first server serves most clients.
    tried: Option<ServerId>,
    tried_more: Option<Box<[u64; TRIED_WORDS]>>,
    /// The first target that was passed over because of a hindrance. It is tried when no other
    /// target is left.
    held: Option<Target>,
}

/// A bit for every possible server.
const TRIED_WORDS: usize = MAX_SERVERS as usize / 64;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SelectionStep {
    /// No server was tried yet; all are allowed.
    First(Option<ServerId>),
    /// No server was tried yet; only this target is allowed.
    Only(Target),
    /// The servers after this one, once around.
    Scan(u32),
    /// Servers under probe, from this one on.
    Probed(u32),
    /// The emergency server.
    Emergency,
    /// The target that was passed over because of a hindrance.
    Held,
    /// Nothing is left.
    Done,
}

impl Placement {
    /// The order for a client. It moves the round-robin cursor if that chooses the first server.
    /// `note` is called for each server that the first choice passes over, with the reason.
    pub fn new(
        settings: &Settings,
        farm: &impl Farm,
        client: Candidate,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Placement {
        if !client.permitted {
            return Placement::starting(SelectionStep::Only(Target::Abuse), None);
        }
        let recorded = match client.recorded {
            Some(Target::Server(id)) => settings.target(Target::Server(id)).map(|_| id),
            Some(Target::Emergency | Target::Abuse) | None => None,
        };
        let first = first(settings, farm, client, recorded, note);
        let step = match (settings.selection.stubborn, first) {
            (false, first) => SelectionStep::First(first),
            (true, Some(id)) => SelectionStep::Only(Target::Server(id)),
            (true, None) => SelectionStep::Done,
        };
        Placement::starting(step, recorded)
    }

    /// The order for a connection without a client: only the next server of the rotation.
    pub fn without_client(settings: &Settings, farm: &impl Farm) -> Placement {
        let only = round_robin(settings, farm, &mut |id| {
            eligible(settings, farm, Target::Server(id), ClientKey::UNIX, false, Probed::Skip)
                .is_ok()
        });
        Placement::starting(
            only.map_or(SelectionStep::Done, |id| SelectionStep::Only(Target::Server(id))),
            None,
        )
    }

    fn starting(step: SelectionStep, known: Option<ServerId>) -> Placement {
        Placement { step, known, tried: None, tried_more: None, held: None }
    }

    /// Whether the client is already recorded on a target: then the target's hard limit applies.
    fn knows(&self, target: Target) -> bool {
        matches!((target, self.known), (Target::Server(id), Some(known)) if id == known)
    }

    /// The connection limit of a target for this client; none = no limit.
    pub fn limit(&self, settings: &Settings, target: Target) -> Option<u32> {
        settings.target(target).and_then(|server| server.limit(self.knows(target)))
    }

    /// Whether a target of this placement can be used for its client now.
    pub fn judge(
        &self,
        settings: &Settings,
        farm: &impl Farm,
        client: ClientKey,
        (target, probed): (Target, Probed),
    ) -> Result<Eligible, SelectionRefusal> {
        eligible(settings, farm, target, client, self.knows(target), probed)
    }

    /// Notes that a target was passed over because of a hindrance.
    pub fn hold(&mut self, target: Target) {
        self.held.get_or_insert(target);
    }

    /// The target that is left when all others were tried.
    pub fn held(&self) -> Option<Target> {
        self.held
    }

    /// Whether no further target can come.
    pub fn is_over(&self) -> bool {
        self.step == SelectionStep::Done
    }

    /// Makes the target that is left the next one, and no other.
    pub fn retry_held(&mut self) {
        self.step = SelectionStep::Held;
    }

    /// The next target to try.
    pub fn next(&mut self, settings: &Settings, farm: &impl Farm) -> Option<(Target, Probed)> {
        loop {
            match self.step {
                SelectionStep::First(Some(id)) => return Some(self.pass(id)),
                SelectionStep::First(None) => self.step = SelectionStep::Scan(farm.cursor()),
                SelectionStep::Only(target) => {
                    self.step = SelectionStep::Done;
                    return Some((target, Probed::Join));
                }
                SelectionStep::Scan(after) => match self.scan(settings, farm, after) {
                    Some(id) => return Some(self.pass(id)),
                    None => self.step = SelectionStep::Probed(0),
                },
                SelectionStep::Probed(from) => match under_probe(settings, farm, from) {
                    Some(id) => {
                        self.step = SelectionStep::Probed(u32::from(id.0) + 1);
                        return Some((Target::Server(id), Probed::Join));
                    }
                    None => self.step = SelectionStep::Emergency,
                },
                SelectionStep::Emergency => {
                    self.step = SelectionStep::Held;
                    if settings.emergency.is_some() {
                        return Some((Target::Emergency, Probed::Join));
                    }
                }
                SelectionStep::Held => {
                    self.step = SelectionStep::Done;
                    if let Some(target) = self.held.take() {
                        return Some((target, Probed::Join));
                    }
                }
                SelectionStep::Done => return None,
            }
        }
    }

    /// Selects a server; the scan continues after it.
    fn pass(&mut self, id: ServerId) -> (Target, Probed) {
        self.step = SelectionStep::Scan(u32::from(id.0));
        match self.tried {
            None => self.tried = Some(id),
            Some(_) => {
                let bits = self.tried_more.get_or_insert_with(|| Box::new([0; TRIED_WORDS]));
                bits[id.index() / 64 % TRIED_WORDS] |= 1 << (id.index() % 64);
            }
        }
        (Target::Server(id), Probed::Skip)
    }

    fn has_tried(&self, id: ServerId) -> bool {
        let in_bits = |bits: &[u64; TRIED_WORDS]| {
            bits[id.index() / 64 % TRIED_WORDS] >> (id.index() % 64) & 1 == 1
        };
        self.tried == Some(id) || self.tried_more.as_deref().is_some_and(in_bits)
    }

    /// The untried server that failover tries after `after`: by prio in prio mode; in weight mode,
    /// servers without weight come last.
    fn scan(&self, settings: &Settings, farm: &impl Farm, after: u32) -> Option<ServerId> {
        let untried = rotation(settings.server_count(), after)
            .filter(|id| !self.has_tried(*id))
            .filter_map(|id| Some((id, settings.target(Target::Server(id))?)));
        // Each step of these two modes examines all servers, so thousands of blacklisted ones must
        // not be a step each.
        let usable = untried.clone().filter(|(id, _)| !farm.is_left_out(u32::from(id.0)));
        if settings.selection.prio {
            usable.min_by_key(|(id, server)| (server.prio, id.0)).map(|(id, _)| id)
        } else if settings.selection.weight {
            // The first of the smallest: false (it has a weight) is less than true.
            usable.min_by_key(|(_, server)| server.weight == 0).map(|(id, _)| id)
        } else {
            untried.map(|(id, _)| id).next()
        }
    }
}

/// Whether a target can be used for a client now. `known`: it is the client's recorded server.
/// Every such decision is made here.
fn eligible(
    settings: &Settings,
    farm: &impl Farm,
    target: Target,
    client: ClientKey,
    known: bool,
    probed: Probed,
) -> Result<Eligible, SelectionRefusal> {
    let server = settings
        .target(target)
        .filter(|server| server.address.port() != 0)
        .ok_or(SelectionRefusal::Absent)?;
    let row = target.row(settings.table_size());
    let eligible = match (farm.blacklist(row), probed) {
        (Blacklist::Clear, _) | (Blacklist::Probed, Probed::Join) => Eligible::InUse,
        (Blacklist::Expired, _) => Eligible::ForProbe,
        (Blacklist::Until(time), _) => return Err(SelectionRefusal::Blacklisted(time)),
        (Blacklist::Probed, Probed::Skip) => return Err(SelectionRefusal::Probed),
    };
    // The abuse server is for the clients that a list refuses.
    if target != Target::Abuse && !permits(settings, server.acl, client) {
        return Err(SelectionRefusal::Acl(server.acl));
    }
    if let Some(most) = server.limit(known) {
        let connections = farm.connections(row);
        if connections >= most {
            return Err(SelectionRefusal::Full { connections, most });
        }
    }
    match (farm.hindrance(row), probed) {
        // No other target is left, so it is tried.
        (None, _) | (Some(Hindrance::Ports), Probed::Join) => Ok(eligible),
        (Some(hindrance), _) => Err(SelectionRefusal::Hindered(hindrance)),
    }
}

/// Whether the access list for clients permits one. A refused client can use only the abuse server.
pub fn client_permitted(settings: &Settings, client: ClientKey) -> bool {
    permits(settings, settings.client_acl, client)
}

fn permits(settings: &Settings, list: u8, client: ClientKey) -> bool {
    settings.acls.get(usize::from(list)).is_none_or(|acl| acl.permits(client))
}

/// The server that is tried first.
fn first(
    settings: &Settings,
    farm: &impl Farm,
    client: Candidate,
    recorded: Option<ServerId>,
    note: &mut impl FnMut(ServerId, SelectionRefusal),
) -> Option<ServerId> {
    let modes = settings.selection;
    if let (Some(id), false) = (recorded, modes.roundrobin || modes.hash_always) {
        return Some(id);
    }
    let mut is_available = |id: ServerId| {
        let known = recorded == Some(id);
        let refusal = match settings.target(Target::Server(id)) {
            Some(server) if modes.weight && !modes.prio && server.weight == 0 => {
                Some(SelectionRefusal::NoWeight)
            }
            Some(_) | None => {
                eligible(settings, farm, Target::Server(id), client.key, known, Probed::Skip).err()
            }
        };
        refusal.inspect(|refusal| note(id, *refusal)).is_none()
    };
    if modes.prio {
        let available = settings.configured().filter(|(id, _)| is_available(*id));
        available.min_by_key(|(id, server)| (server.prio, id.0)).map(|(id, _)| id)
    } else if modes.weight {
        least_loaded(settings, farm, &mut is_available)
    } else if modes.hash || modes.hash_always {
        let port = modes.roundrobin.then_some(client.port);
        hashed(client.key, port, settings.server_count())
    } else {
        round_robin(settings, farm, &mut is_available)
    }
}

/// The next available server after the cursor, which moves there. All workers share one sequence.
fn round_robin(
    settings: &Settings,
    farm: &impl Farm,
    is_available: &mut impl FnMut(ServerId) -> bool,
) -> Option<ServerId> {
    loop {
        let cursor = farm.cursor();
        let id = rotation(settings.server_count(), cursor).find(|id| is_available(*id))?;
        if farm.advance_cursor(cursor, u32::from(id.0)) {
            return Some(id);
        }
    }
}

/// The server numbers after `after`, once around. `after` may be any number.
fn rotation(count: u32, after: u32) -> impl Iterator<Item = ServerId> + Clone {
    (1..=count)
        .map(move |step| ServerId(((u64::from(after) + u64::from(step)) % u64::from(count)) as u16))
}

/// The first server from `from` on that another connection is probing.
fn under_probe(settings: &Settings, farm: &impl Farm, from: u32) -> Option<ServerId> {
    settings
        .configured()
        .skip_while(|(id, _)| u32::from(id.0) < from)
        .map(|(id, _)| id)
        .find(|id| farm.blacklist(u32::from(id.0)) == Blacklist::Probed)
}
