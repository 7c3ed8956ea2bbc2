//! Sessions are resumed at any worker, and after a worker's death.

use std::io::{Read, Write};

use crate::harness::tls::{Authority, ONLY_12, ONLY_13, TlsClient, write};
use crate::harness::{Backend, Pen};
use rustls::HandshakeKind;
use serde_json::Value;

fn kind(client: &mut TlsClient, pen: &Pen) -> HandshakeKind {
    client.ask(pen.address(), "localhost").expect("pen serves the client").1
}

#[test]
fn a_session_of_any_worker_resumes_at_every_other() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = Pen::builder();
    let identity = root.issue(&["localhost"]);
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let builder = builder.options(["-E".as_ref(), path.as_os_str()]);
    let pen = builder.server(&backend).control().start();
    for versions in [ONLY_12, ONLY_13] {
        let mut resumed = 0;
        for maker in 0..3 {
            for taker in 0..3 {
                let mut client = root.client().speaks(versions);
                assert_eq!(pen.only(maker, || kind(&mut client, &pen)), HandshakeKind::Full);
                resumed += u32::from(
                    pen.only(taker, || kind(&mut client, &pen)) == HandshakeKind::Resumed,
                );
            }
        }
        assert_eq!(resumed, 9, "{versions:?}");
    }
    let mut stranger = std::net::TcpStream::connect(pen.address()).unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let _ = stranger.read_to_end(&mut Vec::new());
    crate::harness::eventually("all is counted by kind", || {
        let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
        let counts = |part: &str| -> Vec<u64> {
            status[part].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect()
        };
        let failures = &status["tls_failures"];
        counts("tls_handshakes") == [9, 9, 9, 9]
            && counts("tls_failures").iter().sum::<u64>() == 1
            && failures["not_tls"] == 1
    });
    for versions in [ONLY_12, ONLY_13] {
        let mut client = root.client().speaks(versions);
        assert_eq!(pen.only(1, || kind(&mut client, &pen)), HandshakeKind::Full);
        let workers = pen.workers();
        let born: Vec<i32> = workers.iter().map(|worker| worker.pid()).collect();
        workers.iter().for_each(|worker| worker.kill());
        crate::harness::eventually("all workers are new", || {
            pen.workers().iter().all(|worker| !born.contains(&worker.pid()))
        });
        assert_eq!(
            kind(&mut client, &pen),
            HandshakeKind::Resumed,
            "no worker that knew the client is left"
        );
    }
}
