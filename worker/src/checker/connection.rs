//! The connection of a check: a socket, TLS over it if the kind has it, and what waits to be sent.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use pen_ipc::checks::{CheckFault, FaultClass};
use pen_ipc::server_tls::TlsFault;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use rustls::ClientConnection;

use crate::checker::dial::fault;
use crate::checker::schedule::Ended;
use crate::tls::servers;

/// A connection that is there.
pub(super) struct Connection {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// What waits to be sent below TLS: a PROXY header, or all without TLS.
    out: Vec<u8>,
    /// Bytes that came, TLS included.
    came: usize,
}

/// What came of reading.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Came {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end: the server sends no more.
    End,
}

/// Most bytes of one connection, with those of TLS: a server that sends more never ends.
const MOST: usize = 256 << 10;

/// The socket for the TLS library.
struct Socket(OwnedFd);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, buffer, RecvFlags::empty()).map(|(length, _)| length)?)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    /// A connection over a connected socket. `header` goes first, below TLS.
    pub(super) fn new(socket: OwnedFd, header: &[u8]) -> Connection {
        Connection { socket: Socket(socket), tls: None, out: header.to_vec(), came: 0 }
    }

    /// Begins a handshake.
    pub(super) fn begin_tls(&mut self, client: ClientConnection) {
        self.tls = Some(Box::new(client));
    }

    /// Whether a handshake is under way.
    pub(super) fn is_shaking_hands(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Queues bytes.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            // It has no limit for what is short.
            Some(tls) => drop(tls.writer().write_all(bytes)),
            None => self.out.extend_from_slice(bytes),
        }
    }

    /// Sends what waits, as far as the socket takes it. Returns whether all is sent.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) fn flush(&mut self) -> Result<bool, Ended> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(true)
    }

    /// Reads what has come, once. With TLS, bytes of a handshake are [`Came::Bytes`] of length 0.
    ///
    /// # Errors
    /// The connection is gone, or what came is no TLS.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Came, Ended> {
        let Some(tls) = &mut self.tls else {
            return match self.socket.read(buffer) {
                Ok(0) => Ok(Came::End),
                Ok(length) => self.count(length),
                Err(error) => nothing(&error),
            };
        };
        match tls.reader().read(buffer) {
            Ok(0) => return Ok(Came::End),
            Ok(length) => return Ok(Came::Bytes(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The server closed the connection without saying so in TLS.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Came::End),
            Err(error) => return Err(failed(&error)),
        }
        let length = match tls.read_tls(&mut self.socket) {
            Ok(length) => length,
            Err(error) => return nothing(&error),
        };
        if let Err(error) = tls.process_new_packets() {
            // The alert.
            let _ = tls.write_tls(&mut self.socket);
            return Err(Ended::Failure(of_tls(FaultClass::Tls, servers::fault(&error))));
        }
        match length {
            0 if tls.is_handshaking() => Ok(Came::End),
            length => self.count(length).map(|_| Came::Bytes(0)),
        }
    }

    fn count(&mut self, length: usize) -> Result<Came, Ended> {
        self.came += length;
        match self.came {
            ..=MOST => Ok(Came::Bytes(length)),
            _ => Err(Ended::Failure(CheckFault::of(FaultClass::TooLong))),
        }
    }

    /// Whether it talks over TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Queues the end of TLS.
    pub(super) fn say_end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    /// Closes it by a reset.
    pub(super) fn reset(self) {
        reset(&self.socket.0);
    }
}

/// A fault of TLS, in the words of events and of the other reports.
pub(super) fn of_tls(class: FaultClass, fault: TlsFault) -> CheckFault {
    CheckFault::told(class, 0, &fault.to_string())
}

/// Makes the close of a socket a reset.
pub(super) fn reset(socket: &OwnedFd) {
    // Without the option, the close is an ordinary one.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

fn nothing(error: &io::Error) -> Result<Came, Ended> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Came::Nothing),
        // Once more.
        io::ErrorKind::Interrupted => Ok(Came::Bytes(0)),
        _ => Err(failed(error)),
    }
}

fn failed(error: &io::Error) -> Ended {
    match Errno::from_io_error(error) {
        Some(errno) => fault(errno),
        None => Ended::Failure(CheckFault::told(FaultClass::Other, 0, &error.to_string())),
    }
}
