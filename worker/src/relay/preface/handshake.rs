//! TLS handshakes: the step between accepting a client and choosing a server for it.

use pen_config::ids::ClientKey;
use pen_ipc::message::{Event, HandshakeFailure, PeerCertificate};

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{RecvState, receive};
use crate::relay::connection::{Connection, ConnectionState};
use crate::relay::select::client_permitted;
use crate::relay::transfer::pump;
use crate::tls::failure;

/// Reads and answers before other connections are served.
const ROUNDS: u32 = 4;

impl Relay<'_> {
    /// Continues a handshake as far as it goes now. True: it is over or there is none, and a server
    /// can be chosen.
    pub(in crate::relay) fn continue_handshake(&mut self, slot: u32) -> bool {
        let Some(tls) = &self.tls else { return true };
        let connection = &mut self.connections[slot];
        if connection.down.session.is_none() {
            let key = connection.key.unwrap_or(ClientKey::UNIX);
            if self.settings.abuse.is_none() && !client_permitted(&self.settings, key) {
                // The client will be refused in any case, so it is not worth the work of a
                // handshake.
                return true;
            }
            let mut session = Box::new(tls.session());
            if connection.timings.is_some() {
                session.keep_name();
            }
            connection.down.session = Some(session);
        }
        self.go_on(slot)
    }

    fn go_on(&mut self, slot: u32) -> bool {
        let is_over = self.handshake_rounds(slot);
        if self.connections[slot].state != ConnectionState::Free {
            self.io.note_unfinished(&mut self.connections[slot], self.now);
        }
        is_over
    }

    fn handshake_rounds(&mut self, slot: u32) -> bool {
        let Connection { down, timings, .. } = &mut self.connections[slot];
        for round in 0..=ROUNDS {
            // A client that does not take the server's messages is not read.
            if !pump::flush(down, &mut self.io.tools) {
                break;
            }
            let Some(session) = down.session.as_mut() else { break };
            if !session.is_handshaking() && session.error().is_none() {
                if let Some(timings) = timings {
                    timings.handshake_ends(self.now);
                }
                self.link.counters.handshakes += 1;
                let kind = session.kind();
                self.link.counters.resumed += u64::from(kind.is_resumed());
                self.link.counters.handshakes_by_kind.count(kind);
                if session.has_early() {
                    // This plain text comes before the socket's data and before the end of file.
                    down.recv = RecvState::Readable;
                }
                return true;
            }
            // The last round only checks what the one before has read: no event may tell of it
            // again.
            if !down.recv.is_readable() || round == ROUNDS {
                break;
            }
            let buffers = self.io.tools.buffers();
            let length = receive(down, buffers);
            if let (Some(session), 1..) = (&mut down.session, length) {
                session.keep_early(&buffers.plain[..length], down.recv == RecvState::Ended);
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
            None if down.recv.is_over() || down.is_broken() => self.finish(slot, None),
            None if down.recv.is_readable() && down.held.is_none() => {
                self.connections.come_back(slot, crate::relay::connection::Side::Down)
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
        self.note_end(slot, ConnectionEnd::HandshakeFailed);
        let late = reason == HandshakeFailure::Timeout;
        self.link.counters.failed_handshakes += 1;
        self.link.counters.handshake_failures.count(reason.kind());
        let key = self.connections[slot].key.unwrap_or(ClientKey::UNIX);
        if self.debug.on(1) {
            self.debug.log(1, format_args!("client {key}: TLS handshake failed: {reason:?}"));
        }
        let event = Event::HandshakeFailed { client: key.bytes(), reason, certificate, others: 0 };
        self.link.report_counted(event, self.now);
        if late {
            return self.finish(slot, None);
        }
        let down = &mut self.connections[slot].down;
        if down.recv == RecvState::Failed {
            // The session broke, and not the socket. This state has replaced what the read found
            // out: that there is more, that the end of file was read, or neither.
            down.recv = RecvState::Readable;
        }
        self.begin_linger(slot);
    }
}
