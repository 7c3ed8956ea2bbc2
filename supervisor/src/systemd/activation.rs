//! Socket activation: listening sockets that a service manager made and passed (sd_listen_fds(3)).
//!
//! A passed socket is used instead of a new one if it listens at exactly the listen address, or at
//! the address of the control port or of the page. The address decides, not the socket's name. A
//! socket that fits none of them stops the start, because its clients would wait for ever. The
//! manager keeps what it made: pen never removes the file of such a socket.
//!
//! Descriptors that an earlier pen stored come the same way. Their names tell them (`store`).

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::getpid;
use pen_config::address::Address;
use pen_ipc::text::error_text;
use socket2::{Domain, SockRef, Type};

use crate::StartError;
use crate::files::listener::prepare_passed;
use crate::sys::program::Program;
use crate::sys::{adopt, take_variable};
use crate::systemd::store::Item;

/// The passed descriptors that are not used yet.
#[derive(Debug, Default)]
pub(crate) struct Activation {
    /// The sockets of socket units.
    sockets: Vec<Passed>,
    /// What an earlier pen stored.
    stored: Stored,
}

/// What an earlier pen stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) descriptors: Vec<(Item, OwnedFd)>,
    /// Names of descriptors of another release. This pen closes them.
    pub(crate) unknown: Vec<String>,
}

#[derive(Debug)]
struct Passed {
    /// `FileDescriptorName=`.
    name: String,
    address: Address,
    /// Whether an IPv6 socket takes IPv6 only.
    only_v6: bool,
    socket: OwnedFd,
}

impl Activation {
    /// Takes the sockets, and removes their variables from the environment. Call this in the
    /// process that was started, before anything is opened: the descriptors are numbered from 3.
    ///
    /// # Errors
    /// A passed descriptor is no listening stream socket.
    pub(crate) fn take() -> Result<Activation, StartError> {
        let (pid, count, names) = (
            take_variable("LISTEN_PID"),
            take_variable("LISTEN_FDS"),
            take_variable("LISTEN_FDNAMES"),
        );
        let number = |text: &OsStr| text.to_str()?.parse::<i32>().ok();
        // Variables with another pid were inherited by mistake.
        let (Some(pid), Some(count)) = (pid, count) else { return Ok(Activation::default()) };
        if number(&pid) != Some(getpid().as_raw()) {
            return Ok(Activation::default());
        }
        let count = number(&count)
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| *count <= MOST);
        let count = count.ok_or_else(|| {
            StartError(format!("LISTEN_FDS: not a number up to {MOST}, the most descriptors"))
        })?;
        let sockets = adopt(count).map_err(|error| {
            StartError(format!(
                "LISTEN_FDS={count}: not all of these descriptors are open: {}",
                error_text(&error)
            ))
        })?;
        let names = names.unwrap_or_default();
        let mut names = names.to_str().unwrap_or_default().split(':');
        let sockets = out_of_the_way(sockets)
            .map_err(|error| StartError(format!("LISTEN_FDS={count}: {}", error_text(&error))))?;
        let mut activation = Activation::default();
        for (index, socket) in sockets.into_iter().enumerate() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            if let Some(item) = Item::named(name) {
                activation.stored.descriptors.push((item, socket));
                continue;
            }
            if is_reserved(name) {
                activation.stored.unknown.push(name.into());
                continue;
            }
            activation.sockets.push(Passed::new(name.into(), socket).map_err(|reason| {
                StartError(format!(
                    "descriptor {} that was passed to pen (LISTEN_FDS): {reason}",
                    index + 3
                ))
            })?);
        }
        Ok(activation)
    }

    /// The descriptors, which must stay open.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let stored = self.stored.descriptors.iter().map(|(_, descriptor)| descriptor.as_fd());
        self.sockets.iter().map(|passed| passed.socket.as_fd()).chain(stored)
    }

    /// Takes what an earlier pen stored.
    pub(crate) fn take_stored(&mut self) -> Stored {
        std::mem::take(&mut self.stored)
    }

    /// The socket for an address, if one was passed, with the options of pen's own sockets.
    ///
    /// # Errors
    /// Its options cannot be set.
    fn claim(&mut self, address: &Address, backlog: u32) -> Result<Option<OwnedFd>, StartError> {
        let Some(found) = self.sockets.iter().position(|passed| passed.is_for(address)) else {
            return Ok(None);
        };
        let Passed { socket, .. } = self.sockets.swap_remove(found);
        prepare_passed(&socket, backlog).map_err(|error| {
            StartError(format!(
                "cannot listen on {address} with the socket passed: {}",
                error_text(&error)
            ))
        })?;
        Ok(Some(socket))
    }

    /// The socket for the first address of a name for which one was passed.
    ///
    /// # Errors
    /// As [`Activation::claim`].
    pub(crate) fn claim_first(
        &mut self,
        addresses: &[Address],
        backlog: u32,
    ) -> Result<Option<(OwnedFd, Address)>, StartError> {
        for address in addresses {
            if let Some(socket) = self.claim(address, backlog)? {
                return Ok(Some((socket, address.clone())));
            }
        }
        Ok(None)
    }

    /// Checks that no socket is left over.
    ///
    /// # Errors
    /// A socket is left over.
    pub(crate) fn all_claimed(&self, listen: &Address) -> Result<(), StartError> {
        self.sockets.first().map_or(Ok(()), |Passed { name, address, .. }| {
            Err(StartError(format!(
                "the socket {address} that was passed to pen (LISTEN_FDS, name {name}) is neither \
                 where pen listens \
                 ({listen}) nor its control port nor its page: ListenStream= and pen must name the \
                 same address"
            )))
        })
    }
}

