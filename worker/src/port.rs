//! The listening socket of a process that serves a port of its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use pen_config::ids::ClientKey;
use pen_ipc::start::Begins;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::sockopt::set_socket_linger;

/// How long accepting pauses after a shortage.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket, and whether clients are accepted at it.
#[derive(Debug)]
pub struct Port {
    listener: OwnedFd,
    token: Token,
    begins: Begins,
    /// When to accept again although no event will tell.
    again: Option<Instant>,
}

/// A client that was accepted. One of a Unix socket has no address.
#[derive(Debug)]
pub struct Arrival {
    /// Its socket, non-blocking.
    pub socket: OwnedFd,
    /// Its address.
    pub address: Option<ClientKey>,
}

/// Why no more clients are accepted for now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// None waits.
    Empty,
    /// So many were accepted as are accepted at once.
    Enough,
    /// No descriptors or memory are left.
    Short,
}

impl Port {
    /// The port, watched with this token if it accepts at once.
    ///
    /// # Errors
    /// No memory left.
    pub fn new(listener: OwnedFd, token: Token, begins: Begins, poll: &Poll) -> io::Result<Port> {
        let port = Port { listener, token, begins, again: None };
        match begins {
            Begins::AtOnce => port.watch(poll)?,
            Begins::OnOrder => {}
        }
        Ok(port)
    }

    /// Accepts from now on. A client that waits already is an event of the listener.
    ///
    /// # Errors
    /// No memory left.
    pub fn begin(&mut self, poll: &Poll) -> io::Result<()> {
        match self.begins {
            Begins::AtOnce => Ok(()),
            Begins::OnOrder => {
                self.watch(poll)?;
                self.begins = Begins::AtOnce;
                Ok(())
            }
        }
    }

    /// Accepts nobody for now.
    pub fn pause(&mut self, poll: &Poll) {
        match self.begins {
            Begins::OnOrder => {}
            Begins::AtOnce => {
                // A failure only lets clients in that are refused later.
                let _ = poll.registry().deregister(&mut SourceFd(&self.listener.as_raw_fd()));
                (self.begins, self.again) = (Begins::OnOrder, None);
            }
        }
    }

    /// When to accept again although no event will tell.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Accepts at most `most` clients that wait. While it is paused, it accepts none: an event of
    /// the listener can be older than the pause.
    pub fn accept(&mut self, most: usize, now: Instant) -> (Vec<Arrival>, Stop) {
        self.again = None;
        let mut arrivals = Vec::new();
        match self.begins {
            Begins::AtOnce => {}
            Begins::OnOrder => return (arrivals, Stop::Empty),
        }
        while arrivals.len() < most {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(&self.listener, flags) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let address = peer.map(ClientKey::from_peer);
                    arrivals.push(Arrival { socket, address });
                }
                Err(Errno::AGAIN) => return (arrivals, Stop::Empty),
                // The client has gone, or a signal came. The next client may be there (accept(2)).
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PERM | Errno::PROTO) => {}
                Err(_) => {
                    self.again = Some(now + SHORTAGE_PAUSE);
                    return (arrivals, Stop::Short);
                }
            }
        }
        self.again = Some(now);
        (arrivals, Stop::Enough)
    }

    fn watch(&self, poll: &Poll) -> io::Result<()> {
        let listener = self.listener.as_raw_fd();
        poll.registry().register(&mut SourceFd(&listener), self.token, Interest::READABLE)
    }
}

/// Makes the close of a TCP connection a reset. An end of file would look like the end of what was
/// asked for, and to an operator, an end of file without a byte means success.
pub fn reset(socket: &OwnedFd) {
    // Without the option, the close is an ordinary one.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn one_that_waits_since_before_a_pause_is_accepted_after_it() {
        let poll = Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut port = Port::new(listener.into(), Token(1), Begins::AtOnce, &poll).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let now = Instant::now();
        port.pause(&poll);
        let (arrivals, stop) = port.accept(9, now);
        assert_eq!((arrivals.len(), stop, port.due()), (0, Stop::Empty, None));
        port.begin(&poll).unwrap();
        let (arrivals, stop) = port.accept(9, now);
        assert_eq!((arrivals.len(), stop), (1, Stop::Empty));
    }
}
