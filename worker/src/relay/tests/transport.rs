//! Settings that change whether a server speaks TLS, while a connect to it is under way: nothing
//! goes in clear text to a server that was dialled for TLS.

use pen_config::tls::servers::ServerTransport;
use pen_ipc::tls_files::{FileIndex, ServerIndex};

use crate::relay::tests::*;

/// The type of a record of a TLS handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Files for TLS with servers that are not verified.
fn unverified() -> OwnedFd {
    memory(&ServerIndex { verify: false, files: Vec::new() }.encode().unwrap())
}

/// Both ends of a connection whose server changes while the connect to it is under way: the client
/// has sent a request.
fn changed(
    before: ServerTransport,
    change: impl FnOnce(&mut Option<Server>),
) -> (Rig, TcpStream, TcpStream) {
    let deaf = Deaf::new();
    let mut settings = settings([deaf.definition()]);
    settings.server_tls.verify = false;
    settings.servers[0].as_mut().unwrap().transport = before;
    let mut rig = Rig::start_with(1, settings, |start| start.server_tls = Some(unverified()));
    let mut client = rig.client();
    client.write_all(b"secret").unwrap();
    rig.report_until(|report| report.iter().any(|connection| connection.upfd >= 0));
    rig.apply(|settings| change(&mut settings.servers[0]));
    (rig, client, deaf.hear())
}

#[test]
fn a_server_that_no_longer_speaks_tls_gets_tls() {
    let off = |server: &mut Option<Server>| {
        server.as_mut().unwrap().transport = ServerTransport::Plain;
    };
    let (_rig, _client, mut server) = changed(ServerTransport::Tls, off);
    assert_eq!(read(&mut server, 1), [HANDSHAKE]);
}

#[test]
fn without_the_files_a_server_that_no_longer_speaks_tls_is_dialled_again() {
    let deaf = Deaf::new();
    let mut settings = settings([deaf.definition()]);
    settings.server_tls.verify = false;
    settings.servers[0].as_mut().unwrap().transport = ServerTransport::Tls;
    let mut rig = Rig::start_with(1, settings, |start| start.server_tls = Some(unverified()));
    let mut client = rig.client();
    client.write_all(b"request").unwrap();
    rig.report_until(|report| report.iter().any(|connection| connection.upfd >= 0));
    rig.apply(|settings| {
        settings.servers[0].as_mut().unwrap().transport = ServerTransport::Plain;
    });
    rig.send(&ToWorker::NoServerTls, None);
    // Its answer proves that the order before it was carried out.
    rig.report();
    let (listener, mut first) = deaf.open();
    assert_eq!(end_of(&mut first).0, b"", "it was dialled for TLS");
    wait_readable(&listener);
    let mut second = patient(listener.accept().unwrap().0);
    second.set_nonblocking(false).unwrap();
    assert_eq!(read(&mut second, 7), b"request");
}

#[test]
fn a_server_that_is_removed_or_replaced_gets_nothing() {
    let other = Backend::new();
    let replaced = other.definition().map(|server| Server { epoch: 1, ..server });
    for now in [None, replaced] {
        let is_replaced = now.is_some();
        let (_rig, mut client, mut server) = changed(ServerTransport::Tls, |row| *row = now);
        assert_eq!(end_of(&mut server).0, b"");
        // No other server was left for this client: the new one came after its choice.
        if is_replaced {
            drop(client);
        } else {
            assert_eq!(end_of(&mut client).0, b"");
        }
    }
}

#[test]
fn a_server_that_speaks_tls_since_the_connect_gets_tls_too() {
    let on = |server: &mut Option<Server>| {
        server.as_mut().unwrap().transport = ServerTransport::Tls;
    };
    let (_rig, _client, mut server) = changed(ServerTransport::Plain, on);
    assert_eq!(read(&mut server, 1), [HANDSHAKE]);
}
