//! Which of a server's addresses a connection is tried at. A name can have several addresses. If
//! one cannot be connected to, the next is tried for the same client, and the server has failed
//! only when all addresses have. All workers then use the address that worked.

use pen_config::ids::Target;
use pen_ipc::message::{ConnectFailure, Event};

use crate::relay::Relay;

/// The addresses that were tried for one client at one server. It is small because every connection
/// has one: a server has at most [`pen_config::address::MOST_ADDRESSES`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// The position of the first try, from the shared table.
    start: u8,
    /// How many addresses have failed.
    failed: u8,
    /// The errno of the first failure; 0 = no answer in time.
    errno: i16,
}

impl Route {
    /// Begins at a position among `addresses` addresses; there is at least one.
    pub fn begin(position: u32, addresses: u32) -> Route {
        let start = u8::try_from(position % addresses.max(1)).unwrap_or(0);
        Route { start, ..Route::default() }
    }

    /// The position of the address that is tried now; after the last comes the first.
    pub fn position(self) -> u32 {
        u32::from(self.start) + u32::from(self.failed)
    }

    /// Goes on to the next of `addresses` addresses. False: all have failed.
    pub fn next(&mut self, addresses: u32, reason: ConnectFailure) -> bool {
        if u32::from(self.failed) + 1 >= addresses || self.failed == u8::MAX {
            return false;
        }
        if self.failed == 0 {
            self.errno = match reason {
                ConnectFailure::Errno(errno) => i16::try_from(errno).unwrap_or(i16::MAX),
                ConnectFailure::Timeout => 0,
            };
        }
        self.failed += 1;
        true
    }

    /// Why the first address failed, if it has.
    fn reason(self) -> Option<ConnectFailure> {
        (self.failed > 0).then_some(match self.errno {
            0 => ConnectFailure::Timeout,
            errno => ConnectFailure::Errno(errno.into()),
        })
    }
}

impl Relay<'_> {
    /// Begins with the address of a server that all workers use now.
    pub(in crate::relay) fn begin_route(&mut self, slot: u32, target: Target) {
        let row = target.row(self.settings.table_size());
        self.pool[slot].route = match self.settings.target(target) {
            Some(server) if !server.alternatives.is_empty() => {
                Route::begin(self.worker_table.address(row), server.address_count())
            }
            Some(_) | None => Route::default(),
        };
    }

    /// Goes on to a server's next address for a client. False: all its addresses have failed.
    pub(in crate::relay) fn next_address(
        &mut self,
        slot: u32,
        target: Target,
        reason: ConnectFailure,
    ) -> bool {
        let addresses = self.settings.target(target).map_or(0, |server| server.address_count());
        let route = &mut self.pool[slot].route;
        let failed = route.position();
        let goes_on = route.next(addresses, reason);
        if goes_on && self.debug.on(1) {
            let next = self.pool[slot].route.position();
            if let Some(server) = self.settings.target(target) {
                let (failed, next) = (server.place_at(failed), server.place_at(next));
                self.debug.say(
                    1,
                    format_args!("server {}: {failed} failed, trying {next}", target.code()),
                );
            }
        }
        goes_on
    }

    /// Notes a successful connect to a server. If it was to another address than the one in use,
    /// all workers use the new one from now on.
    pub(in crate::relay) fn settle_route(&mut self, slot: u32, target: Target) {
        let route = self.pool[slot].route;
        let (Some(reason), Some(server)) = (route.reason(), self.settings.target(target)) else {
            return;
        };
        let (addresses, start) = (server.address_count(), u32::from(route.start));
        let (row, to) = (target.row(self.settings.table_size()), route.position() % addresses);
        let stands = self.worker_table.address(row);
        if stands % addresses == start && self.worker_table.move_address(row, stands, to) {
            let event = Event::AddressChanged { server: target.code(), from: start, to, reason };
            self.supervisor.tell(event, &mut self.counters);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_tried_once_wherever_it_begins() {
        let refused = ConnectFailure::Errno(111);
        for (start, addresses) in [(0, 1), (0, 3), (2, 3), (7, 3), (u32::MAX, 3), (u32::MAX, 16)] {
            let mut route = Route::begin(start, addresses);
            let mut tried = vec![route.position() % addresses];
            while route.next(addresses, refused) {
                tried.push(route.position() % addresses);
            }
            let expected: Vec<u32> =
                (0..addresses).map(|n| (start % addresses + n) % addresses).collect();
            assert_eq!(tried, expected, "{start} of {addresses}");
        }
        assert!(!Route::begin(0, 0).next(0, refused));
    }

    #[test]
    fn the_first_failure_is_the_reason() {
        let mut route = Route::begin(1, 3);
        assert!(
            route.next(3, ConnectFailure::Timeout) && route.next(3, ConnectFailure::Errno(111))
        );
        assert_eq!(route.reason(), Some(ConnectFailure::Timeout));
    }
}
