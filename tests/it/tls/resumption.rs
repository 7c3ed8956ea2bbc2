//! Sessions are resumed at any worker, and after a worker's death.

use crate::harness::tls::{Authority, ONLY_12, ONLY_13, TlsClient, write};
use crate::harness::{Backend, Pen};
use rustls::HandshakeKind;

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
    let pen = builder.options(["-E".as_ref(), path.as_os_str()]).server(&backend).start();
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
