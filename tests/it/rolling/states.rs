//! `server N state`: which clients a server gets, in every mode, and that this lasts.

use std::fs;
use std::net::Ipv4Addr;

use rustix::process::Signal;

use crate::harness::{Backend, Pen, eventually, reader::Site, until};
use crate::upgrade::Installed;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 81, 0, number)
}

/// What a client that asks again gets.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Tracking {
    /// Its server.
    Tracked,
    /// The server that its address hashes to.
    Hashed,
    /// The next one.
    Untracked,
}

/// All settings that decide about the choice, alone and together.
const MODES: [(&[&str], Tracking); 15] = [
    (&[], Tracking::Tracked),
    (&["roundrobin"], Tracking::Untracked),
    (&["hash"], Tracking::Tracked),
    (&["hash_always"], Tracking::Hashed),
    (&["hash", "roundrobin"], Tracking::Untracked),
    (&["weight"], Tracking::Tracked),
    (&["prio"], Tracking::Tracked),
    (&["leastconn"], Tracking::Tracked),
    (&["p2c"], Tracking::Tracked),
    (&["maglev"], Tracking::Tracked),
    (&["maglev", "roundrobin"], Tracking::Untracked),
    (&["leastconn", "roundrobin"], Tracking::Untracked),
    (&["stubborn"], Tracking::Tracked),
    (&["stubborn", "hash"], Tracking::Tracked),
    (&["stubborn", "roundrobin"], Tracking::Untracked),
];

fn pen_with(modes: &[&str], farm: &[Backend; 3]) -> Pen {
    let options = modes.iter().flat_map(|mode| ["-O", mode]);
    Pen::builder().options(options).servers(farm).control().start()
}

#[test]
fn a_server_that_drains_keeps_its_clients_and_in_maintenance_it_has_none_in_every_mode() {
    for (modes, tracking) in MODES {
        let farm = Backend::farm(["a", "b", "c"]);
        let pen = pen_with(modes, &farm);
        let ask = |number: u8| pen.ask(client(number)).unwrap_or_default();
        let is_stubborn = modes.contains(&"stubborn");
        let known: Vec<(u8, String)> = (1..=12).map(|n| (n, ask(n))).collect();
        assert!(known.iter().any(|(_, name)| name == "a"), "{modes:?}: {known:?}");

        pen.tells("server 0 state drain", "");
        for number in 21..=32 {
            let name = ask(number);
            assert_ne!(name, "a", "{modes:?}: a new client");
            assert!(is_stubborn || !name.is_empty(), "{modes:?}: client {number}");
        }
        for (number, name) in &known {
            let again = ask(*number);
            match tracking {
                Tracking::Tracked | Tracking::Hashed => {
                    assert_eq!(again, *name, "{modes:?}: known client {number}");
                }
                Tracking::Untracked => assert_ne!(again, "a", "{modes:?}: client {number}"),
            }
        }

        pen.tells("server 0 state maint", "");
        for number in (1..=12).chain(21..=44) {
            let name = ask(number);
            assert_ne!(name, "a", "{modes:?}: client {number}");
            assert!(is_stubborn || !name.is_empty(), "{modes:?}: client {number}");
        }

        pen.tells("server 0 state ready", "");
        let names: Vec<String> = (51..=62).map(ask).collect();
        assert!(names.iter().any(|name| name == "a"), "{modes:?}: {names:?}");
        assert!(names.iter().all(|name| !name.is_empty()), "{modes:?}: {names:?}");
    }
}

#[test]
fn connections_of_a_server_that_is_taken_out_of_use_go_on() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).control().start();
    let (open, name) = pen.hold(client(1)).unwrap();
    assert_eq!(name, "a");
    for state in ["drain", "maint"] {
        pen.tells(&format!("server 0 state {state}"), "");
        assert_eq!(pen.ask(client(2)), None, "{state}: there is no other server");
    }
    assert_eq!(farm[0].open(), 1);
    pen.tells("server 0 state ready", "");
    open.finish();
    assert_eq!(open.read_to_end().unwrap(), b"");
    assert_eq!(pen.ask(client(2)).as_deref(), Some("a"));
}

#[test]
fn the_emergency_server_takes_the_clients_of_servers_that_are_all_closed_to_them() {
    let farm = Backend::farm(["a", "b", "e"]);
    let emergency = farm[2].operand();
    let pen = Pen::builder().options(["-e", &emergency]).servers(&farm[..2]).control().start();
    let (known, new) = (client(1), client(2));
    assert_eq!(pen.ask(known).as_deref(), Some("b"));
    pen.tells("server 0 state maint", "");
    pen.tells("server 1 state drain", "");
    assert_eq!(pen.ask(new).as_deref(), Some("e"));
    assert_eq!(pen.ask(known).as_deref(), Some("b"));
}

