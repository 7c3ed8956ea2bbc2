//! `pause` and `resume`: new clients wait, and nothing is read from them.

use std::thread;

use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Pen, eventually};
use crate::upgrade::Installed;

use super::{client, held};

#[test]
fn new_clients_wait_and_open_connections_go_on() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().workers(2).servers(&farm).control().start();
    let (open, _) = pen.hold(client(1)).unwrap();
    let metric = || {
        pen.tell("metrics")
            .lines()
            .find_map(|line| line.strip_prefix("pen_paused ").map(str::to_owned))
    };
    assert_eq!(metric().as_deref(), Some("0"));
    pen.tells("pause", "");
    pen.tells("pause", "");
    let waiting: Vec<_> = (2..8).map(|number| pen.connect(client(number))).collect();
    waiting.iter().for_each(|one| one.send("hello\n"));
    eventually("they are held", || held(&pen) == 6);
    open.echoes("on");
    let before = farm.iter().map(Backend::accepted).sum::<usize>();
    assert_eq!(before, 1, "no server sees them");
    assert!(pen.tell("overview").contains("\"paused\":true"));
    assert_eq!(metric().as_deref(), Some("1"));
    pen.tells("resume", "");
    for one in &waiting {
        assert!(one.line().is_some() && one.line().as_deref() == Some("hello"));
    }
    eventually("nobody is held", || held(&pen) == 0);
    assert!(pen.tell("overview").contains("\"paused\":false"));
    assert_eq!(metric().as_deref(), Some("0"));
    assert!(pen.ask(client(9)).is_some());
}

#[test]
fn nothing_is_read_before_the_end_of_a_pause_neither_tls_nor_a_proxy_header() {
    let root = Authority::root("root");
    let identity = root.issue(&["pen"]);
    let server = Backend::named("a");
    let builder = Pen::builder();
    let certificate = write(builder.directory(), "cert.pem", &identity.chain);
    let key = write(builder.directory(), "key.pem", &identity.key);
    let options = ["-E", certificate.to_str().unwrap(), "-K", key.to_str().unwrap()];
    let pen = builder.options(options).server(&server).control().start();
    pen.tells("pause", "");
    thread::scope(|scope| {
        let session = scope.spawn(|| root.client().ask(pen.address(), "pen"));
        eventually("it is held", || held(&pen) == 1);
        assert!(!session.is_finished(), "no handshake");
        pen.tells("resume", "");
        assert_eq!(session.join().unwrap().map(|(name, _)| name).as_deref(), Some("a"));
    });

    let pen = Pen::builder()
        .options(["-O", "proxy_protocol in from 127.0.0.0/8", "-O", "acl 1 permit 192.0.2.7"])
        .options(["-O", "client_acl 1"])
        .server(&server)
        .control()
        .start();
    pen.tells("pause", "");
    let senders = [pen.connect(client(1)), pen.connect(client(2))];
    for (sender, address) in senders.iter().zip(["192.0.2.7", "192.0.2.8"]) {
        sender.send(format!("PROXY TCP4 {address} 192.0.2.1 1000 80\r\n"));
    }
    eventually("they are held", || held(&pen) == 2);
    pen.tells("resume", "");
    let lines = senders.map(|sender| sender.line());
    assert_eq!(lines, [Some("a".into()), None], "the client in the header is judged");
}

#[test]
fn a_pause_outlives_reload_worker_and_upgrade_and_ends_for_old_workers_too() {
    let farm = Backend::farm(["a"]);
    let pen = Installed::start(Pen::builder().file("tracking 5\n").servers(&farm).control());
    pen.tells("pause", "");
    pen.supervisor().signal(rustix::process::Signal::HUP);
    let victim = &pen.workers()[0];
    victim.kill();
    eventually("the worker is replaced", || {
        pen.workers().iter().all(|one| one.pid() != victim.pid())
    });
    let before: Vec<_> = (1..4).map(|number| pen.connect(client(number))).collect();
    eventually("they are held", || held(&pen) == 3);
    pen.install("0.2.0");
    pen.goes_on_as(env!("CARGO_PKG_VERSION"), "0.2.0");
    let after: Vec<_> = (4..7).map(|number| pen.connect(client(number))).collect();
    eventually("old and new workers hold", || held(&pen) == 6);
    pen.tells("resume", "");
    for one in before.iter().chain(&after) {
        assert_eq!(one.line().as_deref(), Some("a"));
    }
    eventually("nobody is held", || held(&pen) == 0);
}
