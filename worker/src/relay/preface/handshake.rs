//! TLS handshakes: the step between accepting a client and choosing a server for it.

use pen_config::ids::ClientKey;
use pen_ipc::message::{Event, HandshakeFailure, PeerCertificate};

use crate::relay::Relay;
use crate::relay::connection::ConnectionState;
use crate::relay::connection::endpoint::receive;
use crate::relay::link::Rated;
use crate::relay::tls::failure;
use crate::relay::transfer::pump;
use crate::relay::upstream::select::client_permitted;

/// Failed handshakes that were not yet reported: the last one, and how many came before it.
#[derive(Debug)]
pub struct UntoldHandshakes {
    client: ClientKey,
    reason: HandshakeFailure,
    certificate: Option<PeerCertificate>,
    others: u64,
}

/// Reads and answers before other connections are served.
const ROUNDS: u32 = 4;

impl Relay<'_> {
    /// Continues a handshake as far as it goes now. True: it is over or there is none, and a server
    /// can be chosen.
    pub(in crate::relay) fn shake_hands(&mut self, slot: u32) -> bool {
        let Some(tls) = &self.tls else { return true };
        let connection = &mut self.pool[slot];
        if connection.down.session.is_none() {
            let key = connection.key.unwrap_or(ClientKey::UNIX);
            if self.settings.abuse.is_none() && !client_permitted(&self.settings, key) {
                // The client will be refused in any case, so it is not worth the work of a
                // handshake.
                return true;
            }
            connection.down.session = Some(Box::new(tls.session()));
        }
        self.go_on(slot)
    }

    fn go_on(&mut self, slot: u32) -> bool {
        let is_over = self.take_steps(slot);
        if self.pool[slot].state != ConnectionState::Free {
            self.note_unfinished(slot);
        }
        is_over
    }

    fn take_steps(&mut self, slot: u32) -> bool {
        let down = &mut self.pool[slot].down;
        for round in 0..=ROUNDS {
            // A client that does not take the server's messages is not read.
            if !pump::flush(down, &mut self.tools) {
                break;
            }
            let Some(session) = down.session.as_mut() else { break };
            if !session.is_handshaking() && session.error().is_none() {
                self.counters.handshakes += 1;
                self.counters.resumed += u64::from(session.is_resumed());
                if session.has_early() {
                    // This plain text comes before the socket's data and before the end of file.
                    (down.readable, down.ended) = (true, false);
                }
                return true;
            }
            // The last round only checks what the one before has read: no event may tell of it
            // again.
            if !down.readable || down.failed || round == ROUNDS {
                break;
            }
            let buffers = self.tools.buffers();
            let length = receive(down, buffers);
            if let (Some(session), 1..) = (&mut down.session, length) {
                session.keep_early(&buffers.plain[..length], down.ended);
            }
        }
        let failed = down.session.as_mut().and_then(|session| {
            let reason = failure(session.error()?);
            // The verifier's reason for a refused certificate is more exact than the error of
            // rustls.
            Some(session.take_refused().unwrap_or((reason, None)))
        });
        match failed {
            Some((reason, certificate)) => self.handshake_failed(slot, reason, certificate),
            None if down.failed || down.broken || down.ended => self.finish(slot),
            None if down.readable && down.held.is_none() => {
                self.come_back(slot, crate::relay::connection::Side::Down)
            }
            None => {}
        }
        false
    }

    /// Closes a client whose handshake failed. It gets time to read the alert.
    pub(in crate::relay) fn handshake_failed(
        &mut self,
        slot: u32,
        reason: HandshakeFailure,
        certificate: Option<PeerCertificate>,
    ) {
        let late = reason == HandshakeFailure::Timeout;
        self.counters.failed_handshakes += 1;
        let before = self.untold_handshakes.take().map_or(0, |untold| untold.others + 1);
        let key = self.pool[slot].key.unwrap_or(ClientKey::UNIX);
        if self.debug.on(1) {
            self.debug.say(1, format_args!("client {key}: TLS handshake failed: {reason:?}"));
        }
        self.untold_handshakes =
            Some(UntoldHandshakes { client: key, reason, certificate, others: before });
        self.tell_handshakes();
        if late {
            return self.finish(slot);
        }
        self.greeting.leave(&mut self.pool, slot);
        self.pool[slot].down.failed = false;
        self.begin_linger(slot);
    }

    /// Reports failed handshakes, unless such a report was sent just now.
    pub(in crate::relay) fn tell_handshakes(&mut self) {
        if self.untold_handshakes.is_none() || !self.supervisor.may_tell(Rated::Handshake, self.now)
        {
            return;
        }
        if let Some(UntoldHandshakes { client, reason, certificate, others }) =
            self.untold_handshakes.take()
        {
            let event =
                Event::HandshakeFailed { client: client.bytes(), reason, certificate, others };
            self.supervisor.tell(event, &mut self.counters);
        }
    }
}
