//! Names over time: servers whose names get other addresses.

#![forbid(unsafe_code)]

pub(in crate::event_loop) mod moves;
