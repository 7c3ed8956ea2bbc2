//! What the supervisor decides about servers, beyond their settings: which clients they may have,
//! the process that checks them, and when their connections end.

#![forbid(unsafe_code)]

pub(crate) mod checker;
mod close;
pub(crate) mod drains;
pub(crate) mod rebalance;
mod standings;
