//! A client's end of a connection: a socket, and with `tls` a rustls session on it.
//!
//! The session trusts every certificate, because the benchmark measures the server's work. It
//! offers AES-128-GCM and, as browsers do, X25519 before P-256, so that all servers do the same
//! work.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    SupportedProtocolVersion,
};

/// The TLS parameters of clients.
#[derive(Clone, Copy, Debug)]
pub struct Tls {
    /// The version, 12 or 13.
    pub version: u64,
    /// Whether a client resumes the last session of its slot.
    pub resumes: bool,
}

/// Makes sessions. Each client slot has its own session store, because a TLS 1.3 ticket is valid
/// for one connection.
#[derive(Debug)]
pub struct Sessions {
    tls: Tls,
    provider: Arc<CryptoProvider>,
    configs: Vec<Arc<ClientConfig>>,
}

/// A client's end of a connection.
pub struct Link {
    socket: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Sessions {
    /// A maker of sessions with these parameters.
    pub fn new(tls: Tls) -> Sessions {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        Sessions { tls, provider: Arc::new(provider), configs: Vec::new() }
    }

    /// A session for the client in a slot.
    pub fn session(&mut self, place: usize) -> Box<ClientConnection> {
        while self.configs.len() <= place {
            let config = self.config();
            self.configs.push(config);
        }
        let name = ServerName::try_from("localhost").unwrap();
        Box::new(ClientConnection::new(self.configs[place].clone(), name).unwrap())
    }

    fn config(&self) -> Arc<ClientConfig> {
        let versions: &[&SupportedProtocolVersion] = if self.tls.version == 12 {
            &[&rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13]
        };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        config.resumption = if self.tls.resumes {
            Resumption::in_memory_sessions(8)
        } else {
            Resumption::disabled()
        };
        Arc::new(config)
    }
}

impl Link {
    /// An end with or without TLS.
    pub fn new(socket: OwnedFd, session: Option<Box<ClientConnection>>) -> Link {
        if session.is_some() {
            // The end of the handshake and the request are two writes.
            rustix::net::sockopt::set_tcp_nodelay(&socket, true).unwrap();
        }
        Link { socket: TcpStream::from(socket), session }
    }

    /// Whether the session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Sends, if the handshake is over.
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(session) = &mut self.session else {
            return rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL);
        };
        while session.is_handshaking() {
            write_out(session, &mut self.socket)?;
            if session.is_handshaking() && read_in(session, &mut self.socket)? == 0 {
                return Err(Errno::CONNRESET);
            }
        }
        write_out(session, &mut self.socket)?;
        let length = session.writer().write(bytes).map_err(errno)?;
        match write_out(session, &mut self.socket) {
            // The session keeps the rest.
            Ok(()) | Err(Errno::AGAIN) => Ok(length),
            Err(errno) => Err(errno),
        }
    }

    /// Reads. Without TLS the kernel may discard a stream (tcp(7)), because the receiver is not
    /// measured.
    pub fn receive(&mut self, buffer: &mut [u8], unseen: bool) -> Result<usize, Errno> {
        let Some(session) = &mut self.session else {
            let flags = if unseen { RecvFlags::TRUNC } else { RecvFlags::empty() };
            return rustix::net::recv(&self.socket, buffer, flags).map(|(_, length)| length);
        };
        loop {
            match session.reader().read(buffer) {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(errno(error)),
            }
            read_in(session, &mut self.socket)?;
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn write_out(session: &mut ClientConnection, socket: &mut TcpStream) -> Result<(), Errno> {
    while session.wants_write() {
        session.write_tls(socket).map_err(errno)?;
    }
    Ok(())
}

fn read_in(session: &mut ClientConnection, socket: &mut TcpStream) -> Result<usize, Errno> {
    let length = session.read_tls(socket).map_err(errno)?;
    session.process_new_packets().map_err(|_| Errno::PROTO)?;
    Ok(length)
}

fn errno(error: io::Error) -> Errno {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::NotConnected => Errno::AGAIN,
        _ => Errno::from_io_error(&error).unwrap_or(Errno::CONNRESET),
    }
}

/// Trusts every server.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
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
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}
