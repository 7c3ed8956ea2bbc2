//! What pen's processes say to each other: the messages between the supervisor and its children,
//! their codec, and the channel.
//!
//! No grammar: what a line means is `pen_config`'s. Only [`channel`] touches a descriptor.

#![forbid(unsafe_code)]

pub mod channel;
pub mod codec;
pub mod message;
pub mod refusal;
pub mod start;
pub mod stats;
pub mod tls_files;
