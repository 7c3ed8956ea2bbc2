//! The choice of a server for a client: the order in which servers are tried, and whether one can
//! be used.
//!
//! It is a pure function of the settings and the servers' state in the shared table
//! ([`farm::Farm`]), without a clock or a socket. The caller tries each target of
//! [`Placement::next`] that is [eligible](Placement::judge), until one takes the client. The
//! explanation of a choice (`relay::explain`) follows the same steps.

pub mod choices;
pub mod farm;
mod first;
pub(crate) mod hash;
mod judge;
mod regardless;
pub mod route;
mod scan;
pub(crate) mod slow_start;
#[cfg(test)]
mod tests;

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::{Method, Settings};
use pen_table::Blacklist;
pub use pen_table::{Checks, Knows, Patience, Usable};

use crate::relay::select::choices::{Choosing, position};
use crate::relay::select::first::{first, round_robin};
use crate::relay::select::judge::{Asks, eligible};
pub use crate::relay::select::judge::{SelectionRefusal, client_permitted};
use crate::relay::select::regardless::{is_regardless, may_disregard};
use crate::relay::select::scan::Failover;

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

/// A target that is to be tried next, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trial {
    /// The target.
    pub target: Target,
    /// Whether it may be tried while another connection is probing it.
    pub patience: Patience,
    /// Whether its check counts.
    pub checks: Checks,
}

impl Trial {
    /// A trial that others can follow.
    fn first(id: ServerId) -> Trial {
        let target = Target::Server(id);
        Trial { target, patience: Patience::Skip, checks: Checks::Obeyed }
    }

    /// A trial of a target because no other is left of its kind.
    fn last(target: Target) -> Trial {
        Trial { target, patience: Patience::Join, checks: Checks::Obeyed }
    }

    /// A trial against the verdict of the check.
    fn regardless(id: ServerId) -> Trial {
        Trial { checks: Checks::Disregarded, ..Trial::last(Target::Server(id)) }
    }
}

/// The order of servers for one client, and the position in it. Every server comes at most once.
/// But a server that another connection is probing comes again at the end, when no other is left.
#[derive(Debug)]
pub struct Placement {
    step: SelectionStep,
    known: Option<ServerId>,
    /// Whether a server that drains takes the client that it knows. Not where nobody is tracked:
    /// there each connection is a new client's.
    tracks: bool,
    /// The servers that were tried or were out: the first one and, only if there are more, a bit
    /// for each. The first server serves most clients.
    tried: Option<ServerId>,
    failover: Option<Box<Failover>>,
    /// The position of the client, with maglev.
    position: u32,
    /// The first target that was passed over because of a hindrance. It is tried when no other
    /// target is left.
    held: Option<Target>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SelectionStep {
    /// No server was tried yet; all are allowed.
    First(Option<ServerId>),
    /// No server was tried yet; only this target is allowed.
    Only(Target),
    /// Only this target was allowed, and was tried: perhaps once more, against its check.
    OnlyRegardless(Target),
    /// The servers after this one, once around.
    Scan(u32),
    /// Servers under probe, from this one on.
    Probed(u32),
    /// The emergency server.
    Emergency,
    /// Servers that are down by check, if all are out: the first one and the last one that came.
    Regardless(Option<(ServerId, ServerId)>),
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
        farm: &impl Choosing,
        client: Candidate,
        note: &mut impl FnMut(ServerId, SelectionRefusal),
    ) -> Placement {
        let tracks = !settings.selection.roundrobin;
        if !client.permitted {
            return Placement::starting(SelectionStep::Only(Target::Abuse), None, tracks);
        }
        let recorded = match client.recorded {
            Some(Target::Server(id)) => settings.target(Target::Server(id)).map(|_| id),
            Some(Target::Emergency | Target::Abuse) | None => None,
        };
        let position = match settings.selection.method() {
            Method::Maglev => position(client.key),
            Method::Prio
            | Method::Weight
            | Method::Leastconn
            | Method::P2c
            | Method::Hash
            | Method::RoundRobin => 0,
        };
        let first = first(settings, farm, client, position, recorded, note);
        let step = match (settings.selection.stubborn, first) {
            (false, first) => SelectionStep::First(first),
            (true, Some(id)) => SelectionStep::Only(Target::Server(id)),
            (true, None) => SelectionStep::Done,
        };
        let mut placement = Placement { position, ..Placement::starting(step, recorded, tracks) };
        if step == SelectionStep::Done
            && let Some(id) = placement.first_regardless(settings, farm)
        {
            placement.step = SelectionStep::OnlyRegardless(Target::Server(id));
        }
        placement
    }

    /// The order for a connection without a client: only the next server of the rotation.
    pub fn without_client(settings: &Settings, farm: &impl Choosing) -> Placement {
        let asks = Asks { client: ClientKey::UNIX, known: false, tracks: false };
        let only = round_robin(settings, farm, &mut |id| {
            eligible(settings, farm, asks, Trial::first(id)).is_ok()
        });
        Placement::starting(
            only.map_or(SelectionStep::Done, |id| SelectionStep::Only(Target::Server(id))),
            None,
            false,
        )
    }

    fn starting(step: SelectionStep, known: Option<ServerId>, tracks: bool) -> Placement {
        Placement { step, known, tracks, tried: None, failover: None, position: 0, held: None }
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
        farm: &impl Choosing,
        client: ClientKey,
        trial: Trial,
    ) -> Result<Usable, SelectionRefusal> {
        let asks = Asks { client, known: self.knows(trial.target), tracks: self.tracks };
        eligible(settings, farm, asks, trial)
    }

