//! One question to one name server, over UDP or TCP. The kernel chooses the source port, and drops
//! what does not come from the address that was asked.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::helpers::resolve::srv::message::{self, Answer, Edns};

/// Over what a question goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Asks a name server for the SRV records of a name, and waits so long at most.
///
/// # Errors
/// It cannot be reached, or does not answer in time.
pub(super) fn ask(
    server: SocketAddr,
    transport: Transport,
    name: &str,
    edns: Edns,
    patience: Duration,
) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    let id = id()?;
    let query = message::query(id, name, edns).ok_or(io::ErrorKind::InvalidInput)?;
    match transport {
        Transport::Udp => {
            over_udp(server, &query, deadline, |bytes| message::read(bytes, id, name))
        }
        Transport::Tcp => {
            over_tcp(server, &query, deadline).map(|bytes| message::read(&bytes, id, name))
        }
    }
}

/// A number that nobody who does not see the query knows.
fn id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

fn over_udp(
    server: SocketAddr,
    query: &[u8],
    deadline: Instant,
    read: impl Fn(&[u8]) -> Answer,
) -> io::Result<Answer> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut bytes = [0; MOST_DATAGRAM];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let length = socket.recv(&mut bytes)?;
        match read(bytes.get(..length).unwrap_or_default()) {
            // A late answer to an earlier query, or a forged one.
            Answer::NotOurs => {}
            answer => return Ok(answer),
        }
    }
}

fn over_tcp(server: SocketAddr, query: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    read_until(&mut stream, &mut length, deadline)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    read_until(&mut stream, &mut bytes, deadline)?;
    Ok(bytes)
}

/// Fills the buffer. A name server that sends byte by byte has no more time than another one.
fn read_until(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// The time until the deadline.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// More than any answer that was asked for.
const MOST_DATAGRAM: usize = 4096;