#[test]
fn every_view_shows_the_state() {
    let farm = Backend::farm(["a", "b", "c"]);
    let site = Site::reserve();
    let pen = Pen::builder().options(["-r"]).page(&site.command()).servers(&farm).control().start();
    let lines = || pen.tell("servers").lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(lines().iter().all(|line| line.ends_with(" rx 0")), "{:?}", lines());
    pen.tells("server 0 state drain", "");
    pen.tells("server 1 state maint", "");
    let ends = [" rx 0 state drain", " rx 0 state maint", " rx 0"];
    assert!(lines().iter().zip(ends).all(|(line, end)| line.ends_with(end)), "{:?}", lines());

    let places = farm.each_ref().map(|backend| backend.address());
    let explained = pen.tell("explain 127.81.0.9");
    for line in [
        format!("server 1 ({}): in maintenance", places[1]),
        format!("server 2 ({}): would be used", places[2]),
    ] {
        assert!(explained.lines().any(|said| said == line), "{explained}");
    }
    pen.tells("server 2 state maint", "");
    let explained = pen.tell("explain 127.81.0.9");
    for line in [
        format!("server 0 ({}): draining, no new clients", places[0]),
        "no server: the client would be closed".to_owned(),
    ] {
        assert!(explained.lines().any(|said| said == line), "{explained}");
    }

    let status = until("the page shows the state", || {
        Some(site.status()).filter(|status| status["servers"][2]["state"] == "maint")
    });
    let of = |key: &str| {
        status["servers"].as_array().unwrap().iter().map(|server| server[key].clone()).collect()
    };
    let states: Vec<serde_json::Value> = of("state");
    assert_eq!(states, ["drain", "maint", "maint"]);
    let modes: Vec<serde_json::Value> = of("mode");
    assert_eq!(modes, ["drain", "maint", "maint"]);
    let text = |path: &str| site.get(path).body;
    let metrics = text("/metrics");
    for (number, state, value) in
        [(0, "drain", 1), (0, "ready", 0), (1, "maint", 1), (1, "drain", 0), (2, "ready", 0)]
    {
        let found = metrics.lines().any(|line| {
            line.starts_with(&format!("pen_server_state{{server=\"{number}\","))
                && line.ends_with(&format!(",state=\"{state}\"}} {value}"))
        });
        assert!(found, "server {number}, {state} {value}: {metrics}");
    }
    let page = text("/");
    assert!(page.contains("draining, gets no new clients") && page.contains("in maintenance"));
    assert_eq!(site.get("/health").status, 503);
}

#[test]
fn write_keeps_the_state_and_a_reload_without_it_changes_nothing() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().file("blacklist 3\n").servers(&farm).control().start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    pen.tells("server 1 state drain", "");
    fs::write(pen.directory().join("pen.cfg"), "blacklist 4\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is read", || pen.tell("blacklist") == "4\n");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"), "a known client");
    assert!((2..8).all(|n| pen.ask(client(n)).as_deref() == Some("a")));
    assert!(pen.tell("servers").lines().nth(1).unwrap().ends_with(" state drain"));

    let written = pen.tell("write -");
    let line = written.lines().find(|line| line.starts_with("server 1 ")).unwrap();
    assert!(line.ends_with(" state drain"), "{written}");
    assert!(!written.contains("state ready"), "{written}");
}

#[test]
fn a_file_takes_servers_out_of_use_from_the_start_and_brings_them_back() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().file("server 1 state maint\n").servers(&farm).control().start();
    assert!((1..6).all(|n| pen.ask(client(n)).as_deref() == Some("a")));
    fs::write(pen.directory().join("pen.cfg"), "server 1 state ready\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the server is back", || !pen.tell("servers").contains(" state "));
    assert!((11..15).any(|n| pen.ask(client(n)).as_deref() == Some("b")));
}

/// What must hold while server 0 drains and server 1 is in maintenance: `known` is a client of
/// server 0, and the new clients are `first` and those after it.
#[track_caller]
fn only_the_third_takes_new_clients(pen: &Pen, known: Ipv4Addr, first: u8) {
    assert_eq!(pen.ask(known).as_deref(), Some("a"));
    let names: Vec<_> = (first..first + 6).map(|n| pen.ask(client(n))).collect();
    assert!(names.iter().all(|name| name.as_deref() == Some("c")), "{names:?}");
}

/// Makes clients until one is on server 0, and closes servers 0 and 1 to others.
fn close_two(pen: &Pen) -> Ipv4Addr {
    let known = (100..110).map(client).find(|n| pen.ask(*n).as_deref() == Some("a")).unwrap();
    pen.tells("server 0 state drain", "");
    pen.tells("server 1 state maint", "");
    known
}

#[test]
fn the_states_outlive_every_worker() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).control().start();
    let known = close_two(&pen);
    for round in 0..3 {
        let before = pen.workers();
        before[round].kill();
        eventually("the worker is replaced", || {
            pen.workers().iter().all(|worker| worker.pid() != before[round].pid())
        });
        only_the_third_takes_new_clients(&pen, known, 1 + 6 * round as u8);
    }
}

#[test]
fn the_states_are_the_same_after_an_upgrade_of_any_table() {
    for release in ["0.2.0", "0.2.0 layout 3"] {
        let farm = Backend::farm(["a", "b", "c"]);
        let pen = Installed::start(Pen::builder().servers(&farm).control());
        let known = close_two(&pen);
        pen.install(release);
        pen.goes_on_as(env!("CARGO_PKG_VERSION"), "0.2.0");
        only_the_third_takes_new_clients(&pen, known, 1);
        pen.tells("server 0 state ready", "");
        pen.tells("server 1 state ready", "");
        let names: Vec<_> = (11..17).map(|n| pen.ask(client(n)).unwrap()).collect();
        assert!(["a", "b", "c"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    }
}
