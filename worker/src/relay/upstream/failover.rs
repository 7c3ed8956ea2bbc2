//! What follows when a server cannot be connected to: whose fault it is, which server is next, and
//! in which turn.
//!
//! Thousands of servers may fail at once, and thousands of clients with them. So a turn of the
//! event loop has a bound on the work that selection and failed attempts may be: what is left over
//! is done in the next turns, a step for each client in turn, and all other connections have theirs
//! in between.
//!
//! A client for whom nothing is left but a server with too many connects pending waits until one of
//! those ends, as long as a connect may take.

use pen_config::ids::{ClientKey, Target};
use pen_ipc::message::{ConnectFailure, Event, Obstacle, ShortageDuring};
use pen_table::Blacklist;
use rustix::io::Errno;

use crate::relay::connection::endpoint::End;
use crate::relay::connection::timer_queue::STEP;
use crate::relay::connection::{Name, Side, State};
use crate::relay::link::Rated;
use crate::relay::upstream::connect::take_next;
use crate::relay::upstream::dial::way;
use crate::relay::upstream::fault::{Call, Fault, classify};
use crate::relay::upstream::select::Placement;
use crate::relay::upstream::{Gate, Hindrance};
use crate::relay::{Relay, clock};

/// What a turn may spend on selection and failed attempts, in servers looked at (some 20 ns each):
/// a millisecond or two.
const TURN: u32 = 50_000;

/// What an attempt that fails at once costs in these.
pub const DIAL: u32 = 500;

