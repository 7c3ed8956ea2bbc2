//! Commands, reloads and files.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use rustix::process::Signal;

use super::{failures, pen};
use crate::checks::checker;
use crate::harness::tls::{Authority, write};
use crate::harness::tls_server::TlsServer;
use crate::harness::{Backend, Gate, Pen, eventually, needs_root};
use crate::tls::keys::{holds, prime};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_command_turns_tls_on_and_off_for_one_server_or_all() {
    let root = Authority::root("root");
    let (plain, secured) =
        (Backend::named("plain"), TlsServer::named("tls", root.issue(&["127.0.0.1"])).start());
    let builder = Pen::builder().control();
    let path = write(builder.directory(), "ca.pem", root.pem());
    let ca = format!("server_tls_ca {}", path.display());
    let pen = builder.options(["-r", "-O", &ca]).servers([&plain, &secured.backend]).start();
    pen.hears("server_tls_ca has no effect: no server speaks TLS");
    pen.tell("server 1 tls on");
    let both = |pen: &Pen| {
        let mut names = [pen.ask(LOCALHOST), pen.ask(LOCALHOST)].map(Option::unwrap);
        names.sort();
        names
    };
    assert_eq!(both(&pen), ["plain", "tls"]);
    assert!(pen.tell("write -").contains("\nserver 1 acl 0 address 127.0.0.1 port "));
    assert!(pen.tell("show server 1").contains(" tls on check default"));
    assert!(pen.tell("certificates").contains("authority of servers' certificates"));
    let servers = pen.tell("servers");
    let is_marked: Vec<bool> = servers.lines().map(|line| line.contains(" tls ")).collect();
    assert_eq!(is_marked, [false, true], "{servers}");
    assert!(servers.contains(" tls verified\n"), "{servers}");
    let metrics = pen.tell("metrics");
    let of = |server: usize, address: String, verify: &str| {
        let labels = format!("server=\"{server}\",address=\"{address}\",verify=\"{verify}\"");
        metrics.lines().find(|line| line.contains(&labels)).map(|line| line.ends_with(" 1"))
    };
    let address = |backend: &Backend| backend.address().to_string();
    assert_eq!(of(0, address(&plain), "on"), Some(false), "{metrics}");
    assert_eq!(of(1, address(&secured.backend), "on"), Some(true), "{metrics}");
    assert_eq!(of(1, address(&secured.backend), "off"), Some(false), "{metrics}");
    pen.tell("server_tls on");
    pen.tell("server 0 tls off");
    pen.tell("server 1 tls default");
    assert_eq!(both(&pen), ["plain", "tls"]);
    let written = pen.tell("write -");
    for line in ["server_tls\n", &format!("{ca}\n"), " tls off\n"] {
        assert!(written.contains(line), "{written}");
    }
    let refused = pen.refuses("server_tls_ca /etc/passwd");
    assert!(refused.contains("only the file of -F can say this"), "{refused}");
}

/// A server without TLS that answers a hello with something else once the gate is open, and says
/// that it had one.
fn without_tls(gate: &Gate, hello: &Gate) -> Backend {
    let (gate, hello) = (gate.clone(), hello.clone());
    Backend::with(move |mut socket| {
        let mut first = [0];
        socket.read_exact(&mut first)?;
        if first != [22] {
            return socket.write_all(b"plain\n");
        }
        hello.open();
        gate.pass();
        socket.write_all(b"220 mail.example ESMTP\r\n")
    })
}

#[test]
fn a_server_without_tls_from_now_on_is_not_blamed_for_the_hello_before() {
    let root = Authority::root("root");
    let other = TlsServer::named("other", root.issue(&["127.0.0.1"])).start();
    // With the other one, pen keeps the files of TLS.
    for is_alone in [true, false] {
        let (gate, hello) = (Gate::closed(), Gate::closed());
        let changed = without_tls(&gate, &hello);
        let builder = pen(&root).options(["-O", "timeout 60"]).server(&changed);
        let pen = if is_alone { builder } else { builder.server(&other.backend) }.start();
        if !is_alone {
            pen.tell("server 1 state maint");
        }
        let client = pen.connect(LOCALHOST);
        client.send("x");
        hello.pass();
        pen.tell("server 0 tls off");
        gate.open();
        assert_eq!(client.line().as_deref(), Some("plain"), "{is_alone}");
        assert_eq!(failures(&pen, "not_tls"), 0);
        assert!(!pen.said().contains("blacklisting"), "{}", pen.said());
    }
}