    /// Whether a server that drains takes the client.
    fn drains_into(&self, id: ServerId) -> Knows {
        match self.tracks && self.known == Some(id) {
            true => Knows::Server,
            false => Knows::Stranger,
        }
    }

    /// The first server, before any was tried, if the method in force chose it.
    pub fn chosen(&self, settings: &Settings) -> Option<ServerId> {
        let is_tracked = self.known.is_some() && settings.selection.tracks();
        match self.step {
            SelectionStep::First(Some(id)) | SelectionStep::Only(Target::Server(id)) => {
                Some(id).filter(|_| !is_tracked)
            }
            SelectionStep::First(None)
            | SelectionStep::Only(Target::Emergency | Target::Abuse)
            | SelectionStep::OnlyRegardless(_)
            | SelectionStep::Scan(_)
            | SelectionStep::Probed(_)
            | SelectionStep::Emergency
            | SelectionStep::Regardless(_)
            | SelectionStep::Held
            | SelectionStep::Done => None,
        }
    }

    /// Notes that a target was passed over because of a hindrance.
    pub fn hold(&mut self, target: Target) {
        self.held.get_or_insert(target);
    }

    /// The target that is left when all others were tried.
    pub fn held(&self) -> Option<Target> {
        self.held
    }

    /// Whether no other target can come.
    pub fn is_over(&self) -> bool {
        matches!(self.step, SelectionStep::Done | SelectionStep::OnlyRegardless(_))
    }

    /// Makes the target that is left the next one, and no other.
    pub fn retry_held(&mut self) {
        self.step = SelectionStep::Held;
    }

    /// The next target to try.
    pub fn next(&mut self, settings: &Settings, farm: &impl Choosing) -> Option<Trial> {
        loop {
            match self.step {
                SelectionStep::First(Some(id)) => return Some(self.pass(id)),
                SelectionStep::First(None) => self.step = SelectionStep::Scan(farm.cursor()),
                SelectionStep::Only(target) => {
                    self.step = SelectionStep::OnlyRegardless(target);
                    return Some(Trial::last(target));
                }
                SelectionStep::OnlyRegardless(target) => {
                    self.step = SelectionStep::Done;
                    if let Target::Server(id) = target
                        && self.is_down_only(settings, farm, id)
                        && may_disregard(settings, farm, |id| self.drains_into(id))
                    {
                        return Some(Trial::regardless(id));
                    }
                }
                SelectionStep::Scan(after) => match self.scan(settings, farm, after) {
                    Some(id) => return Some(self.pass(id)),
                    None => self.step = SelectionStep::Probed(0),
                },
                SelectionStep::Probed(from) => match under_probe(settings, farm, from) {
                    Some(id) => {
                        self.step = SelectionStep::Probed(u32::from(id.0) + 1);
                        return Some(Trial::last(Target::Server(id)));
                    }
                    None => self.step = SelectionStep::Emergency,
                },
                SelectionStep::Emergency => {
                    self.step = SelectionStep::Regardless(None);
                    if settings.emergency.is_some() {
                        return Some(Trial::last(Target::Emergency));
                    }
                }
                SelectionStep::Regardless(passed) => {
                    match self.next_regardless(settings, farm, passed) {
                        Some(id) => {
                            let first = passed.map_or(id, |(first, _)| first);
                            self.step = SelectionStep::Regardless(Some((first, id)));
                            return Some(Trial::regardless(id));
                        }
                        None => self.step = SelectionStep::Held,
                    }
                }
                SelectionStep::Held => {
                    self.step = SelectionStep::Done;
                    if let Some(target) = self.held.take() {
                        return Some(Trial::last(target));
                    }
                }
                SelectionStep::Done => return None,
            }
        }
    }

    /// Whether the check alone keeps the client from a server.
    fn is_down_only(&self, settings: &Settings, farm: &impl Choosing, id: ServerId) -> bool {
        is_regardless(settings, farm, id, self.drains_into(id))
    }

    /// The server that is tried first against its check, if all are out. The cursor moves there, so
    /// that the servers take turns whatever the mode: all are alike now.
    fn first_regardless(&self, settings: &Settings, farm: &impl Choosing) -> Option<ServerId> {
        if !may_disregard(settings, farm, |id| self.drains_into(id)) {
            return None;
        }
        round_robin(settings, farm, &mut |id| self.is_down_only(settings, farm, id))
    }

    /// The next server that is tried against its check, once around.
    fn next_regardless(
        &self,
        settings: &Settings,
        farm: &impl Choosing,
        passed: Option<(ServerId, ServerId)>,
    ) -> Option<ServerId> {
        let Some((first, last)) = passed else { return self.first_regardless(settings, farm) };
        rotation(settings.server_count(), last.0.into())
            .take_while(|id| *id != first)
            .find(|id| self.is_down_only(settings, farm, *id))
    }

    /// Selects a server; the scan continues after it.
    fn pass(&mut self, id: ServerId) -> Trial {
        self.step = SelectionStep::Scan(u32::from(id.0));
        self.mark(id);
        Trial::first(id)
    }
}

/// The server numbers after `after`, once around. `after` may be any number.
fn rotation(count: u32, after: u32) -> impl Iterator<Item = ServerId> + Clone {
    (1..=count)
        .map(move |step| ServerId(((u64::from(after) + u64::from(step)) % u64::from(count)) as u16))
}

/// The first server from `from` on that another connection is probing.
fn under_probe(settings: &Settings, farm: &impl Choosing, from: u32) -> Option<ServerId> {
    settings
        .configured()
        .skip_while(|(id, _)| u32::from(id.0) < from)
        .map(|(id, _)| id)
        .find(|id| farm.server(u32::from(id.0)).blacklist == Blacklist::Probed)
}
