//! The communication between pen's processes: the messages between the supervisor and its children,
//! their codec, and the channel. Also the texts that several processes print.
//!
//! This crate has no grammar: `pen_config` parses commands. Only [`channel`] and [`memory`] use
//! descriptors.

#![forbid(unsafe_code)]

pub mod channel;
pub mod checks;
pub mod codec;
pub mod handshakes;
pub mod memory;
pub mod message;
pub mod refusal;
pub mod server_tls;
pub mod start;
pub mod stats;
pub mod text;
pub mod tls_files;
