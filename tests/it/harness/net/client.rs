//! Clients: sockets with a chosen source address and a bound on every wait.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::wait::PATIENCE;

/// The client address for tests in which it does not matter.
pub const ANYONE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 1, 1, 1));

/// A connected client.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
}

impl Client {
    /// Connects to a TCP address from an address of this machine (`127.x.y.z`, `::1`).
    ///
    /// # Errors
    /// Refused, or not accepted by the kernel within [`PATIENCE`].
    pub fn connect(from: IpAddr, to: SocketAddr) -> io::Result<Client> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // The port is chosen at connect(2). One that bind(2) chooses is not available to
        // connections of other programs for a minute after the end, and thousands of clients would
        // take all.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        // In a test's own network, a whole net can be routed to the loopback interface.
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        Client::over(socket, &to.into())
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// Refused, or not accepted by the kernel within [`PATIENCE`].
    pub fn connect_unix(path: &std::path::Path) -> io::Result<Client> {
        Client::over(Socket::new(Domain::UNIX, Type::STREAM, None)?, &SockAddr::unix(path)?)
    }

    fn over(socket: Socket, to: &SockAddr) -> io::Result<Client> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        Ok(Client { socket })
    }

    /// The socket itself, for options.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// A second handle of the same socket, for another thread.
    pub fn twin(&self) -> Client {
        Client { socket: self.socket.try_clone().unwrap() }
    }

    /// Sends everything.
    #[track_caller]
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        (&self.socket).write_all(bytes.as_ref()).expect("pen takes what a client sends");
    }

    /// Sends bytes to a Unix listener together with a descriptor; a read never continues past the
    /// descriptor.
    pub fn send_with_descriptor(&self, bytes: &[u8]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent = rustix::net::sendmsg(
            &self.socket,
            &[io::IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Ends the sending direction. If pen has reset the connection by then, the next read reports
    /// it.
    pub fn finish(&self) {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            finished => finished.expect("a connected socket can be half-closed"),
        }
    }

    /// Reads the available bytes, at most `length`; empty at end of file.
    ///
    /// # Errors
    /// Reset, or nothing arrived within [`PATIENCE`].
    pub fn read(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = (&self.socket).read(&mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads exactly `length` bytes.
    #[track_caller]
    pub fn read_exactly(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        (&self.socket).read_exact(&mut bytes).expect("as many bytes as are promised");
        bytes
    }

    /// Reads to end of file.
    ///
    /// # Errors
    /// Reset, or no end of file within [`PATIENCE`] of the last byte.
    pub fn read_to_end(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.socket).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a line, without its end; `None` if the connection ended first.
    ///
    /// # Panics
    /// Neither happened within [`PATIENCE`].
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.read(1) {
                Ok(byte) if byte.is_empty() => return None,
                Ok(byte) if byte == b"\n" => return Some(String::from_utf8(line).unwrap()),
                Ok(byte) => line.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a line nor an end: {error}"),
            }
        }
    }

    /// Whether bytes or an end of file can be read now.
    pub fn has_news(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let news = self.socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
        self.socket.set_nonblocking(false).unwrap();
        !news.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a line to an echoing backend and checks that it comes back.
    #[track_caller]
    pub fn echoes(&self, line: &str) {
        self.send(format!("{line}\n"));
        assert_eq!(self.line().as_deref(), Some(line), "the backend echoes");
    }

    /// Reads the backend's name, and then does [`Client::echoes`].
    #[track_caller]
    pub fn echoes_after_greeting(&self, line: &str) {
        assert!(self.line().is_some(), "the backend says its name");
        self.echoes(line);
    }

    /// Closes with a reset instead of an end of file.
    pub fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Connects, reads the backend's name, and ends the connection in order. `None`: the client was
/// closed without an answer.
#[track_caller]
pub fn ask(to: SocketAddr, from: IpAddr) -> Option<String> {
    let (client, name) = hold(to, from)?;
    client.finish();
    let rest = client.read_to_end().expect("an orderly end");
    assert!(rest.is_empty(), "a backend says its name once");
    Some(name)
}

/// Connects and reads the backend's name; the connection stays open. `None`: the client was closed
/// without an answer.
#[track_caller]
pub fn hold(to: SocketAddr, from: IpAddr) -> Option<(Client, String)> {
    let client = Client::connect(from, to).expect("the listener accepts");
    let name = client.line()?;
    Some((client, name))
}
