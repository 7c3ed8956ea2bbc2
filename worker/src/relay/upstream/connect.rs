//! From an accepted client to a connected server: placement and connect attempts.
//! `relay::upstream::failover` handles a failed attempt.
//!
//! The first server is chosen, reserved and recorded under the lock of the client's part of the
//! table. So connections that a client opens at once go to the same server. A further choice after
//! a failure needs no lock.

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll};
use pen_config::address::Address;
use pen_config::ids::{ClientKey, Target};
use pen_config::settings::Settings;
use pen_ipc::message::{ConnectFailure, Event, Obstacle, ShortageDuring};
use pen_table::{Blacklist, ClientRef, WorkerTable};
use rustix::io::Errno;

use crate::relay::Relay;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::{ConnectionId, ConnectionState, Side};
use crate::relay::link::Rated;
use crate::relay::upstream::dial::{Attempt, dial};
use crate::relay::upstream::failover::DIAL;
use crate::relay::upstream::select::{
    Candidate, Eligible, Farm, Placement, Probed, SelectionRefusal, client_permitted,
};
use crate::relay::upstream::{Gate, Hindrance, Upstreams};

/// A view of the servers' state in the shared table, with the time of the view.
pub struct Servers<'a> {
    /// The shared table, with this worker's rows.
    pub worker_table: &'a WorkerTable<'a>,
    /// What only this worker knows of the servers.
    pub upstreams: &'a Upstreams,
    /// Most pending connects to each server.
    pub pending_max: u32,
    /// Monotonic milliseconds.
    pub now: u64,
    /// How many servers were examined.
    pub looks: Cell<u32>,
    /// A server that was passed over because of its connection limit or its pending connects, if
    /// that is to be reported.
    pub passed: Cell<Option<(Target, Obstacle)>>,
}

impl Farm for Servers<'_> {
    fn blacklist(&self, row: u32) -> Blacklist {
        self.looks.set(self.looks.get() + 1);
        self.worker_table.blacklist(row, self.now)
    }

    fn connections(&self, row: u32) -> u32 {
        self.worker_table.connections(row)
    }

    fn cursor(&self) -> u32 {
        self.worker_table.cursor()
    }

    fn advance_cursor(&self, from: u32, to: u32) -> bool {
        self.worker_table.advance_cursor(from, to)
    }

    fn hindrance(&self, row: u32) -> Option<Hindrance> {
        self.upstreams.hindrance(row, self.pending_max, self.now)
    }

    fn is_left_out(&self, row: u32) -> bool {
        matches!(self.blacklist(row), Blacklist::Until(_))
    }
}

/// What a new client gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Assigned {
    /// A server, which was reserved.
    Server,
    /// The answer of `dummy`.
    Dummy,
    /// Nothing: the access list refuses the client, and there is no usable abuse server.
    Refused,
    /// Nothing: no server can be used.
    Nowhere,
}

impl Servers<'_> {
    /// Notes that a server is passed over.
    fn note(&self, target: Target, row: u32, refusal: SelectionRefusal) {
        match refusal {
            SelectionRefusal::Full { .. } => self.note_obstacle(target, row, Obstacle::Limit),
            SelectionRefusal::Hindered(Hindrance::Pending) => {
                self.note_obstacle(target, row, Obstacle::Pending)
            }
            // Reported where it was found.
            SelectionRefusal::Hindered(Hindrance::Ports) => {}
            SelectionRefusal::Absent
            | SelectionRefusal::Blacklisted(_)
            | SelectionRefusal::Probed
            | SelectionRefusal::Acl(_)
            | SelectionRefusal::NoWeight => {}
        }
    }

    /// Notes the obstacle of a server, if the rate limit of this server permits a report. So each
    /// of many such servers gets its report.
    fn note_obstacle(&self, target: Target, row: u32, obstacle: Obstacle) {
        let is_new = obstacle == Obstacle::Pending && !self.upstreams.is_shut(row);
        if self.passed.get().is_none() && (is_new || self.upstreams.is_untold(row, self.now)) {
            self.passed.set(Some((target, obstacle)));
        }
    }
}