impl Relay<'_> {
    /// Whether this turn has spent what it may: what can wait is done in the next one.
    pub(in crate::relay) fn is_exhausted(&self) -> bool {
        self.effort >= TURN
    }

    /// Whether there is work that was left to the next turn.
    pub(in crate::relay) fn has_retries(&self) -> bool {
        !self.retries.is_empty() || !self.next_turn.is_empty() || self.upstreams.has_due()
    }

    /// Goes on with those whose last attempt failed, one attempt each in turn, and with those who
    /// waited for a connect to end.
    pub(in crate::relay) fn on_retries(&mut self) {
        self.retries.extend(self.next_turn.drain(..));
        while !self.is_exhausted() {
            if let Some(name) = self.retries.pop_front() {
                let named = self
                    .pool
                    .named(name)
                    .filter(|connection| connection.state == State::Connecting);
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

    /// Has the target that was taken for a connection tried later in this turn, or in the next.
    fn try_later(&mut self, slot: u32) {
        self.retries.push_back(self.name_of(slot));
    }

    /// Has the target that was taken for a connection tried in the next turn.
    pub(in crate::relay) fn try_next_turn(&mut self, slot: u32) {
        self.next_turn.push(self.name_of(slot));
    }

    fn name_of(&self, slot: u32) -> Name {
        Name { slot, generation: self.pool[slot].generation, side: Side::Up }
    }

    /// An attempt failed at once.
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
            // Its other addresses may be of another family, or have ports left.
            Fault::Obstacle(Obstacle::Ports | Obstacle::Source)
                if self.next_address(slot, target, ConnectFailure::Errno(errno.raw_os_error())) =>
            {
                self.try_later(slot);
            }
            Fault::Obstacle(obstacle) => self.pass_over(slot, target, obstacle, Some(errno)),
            Fault::Machine => self.give_up(slot, ShortageDuring::Connect, errno),
        }
    }

    /// An address of a server failed: its next one is tried, or the server has failed.
    fn on_failure(&mut self, slot: u32, target: Target, reason: ConnectFailure) {
        if self.next_address(slot, target, reason) {
            return self.try_later(slot);
        }
        self.blame(target, reason);
        self.fail_over(slot);
    }

    /// Passes a server over that has not failed, and says so now and then.
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
                // The kernel's search has taken long.
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

    /// Whether a server is better not connected to, because no local port was free towards it a
    /// moment ago and the client may get another.
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

    /// Says now and then that a server is passed over by selection.
    pub(in crate::relay) fn tell_of_passed(&mut self, passed: Option<(Target, Obstacle)>) {
        if let Some((target, obstacle)) = passed {
            self.tell_of_obstacle(target, obstacle, None);
        }
    }

    /// A connect to a server has ended, or more may be pending: says if there is room for one more.
    pub(in crate::relay) fn reopen(&mut self, row: u32) {
        if self.upstreams.reopens(row, self.settings.pending_max) {
            self.worker_table.set_pending(row, false);
        }
    }

    /// No answer in time.
    pub(in crate::relay) fn connect_timed_out(&mut self, slot: u32) {
        self.connect_failed(slot, ConnectFailure::Timeout);
    }

    /// A connect that was under way failed: its socket closes before the next one is made. Its name
    /// passes to the next: the kernel reports a socket once per round, and this one has been.
    pub(in crate::relay) fn connect_failed(&mut self, slot: u32, failure: ConnectFailure) {
        let is_outdated = self.pool[slot].outdated;
        self.end_connect(slot);
        let connection = &mut self.pool[slot];
        connection.up = End::default();
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
        if connection.state != State::Connecting || !connection.links[STEP].is_queued() {
            return;
        }
        if let (Some(target), false) = (connection.target, connection.outdated) {
            let row = target.row(self.settings.table_size());
            self.upstreams.end(row);
            self.reopen(row);
        }
        self.connecting.leave(&mut self.pool, slot);
    }

    /// Takes the next server for a connection whose attempt failed, and has it tried; without one
    /// it is closed, or waits.
    pub(in crate::relay) fn fail_over(&mut self, slot: u32) {
        match self.another(slot) {
            Some(_) => self.try_later(slot),
            None => self.unserved(slot),
        }
    }

    /// Takes the next server after one that could not be used.
    fn another(&mut self, slot: u32) -> Option<Target> {
        self.release_target(slot);
        self.pool[slot].outdated = false;
        let mut placement = self.pool[slot].placement.take()?;
        let taken = self.take(slot, &mut placement);
        self.counters.failovers += u64::from(taken.is_some());
        self.pool[slot].placement = Some(placement);
        taken
    }

    /// Takes the next server of a placement that can be used now.
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

    /// Leaves a server that failed out for the blacklist time, and says so once.
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

    /// A server was connected to: if that was its probe, it is in use again.
    pub(in crate::relay) fn praise(&mut self, target: Target) {
        let row = target.row(self.settings.table_size());
        if self.upstreams.is_reached(row, self.now) {
            self.supervisor.tell(Event::Reached { server: target.code() }, &mut self.counters);
        }
        match self.worker_table.blacklist(row, self.now) {
            // Left out by somebody else meanwhile: that stands.
            Blacklist::Clear | Blacklist::Until(_) => {}
            Blacklist::Expired | Blacklist::Probed => {
                if self.worker_table.clear_blacklist(row) {
                    self.supervisor
                        .tell(Event::BackInUse { server: target.code() }, &mut self.counters);
                }
            }
        }
    }

    /// No server can be used. The client is closed, unless one server has nothing against it but
    /// too many connects pending.
    pub(in crate::relay) fn unserved(&mut self, slot: u32) {
        let connection = &self.pool[slot];
        let is_client = connection.key.is_some();
        if is_client && let Some(target) = connection.placement.as_ref().and_then(Placement::held) {
            let row = target.row(self.settings.table_size());
            let hindrance = self.upstreams.hindrance(row, self.settings.pending_max, self.now);
            if hindrance == Some(Hindrance::Pending) {
                self.tell_of_obstacle(target, Obstacle::Pending, None);
                if self.upstreams.wait(&mut self.pool, slot, row, self.now) {
                    self.pool[slot].state = State::Waiting;
                    return;
                }
            }
        }
        if is_client {
            self.count_unserved();
        }
        self.finish(slot);
    }

    /// Counts a client that no server could be used for, and says so now and then.
    fn count_unserved(&mut self) {
        self.counters.unserved += 1;
        self.tell_unserved();
    }

    /// Tells of clients that no server could be used for, unless some were told of just now.
    pub(in crate::relay) fn tell_unserved(&mut self) {
        if self.counters.unserved > self.unserved_told
            && self.supervisor.may_tell(Rated::Unserved, self.now)
        {
            let clients = self.counters.unserved
                - std::mem::replace(&mut self.unserved_told, self.counters.unserved);
            self.supervisor.tell(Event::Unserved { clients }, &mut self.counters);
        }
    }

    /// Takes a connection out that waits for another's connect to end.
    pub(in crate::relay) fn leave_waiting(&mut self, slot: u32) {
        let held = self.pool[slot].placement.as_ref().and_then(Placement::held);
        if let Some(target) = held {
            self.upstreams.leave(&mut self.pool, slot, target.row(self.settings.table_size()));
        }
    }

    /// A connect to a server has ended: those who wait for that go on, as far as they can.
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

    /// Has a connection that waits go on, if its server can be used.
    fn resume_waiting(&mut self, slot: u32) {
        self.leave_waiting(slot);
        self.pool[slot].state = State::Connecting;
        let Some(mut placement) = self.pool[slot].placement.take() else {
            return self.finish(slot);
        };
        placement.retry_held();
        let taken = self.take(slot, &mut placement);
        self.pool[slot].placement = Some(placement);
        match taken {
            // Not later: the gate is open now.
            Some(target) => self.attempt(slot, target),
            None => self.unserved(slot),
        }
    }

    /// A connection has waited for as long as a connect may take.
    pub(in crate::relay) fn waiting_ends(&mut self, slot: u32) {
        self.count_unserved();
        self.finish(slot);
    }

    /// Closes a client because this machine ran short; no server is to blame and none is tried.
    pub(in crate::relay) fn give_up(&mut self, slot: u32, during: ShortageDuring, errno: Errno) {
        self.counters.shortages += 1;
        self.short_of(during, errno);
        self.finish(slot);
    }
}
