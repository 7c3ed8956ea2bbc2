//! Makes the socket towards a server, with the options that the settings ask for, and begins to connect it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use pen_contract::address::Address;
use pen_contract::settings::{BufferSizes, Settings};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::accept::is_shortage;
use crate::sys;

/// How an attempt began.
#[derive(Debug)]
pub enum Attempt {
    /// connect(2) is under way.
    Pending(OwnedFd),
    /// The server failed.
    Failed(Errno),
    /// The server's backlog is full: another may serve, but it is not dead.
    Full,
    /// This machine ran short.
    Shortage(Errno),
}

/// Begins to connect to a server. If something waits to be sent to it, that will acknowledge the server's part of the handshake: a segment
/// less for both, and the server's accept(2) finds the request. The first read must undo this (`withholds_acks` of an end).
pub fn dial(server: &Address, settings: &Settings, will_send: bool) -> Attempt {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = match rustix::net::socket_with(family(server), SocketType::STREAM, flags, None) {
        Ok(socket) => socket,
        Err(Errno::AFNOSUPPORT) => return Attempt::Failed(Errno::AFNOSUPPORT),
        Err(errno) => return Attempt::Shortage(errno),
    };
    let source = match server {
        Address::Inet(address) => source_for(*address, settings.source),
        Address::Unix(_) => None,
    };
    if let Err(errno) = prepare(&socket, server, source, settings) {
        return Attempt::Shortage(errno);
    }
    if will_send && let Address::Inet(_) = server {
        let _ = sockopt::set_tcp_quickack(&socket, false);
    }
    let result = match server {
        Address::Inet(address) => rustix::net::connect(socket.as_fd(), address),
        Address::Unix(path) => {
            SocketAddrUnix::new(path.as_path()).and_then(|address| rustix::net::connect(socket.as_fd(), &address))
        }
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Attempt::Pending(socket),
        // A Unix socket whose backlog is full says so at once and never tells when it is not (connect(2)).
        Err(Errno::AGAIN) if matches!(server, Address::Unix(_)) => Attempt::Full,
        // No way leads from the source to the server (a loopback source, say): no server is to blame for that.
        Err(Errno::INVAL) if source.is_some() => Attempt::Shortage(Errno::INVAL),
        Err(Errno::ADDRNOTAVAIL) if source.is_none() && !has_source(server) => Attempt::Failed(Errno::ADDRNOTAVAIL),
        Err(errno) if is_shortage(errno) => Attempt::Shortage(errno),
        Err(errno) => Attempt::Failed(errno),
    }
}

fn family(server: &Address) -> AddressFamily {
    match server {
        Address::Inet(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Inet(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    }
}

/// The local address towards a server, if one is set and of its family; the port is the kernel's to choose.
fn source_for(server: SocketAddr, source: Option<IpAddr>) -> Option<SocketAddr> {
    source.filter(|source| source.is_ipv4() == server.is_ipv4()).map(|source| SocketAddr::new(source, 0))
}

/// Gives a socket what the settings ask for. With the defaults that is nothing, and costs nothing.
fn prepare(
    socket: &OwnedFd,
    server: &Address,
    source: Option<SocketAddr>,
    settings: &Settings,
) -> rustix::io::Result<()> {
    if let Address::Unix(_) = server {
        return Ok(());
    }
    if settings.keepalive {
        sockopt::set_socket_keepalive(socket, true)?;
    }
    if settings.tcp_nodelay {
        sockopt::set_tcp_nodelay(socket, true)?;
    }
    if settings.buffers.server != BufferSizes::default() {
        // Before the handshake, which says by how much the receive window is scaled.
        sys::set_buffers(socket, settings.buffers.server)?;
    }
    match source {
        Some(source) => {
            // Else bind(2) would take a port that no other connection can have, whatever server it goes to.
            sys::bind_address_without_port(socket)?;
            rustix::net::bind(socket, &source)
        }
        None => Ok(()),
    }
}

/// Whether this machine has an address to reach a server from. connect(2) says EADDRNOTAVAIL when it has not (IPv6 is switched
/// off), and when its TCP ports are used up; those of UDP are others.
fn has_source(server: &Address) -> bool {
    let Address::Inet(address) = server else { return true };
    rustix::net::socket_with(family(server), SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::connect(socket, address))
        != Err(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener(address: &str) -> (TcpListener, Address) {
        let listener = TcpListener::bind(address).unwrap();
        let address = Address::Inet(listener.local_addr().unwrap());
        (listener, address)
    }

    fn pending(server: &Address, settings: &Settings) -> OwnedFd {
        match dial(server, settings, false) {
            Attempt::Pending(socket) => socket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_as_asked_for() {
        let (_listener, server) = listener("127.0.0.1:0");
        let plain = pending(&server, &Settings::default());
        assert!(!sockopt::socket_keepalive(&plain).unwrap() && !sockopt::tcp_nodelay(&plain).unwrap());
        let settings = Settings { keepalive: true, tcp_nodelay: true, ..Settings::default() };
        let asked = pending(&server, &settings);
        assert!(sockopt::socket_keepalive(&asked).unwrap() && sockopt::tcp_nodelay(&asked).unwrap());
    }

    #[test]
    fn buffers_are_as_large_as_asked_for() {
        let (_listener, server) = listener("127.0.0.1:0");
        let mut settings = Settings::default();
        settings.buffers.server = BufferSizes { receive: 20_000, send: 10_000 };
        let socket = pending(&server, &settings);
        // The kernel doubles them, for its own bookkeeping (socket(7)).
        assert_eq!(sockopt::socket_recv_buffer_size(&socket).unwrap(), 40_000);
        assert_eq!(sockopt::socket_send_buffer_size(&socket).unwrap(), 20_000);
    }

    #[test]
    fn the_source_is_where_connections_come_from() {
        let (listener, server) = listener("127.0.0.1:0");
        let settings = Settings { source: Some("127.0.0.9".parse().unwrap()), ..Settings::default() };
        let _sockets = [pending(&server, &settings), pending(&server, &settings)];
        for _ in 0..2 {
            assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.9");
        }
        // A machine without IPv6 has no such listener.
        let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
        let settings = Settings { source: Some("::1".parse().unwrap()), ..Settings::default() };
        let _socket = pending(&Address::Inet(listener.local_addr().unwrap()), &settings);
        listener.accept().unwrap();
    }

    #[test]
    fn a_source_that_is_not_ours_is_no_fault_of_the_servers() {
        let (_listener, server) = listener("127.0.0.1:0");
        let settings = Settings { source: Some("192.0.2.1".parse().unwrap()), ..Settings::default() };
        let Attempt::Shortage(Errno::ADDRNOTAVAIL) = dial(&server, &settings, false) else { panic!() };
        // A source of another family is for other servers.
        let settings = Settings { source: Some("2001:db8::1".parse().unwrap()), ..Settings::default() };
        pending(&server, &settings);
    }
}
