//! The servers as `maglev` knows them: by their names, which are the same on every machine. Pure
//! and frozen.

use std::collections::HashMap;

use crate::address::Host;
use crate::ids::ServerId;
use crate::maglev::mixed;
use crate::maglev::rendezvous::Arrival;
use crate::settings::{Server, Settings};

/// A server with the hash of its name.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its number, which decides nothing.
    pub id: ServerId,
    /// Its weight.
    pub weight: u32,
    pub(super) hash: u64,
}

impl Named {
    /// When it arrives for the clients at a position: they get the first one of those that can be
    /// used, if none of the owners of their positions can.
    pub fn arrival(&self, position: u32) -> Arrival {
        // Unlike the words by which it names positions.
        let word = mixed(self.hash ^ mixed(PLACES_END + u64::from(position)));
        Arrival::new(word, self.weight.into())
    }
}

/// Above all positions.
const PLACES_END: u64 = 1 << 32;

/// All servers, those with a weight first: a server without weight changes no name of another.
pub fn named(settings: &Settings) -> Vec<Named> {
    // The same server can be there several times.
    let mut before: HashMap<String, u64> = HashMap::new();
    let all = || settings.configured();
    let weighted = all().filter(|(_, server)| server.weight > 0);
    let in_order = weighted.chain(all().filter(|(_, server)| server.weight == 0));
    let each = in_order.map(|(id, server)| {
        let text = text_of(server, settings.followed(id).is_some());
        let count = before.entry(text.clone()).or_default();
        let hash = mixed(fnv1a(text.as_bytes()) ^ mixed(*count));
        *count += 1;
        Named { id, weight: server.weight, hash }
    });
    each.collect()
}

/// The address and port of a server as the operator wrote them. An answer of the resolver is not
/// the same on every machine. Servers that follow the addresses of one name are told apart by them.
fn text_of(server: &Server, follows: bool) -> String {
    match &server.given {
        Some(Host::Name(name)) if !follows => format!("{name}:{}", server.address.port()),
        Some(Host::Name(_) | Host::Ip(_) | Host::Zoned(_, _) | Host::Unix(_)) | None => {
            server.address.to_string()
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    #[test]
    fn arrivals_are_frozen_and_do_not_know_numbers() {
        let server = |last, weight| {
            let address = Address::Inet(([192, 0, 2, last], 80).into());
            Some(Server { weight, ..Server::at(address) })
        };
        let order = |servers, position| {
            let settings = Settings { servers, ..Settings::default() };
            let mut all = named(&settings);
            all.sort_by_key(|named| named.arrival(position));
            all.iter()
                .map(|named| {
                    settings.servers[named.id.index()].as_ref().unwrap().address.to_string()
                })
                .map(|address| address["192.0.2.".len()..][..1].to_owned())
                .collect::<String>()
        };
        let servers = || vec![server(1, 1), server(2, 3), None, server(3, 1), server(4, 0)];
        let orders: Vec<_> = (0..6).map(|n| order(servers(), n * 10_000)).collect();
        assert_eq!(orders, FROZEN);
        let mut turned = servers();
        turned.reverse();
        assert_eq!(orders, (0..6).map(|n| order(turned.clone(), n * 10_000)).collect::<Vec<_>>());
    }

    const FROZEN: [&str; 6] = ["2143", "2431", "3214", "2314", "2143", "3412"];
}
