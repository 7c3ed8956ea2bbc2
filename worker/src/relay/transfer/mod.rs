//! Moving bytes between two sockets: read, write and splice.

pub(crate) mod pump;
pub(crate) mod splice;
pub(crate) mod splice_recheck;
pub(crate) mod undelivered;
