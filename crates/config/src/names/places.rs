//! Where servers are: how new answers of the resolver change the addresses of a server, and which
//! changes make it another server.

use crate::address::{Address, Host, HostAddress, MOST_ADDRESSES};
use crate::ids::Target;
use crate::names::{Lookup, of_host};
use crate::settings::{Server, Settings};

impl Server {
    /// The name to look up for its addresses; none if it was given by number or path.
    pub fn looked_up(&self) -> Option<String> {
        match of_host(self.given.as_ref()?)? {
            Lookup::Host(name) => Some(name),
            // A host is no service.
            Lookup::Service(_) | Lookup::Records(_, _) => None,
        }
    }

    /// The server after another lookup of its name: `in_use` is the position of the address that
    /// its clients use. It stays if it is among the answers; otherwise the first answer is used.
    /// None if nothing changes. The order of the answers alone changes nothing.
    pub fn moved(&self, found: &[HostAddress], in_use: u32) -> Option<Server> {
        let port = self.address.port();
        let found = found.iter().map(|address| address.with_port(port)).collect();
        let mut server = self.clone();
        server.arrange(in_use, found);
        (server != *self).then_some(server)
    }

    /// Sets the addresses of the server from a host. If it already had its addresses from this
    /// host, those that are still answered stay.
    pub(crate) fn relocate(&mut self, found: Vec<Address>, given: Option<Host>) {
        match given.is_some() && given == self.given {
            true => self.arrange(0, found),
            false => {
                self.set_addresses(distinct(found));
                self.given = given;
            }
        }
    }

    /// The position of an address among its own.
    pub fn position_of(&self, address: &Address) -> Option<u32> {
        // Below MOST_ADDRESSES.
        self.addresses().position(|own| own == address).map(|position| position as u32)
    }

    /// Takes the answers to a further lookup.
    fn arrange(&mut self, in_use: u32, found: Vec<Address>) {
        let found = distinct(found);
        if !found.contains(self.address_at(in_use)) {
            return self.set_addresses(found);
        }
        // Each address keeps its position, because workers name addresses by their positions. New
        // ones come where others are gone, and then behind.
        let mut new = found.iter().filter(|address| self.addresses().all(|has| has != *address));
        let mut arranged: Vec<Address> = Vec::with_capacity(MOST_ADDRESSES);
        for address in self.addresses() {
            match found.contains(address) {
                true => arranged.push(address.clone()),
                false => arranged.extend(new.next().cloned()),
            }
        }
        arranged.extend(new.cloned());
        self.set_addresses(arranged);
    }

    fn set_addresses(&mut self, addresses: Vec<Address>) {
        let mut addresses = addresses.into_iter().take(MOST_ADDRESSES);
        if let Some(first) = addresses.next() {
            (self.address, self.alternatives) = (first, addresses.collect());
        }
    }

    /// Whether another answer of the resolver can be all that differs between the places of two
    /// servers.
    fn is_where(&self, other: &Server) -> bool {
        let has_same_name = self.given.is_some()
            && self.given == other.given
            && self.address.port() == other.address.port();
        has_same_name || self.address == other.address
    }
}

/// Gives each server that commands have put elsewhere an epoch of its own: it is another server. A
/// server whose name has another address is the same one. `after` has its generation already.
pub fn settle_epochs(before: &Settings, after: &mut Settings) {
    // The generation has not been the epoch of any server before, as long as it does not wrap.
    let epoch = after.generation as u32;
    let settled = |before: Option<&Server>, after: &mut Server| {
        after.epoch = match before {
            Some(before) if before.is_where(after) => before.epoch,
            Some(_) | None => epoch,
        };
    };
    for (number, server) in after.servers.iter_mut().enumerate() {
        let before = before.servers.get(number).and_then(Option::as_ref);
        server.iter_mut().for_each(|server| settled(before, server));
    }
    let both = [(&before.emergency, &mut after.emergency), (&before.abuse, &mut after.abuse)];
    for (before, after) in both {
        after.iter_mut().for_each(|server| settled(before.as_ref(), server));
    }
}

impl Settings {
    /// The servers whose addresses come from names, with those names.
    pub fn named(&self) -> impl Iterator<Item = (Target, &Server, String)> {
        self.targets().filter_map(|(target, server)| Some((target, server, server.looked_up()?)))
    }
}

