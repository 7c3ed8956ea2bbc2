//! How connections end.
//!
//! In the orderly case both ends have sent their end of file, each was passed on after the last
//! byte, and both sockets close. In the other case one end is lost while the other is still open.
//! The data of the lost end is still delivered. If the remaining end has received everything, the
//! loss is passed on as a reset. Otherwise it gets its data and an end of file, and what it still
//! sends is read and discarded for a while. Closing a socket with unread data would reset it, and a
//! reset destroys data that its peer has not read yet (RFC 9293, 3.10.4).

use pen_config::settings::Fastclose;
use pen_ipc::message::Event;
use pen_ipc::server_tls::TlsFault;

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, RecvState, SendState, reset_on_close};
use crate::relay::connection::{Connection, ConnectionState, Judged, Side, Timer};
use crate::relay::link::Rated;
use crate::relay::transfer::pump;
use crate::relay::transfer::unfinished::{LEFT, Sender, Surplus};
use crate::sys;

/// Milliseconds that a remaining end has to close by itself after it has taken its data.
pub const LINGER: u64 = 5000;

/// Bytes discarded from a remaining end, so that its close can be orderly. Reading more would cost
/// as much as relaying. So the rest is left unread, and the end is reset when the time is up.
const DISCARD: u32 = 4 << 20;

/// How often that time is prolonged for an end that has not taken all its data.
const PROLONGED: u8 = 5;

