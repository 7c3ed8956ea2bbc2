//! What the black-box tests share: the real program in its own directory, backends and clients to talk to it, and waiting
//! for conditions within a bound.
//!
//! Nothing here sleeps for a fixed time, uses a fixed port, or touches a process that it did not start. Tests run side by
//! side, so every test has its own ports, its own directory and its own client addresses on the loopback network.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

pub mod backend;
pub mod client;
pub mod control;
pub mod hanging;
pub mod machine;
pub mod manager;
pub mod numbers;
pub mod pen;
pub mod port;
pub mod process;
pub mod program;
pub mod recorder;
pub mod report;
pub mod steering;
pub mod tls;
pub mod wait;

#[allow(unused_imports, reason = "each test file uses a part of this")]
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
