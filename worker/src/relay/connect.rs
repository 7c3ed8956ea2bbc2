//! From an accepted client to a connected server: placing, attempts, failover.
//!
//! The first choice is made, taken and recorded under the lock of the client's part of the table, so that connections which a client opens
//! at once go together. A further choice after a failure needs no lock.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll};
use pen_contract::address::Address;
use pen_contract::ids::{ClientKey, Target};
use pen_contract::message::{ConnectFailure, Event, ShortageDuring};
use pen_contract::settings::{Server, Settings};
use pen_table::{Blacklist, Seat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::accept::is_shortage;
use super::balance::{Candidate, Farm, Placement, Probed};
use super::connection::{End, Name, Side, State};
use super::supervisor::Rated;
use super::{Relay, clock};

/// The servers' state in the shared table, at one time.
struct Servers<'a> {
    seat: &'a Seat<'a>,
    now: u64,
}

impl Farm for Servers<'_> {
    fn blacklist(&self, row: u32) -> Blacklist {
        self.seat.blacklist(row, self.now)
    }

    fn connections(&self, row: u32) -> u32 {
        self.seat.connections(row)
    }

    fn cursor(&self) -> u32 {
        self.seat.cursor()
    }

    fn advance_cursor(&self, from: u32, to: u32) -> bool {
        self.seat.advance_cursor(from, to)
    }
}

/// How an attempt began.
enum Attempt {
    /// connect(2) is under way.
    Pending(OwnedFd),
    /// The server failed.
    Failed(Errno),
    /// The server's backlog is full: another may serve, but it is not dead.
    Full,
    /// This machine ran short.
    Shortage(Errno),
}