/// A notice about a passed control port: its file decides who may connect, and pen does not change
/// that.
pub(crate) fn too_open(address: &Address) -> Option<String> {
    let Address::Unix(path) = address else { return None };
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o002 != 0).then(|| {
        format!(
            "-C {}: everybody on this machine can steer pen: add SocketMode=0600 and SocketUser= \
             to the socket unit",
            path.display()
        )
    })
}

impl Passed {
    fn new(name: String, socket: OwnedFd) -> Result<Passed, String> {
        let at = |error: io::Error| error_text(&error);
        let look = SockRef::from(&socket);
        let is_stream = look.r#type().map_err(at)? == Type::STREAM;
        if !is_stream || !look.is_listener().map_err(at)? {
            return Err("no listening stream socket (it takes ListenStream= and Accept=no)".into());
        }
        let local = look.local_addr().map_err(at)?;
        let only_v6 = look.domain().map_err(at)? == Domain::IPV6 && look.only_v6().map_err(at)?;
        let address = match (local.as_socket(), local.as_pathname()) {
            (Some(inet), _) => Address::Inet(inet),
            (None, Some(path)) => Address::Unix(path.into()),
            (None, None) => return Err("neither TCP nor a Unix socket with a path".into()),
        };
        Ok(Passed { name, address, only_v6, socket })
    }

    /// Whether it accepts exactly the clients that pen's own socket at this address would. A socket
    /// for all IPv6 and IPv4 addresses is also right for all IPv4 addresses: `ListenStream=80`
    /// means both.
    fn is_for(&self, wanted: &Address) -> bool {
        match (&self.address, wanted) {
            (Address::Inet(here), Address::Inet(wanted)) if here.port() == wanted.port() => {
                let all = here.ip() == Ipv6Addr::UNSPECIFIED && !self.only_v6;
                match wanted.ip().is_unspecified() {
                    true if wanted.is_ipv4() => all || here.ip() == wanted.ip(),
                    true => all,
                    false => {
                        here.ip().to_canonical() == wanted.ip().to_canonical()
                            && same_scope(here, wanted)
                    }
                }
            }
            (Address::Unix(here), Address::Unix(wanted)) => {
                here == wanted || same_file(here, wanted)
            }
            (Address::Inet(_) | Address::Unix(_), _) => false,
        }
    }
}

/// Whether only pen gives such a name to a descriptor. Sockets of a socket unit have the name of
/// the unit, unless it gives them another one.
fn is_reserved(name: &str) -> bool {
    name.starts_with("pen-") && !name.ends_with(".socket")
}

/// The same link-local address is another one on each interface.
fn same_scope(here: &SocketAddr, wanted: &SocketAddr) -> bool {
    match (here, wanted) {
        (SocketAddr::V6(here), SocketAddr::V6(wanted)) => {
            wanted.scope_id() == 0 || here.scope_id() == wanted.scope_id()
        }
        _ => true,
    }
}

/// Whether two paths lead to one file (`/var/run` and `/run`).
fn same_file(here: &Path, wanted: &Path) -> bool {
    let file_id =
        |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    file_id(here).is_some_and(|here| file_id(wanted) == Some(here))
}

