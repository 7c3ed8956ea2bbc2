//! Clients who wait because no server can be used for them (`hold SECONDS`), or because an operator
//! paused (`pause`).
//!
//! Nothing is read from them. They have a connection number under `-x`, and no server. Those for
//! whom no server can be used are tried again ten times a second, the oldest first, and only some
//! of them each time: a server that comes back is not run down by everybody at once. Those of a
//! pause have no time limit, and go on in the same way after it.

use pen_config::checks::Admission;
use pen_config::ids::ClientKey;
use pen_config::settings::{Server, Settings};
use rustix::net::RecvFlags;

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Step};
use crate::relay::connection::{ConnectionState, FirstStep, HoldReason};
use crate::relay::select::client_permitted;
use crate::relay::upstream::connect::Assigned;

/// Milliseconds between tries.
const EVERY: u64 = 100;

/// How many clients of all workers go on at a try.
const MOST: u32 = 100;

/// The clients of a worker who wait.
#[derive(Debug)]
pub struct Held {
    /// Those for whom no server can be used, in the order in which they began to wait.
    unserved: Queue<Step>,
    /// Those of a pause.
    paused: Queue<Step>,
    /// When they are tried again, if there are any.
    due: Option<u64>,
    /// How many of this worker go on at a try.
    share: u32,
}

impl Held {
    /// Nobody waits at one of `workers` workers.
    pub fn new(workers: u32) -> Held {
        let share = (MOST / workers.max(1)).max(1);
        Held { unserved: Queue::default(), paused: Queue::default(), due: None, share }
    }

    /// When [`Relay::on_held`] is due.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    fn is_empty(&self) -> bool {
        self.unserved.first().is_none() && self.paused.first().is_none()
    }

    fn queue(&mut self, reason: HoldReason) -> &mut Queue<Step> {
        match reason {
            HoldReason::NoServer => &mut self.unserved,
            HoldReason::Paused => &mut self.paused,
        }
    }

    fn join(&mut self, pool: &mut Pool, slot: u32, reason: HoldReason, now: u64) {
        let is_first = pool[slot].held_or_discarded == 0;
        if is_first {
            // 0 is nobody's time.
            pool[slot].held_or_discarded = (now as u32).max(1);
        }
        pool[slot].state = ConnectionState::Held(reason);
        match is_first || reason == HoldReason::Paused {
            true => self.queue(reason).join(pool, slot),
            // It has waited before those that wait now.
            false => self.queue(reason).join_first(pool, slot),
        }
        self.due.get_or_insert(now + EVERY);
    }

    /// Lets a client wait no longer, if it waits. Returns whether it did.
    pub fn leave(&mut self, pool: &mut Pool, slot: u32) -> bool {
        let ConnectionState::Held(reason) = pool[slot].state else { return false };
        self.queue(reason).leave(pool, slot);
        pool[slot].state = ConnectionState::Connecting;
        true
    }
}

