//! Twelve clients, each with its own address and thread. They send requests again and again, and
//! record which server answered.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::LIMIT;

/// How many clients there are.
pub const CLIENTS: usize = 12;

/// The pause of a client between two requests: long enough to watch, short enough to see every
/// change at once.
const PAUSE: Duration = Duration::from_millis(60);

/// The results of the clients so far.
#[derive(Clone, Default)]
pub struct Seen {
    /// The server that answered each client last; `None` before its first answer.
    pub server: [Option<String>; CLIENTS],
    /// Answers, by client.
    pub answers: [u64; CLIENTS],
    /// Requests that ended without an answer, of all clients together.
    pub failed: u64,
}

/// The running clients; they stop when this is dropped.
pub struct Clients {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    /// Starts all clients; they send requests to `target`.
    pub fn start(target: SocketAddr) -> Clients {
        let (seen, stop) = (Arc::default(), Arc::default());
        let threads = (0..CLIENTS)
            .map(|client| {
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                thread::spawn(move || ask_until(&stop, client, target, &seen))
            })
            .collect();
        Clients { seen, stop, threads }
    }

    /// Lets each client finish its request, and stops it.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A client that panicked has already printed it on standard error.
            let _ = thread.join();
        }
    }

    /// The results so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The address that a client connects from: 127.0.0.11 and up.
pub fn address_of(client: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + u8::try_from(client).unwrap_or(u8::MAX - 11))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask_until(stop: &AtomicBool, client: usize, target: SocketAddr, seen: &Mutex<Seen>) {
    while !stop.load(Ordering::Relaxed) {
        let answer = ask(address_of(client), target);
        let mut seen = lock(seen);
        match answer {
            Ok(server) => {
                seen.server[client] = Some(server);
                seen.answers[client] += 1;
            }
            Err(_) => seen.failed += 1,
        }
        drop(seen);
        thread::sleep(PAUSE);
    }
}

/// A connection from this address.
pub fn connect(from: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&target.into(), LIMIT)?;
    let connection = TcpStream::from(socket);
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

/// One request on a connection of its own; returns the name of the server that answered.
fn ask(from: Ipv4Addr, target: SocketAddr) -> io::Result<String> {
    let mut connection = connect(from, target)?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) if !body.is_empty() => Ok(body.to_string()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
