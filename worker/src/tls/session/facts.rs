//! What reports say about a session after its handshake.

use pen_ipc::handshakes::FinishedHandshake;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use serde::Serialize;

use crate::tls::session::Session;
use crate::tls::session::stage::RequestedName;

/// What the connection log says about a session.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TlsFacts<'a> {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite, as the standards name it.
    pub cipher: &'a str,
    /// The server name that the client asked for.
    pub name: Option<&'a str>,
    /// Whether it resumed an earlier session.
    pub resumed: bool,
}

impl Session {
    /// The kind of its handshake, which is finished.
    pub fn kind(&self) -> FinishedHandshake {
        let common = self.stage.common();
        let version = common.and_then(CommonState::protocol_version);
        let kind = common.and_then(CommonState::handshake_kind);
        let is_resumed = kind == Some(HandshakeKind::Resumed);
        match (version == Some(ProtocolVersion::TLSv1_2), is_resumed) {
            (true, false) => FinishedHandshake::Full12,
            (true, true) => FinishedHandshake::Resumed12,
            (false, false) => FinishedHandshake::Full13,
            (false, true) => FinishedHandshake::Resumed13,
        }
    }

    /// Keeps the server name that the client will ask for, for [`Session::facts`].
    pub fn keep_name(&mut self) {
        self.name = RequestedName::Kept(None);
    }

    /// What the connection log says about it, after the handshake.
    pub fn facts(&self) -> Option<TlsFacts<'_>> {
        let tls = self.stage.common().filter(|tls| !tls.is_handshaking())?;
        let version = match tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            other => other.as_str()?,
        };
        // rustls marks those of TLS 1.3.
        let cipher = match tls.negotiated_cipher_suite()?.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
            other => other.as_str()?,
        };
        let name = match &self.name {
            RequestedName::Kept(name) => name.as_deref(),
            RequestedName::Dropped => None,
        };
        Some(TlsFacts { version, cipher, name, resumed: self.kind().is_resumed() })
    }
}
