//! The client's first bytes that must come before a server is chosen: a TLS handshake, and a PROXY
//! protocol header.
//!
//! Until then the client uses a connection number under `-x` and nothing else: no server is
//! contacted, and no entry of the table is used. The whole has a deadline, so that silent clients
//! do not keep connection numbers for ever.

use pen_ipc::message::{HandshakeFailure, SenderFault};

use crate::relay::Relay;
use crate::relay::connection::ConnectionState;

/// Least time limit of a greeting in milliseconds. It is longer if a connect may take longer.
const AT_LEAST: u64 = 10_000;

impl Relay<'_> {
    /// Whether a client must send something before a server is chosen.
    pub(in crate::relay) fn expects_greeting(&self, slot: u32) -> bool {
        self.pool[slot].header_due || self.tls.is_some()
    }

    /// Milliseconds that a greeting may take.
    pub(in crate::relay) fn greeting_timeout(&self) -> u64 {
        self.connect_timeout().max(AT_LEAST)
    }

    /// Waits for the client's first bytes. Its socket is already watched.
    pub(in crate::relay) fn await_greeting(&mut self, slot: u32) {
        self.pool[slot].state = ConnectionState::Greeting;
        self.greeting.wait(&mut self.pool, slot, self.now);
    }

    /// Continues a greeting after the client has sent data, or can take data again.
    pub(in crate::relay) fn greet(&mut self, slot: u32) {
        // The header comes before everything else, TLS included.
        if self.pool[slot].header_due && !self.hear_sender(slot) {
            return;
        }
        if self.shake_hands(slot) {
            self.greeted(slot);
        }
    }

    /// Chooses a server after the greeting.
    fn greeted(&mut self, slot: u32) {
        self.greeting.leave(&mut self.pool, slot);
        self.pool[slot].state = ConnectionState::Connecting;
        self.welcome(slot);
    }

    /// Ends a greeting that took too long.
    pub(in crate::relay) fn greeting_ends(&mut self, slot: u32) {
        if self.pool[slot].header_due {
            self.blame_sender(slot, SenderFault::Late);
        } else if self.tls.is_some() {
            return self.handshake_failed(slot, HandshakeFailure::Timeout, None);
        }
        self.finish(slot);
    }
}
