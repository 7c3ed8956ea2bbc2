//! pen under a service manager, which the tests play: its notifications (sd_notify(3)), and the
//! sockets that it passes (sd_listen_fds(3)).

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use crate::harness::manager::{NAMED, value};
use crate::harness::reader::Site;
use crate::harness::{
    Backend, Builder, Client, Manager, PATIENCE, Pen, Port, eventually, needs_root,
};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

const ME: Ipv4Addr = Ipv4Addr::new(127, 31, 0, 1);

/// A pen that a service manager started.
fn managed(manager: &Manager) -> Builder {
    Pen::builder().workers(2).env("NOTIFY_SOCKET", manager.name())
}

/// A pen to which these sockets were passed.
fn activated(sockets: usize) -> Builder {
    Pen::builder()
        .workers(2)
        .through(NAMED)
        .env("NAME_ME", "LISTEN_PID")
        .env("LISTEN_FDS", sockets.to_string())
}

fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

#[test]
fn ready_is_said_when_all_is_ready_by_the_supervisor_that_stays() {
    let server = Backend::named("a");
    for (manager, background) in [
        (Manager::at_path(), false),
        (Manager::abstract_named("ready"), false),
        (Manager::at_path(), true),
    ] {
        let builder = managed(&manager).server(&server);
        let address = builder.address();
        let mut pen = if background { builder.background() } else { builder }.start();
        let (before, ready) = manager.hears("READY=1");
        assert!(before.is_empty(), "nothing before it: {before:?}");
        assert_eq!(value(&ready, "MAINPID"), pen.supervisor().pid().to_string());
        assert!(value(&ready, "STATUS").starts_with("2 workers, 0 connections"), "{ready:?}");
        assert_eq!(crate::harness::ask(address, ME.into()).as_deref(), Some("a"));
        pen.end_by(Signal::TERM);
        let (_, stopping) = manager.hears("STOPPING=1");
        assert!(value(&stopping, "STATUS").contains("SIGTERM"), "{stopping:?}");
    }
}

#[test]
fn a_reload_begins_and_ends_and_says_what_came_of_it() {
    let manager = Manager::at_path();
    let server = Backend::named("a");
    let pen = managed(&manager).server(&server).file("blacklist 1\n").start();
    manager.hears("READY=1");
    for (text, used) in [("blacklist 2\n", true), ("nonsense\n", false), ("blacklist 3\n", true)] {
        fs::write(pen.directory().join("pen.cfg"), text).unwrap();
        let before = monotonic_usec();
        pen.supervisor().signal(Signal::HUP);
        let (_, reloading) = manager.hears("RELOADING=1");
        let said: u64 = value(&reloading, "MONOTONIC_USEC").parse().unwrap();
        assert!((before..=monotonic_usec()).contains(&said), "the time when the reload began");
        let (_, ready) = manager.hears("READY=1");
        assert_eq!(value(&ready, "STATUS").contains("was not used"), !used, "{text:?}: {ready:?}");
    }
}

#[test]
fn a_reload_without_a_file_ends_too_and_many_at_once_end_ready() {
    let manager = Manager::at_path();
    let server = Backend::named("a");
    let mut pen = managed(&manager).server(&server).start();
    manager.hears("READY=1");
    pen.supervisor().signal(Signal::HUP);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
    // The messages are read all the time, because a socket holds few.
    let before = std::thread::scope(|scope| {
        let all = scope.spawn(|| manager.hears("STOPPING=1").0);
        for _ in 0..50 {
            pen.supervisor().signal(Signal::HUP);
        }
        pen.report();
        pen.end_by(Signal::TERM);
        all.join().unwrap()
    });
    let states: Vec<&String> =
        before.iter().flatten().filter(|line| line.ends_with("=1")).collect();
    assert_eq!(states.last().map(|state| state.as_str()), Some("READY=1"), "{states:?}");
}

