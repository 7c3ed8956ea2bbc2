//! Upgrades in a row under load: no client is refused, reset, cut short or given wrong bytes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::{Installed, OLD};
use crate::harness::numbers::Bytes;
use crate::harness::tls::{Authority, TlsClient, write};
use crate::harness::{Backend, Client, Pen, SetOnDrop, eventually, needs_root};

const UPGRADES: usize = 8;

/// A client address of its own for each number.
fn client(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 76, high, low)
}

/// Upgrades again and again, while these clients run; each looks whether it is over. Between two
/// upgrades, clients are served.
#[track_caller]
fn upgrades_under(pen: &Installed, clients: Clients<'_>, releases: Releases) -> Load {
    let load = Load::default();
    thread::scope(|scope| {
        let over = SetOnDrop(&load.over);
        let threads: Vec<_> = clients.iter().map(|run| scope.spawn(|| run(&load))).collect();
        let mut before = OLD.to_string();
        for round in 1..=UPGRADES {
            let seen = load.done.load(SeqCst);
            eventually("clients are served between two upgrades", || {
                load.done.load(SeqCst) >= seen + 20 || threads.iter().any(|one| one.is_finished())
            });
            let next = format!("0.2.{round}");
            pen.install(&match releases {
                Releases::OfOneLayout => next.clone(),
                Releases::OfManyLayouts => format!("{next} layout {}", 1000 + round),
            });
            pen.goes_on_as(&before, &next);
            before = next;
        }
        drop(over);
    });
    load
}

/// Whether the tables of the releases have the same layout.
#[derive(Clone, Copy, Debug)]
enum Releases {
    OfOneLayout,
    OfManyLayouts,
}

/// Clients, each a thread.
type Clients<'a> = Vec<Box<dyn Fn(&Load) + Send + Sync + 'a>>;

/// What the clients of [`upgrades_under`] share.
#[derive(Default)]
pub(super) struct Load {
    pub(super) over: AtomicBool,
    pub(super) done: AtomicUsize,
    /// Connections to pen so far.
    connections: AtomicUsize,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.over.load(SeqCst)
    }

    fn did(&self) {
        self.done.fetch_add(1, SeqCst);
    }

    fn connect(&self, to: SocketAddr, from: usize) -> Client {
        self.connections.fetch_add(1, SeqCst);
        Client::connect(client(from).into(), to).expect("no client is refused")
    }

    /// One connection after the other, each with a greeting, an echo and an orderly end.
    pub(super) fn come_and_go(&self, to: SocketAddr, from: usize) {
        let mut count = 0;
        while self.goes_on() {
            let short = self.connect(to, from);
            assert_eq!(short.line().as_deref(), Some("a"));
            short.echoes(&format!("{count} {}", "x".repeat(count % 3000)));
            short.finish();
            assert_eq!(short.read_to_end().expect("an orderly end"), b"");
            count += 1;
            self.did();
        }
    }

    /// Many requests on one connection.
    fn ask_again_and_again(&self, to: SocketAddr, from: usize) {
        let kept = self.connect(to, from);
        assert_eq!(kept.line().as_deref(), Some("a"));
        for count in 0.. {
            kept.echoes(&format!("request {count}"));
            self.did();
            pause();
            if !self.goes_on() {
                break;
            }
        }
        kept.finish();
        assert_eq!(kept.read_to_end().expect("an orderly end"), b"");
    }

    /// Idle until the end, but not dead.
    fn idle(&self, to: SocketAddr, from: usize) {
        while self.goes_on() {
            let idle = self.connect(to, from);
            // At a server that is full, the client is closed in order.
            let Some(name) = idle.line() else { continue };
            assert_eq!(name, "a");
            while self.goes_on() {
                pause();
                assert!(!idle.has_news(), "nothing happens to an idle connection");
            }
            idle.echoes("still here");
            idle.finish();
            assert_eq!(idle.read_to_end().expect("an orderly end"), b"");
        }
    }

    /// A download from before the first upgrade to after the last one.
    fn download(&self, to: SocketAddr, from: usize) {
        let client = self.connect(to, from);
        assert_eq!(client.line().as_deref(), Some("a"));
        client.send("download\n");
        let mut expected = Bytes::new(3);
        let mut total = 0;
        while self.goes_on() {
            let bytes = client.read(1 << 16).expect("a download goes on");
            assert!(!bytes.is_empty() && bytes == expected.take(bytes.len()), "at {total}");
            total += bytes.len();
            pause();
        }
        client.reset();
    }

    /// Sessions of TLS one after the other, full ones and resumed ones.
    fn come_and_go_by_tls(&self, to: SocketAddr, root: &Authority) {
        let mut known = root.client();
        let mut resumed = 0;
        while self.goes_on() {
            let mut fresh = root.client();
            for one in [&mut known, &mut fresh] {
                self.connections.fetch_add(1, SeqCst);
                let (name, kind) = one.ask(to, "localhost").expect("no session fails");
                assert_eq!(name, "a");
                resumed += usize::from(kind == rustls::HandshakeKind::Resumed);
            }
            self.did();
        }
        assert!(resumed > 0, "tickets are used");
    }

    /// A session that is idle until the end.
    fn idle_by_tls(&self, to: SocketAddr, mut of: TlsClient) {
        self.connections.fetch_add(1, SeqCst);
        let mut session = of.connect(to, "localhost").expect("no session fails");
        assert_eq!(session.line().unwrap(), "a");
        while self.goes_on() {
            pause();
        }
        session.send("still here\n");
        assert_eq!(session.line().unwrap(), "still here");
        session.finish();
        assert_eq!(session.read_to_end().unwrap(), b"");
    }
}

