//! Limits per client: whether a client may have one connection more, and what becomes of those that
//! it may not have.
//!
//! A connection is judged once, as soon as its client's address is known: when it is accepted, or
//! after the PROXY header of a listed sender. That is before TLS and before a server is chosen. The
//! counts are in the shared table, so they are those of all workers.
//!
//! With `abuse_over`, the abuse server gets a connection beyond a limit. If there is none that can
//! be used, it is kept open with `tarpit`: nothing is read from it, nothing is sent, and its
//! receive buffer is as small as the kernel allows. Otherwise, or without room, it is reset. It
//! never waits for a server, so the abuse server gets none in a pause.

use pen_config::ids::ClientKey;
use pen_config::per_client::PerClient;
use pen_config::settings::Settings;
use pen_ipc::message::{Event, LimitsFault, PerClientLimit};
use pen_table::{Exceeded, NetArrival, NetLimits, Rate, Telling, Unchecked};

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::reset_on_close;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::timers::{Queue, Step};
use crate::relay::connection::{ConnectionState, FirstStep, Judged, Piece};

/// The part of the connections under `-x` that may be kept open and silent.
const TARPIT_PART: u32 = 4;

/// Bytes of the receive buffer of a connection that is kept open and silent. The kernel raises it
/// to its least.
const SMALLEST_BUFFER: usize = 1;

/// Most of these connections whose time ends in a turn of the event loop.
const MOST: u32 = if cfg!(test) { 3 } else { 512 };

/// The connections of a worker that are kept open and silent.
#[derive(Debug, Default)]
pub struct Tarpit {
    /// In the order in which they came.
    queue: Queue<Step>,
    count: u32,
}

impl Tarpit {
    /// How many they are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// When the first connection will have been there for so many seconds.
    pub fn due(&self, pool: &Pool, seconds: u32) -> Option<u64> {
        self.queue.next_deadline(pool, u64::from(seconds) * 1000)
    }

    /// The next connection that has been there for so many seconds, unless so many `ended` in this
    /// turn that it must wait for the next one.
    fn next_due(&self, pool: &Pool, seconds: u32, now: u64, ended: u32) -> Option<u32> {
        let due = || self.queue.due(pool, u64::from(seconds) * 1000, now);
        (ended < MOST).then(due).flatten()
    }
}

impl Relay<'_> {
    /// Makes room in the table for what limits count.
    pub(in crate::relay) fn prepare_limits(&self) {
        if self.settings.per_client.is_on() {
            self.worker_table.want_nets(self.settings.connections_max);
        }
    }

    /// Whether a client's connection goes on to a server. Otherwise it was reset, or is kept open
    /// and silent. To be called if there is a limit, once its client is known.
    pub(in crate::relay) fn judge_client(&mut self, slot: u32, watch: Watch) -> bool {
        let connection = &self.connections[slot];
        let (number, limits) = (connection.number, self.settings.per_client);
        let Some(key) = connection.key else { return true };
        if limits.is_unlimited(&self.settings.acls, key) {
            return true;
        }
        let net = limits.net.key(key);
        match self.worker_table.arrive_in_net(number, net, of_net(&limits), self.now) {
            NetArrival::Within => true,
            NetArrival::Counted => {
                self.connections[slot].judged = Judged::Counted;
                true
            }
            NetArrival::Unchecked(why) => {
                let why = match why {
                    Unchecked::NoSlot => LimitsFault::NoPlace,
                    Unchecked::LockStuck => LimitsFault::LockStuck,
                };
                self.link.counters.limits_unchecked += 1;
                self.link.report_counted(Event::LimitsUnchecked { clients: 1, why }, self.now);
                true
            }
            NetArrival::Beyond(exceeded, telling) => {
                self.tell_beyond(key, exceeded, telling);
                self.connections[slot].judged = Judged::Beyond(exceeded);
                self.treat_beyond(slot, exceeded, watch)
            }
        }
    }

    /// Counts a connection beyond a limit, and reports its client.
    fn tell_beyond(&mut self, key: ClientKey, exceeded: Exceeded, telling: Telling) {
        let limits = self.settings.per_client;
        let counters = &mut self.link.counters;
        let limit = match (exceeded, limits.rate) {
            (Exceeded::Rate, Some(rate)) => {
                counters.beyond_rate += 1;
                PerClientLimit::Rate { connections: rate.connections, seconds: rate.seconds }
            }
            (Exceeded::Connections | Exceeded::Rate, _) => {
                counters.beyond_max += 1;
                PerClientLimit::Connections { most: limits.max }
            }
        };
        if self.debug.on(1) {
            let net = limits.net.shown(key);
            self.debug.log(1, format_args!("client {key} is beyond {}", setting(exceeded, &net)));
        }
        match telling {
            Telling::Now => {
                let client = limits.net.first(key).bytes();
                let length = limits.net.length(key);
                let event = Event::BeyondLimit { client, length, limit, others: 0 };
                self.link.report_counted(event, self.now);
            }
            Telling::Known => {}
        }
    }

    /// What becomes of a connection beyond a limit; true: it goes on, to the abuse server.
    fn treat_beyond(&mut self, slot: u32, exceeded: Exceeded, watch: Watch) -> bool {
        let goes_on = uses_abuse_server(&self.settings) && self.first_step != FirstStep::Hold;
        if !goes_on {
            self.stop_beyond(slot, exceeded, watch);
        }
        goes_on
    }

    /// Keeps a connection beyond a limit open and silent, or resets it: no abuse server can be used
    /// for it.
    pub(in crate::relay) fn stop_beyond(&mut self, slot: u32, exceeded: Exceeded, watch: Watch) {
        let room = tarpit_room(&self.settings);
        if self.settings.per_client.tarpit > 0 && self.worker_table.reserve_tarpit(room) {
            self.note_end(slot, end(exceeded));
            self.enter_tarpit(slot, watch);
            return;
        }
        self.connections[slot].down.socket.iter().for_each(reset_on_close);
        self.finish(slot, Some(end(exceeded)));
    }

    /// Keeps a connection open and silent.
    fn enter_tarpit(&mut self, slot: u32, watch: Watch) {
        self.leave_hold(slot);
        self.connections.stop(slot);
        let connection = &mut self.connections[slot];
        connection.state = ConnectionState::Tarpit;
        // It may have come as far as to the abuse server.
        self.io.forget(connection);
        connection.unfinished = Piece::default();
        (connection.down.session, connection.placement) = (None, None);
        self.tarpit.queue.wait(&mut self.connections.pool, slot, self.now);
        self.tarpit.count += 1;
        self.link.counters.tarpitted += 1;
        if let Some(socket) = &self.connections[slot].down.socket {
            // It only saves memory of the kernel.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket, SMALLEST_BUFFER);
        }
        match watch {
            // If it fails, the connection is closed.
            Watch::Due => drop(self.watch_client(slot)),
            Watch::Done => {}
        }
    }

    /// Ends what a connection has under the limits.
    pub(in crate::relay) fn leave_limits(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        match std::mem::take(&mut connection.judged) {
            Judged::Counted => self.worker_table.release_net(connection.number),
            Judged::HeaderDue | Judged::Within | Judged::Beyond(_) => {}
        }
        if connection.state == ConnectionState::Tarpit {
            connection.state = ConnectionState::Connecting;
            self.tarpit.queue.leave(&mut self.connections.pool, slot);
            self.tarpit.count -= 1;
            self.link.counters.tarpit_ended += 1;
            self.worker_table.set_tarpitted(self.tarpit.count);
        }
    }

    /// Handles an event at a connection that is kept open and silent.
    pub(in crate::relay) fn on_tarpit_event(&mut self, slot: u32, event: &mio::event::Event) {
        if event.is_error() || event.is_read_closed() || event.is_write_closed() {
            self.tarpit_ends(slot);
        }
    }

    /// Resets the connections that were kept open for long enough, as far as a turn allows: with a
    /// shorter time, all of them may be due at once.
    pub(in crate::relay) fn on_tarpit(&mut self) {
        let seconds = self.settings.per_client.tarpit;
        let mut ended = 0;
        while let Some(slot) =
            self.tarpit.next_due(&self.connections.pool, seconds, self.now, ended)
        {
            self.tarpit_ends(slot);
            ended += 1;
        }
    }

    fn tarpit_ends(&mut self, slot: u32) {
        self.connections[slot].down.socket.iter().for_each(reset_on_close);
        self.finish(slot, None);
    }
}

