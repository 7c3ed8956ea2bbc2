//! The last minutes of each server in `overview`.

use std::net::Ipv4Addr;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Backend, Pen, until};

/// How many connections each period had: of all servers together, and of each.
fn histories(pen: &Pen) -> Vec<Vec<u64>> {
    let overview: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    let servers = overview["servers"].as_array().unwrap().iter();
    let histories = [&overview["history"]].into_iter().chain(servers.map(|one| &one["history"]));
    histories
        .map(|history| {
            let connections = history["connections"].as_array().unwrap();
            assert_eq!(history["bytes"].as_array().unwrap().len(), connections.len());
            connections.iter().map(|count| count.as_u64().unwrap()).collect()
        })
        .collect()
}

#[test]
fn what_each_server_did_is_known_for_minutes_and_over_an_upgrade() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-r"]).control().servers(&farm).start();
    for number in 0..6 {
        assert!(pen.ask(Ipv4Addr::new(127, 92, 0, number)).is_some());
    }
    let sums = |histories: &[Vec<u64>]| -> Vec<u64> {
        histories.iter().map(|periods| periods.iter().sum()).collect()
    };
    let before = until("a period with the clients is over", || {
        Some(histories(&pen)).filter(|histories| sums(histories) == [6, 3, 3])
    });
    pen.supervisor().signal(Signal::USR2);
    pen.hears(" is now pen ");
    for (after, before) in histories(&pen).iter().zip(before) {
        assert!(after.starts_with(&before), "{after:?} does not begin with {before:?}");
    }
}
