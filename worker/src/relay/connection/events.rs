//! Events of connections' sockets, and the data that they bring.

use crate::relay::commands::shown_at;
use crate::relay::connection::{Connection, ConnectionId, ConnectionState, LogDue, Side};
use crate::relay::debug::Debug;
use crate::relay::http::Turn;
use crate::relay::request_log::LogWriter;
use crate::relay::transfer::pump;
use crate::relay::transfer::pump::{PumpOptions, Tools};
use crate::relay::{Relay, clock};

impl Relay<'_> {
    /// Handles an event at a connection's socket.
    pub(in crate::relay) fn on_event(&mut self, event: &mio::event::Event) {
        let name = ConnectionId::of(event.token());
        let Some(connection) = self.pool.named(name) else { return };
        let state = connection.state;
        let end = connection.end(name.side);
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_error();
        if readable {
            end.was_told();
        }
        // After an error, a short read does not mean that the queue is empty: the next read returns
        // the error.
        end.careful |= event.is_priority() || event.is_error();
        end.hung_up |= event.is_read_closed() && !event.is_error();
        match (state, name.side) {
            (ConnectionState::Greeting, _) => {
                if event.is_error() {
                    self.finish(name.slot);
                } else {
                    self.greet(name.slot);
                }
            }
            (ConnectionState::Connecting, Side::Up) => self.connect_progress(name.slot, event),
            (ConnectionState::Connecting, Side::Down) | (ConnectionState::Waiting, _) => {
                if event.is_error() {
                    self.finish(name.slot);
                }
            }
            (ConnectionState::Relaying, side) => {
                if readable {
                    self.relay(name.slot, side);
                }
                if writable && self.wants_to_send(name, side) {
                    self.relay(name.slot, side.other());
                }
            }
            (ConnectionState::Lingering, _) => self.linger(name.slot),
            (ConnectionState::Dummy, _) => self.answer(name.slot),
            (ConnectionState::Idler, _) => self.drain_idler(name.slot),
            (ConnectionState::Free, _) => {}
        }
    }

    /// Whether a relaying connection has data for an end that became writable.
    fn wants_to_send(&mut self, name: ConnectionId, side: Side) -> bool {
        self.pool.named(name).is_some_and(|connection| {
            if connection.state != ConnectionState::Relaying {
                return false;
            }
            let (to, from) = connection.ends(side);
            to.held.is_some() || from.readable || (from.ended && !to.shut)
        })
    }

    /// Serves the ends that had more data at the end of their last turn. Some: leave with this exit
    /// status.
    pub(in crate::relay) fn on_ready(&mut self) -> Option<i32> {
        let room = std::mem::take(&mut self.next_ready);
        let mut ready = std::mem::replace(&mut self.ready, room);
        for (step, name) in ready.drain(..).enumerate() {
            if let Some(status) = self.poll_control(step) {
                return Some(status);
            }
            let Some(connection) = self.pool.named(name) else { continue };
            connection.end(name.side).queued = false;
            match connection.state {
                ConnectionState::Relaying => self.relay(name.slot, name.side),
                ConnectionState::Lingering => self.linger(name.slot),
                ConnectionState::Idler => self.drain_idler(name.slot),
                ConnectionState::Greeting => self.greet(name.slot),
                ConnectionState::Connecting
                | ConnectionState::Waiting
                | ConnectionState::Dummy
                | ConnectionState::Free => {}
            }
            self.bound_unfinished();
        }
        self.next_ready = ready;
        None
    }

    /// Serves an end again in the next round.
    pub(in crate::relay) fn come_back(&mut self, slot: u32, side: Side) {
        let connection = &mut self.pool[slot];
        let name = ConnectionId { slot, generation: connection.generation, side };
        let end = connection.end(side);
        if !std::mem::replace(&mut end.queued, true) {
            self.ready.push(name);
        }
    }

    /// Moves data from one end to the other, counts it, and closes what is done.
    pub(in crate::relay) fn relay(&mut self, slot: u32, from: Side) {
        let connection = &mut self.pool[slot];
        let is_timed = self.idle.is_on();
        let held = if is_timed { connection.end(from.other()).held_bytes() } else { 0 };
        let moved = move_bytes(
            connection,
            from,
            &mut self.tools,
            &mut self.log,
            &mut self.debug,
            &self.shown,
            self.now,
        );
        // A slow reader that takes held data counts as traffic.
        let is_active =
            is_timed && (moved.bytes > 0 || connection.end(from.other()).held_bytes() < held);
        if moved.given > 0 {
            self.count(slot, from, moved.given);
        }
        if is_active {
            self.idle.touch(&mut self.pool, slot, self.now);
        }
        if moved.more {
            self.come_back(slot, from);
        }
        if self.pool[slot].end(from).is_unlisted_doubt() {
            self.look_later(slot, from);
        }
        self.note_untaken(slot);
        if self.pool[slot].down.session.is_some() || self.pool[slot].http.is_some() {
            self.note_unfinished(slot);
        }
        if self.pool[slot].http.is_some() {
            self.log_requests(slot);
            if !self.after_http(slot, from) {
                return;
            }
        }
        self.settle(slot);
    }

    /// Adds relayed bytes to the counters of the client and of the server.
    pub(in crate::relay) fn count(&mut self, slot: u32, from: Side, bytes: u64) {
        let connection = &self.pool[slot];
        let (up, down) = match from {
            Side::Down => (bytes, 0),
            Side::Up => (0, bytes),
        };
        if let Some(target) = connection.target {
            self.worker_table.add_server_bytes(target.row(self.settings.table_size()), up, down);
        }
        self.worker_table.add_client_bytes(connection.client, down, up);
    }
}

/// Pumps one direction, with the observers that need the bytes.
fn move_bytes(
    connection: &mut Connection,
    from: Side,
    tools: &mut Tools,
    log: &mut Option<LogWriter>,
    debug: &mut Debug,
    shown: &[Vec<String>],
    now: u64,
) -> pump::Moved {
    let dumps = debug.dumps();
    let mut http = connection.http.take();
    if let Some(exchange) = &mut http {
        exchange.keep_lines(log.is_some());
    }
    let mut line = connection.line;
    let logs = log.is_some() && from == Side::Down && line == LogDue::Due && http.is_none();
    let (key, target, position) = (connection.key, connection.target, connection.route.position());
    let mut watch = |bytes: &[u8]| {
        if let (true, LogDue::Due, Some(log), Some(key)) = (logs, line, &mut *log, key) {
            line = LogDue::Later;
            let server = shown_at(shown, target, position);
            log.line(now, clock::unix_time().0, key, server, bytes);
        }
        if dumps {
            debug.dump(bytes);
        }
    };
    let watch: Option<pump::WatchedEvents<'_>> =
        if logs || dumps { Some(&mut watch) } else { None };
    let may_splice = connection.down.session.is_none();
    let turn = http.as_deref_mut().map(|exchange| Turn::of(exchange, from == Side::Down));
    let (source, sink) = connection.ends(from);
    let moved = pump::pump(source, sink, tools, PumpOptions { may_splice, watch, http: turn, now });
    connection.http = http;
    connection.line = match line {
        LogDue::Later if from == Side::Up && moved.bytes > 0 => LogDue::Due,
        line => line,
    };
    moved
}
