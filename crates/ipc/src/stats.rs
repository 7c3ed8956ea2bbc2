//! The counters and connection data that reports show.

use serde::{Deserialize, Serialize};

use crate::handshakes::{HandshakeFailures, Handshakes};
use crate::refusal::Refusals;
use crate::server_tls::TlsFaults;

/// The counters of one worker since its start. They only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Clients accepted.
    pub accepted: u64,
    /// Connections that ended, in any state.
    pub closed: u64,
    /// Clients closed because no server was usable.
    pub unserved: u64,
    /// Clients that the access list refused: closed, or passed to the abuse server.
    pub refused: u64,
    /// Connects that failed or timed out.
    pub failed_connects: u64,
    /// Clients that were passed to another server because the first choice was not usable.
    pub failovers: u64,
    /// Pauses of accepting: all connections in use, too many connects pending, or a local shortage.
    pub pauses: u64,
    /// Connections closed for a local shortage (descriptors, memory, ports).
    pub shortages: u64,
    /// Request log lines written.
    pub log_lines: u64,
    /// Request log lines lost, because the disk was full or the log too slow.
    pub log_lost: u64,
    /// Times that the client table could not be used because its lock was stuck.
    pub lock_timeouts: u64,
    /// Events for the supervisor that were dropped because its channel was full.
    pub events_dropped: u64,
    /// Finished TLS handshakes.
    pub handshakes: u64,
    /// Finished TLS handshakes that resumed an earlier session.
    pub resumed: u64,
    /// TLS handshakes that failed or took too long.
    pub failed_handshakes: u64,
    /// Clients closed because the unfinished input of clients took too much memory.
    pub crowded: u64,
    /// Connection log lines written.
    pub connection_log_lines: u64,
    /// Connection log lines lost, because the disk was full or the log too slow.
    pub connection_log_lost: u64,
    /// Requests that were refused (`-H`), by reason.
    pub requests_refused: Refusals,
    /// Clients that were forgotten because another client needed their slot of the table.
    pub evictions: u64,
    /// Listed senders that were closed for the fault of their PROXY protocol header.
    pub bad_senders: u64,
    /// Clients that were reset when the listener moved, because no connection was free for them.
    pub over_limit: u64,
    /// Clients that began to be held, because no server could be used (`hold`) or for a pause.
    pub held: u64,
    /// Clients that are no longer held, for any reason.
    pub held_ended: u64,
    /// Finished TLS handshakes, by kind. Workers before these counters have them in `handshakes`
    /// only.
    pub handshakes_by_kind: Handshakes,
    /// Failed TLS handshakes, by reason. Workers before these counters have them in
    /// `failed_handshakes` only.
    pub handshake_failures: HandshakeFailures,
    /// Connections beyond `per_client_max`.
    pub beyond_max: u64,
    /// Connections beyond `per_client_rate`.
    pub beyond_rate: u64,
    /// Connections beyond a limit per client that began to be kept open and silent (`tarpit`).
    pub tarpitted: u64,
    /// Those of them that are not any longer.
    pub tarpit_ended: u64,
    /// Connections that could not be checked against the limits per client, and were let in.
    pub limits_unchecked: u64,
    /// Finished TLS handshakes with servers, by kind.
    pub server_handshakes: Handshakes,
    /// Failed TLS handshakes with servers, by reason.
    pub server_tls_faults: TlsFaults,
}

impl Counters {
    /// Open connections.
    pub fn open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed)
    }

    /// Clients that are held.
    pub fn held_now(&self) -> u64 {
        self.held.saturating_sub(self.held_ended)
    }

    /// Connections that are kept open and silent.
    pub fn tarpitted_now(&self) -> u64 {
        self.tarpitted.saturating_sub(self.tarpit_ended)
    }

    /// Adds the counters of another worker. The sums saturate, because a worker may report any
    /// number.
    pub fn add(&mut self, other: &Counters) {
        let Counters {
            accepted,
            closed,
            unserved,
            refused,
            failed_connects,
            failovers,
            pauses,
            shortages,
            log_lines,
            log_lost,
            lock_timeouts,
            events_dropped,
            handshakes,
            resumed,
            failed_handshakes,
            crowded,
            connection_log_lines,
            connection_log_lost,
            requests_refused,
            evictions,
            bad_senders,
            over_limit,
            held,
            held_ended,
            handshakes_by_kind,
            handshake_failures,
            beyond_max,
            beyond_rate,
            tarpitted,
            tarpit_ended,
            limits_unchecked,
            server_handshakes,
            server_tls_faults,
        } = other;
        self.accepted = self.accepted.saturating_add(*accepted);
        self.closed = self.closed.saturating_add(*closed);
        self.unserved = self.unserved.saturating_add(*unserved);
        self.refused = self.refused.saturating_add(*refused);
        self.failed_connects = self.failed_connects.saturating_add(*failed_connects);
        self.failovers = self.failovers.saturating_add(*failovers);
        self.pauses = self.pauses.saturating_add(*pauses);
        self.shortages = self.shortages.saturating_add(*shortages);
        self.log_lines = self.log_lines.saturating_add(*log_lines);
        self.log_lost = self.log_lost.saturating_add(*log_lost);
        self.lock_timeouts = self.lock_timeouts.saturating_add(*lock_timeouts);
        self.events_dropped = self.events_dropped.saturating_add(*events_dropped);
        self.handshakes = self.handshakes.saturating_add(*handshakes);
        self.resumed = self.resumed.saturating_add(*resumed);
        self.failed_handshakes = self.failed_handshakes.saturating_add(*failed_handshakes);
        self.crowded = self.crowded.saturating_add(*crowded);
        self.connection_log_lines = self.connection_log_lines.saturating_add(*connection_log_lines);
        self.connection_log_lost = self.connection_log_lost.saturating_add(*connection_log_lost);
        self.requests_refused.add(requests_refused);
        self.evictions = self.evictions.saturating_add(*evictions);
        self.bad_senders = self.bad_senders.saturating_add(*bad_senders);
        self.over_limit = self.over_limit.saturating_add(*over_limit);
        self.held = self.held.saturating_add(*held);
        self.held_ended = self.held_ended.saturating_add(*held_ended);
        self.handshakes_by_kind.add(handshakes_by_kind);
        self.handshake_failures.add(handshake_failures);
        self.beyond_max = self.beyond_max.saturating_add(*beyond_max);
        self.beyond_rate = self.beyond_rate.saturating_add(*beyond_rate);
        self.tarpitted = self.tarpitted.saturating_add(*tarpitted);
        self.tarpit_ended = self.tarpit_ended.saturating_add(*tarpit_ended);
        self.limits_unchecked = self.limits_unchecked.saturating_add(*limits_unchecked);
        self.server_handshakes.add(server_handshakes);
        self.server_tls_faults.add(server_tls_faults);
    }
}

/// One open connection, as reported by its worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Program-wide number.
    pub number: u32,
    /// A sum of flags: 1 connecting, 2 connected, 4 server ended, 8 client ended.
    pub state: u8,
    /// The client socket's descriptor in its worker.
    pub downfd: i32,
    /// The server socket's descriptor in its worker; -1 while there is none.
    pub upfd: i32,
    /// Bytes that wait to be sent to the client.
    pub pending_down: u32,
    /// Bytes that wait to be sent to the server.
    pub pending_up: u32,
    /// The client's slot in the client table; -1 if it has none.
    pub client: i32,
    /// The server's code ([`pen_config::ids::Target::code`], or [`pen_config::ids::NO_SERVER`]).
    pub server: i32,
}
