//! One client's TLS session: records in, plain text out, and the other way. No sockets here, and no
//! memory but for what is incomplete.
//!
//! rustls works on buffers that belong to the worker and not to the session, so an idle session
//! keeps its keys and nothing else. What the session has to say by itself (handshake, alerts, key
//! updates) is bounded by rustls.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::relay::tls::hello::{Hello, look};
use crate::relay::tls::keyring::Keyring;
use crate::relay::tls::transcript::hide;
use crate::relay::tls::verifier::{Refused, refused};
use crate::relay::transfer::pump::BUFFER;

/// Bytes of the buffer for records: as many as [`BUFFER`] bytes of plain text become, each record
/// of 16 KiB with its header, content type, nonce and tag (RFC 8446, 5.2; RFC 5288, 3), and some
/// messages of the session itself.
const CIPHER: usize = BUFFER + (BUFFER / 16384 + 1) * 64 + 16384;

/// Bytes of a record or a handshake message that is not whole: rustls takes messages up to 64 KiB.
/// More than this is no TLS.
const INCOMPLETE: usize = 96 * 1024;

/// The most that is read at once before the handshake is over.
const GREETING: usize = 16 * 1024;

/// The buffer for records that all sessions of a worker use in turn; empty until the first session
/// needs it.
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
    /// The beginning of a record, or of a handshake message, of which the rest is still to come.
    incomplete: Vec<u8>,
    /// Plain text that came along with the end of the handshake.
    early: Vec<u8>,
    /// The peer had ended when `early` was kept.
    early_end: bool,
    /// No more records go out: close_notify or a fatal alert was the last.
    closed: bool,
    /// The peer's close_notify has come.
    peer_closed: bool,
    /// Why the session is over.
    error: Option<rustls::Error>,
    /// Why the client's certificate was refused, and whose it was.
    refused: Option<Box<Refused>>,
    /// What the session itself has to say.
    out: Vec<u8>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a session is in a box, and served all its life but the first bytes"
)]
enum SessionStage {
    /// The name that the client asks for decides by which configuration it is served.
    Choosing(Arc<Keyring>),
    Serving(UnbufferedServerConnection, Name),
}

/// The server name that the client asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Name {
    /// It is as the client sent it.
    Shown,
    /// It is none, and was hidden from rustls: once more, should the client be asked for another
    /// hello.
    Hidden,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("incomplete", &self.incomplete.len())
            .finish_non_exhaustive()
    }
}

/// What became of the records that came in.
#[derive(Debug, Default)]
pub struct Taken {
    /// Bytes of plain text.
    pub plain: usize,
    /// The peer has said that it sends no more (close_notify).
    pub closed: bool,
    /// The session is over.
    pub error: Option<rustls::Error>,
}

impl Session {
    /// A session with a client that has said nothing yet.
    pub fn new(keyring: Arc<Keyring>) -> Session {
        Session {
            stage: SessionStage::Choosing(keyring),
            incomplete: Vec::new(),
            early: Vec::new(),
            early_end: false,
            closed: false,
            peer_closed: false,
            error: None,
            refused: None,
            out: Vec::new(),
        }
    }

    /// Whether the handshake is still to be finished.
    pub fn is_handshaking(&self) -> bool {
        match &self.stage {
            SessionStage::Choosing(_) => true,
            SessionStage::Serving(tls, _) => tls.is_handshaking(),
        }
    }

    /// Whether the session came out of an earlier one.
    pub fn is_resumed(&self) -> bool {
        matches!(&self.stage, SessionStage::Serving(tls, _) if tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Whether the peer said that it sends no more, before it ended.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Where the next bytes from the socket go, at most so many: behind those that are incomplete.
    pub fn room<'c>(&self, cipher: &'c mut Cipher, most: usize) -> &'c mut [u8] {
        let kept = self.incomplete.len();
        let most = most.min(if self.is_handshaking() { GREETING } else { BUFFER - kept });
        &mut cipher.all()[kept..kept + most]
    }

    /// Takes what was put into [`Session::room`]. Plain text goes into `plain`, which is as large
    /// as [`BUFFER`].
    pub fn take(&mut self, length: usize, cipher: &mut Cipher, plain: &mut [u8]) -> Taken {
        let mut taken = Taken::default();
        if self.error.is_some() {
            return taken;
        }
        let kept = self.incomplete.len();
        let records = &mut cipher.all()[..kept + length];
        records[..kept].copy_from_slice(&self.incomplete);
        self.incomplete = Vec::new();
        let tls = match self.stage.tls(records) {
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
                    last_words(tls, &mut records[start..], &mut self.out);
                    if error == rustls::Error::NoCertificatesPresented {
                        say_as_tls12(&mut self.out);
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
            // As much memory as it needs, and not what it once needed.
            self.incomplete = rest.to_vec();
        }
        taken
    }

    /// Notes why the session is over: what still comes is thrown away.
    pub fn set_error(&mut self, error: rustls::Error) {
        self.error = Some(error);
    }

    /// Why the session is over.
    pub fn error(&self) -> Option<&rustls::Error> {
        self.error.as_ref()
    }

    /// Why the client's certificate was refused, and whose it was.
    pub fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take().map(|refused| *refused)
    }

