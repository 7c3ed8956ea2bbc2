//! What the connection log has to know of a connection: a box that exists only while the log is on.
//!
//! Pure: the time is an argument, in monotonic milliseconds.

use std::rc::Rc;

use pen_config::ids::Target;
use pen_ipc::message::ConnectFailure;
use pen_ipc::server_tls::TlsFault;

use crate::relay::connection::Side;
use crate::relay::connection::end::{ConnectionEnd, Step};

/// The marks of a connection.
#[derive(Debug)]
pub struct Timings {
    /// When it was accepted, in milliseconds of Unix time.
    pub start: u64,
    /// The listen address by which it came.
    pub listen: Rc<str>,
    /// The server that was tried last, and its address.
    pub server: Option<(Target, Rc<str>)>,
    /// How many connects were begun.
    pub attempts: u32,
    /// Bytes in both directions; none if it was open before the log was on.
    pub bytes: Option<Bytes>,
    accepted: u64,
    handshaken: Option<u64>,
    attempted: Option<u64>,
    connected: Option<u64>,
    first_byte: Option<u64>,
    /// The side whose end of file came first.
    first_ended: Option<Side>,
    /// Why it ends, if that is known and no end of file.
    cause: Option<ConnectionEnd>,
    /// Why the last connect failed.
    failure: Option<ConnectFailure>,
}

/// Bytes that a connection has carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bytes {
    /// To the client.
    pub sent: u64,
    /// From the client.
    pub received: u64,
}

/// How long the steps of a connection took, in milliseconds; none if a step never came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Durations {
    /// From the accept, or the end of the TLS handshake, to the first connect.
    pub wait: Option<u64>,
    /// From the accept to the end of the TLS handshake.
    pub tls: Option<u64>,
    /// From the first connect to an established connection, with all failed attempts.
    pub connect: Option<u64>,
    /// From there to the server's first byte.
    pub first_byte: Option<u64>,
    /// From the accept to the end.
    pub total: u64,
}

impl Timings {
    /// A client that is accepted now, at `start` of Unix time and `accepted` of the monotonic
    /// clock.
    pub fn new(start: u64, accepted: u64, listen: Rc<str>) -> Timings {
        Timings {
            start,
            listen,
            server: None,
            attempts: 0,
            bytes: Some(Bytes::default()),
            accepted,
            handshaken: None,
            attempted: None,
            connected: None,
            first_byte: None,
            first_ended: None,
            cause: None,
            failure: None,
        }
    }

    /// A connection that was open before the log was on: what it has done since its accept is not
    /// known.
    pub fn late(start: u64, accepted: u64, listen: Rc<str>) -> Timings {
        Timings { bytes: None, ..Timings::new(start, accepted, listen) }
    }

    /// The TLS handshake is over.
    pub fn handshake_ends(&mut self, now: u64) {
        self.handshaken = Some(now);
    }

    /// A connect to a server begins.
    pub fn attempt(&mut self, target: Target, address: Rc<str>, now: u64) {
        self.server = Some((target, address));
        self.attempts = self.attempts.saturating_add(1);
        self.attempted.get_or_insert(now);
        self.failure = None;
    }

    /// The connect failed.
    pub fn attempt_failed(&mut self, failure: ConnectFailure) {
        self.failure = Some(failure);
    }

    /// The connect succeeded.
    pub fn connected(&mut self, now: u64) {
        self.connected = Some(now);
    }

    /// Data was moved from one end: `read` bytes, of which `given` went to the other end.
    pub fn moved(&mut self, from: Side, read: u64, given: u64, now: u64) {
        if from == Side::Up && read > 0 && self.connected.is_some() {
            self.first_byte.get_or_insert(now);
        }
        if let Some(bytes) = &mut self.bytes {
            match from {
                Side::Up => bytes.sent = bytes.sent.saturating_add(given),
                Side::Down => bytes.received = bytes.received.saturating_add(read),
            }
        }
    }

    /// The end of file of a side was read.
    pub fn ended(&mut self, side: Side) {
        self.first_ended.get_or_insert(side);
    }

    /// The connection ends for this reason, unless there was one before. A reason counts more than
    /// an end of file.
    pub fn ends(&mut self, cause: ConnectionEnd) {
        self.cause.get_or_insert(cause);
    }

