//! TLS towards clients: handshakes, both protocols, data and its end.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use rustls::ProtocolVersion;

use crate::harness::tls::{Authority, Identity, ONLY_12, ONLY_13, openssl, write};
use crate::harness::{Backend, Builder, Gate, PATIENCE, Pen, eventually};

/// A pen with a certificate for `localhost`, its chain and key in one file.
fn with_certificate(identity: &Identity) -> Builder {
    let builder = Pen::builder();
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.key, identity.chain));
    builder.options(["-E".as_ref(), path.as_os_str()])
}

#[test]
fn both_protocols_carry_bytes_both_ways_and_end_in_order() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let pen = with_certificate(&root.issue(&["localhost"])).server(&backend).start();
    for (versions, version) in
        [(ONLY_12, ProtocolVersion::TLSv1_2), (ONLY_13, ProtocolVersion::TLSv1_3)]
    {
        let mut client = root.client().speaks(versions);
        let mut connection = client.connect(pen.address(), "localhost").unwrap();
        assert_eq!(connection.session.protocol_version(), Some(version));
        assert_eq!(connection.line().unwrap(), "one");
        connection.send("hello\n");
        assert_eq!(connection.line().unwrap(), "hello");
        // The client's close_notify is a half-close towards the server; the server's end becomes a
        // close_notify.
        connection.send("last");
        connection.finish();
        assert_eq!(connection.read_to_end().unwrap(), b"last");
    }
    pen.settle();
}

#[test]
fn the_server_may_end_first_and_still_be_told_everything() {
    let root = Authority::root("root");
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let backend = Backend::with(move |mut socket| {
        socket.write_all(b"bye")?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes)?;
        kept.lock().unwrap().push(bytes);
        Ok(())
    });
    let pen = with_certificate(&root.issue(&["localhost"])).server(&backend).start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    assert_eq!(connection.read_to_end().unwrap(), b"bye");
    let long = vec![b'x'; 1 << 20];
    connection.send(&long);
    connection.finish();
    eventually("the server has all that was sent after its end", || {
        *told.lock().unwrap() == [long.clone()]
    });
}

#[test]
fn a_reset_that_only_close_notify_finds_out_reaches_the_server_as_a_reset() {
    let root = Authority::root("root");
    let (ends, has_ended) = (Gate::closed(), Gate::closed());
    let result = Arc::new(Mutex::new(None));
    let (may_end, end_sent, kept) = (ends.clone(), has_ended.clone(), result.clone());
    let backend = Backend::with(move |mut socket| {
        socket.write_all(b"one\n")?;
        may_end.pass();
        socket.shutdown(std::net::Shutdown::Write)?;
        end_sent.open();
        *kept.lock().unwrap() = Some(socket.read_to_end(&mut Vec::new()));
        Ok(())
    });
    let pen = with_certificate(&root.issue(&["localhost"])).workers(1).server(&backend).start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    assert_eq!(connection.line().unwrap(), "one");
    // The worker finds both in one round: first the end of file of the server, for which it sends
    // close_notify, then the reset of the client.
    pen.workers()[0].stop();
    ends.open();
    has_ended.pass();
    rustix::net::sockopt::set_socket_linger(&connection.socket, Some(Duration::ZERO)).unwrap();
    drop(connection);
    pen.workers()[0].resume();
    eventually("the server notices", || result.lock().unwrap().is_some());
    let error = result.lock().unwrap().take().unwrap().expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    pen.settle();
}

#[test]
fn an_end_without_close_notify_is_an_end_of_data() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let pen = with_certificate(&root.issue(&["localhost"]))
        .options(["-dd", "-a"])
        .server(&backend)
        .start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    connection.line().unwrap();
    connection.send("unfinished");
    connection.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(connection.read_to_end().unwrap(), b"unfinished");
    pen.hears("the client sent no close_notify");
}

#[test]
fn much_goes_both_ways_at_once() {
    let root = Authority::root("root");
    let backend = Backend::with(crate::harness::backend::echo);
    let pen = with_certificate(&root.issue(&["localhost"])).server(&backend).start();
    let bytes: Vec<u8> = (0..12_000_000_u32).map(|n| (n / 5) as u8).collect();
    for versions in [ONLY_12, ONLY_13] {
        let mut client = root.client().speaks(versions);
        let connection = client.connect(pen.address(), "localhost").unwrap();
        assert!(connection.exchange(&bytes).unwrap() == bytes);
    }
    pen.settle();
}

#[test]
fn a_client_that_does_not_read_holds_up_its_server_and_nothing_grows() {
    let root = Authority::root("root");
    let length = 40_000_000;
    let backend = Backend::with(move |mut socket| socket.write_all(&vec![b'x'; length]));
    let pen = with_certificate(&root.issue(&["localhost"])).workers(1).server(&backend).start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    let before = pen.workers()[0].resident();
    // Another client is served while this one does not read.
    let mut other = root.client().connect(pen.address(), "localhost").unwrap();
    assert_eq!(other.read_to_end().unwrap().len(), length);
    let grown = pen.workers()[0].resident().saturating_sub(before);
    assert!(grown < 8192, "the worker has grown by {grown} KiB");
    assert_eq!(connection.read_to_end().unwrap().len(), length);
}