impl Relay<'_> {
    /// The present view of the servers.
    pub(in crate::relay) fn farm(&self) -> Servers<'_> {
        let Relay { worker_table, upstreams, settings, now, .. } = self;
        Servers {
            worker_table,
            upstreams,
            pending_max: settings.pending_max,
            now: *now,
            looks: Cell::new(0),
            passed: Cell::new(None),
        }
    }

    /// Adds a client, and chooses a server for it.
    pub(in crate::relay) fn begin(
        &mut self,
        socket: OwnedFd,
        unix: bool,
        key: ClientKey,
        port: u16,
        number: u32,
    ) {
        let is_sender = self.is_sender(key);
        let slot = self.pool.take();
        let connection = &mut self.pool[slot];
        connection.down = Endpoint::new(socket, unix);
        connection.state = ConnectionState::Connecting;
        (connection.number, connection.began) = (number, crate::relay::clock::precise());
        connection.key = Some(key);
        connection.port = port;
        connection.header_due = is_sender;
        if self.expects_greeting(slot) {
            if self.watch_client(slot) {
                self.await_greeting(slot);
            }
            return;
        }
        if !self.place_client(slot) {
            if self.pool[slot].state == ConnectionState::Waiting {
                self.watch_client(slot);
            }
        } else if self.watch_client(slot) {
            self.serve_client(slot);
        }
    }

    /// Chooses a server for a client whose greeting is over.
    pub(in crate::relay) fn welcome(&mut self, slot: u32) {
        if self.place_client(slot) {
            self.serve_client(slot);
        }
    }

    /// Watches a client's socket. False: that failed, and the connection is closed.
    fn watch_client(&mut self, slot: u32) -> bool {
        let connection = &self.pool[slot];
        let name = ConnectionId { slot, generation: connection.generation, side: Side::Down };
        match watch(&self.poll, connection.down.socket.as_ref(), name) {
            Ok(()) => true,
            Err(error) => {
                self.give_up(slot, ShortageDuring::Watch, error);
                false
            }
        }
    }

    /// Serves a client according to its placement.
    fn serve_client(&mut self, slot: u32) {
        match self.pool[slot].target {
            Some(_) => self.newcomers.push(ConnectionId {
                slot,
                generation: self.pool[slot].generation,
                side: Side::Down,
            }),
            None => self.await_request(slot),
        }
    }

    /// Connects the clients of the last round to their servers. The events since then told which of
    /// them have already sent a request.
    pub(in crate::relay) fn on_newcomers(&mut self) {
        for index in 0..self.newcomers.len() {
            let Some(target) =
                self.pool.named(self.newcomers[index]).and_then(|connection| connection.target)
            else {
                continue;
            };
            self.attempt(self.newcomers[index].slot, target);
        }
        self.newcomers.clear();
    }

    /// Enters a new client in the table, and chooses and reserves a server for it. False: the
    /// client gets nothing and is closed.
    fn place_client(&mut self, slot: u32) -> bool {
        let connection = &self.pool[slot];
        let placed = self.choose(slot, connection.key.unwrap_or(ClientKey::UNIX), connection.port);
        let is_served = matches!(placed, Assigned::Server | Assigned::Dummy);
        if !is_served {
            self.turn_away(slot, placed);
        }
        is_served
    }

    fn choose(&mut self, slot: u32, key: ClientKey, port: u16) -> Assigned {
        let farm = self.farm();
        let Relay { worker_table, settings, now, .. } = &*self;
        let tracking = u64::from(settings.tracking) * 1000;
        let permitted = client_permitted(settings, key);
        let mut locked = worker_table.lock(key.bytes()).ok();
        let arrival = locked.as_mut().map(|table| table.arrive(*now, tracking));
        let recorded = arrival.and_then(|arrival| Target::from_code(arrival.recorded));
        let mut placement = None;
        if !settings.dummy {
            let candidate = Candidate { key, port, recorded, permitted };
            let passed_over = &mut |id, refusal| {
                let target = Target::Server(id);
                farm.note(target, target.row(settings.table_size()), refusal);
            };
            placement = Some(Placement::new(settings, &farm, candidate, passed_over));
        }
        let taken =
            placement.as_mut().and_then(|placement| take_next(placement, settings, &farm, key));
        if let (Some(table), Some(arrival), Some(target)) = (&mut locked, arrival, taken) {
            table.record(arrival.client, target.code());
        }
        let placed = match (taken, permitted) {
            (Some(_), _) => Assigned::Server,
            (None, false) => Assigned::Refused,
            (None, true) if settings.dummy => Assigned::Dummy,
            (None, true) => Assigned::Nowhere,
        };
        let is_locked = locked.is_some();
        drop(locked);
        let (looks, passed) = (farm.looks.get(), farm.passed.get());
        self.effort += looks;
        self.counters.refused += u64::from(!permitted);
        let connection = &mut self.pool[slot];
        connection.client = arrival.map_or(ClientRef::NOBODY, |arrival| arrival.client);
        connection.target = taken;
        connection.placement = placement;
        if let Some(target) = taken {
            self.begin_route(slot, target);
        }
        self.tell_of_table(is_locked);
        self.tell_of_passed(passed);
        placed
    }

    /// Closes a client that gets nothing.
    fn turn_away(&mut self, slot: u32, placed: Assigned) {
        if placed == Assigned::Nowhere {
            return self.unserved(slot);
        }
        if self.debug.on(1) {
            let key = self.pool[slot].key.unwrap_or(ClientKey::UNIX);
            let list = self.settings.client_acl;
            self.debug.say(1, format_args!("client {key} is refused by access list {list}"));
        }
        self.finish(slot);
    }

    /// Reports problems with the shared table.
    fn tell_of_table(&mut self, is_locked: bool) {
        if let Some(kept) = self.worker_table.take_rebuilt() {
            self.supervisor.tell(Event::TableRebuilt { kept }, &mut self.counters);
        }
        if !is_locked {
            self.counters.lock_timeouts += 1;
            if self.supervisor.may_tell(Rated::LockStuck, self.now) {
                self.supervisor.tell(Event::LockStuck, &mut self.counters);
            }
        }
    }

    /// Connects to the reserved target. If the attempt fails at once, the next target is tried
    /// later, within the limits of a turn.
    pub(in crate::relay) fn attempt(&mut self, slot: u32, target: Target) {
        let row = target.row(self.settings.table_size());
        match self.upstreams.gate(row, self.settings.pending_max) {
            Gate::Open => {}
            Gate::NextTurn => return self.try_next_turn(slot),
            Gate::Shut => return self.pass_over(slot, target, Obstacle::Pending, None),
        }
        if self.lacks_port(slot, row) {
            return self.fail_over(slot);
        }
        self.worker_table.set_current(target.code());
        let will_send = self.pool[slot].down.readable;
        let Some(server) = self.settings.target(target) else {
            // It was removed from the settings meanwhile.
            return self.fail_over(slot);
        };
        match dial(server.address_at(self.pool[slot].route.position()), &self.settings, will_send) {
            Attempt::Pending(socket) => self.await_server(slot, target, socket, will_send),
            Attempt::Failed(fault, errno) => {
                self.effort += DIAL;
                self.on_fault(slot, target, fault, errno);
            }
        }
    }

    /// Watches the socket of a connect that is under way.
    fn await_server(&mut self, slot: u32, target: Target, socket: OwnedFd, withholds_acks: bool) {
        let unix = self
            .settings
            .target(target)
            .is_some_and(|server| matches!(server.address, Address::Unix(_)));
        let connection = &mut self.pool[slot];
        let nagle = !unix && !self.settings.tcp_nodelay;
        connection.up = Endpoint {
            nagle,
            withholds_acks: withholds_acks && !unix,
            ..Endpoint::new(socket, unix)
        };
        connection.outdated = false;
        let name = ConnectionId { slot, generation: connection.generation, side: Side::Up };
        if let Err(error) = watch(&self.poll, connection.up.socket.as_ref(), name) {
            return self.give_up(slot, ShortageDuring::Watch, error);
        }
        self.connecting.wait(&mut self.pool, slot, self.now);
        self.upstreams.begin(target.row(self.settings.table_size()));
        if self.debug.on(1) {
            match self.pool[slot].key {
                Some(key) => {
                    self.debug.say(1, format_args!("client {key} goes to server {}", target.code()))
                }
                None => {
                    self.debug.say(1, format_args!("an idler goes to server {}", target.code()))
                }
            }
        }
    }

    /// Handles an event on the socket of a pending connect.
    pub(in crate::relay) fn connect_progress(&mut self, slot: u32, event: &mio::event::Event) {
        // A hang-up alone comes from a server behind a Unix socket that has already answered and
        // closed.
        if event.is_error() {
            let errno = self.pool[slot].up.socket.as_ref().map(rustix::net::sockopt::socket_error);
            let errno = match errno {
                Some(Ok(Err(errno)) | Err(errno)) => errno,
                // The connection was made and lost again. Nothing was sent yet, so another server
                // may still serve this client.
                Some(Ok(Ok(()))) | None => Errno::CONNRESET,
            };
            return self.connect_failed(slot, ConnectFailure::Errno(errno.raw_os_error()));
        }
        if !event.is_writable() {
            return;
        }
        self.end_connect(slot);
        let connection = &mut self.pool[slot];
        connection.placement = None;
        let is_idler = connection.key.is_none();
        connection.state =
            if is_idler { ConnectionState::Idler } else { ConnectionState::Relaying };
        if let (Some(target), false) = (connection.target, connection.outdated) {
            self.praise(target);
            self.settle_route(slot, target);
        }
        if is_idler {
            self.pool[slot].since = self.now;
            return self.drain_idler(slot);
        }
        self.idle.join(&mut self.pool, slot, self.now);
        self.introduce(slot);
        self.follow_http(slot);
        self.relay(slot, Side::Down);
        if self.pool[slot].state == ConnectionState::Relaying && self.pool[slot].up.readable {
            self.relay(slot, Side::Up);
        }
    }
}

