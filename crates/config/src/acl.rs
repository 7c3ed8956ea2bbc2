//! Access lists: which clients are permitted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::ids::ClientKey;

/// The number of access lists; their numbers are 0 to 9.
pub const LISTS: usize = 10;

/// Most entries of one list. Each connection that the list governs walks the list.
pub const MAX_ENTRIES: usize = 10_000;

/// The verdict of an entry on the addresses that match it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum AclVerdict {
    /// The addresses are permitted.
    Permit,
    /// The addresses are denied.
    Deny,
}

/// A set of addresses of one family: those that equal `address` in the bits of `mask`. An IPv4 mask
/// does not have to be a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Net {
    /// IPv4.
    V4 {
        /// The address; bits outside the mask are 0.
        address: Ipv4Addr,
        /// The mask.
        mask: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// The address; bits outside the prefix are 0.
        address: Ipv6Addr,
        /// Length of the prefix, 0 to 128.
        length: u8,
    },
}

/// Whether an IPv4 address is plausible as a mask: a prefix, or a mask with holes after a first
/// byte of 255.
pub fn is_mask(mask: Ipv4Addr) -> bool {
    let bits = mask.to_bits();
    bits.leading_ones() + bits.trailing_zeros() >= 32 || bits.leading_ones() >= 8
}

impl Net {
    /// IPv4 addresses under a mask; bits of the address outside it are dropped.
    pub fn v4(address: Ipv4Addr, mask: Ipv4Addr) -> Net {
        Net::V4 { address: Ipv4Addr::from(address.to_bits() & mask.to_bits()), mask }
    }

    /// IPv4 addresses with a common prefix of `length` bits; `None` if `length` is above 32.
    pub fn v4_prefix(address: Ipv4Addr, length: u8) -> Option<Net> {
        let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
        (length <= 32).then(|| Net::v4(address, Ipv4Addr::from(mask)))
    }

    /// IPv6 addresses with a common prefix of `length` bits; `None` if `length` is above 128. A
    /// prefix of IPv4-mapped addresses becomes an IPv4 prefix, because pen treats such clients as
    /// IPv4 everywhere.
    pub fn v6_prefix(address: Ipv6Addr, length: u8) -> Option<Net> {
        if let (Some(v4), 96..=128) = (address.to_ipv4_mapped(), length) {
            return Net::v4_prefix(v4, length - 96);
        }
        let address = Ipv6Addr::from(address.to_bits() & prefix_mask(length)?);
        Some(Net::V6 { address, length })
    }

    /// Whether an address is in the set.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (*self, ip) {
            (Net::V4 { address, mask }, IpAddr::V4(ip)) => {
                ip.to_bits() & mask.to_bits() == address.to_bits()
            }
            (Net::V6 { address, length }, IpAddr::V6(ip)) => {
                prefix_mask(length).is_some_and(|mask| ip.to_bits() & mask == address.to_bits())
            }
            (Net::V4 { .. }, IpAddr::V6(_)) | (Net::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }
}

/// The form that the command `acl` takes.
impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Net::V4 { address, mask } => write!(f, "{address} {mask}"),
            Net::V6 { address, length } => write!(f, "{address}/{length}"),
        }
    }
}

fn prefix_mask(length: u8) -> Option<u128> {
    (length <= 128).then(|| u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0))
}

/// An ordered list of entries.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Acl {
    entries: Vec<(AclVerdict, Net)>,
}

impl Acl {
    /// Adds an entry after the others. Returns false if the list is full.
    #[must_use]
    pub fn push(&mut self, verdict: AclVerdict, net: Net) -> bool {
        let room = self.entries.len() < MAX_ENTRIES;
        if room {
            self.entries.push((verdict, net));
        }
        room
    }

    /// The entries in order.
    pub fn entries(&self) -> &[(AclVerdict, Net)] {
        &self.entries
    }

