//! Everything that runs jailed, a folder per kind of process: `relay` serves clients, `control`
//! hears operators.
//!
//! A worker is born with all that it may touch ([`WorkerStart`] and the shared table) and never
//! opens a file; the control process opens those that operators name, with no other rights than its
//! user's. What they read comes from strangers; what they say to the supervisor is typed
//! and bounded. Unsafe code is confined to `sys`.

#![deny(unsafe_code)]

mod control;
mod relay;
mod sys;

use std::os::fd::OwnedFd;

use pen_ipc::start::{ControlStart, WorkerStart};
use pen_ipc::tls_files::Examined;
use pen_table::Table;

/// What `benches` measures. No interface: it may change with every version.
#[doc(hidden)]
pub mod measured {
    pub use crate::relay::connection::timer_queue;
    pub use crate::relay::upstream::{connect, select};
    pub use crate::relay::{connection, request_log, upstream};
}

/// Runs a worker until the supervisor tells it to stop or is gone. Returns the exit status: 0 for
/// an orderly end.
pub fn entry(start: WorkerStart, table: &Table) -> i32 {
    relay::run(start, table)
}

/// Says whether files of TLS, in sealed memory ([`pen_config::tls`]), are good, and what the
/// administrator should know about them. To be called in a jailed process that ends then: keys have
/// been in its memory.
///
/// # Errors
/// The file and what is wrong with it, one line.
pub fn examine_tls(files: OwnedFd) -> Result<Examined, String> {
    relay::examine_tls(files)
}

/// Runs the control process until the supervisor tells it to stop or is gone. Returns the exit
/// status: 0 for an orderly end.
pub fn control_entry(start: ControlStart) -> i32 {
    control::run(start)
}

/// Pure parts that read what strangers send, for benchmarks and fuzzing: no interface for anybody
/// else.
#[doc(hidden)]
pub mod parts {
    pub use crate::relay::http::body::Body;
    pub use crate::relay::http::line::Line;
    pub use crate::relay::http::{Exchange, Others};
    pub use crate::relay::preface::proxy::{Bad, MOST, Origin, read, write};
    pub use crate::relay::tls::{Cipher, PLAIN, Session, Tls};
}
