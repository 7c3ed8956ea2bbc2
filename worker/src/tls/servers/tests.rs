//! Sessions with servers of the library, in memory.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pen_ipc::tls_files::FileIndex;
use rcgen::{Certificate, CertificateParams, KeyPair};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::SendFlags;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, Error, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use time::OffsetDateTime;

use super::*;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::{Endpoint, RecvState, deliver};
use crate::relay::connection::{Connection as RelayConnection, Side};
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
    let config = ServerConfig::builder_with_provider(Arc::new(suites::provider()));
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
            let from_server = self.answer();
            if from_server.is_empty() {
                return came;
            }
            for part in from_server.chunks(piece) {
                came.extend(self.take(part));
            }
        }
    }

    /// Passes everything on to the server, and returns what it sends.
    fn answer(&mut self) -> Vec<u8> {
        let mut to_server = &std::mem::take(&mut self.to_server)[..];
        while !to_server.is_empty() {
            self.server.read_tls(&mut to_server).unwrap();
            let _ = self.server.process_new_packets();
        }
        let mut from_server = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut from_server).unwrap();
        }
        from_server
    }

    /// Passes a piece on to the worker, and returns the plain text of it.
    fn take(&mut self, part: &[u8]) -> Vec<u8> {
        self.session.room(&mut self.cipher, part.len())[..part.len()].copy_from_slice(part);
        let taken = self.session.take(part.len(), &mut self.cipher, &mut self.plain);
        self.to_server.extend(self.session.take_out());
        if let Some(error) = taken.error {
            self.session.set_error(error);
        }
        self.plain[..taken.plain].to_vec()
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

/// Whether a session with the server of a row is resumed.
fn is_resumed(tls: &mut ServersTls, row: u32, name: &TlsName, config: &Arc<ServerConfig>) -> bool {
    let session = tls.session(row, || Some(name.clone())).unwrap();
    let mut pair = Pair::new(session, config);
    pair.run(16384);
    let waiting = pair.session.take_last_flight();
    pair.to_server.extend(waiting);
    pair.run(16384);
    assert!(!pair.session.is_handshaking(), "{:?}", pair.session.error());
    pair.session.kind().is_resumed()
}

#[test]
fn the_first_data_takes_the_end_of_the_handshake_along_and_later_sessions_are_resumed() {
    let identity = own("a.example");
    for version in [&TLS12, &TLS13] {
        let config = server(&identity, version);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let name: TlsName = "a.example".parse().unwrap();
        for (round, piece) in [1, 7, 16384, 100_000].into_iter().enumerate() {
            let session = tls.session(3, || Some(name.clone())).unwrap();
            let mut pair = Pair::new(session, &config);
            // It goes out with the server's tickets, and the worker reads both at once.
            pair.server.writer().write_all(&[7; 40_000]).unwrap();
            let mut came = pair.run(piece);
            assert!(!pair.session.is_handshaking(), "{version:?} {round}");
            assert_eq!(pair.session.kind().is_resumed(), round > 0, "{version:?} {round}");
            pair.send(b"request");
            came.extend(pair.run(piece));
            assert_eq!(came, [7; 40_000]);
            assert_eq!(pair.got(), b"request");
            let kind = if round > 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
            assert_eq!(pair.server.handshake_kind(), Some(kind));
            pair.server.writer().write_all(b"answer").unwrap();
            pair.server.send_close_notify();
            assert_eq!(pair.run(piece), b"answer");
            assert!(pair.session.peer_closed() && pair.session.facts().is_some());
        }
    }
}

#[test]
fn what_an_established_server_does_not_finish_has_a_smaller_bound_than_a_handshake() {
    let identity = own("a.example");
    for (ticket, is_kept) in [(8_000, true), (40_000, false)] {
        let mut config = (*server(&identity, &TLS13)).clone();
        config.ticketer = Arc::new(Padded(ticket));
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let session = tls.session(0, || Some("a.example".parse().unwrap())).unwrap();
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
fn all_that_a_server_sends_in_its_handshake_counts_until_it_is_over() {
    let identity = own("a.example");
    for version in [&TLS12, &TLS13] {
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let session = tls.session(0, || Some("a.example".parse().unwrap())).unwrap();
        let mut pair = Pair::new(session, &server(&identity, version));
        let mut came = 0;
        while pair.session.is_handshaking() {
            for part in pair.answer().chunks(10) {
                pair.take(part);
                came += part.len();
                let (session, held) = (&pair.session, pair.session.held_bytes());
                assert!(!session.is_handshaking() || held >= came, "{version:?}: {held} of {came}");
            }
        }
        assert!(came > identity.0.der().len());
        let mut connection = RelayConnection::default();
        connection.up.session = Some(Box::new(pair.session));
        assert_eq!(connection.unfinished_bytes(), 0);
    }
}

#[test]
fn messages_in_many_records_come_whole_however_they_are_cut() {
    let identity = own("a.example");
    let name: TlsName = "a.example".parse().unwrap();
    for version in [&TLS12, &TLS13] {
        let mut config = ServerConfig::clone(&server(&identity, version));
        config.max_fragment_size = Some(100);
        let config = Arc::new(config);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        for (round, piece) in [1, 7, 99, 150, 16384].into_iter().enumerate() {
            // A full handshake in each round, then a resumed one.
            tls.forget(3);
            for resumed in [false, true] {
                let session = tls.session(3, || Some(name.clone())).unwrap();
                let mut pair = Pair::new(session, &config);
                pair.server.writer().write_all(&[7; 4000]).unwrap();
                let mut came = pair.run(piece);
                pair.send(b"request");
                came.extend(pair.run(piece));
                assert_eq!(came, [7; 4000], "{version:?} {round}");
                assert_eq!(pair.got(), b"request");
                assert_eq!(pair.session.kind().is_resumed(), resumed, "{version:?} {round}");
            }
        }
    }
}

#[test]
fn nothing_is_resumed_in_another_row_after_it_was_forgotten_or_under_another_name() {
    let key = KeyPair::generate().unwrap();
    let names = vec!["a.example".into(), "b.example".into()];
    let identity = (CertificateParams::new(names).unwrap().self_signed(&key).unwrap(), key);
    let [a, b]: [TlsName; 2] = ["a.example", "b.example"].map(|name| name.parse().unwrap());
    for version in [&TLS12, &TLS13] {
        let config = server(&identity, version);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        assert!(!is_resumed(&mut tls, 3, &a, &config) && is_resumed(&mut tls, 3, &a, &config));
        assert!(!is_resumed(&mut tls, 4, &a, &config) && is_resumed(&mut tls, 3, &a, &config));
        tls.forget(3);
        assert!(!is_resumed(&mut tls, 3, &a, &config) && is_resumed(&mut tls, 3, &a, &config));
        tls.keep_under(3, Some(&a));
        assert!(is_resumed(&mut tls, 3, &a, &config));
        tls.keep_under(3, Some(&b));
        assert!(!is_resumed(&mut tls, 3, &b, &config) && is_resumed(&mut tls, 3, &b, &config));
    }
}

/// A clock that a test sets.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

#[test]
fn nothing_is_resumed_when_a_certificate_has_ended_or_half_a_day_after_a_full_handshake() {
    const HOUR: u64 = 3600;
    let name: TlsName = "a.example".parse().unwrap();
    let begin = UnixTime::now().as_secs();
    let until = |hours: u64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".into()]).unwrap();
        let end = i64::try_from(begin + hours * HOUR).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(end).unwrap();
        (params.self_signed(&key).unwrap(), key)
    };
    for version in [&TLS12, &TLS13] {
        for (hours, last) in [(2, 2), (100, 11)] {
            let identity = until(hours);
            let config = server(&identity, version);
            let clock = Arc::new(Clock(AtomicU64::new(begin)));
            let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
            tls.common.time_provider = clock.clone();
            assert!(!is_resumed(&mut tls, 3, &name, &config));
            // Each of these connections gets new tickets, which prolong nothing.
            for hour in 1..=last {
                clock.0.store(begin + hour * HOUR, Ordering::Relaxed);
                assert!(is_resumed(&mut tls, 3, &name, &config), "{version:?} {hour}");
            }
            clock
                .0
                .store(begin + last * HOUR + if hours == 2 { 1 } else { HOUR }, Ordering::Relaxed);
            let mut pair = Pair::new(tls.session(3, || Some(name.clone())).unwrap(), &config);
            pair.run(16384);
            match hours {
                2 => assert_eq!(fault(pair.session.error().unwrap()), TlsFault::Expired),
                _ => assert!(!pair.session.kind().is_resumed() && pair.session.error().is_none()),
            }
        }
        // A clock that was set back tells no age.
        let identity = until(100);
        let config = server(&identity, version);
        let clock = Arc::new(Clock(AtomicU64::new(begin)));
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        tls.common.time_provider = clock.clone();
        assert!(!is_resumed(&mut tls, 3, &name, &config));
        clock.0.store(begin - 10, Ordering::Relaxed);
        assert!(!is_resumed(&mut tls, 3, &name, &config));
    }
}

/// Tickets of this many bytes more than needed.
#[derive(Debug)]
struct Padded(usize);

impl ProducesTickets for Padded {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        7200
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Some([plain, &vec![0; self.0]].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        Some(ticket[..ticket.len() - self.0].to_vec())
    }
}

#[test]
fn a_server_with_many_and_large_tickets_gets_little_memory() {
    let identity = own("a.example");
    let name: TlsName = "a.example".parse().unwrap();
    for (padding, expected) in [(0, 32..=32), (3000, 15..=20), (4200, 0..=0), (15_000, 0..=0)] {
        let mut config = ServerConfig::clone(&server(&identity, &TLS13));
        config.ticketer = Arc::new(Padded(padding));
        let config = Arc::new(config);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        // Each connection takes one ticket, and gets two.
        for round in 0..40 {
            let may_resume = *expected.end() > 0;
            assert_eq!(is_resumed(&mut tls, 3, &name, &config), may_resume && round > 0);
        }
        let (count, bytes) = tls.own[3].as_ref().unwrap().sessions.measure();
        assert!(expected.contains(&count), "{padding}: {count}");
        assert!((count * padding..=128 * 1024).contains(&bytes), "{padding}: {bytes}");
    }
}

#[test]
fn only_an_alert_of_tls_1_3_before_any_data_refuses_late() {
    let identity = own("a.example");
    let refused = |version, answer: &[u8]| {
        let config = server(&identity, version);
        let mut tls = ServersTls::new(memory(true, &identity.0.pem())).unwrap();
        let session = tls.session(0, || Some("a.example".parse().unwrap())).unwrap();
        let mut pair = Pair::new(session, &config);
        pair.run(16384);
        pair.send(b"request");
        pair.run(16384);
        // The answer and what ends the session come in one read.
        pair.server.writer().write_all(answer).unwrap();
        let mut bytes = Vec::new();
        while pair.server.wants_write() {
            pair.server.write_tls(&mut bytes).unwrap();
        }
        bytes.extend([23, 3, 3, 0, 32]);
        bytes.extend([0; 32]);
        pair.session.room(&mut pair.cipher, bytes.len())[..bytes.len()].copy_from_slice(&bytes);
        let taken = pair.session.take(bytes.len(), &mut pair.cipher, &mut pair.plain);
        assert!(taken.plain == answer.len() && taken.error.is_some());
        // The library's server sends no alert of its own choice.
        pair.session.set_error(Error::AlertReceived(AlertDescription::CertificateExpired));
        pair.session.late_refusal()
    };
    assert_eq!(refused(&TLS13, b""), Some(45));
    assert_eq!(refused(&TLS13, b"answer"), None);
    assert_eq!(refused(&TLS12, b""), None);
    assert_eq!(refused(&TLS12, b"answer"), None);
}

#[test]
fn a_session_that_cannot_send_any_more_ends_its_connection_with_a_reason() {
    let identity = own("a.example");
    let provider = suites::provider();
    let cipher_suites = suites::limited(&provider.cipher_suites, 8);
    let config = ClientConfig::builder_with_provider(Arc::new(CryptoProvider {
        cipher_suites,
        ..suites::provider()
    }));
    let config = config.with_protocol_versions(&[&TLS12]).unwrap().dangerous();
    let anyone = Anyone(provider.signature_verification_algorithms);
    let config = config.with_custom_certificate_verifier(Arc::new(anyone)).with_no_client_auth();
    let name = ServerName::try_from("a.example").unwrap();
    let session = Session::with_server(Arc::new(config), name, Arc::default()).unwrap();
    let mut pair = Pair::new(session, &server(&identity, &TLS12));
    pair.run(16384);
    let (socket, _peer) = UnixStream::pair().unwrap();
    let mut connection =
        RelayConnection { up: Endpoint::new(socket.into(), true), ..Default::default() };
    connection.up.recv = RecvState::Empty;
    connection.up.session = Some(Box::new(pair.session));
    let mut sent = 0;
    while !connection.up.is_broken() {
        assert_eq!(connection.loss(Side::Up), None);
        assert!(sent < 8, "the limit of the suite");
        deliver(&mut connection.up, b"request", SendFlags::empty(), &mut pair.cipher);
        sent += 1;
    }
    // Nobody else would end the connection: the socket is well, and no event comes.
    assert_eq!(connection.up.recv, RecvState::Failed);
    assert_eq!(connection.loss(Side::Up), Some(ConnectionEnd::TlsBroken));
}

#[test]
fn a_certificate_that_is_not_good_ends_the_session_with_its_reason() {
    let (identity, other) = (own("a.example"), own("a.example"));
    let refused = |trusted: &str, name: &str| {
        let mut tls = ServersTls::new(memory(true, trusted)).unwrap();
        let session = tls.session(0, || Some(name.parse().unwrap())).unwrap();
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
    assert!(matches!(strict.session(0, || None), Err(TlsFault::NoName)));
    assert!(matches!(strict.connection(None), Err(TlsFault::NoName)));
    let text = identity.0.pem() + &identity.1.serialize_pem();
    let mut lax = ServersTls::new(memory(false, &text)).unwrap();
    let mut pair = Pair::new(lax.session(0, || None).unwrap(), &server(&own("b"), &TLS12));
    pair.run(3);
    assert!(!pair.session.is_handshaking() && pair.server.server_name().is_none());
    let examined = examine(memory(false, &text)).unwrap();
    assert_eq!(examined.certificates[0].purpose, Purpose::Client);
}
