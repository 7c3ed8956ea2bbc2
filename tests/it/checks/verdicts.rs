//! Verdicts: when a server goes down and comes back, and which clients it gets then.

use std::net::Ipv4Addr;

use serde_json::json;

use super::{checks_pass, pen, said, says, server, transitions};
use crate::harness::events::{event, has, watch};
use crate::harness::machine::open_socket;
use crate::harness::reader::Site;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Client, Gate, Pen, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 84, 0, number)
}

/// The servers that new clients get.
fn names(pen: &Pen, clients: std::ops::Range<u8>) -> Vec<String> {
    clients.map(|number| pen.ask(client(number)).unwrap_or_default()).collect()
}

#[test]
fn a_server_that_refuses_goes_down_and_comes_back_and_each_change_is_one_event() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen("check tcp").servers(&farm).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    farm[1].stop();
    says(&pen, 1, "check down refused");
    let told = event(&pen, "server_down", |_| true);
    let address = farm[1].address().to_string();
    let fields = [
        ("server", json!(1)),
        ("by", json!("check")),
        ("reason", json!("refused")),
        ("address", json!(address)),
    ];
    has(&pen, &told, &fields);
    assert_eq!(told["text"], json!(format!("server 1 ({address}) is down by check: refused")));
    assert!(names(&pen, 1..9).iter().all(|name| name == "a"));
    let down = server(&pen, 1);
    assert_eq!((&down["state"], &down["check"]["state"]), (&json!("down"), &json!("down")));
    assert_eq!(down["check"]["reason"], json!("refused"));
    assert_eq!(down["state_text"], json!("down by check: refused"));
    farm[1].start();
    says(&pen, 1, "check up ");
    assert!(names(&pen, 11..19).iter().any(|name| name == "b"));
    let up = server(&pen, 1);
    assert_eq!(up["check"]["transitions"], json!(2));
    assert_eq!((&up["state"], &up["check"]["reason"]), (&json!("up"), &json!(null)));
    let of_b: Vec<_> = transitions(&pen).into_iter().filter(|(_, server)| *server == 1).collect();
    let expected = ["server_up", "server_down", "server_up"].map(|kind| (kind.to_owned(), 1));
    assert_eq!(of_b, expected);
}

#[test]
fn a_down_server_gets_no_client_of_any_worker_although_it_would_take_them() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen("check tcp").servers(&farm).options(["-r"]).workers(3).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    pen.tells("server 1 check send x expect never", "");
    says(&pen, 1, "check down expected \"never\", got \"b\"");
    for worker in 0..3 {
        let found = pen.only(worker, || names(&pen, 1..9));
        assert!(found.iter().all(|name| name == "a"), "worker {worker}: {found:?}");
    }
    let explained = pen.tell("explain 127.84.0.1");
    assert!(explained.contains("down by check: unexpected answer\n"), "{explained}");
    pen.tells("server 1 check default", "");
    says(&pen, 1, "check up ");
    for worker in 0..3 {
        let found = pen.only(worker, || names(&pen, 1..9));
        assert!(found.iter().any(|name| name == "b"), "worker {worker}: {found:?}");
    }
}

#[test]
fn if_all_are_down_checks_are_disregarded_unless_they_must_be_obeyed() {
    let (farm, site) = (Backend::farm(["a", "b"]), Site::reserve());
    let pen = pen("check send x expect never").servers(&farm).page(&site.command()).start();
    (0..2).for_each(|number| says(&pen, number, "check down "));
    assert!(names(&pen, 1..5).iter().all(|name| !name.is_empty()));
    let explained = pen.tell("explain 127.84.0.9");
    assert!(explained.contains("checks are disregarded (fail_open)\n"), "{explained}");
    let open = "ok, but all servers are down: checks are disregarded (fail_open)\n";
    assert_eq!(site.get("/health").body, open);
    pen.tells("no fail_open", "");
    assert_eq!(pen.ask(client(9)), None);
    eventually("the page says so", || site.get("/health").status == 503);
    pen.tells("fail_open", "");
    assert!(pen.ask(client(9)).is_some());
}

