//! Servers that are taken out of use and brought back while clients come (pen.conf(5), SERVERS).

mod drain;
mod hold;
mod pause;
mod rebalance;
mod restarts;
mod states;

use std::net::Ipv4Addr;

use crate::harness::Pen;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 82, 0, number)
}

/// How many clients are held.
fn held(pen: &Pen) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    status["held"].as_u64().unwrap()
}
