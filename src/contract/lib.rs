//! What pen's processes agree on.
//!
//! Ids, addresses and their grammar, the settings that every process works by, the messages between the
//! supervisor and its workers with their codec and channel, and the figures that reports are made of.
//! No policy, no privilege, no clock: this crate knows nobody above it, and only [`channel`] touches a
//! descriptor.

#![forbid(unsafe_code)]

pub mod acl;
pub mod address;
pub mod channel;
pub mod codec;
pub mod command;
pub mod configuration;
pub mod file;
pub mod fold;
pub mod grammar;
pub mod ids;
pub mod message;
pub mod proxy;
pub mod settings;
pub mod start;
pub mod stats;
#[cfg(test)]
mod strategies;
pub mod tls;
pub mod write;
