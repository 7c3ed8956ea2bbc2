//! From an accepted client to a connected server: placing, attempts, failover.
//!
//! The first choice is made, taken and recorded under the lock of the client's part of the table, so that connections which a client opens
//! at once go together. A further choice after a failure needs no lock.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll};
use pen_contract::address::Address;
use pen_contract::ids::{ClientKey, Target};
use pen_contract::message::{ConnectFailure, Event, ShortageDuring};
use pen_contract::settings::Settings;
use pen_table::{Blacklist, ClientRef, Seat};
use rustix::io::Errno;

use super::accept::is_shortage;
use super::balance::{Candidate, Eligible, Farm, Placement, Probed, client_permitted};
use super::connection::{Name, Side, State};
use super::dial::{Attempt, dial};
use super::end::End;
use super::queue::STEP;
use super::supervisor::Rated;
use super::{Relay, clock};

/// The servers' state in the shared table, at one time.
pub struct Servers<'a> {
    /// The worker's seat at the table.
    pub seat: &'a Seat<'a>,
    /// Monotonic milliseconds.
    pub now: u64,
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

/// What a client that arrived gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Placed {
    /// The server that was taken.
    Server,
    /// The answer that all get.
    Dummy,
    /// Nothing: the access list refuses it, and there is no abuse server that can be used.
    Refused,
    /// Nothing: no server can be used.
    Nowhere,
}

