//! Which addresses are one client.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::ids::ClientKey;

/// How many leading bits of its address make a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientNet {
    /// Of an IPv4 address, 1 to 32.
    pub v4: u8,
    /// Of an IPv6 address, 1 to 128.
    pub v6: u8,
}

/// A whole IPv4 address, and the net that providers give to one customer of IPv6.
impl Default for ClientNet {
    fn default() -> ClientNet {
        ClientNet { v4: 32, v6: 64 }
    }
}

impl ClientNet {
    /// The bits of a client's address that count, of the 128 of its key.
    fn bits(self, client: ClientKey) -> u32 {
        match client.ip() {
            Some(ip) if ip.is_ipv4() => 96 + u32::from(self.v4.min(32)),
            Some(_) | None => u32::from(self.v6.min(128)),
        }
    }

    /// The length of the prefix of a client's net, as its family counts it.
    pub fn length(self, client: ClientKey) -> u8 {
        match client.ip() {
            Some(ip) if ip.is_ipv4() => self.v4,
            Some(_) | None => self.v6,
        }
    }

    /// The first address of a client's net.
    pub fn first(self, client: ClientKey) -> ClientKey {
        let rest = u128::MAX.checked_shr(self.bits(client)).unwrap_or(0);
        ClientKey::from_bytes((u128::from_be_bytes(client.bytes()) & !rest).to_be_bytes())
    }

    /// A key for a client's net. It differs from that of a net of another size with the same first
    /// address, so that what was counted for the one does not count for the other: a 1 follows the
    /// bits that count. Only a single address has no place for it.
    pub fn key(self, client: ClientKey) -> [u8; 16] {
        let mark = (1u128 << 127).checked_shr(self.bits(client)).unwrap_or(0);
        (u128::from_be_bytes(self.first(client).bytes()) | mark).to_be_bytes()
    }

    /// A client's net in words: the address if it is alone, else the first one and the length.
    pub fn shown(self, client: ClientKey) -> String {
        match client.ip() {
            Some(_) => in_words(self.first(client).bytes(), self.length(client)),
            None => client.to_string(),
        }
    }
}

/// A net in words, from its first address (the bytes of a [`ClientKey`]) and the length of its
/// prefix. The first address of `::/64` is no Unix client.
pub fn in_words(first: [u8; 16], length: u8) -> String {
    let first = Ipv6Addr::from(first).to_canonical();
    match length < if first.is_ipv4() { 32 } else { 128 } {
        true => format!("{first}/{length}"),
        false => first.to_string(),
    }
}

/// The form that `per_client_net` takes.
impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.v4, self.v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> ClientKey {
        ClientKey::from_ip(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_net_are_one_client() {
        let usual = ClientNet::default();
        for (one, other) in [("2001:db8::1", "2001:db8::ffff:0:0:1"), ("192.0.2.7", "192.0.2.7")] {
            assert_eq!(usual.key(client(one)), usual.key(client(other)));
        }
        for (one, other) in [("2001:db8::1", "2001:db8:0:1::1"), ("192.0.2.7", "192.0.2.6")] {
            assert_ne!(usual.key(client(one)), usual.key(client(other)));
        }
        let wide = ClientNet { v4: 24, v6: 48 };
        assert_eq!(wide.key(client("192.0.2.7")), wide.key(client("192.0.2.250")));
        assert_ne!(wide.key(client("192.0.2.7")), wide.key(client("192.0.3.7")));
        assert_eq!(wide.key(client("2001:db8::1")), wide.key(client("2001:db8:0:9::1")));
        assert_eq!(
            [usual, wide, ClientNet { v4: 1, v6: 128 }].map(|net| {
                ["192.0.2.7", "2001:db8::1"].map(|address| net.shown(client(address)))
            }),
            [
                ["192.0.2.7", "2001:db8::/64"],
                ["192.0.2.0/24", "2001:db8::/48"],
                ["128.0.0.0/1", "2001:db8::1"],
            ]
        );
        assert_eq!(usual.shown(ClientKey::UNIX), "unix");
    }

    #[test]
    fn the_net_of_the_lowest_addresses_is_no_unix_client() {
        let usual = ClientNet::default();
        assert_eq!(usual.shown(client("::1")), "::/64");
        assert_eq!(ClientNet { v4: 32, v6: 128 }.shown(client("::1")), "::1");
        let wide = ClientNet { v4: 8, v6: 1 };
        let nets = ["0.1.2.3", "0.0.0.0", "::1", "2001:db8::1"].map(|one| wide.shown(client(one)));
        assert_eq!(nets, ["0.0.0.0/8", "0.0.0.0/8", "::/1", "::/1"]);
        assert_eq!(usual.shown(client("0.0.0.0")), "0.0.0.0");
    }

    #[test]
    fn nets_of_two_sizes_are_not_confused() {
        let at = |v4, v6| ClientNet { v4, v6 };
        let v6 = client("2001:db8::");
        assert_ne!(at(32, 64).key(v6), at(32, 56).key(v6));
        assert_ne!(at(32, 64).key(v6), v6.bytes());
        assert_eq!(at(32, 128).key(v6), v6.bytes());
        let v4 = client("10.0.0.0");
        assert_ne!(at(24, 64).key(v4), at(16, 64).key(v4));
        assert_eq!(at(32, 64).key(v4), v4.bytes());
    }
}
