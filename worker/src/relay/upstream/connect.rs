//! From an accepted client to a connected server: placement and connect attempts.
//! `relay::upstream::failover` handles a failed attempt.
//!
//! The first server is chosen, reserved and recorded under the lock of the client's part of the
//! table. So connections that a client opens at once go to the same server. A further choice after
//! a failure needs no lock.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll};
use pen_config::address::Address;
use pen_config::ids::{ClientKey, Target};
use pen_ipc::message::{ConnectFailure, Event, Obstacle, ShortageDuring};
use pen_table::{Arrival, ClientRef, Occupant};
use rustix::io::Errno;

use crate::clock;
use crate::relay::Relay;
use crate::relay::connection::FirstStep;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, Nagle, RecvState, Transport, send_waiting};
use crate::relay::connection::{
    ConnectionId, ConnectionState, HoldReason, Judged, ServerSince, Side, Timer,
};
use crate::relay::limits::Watch;
use crate::relay::link::Rated;
use crate::relay::select::{Candidate, Placement, client_permitted};
use crate::relay::upstream::Gate;
use crate::relay::upstream::attempts::DIAL;
use crate::relay::upstream::dial::{Attempt, dial};
use crate::relay::upstream::servers::take_next;
use crate::relay::upstream::statistics;

/// What a new client gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::relay) enum Assigned {
    /// A server, which was reserved.
    Server,
    /// The answer of `dummy`.
    Dummy,
    /// Nothing: the access list refuses the client, and there is no usable abuse server.
    Refused,
    /// Nothing: no server can be used.
    NoServer,
}

