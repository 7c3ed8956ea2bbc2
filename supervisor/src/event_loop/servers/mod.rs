//! What the supervisor decides about servers, beyond their settings: which clients they may have,
//! what checks say of them, the process that checks, and when their connections end.

#![forbid(unsafe_code)]

pub(crate) mod checker;
pub(crate) mod checks;
mod close;
pub(crate) mod drains;
mod standings;
