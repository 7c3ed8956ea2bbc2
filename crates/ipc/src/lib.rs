//! The communication between pen's processes: the messages between the supervisor and its children,
//! their codec, and the channel.
//!
//! This crate has no grammar: `pen_config` parses commands. Only [`channel`] uses descriptors.

#![forbid(unsafe_code)]

pub mod channel;
pub mod codec;
pub mod message;
pub mod refusal;
pub mod start;
pub mod stats;
pub mod tls_files;