#[test]
fn the_status_follows_what_happens() {
    let manager = Manager::at_path();
    let server = Backend::named("a");
    let pen = managed(&manager).server(&server).start();
    manager.hears("READY=1");
    let held = pen.hold(ME).unwrap();
    manager.hears("STATUS=2 workers, 1 connections, 1 clients accepted");
    drop(held);
    manager.hears("STATUS=2 workers, 0 connections, 1 clients accepted");
}

#[test]
fn the_watchdog_is_fed_by_the_loop_that_serves_and_not_when_that_stands_still() {
    let server = Backend::named("a");
    let (manager, other) = (Manager::at_path(), Manager::at_path());
    let fed = |manager: &Manager| {
        let builder = managed(manager)
            .env("WATCHDOG_USEC", "200000")
            .through(NAMED)
            .env("NAME_ME", "WATCHDOG_PID");
        builder.server(&server).start()
    };
    let (pen, _clock) = (fed(&manager), fed(&other));
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    pen.supervisor().stop();
    manager.drain();
    // The messages to the other socket measure the time.
    other.drain();
    for _ in 0..5 {
        other.hears("WATCHDOG=1");
    }
    assert_eq!(manager.drain(), 0);
    pen.supervisor().resume();
    manager.hears("WATCHDOG=1");
    drop(manager);
    // It does not matter if the manager is gone.
    other.drain();
    for _ in 0..5 {
        other.hears("WATCHDOG=1");
    }
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let server = Backend::named("a");
    let manager = Manager::at_path();
    let pen = managed(&manager)
        .env("WATCHDOG_USEC", "20000")
        .env("WATCHDOG_PID", "1")
        .server(&server)
        .start();
    manager.hears("READY=1");
    let _held = pen.hold(ME).unwrap();
    // A few seconds later.
    let (before, _) = manager.hears("STATUS=2 workers, 1 connections, 1 clients accepted");
    assert!(before.is_empty(), "{before:?}");
}

#[test]
fn a_manager_that_reads_nothing_delays_nothing() {
    let server = Backend::named("a");
    let manager = Manager::at_path();
    let mut pen = managed(&manager)
        .env("WATCHDOG_USEC", "2000")
        .server(&server)
        .file("blacklist 1\n")
        .control()
        .start();
    for round in 2..40 {
        fs::write(pen.directory().join("pen.cfg"), format!("blacklist {round}\n")).unwrap();
        pen.supervisor().signal(Signal::HUP);
        eventually("the file is in force", || pen.tell("blacklist") == format!("{round}\n"));
        assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    }
    pen.end_by(Signal::TERM);
}

#[test]
fn a_failed_start_is_the_status() {
    let taken = Backend::named("a");
    for background in [false, true] {
        let manager = Manager::at_path();
        let builder = managed(&manager).listen(taken.operand()).server(&taken);
        let builder = if background { builder.background() } else { builder };
        builder.fails();
        let message = manager.next();
        assert!(value(&message, "STATUS").contains("cannot listen on"), "{message:?}");
    }
}

