//! HUP: the configuration file is read again, all of it or none, without an effect on current
//! clients.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::wait::within;
use crate::harness::{Backend, Client, Pen, Port, Process, SetOnDrop, ask, eventually, hold};
use rustix::process::Signal;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 23, 0, number)
}

/// Replaces the text of the configuration file atomically, as an editor does.
fn edit(pen: &Pen, text: &str) {
    let (path, new) = (pen.directory().join("pen.cfg"), pen.directory().join("pen.cfg.new"));
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Makes pen read its file, and waits until the reply to `question` is `reply`.
#[track_caller]
fn reload(pen: &Pen, question: &str, reply: &str) {
    pen.supervisor().signal(Signal::HUP);
    assert!(
        within(crate::harness::PATIENCE, || pen.tell(question) == format!("{reply}\n")),
        "after HUP, {question:?} is answered by {:?}, not {reply:?}",
        pen.tell(question)
    );
}

#[test]
fn what_the_file_says_is_in_force_and_what_it_does_not_mention_stays() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().server(&farm[0]).file("blacklist 1\nstubborn\n").control().start();
    let (held, _) = pen.hold(client(1)).unwrap();
    pen.tells("timeout 9", "9");
    pen.tells("server 0 max 77", "");
    edit(
        &pen,
        &format!(
            "blacklist 2\nserver 1 address 127.0.0.1 port {}\nprio\nserver 0 prio 1",
            farm[1].address().port()
        ),
    );
    reload(&pen, "blacklist", "2");
    pen.tells("timeout", "9");
    pen.tells("mode", "no hash no roundrobin stubborn no weight prio");
    assert!(pen.tell("servers").starts_with(&format!(
        "0 addr 127.0.0.1 port {} conn 1 max 77 ",
        farm[0].address().port()
    )));
    for worker in 0..3 {
        assert_eq!(pen.only(worker, || pen.ask(client(10 + worker as u8))).as_deref(), Some("b"));
    }
    held.echoes("still here");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"), "the client table stays");
    // A server that the file does not name stays too.
    edit(&pen, "blacklist 3\n");
    reload(&pen, "blacklist", "3");
    assert_eq!(pen.tell("servers").lines().count(), 2);
}

#[test]
fn a_bad_line_leaves_everything_as_it_is_and_every_bad_line_is_told() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).file("blacklist 1\n").control().start();
    let path = pen.directory().join("pen.cfg");
    edit(&pen, "blacklist 2\nfrob\nroundrobin\nserver 99 max 1\ntimeout x\n");
    pen.supervisor().signal(Signal::HUP);
    pen.hears(&format!("{}:2: ", path.display()));
    pen.hears(&format!("{}:5: ", path.display()));
    pen.tells("blacklist", "1");
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio");
    // Lines that are correct but cannot take effect.
    for line in [
        "server 99 address 127.0.0.1",
        "server 5 max 1",
        "server 3 address no.such.host.invalid",
        "include gone",
    ] {
        edit(&pen, &format!("blacklist 3\n\n# {line}\n{line}\n"));
        let before = pen.said().lines().count();
        pen.supervisor().signal(Signal::HUP);
        eventually("the bad line is told", || {
            pen.said()
                .lines()
                .skip(before)
                .any(|said| said.contains(&format!("{}:4: ", path.display())))
        });
        pen.tells("blacklist", "1");
    }
    edit(
        &pen,
        "blacklist 3\nserver 3 address 127.0.0.1 port no-such-a\nserver 4 address 127.0.0.1 port \
         no-such-b\n",
    );
    pen.supervisor().signal(Signal::HUP);
    pen.hears(&format!("{}:2: cannot resolve no-such-a: ", path.display()));
    pen.hears(&format!("{}:3: cannot resolve no-such-b: ", path.display()));
    pen.tells("blacklist", "1");
    // Resources that are not available: the message names the lines too.
    let taken = crate::harness::Port::reserve();
    let _taken = std::net::TcpListener::bind(taken.address()).unwrap();
    for line in
        ["log /no/such/log", "web_stats /no/such/page", &format!("listen {}", taken.address())]
    {
        edit(&pen, &format!("blacklist 3\n{line}\n"));
        let before = pen.said().lines().count();
        pen.supervisor().signal(Signal::HUP);
        eventually("the line is told", || {
            pen.said()
                .lines()
                .skip(before)
                .any(|said| said.contains(&format!("{}:2: ", path.display())))
        });
        pen.tells("blacklist", "1");
    }
    fs::remove_file(&path).unwrap();
    pen.supervisor().signal(Signal::HUP);
    pen.hears("no such file");
    pen.tells("blacklist", "1");
    edit(&pen, "blacklist 4\n");
    reload(&pen, "blacklist", "4");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn what_needs_a_restart_is_told() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).file("blacklist 1\n").control().start();
    edit(&pen, "blacklist 2\nworkers 5\n");
    pen.supervisor().signal(Signal::HUP);
    pen.hears("restart");
    assert_eq!(pen.workers().len(), 3);
}

