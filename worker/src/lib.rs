//! Everything that runs jailed, a folder per kind of process: `relay` serves clients.
//!
//! A worker is born with all that it may touch ([`WorkerStart`] and the shared table) and never opens a file. What it reads
//! comes from strangers; what it says to the supervisor is typed and bounded. Unsafe code is confined to `sys`.

#![deny(unsafe_code)]

mod relay;
mod sys;

use pen_contract::start::WorkerStart;
use pen_table::Table;

/// Runs a worker until the supervisor tells it to stop or is gone. Returns the exit status: 0 for an orderly end.
pub fn entry(start: WorkerStart, table: &Table) -> i32 {
    relay::run(start, table)
}