impl Relay<'_> {
    /// Adds a client, and chooses a server for it.
    pub(in crate::relay) fn begin(
        &mut self,
        socket: OwnedFd,
        unix: bool,
        key: ClientKey,
        port: u16,
        number: u32,
    ) {
        let is_sender = self.is_listed_sender(key);
        let slot = self.connections.pool.take();
        let connection = &mut self.connections[slot];
        connection.down = Endpoint::new(socket, unix);
        connection.state = ConnectionState::Connecting;
        (connection.number, connection.began) = (number, clock::precise());
        connection.key = Some(key);
        connection.port = port;
        if is_sender {
            connection.judged = Judged::HeaderDue;
        }
        self.begin_timings(slot);
        if self.settings.per_client.is_on() && !is_sender && !self.judge_client(slot, Watch::Due) {
            return;
        }
        if is_sender || self.first_step != FirstStep::Server {
            if self.watch_client(slot) {
                match self.first_step {
                    FirstStep::Hold => self.hold(slot, HoldReason::Paused),
                    FirstStep::Server | FirstStep::Preface => self.await_preface(slot),
                }
            }
            return;
        }
        if !self.assign_server(slot) {
            if matches!(
                self.connections[slot].state,
                ConnectionState::Waiting { .. }
                    | ConnectionState::Held(_)
                    | ConnectionState::Tarpit
            ) {
                self.watch_client(slot);
            }
        } else if self.watch_client(slot) {
            self.serve_client(slot);
        }
    }

    /// Chooses a server for a client whose preface is over.
    pub(in crate::relay) fn choose_server(&mut self, slot: u32) {
        if self.assign_server(slot) {
            self.serve_client(slot);
        }
    }

    /// Watches a client's socket. False: that failed, and the connection is closed.
    pub(in crate::relay) fn watch_client(&mut self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let name = ConnectionId { slot, generation: connection.generation, side: Side::Down };
        match watch(&self.poll, connection.down.socket.as_ref(), name) {
            Ok(()) => true,
            Err(error) => {
                self.close_for_shortage(slot, ShortageDuring::Watch, error);
                false
            }
        }
    }

    /// Serves a client according to its placement.
    pub(in crate::relay) fn serve_client(&mut self, slot: u32) {
        match self.connections[slot].target {
            Some(_) => self.attempts.newcomers.push(ConnectionId {
                slot,
                generation: self.connections[slot].generation,
                side: Side::Down,
            }),
            None => self.await_request(slot),
        }
    }

    /// Connects the clients of the last round to their servers. The events since then told which of
    /// them have already sent a request.
    pub(in crate::relay) fn on_newcomers(&mut self) {
        for index in 0..self.attempts.newcomers.len() {
            let Some(target) = self
                .connections
                .pool
                .named(self.attempts.newcomers[index])
                .and_then(|connection| connection.target)
            else {
                continue;
            };
            self.attempt(self.attempts.newcomers[index].slot, target);
        }
        self.attempts.newcomers.clear();
    }

    /// Enters a new client in the table, and chooses and reserves a server for it. False: the
    /// client gets nothing and is closed.
    fn assign_server(&mut self, slot: u32) -> bool {
        let connection = &self.connections[slot];
        let assigned =
            self.choose(slot, connection.key.unwrap_or(ClientKey::UNIX), connection.port);
        let is_served = matches!(assigned, Assigned::Server | Assigned::Dummy);
        if !is_served {
            self.close_unassigned(slot, assigned);
        }
        is_served
    }

    pub(in crate::relay) fn choose(&mut self, slot: u32, key: ClientKey, port: u16) -> Assigned {
        let (arrived, judged) = (self.connections[slot].client, self.connections[slot].judged);
        let farm = self.farm();
        let Relay { worker_table, settings, now, .. } = &*self;
        let tracking = u64::from(settings.tracking) * 1000;
        let is_listed = client_permitted(settings, key);
        let permitted = is_listed && !judged.is_beyond();
        let mut locked = worker_table.lock(key.bytes()).ok();
        let arrival = locked.as_mut().map(|table| match arrived == ClientRef::NOBODY {
            true => table.arrive(*now, tracking),
            // It was held, and this is no new connection.
            false => Arrival {
                client: arrived,
                recorded: table.recorded(*now, tracking),
                former: Occupant::TheClient,
            },
        });
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
        if let (Some(table), Some(arrival), Some(target)) = (&mut locked, arrival, taken)
            && !judged.is_beyond()
        {
            table.record(arrival.client, target.code());
        }
        let assigned = match (taken, permitted) {
            (Some(_), _) => Assigned::Server,
            (None, false) => Assigned::Refused,
            (None, true) if settings.dummy => Assigned::Dummy,
            (None, true) => Assigned::NoServer,
        };
        let is_locked = locked.is_some();
        drop(locked);
        let (examined, passed) = (farm.examined.get(), farm.passed_over.get());
        self.attempts.spend(examined);
        self.link.counters.refused += u64::from(!is_listed);
        let evicts = arrival.is_some_and(|arrival| arrival.former == Occupant::AnotherClient);
        self.link.counters.evictions += u64::from(evicts);
        let connection = &mut self.connections[slot];
        connection.client = arrival.map_or(arrived, |arrival| arrival.client);
        connection.target = taken;
        connection.placement = placement;
        if let Some(target) = taken {
            self.begin_route(slot, target);
        }
        self.report_table(is_locked);
        self.report_passed_over(passed);
        assigned
    }

    /// Closes a client that gets nothing.
    pub(in crate::relay) fn close_unassigned(&mut self, slot: u32, assigned: Assigned) {
        if assigned == Assigned::NoServer {
            return self.unserved(slot);
        }
        if let Judged::Beyond(exceeded) = self.connections[slot].judged {
            return self.stop_beyond(slot, exceeded, Watch::Done);
        }
        if self.debug.on(1) {
            let key = self.connections[slot].key.unwrap_or(ClientKey::UNIX);
            let list = self.settings.client_acl;
            self.debug.log(1, format_args!("client {key} is refused by access list {list}"));
        }
        self.finish(slot, Some(ConnectionEnd::RefusedAcl));
    }

    /// Reports problems with the shared table.
    fn report_table(&mut self, is_locked: bool) {
        if let Some(kept) = self.worker_table.take_rebuilt() {
            self.link.report(Event::TableRebuilt { kept });
        }
        if !is_locked {
            self.link.counters.lock_timeouts += 1;
            if self.link.may_report(Rated::LockStuck, self.now) {
                self.link.report(Event::LockStuck);
            }
        }
    }

    /// Connects to the reserved target. If the attempt fails at once, the next target is tried
    /// later, within the limits of a turn.
    pub(in crate::relay) fn attempt(&mut self, slot: u32, target: Target) {
        let row = self.row(target);
        match self.upstreams.gate(row, self.settings.pending_max) {
            Gate::Open => {}
            Gate::NextTurn => {
                let id = self.connections.pool.id(slot, Side::Up);
                return self.attempts.try_next_turn(id);
            }
            Gate::Shut => return self.pass_over(slot, target, Obstacle::Pending, None),
        }
        if self.lacks_port(slot, row) {
            return self.fail_over(slot);
        }
        self.worker_table.set_current(target.code());
        // A TLS handshake begins with pen's hello.
        let will_send =
            self.connections[slot].down.recv.is_readable() || self.settings.speaks_tls(target);
        self.note_attempt(slot, target);
        let Some(server) = self.settings.target(target) else {
            // It was removed from the settings meanwhile.
            return self.fail_over(slot);
        };
        self.connections[slot].dialled = statistics::stamp(clock::precise());
        match dial(
            server.address_at(self.connections[slot].route.position()),
            &self.settings,
            will_send,
        ) {
            Attempt::Pending(socket) => self.await_server(slot, target, socket, will_send),
            Attempt::Failed(fault, errno) => {
                self.attempts.spend(DIAL);
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
        let transport =
            if self.settings.speaks_tls(target) { Transport::Tls } else { Transport::Plain };
        let connection = &mut self.connections[slot];
        let nagle = if unix || self.settings.tcp_nodelay { Nagle::Off } else { Nagle::Unsent };
        connection.up = Endpoint::new(socket, unix);
        connection.up.transport = transport;
        connection.up.nagle = nagle;
        connection.up.withholds_acks = withholds_acks && !unix;
        connection.since_then = ServerSince::Same;
        let name = ConnectionId { slot, generation: connection.generation, side: Side::Up };
        if let Err(error) = watch(&self.poll, connection.up.socket.as_ref(), name) {
            return self.close_for_shortage(slot, ShortageDuring::Watch, error);
        }
        self.connections.start(slot, Timer::Connect, self.now);
        self.upstreams.begin(self.row(target));
        if self.debug.on(1) {
            match self.connections[slot].key {
                Some(key) => {
                    self.debug.log(1, format_args!("client {key} goes to server {}", target.code()))
                }
                None => {
                    self.debug.log(1, format_args!("an idler goes to server {}", target.code()))
                }
            }
        }
    }

    /// Handles an event on the socket of a pending connect.
    pub(in crate::relay) fn connect_progress(&mut self, slot: u32, event: &mio::event::Event) {
        // A hang-up alone comes from a server behind a Unix socket that has already answered and
        // closed.
        if event.is_error() {
            let errno =
                self.connections[slot].up.socket.as_ref().map(rustix::net::sockopt::socket_error);
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
        match self.connections[slot].target {
            Some(target) if self.is_for_tls(slot, target) => self.begin_securing(slot, target),
            Some(_) | None => self.connected(slot),
        }
    }

    /// Whether TLS follows a connect. The settings may only add it: a server that was dialled for
    /// TLS never gets clear text, whatever they say meanwhile.
    fn is_for_tls(&self, slot: u32, target: Target) -> bool {
        match self.connections[slot].up.transport {
            Transport::Tls => true,
            Transport::Plain => self.settings.speaks_tls(target),
        }
    }

    /// Begins to relay: a server is connected, and the TLS handshake with it is over if it has one.
    pub(in crate::relay) fn connected(&mut self, slot: u32) {
        self.end_connect(slot);
        let connection = &mut self.connections[slot];
        connection.placement = None;
        if let Some(timings) = &mut connection.timings {
            timings.connected(self.now);
        }
        let is_idler = connection.key.is_none();
        connection.state =
            if is_idler { ConnectionState::Idler } else { ConnectionState::Relaying };
        let dialled = connection.dialled;
        if let (Some(target), false) = (connection.target, connection.is_outdated()) {
            self.count_connect(target, dialled);
            self.on_connected(target);
            self.settle_route(slot, target);
        }
        if is_idler {
            self.connections[slot].since = self.now;
            send_waiting(&mut self.connections[slot].up);
            return self.drain_idler(slot);
        }
        self.count_reached(slot);
        self.connections.watch_silence(slot, self.now);
        self.send_header(slot);
        self.follow_http(slot);
        self.relay(slot, Side::Down);
        if self.connections[slot].state != ConnectionState::Relaying {
            return;
        }
        // Unless the client's first bytes have taken them along.
        send_waiting(&mut self.connections[slot].up);
        // The server's end may have come with its last message of the handshake.
        let recv = self.connections[slot].up.recv;
        if recv.is_readable() || recv == RecvState::Ended {
            self.relay(slot, Side::Up);
        }
    }
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
