//! Hanging workers: pen notices, kills and replaces them, and the others serve meanwhile.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::harness::machine::Share;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Manager, PATIENCE, Pen, Process, SetOnDrop, eventually, needs_root};
use rustix::process::Signal;

/// A client of this file's own.
fn client(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 32, (n >> 8) as u8, n as u8)
}

/// A pen whose heartbeats can be counted: it reports each one to a service manager.
fn counted(manager: &Manager) -> crate::harness::Builder {
    Pen::builder().env("NOTIFY_SOCKET", manager.name()).env("WATCHDOG_USEC", "2000000")
}

/// Waits for this many rounds of the supervisor, one per second of its own time.
fn seconds(manager: &Manager, count: usize) {
    manager.drain();
    (0..count).for_each(|_| drop(manager.hears("WATCHDOG=1")));
}

/// The one line about the end of a process.
fn obituary(pen: &Pen, process: &Process) -> String {
    let name = format!("(pid {})", process.pid());
    pen.hears(&name);
    pen.said().lines().find(|line| line.contains(&name)).unwrap().to_string()
}

#[test]
fn a_stopped_worker_is_replaced_and_the_others_serve_meanwhile() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().servers(&farm).start();
    let home = pen.ask(client(1)).unwrap();
    let workers = pen.workers();
    let (held, _) = pen.only(1, || pen.hold(client(2)).unwrap());
    let (of_hung, _) = pen.only(0, || pen.hold(client(3)).unwrap());
    workers[0].stop();
    let mut served = 0;
    eventually("it is replaced", || {
        assert!(pen.ask(client(10 + served % 200)).is_some());
        held.echoes("not delayed");
        served += 1;
        workers[0].gone()
    });
    assert!(served > 20, "the others served {served}");
    let line = obituary(&pen, &workers[0]);
    assert!(
        line.contains("worker 0") && line.contains("it hung") && line.ends_with("; replaced"),
        "{line}"
    );
    assert!(
        of_hung.read(1).map_or(true, |bytes| bytes.is_empty()),
        "its clients know that it is gone"
    );
    drop((held, of_hung));
    pen.settle();
    for worker in 0..3 {
        assert_eq!(
            pen.only(worker, || pen.ask(client(1))).as_ref(),
            Some(&home),
            "clients are where they were"
        );
    }
    assert!(workers[1..].iter().all(|worker| !worker.gone()));
}

#[test]
fn all_workers_may_hang_at_once() {
    let farm = Backend::farm(["a"]);
    let mut pen = Pen::builder().servers(&farm).start();
    let workers = pen.workers();
    workers.iter().for_each(Process::stop);
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"), "served by a replacement");
    eventually("all are replaced", || workers.iter().all(Process::gone));
    pen.end_by(Signal::TERM);
}

#[test]
fn a_control_process_that_hangs_is_replaced() {
    if !needs_root() {
        return;
    }
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().control().servers(&farm).start();
    let (workers, control) = (pen.workers(), pen.control_process());
    control.stop();
    // The first attempts may reach the stopped control process; its replacement answers.
    eventually("operators are served", || {
        pen.control().try_tell("pid").is_ok_and(|reply| !reply.is_empty())
    });
    assert!(obituary(&pen, &control).contains("it hung"));
    assert!(workers.iter().all(|worker| !worker.gone()), "the workers are left alone");
}

#[test]
fn operators_who_keep_the_supervisor_busy_are_no_reason_to_kill_the_control_process() {
    if !needs_root() {
        return;
    }
    let manager = Manager::at_path();
    let farm = Backend::farm(["a"]);
    let pen = counted(&manager).control().options(["-c", "200000"]).servers(&farm).start();
    let control = pen.control_process();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for n in 0..12 {
            let (pen, over) = (&pen, &over);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let _ = pen.control().try_tell(["status", "recent", "servers"][n % 3]);
                }
            });
        }
        seconds(&manager, 8);
        drop(ends);
    });
    assert!(!control.gone(), "{}", pen.said());
    pen.tells("pid", &pen.supervisor().pid().to_string());
}

