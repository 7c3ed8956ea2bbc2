//! The listening socket: bound by the supervisor before it forks, and inherited by every worker.
//!
//! Socket options for clients' connections are set on the listener, because accepted sockets
//! inherit them.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use pen_config::address::Address;
use pen_ipc::text::error_text;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::files::made::MadeFile;

mod unix;

pub(crate) use crate::files::listener::unix::at_place;

/// The smallest backlog (`-q`).
const MIN_BACKLOG: u32 = pen_config::command::MIN_BACKLOG;

/// The listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: Option<MadeFile>,
}

/// A bound socket that does not listen yet: connections to it are refused.
#[derive(Debug)]
pub(crate) struct Reserved {
    // The path is dropped while the socket is open.
    path: Option<MadeFile>,
    socket: Socket,
    address: Address,
    sharing: Sharing,
}

/// The reason why pen cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// A step failed.
    #[error("cannot listen on {address}: {reason}{hint}", reason = error_text(.source))]
    Failed {
        /// The address of the socket.
        address: Address,
        /// The error of the system call.
        source: io::Error,
        /// Advice, if there is any.
        hint: &'static str,
    },
    /// The path exists and is no socket.
    #[error("cannot listen on {0}: a file that is no socket is in the way")]
    NoSocket(PathBuf),
}

impl ListenError {
    fn new(address: &Address, source: io::Error) -> ListenError {
        ListenError::Failed { address: address.clone(), hint: hint(address, &source), source }
    }

    fn is_in_use(&self) -> bool {
        match self {
            ListenError::Failed { source, .. } => source.raw_os_error() == Some(libc::EADDRINUSE),
            ListenError::NoSocket(_) => false,
        }
    }

    /// Whether this machine does not have the address. Another address of the same name may work
    /// then.
    fn is_not_here(&self) -> bool {
        match self {
            ListenError::Failed { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
            }
            ListenError::NoSocket(_) => false,
        }
    }
}

/// A bound listener, its address, and a notice if that is not the first address.
#[derive(Debug)]
pub(crate) struct Bound<T> {
    pub(crate) what: T,
    pub(crate) address: Address,
    pub(crate) notice: Option<String>,
}

/// Binds the first of the addresses of one name that this machine has.
///
/// # Errors
/// The first address that this machine has cannot be bound, or it has none of them.
pub(crate) fn bind_first<T>(
    addresses: &[Address],
    mut bind: impl FnMut(&Address) -> Result<T, ListenError>,
) -> Result<Bound<T>, ListenError> {
    let mut first = None;
    for address in addresses {
        match bind(address) {
            Ok(what) => {
                let notice = first
                    .map(|error: ListenError| format!("{error}; listening on {address} instead"));
                return Ok(Bound { what, address: address.clone(), notice });
            }
            Err(error) if error.is_not_here() => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or(ListenError::NoSocket(PathBuf::new())))
}

impl Listener {
    /// Binds and listens, non-blocking.
    ///
    /// # Errors
    /// The address is in use, not on this machine, or not permitted.
    pub(crate) fn bind(address: &Address, backlog: u32) -> Result<Listener, ListenError> {
        Reserved::bind(address, Sharing::WithNobody)?.listen(backlog)
    }

    /// The socket for the workers, and the file to remove at the end.
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<MadeFile>) {
        (self.socket, self.path)
    }
}

impl Reserved {
    fn bind(address: &Address, sharing: Sharing) -> Result<Reserved, ListenError> {
        let (socket, path) = match address {
            Address::Inet(inet) => {
                let bound = bind_inet(*inet, sharing);
                (bound.map_err(|source| ListenError::new(address, source))?, None)
            }
            Address::Unix(path) => unix::bind(path).map(|(socket, path)| (socket, Some(path)))?,
        };
        Ok(Reserved { socket, path, address: address.clone(), sharing })
    }

