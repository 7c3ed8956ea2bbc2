//! The jailed processes, one folder for each kind: `relay` serves clients, `control` reads
//! operators' commands, `page` shows what pen is doing, `checker` asks servers how they are. `port`
//! is what control and page have in common, and `tls` what relay and checker have. `ready` is how
//! control, page and checker begin. All read `clock`.
//!
//! A relay worker gets everything that it may touch at its start ([`WorkerStart`] and the shared
//! table). It never opens a file. The control process opens the files that operators name, with the
//! rights of its user only. Both read untrusted bytes. What they send to the supervisor is typed
//! and bounded. Unsafe code is confined to `sys`.

#![deny(unsafe_code)]

mod checker;
mod clock;
mod control;
mod page;
mod port;
mod ready;
mod relay;
mod sys;
mod tls;
#[cfg(test)]
mod waiting;

use std::os::fd::OwnedFd;

use pen_ipc::start::{CheckerStart, ControlStart, PageStart, WorkerStart};
use pen_ipc::tls_files::Examined;
use pen_table::Table;

/// What `benches` measures. This is not a stable interface: it may change with every version.
#[doc(hidden)]
pub mod measured {
    pub use crate::relay::{connection, connection_log, log_writer, request_log, select, upstream};
}

/// Runs a worker until the supervisor tells it to stop or has gone. Returns the exit status: 0 for
/// an orderly end.
pub fn entry(start: WorkerStart, table: &Table) -> i32 {
    relay::run(start, table)
}

/// Checks the TLS files in sealed memory ([`pen_config::tls`]) and returns what the administrator
/// should know about them. Call it in a jailed process that ends afterwards: keys have been in its
/// memory.
///
/// # Errors
/// One line: the file and what is wrong with it.
pub fn examine_tls(files: OwnedFd) -> Result<Examined, String> {
    tls::examine(files)
}

/// The same for the files of TLS towards servers.
///
/// # Errors
/// One line: the file and what is wrong with it.
pub fn examine_server_tls(files: OwnedFd) -> Result<Examined, String> {
    tls::servers::examine(files)
}

/// Runs the control process until the supervisor tells it to stop or has gone. Returns the exit
/// status: 0 for an orderly end.
pub fn control_entry(start: ControlStart) -> i32 {
    control::run(start)
}

/// Runs the page process until the supervisor tells it to stop or has gone. Returns the exit
/// status: 0 for an orderly end.
pub fn page_entry(start: PageStart) -> i32 {
    page::run(start)
}

/// Runs the checker until the supervisor tells it to stop or has gone. Returns the exit status: 0
/// for an orderly end.
pub fn checker_entry(start: CheckerStart) -> i32 {
    checker::run(start)
}

/// Pure parsers of untrusted bytes, for benchmarks and fuzzing. This is not a stable interface.
#[doc(hidden)]
pub mod parts {
    pub use crate::checker::{kinds as checks, schedule, verdict};
    pub use crate::page::hosts::may_ask;
    pub use crate::page::request;
    pub use crate::relay::http::body::Body;
    pub use crate::relay::http::line::RequestLine;
    pub use crate::relay::http::{Exchange, Others};
    pub use crate::relay::proxy::{Bad, MOST, Origin, read, write};
    pub use crate::tls::{Cipher, PLAIN, Session, TlsContext};
}
