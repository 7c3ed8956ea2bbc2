//! What the page process serves, where, and for whom.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::machine::{NOBODY, is_root};
use crate::harness::reader::Site;
use crate::harness::{Backend, Pen, Port, eventually, needs_root};

/// A client of this file's own.
fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 61, 0, n)
}

#[test]
fn every_path_shows_what_pen_does() {
    let farm = Backend::farm(["a", "b"]);
    let site = Site::reserve();
    let pen = Pen::builder().servers(&farm).page(&site.command()).start();
    let _held: Vec<_> = (1..=4).map(|n| pen.hold(client(n)).unwrap()).collect();
    eventually("the connections are shown", || site.status()["connections"] == 4);
    let status = site.status();
    assert_eq!(status["pid"], pen.supervisor().pid());
    assert_eq!(status["listen"], pen.address().to_string());
    assert_eq!(status["servers"].as_array().unwrap().len(), 2);
    let page = site.get("/");
    assert!(page.status == 200 && page.body.contains("2 of 2 servers are up"), "{page:?}");
    assert!(page.head.contains("\r\nContent-Security-Policy: default-src 'none'; "));
    let metrics = site.get("/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("\npen_connections 4\n"), "{metrics:?}");
    assert_eq!(site.get("/health").body, "ok\n");
    assert_eq!(site.get("/metrics/x").status, 404);
    let mut reader = site.connect().unwrap();
    reader.send("POST / HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    assert_eq!(reader.answer().unwrap().status, 405);
}

#[test]
fn health_is_that_of_new_clients() {
    let servers = [Backend::named("a"), Backend::named("b")];
    let site = Site::reserve();
    let builder = Pen::builder().workers(1).servers(&servers).options(["-b", "600", "-t", "2"]);
    let pen = builder.page(&site.command()).start();
    assert_eq!((site.get("/health").status, pen.ask(client(10)).is_some()), (200, true));
    servers.iter().for_each(Backend::stop);
    eventually("no server is usable", || {
        pen.ask(client(11));
        let health = site.get("/health");
        (health.status, &health.body[..]) == (503, "no server is usable\n")
    });
}

#[test]
fn checks_states_and_a_pause_are_on_the_page_without_script() {
    let farm = [Backend::named("a"), Backend::named("b"), Backend::down("c")];
    let site = Site::reserve();
    let builder = Pen::builder().servers(&farm).options(["-O", "check tcp"]).control();
    let pen = builder.page(&site.command()).start();
    let body = || site.get("/").body.replace(['\u{a0}', '\u{202f}'], " ");
    eventually("the checks are told", || {
        let body = body();
        body.matches("<small>tcp up ").count() == 2
            && body.contains("<small>tcp down for ")
            && body.contains(": refused</small>")
    });
    pen.tells("server 0 state drain", "");
    pen.tells("server 1 state maint", "");
    let told = |words: &[&str]| {
        // The page is made once a second.
        eventually(&format!("the page says {words:?}"), || {
            let body = body();
            words.iter().all(|words| body.contains(words))
        });
    };
    told(&["<b>draining</b>", "<b>maintenance</b>", "<b>down</b>", "gets no new clients"]);
    told(&["<h1>Checks are disregarded (fail_open): all servers"]);
    pen.tells("pause", "");
    let waiting = pen.connect(client(30));
    eventually("the client is held", || site.status()["held"] == 1);
    told(&["<h1>Paused: new clients wait until the command resume</h1>"]);
    told(&["1 client waits until the command resume."]);
    let health = site.get("/health");
    let expected = (200, "ok, but paused: clients wait until the command resume\n");
    assert_eq!((health.status, &health.body[..]), expected);
    pen.tells("resume", "");
    eventually("the pause is over", || !body().contains("command resume"));
    drop(waiting);
}

#[test]
fn events_come_as_they_happen() {
    let site = Site::reserve();
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).page(&site.command()).file("debug 0\n").start();
    let mut reader = site.connect().unwrap();
    reader.send("GET /events HTTP/1.1\r\nHost: pen\r\nLast-Event-ID: 0\r\n\r\n").unwrap();
    reader.head().unwrap();
    pen.supervisor().signal(Signal::HUP);
    reader.until("event: reloaded\ndata: ").unwrap();
    let record: Value = serde_json::from_str(&reader.until("\n\n").unwrap()).unwrap();
    assert_eq!(record["kind"], "reloaded", "{record}");
}

#[test]
fn a_unix_socket_is_private_and_gone_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("page.sock");
    let site = Site::Unix(path.clone());
    let server = Backend::named("a");
    let user: &[&str] = if is_root() { &["-u", "nobody"] } else { &[] };
    let builder = Pen::builder().server(&server).options(["-O", &site.command()]);
    let mut pen = builder.options(user).start();
    let there = fs::metadata(&path).unwrap();
    assert!(there.file_type().is_socket() && there.mode() & 0o7777 == 0o600, "{there:?}");
    if is_root() {
        assert_eq!((there.uid(), there.gid()), (NOBODY, NOBODY));
    }
    let mut reader = site.connect().unwrap();
    // Whoever asks here was let in by the file system, whatever name the page has there.
    reader.send("GET /health HTTP/1.1\r\nHost: pen.example.com\r\n\r\n").unwrap();
    assert_eq!(reader.answer().unwrap().body, "ok\n");
    pen.end_by(Signal::TERM);
    assert!(!path.exists());
}

