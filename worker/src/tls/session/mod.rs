//! A TLS session with a client or with a server: converts records to plain text and back. It has no
//! socket, and no memory except for incomplete data.
//!
//! rustls works on buffers that belong to the worker and not to the session, so an idle session
//! keeps only its keys. rustls bounds what the session sends by itself (handshake, alerts, key
//! updates).

mod facts;
mod records;
mod stage;

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ProtocolVersion};

use crate::tls::keyring::Keyring;
use crate::tls::resumption::Sessions;
use crate::tls::session::records::{Content, TakenRecords, exchange, records};
use crate::tls::session::stage::{Asking, Engine, RequestedName, SessionStage};
use crate::tls::verifier::{RefusedCertificate, refused};

pub use crate::tls::session::facts::TlsFacts;

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

/// The same of a server whose handshake is over. It has records of 16 KiB to send, and tickets that
/// are much smaller. What each leaves unfinished of that does not count with the rest
/// (`relay::transfer::unfinished`), so each has little room.
pub const ESTABLISHED: usize = 32 * 1024;

/// Most bytes of one read before the handshake is over.
const GREETING: usize = 16 * 1024;

/// Most bytes of the last message of a handshake that wait for the first plain text. The buffer for
/// records has room for them beside [`PLAIN`].
const LAST_FLIGHT: usize = 8 * 1024;