    /// Binds, non-blocking, while `old` listens, even if the two addresses overlap. The kernel
    /// regards that as a conflict unless both sockets agree to share the port. They do so only
    /// during the two system calls.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub(crate) fn bind_beside(
        address: &Address,
        old: BorrowedFd<'_>,
    ) -> Result<Reserved, ListenError> {
        match (Reserved::bind(address, Sharing::WithNobody), address) {
            (Err(error), Address::Inet(inet))
                if error.is_in_use() && port_of(old) == Some(inet.port()) =>
            {
                sharing_port(old, || Reserved::bind(address, Sharing::WithOurself))
            }
            (bound, _) => bound,
        }
    }

    /// Listens; `old` is the socket beside which this one was bound.
    ///
    /// # Errors
    /// Another process listens at the address since this socket was bound.
    pub(crate) fn listen_beside(
        self,
        backlog: u32,
        old: BorrowedFd<'_>,
    ) -> Result<Listener, ListenError> {
        match self.sharing {
            Sharing::WithNobody => self.listen(backlog),
            Sharing::WithOurself => sharing_port(old, || self.listen(backlog)),
        }
    }

    fn listen(self, backlog: u32) -> Result<Listener, ListenError> {
        let Reserved { socket, path, address, sharing } = self;
        // listen(2) checks for conflicts again.
        let listening = socket.listen(queue(backlog)).and_then(|()| match sharing {
            Sharing::WithNobody => Ok(()),
            Sharing::WithOurself => socket.set_reuse_port(false),
        });
        listening.map_err(|source| ListenError::new(&address, source))?;
        Ok(Listener { socket: socket.into(), path })
    }
}

/// Lets `old` share its port while `act` runs.
fn sharing_port<T>(old: BorrowedFd<'_>, act: impl FnOnce() -> T) -> T {
    let old = SockRef::from(&old);
    // If this fails, so does `act`.
    let _ = old.set_reuse_port(true);
    let done = act();
    let _ = old.set_reuse_port(false);
    done
}

/// Gives a passed listening socket the options of pen's own ones.
///
/// # Errors
/// The kernel refuses, for which no reason is known.
pub(crate) fn prepare_passed(socket: &OwnedFd, backlog: u32) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_nonblocking(true)?;
    if socket.domain()? != Domain::UNIX {
        socket.set_keepalive(true)?;
        socket.set_tcp_nodelay(true)?;
    }
    // On a socket that listens already, listen(2) only sets the length of the queue.
    socket.listen(queue(backlog))
}

fn port_of(socket: BorrowedFd<'_>) -> Option<u16> {
    SockRef::from(&socket).local_addr().ok()?.as_socket().map(|address| address.port())
}

/// The sockets that may share the port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sharing {
    WithNobody,
    WithOurself,
}

