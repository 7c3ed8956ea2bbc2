//! Certificates for tests, and clients that use TLS.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};

use super::super::wait::PATIENCE;

/// Only TLS 1.2.
pub const ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// Only TLS 1.3.
pub const ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A certification authority.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    /// The certificates between the issued ones and the root, as PEM.
    above: String,
    pem: String,
}

/// A certificate with its key.
pub struct Identity {
    /// The certificate and its issuers except the root, as PEM.
    pub chain: String,
    /// The certificate alone, as PEM.
    pub leaf: String,
    /// The key, as PEM.
    pub key: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The key, as DER (PKCS #8).
    pub key_der: Vec<u8>,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

impl Authority {
    /// A root.
    pub fn root(name: &str) -> Authority {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        let (certificate, pem) = (certificate.der().clone(), certificate.pem());
        Authority { params, key, certificate, above: String::new(), pem }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Authority {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        let (certificate, pem) = (certificate.der().clone(), certificate.pem());
        Authority { params, key, certificate, above: format!("{pem}{}", self.above), pem }
    }

    /// A certificate that signed itself, and is no authority.
    pub fn self_signed(names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "self");
        params.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Identity {
            chain: certificate.pem(),
            leaf: certificate.pem(),
            key: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_for(names, KeyPair::generate().unwrap())
    }

    /// The same; it expires after so many hours, or has expired.
    pub fn issue_until(&self, names: &[&str], hours: i64) -> Identity {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let span = Duration::from_secs(3600 * hours.unsigned_abs());
        let now = date_time_ymd(1970, 1, 1) + now;
        let end = if hours < 0 { now - span } else { now + span };
        self.issue_with(names, KeyPair::generate().unwrap(), |params| params.not_after = end)
    }

    /// The same with an RSA key.
    pub fn issue_rsa(&self, names: &[&str]) -> Identity {
        self.issue_for(
            names,
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        )
    }

    /// A certificate with an RSA key of 8192 bits, for which a signature takes about 20 ms. The key
    /// is in the repository, because making one takes too long; it is not a secret.
    pub fn issue_slow(&self, names: &[&str]) -> Identity {
        self.issue_for(
            names,
            KeyPair::from_pem_and_sign_algo(include_str!("slow.key"), &PKCS_RSA_SHA256).unwrap(),
        )
    }

    fn issue_for(&self, names: &[&str], key: KeyPair) -> Identity {
        self.issue_with(names, key, |_| {})
    }

    fn issue_with(
        &self,
        names: &[&str],
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params =
            CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
                .unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        Identity {
            chain: format!("{}{}", certificate.pem(), self.above),
            leaf: certificate.pem(),
            key: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key_der: key.serialize_der(),
        }
    }

    /// The certificate, as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The key, as PEM.
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }

    /// A client that trusts this authority alone.
    pub fn client(&self) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        TlsClient { roots, versions: rustls::ALL_VERSIONS, identity: None, config: None }
    }
}

/// Writes a file and returns its path.
pub fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// A client: its trusted authorities, its TLS versions, its certificate. It stores its sessions.
pub struct TlsClient {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    identity: Option<(Vec<CertificateDer<'static>>, Vec<u8>)>,
    config: Option<Arc<ClientConfig>>,
}

impl TlsClient {
    /// Uses only these versions.
    pub fn speaks(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> TlsClient {
        self.versions = versions;
        self
    }

    /// Uses this certificate.
    pub fn is(mut self, identity: &Identity) -> TlsClient {
        self.identity = Some((vec![identity.certificate.clone()], identity.key_der.clone()));
        self
    }

    fn config(&mut self) -> Arc<ClientConfig> {
        let TlsClient { roots, versions, identity, config } = self;
        let make = || {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .unwrap();
            let builder = builder.with_root_certificates(roots.clone());
            Arc::new(match identity.clone() {
                Some((chain, key)) => {
                    builder.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.into())).unwrap()
                }
                None => builder.with_no_client_auth(),
            })
        };
        config.get_or_insert_with(make).clone()
    }

    /// Its first message.
    pub fn hello(&mut self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut hello = Vec::new();
        ClientConnection::new(self.config(), name).unwrap().write_tls(&mut hello).unwrap();
        hello
    }

    /// Connects and completes the handshake.
    ///
    /// # Errors
    /// The error of either side.
    pub fn connect(&mut self, to: SocketAddr, name: &str) -> io::Result<Tls> {
        let mut socket = TcpStream::connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = ClientConnection::new(self.config(), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Tls { session, socket })
    }

    /// Connects, reads the backend's name, ends in order. `None`: closed without an answer, or
    /// refused.
    pub fn ask(&mut self, to: SocketAddr, name: &str) -> Option<(String, HandshakeKind)> {
        let mut connection = self.connect(to, name).ok()?;
        let greeting = connection.line().ok()?;
        let kind = connection.session.handshake_kind()?;
        connection.finish();
        connection.read_to_end().ok()?;
        Some((greeting, kind))
    }
}

/// A connection over TLS.
pub struct Tls {
    /// The session.
    pub session: ClientConnection,
    /// The TCP connection below the session.
    pub socket: TcpStream,
}

impl Tls {
    fn stream(&mut self) -> rustls::Stream<'_, ClientConnection, TcpStream> {
        rustls::Stream::new(&mut self.session, &mut self.socket)
    }

    /// Sends everything.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
        self.stream().flush().unwrap();
    }

    /// Ends the sending direction of TLS; the TCP connection stays open in both directions.
    pub fn finish(&mut self) {
        self.session.send_close_notify();
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket).unwrap();
        }
    }

    /// A line, without its end.
    ///
    /// # Errors
    /// The connection ended first.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match self.stream().read(&mut byte)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if byte[0] == b'\n' => return String::from_utf8(line).map_err(io::Error::other),
                _ => line.push(byte[0]),
            }
        }
    }

    /// Reads to close_notify.
    ///
    /// # Errors
    /// Anything else, also an end without close_notify.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends `bytes` and close_notify, and reads at the same time until close_notify; returns the
    /// bytes read.
    pub fn exchange(mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (mut sent, mut got, mut piece) = (0, Vec::new(), vec![0; 1 << 16]);
        let mut closed = false;
        self.socket.set_nonblocking(true)?;
        loop {
            if sent < bytes.len() && !self.session.wants_write() {
                let end = bytes.len().min(sent + (1 << 16));
                sent += self.session.writer().write(&bytes[sent..end])?;
            } else if sent == bytes.len() && !closed {
                self.session.send_close_notify();
                closed = true;
            }
            let mut flags = PollFlags::IN;
            if self.session.wants_write() {
                flags |= PollFlags::OUT;
            }
            let mut polled = [PollFd::new(&self.socket, flags)];
            let bound = rustix::time::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            if poll(&mut polled, Some(&bound))? == 0 {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("{sent} sent, {} came", got.len()),
                ));
            }
            let ready = polled[0].revents();
            if ready.intersects(PollFlags::OUT) {
                match self.session.write_tls(&mut self.socket) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                match self.session.read_tls(&mut self.socket) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
                self.session.process_new_packets().map_err(io::Error::other)?;
                loop {
                    match self.session.reader().read(&mut piece) {
                        Ok(0) => return Ok(got),
                        Ok(length) => got.extend_from_slice(&piece[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

/// The output of openssl(1) for these arguments, with empty standard input.
pub fn openssl<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> String {
    let output =
        Command::new("openssl").args(words).stdin(Stdio::null()).output().expect("openssl runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
