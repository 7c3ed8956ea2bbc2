//! TLS over an upgrade: tickets of old workers are good at new ones, and sessions go on.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustls::HandshakeKind;

use super::{Installed, OLD};
use crate::harness::tls::{Authority, ONLY_12, ONLY_13, write};
use crate::harness::{Backend, Builder, Pen, eventually};

/// A pen with a certificate for `localhost`.
fn with_certificate(root: &Authority) -> Builder {
    let builder = Pen::builder();
    let identity = root.issue(&["localhost"]);
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    builder.options(["-E".as_ref(), path.as_os_str()])
}

#[test]
fn tickets_of_earlier_workers_are_good_at_later_ones() {
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let pen = Installed::start(with_certificate(&root).server(&server));
    let mut before = OLD.to_string();
    for round in 2..5 {
        let mut clients = [ONLY_12, ONLY_13].map(|versions| root.client().speaks(versions));
        for client in &mut clients {
            let kind = client.ask(pen.address(), "localhost").unwrap().1;
            assert_eq!(kind, HandshakeKind::Full);
        }
        let next = format!("0.{round}.0");
        pen.install(&next);
        pen.goes_on_as(&before, &next);
        for client in &mut clients {
            let kind = client.ask(pen.address(), "localhost").unwrap().1;
            assert_eq!(kind, HandshakeKind::Resumed);
        }
        before = next;
    }
}

/// Connects with openssl(1), which keeps its session in a file. Returns what it says about it.
fn openssl_session(to: SocketAddr, words: &[&str]) -> String {
    let to = to.to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &to, "-servername", "localhost", "-ign_eof"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut said = String::new();
    std::io::Read::read_to_string(client.stdout.as_mut().unwrap(), &mut said).unwrap();
    client.wait().unwrap();
    said
}

#[test]
fn openssl_resumes_its_session_at_the_new_workers() {
    // It says goodbye at once, so that both sides end.
    let server = Backend::with(|_| Ok(()));
    let root = Authority::root("root");
    let pen = Installed::start(with_certificate(&root).server(&server));
    for version in ["-tls1_2", "-tls1_3"] {
        let session = pen.directory().join("session");
        let session = session.to_str().unwrap();
        let first = openssl_session(pen.address(), &[version, "-sess_out", session]);
        assert!(first.contains("New, TLSv1."), "{first}");
        let from = if version == "-tls1_2" { OLD } else { "0.2.0" };
        let to = if version == "-tls1_2" { "0.2.0" } else { "0.3.0" };
        pen.install(to);
        pen.goes_on_as(from, to);
        let second = openssl_session(pen.address(), &[version, "-sess_in", session]);
        assert!(second.contains("Reused, TLSv1."), "{second}");
    }
}

#[test]
fn sessions_of_old_workers_go_on_idle_or_not() {
    let root = Authority::root("root");
    let server = Backend::named("a");
    let pen = Installed::start(with_certificate(&root).server(&server).control());
    let mut sessions = [ONLY_12, ONLY_13].map(|versions| {
        let mut session =
            root.client().speaks(versions).connect(pen.address(), "localhost").unwrap();
        assert_eq!(session.line().unwrap(), "a");
        session
    });
    let busy = root.client().connect(pen.address(), "localhost").unwrap();
    assert_eq!(pen.upgrade("0.2.0"), 3);
    pen.install("0.3.0");
    assert_eq!(pen.goes_on_as("0.2.0", "0.3.0"), 3);
    pen.has_old_workers(&[(OLD, 3)]);
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n / 5) as u8).collect();
    let got = busy.exchange(&bytes).unwrap();
    assert!(got[..2] == *b"a\n" && got[2..] == bytes, "every byte is as it was sent");
    for session in &mut sessions {
        session.send("hello\n");
        assert_eq!(session.line().unwrap(), "hello");
        session.finish();
        assert_eq!(session.read_to_end().unwrap(), b"");
    }
    pen.has_old_workers(&[]);
}

#[test]
fn a_handshake_that_has_begun_is_finished_by_the_old_worker() {
    use std::io::{Read, Write};
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let pen = Installed::start(with_certificate(&root).server(&server));
    let hello = root.client().hello("localhost");
    let mut client = std::net::TcpStream::connect(pen.address()).unwrap();
    client.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    client.write_all(&hello[..20]).unwrap();
    eventually("it is accepted", || pen.report().html.contains("1 of 256"));
    assert_eq!(pen.upgrade("0.2.0"), 1);
    client.write_all(&hello[20..]).unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2), "a server hello");
}

#[test]
fn client_certificates_are_required_as_before() {
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let builder = with_certificate(&root);
    let authority = write(builder.directory(), "ca.pem", root.pem());
    let options = ["-R".as_ref(), "-G".as_ref(), authority.as_os_str()];
    let pen = Installed::start(builder.options(options).server(&server));
    let mut known = root.client().is(&root.issue(&["me"]));
    let serves = |known: &mut crate::harness::tls::TlsClient| {
        assert!(known.ask(pen.address(), "localhost").is_some());
        assert!(root.client().ask(pen.address(), "localhost").is_none());
    };
    serves(&mut known);
    pen.upgrade("0.2.0");
    serves(&mut known);
}

#[test]
fn files_that_were_read_stay_in_force_and_hup_reads_them_again() {
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let pen = Installed::start(with_certificate(&root).server(&server));
    let path = pen.directory().join("cert.pem");
    let good = std::fs::read(&path).unwrap();
    // The rehearsal reads the files as they are now.
    std::fs::write(&path, "nonsense").unwrap();
    pen.install("0.2.0");
    let why = pen.fails_to_upgrade();
    assert!(why.contains("cert.pem"), "{why}");
    std::fs::write(&path, &good).unwrap();
    assert_eq!(pen.becomes("0.2.0"), 0);
    let other = Authority::root("other");
    let identity = other.issue(&["localhost"]);
    std::fs::write(&path, format!("{}{}", identity.chain, identity.key)).unwrap();
    assert!(root.client().ask(pen.address(), "localhost").is_some(), "still the one before");
    pen.supervisor().signal(Signal::HUP);
    eventually("the new certificate is in force", || {
        other.client().ask(pen.address(), "localhost").is_some()
    });
}
