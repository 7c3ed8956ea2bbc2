//! The configuration of pen: addresses and their grammar, commands, command files, the resulting
//! settings, and the printing of settings.
//!
//! This crate is pure: it uses no file, no socket, no clock, and no other crate of pen.

#![forbid(unsafe_code)]

pub mod acl;
pub mod address;
pub mod apply;
pub mod checks;
pub mod command;
pub mod configuration;
pub mod followed;
pub mod grammar;
pub mod ids;
pub mod maglev;
pub mod names;
pub mod paths;
pub mod per_client;
pub mod print;
pub mod proxy;
pub mod settings;
pub mod shares;
#[cfg(test)]
mod strategies;
pub mod tls;

/// An error in a configuration, which is therefore not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub String);
