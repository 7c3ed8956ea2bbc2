//! `idlers`: connections to servers without a client, to observe what servers do with idle
//! connections.
//!
//! Each worker opens its share of them. Round robin chooses their servers, and they count as
//! connections in every way. One that ends is replaced: soon if it was up for a while, more and
//! more slowly otherwise.

use pen_config::checks::ServerMode;
use pen_config::ids::ClientKey;

use crate::relay::Relay;
use crate::relay::connection::{ConnectionState, Side};
use crate::relay::select::Placement;
use crate::relay::transfer::pump;
use crate::relay::upstream::servers::take_next;

/// Milliseconds until the next try after an idler that was up for a while, or after a shortage of
/// room in this worker.
const SOON: u64 = 100;

/// Most milliseconds between tries.
const SELDOM: u64 = 10_000;

/// An idler that was up for this many milliseconds counts as a success.
const LIVED: u64 = 1000;

/// A worker's idlers.
#[derive(Debug)]
pub struct Idlers {
    /// The number of this worker, and the number of workers.
    worker: (u32, u32),
    wanted: u32,
    /// Connected or connecting.
    open: u32,
    /// When to open the missing idlers.
    retry: Option<u64>,
    delay: u64,
}

impl Idlers {
    /// The idlers of one of `workers` workers.
    pub fn new(worker: u32, workers: u32) -> Idlers {
        Idlers { worker: (worker, workers), wanted: 0, open: 0, retry: None, delay: SOON }
    }

    /// Takes this worker's share of all wanted idlers.
    fn set_wanted(&mut self, all: u32) {
        let (worker, workers) = self.worker;
        self.wanted = share(all, worker, workers);
        self.delay = SOON;
    }

    /// When the missing idlers must be opened.
    pub fn retry_at(&self) -> Option<u64> {
        self.retry
    }

    /// Notes that an idler ended at `now` after it was up for `lived` milliseconds; none: it was
    /// never connected.
    pub fn ended(&mut self, lived: Option<u64>, now: u64) {
        self.open = self.open.saturating_sub(1);
        if lived.is_some_and(|lived| lived >= LIVED) {
            self.delay = SOON;
        }
        if self.open < self.wanted {
            self.put_off(now);
        }
    }

    /// Delays the next try, longer with each failure in a row.
    fn put_off(&mut self, now: u64) {
        if self.retry.is_none() {
            self.retry = Some(now + self.delay);
            self.delay = (self.delay * 2).min(SELDOM);
        }
    }
}

/// A worker's share of all idlers: the shares add up to the whole.
fn share(all: u32, worker: u32, workers: u32) -> u32 {
    let workers = workers.max(1);
    all / workers + u32::from(worker < all % workers)
}

impl Relay<'_> {
    /// Opens or closes idlers until there are as many as the settings ask for; none while this
    /// worker takes no clients.
    pub(in crate::relay) fn adjust_idlers(&mut self) {
        self.leave_closed_servers();
        let takes_clients = self.acceptor.takes_clients();
        self.idlers.set_wanted(if takes_clients { self.settings.idlers } else { 0 });
        let surplus = self.idlers.open.saturating_sub(self.idlers.wanted);
        if surplus > 0 {
            let is_idler = |slot: &u32| {
                self.connections[*slot].state != ConnectionState::Free
                    && self.connections[*slot].key.is_none()
            };
            let close: Vec<u32> = (0..self.connections.pool.slots())
                .filter(is_idler)
                .take(surplus as usize)
                .collect();
            close.into_iter().for_each(|slot| self.finish(slot, None));
        }
        self.open_idlers();
    }

    /// Ends the idlers of servers that drain or are in maintenance: a drain waits for the end of
    /// all connections.
    fn leave_closed_servers(&mut self) {
        if self.idlers.open == 0 {
            return;
        }
        let is_closed = |slot: &u32| {
            let connection = &self.connections[*slot];
            let server = connection.target.and_then(|target| self.settings.target(target));
            connection.state != ConnectionState::Free
                && connection.key.is_none()
                && server.is_some_and(|server| server.mode_in_effect() != ServerMode::Ready)
        };
        let leave: Vec<u32> = (0..self.connections.pool.slots()).filter(is_closed).collect();
        leave.into_iter().for_each(|slot| self.finish(slot, None));
    }

    /// Opens missing idlers, as far as there is room.
    pub(in crate::relay) fn open_idlers(&mut self) {
        self.idlers.retry = None;
        for opened in 0..self.idlers.wanted.saturating_sub(self.idlers.open) {
            // No more at once than may be pending at one server.
            if self.is_busy() || opened >= self.settings.pending_max {
                self.idlers.retry = Some(self.now + SOON);
                return;
            }
            if !self.open_idler() {
                return self.idlers.put_off(self.now);
            }
        }
    }

    /// Begins to open an idler. False: there is no room for it, or no server.
    fn open_idler(&mut self) -> bool {
        let Some(number) = self.worker_table.claim_connection(self.settings.connections_max) else {
            return false;
        };
        let slot = self.connections.pool.take();
        let farm = self.farm();
        let mut placement = Placement::without_client(&self.settings, &farm);
        let taken = take_next(&mut placement, &self.settings, &farm, ClientKey::UNIX);
        let connection = &mut self.connections[slot];
        connection.state = ConnectionState::Connecting;
        (connection.number, connection.began) = (number, crate::clock::precise());
        connection.target = taken;
        connection.placement = Some(placement);
        self.idlers.open += 1;
        match taken {
            Some(target) => {
                self.begin_route(slot, target);
                self.attempt(slot, target);
            }
            None => self.finish(slot, None),
        }
        taken.is_some()
    }

    /// Discards the data of a server, until its end of file.
    pub(in crate::relay) fn drain_idler(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let moved = pump::discard(&mut connection.up, &mut self.io.tools);
        let is_over = connection.up.recv.is_over();
        if moved.bytes > 0 {
            self.count(slot, Side::Up, moved.bytes);
        }
        if is_over {
            self.finish(slot, None);
        } else if moved.more {
            self.connections.come_back(slot, Side::Up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        for workers in 1..=64 {
            for all in [0, 1, 2, 3, 63, 64, 65, 1000, u32::MAX] {
                let shares: Vec<u32> =
                    (0..workers).map(|worker| share(all, worker, workers)).collect();
                assert_eq!(
                    shares.iter().map(|share| u64::from(*share)).sum::<u64>(),
                    u64::from(all)
                );
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn those_that_do_not_live_come_back_ever_more_slowly() {
        let mut idlers = Idlers { wanted: 1, ..Idlers::new(0, 1) };
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..10 {
            idlers.open = 1;
            idlers.ended(Some(LIVED - 1), now);
            let at = idlers.retry.take().unwrap();
            waits.push(at - now);
            now = at;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        idlers.ended(Some(LIVED), now);
        assert_eq!(idlers.retry_at(), Some(now + SOON));
        // Several that end before the next try count as one failure.
        idlers.ended(None, now + 1);
        assert_eq!(idlers.retry_at(), Some(now + SOON));
    }

    #[test]
    fn those_not_wanted_do_not_come_back() {
        let mut idlers = Idlers { wanted: 0, open: 1, ..Idlers::new(0, 1) };
        idlers.ended(Some(9), 5);
        assert_eq!((idlers.retry_at(), idlers.open), (None, 0));
    }
}