#[test]
fn workers_that_are_busy_are_left_alone() {
    let manager = Manager::at_path();
    let farm = [Backend::with(|mut connection| {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match connection.read(&mut buffer)? {
                0 => return Ok(()),
                length => connection.write_all(&buffer[..length])?,
            }
        }
    })];
    let pen = counted(&manager).workers(2).options(["-x", "1000", "-ddd"]).servers(&farm).start();
    let workers = pen.workers();
    let (over, passed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for n in 0..6 {
            let (pen, over, passed) = (&pen, &over, &passed);
            scope.spawn(move || {
                let block = vec![b'x'; 1 << 16];
                while !over.load(SeqCst) {
                    let client = pen.connect(client(n));
                    for _ in 0..if n % 2 == 0 { 50 } else { 1 } {
                        client.send(&block);
                        client.read(block.len()).unwrap();
                        passed.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        seconds(&manager, 7);
        drop(ends);
    });
    assert!(passed.load(SeqCst) > 0);
    assert!(workers.iter().all(|worker| !worker.gone()), "{}", pen.said());
}

#[test]
fn a_herd_of_handshakes_is_no_reason_to_kill_a_worker() {
    let server = Backend::named("a");
    let (root, builder) =
        (Authority::root("root"), Pen::builder().workers(1).options(["-x", "400"]));
    let identity = root.issue_slow(&["localhost"]);
    let certificate =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.key, identity.chain));
    let pen = builder.options([OsStr::new("-E"), certificate.as_os_str()]).server(&server).start();
    let worker = &pen.workers()[0];
    let mut clients: Vec<_> =
        (0..300).map(|_| TcpStream::connect(pen.address()).unwrap()).collect();
    eventually("all are accepted", || pen.report().connections.len() == clients.len());
    // All send at once, and each handshake takes 20 ms.
    let mut client = root.client();
    worker.stop();
    clients.iter_mut().for_each(|socket| socket.write_all(&client.hello("localhost")).unwrap());
    worker.resume();
    for socket in &mut clients {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(socket.read(&mut [0]).ok(), Some(1), "everybody is answered: {}", pen.said());
    }
    drop(clients);
    assert!(client.ask(pen.address(), "localhost").is_some());
    assert!(!worker.gone());
}

#[test]
fn after_a_pause_of_everybody_nobody_is_judged_by_it() {
    let (manager, other) = (Manager::at_path(), Manager::at_path());
    let farm = Backend::farm(["a"]);
    let pen = counted(&manager).servers(&farm).start();
    let _clock = counted(&other).servers(&farm).start();
    let workers = pen.workers();
    // As when a container is frozen: the clock continues.
    pen.supervisor().stop();
    workers.iter().for_each(Process::stop);
    seconds(&other, 7);
    pen.supervisor().resume();
    seconds(&manager, 1);
    workers.iter().for_each(Process::resume);
    seconds(&manager, 6);
    assert!(workers.iter().all(|worker| !worker.gone()), "{}", pen.said());
    // Workers that do not come back are still noticed.
    workers[1].stop();
    eventually("it is replaced", || workers[1].gone());
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
}

#[test]
fn wherever_a_worker_is_stopped_the_others_serve_on() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-x", "500"]).servers(&farm).start();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut caught = 0;
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for n in 0..6 {
            let (pen, over, served) = (&pen, &over, &served);
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(SeqCst) {
                        return;
                    }
                    // A client of the stopped worker waits until the worker is killed, and no
                    // longer.
                    let client = pen.connect(client(100 + n * 40 + round % 40));
                    if client.line().is_some() {
                        served.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        for n in 0..60 {
            let workers = pen.workers();
            let stuck = pen.said().matches("the client table is locked").count();
            let victim = &workers[n % workers.len()];
            victim.stop();
            // The stopped worker's clients may block all threads except this one.
            for k in 0..5 {
                assert!(pen.ask(client(1000 + n * 5 + k)).is_some());
            }
            caught += usize::from(pen.said().matches("the client table is locked").count() > stuck);
            victim.resume();
            let before = served.load(SeqCst);
            eventually("clients are served", || served.load(SeqCst) >= before + 10);
        }
        drop(ends);
    });
    eprintln!("{caught} of 60 had the table's lock");
    assert!(!pen.said().contains("it hung"), "{}", pen.said());
}

/// `count` workers do handshakes for `beats` heartbeats, with a tenth of one processor for all of
/// them and their supervisor.
fn starve(test: &str, count: u32, beats: usize) {
    let Some(share) = Share::of_processor(10, test) else { return };
    let manager = Manager::at_path();
    let server = Backend::named("a");
    let (root, builder) =
        (Authority::root("root"), counted(&manager).workers(count).through(share.wrapper()));
    let identity = root.issue(&["localhost"]);
    let certificate =
        write(builder.directory(), "cert.pem", format!("{}{}", identity.key, identity.chain));
    let pen = builder.options([OsStr::new("-E"), certificate.as_os_str()]).server(&server).start();
    let workers = pen.workers();
    let hello = root.client().hello("localhost");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for _ in 0..96 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    // Each hello costs the worker a signature; the answer is not read.
                    let Ok(mut socket) = TcpStream::connect(pen.address()) else { continue };
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = socket.write_all(&hello).and_then(|()| socket.read(&mut [0]));
                }
            });
        }
        seconds(&manager, beats);
        drop(ends);
        let said = pen.said();
        assert!(!said.contains("worker ") && workers.iter().all(|worker| !worker.gone()), "{said}");
    });
}

#[test]
fn sixteen_workers_with_a_tenth_of_a_processor_are_left_alone() {
    starve("sixteen_workers_with_a_tenth_of_a_processor_are_left_alone", 16, 16);
}

#[test]
fn sixty_four_workers_with_a_tenth_of_a_processor_are_left_alone() {
    starve("sixty_four_workers_with_a_tenth_of_a_processor_are_left_alone", 64, 12);
}
