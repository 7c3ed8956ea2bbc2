//! Events of connections' sockets, and the data that they bring.

use crate::clock;
use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{RecvState, SendState};
use crate::relay::connection::{Connection, ConnectionId, ConnectionState, LogDue, Side};
use crate::relay::debug::Debug;
use crate::relay::http::direction::Direction;
use crate::relay::log_writer::LogWriter;
use crate::relay::request_log;
use crate::relay::request_log::shown_at;
use crate::relay::transfer::pump;
use crate::relay::transfer::pump::{PumpOptions, Tools};

impl Relay<'_> {
    /// Handles an event at a connection's socket.
    pub(in crate::relay) fn on_event(&mut self, event: &mio::event::Event) {
        let name = ConnectionId::of(event.token());
        let Some(connection) = self.connections.pool.named(name) else { return };
        let state = connection.state;
        let end = connection.end(name.side);
        if end.socket.is_none() {
            // An event of another connection has closed it since the kernel reported it
            // (`bound_unfinished`).
            return;
        }
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_error();
        if readable {
            end.was_reported();
        }
        // After an error, a short read does not mean that the queue is empty: the next read returns
        // the error.
        end.careful |= event.is_priority() || event.is_error();
        end.hung_up |= event.is_read_closed() && !event.is_error();
        match (state, name.side) {
            (ConnectionState::Preface, _) => {
                if event.is_error() {
                    self.finish(name.slot, Some(ConnectionEnd::ClientReset));
                } else {
                    self.continue_preface(name.slot);
                }
            }
            (ConnectionState::Connecting, Side::Up) => self.connect_progress(name.slot, event),
            (ConnectionState::Securing, Side::Up) => self.continue_securing(name.slot),
            (ConnectionState::Connecting | ConnectionState::Securing, Side::Down)
            | (ConnectionState::Waiting { .. }, _) => {
                if event.is_error() {
                    self.finish(name.slot, Some(ConnectionEnd::ClientReset));
                }
            }
            (ConnectionState::Held(_), _) => self.on_held_event(name.slot, event),
            (ConnectionState::Tarpit, _) => self.on_tarpit_event(name.slot, event),
            (ConnectionState::Relaying, side) => {
                if readable {
                    self.relay(name.slot, side);
                }
                let connection = self.connections.pool.named(name);
                if writable && connection.is_some_and(|connection| has_data_for(connection, side)) {
                    self.relay(name.slot, side.other());
                }
            }
            (ConnectionState::Lingering, _) => self.linger(name.slot),
            (ConnectionState::Dummy, _) => self.answer(name.slot),
            (ConnectionState::Idler, _) => self.drain_idler(name.slot),
            (ConnectionState::Free, _) => {}
        }
    }

    /// Serves the ends that had more data at the end of their last turn. Some: leave with this exit
    /// status.
    pub(in crate::relay) fn on_ready(&mut self) -> Option<i32> {
        let ready = self.connections.take_ready();
        for (step, &name) in ready.iter().enumerate() {
            if let Some(status) = self.poll_control(step) {
                return Some(status);
            }
            let Some(connection) = self.connections.pool.named(name) else { continue };
            connection.end(name.side).queued = false;
            match connection.state {
                ConnectionState::Relaying => self.relay(name.slot, name.side),
                ConnectionState::Lingering => self.linger(name.slot),
                ConnectionState::Idler => self.drain_idler(name.slot),
                ConnectionState::Preface => self.continue_preface(name.slot),
                ConnectionState::Securing => self.continue_securing(name.slot),
                ConnectionState::Connecting
                | ConnectionState::Waiting { .. }
                | ConnectionState::Held(_)
                | ConnectionState::Tarpit
                | ConnectionState::Dummy
                | ConnectionState::Free => {}
            }
            self.bound_unfinished();
        }
        self.connections.recycle(ready);
        None
    }

    /// Moves data from one end to the other, counts it, and closes what is done.
    pub(in crate::relay) fn relay(&mut self, slot: u32, from: Side) {
        let is_timed = self.connections.idle.is_on();
        let connection = &mut self.connections[slot];
        let held = if is_timed { connection.end(from.other()).held_bytes() } else { 0 };
        let moved = move_bytes(
            connection,
            from,
            &mut self.io.tools,
            &mut self.log,
            &mut self.debug,
            &self.shown,
            self.now,
        );
        let Connection { down, up, timings, .. } = connection;
        let source = if from == Side::Down { down } else { up };
        if let Some(timings) = timings {
            timings.moved(from, moved.bytes, moved.given, self.now);
            if source.recv == RecvState::Ended {
                timings.ended(from);
            }
        }
        // A slow reader that takes held data counts as traffic.
        let is_active =
            is_timed && (moved.bytes > 0 || connection.end(from.other()).held_bytes() < held);
        if moved.given > 0 {
            self.count(slot, from, moved.given);
        }
        if is_active {
            self.connections.touch(slot, self.now);
        }
        if moved.more {
            self.connections.come_back(slot, from);
        }
        let source = self.connections[slot].end(from);
        if source.recv == RecvState::AssumedEmpty && !source.listed {
            self.io.rechecks.add(&mut self.connections.pool, slot, from, self.now);
        }
        self.io.note_undelivered(&mut self.connections[slot]);
        if self.connections[slot].may_be_unfinished() {
            self.io.note_unfinished(&mut self.connections[slot], self.now);
        }
        if self.connections[slot].http.is_some() {
            self.log_requests(slot);
            if !self.after_http(slot, from) {
                return;
            }
        }
        self.settle(slot);
    }

    /// Adds relayed bytes to the counters of the client and of the server.
    pub(in crate::relay) fn count(&mut self, slot: u32, from: Side, bytes: u64) {
        let connection = &self.connections[slot];
        let (up, down) = match from {
            Side::Down => (bytes, 0),
            Side::Up => (0, bytes),
        };
        if let Some(target) = connection.counted_target() {
            self.worker_table.add_server_bytes(self.row(target), up, down);
        }
        self.worker_table.add_client_bytes(connection.client, down, up);
    }
}

/// Whether a relaying connection has data for an end that became writable.
fn has_data_for(connection: &mut Connection, side: Side) -> bool {
    if connection.state != ConnectionState::Relaying {
        return false;
    }
    let (to, from) = connection.ends(side);
    let is_end_due = from.recv == RecvState::Ended && to.send_state() != SendState::Shut;
    to.held.is_some() || from.recv.is_readable() || is_end_due
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
            request_log::line(log, now, clock::unix_time().0, key, server, bytes);
        }
        if dumps {
            debug.dump(bytes);
        }
    };
    let watch: Option<pump::WatchedEvents<'_>> =
        if logs || dumps { Some(&mut watch) } else { None };
    let may_splice = connection.down.session.is_none() && connection.up.session.is_none();
    let turn = http.as_deref_mut().map(|exchange| Direction::of(exchange, from == Side::Down));
    let (source, sink) = connection.ends(from);
    let moved = pump::pump(source, sink, tools, PumpOptions { may_splice, watch, http: turn, now });
    connection.http = http;
    connection.line = match line {
        LogDue::Later if from == Side::Up && moved.bytes > 0 => LogDue::Due,
        LogDue::Later | LogDue::Due | LogDue::Never => line,
    };
    moved
}
