//! The service manager: sockets from it, and messages to it.

pub(crate) mod activation;
pub(crate) mod notify;