#[test]
fn what_is_no_tls_reaches_no_server() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let pen = with_certificate(&root.issue(&["localhost"])).server(&backend).start();
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n * 7 / 3) as u8).collect();
    for bytes in [
        b"GET / HTTP/1.0\r\n\r\n" as &[u8],
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        &garbage,
        b"\n",
        b"",
    ] {
        let mut client = TcpStream::connect(pen.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.write_all(bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        // An alert, or nothing.
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
    }
    pen.hears("TLS handshake failed: what it sent is no TLS");
    assert_eq!(backend.accepted(), 0);
    assert!(root.client().ask(pen.address(), "localhost").is_some());
    pen.settle();
}

#[test]
fn a_handshake_must_be_over_in_time() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let pen = with_certificate(&root.issue(&["localhost"])).server(&backend).start();
    let mut silent = TcpStream::connect(pen.address()).unwrap();
    let mut slow = TcpStream::connect(pen.address()).unwrap();
    for client in [&silent, &slow] {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    slow.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    for client in [&mut silent, &mut slow] {
        assert_eq!(client.read(&mut [0; 64]).unwrap(), 0, "it is closed");
    }
    pen.hears("TLS handshake failed: not finished in time");
    assert_eq!(backend.accepted(), 0);
    pen.settle();
}

#[test]
fn chains_are_sent_whole_and_completed_from_the_authorities() {
    let root = Authority::root("root");
    let below = root.intermediate("below");
    let identity = below.issue(&["localhost"]);
    let backend = Backend::named("one");
    let whole = with_certificate(&identity).server(&backend).start();
    assert!(root.client().ask(whole.address(), "localhost").is_some());
    // Only the leaf: a client that knows only the root cannot verify it.
    let builder = Pen::builder();
    let leaf = write(builder.directory(), "leaf.pem", format!("{}{}", identity.leaf, identity.key));
    let alone = builder.options(["-E".as_ref(), leaf.as_os_str()]).server(&backend).start();
    assert!(root.client().ask(alone.address(), "localhost").is_none());
    let builder = Pen::builder();
    let leaf = write(builder.directory(), "leaf.pem", format!("{}{}", identity.leaf, identity.key));
    let authorities =
        write(builder.directory(), "ca.pem", format!("{}{}", root.pem(), below.pem()));
    let options =
        ["-R".as_ref(), "-E".as_ref(), leaf.as_os_str(), "-G".as_ref(), authorities.as_os_str()];
    let completed = builder.options(options).server(&backend).start();
    let mut client = root.client().is(&root.issue(&["me"]));
    assert!(client.ask(completed.address(), "localhost").is_some());
}

#[test]
fn suites_and_protocols_are_as_chosen() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let file = "ssl_ciphers ECDHE-RSA-CHACHA20-POLY1305:HIGH:ECDHE-RSA-AES128-GCM-SHA256\n";
    let pen = with_certificate(&root.issue_rsa(&["localhost"])).file(file).server(&backend).start();
    pen.hears("ssl_ciphers: 'HIGH' names no suite that is here: passed over");
    let to = pen.address().to_string();
    let connect = |words: &[&str]| openssl([&["s_client", "-connect", &to], words].concat());
    assert!(connect(&["-tls1_2"]).contains("Cipher is ECDHE-RSA-CHACHA20-POLY1305"));
    assert!(
        connect(&["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"])
            .contains("Cipher is (NONE)")
    );
    assert!(connect(&["-tls1_3"]).contains("New, TLSv1.3"));
    let pen = with_certificate(&root.issue(&["localhost"]))
        .options(["-O", "ssl_option no_tlsv1.2"])
        .server(&backend);
    let pen = pen.start();
    assert!(root.client().speaks(ONLY_12).connect(pen.address(), "localhost").is_err());
    assert!(root.client().speaks(ONLY_13).ask(pen.address(), "localhost").is_some());
    pen.hears("it offers no protocol, cipher suite or signature that is allowed here");
}

#[test]
fn suites_that_do_not_fit_the_key_are_told_at_the_check_the_start_and_hup() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let told = "cert.pem: ssl_ciphers has no suite for its ECDSA key, so that clients without TLS \
        1.3 are refused; add one that \
                begins with ECDHE-ECDSA";
    let (good, bad) = (
        "ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256\n",
        "ssl_ciphers ECDHE-RSA-AES256-GCM-SHA384\n",
    );
    let make =
        |file: &str| with_certificate(&root.issue(&["localhost"])).server(&backend).file(file);
    for (file, warns) in [(good, false), (bad, true)] {
        let output = make(file).options(["--check"]).runs();
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains(told), warns, "{output:?}");
    }
    make(bad).start().hears(told);
    let pen = make(good).start();
    let mut old = root.client().speaks(ONLY_12);
    assert!(old.ask(pen.address(), "localhost").is_some() && !pen.said().contains(told));
    fs::write(pen.directory().join("pen.cfg"), bad).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears(told);
    eventually("the list is in force", || {
        root.client().speaks(ONLY_12).ask(pen.address(), "localhost").is_none()
    });
    pen.hears("that is allowed here, or ssl_ciphers has none for the certificate's key");
}

#[test]
fn the_clear_text_is_logged() {
    let root = Authority::root("root");
    let backend = Backend::named("one");
    let builder = with_certificate(&root.issue(&["localhost"]));
    let log = builder.directory().join("requests");
    let pen = builder.options(["-l".as_ref(), log.as_os_str()]).server(&backend).start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    connection.send("GET /secret HTTP/1.0\r\n\r\n");
    eventually("the request is logged", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.contains("127.0.0.1 GET /secret HTTP/1.0"))
    });
}

#[test]
fn dummy_answers_over_tls_too() {
    let root = Authority::root("root");
    let pen = with_certificate(&root.issue(&["localhost"])).options(["-O", "dummy"]).start();
    let mut connection = root.client().connect(pen.address(), "localhost").unwrap();
    connection.send("GET / HTTP/1.0\r\n\r\n");
    assert!(connection.read_to_end().unwrap().ends_with(b"Ulric was here."));
}
