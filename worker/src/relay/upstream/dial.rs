//! Creates the socket to a server, with the options of the settings, and begins to connect it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use pen_config::address::Address;
use pen_config::settings::{BufferSizes, Settings};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::relay::upstream::fault::{Call, Fault, Way, classify};
use crate::sys;

/// The result of beginning an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// connect(2) is under way.
    Pending(OwnedFd),
    /// The attempt failed.
    Failed(Fault, Errno),
}

/// Begins to connect to a server. If data waits to be sent (`will_send`), the data also
/// acknowledges the server's part of the handshake. Both sides save a segment, and the server's
/// accept(2) finds the request. The first read must undo this option (`withholds_acks` of an end).
pub fn dial(server: &Address, settings: &Settings, will_send: bool) -> Attempt {
    let source = match server {
        Address::Inet(address) => source_for(*address, settings.source),
        Address::Unix(_) => None,
    };
    let way = way(server, settings);
    let failed = |call, errno| Attempt::Failed(classify(call, way, errno), errno);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = match rustix::net::socket_with(family(server), SocketType::STREAM, flags, None) {
        Ok(socket) => socket,
        Err(errno) => return failed(Call::Socket, errno),
    };
    if let Err((call, errno)) = prepare(&socket, server, source, settings) {
        return failed(call, errno);
    }
    if will_send && let Address::Inet(_) = server {
        let _ = sockopt::set_tcp_quickack(&socket, false);
    }
    let result = match server {
        Address::Inet(address) => rustix::net::connect(socket.as_fd(), address),
        Address::Unix(path) => SocketAddrUnix::new(path.as_path())
            .and_then(|address| rustix::net::connect(socket.as_fd(), &address)),
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Attempt::Pending(socket),
        Err(errno @ Errno::ADDRNOTAVAIL) if source.is_none() && !has_source(server) => {
            Attempt::Failed(Fault::Server, errno)
        }
        Err(errno) => failed(Call::Connect, errno),
    }
}

/// How a server is connected to.
pub fn way(server: &Address, settings: &Settings) -> Way {
    match server {
        Address::Unix(_) => Way::Unix,
        Address::Inet(address) if source_for(*address, settings.source).is_some() => Way::IpFrom,
        Address::Inet(_) => Way::Ip,
    }
}

fn family(server: &Address) -> AddressFamily {
    match server {
        Address::Inet(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Inet(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    }
}

/// The local address towards a server, if one is set and of the server's family. The kernel chooses
/// the port.
fn source_for(server: SocketAddr, source: Option<IpAddr>) -> Option<SocketAddr> {
    source
        .filter(|source| source.is_ipv4() == server.is_ipv4())
        .map(|source| SocketAddr::new(source, 0))
}

/// Sets the socket options of the settings. With the defaults there are none, and no cost.
fn prepare(
    socket: &OwnedFd,
    server: &Address,
    source: Option<SocketAddr>,
    settings: &Settings,
) -> Result<(), (Call, Errno)> {
    if let Address::Unix(_) = server {
        return Ok(());
    }
    let option = |errno| (Call::Option, errno);
    if settings.keepalive {
        sockopt::set_socket_keepalive(socket, true).map_err(option)?;
    }
    if settings.tcp_nodelay {
        sockopt::set_tcp_nodelay(socket, true).map_err(option)?;
    }
    if settings.buffers.server != BufferSizes::default() {
        // Set before the handshake, which fixes the scale of the receive window.
        sys::set_buffers(socket, settings.buffers.server).map_err(option)?;
    }
    match source {
        Some(source) => {
            // Otherwise bind(2) would take a port that no other connection can use, to any server.
            // A kernel before 4.2 does not know the option and behaves like that.
            let _ = sys::bind_address_without_port(socket);
            rustix::net::bind(socket, &source).map_err(|errno| (Call::Bind, errno))
        }
        None => Ok(()),
    }
}

/// Whether this machine has an address from which it can reach a server. connect(2) returns
/// EADDRNOTAVAIL if it has none (IPv6 is off), and also if its TCP ports are used up. UDP has other
/// ports, so it tells the two cases apart.
fn has_source(server: &Address) -> bool {
    let Address::Inet(address) = server else { return true };
    rustix::net::socket_with(family(server), SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::connect(socket, address))
        != Err(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use pen_ipc::message::Obstacle;

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
        assert!(
            !sockopt::socket_keepalive(&plain).unwrap() && !sockopt::tcp_nodelay(&plain).unwrap()
        );
        let settings = Settings { keepalive: true, tcp_nodelay: true, ..Settings::default() };
        let asked = pending(&server, &settings);
        assert!(
            sockopt::socket_keepalive(&asked).unwrap() && sockopt::tcp_nodelay(&asked).unwrap()
        );
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
        let settings =
            Settings { source: Some("127.0.0.9".parse().unwrap()), ..Settings::default() };
        let _sockets = [pending(&server, &settings), pending(&server, &settings)];
        for _ in 0..2 {
            assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.9");
        }
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            let test = "the_source_is_where_connections_come_from";
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {test}: it needs IPv6");
            return;
        };
        let settings = Settings { source: Some("::1".parse().unwrap()), ..Settings::default() };
        let _socket = pending(&Address::Inet(listener.local_addr().unwrap()), &settings);
        listener.accept().unwrap();
    }

    #[test]
    fn a_source_that_is_not_ours_is_no_fault_of_the_servers() {
        let (_listener, server) = listener("127.0.0.1:0");
        let settings =
            Settings { source: Some("192.0.2.1".parse().unwrap()), ..Settings::default() };
        let Attempt::Failed(fault, Errno::ADDRNOTAVAIL) = dial(&server, &settings, false) else {
            panic!()
        };
        assert_eq!(fault, Fault::Obstacle(Obstacle::Source));
        // A source of another family is for other servers.
        let settings =
            Settings { source: Some("2001:db8::1".parse().unwrap()), ..Settings::default() };
        pending(&server, &settings);
    }
}
