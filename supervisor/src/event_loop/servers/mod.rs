//! What the supervisor decides about servers, beyond their settings.

#![forbid(unsafe_code)]

mod close;
mod standings;