    /// The verdict for a client: that of the first entry that matches. If no entry matches, it is
    /// the opposite of the last entry's verdict. An empty list permits every client, and every list
    /// permits a client without an IP address.
    pub fn permits(&self, client: ClientKey) -> bool {
        // Most lists are empty, and this runs for each connection: so this check comes first.
        let Some((last, _)) = self.entries.last() else { return true };
        let Some(ip) = client.ip() else { return true };
        let found = self.entries.iter().find(|(_, net)| net.contains(ip));
        found.map_or(*last == AclVerdict::Deny, |(verdict, _)| *verdict == AclVerdict::Permit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies;

    fn client(text: &str) -> ClientKey {
        ClientKey::from_ip(text.parse().unwrap())
    }

    fn list(entries: &[(AclVerdict, &str, u8)]) -> Acl {
        let mut acl = Acl::default();
        for (verdict, address, length) in entries {
            let net = match address.parse().unwrap() {
                IpAddr::V4(ip) => Net::v4_prefix(ip, *length),
                IpAddr::V6(ip) => Net::v6_prefix(ip, *length),
            };
            assert!(acl.push(*verdict, net.unwrap()));
        }
        acl
    }

    use AclVerdict::{Deny, Permit};

    #[test]
    fn the_first_match_decides_and_else_the_opposite_of_the_last() {
        assert!(Acl::default().permits(client("1.2.3.4")));
        let only_permit = list(&[(Permit, "1.2.3.0", 24)]);
        assert!(only_permit.permits(client("1.2.3.4")));
        assert!(!only_permit.permits(client("1.2.4.4")) && !only_permit.permits(client("::1")));
        let only_deny = list(&[(Deny, "1.2.3.0", 24)]);
        assert!(!only_deny.permits(client("1.2.3.4")) && only_deny.permits(client("::1")));
        // deny A, permit B: all clients except B are refused.
        let both = list(&[(Deny, "1.2.3.0", 24), (Permit, "9.9.9.9", 32)]);
        assert!(both.permits(client("9.9.9.9")));
        assert!(!both.permits(client("1.2.3.4")) && !both.permits(client("5.5.5.5")));
        assert!(both.permits(ClientKey::UNIX));
    }

    #[test]
    fn masks_drop_the_bits_outside_and_lengths_are_checked() {
        let net = Net::v4("1.2.3.4".parse().unwrap(), "255.255.255.0".parse().unwrap());
        assert_eq!(net.to_string(), "1.2.3.0 255.255.255.0");
        assert!(net.contains("1.2.3.99".parse().unwrap()));
        assert!(
            Net::v4("1.0.3.0".parse().unwrap(), "255.0.255.0".parse().unwrap())
                .contains("1.7.3.9".parse().unwrap())
        );
        assert_eq!(Net::v4_prefix("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Net::v6_prefix("::1".parse().unwrap(), 129), None);
        assert!(
            Net::v6_prefix("::1".parse().unwrap(), 0).unwrap().contains("fd00::1".parse().unwrap())
        );
        assert!(
            Net::v4_prefix("1.2.3.4".parse().unwrap(), 0)
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        assert_eq!(
            Net::v6_prefix("fd00::ff".parse().unwrap(), 64).unwrap().to_string(),
            "fd00::/64"
        );
        assert_eq!(
            Net::v6_prefix("::ffff:1.2.3.4".parse().unwrap(), 120).unwrap().to_string(),
            "1.2.3.0 255.255.255.0"
        );
    }

    /// Whether the address is IPv6, and its bits as text.
    fn bits(ip: IpAddr) -> (bool, String) {
        match ip {
            IpAddr::V4(ip) => (false, format!("{:032b}", ip.to_bits())),
            IpAddr::V6(ip) => (true, format!("{:0128b}", ip.to_bits())),
        }
    }

    /// Whether an address is in a set, compared bit by bit.
    fn naive_contains(net: &Net, ip: IpAddr) -> bool {
        let (address, mask) = match net {
            Net::V4 { address, mask } => (IpAddr::V4(*address), bits(IpAddr::V4(*mask)).1),
            Net::V6 { address, length } => (
                IpAddr::V6(*address),
                "1".repeat(usize::from(*length)) + &"0".repeat(128 - usize::from(*length)),
            ),
        };
        let ((family, wanted), (its_family, its)) = (bits(address), bits(ip));
        let agree = |((bit, wanted), its): ((char, char), char)| bit == '0' || wanted == its;
        family == its_family && mask.chars().zip(wanted.chars()).zip(its.chars()).all(agree)
    }

    /// The rule as the manual describes it.
    fn naive_permits(acl: &Acl, ip: IpAddr) -> bool {
        for (verdict, net) in acl.entries() {
            if naive_contains(net, ip) {
                return *verdict == Permit;
            }
        }
        match acl.entries().last() {
            None => true,
            Some((Permit, _)) => false,
            Some((Deny, _)) => true,
        }
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<IpAddr>(),
            any::<u8>().prop_map(|last| [1, 2, 3, last].into()),
            (0u128..8).prop_map(|last| IpAddr::V6(last.into())),
        ]
    }

    proptest! {
        #[test]
        fn verdicts_are_those_of_a_naive_reading(
            acl in strategies::acl(),
            ips in prop::collection::vec(address(), 1..40),
        ) {
            for ip in ips {
                // An IPv4-mapped client is an IPv4 client; `::` is the client of a Unix listener.
                let client = ClientKey::from_ip(ip);
                let expected = client == ClientKey::UNIX || naive_permits(&acl, ip.to_canonical());
                prop_assert_eq!(acl.permits(client), expected, "{}", ip);
            }
        }

        #[test]
        fn a_set_holds_its_own_address_and_no_bit_outside_its_mask(net in strategies::net()) {
            let (own, outside) = match net {
                Net::V4 { address, mask } => {
                    (IpAddr::V4(address), u128::from(address.to_bits() & !mask.to_bits()))
                }
                Net::V6 { address, length } => {
                    (IpAddr::V6(address), address.to_bits() & !prefix_mask(length).unwrap())
                }
            };
            prop_assert!(net.contains(own));
            prop_assert_eq!(outside, 0);
        }
    }
}
