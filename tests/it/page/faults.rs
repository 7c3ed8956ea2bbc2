//! Deaths, hostile readers and shortages: the page comes back, and clients and operators do not
//! notice.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use rustix::process::Signal;

use crate::harness::events::{event, has};
use crate::harness::machine::is_root;
use crate::harness::reader::{Reader, Site};
use crate::harness::{Backend, Pen, Process, SetOnDrop, eventually};

/// A client of this file's own.
fn client(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 62, (n >> 8) as u8, n as u8)
}

fn pen(site: &Site, server: &Backend) -> Pen {
    Pen::builder().server(server).control().options(["-O", &site.command()]).start()
}

/// Waits until another process serves the page.
fn await_another(pen: &Pen, site: &Site, before: &Process) {
    eventually("another process serves the page", || {
        before.gone() && site.try_get("/health").is_ok_and(|health| health.status == 200)
    });
    assert_ne!(pen.page_process().pid(), before.pid());
}

#[test]
fn a_page_process_that_dies_or_hangs_is_replaced() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = pen(&site, &server);
    let workers = pen.workers();
    let (held, _) = pen.hold(client(1)).unwrap();
    assert_eq!(site.get("/health").status, 200);
    let page = pen.page_process();
    page.kill();
    await_another(&pen, &site, &page);
    pen.hears("the page process (pid ");
    assert!(pen.said().contains("; it is replaced, clients are served all the time"));
    let page = pen.page_process();
    page.stop();
    await_another(&pen, &site, &page);
    pen.hears("it hung");
    assert!(workers.iter().all(|worker| !worker.gone()));
    held.echoes("not disturbed");
}

#[test]
fn a_death_and_a_replacement_are_events_and_who_waits_is_served() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let options = ["-d", "-O", &site.command()];
    let pen = Pen::builder().server(&server).control().options(options).start();
    assert_eq!(site.get("/health").status, 200);
    let page = pen.page_process();
    page.stop();
    // It waits at the listener, which does not die with the process.
    let mut waiting = site.connect().unwrap();
    waiting.ask("/health").unwrap();
    page.kill();
    assert_eq!(waiting.answer().unwrap().status, 200);
    let of_page = |event: &serde_json::Value| event["fields"]["process"] == "page";
    let died = event(&pen, "worker_died", of_page);
    let reason = ("reason", "was killed by signal 9".into());
    has(&pen, &died, &[("pid", page.pid().into()), reason]);
    let replaced = event(&pen, "worker_replaced", of_page);
    has(&pen, &replaced, &[("pid", pen.page_process().pid().into())]);
}

#[test]
fn of_a_crowd_that_asks_at_once_each_is_answered_or_told_why_not() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = pen(&site, &server);
    let page = pen.page_process();
    let idle: Vec<Reader> = (0..70).map(|_| site.connect().unwrap()).collect();
    assert_eq!(site.get("/health").status, 200, "an idle reader is closed for one that asks");
    let mut crowd: Vec<Reader> = (0..128).map(|_| site.connect().unwrap()).collect();
    crowd.iter_mut().for_each(|reader| drop(reader.ask("/status.json")));
    assert!(pen.ask(client(5)).is_some());
    let answers: Vec<u16> = crowd
        .iter_mut()
        .filter_map(|reader| reader.answer().ok().map(|answer| answer.status))
        .collect();
    assert!(answers.len() >= 64, "{answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 200 | 503)), "{answers:?}");
    drop((crowd, idle));
    eventually("readers are served as before", || site.get("/health").status == 200);
    assert!(!page.gone());
}

#[test]
fn a_supervisor_that_does_not_answer_is_said() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = pen(&site, &server);
    let (held, _) = pen.hold(client(2)).unwrap();
    assert_eq!(site.get("/health").status, 200);
    pen.supervisor().stop();
    eventually("readers are told", || {
        let health = site.get("/health");
        (health.status, &health.body[..]) == (503, "pen's supervisor does not answer\n")
    });
    held.echoes("clients are served");
    pen.supervisor().resume();
    eventually("it answers again", || site.get("/health").status == 200);
}

/// A request.
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: pen\r\n\r\n";

/// What a hostile reader does with a new connection.
type Attack = Box<dyn Fn(&mut Reader) + Sync>;

