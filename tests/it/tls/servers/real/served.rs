//! What nginx and haproxy see of connections that are in order.

use std::fs;

use rustix::process::Signal;

use super::{
    Kind, LOCALHOST, NAME, NAMED, REQUEST, Versions, Wanted, answer, asks, is_unserved, pen, seen,
    write,
};
use crate::harness::eventually;
use crate::harness::tls::Authority;

#[test]
fn the_name_is_seen_and_sessions_are_resumed_in_both_versions() {
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    for kind in Kind::all() {
        for (versions, version) in [(Versions::Only12, "TLSv1.2"), (Versions::Only13, "TLSv1.3")] {
            let builder = pen(&root).options(["-O", NAMED]).workers(1);
            let wanted = Wanted::new(&identity).speaks(versions);
            let server = kind.start(builder.directory(), &wanted);
            let pen = builder.server_as(server.address().to_string()).start();
            for round in 0..4 {
                let seen = seen(answer(&pen));
                assert_eq!((&seen.version[..], &seen.name[..]), (version, NAME), "{kind:?}");
                assert_eq!(seen.resumed, round > 0, "{kind:?} {version} {round}");
            }
            // A session of another name is not resumed, and no name is sent if it is an address.
            pen.tell("server_tls_verify off");
            pen.tell("no server_tls_name");
            let seen = seen(answer(&pen));
            assert_eq!((&seen.name[..], seen.resumed), ("", false), "{kind:?} {version}");
        }
    }
}

#[test]
fn the_certificate_that_they_demand_is_seen() {
    let root = Authority::root("root");
    let (identity, own) = (root.issue(&[NAME]), root.issue(&["client"]));
    for kind in Kind::all() {
        for versions in [Versions::Only12, Versions::Only13] {
            let builder = pen(&root).options(["-O", NAMED]).workers(1);
            let wanted = Wanted::new(&identity).speaks(versions).demands(&root);
            let server = kind.start(builder.directory(), &wanted);
            let both = format!("{}{}", own.chain, own.key);
            let path = write(builder.directory(), "own.pem", both);
            let command = format!("server_tls_cert {}", path.display());
            let builder = builder.options(["-O", &command]);
            let pen = builder.server_as(server.address().to_string()).start();
            for round in 0..3 {
                let seen = seen(answer(&pen));
                assert_eq!(seen.subject, "client", "{kind:?} {versions:?} {round}: {seen:?}");
                assert_eq!(seen.resumed, round > 0, "{kind:?} {versions:?}");
            }
        }
    }
}

#[test]
fn tls_at_both_ends_has_the_lines_of_forwarding_within() {
    let root = Authority::root("root");
    let (identity, own) = (root.issue(&[NAME]), root.issue(&["localhost"]));
    for kind in Kind::all() {
        let builder = pen(&root).options(["-H", "-O", NAMED]);
        let server = kind.start(builder.directory(), &Wanted::new(&identity));
        let path = write(builder.directory(), "cert.pem", format!("{}{}", own.chain, own.key));
        let builder = builder.options(["-E".as_ref(), path.as_os_str()]);
        let pen = builder.server_as(server.address().to_string()).start();
        for _ in 0..3 {
            let mut client = root.client().connect(pen.address(), "localhost").unwrap();
            client.send(REQUEST);
            let seen = seen(client.read_to_end().expect("close_notify"));
            let forwarded = (&seen.forwarded_for[..], &seen.forwarded_proto[..]);
            assert_eq!(forwarded, ("127.0.0.1", "https"), "{kind:?}");
            assert_eq!(seen.name, NAME);
        }
    }
}

#[test]
fn a_client_that_has_ended_its_half_gets_the_whole_answer() {
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    for kind in Kind::all() {
        for versions in [Versions::Only12, Versions::Only13] {
            let builder = pen(&root).options(["-O", NAMED]);
            let server = kind.start(builder.directory(), &Wanted::new(&identity).speaks(versions));
            let pen = builder.server_as(server.address().to_string()).start();
            for _ in 0..3 {
                let client = pen.connect(LOCALHOST);
                client.send(REQUEST);
                client.finish();
                assert_eq!(seen(client.read_to_end().expect("an orderly end")).name, NAME);
            }
            eventually("nothing is left", || pen.report().in_use() == 0);
        }
    }
}

#[test]
fn a_reload_brings_another_authority() {
    let (before, after) = (Authority::root("before"), Authority::root("after"));
    let identity = after.issue(&[NAME]);
    for kind in Kind::all() {
        let builder = crate::harness::Pen::builder().control();
        let server = kind.start(builder.directory(), &Wanted::new(&identity));
        let path = write(builder.directory(), "authority.pem", before.pem());
        let file = format!("server_tls\n{NAMED}\nserver_tls_ca {}\nblacklist 0\n", path.display());
        let pen = builder.file(&file).server_as(server.address().to_string()).start();
        is_unserved(&pen);
        pen.hears("its certificate is of an unknown authority");
        fs::write(&path, after.pem()).unwrap();
        pen.supervisor().signal(Signal::HUP);
        eventually("the new one counts", || asks(&pen).is_ok_and(|answer| !answer.is_empty()));
        assert_eq!(seen(answer(&pen)).name, NAME);
    }
}
