//! `rebalance PERCENT`: servers that have more than their share lose silent connections.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client;
use crate::harness::events::{event, has};
use crate::harness::tls::{Authority, write};
use crate::harness::wait::within;
use crate::harness::{Backend, Builder, Client, Pen, eventually};
use crate::upgrade::Installed;

/// A connection is silent after ten seconds, and then one is closed each second or so.
const SOON: Duration = Duration::from_secs(60);

fn rebalancing(percent: u32, farm: &[Backend; 2]) -> Builder {
    let setting = format!("rebalance {percent}");
    Pen::builder().workers(2).options(["-x", "500", "-O", &setting]).servers(farm).control()
}

/// Open connections of so many clients, all at server 0.
fn crowd(pen: &Pen, clients: std::ops::Range<u8>) -> Vec<(Client, u8)> {
    pen.tells("server 1 state maint", "");
    let open = clients.map(|number| (pen.hold(client(number)).unwrap().0, number)).collect();
    pen.tells("server 1 state ready", "");
    open
}

fn rebalanced(pen: &Pen, server: usize) -> u64 {
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    status["servers"][server]["rebalanced"].as_u64().unwrap()
}

#[test]
fn silent_connections_move_to_a_server_that_came_back_and_talking_ones_stay() {
    let farm = Backend::farm(["a", "b"]);
    let builder = rebalancing(100, &farm);
    let log: PathBuf = builder.directory().join("connections");
    let setting = format!("connection_log {}", log.display());
    let pen = builder.options(["-O", &setting]).start();
    let (silent, talking) = (crowd(&pen, 1..61), crowd(&pen, 101..105));
    let began = Instant::now();
    let ended = || silent.iter().filter(|(open, _)| open.has_news()).count();
    let mut most = 0;
    let enough = within(SOON, || {
        talking.iter().for_each(|(open, _)| open.echoes("here"));
        most = ended();
        most >= 5
    });
    assert!(enough, "{most} have ended");
    // 64 in a minute, and no more at once than the time so far allows.
    let allowed = 64.0 * began.elapsed().as_secs_f64() / 60.0;
    assert!(most as f64 <= allowed, "{most} of {allowed}");

    for (open, number) in silent.iter().filter(|(open, _)| open.has_news()).take(5) {
        assert_eq!(open.read_to_end().unwrap(), b"", "an orderly end");
        assert_eq!(pen.ask(client(*number)).as_deref(), Some("b"));
        assert_eq!(pen.ask(client(*number)).as_deref(), Some("b"), "also the next time");
    }
    let began = event(&pen, "server_rebalanced", |_| true);
    let address = farm[0].address().to_string();
    let fields = [("server", json!(0)), ("address", json!(address)), ("connections", json!(64))];
    has(&pen, &began, &fields);
    pen.tells("rebalance 0", "0");
    let ended = event(&pen, "server_rebalanced", |event| event["fields"]["closed"].is_u64());
    assert!(rebalanced(&pen, 0) >= 5 && rebalanced(&pen, 1) == 0, "{ended}");
    let metrics = pen.tell("metrics");
    let name = "pen_server_rebalanced_total{server=\"0\",";
    assert!(metrics.lines().any(|line| line.starts_with(name)), "{metrics}");
    eventually("the log has them", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains(" end=rebalanced ")).count() >= 5
    });
    talking.iter().for_each(|(open, _)| open.echoes("still here"));
}

#[test]
fn a_session_of_tls_ends_in_order() {
    let (root, farm) = (Authority::root("root"), Backend::farm(["a", "b"]));
    let identity = root.issue(&["pen"]);
    let builder = rebalancing(100, &farm);
    let [certificate, key] = [("cert.pem", &identity.chain), ("key.pem", &identity.key)]
        .map(|(name, text)| write(builder.directory(), name, text).to_str().unwrap().to_owned());
    let pen = builder.options(["-E", &certificate, "-K", &key]).start();
    pen.tells("server 1 state maint", "");
    let mut sessions: Vec<_> = (0..40)
        .map(|_| {
            let mut session = root.client().connect(pen.address(), "pen").unwrap();
            assert_eq!(session.line().unwrap(), "a");
            session
        })
        .collect();
    pen.tells("server 1 state ready", "");
    assert!(within(SOON, || rebalanced(&pen, 0) >= 1), "one is closed");
    pen.tells("rebalance 0", "0");
    pen.tells("server 0 state maint", "");
    // The others see a reset.
    pen.tells("drain 0 wait 0 close", "drain: 39 connections left, closed now");
    // Without close_notify, this is an error.
    let ends = sessions.iter_mut().map(|session| session.read_to_end());
    assert_eq!(ends.filter(|end| end.as_ref().is_ok_and(|rest| rest.is_empty())).count(), 1);
}

#[test]
fn old_workers_move_their_connections_too_but_not_in_the_first_minute() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Installed::start(rebalancing(100, &farm));
    let silent = crowd(&pen, 1..41);
    assert!(within(SOON, || rebalanced(&pen, 0) >= 1), "the first one is closed");
    let began = Instant::now();
    pen.install("0.2.0");
    pen.goes_on_as(env!("CARGO_PKG_VERSION"), "0.2.0");
    let before = rebalanced(&pen, 0);
    assert!(before >= 1, "the count passes");
    // The servers of the tests close connections that are silent for half a minute.
    while began.elapsed() < Duration::from_secs(40) {
        let is_closed = within(Duration::from_secs(18), || rebalanced(&pen, 0) > before);
        assert!(!is_closed || began.elapsed() > Duration::from_secs(60), "in the first minute");
        silent.iter().filter(|(open, _)| !open.has_news()).for_each(|(open, _)| open.echoes("on"));
    }
    assert!(within(SOON, || rebalanced(&pen, 0) > before), "another one is closed");
    let (_, number) = silent.iter().rev().find(|(open, _)| open.has_news()).unwrap();
    assert_eq!(pen.ask(client(*number)).as_deref(), Some("b"));
}

#[test]
fn a_mode_in_which_it_has_no_effect_is_warned_of() {
    let farm = Backend::farm(["a", "b"]);
    let pen = rebalancing(3, &farm).options(["-h"]).start();
    pen.hears("rebalance 3 has no effect with hash (-h, -N): a client that comes back gets the");
    pen.tells("no hash", "");
    pen.tells("rebalance 4", "4");
    pen.tells("stubborn", "");
    pen.hears("rebalance 4 has no effect with stubborn (-s)");
    assert!(pen.refuses("rebalance 101").contains("101"));
    pen.tells("rebalance", "4");
    assert!(pen.tell("write -").contains("\nrebalance 4\n"));
}