/// Reserves the next usable target of a placement.
pub fn take_next(
    placement: &mut Placement,
    settings: &Settings,
    farm: &Servers<'_>,
    client: ClientKey,
) -> Option<Target> {
    while let Some((target, probed)) = placement.next(settings, farm) {
        let eligible = match placement.judge(settings, farm, client, (target, probed)) {
            Ok(eligible) => eligible,
            Err(refusal @ SelectionRefusal::Hindered(_)) => {
                farm.note(target, target.row(settings.table_size()), refusal);
                placement.hold(target);
                continue;
            }
            Err(refusal) => {
                farm.note(target, target.row(settings.table_size()), refusal);
                continue;
            }
        };
        let row = target.row(settings.table_size());
        // Only this is exact: another worker may have been faster.
        if !farm.worker_table.reserve(row, placement.limit(settings, target)) {
            farm.note_obstacle(target, row, Obstacle::Limit);
            continue;
        }
        // Only after a connection was reserved: a probe that begins without a connect would keep
        // others away until its lease ends.
        let addresses =
            settings.target(target).map_or(1, |server| u64::from(server.address_count()));
        let lease = farm.now + u64::from(settings.connect_timeout) * 1000 * addresses + 1000;
        let is_probe =
            eligible == Eligible::ForProbe && farm.worker_table.begin_probe(row, farm.now, lease);
        if eligible == Eligible::InUse || is_probe || probed == Probed::Join {
            return Some(target);
        }
        farm.worker_table.release(row);
    }
    None
}

/// The events that a connection's socket is watched for during its whole life.
fn interest() -> Interest {
    Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY
}

fn watch(poll: &Poll, socket: Option<&OwnedFd>, name: ConnectionId) -> Result<(), Errno> {
    let Some(socket) = socket else { return Ok(()) };
    poll.registry()
        .register(&mut SourceFd(&socket.as_raw_fd()), name.token(), interest())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