#[test]
fn access_lists_are_rebuilt_not_appended_to() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .server(&server)
        .options(["-O", "acl 1 deny 127.23.0.1", "-O", "acl 2 deny 127.23.0.9"])
        .file("acl 1 deny 127.23.0.2\nclient_acl 1\nblacklist 1\n")
        .control()
        .start();
    fs::set_permissions(pen.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let mine = crate::harness::machine::directory(
        pen.directory(),
        "mine",
        0o755,
        crate::harness::machine::NOBODY,
    )
    .join("now.cfg");
    let lists = || {
        pen.tells(&format!("write {}", mine.display()), "");
        let text = fs::read_to_string(&mine).unwrap();
        text.lines()
            .filter(|line| line.starts_with("acl "))
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let given = [
        "acl 1 deny 127.23.0.1 255.255.255.255",
        "acl 1 deny 127.23.0.2 255.255.255.255",
        "acl 2 deny 127.23.0.9 255.255.255.255",
    ];
    assert_eq!(lists(), given);
    pen.tells("acl 1 deny 127.23.0.3", "");
    pen.tells("acl 2 deny 127.23.0.8", "");
    for round in 2..5 {
        edit(&pen, &format!("acl 1 deny 127.23.0.2\nclient_acl 1\nblacklist {round}\n"));
        reload(&pen, "blacklist", &round.to_string());
    }
    assert_eq!(lists(), [&given[..], &["acl 2 deny 127.23.0.8 255.255.255.255"]].concat());
    for worker in 0..3 {
        let served = pen.only(worker, || [1, 2, 3].map(|n| pen.ask(client(n)).is_some()));
        assert_eq!(served, [false, false, true]);
    }
}

#[test]
fn a_file_named_relative_to_where_pen_was_started_is_found_again() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).control().background();
    fs::write(builder.directory().join("pen.cfg"), "blacklist 1\n").unwrap();
    let script = format!("cd {} && exec \"$0\" \"$@\"", builder.directory().display());
    let pen = builder.through(["sh", "-c", &script]).options(["-F", "pen.cfg"]).start();
    pen.tells("blacklist", "1");
    edit(&pen, "blacklist 2\n");
    reload(&pen, "blacklist", "2");
}

#[test]
fn with_a_jail_the_file_is_outside() {
    if !crate::harness::needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).control().file("blacklist 1\n");
    let jail = crate::harness::machine::directory(builder.directory(), "jail", 0o755, 0);
    let pen = builder.options(["-j", jail.to_str().unwrap()]).start();
    edit(&pen, "blacklist 2\nserver 1 address localhost\n");
    reload(&pen, "blacklist", "2");
    assert!(pen.tell("servers").contains("1 addr 127.0.0.1 port"), "{}", pen.tell("servers"));
}

