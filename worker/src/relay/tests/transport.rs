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

/// A change that turns TLS off for the only server at this step of its connect. With other servers
/// of TLS, the files stay.
fn is_dialled_again(step: ConnectStep, files: FilesThen) {
    let deaf = Deaf::new();
    let mut settings = settings([deaf.definition()]);
    settings.server_tls.verify = false;
    settings.servers[0].as_mut().unwrap().transport = ServerTransport::Tls;
    let mut rig = Rig::start_with(1, settings, |start| start.server_tls = Some(unverified()));
    let mut client = rig.client();
    client.write_all(b"request").unwrap();
    rig.report_until(|report| report.iter().any(|connection| connection.upfd >= 0));
    let turn_off = |rig: &mut Rig| {
        rig.apply(|settings| {
            settings.servers[0].as_mut().unwrap().transport = ServerTransport::Plain;
        });
        if let FilesThen::Gone = files {
            rig.send(&ToWorker::NoServerTls, None);
        }
        // Its answer proves that the orders before it were carried out.
        rig.report();
    };
    if let ConnectStep::UnderWay = step {
        turn_off(&mut rig);
    }
    let (listener, mut first) = deaf.open();
    match step {
        ConnectStep::UnderWay => {
            assert_eq!(end_of(&mut first).0, b"", "it was dialled for TLS");
        }
        ConnectStep::AfterHello => {
            assert_eq!(read(&mut first, 1), [HANDSHAKE]);
            turn_off(&mut rig);
            first.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        }
    }
    wait_readable(&listener);
    let mut second = patient(listener.accept().unwrap().0);
    second.set_nonblocking(false).unwrap();
    assert_eq!(read(&mut second, 7), b"request");
}

#[derive(Clone, Copy)]
enum ConnectStep {
    UnderWay,
    AfterHello,
}

#[derive(Clone, Copy)]
enum FilesThen {
    Kept,
    Gone,
}

#[test]
fn a_server_that_no_longer_speaks_tls_is_dialled_again() {
    for files in [FilesThen::Kept, FilesThen::Gone] {
        is_dialled_again(ConnectStep::UnderWay, files);
        is_dialled_again(ConnectStep::AfterHello, files);
    }
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