#[test]
fn a_page_that_cannot_be_had_stops_the_start() {
    let server = Backend::named("a");
    let builder = || Pen::builder().server(&server);
    let (port, taken) = (Port::reserve(), server.operand());
    let failed =
        |builder: crate::harness::Builder| String::from_utf8(builder.fails().stderr).unwrap();
    let said = failed(builder().page(&format!("page {taken}")));
    assert!(said.contains(&format!("cannot listen on {taken}")), "{said}");
    let clash = builder().listen(port.address().to_string());
    let said = failed(clash.page(&format!("page {}", port.address())).options(["--check"]));
    assert!(said.contains("page: ") && said.contains("give the page another port"), "{said}");
    let user: &[&str] = if is_root() { &["-u", "nobody"] } else { &[] };
    let control = format!("control {}", port.address());
    let said = failed(builder().options(user).options([
        "-O",
        &control,
        "-O",
        &control.replace("control", "page"),
    ]));
    assert!(said.contains("the control port is at "), "{said}");
    failed(builder().page("page /no/such/directory/page"));
    let checked = builder().page("page 8").options(["--check"]).runs();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn the_page_is_shown_written_and_changed_by_a_restart_only() {
    let site = Site::reserve();
    let server = Backend::named("a");
    let port = Port::reserve();
    let text = format!(
        "listen {}\nserver 0 address 127.0.0.1 port {}\n{}\n",
        port.address(),
        server.address().port(),
        site.command()
    );
    let pen = Pen::builder().one_file(&text).start();
    pen.tells("show page", &site.command());
    pen.tells("page", &site.command());
    let written = pen.tell("write -");
    assert!(written.contains(&format!("\n{}\n", site.command())), "{written}");
    fs::write(pen.directory().join("pen.cfg"), written.replace(&site.command(), "page 8")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("page 127.0.0.1:8: needs a restart; until then: page 127.0.0.1:");
    assert!(pen.refuses("page 9").contains("only a start can give this"));
    assert_eq!(site.get("/health").status, 200);
}

#[test]
fn the_access_list_is_applied_at_once() {
    let site = Site::reserve();
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().options(["-O", &site.command()]).start();
    let mut before = site.connect().unwrap();
    before.ask("/health").unwrap();
    assert_eq!(before.answer().unwrap().status, 200);
    let mut stream = site.connect().unwrap();
    stream.ask("/events").unwrap();
    stream.head().unwrap();
    pen.tells("page_acl", "0");
    pen.tells("acl 4 deny 127.0.0.1", "");
    pen.tells("page_acl 4", "4");
    assert!(site.try_get("/health").is_err());
    pen.hears("page: 127.0.0.1 was refused by page_acl");
    // Who was let in before is refused too.
    for reader in [&mut before, &mut stream] {
        assert!(std::io::copy(reader, &mut std::io::sink()).is_err(), "it is reset");
    }
    pen.tells("page_acl 0", "0");
    assert_eq!(site.get("/health").status, 200);
    let events: Vec<Value> = serde_json::from_str(&pen.tell("events 1000 json")).unwrap();
    let refused = events.iter().find(|event| event["fields"]["reason"] == "page_acl").unwrap();
    assert_eq!(
        (&refused["kind"], &refused["fields"]["client"]),
        (&json!("client_refused"), &json!("127.0.0.1"))
    );
}

#[test]
fn the_process_has_nothing_but_its_port_and_its_channel() {
    if !needs_root() {
        return;
    }
    let site = Site::reserve();
    let server = Backend::named("a");
    let options = ["-u", "nobody", "-O", &site.command()];
    let pen = Pen::builder().server(&server).options(options).start();
    let _held = pen.hold(client(20)).unwrap();
    let page = pen.page_process();
    assert_eq!(page.title(), "pen: page");
    let root = fs::read_link(page.proc("root")).unwrap();
    assert_ne!(root, std::path::Path::new("/"), "its root is empty");
    for ids in ["Uid", "Gid"] {
        let all: Vec<u32> = page.status(ids).split(' ').map(|id| id.parse().unwrap()).collect();
        assert_eq!(all, [NOBODY; 4], "{ids}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(page.status(set), "0000000000000000", "{set}");
    }
    let descriptors = page.descriptors();
    let own: Vec<&str> = descriptors
        .iter()
        .filter(|(number, _)| *number > 2)
        .map(|(_, target)| target.split(':').next().unwrap())
        .collect();
    assert_eq!(own.iter().filter(|kind| **kind == "socket").count(), 2, "{descriptors:?}");
    assert_eq!(own.len(), 3, "and an epoll: {descriptors:?}");
    let stat = fs::read_to_string(page.proc("stat")).unwrap();
    let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap();
    assert_eq!(nice, "10", "clients come before readers");
}

#[test]
fn without_the_command_there_is_no_process() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    pen.workers();
    let children = pen.supervisor().children();
    assert!(children.iter().all(|child| child.title() != "pen: page"));
    pen.tells("show page", "no page");
    assert!(!pen.tell("help page").is_empty());
}
