//! What must be over before a server is chosen: what the client's side says first about the connection itself.
//!
//! Until then a client holds its place under `-x` and nothing else: no server is contacted, no entry of the table is taken. There is a
//! deadline for the whole, so that clients who say nothing do not hold places for ever.

use pen_ipc::message::{HandshakeFailure, SenderFault};

use crate::relay::Relay;
use crate::relay::connection::State;

/// Milliseconds that a greeting may take at least; more if a connect may take longer.
const AT_LEAST: u64 = 10_000;

impl Relay<'_> {
    /// Whether a client has to say something before it is placed.
    pub(in crate::relay) fn expects_greeting(&self, place: u32) -> bool {
        self.pool[place].header_due || self.tls.is_some()
    }

    /// Milliseconds that a greeting may take.
    pub(in crate::relay) fn greeting_timeout(&self) -> u64 {
        self.connect_timeout().max(AT_LEAST)
    }

    /// Waits for what a client says first; its socket is watched already.
    pub(in crate::relay) fn await_greeting(&mut self, place: u32) {
        self.pool[place].state = State::Greeting;
        self.greeting.wait(&mut self.pool, place, self.now);
    }

    /// A client that is being greeted has sent something, or takes something again.
    pub(in crate::relay) fn greet(&mut self, place: u32) {
        // In front of all else, TLS included.
        if self.pool[place].header_due && !self.hear_sender(place) {
            return;
        }
        if self.shake_hands(place) {
            self.greeted(place);
        }
    }

    /// The greeting is over: the client is placed.
    fn greeted(&mut self, place: u32) {
        self.greeting.leave(&mut self.pool, place);
        self.pool[place].state = State::Connecting;
        self.welcome(place);
    }

    /// The greeting took too long.
    pub(in crate::relay) fn greeting_ends(&mut self, place: u32) {
        if self.pool[place].header_due {
            self.blame_sender(place, SenderFault::Late);
        } else if self.tls.is_some() {
            return self.handshake_failed(place, HandshakeFailure::Timeout, None);
        }
        self.finish(place);
    }
}