impl Relay<'_> {
    /// Whether a client for whom no server can be used now may wait for one.
    pub(in crate::relay) fn may_hold(&self, slot: u32) -> bool {
        let Some(key) = self.connections[slot].key else { return false };
        let waits = match self.settings.admission {
            Admission::Paused => true,
            Admission::Open => self.settings.hold > 0,
        };
        waits && could_serve(&self.settings, key)
    }

    /// Lets a client wait.
    pub(in crate::relay) fn hold(&mut self, slot: u32, reason: HoldReason) {
        self.connections.stop(slot);
        self.connections[slot].placement = None;
        let reason = match self.settings.admission {
            Admission::Paused => HoldReason::Paused,
            Admission::Open => reason,
        };
        self.held.join(&mut self.connections.pool, slot, reason, self.now);
        self.link.counters.held += 1;
    }

    /// Lets a client wait no longer, if it waits.
    pub(in crate::relay) fn leave_hold(&mut self, slot: u32) {
        if self.held.leave(&mut self.connections.pool, slot) {
            self.link.counters.held_ended += 1;
        }
    }

    /// Handles an event at a client who waits.
    pub(in crate::relay) fn on_held_event(&mut self, slot: u32, event: &mio::event::Event) {
        let down = &self.connections[slot].down;
        // The end of file alone may be half of a close: a request may have come before it.
        let has_left = event.is_error()
            || event.is_write_closed()
            || (event.is_read_closed() && has_sent_nothing(down));
        if has_left {
            let end = match event.is_error() {
                true => ConnectionEnd::ClientReset,
                false => ConnectionEnd::Client,
            };
            self.finish(slot, Some(end));
        }
    }

    /// A pause begins or ends.
    pub(in crate::relay) fn admit(&mut self, admission: Admission) {
        self.first_step = FirstStep::new(admission, self.tls.is_some());
        match admission {
            // They have waited longer than those of the pause will.
            Admission::Paused => {
                while let Some(slot) = self.held.unserved.first() {
                    self.held.leave(&mut self.connections.pool, slot);
                    let pool = &mut self.connections.pool;
                    self.held.join(pool, slot, HoldReason::Paused, self.now);
                }
            }
            Admission::Open if self.held.is_empty() => {}
            Admission::Open => self.held.due = Some(self.now),
        }
    }

    /// Serves clients who wait, as far as that is possible and due, and closes those who have
    /// waited too long.
    pub(in crate::relay) fn on_held(&mut self) {
        if self.held.due.is_none_or(|due| due > self.now) {
            return;
        }
        match self.settings.admission {
            Admission::Paused => {}
            Admission::Open => {
                let begun = self.resume_paused();
                self.retry_held(self.held.share.saturating_sub(begun));
            }
        }
        self.held.due = (!self.held.is_empty()).then(|| self.now + EVERY);
    }

    /// Lets clients of a pause that is over go on. Returns how many.
    fn resume_paused(&mut self) -> u32 {
        for begun in 0..self.held.share {
            let Some(slot) = self.held.paused.first() else { return begun };
            self.leave_hold(slot);
            // The time without a server begins now.
            self.connections[slot].held_or_discarded = 0;
            match self.is_preface_over(slot) {
                true => self.choose_server(slot),
                false => {
                    self.await_preface(slot);
                    // What the client has sent is not reported again.
                    self.continue_preface(slot);
                }
            }
        }
        self.held.share
    }

    /// Tries clients for whom no server could be used, until `most` have one.
    fn retry_held(&mut self, most: u32) {
        let mut served = 0;
        let mut next = self.held.unserved.first();
        while let Some(slot) = next.filter(|_| served < most && !self.attempts.is_exhausted()) {
            next = Queue::<Step>::after(&self.connections.pool, slot);
            if self.has_waited_enough(slot) {
                self.hold_ends(slot);
            } else if self.retry_one(slot) {
                served += 1;
            }
        }
        // Whoever comes first in the queue has waited longest.
        while let Some(slot) = self.held.unserved.first().filter(|s| self.has_waited_enough(*s)) {
            self.hold_ends(slot);
        }
    }

    fn has_waited_enough(&self, slot: u32) -> bool {
        let waited = (self.now as u32).wrapping_sub(self.connections[slot].held_or_discarded);
        u64::from(waited) >= u64::from(self.settings.hold) * 1000
    }

    fn hold_ends(&mut self, slot: u32) {
        self.count_unserved();
        self.unserved_ends(slot);
    }

    /// Chooses a server for a client who waits. False: there is none, and the client goes on
    /// waiting.
    fn retry_one(&mut self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let key = connection.key.unwrap_or(ClientKey::UNIX);
        let assigned = self.choose(slot, key, connection.port);
        match assigned {
            Assigned::NoServer => {
                self.connections[slot].placement = None;
                return false;
            }
            Assigned::Server | Assigned::Dummy => {
                self.leave_hold(slot);
                self.serve_client(slot);
            }
            Assigned::Refused => self.close_unassigned(slot, assigned),
        }
        true
    }
}

/// Whether there is a server that a client might get at another time.
pub fn could_serve(settings: &Settings, client: ClientKey) -> bool {
    let permits = |server: &Server| {
        let list = settings.acls.get(usize::from(server.acl));
        server.address.port() != 0 && list.is_none_or(|list| list.permits(client))
    };
    let servers = settings.configured().map(|(_, server)| server);
    client_permitted(settings, client) && servers.chain(&settings.emergency).any(permits)
}

/// Whether a client whose end of file has come has sent nothing before it.
fn has_sent_nothing(down: &Endpoint) -> bool {
    let has_early = down.session.as_ref().is_some_and(|session| session.has_early());
    let peeked = down
        .socket
        .as_ref()
        .map(|socket| rustix::net::recv(socket, &mut [0; 1][..], RecvFlags::PEEK));
    !has_early && matches!(peeked, Some(Ok((0, _))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waited_before_comes_first_again() {
        let (mut held, mut pool) = (Held::new(200), Pool::default());
        assert_eq!((held.share, Held::new(3).share, held.due()), (1, 33, None));
        let slots: Vec<u32> = (0..3).map(|_| pool.take()).collect();
        for (slot, now) in slots.iter().zip([10, 20, 30]) {
            held.join(&mut pool, *slot, HoldReason::NoServer, now);
        }
        assert_eq!(held.due(), Some(10 + EVERY));
        assert!(held.leave(&mut pool, slots[0]) && !held.leave(&mut pool, slots[0]));
        assert_eq!(held.unserved.first(), Some(slots[1]));
        held.join(&mut pool, slots[0], HoldReason::NoServer, 40);
        assert_eq!(
            (held.unserved.first(), pool[slots[0]].held_or_discarded),
            (Some(slots[0]), 10),
            "its time goes on"
        );
        assert_eq!(Queue::<Step>::after(&pool, slots[0]), Some(slots[1]));
        assert_eq!(Queue::<Step>::after(&pool, slots[2]), None);
        for slot in slots {
            held.leave(&mut pool, slot);
        }
        assert!(held.is_empty());
    }
}