#[test]
fn the_emergency_server_comes_before_servers_that_are_down() {
    let farm = Backend::farm(["a", "e"]);
    let emergency = farm[1].operand();
    let pen = pen("check send x expect never").options(["-e", &emergency]).server(&farm[0]).start();
    says(&pen, 0, "check down ");
    assert_eq!(pen.ask(client(1)).as_deref(), Some("e"));
}

#[test]
fn a_success_ends_a_blacklisting_by_traffic_early() {
    let farm = Backend::farm(["a", "b"]);
    // The check alone never takes it down here.
    let options = ["-b", "600", "-O", "check_fall 100"];
    let pen = pen("check tcp").options(options).servers(&farm).start();
    says(&pen, 1, "check up ");
    farm[1].stop();
    eventually("traffic finds out", || {
        names(&pen, 1..5);
        server(&pen, 1)["state"] == "failed"
    });
    farm[1].start();
    eventually("the server is in use", || server(&pen, 1)["state"] == "up");
    let told = event(&pen, "server_up", |event| {
        event["text"].as_str().unwrap().contains("is in use again: its check succeeds")
    });
    has(&pen, &told, &[("server", json!(1)), ("by", json!("check"))]);
    let by_traffic = event(&pen, "server_down", |_| true);
    has(&pen, &by_traffic, &[("by", json!("traffic"))]);
    assert!(names(&pen, 11..19).iter().any(|name| name == "b"));
}

#[test]
fn a_failure_of_traffic_has_the_server_checked_at_once() {
    let farm = Backend::farm(["a", "b"]);
    // Without a failure, the next check comes long after the test has given up.
    let once = ["-O", "check_rise 1", "-O", "check_fall 1"];
    let options = ["-O", "check tcp", "-O", "check_interval 60"].into_iter().chain(once);
    let pen = Pen::builder().options(options).control().servers(&farm).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    farm[1].stop();
    eventually("traffic finds out", || {
        names(&pen, 1..5);
        server(&pen, 1)["blacklisted"] != 0
    });
    says(&pen, 1, "check down refused");
    assert!(said(&pen, 0).starts_with("check up "), "nobody suspected it: {}", said(&pen, 0));
}

#[test]
fn a_success_never_ends_an_operators_blacklisting() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen("check tcp").servers(&farm).start();
    says(&pen, 1, "check up ");
    pen.tells("server 1 blacklist 600", "");
    checks_pass(&pen, 1, 2);
    assert_eq!(server(&pen, 1)["state"], "out");
    assert!(names(&pen, 1..9).iter().all(|name| name == "a"));
    assert!(said(&pen, 1).starts_with("check up "));
}

#[test]
fn a_server_is_unknown_and_in_use_until_it_was_checked() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let silent = Backend::with(move |_| {
        waiting.pass();
        Ok(())
    });
    let named = Backend::named("a");
    let options = ["-O", "check_timeout 60"];
    let pen = pen("check smtp").options(options).servers([&silent, &named]).start();
    eventually("the check is under way", || silent.accepted() > 0);
    assert_eq!(said(&pen, 0), "check unknown");
    assert_eq!(server(&pen, 0)["state"], "up");
    gate.open();
    says(&pen, 0, "check down closed");
}

#[test]
fn without_checks_nothing_is_said_and_no_process_runs() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().servers(&farm).control().start();
    assert_eq!((said(&pen, 0).as_str(), super::checker(&pen).is_none()), ("", true));
    assert_eq!(server(&pen, 0)["check"], json!(null));
    pen.tells("server 0 check tcp", "");
    says(&pen, 0, "check up ");
    assert!(super::checker(&pen).is_some());
    pen.tells("server 0 check off", "");
    eventually("the checker has ended", || super::checker(&pen).is_none());
    assert_eq!(said(&pen, 0), "");
    pen.tells("check tcp", "");
    assert_eq!(said(&pen, 0), "", "its own setting counts");
    pen.tells("server 0 check default", "");
    says(&pen, 0, "check up ");
}

#[test]
fn a_server_that_goes_down_keeps_its_connections_unless_they_are_to_be_closed() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen("check tcp").servers(&farm).options(["-r"]).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    let of_b = |first: u8| {
        let mut clients = (first..first + 8).map(|number| pen.hold(client(number)).unwrap());
        clients.find(|(_, name)| name == "b").unwrap().0
    };
    let goes_down = || {
        pen.tells("server 1 check send x expect never", "");
        says(&pen, 1, "check down ");
    };
    let kept = of_b(1);
    goes_down();
    kept.echoes("still here");
    pen.tells("on_down close", "");
    pen.tells("server 1 check default", "");
    says(&pen, 1, "check up ");
    let closed = of_b(11);
    goes_down();
    assert!(closed.read_to_end().is_err(), "it is reset");
    assert!(kept.read_to_end().is_err(), "so is one from before");
}

