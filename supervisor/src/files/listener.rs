//! The listening socket: bound by the supervisor before it forks, and inherited by every worker.
//!
//! Socket options for clients' connections are set on the listener, because accepted sockets
//! inherit them.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchdir, geteuid};
use pen_config::address::Address;
use pen_walk::Entry;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::jail::user::acting_as;
use crate::log::errno::why;

/// The smallest backlog (`-q`).
const MIN_BACKLOG: u32 = pen_config::command::MIN_BACKLOG;

/// The listener.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: Option<SocketPath>,
}

/// The reason why pen cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// A step failed.
    #[error("cannot listen on {address}: {reason}{hint}", reason = why(.source))]
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
        let failed = |source| ListenError::Failed {
            address: address.clone(),
            hint: hint(address, &source),
            source,
        };
        match address {
            Address::Inet(inet) => {
                let socket = bind_inet(*inet, backlog, Sharing::WithNobody).map_err(failed)?;
                Ok(Listener { socket: socket.into(), path: None })
            }
            Address::Unix(path) => {
                let entry = remove_if_dead(path)?;
                let (socket, path) = bind_unix(path, entry, backlog).map_err(failed)?;
                Ok(Listener { socket: socket.into(), path: Some(path) })
            }
        }
    }

    /// Binds and listens at a path that belongs to this user and group, and to which nobody else
    /// can connect.
    ///
    /// # Errors
    /// As [`Listener::bind`], or the owner of the file cannot be changed.
    pub(crate) fn bind_private(
        address: &Address,
        backlog: u32,
        user: Uid,
        group: Gid,
    ) -> Result<Listener, ListenError> {
        // The file must never exist with another mode, not even for a moment. There is one thread.
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        // Without CAP_CHOWN, the file is made as the user, if the user may write the directory.
        // Then its owner need not change.
        let may_give =
            || caps::has_cap(None, CapSet::Effective, Capability::CAP_CHOWN).unwrap_or(true);
        let bound = if geteuid().is_root() && !user.is_root() && !may_give() {
            let failed =
                |source| ListenError::Failed { address: address.clone(), source, hint: AS_USER };
            match acting_as(user, group, || Listener::bind(address, backlog)).map_err(failed) {
                Ok(Err(ListenError::Failed { source, .. }))
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Err(failed(source))
                }
                other => other.and_then(|bound| bound),
            }
        } else {
            Listener::bind(address, backlog)
        };
        umask(before);
        let bound = bound?;
        if let Some(path) = &bound.path {
            path.give_to(user, group).map_err(|source| ListenError::Failed {
                address: address.clone(),
                source,
                hint: " (while giving the socket to the user of -u)",
            })?;
        }
        Ok(bound)
    }

    /// Binds and listens while `old` still listens, even if the two addresses overlap. The kernel
    /// regards that as a conflict unless both sockets agree to share the port. They do so only
    /// during the bind.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub(crate) fn bind_beside(
        address: &Address,
        backlog: u32,
        old: BorrowedFd<'_>,
    ) -> Result<Listener, ListenError> {
        let taken = match (Listener::bind(address, backlog), address) {
            (Err(ListenError::Failed { source, hint, .. }), Address::Inet(inet))
                if source.raw_os_error() == Some(libc::EADDRINUSE)
                    && port_of(old) == Some(inet.port()) =>
            {
                (*inet, hint)
            }
            (other, _) => return other,
        };
        let (inet, hint) = taken;
        let old = SockRef::from(&old);
        let shared =
            old.set_reuse_port(true).and_then(|()| bind_inet(inet, backlog, Sharing::WithOurself));
        let _ = old.set_reuse_port(false);
        let socket = shared.map_err(|source| ListenError::Failed {
            address: address.clone(),
            source,
            hint,
        })?;
        Ok(Listener { socket: socket.into(), path: None })
    }

    /// The socket for the workers, and the file to remove at the end.
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<SocketPath>) {
        (self.socket, self.path)
    }
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

fn bind_inet(address: SocketAddr, backlog: u32, sharing: Sharing) -> io::Result<Socket> {
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
    // listen(2) checks for conflicts again.
    socket.listen(queue(backlog))?;
    if sharing == Sharing::WithOurself {
        socket.set_reuse_port(false)?;
    }
    Ok(socket)
}

fn bind_unix(path: &Path, entry: Entry, backlog: u32) -> io::Result<(Socket, SocketPath)> {
    let socket = Socket::new(Domain::UNIX, stream(), None)?;
    at_place(path, &entry, |path| socket.bind(&SockAddr::unix(path)?))?;
    let path = SocketPath::new(entry)?;
    socket.listen(queue(backlog))?;
    Ok((socket, path))
}

