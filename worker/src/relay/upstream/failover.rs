//! Failed connect attempts: the cause, the next server, and the turn in which it is tried.
//!
//! Thousands of servers may fail at once, each with many clients. So each turn of the event loop
//! has a bound on the work for selection and failed attempts. The rest of that work is done in the
//! next turns, one step for each client in turn, and all other connections are served in between.
//!
//! If the only server left for a client has too many pending connects, the client waits until one
//! of them ends. It waits at most as long as a connect may take.

use pen_config::ids::{ClientKey, Target};
use pen_ipc::message::{ConnectFailure, Event, Obstacle, ShortageDuring};
use pen_table::Blacklist;
use rustix::io::Errno;

use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::timer_queue::STEP;
use crate::relay::connection::{ConnectionId, ConnectionState, Side};
use crate::relay::link::Rated;
use crate::relay::upstream::connect::take_next;
use crate::relay::upstream::dial::way;
use crate::relay::upstream::fault::{Call, Fault, classify};
use crate::relay::upstream::select::Placement;
use crate::relay::upstream::{Gate, Hindrance};
use crate::relay::{Relay, clock};

/// Bound for the work of selection and failed attempts in one turn, in servers examined (some 20 ns
/// each). This is one or two milliseconds.
const TURN: u32 = 50_000;

/// The cost of an attempt that fails at once, in servers examined.
pub const DIAL: u32 = 500;

