//! `hold SECONDS`: clients wait while no server can be used.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;

use serde_json::Value;

use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Pen, Process, eventually, until};

use super::{client, held};
use crate::harness::machine::open_socket;

/// A pen whose clients wait, and try a server that failed once a second.
fn holding(builder: Builder) -> Builder {
    builder.options(["-O", "hold 600", "-b", "1"]).control()
}

/// Waits until so many clients are held.
fn hold(pen: &Pen, clients: u64) {
    eventually("clients are held", || held(pen) == clients);
}

#[test]
fn clients_wait_for_a_server_of_any_kind_and_are_served_when_it_is_back() {
    let root = Authority::root("root");
    let identity = root.issue(&["pen"]);
    for kind in ["tcp", "unix", "tls"] {
        let builder = Pen::builder().workers(2);
        let path = builder.directory().join("a.sock");
        let server = match kind {
            "unix" => Backend::named_unix(&path, "a"),
            _ => Backend::named("a"),
        };
        server.stop();
        if kind == "unix" {
            std::fs::remove_file(&path).unwrap();
        }
        let certificate = write(builder.directory(), "cert.pem", &identity.chain);
        let key = write(builder.directory(), "key.pem", &identity.key);
        let tls = [certificate.to_str().unwrap(), key.to_str().unwrap()];
        let options = match kind {
            "tls" => vec!["-E", tls[0], "-K", tls[1]],
            _ => vec![],
        };
        let pen = holding(builder.options(options)).server(&server).start();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..10)
                .map(|number| {
                    let (pen, root) = (&pen, &root);
                    scope.spawn(move || match kind {
                        "tls" => root.client().ask(pen.address(), "pen").map(|(name, _)| name),
                        _ => pen.ask(client(number)),
                    })
                })
                .collect();
            hold(&pen, 10);
            // Between the end of its blacklist time and the next try, the server would be used.
            eventually("explain says so", || pen.tell("explain 127.82.0.1").contains("no server"));
            server.start();
            if kind == "unix" {
                open_socket(&path);
            }
            for one in clients {
                assert_eq!(one.join().unwrap().as_deref(), Some("a"), "{kind}");
            }
        });
        hold(&pen, 0);
        pen.settle();
    }
}

#[test]
fn clients_of_a_full_server_and_of_servers_out_of_service_wait_too() {
    let farm = Backend::farm(["a"]);
    let pen = holding(Pen::builder()).servers_with_limits(&farm, "1:1").start();
    let (first, _) = pen.hold(client(1)).unwrap();
    let second = pen.connect(client(2));
    hold(&pen, 1);
    first.finish();
    assert_eq!(second.line().as_deref(), Some("a"), "the server has room");
    second.finish();
    assert_eq!(second.read_to_end().unwrap(), b"");
    for state in ["maint", "drain"] {
        pen.tells(&format!("server 0 state {state}"), "");
        let third = pen.connect(client(3));
        hold(&pen, 1);
        pen.tells("server 0 state ready", "");
        assert_eq!(third.line().as_deref(), Some("a"), "{state}");
    }
}

#[test]
fn those_who_wait_count_under_the_limit_and_whoever_hangs_up_makes_room() {
    let server = Backend::named("a");
    let pen = holding(Pen::builder().options(["-x", "4"])).server(&server).start();
    // Nobody tries it meanwhile, as a server that failed would be tried.
    pen.tells("server 0 state maint", "");
    let waiting: Vec<_> = (0..4).map(|number| pen.connect(client(number))).collect();
    hold(&pen, 4);
    let fifth = pen.connect(client(5));
    let sixth = pen.connect(client(6));
    eventually("the limit is told", || pen.tell("events json").contains("connections_limit"));
    assert_eq!(held(&pen), 4);
    let mut waiting = waiting.into_iter();
    drop(waiting.next());
    waiting.next().unwrap().reset();
    // The next two take their places.
    eventually("the next clients are accepted", || {
        let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
        status["counts"]["accepted"] == 6 && status["held"] == 4
    });
    pen.tells("server 0 state ready", "");
    for one in waiting.chain([fifth, sixth]) {
        assert_eq!(one.line().as_deref(), Some("a"));
    }
    hold(&pen, 0);
}

