//! The listening socket: bound by the supervisor before anything is forked, inherited by every worker.
//!
//! What clients' sockets should have is set on the listener, because accepted sockets inherit it.

#![forbid(unsafe_code)]

use std::fs::{self, Metadata};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pen_contract::address::Address;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::why::why;

/// Smallest backlog (`-q`).
pub(crate) const MIN_BACKLOG: u32 = 50;

/// The listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: Option<SocketPath>,
}

/// Why pen cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// A step failed.
    #[error("cannot listen on {address}: {reason}{hint}", reason = why(.source))]
    Failed {
        /// On what.
        address: Address,
        /// Why.
        source: io::Error,
        /// What to do, if it is known.
        hint: &'static str,
    },
    /// Something is at the path that is no socket.
    #[error("cannot listen on {0}: a file that is no socket is in the way")]
    NoSocket(PathBuf),
}

impl Listener {
    /// Binds and listens, non-blocking.
    ///
    /// # Errors
    /// The address is taken, not ours, or not permitted.
    pub(crate) fn bind(address: &Address, backlog: u32) -> Result<Listener, ListenError> {
        let failed = |source| ListenError::Failed { address: address.clone(), hint: hint(address, &source), source };
        match address {
            Address::Inet(inet) => {
                let socket = bind_inet(*inet, backlog).map_err(failed)?;
                Ok(Listener { socket: socket.into(), path: None })
            }
            Address::Unix(path) => {
                remove_if_dead(path)?;
                let (socket, path) = bind_unix(path, backlog).map_err(failed)?;
                Ok(Listener { socket: socket.into(), path: Some(path) })
            }
        }
    }

    /// The socket for the workers, and the file that has to be removed in the end.
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<SocketPath>) {
        (self.socket, self.path)
    }
}

fn bind_inet(address: SocketAddr, backlog: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), stream(), Some(Protocol::TCP))?;
    // Not SO_REUSEPORT: a second pen on this port is a mistake, and a mistake is to be told.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_keepalive(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(queue(backlog))?;
    Ok(socket)
}

fn bind_unix(path: &Path, backlog: u32) -> io::Result<(Socket, SocketPath)> {
    let socket = Socket::new(Domain::UNIX, stream(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let path = SocketPath::new(path)?;
    socket.listen(queue(backlog))?;
    Ok((socket, path))
}

/// A socket that nobody answers on is what a killed process left behind.
fn remove_if_dead(path: &Path) -> Result<(), ListenError> {
    let failed = |source, hint| ListenError::Failed { address: Address::Unix(path.into()), source, hint };
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NoSocket(path.into()));
    }
    let probe = |source| failed(source, " (while asking the socket there whether anybody answers)");
    let socket = Socket::new(Domain::UNIX, stream(), None).map_err(probe)?;
    match SockAddr::unix(path).and_then(|address| socket.connect(&address)) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A full queue (EAGAIN) and a socket of another type (EPROTOTYPE) are answers as well.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(probe(error)),
        _ => return Err(failed(io::Error::from_raw_os_error(libc::EADDRINUSE), IN_USE)),
    }
    // Another pen may have replaced it meanwhile: its socket is not to be removed.
    match fs::symlink_metadata(path) {
        Ok(now) if place(&now) == place(&found) && changed(&now) == changed(&found) => {
            fs::remove_file(path).map_err(|error| failed(error, " (while removing a socket that nobody answers on)"))
        }
        _ => Ok(()),
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
        (Address::Inet(inet), Some(libc::EAFNOSUPPORT)) if inet.is_ipv6() => " (this machine has no IPv6)",
        _ => "",
    }
}

const IN_USE: &str = " (another process, perhaps another pen, listens there)";

/// The file of a Unix listener, removed when this is dropped by the process that made it, if it is still the same file.
/// Drop it while the socket is still open: until then no other file can have its number.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    place: (u64, u64),
    maker: u32,
}

impl SocketPath {
    fn new(path: &Path) -> io::Result<SocketPath> {
        let place = place(&fs::symlink_metadata(path)?);
        Ok(SocketPath { path: path.into(), place, maker: std::process::id() })
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let ours = || fs::symlink_metadata(&self.path).is_ok_and(|now| place(&now) == self.place);
        if self.maker == std::process::id() && ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Which file it is, as long as it exists.
fn place(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Tells a file from a later one that was given the number of the first.
fn changed(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

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
    fn a_second_listener_on_a_port_is_refused() {
        let (socket, _) = Listener::bind(&inet("127.0.0.1:0"), 500).unwrap().into_parts();
        let error = Listener::bind(&Address::Inet(local(&socket)), 500).unwrap_err().to_string();
        assert!(error.contains("cannot listen on 127.0.0.1:") && error.contains("address in use"), "{error}");
        let error = Listener::bind(&inet("192.0.2.1:1"), 500).unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
    }

    #[test]
    fn all_ipv6_addresses_are_all_ipv4_addresses_too() {
        let Ok(listener) = Listener::bind(&inet("[::]:0"), 500) else { return };
        let (socket, _) = listener.into_parts();
        TcpStream::connect(("127.0.0.1", local(&socket).port())).unwrap();
    }

    #[test]
    fn a_dead_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, guard) = Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
        UnixStream::connect(&path).unwrap();
        let error = Listener::bind(&Address::Unix(path.clone()), 500).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn any_other_file_in_the_way_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&file, &link, &directory.path().to_path_buf()] {
            assert!(matches!(Listener::bind(&Address::Unix(path.clone()), 500), Err(ListenError::NoSocket(_))));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front.sock");
        let (socket, guard) = Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
        drop(socket);
        fs::rename(&path, directory.path().join("old")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(guard);
        assert!(path.exists());
    }

    #[test]
    fn a_small_backlog_is_raised() {
        assert_eq!(queue(10), 50);
        assert_eq!(queue(500), 500);
        assert_eq!(queue(u32::MAX), i32::MAX);
    }
}
