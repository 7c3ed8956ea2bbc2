//! The TLS handshake with a server: the step between a connect and relaying.
//!
//! It is part of the connect: it has the same time limit, and the server's place among the pending
//! connects. If it fails, the connect has failed, and another server may serve the client, who has
//! not been read yet.

use pen_config::ids::Target;
use pen_ipc::message::ConnectFailure;
use pen_ipc::server_tls::TlsFault;

use crate::relay::Relay;
use crate::relay::connection::endpoint::{RecvState, receive, send_waiting};
use crate::relay::connection::{ConnectionState, ServerSince, Side};
use crate::relay::transfer::pump;
use crate::tls::servers::fault;

/// Reads and answers before other connections are served.
const ROUNDS: u32 = 4;

/// How far a handshake has come.
enum Handshake {
    /// It goes on with the next event.
    Waits,
    /// It goes on without one.
    HasMore,
    /// It is over.
    Over,
    /// It has failed.
    Failed(TlsFault),
}

impl Relay<'_> {
    /// Begins the handshake with a server that is connected.
    pub(in crate::relay) fn begin_securing(&mut self, slot: u32, target: Target) {
        match self.connections[slot].since_then {
            ServerSince::Same => {}
            // The name by which it is verified, and its sessions, are those of the new address.
            ServerSince::Rerouted => return self.dial_again(slot, target),
            ServerSince::Replaced => {
                // The name by which it was to be verified is gone. This is no fault of any server.
                return self.connect_failed(slot, ConnectFailure::Tls(TlsFault::NoName));
            }
        }
        if !self.settings.speaks_tls(target) {
            // TLS was switched off meanwhile. This is no fault of the server.
            return self.dial_again(slot, target);
        }
        let row = self.row(target);
        let session = match &mut self.server_tls {
            Some(tls) => tls.session(row, || self.settings.tls_name(target)),
            None => Err(TlsFault::NoFiles),
        };
        match session {
            Ok(session) => {
                let connection = &mut self.connections[slot];
                connection.state = ConnectionState::Securing;
                connection.up.session = Some(Box::new(session));
                send_waiting(&mut connection.up);
                self.continue_securing(slot);
            }
            Err(fault) => self.securing_failed(slot, fault),
        }
    }

    /// Continues a handshake as far as it goes now.
    pub(in crate::relay) fn continue_securing(&mut self, slot: u32) {
        let handshake = self.shake(slot);
        self.io.note_unfinished(&mut self.connections[slot], self.now);
        match handshake {
            Handshake::Waits => {}
            Handshake::HasMore => self.connections.come_back(slot, Side::Up),
            Handshake::Over => {
                if let Some(session) = &self.connections[slot].up.session {
                    self.link.counters.server_handshakes.count(session.kind());
                }
                self.connected(slot);
            }
            Handshake::Failed(fault) => self.securing_failed(slot, fault),
        }
    }

    fn shake(&mut self, slot: u32) -> Handshake {
        let up = &mut self.connections[slot].up;
        for round in 0..=ROUNDS {
            let is_flushed = pump::flush(up, &mut self.io.tools);
            let Some(session) = up.session.as_ref() else {
                return Handshake::Failed(TlsFault::NoFiles);
            };
            if let Some(error) = session.error() {
                return Handshake::Failed(fault(error));
            }
            if !session.is_handshaking() {
                if session.has_early() {
                    // This plain text comes before the socket's data and before the end of file.
                    up.recv = RecvState::Readable;
                }
                return Handshake::Over;
            }
            if up.recv.is_over() || up.is_broken() {
                return Handshake::Failed(TlsFault::Closed);
            }
            // A server that does not take our messages is not read.
            if !is_flushed || !up.recv.is_readable() {
                return Handshake::Waits;
            }
            // The last round only checks what the one before has read.
            if round == ROUNDS {
                break;
            }
            let buffers = self.io.tools.buffers();
            let length = receive(up, buffers);
            if let (Some(session), 1..) = (&mut up.session, length) {
                session.keep_early(&buffers.plain[..length], up.recv == RecvState::Ended);
            }
        }
        Handshake::HasMore
    }

    /// Handles a handshake that failed: the connect has failed, unless TLS was switched off for the
    /// server meanwhile.
    pub(in crate::relay) fn securing_failed(&mut self, slot: u32, fault: TlsFault) {
        if let Some(target) = self.connections[slot].counted_target()
            && !self.settings.speaks_tls(target)
        {
            // The hello was no longer meant for it.
            return self.dial_again(slot, target);
        }
        self.link.counters.server_tls_faults.count(fault.kind());
        self.connect_failed(slot, ConnectFailure::Tls(fault));
    }

    /// Notes that a server has refused pen's certificate after the handshake: in TLS 1.3, pen
    /// believes that the handshake is over before the server has judged the certificate (RFC 8446,
    /// 4.4.2.4). It is too late for this client, and not for the next.
    pub(in crate::relay) fn note_late_refusal(&mut self, slot: u32) {
        let connection = &self.connections[slot];
        let refusal = connection.up.session.as_ref().and_then(|session| session.late_refusal());
        if connection.is_outdated() {
            // Where the server is now has refused nothing.
            return;
        }
        if let (Some(alert), Some(target)) = (refusal, connection.target) {
            let fault = TlsFault::Alert(alert);
            self.link.counters.server_tls_faults.count(fault.kind());
            self.on_server_failed(target, ConnectFailure::Tls(fault));
        }
    }
}