/// Lets the others use the processor. Nothing depends on how long it takes.
fn pause() {
    thread::sleep(Duration::from_millis(2));
}

/// A server that greets and echoes lines, or sends bytes without end.
pub(super) fn server() -> Backend {
    Backend::with(|mut connection| {
        connection.write_all(b"a\n")?;
        let mut buffer = vec![0; 1 << 16];
        let mut is_first = true;
        loop {
            let read = connection.read(&mut buffer)?;
            if is_first && buffer[..read] == *b"download\n" {
                let mut bytes = Bytes::new(3);
                loop {
                    connection.write_all(&bytes.take(1 << 16))?;
                }
            }
            if read == 0 {
                return Ok(());
            }
            is_first = false;
            connection.write_all(&buffer[..read])?;
        }
    })
}

#[test]
fn clients_of_all_kinds_notice_nothing() {
    notice_nothing(Releases::OfOneLayout);
}

#[test]
fn clients_of_all_kinds_notice_nothing_of_other_layouts_of_the_table() {
    notice_nothing(Releases::OfManyLayouts);
}

#[track_caller]
fn notice_nothing(releases: Releases) {
    let servers = [server(), server()];
    let builder = Pen::builder().workers(2).options(["-x", "1000"]).servers(&servers).control();
    let pen = Installed::start(builder);
    let to = pen.address();
    let mut clients: Clients<'_> = Vec::new();
    for n in 0..6 {
        clients.push(Box::new(move |load: &Load| load.come_and_go(to, n)));
    }
    for n in 10..13 {
        clients.push(Box::new(move |load: &Load| load.ask_again_and_again(to, n)));
    }
    for n in 20..25 {
        clients.push(Box::new(move |load: &Load| load.idle(to, n)));
    }
    clients.push(Box::new(move |load: &Load| load.download(to, 30)));
    let (descriptors, staff) = (pen.supervisor().descriptors().len(), pen.staff().len());
    let load = upgrades_under(&pen, clients, releases);
    pen.settle();
    pen.has_old_workers(&[]);
    // Every connection is counted once, also those of workers that have ended.
    let accepted = load.connections.load(SeqCst) as u64;
    eventually("all connections are counted", || pen.status()["counters"]["accepted"] == accepted);
    for name in ["unserved", "failed_connects", "failovers", "shortages", "events_dropped"] {
        assert_eq!(pen.status()["counters"][name], 0, "{name}");
    }
    eventually("there are as many descriptors and processes as before", || {
        (pen.supervisor().descriptors().len(), pen.staff().len()) == (descriptors, staff)
    });
    let said = pen.said();
    for word in ["was killed", "ended with", "blacklist", "hung", "failed"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

#[test]
fn sessions_of_tls_notice_nothing() {
    let root = Authority::root("root");
    let server = server();
    let builder = Pen::builder().workers(2);
    let identity = root.issue(&["localhost"]);
    let path =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.chain, identity.key));
    let builder = builder.options(["-E".as_ref(), path.as_os_str()]).server(&server).control();
    let pen = Installed::start(builder);
    let (to, root) = (pen.address(), &root);
    let mut clients: Clients<'_> = Vec::new();
    for _ in 0..3 {
        clients.push(Box::new(move |load: &Load| load.come_and_go_by_tls(to, root)));
        clients.push(Box::new(move |load: &Load| load.idle_by_tls(to, root.client())));
    }
    let load = upgrades_under(&pen, clients, Releases::OfOneLayout);
    pen.settle();
    let accepted = load.connections.load(SeqCst) as u64;
    eventually("all connections are counted", || pen.status()["counters"]["accepted"] == accepted);
    assert_eq!(pen.status()["counters"]["handshakes_failed"], 0);
}

/// The connections to a port that are established now, by their local addresses (proc_net(5)).
fn connections_to(port: u16) -> BTreeSet<String> {
    let remote = format!(":{port:04X}");
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields[2].ends_with(&remote) && fields[3] == "01")
        .map(|fields| fields[1].to_string())
        .collect()
}

#[test]
fn a_hard_limit_is_never_exceeded() {
    if !needs_root() {
        return;
    }
    const LIMIT: usize = 10;
    let server = server();
    let port = server.address().port();
    let builder = Pen::builder().workers(2).options(["-x", "1000"]);
    let operand = format!("{}:{LIMIT}:{LIMIT}", server.operand());
    let pen = Installed::start(builder.server_as(operand));
    let to = pen.address();
    let mut clients: Clients<'_> = Vec::new();
    for n in 0..12 {
        // A client for which there is no place is closed in order.
        clients.push(Box::new(move |load: &Load| {
            while load.goes_on() {
                let one = load.connect(to, n);
                if one.line().is_some() {
                    (0..n).for_each(|count| one.echoes(&count.to_string()));
                    load.did();
                } else {
                    pause();
                }
            }
        }));
    }
    for n in 20..28 {
        clients.push(Box::new(move |load: &Load| load.idle(to, n)));
    }
    clients.push(Box::new(move |load: &Load| {
        while load.goes_on() {
            // A connection that both looks find was open in between, with all the others.
            let (first, second) = (connections_to(port), connections_to(port));
            let open = first.intersection(&second).count();
            assert!(open <= LIMIT, "{open} connections at a server that may have {LIMIT}");
        }
    }));
    upgrades_under(&pen, clients, Releases::OfOneLayout);
    pen.hears(&format!("it has {LIMIT} of {LIMIT} connections"));
    pen.settle();
}