    /// What the session itself has to say, to be sent at once.
    pub fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Makes records of plain text; returns how many bytes are in `cipher` now. None: the session
    /// can say nothing any more.
    pub fn encrypt(&mut self, plain: &[u8], cipher: &mut Cipher) -> Option<usize> {
        self.say(cipher, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Makes the record that says that nothing more comes.
    pub fn close(&mut self, cipher: &mut Cipher) -> Option<usize> {
        let length = self.say(cipher, |traffic, room| traffic.queue_close_notify(room));
        self.closed = true;
        length
    }

    /// Whether no more records may go out.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Ends without close_notify: the peer is to know that something is missing.
    pub fn cut(&mut self) {
        self.closed = true;
    }

    fn say(
        &mut self,
        cipher: &mut Cipher,
        say: impl FnOnce(
            &mut rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Option<usize> {
        if self.closed {
            return None;
        }
        let SessionStage::Serving(tls, _) = &mut self.stage else { return None };
        // With the incomplete bytes: rustls knows how far into them it has come.
        match tls.process_tls_records(&mut self.incomplete).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => say(&mut traffic, cipher.all()).ok(),
            _ => None,
        }
    }

    /// Keeps plain text that came along with the end of the handshake, until there is a server for
    /// it.
    pub fn keep_early(&mut self, plain: &[u8], ended: bool) {
        self.early.extend_from_slice(plain);
        self.early_end = ended;
    }

    /// Bytes of memory that are kept until more comes, or until there is a server.
    pub fn held_bytes(&self) -> usize {
        self.incomplete.capacity() + self.early.capacity()
    }

    /// Whether there is such plain text.
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Gives that plain text out, and whether the peer had ended behind it.
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
    /// The session as rustls knows it, which is made when the client's hello is there. None: that
    /// is still to come.
    ///
    /// # Errors
    /// The configuration cannot serve anybody.
    fn tls(
        &mut self,
        records: &mut [u8],
    ) -> Result<Option<&mut UnbufferedServerConnection>, rustls::Error> {
        match self {
            SessionStage::Choosing(keyring) => {
                let (config, name) = match look(records) {
                    Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                    Hello::Illegal(slots) => {
                        hide(records, slots);
                        (keyring.nameless(), Name::Hidden)
                    }
                    Hello::For(name) => (keyring.config(Some(&name)), Name::Shown),
                    // What is no hello finds its error in any configuration.
                    Hello::Nameless | Hello::Other | Hello::Incomplete => {
                        (keyring.config(None), Name::Shown)
                    }
                };
                *self =
                    SessionStage::Serving(UnbufferedServerConnection::new(config.clone())?, name);
            }
            SessionStage::Serving(_, Name::Shown) => {}
            // TLS 1.2 knows no second hello.
            SessionStage::Serving(tls, name)
                if tls.protocol_version() == Some(ProtocolVersion::TLSv1_2) =>
            {
                *name = Name::Shown
            }
            SessionStage::Serving(_, name) => match look(records) {
                Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                Hello::Illegal(slots) => {
                    hide(records, slots);
                    *name = Name::Shown;
                }
                Hello::Nameless | Hello::For(_) | Hello::Other | Hello::Incomplete => {
                    *name = Name::Shown
                }
            },
        }
        match self {
            SessionStage::Choosing(_) => Ok(None),
            SessionStage::Serving(tls, _) => Ok(Some(tls)),
        }
    }
}

/// The alert that says why a session is over, if there is one. Asked for once: it is all that
/// waits, and rustls does not bear to find a second error in the records.
fn last_words(tls: &mut UnbufferedServerConnection, records: &mut [u8], out: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut message)) = tls.process_tls_records(records).state
    {
        put(out, |room| message.encode(room));
    }
}

/// Makes the alert certificate_required, which only TLS 1.3 has and which is encrypted there, the
/// one that TLS 1.2 has for it: handshake_failure (RFC 5246, 7.4.6).
fn say_as_tls12(out: &mut [u8]) {
    if let [.., 21, 3, 3, 0, 2, 2, alert @ 116] = out {
        *alert = 40;
    }
}

/// Appends what `encode` writes, which says how much room it needs.
fn put(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    if let Err(EncodeError::InsufficientSize(needs)) = encode(&mut []) {
        let start = out.len();
        out.resize(start + needs.required_size, 0);
        let written = encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}

#[cfg(test)]
mod tests;