/// Calls `act` with a path that leads to this entry only. If only trusted users can change the path
/// as given, that path is used; `ss -xl` then shows it. If not, it is the name alone, relative to
/// the entry's directory. There is one thread.
fn at_place<T>(
    path: &Path,
    entry: &Entry,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    if entry.is_fixed() {
        return act(path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(".", flags, rustix::fs::Mode::empty())?;
    fchdir(entry.directory())?;
    let done = act(entry.name());
    fchdir(&before)?;
    done
}

/// Finds the directory entry of a socket. An entry of another type is an error.
fn find(path: &Path) -> Result<(Entry, Option<Stat>), ListenError> {
    let failed =
        |source| ListenError::Failed { address: Address::Unix(path.into()), source, hint: "" };
    let entry = Entry::find(path).map_err(failed)?;
    match entry.stat() {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Socket => {
            Ok((entry, Some(found)))
        }
        Ok(_) => Err(ListenError::NoSocket(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((entry, None)),
        Err(error) => Err(failed(error)),
    }
}

/// Checks whether pen could listen there, as far as possible without binding or removing anything.
///
/// # Errors
/// The directory is missing, another kind of file is there, or an untrusted user's link leads
/// there.
pub(crate) fn examine(address: &Address) -> Result<(), ListenError> {
    match address {
        Address::Inet(_) => Ok(()),
        Address::Unix(path) => find(path).map(drop),
    }
}

/// Removes the file of a socket if it is still this one (device and number).
///
/// # Errors
/// It is gone, or another file is there.
pub(crate) fn remove(path: &Path, was: (u64, u64)) -> io::Result<()> {
    let entry = Entry::find(path)?;
    let there = entry.stat()?;
    match FileType::from_raw_mode(there.st_mode) == FileType::Socket && file_id(&there) == was {
        true => entry.remove(),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Removes a socket that nobody answers on: a killed process left it.
fn remove_if_dead(path: &Path) -> Result<Entry, ListenError> {
    let failed =
        |source, hint| ListenError::Failed { address: Address::Unix(path.into()), source, hint };
    let (entry, found) = find(path)?;
    let Some(found) = found else { return Ok(entry) };
    let probe = |source| failed(source, " (while asking the socket there whether anybody answers)");
    let socket = Socket::new(Domain::UNIX, stream(), None).map_err(probe)?;
    match at_place(path, &entry, |path| socket.connect(&SockAddr::unix(path)?)) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(entry),
        // A full queue (EAGAIN) and a socket of another type (EPROTOTYPE) also mean that the socket
        // is in use.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(probe(error)),
        _ => return Err(failed(io::Error::from_raw_os_error(libc::EADDRINUSE), IN_USE)),
    }
    // Another pen may have replaced the socket meanwhile; that one must stay. The time
    // distinguishes the old file from a later one with the same inode number.
    match entry.stat() {
        Ok(now)
            if file_id(&now) == file_id(&found)
                && (now.st_ctime, now.st_ctime_nsec) == (found.st_ctime, found.st_ctime_nsec) =>
        {
            entry.remove().map_err(|error| {
                failed(error, " (while removing a socket that nobody answers on)")
            })?;
        }
        _ => {}
    }
    Ok(entry)
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

const AS_USER: &str =
    " (without CAP_CHOWN the user of -u has to be allowed to make files in that directory)";

const IN_USE: &str = " (another process, perhaps another pen, listens there)";

/// The file of a Unix listener. It is removed when the process that made it drops this, if it is
/// still the same file. Drop it while the socket is open: until then no other file can have its
/// inode number.
#[derive(Debug)]
pub(crate) struct SocketPath {
    entry: Entry,
    file_id: (u64, u64),
    maker: u32,
}

impl SocketPath {
    fn new(entry: Entry) -> io::Result<SocketPath> {
        let file_id = file_id(&entry.stat()?);
        Ok(SocketPath { entry, file_id, maker: std::process::id() })
    }

    /// Device and inode number of the file.
    pub(crate) fn file_id(&self) -> (u64, u64) {
        self.file_id
    }

    /// Changes the owner of the file. Users who may write the directory may have put another file
    /// there: it is left alone.
    fn give_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        let file = self.entry.open(OFlags::PATH, 0)?;
        let there = fstat(&file)?;
        let is_socket = FileType::from_raw_mode(there.st_mode) == FileType::Socket;
        if file_id(&there) != self.file_id || !is_socket || there.st_nlink != 1 {
            return Err(io::Error::other("the socket was replaced"));
        }
        if (there.st_uid, there.st_gid) == (user.as_raw(), group.as_raw()) {
            return Ok(());
        }
        let (user, group) =
            (rustix::fs::Uid::from_raw(user.as_raw()), rustix::fs::Gid::from_raw(group.as_raw()));
        Ok(rustix::fs::chownat(&file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let ours = || self.entry.stat().is_ok_and(|now| file_id(&now) == self.file_id);
        if self.maker == std::process::id() && ours() {
            let _ = self.entry.remove();
        }
    }
}

/// Device and inode number, which identify a file as long as it exists.
fn file_id(file: &Stat) -> (u64, u64) {
    (file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
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
            let (socket, _) =
                Listener::bind_beside(&inet(&next), 500, now.as_fd()).unwrap().into_parts();
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
        let error = Listener::bind_beside(&taken, 500, now.as_fd()).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
    }

    #[test]
    fn a_private_socket_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (user, group) = match nix::unistd::geteuid().is_root() {
            true => (Uid::from_raw(65534), Gid::from_raw(65534)),
            false => (nix::unistd::geteuid(), nix::unistd::getegid()),
        };
        let _listener =
            Listener::bind_private(&Address::Unix(path.clone()), 64, user, group).unwrap();
        let there = fs::symlink_metadata(&path).unwrap();
        assert_eq!((there.uid(), there.gid()), (user.as_raw(), group.as_raw()));
        assert_eq!(there.mode() & 0o777, 0o600);
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
        let (_socket, guard) =
            Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
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
            assert!(matches!(
                Listener::bind(&Address::Unix(path.clone()), 500),
                Err(ListenError::NoSocket(_))
            ));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front.sock");
        let (socket, guard) =
            Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
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