#[test]
fn nobody_who_is_served_notices_reloads() {
    /// Clients that are served the whole time.
    const CLIENTS: u16 = 200;
    /// The duration, and the number of HUPs.
    const BOUND: Duration = Duration::from_secs(10);
    const EVERY: Duration = Duration::from_millis(200);
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder()
        .servers(&farm)
        .options(["-x", "1000", "-q", "1000"])
        .file("blacklist 1\n")
        .control()
        .start();
    let (address, workers) = (pen.address(), pen.workers());
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _ends = SetOnDrop(&over);
        for n in 0..CLIENTS {
            let (over, served) = (&over, &served);
            let from = Ipv4Addr::new(127, 24, (n / 200) as u8, (n % 200) as u8 + 1);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let (held, _) = hold(address, from.into()).expect("a client is served");
                    for line in ["one", "two", "three"] {
                        held.echoes(line);
                    }
                    held.finish();
                    assert!(held.read_to_end().unwrap().is_empty());
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        let start = Instant::now();
        let mut reloads: u32 = 0;
        while start.elapsed() < BOUND {
            reloads += 1;
            let modes = if reloads.is_multiple_of(2) {
                "roundrobin\n"
            } else {
                "no roundrobin\nserver 0 max 0\n"
            };
            edit(&pen, &format!("blacklist {reloads}\n{modes}"));
            pen.supervisor().signal(Signal::HUP);
            let due = start + EVERY * reloads;
            within(due.saturating_duration_since(Instant::now()), || false);
        }
        eventually("the last reload is in force", || {
            pen.tell("blacklist") == format!("{reloads}\n")
        });
        assert!(reloads > 10);
    });
    let served = served.load(SeqCst);
    assert!(served > usize::from(CLIENTS), "{served} were served");
    assert!(workers.iter().all(|worker| !worker.gone()), "no worker died: {}", pen.said());
}

#[test]
fn many_reloads_cost_neither_descriptors_nor_memory() {
    if !crate::harness::needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    let pen = builder
        .server(&server)
        .options(["-l", log.to_str().unwrap()])
        .file("blacklist 1\n")
        .control()
        .start();
    let processes = || {
        let mut all = pen.workers();
        all.push(pen.control_process());
        all
    };
    let figures = || -> Vec<(usize, u64)> {
        let figure = |process: &Process| (process.descriptors().len(), process.resident());
        std::iter::once(figure(pen.supervisor())).chain(processes().iter().map(figure)).collect()
    };
    let reloads = |range: std::ops::Range<u32>| {
        for n in range {
            let entries: String =
                (0..50).map(|k| format!("acl 3 deny 10.0.{k}.{}\n", n % 256)).collect();
            edit(&pen, &format!("blacklist {n}\n{entries}"));
            reload(&pen, "blacklist", &n.to_string());
        }
    };
    reloads(1000..1100);
    let before = figures();
    let pids: Vec<i32> = processes().iter().map(Process::pid).collect();
    reloads(2000..2900);
    eventually("nothing of a reload is left", || {
        figures().iter().zip(&before).all(|(now, before)| now.0 <= before.0)
    });
    for (now, before) in figures().iter().zip(&before) {
        assert!(
            now.1 <= before.1 + 1024,
            "memory grows: {before:?} before, {now:?} after 900 reloads (KiB)"
        );
    }
    assert_eq!(processes().iter().map(Process::pid).collect::<Vec<i32>>(), pids);
}

/// A client that knows both addresses of a moving listener: it tries one and, if refused there, the
/// other.
fn at_either(old: SocketAddr, new: SocketAddr, from: Ipv4Addr) -> Option<String> {
    let at = |address| {
        let client = Client::connect(from.into(), address).ok()?;
        client.line()
    };
    at(old).or_else(|| at(new))
}

