//! The resources that a worker gets from the supervisor at fork time.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::channel::Channel;
use crate::checks::Seed;
use crate::message::{FromStartingWorker, ToChecker, ToControl, ToPage, ToWorker};
use pen_config::ids::WorkerId;
use pen_config::settings::Settings;

/// All that a worker owns when its entry function is called. The worker is already jailed. Its only
/// open descriptors are those in here and standard input, output and error.
#[derive(Debug)]
pub struct WorkerStart {
    /// The number of this worker, for its name.
    pub id: WorkerId,
    /// The number of workers that share the clients: those with the numbers from 0.
    pub workers: u32,
    /// The row of the shared table that this process has. Two processes of one worker number can
    /// live at a time, each with a row of its own.
    pub row: u32,
    /// When it begins to accept clients.
    pub begins: Begins,
    /// The channel to the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToWorker>,
    /// The listening socket, bound and non-blocking, shared by all workers.
    pub listener: OwnedFd,
    /// An eventfd shared by all workers: a write makes each of them look for clients.
    pub freed: OwnedFd,
    /// An eventfd shared by all workers: a write wakes one worker that waits for a connection slot
    /// under `-x`.
    pub vacancy: OwnedFd,
    /// The settings in force.
    pub settings: Settings,
    /// The request log, if there is one.
    pub log: Option<RequestLog>,
    /// The connection log, if there is one.
    pub connection_log: Option<ConnectionLog>,
    /// TLS, if it is on.
    pub tls: Option<TlsStart>,
    /// The files of TLS towards servers, in sealed memory, if a server speaks TLS.
    pub server_tls: Option<OwnedFd>,
    /// The destination of debug output.
    pub debug: DebugOutput,
    /// Most descriptors that this process may have open (RLIMIT_NOFILE).
    pub descriptor_limit: u64,
    /// The name of this machine, for the connection log.
    pub host: String,
    /// The UTC offset in seconds at a Unix time, positive to the east, by the time zone that the
    /// supervisor read. A jail has no zone files. Debug output uses it for time stamps.
    pub utc_offset: fn(i64) -> i32,
}

/// When a worker begins to accept clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begins {
    /// As soon as it is ready.
    AtOnce,
    /// After [`ToWorker::Begin`]: workers of an earlier release accept until then.
    OnOrder,
}

/// Descriptors that a worker keeps for itself: standard streams, channel, listener, eventfds, logs,
/// TLS files.
pub const OWN_DESCRIPTORS: u64 = 16;

/// Most descriptors that a worker keeps for the pipes of splice(2).
const MOST_OF_PIPES: u64 = 64;

/// Descriptors of a worker that are not for connections: its own, and a quarter of the others for
/// pipes, up to a bound. The share leaves descriptors for clients even if the limit is low.
pub fn reserved_descriptors(limit: u64) -> u64 {
    OWN_DESCRIPTORS + (limit.saturating_sub(OWN_DESCRIPTORS) / 4).min(MOST_OF_PIPES)
}

/// A descriptor limit that is enough for this many connections of two descriptors each: the lowest
/// one, or one more.
pub fn enough_descriptors(connections: u32) -> u64 {
    let sockets = 2 * u64::from(connections);
    OWN_DESCRIPTORS + sockets + sockets.div_ceil(3).min(MOST_OF_PIPES)
}

/// The TLS files and secrets of a worker.
#[derive(Debug)]
pub struct TlsStart {
    /// The files, in sealed memory ([`crate::tls_files`]).
    pub files: OwnedFd,
    /// The ticket secrets, in sealed memory: the current one, and the one before if there is one.
    pub secrets: (OwnedFd, Option<OwnedFd>),
}

/// All that the control process owns when its entry function is called; it is jailed like a worker.
#[derive(Debug)]
pub struct ControlStart {
    /// The channel to the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToControl>,
    /// The control port, bound and non-blocking.
    pub listener: OwnedFd,
    /// When it begins to accept operators.
    pub begins: Begins,
    /// The settings in force.
    pub settings: Settings,
    /// Its root directory as seen from outside (`-j`), for messages.
    pub jail: Option<PathBuf>,
}

/// All that the page process owns when its entry function is called; it is jailed like a worker.
#[derive(Debug)]
pub struct PageStart {
    /// The channel to the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToPage>,
    /// The socket of the page, bound and non-blocking.
    pub listener: OwnedFd,
    /// When it begins to accept readers.
    pub begins: Begins,
    /// The settings in force.
    pub settings: Settings,
    /// The names by which readers may ask for the page.
    pub hosts: Hosts,
}

/// The names by which readers may ask for the page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hosts {
    /// Any: no browser reaches a Unix socket.
    Any,
    /// The one in the command `page` and that of this machine, beside names that no stranger can
    /// give an address.
    These(Vec<String>),
}

/// All that the checker owns when its entry function is called; it is jailed like a worker.
#[derive(Debug)]
pub struct CheckerStart {
    /// The channel to the supervisor; non-blocking.
    pub channel: Channel<FromStartingWorker, ToChecker>,
    /// When it begins to check.
    pub begins: Begins,
    /// The settings in force.
    pub settings: Settings,
    /// What is known of the servers with a check.
    pub seeds: Vec<Seed>,
    /// The files of TLS towards servers, in sealed memory, if a server speaks TLS.
    pub server_tls: Option<OwnedFd>,
    /// Most descriptors that this process may have open (RLIMIT_NOFILE).
    pub descriptor_limit: u64,
}

/// The destination of the request log.
#[derive(Debug)]
pub enum RequestLog {
    /// A file, opened for appending; never blocks.
    File(OwnedFd),
    /// A connected UDP socket to penlogd.
    Network(OwnedFd),
}

/// The destination of the connection log.
#[derive(Debug)]
pub enum ConnectionLog {
    /// A file, opened for appending; never blocks.
    File(OwnedFd),
    /// A connected UDP socket to a syslog receiver.
    Network(OwnedFd),
    /// A datagram socket connected to the syslog daemon; `None` if there is no daemon.
    Syslog(Option<OwnedFd>),
}

impl From<RequestLog> for ConnectionLog {
    fn from(log: RequestLog) -> ConnectionLog {
        match log {
            RequestLog::File(file) => ConnectionLog::File(file),
            RequestLog::Network(socket) => ConnectionLog::Network(socket),
        }
    }
}

/// The destination of debug output.
#[derive(Debug)]
pub enum DebugOutput {
    /// Standard error (foreground).
    Stderr,
    /// Standard error that the journal reads: each line begins with `<7>` and has no time.
    Journal,
    /// A datagram socket connected to the syslog daemon; `None` if there is no daemon.
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
