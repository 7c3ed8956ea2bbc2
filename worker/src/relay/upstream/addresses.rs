//! Which of a server's addresses a connection is tried at. A name can have several addresses. If
//! one cannot be connected to, the next is tried for the same client, and the server has failed
//! only when all addresses have. All workers then use the address that worked.

use pen_config::ids::Target;
use pen_ipc::message::{ConnectFailure, Event};

use crate::relay::Relay;
use crate::relay::select::route::Route;

impl Relay<'_> {
    /// Begins with the address of a server that all workers use now.
    pub(in crate::relay) fn begin_route(&mut self, slot: u32, target: Target) {
        let row = self.row(target);
        self.connections[slot].route = match self.settings.target(target) {
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
        let route = &mut self.connections[slot].route;
        let failed = route.position();
        let goes_on = route.next(addresses, reason);
        if goes_on && self.debug.on(1) {
            let next = self.connections[slot].route.position();
            if let Some(server) = self.settings.target(target) {
                let (failed, next) = (server.place_at(failed), server.place_at(next));
                self.debug.log(
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
        let route = self.connections[slot].route;
        let (Some(reason), Some(server)) = (route.reason(), self.settings.target(target)) else {
            return;
        };
        let (addresses, start) = (server.address_count(), route.start());
        let (row, to) = (self.row(target), route.position() % addresses);
        let stands = self.worker_table.address(row);
        if stands % addresses == start && self.worker_table.move_address(row, stands, to) {
            let event = Event::AddressChanged { server: target.code(), from: start, to, reason };
            self.link.report(event);
        }
    }
}
