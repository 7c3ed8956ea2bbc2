//! Creates the socket of a check and begins to connect it, from the address that traffic comes from
//! (`source`): a firewall knows that one.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use pen_config::address::Address;
use pen_ipc::checks::{CheckFault, FaultClass};
use pen_ipc::text::errno_text;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::checker::schedule::Ended;
use crate::sys;

/// Whether anything is to be sent over the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Speech {
    /// Something.
    Talks,
    /// Nothing: the handshake is not acknowledged before the reset, so that a server that accepts
    /// it at once does not see it either.
    Silent,
}

/// Begins to connect.
///
/// # Errors
/// It failed already.
pub(super) fn dial(
    address: &Address,
    source: Option<IpAddr>,
    speech: Speech,
) -> Result<OwnedFd, Ended> {
    let (flags, family) = (SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, family(address));
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None);
    let socket = socket.map_err(|errno| match errno {
        Errno::AFNOSUPPORT => failure(errno),
        // Descriptors or memory ran short.
        _ => Ended::NotAsked,
    })?;
    let connected = match address {
        Address::Inet(inet) => {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            if speech == Speech::Silent {
                let _ = sockopt::set_tcp_quickack(&socket, false);
            }
            if let Some(source) = source.filter(|source| source.is_ipv4() == inet.is_ipv4()) {
                let _ = sys::bind_address_without_port(&socket);
                // `source` is wrong: that says nothing of the server.
                let bound = rustix::net::bind(&socket, &SocketAddr::new(source, 0));
                bound.map_err(|_| Ended::NotAsked)?;
            }
            rustix::net::connect(socket.as_fd(), inet)
        }
        Address::Unix(path) => SocketAddrUnix::new(path.as_path())
            .and_then(|address| rustix::net::connect(socket.as_fd(), &address)),
    };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        // The queue of a Unix socket is full.
        Err(Errno::AGAIN) if family == AddressFamily::UNIX => Err(failure(Errno::CONNREFUSED)),
        Err(errno @ Errno::ADDRNOTAVAIL) if !has_source(address) => Err(failure(errno)),
        Err(errno) => Err(fault(errno)),
    }
}

/// What a failed call on the socket of a check says.
pub(super) fn fault(errno: Errno) -> Ended {
    match errno {
        Errno::ADDRNOTAVAIL | Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::MFILE => {
            Ended::NotAsked
        }
        errno => failure(errno),
    }
}

fn failure(errno: Errno) -> Ended {
    let class = match errno {
        Errno::CONNREFUSED => FaultClass::Refused,
        Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => FaultClass::Reset,
        Errno::TIMEDOUT => FaultClass::Timeout,
        Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::AFNOSUPPORT
        | Errno::ADDRNOTAVAIL => FaultClass::Unreachable,
        // The file of a Unix socket, or a rule of this machine.
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM => {
            let text = format!("unreachable: {}", errno_text(errno.raw_os_error()));
            return Ended::Failure(CheckFault::told(FaultClass::Unreachable, 0, &text));
        }
        errno => {
            let text = errno_text(errno.raw_os_error());
            return Ended::Failure(CheckFault::told(FaultClass::Other, 0, &text));
        }
    };
    Ended::Failure(CheckFault::of(class))
}

fn family(address: &Address) -> AddressFamily {
    match address {
        Address::Inet(inet) if inet.is_ipv4() => AddressFamily::INET,
        Address::Inet(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    }
}

/// Whether this machine has an address from which it can reach a server. connect(2) returns
/// EADDRNOTAVAIL if it has none, and also if its TCP ports are used up. UDP has other ports.
fn has_source(address: &Address) -> bool {
    let Address::Inet(inet) = address else { return true };
    rustix::net::socket_with(family(address), SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::connect(socket, inet))
        != Err(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_not_there_or_not_permitted_is_told_apart() {
        for (errno, text) in [
            (Errno::NOENT, "unreachable: no such file or directory"),
            (Errno::ACCESS, "unreachable: permission denied"),
            (Errno::HOSTUNREACH, "unreachable"),
        ] {
            let Ended::Failure(why) = fault(errno) else { panic!("{errno}") };
            assert_eq!((why.class, why.to_string().as_str()), (FaultClass::Unreachable, text));
        }
    }
}
