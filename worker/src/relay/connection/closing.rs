//! How connections end.
//!
//! In the orderly case both ends have sent their end of file, each was passed on after the last
//! byte, and both sockets close. In the other case one end is lost while the other is still open.
//! The data of the lost end is still delivered. If the remaining end has received everything, the
//! loss is passed on as a reset. Otherwise it gets its data and an end of file, and what it still
//! sends is read and discarded for a while. Closing a socket with unread data would reset it, and a
//! reset destroys data that its peer has not read yet (RFC 9293, 3.10.4).

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::relay::Relay;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::{Connection, ConnectionState, Side};
use crate::relay::transfer::pump;
use crate::sys;
use pen_config::command::Fastclose;

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
        let connection = &mut self.pool[slot];
        let goes_on = |end: &Endpoint| !(end.ended || end.failed || end.broken);
        if goes_on(&connection.up) && goes_on(&connection.down) {
            return;
        }
        for side in [Side::Up, Side::Down] {
            let (end, other) = connection.ends(side);
            if end.failed {
                return self.part(slot, side);
            }
            if end.broken && end.ended && end.held.is_none() && (other.shut || other.broken) {
                return self.part(slot, side);
            }
        }
        let done = |end: &Endpoint| end.ended && end.held.is_none();
        if done(&connection.up)
            && done(&connection.down)
            && connection.up.shut
            && connection.down.shut
        {
            return self.finish(slot);
        }
        if connection.up.broken && connection.down.broken {
            return self.finish(slot);
        }
        if let Some(side) = self.closes_fast(slot) {
            self.part_fast(slot, side);
        }
    }

    /// The side whose end of file closes both sides: `tcp_fastclose` asks for it, and all data that
    /// was read has been sent.
    fn closes_fast(&self, slot: u32) -> Option<Side> {
        let connection = &self.pool[slot];
        let (up, down) = match self.settings.fastclose {
            Fastclose::Off => return None,
            Fastclose::Up => (true, false),
            Fastclose::Down => (false, true),
            Fastclose::Both => (true, true),
        };
        let nothing_held = connection.up.held.is_none() && connection.down.held.is_none();
        // The close does not replace close_notify of a TLS session.
        let is_untold =
            connection.up.ended && connection.down.session.is_some() && !connection.down.shut;
        match (up && connection.up.ended, down && connection.down.ended) {
            _ if !nothing_held || is_untold => None,
            (true, _) => Some(Side::Up),
            (_, true) => Some(Side::Down),
            (false, false) => None,
        }
    }

    /// Closes both sides after the end of file of one. A side with unread data would be reset by
    /// that, which could destroy the last data sent to it. Such a side lingers.
    fn part_fast(&mut self, slot: u32, ended: Side) {
        let unread = self.pool[slot].end(ended.other()).has_unread();
        if unread { self.part(slot, ended) } else { self.finish(slot) }
    }

    /// Closes an end that has gone, then ends the connection or makes the other end linger.
    pub(in crate::relay) fn part(&mut self, slot: u32, gone: Side) {
        self.untime_head(slot);
        let connection = &mut self.pool[slot];
        let (lost, rest) = connection.ends(gone);
        let was_reset = lost.failed;
        lost.socket = None;
        lost.held = None;
        rest.broken |= rest.socket.is_none();
        let nothing_under_way =
            rest.held.is_none() && rest.socket.as_ref().is_none_or(|s| sys::unsent(s) == Ok(0));
        if gone == Side::Up {
            self.release_target(slot);
        }
        let connection = &mut self.pool[slot];
        let rest = connection.end(gone.other());
        if rest.broken || rest.failed || (rest.ended && nothing_under_way && !was_reset) {
            return self.finish(slot);
        }
        if was_reset && let Some(session) = &mut rest.session {
            session.cut();
        }
        if was_reset && nothing_under_way && !rest.shut {
            if let Some(socket) = &rest.socket {
                reset_on_close(socket);
            }
            return self.finish(slot);
        }
        self.begin_linger(slot);
    }

    /// Makes the one remaining end linger.
    pub(in crate::relay) fn begin_linger(&mut self, slot: u32) {
        self.pool[slot].state = ConnectionState::Lingering;
        self.lingering.wait(&mut self.pool, slot, self.now);
        self.linger(slot);
    }

    /// Delivers the remaining data and the end of file, then waits for the remaining end's own end
    /// of file.
    pub(in crate::relay) fn linger(&mut self, slot: u32) {
        let connection = &mut self.pool[slot];
        let side = if connection.down.socket.is_some() { Side::Down } else { Side::Up };
        let Connection { down, up, discarded, .. } = connection;
        let end = if side == Side::Down { down } else { up };
        let held = end.held_bytes();
        let is_flushed = pump::flush(end, &mut self.tools);
        let is_active = end.held_bytes() < held;
        if is_flushed && !end.shut && !end.broken {
            pump::shut(end, &mut self.tools);
        }
        let more = if *discarded < DISCARD {
            let moved = pump::discard(end, &mut self.tools);
            *discarded = discarded.saturating_add(u32::try_from(moved.bytes).unwrap_or(u32::MAX));
            moved.more
        } else {
            false
        };
        if end.broken || end.failed || (end.ended && end.held.is_none()) {
            return self.finish(slot);
        }
        self.note_untaken(slot);
        if is_active {
            self.idle.touch(&mut self.pool, slot, self.now);
        }
        if more {
            self.come_back(slot, side);
        }
    }

    /// Ends a lingering connection whose time is up, unless the remaining end must still take its
    /// data. That is prolonged only a few times: no other end is left that could be told of a
    /// failure.
    pub(in crate::relay) fn linger_ends(&mut self, slot: u32) {
        let connection = &self.pool[slot];
        let end = if connection.down.socket.is_some() { &connection.down } else { &connection.up };
        let under_way = end.held.is_some()
            || end.socket.as_ref().is_some_and(|s| sys::unsent(s).is_ok_and(|n| n > 0));
        if !under_way || connection.prolonged >= PROLONGED {
            return self.cut(slot);
        }
        self.pool[slot].prolonged += 1;
        self.lingering.leave(&mut self.pool, slot);
        self.lingering.wait(&mut self.pool, slot, self.now);
    }

    /// Closes a connection after a silence of `idle_timeout`.
    pub(in crate::relay) fn idle_ends(&mut self, slot: u32) {
        if self.debug.on(2) {
            let number = self.pool[slot].number;
            self.debug.say(
                2,
                format_args!("connection {number} was idle for {} s", self.settings.idle_timeout),
            );
        }
        self.cut(slot);
    }

    /// Ends a connection at once for an operator: both sides see a failure. A connection that got
    /// the number only after the command (monotonic nanoseconds) is not meant.
    pub(in crate::relay) fn close_numbered(&mut self, number: u32, before: u64) {
        let Some(slot) = self.pool.numbered(number) else { return };
        let connection = &self.pool[slot];
        if connection.began >= before {
            return;
        }
        connection.up.socket.iter().chain(&connection.down.socket).for_each(reset_on_close);
        self.finish(slot);
    }

    /// Ends a connection early. An end that did not get all its data is reset: after an end of file
    /// it would take the data for complete.
    pub(in crate::relay) fn cut(&mut self, slot: u32) {
        let Connection { down, up, .. } = &self.pool[slot];
        for (end, other) in [(down, up), (up, down)] {
            if let Some(socket) = &end.socket
                && (end.held.is_some() || other.has_unread())
            {
                reset_on_close(socket);
            }
        }
        self.finish(slot);
    }

    /// Ends a connection in any state and releases exactly what it took.
    pub(in crate::relay) fn finish(&mut self, slot: u32) {
        match self.pool[slot].state {
            ConnectionState::Connecting => self.end_connect(slot),
            ConnectionState::Waiting => self.leave_waiting(slot),
            ConnectionState::Greeting => self.greeting.leave(&mut self.pool, slot),
            ConnectionState::Lingering => self.lingering.leave(&mut self.pool, slot),
            ConnectionState::Relaying
            | ConnectionState::Dummy
            | ConnectionState::Idler
            | ConnectionState::Free => {}
        }
        self.untime_head(slot);
        self.idle.leave(&mut self.pool, slot);
        self.unfinished.forget(self.pool[slot].unfinished);
        self.forget_untaken(slot);
        self.release_target(slot);
        let Connection { number, state, since, key, .. } = self.pool[slot];
        if self.debug.on(2) {
            let session = self.pool[slot].down.session.as_ref();
            let cut =
                session.is_some_and(|session| !session.is_handshaking() && !session.peer_closed());
            let cut = if cut { "; the client sent no close_notify" } else { "" };
            self.debug.say(2, format_args!("connection {number} ends{cut}"));
        }
        self.pool.free(slot);
        match key {
            Some(_) => self.counters.closed += 1,
            None => self.idlers.ended(
                (state == ConnectionState::Idler).then(|| self.now.saturating_sub(since)),
                self.now,
            ),
        }
        self.give_back(number);
    }

    /// Releases the connection's count at the server.
    pub(in crate::relay) fn release_target(&mut self, slot: u32) {
        if let Some(target) = self.pool[slot].target.take() {
            self.worker_table.release(target.row(self.settings.table_size()));
        }
    }
}

/// Makes the next close a reset.
pub fn reset_on_close(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