impl Relay<'_> {
    /// Takes a client in and places it.
    pub(super) fn begin(&mut self, socket: OwnedFd, unix: bool, key: ClientKey, port: u16, number: u32) {
        let is_sender = self.is_sender(key);
        let place = self.pool.take();
        let connection = &mut self.pool[place];
        connection.down = End::new(socket, unix);
        connection.state = State::Connecting;
        connection.line_due = true;
        connection.number = number;
        connection.key = Some(key);
        connection.port = port;
        connection.header_due = is_sender;
        if self.expects_greeting(place) {
            if self.watch_client(place) {
                self.await_greeting(place);
            }
            return;
        }
        if self.place_client(place) && self.watch_client(place) {
            self.serve_client(place);
        }
    }

    /// Places a client whose greeting is over.
    pub(super) fn welcome(&mut self, place: u32) {
        if self.place_client(place) {
            self.serve_client(place);
        }
    }

    /// Watches a client's socket. False: it cannot be, and the connection is closed.
    fn watch_client(&mut self, place: u32) -> bool {
        let connection = &self.pool[place];
        let name = Name { place, generation: connection.generation, side: Side::Down };
        match watch(&self.poll, connection.down.socket.as_ref(), name) {
            Ok(()) => true,
            Err(error) => {
                self.give_up(place, ShortageDuring::Watch, error);
                false
            }
        }
    }

    /// Gives a client what it was placed for.
    fn serve_client(&mut self, place: u32) {
        match self.pool[place].target {
            Some(_) => self.newcomers.push(Name { place, generation: self.pool[place].generation, side: Side::Down }),
            None => self.await_request(place),
        }
    }

    /// Connects the clients of the last round to their servers. The events since then said which of them have sent a request already.
    pub(super) fn on_newcomers(&mut self) {
        for index in 0..self.newcomers.len() {
            let Some(target) = self.pool.named(self.newcomers[index]).and_then(|connection| connection.target) else {
                continue;
            };
            self.attempt(self.newcomers[index].place, target);
        }
        if !self.newcomers.is_empty() {
            self.newcomers.clear();
            // If all failed at once, nobody else says that there is room again.
            self.connect_ended();
        }
    }

    /// Enters a client that arrived in the table, and chooses and takes a server for it. False: it gets nothing and is closed.
    fn place_client(&mut self, place: u32) -> bool {
        let connection = &self.pool[place];
        let placed = self.choose(place, connection.key.unwrap_or(ClientKey::UNIX), connection.port);
        let is_served = matches!(placed, Placed::Server | Placed::Dummy);
        if !is_served {
            self.turn_away(place, placed);
        }
        is_served
    }

    fn choose(&mut self, place: u32, key: ClientKey, port: u16) -> Placed {
        let Relay { seat, settings, now, .. } = self;
        let farm = Servers { seat, now: *now };
        let tracking = u64::from(settings.tracking) * 1000;
        let permitted = client_permitted(settings, key);
        let mut locked = seat.lock(key.bytes()).ok();
        let arrival = locked.as_mut().map(|table| table.arrive(*now, tracking));
        let recorded = arrival.and_then(|arrival| Target::from_code(arrival.recorded));
        let mut placement = None;
        if !settings.dummy {
            placement =
                Some(Placement::new(settings, &farm, Candidate { key, port, recorded, permitted }, &mut |_, _| ()));
        }
        let taken = placement.as_mut().and_then(|placement| take_next(placement, settings, &farm, key));
        if let (Some(table), Some(arrival), Some(target)) = (&mut locked, arrival, taken) {
            table.record(arrival.client, target.code());
        }
        let placed = match (taken, permitted) {
            (Some(_), _) => Placed::Server,
            (None, false) => Placed::Refused,
            (None, true) if settings.dummy => Placed::Dummy,
            (None, true) => Placed::Nowhere,
        };
        let is_locked = locked.is_some();
        drop(locked);
        self.counters.refused += u64::from(!permitted);
        let connection = &mut self.pool[place];
        connection.client = arrival.map_or(ClientRef::NOBODY, |arrival| arrival.client);
        connection.target = taken;
        connection.placement = placement;
        self.tell_of_table(is_locked);
        placed
    }

    /// Closes a client that gets nothing.
    fn turn_away(&mut self, place: u32, placed: Placed) {
        if placed == Placed::Nowhere {
            return self.unserved(place);
        }
        if self.debug.on(1) {
            let key = self.pool[place].key.unwrap_or(ClientKey::UNIX);
            let list = self.settings.client_acl;
            self.debug.say(1, format_args!("client {key} is refused by access list {list}"));
        }
        self.finish(place);
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
    pub(super) fn attempt(&mut self, place: u32, mut target: Target) {
        loop {
            self.seat.set_current(target.code());
            let will_send = self.pool[place].down.readable;
            let attempt = match self.settings.target(target) {
                Some(server) => dial(&server.address, &self.settings, will_send),
                // Taken out of the settings meanwhile.
                None => Attempt::Full,
            };
            match attempt {
                Attempt::Pending(socket) => return self.await_server(place, target, socket, will_send),
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
    fn await_server(&mut self, place: u32, target: Target, socket: OwnedFd, withholds_acks: bool) {
        let unix = self.settings.target(target).is_some_and(|server| matches!(server.address, Address::Unix(_)));
        let connection = &mut self.pool[place];
        let nagle = !unix && !self.settings.tcp_nodelay;
        connection.up = End { nagle, withholds_acks: withholds_acks && !unix, ..End::new(socket, unix) };
        connection.outdated = false;
        let name = Name { place, generation: connection.generation, side: Side::Up };
        if let Err(error) = watch(&self.poll, connection.up.socket.as_ref(), name) {
            return self.give_up(place, ShortageDuring::Watch, error);
        }
        if self.pool[place].links[STEP].is_queued() {
            self.connecting.leave(&mut self.pool, place);
        }
        self.connecting.wait(&mut self.pool, place, self.now);
        if self.debug.on(1) {
            match self.pool[place].key {
                Some(key) => self.debug.say(1, format_args!("client {key} goes to server {}", target.code())),
                None => self.debug.say(1, format_args!("an idler goes to server {}", target.code())),
            }
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
        connection.placement = None;
        let is_idler = connection.key.is_none();
        connection.state = if is_idler { State::Idler } else { State::Relaying };
        if let (Some(target), false) = (connection.target, connection.outdated) {
            self.praise(target);
        }
        self.connect_ended();
        if is_idler {
            self.pool[place].since = self.now;
            return self.drain_idler(place);
        }
        self.idle.join(&mut self.pool, place, self.now);
        self.introduce(place);
        self.follow_http(place);
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
        let target = connection.target.filter(|_| !connection.outdated);
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
        let connection = &mut self.pool[place];
        let client = connection.key.unwrap_or(ClientKey::UNIX);
        let taken = take_next(&mut placement, &self.settings, &farm, client);
        connection.placement = Some(placement);
        connection.target = taken;
        self.counters.failovers += u64::from(taken.is_some());
        if let Some(target) = taken {
            self.seat.record(connection.client, target.code());
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
            if self.supervisor.may_tell_failed(target.code(), self.now) {
                let event = Event::Blacklisted { server: target.code(), seconds, reason };
                self.supervisor.tell(event, &mut self.counters);
            }
            return;
        }
        let until = self.now + u64::from(seconds) * 1000;
        let row = target.row(self.settings.table_size());
        if matches!(self.seat.blacklist(row, self.now), Blacklist::Until(longer) if longer >= until) {
            // An operator took it out of service meanwhile.
            return;
        }
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
        self.counters.unserved += u64::from(self.pool[place].key.is_some());
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
pub fn take_next(
    placement: &mut Placement,
    settings: &Settings,
    farm: &Servers<'_>,
    client: ClientKey,
) -> Option<Target> {
    while let Some((target, probed)) = placement.next(settings, farm) {
        let Ok(eligible) = placement.judge(settings, farm, client, (target, probed)) else { continue };
        let row = target.row(settings.table_size());
        // Only this is exact: another worker may have been faster.
        if !farm.seat.reserve(row, placement.limit(settings, target)) {
            continue;
        }
        // Only with a place there: a probe that is begun and not made would keep others away until its lease ends.
        let lease = farm.now + u64::from(settings.connect_timeout) * 1000 + 1000;
        let is_probe = eligible == Eligible::ForProbe && farm.seat.begin_probe(row, farm.now, lease);
        if eligible == Eligible::InUse || is_probe || probed == Probed::Join {
            return Some(target);
        }
        farm.seat.release(row);
    }
    None
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
