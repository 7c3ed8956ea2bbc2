//! Sessions with servers of the library, in memory.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use pen_ipc::tls_files::FileIndex;
use rcgen::{Certificate, CertificateParams, KeyPair};
use rustix::fs::{MemfdFlags, memfd_create};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ProducesTickets;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;
use crate::tls::session::{Cipher, ESTABLISHED, PLAIN};

fn memory(verify: bool, text: &str) -> OwnedFd {
    let part = |role| Part { role, path: "a.pem".into(), offset: 0, length: text.len() as u64 };
    let files = if verify { vec![part(Role::Authorities)] } else { vec![part(Role::Certificate)] };
    let index = ServerIndex { verify, files };
    let memory = memfd_create("tls", MemfdFlags::CLOEXEC).unwrap();
    for bytes in [text.as_bytes(), &index.encode().unwrap()] {
        assert_eq!(rustix::io::write(&memory, bytes).unwrap(), bytes.len());
    }
    memory
}

fn own(name: &str) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap(), key)
}

fn server(
    (certificate, key): &(Certificate, KeyPair),
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let config = config.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
}

/// The worker's side, with a server at the other end.
struct Pair {
    session: Session,
    cipher: Cipher,
    plain: Vec<u8>,
    server: ServerConnection,
    to_server: Vec<u8>,
}

impl Pair {
    fn new(mut session: Session, config: &Arc<ServerConfig>) -> Pair {
        let to_server = session.take_out();
        let server = ServerConnection::new(config.clone()).unwrap();
        Pair { session, cipher: Cipher::default(), plain: vec![0; PLAIN], server, to_server }
    }

    /// Passes everything on, in pieces of this size, until both are silent. Returns the plain text
    /// for the worker.
    fn run(&mut self, piece: usize) -> Vec<u8> {
        let mut came = Vec::new();
        loop {
            let mut to_server = &std::mem::take(&mut self.to_server)[..];
            while !to_server.is_empty() {
                self.server.read_tls(&mut to_server).unwrap();
                let _ = self.server.process_new_packets();
            }
            let mut from_server = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut from_server).unwrap();
            }
            if from_server.is_empty() {
                return came;
            }
            for part in from_server.chunks(piece) {
                self.session.room(&mut self.cipher, part.len())[..part.len()].copy_from_slice(part);
                let taken = self.session.take(part.len(), &mut self.cipher, &mut self.plain);
                came.extend_from_slice(&self.plain[..taken.plain]);
                self.to_server.extend(self.session.take_out());
                if let Some(error) = taken.error {
                    self.session.set_error(error);
                }
            }
        }
    }

    fn send(&mut self, plain: &[u8]) {
        let length = self.session.encrypt(plain, &mut self.cipher).unwrap();
        self.to_server.extend_from_slice(self.cipher.first(length));
    }

    fn got(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.server.reader().read_to_end(&mut bytes);
        bytes
    }
}

#[test]
fn the_first_data_takes_the_end_of_the_handshake_along_and_later_sessions_are_resumed() {
    let identity = own("a.example");
    for version in [&TLS12, &TLS13] {
        let config = server(&identity, version);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let name = "a.example".parse().unwrap();
        for (round, piece) in [1, 7, 16384, 100_000].into_iter().enumerate() {
            let session = tls.session(3, Some(&name)).unwrap();
            let mut pair = Pair::new(session, &config);
            pair.run(piece);
            assert!(!pair.session.is_handshaking(), "{version:?} {round}");
            assert_eq!(pair.session.kind().is_resumed(), round > 0, "{version:?} {round}");
            pair.send(b"request");
            pair.run(piece);
            assert_eq!(pair.got(), b"request");
            let kind = if round > 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
            assert_eq!(pair.server.handshake_kind(), Some(kind));
            pair.server.writer().write_all(b"answer").unwrap();
            pair.server.send_close_notify();
            assert_eq!(pair.run(piece), b"answer");
            assert!(pair.session.peer_closed() && pair.session.facts().is_some());
        }
        // Nothing is resumed at another server, after it was forgotten, or under another name.
        let kind = |tls: &mut ServersTls, row, name: &TlsName| {
            let mut pair = Pair::new(tls.session(row, Some(name)).unwrap(), &config);
            pair.run(16384);
            let waiting = pair.session.take_last_flight();
            pair.to_server.extend(waiting);
            pair.run(16384);
            pair.session.kind().is_resumed()
        };
        assert!(!kind(&mut tls, 4, &name));
        assert!(kind(&mut tls, 3, &name));
        tls.forget(3);
        assert!(!kind(&mut tls, 3, &name) && kind(&mut tls, 3, &name));
    }
}

/// Tickets of one length.
#[derive(Debug)]
struct Tickets(usize);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        60
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(vec![1; self.0])
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[test]
fn what_an_established_server_does_not_finish_has_a_smaller_bound_than_a_handshake() {
    let identity = own("a.example");
    for (ticket, is_kept) in [(8_000, true), (40_000, false)] {
        let mut config = (*server(&identity, &TLS13)).clone();
        config.ticketer = Arc::new(Tickets(ticket));
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let session = tls.session(0, Some(&"a.example".parse().unwrap())).unwrap();
        let mut pair = Pair::new(session, &Arc::new(config));
        pair.run(16384);
        pair.send(b"request");
        pair.run(1000);
        assert_eq!(pair.session.error().is_none(), is_kept, "{ticket}");
        assert!(pair.session.held_bytes() <= ESTABLISHED, "{}", pair.session.held_bytes());
        assert_eq!(pair.got(), b"request");
        pair.server.writer().write_all(b"answer").unwrap();
        let answer: &[u8] = if is_kept { b"answer" } else { b"" };
        assert_eq!(pair.run(1000), answer, "{ticket}");
    }
}

#[test]
fn a_certificate_that_is_not_good_ends_the_session_with_its_reason() {
    let (identity, other) = (own("a.example"), own("a.example"));
    let refused = |trusted: &str, name: &str| {
        let mut tls = ServersTls::new(memory(true, trusted)).unwrap();
        let session = tls.session(0, Some(&name.parse().unwrap())).unwrap();
        let mut pair = Pair::new(session, &server(&identity, &TLS13));
        pair.run(16384);
        assert!(pair.session.encrypt(b"secret", &mut pair.cipher).is_none(), "nothing is sent");
        fault(pair.session.error().unwrap())
    };
    assert_eq!(refused(&other.0.pem(), "a.example"), TlsFault::SelfSigned);
    assert_eq!(refused(&identity.0.pem(), "b.example"), TlsFault::WrongName);
    assert_eq!(refused(&identity.0.pem(), "127.0.0.1"), TlsFault::WrongName);
}

#[test]
fn without_a_name_only_a_server_that_is_not_verified_gets_a_session() {
    let identity = own("a.example");
    let mut strict = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
    assert!(matches!(strict.session(0, None), Err(TlsFault::NoName)));
    assert!(matches!(strict.connection(None), Err(TlsFault::NoName)));
    let text = identity.0.pem() + &identity.1.serialize_pem();
    let mut lax = ServersTls::new(memory(false, &text)).unwrap();
    let mut pair = Pair::new(lax.session(0, None).unwrap(), &server(&own("b"), &TLS12));
    pair.run(3);
    assert!(!pair.session.is_handshaking() && pair.server.server_name().is_none());
    let examined = examine(memory(false, &text)).unwrap();
    assert_eq!(examined.certificates[0].purpose, Purpose::Client);
}
