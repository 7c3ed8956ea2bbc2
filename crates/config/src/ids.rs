//! Identifiers of objects that cross a process boundary: servers, workers, clients.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Most regular servers that one pen can have (`-S`).
pub const MAX_SERVERS: u32 = 4096;

/// Most worker processes that one pen can have (`workers`).
pub const MAX_WORKERS: u32 = 64;

/// The number of a regular server, in the order of the command line, from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ServerId(pub u16);

impl ServerId {
    /// The server's index in [`crate::settings::Settings::servers`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The destination of a connection: a regular server, or one of the two servers outside the
/// rotation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// A server of the rotation.
    Server(ServerId),
    /// The emergency server (`-e`).
    Emergency,
    /// The abuse server (`-B`), which gets the clients that the client access list refuses.
    Abuse,
}

/// The code for "this client has no recorded server" in the client table and in reports.
pub const NO_SERVER: i32 = -3;

impl Target {
    /// The code in the client table and in reports: the server's number, -1 emergency, -2 abuse.
    pub fn code(self) -> i32 {
        match self {
            Target::Server(id) => i32::from(id.0),
            Target::Emergency => -1,
            Target::Abuse => -2,
        }
    }

    /// The target of a code; `None` for [`NO_SERVER`] and for any code out of range.
    pub fn from_code(code: i32) -> Option<Target> {
        match code {
            -1 => Some(Target::Emergency),
            -2 => Some(Target::Abuse),
            0.. => u16::try_from(code)
                .ok()
                .filter(|n| u32::from(*n) < MAX_SERVERS)
                .map(|n| Target::Server(ServerId(n))),
            _ => None,
        }
    }

    /// The target's row in the shared table. The table has `servers` regular rows, then one for the
    /// emergency server and one for the abuse server.
    pub fn row(self, servers: u32) -> u32 {
        match self {
            Target::Server(id) => u32::from(id.0),
            Target::Emergency => servers,
            Target::Abuse => servers + 1,
        }
    }
}

/// The number of a worker process, from 0. A replacement takes the number of the worker it
/// replaces.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct WorkerId(pub u8);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a client: its IP address without the port. IPv4 is stored in its IPv6-mapped
/// form (RFC 4291, 2.5.5.2), so a client is the same at a dual-stack listener and at an IPv4
/// listener. All clients of a Unix listener are one client.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientKey([u8; 16]);

impl ClientKey {
    /// The client of a Unix listener: the unspecified address, which no TCP client can have.
    pub const UNIX: ClientKey = ClientKey([0; 16]);

    /// The key of a peer address.
    pub fn from_ip(ip: IpAddr) -> ClientKey {
        match ip {
            IpAddr::V4(v4) => ClientKey(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => ClientKey(v6.octets()),
        }
    }

    /// The key of a peer's socket address; the port is ignored.
    pub fn from_peer(peer: SocketAddr) -> ClientKey {
        ClientKey::from_ip(peer.ip())
    }

    /// The key from its 16 bytes, as the shared table stores it.
    pub fn from_bytes(bytes: [u8; 16]) -> ClientKey {
        ClientKey(bytes)
    }

    /// The 16 bytes that the shared table stores.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The address, as IPv4 if it is mapped; `None` for the client of a Unix listener.
    pub fn ip(self) -> Option<IpAddr> {
        (self != ClientKey::UNIX).then(|| Ipv6Addr::from(self.0).to_canonical())
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => ip.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_and_its_mapped_form_are_one_client() {
        let plain = ClientKey::from_ip("1.2.3.4".parse().unwrap());
        let mapped = ClientKey::from_ip("::ffff:1.2.3.4".parse().unwrap());
        assert_eq!(plain, mapped);
        assert_eq!(mapped.to_string(), "1.2.3.4");
        assert_eq!(ClientKey::UNIX.to_string(), "unix");
    }

    #[test]
    fn codes_round_trip_and_out_of_range_is_nothing() {
        for target in [
            Target::Server(ServerId(0)),
            Target::Server(ServerId(4095)),
            Target::Emergency,
            Target::Abuse,
        ] {
            assert_eq!(Target::from_code(target.code()), Some(target));
        }
        for code in [NO_SERVER, i32::MIN, 4096, 65536, i32::MAX] {
            assert_eq!(Target::from_code(code), None);
        }
    }
}
