//! Failed connect attempts: the cause, the next server, and the turn in which it is tried.
//!
//! If the only server left for a client has too many pending connects, the client waits until one
//! of them ends. It waits at most as long as a connect may take.

use pen_config::ids::{ClientKey, Target};
use pen_ipc::message::{ConnectFailure, Event, Obstacle, ShortageDuring};
use pen_ipc::server_tls::TlsFault;
use pen_table::Blacklist;
use rustix::io::Errno;

use crate::clock;
use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::{ConnectionState, HoldReason, Judged, ServerSince, Side, Timer};
use crate::relay::limits::Watch;
use crate::relay::select::Placement;
use crate::relay::select::farm::Hindrance;
use crate::relay::upstream::Gate;
use crate::relay::upstream::attempts::{DIAL, TURN};
use crate::relay::upstream::dial::way;
use crate::relay::upstream::fault::{Call, Fault, classify};
use crate::relay::upstream::servers::take_next;
use crate::relay::upstream::statistics;

impl Relay<'_> {
    /// Continues connections whose last attempt failed, one attempt each in turn, and those that
    /// waited for a connect to end.
    pub(in crate::relay) fn on_retries(&mut self) {
        self.attempts.begin_retries();
        while !self.attempts.is_exhausted() {
            if let Some(name) = self.attempts.next_retry() {
                let named = self
                    .connections
                    .pool
                    .named(name)
                    .filter(|connection| connection.state == ConnectionState::Connecting)
                    // It may have waited meanwhile, and be tried already.
                    .filter(|connection| connection.up.socket.is_none());
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
        self.attempts.try_later(self.connections.pool.id(slot, Side::Up));
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
            Fault::Machine => self.close_for_shortage(slot, ShortageDuring::Connect, errno),
        }
    }

    /// Handles a failed address of a server: its next address is tried, or the server has failed.
    fn on_failure(&mut self, slot: u32, target: Target, reason: ConnectFailure) {
        if let Some(timings) = &mut self.connections[slot].timings {
            timings.attempt_failed(reason);
        }
        self.worker_table.count_failure(self.row(target), statistics::class(reason));
        if self.next_address(slot, target, reason) {
            return self.try_later(slot);
        }
        self.on_server_failed(target, reason);
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
        let row = self.row(target);
        match obstacle {
            Obstacle::Ports => {
                self.upstreams.lacks_port(row, self.now);
                // The kernel's search for a port was long.
                self.attempts.spend(TURN);
            }
            Obstacle::Source | Obstacle::Backlog | Obstacle::Limit => {}
            Obstacle::Pending => {
                if let Some(placement) = &mut self.connections[slot].placement {
                    placement.hold(target);
                }
            }
        }
        self.worker_table.abandon_probe(row, self.now);
        self.report_obstacle(target, obstacle, errno);
        self.fail_over(slot);
    }

    /// Whether to avoid a connect to a server because no local port was free a short time ago and
    /// another server may serve the client.
    pub(in crate::relay) fn lacks_port(&mut self, slot: u32, row: u32) -> bool {
        let connection = &mut self.connections[slot];
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

    fn report_obstacle(&mut self, target: Target, obstacle: Obstacle, errno: Option<Errno>) {
        let row = self.row(target);
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
        if self.upstreams.note_passed_over(row, self.now) {
            let errno = errno.map_or(0, Errno::raw_os_error);
            self.link.report(Event::PassedOver { server: target.code(), obstacle, errno });
        }
    }

    /// Reports, at a limited rate, a server that selection passed over.
    pub(in crate::relay) fn report_passed_over(&mut self, passed: Option<(Target, Obstacle)>) {
        if let Some((target, obstacle)) = passed {
            self.report_obstacle(target, obstacle, None);
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
        if self.connections[slot].state == ConnectionState::Securing {
            return self.securing_failed(slot, TlsFault::Timeout);
        }
        self.connect_failed(slot, ConnectFailure::Timeout);
    }

    /// Handles a failed pending connect. Its socket closes before the next one is made. The next
    /// socket gets the same name: the kernel reports a socket once per round, and this one was
    /// reported.
    pub(in crate::relay) fn connect_failed(&mut self, slot: u32, failure: ConnectFailure) {
        let since_then = self.connections[slot].since_then;
        let target = self.connections[slot].target;
        if let (Some(target), ServerSince::Rerouted) = (target, since_then) {
            // Where it is now has not been tried.
            return self.dial_again(slot, target);
        }
        self.end_connect(slot);
        self.drop_server(slot);
        let target = match (target, since_then) {
            (Some(target), ServerSince::Same | ServerSince::Rerouted) => target,
            (Some(_), ServerSince::Replaced) | (None, _) => return self.fail_over(slot),
        };
        match failure {
            ConnectFailure::Timeout => self.on_failure(slot, target, failure),
            ConnectFailure::Tls(_) => {
                self.attempts.spend(DIAL);
                self.on_failure(slot, target, failure);
            }
            ConnectFailure::Errno(errno) => {
                let position = self.connections[slot].route.position();
                let errno = Errno::from_raw_os_error(errno);
                let server = self.settings.target(target);
                let fault = server.map(|server| {
                    classify(Call::Connect, way(server.address_at(position), &self.settings), errno)
                });
                self.attempts.spend(DIAL);
                self.on_fault(slot, target, fault.unwrap_or(Fault::Server), errno);
            }
        }
    }

    /// Gives up a connection to a server, and makes another one to the same server.
    pub(in crate::relay) fn dial_again(&mut self, slot: u32, target: Target) {
        self.end_connect(slot);
        self.drop_server(slot);
        self.connections[slot].since_then = ServerSince::Same;
        self.begin_route(slot, target);
        self.try_later(slot);
    }

    /// Closes the socket of a connect that has failed, and frees what came from it.
    fn drop_server(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        connection.up = Endpoint::default();
        connection.state = ConnectionState::Connecting;
        self.io.note_unfinished(connection, self.now);
    }

    /// A connect is no longer under way.
    pub(in crate::relay) fn end_connect(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        if connection.timer != Some(Timer::Connect) {
            return;
        }
        if let (Some(target), false) = (connection.target, connection.is_outdated()) {
            let row = self.row(target);
            self.upstreams.end(row);
            self.reopen(row);
        }
        self.connections.stop(slot);
    }

    /// Reserves the next server for a connection whose attempt failed, and has it tried. Without a
    /// server, the connection is closed or waits.
    pub(in crate::relay) fn fail_over(&mut self, slot: u32) {
        match self.reserve_next(slot) {
            Some(_) => self.try_later(slot),
            None => self.unserved(slot),
        }
    }

    /// Reserves the next server after one that could not be used.
    pub(in crate::relay::upstream) fn reserve_next(&mut self, slot: u32) -> Option<Target> {
        let unusable = self.connections[slot].counted_target();
        self.release_target(slot);
        self.connections[slot].since_then = ServerSince::Same;
        let mut placement = self.connections[slot].placement.take()?;
        let taken = self.take(slot, &mut placement);
        if taken.is_some() {
            self.count_failover(unusable);
        }
        self.connections[slot].placement = Some(placement);
        taken
    }

    /// Reserves the next usable server of a placement.
    fn take(&mut self, slot: u32, placement: &mut Placement) -> Option<Target> {
        let farm = self.farm();
        let client = self.connections[slot].key.unwrap_or(ClientKey::UNIX);
        let taken = take_next(placement, &self.settings, &farm, client);
        let (examined, passed) = (farm.examined.get(), farm.passed_over.get());
        self.attempts.spend(examined);
        self.report_passed_over(passed);
        let connection = &mut self.connections[slot];
        connection.target = taken;
        if let Some(target) = taken {
            self.record_server(slot, target.code());
            self.begin_route(slot, target);
        }
        taken
    }

    /// Records a server's code for the client of a connection: its next connections go there. A
    /// connection beyond a limit is not where its client belongs, so nothing is recorded for it.
    pub(in crate::relay::upstream) fn record_server(&self, slot: u32, server: i32) {
        let connection = &self.connections[slot];
        if !connection.judged.is_beyond() {
            self.worker_table.record(connection.client, server);
        }
    }

    /// Blacklists a failed server for the blacklist time, and reports that once.
    pub(in crate::relay) fn on_server_failed(&mut self, target: Target, reason: ConnectFailure) {
        self.link.counters.failed_connects += 1;
        let seconds = self.settings.blacklist;
        let row = self.row(target);
        self.worker_table.note_failure(row, clock::unix_time().0, reason.code());
        if self.debug.on(1) {
            let why = match reason {
                ConnectFailure::Errno(errno) => {
                    std::io::Error::from_raw_os_error(errno).to_string()
                }
                ConnectFailure::Timeout => {
                    format!("no answer within {} s", self.settings.connect_timeout)
                }
                ConnectFailure::Tls(fault) => fault.to_string(),
            };
            self.debug.log(1, format_args!("server {} failed: {why}", target.code()));
        }
        if seconds == 0 {
            if self.link.may_report_failed(target.code(), self.now) {
                let event = Event::Blacklisted { server: target.code(), seconds, reason };
                self.link.report(event);
            }
            return;
        }
        let until = self.now + u64::from(seconds) * 1000;
        let before = self.worker_table.blacklist(row, self.now);
        if matches!(before, Blacklist::Until(longer) if longer >= until) {
            // An operator took it out of service meanwhile.
            return;
        }
        if self.worker_table.set_blacklist(row, until, clock::unix_time().0) {
            let event = Event::Blacklisted { server: target.code(), seconds, reason };
            self.link.report(event);
        }
    }

    /// Notes a successful connect to a server: if it was the server's probe, the server is in use
    /// again.
    pub(in crate::relay) fn on_connected(&mut self, target: Target) {
        let row = self.row(target);
        if self.upstreams.is_reached(row, self.now) {
            self.link.report(Event::Reached { server: target.code() });
        }
        match self.worker_table.blacklist(row, self.now) {
            // It was blacklisted again meanwhile: that stays.
            Blacklist::Clear | Blacklist::Until(_) => {}
            Blacklist::Expired | Blacklist::Probed => {
                if self.worker_table.return_to_service(row, self.now) {
                    self.link.report(Event::BackInUse { server: target.code() });
                }
            }
        }
    }

    /// Handles a client without a usable server. It is closed, unless a server's only obstacle is
    /// too many pending connects, or the settings let it wait (`hold`).
    pub(in crate::relay) fn unserved(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        if let Judged::Beyond(exceeded) = connection.judged {
            return self.stop_beyond(slot, exceeded, Watch::Done);
        }
        let is_client = connection.key.is_some();
        if is_client && let Some(target) = connection.placement.as_ref().and_then(Placement::held) {
            let row = self.row(target);
            let hindrance = self.upstreams.hindrance(row, self.settings.pending_max, self.now);
            if hindrance == Some(Hindrance::Pending) {
                self.report_obstacle(target, Obstacle::Pending, None);
                if self.upstreams.wait(&mut self.connections.pool, slot, row, self.now) {
                    return;
                }
            }
        }
        if is_client {
            if self.may_hold(slot) {
                return self.hold(slot, HoldReason::NoServer);
            }
            self.count_unserved();
        }
        self.unserved_ends(slot);
    }

    /// Closes a client without a usable server.
    pub(in crate::relay) fn unserved_ends(&mut self, slot: u32) {
        let end = self.connections[slot].timings.as_ref().map(|timings| timings.unserved());
        self.finish(slot, end);
    }

    /// Counts a client without a usable server, and reports that at a limited rate.
    pub(in crate::relay) fn count_unserved(&mut self) {
        self.link.counters.unserved += 1;
        let event = Event::Unserved { clients: 1 };
        self.link.report_counted(event, self.now);
    }

    /// Continues the connections that wait for a server, as far as possible, after a connect to it
    /// has ended.
    fn serve_waiting(&mut self, row: u32) {
        let most = self.settings.pending_max;
        while let Some(slot) = self.upstreams.first_waiting(row) {
            match self.upstreams.gate(row, most) {
                Gate::Open if self.attempts.is_exhausted() => return self.upstreams.is_due(row),
                Gate::Open => self.resume_waiting(slot),
                // Another of its connects will end.
                Gate::NextTurn | Gate::Shut => return,
            }
        }
    }

    /// Continues a waiting connection, if its server can be used.
    fn resume_waiting(&mut self, slot: u32) {
        self.upstreams.leave(&mut self.connections.pool, slot);
        let Some(mut placement) = self.connections[slot].placement.take() else {
            return self.unserved_ends(slot);
        };
        placement.retry_held();
        let taken = self.take(slot, &mut placement);
        self.connections[slot].placement = Some(placement);
        match taken {
            // Not later: a connect may begin now.
            Some(target) => self.attempt(slot, target),
            None => self.unserved(slot),
        }
    }

    /// Ends the waiting of a connection after the time that a connect may take.
    pub(in crate::relay) fn waiting_ends(&mut self, slot: u32) {
        self.count_unserved();
        self.finish(slot, Some(ConnectionEnd::QueueTimeout));
    }

    /// Closes a client because this machine ran short of a resource. No server is at fault, and
    /// none is tried.
    pub(in crate::relay) fn close_for_shortage(
        &mut self,
        slot: u32,
        during: ShortageDuring,
        errno: Errno,
    ) {
        self.link.counters.shortages += 1;
        self.on_shortage(during, errno);
        self.finish(slot, Some(ConnectionEnd::Shortage));
    }
}