/// The alerts by which a certificate is refused (RFC 8446, 6.2).
const CERTIFICATE_ALERTS: [u8; 10] = [42, 43, 44, 45, 46, 48, 49, 51, 115, 116];

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
    /// Plain text has come.
    has_received: bool,
    /// The server name that the client asked for.
    name: RequestedName,
    /// Why the session is over.
    error: Option<rustls::Error>,
    /// Why the client's certificate was refused, and whose it was.
    refused: Option<Box<RefusedCertificate>>,
    /// Messages of the session itself.
    out: Vec<u8>,
    /// Our last messages of a handshake with a server. They go out with the first plain text.
    last_flight: Vec<u8>,
    /// Bytes of a handshake that the server has sent.
    greeted: usize,
    /// How often the library keeps them at most, until the handshake is over.
    copies: usize,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("incomplete", &self.incomplete.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A new session, before the client's first bytes.
    pub fn new(keyring: Arc<Keyring>) -> Session {
        Session::at(SessionStage::Choosing(keyring))
    }

    /// A new session with a server of this name. Its hello is in [`Session::take_out`]. The
    /// configuration keeps its tickets in `sessions`.
    ///
    /// # Errors
    /// The library cannot make one.
    pub fn with_server(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        sessions: Arc<Sessions>,
    ) -> Result<Session, rustls::Error> {
        // Its certificates, and what a signature of pen's certificate covers.
        let copies = if config.client_auth_cert_resolver.has_certs() { 2 } else { 1 };
        let tls = UnbufferedClientConnection::new(config, name)?;
        let mut asking = Asking { tls, sessions };
        let (mut out, mut taken) = (Vec::new(), TakenRecords::default());
        exchange(&mut asking, &mut [], 0, &mut [], &mut out, &mut taken);
        match taken.error {
            Some(error) => Err(error),
            None => Ok(Session { out, copies, ..Session::at(SessionStage::Asking(asking)) }),
        }
    }

    fn at(stage: SessionStage) -> Session {
        Session {
            stage,
            incomplete: Vec::new(),
            early: Vec::new(),
            early_end: false,
            closed: false,
            peer_closed: false,
            has_received: false,
            name: RequestedName::Dropped,
            error: None,
            refused: None,
            out: Vec::new(),
            last_flight: Vec::new(),
            greeted: 0,
            copies: 0,
        }
    }

    /// Whether the handshake is not finished.
    pub fn is_handshaking(&self) -> bool {
        self.stage.common().is_none_or(CommonState::is_handshaking)
    }

    /// Whether the peer is a server, and the handshake with it is over.
    fn is_established_server(&self) -> bool {
        matches!(self.stage, SessionStage::Asking(_)) && !self.is_handshaking()
    }

    /// Whether a server's first data is awaited after the handshake.
    pub fn awaits_answer(&self) -> bool {
        self.is_established_server() && !self.has_received
    }

    /// The alert of a server that refused pen's certificate after the handshake, before any data.
    /// In TLS 1.2, a handshake is over only when the server has taken the certificate.
    pub fn late_refusal(&self) -> Option<u8> {
        let Some(rustls::Error::AlertReceived(alert)) = self.error else { return None };
        let alert = u8::from(alert);
        let version = self.stage.common().and_then(CommonState::protocol_version);
        let may_be = self.awaits_answer() && version == Some(ProtocolVersion::TLSv1_3);
        (may_be && CERTIFICATE_ALERTS.contains(&alert)).then_some(alert)
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
        let start = match self.stage.begin(records, &mut self.name) {
            Ok(Some(Engine::Server(tls))) => {
                exchange(tls, records, kept, plain, &mut self.out, &mut taken)
            }
            Ok(Some(Engine::Client(asking))) => {
                let was_shaking = asking.tls.is_handshaking();
                if was_shaking {
                    self.greeted = self.greeted.saturating_add(length);
                }
                let start = exchange(asking, records, kept, plain, &mut self.out, &mut taken);
                let is_over = was_shaking && !asking.tls.is_handshaking() && taken.error.is_none();
                if is_over && self.out.len() <= LAST_FLIGHT {
                    self.last_flight = std::mem::take(&mut self.out);
                }
                start
            }
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
        // Also if an error follows in the same bytes: the server has answered.
        self.has_received |= taken.plain > 0;
        if taken.error.is_some() {
            self.refused = refused().map(Box::new);
            self.closed = true;
            return taken;
        }
        let most = if self.is_established_server() { ESTABLISHED } else { INCOMPLETE };
        let rest = &records[start..];
        self.peer_closed |= taken.closed;
        if taken.closed || rest.is_empty() {
            self.incomplete = Vec::new();
        } else if rest.len() > most {
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
    /// cannot send any more, and is over.
    pub fn encrypt(&mut self, plain: &[u8], cipher: &mut Cipher) -> Option<usize> {
        let made = self.make_records(Content::Plain(plain), cipher);
        if made.is_none() {
            self.closed = true;
            self.error.get_or_insert(rustls::Error::EncryptError);
        }
        made
    }

    /// Makes the close_notify record.
    pub fn close(&mut self, cipher: &mut Cipher) -> Option<usize> {
        let length = self.make_records(Content::CloseNotify, cipher);
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

    /// Makes records, behind messages that wait for them. None: the session cannot send any more.
    fn make_records(&mut self, content: Content<'_>, cipher: &mut Cipher) -> Option<usize> {
        if self.closed {
            return None;
        }
        let waiting = self.last_flight.len();
        let room = cipher.all();
        room[..waiting].copy_from_slice(&self.last_flight);
        // Includes the incomplete bytes: rustls knows how far it has read them.
        let incomplete = &mut self.incomplete;
        let room = &mut room[waiting..];
        let made = match &mut self.stage {
            SessionStage::Choosing(_) => None,
            SessionStage::Serving(tls, _) => records(tls, incomplete, content, room),
            SessionStage::Asking(asking) => records(asking, incomplete, content, room),
        }?;
        if waiting > 0 {
            self.last_flight = Vec::new();
        }
        Some(waiting + made)
    }

    /// The last messages of a handshake with a server, if no plain text has taken them along. They
    /// are to be sent at once.
    pub fn take_last_flight(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.last_flight)
    }

    /// Keeps plain text that came with the end of the handshake, until a server is connected.
    pub fn keep_early(&mut self, plain: &[u8], ended: bool) {
        self.early.extend_from_slice(plain);
        self.early_end = ended;
    }

    /// Bytes of memory kept until more data comes, or until a server is connected. In the handshake
    /// with a server, the library may keep all that came. After it, it keeps the certificates, as
    /// long as the session; they are at most 64 KiB, and do not count here.
    pub fn held_bytes(&self) -> usize {
        let in_library = match self.is_handshaking() {
            true => self.greeted.saturating_sub(self.incomplete.len()) * self.copies,
            false => 0,
        };
        self.incomplete.capacity() + self.early.capacity() + in_library
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

#[cfg(test)]
pub(crate) mod tests;
