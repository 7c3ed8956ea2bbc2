//! Counts the open connections of this worker for the limits per client again: when settings count
//! them otherwise, and after a sibling died that may have overwritten the table.
//!
//! A worker may have 100 000 connections, so only some are counted in one turn of the event loop.
//! All other connections are served in between. A connection that is counted right already stays
//! counted all the time, so after a death no client gets more than its limit meanwhile. What
//! arrives or ends meanwhile is counted as ever.

use pen_config::settings::Settings;
use pen_table::NetArrival;

use crate::clock;
use crate::relay::Relay;
use crate::relay::connection::{ConnectionState, Judged};

/// Nanoseconds that are spent in a turn of the event loop. The clock is read after each connection,
/// because one can cost as much as a walk through all connection numbers: 0.14 ms for 100 000.
const LONGEST: u64 = if cfg!(test) { 0 } else { 300_000 };

/// How far the count is.
#[derive(Debug, Default)]
pub struct Recount {
    /// The slot from which it goes on; none: all are counted.
    next: Option<u32>,
}

impl Recount {
    /// Whether there is something to do.
    pub fn is_under_way(&self) -> bool {
        self.next.is_some()
    }
}

impl Relay<'_> {
    /// Counts the open connections by new settings, if these count otherwise.
    pub(in crate::relay) fn limits_replaced(&mut self, old: &Settings) {
        self.prepare_limits();
        if counting(old) != counting(&self.settings) {
            self.begin_recount();
        }
    }

    /// Writes again what the table has of this worker's connections for the limits.
    pub(in crate::relay) fn republish_limits(&mut self) {
        self.prepare_limits();
        if self.settings.per_client.is_on() {
            self.begin_recount();
        }
        self.worker_table.set_tarpitted(self.tarpit.count());
    }

    /// The first connections are counted at once, so that few are counted before the answer to an
    /// order.
    fn begin_recount(&mut self) {
        self.recount.next = Some(0);
        self.recount();
    }

    /// Counts open connections for their clients, as the settings say and as far as a turn allows.
    pub(in crate::relay) fn recount(&mut self) {
        let Some(first) = self.recount.next else { return };
        let until = clock::precise() + LONGEST;
        let slots = self.connections.pool.slots();
        for slot in first..slots {
            self.count_again(slot);
            if clock::precise() >= until {
                self.recount.next = Some(slot + 1).filter(|next| *next < slots);
                return;
            }
        }
        self.recount.next = None;
        self.worker_table.want_recounts();
    }

    /// Counts a connection for its client, if there is one and it is known.
    fn count_again(&mut self, slot: u32) {
        let limits = self.settings.per_client;
        let connection = &self.connections[slot];
        let is_known =
            connection.state != ConnectionState::Free && connection.judged != Judged::HeaderDue;
        let (Some(key), true) = (connection.key, is_known) else { return };
        let (number, is_beyond) = (connection.number, connection.judged.is_beyond());
        let counts = limits.max > 0 && !is_beyond && !limits.is_unlimited(&self.settings.acls, key);
        let counted = match counts {
            true => self.worker_table.count_in_net(number, limits.net.key(key), self.now),
            false => {
                self.worker_table.release_net(number);
                NetArrival::Within
            }
        };
        let judged = &mut self.connections[slot].judged;
        match (counted, is_beyond) {
            (NetArrival::Counted, _) => *judged = Judged::Counted,
            (NetArrival::Unchecked(_), _) => {
                *judged = Judged::Within;
                self.link.counters.limits_unchecked += 1;
            }
            (NetArrival::Within | NetArrival::Beyond(..), false) => *judged = Judged::Within,
            (NetArrival::Within | NetArrival::Beyond(..), true) => {}
        }
    }
}

/// What decides for which client an open connection is counted, if it is.
fn counting(settings: &Settings) -> impl PartialEq + '_ {
    let limits = settings.per_client;
    let list = limits.unlimited.and_then(|list| settings.acls.get(usize::from(list)));
    (limits.max > 0).then_some((limits.net, list))
}
