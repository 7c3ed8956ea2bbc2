//! Failover: the servers that are tried after the first one, and those that were.

use pen_config::ids::{MAX_SERVERS, ServerId, Target};
use pen_config::settings::{Method, Settings};

use crate::relay::select::choices::Choosing;
use crate::relay::select::{Placement, rotation};

/// What only clients need that several servers did not serve.
#[derive(Debug)]
pub(super) struct Failover {
    tried: [u64; TRIED_WORDS],
    /// With maglev, when a walk over the positions comes to no other server: the servers that are
    /// left, in reverse order.
    rest: Option<Vec<ServerId>>,
}

impl Default for Failover {
    fn default() -> Failover {
        Failover { tried: [0; TRIED_WORDS], rest: None }
    }
}

/// A bit for every possible server.
const TRIED_WORDS: usize = MAX_SERVERS as usize / 64;

impl Placement {
    /// Notes that a server was tried or need not be.
    pub(super) fn mark(&mut self, id: ServerId) {
        match self.tried {
            None => self.tried = Some(id),
            Some(_) => {
                let failover = self.failover.get_or_insert_default();
                failover.tried[id.index() / 64 % TRIED_WORDS] |= 1 << (id.index() % 64);
            }
        }
    }

    /// Whether failover may try a server. One that is out counts as tried from then on: thousands
    /// of them must be neither a step each, nor examined at each step.
    fn may_try(&mut self, settings: &Settings, farm: &impl Choosing, id: ServerId) -> bool {
        if self.has_tried(id) || settings.target(Target::Server(id)).is_none() {
            return false;
        }
        let is_out = farm.is_left_out(id.0.into(), self.drains_into(id));
        if is_out {
            self.mark(id);
        }
        !is_out
    }

    /// The untried server that failover tries after `after`: by prio in prio mode, and by the
    /// client's position with maglev. With methods that obey weights, servers without weight come
    /// last.
    pub(super) fn scan(
        &mut self,
        settings: &Settings,
        farm: &impl Choosing,
        after: u32,
    ) -> Option<ServerId> {
        let mut all = rotation(settings.server_count(), after);
        let mut may_try = |id: &ServerId| self.may_try(settings, farm, *id);
        match settings.selection.method() {
            Method::Prio => farm.choices().borrow().ranked().iter().copied().find(may_try),
            Method::Maglev => {
                let next = self.scan_positions(settings, farm);
                // What other settings left of the order may not have all.
                next.or_else(|| all.find(|id| self.may_try(settings, farm, *id)))
            }
            Method::Weight | Method::Leastconn | Method::P2c => {
                let has_weight = |id: &ServerId| {
                    settings.target(Target::Server(*id)).is_some_and(|server| server.weight > 0)
                };
                let weighted = all.clone().find(|id| has_weight(id) && may_try(id));
                weighted.or_else(|| all.find(may_try))
            }
            Method::Hash | Method::RoundRobin => all.find(may_try),
        }
    }

    /// The untried server that comes next for a client's position: as long as a walk comes to one,
    /// the next of that. Then the order of those that are left is made once, because there may be
    /// thousands.
    fn scan_positions(&mut self, settings: &Settings, farm: &impl Choosing) -> Option<ServerId> {
        let position = self.position;
        let rest = self.failover.as_mut().and_then(|failover| failover.rest.take());
        let mut rest = match rest {
            Some(rest) => rest,
            None => {
                let choices = &mut *farm.choices().borrow_mut();
                let mut may_try = |id| self.may_try(settings, farm, id);
                let walked = choices.walked(settings, farm, position, &mut may_try);
                if walked.is_some() {
                    return walked;
                }
                choices.rest(farm, position, &mut may_try)
            }
        };
        let next = loop {
            match rest.pop() {
                Some(id) if self.may_try(settings, farm, id) => break Some(id),
                Some(_) => {}
                None => break None,
            }
        };
        self.failover.get_or_insert_default().rest = Some(rest);
        next
    }

    fn has_tried(&self, id: ServerId) -> bool {
        let in_bits = |failover: &Failover| {
            failover.tried[id.index() / 64 % TRIED_WORDS] >> (id.index() % 64) & 1 == 1
        };
        self.tried == Some(id) || self.failover.as_deref().is_some_and(in_bits)
    }
}
