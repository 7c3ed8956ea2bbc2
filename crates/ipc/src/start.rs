//! What a worker is born with: the supervisor's side of the bargain at fork time.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::channel::Channel;
use crate::message::{FromStartingWorker, ToControl, ToWorker};
use pen_config::ids::WorkerId;
use pen_config::settings::Settings;

/// Everything that a worker owns when its entry is called. It is already jailed; no other
/// descriptor is open in it but those in here and standard input, output and error.
#[derive(Debug)]
pub struct WorkerStart {
    /// Which worker this is.
    pub id: WorkerId,
    /// To the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToWorker>,
    /// The listening socket, bound and non-blocking, shared by all workers.
    pub listener: OwnedFd,
    /// An eventfd shared by all workers: a write has each of them look for clients.
    pub freed: OwnedFd,
    /// An eventfd shared by all workers: a write has one that waits for a place under `-x` look
    /// for a client.
    pub vacancy: OwnedFd,
    /// The settings in force.
    pub settings: Settings,
    /// The request log, if there is one.
    pub log: Option<RequestLog>,
    /// TLS, if it is on.
    pub tls: Option<TlsStart>,
    /// Where debug output goes.
    pub debug: DebugOutput,
    /// Most descriptors that this process may have open (RLIMIT_NOFILE).
    pub descriptor_limit: u64,
    /// Seconds east of UTC at a Unix time, by the time zone that the supervisor read: a jail has
    /// no zone files. For the time stamps of debug output.
    pub utc_offset: fn(i64) -> i32,
}

/// Descriptors that a worker keeps for itself: standard streams, channel, listener, events, logs,
/// files of TLS.
pub const OWN_DESCRIPTORS: u64 = 16;

/// Descriptors that a worker keeps for the pipes of splice(2) at most.
const MOST_OF_PIPES: u64 = 64;

/// Descriptors of a worker that are not for connections: its own, and for pipes a quarter of the
/// others, up to a bound. A share, so that a low limit leaves something for clients.
pub fn reserved_descriptors(limit: u64) -> u64 {
    OWN_DESCRIPTORS + (limit.saturating_sub(OWN_DESCRIPTORS) / 4).min(MOST_OF_PIPES)
}

/// A limit with which a worker can have so many connections, of two descriptors each: the lowest,
/// or one more.
pub fn enough_descriptors(connections: u32) -> u64 {
    let sockets = 2 * u64::from(connections);
    OWN_DESCRIPTORS + sockets + sockets.div_ceil(3).min(MOST_OF_PIPES)
}

/// What TLS works by.
#[derive(Debug)]
pub struct TlsStart {
    /// The files, in sealed memory ([`pen_config::tls`]).
    pub files: OwnedFd,
    /// The ticket secrets, in sealed memory: the one that is given out, and the one before if
    /// there is one.
    pub secrets: (OwnedFd, Option<OwnedFd>),
}

/// Everything that the control process owns when its entry is called; it is jailed like a worker.
#[derive(Debug)]
pub struct ControlStart {
    /// To the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToControl>,
    /// The control port, bound and non-blocking.
    pub listener: OwnedFd,
    /// The settings in force.
    pub settings: Settings,
    /// Its root directory as everybody else calls it (`-j`), for messages.
    pub jail: Option<PathBuf>,
}

/// Where the request log goes.
#[derive(Debug)]
pub enum RequestLog {
    /// A file, opened for appending; never blocks.
    File(OwnedFd),
    /// A connected UDP socket towards penlogd.
    Network(OwnedFd),
}

/// Where debug output goes.
#[derive(Debug)]
pub enum DebugOutput {
    /// Standard error (foreground).
    Stderr,
    /// Standard error that the journal reads: each line with `<7>` in front and without a time.
    Journal,
    /// A datagram socket connected to the syslog daemon, or none where there is no daemon.
    Syslog(Option<OwnedFd>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_called_enough_is_enough_and_no_waste() {
        let connections =
            |limit: u64| (limit.saturating_sub(reserved_descriptors(limit)) / 2) as u32;
        for wanted in 1..2000 {
            let enough = enough_descriptors(wanted);
            assert!(
                connections(enough) >= wanted && connections(enough - 2) < wanted,
                "{wanted}: {enough}"
            );
        }
        assert!(connections(20) >= 1, "POSIX guarantees 20");
        assert_eq!((connections(64), connections(1024)), (18, (1024 - 80) / 2));
    }
}
