//! The servers: they answer on many ports until a signal ends the program.

use std::net::{SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::request::{Kind, LENGTH, Request};

const BUFFER: usize = 1 << 20;

/// Tokens from here on are listeners.
const LISTENERS: u64 = 1 << 32;

struct Connection {
    socket: OwnedFd,
    request: Option<Request>,
    got: Vec<u8>,
    /// Bytes of the answer that are still to be sent.
    left: usize,
}

/// Serves on `count` ports from `address` on.
pub fn serve(address: SocketAddrV4, count: u16) {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let listen = |n| {
        let listener = TcpListener::bind((*address.ip(), address.port() + n)).unwrap();
        listener.set_nonblocking(true).unwrap();
        // A longer backlog than that of the standard library.
        rustix::net::listen(&listener, 4096).unwrap();
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENERS + u64::from(n)), EventFlags::IN)
            .unwrap();
        listener
    };
    let listeners: Vec<TcpListener> = (0..count).map(listen).collect();
    println!("ready");
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![b'a'; BUFFER];
    let mut events = Vec::with_capacity(512);
    loop {
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => panic!("epoll_wait: {errno}"),
        }
        for event in events.drain(..) {
            let token = event.data.u64();
            if token >= LISTENERS {
                accept(
                    &listeners[(token - LISTENERS) as usize],
                    &epoll,
                    &mut connections,
                    &mut free,
                );
                continue;
            }
            let place = &mut connections[token as usize];
            if place.as_mut().is_some_and(|connection| !go_on(connection, &mut buffer)) {
                *place = None;
                free.push(token as usize);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &OwnedFd,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) {
    for _ in 0..64 {
        let Ok(socket) =
            rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        else {
            return;
        };
        let place = free.pop().unwrap_or(connections.len());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &socket, EventData::new_u64(place as u64), flags).unwrap();
        let connection = Connection { socket, request: None, got: Vec::new(), left: 0 };
        match connections.get_mut(place) {
            Some(free) => *free = Some(connection),
            None => connections.push(Some(connection)),
        }
    }
}

/// Reads and writes as much as possible. False: the connection is over.
fn go_on(connection: &mut Connection, buffer: &mut [u8]) -> bool {
    loop {
        if connection.request.is_none_or(|request| request.kind == Kind::Discard)
            || connection.left == 0
        {
            match rustix::net::recv(&connection.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((length, _)) => {
                    if !connection.request.is_some_and(|request| request.kind == Kind::Discard) {
                        connection.got.extend_from_slice(&buffer[..length]);
                        if connection.got.len() < LENGTH {
                            continue;
                        }
                        let Some(request) = Request::decode(&connection.got[..LENGTH]) else {
                            return false;
                        };
                        connection.got.drain(..LENGTH);
                        connection.request = Some(request);
                        connection.left = match request.kind {
                            Kind::Stream => usize::MAX,
                            Kind::Discard => 0,
                            Kind::Close | Kind::Keep => request.bytes,
                        };
                    }
                }
                Err(errno) => return errno == Errno::AGAIN,
            }
        }
        while connection.left > 0 {
            let Some(request) = connection.request else { break };
            let piece = match request.kind {
                Kind::Stream => BUFFER,
                _ => request.bytes.div_ceil(usize::from(request.pieces)),
            };
            let piece = piece.min(connection.left).min(BUFFER);
            match rustix::net::send(&connection.socket, &buffer[..piece], SendFlags::NOSIGNAL) {
                Ok(length) if request.kind == Kind::Stream => debug_assert!(length > 0),
                Ok(length) => connection.left -= length,
                Err(errno) => return errno == Errno::AGAIN,
            }
        }
        if connection.request.is_some_and(|request| request.kind == Kind::Close) {
            return false;
        }
    }
}
