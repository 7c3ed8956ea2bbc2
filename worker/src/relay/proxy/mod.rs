//! The PROXY protocol, versions 1 and 2: a header in front of the first byte of a connection, in
//! which a proxy says where the connection comes from.
//!
//! Source: "The PROXY protocol", proxy-protocol.txt of HAProxy 2.8 and later. Pure: converts bytes
//! to addresses and addresses to bytes.

use std::net::{IpAddr, SocketAddr};

pub use crate::relay::proxy::read::{Bad, MOST, read};
pub use crate::relay::proxy::write::write;

mod read;
mod write;

/// The addresses in a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The source address.
    pub client: SocketAddr,
    /// The destination: the address that the client connected to.
    pub local: SocketAddr,
}

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of version 1.
const WORD: &[u8] = b"PROXY ";

/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;

/// Version 2 and the command LOCAL: the connection is the proxy's own.
const LOCAL: u8 = 0x20;

/// Version 2 and the command PROXY: the connection is relayed.
const PROXY: u8 = 0x21;

/// TCP over IPv4.
const TCP4: u8 = 0x11;

/// TCP over IPv6.
const TCP6: u8 = 0x21;

/// Unspecified family and transport.
const UNSPECIFIED: u8 = 0x00;

/// Both addresses in the family that a header can carry: IPv4 if both are IPv4 or IPv4-mapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pair {
    V4([std::net::Ipv4Addr; 2]),
    V6([std::net::Ipv6Addr; 2]),
}

impl Pair {
    fn of(origin: &Origin) -> Pair {
        match (origin.client.ip().to_canonical(), origin.local.ip().to_canonical()) {
            (IpAddr::V4(client), IpAddr::V4(local)) => Pair::V4([client, local]),
            both => Pair::V6([both.0, both.1].map(|ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use pen_config::proxy::ProxyOut;
    use proptest::prelude::*;

    use super::*;

    fn origin(client: &str, local: &str) -> Origin {
        Origin { client: client.parse().unwrap(), local: local.parse().unwrap() }
    }

    fn written(version: ProxyOut, origin: Option<&Origin>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(version, origin, &mut bytes);
        bytes
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let v4 = origin("192.168.0.1:56324", "192.168.0.11:443");
        let v6 = origin("[2001:db8::1]:1", "[::1]:65535");
        let mapped = origin("[::ffff:192.168.0.1]:56324", "[::ffff:192.168.0.11]:443");
        let mixed = origin("192.168.0.1:2", "[::1]:3");
        let v1 = |origin| String::from_utf8(written(ProxyOut::V1, origin)).unwrap();
        assert_eq!(v1(Some(&v4)), "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        assert_eq!(v1(Some(&mapped)), v1(Some(&v4)));
        assert_eq!(v1(Some(&v6)), "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
        assert_eq!(v1(Some(&mixed)), "PROXY TCP6 ::ffff:192.168.0.1 ::1 2 3\r\n");
        assert_eq!(v1(None), "PROXY UNKNOWN\r\n");
        let v2 = |origin| written(ProxyOut::V2, origin);
        let wanted =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\xa8\x00\x01\xc0\xa8\x00\x0b\xdc\x04\x01\xbb";
        assert_eq!(v2(Some(&v4)), wanted);
        assert_eq!(v2(Some(&mapped)), wanted);
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8".to_vec();
        wanted.extend([0; 11]);
        wanted.push(1);
        wanted.extend([0; 15]);
        wanted.extend([1, 0, 1, 0xff, 0xff]);
        assert_eq!(v2(Some(&v6)), wanted);
        assert_eq!(v2(None), b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00");
        assert_eq!(written(ProxyOut::Off, Some(&v4)), b"");
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<IpAddr>(),
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_ipv6_mapped().into())
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(
            (client, local) in ((address(), any::<u16>()), (address(), any::<u16>())),
            version in prop::sample::select(vec![ProxyOut::V1, ProxyOut::V2]),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let origin = Origin { client: client.into(), local: local.into() };
            let mut bytes = written(version, Some(&origin));
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(read(&bytes[..cut]), Ok(None));
            }
            bytes.extend(rest);
            let (end, read) = read(&bytes).unwrap().unwrap();
            let read = read.unwrap();
            prop_assert_eq!(end, length);
            prop_assert_eq!(read.client.ip().to_canonical(), origin.client.ip().to_canonical());
            prop_assert_eq!(read.local.ip().to_canonical(), origin.local.ip().to_canonical());
            prop_assert_eq!((read.client.port(), read.local.port()), (client.1, local.1));
        }
    }
}
