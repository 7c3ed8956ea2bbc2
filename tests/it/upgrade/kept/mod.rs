//! What the store of a service manager keeps over a restart, and over the death of the supervisor.

mod user;

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use rustls::HandshakeKind;

use crate::harness::tls::{Authority, write};
use crate::harness::{
    Backend, Builder, Client, PATIENCE, Pen, Port, Process, Store, ask, eventually,
};

const CLIENTS: [IpAddr; 6] = [client(1), client(2), client(3), client(4), client(5), client(6)];

const KEPT: [&str; 3] = ["pen-listener", "pen-state", "pen-table"];

const fn client(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 32, 0, number))
}

/// A pen that a manager with this store starts at this address.
fn stored(store: &Store, at: SocketAddr) -> Builder {
    store.passes_to(Pen::builder().workers(2).listen(at.to_string()))
}

/// The answers to all clients.
fn answers(at: SocketAddr) -> Vec<Option<String>> {
    CLIENTS.iter().map(|client| ask(at, *client)).collect()
}

/// Kills the supervisor, and waits for the end of its workers.
fn die(pen: &mut Pen) {
    let workers = pen.supervisor().children();
    pen.kill_supervisor();
    eventually("no worker is left", || workers.iter().all(Process::gone));
}

/// A client that connects while no pen runs.
struct Early(TcpStream);

impl Early {
    fn connect(at: SocketAddr) -> Early {
        let socket = TcpStream::connect(at).expect("the queue is open");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Early(socket)
    }

    #[track_caller]
    fn gets_an_answer(mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        self.0.read_to_string(&mut said).unwrap();
        assert!(!said.is_empty());
    }
}

/// Three servers, of which a new client gets the next one.
fn farm() -> [Backend; 3] {
    Backend::farm(["a", "b", "c"])
}

#[test]
fn after_a_restart_and_after_a_death_the_queue_waited_and_clients_are_known() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let start = || stored(&store, port.address()).options(["-d"]).servers(&farm).start();
    let mut pen = start();
    let first = answers(port.address());
    store.awaits(&KEPT);
    for dies in [false, true, false] {
        match dies {
            true => die(&mut pen),
            false => pen.end_by(Signal::TERM),
        }
        let early = Early::connect(port.address());
        pen = start();
        early.gets_an_answer();
        pen.hears(match dies {
            true => "pen died before; the service manager kept: listener, table",
            false => "the service manager kept: listener, table",
        });
        assert_eq!(answers(port.address()), first);
        assert_eq!(pen.report().in_use(), 0);
        store.awaits(&KEPT);
    }
}

#[test]
fn without_a_store_nothing_is_sent() {
    let store = Store::new(16);
    let server = Backend::named("a");
    let mut pen = Pen::builder().env("NOTIFY_SOCKET", store.name()).server(&server).start();
    pen.end_by(Signal::TERM);
    assert!(store.messages().is_empty());
}

#[test]
fn sessions_are_resumed_after_a_restart() {
    let (store, port) = (Store::new(16), Port::reserve());
    let (root, server) = (Authority::root("root"), Backend::named("a"));
    let identity = root.issue(&["localhost"]);
    let mut client = root.client();
    let mut ask = || client.ask(port.address(), "localhost").expect("pen serves the client").1;
    for (start, expected) in
        [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].iter().enumerate()
    {
        let builder = stored(&store, port.address());
        let text = format!("{}{}", identity.chain, identity.key);
        let path = write(builder.directory(), "cert.pem", text);
        let mut pen = builder.options(["-E".as_ref(), path.as_os_str()]).server(&server).start();
        assert_eq!(ask(), *expected, "start {start}");
        store.awaits(&["pen-listener", "pen-state", "pen-table", "pen-ticket-0"]);
        if start == 0 { die(&mut pen) } else { pen.end_by(Signal::TERM) }
    }
    // Without TLS the secrets go.
    let pen = stored(&store, port.address()).server(&server).start();
    store.awaits(&KEPT);
    drop(pen);
}

