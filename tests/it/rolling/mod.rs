//! Servers that are taken out of use and brought back while clients come (pen.conf(5), SERVERS).

mod drain;
mod hold;
mod pause;
mod rebalance;
mod restarts;
mod states;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::Pen;
use crate::harness::machine::open_to_all;

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 82, 0, number)
}

/// Lets pen's user connect to the socket of a server.
fn open_socket(path: &Path) {
    open_to_all(path.parent().unwrap());
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// How many clients are held.
fn held(pen: &Pen) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&pen.tell("overview")).unwrap();
    status["held"].as_u64().unwrap()
}
