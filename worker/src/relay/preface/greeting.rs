//! What must be over before a server is chosen: what the client's side says first about the
//! connection itself.
//!
//! Until then a client holds its place under `-x` and nothing else: no server is contacted, no
//! entry of the table is taken. There is a deadline for the whole, so that clients who say nothing
//! do not hold places for ever.

use pen_ipc::message::{HandshakeFailure, SenderFault};

use crate::relay::Relay;
use crate::relay::connection::State;

/// Milliseconds that a greeting may take at least; more if a connect may take longer.
const AT_LEAST: u64 = 10_000;

impl Relay<'_> {
    /// Whether a client has to say something before it is placed.
    pub(in crate::relay) fn expects_greeting(&self, slot: u32) -> bool {
        self.pool[slot].header_due || self.tls.is_some()
    }

    /// Milliseconds that a greeting may take.
    pub(in crate::relay) fn greeting_timeout(&self) -> u64 {
        self.connect_timeout().max(AT_LEAST)
    }

    /// Waits for what a client says first; its socket is watched already.
    pub(in crate::relay) fn await_greeting(&mut self, slot: u32) {
        self.pool[slot].state = State::Greeting;
        self.greeting.wait(&mut self.pool, slot, self.now);
    }

    /// A client that is being greeted has sent something, or takes something again.
    pub(in crate::relay) fn greet(&mut self, slot: u32) {
        // In front of all else, TLS included.
        if self.pool[slot].header_due && !self.hear_sender(slot) {
            return;
        }
        if self.shake_hands(slot) {
            self.greeted(slot);
        }
    }

    /// The greeting is over: the client is placed.
    fn greeted(&mut self, slot: u32) {
        self.greeting.leave(&mut self.pool, slot);
        self.pool[slot].state = State::Connecting;
        self.welcome(slot);
    }

    /// The greeting took too long.
    pub(in crate::relay) fn greeting_ends(&mut self, slot: u32) {
        if self.pool[slot].header_due {
            self.blame_sender(slot, SenderFault::Late);
        } else if self.tls.is_some() {
            return self.handshake_failed(slot, HandshakeFailure::Timeout, None);
        }
        self.finish(slot);
    }
}
