//! A syslog daemon that starts late, disappears, and does not read. The test is the daemon, in its
//! own /dev.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::harness::{Backend, Builder, PATIENCE, Pen, eventually, machine, needs_root};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 34, 0, 1);

/// A pen in the background with its own /dev, and the path of the daemon's socket in it.
fn logging() -> (Builder, PathBuf) {
    // -u root, because the warnings of a start do not matter here.
    let builder = Pen::builder().workers(2).background().options(["-u", "root"]);
    let dev = machine::directory(builder.directory(), "dev", 0o755, 0);
    let script = "set -e; for n in null zero random urandom; do touch $DEV/$n; mount --bind \
        /dev/$n $DEV/$n; done; \
                  mount --bind $DEV /dev; exec \"$0\" \"$@\"";
    let builder = builder.env("DEV", &dev).through(["unshare", "--mount", "sh", "-c", script]);
    (builder, dev.join("log"))
}

fn daemon(path: &Path) -> UnixDatagram {
    let daemon = UnixDatagram::bind(path).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon
}

/// Reads until a message contains `text`, and returns all messages.
#[track_caller]
fn hears(daemon: &UnixDatagram, text: &str) -> Vec<String> {
    let mut heard: Vec<String> = Vec::new();
    while !heard.last().is_some_and(|last| last.contains(text)) {
        let mut buffer = [0; 8192];
        let length = daemon
            .recv(&mut buffer)
            .unwrap_or_else(|why| panic!("no {text:?} but {heard:?}: {why}"));
        heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    heard
}

/// Kills a worker, which causes a warning.
fn kill_a_worker(pen: &Pen) -> String {
    let victim = pen.workers().remove(0);
    victim.kill();
    eventually("it is replaced", || {
        pen.workers().iter().all(|worker| worker.pid() != victim.pid())
    });
    format!("(pid {})", victim.pid())
}

#[test]
fn a_daemon_that_appears_late_or_is_restarted_hears_pen_and_is_told_what_it_missed() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let server = Backend::named("a");
    let pen = builder.server(&server).start();
    let unheard = kill_a_worker(&pen);
    for _ in 0..2 {
        let here = daemon(&path);
        let heard = hears(&here, &kill_a_worker(&pen));
        assert!(heard.iter().any(|line| line.ends_with("pen: 1 message was lost")), "{heard:?}");
        assert!(
            heard.iter().all(|line| line.starts_with("<12>") && !line.contains(&unheard)),
            "{heard:?}"
        );
        let heard = hears(&here, &kill_a_worker(&pen));
        assert!(!heard.iter().any(|line| line.ends_with(" lost")), "once: {heard:?}");
        drop(here);
        fs::remove_file(&path).unwrap();
        kill_a_worker(&pen);
    }
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn debug_output_of_workers_finds_a_new_daemon_too() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    let jail = jail.to_str().unwrap();
    let server = Backend::named("a");
    let pen = builder.options(["-dd", "-j", jail, "-u", "nobody"]).server(&server).start();
    for _ in 0..2 {
        assert_eq!(pen.ask(ME).as_deref(), Some("a"));
        let here = daemon(&path);
        here.set_nonblocking(true).unwrap();
        let mut heard = false;
        // A dump is a line of the worker itself. The worker asks for a daemon when it has a line.
        eventually("a worker's line", || {
            assert_eq!(pen.ask(ME).as_deref(), Some("a"));
            let mut buffer = [0; 8192];
            while let Ok(length) = here.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                heard |= line.starts_with("<15>") && line.contains("2: 61 0a");
            }
            heard
        });
        drop(here);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_daemon_that_does_not_read_holds_up_nobody_and_is_told_how_much_it_missed() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let here = daemon(&path);
    let server = Backend::named("a");
    let mut pen = builder.file("blacklist 1\n").control().server(&server).start();
    fs::write(pen.directory().join("pen.cfg"), "nonsense\n").unwrap();
    // More messages than any queue holds: a bad file causes two.
    let longest: usize =
        fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
    for round in 0..longest {
        pen.supervisor().signal(Signal::HUP);
        pen.tells("blacklist", "1");
        if round % 10 == 0 {
            assert_eq!(pen.ask(ME).as_deref(), Some("a"));
        }
    }
    // The queue is emptied again and again. So it finally has room for one of these deaths and its
    // messages.
    here.set_nonblocking(true).unwrap();
    let mut heard: Vec<String> = Vec::new();
    eventually("what was lost is told, and what comes then", || {
        kill_a_worker(&pen);
        let mut buffer = [0; 8192];
        while let Ok(length) = here.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        let lost = heard.iter().position(|line| line.contains(" messages were lost"));
        lost.is_some_and(|lost| {
            heard[lost..].iter().any(|line| line.contains(" was killed by signal 9"))
        })
    });
    pen.end_by(Signal::TERM);
}

#[test]
fn a_report_goes_to_the_daemon() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let here = daemon(&path);
    let server = Backend::named("a");
    let pen = builder.without_status_file().server(&server).start();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    for _ in 0..2 {
        pen.supervisor().signal(Signal::USR1);
        let heard = hears(&here, "Active connections:");
        assert!(heard.iter().all(|line| line.starts_with("<15>")), "{heard:?}");
        assert!(
            heard
                .iter()
                .any(|line| line.contains("Time ") && line.ends_with("1 servers, 0 current")),
            "{heard:?}"
        );
        assert!(heard.iter().any(|line| line.contains(&format!("address {ME}\n"))), "{heard:?}");
    }
}

#[test]
fn a_report_that_the_daemon_did_not_take_to_the_end_is_said_to_be_lost() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let here = daemon(&path);
    let server = Backend::named("a");
    let pen = builder.without_status_file().server(&server).start();
    // Messages of other senders fill the queue.
    let other = UnixDatagram::unbound().unwrap();
    other.connect(&path).unwrap();
    other.set_nonblocking(true).unwrap();
    let filled = (0..).take_while(|_| other.send(b"<13>other").is_ok()).count();
    pen.supervisor().signal(Signal::USR1);
    eventually("a child renders", || pen.supervisor().children().len() == 3);
    eventually("it has given up", || pen.supervisor().children().len() == 2);
    (0..filled).for_each(|_| assert_eq!(here.recv(&mut [0; 100]).unwrap(), b"<13>other".len()));
    // Either there was room for the notice by then, or it is counted and comes with the next
    // message.
    let heard = hears(&here, &kill_a_worker(&pen));
    let said = [
        "pen: the end of the report was lost: it has no reader, or too slow a one",
        "pen: 1 message was lost",
    ];
    assert!(heard.iter().any(|line| said.iter().any(|said| line.ends_with(said))), "{heard:?}");
}

#[test]
fn what_went_well_is_a_notice() {
    if !needs_root() {
        return;
    }
    let (builder, path) = logging();
    let here = daemon(&path);
    let server = Backend::named("a");
    let pen = builder.file("blacklist 1\n").control().server(&server).start();
    pen.tells("timeout 9", "9");
    pen.supervisor().signal(Signal::HUP);
    let heard = hears(&here, "nothing changed");
    let is_one = |line: &&String, text: &str| line.starts_with("<13>") && line.ends_with(text);
    assert!(
        heard.iter().any(|line| is_one(&line, "pen: operator: timeout 9, by 127.0.0.1")),
        "{heard:?}"
    );
    assert!(
        heard.last().is_some_and(|line| is_one(&line, "pen.cfg: nothing changed")),
        "{heard:?}"
    );
}
