//! `watch`: each event as it happens, over everything that happens to pen.

use std::fs;
use std::net::Shutdown;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::events::{event, events, try_watch, watch};
use crate::harness::machine::open_to_all;
use crate::harness::{Backend, Pen, eventually};

#[test]
fn each_event_is_told_to_all_and_a_reload_ends_nothing() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().server(&server).file("blacklist 1\n").start();
    let json = watch(&pen);
    let plain = pen.control().connect().unwrap();
    plain.send("watch\n");
    // The reply to a later command shows that the earlier one was carried out.
    pen.tells("blacklist", "1");
    for (line, kind) in [("server 0 weight 3", "server_weight"), ("prio", "setting")] {
        pen.tells(line, "");
        let seen = json.next();
        assert_eq!(seen, event(&pen, kind, |_| true), "as events has it");
        assert!(plain.line().unwrap().ends_with(seen["text"].as_str().unwrap()));
    }
    fs::write(pen.directory().join("pen.cfg"), "blacklist 2\nidle_timeout 9\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    assert_eq!(json.next()["kind"], "reloaded");
    assert!(plain.line().unwrap().contains(": blacklist 2; idle_timeout 9"));
    pen.workers()[0].kill();
    let died = json.next();
    assert_eq!(died["kind"], "worker_died");
    assert!(plain.line().unwrap().ends_with(died["text"].as_str().unwrap()));
}

#[test]
fn the_end_of_pen_is_the_last_line_and_why() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().control().server(&server).start();
    let operator = watch(&pen);
    pen.end_by(Signal::TERM);
    let last = operator.next();
    assert_eq!((&last["kind"], &last["fields"]["reason"]), (&"stopping".into(), &"SIGTERM".into()));
    assert_eq!(last["text"], "stopping on signal SIGTERM");
    assert_eq!(operator.next(), json!({ "closed": "pen stops" }));
    assert_eq!(operator.line(), None);
}

#[test]
fn a_control_process_that_dies_takes_its_watchers_along_and_loses_no_event() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().server(&server).start();
    let operator = watch(&pen);
    pen.tells("prio", "");
    let seen = operator.next()["id"].as_u64().unwrap();
    pen.control_process().kill();
    assert_eq!(operator.line(), None);
    eventually("another control process serves", || pen.control().try_tell("pid").is_ok());
    let again = watch(&pen);
    let kinds: Vec<_> = events(&pen)
        .into_iter()
        .filter(|event| event["id"].as_u64() > Some(seen))
        .map(|event| event["kind"].clone())
        .collect();
    assert_eq!(kinds, ["worker_died", "worker_replaced"]);
    pen.tells("no prio", "");
    assert_eq!(again.next()["id"], seen + 3);
}

#[test]
fn forty_at_once_are_too_many_and_places_are_free_again() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().server(&server).start();
    let mut all: Vec<_> = (0..32).map(|_| watch(&pen)).collect();
    let refused = || pen.tell("outcome watch").starts_with("outcome: error\nwatch: not now: ");
    assert!((0..8).all(|_| refused()));
    pen.tells("prio", "");
    assert!(all.iter().all(|operator| operator.next()["kind"] == "setting"));
    // Those who have left in either way are noticed, though nothing happens.
    all.pop().unwrap().client.reset();
    all.pop().unwrap().client.socket().shutdown(Shutdown::Write).unwrap();
    let mut again = Vec::new();
    eventually("two more may watch", || {
        again.extend(try_watch(&pen));
        again.len() == 2
    });
    pen.tells("no prio", "");
    assert!(all.iter().chain(&again).all(|operator| operator.next()["kind"] == "setting"));
}

/// A file with many errors makes many events.
#[test]
fn who_reads_nothing_is_cut_off_and_everything_else_goes_on() {
    let server = Backend::named("a");
    let builder = Pen::builder().server(&server).file("blacklist 1\n");
    let socket = builder.directory().join("control");
    open_to_all(builder.directory());
    let pen = builder.control_unix(&socket).start();
    let (slow, quick) = (watch(&pen), watch(&pen));
    let errors: String =
        (0..100).map(|n| format!("timeout {}\n", n.to_string().repeat(40))).collect();
    fs::write(pen.directory().join("pen.cfg"), errors).unwrap();
    let mut told = 0;
    eventually("more was told than sockets and pen keep", || {
        pen.supervisor().signal(Signal::HUP);
        loop {
            let event = quick.next();
            assert!(event["missing"].is_null() && event["closed"].is_null(), "{event}");
            told += event.to_string().len();
            if event["kind"] == "reload_failed" {
                break;
            }
        }
        told > 1 << 20
    });
    let kept = events(&pen);
    assert_eq!(
        (kept.len(), &kept[0]["kind"]),
        (1000, &"started".into()),
        "all of it, and the rest"
    );
    let mut last = slow.next();
    let mut before = 0;
    while let Some(id) = last["id"].as_u64() {
        assert!(before == 0 || id == before + 1, "whole lines without a gap");
        (before, last) = (id, slow.next());
    }
    assert_eq!(last, json!({ "closed": "it was read too slowly" }));
    assert_eq!(slow.line(), None);
    pen.tells("blacklist", "1");
    assert_eq!(pen.ask(std::net::Ipv4Addr::LOCALHOST).as_deref(), Some("a"));
}
