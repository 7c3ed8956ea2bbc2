//! One client's TLS session: converts records to plain text and back. It has no socket, and no
//! memory except for incomplete data.
//!
//! rustls works on buffers that belong to the worker and not to the session, so an idle session
//! keeps only its keys. rustls bounds what the session sends by itself (handshake, alerts, key
//! updates).

use std::sync::Arc;

use pen_ipc::handshakes::FinishedHandshake;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use serde::Serialize;

use crate::tls::hello::{Hello, look};
use crate::tls::keyring::Keyring;
use crate::tls::transcript::hide;
use crate::tls::verifier::{RefusedCertificate, refused};

/// Bytes of the shared buffer for plain text. Reads of this size cost about half as much per byte
/// as reads of 64 KiB.
pub const PLAIN: usize = 256 * 1024;

/// Bytes of the buffer for records. It holds [`PLAIN`] bytes of plain text as records of 16 KiB,
/// each with header, content type, nonce and tag (RFC 8446, 5.2; RFC 5288, 3), and some messages of
/// the session itself.
const CIPHER: usize = PLAIN + (PLAIN / 16384 + 1) * 64 + 16384;

/// Most bytes of an incomplete record or handshake message. rustls accepts messages up to 64 KiB;
/// more than this limit is not TLS.
const INCOMPLETE: usize = 96 * 1024;

/// Most bytes of one read before the handshake is over.
const GREETING: usize = 16 * 1024;

/// The buffer for records that all sessions of a worker share; empty until the first session needs
/// it.
#[derive(Debug, Default)]
pub struct Cipher(Vec<u8>);

impl Cipher {
    fn all(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; CIPHER];
        }
        &mut self.0
    }

    /// The first bytes.
    pub fn first(&self, length: usize) -> &[u8] {
        &self.0[..length]
    }
}

/// A session.
pub struct Session {
    stage: SessionStage,
    /// The start of an incomplete record or handshake message.
    incomplete: Vec<u8>,
    /// Plain text that came with the end of the handshake.
    early: Vec<u8>,
    /// The peer's close_notify had come when `early` was kept.
    early_end: bool,
    /// No more records go out: close_notify or a fatal alert was the last.
    closed: bool,
    /// The peer's close_notify has come.
    peer_closed: bool,
    /// The server name that the client asked for.
    name: RequestedName,
    /// Why the session is over.
    error: Option<rustls::Error>,
    /// Why the client's certificate was refused, and whose it was.
    refused: Option<Box<RefusedCertificate>>,
    /// Messages of the session itself.
    out: Vec<u8>,
}

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

#[expect(
    clippy::large_enum_variant,
    reason = "a session is in a box, and served all its life but the first bytes"
)]
enum SessionStage {
    /// The hello is awaited: the requested name decides which configuration is used.
    Choosing(Arc<Keyring>),
    Serving(UnbufferedServerConnection, NameShown),
}

/// The name that a client asked for.
#[derive(Debug, Default)]
enum RequestedName {
    /// Nobody will ask for it.
    #[default]
    Dropped,
    /// It is kept, if there is one.
    Kept(Option<String>),
}

/// The requested server name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NameShown {
    /// rustls gets it as the client sent it.
    Shown,
    /// It is not valid and was hidden from rustls. It is hidden again if the client must send
    /// another hello.
    Hidden,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("incomplete", &self.incomplete.len())
            .finish_non_exhaustive()
    }
}

/// The result of the records that came in.
#[derive(Debug, Default)]
pub struct TakenRecords {
    /// Bytes of plain text.
    pub plain: usize,
    /// The peer sends no more (close_notify).
    pub closed: bool,
    /// The session is over.
    pub error: Option<rustls::Error>,
}

impl Session {
    /// A new session, before the client's first bytes.
    pub fn new(keyring: Arc<Keyring>) -> Session {
        Session {
            stage: SessionStage::Choosing(keyring),
            incomplete: Vec::new(),
            early: Vec::new(),
            early_end: false,
            closed: false,
            peer_closed: false,
            name: RequestedName::Dropped,
            error: None,
            refused: None,
            out: Vec::new(),
        }
    }

    /// Whether the handshake is not finished.
    pub fn is_handshaking(&self) -> bool {
        match &self.stage {
            SessionStage::Choosing(_) => true,
            SessionStage::Serving(tls, _) => tls.is_handshaking(),
        }
    }