impl Relay<'_> {
    /// Takes a client in and places it.
    pub(super) fn begin(&mut self, socket: OwnedFd, unix: bool, key: ClientKey, port: u16, number: u32) {
        let place = self.pool.take();
        let connection = &mut self.pool[place];
        connection.down = End::new(socket, unix);
        connection.state = State::Connecting;
        connection.line_due = true;
        connection.number = number;
        connection.key = Some(key);
        let name = Name { place, generation: connection.generation, side: Side::Down };
        if let Err(error) = watch(&self.poll, connection.down.socket.as_ref(), name) {
            self.give_up(place, ShortageDuring::Watch, error);
            return;
        }
        match self.place_client(place, key, port) {
            Some(target) => self.attempt(place, target),
            None => self.unserved(place),
        }
    }

    /// Chooses and takes a server for a client that arrived.
    fn place_client(&mut self, place: u32, key: ClientKey, port: u16) -> Option<Target> {
        let Relay { seat, settings, now, .. } = self;
        let farm = Servers { seat, now: *now };
        let tracking = u64::from(settings.tracking) * 1000;
        let mut locked = seat.lock(key.bytes()).ok();
        let arrival = locked.as_mut().map(|table| table.arrive(*now, tracking));
        let recorded = arrival.and_then(|arrival| Target::from_code(arrival.recorded));
        let mut placement = Placement::new(settings, &farm, Candidate { key, port, recorded });
        let taken = take_next(&mut placement, settings, &farm);
        if let (Some(table), Some(arrival), Some(target)) = (&mut locked, arrival, taken) {
            table.record(arrival.client, target.code());
        }
        let is_locked = locked.is_some();
        drop(locked);
        self.pool[place].client = arrival.map(|arrival| arrival.client);
        self.pool[place].target = taken;
        self.pool[place].placement = Some(placement);
        self.tell_of_table(is_locked);
        taken
    }

    /// Reports what was noticed about the shared table.
    fn tell_of_table(&mut self, is_locked: bool) {
        if let Some(kept) = self.seat.take_rebuilt() {
            self.supervisor.tell(Event::TableRebuilt { kept }, &mut self.counters);
        }
        if !is_locked {
            self.counters.lock_timeouts += 1;
            if self.supervisor.may_tell(Rated::LockStuck, self.now) {
                self.supervisor.tell(Event::LockStuck, &mut self.counters);
            }
        }
    }

    /// Connects to the target that was taken, and to the next ones while they fail at once.
    fn attempt(&mut self, place: u32, mut target: Target) {
        loop {
            self.seat.set_current(target.code());
            let attempt = match self.settings.target(target) {
                Some(server) => connect(server),
                None => Attempt::Full,
            };
            match attempt {
                Attempt::Pending(socket) => return self.await_server(place, target, socket),
                Attempt::Shortage(errno) => return self.give_up(place, ShortageDuring::Connect, errno),
                Attempt::Failed(errno) => self.blame(target, ConnectFailure::Errno(errno.raw_os_error())),
                Attempt::Full => {}
            }
            match self.another(place) {
                Some(next) => target = next,
                None => return self.unserved(place),
            }
        }
    }

    /// Watches the socket of a connect that is under way.
    fn await_server(&mut self, place: u32, target: Target, socket: OwnedFd) {
        let unix = self.settings.target(target).is_some_and(|server| matches!(server.address, Address::Unix(_)));
        let connection = &mut self.pool[place];
        connection.up = End { nagle: !unix, ..End::new(socket, unix) };
        let name = Name { place, generation: connection.generation, side: Side::Up };
        if let Err(error) = watch(&self.poll, connection.up.socket.as_ref(), name) {
            return self.give_up(place, ShortageDuring::Watch, error);
        }
        let deadline = self.now + u64::from(self.settings.connect_timeout) * 1000;
        if self.pool[place].links.is_queued() {
            self.connecting.leave(&mut self.pool, place);
        }
        self.connecting.join(&mut self.pool, place, deadline);
        if self.debug.on(1) {
            let key = self.pool[place].key.unwrap_or(ClientKey::UNIX);
            self.debug.say(1, format_args!("client {key} goes to server {}", target.code()));
        }
    }

    /// An event on the socket of a connect that was under way.
    pub(super) fn connect_progress(&mut self, place: u32, event: &mio::event::Event) {
        // A hang-up alone is a server behind a Unix socket that has already answered and closed.
        if event.is_error() {
            let errno = self.pool[place].up.socket.as_ref().map(rustix::net::sockopt::socket_error);
            let errno = match errno {
                Some(Ok(Err(errno)) | Err(errno)) => errno,
                // Up and gone again: nothing was sent yet, so another server may still serve this client.
                Some(Ok(Ok(()))) | None => Errno::CONNRESET,
            };
            return self.connect_failed(place, ConnectFailure::Errno(errno.raw_os_error()));
        }
        if !event.is_writable() {
            return;
        }
        self.connecting.leave(&mut self.pool, place);
        let connection = &mut self.pool[place];
        connection.state = State::Relaying;
        connection.placement = None;
        if let Some(target) = connection.target {
            self.praise(target);
        }
        self.connect_ended();
        self.relay(place, Side::Down);
        if self.pool[place].state == State::Relaying && self.pool[place].up.readable {
            self.relay(place, Side::Up);
        }
    }

    /// No answer in time.
    pub(super) fn connect_timed_out(&mut self, place: u32) {
        self.connect_failed(place, ConnectFailure::Timeout);
    }

    /// The attempt failed: its socket closes before the next one is made. Its name passes to the next: the kernel reports a socket once
    /// per round, and this one has been.
    fn connect_failed(&mut self, place: u32, failure: ConnectFailure) {
        let connection = &mut self.pool[place];
        connection.up = End::default();
        let target = connection.target;
        match failure {
            ConnectFailure::Errno(errno) if is_shortage(Errno::from_raw_os_error(errno)) => {
                return self.give_up(place, ShortageDuring::Connect, Errno::from_raw_os_error(errno));
            }
            ConnectFailure::Errno(_) | ConnectFailure::Timeout => {}
        }
        if let Some(target) = target {
            self.blame(target, failure);
        }
        match self.another(place) {
            Some(next) => self.attempt(place, next),
            None => self.unserved(place),
        }
    }

    /// Takes the next server after one that could not be used.
    fn another(&mut self, place: u32) -> Option<Target> {
        self.release_target(place);
        let mut placement = self.pool[place].placement.take()?;
        let farm = Servers { seat: &self.seat, now: self.now };
        let taken = take_next(&mut placement, &self.settings, &farm);
        let connection = &mut self.pool[place];
        connection.placement = Some(placement);
        connection.target = taken;
        self.counters.failovers += u64::from(taken.is_some());
        if let (Some(client), Some(target)) = (connection.client, taken) {
            self.seat.record(client, target.code());
        }
        taken
    }

    /// Leaves a server that failed out for the blacklist time, and says so once.
    fn blame(&mut self, target: Target, reason: ConnectFailure) {
        self.counters.failed_connects += 1;
        let seconds = self.settings.blacklist;
        if self.debug.on(1) {
            let why = match reason {
                ConnectFailure::Errno(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
                ConnectFailure::Timeout => format!("no answer within {} s", self.settings.connect_timeout),
            };
            self.debug.say(1, format_args!("server {} failed: {why}", target.code()));
        }
        if seconds == 0 {
            return;
        }
        let until = self.now + u64::from(seconds) * 1000;
        let row = target.row(self.settings.table_size());
        if self.seat.set_blacklist(row, until, clock::unix_time().0) {
            let event = Event::Blacklisted { server: target.code(), seconds, reason };
            self.supervisor.tell(event, &mut self.counters);
        }
    }

    /// A server was connected to: if that was its probe, it is in use again.
    fn praise(&mut self, target: Target) {
        let row = target.row(self.settings.table_size());
        match self.seat.blacklist(row, self.now) {
            // Left out by somebody else meanwhile: that stands.
            Blacklist::Clear | Blacklist::Until(_) => {}
            Blacklist::Expired | Blacklist::Probed => {
                if self.seat.clear_blacklist(row) {
                    self.supervisor.tell(Event::BackInUse { server: target.code() }, &mut self.counters);
                }
            }
        }
    }

    /// No server can be used: the client is closed.
    fn unserved(&mut self, place: u32) {
        self.counters.unserved += 1;
        self.finish(place);
    }

    /// Closes a client because this machine ran short; no server is to blame and none is tried.
    fn give_up(&mut self, place: u32, during: ShortageDuring, errno: Errno) {
        self.counters.shortages += 1;
        self.short_of(during, errno);
        self.finish(place);
    }
}