/// Moves descriptors away from the numbers of programs.
///
/// # Errors
/// No descriptors left.
fn out_of_the_way(passed: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let is_in_the_way = |descriptor: &OwnedFd| {
        [Program::Running, Program::Successor]
            .map(Program::descriptor)
            .contains(&descriptor.as_raw_fd())
    };
    // Open until the end, so that no duplicate gets the number of another one.
    let mut taken = Vec::new();
    let mut placed = Vec::new();
    for mut descriptor in passed {
        while is_in_the_way(&descriptor) {
            let copy = descriptor.try_clone()?;
            taken.push(std::mem::replace(&mut descriptor, copy));
        }
        placed.push(descriptor);
    }
    Ok(placed)
}

/// Most descriptors: a full store of the unit and some sockets are far fewer.
const MOST: u32 = 100;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn passed(address: &str, only_v6: bool) -> Passed {
        let address = Address::Inet(address.parse().unwrap());
        Passed {
            name: "web".into(),
            address,
            only_v6,
            socket: fs::File::open("/dev/null").unwrap().into(),
        }
    }

    #[test]
    fn a_socket_is_for_the_clients_that_it_takes() {
        let is_for = |here: &str, only_v6: bool, wanted: &str| {
            passed(here, only_v6).is_for(&Address::Inet(wanted.parse().unwrap()))
        };
        assert!(is_for("127.0.0.1:80", false, "127.0.0.1:80"));
        assert!(!is_for("127.0.0.1:80", false, "127.0.0.1:81"));
        assert!(!is_for("127.0.0.1:80", false, "127.0.0.2:80"));
        assert!(
            !is_for("127.0.0.1:80", false, "0.0.0.0:80")
                && !is_for("0.0.0.0:80", false, "127.0.0.1:80")
        );
        assert!(is_for("0.0.0.0:80", false, "0.0.0.0:80"));
        assert!(is_for("[::]:80", false, "0.0.0.0:80") && is_for("[::]:80", false, "[::]:80"));
        assert!(!is_for("[::]:80", true, "0.0.0.0:80") && !is_for("[::]:80", true, "[::]:80"));
        assert!(!is_for("0.0.0.0:80", false, "[::]:80"));
        assert!(is_for("[::ffff:10.0.0.1]:80", false, "10.0.0.1:80"));
        assert!(
            is_for("[fe80::1%2]:80", true, "[fe80::1%2]:80")
                && !is_for("[fe80::1%2]:80", true, "[fe80::1%3]:80")
        );
    }

    #[test]
    fn a_path_may_be_written_in_several_ways() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let listener = UnixListener::bind(real.join("front")).unwrap();
        let passed = Passed::new("front".into(), listener.into()).unwrap();
        assert!(
            passed.is_for(&Address::Unix(real.join("front")))
                && passed.is_for(&Address::Unix(link.join("front")))
        );
        assert!(!passed.is_for(&Address::Unix(real.join("other"))));
        assert!(!passed.is_for(&Address::Inet(([127, 0, 0, 1], 80).into())));
    }

    #[test]
    fn only_listening_stream_sockets_are_taken() {
        let refused = |socket: OwnedFd| Passed::new("x".into(), socket).unwrap_err();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(refused(client.into()).contains("Accept=no"));
        assert!(refused(UdpSocket::bind("127.0.0.1:0").unwrap().into()).contains("ListenStream="));
        assert!(refused(fs::File::open("/dev/null").unwrap().into()).contains("socket"));
        assert!(Passed::new("x".into(), listener.into()).is_ok());
    }

    #[test]
    fn only_names_of_units_may_begin_as_those_of_pen() {
        assert!(is_reserved("pen-later"));
        assert!(!is_reserved("pen-web.socket") && !is_reserved("pen.socket"));
        assert!(!is_reserved("web"));
    }

    #[test]
    fn what_is_left_over_is_said_and_what_is_claimed_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Inet(listener.local_addr().unwrap());
        let mut activation = Activation {
            sockets: vec![Passed::new("web".into(), listener.into()).unwrap()],
            stored: Stored::default(),
        };
        let other = Address::Unix("/front".into());
        assert!(activation.claim(&other, 500).unwrap().is_none());
        let why = activation.all_claimed(&other).unwrap_err().to_string();
        assert!(
            why.contains(&address.to_string())
                && why.contains("name web")
                && why.contains("/front"),
            "{why}"
        );
        let socket = activation.claim(&address, 500).unwrap().unwrap();
        assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::net::sockopt::tcp_nodelay(&socket).unwrap());
        activation.all_claimed(&other).unwrap();
    }
}
