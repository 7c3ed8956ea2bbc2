//! What pen's processes agree on.
//!
//! Ids, addresses and their grammar, the settings that every process works by, the messages between the
//! supervisor and its workers with their codec and channel, and the figures that reports are made of;
//! and whose symbolic links are followed on the way to a file. No privilege, no clock: this crate knows
//! nobody above it, and only [`channel`] and [`walk`] touch a descriptor.

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
pub mod in_force;
pub mod message;
pub mod proxy;
pub mod refusal;
pub mod settings;
pub mod start;
pub mod stats;
#[cfg(test)]
mod strategies;
pub mod tls;
pub mod twice;
pub mod walk;
pub mod write;
