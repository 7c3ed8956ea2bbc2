//! What a service manager passes on, and what it is told.

pub(crate) mod activation;
pub(crate) mod notify;