fn bind_inet(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), stream(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // No SO_REUSEPORT otherwise: a second pen on this port is a mistake that must fail.
    if sharing == Sharing::WithOurself {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_keepalive(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Checks whether pen could listen there, as far as possible without binding or removing anything.
///
/// # Errors
/// The directory is missing, another kind of file is there, or an untrusted user's link leads
/// there.
pub(crate) fn examine(address: &Address) -> Result<(), ListenError> {
    match address {
        Address::Inet(_) => Ok(()),
        Address::Unix(path) => unix::find(path).map(drop),
    }
}

fn stream() -> Type {
    Type::STREAM.nonblocking().cloexec()
}

fn queue(backlog: u32) -> i32 {
    i32::try_from(backlog.max(MIN_BACKLOG)).unwrap_or(i32::MAX)
}

fn hint(address: &Address, error: &io::Error) -> &'static str {
    match (address, error.raw_os_error()) {
        (Address::Inet(inet), Some(libc::EACCES)) if inet.port() < 1024 => {
            " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        }
        (_, Some(libc::EADDRINUSE)) => IN_USE,
        (_, Some(libc::EADDRNOTAVAIL)) => " (this machine has no such address)",
        (Address::Inet(SocketAddr::V6(inet)), Some(libc::EINVAL))
            if inet.ip().is_unicast_link_local() && inet.scope_id() == 0 =>
        {
            " (a link-local address needs its interface, as in [fe80::1%eth0]:80)"
        }
        (Address::Inet(inet), Some(libc::EAFNOSUPPORT)) if inet.is_ipv6() => {
            " (this machine has no IPv6)"
        }
        _ => "",
    }
}

const IN_USE: &str = " (another process, perhaps another pen, listens there)";

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::net::sockopt;

    use super::*;

    fn inet(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    fn local(socket: &OwnedFd) -> SocketAddr {
        TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap()
    }

    #[test]
    fn a_listener_has_what_clients_should_inherit() {
        let (socket, path) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        assert!(path.is_none());
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
        assert!(sockopt::socket_reuseaddr(&socket).unwrap());
        assert!(!sockopt::socket_reuseport(&socket).unwrap());
        assert!(fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
        assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
        TcpStream::connect(local(&socket)).unwrap();
    }

    #[test]
    fn the_first_address_that_is_here_is_taken() {
        let elsewhere = inet("240.0.0.1:0");
        let bind = |address: &Address| Listener::bind(address, 500);
        let bound = bind_first(&[elsewhere.clone(), inet("127.0.0.1:0")], bind).unwrap();
        assert_eq!(bound.address, inet("127.0.0.1:0"));
        let notice = bound.notice.unwrap();
        assert!(
            notice.starts_with("cannot listen on 240.0.0.1:0: ")
                && notice.ends_with("on 127.0.0.1:0 instead"),
            "{notice}"
        );
        assert!(bind_first(&[inet("127.0.0.1:0")], bind).unwrap().notice.is_none());
        // An address in use is a mistake that must fail.
        let taken = Address::Inet(local(&bound.what.into_parts().0.try_clone().unwrap()));
        let (held, _) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        assert!(bind_first(&[Address::Inet(local(&held)), taken], bind).is_err());
        let none =
            bind_first(&[elsewhere.clone(), inet("240.0.0.2:0")], bind).unwrap_err().to_string();
        assert!(none.contains("240.0.0.1"), "{none}");
    }

    #[test]
    fn a_second_listener_on_a_port_is_refused() {
        let (socket, _) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        let error = Listener::bind(&Address::Inet(local(&socket)), 500).unwrap_err().to_string();
        assert!(
            error.contains("cannot listen on 127.0.0.1:") && error.contains("address in use"),
            "{error}"
        );
        let error = Listener::bind(&inet("192.0.2.1:1"), 500).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
    }

    #[test]
    fn a_listener_can_move_between_addresses_that_overlap_and_shares_with_nobody_else() {
        // Below the ephemeral ports of the kernel, one of which could be in use.
        let first = 20_000 + std::process::id() % 10_000;
        let free =
            |port: u32| Some((port, Listener::bind(&inet(&format!("0.0.0.0:{port}")), 500).ok()?));
        let (port, listener) = (first..first + 1000).find_map(free).unwrap();
        let (mut now, _) = listener.into_parts();
        for next in
            [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("127.0.0.2:{port}")]
        {
            let reserved = Reserved::bind_beside(&inet(&next), now.as_fd()).unwrap();
            let (socket, _) = reserved.listen_beside(500, now.as_fd()).unwrap().into_parts();
            for socket in [&now, &socket] {
                assert!(!sockopt::socket_reuseport(socket).unwrap());
            }
            TcpStream::connect(local(&socket)).unwrap();
            // Another pen, even with the same user, is refused.
            assert!(Listener::bind(&inet(&next), 500).is_err());
            now = socket;
        }
        let (other, _) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        let taken = Address::Inet(local(&other));
        let error = Reserved::bind_beside(&taken, now.as_fd()).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn a_reserved_address_refuses_connections_and_can_be_lost_to_one_who_listens_first() {
        let (old, _) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        let reserve = |address: &str| Reserved::bind_beside(&inet(address), old.as_fd()).unwrap();
        let first = reserve("127.0.0.1:0");
        let address = first.socket.local_addr().unwrap().as_socket().unwrap();
        assert!(TcpStream::connect(address).is_err());
        let second = reserve(&address.to_string());
        let listener = second.listen_beside(500, old.as_fd()).unwrap();
        TcpStream::connect(address).unwrap();
        let error = first.listen_beside(500, old.as_fd()).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
        drop(listener);
    }

    #[test]
    fn all_ipv6_addresses_are_all_ipv4_addresses_too() {
        let Ok(listener) = Listener::bind(&inet("[::]:0"), 500) else {
            let test = "all_ipv6_addresses_are_all_ipv4_addresses_too";
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {test}: it needs IPv6");
            return;
        };
        let (socket, _) = listener.into_parts();
        TcpStream::connect(("127.0.0.1", local(&socket).port())).unwrap();
    }

    #[test]
    fn a_small_backlog_is_raised() {
        assert_eq!(queue(10), 50);
        assert_eq!(queue(500), 500);
        assert_eq!(queue(u32::MAX), i32::MAX);
    }
}
