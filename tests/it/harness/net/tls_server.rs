//! Servers that speak TLS, and note what each connection was.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection, Stream,
    SupportedProtocolVersion,
};
use socket2::Socket;

use super::backend::{Backend, Gate};
use super::tls::{Authority, Identity};

/// A connection that a server had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// The name that the client sent.
    pub name: Option<String>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// The version.
    pub version: Option<ProtocolVersion>,
    /// Whether the client showed a certificate.
    pub certified: bool,
    /// All that it sent.
    pub bytes: Vec<u8>,
    /// Whether it ended with close_notify.
    pub ended: bool,
}

/// The connections that a server had.
type Record = Arc<Mutex<Vec<Seen>>>;

/// What a server does behind TLS.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Sends its name in a line, and then echoes its input until the end.
    Greets(String),
    /// Waits for this text, and answers with the other one; again and again.
    Answers(&'static str, &'static str),
    /// Sends its name in a line, ends TCP without close_notify, and reads until the end.
    Cuts(String),
    /// Ends its direction together with its last message of the handshake, and reads until the end.
    EndsAtOnce,
}

/// A server to be made.
pub struct TlsServer {
    identity: Identity,
    manner: Manner,
    versions: &'static [&'static SupportedProtocolVersion],
    asks: Option<CertificateDer<'static>>,
    gate: Option<Gate>,
}

/// A server that runs.
pub struct Secured {
    /// The server.
    pub backend: Backend,
    seen: Record,
}

impl TlsServer {
    /// A server with this certificate that says its name.
    pub fn named(name: &str, identity: Identity) -> TlsServer {
        let (versions, manner) = (rustls::ALL_VERSIONS, Manner::Greets(name.to_owned()));
        TlsServer { identity, manner, versions, asks: None, gate: None }
    }

    /// Waits for `request` and answers with `answer` instead.
    pub fn answers(mut self, request: &'static str, answer: &'static str) -> TlsServer {
        self.manner = Manner::Answers(request, answer);
        self
    }

    /// Sends no data, and ends its direction as soon as it can.
    pub fn ends_at_once(mut self) -> TlsServer {
        self.manner = Manner::EndsAtOnce;
        self
    }

    /// Says its name and ends without close_notify, as if somebody had cut the connection.
    pub fn cuts(mut self) -> TlsServer {
        let (Manner::Greets(name) | Manner::Cuts(name)) = self.manner else { return self };
        self.manner = Manner::Cuts(name);
        self
    }

    /// Speaks only these versions.
    pub fn speaks(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> TlsServer {
        self.versions = versions;
        self
    }

    /// Demands a certificate of this authority.
    pub fn asks(mut self, authority: &Authority) -> TlsServer {
        self.asks = Some(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap());
        self
    }

    /// Begins no handshake before the gate is open.
    pub fn waits(mut self, gate: &Gate) -> TlsServer {
        self.gate = Some(gate.clone());
        self
    }

    /// Runs at a port of its own.
    pub fn start(self) -> Secured {
        let (seen, behaviour) = self.behaviour();
        Secured { backend: Backend::with(behaviour), seen }
    }

    /// Runs at two ports, where each resumes the sessions of the other. Both note what they have
    /// seen together.
    pub fn start_two(self) -> [Secured; 2] {
        let (seen, behaviour) = self.behaviour();
        let behaviour = Arc::new(behaviour);
        [seen.clone(), seen].map(|seen| {
            let behaviour = behaviour.clone();
            Secured { backend: Backend::with(move |socket| behaviour(socket)), seen }
        })
    }

    /// Runs at a Unix socket.
    pub fn start_unix(self, path: &Path) -> Secured {
        let (seen, behaviour) = self.behaviour();
        Secured { backend: Backend::with_unix(path, behaviour), seen }
    }

    fn behaviour(self) -> (Record, impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static) {
        let TlsServer { identity, manner, versions, asks, gate } = self;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match asks {
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
        let key = PrivateKeyDer::try_from(identity.key_der).unwrap();
        let mut config =
            builder.with_single_cert(chain.map(Result::unwrap).collect(), key).unwrap();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let (config, seen) = (Arc::new(config), Record::default());
        let noted = seen.clone();
        (seen, move |socket: &Socket| {
            gate.iter().for_each(Gate::pass);
            serve(&config, &manner, socket, &noted)
        })
    }
}

impl Secured {
    /// The connections whose handshake is over, in their order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    config: &Arc<ServerConfig>,
    manner: &Manner,
    mut socket: &Socket,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<()> {
    let mut tls = ServerConnection::new(config.clone()).unwrap();
    match manner {
        Manner::EndsAtOnce => end_with_handshake(&mut tls, socket)?,
        Manner::Greets(_) | Manner::Answers(..) | Manner::Cuts(_) => {
            while tls.is_handshaking() {
                tls.complete_io(&mut socket)?;
            }
        }
    }
    let place = {
        let mut seen = seen.lock().unwrap();
        seen.push(Seen {
            name: tls.server_name().map(str::to_owned),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            version: tls.protocol_version(),
            certified: tls.peer_certificates().is_some(),
            bytes: Vec::new(),
            ended: false,
        });
        seen.len() - 1
    };
    if let Manner::Greets(name) | Manner::Cuts(name) = manner {
        Stream::new(&mut tls, &mut socket).write_all(format!("{name}\n").as_bytes())?;
    }
    if let Manner::Cuts(_) = manner {
        socket.shutdown(Shutdown::Write)?;
    }
    let (mut buffer, mut answered) = (vec![0; 65536], 0);
    loop {
        let length = match Stream::new(&mut tls, &mut socket).read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let answer = {
            let mut seen = seen.lock().unwrap();
            let bytes = &mut seen[place].bytes;
            bytes.extend_from_slice(&buffer[..length]);
            match manner {
                Manner::Greets(_) => buffer[..length].to_vec(),
                Manner::EndsAtOnce | Manner::Cuts(_) => Vec::new(),
                Manner::Answers(request, answer) => {
                    let new = String::from_utf8_lossy(&bytes[answered..]).into_owned();
                    let count = new.matches(request).count();
                    if let Some(last) = new.rfind(request) {
                        answered += last + request.len();
                    }
                    answer.repeat(count).into_bytes()
                }
            }
        };
        Stream::new(&mut tls, &mut socket).write_all(&answer)?;
    }
    seen.lock().unwrap()[place].ended = true;
    if let Manner::Cuts(_) = manner {
        return Ok(());
    }
    tls.send_close_notify();
    tls.complete_io(&mut socket).map(drop)
}

/// Ends the own direction with the last message of the handshake: both are in one write(2).
fn end_with_handshake(tls: &mut ServerConnection, mut socket: &Socket) -> io::Result<()> {
    loop {
        if tls.read_tls(&mut socket)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        let is_over = !tls.is_handshaking();
        if is_over {
            tls.send_close_notify();
        }
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        socket.write_all(&records)?;
        if is_over {
            return Ok(());
        }
    }
}
