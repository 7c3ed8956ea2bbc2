//! The page over upgrades, and over restarts with a manager that keeps sockets.

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::machine::is_root;
use crate::harness::reader::Site;
use crate::harness::{Backend, Pen, SetOnDrop, Store, eventually};
use crate::upgrade::Installed;

const ME: Ipv4Addr = Ipv4Addr::new(127, 63, 0, 1);

fn start(site: &Site, server: &Backend) -> Installed {
    Installed::start(Pen::builder().server(server).page(&site.command()))
}

#[test]
fn readers_notice_no_upgrade_and_the_page_process_is_a_new_one() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = start(&site, &server);
    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut before = pen.page_process();
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    // Nobody is refused or cut off. An answer that would take too long is a 503.
                    let health = site.try_get("/health").unwrap();
                    assert!(health.status == 200 || health.status == 503, "{health:?}");
                    asked.fetch_add(1, SeqCst);
                }
            });
        }
        for (from, to) in [(env!("CARGO_PKG_VERSION"), "8.0.0"), ("8.0.0", "9.0.0")] {
            pen.install(to);
            pen.goes_on_as(from, to);
            eventually("the page process before has ended", || before.gone());
            before = pen.page_process();
            let served = asked.load(SeqCst);
            eventually("readers are served", || asked.load(SeqCst) > served + 10);
        }
        drop(ends);
    });
    assert_eq!(site.status()["version"], "9.0.0");
    assert_eq!(site.get("/health").body, "ok\n");
    assert!(pen.ask(ME).is_some());
}

#[test]
fn a_response_under_way_is_finished_and_event_readers_come_again() {
    let directory = tempfile::tempdir().unwrap();
    // The kernel's buffers of such a socket have a fixed size, and the response is far longer.
    let (site, server) = (Site::Unix(directory.path().join("page")), Backend::named("a"));
    let many = format!("server 4000 address 127.0.0.1 port {}", server.address().port());
    let builder = Pen::builder().server(&server).options(["-S", "4001"]).page(&site.command());
    let pen = Installed::start(builder.options(["-O", &many]));
    let page = pen.page_process();
    let mut slow = site.connect().unwrap();
    slow.ask("/status.json").unwrap();
    let head = slow.head().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let length: usize = length.parse().unwrap();
    assert!(length > 1 << 20, "{length}");
    let mut events = site.connect().unwrap();
    events.ask("/events").unwrap();
    events.until("retry: 1000\n\n").unwrap();
    let mut idle = site.connect().unwrap();
    idle.ask("/health").unwrap();
    assert_eq!(idle.answer().unwrap().status, 200);
    pen.upgrade("9.0.0");
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(idle.head().is_err(), "it is closed");
    let mut body = vec![0; length];
    slow.read_exact(&mut body).unwrap();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    drop(slow);
    eventually("the page process before has ended", || page.gone());
    let mut again = site.connect().unwrap();
    again.send("GET /events HTTP/1.1\r\nHost: pen\r\nLast-Event-ID: 0\r\n\r\n").unwrap();
    again.until("event: upgraded\n").unwrap();
}

#[test]
fn a_failed_upgrade_leaves_the_page_process_alone() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = start(&site, &server);
    let page = pen.page_process();
    let mut kept = site.connect().unwrap();
    kept.ask("/health").unwrap();
    assert_eq!(kept.answer().unwrap().status, 200);
    for fault in ["rehearsal exits", "adoption panics", "worker never-ready", "worker dies"] {
        pen.install(&format!("9.0.0 {fault}"));
        pen.fails_to_upgrade();
        assert!(!page.gone(), "{fault}");
        kept.ask("/status.json").unwrap();
        let status: Value = serde_json::from_str(&kept.answer().unwrap().body).unwrap();
        assert_eq!(status["pid"], pen.supervisor().pid(), "{fault}");
        assert_eq!(site.get("/health").status, 200, "{fault}");
    }
    pen.upgrade("9.0.0");
    eventually("the page process before has ended", || page.gone());
    assert_eq!(site.status()["version"], "9.0.0");
}

#[test]
fn the_socket_stays_over_an_upgrade_and_goes_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("page.sock");
    let site = Site::Unix(path.clone());
    let server = Backend::named("a");
    let mut pen = Installed::start(Pen::builder().server(&server).page(&site.command()));
    let before = fs::metadata(&path).unwrap().ino();
    pen.upgrade("9.0.0");
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    assert_eq!(site.status()["version"], "9.0.0");
    pen.end_by(Signal::TERM);
    assert!(!path.exists());
}

#[test]
fn a_manager_keeps_the_port_of_the_page() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(65534), None).ok();
    let path = directory.path().join("page.sock");
    let server = Backend::named("a");
    let user: &[&str] = if is_root() { &["-u", "nobody"] } else { &[] };
    let other = directory.path().join("other.sock");
    for (site, moved) in [(Site::reserve(), Site::reserve()), (Site::Unix(path), Site::Unix(other))]
    {
        let store = Store::new(16);
        let port = crate::harness::Port::reserve();
        let start = |site: Option<&Site>| {
            let builder = Pen::builder().workers(2).listen(port.address().to_string());
            let command = site.map(Site::command);
            let builder = builder.options(command.iter().flat_map(|page| ["-O", page]));
            store.passes_to(builder).options(user).server(&server).start()
        };
        let mut pen = start(Some(&site));
        for dies in [true, false] {
            store.awaits(&["pen-listener", "pen-page", "pen-state", "pen-table"]);
            if dies {
                let children = pen.supervisor().children();
                pen.kill_supervisor();
                eventually("no child is left", || children.iter().all(|child| child.gone()));
            } else {
                pen.end_by(Signal::TERM);
            }
            let mut early = site.connect().expect("the queue is open");
            early.ask("/health").unwrap();
            pen = start(Some(&site));
            assert_eq!(early.answer().unwrap().body, "ok\n");
        }
        // What the administrator changed is told, and is nothing to be warned of.
        for (before, now) in [(&site, Some(&moved)), (&moved, None)] {
            pen.end_by(Signal::TERM);
            pen = start(now);
            let place = before.command().replace("page ", "page at ");
            pen.hears(&format!("this start does not ask for it: {place}\n"));
            assert!(!pen.said().contains("not used"), "{}", pen.said());
            assert!(before.connect().is_err());
            assert_eq!(now.map(|now| now.get("/health").status), now.map(|_| 200));
            match now {
                Some(_) => store.awaits(&["pen-listener", "pen-page", "pen-state", "pen-table"]),
                None => store.awaits(&["pen-listener", "pen-state", "pen-table"]),
            }
        }
        pen.end_by(Signal::TERM);
        pen = start(None);
        assert!(!pen.said().contains("does not ask for it"), "it is told once: {}", pen.said());
        pen.end_by(Signal::TERM);
    }
}
