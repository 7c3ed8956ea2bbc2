//! The service manager: sockets from it, messages to it, and the descriptors that it keeps.

pub(crate) mod activation;
pub(crate) mod notify;
pub(crate) mod store;
