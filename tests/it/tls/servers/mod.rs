//! TLS towards servers.

mod changes;
mod checks;
mod handshakes;
mod openssl;
mod transfer;
mod verification;

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
