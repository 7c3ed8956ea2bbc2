//! Everything that runs jailed, a folder per kind of process: `relay` serves clients, `control` hears operators.
//!
//! A worker is born with all that it may touch ([`WorkerStart`] and the shared table) and never opens a file; the control process opens those
//! that operators name, with no other rights than its user's. What they read comes from strangers; what they say to the supervisor is typed
//! and bounded. Unsafe code is confined to `sys`.

#![deny(unsafe_code)]

mod control;
mod relay;
mod sys;

use pen_contract::start::{ControlStart, WorkerStart};
use pen_table::Table;

/// What `benches` measures. No interface: it may change with every version.
#[doc(hidden)]
pub mod measured {
    pub use crate::relay::{balance, connect, connection, queue, request_log};
}

/// Runs a worker until the supervisor tells it to stop or is gone. Returns the exit status: 0 for an orderly end.
pub fn entry(start: WorkerStart, table: &Table) -> i32 {
    relay::run(start, table)
}

/// Runs the control process until the supervisor tells it to stop or is gone. Returns the exit status: 0 for an orderly end.
pub fn control_entry(start: ControlStart) -> i32 {
    control::run(start)
}