/// Whether a connection's socket is watched for events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::relay) enum Watch {
    /// It is.
    Done,
    /// It is not.
    Due,
}

/// Whether connections beyond a limit go to the abuse server, if it can be used.
pub(in crate::relay) fn uses_abuse_server(settings: &Settings) -> bool {
    settings.per_client.abuse_over && settings.abuse.is_some() && !settings.dummy
}

/// How many connections of all workers may be kept open and silent.
pub(in crate::relay) fn tarpit_room(settings: &Settings) -> u32 {
    settings.connections_max / TARPIT_PART
}

/// The limits in the form of the table.
fn of_net(limits: &PerClient) -> NetLimits {
    NetLimits {
        connections: (limits.max > 0).then_some(limits.max),
        rate: limits.rate.map(|rate| Rate { attempts: rate.connections, seconds: rate.seconds }),
    }
}

/// The setting of a limit, and whose it is.
fn setting(exceeded: Exceeded, net: &str) -> String {
    match exceeded {
        Exceeded::Connections => format!("per_client_max for {net}"),
        Exceeded::Rate => format!("per_client_rate for {net}"),
    }
}

/// How a connection beyond a limit ends.
pub(in crate::relay) fn end(exceeded: Exceeded) -> ConnectionEnd {
    match exceeded {
        Exceeded::Connections => ConnectionEnd::RefusedLimit,
        Exceeded::Rate => ConnectionEnd::RefusedRate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_only_so_many_of_those_that_are_due_at_once() {
        let (mut pool, mut tarpit) = (Pool::default(), Tarpit::default());
        for _ in 0..MOST + 2 {
            let slot = pool.take();
            tarpit.queue.wait(&mut pool, slot, 5000);
        }
        let turn = |pool: &mut Pool, tarpit: &mut Tarpit| {
            let mut ended = 0;
            while let Some(slot) = tarpit.next_due(pool, 0, 5000, ended) {
                tarpit.queue.leave(pool, slot);
                ended += 1;
            }
            ended
        };
        assert_eq!(tarpit.next_due(&pool, 1, 5999, 0), None, "none is due");
        assert_eq!(turn(&mut pool, &mut tarpit), MOST);
        assert_eq!(tarpit.due(&pool, 0), Some(5000), "the next turn comes at once");
        assert_eq!([turn(&mut pool, &mut tarpit), turn(&mut pool, &mut tarpit)], [2, 0]);
    }
}
