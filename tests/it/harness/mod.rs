//! The harness of the black-box tests: the real program in its own directory, backends and clients,
//! and bounded waits for conditions.
//!
//! The harness does not sleep for a fixed time, use a fixed port, or touch a process that it did
//! not start. Tests run in parallel, so every test has its own ports, its own directory and its own
//! client addresses on the loopback network.

#![allow(dead_code, reason = "the tests and the one that is apart use a part each")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

pub mod net;
pub mod numbers;
pub mod pen;
pub mod report;
pub mod system;
pub mod wait;

#[allow(unused_imports, reason = "the test that is apart uses a part of this")]
pub use net::{backend, client, control, port, recorder, steering, tls};
#[allow(unused_imports, reason = "the test that is apart uses a part of this")]
pub use system::{hanging, machine, manager, process, program};

#[allow(unused_imports, reason = "the test that is apart uses a part of this")]
pub use self::{
    backend::{Backend, Gate},
    client::{Client, ask, ask_default, hold},
    machine::{BINARY, needs_root},
    manager::Manager,
    numbers::Numbers,
    pen::{Builder, Pen},
    port::Port,
    process::Process,
    program::Program,
    recorder::Recorder,
    report::Report,
    wait::{PATIENCE, eventually, until},
};
