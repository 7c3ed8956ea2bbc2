//! Descriptors in a state, by number.
//!
//! The numbers stay open and inheritable until the new program commits, so that the old one finds
//! them if it gets the process back.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, RawFd};

use serde::{Deserialize, Serialize};

/// The number of an open descriptor.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) RawFd);

impl Number {
    /// The number of a descriptor that stays open.
    pub(crate) fn of(descriptor: &impl AsFd) -> Number {
        Number(descriptor.as_fd().as_raw_fd())
    }
}
