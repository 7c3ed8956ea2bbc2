//! The peers of the program under test: servers, clients, operators.

pub mod backend;
pub mod client;
pub mod control;
pub mod port;
pub mod reader;
pub mod recorder;
pub mod steering;
pub mod tls;
pub mod tls_server;