    /// Why the connection ends; none if neither a reason nor an end of file is known.
    pub fn end(&self) -> Option<ConnectionEnd> {
        self.cause.or(self.first_ended.map(|side| match side {
            Side::Down => ConnectionEnd::Client,
            Side::Up => ConnectionEnd::Server,
        }))
    }

    /// Why no server could be used.
    pub fn unserved(&self) -> ConnectionEnd {
        match self.failure {
            None => ConnectionEnd::NoServer,
            Some(ConnectFailure::Timeout | ConnectFailure::Tls(TlsFault::Timeout)) => {
                ConnectionEnd::ConnectTimeout
            }
            Some(ConnectFailure::Errno(_) | ConnectFailure::Tls(_)) => ConnectionEnd::ConnectFailed,
        }
    }

    /// How far the connection has come, unless it waits in a queue.
    pub fn step(&self) -> Step {
        match (self.connected, self.attempted) {
            (Some(_), _) => Step::Data,
            (None, Some(_)) => Step::Connect,
            (None, None) => Step::Preface,
        }
    }

    /// How long each step took, if the connection ends now.
    pub fn durations(&self, now: u64) -> Durations {
        let since = |from: Option<u64>, to: Option<u64>| {
            from.zip(to).map(|(from, to)| to.saturating_sub(from))
        };
        Durations {
            wait: since(self.handshaken.or(Some(self.accepted)), self.attempted),
            tls: since(Some(self.accepted), self.handshaken),
            connect: since(self.attempted, self.connected),
            first_byte: since(self.connected, self.first_byte),
            total: now.saturating_sub(self.accepted),
        }
    }
}

#[cfg(test)]
mod tests {
    use pen_config::ids::ServerId;

    use super::*;

    fn timings() -> Timings {
        Timings::new(1_000, 100, "l".into())
    }

    #[test]
    fn each_step_is_as_long_as_it_was_and_one_that_never_came_has_no_length() {
        let mut timings = timings();
        let none = Durations { total: 5, ..Durations::default() };
        assert_eq!((timings.durations(105), timings.step()), (none, Step::Preface));
        timings.handshake_ends(110);
        let target = Target::Server(ServerId(1));
        timings.attempt(target, "a".into(), 111);
        assert_eq!(timings.step(), Step::Connect);
        timings.attempt_failed(ConnectFailure::Timeout);
        assert_eq!(timings.unserved(), ConnectionEnd::ConnectTimeout);
        timings.attempt(Target::Emergency, "b".into(), 120);
        assert_eq!(timings.unserved(), ConnectionEnd::NoServer);
        timings.connected(125);
        timings.moved(Side::Down, 7, 9, 126);
        timings.moved(Side::Up, 3, 4, 130);
        timings.moved(Side::Up, 3, 3, 140);
        let all = Durations {
            wait: Some(1),
            tls: Some(10),
            connect: Some(14),
            first_byte: Some(5),
            total: 100,
        };
        assert_eq!((timings.durations(200), timings.step()), (all, Step::Data));
        assert_eq!(timings.bytes, Some(Bytes { sent: 7, received: 7 }));
        assert_eq!((timings.attempts, timings.server), (2, Some((Target::Emergency, "b".into()))));
    }

    #[test]
    fn the_first_reason_counts_and_else_the_first_end_of_file() {
        let mut timings = timings();
        assert_eq!(timings.end(), None);
        timings.ended(Side::Down);
        timings.ended(Side::Up);
        assert_eq!(timings.end(), Some(ConnectionEnd::Client));
        timings.ends(ConnectionEnd::ServerReset);
        timings.ends(ConnectionEnd::Shutdown);
        assert_eq!(timings.end(), Some(ConnectionEnd::ServerReset));
    }

    #[test]
    fn a_clock_that_was_read_too_early_makes_no_step_longer() {
        // The time of a turn is read before the client is accepted.
        assert_eq!(timings().durations(99).total, 0);
    }

    #[test]
    fn of_a_connection_that_was_open_before_the_log_no_bytes_are_known() {
        let mut timings = Timings::late(1, 2, "l".into());
        timings.moved(Side::Up, 3, 3, 4);
        assert_eq!((timings.bytes, timings.durations(5).first_byte), (None, None));
    }
}
