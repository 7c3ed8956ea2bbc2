//! What is counted of the connections to each server, for metrics.
//!
//! A connect takes from connect(2) until the worker learns that it succeeded. A connection lasts
//! from accept(2) until its server is released, mostly with the client. The ends of both are the
//! time at which the round of events began, which is read anyway.

use pen_config::ids::Target;
use pen_ipc::message::ConnectFailure;
use pen_ipc::server_tls::TlsFault;
use pen_status::histogram::{Bounds, CONNECT, LENGTH, bucket};
use pen_table::{FailureClass, Timed};
use rustix::io::Errno;

use crate::relay::Relay;
use crate::relay::connection::{Connection, ConnectionState};

/// Monotonic nanoseconds as microseconds without the upper half. A duration between two of them is
/// right up to 71 minutes, and no connect takes so long.
pub fn stamp(nanos: u64) -> u32 {
    (nanos / 1000) as u32
}

/// The class of a failed connect.
pub fn class(failure: ConnectFailure) -> FailureClass {
    let errno = match failure {
        ConnectFailure::Timeout | ConnectFailure::Tls(TlsFault::Timeout) => {
            return FailureClass::Timeout;
        }
        ConnectFailure::Tls(_) => return FailureClass::Other,
        ConnectFailure::Errno(errno) => Errno::from_raw_os_error(errno),
    };
    match errno {
        // There is no file of a Unix socket.
        Errno::CONNREFUSED | Errno::NOENT => FailureClass::Refused,
        Errno::TIMEDOUT => FailureClass::Timeout,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => {
            FailureClass::Unreachable
        }
        _ => FailureClass::Other,
    }
}

fn timed(bounds: &Bounds, micros: u64) -> Timed {
    Timed { micros, bucket: bucket(bounds, micros) }
}

impl Relay<'_> {
    /// Counts a connect that succeeded in this round. An idler's counts too: it tells as much of
    /// the server.
    pub(in crate::relay) fn count_connect(&self, target: Target, dialled: u32) {
        // The kernel tells of it in a later round than that of connect(2).
        let micros = stamp(self.precise).wrapping_sub(dialled);
        self.worker_table.count_connect(self.row(target), timed(&CONNECT, micros.into()));
    }

    /// Counts a client that reached its server.
    pub(in crate::relay) fn count_reached(&self, slot: u32) {
        if let Some(target) = self.connections[slot].counted_target() {
            self.worker_table.count_reached(self.row(target));
        }
    }

    /// Counts a client that is passed on from a server.
    pub(in crate::relay) fn count_failover(&mut self, from: Option<Target>) {
        self.link.counters.failovers += 1;
        if let Some(target) = from {
            self.worker_table.count_failover(self.row(target));
        }
    }

    /// Counts how long a client's connection to a server lasted that is over now.
    pub(in crate::relay) fn count_length(&self, slot: u32) {
        let connection = &self.connections[slot];
        if let Some(target) = connection.counted_target().filter(|_| has_reached(connection)) {
            let micros = self.precise.saturating_sub(connection.began) / 1000;
            self.worker_table.count_length(self.row(target), timed(&LENGTH, micros));
        }
    }
}

/// Whether a client's connection has reached its server.
fn has_reached(connection: &Connection) -> bool {
    match connection.state {
        ConnectionState::Relaying | ConnectionState::Lingering => true,
        ConnectionState::Free
        | ConnectionState::Preface
        | ConnectionState::Connecting
        | ConnectionState::Securing
        | ConnectionState::Waiting { .. }
        | ConnectionState::Held(_)
        | ConnectionState::Tarpit
        | ConnectionState::Dummy
        | ConnectionState::Idler => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_class_of_their_cause() {
        let classes = [
            (Errno::CONNREFUSED, FailureClass::Refused),
            (Errno::NOENT, FailureClass::Refused),
            (Errno::TIMEDOUT, FailureClass::Timeout),
            (Errno::HOSTUNREACH, FailureClass::Unreachable),
            (Errno::NETUNREACH, FailureClass::Unreachable),
            (Errno::HOSTDOWN, FailureClass::Unreachable),
            (Errno::NETDOWN, FailureClass::Unreachable),
            (Errno::CONNRESET, FailureClass::Other),
            (Errno::ACCESS, FailureClass::Other),
            (Errno::AFNOSUPPORT, FailureClass::Other),
        ];
        for (errno, expected) in classes {
            assert_eq!(class(ConnectFailure::Errno(errno.raw_os_error())), expected, "{errno:?}");
        }
        assert_eq!(class(ConnectFailure::Timeout), FailureClass::Timeout);
        let tls = |fault| class(ConnectFailure::Tls(fault));
        assert_eq!(tls(TlsFault::Timeout), FailureClass::Timeout);
        assert_eq!(tls(TlsFault::WrongName), FailureClass::Other);
    }

    #[test]
    fn a_duration_is_right_when_its_stamps_wrap() {
        let begin = (1 << 32) * 1000 - 1;
        assert_eq!(stamp(begin + 25_001).wrapping_sub(stamp(begin)), 26);
        assert_eq!(timed(&CONNECT, 26), Timed { micros: 26, bucket: 1 });
    }

    #[test]
    fn the_table_has_all_buckets() {
        assert_eq!(pen_status::histogram::BUCKETS, pen_table::BUCKETS);
    }
}
