//! Commands, command files, and penctl.

mod commands;
mod completions;
mod config_file;
mod connections;
mod events;
mod files;
mod hanging_files;
mod misled;
mod notices;
mod one_file;
mod penctl;
mod port;
mod reload;
mod servers;
