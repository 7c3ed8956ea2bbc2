//! The order of a server's addresses for one client. Pure.

use pen_ipc::message::ConnectFailure;

/// The addresses that were tried for one client at one server. It is small because every connection
/// has one: a server has at most [`pen_config::address::MOST_ADDRESSES`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Route {
    /// The position of the first try, from the shared table.
    start: u8,
    /// How many addresses have failed.
    failed: u8,
    /// The code of the first failure ([`ConnectFailure::code`]).
    reason: u16,
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

    /// The position of the first try.
    pub fn start(self) -> u32 {
        self.start.into()
    }

    /// Goes on to the next of `addresses` addresses. False: all have failed.
    pub fn next(&mut self, addresses: u32, reason: ConnectFailure) -> bool {
        if u32::from(self.failed) + 1 >= addresses || self.failed == u8::MAX {
            return false;
        }
        if self.failed == 0 {
            self.reason = reason.code();
        }
        self.failed += 1;
        true
    }

    /// Why the first address failed, if it has.
    pub fn reason(self) -> Option<ConnectFailure> {
        (self.failed > 0).then(|| ConnectFailure::from_code(self.reason))
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