#[test]
fn a_notification_socket_of_an_unknown_kind_is_said_and_no_more() {
    let server = Backend::named("a");
    let pen = Pen::builder().env("NOTIFY_SOCKET", "vsock:2:1234").server(&server).start();
    pen.hears("NOTIFY_SOCKET=vsock:2:1234");
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn a_passed_socket_is_used_and_outlives_pen() {
    let server = Backend::named("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for background in [false, true, false] {
        // A client that connected while no pen ran is served by the next pen.
        let early = TcpStream::connect(address).unwrap();
        early.set_read_timeout(Some(PATIENCE)).unwrap();
        let builder = activated(1)
            .socket(listener.try_clone().unwrap())
            .listen(address.to_string())
            .server(&server);
        let mut pen = if background { builder.background() } else { builder }.start();
        early.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        (&early).read_to_string(&mut said).unwrap();
        assert_eq!(said, "a\n");
        for worker in 0..2 {
            assert_eq!(
                pen.only(worker, || crate::harness::ask(address, ME.into())).as_deref(),
                Some("a")
            );
        }
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn a_passed_socket_is_made_like_one_of_pens_own_and_no_process_holds_it_twice() {
    let server = Backend::named("a");
    let plain = Pen::builder().workers(2).server(&server).start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pen = activated(1)
        .socket(listener.try_clone().unwrap())
        .listen(address.to_string())
        .server(&server)
        .start();
    assert!(rustix::net::sockopt::tcp_nodelay(&listener).unwrap());
    assert!(rustix::net::sockopt::socket_keepalive(&listener).unwrap());
    assert!(rustix::fs::fcntl_getfl(&listener).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    assert_eq!(pen.supervisor().descriptors().len(), plain.supervisor().descriptors().len());
    if needs_root() {
        assert_eq!(pen.workers()[0].descriptors().len(), plain.workers()[0].descriptors().len());
    }
}

#[test]
fn a_socket_for_all_addresses_of_both_families_is_that_of_a_bare_port() {
    let server = Backend::named("a");
    let hold = Port::reserve_on(Ipv6Addr::UNSPECIFIED.into());
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_only_v6(false).unwrap();
    let port = hold.address().port();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
    socket.listen(10).unwrap();
    for operand in [port.to_string(), format!("[::]:{port}")] {
        let _pen = activated(1)
            .socket(socket.try_clone().unwrap())
            .listen(operand)
            .server(&server)
            .start();
        assert_eq!(
            crate::harness::ask(SocketAddr::from(([127, 0, 0, 1], port)), ME.into()).as_deref(),
            Some("a")
        );
    }
}

#[test]
fn the_file_of_a_passed_unix_socket_stays() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("front");
    let listener = UnixListener::bind(&path).unwrap();
    let there = fs::metadata(&path).unwrap().ino();
    for signal in [Signal::TERM, Signal::INT] {
        let mut pen = activated(1)
            .socket(listener.try_clone().unwrap())
            .listen(&path)
            .server(&server)
            .start();
        assert_eq!(Client::connect_unix(&path).unwrap().line().as_deref(), Some("a"));
        pen.end_by(signal);
        assert_eq!(fs::metadata(&path).unwrap().ino(), there);
    }
}

#[test]
fn the_control_port_can_be_passed_too_in_any_order() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("control");
    let control = UnixListener::bind(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (mode, control_first) in [(0o666, false), (0o600, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let builder = activated(2)
            .env("LISTEN_FDNAMES", "one:two")
            .listen(address.to_string())
            .server(&server);
        let (control, listener) = (control.try_clone().unwrap(), listener.try_clone().unwrap());
        let builder = match control_first {
            true => builder.socket(control).socket(listener),
            false => builder.socket(listener).socket(control),
        };
        let pen = builder.control_unix(&path).start();
        pen.tells("pid", &pen.supervisor().pid().to_string());
        assert_eq!(crate::harness::ask(address, ME.into()).as_deref(), Some("a"));
        assert_eq!(
            pen.said().contains("everybody on this machine can steer pen"),
            mode == 0o666,
            "{}",
            pen.said()
        );
    }
    assert!(path.exists());
}

#[test]
fn the_port_of_the_page_can_be_passed_too() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("page");
    let page = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::Unix(path.clone());
    let start = || {
        let (page, listener) = (page.try_clone().unwrap(), listener.try_clone().unwrap());
        let builder = activated(2).listen(listener.local_addr().unwrap().to_string());
        builder.socket(page).socket(listener).server(&server)
    };
    let mut pen = start().page(&site.command()).start();
    assert_eq!(site.get("/health").body, "ok\n");
    // Whoever reads the page steers nothing.
    assert!(!pen.said().contains("everybody"), "{}", pen.said());
    pen.end_by(Signal::TERM);
    assert!(path.exists());
    let said = String::from_utf8(start().fails().stderr).unwrap();
    assert!(said.contains("nor its control port nor its page"), "{said}");
}

#[test]
fn a_pen_moves_away_from_a_passed_socket_and_back() {
    let server = Backend::named("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = listener.local_addr().unwrap();
    let other = Port::reserve();
    let second = other.address();
    let pen =
        activated(1).socket(listener).listen(first.to_string()).server(&server).control().start();
    for address in [second, first, second] {
        pen.tells(&format!("listen {address}"), &address.to_string());
        for worker in 0..2 {
            assert_eq!(
                pen.only(worker, || crate::harness::ask(address, ME.into())).as_deref(),
                Some("a")
            );
        }
    }
}

#[test]
fn a_socket_that_is_for_nothing_stops_the_start() {
    let server = Backend::named("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (passed, port) = (listener.local_addr().unwrap(), Port::reserve());
    for background in [false, true] {
        let builder =
            activated(1).env("LISTEN_FDNAMES", "web").socket(listener.try_clone().unwrap());
        let builder = builder.listen(port.address().to_string()).server(&server);
        let said = if background { builder.background() } else { builder }.fails().stderr;
        let said = String::from_utf8(said).unwrap();
        for part in [passed.to_string(), port.address().to_string(), "name web".into()] {
            assert!(said.contains(&part), "{part} in {said}");
        }
    }
    let said = activated(1)
        .socket(std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .server(&server)
        .fails()
        .stderr;
    assert!(String::from_utf8(said).unwrap().contains("ListenStream="));
    let said =
        activated(2).socket(listener).listen(passed.to_string()).server(&server).fails().stderr;
    assert!(String::from_utf8(said).unwrap().contains("LISTEN_FDS=2"));
    let said = activated(101).server(&server).fails().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("LISTEN_FDS: not a number up to 100") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn sockets_that_are_for_another_process_are_none() {
    let server = Backend::named("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = Pen::builder()
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1")
        .socket(listener)
        .server(&server);
    let pen = builder.start();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn a_check_takes_no_socket_and_tells_nobody() {
    let manager = Manager::at_path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Backend::named("a");
    let builder = activated(1)
        .env("NOTIFY_SOCKET", manager.name())
        .socket(listener)
        .options(["--check"])
        .server(&server);
    let output = builder.runs();
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"ok\n".to_vec()));
    let pen = managed(&manager).server(&server).start();
    assert!(manager.next().contains(&"READY=1".to_string()), "nobody said anything before");
    drop(pen);
}

#[test]
fn the_journal_gets_a_priority_for_each_line_and_no_time() {
    const JOURNAL: [&str; 3] = [
        "sh",
        "-c",
        "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec \"$0\" \"$@\"",
    ];
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder()
        .through(JOURNAL)
        .options(["-dd"])
        .without_status_file()
        .servers(&farm)
        .start();
    for _ in 0..3 {
        assert!(pen.ask(ME).is_some());
    }
    let _ = pen.ask(Ipv4Addr::new(127, 31, 0, 2));
    pen.hears("<4>blacklisting server 1");
    pen.supervisor().signal(Signal::USR1);
    pen.hears("<7>Active connections:");
    let said = pen.said();
    assert!(
        said.lines()
            .filter(|line| !line.is_empty())
            .all(|line| line.starts_with("<7>") || line.starts_with("<4>")),
        "{said}"
    );
    let failed =
        Pen::builder().through(JOURNAL).options(["-x", "nonsense"]).server(&farm[0]).runs();
    assert!(failed.stderr.starts_with(b"<3>"), "{failed:?}");
    // Standard error that was redirected since is not the journal.
    let pen = Pen::builder().env("JOURNAL_STREAM", "1:2").options(["-d"]).server(&farm[0]).start();
    pen.hears("is ready");
    assert!(!pen.said().contains('<'), "{}", pen.said());
}
