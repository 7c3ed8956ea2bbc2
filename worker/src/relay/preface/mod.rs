//! The client's first bytes that must come before a server is chosen: a TLS handshake, and a PROXY
//! protocol header.
//!
//! Until then the client uses a connection number under `-x` and nothing else: no server is
//! contacted, and no entry of the table is used. The whole has a deadline, so that silent clients
//! do not keep connection numbers for ever.

pub(crate) mod handshake;
pub(crate) mod proxy_header;

use pen_ipc::message::{HandshakeFailure, SenderFault};

use crate::relay::Relay;
use crate::relay::connection::FirstStep;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::{Connection, ConnectionState, HoldReason, Judged, Timer};
use crate::relay::limits::Watch;

/// Least time limit of a preface in milliseconds. It is longer if a connect may take longer.
const AT_LEAST: u64 = 10_000;

impl Relay<'_> {
    /// Whether a client has sent all that must come before a server is chosen.
    pub(in crate::relay) fn is_preface_over(&self, slot: u32) -> bool {
        let Connection { judged, down, .. } = &self.connections[slot];
        let is_shaken = || down.session.as_ref().is_some_and(|tls| !tls.is_handshaking());
        *judged != Judged::HeaderDue && (self.tls.is_none() || is_shaken())
    }

    /// Milliseconds that a preface may take.
    pub(in crate::relay) fn preface_timeout(&self) -> u64 {
        self.connect_timeout().max(AT_LEAST)
    }

    /// Waits for the client's first bytes. Its socket is already watched.
    pub(in crate::relay) fn await_preface(&mut self, slot: u32) {
        self.connections[slot].state = ConnectionState::Preface;
        self.connections.start(slot, Timer::Preface, self.now);
    }

    /// Continues a preface after the client has sent data, or can take data again.
    pub(in crate::relay) fn continue_preface(&mut self, slot: u32) {
        // The header comes before everything else, TLS included.
        if self.connections[slot].judged == Judged::HeaderDue {
            if !self.read_sender_header(slot) {
                return;
            }
            if self.settings.per_client.is_on() && !self.judge_client(slot, Watch::Done) {
                return;
            }
        }
        if self.continue_handshake(slot) {
            self.end_preface(slot);
        }
    }

    /// Chooses a server after the preface, unless a pause began meanwhile. A connection beyond a
    /// limit does not wait for its end.
    fn end_preface(&mut self, slot: u32) {
        self.connections.stop(slot);
        self.connections[slot].state = ConnectionState::Connecting;
        match self.first_step {
            FirstStep::Hold => match self.connections[slot].judged {
                Judged::Beyond(exceeded) => self.stop_beyond(slot, exceeded, Watch::Done),
                Judged::HeaderDue | Judged::Within | Judged::Counted => {
                    self.hold(slot, HoldReason::Paused)
                }
            },
            FirstStep::Server | FirstStep::Preface => self.choose_server(slot),
        }
    }

    /// Ends a preface that took too long.
    pub(in crate::relay) fn preface_timed_out(&mut self, slot: u32) {
        if self.connections[slot].judged == Judged::HeaderDue {
            self.report_sender(slot, SenderFault::Late);
        } else if self.tls.is_some() {
            return self.handshake_failed(slot, HandshakeFailure::Timeout, None);
        }
        self.finish(slot, Some(ConnectionEnd::ProxyRefused));
    }
}