#[test]
fn the_sockets_in_the_file_system_are_the_same() {
    let store = Store::new(16);
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(65534), None).ok();
    let [front, control]: [PathBuf; 2] = ["front", "control"].map(|n| directory.path().join(n));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let start = || {
        let builder = store.passes_to(Pen::builder().workers(2).listen(&front));
        builder.control_unix(&control).server(&server).start()
    };
    let mut pen = start();
    let before = [inode(&front), inode(&control)];
    for dies in [true, false] {
        store.awaits(&["pen-control", "pen-listener", "pen-state", "pen-table"]);
        if dies {
            die(&mut pen)
        } else {
            pen.end_by(Signal::TERM)
        }
        let early = Client::connect_unix(&front).unwrap();
        pen = start();
        assert_eq!(early.line().as_deref(), Some("a"));
        assert_eq!([inode(&front), inode(&control)], before);
        pen.tells("pid", &pen.supervisor().pid().to_string());
    }
    // The files are those of pen again: one from which it moves away is removed.
    let other = directory.path().join("other");
    store.awaits(&["pen-control", "pen-listener", "pen-state", "pen-table"]);
    let mut pen = {
        pen.end_by(Signal::TERM);
        let builder = store.passes_to(Pen::builder().workers(2).listen(&other));
        builder.control_unix(&control).server(&server).start()
    };
    assert!(!front.exists(), "nobody listens there");
    assert_eq!(inode(&control), before[1]);
    pen.hears(&format!("this start does not ask for it: listener at {}\n", front.display()));
    pen.end_by(Signal::TERM);
    assert!(other.exists());
}

#[test]
fn after_two_deaths_within_a_minute_pen_starts_empty_with_its_queue() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let start = || stored(&store, port.address()).servers(&farm).start();
    let known = |pen: &Pen| pen.report().clients.len();
    let mut pen = start();
    answers(port.address());
    store.awaits(&KEPT);
    die(&mut pen);
    pen = start();
    assert_eq!(known(&pen), CLIENTS.len());
    store.awaits(&KEPT);
    die(&mut pen);
    let early = Early::connect(port.address());
    pen = start();
    early.gets_an_answer();
    pen.hears("table and ticket secrets: pen died twice within a minute");
    assert!(known(&pen) < CLIENTS.len());
    answers(port.address());
    store.awaits(&KEPT);
    // An end in order keeps what was learnt since.
    pen.end_by(Signal::TERM);
    pen = start();
    assert_eq!(known(&pen), CLIENTS.len() + 1);
}

#[test]
fn a_start_that_fails_is_no_death_and_loses_nothing() {
    let (store, port, server) = (Store::new(16), Port::reserve(), Backend::named("a"));
    let mut pen = stored(&store, port.address()).server(&server).start();
    answers(port.address());
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    for _ in 0..3 {
        stored(&store, port.address())
            .options(["-l", "/no/such/directory/log"])
            .server(&server)
            .fails();
    }
    let early = Early::connect(port.address());
    let pen = stored(&store, port.address()).server(&server).start();
    early.gets_an_answer();
    assert_eq!(pen.report().clients.len(), CLIENTS.len() + 1);
    assert!(!pen.said().contains("not used"), "{}", pen.said());
}

#[test]
fn clients_follow_the_addresses_of_their_servers() {
    let (store, port, [a, b, c]) = (Store::new(16), Port::reserve(), farm());
    let mut pen = stored(&store, port.address()).servers([&a, &b, &c]).start();
    let first = answers(port.address());
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    // The numbers of a and c change, b is gone, and d is new.
    let d = Backend::named("d");
    let mut pen = stored(&store, port.address()).options(["-d"]).servers([&c, &d, &a]).start();
    pen.hears("clients of the table, which has other sizes or servers");
    for (before, now) in first.iter().zip(answers(port.address())) {
        match before.as_deref() {
            Some("b") => assert_ne!(now.as_deref(), Some("b")),
            _ => assert_eq!(*before, now),
        }
    }
    pen.end_by(Signal::TERM);
}

#[test]
fn a_reload_changes_the_description() {
    let (store, port, [a, b, c]) = (Store::new(16), Port::reserve(), farm());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pen.cfg");
    let name = |servers: [&Backend; 2]| {
        let lines = servers.iter().enumerate().map(|(number, server)| {
            let (ip, port) = (server.address().ip(), server.address().port());
            format!("server {number} address {ip} port {port}\n")
        });
        fs::write(&file, lines.collect::<String>()).unwrap();
    };
    name([&a, &b]);
    let start =
        || stored(&store, port.address()).options(["-F".as_ref(), file.as_os_str()]).start();
    let mut pen = start();
    store.awaits(&KEPT);
    let described =
        |server: &Backend| store.description().contains(&format!(":{}\"", server.address().port()));
    assert!(described(&b) && !described(&c));
    name([&a, &c]);
    pen.supervisor().signal(Signal::HUP);
    eventually("the new server is described", || described(&c) && !described(&b));
    let before = answers(port.address());
    die(&mut pen);
    let _pen = start();
    assert_eq!(answers(port.address()), before);
}

