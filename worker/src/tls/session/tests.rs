//! Sessions with a client of the same library, whose bytes are cut and changed on their way.

use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pen_ipc::tls_files::{FileIndex, Index, Part, Role, TICKET_SECRET};
use rcgen::{CertificateParams, KeyPair};
use rustix::fs::{MemfdFlags, memfd_create};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::relay::connection::endpoint::{Endpoint, RecvState, SendState, receive};
use crate::relay::connection::pipes::POOLED_PIPES;
use crate::relay::transfer::pump::{self, Tools};
use crate::tls::keyring;
use crate::tls::material::Material;
use crate::tls::session::*;
use crate::tls::tickets::Secrets;

/// The files of TLS, with a new certificate.
pub(crate) fn files() -> OwnedFd {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let text = format!("{}{}", certificate.pem(), key.serialize_pem());
    let part = Part {
        role: Role::Certificate,
        path: "cert.pem".into(),
        offset: 0,
        length: text.len() as u64,
    };
    let index = Index { required: false, tls12: true, suites: Vec::new(), files: vec![part] };
    let memory = memfd_create("tls", MemfdFlags::CLOEXEC).unwrap();
    for bytes in [text.as_bytes(), &index.encode().unwrap()] {
        assert_eq!(rustix::io::write(&memory, bytes).unwrap(), bytes.len());
    }
    memory
}

fn keyring() -> Arc<Keyring> {
    let secrets = Secrets::new(&[1; TICKET_SECRET], None).unwrap();
    Arc::new(keyring::build(Material::new(files()).unwrap(), &secrets).unwrap().0)
}

/// A verifier that accepts every certificate: these tests are not about that.
#[derive(Debug)]
struct Trusting(CryptoProvider);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client that accepts every certificate.
pub(crate) fn client(version: &'static SupportedProtocolVersion) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let config = config.with_protocol_versions(&[version]).unwrap().dangerous();
    let config =
        config.with_custom_certificate_verifier(Arc::new(Trusting(provider::default_provider())));
    ClientConnection::new(Arc::new(config.with_no_client_auth()), "localhost".try_into().unwrap())
        .unwrap()
}

/// The worker's side.
struct Side {
    session: Session,
    cipher: Cipher,
    plain: Vec<u8>,
    got: Vec<u8>,
}

impl Side {
    fn new(keyring: &Arc<Keyring>) -> Side {
        let session = Session::new(keyring.clone());
        Side { session, cipher: Cipher::default(), plain: vec![0; PLAIN], got: Vec::new() }
    }

    /// Gives it bytes, and gives its answer to the client. None: it has failed.
    fn give(&mut self, mut bytes: &[u8], client: &mut ClientConnection) -> Option<()> {
        while !bytes.is_empty() {
            let room = self.session.room(&mut self.cipher, PLAIN);
            let length = room.len().min(bytes.len());
            room[..length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            let taken = self.session.take(length, &mut self.cipher, &mut self.plain);
            self.got.extend_from_slice(&self.plain[..taken.plain]);
            let mut out = Cursor::new(self.session.take_out());
            while client.read_tls(&mut out).is_ok_and(|length| length > 0) {
                let _ = client.process_new_packets();
            }
            if let Some(error) = taken.error {
                self.session.set_error(error);
                return None;
            }
        }
        Some(())
    }
}

fn said(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn bytes_may_come_one_by_one() {
    let keyring = keyring();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mut side, mut client) = (Side::new(&keyring), client(version));
        let mut sent = false;
        for _ in 0..8 {
            if !client.is_handshaking() && !std::mem::replace(&mut sent, true) {
                client.writer().write_all(&[b'x'; 40_000]).unwrap();
                client.send_close_notify();
            }
            for byte in said(&mut client) {
                side.give(&[byte], &mut client).unwrap();
            }
        }
        assert!(side.session.peer_closed() && side.got == [b'x'; 40_000]);
        // The other direction, after the client's end of file.
        let length = side.session.encrypt(b"answer", &mut side.cipher).unwrap();
        let mut records = side.cipher.first(length).to_vec();
        let length = side.session.close(&mut side.cipher).unwrap();
        records.extend_from_slice(side.cipher.first(length));
        client.read_tls(&mut &records[..]).unwrap();
        client.process_new_packets().unwrap();
        let mut got = Vec::new();
        client.reader().read_to_end(&mut got).unwrap();
        assert_eq!(got, b"answer");
        assert!(
            side.session.is_closed() && side.session.encrypt(b"more", &mut side.cipher).is_none()
        );
    }
}

