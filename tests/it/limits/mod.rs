//! Limits per client (pen.conf(5), LIMITS PER CLIENT): how many connections, how many attempts,
//! and what becomes of those beyond.

mod beyond;
mod exact;
mod lasts;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::harness::{Client, Pen};

/// A client address of its own for each number.
fn client(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 84, 0, number).into()
}

/// The state as `overview` shows it.
fn overview(pen: &Pen) -> Value {
    serde_json::from_str(&pen.tell("overview")).unwrap()
}

/// How many connections were beyond `per_client_max` and `per_client_rate`.
fn beyond(pen: &Pen) -> [u64; 2] {
    let limited = overview(pen)["counts"]["limited"].clone();
    ["per_client_max", "per_client_rate"].map(|limit| {
        let mut counts = limited.as_array().unwrap().iter();
        let found = counts.find(|count| count["reason"] == limit).unwrap();
        found["count"].as_u64().unwrap()
    })
}

/// The open connections of a client, as `explain` says them.
fn open(pen: &Pen, from: IpAddr) -> u32 {
    let said = pen.tell(&format!("explain {from}"));
    let line = said.lines().find(|line| line.contains("(per_client_max)")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let place = words.iter().position(|word| *word == "(per_client_max)").unwrap();
    words[place - 4].parse().unwrap_or_else(|_| panic!("{line}"))
}

/// As many connections of a client as may be, which are served.
fn fill(pen: &Pen, from: IpAddr, connections: usize) -> Vec<Client> {
    (0..connections).map(|_| pen.hold(from).expect("it is within the limit").0).collect()
}