/// Takes the next target of a placement that can be used now.
fn take_next(placement: &mut Placement, settings: &Settings, farm: &Servers<'_>) -> Option<Target> {
    while let Some((target, probed)) = placement.next(settings, farm) {
        let Some(server) = settings.target(target) else { continue };
        let row = target.row(settings.table_size());
        let lease = farm.now + u64::from(settings.connect_timeout) * 1000 + 1000;
        let state = farm.blacklist(row);
        let may_use = match state {
            Blacklist::Clear | Blacklist::Expired => true,
            Blacklist::Until(_) => false,
            Blacklist::Probed => probed == Probed::Join,
        };
        if !may_use || !farm.seat.reserve(row, server.limit(placement.knows(target))) {
            continue;
        }
        // Only with a place there: a probe that is begun and not made would keep others away until its lease ends.
        let is_probe = state == Blacklist::Expired && farm.seat.begin_probe(row, farm.now, lease);
        if state != Blacklist::Expired || is_probe || probed == Probed::Join {
            return Some(target);
        }
        farm.seat.release(row);
    }
    None
}

/// Begins to connect to a server.
fn connect(server: &Server) -> Attempt {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = match &server.address {
        Address::Inet(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Inet(_) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let socket = match rustix::net::socket_with(family, SocketType::STREAM, flags, None) {
        Ok(socket) => socket,
        Err(Errno::AFNOSUPPORT) => return Attempt::Failed(Errno::AFNOSUPPORT),
        Err(errno) => return Attempt::Shortage(errno),
    };
    let result = match &server.address {
        Address::Inet(address) => rustix::net::connect(socket.as_fd(), address),
        Address::Unix(path) => {
            SocketAddrUnix::new(path.as_path()).and_then(|address| rustix::net::connect(socket.as_fd(), &address))
        }
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Attempt::Pending(socket),
        // A Unix socket whose backlog is full says so at once and never tells when it is not (connect(2)).
        Err(Errno::AGAIN) if matches!(server.address, Address::Unix(_)) => Attempt::Full,
        Err(Errno::ADDRNOTAVAIL) if !has_source(family, &server.address) => Attempt::Failed(Errno::ADDRNOTAVAIL),
        Err(errno) if is_shortage(errno) => Attempt::Shortage(errno),
        Err(errno) => Attempt::Failed(errno),
    }
}

/// Whether this machine has an address to reach a server from. connect(2) says EADDRNOTAVAIL when it has not (IPv6 is switched
/// off), and when its TCP ports are used up; those of UDP are others.
fn has_source(family: AddressFamily, server: &Address) -> bool {
    let Address::Inet(address) = server else { return true };
    rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::connect(socket, address))
        != Err(Errno::ADDRNOTAVAIL)
}

/// All that a connection's socket is watched for, once and for life.
fn interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY
}

fn watch(poll: &Poll, socket: Option<&OwnedFd>, name: Name) -> Result<(), Errno> {
    let Some(socket) = socket else { return Ok(()) };
    poll.registry()
        .register(&mut SourceFd(&socket.as_raw_fd()), name.token(), interest())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