#[test]
fn hostile_readers_harm_nobody() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = pen(&site, &server);
    let page = pen.page_process();
    let over = AtomicBool::new(false);
    let attacks: [Attack; 6] = [
        // Silent.
        Box::new(|_| ()),
        // Half a request.
        Box::new(|reader| drop(reader.send("GET /"))),
        // A head without end.
        Box::new(|reader| drop(reader.send("x".repeat(1 << 20)))),
        // Many requests whose answers nobody reads.
        Box::new(|reader| drop(reader.send(GET.repeat(500)))),
        // Nonsense.
        Box::new(|reader| drop(reader.send([0, 255, 13, 10].repeat(100)))),
        // Two lengths and a request behind them.
        Box::new(|reader| {
            let head = "GET / HTTP/1.1\r\nHost: pen\r\nContent-Length: 9\r\n";
            drop(reader.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{GET}")));
        }),
    ];
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for attack in &attacks {
            scope.spawn(|| {
                let mut crowd = Vec::new();
                while !over.load(SeqCst) {
                    let Ok(mut reader) = site.connect() else { continue };
                    attack(&mut reader);
                    crowd.push(reader);
                    if crowd.len() > 200 {
                        crowd.clear();
                    }
                }
            });
        }
        for n in 0..100 {
            assert!(pen.ask(client(100 + n)).is_some(), "a client is served");
            pen.tells("pid", &pen.supervisor().pid().to_string());
        }
        // An honest reader may be let go among so many, but not for ever.
        eventually("a reader gets an answer", || {
            site.try_get("/status.json").is_ok_and(|answer| answer.status == 200)
        });
        drop(ends);
    });
    assert!(!page.gone(), "{}", pen.said());
    eventually("readers are served as before", || site.get("/health").status == 200);
}

#[test]
fn a_thousand_connections_at_once_are_too_many_and_no_harm() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let pen = pen(&site, &server);
    let page = pen.page_process();
    let crowd: Vec<TcpStream> =
        (0..1000).filter_map(|_| TcpStream::connect(site.address()).ok()).collect();
    assert!(crowd.len() > 900, "{}", crowd.len());
    eventually("one more is served", || site.get("/health").status == 200);
    assert!(pen.ask(client(3)).is_some());
    assert!(!page.gone());
    // All but those that there is room for were let go.
    let open = |socket: &&TcpStream| {
        socket.set_nonblocking(true).unwrap();
        (&**socket)
            .read(&mut [0])
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    eventually("most are closed", || crowd.iter().filter(open).count() <= 64);
}

#[test]
fn without_descriptors_the_page_waits_and_recovers() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    // Limits can be set only for a process of the same user.
    let user: &[&str] = if is_root() { &["-u", "root"] } else { &[] };
    let builder = Pen::builder().server(&server).options(["-O", &site.command()]);
    let pen = builder.options(user).start();
    let page = pen.page_process();
    assert_eq!(site.get("/health").status, 200);
    let before = page.limit_descriptors(0);
    let mut waiting = site.connect().unwrap();
    waiting.ask("/health").unwrap();
    assert!(pen.ask(client(4)).is_some());
    page.limit_descriptors(before);
    assert_eq!(waiting.answer().unwrap().status, 200);
    assert!(!page.gone());
}

#[test]
fn readers_who_ask_all_the_time_cost_one_report_a_second() {
    let (site, server) = (Site::reserve(), Backend::named("a"));
    let mut pen = pen(&site, &server);
    let over = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        let readers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = std::collections::BTreeSet::new();
                    let mut reader = site.connect().unwrap();
                    let mut answers = 0;
                    while !over.load(SeqCst) {
                        reader.ask("/status.json").unwrap();
                        let answer = reader.answer().unwrap();
                        let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                        times.insert(status["unix_time"].as_i64().unwrap());
                        answers += 1;
                    }
                    (times, answers)
                })
            })
            .collect();
        eventually("some seconds are over", || {
            pen.tell("overview").parse::<serde_json::Value>().unwrap()["uptime"].as_u64() >= Some(4)
        });
        drop(ends);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    // Far more answers than reports: they are shared.
    for (times, answers) in served {
        assert!(times.len() >= 2 && answers > 3 * times.len(), "{answers} of {times:?}");
    }
    pen.end_by(Signal::TERM);
}