#[test]
fn a_worker_that_dies_while_it_holds_takes_its_clients_along_and_no_others() {
    let server = Backend::named("a");
    let pen = holding(Pen::builder().workers(3)).server(&server).start();
    pen.tells("server 0 state maint", "");
    let clients: Vec<_> = (0..12).map(|number| pen.connect(client(number))).collect();
    hold(&pen, 12);
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    let all = status["worker_list"].as_array().unwrap();
    let most = all.iter().max_by_key(|one| one["connections"].as_u64()).unwrap();
    Process::open(most["pid"].as_i64().unwrap() as i32).unwrap().kill();
    eventually("its clients are counted no more", || held(&pen) < 12);
    let lost = 12 - held(&pen);
    pen.tells("server 0 state ready", "");
    let served = clients.iter().filter(|one| one.line().as_deref() == Some("a")).count() as u64;
    assert_eq!(served, 12 - lost);
    hold(&pen, 0);
    assert_eq!(pen.ask(client(20)).as_deref(), Some("a"));
}

#[test]
fn nobody_waits_longer_than_the_setting_says_even_if_the_server_fails_again_and_again() {
    let server = Backend::down("a");
    let pen = Pen::builder().options(["-O", "hold 2", "-b", "1"]).control().server(&server).start();
    let (waiting, other) = (pen.connect(client(1)), pen.connect(client(2)));
    assert_eq!((waiting.line(), other.line()), (None, None));
    hold(&pen, 0);
    pen.tells("hold 0", "0");
    assert_eq!(pen.ask(client(3)), None, "at once");
}

/// When a client began to wait, when it got its server, and its worker, from a line of the
/// connection log. `None`: it never got one.
fn wait_of(line: &str) -> (u64, Option<u64>, u64) {
    let line: Value = serde_json::from_str(line).unwrap();
    // `2026-11-30T12:00:00.042Z`: milliseconds in the month.
    let time: Vec<u64> = line["time"].as_str().unwrap()[8..23]
        .split(['T', ':', '.'])
        .map(|part| part.parse().unwrap())
        .collect();
    let [day, hour, minute, second, millisecond] = time[..] else { panic!("{line}") };
    let began = (((day * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millisecond;
    let served = line["server"].is_u64().then(|| began + line["wait_ms"].as_u64().unwrap());
    (began, served, line["worker"].as_u64().unwrap())
}

#[test]
fn at_most_a_hundred_are_served_in_a_tenth_of_a_second_the_oldest_of_each_worker_first() {
    const CLIENTS: u16 = 450;
    let server = Backend::named("a");
    let builder = Pen::builder().workers(4);
    let log = builder.directory().join("connections");
    let setting = format!("connection_log {}", log.display());
    let options = ["-x", "600", "-O", &setting, "-O", "connection_log_format json"];
    let pen = holding(builder.options(options)).server(&server).start();
    pen.tells("server 0 state maint", "");
    let address = |number: u16| Ipv4Addr::new(127, 83, (number / 200) as u8, (number % 200) as u8);
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| pen.connect(address(number))).collect();
    hold(&pen, CLIENTS.into());
    // Some have had enough. They are let go, whatever their place.
    for place in [400, 200, 0] {
        drop(clients.remove(place));
    }
    hold(&pen, u64::from(CLIENTS) - 3);
    pen.tells("server 0 state ready", "");
    for one in clients {
        assert_eq!(one.line().as_deref(), Some("a"));
        one.finish();
        assert_eq!(one.read_to_end().unwrap(), b"");
    }
    let lines = until("each has its line", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == usize::from(CLIENTS)).then_some(text)
    });
    let mut waits: Vec<_> = lines.lines().map(wait_of).collect();
    waits.sort_unstable();
    let mut served: Vec<u64> = waits.iter().filter_map(|(_, served, _)| *served).collect();
    assert_eq!(served.len(), usize::from(CLIENTS) - 3);
    for worker in 0..4 {
        let of_worker = waits.iter().filter(|(.., of)| *of == worker);
        let order: Vec<u64> = of_worker.filter_map(|(_, served, _)| *served).collect();
        // Two times in whole milliseconds make one, which can be off by one.
        assert!(order.windows(2).all(|pair| pair[0] <= pair[1] + 1), "worker {worker}: {order:?}");
    }
    served.sort_unstable();
    // For the same reason the window is a little less than a tenth of a second.
    let within = |from: u64| served.iter().filter(|at| (from..from + 97).contains(at)).count();
    let most = served.iter().map(|from| within(*from)).max();
    assert!(most <= Some(100), "{most:?} in a tenth of a second");
    hold(&pen, 0);
}