/// Each address once, where it comes first.
fn distinct(found: Vec<Address>) -> Vec<Address> {
    let mut distinct: Vec<Address> = Vec::with_capacity(found.len());
    for address in found {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn host(last: u8) -> HostAddress {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn hosts(found: &[u8]) -> Vec<HostAddress> {
        found.iter().map(|last| host(*last)).collect()
    }

    /// A server by the name `www` with these addresses.
    fn www(addresses: &[u8]) -> Server {
        let mut addresses = hosts(addresses).into_iter().map(|address| address.with_port(80));
        Server {
            alternatives: addresses.clone().skip(1).collect(),
            given: Some(Host::Name("www".into())),
            ..Server::at(addresses.next().unwrap())
        }
    }

    /// The last bytes of the addresses after a lookup.
    fn after(before: &[u8], in_use: u32, found: &[u8]) -> Vec<u8> {
        let before = www(before);
        let moved = before.moved(&hosts(found), in_use);
        assert_ne!(moved.as_ref(), Some(&before), "no change is none");
        let last = |address: &Address| match address.host().to_string().rsplit('.').next() {
            Some(last) => last.parse().unwrap(),
            None => panic!("{address}"),
        };
        moved.unwrap_or(before).addresses().map(last).collect()
    }

    #[test]
    fn an_address_that_is_answered_stays_where_it_is() {
        assert_eq!(after(&[1], 0, &[2, 1]), [1, 2]);
        assert_eq!(after(&[1, 2], 1, &[3, 2]), [3, 2]);
        assert_eq!(after(&[1, 2, 3], 1, &[4, 3, 2]), [4, 2, 3]);
        assert_eq!(after(&[1, 2, 3], 2, &[3]), [3]);
        assert_eq!(after(&[1, 2], 7, &[2, 3, 4, 5]), [3, 2, 4, 5]);
    }

    #[test]
    fn without_the_address_in_use_the_first_answer_is_used() {
        assert_eq!(after(&[1], 0, &[3, 2]), [3, 2]);
        assert_eq!(after(&[1, 2], 1, &[3, 1]), [3, 1]);
        assert_eq!(after(&[1, 2], 0, &[3, 2, 3]), [3, 2]);
    }

    #[test]
    fn no_answer_and_no_name_change_nothing() {
        assert_eq!(after(&[1, 2], 0, &[]), [1, 2]);
        let numeric = Server { given: None, ..www(&[1]) };
        assert_eq!((numeric.looked_up(), www(&[1]).looked_up()), (None, Some("www".into())));
        let zoned = Some(Host::Zoned("fe80::1".parse().unwrap(), "eth0".into()));
        let zoned = Server { given: zoned, ..www(&[1]) };
        assert_eq!(zoned.looked_up().as_deref(), Some("fe80::1%eth0"));
    }

    proptest! {
        #[test]
        fn the_order_of_answers_changes_nothing(
            found in vec(any::<u8>(), 1..40),
            in_use in 0u32..20,
            order in any::<prop::sample::Index>(),
        ) {
            let mut server = www(&[0]);
            server.relocate(hosts(&found).into_iter().map(|one| one.with_port(80)).collect(), None);
            server.given = Some(Host::Name("www".into()));
            let mut others = found.clone();
            others.rotate_left(order.index(found.len()));
            prop_assert_eq!(server.moved(&hosts(&others), in_use), None);
            others.reverse();
            prop_assert_eq!(server.moved(&hosts(&others), in_use), None);
        }

        #[test]
        fn an_address_in_use_that_is_answered_stays_in_use_and_new_ones_are_the_answers(
            before in vec(0u8..12, 1..6),
            found in vec(0u8..12, 1..30),
            in_use in 0u32..8,
        ) {
            let mut server = www(&[0]);
            let at = |last: &[u8]| hosts(last).into_iter().map(|one| one.with_port(80)).collect();
            server.relocate(at(&before), Some(Host::Name("www".into())));
            let used = server.address_at(in_use).clone();
            let moved = server.moved(&hosts(&found), in_use).unwrap_or_else(|| server.clone());
            let addresses: Vec<_> = moved.addresses().cloned().collect();
            let answers = distinct(at(&found));
            prop_assert!(addresses.iter().all(|address| answers.contains(address)));
            prop_assert_eq!(addresses.len(), answers.len().min(MOST_ADDRESSES));
            prop_assert_eq!(distinct(addresses.clone()), addresses);
            match answers.contains(&used) {
                true => prop_assert!(moved.position_of(&used).is_some()),
                false => prop_assert_eq!(&moved.address, &answers[0]),
            }
            prop_assert_eq!(Server { epoch: 0, ..moved.clone() }.moved(&hosts(&found), 0), None);
        }
    }

    #[test]
    fn another_place_is_another_server_but_another_answer_is_not() {
        let settings = |servers: Vec<Option<Server>>, generation| Settings {
            generation,
            emergency: servers.first().cloned().flatten(),
            servers,
            ..Settings::default()
        };
        let epochs = |before: Option<Server>, after: Option<Server>| {
            let before = settings(vec![before], 6);
            let mut after = settings(vec![after], 7);
            settle_epochs(&before, &mut after);
            let epoch = |server: &Option<Server>| server.as_ref().map(|server| server.epoch);
            assert_eq!(epoch(&after.servers[0]), epoch(&after.emergency));
            epoch(&after.servers[0])
        };
        let with = |epoch, server: Server| Some(Server { epoch, ..server });
        let numeric = |last| Server { given: None, ..www(&[last]) };
        assert_eq!(epochs(with(3, www(&[1, 2])), Some(www(&[4]))), Some(3));
        assert_eq!(epochs(with(3, www(&[1])), Some(numeric(1))), Some(3), "the same address");
        assert_eq!(epochs(with(3, www(&[1])), Some(numeric(2))), Some(7));
        let mut ported = www(&[1]);
        ported.set_port(81);
        assert_eq!(epochs(with(3, www(&[1])), Some(ported)), Some(7));
        let other = Server { given: Some(Host::Name("other".into())), ..www(&[2]) };
        assert_eq!(epochs(with(3, www(&[1])), Some(other)), Some(7));
        assert_eq!(epochs(None, Some(www(&[1]))), Some(7));
        assert_eq!(epochs(with(3, www(&[1])), None), None);
        let limited = Server { soft: 9, ..numeric(1) };
        assert_eq!(epochs(with(3, numeric(1)), Some(limited)), Some(3));
    }
}