/// Servers of one kind behind three workers; each has clients at server 1, which goes down.
fn on_down_close_resets(kind: &str) {
    let root = Authority::root("root");
    let identity = root.issue(&["pen"]);
    let builder = pen("check tcp").workers(3).options(["-x", "500", "-O", "on_down close"]);
    let path = builder.directory().join("b.sock");
    let farm = match kind {
        "unix" => [Backend::named("a"), Backend::named_unix(&path, "b")],
        _ => Backend::farm(["a", "b"]),
    };
    if kind == "unix" {
        open_socket(&path);
    }
    let [certificate, key] = [("cert.pem", &identity.chain), ("key.pem", &identity.key)]
        .map(|(name, text)| write(builder.directory(), name, text).to_str().unwrap().to_owned());
    let options = match kind {
        "tls" => vec!["-E", &certificate, "-K", &key],
        _ => vec![],
    };
    let pen = builder.options(options).servers(&farm).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    pen.tells("server 0 state maint", "");
    let mut sessions = Vec::new();
    let mut clients = Vec::new();
    for number in 1..=12 {
        let worker = usize::from(number) % 3;
        pen.only(worker, || match kind {
            "tls" => {
                let mut session = root.client().connect(pen.address(), "pen").unwrap();
                assert_eq!(session.line().unwrap(), "b");
                sessions.push(session);
            }
            _ => clients.push(pen.hold(client(number)).unwrap()),
        });
    }
    pen.tells("server 0 state ready", "");
    assert!(clients.iter().all(|(_, name)| name == "b"), "{kind}");
    pen.tells("server 1 check send x expect never", "");
    says(&pen, 1, "check down ");
    assert!(sessions.iter_mut().all(|session| session.read_to_end().is_err()), "{kind}: a reset");
    assert!(clients.iter().all(|(open, _)| open.read_to_end().is_err()), "{kind}: a reset");
    eventually("nobody is left there", || farm[1].open() == 0);
    if kind == "tls" {
        let (name, _) = root.client().ask(pen.address(), "pen").unwrap();
        assert_eq!(name, "a");
    }
    // They are known clients of the server; now they are the other's, also when it is back.
    let names_of = |range| names(&pen, range).into_iter().filter(|name| name != "a").count();
    assert_eq!(if kind == "tls" { 0 } else { names_of(1..13) }, 0, "{kind}: placed anew");
    pen.tells("server 1 check default", "");
    says(&pen, 1, "check up ");
    assert_eq!(if kind == "tls" { 0 } else { names_of(1..13) }, 0, "{kind}: and tracked there");
}

#[test]
fn on_down_close_resets_all_connections_of_all_workers_and_their_clients_are_placed_anew() {
    ["tcp", "unix", "tls"].into_iter().for_each(on_down_close_resets);
}

#[test]
fn once_a_verdict_is_told_no_worker_sends_anybody_there() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen("check tcp").workers(8).options(["-r", "-x", "2000"]).servers(&farm).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    for round in 0..5 {
        let watcher = watch(&pen);
        pen.tells("server 1 check send x expect never", "");
        // The event is logged after the verdict stands in the table that all workers read.
        while watcher.next()["kind"] != "server_down" {}
        let clients: Vec<Client> = (1..65).map(|number| pen.connect(client(number))).collect();
        let names: Vec<_> = clients.iter().map(|open| open.line()).collect();
        assert!(names.iter().all(|name| name.as_deref() == Some("a")), "round {round}: {names:?}");
        for worker in 0..8 {
            let names: Vec<_> = pen.only(worker, || [1, 2].map(|n| pen.ask(client(n)))).into();
            let all_a = names.iter().all(|name| name.as_deref() == Some("a"));
            assert!(all_a, "round {round}, worker {worker}: {names:?}");
        }
        pen.tells("server 1 check default", "");
        says(&pen, 1, "check up ");
    }
}