#[test]
fn a_reload_brings_other_authorities() {
    let (before, after) = (Authority::root("before"), Authority::root("after"));
    let old = TlsServer::named("old", before.issue(&["127.0.0.1"])).start();
    let new = TlsServer::named("new", after.issue(&["127.0.0.1"])).start();
    let builder = Pen::builder().control();
    let path = write(builder.directory(), "ca.pem", before.pem());
    let file = format!("server_tls\nserver_tls_ca {}\nroundrobin\nblacklist 0\n", path.display());
    let pen = builder.file(&file).servers([&old.backend, &new.backend]).start();
    let held = pen.hold(LOCALHOST).unwrap();
    for _ in 0..4 {
        assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("old"));
    }
    fs::write(&path, "no certificate").unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("there is no certificate (PEM) in it");
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("old"));
    fs::write(&path, after.pem()).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("certificate new: CN=after");
    eventually("the new one counts", || pen.ask(LOCALHOST).as_deref() == Some("new"));
    for _ in 0..4 {
        assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("new"));
    }
    held.0.echoes("an open connection goes on");
}

#[test]
fn a_new_worker_and_a_new_checker_have_the_files() {
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).start();
    let pen = pen(&root).workers(1).server(&server.backend).start();
    let worker = &pen.workers()[0];
    worker.kill();
    eventually("there is another worker", || {
        pen.workers().first().is_some_and(|new| new.pid() != worker.pid())
    });
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    pen.tell("check_interval 1");
    pen.tell("check tls");
    eventually("the server is checked", || server.seen().len() > 1);
    let killed = checker(&pen).unwrap();
    killed.kill();
    eventually("there is another checker", || {
        checker(&pen).is_some_and(|new| new.pid() != killed.pid())
    });
    let before = server.seen().len();
    eventually("it checks the server", || server.seen().len() > before + 1);
    eventually("it is well", || pen.tell("servers").contains(" check up"));
}

#[test]
fn the_key_is_forgotten_with_the_last_server_that_speaks_tls() {
    if !needs_root() {
        return;
    }
    let root = Authority::root("root");
    let server = TlsServer::named("one", root.issue(&["127.0.0.1"])).asks(&root).start();
    let builder = pen(&root).workers(1).options(["-O", "check tls", "-O", "check_interval 1"]);
    let own = root.issue_rsa(&["client"]);
    let file = write(builder.directory(), "own.pem", format!("{}{}", own.chain, own.key));
    let pen = builder
        .options(["-O", &format!("server_tls_cert {}", file.display())])
        .server(&server.backend)
        .start();
    assert_eq!(pen.ask(LOCALHOST).as_deref(), Some("one"));
    eventually("it is checked", || pen.tell("servers").contains(" check up"));
    // The library stores the prime with the least significant byte first.
    let reversed: Vec<u8> = prime(&own.key_der).into_iter().rev().collect();
    let have = |pen: &Pen| {
        let all = pen.workers().into_iter().chain(checker(pen));
        all.filter(|process| holds(process, &reversed)).count()
    };
    assert_eq!(have(&pen), 2, "the search finds the key where it is used");
    pen.tell("server_tls off");
    eventually("nobody has the key", || have(&pen) == 0);
    assert!(checker(&pen).is_some());
    pen.tell("server_tls on");
    eventually("the server is asked for again", || pen.ask(LOCALHOST).as_deref() == Some("one"));
    assert!(server.seen().last().unwrap().certified);
}

#[test]
fn a_start_and_check_find_what_is_wrong_with_the_files() {
    let root = Authority::root("root");
    let (own, other) = (root.issue(&["client"]), root.issue(&["other"]));
    for (ca, certificate, key, says) in [
        (None, &own.chain, &own.key, "ca.pem: no such file or directory"),
        (Some("nothing"), &own.chain, &own.key, "there is no certificate (PEM) in it"),
        (Some(root.pem()), &own.chain, &other.key, "the key does not match the certificate in"),
        (Some(root.pem()), &own.chain, &own.chain, "there is no private key (PEM) in it"),
    ] {
        for option in [None, Some("--check")] {
            let builder = Pen::builder();
            let directory = builder.directory().to_owned();
            let at = |name: &str| directory.join(name).display().to_string();
            if let Some(ca) = ca {
                write(&directory, "ca.pem", ca);
            }
            write(&directory, "own.pem", certificate);
            write(&directory, "own.key", key);
            let ca = format!("server_tls_ca {}", at("ca.pem"));
            let own = format!("server_tls_cert {} {}", at("own.pem"), at("own.key"));
            let builder = builder.options(["-O", "server_tls on", "-O", &ca, "-O", &own]);
            let output = builder.options(option).server_as("127.0.0.1:1").fails();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(says), "{said}");
        }
    }
    let expired = {
        let builder = Pen::builder();
        let old = root.issue_until(&["client"], -1);
        let path = write(builder.directory(), "own.pem", format!("{}{}", old.chain, old.key));
        let ca = write(builder.directory(), "ca.pem", root.pem());
        let own = format!("server_tls_cert {}", path.display());
        let ca = format!("server_tls_ca {}", ca.display());
        let options = ["-O", "server_tls on", "-O", &ca, "-O", &own, "--check"];
        builder.options(options).server_as("127.0.0.1:1").runs()
    };
    let said = String::from_utf8_lossy(&expired.stderr).into_owned();
    assert!(expired.status.success() && said.contains("the certificate for servers of"), "{said}");
    assert!(said.contains("has expired"), "{said}");
}