#[test]
fn a_blacklist_line_that_is_gone_has_no_effect_after_a_restart() {
    let (store, port, [a, b, _]) = (Store::new(16), Port::reserve(), farm());
    let line = "server 0 blacklist 3600\n";
    let start = |text| stored(&store, port.address()).file(text).servers([&a, &b]).start();
    for (text, first, expected) in [(line, 10, true), ("", 20, false)] {
        let mut pen = start(text);
        // New clients, because known ones stay at their server.
        let is_passed_over = (first..first + 6)
            .all(|number| ask(port.address(), client(number)).as_deref() == Some("b"));
        assert_eq!(is_passed_over, expected, "{text}");
        store.awaits(&KEPT);
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn other_sizes_keep_the_clients() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let mut pen = stored(&store, port.address()).servers(&farm).start();
    let first = answers(port.address());
    for options in [&["-c", "4000"][..], &["-S", "40"], &["-x", "900"]] {
        store.awaits(&KEPT);
        pen.end_by(Signal::TERM);
        pen = stored(&store, port.address()).options(options).servers(&farm).start();
        assert_eq!(answers(port.address()), first, "{options:?}");
    }
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    pen = stored(&store, port.address()).workers(4).options(["-c", "3"]).servers(&farm).start();
    assert_eq!(pen.report().clients.len(), 3);
}

#[test]
fn a_listener_at_another_address_is_closed() {
    let (store, server) = (Store::new(16), Backend::named("a"));
    let all = Port::reserve_on(Ipv4Addr::UNSPECIFIED.into());
    let number = all.address().port();
    let mut pen = stored(&store, all.address()).server(&server).start();
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    // One of the addresses of the kept socket, which another program could not bind.
    let one = SocketAddr::from(([127, 0, 0, 1], number));
    let pen = stored(&store, one).server(&server).start();
    pen.hears("this start does not ask for it: listener at 0.0.0.0:");
    assert_eq!(ask(one, client(1)).as_deref(), Some("a"));
    let other = SocketAddr::from(([127, 0, 0, 2], number));
    assert!(TcpStream::connect(other).is_err(), "its clients would wait for ever");
    store.awaits(&KEPT);
}

#[test]
fn listener_and_control_port_may_change_places() {
    let (store, server) = (Store::new(16), Backend::named("a"));
    let reserved = [Port::reserve(), Port::reserve()];
    let ports = reserved.each_ref().map(|port| port.address().to_string());
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(65534), None).ok();
    let files = ["one", "two"].map(|name| directory.path().join(name).display().to_string());
    for [one, two] in [ports, files] {
        let start = |listen: &str, control: Option<&str>| {
            let builder = store.passes_to(Pen::builder().workers(2).listen(listen));
            // Only root needs a user.
            let control = control.map(|at| match rustix::process::geteuid().is_root() {
                true => vec!["-C", at, "-u", "nobody"],
                false => vec!["-C", at],
            });
            builder.options(control.iter().flatten()).server(&server).start()
        };
        let all = ["pen-control", "pen-listener", "pen-state", "pen-table"];
        for (listen, control, kept) in [
            (&one, Some(&*two), &all[..]),
            (&two, Some(&*one), &all),
            (&one, None, &KEPT),
            (&two, Some(&*one), &all),
            (&one, None, &KEPT),
        ] {
            let mut pen = start(listen, control);
            store.awaits(kept);
            pen.end_by(Signal::TERM);
        }
    }
}

