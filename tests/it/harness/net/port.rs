//! Reserved ports: a bound socket holds each for as long as the test needs it.
//!
//! The holding socket does not listen and has SO_REUSEADDR. So a program that also sets
//! SO_REUSEADDR (pen and our backends do) can bind and listen beside it. The kernel gives the port
//! to no program that asks for a free one. While no program listens, the port refuses connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A reserved port.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _hold: Socket,
}

impl Port {
    /// Reserves a port of 127.0.0.1.
    pub fn reserve() -> Port {
        Port::reserve_on(Ipv4Addr::LOCALHOST.into())
    }

    /// Reserves a port of an address of this machine. `[::]` means all IPv6 and IPv4 addresses.
    pub fn reserve_on(ip: IpAddr) -> Port {
        let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let hold = Socket::new(domain, Type::STREAM, None).unwrap();
        hold.set_reuse_address(true).unwrap();
        if ip.is_ipv6() {
            hold.set_only_v6(!ip.is_unspecified()).unwrap();
        }
        hold.bind(&SocketAddr::new(ip, 0).into()).unwrap();
        Port { address: hold.local_addr().unwrap().as_socket().unwrap(), _hold: hold }
    }

    /// Reserves this address; port 0 means a free port.
    pub fn reserve_at(address: SocketAddr) -> Port {
        let hold = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        hold.set_reuse_address(true).unwrap();
        hold.bind(&address.into()).unwrap();
        Port { address: hold.local_addr().unwrap().as_socket().unwrap(), _hold: hold }
    }

    /// The same port at another address of this machine. `self` must be reserved on the unspecified
    /// address, which covers it.
    pub fn share(&self, ip: IpAddr) -> Port {
        let hold = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        hold.set_reuse_address(true).unwrap();
        let address = SocketAddr::new(ip, self.address.port());
        hold.bind(&address.into()).unwrap();
        Port { address, _hold: hold }
    }

    /// The reserved address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