#[test]
fn a_listener_that_moves_turns_nobody_away() {
    let server = Backend::named("a");
    let (first, second) = (Port::reserve(), Port::reserve());
    let place = |port: &Port| port.address();
    let pen = Pen::builder()
        .server(&server)
        .options(["-x", "1000"])
        .file(&format!("listen {}\n", place(&first)))
        .control()
        .start();
    let (held, _) = hold(place(&first), client(1).into()).unwrap();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _ends = SetOnDrop(&over);
        for n in 0..8 {
            let (over, served, first, second) = (&over, &served, place(&first), place(&second));
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(SeqCst) {
                        break;
                    }
                    // The new address changes all the time; a client that is refused at one address
                    // is served at the other.
                    let (old, new) = if round % 2 == 0 { (first, second) } else { (second, first) };
                    let name = at_either(old, new, client(10 + n))
                        .or_else(|| at_either(old, new, client(10 + n)));
                    assert!(name.is_some(), "a client was turned away at both");
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        for round in 0..10 {
            let to = if round % 2 == 0 { place(&second) } else { place(&first) };
            let before = served.load(SeqCst);
            if round < 5 {
                edit(&pen, &format!("listen {to}\n"));
                reload(&pen, "listen", &to.to_string());
            } else {
                pen.tells(&format!("listen {to}"), &to.to_string());
            }
            eventually("clients go on", || served.load(SeqCst) > before + 20);
        }
    });
    held.echoes("still here");
    // The last of them moved to the first address.
    assert_eq!(ask(place(&first), client(2).into()).as_deref(), Some("a"));
    assert!(Client::connect(client(2).into(), place(&second)).is_err());
    // A listen address that has not changed, and one that cannot be bound.
    edit(&pen, &format!("listen {}\nblacklist 7\n", place(&first)));
    reload(&pen, "blacklist", "7");
    edit(&pen, &format!("listen {}\nblacklist 8\n", server.operand()));
    pen.supervisor().signal(Signal::HUP);
    pen.hears("in use");
    pen.tells("blacklist", "7");
    assert_eq!(ask(place(&first), client(2).into()).as_deref(), Some("a"));
}

#[test]
fn a_worker_that_dies_in_the_middle_of_a_reload_changes_nothing() {
    let farm = Backend::farm(["a", "b"]);
    let pen =
        Pen::builder().servers(&farm).options(["--prio"]).file("blacklist 1\n").control().start();
    let (steady, _) = pen.hold(client(1)).unwrap();
    drop(steady);
    for round in 2..14u32 {
        let first = round % 2;
        edit(
            &pen,
            &format!("blacklist {round}\nserver {first} prio 0\nserver {} prio 5\n", 1 - first),
        );
        let workers = pen.workers();
        let victim = &workers[round as usize % workers.len()];
        if round % 3 == 0 {
            // A worker that cannot receive its settings any more.
            victim.stop();
        }
        pen.supervisor().signal(Signal::HUP);
        victim.signal(Signal::KILL);
        eventually("the reload is in force", || pen.tell("blacklist") == format!("{round}\n"));
        eventually("the worker is replaced", || {
            pen.workers().iter().all(|worker| worker.pid() != victim.pid())
        });
        for worker in 0..3 {
            let name =
                pen.only(worker, || pen.ask(Ipv4Addr::new(127, 25, round as u8, worker as u8 + 1)));
            assert_eq!(
                name.as_deref(),
                Some(["a", "b"][first as usize]),
                "worker {worker} in round {round}"
            );
        }
    }
}

#[test]
fn many_hups_at_once_are_as_good_as_one() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).file("blacklist 1\n").control().start();
    for round in 2..50 {
        edit(&pen, &format!("blacklist {round}\n"));
        for _ in 0..20 {
            pen.supervisor().signal(Signal::HUP);
        }
    }
    eventually("the last file is in force", || pen.tell("blacklist") == "49\n");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}