impl Relay<'_> {
    /// Whether this turn has used up its bound: work that can wait is done in the next turn.
    pub(in crate::relay) fn is_exhausted(&self) -> bool {
        self.effort >= TURN
    }

    /// Whether work is left for the next turn.
    pub(in crate::relay) fn has_retries(&self) -> bool {
        !self.retries.is_empty() || !self.next_turn.is_empty() || self.upstreams.has_due()
    }

    /// Continues connections whose last attempt failed, one attempt each in turn, and those that
    /// waited for a connect to end.
    pub(in crate::relay) fn on_retries(&mut self) {
        self.retries.extend(self.next_turn.drain(..));
        while !self.is_exhausted() {
            if let Some(name) = self.retries.pop_front() {
                let named = self
                    .pool
                    .named(name)
                    .filter(|connection| connection.state == ConnectionState::Connecting);
                if let Some(target) = named.and_then(|connection| connection.target) {
                    self.attempt(name.slot, target);
                }
            } else if let Some(row) = self.upstreams.next_due() {
                self.serve_waiting(row);
            } else {
                return;
            }
        }
    }

    /// Makes the reserved target of a connection be tried later in this turn, or in the next.
    fn try_later(&mut self, slot: u32) {
        self.retries.push_back(self.name_of(slot));
    }

    /// Makes the reserved target of a connection be tried in the next turn.
    pub(in crate::relay) fn try_next_turn(&mut self, slot: u32) {
        self.next_turn.push(self.name_of(slot));
    }

    fn name_of(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.pool[slot].generation, side: Side::Up }
    }

    /// Handles an attempt that failed at once.
    pub(in crate::relay) fn on_fault(
        &mut self,
        slot: u32,
        target: Target,
        fault: Fault,
        errno: Errno,
    ) {
        match fault {
            Fault::Server => {
                self.on_failure(slot, target, ConnectFailure::Errno(errno.raw_os_error()))
            }
            // Its other addresses may be of another family, or have free ports.
            Fault::Obstacle(Obstacle::Ports | Obstacle::Source)
                if self.next_address(slot, target, ConnectFailure::Errno(errno.raw_os_error())) =>
            {
                self.try_later(slot);
            }
            Fault::Obstacle(obstacle) => self.pass_over(slot, target, obstacle, Some(errno)),
            Fault::Machine => self.give_up(slot, ShortageDuring::Connect, errno),
        }
    }

    /// Handles a failed address of a server: its next address is tried, or the server has failed.
    fn on_failure(&mut self, slot: u32, target: Target, reason: ConnectFailure) {
        if self.next_address(slot, target, reason) {
            return self.try_later(slot);
        }
        self.blame(target, reason);
        self.fail_over(slot);
    }

    /// Passes over a server that has not failed, and reports that at a limited rate.
    pub(in crate::relay) fn pass_over(
        &mut self,
        slot: u32,
        target: Target,
        obstacle: Obstacle,
        errno: Option<Errno>,
    ) {
        let row = target.row(self.settings.table_size());
        match obstacle {
            Obstacle::Ports => {
                self.upstreams.lacks_port(row, self.now);
                // The kernel's search for a port was long.
                self.effort += TURN;
            }
            Obstacle::Source | Obstacle::Backlog | Obstacle::Limit => {}
            Obstacle::Pending => {
                if let Some(placement) = &mut self.pool[slot].placement {
                    placement.hold(target);
                }
            }
        }
        self.worker_table.abandon_probe(row, self.now);
        self.tell_of_obstacle(target, obstacle, errno);
        self.fail_over(slot);
    }

    /// Whether to avoid a connect to a server because no local port was free a short time ago and
    /// another server may serve the client.
    pub(in crate::relay) fn lacks_port(&mut self, slot: u32, row: u32) -> bool {
        let connection = &mut self.pool[slot];
        let lacks = self.upstreams.hindrance(row, self.settings.pending_max, self.now)
            == Some(Hindrance::Ports);
        match (&mut connection.placement, connection.target) {
            (Some(placement), Some(target)) if lacks && !placement.is_over() => {
                placement.hold(target);
                true
            }
            (_, _) => false,
        }
    }

    fn tell_of_obstacle(&mut self, target: Target, obstacle: Obstacle, errno: Option<Errno>) {
        let row = target.row(self.settings.table_size());
        match obstacle {
            Obstacle::Pending => {
                if self.upstreams.shut(row) {
                    self.worker_table.set_pending(row, true);
                }
            }
            Obstacle::Ports | Obstacle::Source | Obstacle::Backlog => {
                self.upstreams.await_connect(row)
            }
            Obstacle::Limit => {}
        }
        if self.upstreams.may_tell(row, self.now) {
            let errno = errno.map_or(0, Errno::raw_os_error);
            self.supervisor.tell(
                Event::PassedOver { server: target.code(), obstacle, errno },
                &mut self.counters,
            );
        }
    }

    /// Reports, at a limited rate, a server that selection passed over.
    pub(in crate::relay) fn tell_of_passed(&mut self, passed: Option<(Target, Obstacle)>) {
        if let Some((target, obstacle)) = passed {
            self.tell_of_obstacle(target, obstacle, None);
        }
    }

    /// After a connect has ended or the limit was raised: reports if there is room for one more
    /// connect.
    pub(in crate::relay) fn reopen(&mut self, row: u32) {
        if self.upstreams.reopens(row, self.settings.pending_max) {
            self.worker_table.set_pending(row, false);
        }
    }

    /// Handles a connect without an answer in time.
    pub(in crate::relay) fn connect_timed_out(&mut self, slot: u32) {
        self.connect_failed(slot, ConnectFailure::Timeout);
    }

    /// Handles a failed pending connect. Its socket closes before the next one is made. The next
    /// socket gets the same name: the kernel reports a socket once per round, and this one was
    /// reported.
    pub(in crate::relay) fn connect_failed(&mut self, slot: u32, failure: ConnectFailure) {
        let is_outdated = self.pool[slot].outdated;
        self.end_connect(slot);
        let connection = &mut self.pool[slot];
        connection.up = Endpoint::default();
        let Some(target) = connection.target.filter(|_| !is_outdated) else {
            return self.fail_over(slot);
        };
        match failure {
            ConnectFailure::Timeout => self.on_failure(slot, target, failure),
            ConnectFailure::Errno(errno) => {
                let position = self.pool[slot].route.position();
                let errno = Errno::from_raw_os_error(errno);
                let server = self.settings.target(target);
                let fault = server.map(|server| {
                    classify(Call::Connect, way(server.address_at(position), &self.settings), errno)
                });
                self.effort += DIAL;
                self.on_fault(slot, target, fault.unwrap_or(Fault::Server), errno);
            }
        }
    }

    /// A connect is no longer under way.
    pub(in crate::relay) fn end_connect(&mut self, slot: u32) {
        let connection = &self.pool[slot];
        if connection.state != ConnectionState::Connecting || !connection.links[STEP].is_queued() {
            return;
        }
        if let (Some(target), false) = (connection.target, connection.outdated) {
            let row = target.row(self.settings.table_size());
            self.upstreams.end(row);
            self.reopen(row);
        }
        self.connecting.leave(&mut self.pool, slot);
    }

    /// Reserves the next server for a connection whose attempt failed, and has it tried. Without a
    /// server, the connection is closed or waits.
    pub(in crate::relay) fn fail_over(&mut self, slot: u32) {
        match self.another(slot) {
            Some(_) => self.try_later(slot),
            None => self.unserved(slot),
        }
    }

    /// Reserves the next server after one that could not be used.
    fn another(&mut self, slot: u32) -> Option<Target> {
        self.release_target(slot);
        self.pool[slot].outdated = false;
        let mut placement = self.pool[slot].placement.take()?;
        let taken = self.take(slot, &mut placement);
        self.counters.failovers += u64::from(taken.is_some());
        self.pool[slot].placement = Some(placement);
        taken
    }

    /// Reserves the next usable server of a placement.
    fn take(&mut self, slot: u32, placement: &mut Placement) -> Option<Target> {
        let farm = self.farm();
        let client = self.pool[slot].key.unwrap_or(ClientKey::UNIX);
        let taken = take_next(placement, &self.settings, &farm, client);
        let (looks, passed) = (farm.looks.get(), farm.passed.get());
        self.effort += looks;
        self.tell_of_passed(passed);
        let connection = &mut self.pool[slot];
        connection.target = taken;
        if let Some(target) = taken {
            self.worker_table.record(connection.client, target.code());
            self.begin_route(slot, target);
        }
        taken
    }

    /// Blacklists a failed server for the blacklist time, and reports that once.
    fn blame(&mut self, target: Target, reason: ConnectFailure) {
        self.counters.failed_connects += 1;
        let seconds = self.settings.blacklist;
        let row = target.row(self.settings.table_size());
        self.worker_table.note_failure(row, clock::unix_time().0, reason.code());
        if self.debug.on(1) {
            let why = match reason {
                ConnectFailure::Errno(errno) => {
                    std::io::Error::from_raw_os_error(errno).to_string()
                }
                ConnectFailure::Timeout => {
                    format!("no answer within {} s", self.settings.connect_timeout)
                }
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
        if matches!(self.worker_table.blacklist(row, self.now), Blacklist::Until(longer) if longer >= until)
        {
            // An operator took it out of service meanwhile.
            return;
        }
        if self.worker_table.set_blacklist(row, until, clock::unix_time().0) {
            let event = Event::Blacklisted { server: target.code(), seconds, reason };
            self.supervisor.tell(event, &mut self.counters);
        }
    }

    /// Notes a successful connect to a server: if it was the server's probe, the server is in use
    /// again.
    pub(in crate::relay) fn praise(&mut self, target: Target) {
        let row = target.row(self.settings.table_size());
        if self.upstreams.is_reached(row, self.now) {
            self.supervisor.tell(Event::Reached { server: target.code() }, &mut self.counters);
        }
        match self.worker_table.blacklist(row, self.now) {
            // It was blacklisted again meanwhile: that stays.
            Blacklist::Clear | Blacklist::Until(_) => {}
            Blacklist::Expired | Blacklist::Probed => {
                if self.worker_table.clear_blacklist(row) {
                    self.supervisor
                        .tell(Event::BackInUse { server: target.code() }, &mut self.counters);
                }
            }
        }
    }

    /// Handles a client without a usable server. It is closed, unless a server's only obstacle is
    /// too many pending connects.
    pub(in crate::relay) fn unserved(&mut self, slot: u32) {
        let connection = &self.pool[slot];
        let is_client = connection.key.is_some();
        if is_client && let Some(target) = connection.placement.as_ref().and_then(Placement::held) {
            let row = target.row(self.settings.table_size());
            let hindrance = self.upstreams.hindrance(row, self.settings.pending_max, self.now);
            if hindrance == Some(Hindrance::Pending) {
                self.tell_of_obstacle(target, Obstacle::Pending, None);
                if self.upstreams.wait(&mut self.pool, slot, row, self.now) {
                    self.pool[slot].state = ConnectionState::Waiting;
                    return;
                }
            }
        }
        if is_client {
            self.count_unserved();
        }
        self.finish(slot);
    }

    /// Counts a client without a usable server, and reports that at a limited rate.
    fn count_unserved(&mut self) {
        self.counters.unserved += 1;
        self.tell_unserved();
    }

    /// Reports clients without a usable server, unless such a report was sent just now.
    pub(in crate::relay) fn tell_unserved(&mut self) {
        if self.counters.unserved > self.unserved_told
            && self.supervisor.may_tell(Rated::Unserved, self.now)
        {
            let clients = self.counters.unserved
                - std::mem::replace(&mut self.unserved_told, self.counters.unserved);
            self.supervisor.tell(Event::Unserved { clients }, &mut self.counters);
        }
    }

    /// Removes a connection that waits for another's connect to end.
    pub(in crate::relay) fn leave_waiting(&mut self, slot: u32) {
        let held = self.pool[slot].placement.as_ref().and_then(Placement::held);
        if let Some(target) = held {
            self.upstreams.leave(&mut self.pool, slot, target.row(self.settings.table_size()));
        }
    }

    /// Continues the connections that wait for a server, as far as possible, after a connect to it
    /// has ended.
    fn serve_waiting(&mut self, row: u32) {
        let most = self.settings.pending_max;
        while let Some(slot) = self.upstreams.first_waiting(row) {
            match self.upstreams.gate(row, most) {
                Gate::Open if self.is_exhausted() => return self.upstreams.is_due(row),
                Gate::Open => self.resume_waiting(slot),
                // Another of its connects will end.
                Gate::NextTurn | Gate::Shut => return,
            }
        }
    }

    /// Continues a waiting connection, if its server can be used.
    fn resume_waiting(&mut self, slot: u32) {
        self.leave_waiting(slot);
        self.pool[slot].state = ConnectionState::Connecting;
        let Some(mut placement) = self.pool[slot].placement.take() else {
            return self.finish(slot);
        };
        placement.retry_held();
        let taken = self.take(slot, &mut placement);
        self.pool[slot].placement = Some(placement);
        match taken {
            // Not later: a connect may begin now.
            Some(target) => self.attempt(slot, target),
            None => self.unserved(slot),
        }
    }

    /// Ends the waiting of a connection after the time that a connect may take.
    pub(in crate::relay) fn waiting_ends(&mut self, slot: u32) {
        self.count_unserved();
        self.finish(slot);
    }

    /// Closes a client because this machine ran short of a resource. No server is at fault, and
    /// none is tried.
    pub(in crate::relay) fn give_up(&mut self, slot: u32, during: ShortageDuring, errno: Errno) {
        self.counters.shortages += 1;
        self.short_of(during, errno);
        self.finish(slot);
    }
}