impl Relay<'_> {
    /// Closes what is done on a relaying connection.
    pub(in crate::relay) fn settle(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let goes_on = |end: &Endpoint| !end.recv.is_over() && !end.is_broken();
        if goes_on(&connection.up) && goes_on(&connection.down) {
            return;
        }
        let done = |end: &Endpoint| end.recv == RecvState::Ended && end.held.is_none();
        for side in [Side::Up, Side::Down] {
            let (end, other) = connection.ends(side);
            if end.recv == RecvState::Failed {
                if side == Side::Up {
                    self.note_late_refusal(slot);
                }
                return self.close_end(slot, side);
            }
            if end.is_broken() && done(end) && other.send_state() != SendState::Open {
                return self.close_end(slot, side);
            }
        }
        if done(&connection.up)
            && done(&connection.down)
            && connection.up.send_state() == SendState::Shut
            && connection.down.send_state() == SendState::Shut
        {
            return self.finish(slot, None);
        }
        if connection.up.is_broken() && connection.down.is_broken() {
            return self.finish(slot, None);
        }
        if let Some(side) = closes_fast(&self.connections[slot], self.settings.fastclose) {
            self.close_fast(slot, side);
        }
    }

    /// Closes both sides after the end of file of one. A side with unread data would be reset by
    /// that, which could destroy the last data sent to it. Such a side lingers.
    fn close_fast(&mut self, slot: u32, ended: Side) {
        let unread = self.connections[slot].end(ended.other()).has_unread();
        if unread { self.close_end(slot, ended) } else { self.finish(slot, None) }
    }

    /// Closes an end that has gone, then ends the connection or makes the other end linger.
    pub(in crate::relay) fn close_end(&mut self, slot: u32, gone: Side) {
        if let Some(end) = self.connections[slot].loss(gone) {
            self.note_end(slot, end);
        }
        let connection = &mut self.connections[slot];
        let (lost, rest) = connection.ends(gone);
        let was_reset = lost.recv == RecvState::Failed;
        lost.socket = None;
        lost.held = None;
        if rest.socket.is_none() {
            rest.sending_is(SendState::Broken);
        }
        let nothing_under_way =
            rest.held.is_none() && rest.socket.as_ref().is_none_or(|s| sys::unsent(s) == Ok(0));
        if gone == Side::Up {
            self.release_target(slot);
        }
        let connection = &mut self.connections[slot];
        let rest = connection.end(gone.other());
        let has_all = rest.recv == RecvState::Ended && nothing_under_way && !was_reset;
        if has_all || rest.recv == RecvState::Failed || rest.is_broken() {
            return self.finish(slot, None);
        }
        if was_reset && let Some(session) = &mut rest.session {
            session.cut();
        }
        if was_reset && nothing_under_way && rest.send_state() == SendState::Open {
            if let Some(socket) = &rest.socket {
                reset_on_close(socket);
            }
            return self.finish(slot, None);
        }
        self.begin_linger(slot);
    }

    /// Makes the one remaining end linger.
    pub(in crate::relay) fn begin_linger(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        (connection.state, connection.held_or_discarded) = (ConnectionState::Lingering, 0);
        self.connections.start(slot, Timer::Linger, self.now);
        self.linger(slot);
    }

    /// Delivers the remaining data and the end of file, then waits for the remaining end's own end
    /// of file.
    pub(in crate::relay) fn linger(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let side = if connection.down.socket.is_some() { Side::Down } else { Side::Up };
        let Connection { down, up, held_or_discarded: discarded, .. } = connection;
        let end = if side == Side::Down { down } else { up };
        let held = end.held_bytes();
        let is_flushed = pump::flush(end, &mut self.io.tools);
        let is_active = end.held_bytes() < held;
        if is_flushed && end.send_state() == SendState::Open {
            pump::shut(end, &mut self.io.tools);
        }
        let more = if *discarded < DISCARD {
            let moved = pump::discard(end, &mut self.io.tools);
            *discarded = discarded.saturating_add(u32::try_from(moved.bytes).unwrap_or(u32::MAX));
            moved.more
        } else {
            false
        };
        let is_done = end.recv == RecvState::Ended && end.held.is_none();
        if is_done || end.recv == RecvState::Failed || end.is_broken() {
            return self.finish(slot, None);
        }
        self.io.note_undelivered(&mut self.connections[slot]);
        if is_active {
            self.connections.touch(slot, self.now);
        }
        if more {
            self.connections.come_back(slot, side);
        }
    }

    /// Ends a lingering connection whose time is up, unless the remaining end must still take its
    /// data. That is prolonged only a few times: no other end is left that could be told of a
    /// failure.
    pub(in crate::relay) fn linger_ends(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let end = if connection.down.socket.is_some() { &connection.down } else { &connection.up };
        let under_way = end.held.is_some()
            || end.socket.as_ref().is_some_and(|s| sys::unsent(s).is_ok_and(|n| n > 0));
        if !under_way || connection.prolonged >= PROLONGED {
            return self.cut(slot);
        }
        self.connections[slot].prolonged += 1;
        self.connections.start(slot, Timer::Linger, self.now);
    }

    /// Closes a connection after a silence of `idle_timeout`.
    pub(in crate::relay) fn idle_ends(&mut self, slot: u32) {
        if self.debug.on(2) {
            let number = self.connections[slot].number;
            self.debug.log(
                2,
                format_args!("connection {number} was idle for {} s", self.settings.idle_timeout),
            );
        }
        self.note_end(slot, ConnectionEnd::IdleTimeout);
        self.cut(slot);
    }

    /// Ends a connection at once for an operator: both sides see a failure. A connection that got
    /// the number only after the command (monotonic nanoseconds) is not meant.
    pub(in crate::relay) fn close_numbered(&mut self, number: u32, before: u64) {
        let Some(slot) = self.connections.pool.numbered(number) else { return };
        let connection = &self.connections[slot];
        if connection.began >= before {
            return;
        }
        connection.up.socket.iter().chain(&connection.down.socket).for_each(reset_on_close);
        self.finish(slot, Some(ConnectionEnd::ClosedByOperator));
    }

    /// Resets the connections with the oldest or most unfinished data, if there is too much. If a
    /// server has sent it in its handshake, the connect has failed: another may serve the client.
    pub(in crate::relay) fn bound_unfinished(&mut self) {
        let surplus = self.io.unfinished.surplus(&self.connections.pool, self.now);
        if surplus.is_empty() {
            return;
        }
        for Surplus { slot, sender } in surplus {
            let connection = &self.connections[slot];
            if (connection.state, sender) == (ConnectionState::Securing, Sender::Server) {
                self.securing_failed(slot, TlsFault::Timeout);
                continue;
            }
            connection.up.socket.iter().chain(&connection.down.socket).for_each(reset_on_close);
            self.link.counters.crowded += 1;
            self.link.count(Event::Crowded { clients: 1, kept: LEFT as u64 });
            self.finish(slot, Some(ConnectionEnd::Crowded));
        }
        self.link.report_kind(Rated::Crowded, self.now);
    }

    /// Ends a connection early. An end that did not get all its data is reset: after an end of file
    /// it would take the data for complete.
    pub(in crate::relay) fn cut(&mut self, slot: u32) {
        let Connection { down, up, .. } = &self.connections[slot];
        for (end, other) in [(down, up), (up, down)] {
            if let Some(socket) = &end.socket
                && (end.held.is_some() || other.has_unread())
            {
                reset_on_close(socket);
            }
        }
        self.finish(slot, None);
    }

    /// Ends a connection in any state and releases exactly what it took. Without a reason, it ends
    /// for the one that was noted, for the loss of an end, or by an end of file.
    pub(in crate::relay) fn finish(&mut self, slot: u32, why: Option<ConnectionEnd>) {
        if self.connection_log.is_on() {
            let loss = || {
                let connection = &self.connections[slot];
                connection.loss(Side::Down).or_else(|| connection.loss(Side::Up))
            };
            if let Some(end) = why.or_else(loss) {
                self.note_end(slot, end);
            }
            self.log_connection(slot);
        }
        self.end_connect(slot);
        self.upstreams.leave(&mut self.connections.pool, slot);
        self.leave_hold(slot);
        if self.connections[slot].judged != Judged::Within {
            self.leave_limits(slot);
        }
        self.io.forget(&mut self.connections[slot]);
        self.release_target(slot);
        let Connection { number, state, since, key, .. } = self.connections[slot];
        if self.debug.on(2) {
            let Connection { down, up, .. } = &self.connections[slot];
            let cut = match (down.is_cut(), up.is_cut()) {
                (false, false) => "",
                (true, false) => "; the client sent no close_notify",
                (false, true) => "; the server sent no close_notify",
                (true, true) => "; neither client nor server sent close_notify",
            };
            self.debug.log(2, format_args!("connection {number} ends{cut}"));
        }
        self.connections.free(slot);
        match key {
            Some(_) => self.link.counters.closed += 1,
            None => self.idlers.ended(
                (state == ConnectionState::Idler).then(|| self.now.saturating_sub(since)),
                self.now,
            ),
        }
        self.release_number(number);
    }

    /// Releases the connection's count at the server.
    pub(in crate::relay) fn release_target(&mut self, slot: u32) {
        self.count_length(slot);
        if let Some(target) = self.connections[slot].target.take() {
            let row = self.row(target);
            self.worker_table.release(row);
            self.choices.get_mut().note(row);
        }
    }
}

/// The side whose end of file closes both sides: `tcp_fastclose` asks for it, and all data that
/// was read has been sent.
fn closes_fast(connection: &Connection, fastclose: Fastclose) -> Option<Side> {
    let (up, down) = match fastclose {
        Fastclose::Off => return None,
        Fastclose::Up => (true, false),
        Fastclose::Down => (false, true),
        Fastclose::Both => (true, true),
    };
    let nothing_held = connection.up.held.is_none() && connection.down.held.is_none();
    // The close does not replace close_notify of a TLS session.
    let [up_ended, down_ended] =
        [&connection.up, &connection.down].map(|end| end.recv == RecvState::Ended);
    let is_due = |other_ended: bool, end: &Endpoint| {
        other_ended && end.session.as_ref().is_some_and(|session| !session.is_closed())
    };
    let close_notify_due = is_due(up_ended, &connection.down) || is_due(down_ended, &connection.up);
    match (up && up_ended, down && down_ended) {
        _ if !nothing_held || close_notify_due => None,
        (true, _) => Some(Side::Up),
        (_, true) => Some(Side::Down),
        (false, false) => None,
    }
}
