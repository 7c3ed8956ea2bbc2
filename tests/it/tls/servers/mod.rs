//! TLS towards servers.

mod changes;
mod checks;
mod handshakes;
mod real;
mod transfer;
mod verification;

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::tls::{Authority, write};
use crate::harness::{Builder, Pen};

/// A pen whose servers speak TLS, with certificates of this authority.
fn pen(root: &Authority) -> Builder {
    let builder = Pen::builder().control();
    let path = write(builder.directory(), "ca.pem", root.pem());
    let ca = format!("server_tls_ca {}", path.display());
    builder.options(["-O", "server_tls on", "-O", &ca])
}

/// How many handshakes with servers failed for this reason.
fn failures(pen: &Pen, reason: &str) -> u64 {
    let status: Value = serde_json::from_str(&pen.tell("status json")).unwrap();
    status["server_tls_failures"][reason].as_u64().unwrap()
}

/// `explain` says why this server is not used.
#[track_caller]
fn is_explained(pen: &Pen, number: usize, address: SocketAddr, reason: &str) {
    // By hash, so that each server is the first of some of these clients.
    pen.tell("hash_always on");
    let explained: Vec<String> =
        (1..30).map(|n| pen.tell(&format!("explain 127.0.0.{n}"))).collect();
    let line = format!("server {number} ({address}): blacklisted for ");
    let named = explained.iter().flat_map(|text| text.lines()).find(|text| text.contains(&line));
    let named = named.unwrap_or_else(|| panic!("no client begins there: {explained:?}"));
    assert!(named.contains(reason), "{named}");
}