#[test]
fn a_listener_of_an_operator_and_one_of_a_socket_unit() {
    let (store, server) = (Store::new(16), Backend::named("a"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let port = Port::reserve();
    let unit = || {
        let builder = stored(&store, at).socket(listener.try_clone().unwrap());
        let count = store.names().len() + 1;
        builder.env("LISTEN_FDS", count.to_string()).control().server(&server)
    };
    let mut pen = unit().start();
    store.awaits(&["pen-control", "pen-state", "pen-table"]);
    // The port of the control port is another one at each start.
    pen.tells(&format!("listen {}", port.address()), &port.address().to_string());
    store.awaits(&["pen-control", "pen-listener", "pen-state", "pen-table"]);
    pen.end_by(Signal::TERM);
    let mut pen = unit().start();
    assert_eq!(ask(at, client(1)).as_deref(), Some("a"));
    pen.hears(&format!("this start does not ask for it: listener at {}, control", port.address()));
    assert!(TcpStream::connect(port.address()).is_err());
    store.awaits(&["pen-control", "pen-state", "pen-table"]);
    pen.end_by(Signal::TERM);
}

#[test]
fn a_full_store_and_foreign_descriptors_stop_no_start() {
    let (store, port, server) = (Store::new(0), Port::reserve(), Backend::named("a"));
    let null = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let known = ["pen-state", "pen-listener", "pen-control", "pen-table", "pen-ticket-0"];
    for name in known.into_iter().chain(["pen-of-a-later-release"]) {
        store.put(name, null());
    }
    let builder = stored(&store, port.address());
    // A manager with room for nothing more still has what it had.
    let mut pen = builder.env("FDSTORE", "6").server(&server).start();
    for part in [
        "description: it is no sealed memory",
        "listener: it is no listening stream socket",
        "pen-of-a-later-release: this release does not know it",
    ] {
        pen.hears(part);
    }
    assert_eq!(ask(port.address(), client(1)).as_deref(), Some("a"));
    store.awaits(&[]);
    pen.end_by(Signal::TERM);
    // Many descriptors, also at the numbers that programs have.
    for number in 0..40 {
        store.put(&format!("{number}"), null());
    }
    let all = stored(&store, port.address()).server(&server);
    let said = String::from_utf8(all.fails().stderr).unwrap();
    assert!(said.contains("descriptor 3 that was passed to pen"), "{said}");
}

#[test]
fn descriptors_at_the_numbers_of_programs_are_used_too() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let mut pen = stored(&store, port.address()).servers(&farm).start();
    let first = answers(port.address());
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    let kept = KEPT.map(|name| (name, store.descriptor(name)));
    KEPT.iter().for_each(|name| store.remove(name));
    // Copies of a name do not harm: the last one is used.
    let names: Vec<String> = (0..15).map(|_| "pen-ticket-1".into()).collect();
    let mut builder = stored(&store, port.address()).options(["-d"]).servers(&farm);
    for _ in &names {
        builder = builder.socket(fs::File::open("/dev/null").unwrap());
    }
    for (_, descriptor) in &kept {
        builder = builder.socket(descriptor.try_clone().unwrap());
    }
    let names = [names, kept.iter().map(|(name, _)| name.to_string()).collect()].concat();
    let builder = builder
        .env("FDSTORE", "20")
        .env("LISTEN_FDS", names.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"));
    let pen = builder.start();
    pen.hears("the service manager kept: listener, table");
    assert_eq!(answers(port.address()), first);
}

#[test]
fn a_table_full_of_garbage_harms_nobody() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let mut pen = stored(&store, port.address()).servers(&farm).start();
    answers(port.address());
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    for options in [&["-d"][..], &["-d", "-c", "500"]] {
        let table = store.descriptor("pen-table");
        let mut word = 1u64;
        for place in 0..20_000 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = if word >> 63 == 0 { u64::MAX } else { word };
            rustix::io::pwrite(&table, &bytes.to_ne_bytes(), place * 8).unwrap();
        }
        let mut pen = stored(&store, port.address()).options(options).servers(&farm).start();
        assert!(answers(port.address()).iter().all(Option::is_some));
        store.awaits(&KEPT);
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn a_state_that_is_not_understood_starts_pen_empty() {
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let mut pen = stored(&store, port.address()).servers(&farm).start();
    answers(port.address());
    store.awaits(&KEPT);
    pen.end_by(Signal::TERM);
    let layout = |text: String| text.replace("\"layout\":", "\"layout\":9");
    let format = |text: String| text.replace("pen-kept 1", "pen-kept 2");
    let shape = |text: String| text.replace("\"servers\":18", "\"servers\":19");
    let nonsense = |_| "nonsense".to_owned();
    let rows: [(&dyn Fn(String) -> String, &str); 4] = [
        (&layout, "table: shared table of another program: it has layout 9"),
        (&format, "description: it has another format"),
        (&shape, "table: shared table of another program: its memory has"),
        (&nonsense, "table and ticket secrets: without the description they mean nothing"),
    ];
    for (change, why) in rows {
        store.describe(&change(store.description()));
        let early = Early::connect(port.address());
        let mut pen = stored(&store, port.address()).servers(&farm).start();
        early.gets_an_answer();
        pen.hears(why);
        assert_eq!(pen.report().clients.len(), 1);
        store.awaits(&KEPT);
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn an_upgrade_sends_only_a_new_description() {
    let (store, port, server) = (Store::new(16), Port::reserve(), Backend::named("a"));
    let mut pen = stored(&store, port.address()).server(&server).start();
    answers(port.address());
    store.awaits(&KEPT);
    let before = store.messages().len();
    pen.supervisor().signal(Signal::USR2);
    pen.hears(" is now pen ");
    eventually("the description is new", || store.messages().len() == before + 2);
    assert!(store.messages()[before..].iter().all(|message| message.contains("pen-state")));
    store.awaits(&KEPT);
    die(&mut pen);
    let pen = stored(&store, port.address()).server(&server).start();
    pen.hears("pen died before; the service manager kept: listener, table");
    assert_eq!(pen.report().clients.len(), CLIENTS.len());
}
