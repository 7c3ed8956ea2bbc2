//! Bytes between two sockets: read, written and spliced.

pub(crate) mod pump;
pub(crate) mod splice;
pub(crate) mod splice_recheck;
pub(crate) mod undelivered;
