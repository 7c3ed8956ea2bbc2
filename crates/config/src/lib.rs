//! What pen is told, and the settings that come of it: addresses and their grammar, commands, files
//! of commands, and how settings are written.
//!
//! Pure: no file, no socket, no clock, and no other package of pen.

#![forbid(unsafe_code)]

pub mod acl;
pub mod address;
pub mod apply;
pub mod command;
pub mod configuration;
pub mod ids;
pub mod parse;
pub mod print;
pub mod proxy;
pub mod settings;
#[cfg(test)]
mod strategies;
pub mod tls;