    /// The kind of its handshake, which is finished.
    pub fn kind(&self) -> FinishedHandshake {
        let (version, kind) = match &self.stage {
            SessionStage::Serving(tls, _) => (tls.protocol_version(), tls.handshake_kind()),
            SessionStage::Choosing(_) => (None, None),
        };
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
        let SessionStage::Serving(tls, _) = &self.stage else { return None };
        if tls.is_handshaking() {
            return None;
        }
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

    /// Whether the peer sent close_notify before its end of file.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The buffer for the next bytes from the socket, at most `most`: after the incomplete bytes.
    pub fn room<'c>(&self, cipher: &'c mut Cipher, most: usize) -> &'c mut [u8] {
        let kept = self.incomplete.len();
        let most = most.min(if self.is_handshaking() { GREETING } else { PLAIN - kept });
        &mut cipher.all()[kept..kept + most]
    }

    /// Takes `length` bytes that were put into [`Session::room`]. Plain text goes into `plain`,
    /// which is as large as [`PLAIN`].
    pub fn take(&mut self, length: usize, cipher: &mut Cipher, plain: &mut [u8]) -> TakenRecords {
        let mut taken = TakenRecords::default();
        if self.error.is_some() {
            return taken;
        }
        let kept = self.incomplete.len();
        let records = &mut cipher.all()[..kept + length];
        records[..kept].copy_from_slice(&self.incomplete);
        self.incomplete = Vec::new();
        let tls = match self.stage.tls(records, &mut self.name) {
            Ok(Some(tls)) => tls,
            Ok(None) => {
                self.incomplete = records.to_vec();
                return taken;
            }
            Err(error) => {
                self.closed = true;
                taken.error = Some(error);
                return taken;
            }
        };
        let mut start = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                tls.process_tls_records(&mut records[start..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain[taken.plain..][..record.payload.len()]
                            .copy_from_slice(record.payload);
                        taken.plain += record.payload.len();
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    put(&mut self.out, |room| message.encode(room))
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => taken.closed = true,
                Ok(_) => {
                    start += discard;
                    break;
                }
                Err(error) => {
                    start += discard;
                    final_alert(tls, &mut records[start..], &mut self.out);
                    if error == rustls::Error::NoCertificatesPresented {
                        use_tls12_alert(&mut self.out);
                    }
                    self.refused = refused().map(Box::new);
                    self.closed = true;
                    self.incomplete = Vec::new();
                    taken.error = Some(error);
                    return taken;
                }
            }
            start += discard;
        }
        let rest = &records[start..];
        self.peer_closed |= taken.closed;
        if taken.closed || rest.is_empty() {
            self.incomplete = Vec::new();
        } else if rest.len() > INCOMPLETE {
            self.closed = true;
            taken.error = Some(rustls::Error::General("message too long".into()));
        } else {
            // A new allocation that fits, so that the memory of a larger one is not kept.
            self.incomplete = rest.to_vec();
        }
        taken
    }

    /// Notes why the session is over: further data is discarded.
    pub fn set_error(&mut self, error: rustls::Error) {
        self.error = Some(error);
    }

    /// Why the session is over.
    pub fn error(&self) -> Option<&rustls::Error> {
        self.error.as_ref()
    }

    /// Why the client's certificate was refused, and whose it was.
    pub fn take_refused(&mut self) -> Option<RefusedCertificate> {
        self.refused.take().map(|refused| *refused)
    }

    /// The messages of the session itself, to be sent at once.
    pub fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Makes records of plain text. Returns how many bytes `cipher` has now. None: the session
    /// cannot send any more.
    pub fn encrypt(&mut self, plain: &[u8], cipher: &mut Cipher) -> Option<usize> {
        self.make_records(cipher, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Makes the close_notify record.
    pub fn close(&mut self, cipher: &mut Cipher) -> Option<usize> {
        let length = self.make_records(cipher, |traffic, room| traffic.queue_close_notify(room));
        self.closed = true;
        length
    }

    /// Whether no more records may go out.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends without close_notify: the peer must see that data is missing.
    pub fn cut(&mut self) {
        self.closed = true;
    }

    /// Makes records as `make` says. None: the session cannot send any more.
    fn make_records(
        &mut self,
        cipher: &mut Cipher,
        make: impl FnOnce(
            &mut rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Option<usize> {
        if self.closed {
            return None;
        }
        let SessionStage::Serving(tls, _) = &mut self.stage else { return None };
        // Includes the incomplete bytes: rustls knows how far it has read them.
        match tls.process_tls_records(&mut self.incomplete).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => make(&mut traffic, cipher.all()).ok(),
            _ => None,
        }
    }

    /// Keeps plain text that came with the end of the handshake, until a server is connected.
    pub fn keep_early(&mut self, plain: &[u8], ended: bool) {
        self.early.extend_from_slice(plain);
        self.early_end = ended;
    }

    /// Bytes of memory kept until more data comes, or until a server is connected.
    pub fn held_bytes(&self) -> usize {
        self.incomplete.capacity() + self.early.capacity()
    }

    /// Whether plain text was kept by [`Session::keep_early`].
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Returns that plain text, and whether close_notify followed it.
    pub fn take_early(&mut self, plain: &mut [u8]) -> Option<(usize, bool)> {
        if self.early.is_empty() {
            return None;
        }
        let early = std::mem::take(&mut self.early);
        plain[..early.len()].copy_from_slice(&early);
        Some((early.len(), self.early_end))
    }
}

impl SessionStage {
    /// The rustls session, which is created when the client's hello is complete. None: it is not
    /// yet.
    ///
    /// # Errors
    /// The configuration cannot serve any client.
    fn tls(
        &mut self,
        records: &mut [u8],
        requested: &mut RequestedName,
    ) -> Result<Option<&mut UnbufferedServerConnection>, rustls::Error> {
        match self {
            SessionStage::Choosing(keyring) => {
                let (config, name) = match look(records) {
                    Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                    Hello::Illegal(slots) => {
                        hide(records, slots);
                        (keyring.nameless(), NameShown::Hidden)
                    }
                    Hello::For(name) => {
                        let config = keyring.config(Some(&name));
                        if let RequestedName::Kept(kept) = requested {
                            *kept = Some(name);
                        }
                        (config, NameShown::Shown)
                    }
                    // Bytes that are not a hello cause their error in any configuration.
                    Hello::Nameless | Hello::Other | Hello::Incomplete => {
                        (keyring.config(None), NameShown::Shown)
                    }
                };
                *self =
                    SessionStage::Serving(UnbufferedServerConnection::new(config.clone())?, name);
            }
            SessionStage::Serving(_, NameShown::Shown) => {}
            // TLS 1.2 has no second hello.
            SessionStage::Serving(tls, name)
                if tls.protocol_version() == Some(ProtocolVersion::TLSv1_2) =>
            {
                *name = NameShown::Shown
            }
            SessionStage::Serving(_, name) => match look(records) {
                Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                Hello::Illegal(slots) => {
                    hide(records, slots);
                    *name = NameShown::Shown;
                }
                Hello::Nameless | Hello::For(_) | Hello::Other | Hello::Incomplete => {
                    *name = NameShown::Shown
                }
            },
        }
        match self {
            SessionStage::Choosing(_) => Ok(None),
            SessionStage::Serving(tls, _) => Ok(Some(tls)),
        }
    }
}

/// Writes the alert that says why a session is over, if there is one. It is called once: only this
/// alert waits, and rustls does not support a second error in the records.
fn final_alert(tls: &mut UnbufferedServerConnection, records: &mut [u8], out: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut message)) = tls.process_tls_records(records).state
    {
        put(out, |room| message.encode(room));
    }
}

/// Replaces the alert certificate_required, which exists only in TLS 1.3 (where it is encrypted),
/// by that of TLS 1.2: handshake_failure (RFC 5246, 7.4.6).
fn use_tls12_alert(out: &mut [u8]) {
    if let [.., 21, 3, 3, 0, 2, 2, alert @ 116] = out {
        *alert = 40;
    }
}

/// Appends the output of `encode`, which tells how much room it needs.
fn put(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    if let Err(EncodeError::InsufficientSize(needs)) = encode(&mut []) {
        let start = out.len();
        out.resize(start + needs.required_size, 0);
        let written = encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}

#[cfg(test)]
pub(crate) mod tests;
