//! The hash that assigns clients to servers (`-h`, `-N`). It is pure and frozen: other machines and
//! later releases must compute the same.

use std::net::IpAddr;

use pen_config::ids::{ClientKey, ServerId};

/// The server that a client's address hashes to. The hash is FNV-1a (64 bits) over the bytes of the
/// address (4 for IPv4, 16 for IPv6) and, where the port counts, its two bytes. A jump consistent
/// hash (Lamping and Veach, 2014) maps it to the servers, so that one more server moves as few
/// clients as possible. The result is the same on every run, worker and machine.
pub fn hashed(key: ClientKey, port: Option<u16>, servers: u32) -> Option<ServerId> {
    let hash = match key.ip() {
        Some(IpAddr::V4(ip)) => fnv1a(FNV_OFFSET, &ip.octets()),
        Some(IpAddr::V6(ip)) => fnv1a(FNV_OFFSET, &ip.octets()),
        None => FNV_OFFSET,
    };
    let hash = port.map_or(hash, |port| fnv1a(hash, &port.to_be_bytes()));
    (servers > 0).then(|| ServerId(jump(hash, servers) as u16))
}

/// The hash of a client with maglev: FNV-1a over the bytes of its address, of which with IPv6 only
/// the first 64 bits count. That is what providers give to one customer. It is no setting: limits
/// per client may count for other nets (`per_client_net`), and must not move clients. The clients
/// of a Unix socket are one.
pub fn hash_of_client(key: ClientKey) -> u64 {
    match key.ip() {
        Some(IpAddr::V4(ip)) => fnv1a(FNV_OFFSET, &ip.octets()),
        Some(IpAddr::V6(ip)) => {
            let net = u128::from(ip) & !u128::from(u64::MAX);
            fnv1a(FNV_OFFSET, &net.to_be_bytes())
        }
        None => FNV_OFFSET,
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_stable_and_spreads_a_subnet() {
        let key =
            |n: u32| ClientKey::from_ip(IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n)));
        // Frozen: other machines and later releases must compute the same.
        assert_eq!((0..8).map(|n| hashed(key(n), None, 4).unwrap().0).collect::<Vec<_>>(), FROZEN);
        let mut counts = [0; 8];
        (0..8000).for_each(|n| counts[hashed(key(n), None, 8).unwrap().index()] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let moved =
            (0..8000).filter(|n| hashed(key(*n), None, 8) != hashed(key(*n), None, 9)).count();
        assert!((600..1200).contains(&moved), "{moved}");
        assert!((0..1000).any(|port| hashed(key(1), Some(port), 8) != hashed(key(1), Some(0), 8)));
        assert_eq!(hashed(key(1), None, 0), None);
    }

    #[test]
    fn a_net_of_ipv6_is_one_client() {
        let hash = |text: &str| hash_of_client(ClientKey::from_ip(text.parse().unwrap()));
        assert_eq!(hash("2001:db8:1:2::1"), hash("2001:db8:1:2:ffff::"));
        assert_ne!(hash("2001:db8:1:2::1"), hash("2001:db8:1:3::1"));
        assert_ne!(hash("10.0.0.1"), hash("10.0.0.2"));
        // Frozen, as above.
        assert_eq!(hash("192.0.2.1"), fnv1a(FNV_OFFSET, &[192, 0, 2, 1]));
    }

    const FROZEN: [u16; 8] = [1, 2, 2, 0, 0, 3, 2, 3];
}
