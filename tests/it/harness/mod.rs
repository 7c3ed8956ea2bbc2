//! The harness of the black-box tests: the real program in its own directory, backends and clients,
//! and bounded waits for conditions.
//!
//! The harness does not sleep for a fixed time, use a fixed port, or touch a process that it did
//! not start. Tests run in parallel, so every test has its own ports, its own directory and its own
//! client addresses on the loopback network.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

pub mod events;
pub mod net;
pub mod numbers;
pub mod over;
pub mod pen;
pub mod report;
pub mod system;
pub mod wait;

pub use net::{backend, client, control, port, reader, recorder, steering, tls, tls_server};
pub use system::{browser, hanging, machine, manager, process, program, store, terminal, trace};

pub use self::{
    backend::{Backend, Gate},
    client::{Client, ask, hold},
    machine::{BINARY, needs_root, not_checked},
    manager::Manager,
    numbers::Numbers,
    over::SetOnDrop,
    pen::{Builder, Pen},
    port::Port,
    process::Process,
    program::Program,
    recorder::Recorder,
    report::Report,
    store::Store,
    trace::{Calls, Trace},
    wait::{PATIENCE, eventually, until},
};