#[test]
fn a_reset_that_close_notify_found_out_is_no_end_of_file() {
    let (mut side, mut client) = (Side::new(&keyring()), client(&rustls::version::TLS13));
    for _ in 0..4 {
        let bytes = said(&mut client);
        side.give(&bytes, &mut client).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    let mut end = Endpoint::new(ours.into(), false);
    end.session = Some(Box::new(side.session));
    let mut tools = Tools::new(POOLED_PIPES);
    pump::shut(&mut end, &mut tools);
    assert_eq!(end.send_state(), SendState::Reset);
    // The session is closed, which is a failure too, but not of the kind that decides.
    pump::give(&mut end, b"more", &mut tools);
    assert_eq!(end.send_state(), SendState::Reset);
    // The kernel has reported the reset: the read finds an end of file.
    assert_eq!(receive(&mut end, tools.buffers()), 0);
    assert_eq!(end.recv, RecvState::Failed);
}

#[test]
fn the_largest_buffer_fits_when_it_is_encrypted() {
    let keyring = keyring();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (mut side, mut client) = (Side::new(&keyring), client(version));
        for _ in 0..4 {
            let bytes = said(&mut client);
            side.give(&bytes, &mut client).unwrap();
        }
        let plain: Vec<u8> = (0..PLAIN).map(|n| (n / 3) as u8).collect();
        let length = side.session.encrypt(&plain, &mut side.cipher).unwrap();
        let mut records = Cursor::new(side.cipher.first(length).to_vec());
        let mut got = Vec::new();
        while client.read_tls(&mut records).unwrap() > 0 {
            client.process_new_packets().unwrap();
            let _ = client.reader().read_to_end(&mut got);
        }
        assert!(got == plain);
    }
}

#[test]
fn no_bent_byte_does_more_harm_than_ending_the_session() {
    let keyring = keyring();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut flights = Vec::new();
        let (mut side, mut whole) = (Side::new(&keyring), client(version));
        for _ in 0..4 {
            let bytes = said(&mut whole);
            side.give(&bytes, &mut whole).unwrap();
            flights.push(bytes.len());
        }
        for (flight, length) in flights.into_iter().enumerate() {
            for position in 0..length {
                // Each position of the first flight costs a handshake of the client; a part of them
                // is enough.
                if position > 64 && position % 7 != 0 {
                    continue;
                }
                let (mut side, mut client) = (Side::new(&keyring), client(version));
                for number in 0..=flight {
                    let mut bytes = said(&mut client);
                    if number == flight && position < bytes.len() {
                        bytes[position] ^= 1 << (position % 8);
                    }
                    // All further data is discarded.
                    let _ = side.give(&bytes, &mut client);
                    let _ = side.give(&[0x17, 3, 3, 0, 1, 0], &mut client);
                    let _ = side.give(b"GET / HTTP/1.0\r\n\r\n", &mut client);
                }
            }
        }
    }
}

#[test]
fn text_is_answered_with_one_alert() {
    let keyring = keyring();
    let (mut side, mut client) = (Side::new(&keyring), client(&rustls::version::TLS13));
    let room = side.session.room(&mut side.cipher, PLAIN);
    let text = b"GET / HTTP/1.0\r\n\r\n";
    room[..text.len()].copy_from_slice(text);
    let taken = side.session.take(text.len(), &mut side.cipher, &mut side.plain);
    assert!(taken.error.is_some());
    let alert = side.session.take_out();
    assert!(alert.len() == 7 && alert[0] == 21, "{alert:?}");
    side.session.set_error(taken.error.unwrap());
    assert!(side.give(text, &mut client).is_some() && side.session.take_out().is_empty());
    assert!(side.session.encrypt(b"x", &mut side.cipher).is_none());
}
