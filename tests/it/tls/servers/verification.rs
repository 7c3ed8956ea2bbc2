//! Whose certificates are good.

use std::net::Ipv4Addr;

use super::{failures, is_explained, pen};
use crate::harness::tls::{Authority, Identity, write};
use crate::harness::tls_server::TlsServer;
use crate::harness::{Backend, Builder, Pen, eventually};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A pen that trusts `root`, with a server of this certificate and then one that is good.
fn with_two(root: &Authority, identity: Identity) -> (Pen, [Backend; 2]) {
    let bad = TlsServer::named("bad", identity).start().backend;
    let good = TlsServer::named("good", root.issue(&["127.0.0.1"])).start().backend;
    let pen = pen(root).options(["-r"]).servers([&bad, &good]).start();
    (pen, [bad, good])
}

/// The server is not used, for this reason; clients get the other one.
#[track_caller]
fn is_refused(root: &Authority, identity: Identity, reason: &str, text: &str) {
    let (pen, [bad, _good]) = with_two(root, identity);
    for _ in 0..4 {
        assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("good"), "{reason}");
    }
    assert!(bad.accepted() > 0, "{reason}");
    pen.hears(&format!("blacklisting server 0 ({}) for 30 s: {text}", bad.address()));
    eventually("it is counted", || failures(&pen, reason) == 1);
    is_explained(&pen, 0, bad.address(), text);
}

#[test]
fn a_certificate_is_for_the_address_or_the_name_in_it_and_the_name_is_sent() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1", "localhost"])).start();
    let pen = pen(&root).server(&server.backend).start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    pen.tell(&format!("server 0 address localhost port {}", server.backend.address().port()));
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    pen.tell("server_tls_name LOCALHOST.");
    pen.tell("server 0 address 127.0.0.1");
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    let names: Vec<Option<String>> = server.seen().into_iter().map(|seen| seen.name).collect();
    let names: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
    assert_eq!(names, [None, Some("localhost"), Some("localhost")]);
}

#[test]
fn an_intermediate_authority_leads_to_a_known_one() {
    let root = Authority::root("root");
    let below = root.intermediate("below");
    let server = TlsServer::named("one", below.issue(&["127.0.0.1"])).start();
    let pen = pen(&root).server(&server.backend).start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
}

#[test]
fn a_certificate_of_a_stranger_is_refused() {
    let (root, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let identity = stranger.issue(&["127.0.0.1"]);
    is_refused(&root, identity, "unknown_authority", "its certificate is of an unknown authority");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let root = Authority::root("root");
    let identity = root.issue(&["127.0.0.2", "www.example"]);
    is_refused(&root, identity, "wrong_name", "its certificate is not for its name");
}

#[test]
fn an_expired_certificate_is_refused() {
    let root = Authority::root("root");
    let identity = root.issue_until(&["127.0.0.1"], -1);
    is_refused(&root, identity, "expired", "its certificate has expired");
}

#[test]
fn a_self_signed_certificate_is_refused_unless_it_is_an_authority_of_pens() {
    let root = Authority::root("root");
    let own = Authority::self_signed(&["127.0.0.1"]);
    let pem = own.leaf.clone();
    let again = Identity { chain: own.chain.clone(), leaf: pem.clone(), ..copy(&own) };
    is_refused(&root, own, "self_signed", "its certificate is self-signed");
    let server = TlsServer::named("own", again).start();
    let builder = Pen::builder().control();
    let path = write(builder.directory(), "ca.pem", pem);
    let ca = format!("server_tls_ca {}", path.display());
    let builder = builder.options(["-O", "server_tls on", "-O", &ca]);
    let pen = builder.server(&server.backend).start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("own"));
}

fn copy(identity: &Identity) -> Identity {
    Identity {
        chain: identity.chain.clone(),
        leaf: identity.leaf.clone(),
        key: identity.key.clone(),
        certificate: identity.certificate.clone(),
        key_der: identity.key_der.clone(),
    }
}

#[test]
fn without_verification_every_certificate_is_good_and_the_name_is_sent_all_the_same() {
    let stranger = Authority::root("stranger");
    let server = TlsServer::named("any", stranger.issue_until(&["www.example"], -1)).start();
    let options = ["-O", "server_tls on", "-O", "server_tls_verify off"];
    let pen = Pen::builder().options(options).control().server(&server.backend).start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("any"));
    pen.tell("server_tls_name a.example");
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("any"));
    let names: Vec<Option<String>> = server.seen().into_iter().map(|seen| seen.name).collect();
    assert_eq!(names, [None, Some("a.example".to_owned())]);
    // Now it is to be verified, by the authorities of the system.
    pen.tell("server_tls_verify on");
    assert_eq!(pen.ask(LOCALHOST), None);
    assert_eq!(failures(&pen, "expired") + failures(&pen, "unknown_authority"), 1);
}

#[test]
fn a_unix_socket_has_the_name_of_all() {
    let root = Authority::root("root");
    // Without a control port, so that pen may be the user of the socket.
    let builder = Pen::builder();
    let path = builder.directory().join("server");
    let server = TlsServer::named("one", root.issue(&["a.example"])).start_unix(&path);
    let operand = server.backend.operand();
    let ca = write(builder.directory(), "ca.pem", root.pem());
    let ca = format!("server_tls_ca {}", ca.display());
    let options = ["-O", "server_tls on", "-O", &ca];
    let with = |builder: Builder| builder.options(options).server_as(&operand);
    let said = with(Pen::builder()).fails();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("no name that its certificate must have"), "{said}");
    let pen = with(builder.options(["-O", "server_tls_name a.example"])).start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    assert_eq!(server.seen()[0].name.as_deref(), Some("a.example"));
}
