//! `rebalance` with workers that do not do what they are told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{log, steered};
use crate::harness::events::{event, events, has};
use crate::harness::wait::within;
use crate::harness::{Builder, Pen};

/// Both workers have 30 connections at server 0, and server 1 has none. So each order is for one
/// connection or two.
fn rebalancing(behaviour: &str) -> Builder {
    steered(&format!("rebalances {behaviour}"))
        .server_as("127.0.0.1:2")
        .options(["-O", "rebalance 100"])
}

fn rebalanced(pen: &Pen) -> u64 {
    let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    status["servers"][0]["rebalanced"].as_u64().unwrap()
}

/// How many connections a worker was ordered to end, all orders together.
fn ordered(pen: &Pen, worker: u8) -> u64 {
    let prefix = format!("rebalance {worker} ");
    let log = log(pen);
    let orders = log.lines().filter_map(|line| line.strip_prefix(&prefix));
    orders.map(|most| most.parse::<u64>().unwrap()).sum()
}

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_a_worker_does_not_end_another_one_is_told_to() {
    let pen = rebalancing("refuses").start();
    assert!(within(SOON, || rebalanced(&pen) >= 3), "worker 1 ends some");
    assert!(within(SOON, || ordered(&pen, 0) > 0), "worker 0 is asked too");
    let began = event(&pen, "server_rebalanced", |_| true);
    has(&pen, &began, &[("server", json!(0)), ("connections", json!(60)), ("share", json!(30))]);
    pen.tells("rebalance 0", "0");
    let ended = event(&pen, "server_rebalanced", |event| event["fields"]["closed"].is_u64());
    assert!(ended["fields"]["closed"].as_u64().unwrap() >= 3, "{ended}");
}

#[test]
fn a_worker_that_does_not_answer_delays_nothing() {
    let pen = rebalancing("ignores").start();
    assert!(within(SOON, || ordered(&pen, 0) > 0 && rebalanced(&pen) >= 2));
}

#[test]
fn a_worker_that_claims_more_than_it_was_told_to_end_is_not_believed() {
    let pen = rebalancing("boasts").start();
    assert!(within(SOON, || rebalanced(&pen) >= 2));
    assert!(rebalanced(&pen) <= ordered(&pen, 0) + ordered(&pen, 1));
    let told = events(&pen).iter().filter(|event| event["kind"] == "server_rebalanced").count();
    assert!(told <= 2, "the beginning, and perhaps the end");
}
